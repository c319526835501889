//! Which images are accepted, and the keys to open them: the options that all tools share that read images.

use std::path::PathBuf;

use agekey::Identity;
use chunkfmt::{ChunkFormat, ContentKey, Context, Error, ImageHeader, ManifestHead, Suite, Trust};
use clap::{Args, ValueEnum};
use ndz::ImageId;
use uuid::Uuid;

use crate::{Exit, Failure, keys};

/// Suites on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SuiteName {
    /// Zstandard, AES-256-GCM or ChaCha20-Poly1305, Ed25519
    Modern,
    /// zlib, Blowfish-CBC with HMAC-SHA-256, RSA-PSS
    Classic,
}

impl From<SuiteName> for Suite {
    fn from(name: SuiteName) -> Self {
        match name {
            SuiteName::Modern => Self::Modern,
            SuiteName::Classic => Self::Classic,
        }
    }
}

/// Whose images are accepted.
#[derive(Args, Clone, Debug, Default)]
pub struct TrustOptions {
    /// Public key of an owner whose images are accepted; may be repeated [default: all of /etc/frisbee/trust.d/*.pub]
    #[arg(short, long, value_name = "FILE")]
    pub trust: Vec<PathBuf>,
    /// Accept an unsigned image: anybody may have made it
    #[arg(long)]
    pub allow_unsigned: bool,
}

impl TrustOptions {
    /// Reads the key files.
    ///
    /// # Errors
    /// If a key cannot be read, or nobody is trusted.
    pub fn load(&self) -> Result<Trust, Failure> {
        keys::load_trust(&self.trust, self.allow_unsigned)
    }
}

/// The keys of encrypted images.
#[derive(Args, Clone, Debug, Default)]
pub struct KeyOptions {
    /// Content key of an encrypted image; may be repeated, the right one is found
    #[arg(short, long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Identity that opens the content key wrapped in the image: a file of age-keygen or an ed25519 key of ssh; may be
    /// repeated
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
}

impl KeyOptions {
    /// The files that hold the keys.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.key.iter().chain(&self.identity)
    }

    /// Reads the key files.
    ///
    /// # Errors
    /// If a key cannot be read.
    pub fn load(&self) -> Result<Keys, Failure> {
        let load = |path: &PathBuf| keys::load_content_key(path);
        let mut identities = Vec::new();
        for path in &self.identity {
            identities.extend(keys::load_identities(path)?);
        }
        Ok(Keys {
            content: self.key.iter().map(load).collect::<Result<_, _>>()?,
            identities,
        })
    }
}

/// What is asked of an Emulab image.
#[derive(Args, Clone, Debug, Default)]
pub struct LegacyKeyOptions {
    /// Emulab image: key that all of its chunks must be signed with (RSA of 512 bits: no protection against an
    /// attacker with some patience)
    #[arg(long, value_name = "FILE.skey")]
    pub legacy_key: Option<PathBuf>,
    /// Emulab image: the id that it must have
    #[arg(long, value_name = "HEX")]
    pub image_id: Option<ImageId>,
}

impl LegacyKeyOptions {
    /// Reads the signature key, and takes the content keys as those of Emulab images, whose files are the same.
    ///
    /// # Errors
    /// If a key cannot be read.
    pub fn load(&self, keys: &Keys) -> Result<LegacyKeys, Failure> {
        let content = |key: &ContentKey| ndz::ContentKey::parse(key.to_hex().as_bytes());
        let signer = self.legacy_key.as_deref().map(keys::load_legacy_key);
        Ok(LegacyKeys {
            content: keys.content.iter().map(content).collect::<Result<_, _>>()?,
            signer: signer.transpose()?,
            image_id: self.image_id,
        })
    }
}

/// Whether Emulab images are accepted.
#[derive(Args, Clone, Debug, Default)]
pub struct LegacyOptions {
    /// Accept an Emulab image (ndz), whose protection is weak: with --allow-unsigned, or --legacy-key
    #[arg(long)]
    pub allow_legacy: bool,
    /// What is asked of it.
    #[command(flatten)]
    pub keys: LegacyKeyOptions,
}

