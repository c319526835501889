//! Content keys, what is derived from them, and sealing with them (docs/FORMAT.md, section 5).

#[cfg(test)]
mod wycheproof;

use std::fmt;

use blowfish::Blowfish;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Cipher, Error, Part};

/// Characters of a content key in its file.
pub const CONTENT_KEY_HEX_LEN: usize = 64;

/// The secret of one or more images: 32 random bytes. Wiped from memory when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ContentKey([u8; 32]);

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(..)")
    }
}

impl ContentKey {
    /// Makes a new key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`Error::Io`] if there are none.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = [0; 32];
        fill_random(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Reads a key file's text: 64 hex digits, white space around them allowed.
    ///
    /// # Errors
    /// [`Error::BadKey`]
    pub fn from_hex(text: &str) -> Result<Self, Error> {
        let digits = text.trim_ascii().as_bytes();
        let bad = |detail: String| Error::BadKey {
            expected: "a content key of 64 hex digits",
            detail,
        };
        if digits.len() != CONTENT_KEY_HEX_LEN {
            return Err(bad(format!("{} characters", digits.len())));
        }
        let mut key = Self([0; 32]);
        for (byte, pair) in key.0.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = std::str::from_utf8(pair)
                .ok()
                .filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or_else(|| bad("a character is not a hex digit".into()))?;
        }
        Ok(key)
    }

    /// The key as 64 hex digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(CONTENT_KEY_HEX_LEN));
        for byte in self.0 {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        text
    }
}

/// Fills `bytes` from the operating system's random numbers.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|error| Error::Io {
        offset: 0,
        source: std::io::Error::other(error),
    })
}

/// What is derived from (content key, salt, UUID) for one image.
///
/// An image without encryption derives from a key of zeros, so that hashes and checks need no case of their own.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct ImageKeys {
    chunk: [u8; 32],
    manifest: [u8; 32],
    hash: [u8; 32],
    /// Tells a wrong key from a damaged image, and nothing about the key.
    check: [u8; 16],
}

impl ImageKeys {
    pub(crate) fn derive(key: Option<&ContentKey>, salt: &[u8; 16], uuid: &[u8; 16]) -> Self {
        let mut material = Zeroizing::new([0; 64]);
        if let Some(key) = key {
            material[..32].copy_from_slice(&key.0);
        }
        material[32..48].copy_from_slice(salt);
        material[48..].copy_from_slice(uuid);
        let derive = |context| blake3::derive_key(context, &*material);
        let mut check = [0; 16];
        check.copy_from_slice(&derive("frz 2026-11 v1 content key check")[..16]);
        Self {
            chunk: derive("frz 2026-11 v1 chunk body cipher key"),
            manifest: derive("frz 2026-11 v1 manifest cipher key"),
            hash: derive("frz 2026-11 v1 plain data hash key"),
            check,
        }
    }

    pub(crate) fn check(&self) -> [u8; 16] {
        self.check
    }

    /// The hash of a chunk's layout (as stored) and disk data.
    pub(crate) fn plain_hash(&self, layout: &[u8], data: &[u8]) -> [u8; 32] {
        self.plain_hash_with(layout, &self.data_hash(data))
    }

    /// The part of the plain hash that is about the data.
    pub(crate) fn data_hash(&self, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.hash, data).as_bytes()
    }

    /// The plain hash of a layout and of data with this hash.
    pub(crate) fn plain_hash_with(&self, layout: &[u8], data_hash: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.hash);
        hasher.update(layout);
        hasher.update(data_hash);
        *hasher.finalize().as_bytes()
    }

    pub(crate) fn chunk_cipher(&self, cipher: Cipher) -> Result<Option<BodyCipher>, Error> {
        BodyCipher::new(cipher, &self.chunk)
    }

    pub(crate) fn manifest_cipher(&self, cipher: Cipher) -> Result<Option<BodyCipher>, Error> {
        BodyCipher::new(cipher, &self.manifest)
    }
}

/// One key of one cipher. Each number is used for one message only.
pub(crate) enum BodyCipher {
    Aead(Box<LessSafeKey>),
    /// The key that each message's own keys are derived from.
    Blowfish(Zeroizing<[u8; 32]>),
}

/// Bytes of the authentication tag of an AEAD.
const AEAD_TAG: usize = 16;

/// Bytes of a block of Blowfish.
const BLOWFISH_BLOCK: usize = 8;

/// Bytes of an HMAC-SHA-256.
const MAC: usize = 32;

impl Cipher {
    /// Bytes that `plain` bytes have when they are sealed.
    pub(crate) fn sealed_length(self, plain: usize) -> usize {
        match self {
            Self::None => plain,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => plain + AEAD_TAG,
            Self::BlowfishCbc => plain + BLOWFISH_BLOCK - plain % BLOWFISH_BLOCK + MAC,
        }
    }
}

