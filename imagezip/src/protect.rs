//! What protects a new image, and how it is packed: owner's key, content key and algorithms, from the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agekey::Recipient;
use chunkfmt::{
    Cipher, Codec, ContentKey, Error, ImageHeader, Sealer, SealingMemory, SignatureAlgorithm,
    SigningKey,
};
use clap::{Args, ValueEnum};
use frisbee_cli::policy::SuiteName;
use frisbee_cli::{Exit, Failure, keys, say};

/// Usual level of zlib, as Emulab's imagezip has it.
const ZLIB_LEVEL: i32 = 4;

/// Codecs on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CodecName {
    /// Zstandard
    Zstd,
    /// zlib
    Zlib,
    /// No compression
    None,
}

/// Ciphers on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CipherName {
    /// Fast where processors have AES instructions
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    /// Fast where they have none
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
    /// Blowfish with HMAC-SHA-256, for who must have it
    BlowfishCbc,
}

/// Options about signature, encryption and compression.
#[derive(Args, Debug)]
#[command(next_help_heading = "Protection and packing")]
pub(crate) struct Protection {
    /// Sign with this owner's private key
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with = "unsigned",
        required_unless_present_any = ["unsigned", "compare", "info"]
    )]
    sign: Option<PathBuf>,
    /// The passphrase of an encrypted private key is the first line of this file [default: ask]
    #[arg(long, value_name = "FILE", requires = "sign")]
    passphrase_file: Option<PathBuf>,
    /// Do not sign: anybody can change the image unnoticed
    #[arg(long)]
    unsigned: bool,
    /// Encrypt with this content key; if repeated, the first one encrypts and all open the images that are read
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with = "unencrypted",
        required_unless_present_any = ["unencrypted", "recipient", "compare", "info"]
    )]
    pub(crate) key: Vec<PathBuf>,
    /// Put the content key into the image, wrapped for this recipient: age1..., an ssh-ed25519 line, or a file of
    /// them; may be repeated. Without --key a new content key is made, which nobody else ever has
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "unencrypted")]
    recipient: Vec<String>,
    /// Do not encrypt: whoever has the image, or listens to its transmission, can read the disk
    #[arg(long)]
    unencrypted: bool,
    /// Algorithms that go together: modern is zstd, AES-256-GCM, Ed25519; classic is zlib, Blowfish-CBC, RSA
    #[arg(
        long,
        value_enum,
        default_value = "modern",
        hide_possible_values = true
    )]
    suite: SuiteName,
    /// Compression [default: the suite's]
    #[arg(long, value_enum)]
    codec: Option<CodecName>,
    /// Encryption [default: the suite's]
    #[arg(long, value_enum, conflicts_with = "unencrypted")]
    cipher: Option<CipherName>,
    /// Level of compression: zstd 1 (fast) to 19 (small), zlib 0 to 9 [default: 3, and 4 for zlib]
    #[arg(short, long)]
    level: Option<i32>,
    /// Leave out what proves parity blocks: servers then repair losses by sending the same blocks again
    #[arg(long)]
    no_parity: bool,
}

/// The keys and algorithms of a new image.
pub(crate) struct Protected {
    /// The owner's key.
    pub(crate) signer: Option<Arc<SigningKey>>,
    /// What encrypts the image.
    pub(crate) key: Option<ContentKey>,
    wrapped: Vec<u8>,
    cipher: Cipher,
    codec: Codec,
    level: i32,
    parity: bool,
}

impl Protection {
    /// Reads the other keys and checks that everything fits together.
    ///
    /// # Errors
    /// An unreadable key, a key of another kind than the suite's, a level that the codec does not have.
    pub(crate) fn load(&self, signer: Option<Arc<SigningKey>>) -> Result<Protected, Failure> {
        let (codec, level) = self.codec()?;
        if let (Some(path), Some(signer)) = (&self.sign, &signer) {
            self.check_signer(path, signer.algorithm())?;
        }
        let recipients = keys::load_recipients(&self.recipient)?;
        let key = match self.key.first() {
            Some(path) => Some(keys::load_content_key(path)?),
            None if self.recipient.is_empty() => None,
            None => {
                say(
                    "the content key is new and only in the image: nobody but its recipients can open it",
                );
                Some(ContentKey::generate()?)
            }
        };
        let wrapped = match &key {
            Some(key) if !recipients.is_empty() => wrap(key, &recipients)?,
            _ => Vec::new(),
        };
        let cipher = match (&key, self.cipher, self.suite) {
            (None, ..) => Cipher::None,
            (_, Some(CipherName::Aes256Gcm), _) | (_, None, SuiteName::Modern) => Cipher::Aes256Gcm,
            (_, Some(CipherName::ChaCha20Poly1305), _) => Cipher::ChaCha20Poly1305,
            (_, Some(CipherName::BlowfishCbc), _) | (_, None, SuiteName::Classic) => {
                Cipher::BlowfishCbc
            }
        };
        Ok(Protected {
            signer,
            key,
            wrapped,
            cipher,
            codec,
            level,
            parity: !self.no_parity,
        })
    }