impl LegacyOptions {
    /// Checks that an Emulab image is accepted at all.
    ///
    /// # Errors
    /// [`Exit::Verification`] if not.
    pub fn accept(&self, trust: &TrustOptions) -> Result<(), Failure> {
        if !self.allow_legacy {
            return Err(Error::Legacy.into());
        }
        if trust.allow_unsigned || self.demands_signature() {
            return Ok(());
        }
        let message = "the image is an Emulab image without an owner's signature: name the key that its chunks are \
                       signed with by --legacy-key, or install it unchecked with --allow-unsigned";
        Err(Failure::new(Exit::Verification, message))
    }

    /// Whether an Emulab image is accepted for the signatures of its chunks.
    pub fn demands_signature(&self) -> bool {
        self.allow_legacy && self.keys.legacy_key.is_some()
    }

    /// Reads the keys of trusted owners, of which there may be none if an Emulab image is accepted without.
    ///
    /// # Errors
    /// As [`TrustOptions::load`].
    pub fn load_trust(&self, trust: &TrustOptions) -> Result<Trust, Failure> {
        match trust.load() {
            // Nobody is trusted.
            Err(failure) if failure.exit == Exit::Usage && self.demands_signature() => {
                Ok(Trust::default())
            }
            other => other,
        }
    }
}

/// The keys of an Emulab image, and which one is meant.
#[derive(Debug, Default)]
pub struct LegacyKeys {
    /// Content keys: the right one is found. With any, the image must be encrypted.
    pub content: Vec<ndz::ContentKey>,
    /// Who must have signed all chunks.
    pub signer: Option<ndz::PublicKey>,
    /// The id that all chunks must have.
    pub image_id: Option<ImageId>,
}

/// Content keys, and what opens the wrapped ones.
#[derive(Default)]
pub struct Keys {
    /// Content keys from files.
    pub content: Vec<ContentKey>,
    /// What opens content keys that are wrapped in images.
    pub identities: Vec<Identity>,
}

impl Keys {
    /// Verifies the image header that `bytes` begin with, and finds the image's key.
    ///
    /// # Errors
    /// What is wrong with the header, its owner or the wrapped keys; that there is no key, or not the right one.
    pub fn context(&self, bytes: &[u8], trust: &Trust) -> Result<Context, Failure> {
        Ok(Context::new(bytes, trust, &self.for_image(bytes, trust)?)?)
    }

    /// As [`Keys::context`], but a missing key is no error: signatures can be checked, chunks not opened.
    ///
    /// # Errors
    /// As [`Keys::context`], except for a missing key.
    pub fn context_without_key(&self, bytes: &[u8], trust: &Trust) -> Result<Context, Failure> {
        let keys = self.for_image(bytes, trust)?;
        Ok(Context::without_key(bytes, trust, &keys)?)
    }

    /// The content keys for an image, its wrapped one among them. No stranger's header reaches the identities: its
    /// signature is checked first.
    fn for_image(&self, bytes: &[u8], trust: &Trust) -> Result<Vec<ContentKey>, Failure> {
        let mut found = self.content.clone();
        if self.identities.is_empty() {
            return Ok(found);
        }
        let context = Context::without_key(bytes, trust, &[])?;
        let wrapped = context.header().wrapped_keys();
        if wrapped.is_empty() {
            return Ok(found);
        }
        match agekey::unwrap(wrapped, &self.identities) {
            Ok(text) => found.push(ContentKey::from_hex(&text)?),
            Err(agekey::Error::NotForUs { .. }) if !found.is_empty() => {}
            Err(error) => {
                let message = format!("the wrapped content key: {error}");
                return Err(Failure::new(Exit::Verification, message));
            }
        }
        Ok(found)
    }
}

