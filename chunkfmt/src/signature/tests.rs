//! Keys and signatures against the `rsa` crate, and what must be refused.

use std::sync::LazyLock;

use ::rsa::pkcs1::{EncodeRsaPrivateKey, EncodeRsaPublicKey};
use ::rsa::signature::{RandomizedSigner, SignatureEncoding, Verifier};
use pkcs8::der::Encode;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::{
    EncryptionScheme as Aes, Kdf, Parameters, Pbkdf2Params, Pbkdf2Prf, Salt, ScryptParams,
};
use pkcs8::{
    EncodePrivateKey, EncodePublicKey, EncryptedPrivateKeyInfoRef, LineEnding, SecretDocument,
};
use proptest::prelude::*;
use sha2::Sha256;

use super::*;
use crate::ErrorKind;

type Pss = ::rsa::pss::SigningKey<Sha256>;

fn rsa_key(bits: usize) -> ::rsa::PrivateKey {
    ::rsa::PrivateKey::new(&mut getrandom::SysRng, bits).unwrap()
}

/// One key of each size, made when it is needed: it takes a second.
static RSA: [LazyLock<::rsa::PrivateKey>; 2] = [
    LazyLock::new(|| rsa_key(3072)),
    LazyLock::new(|| rsa_key(4096)),
];

fn ours(key: &::rsa::PrivateKey) -> SigningKey {
    SigningKey::from_pem(&key.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap()
}

fn signed(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let mut block = [message, &[0xff; SIGNATURE_AREA]].concat();
    sign_block(Some(key), &mut block).unwrap();
    block
}

fn verify(key: &VerifyingKey, block: &[u8]) -> Result<(), Error> {
    verify_block(Some(key), key.algorithm(), block, Part::Header)
}

#[test]
fn rsa_signatures_are_those_of_another_library() {
    for theirs in RSA.iter().map(|key| &**key) {
        let key = ours(theirs);
        let size = key.verifying_key().signature_size();
        assert_eq!(size * 8, key.verifying_key().bits());
        let block = signed(&key, b"message");
        let (signature, rest) = block[7..].split_at(size);
        assert!(rest.iter().all(|&byte| byte == 0));
        let verifying = ::rsa::pss::VerifyingKey::<Sha256>::new(theirs.to_public_key());
        let signature = ::rsa::pss::Signature::try_from(signature).unwrap();
        verifying.verify(b"message", &signature).unwrap();
        assert!(verifying.verify(b"massage", &signature).is_err());

        let theirs = Pss::new(theirs.clone()).sign_with_rng(&mut rng(), b"message");
        let mut block = [b"message".as_slice(), &theirs.to_bytes()].concat();
        block.resize(7 + SIGNATURE_AREA, 0);
        verify(&key.verifying_key(), &block).unwrap();
        block[0] ^= 1;
        assert!(verify(&key.verifying_key(), &block).is_err());
    }
}

#[test]
fn another_salt_length_is_refused() {
    let theirs = &*RSA[0];
    for length in [0, 20, 31, 33, 64] {
        let signing = Pss::new_with_salt_len(theirs.clone(), length);
        let signature = signing.sign_with_rng(&mut rng(), b"message");
        let mut block = [b"message".as_slice(), &signature.to_bytes()].concat();
        block.resize(7 + SIGNATURE_AREA, 0);
        assert!(verify(&ours(theirs).verifying_key(), &block).is_err());
    }
}

/// Random numbers as the signature traits take them.
fn rng() -> impl ::rsa::rand_core::CryptoRng {
    ::rsa::rand_core::UnwrapErr(getrandom::SysRng)
}

#[test]
fn all_usual_forms_of_rsa_keys_are_the_same_key() {
    for theirs in RSA.iter().map(|key| &**key) {
        let key = ours(theirs);
        let pkcs1 = theirs.to_pkcs1_pem(LineEnding::CRLF).unwrap();
        let written = key.to_pem().unwrap();
        for text in [
            pkcs1.as_str(),
            written.as_str(),
            &format!("# mine\n\n{}", *pkcs1),
        ] {
            let read = SigningKey::from_pem(text).unwrap();
            assert_eq!(read.verifying_key(), key.verifying_key());
            assert_eq!(read.to_pem().unwrap(), written);
            verify(&key.verifying_key(), &signed(&read, b"message")).unwrap();
        }
        let public = theirs.to_public_key();
        for text in [
            public.to_public_key_pem(LineEnding::LF).unwrap(),
            public.to_pkcs1_pem(LineEnding::LF).unwrap(),
            key.verifying_key().to_pem().unwrap(),
        ] {
            assert_eq!(VerifyingKey::from_pem(&text).unwrap(), key.verifying_key());
        }
    }
}

#[test]
fn a_signature_is_valid_for_its_algorithm_only() {
    let ed25519 = SigningKey::generate().unwrap();
    let rsa = ours(&RSA[0]);
    assert_eq!(ed25519.algorithm(), SignatureAlgorithm::Ed25519);
    assert_eq!(rsa.algorithm(), SignatureAlgorithm::RsaPss);
    for (key, other) in [(&ed25519, &rsa), (&rsa, &ed25519)] {
        let block = signed(key, b"message");
        let public = key.verifying_key();
        verify(&public, &block).unwrap();
        assert!(verify(&other.verifying_key(), &block).is_err());
        assert!(verify_block(Some(&public), other.algorithm(), &block, Part::Header).is_err());
        assert!(
            verify_block(
                Some(&public),
                SignatureAlgorithm::None,
                &block,
                Part::Header
            )
            .is_err()
        );
        let trust = Trust::new(vec![public.clone()], true);
        assert!(matches!(
            trust.choose(other.algorithm(), public.id()),
            Err(Error::UntrustedSigner { .. })
        ));
        assert_eq!(
            trust.choose(key.algorithm(), public.id()).unwrap(),
            Some(public)
        );
    }
}

#[test]
fn what_follows_a_signature_is_zero() {
    for key in [SigningKey::generate().unwrap(), ours(&RSA[0])] {
        let mut block = signed(&key, b"message");
        let last = block.len() - 1;
        block[last] = 1;
        assert!(verify(&key.verifying_key(), &block).is_err());
        let short = &block[..block.len() - 1];
        assert!(verify(&key.verifying_key(), short).is_err());
        assert!(verify(&key.verifying_key(), &[]).is_err());
    }
}

fn refusal<T: fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    error.to_string()
}

