//! What can go wrong, in three kinds: the disk cannot be read, it is sound but not understood
//! (incompatible), or it contradicts itself (corrupt); each with the place.
//!
//! Only reading stops the mapping. The other two become a [`Warning`] and a raw copy, or an
//! [`enum@Error`] when the caller asked for strictness.

use std::fmt;
use std::io;

use thiserror::Error;

/// Why a disk could not be mapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The source failed to deliver bytes.
    #[error("cannot read {length} bytes at byte {offset} of the disk: {source}")]
    Io {
        /// Byte offset on the disk.
        offset: u64,
        /// Bytes wanted.
        length: usize,
        /// What the source said.
        source: io::Error,
    },
    /// The caller gave a sector size that no disk has.
    #[error("a sector size of {0} bytes is not supported: use 512, 1024, 2048 or 4096")]
    SectorSize(u32),
    /// The source ends in the middle of a sector.
    #[error(
        "the disk has {size} bytes, not a multiple of its {sector_size}-byte sectors: it is \
         truncated, or the sector size is wrong"
    )]
    PartialSector {
        /// Bytes in the source.
        size: u64,
        /// Bytes in a sector.
        sector_size: u32,
    },
    /// The options name a partition that the disk does not have.
    #[error("the disk has no partition {0}")]
    NoPartition(u32),
    /// With [`crate::Options::strict`]: something sound that is not understood.
    #[error("{place}: {kind}")]
    Incompatible {
        /// Where.
        place: Place,
        /// What.
        kind: Incompatible,
    },
    /// With [`crate::Options::strict`]: something that contradicts itself.
    #[error("{place}: {kind}")]
    Corrupt {
        /// Where.
        place: Place,
        /// What.
        kind: Corrupt,
    },
}

/// A place on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The partition, if it is one partition's matter.
    pub partition: Option<u32>,
    /// Byte offset on the disk.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(number) = self.partition {
            write!(f, "partition {number}, ")?;
        }
        write!(f, "byte {} of the disk", self.offset)
    }
}

/// Sound, as far as one can tell, but not understood: it may hold data anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Incompatible {
    /// Feature bits whose effect on the allocation is not known.
    #[error("the {filesystem} filesystem has unsupported {set} features {bits:#x}")]
    Features {
        /// As it is called in messages.
        filesystem: &'static str,
        /// Name of the set of features.
        set: &'static str,
        /// The bits that are not supported.
        bits: u64,
    },
    /// Something that is not handled.
    #[error("the {filesystem} filesystem {what}: this is not supported")]
    Unsupported {
        /// As it is called in messages.
        filesystem: &'static str,
        /// A verb and its object, such as "spans several devices".
        what: &'static str,
    },
    /// In use, or left behind by a crash: what is on the disk may be stale.
    #[error("the {filesystem} filesystem {what}: {remedy}, then try again")]
    NotClean {
        /// As it is called in messages.
        filesystem: &'static str,
        /// A verb and its object, such as "is hibernated".
        what: &'static str,
        /// What its owner should do, such as "run e2fsck".
        remedy: &'static str,
    },
    /// Two owners claim the region.
    #[error("signatures of {first} and of {second}; erase the stale one with wipefs")]
    Ambiguous {
        /// One.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A GPT that the MBR does not announce, which operating systems read differently.
    #[error("a GPT without a protective MBR entry; repair or erase it with gdisk")]
    NoProtectiveEntry,
    /// A GPT entry of an unusual size.
    #[error("GPT entries of {0} bytes are not supported")]
    GptEntrySize(u32),
    /// A GPT of a disk that was enlarged since.
    #[error(
        "the backup GPT stands in sector {sector}, not in the last one, {last}; if the disk was \
         enlarged, \"sgdisk --move-second-header\" puts it there"
    )]
    GptBackupMisplaced {
        /// Where it is.
        sector: u64,
        /// Where it should be.
        last: u64,
    },
    /// The free space is in too many pieces to list them all.
    #[error("free space in more than {0} pieces")]
    TooManyFreeRuns(usize),
}

