//! The file key, what is derived from it, and the primitives that stanzas share.

use curve25519_dalek::montgomery::MontgomeryPoint;
use ring::aead::{Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use zeroize::{Zeroize, Zeroizing};

use crate::Error;

/// Bytes of a Poly1305 tag.
pub(crate) const TAG_SIZE: usize = 16;

/// Bytes of a file key.
pub(crate) const FILE_KEY_SIZE: usize = 16;

/// Bytes of a file key in a stanza.
pub(crate) const WRAPPED_SIZE: usize = FILE_KEY_SIZE + TAG_SIZE;

/// 32 secret bytes, wiped when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

pub(crate) fn random(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(Error::Random)
}

/// HKDF-SHA-256 (RFC 5869) with 32 bytes of output.
///
/// # Errors
/// None: 32 bytes are one block of the hash. But no key is better than one of zeros.
pub(crate) fn hkdf(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Secret, Error> {
    let mut output = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|key| key.fill(&mut *output))
        .map_err(|_| Error::Format { what: "key length" })?;
    Ok(output)
}

/// X25519 (RFC 7748).
///
/// # Errors
/// [`Error::Format`] if the result is zero: the point has low order.
pub(crate) fn x25519(scalar: &[u8; 32], point: &[u8; 32]) -> Result<Secret, Error> {
    let mut shared = MontgomeryPoint(*point).mul_clamped(*scalar);
    let bytes = Zeroizing::new(shared.to_bytes());
    shared.zeroize();
    match bytes.iter().fold(0, |all, byte| all | byte) {
        0 => Err(Error::Format {
            what: "a public value of low order",
        }),
        _ => Ok(bytes),
    }
}

/// The public value of an X25519 scalar.
pub(crate) fn x25519_public(scalar: &[u8; 32]) -> [u8; 32] {
    MontgomeryPoint::mul_base_clamped(*scalar).to_bytes()
}

/// A nonce of zeros but for its last byte.
pub(crate) const fn nonce(last: u8) -> [u8; 12] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

pub(crate) fn aead_nonce(bytes: [u8; 12]) -> Nonce {
    Nonce::assume_unique_for_key(bytes)
}

pub(crate) fn aead_key(
    algorithm: &'static Algorithm,
    key: &[u8; 32],
) -> Result<LessSafeKey, Error> {
    UnboundKey::new(algorithm, key)
        .map(LessSafeKey::new)
        .map_err(|_| Error::Format { what: "key length" })
}

/// The key of one age file: 16 random bytes.
pub(crate) struct FileKey(Zeroizing<[u8; FILE_KEY_SIZE]>);

impl FileKey {
    pub(crate) fn generate() -> Result<Self, Error> {
        let mut key = Zeroizing::new([0; FILE_KEY_SIZE]);
        random(&mut *key)?;
        Ok(Self(key))
    }

    pub(crate) fn derive(&self, salt: &[u8], info: &[u8]) -> Result<Secret, Error> {
        hkdf(&*self.0, salt, info)
    }

    /// The key of the header's authentication code.
    pub(crate) fn header_key(&self) -> Result<hmac::Key, Error> {
        let key = self.derive(b"", b"header")?;
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &*key))
    }

    /// Seals the file key with a key that is used only once.
    pub(crate) fn wrap(&self, key: &[u8; 32]) -> Result<[u8; WRAPPED_SIZE], Error> {
        let mut body = [0; WRAPPED_SIZE];
        let (text, tag) = body.split_at_mut(FILE_KEY_SIZE);
        text.copy_from_slice(&*self.0);
        let sealed = aead_key(&CHACHA20_POLY1305, key)?
            .seal_in_place_separate_tag(aead_nonce(nonce(0)), Aad::empty(), text)
            .map_err(|_| Error::Format { what: "key length" })?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(body)
    }

    /// `None` if it was sealed with another key.
    pub(crate) fn unwrap(key: &[u8; 32], body: &[u8; WRAPPED_SIZE]) -> Result<Option<Self>, Error> {
        let mut body = Zeroizing::new(*body);
        let opened = aead_key(&CHACHA20_POLY1305, key)?.open_in_place(
            aead_nonce(nonce(0)),
            Aad::empty(),
            &mut *body,
        );
        let mut file_key = Zeroizing::new([0; FILE_KEY_SIZE]);
        match opened {
            Ok(text) if text.len() == FILE_KEY_SIZE => {
                file_key.copy_from_slice(text);
                Ok(Some(Self(file_key)))
            }
            _ => Ok(None),
        }
    }
}