#[test]
fn rsa_keys_of_other_sizes_are_refused_with_the_remedy() {
    for bits in [2048, 3080] {
        let key = rsa_key(bits);
        let private = key.to_pkcs8_pem(LineEnding::LF).unwrap();
        let public = key
            .to_public_key()
            .to_public_key_pem(LineEnding::LF)
            .unwrap();
        for message in [
            refusal(SigningKey::from_pem(&private)),
            refusal(VerifyingKey::from_pem(&public)),
        ] {
            assert!(message.contains(&format!("{bits} bits")), "{message}");
            assert!(message.contains("imagekey sign --rsa 4096"), "{message}");
        }
    }
}

#[test]
fn damaged_rsa_keys_are_refused_when_they_are_read() {
    let whole = RSA[0].to_pkcs1_der().unwrap();
    let read = |der: &[u8]| {
        let document = SecretDocument::try_from(der).unwrap();
        let pem = document.to_pem("RSA PRIVATE KEY", LineEnding::LF).unwrap();
        SigningKey::from_pem(&pem)
    };
    read(whole.as_bytes()).unwrap();
    // One bit in the middle of each number (RFC 8017, appendix A.1.2), but for d, which nothing depends on.
    let key = pkcs1::RsaPrivateKeyRef::try_from(whole.as_bytes()).unwrap();
    let numbers = [
        ("n", key.modulus),
        ("e", key.public_exponent),
        ("p", key.prime1),
        ("q", key.prime2),
        ("dP", key.exponent1),
        ("dQ", key.exponent2),
        ("qInv", key.coefficient),
    ];
    for (name, number) in numbers {
        let bytes = number.as_bytes();
        let mut windows = whole.as_bytes().windows(bytes.len());
        let at = windows.position(|window| window == bytes).unwrap();
        let mut damaged = whole.as_bytes().to_vec();
        damaged[at + bytes.len() / 2] ^= 0x10;
        let error = read(&damaged).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Input);
    }
}