/// Which of the owner's images is meant.
#[derive(Args, Clone, Debug, Default)]
pub struct Wanted {
    /// Accept only the image with this UUID
    #[arg(long)]
    pub uuid: Option<Uuid>,
    /// Accept no image older than this epoch: an old one that somebody repeats is refused
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub min_epoch: u64,
    /// Accept only images made with this suite of algorithms [default: the one that the image's owner signed for]
    #[arg(long, value_enum)]
    pub suite: Option<SuiteName>,
}

impl Wanted {
    /// Checks that nothing is asked for that an image without UUID, epoch and suite cannot have.
    ///
    /// # Errors
    /// [`Exit::Usage`]
    pub fn check_legacy_file(&self) -> Result<(), Failure> {
        if self.uuid.is_none() && self.min_epoch == 0 && self.suite.is_none() {
            return Ok(());
        }
        let message = "an Emulab image has no UUID, epoch or suite: ask for its id with --image-id";
        Err(Failure::new(Exit::Usage, message))
    }

    fn check_version(&self, uuid: Uuid, epoch: u64) -> Result<(), Error> {
        if let Some(wanted) = self.uuid.filter(|&wanted| wanted != uuid) {
            return Err(Error::NotWanted {
                field: "UUID",
                found: uuid.to_string(),
                wanted: wanted.to_string(),
            });
        }
        if epoch < self.min_epoch {
            return Err(Error::NotWanted {
                field: "epoch",
                found: epoch.to_string(),
                wanted: format!("{} or later", self.min_epoch),
            });
        }
        Ok(())
    }

    /// Checks what an announcement tells.
    ///
    /// # Errors
    /// [`Error::NotWanted`]
    pub fn check_head(&self, head: &ManifestHead) -> Result<(), Error> {
        self.check_version(head.uuid(), head.epoch())
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`Error::NotWanted`]
    pub fn check(&self, header: &ImageHeader) -> Result<(), Error> {
        self.check_version(header.uuid(), header.epoch())?;
        let (codec, cipher, signature) = (
            header.codec(),
            header.cipher(),
            header.signature_algorithm(),
        );
        match self.suite.map(Suite::from) {
            Some(suite) if header.chunk_format == ChunkFormat::Ndz => Err(Error::NotWanted {
                field: "algorithms",
                found: "those of an Emulab image".into(),
                wanted: format!("suite {}", suite.name()),
            }),
            Some(suite) if !suite.admits(codec, cipher, signature) => Err(Error::NotWanted {
                field: "algorithms",
                found: [codec.name(), cipher.name(), signature.name()].join(", "),
                wanted: format!("suite {}", suite.name()),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use chunkfmt::Codec;

    use super::*;

    #[test]
    fn only_what_is_wanted_is_accepted() {
        let header = ImageHeader::new("lab".into(), 7, 512, 8, None, None).unwrap();
        let wanted = |change: fn(&mut Wanted)| {
            let mut wanted = Wanted::default();
            change(&mut wanted);
            wanted
        };
        assert!(Wanted::default().check(&header).is_ok());
        assert!(wanted(|wanted| wanted.min_epoch = 7).check(&header).is_ok());
        let refused = [
            wanted(|wanted| wanted.min_epoch = 8),
            wanted(|wanted| wanted.uuid = Some(Uuid::nil())),
            wanted(|wanted| wanted.suite = Some(SuiteName::Classic)),
        ];
        for wanted in refused {
            let error = wanted.check(&header).unwrap_err();
            assert!(matches!(error, Error::NotWanted { .. }), "{error}");
        }
        let zlib = header.with_codec(Codec::Zlib);
        assert!(
            wanted(|wanted| wanted.suite = Some(SuiteName::Classic))
                .check(&zlib)
                .is_ok()
        );
        assert!(
            wanted(|wanted| wanted.suite = Some(SuiteName::Modern))
                .check(&zlib)
                .is_err()
        );
    }
}
