//! The source: a block device or a file that is read at positions, by several threads.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use chunkfmt::Layout;
use chunkfmt::relocation::{self, Relocation};
use diskmap::{Extent, ReadAt};
use frisbee_cli::Failure;
use frisbee_cli::device::{BlockDevice, loop_device_of};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::Error;
use crate::backing::Backing;
use crate::qemu::Qemu;
use crate::rescue::Rescue;
use crate::source_format::{Others, PROBE, SourceFormat};

/// Most unreadable ranges that one chunk names. If there are more, those of a region are named as one, with the
/// sectors between them.
const BAD_MAX: usize = 512;

/// Bytes that one call announces: Linux's usual window for reading ahead.
const ANNOUNCED: u64 = 128 << 10;

/// A disk to be imaged.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    bytes: Backing,
    /// Where the disk begins in these bytes: behind 0 if only one partition is imaged.
    start: u64,
    size: u64,
    sector_size: u32,
    /// What reads around bad sectors, if that is wanted.
    rescue: Option<Rescue>,
    /// Sectors that are not read, sorted and disjoint.
    holes: Vec<Hole>,
    /// Bytes that could not be read up to now.
    unreadable: AtomicU64,
}

/// How a source is opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// What the user says of a file's sectors; a device knows its own.
    pub(crate) sector_size: Option<u32>,
    /// Even if it is in use.
    pub(crate) allow_used: bool,
    /// What it is, if it is not to be found out.
    pub(crate) format: Option<SourceFormat>,
    /// Whether a virtual disk may lead to other files.
    pub(crate) allow_backing: bool,
    /// Whether it may be damaged.
    pub(crate) rescue: bool,
}

/// Sectors that are zeros whatever stands there.
#[derive(Clone, Copy, Debug)]
struct Hole {
    extent: Extent,
    /// Whether they should have been read.
    bad: bool,
}

