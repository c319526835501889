//! An owner's public key: read, written, named by its id, and what verifies with it.

use std::fmt;

use ed25519_dalek::pkcs8::EncodePublicKey;
use pkcs8::der::Decode;
use pkcs8::der::asn1::AnyRef;
use pkcs8::{DecodePublicKey, Document, LineEnding, ObjectIdentifier, SubjectPublicKeyInfoRef};
use sha2::{Digest, Sha256};

use super::{KeyId, PUBLIC, bad, pem, rsa};
use crate::{Error, SignatureAlgorithm};

/// Bytes of an Ed25519 signature.
pub(super) const ED25519_SIGNATURE_SIZE: usize = 64;

/// id-Ed25519, RFC 8410 section 3.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

const DAMAGED: &str = "damaged: it does not decode as a public key";

/// An owner's public key: Ed25519, or RSA with 3072 or 4096 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    key: Key,
    /// SubjectPublicKeyInfo, DER.
    spki: Document,
    id: KeyId,
}

#[derive(Clone, PartialEq, Eq)]
enum Key {
    Ed25519(ed25519_dalek::VerifyingKey),
    Rsa(rsa::PublicKey),
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({} {})", self.algorithm().name(), self.id)
    }
}

impl VerifyingKey {
    /// Reads the text of a public key file: SubjectPublicKeyInfo PEM (RFC 5280), as `openssl pkey -pubout` writes it,
    /// or PKCS#1 PEM (RFC 8017) as older programs write RSA keys. A file that restricts the key to some images is read
    /// as [`crate::TrustedKey`] only.
    ///
    /// # Errors
    /// [`Error::BadKey`], also for a weak key (of small order).
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let file = pem::parse(text, PUBLIC)?;
        match file.prefixes.is_empty() {
            true => Self::from_text(&file),
            false => Err(bad(
                PUBLIC,
                "it is for the images of its images: lines only",
            )),
        }
    }

    pub(super) fn from_text(file: &pem::KeyText<'_>) -> Result<Self, Error> {
        match file.label {
            "PUBLIC KEY" => Self::from_spki(&file.der),
            "RSA PUBLIC KEY" => Self::from_rsa(rsa::PublicKey::from_pkcs1(&file.der)?),
            other => Err(bad(PUBLIC, pem::describe_label(other))),
        }
    }

    fn from_spki(der: &[u8]) -> Result<Self, Error> {
        let damaged = || bad(PUBLIC, DAMAGED);
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| damaged())?;
        match info.algorithm.oid {
            ED25519 => {
                let key = ed25519_dalek::VerifyingKey::from_public_key_der(der);
                Self::from_ed25519(key.map_err(|_| damaged())?)
            }
            rsa::OID => {
                let parameters = info.algorithm.parameters;
                let key = info.subject_public_key.as_bytes();
                match key.filter(|_| parameters.is_some_and(AnyRef::is_null)) {
                    Some(key) => Self::from_rsa(rsa::PublicKey::from_pkcs1(key)?),
                    None => Err(damaged()),
                }
            }
            other => Err(bad(PUBLIC, pem::describe_algorithm(other))),
        }
    }

    pub(super) fn from_rsa(key: rsa::PublicKey) -> Result<Self, Error> {
        let spki = key.to_spki().and_then(Document::try_from);
        Ok(Self::new(
            Key::Rsa(key),
            spki.map_err(|_| bad(PUBLIC, DAMAGED))?,
        ))
    }

    pub(super) fn from_ed25519(key: ed25519_dalek::VerifyingKey) -> Result<Self, Error> {
        if key.is_weak() {
            return Err(bad(PUBLIC, "weak: the point has small order"));
        }
        let spki = key.to_public_key_der().map_err(|_| bad(PUBLIC, DAMAGED))?;
        Ok(Self::new(Key::Ed25519(key), spki))
    }

    fn new(key: Key, spki: Document) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(spki.as_bytes())[..16]);
        Self {
            key,
            spki,
            id: KeyId(id),
        }
    }

    /// The key as SubjectPublicKeyInfo PEM text.
    ///
    /// # Errors
    /// [`Error::BadKey`] if encoding fails.
    pub fn to_pem(&self) -> Result<String, Error> {
        self.spki
            .to_pem("PUBLIC KEY", LineEnding::LF)
            .map_err(|_| bad("an encodable public key", DAMAGED))
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What signatures it verifies.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        match self.key {
            Key::Ed25519(_) => SignatureAlgorithm::Ed25519,
            Key::Rsa(_) => SignatureAlgorithm::RsaPss,
        }
    }

    /// Bits of the key.
    pub fn bits(&self) -> usize {
        match &self.key {
            Key::Ed25519(_) => 256,
            Key::Rsa(key) => key.size() * 8,
        }
    }

    /// Bytes of a signature.
    pub(super) fn signature_size(&self) -> usize {
        match &self.key {
            Key::Ed25519(_) => ED25519_SIGNATURE_SIZE,
            Key::Rsa(key) => key.size(),
        }
    }

    /// Checks a signature of [`Self::signature_size`] bytes.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            Key::Rsa(key) => key.verify(message, signature),
        }
    }
}