    /// The owner's key, if one is named.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn load_signer(&self) -> Result<Option<Arc<SigningKey>>, Failure> {
        let Some(path) = &self.sign else {
            return Ok(None);
        };
        let passphrase_file = self.passphrase_file.as_deref();
        Ok(Some(Arc::new(keys::load_signing_key(
            path,
            passphrase_file,
        )?)))
    }

    fn codec(&self) -> Result<(Codec, i32), Failure> {
        let codec = match (self.codec, self.suite) {
            (Some(CodecName::Zstd), _) | (None, SuiteName::Modern) => Codec::Zstd,
            (Some(CodecName::Zlib), _) | (None, SuiteName::Classic) => Codec::Zlib,
            (Some(CodecName::None), _) => Codec::None,
        };
        let (levels, usual) = match codec {
            Codec::Zstd => (1..=19, 3),
            Codec::Zlib => (0..=9, ZLIB_LEVEL),
            Codec::None => (0..=0, 0),
        };
        let level = self.level.unwrap_or(usual);
        if !levels.contains(&level) {
            let message = format!(
                "--level {level}: {} has the levels {} to {}",
                match codec {
                    Codec::None => "no compression",
                    other => other.name(),
                },
                levels.start(),
                levels.end()
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok((codec, level))
    }

    /// Whether the user wants no protection at all, and has said so.
    pub(crate) fn is_none(&self) -> bool {
        self.unsigned && self.unencrypted && self.sign.is_none() && self.key.is_empty()
    }

    /// The level for an Emulab image, whose codec is zlib.
    ///
    /// # Errors
    /// A codec or level that it does not have.
    pub(crate) fn zlib_level(&self) -> Result<u32, Failure> {
        let level = self.level.unwrap_or(ZLIB_LEVEL);
        let level = u32::try_from(level).ok().filter(|level| *level <= 9);
        match (self.codec, level) {
            (None | Some(CodecName::Zlib), Some(level)) => Ok(level),
            _ => {
                let message = "Emulab images are compressed with zlib, levels 0 to 9";
                Err(Failure::new(Exit::Usage, message))
            }
        }
    }

    fn check_signer(&self, path: &Path, found: SignatureAlgorithm) -> Result<(), Failure> {
        let message = match (self.suite, found) {
            (SuiteName::Modern, SignatureAlgorithm::RsaPss) => {
                "is an RSA key, and the modern suite signs with Ed25519: say --suite classic, or make an Ed25519 key \
                 with imagekey sign"
            }
            (SuiteName::Classic, SignatureAlgorithm::Ed25519) => {
                "is an Ed25519 key, and the classic suite signs with RSA: leave out --suite classic, or make an RSA key \
                 with imagekey sign --rsa 3072"
            }
            _ => return Ok(()),
        };
        Err(Failure::new(Exit::Usage, message).context(path.display()))
    }

    /// The files that are read and must not be overwritten.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let one = self.sign.iter().chain(&self.passphrase_file);
        one.chain(&self.key)
            .map(PathBuf::as_path)
            .chain(self.recipient.iter().map(Path::new))
    }
}

fn wrap(key: &ContentKey, recipients: &[Recipient]) -> Result<Vec<u8>, Failure> {
    let mut text = key.to_hex();
    text.push('\n');
    agekey::wrap(&text, recipients).map_err(|error| Failure::new(Exit::Usage, error))
}

impl Protected {
    /// A header for an image that is protected so.
    ///
    /// # Errors
    /// A value that the format cannot hold.
    pub(crate) fn header(
        &self,
        name: String,
        epoch: u64,
        sector_size: u32,
        disk_sectors: u64,
    ) -> Result<ImageHeader, Error> {
        let signer = self.signer.as_deref();
        ImageHeader::new(
            name,
            epoch,
            sector_size,
            disk_sectors,
            self.key.as_ref(),
            signer,
        )?
        .with_codec(self.codec)
        .with_cipher(self.cipher)?
        .with_wrapped_keys(self.wrapped.clone())
    }

    /// Memory that sealing chunks of this size takes.
    pub(crate) fn memory(&self, chunk_size: u32) -> SealingMemory {
        SealingMemory::of(self.codec, self.level, chunk_size)
    }

    /// Begins an image with a header of [`Self::header`].
    ///
    /// # Errors
    /// If signing fails.
    pub(crate) fn sealer(&self, header: ImageHeader) -> Result<Sealer, Error> {
        let sealer = Sealer::new(header, self.key.as_ref(), self.signer.clone(), self.level)?;
        Ok(match self.parity {
            true => sealer,
            false => sealer.without_parity(),
        })
    }
}