#[test]
fn keys_in_the_wrong_place_are_told_apart() {
    let key = SigningKey::generate().unwrap();
    let private = key.to_pem().unwrap();
    let public = key.verifying_key().to_pem().unwrap();
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    let content = crate::ContentKey::generate().unwrap().to_hex();
    let private_cases = [
        (public.as_str(), "it is a public key"),
        (&block("RSA PUBLIC KEY"), "it is a public key"),
        (&block("CERTIFICATE"), "openssl x509"),
        (&block("EC PRIVATE KEY"), "neither Ed25519 nor RSA"),
        (&block("OPENSSH PRIVATE KEY"), "OpenSSH"),
        (&block("PRIVATE KEY"), "damaged"),
        (legacy, "openssl pkcs8 -topk8"),
        (content.as_str(), "content key"),
        ("", "empty"),
        ("hello\n", "not PEM"),
        ("ssh-ed25519 AAAA me\n", "OpenSSH public key"),
        (&format!("images: a\n{}", *private), "images: lines"),
        (&private[..80], "cut short"),
        (&private.replace('M', "!"), "base64"),
        (&format!("{}{}", *private, *private), "one key in a file"),
        (&format!("hello\n{}", *private), "line 1"),
    ];
    for (text, reason) in private_cases {
        let message = refusal(SigningKey::from_pem(text));
        assert!(message.contains(reason), "{text}: {message}");
    }
    let public_cases = [
        (private.as_str(), "it is a private key"),
        (&format!("images: a\n{public}"), "images: lines only"),
        (&public.replace("PUBLIC", "PUBLICK"), "PUBLICK"),
    ];
    for (text, reason) in public_cases {
        let message = refusal(VerifyingKey::from_pem(text));
        assert!(message.contains(reason), "{text}: {message}");
    }
    assert!(!format!("{key:?}").contains(private.lines().nth(1).unwrap()));
}

#[test]
fn weak_keys_are_refused() {
    // The neutral element: its signatures verify for any message.
    let mut point = [0; 32];
    point[0] = 1;
    let key = ed25519_dalek::VerifyingKey::from_bytes(&point).unwrap();
    let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
    assert!(refusal(VerifyingKey::from_pem(&pem)).contains("weak"));
}

/// An encrypted key file that asks for this much work.
fn encrypted_with(kdf: Kdf) -> String {
    let parameters = Parameters {
        kdf,
        encryption: Aes::Aes256Cbc { iv: [0; 16] },
    };
    let info = EncryptedPrivateKeyInfoRef {
        encryption_algorithm: EncryptionScheme::Pbes2(parameters),
        encrypted_data: OctetStringRef::new(&[0; 64]).unwrap(),
    };
    let document = SecretDocument::try_from(info.to_der().unwrap()).unwrap();
    let pem = document.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF);
    pem.unwrap().to_string()
}

#[test]
fn a_key_file_cannot_ask_for_any_amount_of_work() {
    let pbkdf2 = |iteration_count| {
        Kdf::Pbkdf2(Pbkdf2Params {
            salt: Salt::new([0; 16]).unwrap(),
            iteration_count,
            key_length: None,
            prf: Pbkdf2Prf::HmacWithSha256,
        })
    };
    let scrypt = |cost_parameter, block_size, parallelization| {
        Kdf::Scrypt(ScryptParams {
            salt: Salt::new([0; 16]).unwrap(),
            cost_parameter,
            block_size,
            parallelization,
            key_length: None,
        })
    };
    let costly = [
        pbkdf2(u32::MAX),
        scrypt(1 << 21, 8, 1),
        scrypt(1 << 14, 8, u16::MAX),
        scrypt(1 << 40, u16::MAX, u16::MAX),
    ];
    for kdf in costly {
        let text = encrypted_with(kdf);
        let message = refusal(SigningKey::from_encrypted_pem(&text, b"secret"));
        assert!(message.contains("gigabytes"), "{message}");
    }
    for kdf in [pbkdf2(2048), scrypt(1 << 14, 8, 1)] {
        let text = encrypted_with(kdf);
        let wrong = SigningKey::from_encrypted_pem(&text, b"secret");
        assert!(matches!(wrong, Err(Error::WrongPassphrase)), "{wrong:?}");
        let missing = SigningKey::from_pem(&text);
        assert!(matches!(missing, Err(Error::PassphraseMissing)));
    }
}

