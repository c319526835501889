//! Signing and verifying: owner keys, key ids, and who is trusted (docs/FORMAT.md, section 4).

mod encrypted;
mod pem;
mod private;
mod public;
mod rsa;
#[cfg(test)]
mod tests;
mod trust;
#[cfg(test)]
mod wycheproof;

use std::fmt;

pub use private::SigningKey;
pub use public::VerifyingKey;
pub use trust::{Trust, TrustedKey};

use crate::prefix::SIGNATURE_AREA;
use crate::{Error, Part, SignatureAlgorithm};

/// What a file should hold that is read as a private key, for messages.
const PRIVATE: &str = "an owner's private key";
/// What a file should hold that is read as a public key, for messages.
const PUBLIC: &str = "an owner's public key";

/// Names a signing key: the first 16 bytes of SHA-256 over its SubjectPublicKeyInfo (DER, RFC 5280 section 4.1.2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn bad(expected: &'static str, detail: impl Into<String>) -> Error {
    Error::BadKey {
        expected,
        detail: detail.into(),
    }
}

/// Signs all of `block` before its signature area and puts the signature there; leaves zeros without a key.
///
/// # Errors
/// [`Error::Signing`] if an RSA key turns out to be damaged.
pub(crate) fn sign_block(key: Option<&SigningKey>, block: &mut [u8]) -> Result<(), Error> {
    let signed = block.len().saturating_sub(SIGNATURE_AREA);
    let (message, area) = block.split_at_mut(signed);
    area.fill(0);
    match key {
        Some(key) => key.sign(message, area),
        None => Ok(()),
    }
}

/// Checks the signature of `block`. Without a key only the form is checked, as far as the algorithm tells it: what
/// follows the signature is zero.
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
    let size = match (key, algorithm) {
        (Some(key), _) if key.algorithm() != algorithm => return Err(bad),
        (Some(key), _) => key.signature_size(),
        (None, SignatureAlgorithm::None) => 0,
        (None, SignatureAlgorithm::Ed25519) => public::ED25519_SIGNATURE_SIZE,
        (None, SignatureAlgorithm::RsaPss) => SIGNATURE_AREA,
    };
    let Some((signature, rest)) = area.split_at_checked(size) else {
        return Err(bad);
    };
    if rest.iter().any(|&byte| byte != 0) {
        return Err(bad);
    }
    match key {
        Some(key) if !key.verify(message, signature) => Err(bad),
        _ => Ok(()),
    }
}
