//! ssh-ed25519 keys: the lines of public key files (RFC 4253 section 6.6, RFC 8709) and OpenSSH's private key files
//! (its PROTOCOL.key).

use base64ct::{Base64, Encoding};
use ed25519_dalek::{SigningKey, VerifyingKey};
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

pub(crate) const KIND: &str = "ssh-ed25519";

pub(crate) const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// A public key in three forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey {
    /// As SSH writes it: the kind, the point; each with its length.
    pub(crate) wire: Vec<u8>,
    /// As an X25519 public value.
    pub(crate) montgomery: [u8; 32],
}

impl PublicKey {
    fn new(point: &[u8; 32]) -> Result<Self, String> {
        let key = VerifyingKey::from_bytes(point).map_err(|_| "not a point of the curve")?;
        if key.is_weak() {
            return Err("the point has low order".into());
        }
        let mut wire = Vec::new();
        for part in [KIND.as_bytes(), point] {
            wire.extend(u32::try_from(part.len()).unwrap_or(0).to_be_bytes());
            wire.extend(part);
        }
        Ok(Self {
            wire,
            montgomery: key.to_montgomery().to_bytes(),
        })
    }

    /// Reads what follows the kind in a line of a public key file.
    pub(crate) fn from_base64(text: &str) -> Result<Self, String> {
        let wire = Base64::decode_vec(text).map_err(|_| "the key is not base64")?;
        let mut rest = wire.as_slice();
        if string(&mut rest) != Some(KIND.as_bytes()) {
            return Err(format!("the key is not a {KIND} key"));
        }
        match string(&mut rest).map(<[u8; 32]>::try_from) {
            Some(Ok(point)) if rest.is_empty() => Self::new(&point),
            _ => Err("the key has not 32 bytes".into()),
        }
    }

    /// The line of a public key file, without comment.
    pub(crate) fn line(&self) -> String {
        format!("{KIND} {}", Base64::encode_string(&self.wire))
    }

    /// What stanzas name the key by: the first 4 bytes of SHA-256.
    pub(crate) fn tag(&self) -> [u8; 4] {
        let mut tag = [0; 4];
        tag.copy_from_slice(&digest(&SHA256, &self.wire).as_ref()[..4]);
        tag
    }
}

/// The text of an OpenSSH private key file: its key as an X25519 scalar, and its public key.
pub(crate) fn private_key(text: &str) -> Result<(Zeroizing<[u8; 32]>, PublicKey), String> {
    let body = text
        .trim_ascii()
        .strip_prefix(BEGIN)
        .and_then(|text| text.strip_suffix(END))
        .ok_or("an OpenSSH key file without its END line, or with text around it")?;
    let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
    base64.extend(body.split_ascii_whitespace());
    let mut bytes = Zeroizing::new(vec![0; base64.len()]);
    let used = Base64::decode(base64.as_bytes(), &mut bytes)
        .map_err(|_| "the text of the OpenSSH key is not base64")?
        .len();
    bytes.truncate(used);
    let mut rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("not an OpenSSH key of version 1")?;
    let damaged = || "the OpenSSH key is damaged".to_owned();
    let cipher = string(&mut rest).ok_or_else(damaged)?;
    let kdf = string(&mut rest).ok_or_else(damaged)?;
    let options = string(&mut rest).ok_or_else(damaged)?;
    if cipher != b"none" || kdf != b"none" || !options.is_empty() {
        return Err(
            "the OpenSSH key has a passphrase: make a copy without one (ssh-keygen -p), or use age-keygen".into(),
        );
    }
    if number(&mut rest) != Some(1) {
        return Err(damaged());
    }
    let public = string(&mut rest).ok_or_else(damaged)?;
    let mut secret = string(&mut rest).ok_or_else(damaged)?;
    if !rest.is_empty() {
        return Err(damaged());
    }
    let checks = (number(&mut secret), number(&mut secret));
    if checks.0.is_none() || checks.0 != checks.1 {
        return Err(damaged());
    }
    if string(&mut secret) != Some(KIND.as_bytes()) {
        return Err(format!("an OpenSSH key of another kind than {KIND}"));
    }
    let point = string(&mut secret).ok_or_else(damaged)?;
    let pair = string(&mut secret).ok_or_else(damaged)?;
    let _comment = string(&mut secret).ok_or_else(damaged)?;
    if !secret
        .iter()
        .zip(1_u8..)
        .all(|(&byte, count)| byte == count)
        || secret.len() >= 8
    {
        return Err(damaged());
    }
    let seed: &[u8; 32] = pair.first_chunk().ok_or_else(damaged)?;
    let key = SigningKey::from_bytes(seed);
    let public_key = PublicKey::new(&key.verifying_key().to_bytes())?;
    let consistent = pair.get(32..) == Some(key.verifying_key().as_bytes())
        && point == key.verifying_key().as_bytes()
        && public == public_key.wire;
    if !consistent {
        return Err(damaged());
    }
    Ok((Zeroizing::new(key.to_scalar_bytes()), public_key))
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, behind) = rest.split_first_chunk::<4>()?;
    *rest = behind;
    Some(u32::from_be_bytes(*bytes))
}

/// A string with its length before it (RFC 4251, section 5).
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}
