//! Whose images are accepted, and which of theirs.

use super::{KeyId, PUBLIC, VerifyingKey, pem};
use crate::{Error, SignatureAlgorithm};

/// An owner's public key, and the images that it is trusted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    key: VerifyingKey,
    prefixes: Vec<String>,
}

impl TrustedKey {
    /// Reads the text of a public key file as [`VerifyingKey::from_pem`] does. Before the `BEGIN` line there may be
    /// empty lines, comments (`#`), and lines `images: PREFIX`: with these, the key is trusted only for images whose
    /// name begins with one of the prefixes.
    ///
    /// # Errors
    /// [`Error::BadKey`], also for any other text outside the key.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let file = pem::parse(text, PUBLIC)?;
        Ok(Self {
            key: VerifyingKey::from_text(&file)?,
            prefixes: file.prefixes,
        })
    }

    /// The key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// What the names of its images begin with; empty if it is trusted for all images.
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    fn covers(&self, name: &str) -> bool {
        self.prefixes.is_empty()
            || self
                .prefixes
                .iter()
                .any(|prefix| name.starts_with(prefix.as_str()))
    }
}

impl From<VerifyingKey> for TrustedKey {
    /// Trusts the key for all images.
    fn from(key: VerifyingKey) -> Self {
        Self {
            key,
            prefixes: Vec::new(),
        }
    }
}

/// Whose images are accepted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    keys: Vec<TrustedKey>,
    allow_unsigned: bool,
}

impl Trust {
    /// Trusts these owners for all images. With `allow_unsigned` an unsigned image is accepted too, and so is a signed
    /// one when no key is given to check it by: who lets the signature be absent gains nothing from its presence.
    pub fn new(keys: Vec<VerifyingKey>, allow_unsigned: bool) -> Self {
        Self::of(
            keys.into_iter().map(TrustedKey::from).collect(),
            allow_unsigned,
        )
    }

    /// As [`Self::new`], each owner for the images that their key file names.
    pub fn of(keys: Vec<TrustedKey>, allow_unsigned: bool) -> Self {
        Self {
            keys,
            allow_unsigned,
        }
    }

    /// The key to check an image by that names this algorithm and signer; `None` if it is accepted unchecked.
    ///
    /// # Errors
    /// [`Error::Unsigned`], [`Error::UntrustedSigner`]
    pub(crate) fn choose(
        &self,
        algorithm: SignatureAlgorithm,
        signer: KeyId,
    ) -> Result<Option<VerifyingKey>, Error> {
        if algorithm == SignatureAlgorithm::None {
            return match self.allow_unsigned {
                true => Ok(None),
                false => Err(Error::Unsigned),
            };
        }
        let known = self.keys.iter().find(|trusted| trusted.key.id() == signer);
        match known {
            Some(trusted) if trusted.key.algorithm() == algorithm => Ok(Some(trusted.key.clone())),
            None if self.keys.is_empty() && self.allow_unsigned => Ok(None),
            _ => Err(Error::UntrustedSigner { signer }),
        }
    }

    /// Checks that this signer, one that [`Self::choose`] has accepted, is trusted for an image of this name. A signer
    /// with several key files is trusted for what any of them names.
    ///
    /// # Errors
    /// [`Error::NotForThisName`]
    pub(crate) fn check_name(&self, signer: KeyId, name: &str) -> Result<(), Error> {
        let mut files = self
            .keys
            .iter()
            .filter(|trusted| trusted.key.id() == signer)
            .peekable();
        // Unknown: unsigned, or there are no keys; then the choice was to accept anything.
        if files.peek().is_none() || files.any(|trusted| trusted.covers(name)) {
            return Ok(());
        }
        Err(Error::NotForThisName {
            signer,
            name: name.to_owned(),
        })
    }
}