impl Disk {
    /// Opens a disk for reading.
    ///
    /// # Errors
    /// If it cannot be opened, is in use, or is neither device nor file.
    pub(crate) fn open(path: &Path, how: &How) -> Result<Self, Failure> {
        let allow_used = how.allow_used;
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
            return Err(Error::Kind { path: path.into() }.into());
        };
        if !users.is_empty() && !allow_used {
            return Err(Error::InUse {
                path: path.into(),
                user: users.join(", "),
            }
            .into());
        }
        let file = File::open(path).map_err(open_error)?;
        let format = match how.format {
            None if metadata.is_file() => None,
            // A device is a disk, whatever is on it.
            given => Some(given.unwrap_or(SourceFormat::Raw)),
        };
        let format = match format {
            Some(SourceFormat::Raw) => SourceFormat::Raw,
            given => {
                let begin = match begin_of(&file) {
                    // A copy of a disk, which the map will find unreadable and say where. No format is told by it.
                    Err(_) if given.is_none() => Vec::new(),
                    begin => begin.map_err(open_error)?,
                };
                let format = given.unwrap_or_else(|| SourceFormat::detect(&begin));
                check_others(path, format, &begin, how.allow_backing)?;
                format
            }
        };
        let (bytes, size) = if format == SourceFormat::Raw {
            Backing::of(file).map_err(open_error)?
        } else {
            let qemu = Qemu::open(path, format, how)?;
            let size = qemu.size();
            (Backing::Qemu(qemu), size)
        };
        let mut disk = Self {
            path: path.into(),
            bytes,
            start: 0,
            size,
            sector_size: 512,
            rescue: None,
            holes: Vec::new(),
            unreadable: AtomicU64::new(0),
        };
        disk.sector_size = device_sector
            .or(how.sector_size)
            .unwrap_or_else(|| diskmap::detect_sector_size(&disk));
        Ok(disk)
    }

    /// Bytes of a logical sector.
    pub(crate) fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// Bytes that could not be read up to now, and for which there are zeros.
    pub(crate) fn unreadable_bytes(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Cuts the disk down to some sectors of it.
    pub(crate) fn narrow(&mut self, extent: Extent) {
        let sector = u64::from(self.sector_size);
        self.holes = intersect(&self.holes, extent);
        self.start += extent.first * sector;
        self.size = extent.count * sector;
    }

    /// Takes what cannot be read for zeros. `bad` bytes are known not to be readable.
    pub(crate) fn rescue(&mut self, bad: Vec<Extent>) {
        let sector = u64::from(self.sector_size);
        self.rescue = Some(Rescue::default());
        for bytes in bad {
            let first = bytes.first / sector;
            let end = bytes.end().div_ceil(sector);
            self.holes.push(Hole {
                extent: Extent {
                    first,
                    count: end - first,
                },
                bad: true,
            });
        }
    }

    /// Takes sectors for zeros, which is what is wanted of them.
    pub(crate) fn zero(&mut self, zeroed: &[Extent]) {
        for &extent in zeroed {
            let end = extent.end();
            let mut rest = Vec::new();
            for hole in &self.holes {
                let before = end_at(*hole, extent.first);
                let after = begin_at(*hole, end);
                rest.extend([before, after].into_iter().flatten());
            }
            rest.push(Hole { extent, bad: false });
            rest.sort_unstable_by_key(|hole| hole.extent);
            self.holes = rest;
        }
    }

    /// Has the kernel begin to read what stands in the regions of a chunk.
    pub(crate) fn announce(&self, layout: &Layout) {
        // A dying disk is asked for nothing twice.
        let Some(file) = self.bytes.file().filter(|_| self.rescue.is_none()) else {
            return;
        };
        let sector_size = u64::from(self.sector_size);
        for region in &layout.regions {
            let start = self.start + region.first * sector_size;
            let end = start + u64::from(region.sectors) * sector_size;
            let mut at = start;
            loop {
                // Holes would only fill the memory with zeros.
                at = self.bytes.data_from(at);
                if at >= end {
                    break;
                }
                // Linux takes no more than its window for reading ahead from one call.
                let length = (end - at).min(ANNOUNCED);
                let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
                if let (Ok(at), Ok(length)) = (i64::try_from(at), i64::try_from(length)) {
                    // Only advice: what is wrong shows when it is read.
                    let _ = posix_fadvise(file, at, length, advice);
                }
                at += length;
            }
        }
    }

    /// Reads what stands in the regions of a chunk, one after the other, into `data`, and notes in the layout what
    /// could not be read.
    ///
    /// # Errors
    /// [`Error::Read`]
    pub(crate) fn read_piece(&self, layout: &mut Layout, data: &mut Vec<u8>) -> Result<(), Error> {
        let sector_size = u64::from(self.sector_size);
        // At most the chunk size.
        data.resize(
            usize::try_from(layout.data_sectors() * sector_size).unwrap_or(0),
            0,
        );
        let mut rest = &mut data[..];
        let mut bad = Vec::new();
        for region in &layout.regions {
            let bytes =
                usize::try_from(u64::from(region.sectors) * sector_size).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(bytes.min(rest.len()));
            self.read_sectors(now, region.first, &mut bad)?;
            rest = later;
        }
        let bytes: u64 = bad.iter().map(|extent| extent.count * sector_size).sum();
        self.unreadable.fetch_add(bytes, Ordering::Relaxed);
        if bad.len() > BAD_MAX {
            bad.dedup_by(|next, last| {
                let same = layout
                    .regions
                    .iter()
                    .any(|region| region.first <= last.first && next.end() <= region.end());
                if same {
                    last.count = next.end() - last.first;
                }
                same
            });
        }
        layout
            .relocations
            .extend(bad.into_iter().map(|extent| Relocation {
                kind: relocation::UNREADABLE,
                offset: 0,
                sector: extent.first,
                size: extent.count * sector_size,
            }));
        Ok(())
    }

    /// Fills `buffer` from sector `first`. Adds to `bad` what could not be read, region by region.
    ///
    /// # Errors
    /// [`Error::Read`]
    pub(crate) fn read_sectors(
        &self,
        buffer: &mut [u8],
        first: u64,
        bad: &mut Vec<Extent>,
    ) -> Result<(), Error> {
        let sector_size = u64::from(self.sector_size);
        let end = first + buffer.len() as u64 / sector_size;
        // Nothing of this region is in `bad` yet, and one range lies in one region.
        let from = bad.len();
        let mut rest = buffer;
        let mut at = first;
        let mut ahead = self
            .holes
            .partition_point(|hole| hole.extent.end() <= first);
        while at < end {
            let hole = self.holes.get(ahead).filter(|hole| hole.extent.first < end);
            let inside = hole.filter(|hole| hole.extent.first <= at);
            let stop = match (inside, hole) {
                (Some(inside), _) => inside.extent.end().min(end),
                (None, Some(next)) => next.extent.first,
                (None, None) => end,
            };
            let bytes = usize::try_from((stop - at) * sector_size).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(bytes.min(rest.len()));
            match inside {
                Some(hole) => {
                    now.fill(0);
                    if hole.bad {
                        note(bad, from, at, stop);
                    }
                    ahead += 1;
                }
                None => self.read(now, at, |first, end| note(bad, from, first, end))?,
            }
            rest = later;
            at = stop;
        }
        Ok(())
    }

    fn read(
        &self,
        buffer: &mut [u8],
        first: u64,
        mut bad: impl FnMut(u64, u64),
    ) -> Result<(), Error> {
        let sector_size = u64::from(self.sector_size);
        let offset = self.start + first * sector_size;
        let length = buffer.len();
        match (self.bytes.read_exact_at(buffer, offset), &self.rescue) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(rescue)) => {
                let sector_bytes = usize::try_from(sector_size).unwrap_or(length);
                rescue.read(
                    &self.path,
                    &self.bytes,
                    sector_bytes,
                    buffer,
                    offset,
                    |at, count| {
                        let first = (at - self.start) / sector_size;
                        bad(first, first + count / sector_size);
                    },
                );
                Ok(())
            }
            (Err(source), None) => Err(Error::Read {
                path: self.path.clone(),
                offset,
                length,
                source,
            }),
        }
    }
}

