//! An owner's private key: made, read, written, and what signs with it.

use std::fmt;

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::KeypairBytes;
use pkcs8::{
    DecodePrivateKey, EncodePrivateKey, LineEnding, ObjectIdentifier, PrivateKeyInfoRef,
    SecretDocument,
};
use zeroize::Zeroizing;

use super::public::{ED25519_SIGNATURE_SIZE, VerifyingKey};
use super::{PRIVATE, bad, encrypted, pem, rsa};
use crate::{Error, SignatureAlgorithm};

/// id-Ed25519, RFC 8410 section 3.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

const DAMAGED: &str = "damaged: it does not decode as a private key";

/// An owner's private key: Ed25519, or RSA with 3072 or 4096 bits. Shared by threads. Never printed; an Ed25519 key is
/// wiped from memory when dropped, and so is every text and encoding that passes through here.
pub struct SigningKey {
    secret: Secret,
    public: VerifyingKey,
    /// PKCS#8, not encrypted.
    document: SecretDocument,
}

enum Secret {
    Ed25519(ed25519_dalek::SigningKey),
    Rsa(rsa::PrivateKey),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
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
        Self::from_ed25519(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// Reads the text of a private key file that is not encrypted: PKCS#8 PEM (RFC 5958) as `openssl genpkey` writes
    /// it, or PKCS#1 PEM (RFC 8017) as older programs write RSA keys.
    ///
    /// # Errors
    /// [`Error::PassphraseMissing`] if it is encrypted, [`Error::BadKey`] if it is something else.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        Self::read(text, None)
    }

    /// As [`Self::from_pem`], of a file that may be encrypted with a passphrase (RFC 8018, PBES2).
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`], [`Error::BadKey`]
    pub fn from_encrypted_pem(text: &str, passphrase: &[u8]) -> Result<Self, Error> {
        Self::read(text, Some(passphrase))
    }

    fn read(text: &str, passphrase: Option<&[u8]>) -> Result<Self, Error> {
        let file = pem::parse(text, PRIVATE)?;
        if !file.prefixes.is_empty() {
            return Err(bad(
                PRIVATE,
                "it has images: lines, which belong into the public key file",
            ));
        }
        match file.label {
            "PRIVATE KEY" => Self::from_pkcs8(&file.der),
            "RSA PRIVATE KEY" => Self::from_pkcs1(&file.der),
            "ENCRYPTED PRIVATE KEY" => {
                let locked = encrypted::LockedKey::from_der(&file.der)?;
                let document = locked.decrypt(passphrase.ok_or(Error::PassphraseMissing)?)?;
                // Padding and the outermost length can be right by chance.
                if PrivateKeyInfoRef::try_from(document.as_bytes()).is_err() {
                    return Err(Error::WrongPassphrase);
                }
                Self::from_pkcs8(document.as_bytes())
            }
            other => Err(bad(PRIVATE, pem::describe_label(other))),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let info = PrivateKeyInfoRef::try_from(der).map_err(|_| bad(PRIVATE, DAMAGED))?;
        match info.algorithm.oid {
            ED25519 => {
                let key = ed25519_dalek::SigningKey::from_pkcs8_der(der)
                    .map_err(|_| bad(PRIVATE, DAMAGED))?;
                Self::from_ed25519(key)
            }
            rsa::OID => Self::from_pkcs1(info.private_key.as_bytes()),
            other => Err(bad(PRIVATE, pem::describe_algorithm(other))),
        }
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, Error> {
        let secret = rsa::PrivateKey::from_pkcs1(der)?;
        Ok(Self {
            public: VerifyingKey::from_rsa(secret.public_key()?)?,
            document: rsa::to_pkcs8(der).map_err(|_| bad(PRIVATE, DAMAGED))?,
            secret: Secret::Rsa(secret),
        })
    }

    fn from_ed25519(key: ed25519_dalek::SigningKey) -> Result<Self, Error> {
        // Without the public key: OpenSSL 3.0 does not read the form that has it (RFC 5958, version 2).
        let pair = KeypairBytes {
            secret_key: key.to_bytes(),
            public_key: None,
        };
        Ok(Self {
            public: VerifyingKey::from_ed25519(key.verifying_key())?,
            document: pair.to_pkcs8_der().map_err(|_| bad(PRIVATE, DAMAGED))?,
            secret: Secret::Ed25519(key),
        })
    }

    /// The key as PKCS#8 PEM text, not encrypted.
    ///
    /// # Errors
    /// [`Error::BadKey`] if encoding fails.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, Error> {
        self.document
            .to_pem("PRIVATE KEY", LineEnding::LF)
            .map_err(|_| bad("an encodable private key", DAMAGED))
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        self.public.clone()
    }

    /// What it signs with.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.public.algorithm()
    }

    /// Puts the signature over `message` at the beginning of `area`.
    pub(super) fn sign(&self, message: &[u8], area: &mut [u8]) -> Result<(), Error> {
        match &self.secret {
            Secret::Ed25519(key) => {
                let signature = key.sign(message).to_bytes();
                area.first_chunk_mut::<ED25519_SIGNATURE_SIZE>()
                    .map(|area| *area = signature)
                    .ok_or(Error::Signing)
            }
            Secret::Rsa(key) => key.sign(message, area),
        }
    }
}
