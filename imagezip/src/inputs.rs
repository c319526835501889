//! The images that are read: bases of deltas, an image to be made anew; whose they may be, and what opens them.

use std::path::{Path, PathBuf};

use chunkfmt::{Context, SigningKey, Trust};
use clap::Args;
use frisbee_cli::policy::{KeyOptions, Keys};
use frisbee_cli::{Failure, keys};

use crate::protect::Protection;

/// Options about the images that are read.
#[derive(Args, Debug)]
#[command(next_help_heading = "Deltas, and images made of images")]
pub(crate) struct Inputs {
    /// Make a delta: leave out the chunks that this image holds. If that is a delta too, repeat --base for the images
    /// below it, the newest last. With --from and a delta: what it is relative to
    #[arg(short, long, value_name = "IMAGE")]
    pub(crate) base: Vec<PathBuf>,
    /// Write nothing, only say how much of the disk differs from --base
    #[arg(long, requires = "base", conflicts_with_all = ["from", "image"])]
    pub(crate) compare: bool,
    /// Make the image of another image instead of a disk, with the keys and algorithms that are named now; `-` reads
    /// standard input. A delta becomes a full image
    #[arg(long, value_name = "IMAGE")]
    pub(crate) from: Option<PathBuf>,
    /// Leave a delta named with --from a delta to the same base
    #[arg(long, requires = "from", requires = "base")]
    pub(crate) keep_delta: bool,
    /// Public key of an owner whose images are read; may be repeated [default: the public half of --sign, else all of
    /// /etc/frisbee/trust.d/*.pub]
    #[arg(short, long, value_name = "FILE")]
    trust: Vec<PathBuf>,
    /// Read unsigned images: anybody may have made them
    #[arg(long)]
    allow_unsigned: bool,
    /// Content key of an image that is read, if it is not --key; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) from_key: Vec<PathBuf>,
    /// Read an Emulab image with --from, whose own protection is weak at best: make sure that it is the right one
    #[arg(long, requires = "from")]
    pub(crate) allow_legacy: bool,
    /// Read an Emulab image only if it is signed with this key (.skey)
    #[arg(long, value_name = "FILE", requires = "allow_legacy")]
    pub(crate) legacy_key: Option<PathBuf>,
    /// File of age or ssh-ed25519 identities that open images which hold their content key; may be repeated
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
}

/// Whose images are read, and what opens them.
pub(crate) struct Access {
    /// Whose images are accepted.
    pub(crate) trust: Trust,
    keys: Keys,
}

impl Inputs {
    /// Reads the key files.
    ///
    /// # Errors
    /// A key that cannot be read, or that nobody is trusted.
    pub(crate) fn load(
        &self,
        protection: &Protection,
        signer: Option<&SigningKey>,
    ) -> Result<Access, Failure> {
        let trust = match signer {
            Some(signer) if self.trust.is_empty() => {
                Trust::new(vec![signer.verifying_key()], self.allow_unsigned)
            }
            _ => keys::load_trust(&self.trust, self.allow_unsigned)?,
        };
        let key = protection.key.iter().chain(&self.from_key).cloned();
        let options = KeyOptions {
            key: key.collect(),
            identity: self.identity.clone(),
        };
        let keys = options.load()?;
        Ok(Access { trust, keys })
    }

    /// The files that are read and must not be overwritten.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let images = self.base.iter().chain(&self.from);
        let keys = self.trust.iter().chain(&self.from_key);
        images
            .chain(keys)
            .chain(&self.identity)
            .chain(&self.legacy_key)
            .map(PathBuf::as_path)
    }
}

impl Access {
    /// Checks the image header at the beginning of `bytes`, and finds the key of the image.
    ///
    /// # Errors
    /// What is wrong with the header, its owner, or the key.
    pub(crate) fn context(&self, bytes: &[u8]) -> Result<Context, Failure> {
        self.keys.context(bytes, &self.trust)
    }
}
