//! Signing and verifying: owner keys, key ids, and who is trusted (docs/FORMAT.md, section 4).

use std::fmt;

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::layout::SIGNATURE_AREA;
use crate::{Error, Part, SignatureAlgorithm};

/// Names a signing key: the first 16 bytes of SHA-256 over its SubjectPublicKeyInfo (DER, RFC 5280 section 4.1.2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An owner's private key. It is wiped from memory when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verifying_key().id())
    }
}

impl SigningKey {
    /// Makes a new Ed25519 key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`Error::Io`] if there are none.
    pub fn generate() -> Result<Self, Error> {
        let mut seed = Zeroizing::new([0; 32]);
        crate::cipher::fill_random(&mut *seed)?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// Reads a PKCS#8 PEM file's text (RFC 5958), as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// [`Error::BadKey`]
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        ed25519_dalek::SigningKey::from_pkcs8_pem(pem)
            .map(Self)
            .map_err(|error| Error::BadKey {
                expected: "an Ed25519 private key in PKCS#8 PEM",
                detail: error.to_string(),
            })
    }

    /// The key as PKCS#8 PEM text.
    ///
    /// # Errors
    /// [`Error::BadKey`] if encoding fails.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, Error> {
        // Without the public key: OpenSSL 3.0 does not read the form that has it (RFC 5958, version 2).
        let pair = KeypairBytes {
            secret_key: self.0.to_bytes(),
            public_key: None,
        };
        pair.to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| Error::BadKey {
                expected: "an encodable private key",
                detail: error.to_string(),
            })
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// An owner's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Reads a SubjectPublicKeyInfo PEM file's text, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// [`Error::BadKey`], also for a weak key (of small order).
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let bad = |detail: String| Error::BadKey {
            expected: "an Ed25519 public key in PEM",
            detail,
        };
        let key = ed25519_dalek::VerifyingKey::from_public_key_pem(pem)
            .map_err(|error| bad(error.to_string()))?;
        if key.is_weak() {
            return Err(bad("the point has small order".into()));
        }
        Ok(Self(key))
    }

    /// The key as PEM text.
    ///
    /// # Errors
    /// [`Error::BadKey`] if encoding fails.
    pub fn to_pem(&self) -> Result<String, Error> {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .map_err(|error| Error::BadKey {
                expected: "an encodable public key",
                detail: error.to_string(),
            })
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        // Encoding a key that is already a valid point cannot fail.
        let der = self
            .0
            .to_public_key_der()
            .map(ed25519_dalek::pkcs8::Document::into_vec)
            .unwrap_or_default();
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(der)[..16]);
        KeyId(id)
    }

    fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify_strict(message, &signature).is_ok()
    }
}

/// Whose images are accepted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    keys: Vec<VerifyingKey>,
    allow_unsigned: bool,
}

impl Trust {
    /// Trusts these owners. With `allow_unsigned` an unsigned image is accepted too, and so is a signed one when no
    /// key is given to check it by: who lets the signature be absent gains nothing from its presence.
    pub fn new(keys: Vec<VerifyingKey>, allow_unsigned: bool) -> Self {
        Self {
            keys,
            allow_unsigned,
        }
    }

    /// The key to check an image by that names this algorithm and signer; `None` if it is accepted unchecked.
    ///
    /// # Errors
    /// [`Error::Unsigned`], [`Error::UntrustedSigner`]
    pub(crate) fn choose(
        &self,
        algorithm: SignatureAlgorithm,
        signer: KeyId,
    ) -> Result<Option<VerifyingKey>, Error> {
        match algorithm {
            SignatureAlgorithm::None if self.allow_unsigned => Ok(None),
            SignatureAlgorithm::None => Err(Error::Unsigned),
            SignatureAlgorithm::Ed25519 => match self.keys.iter().find(|key| key.id() == signer) {
                Some(key) => Ok(Some(key.clone())),
                None if self.keys.is_empty() && self.allow_unsigned => Ok(None),
                None => Err(Error::UntrustedSigner { signer }),
            },
        }
    }
}

/// Signs all of `block` before its signature area and puts the signature there; leaves zeros without a key.
pub(crate) fn sign_block(key: Option<&SigningKey>, block: &mut [u8]) {
    let signed = block.len().saturating_sub(SIGNATURE_AREA);
    let (message, area) = block.split_at_mut(signed);
    area.fill(0);
    if let Some(key) = key {
        area[..64].copy_from_slice(&key.sign(message));
    }
}

/// Checks the signature of `block`. Without a key only the form is checked: what follows the signature is zero.
///
/// # Errors
/// [`Error::BadSignature`]
pub(crate) fn verify_block(
    key: Option<&VerifyingKey>,
    algorithm: SignatureAlgorithm,
    block: &[u8],
    part: Part,
) -> Result<(), Error> {
    let bad = Error::BadSignature { part };
    let Some((message, area)) = block.split_at_checked(block.len().saturating_sub(SIGNATURE_AREA))
    else {
        return Err(bad);
    };
    let used = match algorithm {
        SignatureAlgorithm::None => 0,
        SignatureAlgorithm::Ed25519 => 64,
    };
    if area.iter().skip(used).any(|&byte| byte != 0) {
        return Err(bad);
    }
    match (key, area.first_chunk::<64>()) {
        (Some(key), Some(signature)) if !key.verify(message, signature) => Err(bad),
        (Some(_), None) => Err(bad),
        _ => Ok(()),
    }
}