/// A structure that contradicts itself, its checksum or another structure.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Corrupt {
    /// A structure would lie past the end of its disk or partition.
    #[error("a structure lies past the end of its disk or partition")]
    PastEnd,
    /// Bytes that the source could not read, where the caller tolerates it.
    #[error("{0} bytes cannot be read")]
    Unreadable(usize),
    /// A structure does not match its checksum.
    #[error("the checksum of the {structure} {number} does not match")]
    Checksum {
        /// Filesystem and structure, such as "XFS free space header of group".
        structure: &'static str,
        /// Which of them, or its block.
        number: u64,
    },
    /// A field that makes no sense.
    #[error("the {structure} has a bad {field} ({value})")]
    Field {
        /// Filesystem and structure, such as "XFS superblock".
        structure: &'static str,
        /// Its name in the source of the format.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Two structures disagree about a number.
    #[error("{what}: {recorded} are recorded, {counted} were counted")]
    Count {
        /// What is counted, such as "free blocks of XFS group 3".
        what: &'static str,
        /// What a structure says.
        recorded: u64,
        /// What was found.
        counted: u64,
    },
    /// The filesystem is larger than its partition.
    #[error("the {filesystem} filesystem has {bytes} bytes, its partition only {partition}")]
    LargerThanPartition {
        /// As it is called in messages.
        filesystem: &'static str,
        /// Bytes of the filesystem.
        bytes: u64,
        /// Bytes of the partition.
        partition: u64,
    },
    /// Something points out of the filesystem.
    #[error("the {structure} points to block {block}, outside of where it may")]
    Outside {
        /// Filesystem and structure.
        structure: &'static str,
        /// In units of the filesystem.
        block: u64,
    },
    /// A block has two owners, or is free and in use.
    #[error("block {block} has two owners: {structure}")]
    Conflict {
        /// Filesystem and structure.
        structure: &'static str,
        /// In units of the filesystem.
        block: u64,
    },
    /// A tree or a chain that does not hold together.
    #[error("the {structure} {problem}")]
    Structure {
        /// Filesystem and structure.
        structure: &'static str,
        /// A verb and its object, such as "comes back to itself".
        problem: &'static str,
    },
    /// No `EFI PART` where a header must stand.
    #[error("no GPT header")]
    GptSignature,
    /// The header does not match its CRC-32.
    #[error("the GPT header does not match its checksum")]
    GptHeaderChecksum,
    /// The entries do not match their CRC-32.
    #[error("the GPT entries do not match their checksum")]
    GptEntriesChecksum,
    /// A header field that makes no sense.
    #[error("the GPT header has a bad {0}")]
    GptField(&'static str),
    /// A partition reaches out of the disk, or out of the extended partition it belongs to.
    #[error("the partition (sectors {first} to {last}) lies outside the disk or its container")]
    PartitionOutside {
        /// First sector.
        first: u64,
        /// Last sector.
        last: u64,
    },
    /// Two partitions share sectors.
    #[error("the partition shares sectors with another one")]
    PartitionOverlap,
    /// The chain of extended boot records is broken.
    #[error("the chain of logical partitions {0}")]
    ExtendedChain(&'static str),
}

/// Incompatible or corrupt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// Sound but not understood.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// Contradicts itself.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl Cause {
    pub(crate) fn unsupported(filesystem: &'static str, what: &'static str) -> Self {
        Incompatible::Unsupported { filesystem, what }.into()
    }

    pub(crate) fn field(structure: &'static str, field: &'static str, value: u64) -> Self {
        let kind = Corrupt::Field {
            structure,
            field,
            value,
        };
        kind.into()
    }
}

/// What was done about a finding. In every case more is saved, never less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// All sectors of the disk are saved.
    RawDisk,
    /// All sectors of the partition are saved.
    RawPartition,
    /// The backup GPT was used.
    BackupUsed,
    /// The backup GPT is of no use; the primary one was used.
    PrimaryUsed,
    /// The two GPTs are intact but differ; the partitions that differ are copied raw.
    DifferencesRaw,
    /// The map is as it should be.
    NoneLost,
    /// Partitions further down the chain are not seen; their sectors are saved.
    ChainCut,
    /// The shortest free runs are saved too.
    ShortRunsSaved,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RawDisk => "the whole disk is copied raw",
            Self::RawPartition => "the partition is copied raw",
            Self::BackupUsed => "the backup GPT is used",
            Self::PrimaryUsed => "the backup GPT is damaged, the primary one is used",
            Self::DifferencesRaw => "the partitions that differ are copied raw",
            Self::NoneLost => "nothing else has to be saved for that",
            Self::ChainCut => "the rest of the extended partition is copied raw",
            Self::ShortRunsSaved => "the shortest of them are copied too",
        })
    }
}

/// Something found on the disk that made the map larger than it could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What.
    pub cause: Cause,
    /// The consequence.
    pub effect: Effect,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.cause, self.effect)
    }
}

impl From<Warning> for Error {
    fn from(warning: Warning) -> Self {
        let place = warning.place;
        match warning.cause {
            Cause::Incompatible(kind) => Self::Incompatible { place, kind },
            Cause::Corrupt(kind) => Self::Corrupt { place, kind },
        }
    }
}

/// What a parser reports: the source failed, or it found something at a byte of the disk.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(Error),
    Found { offset: u64, cause: Cause },
}

impl Fault {
    /// The finding as a warning; the error of the source stays an error, unless `rescue`.
    pub(crate) fn into_warning(
        self,
        partition: Option<u32>,
        effect: Effect,
        rescue: bool,
    ) -> Result<Warning, Error> {
        match self {
            Self::Io(Error::Io { offset, length, .. }) if rescue => Ok(Warning {
                place: Place { partition, offset },
                cause: Corrupt::Unreadable(length).into(),
                effect,
            }),
            Self::Io(error) => Err(error),
            Self::Found { offset, cause } => Ok(Warning {
                place: Place { partition, offset },
                cause,
                effect,
            }),
        }
    }
}
