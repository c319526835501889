//! Target `keys`: owner's private and public key files, trusted keys with names, content keys.

use base64ct::{Base64, Encoding};
use chunkfmt::{ContentKey, Context, ImageHeader, SigningKey, Trust, TrustedKey, VerifyingKey};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::Kdf;

/// What the seeds are encrypted with.
pub(crate) const PASSPHRASE: &[u8] = b"fuzz";

/// First byte: 0 to 4 wrap the rest, which is DER, into PEM of that kind; otherwise the rest is the text of a file.
pub fn feed(data: &[u8]) -> bool {
    let Some((&how, rest)) = data.split_first() else {
        return false;
    };
    let label = match how {
        0 => "PUBLIC KEY",
        1 => "RSA PUBLIC KEY",
        2 => "PRIVATE KEY",
        3 => "RSA PRIVATE KEY",
        4 => "ENCRYPTED PRIVATE KEY",
        _ => return text(&String::from_utf8_lossy(rest)),
    };
    if how == 4 && is_slow(rest) {
        return false;
    }
    let base64 = Base64::encode_string(rest);
    text(&format!(
        "-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n"
    ))
}

/// Whether trying the passphrase takes longer than a run of the fuzzer should.
fn is_slow(der: &[u8]) -> bool {
    let Ok(info) = EncryptedPrivateKeyInfoRef::try_from(der) else {
        return false;
    };
    match &info.encryption_algorithm {
        EncryptionScheme::Pbes2(parameters) => match &parameters.kdf {
            // The library's own bound is above this, and far above that it must refuse.
            Kdf::Pbkdf2(kdf) => (5_000..10_000_001).contains(&kdf.iteration_count),
            Kdf::Scrypt(kdf) => {
                let work = u128::from(kdf.cost_parameter)
                    * u128::from(kdf.block_size)
                    * u128::from(kdf.parallelization)
                    * 128;
                (1 << 20..=4 << 30).contains(&work)
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether a text asks for a slow passphrase check.
fn is_text_slow(text: &str) -> bool {
    // What is not made by `feed` from DER is only looked at without a passphrase.
    let Some((_, body)) = text.split_once("ENCRYPTED PRIVATE KEY-----") else {
        return false;
    };
    let body = body.split("-----").next().unwrap_or_default();
    let base64: String = body.split_whitespace().collect();
    Base64::decode_vec(&base64).map_or(true, |der| is_slow(&der))
}

/// Reads a text as each kind of key file; whether it is one.
fn text(text: &str) -> bool {
    let mut is_key = false;
    if let Ok(public) = VerifyingKey::from_pem(text) {
        check_public(&public);
        let trusted = TrustedKey::from_pem(text).unwrap();
        assert!(trusted.prefixes().is_empty() && trusted.key() == &public);
    }
    if let Ok(trusted) = TrustedKey::from_pem(text) {
        check_public(trusted.key());
        assert!(text.contains("-----BEGIN "));
        assert_eq!(
            trusted.prefixes().is_empty(),
            VerifyingKey::from_pem(text).is_ok()
        );
        for prefix in trusted.prefixes() {
            assert!(!prefix.is_empty() && prefix.len() <= 255 && text.contains(prefix.as_str()));
            assert!(!prefix.chars().any(char::is_control));
        }
        check_names(&trusted);
        is_key = true;
    }
    if let Ok(signer) = SigningKey::from_pem(text) {
        check_private(&signer);
        assert!(VerifyingKey::from_pem(text).is_err());
        // Not encrypted: the passphrase is not looked at.
        assert!(SigningKey::from_encrypted_pem(text, b"other").is_ok());
        is_key = true;
    } else if !is_text_slow(text)
        && let Ok(signer) = SigningKey::from_encrypted_pem(text, PASSPHRASE)
    {
        check_private(&signer);
        assert!(SigningKey::from_encrypted_pem(text, b"other").is_err());
        is_key = true;
    }
    if let Ok(key) = ContentKey::from_hex(text) {
        assert!(key.to_hex().eq_ignore_ascii_case(text.trim_ascii()));
        is_key = true;
    }
    is_key
}

fn check_public(public: &VerifyingKey) {
    let pem = public.to_pem().unwrap();
    let again = VerifyingKey::from_pem(&pem).unwrap();
    assert!(again == *public && again.id() == public.id());
    assert!(matches!(public.bits(), 256 | 3072 | 4096));
    // A header that names this key and has no signature of it.
    let owner = SigningKey::generate().unwrap();
    let forged = header(&owner, "x");
    assert!(Context::new(&forged, &Trust::new(vec![public.clone()], true), &[]).is_err());
}

fn check_private(signer: &SigningKey) {
    let again = SigningKey::from_pem(&signer.to_pem().unwrap()).unwrap();
    assert_eq!(again.verifying_key(), signer.verifying_key());
    check_public(&signer.verifying_key());
    // What it signs is verified with its public half, and with nothing else.
    let signed = header(signer, "golden");
    let trust = |key: &VerifyingKey| Trust::new(vec![key.clone()], false);
    let context = Context::new(&signed, &trust(&signer.verifying_key()), &[]);
    assert!(context.unwrap().is_verified());
    let other = SigningKey::generate().unwrap().verifying_key();
    assert!(Context::new(&signed, &trust(&other), &[]).is_err());
}

/// The names that a key file allows, tried with another key behind the same prefixes.
fn check_names(trusted: &TrustedKey) {
    let signer = SigningKey::generate().unwrap();
    let lines: String = trusted
        .prefixes()
        .iter()
        .map(|prefix| format!("images: {prefix}\n"))
        .collect();
    let file = lines + &signer.verifying_key().to_pem().unwrap();
    let restricted = TrustedKey::from_pem(&file).unwrap();
    assert_eq!(restricted.prefixes(), trusted.prefixes());
    let trust = Trust::of(vec![restricted], false);
    let outside = "\u{10fffd}";
    for (name, allowed) in trusted
        .prefixes()
        .iter()
        .map(|prefix| (prefix.as_str(), true))
        .chain([(outside, trusted.prefixes().is_empty())])
    {
        if name == outside && trusted.prefixes().iter().any(|prefix| prefix == outside) {
            continue;
        }
        let context = Context::new(&header(&signer, name), &trust, &[]);
        assert_eq!(context.is_ok(), allowed, "{name:?}");
    }
}

fn header(signer: &SigningKey, name: &str) -> Vec<u8> {
    ImageHeader::new(name.into(), 1, 512, 8, None, Some(signer))
        .and_then(|header| header.to_bytes(Some(signer)))
        .unwrap()
}
