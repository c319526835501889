//! The source: a block device or a file that is read at positions, by several threads.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use chunkfmt::Layout;
use diskmap::ReadAt;
use frisbee_cli::device::{BlockDevice, loop_device_of};

use crate::Error;

/// A disk to be imaged.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    file: File,
    size: u64,
    sector_size: u32,
}

impl Disk {
    /// Opens a disk for reading. `sector_size` is what the user says of a file; a device knows its own.
    ///
    /// # Errors
    /// If it cannot be opened, is in use (unless `allow_used`), or is neither device nor file.
    pub(crate) fn open(
        path: &Path,
        sector_size: Option<u32>,
        allow_used: bool,
    ) -> Result<Self, Error> {
        let open_error = |source| Error::Open {
            path: path.into(),
            source,
        };
        let metadata = fs::metadata(path).map_err(open_error)?;
        let (users, device_sector) = if metadata.file_type().is_block_device() {
            let device = BlockDevice::of(metadata.rdev());
            (device.users(), device.sector_size())
        } else if metadata.is_file() {
            let loops = loop_device_of(path).filter(|_| !allow_used);
            let users = loops.map(|device| {
                let number = fs::metadata(&device).map(|metadata| metadata.rdev());
                number
                    .map(|number| BlockDevice::of(number).users())
                    .unwrap_or_default()
            });
            (users.unwrap_or_default(), None)
        } else {
            return Err(Error::Kind { path: path.into() });
        };
        if !users.is_empty() && !allow_used {
            return Err(Error::InUse {
                path: path.into(),
                user: users.join(", "),
            });
        }
        let mut file = File::open(path).map_err(open_error)?;
        let size = file.seek(SeekFrom::End(0)).map_err(open_error)?;
        let mut disk = Self {
            path: path.into(),
            file,
            size,
            sector_size: 512,
        };
        disk.sector_size = device_sector
            .or(sector_size)
            .unwrap_or_else(|| diskmap::detect_sector_size(&disk));
        Ok(disk)
    }

    /// Bytes of a logical sector.
    pub(crate) fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// Reads what stands in the regions of a chunk, one after the other, into `data`.
    ///
    /// # Errors
    /// [`Error::Read`]
    pub(crate) fn read_regions(
        &self,
        layout: &Layout,
        sector_size: u32,
        data: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let sector_size = u64::from(sector_size);
        // At most the chunk size.
        data.resize(
            usize::try_from(layout.data_sectors() * sector_size).unwrap_or(0),
            0,
        );
        let mut rest = &mut data[..];
        for region in &layout.regions {
            let bytes =
                usize::try_from(u64::from(region.sectors) * sector_size).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(bytes.min(rest.len()));
            self.read(now, region.first * sector_size)?;
            rest = later;
        }
        Ok(())
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// [`Error::Read`]
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        let length = buffer.len();
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| Error::Read {
                path: self.path.clone(),
                offset,
                length,
                source,
            })
    }
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
