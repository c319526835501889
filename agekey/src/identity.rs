//! Identities: the private keys that open what was wrapped for their recipients.

use std::fmt;

use crate::crypto::{FileKey, Secret, WRAPPED_SIZE, x25519, x25519_public};
use crate::header::{Stanza, decode};
use crate::recipient::{Key, X25519, bech32_key, ssh_key, x25519_key};
use crate::{Error, Recipient, ssh};

const HRP: &str = "AGE-SECRET-KEY-";

/// Most identities that are read from one file: each is tried on each stanza.
const IDENTITIES_MAX: usize = 64;

/// A recipient's private key. Wiped from memory when dropped, never printed.
pub struct Identity {
    scalar: Secret,
    recipient: Recipient,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(.. of {})", self.recipient)
    }
}

fn bad(detail: impl Into<String>) -> Error {
    Error::Identity {
        detail: detail.into(),
    }
}

impl Identity {
    /// Reads an identity file: lines `AGE-SECRET-KEY-1...` as age-keygen writes them, with empty lines and comments
    /// (`#`) between them, or an OpenSSH private key file of the kind ssh-ed25519 that has no passphrase.
    ///
    /// # Errors
    /// [`Error::Identity`]
    pub fn read_file(text: &str) -> Result<Vec<Self>, Error> {
        if text.trim_ascii_start().starts_with(ssh::BEGIN) {
            let (scalar, key) = ssh::private_key(text).map_err(bad)?;
            return Ok(vec![Self {
                scalar,
                recipient: Recipient(Key::SshEd25519(key)),
            }]);
        }
        let mut identities = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with(HRP) {
                return Err(bad(format!("line {number}: {}", describe(line))));
            }
            let scalar = bech32_key(line, HRP)
                .ok_or_else(|| bad(format!("line {number}: the secret key is mistyped")))?;
            let recipient = Recipient(Key::X25519(x25519_public(&scalar)));
            identities.push(Self { scalar, recipient });
        }
        match identities.len() {
            0 => Err(bad("the file holds none")),
            1..=IDENTITIES_MAX => Ok(identities),
            _ => Err(bad(format!("more than {IDENTITIES_MAX} in one file"))),
        }
    }

    /// Whom to wrap for, so that this identity opens it.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// The file key, if the stanza was made for this identity.
    ///
    /// # Errors
    /// [`Error::Format`] for a public value of low order.
    pub(crate) fn unwrap(&self, stanza: &Stanza) -> Result<Option<FileKey>, Error> {
        let Some(body) = stanza.body.first_chunk::<WRAPPED_SIZE>() else {
            return Ok(None);
        };
        let wrapping_key = match (&self.recipient.0, stanza.arguments.as_slice()) {
            (Key::X25519(point), [kind, share]) if kind == X25519 => {
                let share = decode(share)?;
                x25519_key(&*x25519(&self.scalar, &share)?, &share, point)?
            }
            (Key::SshEd25519(key), [kind, tag, share])
                if kind == ssh::KIND && decode(tag)? == key.tag() =>
            {
                let share = decode(share)?;
                ssh_key(&*x25519(&self.scalar, &share)?, &share, key)?
            }
            _ => return Ok(None),
        };
        FileKey::unwrap(&wrapping_key, body)
    }
}

/// What a line is that is no secret key.
fn describe(line: &str) -> &'static str {
    if line.starts_with("age1") {
        "this is a recipient: the identity is the line AGE-SECRET-KEY-1..."
    } else if line.starts_with("AGE-PLUGIN-") {
        "identities of age plugins cannot be used"
    } else if line.starts_with("-----BEGIN ") {
        "only OpenSSH's own key files can be used of those that begin with -----BEGIN"
    } else if line.starts_with("age-encryption.org/") {
        "the identity file is itself encrypted: decrypt it first, with age -d"
    } else {
        "neither AGE-SECRET-KEY-1... nor an OpenSSH private key"
    }
}
