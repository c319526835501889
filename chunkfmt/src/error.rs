//! What can be wrong with an image, and of which kind that is.

use std::fmt;

use crate::KeyId;

/// A part of an image, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The image header.
    Header,
    /// The chunk with this index.
    Chunk(u32),
    /// The manifest.
    Manifest,
    /// The footer.
    Footer,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("image header"),
            Self::Chunk(index) => write!(f, "chunk {index}"),
            Self::Manifest => f.write_str("manifest"),
            Self::Footer => f.write_str("footer"),
        }
    }
}

/// What the user can do about an error, and so which exit code it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not an image, cut short, or written by something newer or broken.
    Input,
    /// The bytes are not what the owner signed, or the owner or key is not the expected one.
    Verification,
    /// The caller asked for something the format does not allow.
    Usage,
    /// Reading the image failed.
    Io,
}

/// Everything that can be wrong with an image or a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file begins with other bytes.
    #[error("not a frz image: it does not begin with the magic bytes FRZIMAGE")]
    NotAnImage,
    /// Written in a version that this program does not know.
    #[error(
        "{part}: format version {found}, this program reads version {}: use a newer program",
        crate::VERSION
    )]
    Version {
        /// Where.
        part: Part,
        /// The version found.
        found: u16,
    },
    /// The image ends early.
    #[error("{part}: cut short at byte {offset}: fetch the image again")]
    Truncated {
        /// What was being read.
        part: Part,
        /// Where the bytes ended.
        offset: u64,
    },
    /// There are bytes after the footer.
    #[error("more bytes follow the end of the image: this is not the file that was written")]
    Trailing,
    /// A field holds a value that it cannot have.
    #[error("{part}: {field} is not valid: the image is damaged")]
    Field {
        /// Where.
        part: Part,
        /// The field's name in the format document.
        field: &'static str,
    },
    /// No chunk begins here.
    #[error("no chunk or manifest at byte {offset}: the image is damaged")]
    Lost {
        /// Offset in the image.
        offset: u64,
    },
    /// The signature does not fit.
    #[error("{part}: the signature is wrong: the bytes are not what the owner signed")]
    BadSignature {
        /// Where.
        part: Part,
    },
    /// Signed by somebody else.
    #[error(
        "the image is signed by key {signer}, which is not trusted here: name its public key with --trust"
    )]
    UntrustedSigner {
        /// The signer that the image names.
        signer: KeyId,
    },
    /// Not signed at all.
    #[error(
        "the image is not signed: install it only if you made it yourself, with --allow-unsigned"
    )]
    Unsigned,
    /// This part belongs to another image or place.
    #[error("{part}: {field} is not that of this image: it was taken from elsewhere")]
    Foreign {
        /// Where.
        part: Part,
        /// The field that differs.
        field: &'static str,
    },
    /// The body is not the one that was signed.
    #[error("{part}: its bytes do not have the signed hash: fetch the image again")]
    Altered {
        /// Where.
        part: Part,
    },
    /// The image is encrypted and there is no key.
    #[error(
        "the image is encrypted: name its content key with --key, or what opens its wrapped key with --identity"
    )]
    KeyMissing,
    /// The content key is another image's.
    #[error("the content key is not the key of this image")]
    WrongKey,
    /// Decryption failed although key and signature are right.
    #[error("{part}: does not decrypt with the image's key")]
    Decrypt {
        /// Where.
        part: Part,
    },
    /// Decompression failed, or gave another length than was signed.
    #[error("{part}: does not decompress to its {expected} bytes")]
    Decompress {
        /// Where.
        part: Part,
        /// The signed length.
        expected: u32,
    },
    /// Compression failed.
    #[error("{part}: cannot be compressed: {source}")]
    Compress {
        /// Where.
        part: Part,
        /// The codec's words.
        source: std::io::Error,
    },
    /// Decompressed data that is not what was imaged.
    #[error("{part}: the decompressed data does not have the signed hash")]
    PlainHash {
        /// Where.
        part: Part,
    },
    /// The parity blocks that the chunk gives are not those that the manifest names.
    #[error(
        "{part}: its parity blocks do not have the signed root: the image was made by a faulty program"
    )]
    Parity {
        /// Which chunk.
        part: Part,
    },
    /// The manifest and the chunks disagree.
    #[error("{part} is not the one that the manifest names: the image was put together from parts")]
    NotInManifest {
        /// Which chunk.
        part: Part,
    },
    /// The chunks that came are not all that were signed.
    #[error(
        "the image has {found} chunks, its manifest {expected}: chunks are missing or were added"
    )]
    ChunkCount {
        /// Number in the manifest.
        expected: u32,
        /// Number found.
        found: u32,
    },
    /// A key file that is not one.
    #[error("not {expected}: {detail}")]
    BadKey {
        /// What should have been there.
        expected: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A private key file that needs its passphrase.
    #[error("the private key is encrypted: name the file of its passphrase with --passphrase-file")]
    PassphraseMissing,
    /// The passphrase does not decrypt the key file.
    #[error("the passphrase is wrong, or the key file is damaged")]
    WrongPassphrase,
    /// The signer is trusted, but for images of other names only.
    #[error(
        "the image is named {name:?}, and key {signer} is trusted for other names only (the images: lines of its public key file)"
    )]
    NotForThisName {
        /// The signer that the image names.
        signer: KeyId,
        /// The name of the image.
        name: String,
    },
    /// Signing failed.
    #[error(
        "the private key cannot sign: its numbers do not fit together, the key file is damaged"
    )]
    Signing,
    /// A delta without what it is relative to.
    #[error(
        "the image is a delta to image {uuid} (epoch {epoch}): name that image with --base (--base-group over the network), or install on a disk that holds it"
    )]
    BaseMissing {
        /// UUID of the base.
        uuid: uuid::Uuid,
        /// Epoch of the base.
        epoch: u64,
    },
    /// Another image than the one that a delta is relative to.
    #[error(
        "not the base of this delta: its {field} is another (the delta names image {uuid}, epoch {epoch})"
    )]
    WrongBase {
        /// The field that differs.
        field: &'static str,
        /// UUID of the base.
        uuid: uuid::Uuid,
        /// Epoch of the base.
        epoch: u64,
    },
    /// The image is genuine, but not what was asked for.
    #[error("the image has {field} {found}, but {wanted} is asked for")]
    NotWanted {
        /// What differs.
        field: &'static str,
        /// What the image has.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// Chunks of Emulab where those of this format are needed.
    #[error(
        "the chunks are those of an Emulab image: accept its weak protection with --allow-legacy"
    )]
    Legacy,
    /// A value that the format cannot hold.
    #[error("{field}: {detail}")]
    Limit {
        /// What.
        field: &'static str,
        /// Which limit.
        detail: String,
    },
    /// Reading failed.
    #[error("reading the image at byte {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAnImage
            | Self::Version { .. }
            | Self::Truncated { .. }
            | Self::Trailing
            | Self::Field { .. }
            | Self::Lost { .. }
            | Self::BadKey { .. }
            | Self::PassphraseMissing
            | Self::WrongPassphrase
            | Self::Signing => ErrorKind::Input,
            Self::BadSignature { .. }
            | Self::UntrustedSigner { .. }
            | Self::Unsigned
            | Self::NotForThisName { .. }
            | Self::BaseMissing { .. }
            | Self::WrongBase { .. }
            | Self::NotWanted { .. }
            | Self::Legacy
            | Self::Foreign { .. }
            | Self::Altered { .. }
            | Self::KeyMissing
            | Self::WrongKey
            | Self::Decrypt { .. }
            | Self::Decompress { .. }
            | Self::PlainHash { .. }
            | Self::Parity { .. }
            | Self::NotInManifest { .. }
            | Self::ChunkCount { .. } => ErrorKind::Verification,
            Self::Compress { .. } | Self::Limit { .. } => ErrorKind::Usage,
            Self::Io { .. } => ErrorKind::Io,
        }
    }
}
