//! What of a source is saved, from the command line.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use diskmap::{Content, DiskMap, Extent, Options};
use frisbee_cli::{Exit, Failure, units};

use crate::disk::How;
use crate::source_format::SourceFormat;
use crate::{Disk, Error, rescue};

/// Longest map file of ddrescue that is read, in bytes.
const MAP_FILE_MAX: u64 = 256 << 20;

/// Standard input, by a name that can be opened again.
const STDIN: &str = "/dev/stdin";

/// Where a source is; `-` is standard input.
pub(crate) fn path_of(source: &Path) -> &Path {
    match source.as_os_str() == "-" {
        true => Path::new(STDIN),
        false => source,
    }
}

/// What can be left out, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ContentName {
    /// Page and swap files of Windows
    PageFiles,
    /// The memory image of a Windows that is not hibernated
    Hibernation,
    /// Journals of filesystems that were unmounted cleanly: zeros instead
    Journals,
}

/// Options about the source and what of it is saved.
#[derive(Args, Debug)]
#[command(next_help_heading = "What is saved")]
pub(crate) struct Selection {
    /// Save every sector, look into nothing
    #[arg(long, conflicts_with = "from")]
    raw: bool,
    /// Fail where a filesystem is damaged or not understood, instead of saving it whole
    #[arg(long, conflicts_with_all = ["raw", "from"])]
    strict: bool,
    /// Image partition N alone, as if it were the whole disk
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "skip_partition", "raw_partition"])]
    partition: Option<u32>,
    /// Leave out partition N, as if it were free space: what the target has there stays, unless free space is cleared;
    /// may be repeated
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "raw"])]
    skip_partition: Vec<u32>,
    /// Save every sector of partition N; may be repeated
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "raw"])]
    raw_partition: Vec<u32>,
    /// Leave out contents that are in use: page-files and hibernation (of Windows), journals (clean ones of
    /// ext4); may be repeated. Swap areas of Linux are left out in any case
    #[arg(long, value_name = "CONTENTS", value_enum, value_delimiter = ',', conflicts_with_all = ["from", "raw"])]
    exclude: Vec<ContentName>,
    /// Go on where the source cannot be read: try again, then store zeros and note in the image which sectors those are
    #[arg(long, conflicts_with = "from")]
    rescue: bool,
    /// The source was copied by ddrescue with this map file: sectors that it does not call finished are unreadable.
    /// Includes --rescue
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    rescue_map: Option<PathBuf>,
    /// Sector size of a disk in a file: 512 or 4096 [default: found out]
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"], conflicts_with = "from")]
    sector_size: Option<String>,
    /// Bytes of the disk that comes through a pipe, or with K, M, G or T of KiB and so on: they are told at the beginning
    /// of the image (blockdev --getsize64 tells them of a device)
    #[arg(long, value_name = "BYTES", value_parser = units::parse_size, conflicts_with = "from")]
    size: Option<u64>,
    /// What a source file holds: raw takes its bytes for those of the disk, everything else is opened by qemu-nbd
    /// [default: told by its first bytes]
    #[arg(long, value_name = "FORMAT", value_enum, conflicts_with = "from")]
    source_format: Option<SourceFormat>,
    /// Open the file that a qcow2 or VMDK disk names as the one below it: whoever made the disk chose its name
    #[arg(long, conflicts_with = "from")]
    allow_backing: bool,
    /// Read the source even while it is mounted: the image may hold a damaged filesystem
    #[arg(long, conflicts_with = "from")]
    allow_mounted: bool,
}