/// The bytes that tell a file's format.
fn begin_of(file: &File) -> io::Result<Vec<u8>> {
    let mut begin = Vec::new();
    file.take(PROBE as u64).read_to_end(&mut begin)?;
    Ok(begin)
}

/// Refuses a virtual disk that leads to other files: they may be anything that whoever made it could think of.
fn check_others(
    path: &Path,
    format: SourceFormat,
    begin: &[u8],
    allow_backing: bool,
) -> Result<(), Error> {
    let reason = match format.others(begin) {
        Others::Backing if !allow_backing => {
            "is only the changes to another disk, whose file it names: if you trust it, say --allow-backing"
        }
        Others::Data => {
            "has its data in other files, which it names: if you trust it, convert it with qemu-img convert -O raw"
        }
        Others::None | Others::Backing => return Ok(()),
    };
    Err(Error::Others {
        path: path.into(),
        format: format.name(),
        reason,
    })
}

/// Adds sectors to those of a region, which begin at index `from`.
fn note(bad: &mut Vec<Extent>, from: usize, first: u64, end: u64) {
    let count = end - first;
    match bad.get_mut(from..).and_then(<[Extent]>::last_mut) {
        Some(last) if last.end() == first => last.count += count,
        _ => bad.push(Extent { first, count }),
    }
}

/// The part of a hole before sector `end`.
fn end_at(hole: Hole, end: u64) -> Option<Hole> {
    let first = hole.extent.first;
    let count = hole.extent.end().min(end).checked_sub(first)?;
    let extent = Extent { first, count };
    (count > 0).then_some(Hole { extent, ..hole })
}

/// The part of a hole from sector `first` on.
fn begin_at(hole: Hole, first: u64) -> Option<Hole> {
    let first = hole.extent.first.max(first);
    let count = hole.extent.end().checked_sub(first)?;
    let extent = Extent { first, count };
    (count > 0).then_some(Hole { extent, ..hole })
}

/// What of holes lies in an extent, counted from its beginning.
fn intersect(holes: &[Hole], extent: Extent) -> Vec<Hole> {
    let inside = holes.iter().filter_map(|hole| {
        let mut hole = begin_at(end_at(*hole, extent.end())?, extent.first)?;
        hole.extent.first -= extent.first;
        Some(hole)
    });
    inside.collect()
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let sector_size = u64::from(self.sector_size);
        let first = offset / sector_size;
        let end = (offset + buffer.len() as u64).div_ceil(sector_size);
        let at = self
            .holes
            .partition_point(|hole| hole.extent.end() <= first);
        if self
            .holes
            .get(at)
            .is_some_and(|hole| hole.extent.first < end)
        {
            // A file that ddrescue wrote has zeros there, which would pass for a map of free space.
            return Err(io::Error::other("not rescued, as the map file says"));
        }
        self.bytes.read_exact_at(buffer, self.start + offset)
    }
}
