//! Recipients: public keys that a file key is wrapped for.

use std::fmt;
use std::str::FromStr;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use zeroize::Zeroizing;

use crate::crypto::{FileKey, Secret, hkdf, random, x25519, x25519_public};
use crate::header::{Stanza, encode};
use crate::{Error, ssh};

pub(crate) const X25519: &str = "X25519";
const HRP: &str = "age";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
const SSH_INFO: &[u8] = b"age-encryption.org/v1/ssh-ed25519";

/// Whom a content key is wrapped for.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(pub(crate) Key);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Key {
    X25519([u8; 32]),
    SshEd25519(ssh::PublicKey),
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

impl fmt::Display for Recipient {
    /// As it is read: `age1...`, or `ssh-ed25519 AAAA...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Key::X25519(point) => {
                let hrp = Hrp::parse(HRP).map_err(|_| fmt::Error)?;
                bech32::encode_lower_to_fmt::<Bech32, _>(f, hrp, point).map_err(|_| fmt::Error)
            }
            Key::SshEd25519(key) => f.write_str(&key.line()),
        }
    }
}

fn bad(detail: impl Into<String>) -> Error {
    Error::Recipient {
        detail: detail.into(),
    }
}

/// Text in Bech32 (BIP 173) of 32 bytes, with this part before the `1`.
pub(crate) fn bech32_key(text: &str, hrp: &str) -> Option<Secret> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    let expected = Hrp::parse(hrp).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    let mut bytes = checked.byte_iter();
    for (place, byte) in key.iter_mut().zip(&mut bytes) {
        *place = byte;
    }
    let padding_is_zero = checked
        .fe32_iter()
        .last()
        .is_some_and(|last| last.to_u8() & 0b1111 == 0);
    // 256 bits are 51 characters of 5 bits and one more with a single bit.
    let length = checked.fe32_iter().count();
    (checked.hrp() == expected && length == 52 && bytes.next().is_none() && padding_is_zero)
        .then_some(key)
}

impl FromStr for Recipient {
    type Err = Error;

    /// Reads `age1...` as age-keygen prints it, or a line of an OpenSSH public key file of the kind `ssh-ed25519`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut words = text.split_ascii_whitespace();
        match (words.next().unwrap_or_default(), words.next()) {
            (ssh::KIND, Some(key)) => match ssh::PublicKey::from_base64(key) {
                Ok(key) => Ok(Self(Key::SshEd25519(key))),
                Err(detail) => Err(bad(detail)),
            },
            (kind, _)
                if kind.starts_with("ssh-")
                    || kind.starts_with("ecdsa-")
                    || kind.starts_with("sk-") =>
            {
                Err(bad(format!(
                    "{kind} keys cannot be used, only {}",
                    ssh::KIND
                )))
            }
            (word, None) if word.starts_with("age1") => {
                let key = bech32_key(word, HRP).ok_or_else(|| {
                    bad("the text after age1 is mistyped, or of another kind of recipient")
                })?;
                // What gives zero for one scalar gives it for all.
                x25519(&[1; 32], &key).map_err(|_| bad("the point has low order"))?;
                Ok(Self(Key::X25519(*key)))
            }
            (word, _) if word.starts_with("AGE-SECRET-KEY-") => Err(bad(
                "this is the secret identity: its recipient is printed by age-keygen -y",
            )),
            _ => Err(bad("neither age1... nor ssh-ed25519 AAAA...")),
        }
    }
}

impl Recipient {
    /// Reads a recipients file: one recipient a line, empty lines and comments (`#`) between them.
    ///
    /// # Errors
    /// [`Error::Recipient`] with the line, [`Error::NoRecipients`]
    pub fn read_file(text: &str) -> Result<Vec<Self>, Error> {
        let mut recipients = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            recipients.push(line.parse().map_err(|error| match error {
                Error::Recipient { detail } => bad(format!("line {number}: {detail}")),
                other => other,
            })?);
        }
        match recipients.is_empty() {
            true => Err(Error::NoRecipients),
            false => Ok(recipients),
        }
    }

    pub(crate) fn wrap(&self, file_key: &FileKey) -> Result<Stanza, Error> {
        let mut scalar = Zeroizing::new([0; 32]);
        random(&mut *scalar)?;
        let share = x25519_public(&scalar);
        let wrapping_key = match &self.0 {
            Key::X25519(point) => x25519_key(&*x25519(&scalar, point)?, &share, point)?,
            Key::SshEd25519(key) => ssh_key(&*x25519(&scalar, &key.montgomery)?, &share, key)?,
        };
        let body = file_key.wrap(&wrapping_key)?;
        let share = encode(&share);
        Ok(match &self.0 {
            Key::X25519(_) => Stanza::new(X25519, &[&share], &body),
            Key::SshEd25519(key) => Stanza::new(ssh::KIND, &[&encode(&key.tag()), &share], &body),
        })
    }
}

/// The key that seals the file key in an X25519 stanza.
pub(crate) fn x25519_key(
    shared: &[u8; 32],
    share: &[u8; 32],
    point: &[u8; 32],
) -> Result<Secret, Error> {
    hkdf(shared, &[*share, *point].concat(), X25519_INFO)
}

/// The key that seals the file key in an ssh-ed25519 stanza. A tweak binds it to the SSH key.
pub(crate) fn ssh_key(
    shared: &[u8; 32],
    share: &[u8; 32],
    key: &ssh::PublicKey,
) -> Result<Secret, Error> {
    let tweak = hkdf(b"", &key.wire, SSH_INFO)?;
    let shared = x25519(&tweak, shared)?;
    hkdf(&*shared, &[*share, key.montgomery].concat(), SSH_INFO)
}