impl Selection {
    /// Opens a source and maps it. A file's sectors are as large as `usual`, if that is known, unless the user says
    /// otherwise.
    ///
    /// # Errors
    /// If it cannot be opened or mapped, or holds nothing.
    pub(crate) fn open(
        &self,
        source: &Path,
        usual: Option<u32>,
    ) -> Result<(Disk, DiskMap), Failure> {
        let sector_size = match &self.sector_size {
            Some(size) => size.parse().ok(),
            None => usual,
        };
        let how = How {
            sector_size,
            allow_used: self.allow_mounted,
            format: self.source_format,
            allow_backing: self.allow_backing,
            rescue: self.is_rescue(),
        };
        let source = path_of(source);
        let mut disk = Disk::open(source, &how)?;
        let found = diskmap::ReadAt::size(&disk);
        if let Some(size) = self.size.filter(|&size| size != found) {
            let message = format!("has {found} bytes, not {size} as --size says");
            return Err(Failure::new(Exit::Input, message).context(source.display()));
        }
        if self.is_rescue() {
            disk.rescue(self.known_bad(&disk)?);
        }
        let map_error = |error| Error::Map {
            path: source.into(),
            source: error,
        };
        if let Some(number) = self.partition {
            let extent = diskmap::locate(&disk, disk.sector_size(), number).map_err(map_error)?;
            disk.narrow(extent);
        }
        let options = Options {
            strict: self.strict,
            raw: self.raw,
            sector_size: disk.sector_size(),
            partition: self.partition.is_some(),
            skip: self.skip_partition.iter().copied().collect(),
            raw_partitions: self.raw_partition.iter().copied().collect(),
            exclude: self.exclude.iter().map(|name| name.content()).collect(),
            rescue: self.is_rescue(),
        };
        let map = diskmap::map(&disk, &options).map_err(map_error)?;
        if map.disk_sectors == 0 {
            let message = format!("{}: is empty: there is no disk to image", source.display());
            return Err(Failure::new(Exit::Input, message));
        }
        disk.zero(&map.zeroed);
        Ok((disk, map))
    }

    /// Sectors, and their size, of a disk that comes through a pipe. They are as large as `usual`, if that is known, or
    /// 512, unless the user says otherwise.
    ///
    /// # Errors
    /// [`Exit::Usage`] for what cannot be done with a pipe.
    pub(crate) fn pipe_shape(&self, usual: Option<u32>) -> Result<(u64, u32), Failure> {
        let usage = |message: String| Err(Failure::new(Exit::Usage, message));
        let is_raw = self.raw
            && self
                .source_format
                .is_none_or(|format| format == SourceFormat::Raw);
        if !is_raw || self.partition.is_some() || self.is_rescue() {
            let message = "is a pipe, which is read once, from beginning to end: it can only be saved whole, with --raw";
            return usage(message.into());
        }
        let sector_size = self.sector_size.as_ref().and_then(|size| size.parse().ok());
        let sector_size: u32 = sector_size.or(usual).unwrap_or(512);
        let Some(size) = self.size else {
            let message = "is a pipe: how large the disk is stands at the beginning of the image, so say --size BYTES";
            return usage(message.into());
        };
        let sectors = size / u64::from(sector_size);
        if size == 0 || size % u64::from(sector_size) != 0 {
            return usage(format!(
                "--size {size}: is no number of sectors of {sector_size} bytes"
            ));
        }
        Ok((sectors, sector_size))
    }

    /// What a line about a partition begins with; the whole source has the number 0.
    pub(crate) fn name_of(&self, number: u32) -> String {
        match (number, self.partition) {
            (0, None) => "whole disk".into(),
            (0, Some(number)) | (number, _) => format!("partition {number}"),
        }
    }

    /// The source, and the partition of it if it is not the whole.
    pub(crate) fn name_in(&self, source: &Path) -> String {
        match self.partition {
            Some(number) => format!("{}, partition {number}", source.display()),
            None => source.display().to_string(),
        }
    }

    /// Whether unreadable sectors are tolerated.
    pub(crate) fn is_rescue(&self) -> bool {
        self.rescue || self.rescue_map.is_some()
    }

    /// The file that is read beside the source.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.rescue_map.iter().map(PathBuf::as_path)
    }

    /// What the map file says, in bytes.
    fn known_bad(&self, disk: &Disk) -> Result<Vec<Extent>, Failure> {
        let Some(path) = &self.rescue_map else {
            return Ok(Vec::new());
        };
        let fail = |message: String| Failure::new(Exit::Input, message).context(path.display());
        let length = fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if length.len() > MAP_FILE_MAX {
            let message = format!(
                "is longer than {}: not a map file",
                units::size(MAP_FILE_MAX)
            );
            return Err(fail(message));
        }
        let text = fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        rescue::parse_map(&text, diskmap::ReadAt::size(disk)).map_err(fail)
    }
}

impl ContentName {
    fn content(self) -> Content {
        match self {
            Self::PageFiles => Content::PageFile,
            Self::Hibernation => Content::Hibernation,
            Self::Journals => Content::Journal,
        }
    }
}