impl BodyCipher {
    /// `None` for an image that is not encrypted.
    fn new(cipher: Cipher, key: &[u8; 32]) -> Result<Option<Self>, Error> {
        let algorithm = match cipher {
            Cipher::None => return Ok(None),
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Cipher::BlowfishCbc => return Ok(Some(Self::Blowfish(Zeroizing::new(*key)))),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| Error::BadKey {
            expected: "a usable cipher key",
            detail: cipher.name().into(),
        })?;
        Ok(Some(Self::Aead(Box::new(LessSafeKey::new(key)))))
    }

    fn nonce(number: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts what stands in `bytes` from `start` on and appends padding and tag: [`Cipher::sealed_length`].
    pub(crate) fn seal(
        &self,
        number: u32,
        aad: &[u8],
        bytes: &mut Vec<u8>,
        start: usize,
        part: Part,
    ) -> Result<(), Error> {
        let limit = || Error::Limit {
            field: "sealing",
            detail: format!("{part} is too long"),
        };
        let plain = bytes.get_mut(start..).ok_or_else(limit)?;
        match self {
            Self::Aead(key) => {
                let tag = key
                    .seal_in_place_separate_tag(Self::nonce(number), Aad::from(aad), plain)
                    .map_err(|_| limit())?;
                bytes.extend_from_slice(tag.as_ref());
            }
            Self::Blowfish(key) => {
                let keys = MessageKeys::derive(key, number);
                let length = plain.len();
                bytes.resize(bytes.len() + BLOWFISH_BLOCK - length % BLOWFISH_BLOCK, 0);
                keys.encryptor()
                    .and_then(|cbc| {
                        cbc.encrypt_padded::<Pkcs7>(bytes.get_mut(start..)?, length)
                            .ok()
                    })
                    .ok_or_else(limit)?;
                let mac = keys.mac(aad, bytes.get(start..).unwrap_or_default());
                bytes.extend_from_slice(mac.as_ref());
            }
        }
        Ok(())
    }

    /// Decrypts `sealed` in place and returns the plain text. Nothing is decrypted that is not authentic.
    pub(crate) fn open<'a>(
        &self,
        number: u32,
        aad: &[u8],
        sealed: &'a mut [u8],
        part: Part,
    ) -> Result<&'a mut [u8], Error> {
        let wrong = || Error::Decrypt { part };
        match self {
            Self::Aead(key) => key
                .open_in_place(Self::nonce(number), Aad::from(aad), sealed)
                .map_err(|_| wrong()),
            Self::Blowfish(key) => {
                let keys = MessageKeys::derive(key, number);
                let length = sealed.len().checked_sub(MAC).ok_or_else(wrong)?;
                let (encrypted, mac) = sealed.split_at_mut(length);
                keys.check_mac(aad, encrypted, mac).ok_or_else(wrong)?;
                let plain = keys
                    .decryptor()
                    .and_then(|cbc| cbc.decrypt_padded::<Pkcs7>(encrypted).ok())
                    .map(<[u8]>::len)
                    .ok_or_else(wrong)?;
                sealed.get_mut(..plain).ok_or_else(wrong)
            }
        }
    }
}

/// Keys of one message: with a key for each, the initialization vector need not be random, and no key encrypts so
/// much that blocks of 64 bits repeat.
#[derive(Zeroize, ZeroizeOnDrop)]
struct MessageKeys {
    cipher: [u8; 32],
    iv: [u8; 8],
    mac: [u8; 32],
}

impl MessageKeys {
    fn derive(key: &[u8; 32], number: u32) -> Self {
        let mut keys = Self {
            cipher: [0; 32],
            iv: [0; 8],
            mac: [0; 32],
        };
        let mut stream = blake3::Hasher::new_keyed(key)
            .update(&number.to_le_bytes())
            .finalize_xof();
        stream.fill(&mut keys.cipher);
        stream.fill(&mut keys.iv);
        stream.fill(&mut keys.mac);
        keys
    }

    fn encryptor(&self) -> Option<cbc::Encryptor<Blowfish>> {
        cbc::Encryptor::new_from_slices(&self.cipher, &self.iv).ok()
    }

    fn decryptor(&self) -> Option<cbc::Decryptor<Blowfish>> {
        cbc::Decryptor::new_from_slices(&self.cipher, &self.iv).ok()
    }

    fn mac(&self, aad: &[u8], encrypted: &[u8]) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.mac);
        let mut context = hmac::Context::with_key(&key);
        context.update(aad);
        context.update(encrypted);
        // So that no byte can move from one to the other.
        context.update(&(aad.len() as u64).to_le_bytes());
        context.sign()
    }

    fn check_mac(&self, aad: &[u8], encrypted: &[u8], mac: &[u8]) -> Option<()> {
        let expected = self.mac(aad, encrypted);
        bool::from(expected.as_ref().ct_eq(mac)).then_some(())
    }
}
