//! What can go wrong between an image and a disk.

use std::io;
use std::path::PathBuf;

use chunkfmt::Part;
use chunkfmt::relocation::RelocationError;
use frisbee_cli::{Exit, Failure, units};

/// Everything that can go wrong between an image and a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image is not right.
    #[error(transparent)]
    Format(#[from] chunkfmt::Error),
    /// The Emulab image is not right.
    #[error(transparent)]
    Ndz(#[from] ndz::Error),
    /// A chunk cannot be adapted to the place of its partition.
    #[error("{part}: {fault}")]
    Relocation {
        /// Which chunk.
        part: Part,
        /// Why.
        fault: RelocationError,
    },
    /// A chunk of an image that tells its size only at the end does not fit the target.
    #[error(
        "chunk {chunk} ends {} behind the start of the disk, the target has {}: use a larger one",
        units::size(*end), units::size(*found)
    )]
    Beyond {
        /// Which chunk.
        chunk: u32,
        /// Where it ends, in bytes.
        end: u64,
        /// Bytes of the target.
        found: u64,
    },
    /// The image was another one when it was checked.
    #[error(
        "chunk {chunk} was changed after it was checked: the disk is incomplete and will not boot"
    )]
    Changed {
        /// Which chunk.
        chunk: u32,
    },
    /// The target cannot be opened.
    #[error("{}: cannot be opened for writing: {source}", path.display())]
    Open {
        /// The target.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The target cannot be read.
    #[error("{}: reading at byte {offset}: {source}", path.display())]
    Read {
        /// The target.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The target is neither a block device nor a file.
    #[error("{}: is neither a block device nor a regular file: name a disk, a partition or a file", path.display())]
    Kind {
        /// The target.
        path: PathBuf,
    },
    /// The target is write-protected.
    #[error("{}: is read-only: name another target, or make it writable", path.display())]
    ReadOnly {
        /// The target.
        path: PathBuf,
    },
    /// The target is mounted, or something else holds it.
    #[error("{}: is in use ({user}): unmount or stop that first", path.display())]
    InUse {
        /// The target.
        path: PathBuf,
        /// Who uses it.
        user: String,
    },
    /// The target is smaller than what it is to get.
    #[error(
        "{}: has {}, what it is to get {}: {} more are needed ({} bytes are the least)",
        path.display(), units::size(*found), units::size(*needed), units::size(needed - found), needed
    )]
    TooSmall {
        /// The target.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// Bytes that it has to have.
        needed: u64,
    },
    /// The target is smaller than the imaged disk, and it is not known what would be cut off.
    #[error(
        "{}: has {}, the imaged disk {}: {} more are needed (if only free space would be cut off, imageunzip does it \
         with a full image in a file)",
        path.display(), units::size(*found), units::size(*needed), units::size(needed - found)
    )]
    Larger {
        /// The target.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// The imaged disk's bytes.
        needed: u64,
    },
    /// The partition table cannot be made to end where the target does.
    #[error(
        "{}: the partition table does not fit the smaller disk: {doubt}: the disk is incomplete and will not boot",
        path.display()
    )]
    NotCut {
        /// The target.
        path: PathBuf,
        /// Why.
        doubt: String,
    },
    /// The sectors have another size.
    #[error(
        "{}: has sectors of {found} bytes, the imaged disk {needed}: its partition table would not be understood: use a disk \
         with sectors of {needed} bytes (some can be formatted so: nvme format, sg_format)",
        path.display()
    )]
    SectorSize {
        /// The target.
        path: PathBuf,
        /// Its sector size in bytes.
        found: u32,
        /// The imaged disk's.
        needed: u32,
    },
    /// The image lies on its own target.
    #[error("{}: is read by this installation", path.display())]
    SameFile {
        /// The target.
        path: PathBuf,
    },
    /// Writing failed.
    #[error("{}: writing {length} bytes at byte {offset}: {source}: the disk is incomplete and will not boot", path.display())]
    Write {
        /// The target.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How much was to be written.
        length: u64,
        /// Why.
        source: io::Error,
    },
    /// Flushing failed.
    #[error("{}: flushing: {source}: the disk is incomplete and will not boot", path.display())]
    Flush {
        /// The target.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The partition table that was just written cannot be read.
    #[error("{}: the partition table: {error}: the disk is incomplete and will not boot", path.display())]
    Table {
        /// The target.
        path: PathBuf,
        /// Why.
        error: diskmap::Error,
    },
    /// What was read back is not what was written.
    #[error(
        "{}: what is on the disk between bytes {offset} and {} is not what was written there: do not trust this disk, or \
         what connects it: the disk is incomplete and will not boot",
        path.display(), offset + length
    )]
    ReadBack {
        /// The target.
        path: PathBuf,
        /// Where the chunk begins that is wrong.
        offset: u64,
        /// How far it reaches.
        length: u64,
    },
    /// Not all chunks came.
    #[error("{missing} chunks are missing: the disk is incomplete and will not boot")]
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// A thread could not be started or died.
    #[error("a pipeline thread failed: {0}")]
    Thread(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Ndz(error) => error.kind().into(),
            Error::Relocation {
                fault: RelocationError::TooFar { .. },
                ..
            } => Exit::Usage,
            Error::Relocation { .. } | Error::Changed { .. } => Exit::Input,
            Error::Beyond { .. } => Exit::Target,
            Error::Format(error) => error.kind().into(),
            Error::Open { .. }
            | Error::Kind { .. }
            | Error::ReadOnly { .. }
            | Error::InUse { .. }
            | Error::TooSmall { .. }
            | Error::Larger { .. }
            | Error::SectorSize { .. }
            | Error::SameFile { .. } => Exit::Target,
            Error::Read { .. }
            | Error::Write { .. }
            | Error::Flush { .. }
            | Error::Table { .. }
            | Error::NotCut { .. }
            | Error::ReadBack { .. } => Exit::Io,
            Error::Incomplete { .. } => Exit::Verification,
            Error::Thread(_) => Exit::Internal,
        };
        Self::new(exit, error)
    }
}