#[test]
fn an_owner_can_be_trusted_for_some_names() {
    let owner = SigningKey::generate().unwrap().verifying_key();
    let other = SigningKey::generate().unwrap().verifying_key();
    let pem = owner.to_pem().unwrap();
    let restricted = |lines: &str| TrustedKey::from_pem(&format!("{lines}{pem}"));
    let lab = restricted("# the lab\n\nimages: lab-\nimages:course\r\n").unwrap();
    assert_eq!(lab.prefixes(), ["lab-", "course"]);
    assert_eq!(lab.key(), &owner);

    let trust = Trust::of(vec![lab.clone(), other.clone().into()], false);
    for name in ["lab-7", "lab-", "course", "courses"] {
        trust.check_name(owner.id(), name).unwrap();
    }
    for name in ["", "lab", "Lab-7", "my lab-7", " lab-"] {
        let error = trust.check_name(owner.id(), name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Verification);
        assert!(error.to_string().contains(&owner.id().to_string()));
        trust.check_name(other.id(), name).unwrap();
    }
    // Two files of one owner add up.
    let more = restricted("images: exam-\n").unwrap();
    let both = Trust::of(vec![lab.clone(), more], false);
    assert!(both.check_name(owner.id(), "exam-1").is_ok());
    assert!(both.check_name(owner.id(), "test-1").is_err());
    let all = Trust::of(vec![lab, owner.clone().into()], false);
    assert!(all.check_name(owner.id(), "test-1").is_ok());
    assert!(Trust::default().check_name(owner.id(), "any").is_ok());
}

#[test]
fn a_slip_of_the_pen_lifts_no_restriction() {
    let pem = SigningKey::generate()
        .unwrap()
        .verifying_key()
        .to_pem()
        .unwrap();
    let files = [
        format!("image: lab-\n{pem}"),
        format!("Images: lab-\n{pem}"),
        format!("images lab-\n{pem}"),
        format!("images:\n{pem}"),
        format!("images: a\u{7}b\n{pem}"),
        format!("images: {}\n{pem}", "x".repeat(256)),
        format!("lab-\n{pem}"),
        format!("{pem}images: lab-\n"),
        format!("\u{feff}images: lab-\n{pem}"),
    ];
    for text in files {
        refusal(TrustedKey::from_pem(&text));
    }
}

proptest! {
    #[test]
    fn arbitrary_text_is_no_key(text in "(-----BEGIN (ENCRYPTED |RSA )?(PRIVATE|PUBLIC) KEY-----\n)?[A-Za-z0-9+/=\n:#-]{0,200}(\n-----END PRIVATE KEY-----)?") {
        prop_assert!(SigningKey::from_encrypted_pem(&text, b"").is_err());
        prop_assert!(TrustedKey::from_pem(&text).is_err());
    }

    #[test]
    fn arbitrary_der_is_no_key(der in prop::collection::vec(any::<u8>(), 0..200)) {
        use base64ct::{Base64, Encoding};
        let base64 = Base64::encode_string(&der);
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PUBLIC KEY", "RSA PUBLIC KEY"] {
            let text = format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
            prop_assert!(SigningKey::from_encrypted_pem(&text, b"").is_err());
            prop_assert!(VerifyingKey::from_pem(&text).is_err());
        }
    }
}
