//! What can be wrong with an Emulab image, its keys and its signature file, and of which kind that is.

use std::io;

use chunkfmt::relocation::RelocationError;

use crate::ImageId;

/// What the user can do about an error, and so which exit code it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not an image, cut short, damaged, or of a version that cannot be read.
    Input,
    /// The bytes are not what was signed, or the key or image is not the expected one.
    Verification,
    /// The caller asked for something that the format does not allow.
    Usage,
    /// Reading or writing failed.
    Io,
}

/// Everything that can be wrong. `chunk` is the chunk's position in the image, from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is not a single chunk.
    #[error("the image is empty: not one chunk of 1 MiB")]
    Empty,
    /// The file ends inside a chunk.
    #[error("chunk {chunk}: cut short after {bytes} of 1048576 bytes: fetch the image again")]
    Truncated {
        /// Where.
        chunk: u32,
        /// Bytes that are there.
        bytes: usize,
    },
    /// The chunk begins with other bytes.
    #[error("chunk {chunk}: not an Emulab image: it begins with {magic:#010x}")]
    Magic {
        /// Where.
        chunk: u32,
        /// What is there, as a little-endian number.
        magic: u32,
    },
    /// Written on a big-endian machine.
    #[error(
        "chunk {chunk}: an Emulab image in big-endian byte order, which this program does not read"
    )]
    BigEndian {
        /// Where.
        chunk: u32,
    },
    /// The never finished version 6.
    #[error(
        "chunk {chunk}: an Emulab image of version 6, a draft that was never finished: make it again as version 5"
    )]
    Version6 {
        /// Where.
        chunk: u32,
    },
    /// A header field holds a value that it cannot have.
    #[error("chunk {chunk}: {field} is {found}, {rule}: the image is damaged")]
    Field {
        /// Where.
        chunk: u32,
        /// The field's name in the format document.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it would have to be.
        rule: &'static str,
    },
    /// An entry of the region list is impossible.
    #[error("chunk {chunk}: region {region} {fault}: the image is damaged")]
    Region {
        /// Where.
        chunk: u32,
        /// The entry, from 0.
        region: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A relocation is impossible or cannot be done.
    #[error("chunk {chunk}: {fault}")]
    Relocation {
        /// Where.
        chunk: u32,
        /// What is wrong.
        #[source]
        fault: RelocationError,
    },
    /// The chunk does not follow the one before.
    #[error(
        "chunk {chunk}: {what} is not the same as in the chunk before: it belongs to another image"
    )]
    Foreign {
        /// Where.
        chunk: u32,
        /// What differs.
        what: &'static str,
    },
    /// Sectors are missing or there twice between two chunks.
    #[error(
        "chunk {chunk}: it begins at sector {found} instead of {expected}: chunks are missing, doubled or in another order"
    )]
    Gap {
        /// Where.
        chunk: u32,
        /// First sector that the chunk accounts for.
        found: u64,
        /// Where the one before ended.
        expected: u64,
    },
    /// A chunk follows the one with the image's short last sector.
    #[error("chunk {chunk}: data follow the end of the image")]
    AfterEnd {
        /// Where.
        chunk: u32,
    },
    /// The header tells another number of chunks than there are.
    #[error("the image has {found} chunks, its header says {expected}: fetch the image again")]
    Count {
        /// Chunks that are there.
        found: u32,
        /// Chunks that should be there.
        expected: u32,
    },
    /// Not the image that was asked for.
    #[error("chunk {chunk}: the image id is {}, not {expected}", .found.map_or_else(|| "missing".to_owned(), |id| id.to_string()))]
    ImageId {
        /// Where.
        chunk: u32,
        /// What the chunk says.
        found: Option<ImageId>,
        /// What was asked for.
        expected: ImageId,
    },
    /// A signature is demanded and there is none.
    #[error("chunk {chunk}: not signed, although a key to check signatures was given")]
    NotSigned {
        /// Where.
        chunk: u32,
    },
    /// A checksum is demanded and there is none.
    #[error("chunk {chunk}: without a checksum, although one is demanded")]
    NoChecksum {
        /// Where.
        chunk: u32,
    },
    /// The checksum is another one.
    #[error("chunk {chunk}: wrong checksum: the image is damaged")]
    Checksum {
        /// Where.
        chunk: u32,
    },
    /// The signature is not by the key, or not of these bytes.
    #[error("chunk {chunk}: wrong signature: the image was altered or signed with another key")]
    Signature {
        /// Where.
        chunk: u32,
    },
    /// Encrypted, and there is no key.
    #[error("chunk {chunk}: encrypted: give the key file of the image")]
    KeyNeeded {
        /// Where.
        chunk: u32,
    },
    /// Not encrypted, although a key is given.
    #[error(
        "chunk {chunk}: not encrypted, although a key was given: not the image that it should be, or leave out the key"
    )]
    NotEncrypted {
        /// Where.
        chunk: u32,
    },
    /// The key does not fit, or the ciphertext was changed.
    #[error("chunk {chunk}: cannot be decrypted: wrong key, or the image was altered")]
    Decrypt {
        /// Where.
        chunk: u32,
    },
    /// The compressed data are bad.
    #[error(
        "chunk {chunk}: the compressed data {fault}: the image is damaged, or the key is wrong"
    )]
    Stream {
        /// Where.
        chunk: u32,
        /// What is wrong with them.
        fault: &'static str,
    },
    /// A key file cannot be used.
    #[error("{file}: {fault}")]
    KeyFile {
        /// Which kind of key file.
        file: &'static str,
        /// What is wrong. Never shows the key.
        fault: &'static str,
    },
    /// An image id is not one.
    #[error("an image id is 32 hexadecimal digits, without anything else")]
    ImageIdSyntax,
    /// A signature file cannot be used.
    #[error("signature file: {fault}")]
    SignatureFile {
        /// What is wrong.
        fault: &'static str,
    },
    /// An entry of a signature file is impossible.
    #[error("signature file: entry {entry} {fault}")]
    SignatureEntry {
        /// The entry, from 0.
        entry: usize,
        /// What is wrong.
        fault: &'static str,
    },
    /// The caller's wish is impossible.
    #[error("{0}")]
    Usage(&'static str),
    /// Reading the image failed.
    #[error("reading the image failed: {0}")]
    Read(#[source] io::Error),
    /// Reading the disk failed.
    #[error("reading the disk at sector {sector} failed: {source}")]
    ReadDisk {
        /// First sector of the read.
        sector: u64,
        /// Why.
        source: io::Error,
    },
    /// Writing the image failed.
    #[error("writing the image failed: {0}")]
    Write(#[source] io::Error),
}

impl Error {
    /// What the user can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ImageId { .. }
            | Self::NotSigned { .. }
            | Self::NoChecksum { .. }
            | Self::Checksum { .. }
            | Self::Signature { .. }
            | Self::KeyNeeded { .. }
            | Self::NotEncrypted { .. }
            | Self::Decrypt { .. } => ErrorKind::Verification,
            Self::Usage(_) | Self::ImageIdSyntax => ErrorKind::Usage,
            Self::Read(_) | Self::ReadDisk { .. } | Self::Write(_) => ErrorKind::Io,
            Self::Relocation {
                fault: RelocationError::TooFar { .. },
                ..
            } => ErrorKind::Usage,
            _ => ErrorKind::Input,
        }
    }
}
