//! The text of a key file: lines of its own, then one PEM block (RFC 7468).

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::bad;
use crate::{Error, NAME_MAX};

/// What begins a line that restricts a public key to images whose names begin with what follows.
const IMAGES: &str = "images:";

/// A key file, read as far as its text goes.
pub(super) struct KeyText<'a> {
    /// What the `images:` lines allow; empty if there are none.
    pub(super) prefixes: Vec<String>,
    /// What the `BEGIN` line names.
    pub(super) label: &'a str,
    /// What is between `BEGIN` and `END`.
    pub(super) der: Zeroizing<Vec<u8>>,
}

/// Reads the text of a key file. Before the `BEGIN` line there may be empty lines, comments (`#`) and `images:` lines;
/// any other text is refused, so that a slip of the pen does not lift a restriction.
///
/// # Errors
/// [`Error::BadKey`] with `expected` as what it is not.
pub(super) fn parse<'a>(text: &'a str, expected: &'static str) -> Result<KeyText<'a>, Error> {
    let mut lines = (1_usize..).zip(text.lines().map(str::trim));
    let mut prefixes = Vec::new();
    let label = loop {
        let Some((number, line)) = lines.next() else {
            return Err(bad(expected, without_begin(text)));
        };
        if let Some(label) = boundary(line, "BEGIN") {
            break label;
        } else if let Some(prefix) = line.strip_prefix(IMAGES) {
            prefixes.push(name_prefix(prefix.trim(), number, expected)?);
        } else if !line.is_empty() && !line.starts_with('#') {
            let detail = match text.contains("-----BEGIN ") {
                true => format!(
                    "line {number}, before the key, is not a comment (# ...) and not 'images: PREFIX'"
                ),
                false => without_begin(text).into(),
            };
            return Err(bad(expected, detail));
        }
    };
    let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
    loop {
        let Some((_, line)) = lines.next() else {
            let detail = format!("cut short: the line -----END {label}----- is missing");
            return Err(bad(expected, detail));
        };
        if boundary(line, "END") == Some(label) {
            break;
        }
        if line.starts_with("Proc-Type:") {
            let detail = "it is encrypted in the old way (Proc-Type: 4,ENCRYPTED), which is weak: convert it with \
                          openssl pkcs8 -topk8 -in OLD -out NEW";
            return Err(bad(expected, detail));
        }
        base64.push_str(line);
    }
    if let Some((number, _)) = lines.find(|(_, line)| !line.is_empty()) {
        let detail = format!("line {number}, after the key, is not empty: one key in a file");
        return Err(bad(expected, detail));
    }
    let mut der = Zeroizing::new(vec![0; base64.len()]);
    let used = Base64::decode(base64.as_bytes(), &mut der)
        .map(<[u8]>::len)
        .map_err(|_| bad(expected, "damaged: the text of the key is not base64"))?;
    der.truncate(used);
    Ok(KeyText {
        prefixes,
        label,
        der,
    })
}

/// The label of a line such as `-----BEGIN PRIVATE KEY-----`.
fn boundary<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.strip_prefix("-----")?
        .strip_prefix(word)?
        .strip_prefix(' ')?
        .strip_suffix("-----")
}

fn name_prefix(prefix: &str, line: usize, expected: &'static str) -> Result<String, Error> {
    if prefix.is_empty() {
        let detail = format!("line {line}: images: needs what the names of the images begin with");
        return Err(bad(expected, detail));
    }
    if prefix.len() > NAME_MAX || prefix.chars().any(char::is_control) {
        let detail = format!("line {line}: no image has a name that begins so");
        return Err(bad(expected, detail));
    }
    Ok(prefix.to_owned())
}

/// What a file without PEM seems to be.
fn without_begin(text: &str) -> &'static str {
    let text = text.trim_ascii();
    let words = |start: &str| text.lines().any(|line| line.starts_with(start));
    if text.is_empty() {
        "the file is empty"
    } else if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "it is a content key, for --key"
    } else if words("ssh-") || words("ecdsa-") {
        "it is an OpenSSH public key"
    } else if words("AGE-SECRET-KEY-") || words("age1") {
        "it is an age key, which opens content keys and does not sign"
    } else {
        "it is not PEM text, which begins with a line -----BEGIN ...-----"
    }
}

/// What a PEM block is that cannot be used.
pub(super) fn describe_label(label: &str) -> String {
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => "it is a public key: name the private one".into(),
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
            "it is a private key: its public key is printed by imagekey public".into()
        }
        "OPENSSH PRIVATE KEY" => {
            "it is an OpenSSH key: make an owner's key with imagekey sign".into()
        }
        "EC PRIVATE KEY" | "EC PARAMETERS" | "DSA PRIVATE KEY" => WRONG_KIND.into(),
        "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => {
            "it is a certificate: its public key is printed by openssl x509 -pubkey -noout".into()
        }
        "CERTIFICATE REQUEST" => "it is a certificate request".into(),
        _ => format!("it holds {label:?}"),
    }
}

/// For keys of algorithms that do not sign images.
pub(super) const WRONG_KIND: &str = "it is neither Ed25519 nor RSA";

/// What a key with the algorithm of this object identifier is.
pub(super) fn describe_algorithm(oid: pkcs8::ObjectIdentifier) -> String {
    let name = match oid.to_string().as_str() {
        "1.2.840.10045.2.1" => "an elliptic-curve (EC) key",
        "1.2.840.10040.4.1" => "a DSA key",
        "1.2.840.113549.1.1.10" => {
            return "it is an RSA key for PSS only (id-RSASSA-PSS): make a plain RSA key, which signs with PSS here too"
                .into();
        }
        "1.3.101.110" => "an X25519 key, which does not sign",
        "1.3.101.111" => "an X448 key, which does not sign",
        "1.3.101.113" => "an Ed448 key",
        other => return format!("{WRONG_KIND} (algorithm {other})"),
    };
    format!("it is {name}: images are signed with Ed25519 or RSA")
}
