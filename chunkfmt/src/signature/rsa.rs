//! RSASSA-PSS (RFC 8017, section 8.1) with SHA-256, MGF1 with SHA-256 and a salt of 32 bytes.

use pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef};
use pkcs8::der::asn1::{AnyRef, BitStringRef, OctetStringRef, UintRef};
use pkcs8::der::{Decode, Encode};
use pkcs8::spki::SubjectPublicKeyInfo;
use pkcs8::{AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfoRef, SecretDocument};
use ring::rand::SystemRandom;
use ring::signature::{
    KeyPair, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, RsaKeyPair, UnparsedPublicKey,
};

use super::{PRIVATE, PUBLIC, bad};
use crate::Error;
use crate::prefix::SIGNATURE_AREA;

/// rsaEncryption, RFC 8017 appendix C.
pub(super) const OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Bytes of the modulus, and so of a signature: 3072 bits for 128 bits of security (NIST SP 800-57 part 1, table 2),
/// 4096 bits because that is what many have. More does not fit the signature area.
const SIZES: [usize; 2] = [384, 512];

/// Smallest and largest public exponent (NIST SP 800-56B section 6.2, and what the signing library takes).
const EXPONENTS: std::ops::RangeInclusive<u64> = 65_537..=(1 << 33) - 1;

const DAMAGED: &str = "damaged: the numbers of the RSA key do not fit together";

const ALGORITHM: AlgorithmIdentifierRef<'static> = AlgorithmIdentifierRef {
    oid: OID,
    parameters: Some(AnyRef::NULL),
};

/// Refuses what is no key of a size that signs images. Returns the size of its signatures in bytes.
fn check(
    modulus: &UintRef<'_>,
    exponent: &UintRef<'_>,
    expected: &'static str,
) -> Result<usize, Error> {
    let (modulus, exponent) = (modulus.as_bytes(), exponent.as_bytes());
    let unused = modulus.first().map_or(0, |byte| byte.leading_zeros());
    let bits = (modulus.len() * 8).saturating_sub(unused as usize);
    if !SIZES.iter().any(|size| size * 8 == bits) {
        let detail = format!(
            "it is an RSA key of {bits} bits, images are signed with 3072 or 4096: make one with imagekey sign --rsa 4096"
        );
        return Err(bad(expected, detail));
    }
    let value = exponent.iter().try_fold(0_u64, |value, &byte| {
        Some(value.checked_mul(256)? | u64::from(byte))
    });
    if !value.is_some_and(|value| EXPONENTS.contains(&value) && value % 2 == 1) {
        return Err(bad(
            expected,
            "its public exponent is not an odd number from 65537 to 2^33",
        ));
    }
    if modulus.last().is_none_or(|byte| byte % 2 == 0) {
        return Err(bad(expected, DAMAGED));
    }
    Ok(modulus.len())
}

/// A public RSA key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    /// `RSAPublicKey`, RFC 8017 appendix A.1.1.
    pkcs1: Vec<u8>,
    size: usize,
}

impl PublicKey {
    /// Reads an `RSAPublicKey`.
    pub(super) fn from_pkcs1(der: &[u8]) -> Result<Self, Error> {
        let key = RsaPublicKeyRef::from_der(der)
            .map_err(|_| bad(PUBLIC, "damaged: it does not decode as an RSA key"))?;
        Ok(Self {
            size: check(&key.modulus, &key.public_exponent, PUBLIC)?,
            pkcs1: der.to_vec(),
        })
    }

    /// The `SubjectPublicKeyInfo`, RFC 3279 section 2.3.1.
    pub(super) fn to_spki(&self) -> Result<Vec<u8>, pkcs8::der::Error> {
        let info = SubjectPublicKeyInfo {
            algorithm: ALGORITHM,
            subject_public_key: BitStringRef::from_bytes(&self.pkcs1)?,
        };
        info.to_der()
    }

    /// Bytes of a signature.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &self.pkcs1)
            .verify(message, signature)
            .is_ok()
    }
}

/// A private RSA key. The numbers inside are the library's, which does not wipe them.
pub(super) struct PrivateKey {
    pair: RsaKeyPair,
    random: SystemRandom,
}

impl PrivateKey {
    /// Reads an `RSAPrivateKey`, RFC 8017 appendix A.1.2.
    pub(super) fn from_pkcs1(der: &[u8]) -> Result<Self, Error> {
        let key = RsaPrivateKeyRef::from_der(der)
            .map_err(|_| bad(PRIVATE, "damaged: it does not decode as an RSA key"))?;
        check(&key.modulus, &key.public_exponent, PRIVATE)?;
        if key.other_prime_infos.is_some() {
            return Err(bad(PRIVATE, "it is an RSA key of more than two primes"));
        }
        let key = Self {
            pair: RsaKeyPair::from_der(der).map_err(|_| bad(PRIVATE, DAMAGED))?,
            random: SystemRandom::new(),
        };
        // Some damage shows in signing only, and then a disk may have been read for an hour.
        key.sign(b"", &mut [0; SIGNATURE_AREA])
            .map_err(|_| bad(PRIVATE, DAMAGED))?;
        Ok(key)
    }

    pub(super) fn public_key(&self) -> Result<PublicKey, Error> {
        PublicKey::from_pkcs1(self.pair.public_key().as_ref())
    }

    /// Signs into the beginning of `area`. The library checks its own signature, so that neither a damaged key nor a
    /// faulty processor gives the key away.
    pub(super) fn sign(&self, message: &[u8], area: &mut [u8]) -> Result<(), Error> {
        area.get_mut(..self.pair.public().modulus_len())
            .and_then(|signature| {
                self.pair
                    .sign(&RSA_PSS_SHA256, &self.random, message, signature)
                    .ok()
            })
            .ok_or(Error::Signing)
    }
}

/// An `RSAPrivateKey` as PKCS#8, RFC 5958.
pub(super) fn to_pkcs8(pkcs1: &[u8]) -> Result<SecretDocument, pkcs8::Error> {
    let info = PrivateKeyInfoRef::new(ALGORITHM, OctetStringRef::new(pkcs1)?);
    Ok(SecretDocument::encode_msg(&info)?)
}
