//! Private keys that are encrypted with a passphrase: PKCS#8 with PBES2 (RFC 5958 section 3, RFC 8018 section 6.2).

use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};

use super::{PRIVATE, bad};
use crate::Error;

/// Most PBKDF2 iterations: some seconds.
const ITERATIONS_MAX: u32 = 10_000_000;
/// Most bytes of memory that scrypt may use.
const SCRYPT_MEMORY_MAX: u64 = 1 << 30;
/// Most bytes that scrypt may fill in all, one run after the other: some seconds.
const SCRYPT_WORK_MAX: u64 = 4 << 30;

const OTHER: &str =
    "damaged, or encrypted in a way that is not known: convert it with openssl pkcs8 -topk8";

/// An `EncryptedPrivateKeyInfo` that can be decrypted. What it asks for is bounded in time and memory.
pub(super) struct LockedKey<'a>(EncryptedPrivateKeyInfoRef<'a>);

impl<'a> LockedKey<'a> {
    /// # Errors
    /// [`Error::BadKey`]
    pub(super) fn from_der(der: &'a [u8]) -> Result<Self, Error> {
        let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_| bad(PRIVATE, OTHER))?;
        let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else {
            return Err(bad(
                PRIVATE,
                "it is encrypted in an old way (PBES1), which is weak: convert it with openssl pkcs8 -topk8",
            ));
        };
        let too_costly = match &parameters.kdf {
            Kdf::Pbkdf2(kdf) => kdf.iteration_count > ITERATIONS_MAX,
            Kdf::Scrypt(kdf) => {
                let memory = kdf
                    .cost_parameter
                    .saturating_mul(u64::from(kdf.block_size))
                    .saturating_mul(128);
                let work = memory.saturating_mul(u64::from(kdf.parallelization));
                // RFC 7914, section 6: the cost is a power of two larger than 1. The library panics on others.
                let valid = kdf.cost_parameter > 1 && kdf.cost_parameter.is_power_of_two();
                !valid || memory > SCRYPT_MEMORY_MAX || work > SCRYPT_WORK_MAX
            }
            // What the library may learn to read one day has no bounds here yet.
            _ => true,
        };
        match too_costly {
            true => Err(bad(
                PRIVATE,
                "its passphrase would take minutes or gigabytes to check: convert it with openssl pkcs8 -topk8",
            )),
            false => Ok(Self(info)),
        }
    }

    /// # Errors
    /// [`Error::WrongPassphrase`], [`Error::BadKey`]
    pub(super) fn decrypt(&self, passphrase: &[u8]) -> Result<SecretDocument, Error> {
        use pkcs8::pkcs5::Error as Pkcs5;
        self.0.decrypt(passphrase).map_err(|error| match error {
            pkcs8::Error::EncryptedPrivateKey(
                Pkcs5::UnsupportedAlgorithm { .. } | Pkcs5::AlgorithmParametersInvalid { .. },
            ) => bad(PRIVATE, OTHER),
            _ => Error::WrongPassphrase,
        })
    }
}
