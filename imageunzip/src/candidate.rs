//! Which disk or file may be written: every check that can refuse it.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chunkfmt::ImageHeader;
use chunkfmt::relocation::PartitionPlace;
use diskmap::edit::Edit;
use frisbee_cli::device::{BlockDevice, loop_device_of};

use crate::edges::Edges;
use crate::open::Window;
use crate::{Error, Target};

/// No file has more bytes.
pub(crate) const FILE_MAX: u64 = i64::MAX.unsigned_abs();

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A block device.
    Device,
    /// A file that was there.
    File,
    /// A file that is made when the installation begins, and removed if it fails.
    NewFile,
}

/// A block device or file that has passed the checks that need no image, and is held against others. Nothing is
/// written to it yet.
#[derive(Debug)]
pub struct Candidate {
    path: PathBuf,
    kind: Kind,
    /// `None` for a file that does not exist yet.
    file: Option<File>,
    /// Bytes; `None` for a file that has none yet and takes the size of the imaged disk.
    size: Option<u64>,
    /// What the device says; a file has sectors of any size.
    sector_size: Option<u32>,
    /// Where the device lies on its disk, if it is a partition.
    partition: Option<PartitionPlace>,
}

impl Candidate {
    /// Opens a target and makes every check that can refuse it, whatever the image.
    ///
    /// A block device is opened exclusively, a file locked, until this, or what becomes of it, is dropped.
    ///
    /// # Errors
    /// Why the target is refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let owned = path.to_path_buf();
        let open_error = |source| Error::Open {
            path: path.to_path_buf(),
            source,
        };
        let in_use = |user: String| Error::InUse {
            path: path.to_path_buf(),
            user,
        };
        if path == Path::new("-") {
            return Err(Error::Kind { path: owned });
        }
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // A mistyped device would become a file in memory.
            Err(error) if error.kind() == ErrorKind::NotFound && !is_device_name(path) => {
                let parent = path
                    .parent()
                    .filter(|parent| !parent.as_os_str().is_empty());
                // A missing directory is better told now than after the transfer.
                fs::metadata(parent.unwrap_or(Path::new("."))).map_err(open_error)?;
                return Ok(Self {
                    path: owned,
                    kind: Kind::NewFile,
                    file: None,
                    size: None,
                    sector_size: None,
                    partition: None,
                });
            }
            Err(error) => return Err(open_error(error)),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let (mut sector_size, mut partition) = (None, None);
        let kind = if metadata.file_type().is_block_device() {
            let device = BlockDevice::of(metadata.rdev());
            let users = device.users();
            if !users.is_empty() {
                return Err(in_use(users.join(", ")));
            }
            if device.is_read_only() {
                return Err(Error::ReadOnly { path: owned });
            }
            (sector_size, partition) = (device.sector_size(), device.partition());
            options.custom_flags(libc::O_EXCL);
            Kind::Device
        } else if metadata.is_file() {
            if let Some(device) = loop_device_of(path) {
                return Err(in_use(format!("it is the disk of {device}")));
            }
            Kind::File
        } else {
            return Err(Error::Kind { path: owned });
        };
        let mut file = options
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => in_use("another program has it open exclusively".into()),
                _ => open_error(error),
            })?;
        let opened = file.metadata().map_err(open_error)?;
        let identity = |found: &Metadata| (found.dev(), found.ino(), found.rdev(), found.mode());
        if identity(&opened) != identity(&metadata) {
            return Err(in_use("it was replaced while it was opened".into()));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(in_use("another program has locked it".into()));
            }
            Err(TryLockError::Error(error)) => return Err(open_error(error)),
        }
        let size = file.seek(SeekFrom::End(0)).map_err(open_error)?;
        Ok(Self {
            path: owned,
            kind,
            file: Some(file),
            // An empty file has nothing to keep.
            size: (kind == Kind::Device || size > 0).then_some(size),
            sector_size,
            partition,
        })
    }

    /// Whether there is something that an installation would destroy.
    pub fn holds_data(&self) -> bool {
        self.kind != Kind::NewFile
    }

    /// Where the data of an image with sectors of this size may go; a larger image is refused by [`Self::fit`].
    pub(crate) fn window(&self, sector_size: u32) -> Window {
        Window {
            bytes: FILE_MAX,
            sector_size,
            partition: self.partition,
        }
    }

    /// Checks that the target is not this very file.
    ///
    /// # Errors
    /// [`Error::SameFile`]
    pub fn refuse_same_file(&self, image: &File) -> Result<(), Error> {
        refuse_same_file(&self.path, self.file.as_ref(), image)
    }

    /// Whether the imaged disk is larger.
    pub(crate) fn is_smaller(&self, header: &ImageHeader) -> bool {
        self.size.is_some_and(|size| size < header.disk_bytes())
    }

    /// Checks what [`Self::fit`] does.
    pub(crate) fn check(&self, header: &ImageHeader) -> Result<(), Error> {
        let needed = header.disk_bytes();
        match self.size.filter(|&size| size < needed) {
            Some(found) => Err(Error::Larger {
                path: self.path.clone(),
                found,
                needed,
            }),
            None => Ok(()),
        }
    }

    /// Checks that the disk of this image fits completely.
    ///
    /// # Errors
    /// [`Error::SectorSize`], [`Error::Larger`]
    pub fn fit(self, header: &ImageHeader) -> Result<Target, Error> {
        let uuid = header.uuid();
        self.check(header)?;
        let target = self.fit_length(header.sector_size, Some(header.disk_bytes()))?;
        Ok(Target {
            image: Some(uuid),
            ..target
        })
    }

    /// Checks that of the disk of this image, which is larger, the first `least` bytes fit, behind which nothing is
    /// but what of a partition table moves.
    ///
    /// # Errors
    /// [`Error::SectorSize`], [`Error::TooSmall`]
    pub(crate) fn fit_cut(self, header: &ImageHeader, least: u64) -> Result<Target, Error> {
        let uuid = header.uuid();
        let target = self.fit_length(header.sector_size, Some(least))?;
        let size = target.size.unwrap_or(least);
        let whole = size - size % u64::from(header.sector_size);
        Ok(Target {
            edges: Edges::cut(whole, header.disk_bytes()),
            image: Some(uuid),
            ..target
        })
    }

    /// Checks that an image fits that has sectors of this size and so many bytes; `None` if only its end will tell. A
    /// last sector that is not full counts only with the bytes that it has.
    ///
    /// # Errors
    /// [`Error::SectorSize`], [`Error::TooSmall`]
    pub fn fit_length(self, sector_size: u32, length: Option<u64>) -> Result<Target, Error> {
        let (path, needed) = (self.path, sector_size);
        if let Some(found) = self.sector_size.filter(|&found| found != needed) {
            return Err(Error::SectorSize {
                path,
                found,
                needed,
            });
        }
        if let (Some(found), Some(needed)) = (self.size, length)
            && found < needed
        {
            return Err(Error::TooSmall {
                path,
                found,
                needed,
            });
        }
        let in_sectors = |bytes: u64| bytes.next_multiple_of(u64::from(sector_size));
        let size = self.size.or(length);
        let edges = match (length, size) {
            (Some(length), _) => Edges::new(in_sectors(length)),
            (None, Some(size)) => Edges::new(size),
            (None, None) => Edges::without_end(),
        };
        Ok(Target {
            path,
            kind: self.kind,
            file: self.file,
            size,
            takes_length: self.size.is_none(),
            edges,
            sector_size,
            partition: self.partition,
            image: None,
            retained: Vec::new(),
            edit: Edit {
                resize: true,
                ..Edit::default()
            },
        })
    }
}

pub(crate) fn refuse_same_file(
    path: &Path,
    target: Option<&File>,
    image: &File,
) -> Result<(), Error> {
    let identity = |file: &File| {
        file.metadata()
            .map(|metadata| (metadata.dev(), metadata.ino()))
            .ok()
    };
    let same = target
        .and_then(identity)
        .is_some_and(|found| Some(found) == identity(image));
    match same {
        true => Err(Error::SameFile { path: path.into() }),
        false => Ok(()),
    }
}

/// Whether a path can only be meant as a device.
fn is_device_name(path: &Path) -> bool {
    let directory = path
        .parent()
        .and_then(|parent| fs::canonicalize(parent).ok());
    let memory = Path::new("/dev/shm");
    directory
        .is_some_and(|directory| directory.starts_with("/dev") && !directory.starts_with(memory))
}
