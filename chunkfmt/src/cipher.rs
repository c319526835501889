//! Content keys, what is derived from them, and sealing with them (docs/FORMAT.md, section 5).

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Cipher, Error, Part};

/// Bytes that sealing adds.
pub(crate) const TAG_SIZE: usize = 16;

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

    pub(crate) fn plain_hash(&self, data: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.hash, data).as_bytes()
    }

    pub(crate) fn chunk_cipher(&self, cipher: Cipher) -> Result<Option<BodyCipher>, Error> {
        BodyCipher::new(cipher, &self.chunk)
    }

    pub(crate) fn manifest_cipher(&self, cipher: Cipher) -> Result<Option<BodyCipher>, Error> {
        BodyCipher::new(cipher, &self.manifest)
    }
}

/// One AEAD key. Each nonce is a number that its user never uses twice with one key.
pub(crate) struct BodyCipher(LessSafeKey);

impl BodyCipher {
    /// `None` for an image that is not encrypted.
    fn new(cipher: Cipher, key: &[u8; 32]) -> Result<Option<Self>, Error> {
        let algorithm = match cipher {
            Cipher::None => return Ok(None),
            Cipher::Aes256Gcm => &AES_256_GCM,
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| Error::BadKey {
            expected: "a usable cipher key",
            detail: cipher.name().into(),
        })?;
        Ok(Some(Self(LessSafeKey::new(key))))
    }

    fn nonce(number: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `plain` in place and returns the tag.
    pub(crate) fn seal(
        &self,
        number: u32,
        aad: &[u8],
        plain: &mut [u8],
        part: Part,
    ) -> Result<[u8; TAG_SIZE], Error> {
        let tag = self
            .0
            .seal_in_place_separate_tag(Self::nonce(number), Aad::from(aad), plain);
        let tag = tag.map_err(|_| Error::Limit {
            field: "sealing",
            detail: format!("{part} is too long"),
        })?;
        let mut bytes = [0; TAG_SIZE];
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Decrypts `sealed` (ciphertext, then tag) in place and returns the plain text.
    pub(crate) fn open<'a>(
        &self,
        number: u32,
        aad: &[u8],
        sealed: &'a mut [u8],
        part: Part,
    ) -> Result<&'a mut [u8], Error> {
        self.0
            .open_in_place(Self::nonce(number), Aad::from(aad), sealed)
            .map_err(|_| Error::Decrypt { part })
    }
}
