//! The disk or file that is written, after every check that could have refused it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chunkfmt::relocation::PartitionPlace;
use chunkfmt::{ImageHeader, Layout};
use diskmap::edit::{Edit, Edited};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::Error;
use crate::after::table::Finished;
use crate::candidate::{Candidate, FILE_MAX, Kind, refuse_same_file};
use crate::edges::Edges;
use crate::open::Window;
use crate::sparse;

/// Zeros to write where the kernel has no faster way.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A target that has passed all checks. Nothing is written to it yet.
#[derive(Debug)]
pub struct Target {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) file: Option<File>,
    /// Bytes of the target; `None` for a file that takes a length which only the end of the image will tell.
    pub(crate) size: Option<u64>,
    /// A file that becomes as long as the image.
    pub(crate) takes_length: bool,
    pub(crate) edges: Edges,
    pub(crate) sector_size: u32,
    pub(crate) partition: Option<PartitionPlace>,
    /// What of the target stays, of the parts that are wiped at first: offsets and bytes.
    pub(crate) retained: Vec<(u64, Vec<u8>)>,
    /// What is changed in the partition table at the end.
    pub(crate) edit: Edit,
}

impl Target {
    /// Opens a target for an image with this header: [`Candidate::open`] and [`Candidate::fit`].
    ///
    /// # Errors
    /// Why the target is refused.
    pub fn open(path: &Path, header: &ImageHeader) -> Result<Self, Error> {
        Candidate::open(path)?.fit(header)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is something that an installation would destroy.
    pub fn holds_data(&self) -> bool {
        self.kind != Kind::NewFile
    }

    /// Checks that the target is not this very file.
    ///
    /// # Errors
    /// [`Error::SameFile`]
    pub fn refuse_same_file(&self, image: &File) -> Result<(), Error> {
        refuse_same_file(&self.path, self.file.as_ref(), image)
    }

    /// The file or device, to read what is on it; `None` if there is nothing yet.
    pub(crate) fn existing(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Reads what has to survive the wiping of the disk's ends, since these chunks stay as they are on it.
    ///
    /// # Errors
    /// [`Error::Read`]
    pub(crate) fn retain<'a>(
        &mut self,
        layouts: impl IntoIterator<Item = &'a Layout>,
    ) -> Result<(), Error> {
        let (Some(file), sector_size) = (&self.file, u64::from(self.sector_size)) else {
            return Ok(());
        };
        let edges = &self.edges;
        let regions = layouts.into_iter().flat_map(|layout| &layout.regions);
        for region in regions {
            let (start, end) = (region.first * sector_size, region.end() * sector_size);
            let (from, to) = edges.middle(start, end - start);
            for (offset, end) in [(start, from), (to, end)] {
                let length = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)
                    .map_err(|source| Error::Read {
                        path: self.path.clone(),
                        offset,
                        source,
                    })?;
                self.retained.push((offset, bytes));
            }
        }
        Ok(())
    }

    /// Says what is to be changed in the partition table, before it is written.
    pub fn change_table(&mut self, edit: Edit) {
        self.edit = edit;
    }

    /// Where data may go.
    pub fn window(&self) -> Window {
        Window {
            bytes: self.size.unwrap_or(FILE_MAX),
            sector_size: self.sector_size,
            partition: self.partition,
        }
    }

    /// The first writes: makes a new file, wipes what could be booted, and flushes.
    pub(crate) fn begin(self) -> Result<Disk, Error> {
        let open_error = |source| Error::Open {
            path: self.path.clone(),
            source,
        };
        let file = match self.file {
            Some(file) => file,
            None => OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                // What was a disk is nobody else's to read.
                .mode(0o600)
                .open(&self.path)
                .map_err(open_error)?,
        };
        // From here on a new file is removed if anything fails.
        let mut disk = Disk {
            kind: self.kind,
            size: self.size,
            takes_length: self.takes_length,
            edges: self.edges,
            sparse: self.kind == Kind::NewFile,
            zero_range: Some(match self.kind {
                Kind::Device => FallocateFlags::FALLOC_FL_ZERO_RANGE,
                _ => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
            }),
            remove: (self.kind == Kind::NewFile).then(|| self.path.clone()),
            path: self.path,
            file,
            sector_size: self.sector_size,
            edit: self.edit,
        };
        if self.kind != Kind::Device {
            disk.set_length(self.size.unwrap_or(0))?;
        }
        // On a larger disk the old table's backup is at the end of the target, not of the image.
        let whole = self.size.map(Edges::new);
        let whole = whole.iter().flat_map(Edges::parts);
        for (offset, zeros) in disk.edges.parts().into_iter().chain(whole) {
            disk.write(offset, zeros)?;
        }
        disk.flush()?;
        for (offset, bytes) in self.retained {
            disk.put(offset, &bytes)?;
        }
        Ok(disk)
    }
}

/// A target that is being written.
pub(crate) struct Disk {
    path: PathBuf,
    file: File,
    kind: Kind,
    /// Bytes of the target; `None` for a file that takes a length which only the end of the image will tell.
    size: Option<u64>,
    /// A file that becomes as long as the image.
    takes_length: bool,
    edges: Edges,
    /// The file was made just now: what is not written is zero.
    sparse: bool,
    /// How to zero a range without writing it; `None` once the kernel has refused.
    zero_range: Option<FallocateFlags>,
    /// A file to remove unless the installation is completed.
    remove: Option<PathBuf>,
    sector_size: u32,
    /// What is changed in the partition table at the end.
    edit: Edit,
}

impl Disk {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let length = bytes.len() as u64;
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| Error::Write {
                path: self.path.clone(),
                offset,
                length,
                source,
            })
    }

    fn set_length(&self, length: u64) -> Result<(), Error> {
        self.file.set_len(length).map_err(|source| Error::Write {
            path: self.path.clone(),
            offset: length,
            length: 0,
            source,
        })
    }

    pub(crate) fn flush(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| Error::Flush {
            path: self.path.clone(),
            source,
        })
    }

    /// Writes `bytes` at `offset`, or keeps them for the end where they belong to an edge.
    pub(crate) fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let (offset, middle) = self.edges.keep(offset, bytes);
        if middle.is_empty() {
            Ok(())
        } else if self.sparse {
            let write = |run: Range<usize>| {
                let bytes = middle.get(run.clone()).unwrap_or_default();
                self.write(offset + run.start as u64, bytes)
            };
            sparse::runs(middle).try_for_each(write)
        } else {
            self.write(offset, middle)
        }
    }

    /// Makes a range zero; the edges are already.
    pub(crate) fn zero(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        let (start, end) = self.edges.middle(offset, length);
        self.zero_out(start, end)
    }

    fn zero_out(&mut self, start: u64, end: u64) -> Result<(), Error> {
        if self.sparse || start >= end {
            return Ok(());
        }
        if let Some(flags) = self.zero_range {
            let range = (
                libc::off_t::try_from(start),
                libc::off_t::try_from(end - start),
            );
            let done = match range {
                (Ok(start), Ok(length)) => fallocate(
                    &self.file,
                    flags | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                    start,
                    length,
                )
                .map_err(io::Error::from),
                _ => Err(ErrorKind::InvalidInput.into()),
            };
            match done {
                Ok(()) => return Ok(()),
                Err(error)
                    if error.raw_os_error() == Some(libc::EIO)
                        || error.raw_os_error() == Some(libc::ENOSPC) =>
                {
                    let path = self.path.clone();
                    return Err(Error::Write {
                        path,
                        offset: start,
                        length: end - start,
                        source: error,
                    });
                }
                Err(_) => self.zero_range = None,
            }
        }
        let mut at = start;
        while at < end {
            let length = (end - at).min(ZEROS.len() as u64);
            self.write(
                at,
                ZEROS
                    .get(..usize::try_from(length).unwrap_or(0))
                    .unwrap_or(&ZEROS),
            )?;
            at += length;
        }
        Ok(())
    }

    /// Completes the installation: everything is flushed, then the edges are written and flushed, the boot sectors
    /// last. `end` is where the image's last sector ends, `short_end` where its data do, if that is before.
    /// `clear_behind`: what lies behind it on a larger target becomes zero as well. Returns what has changed in the
    /// partition table.
    pub(crate) fn complete(
        mut self,
        clear_behind: bool,
        end: u64,
        short_end: Option<u64>,
    ) -> Result<Edited, Error> {
        if clear_behind {
            self.zero_out(end, self.size.unwrap_or(end))?;
        }
        let edited = self.change_table(end)?;
        self.flush()?;
        for (offset, bytes) in self.edges.last_writes() {
            self.write(offset, bytes)?;
            self.flush()?;
        }
        // Whole sectors were written, of which the last may not be full.
        let length = match self.takes_length {
            true => short_end.or(Some(end)),
            false => self.size,
        };
        if let Some(length) = length.filter(|_| self.kind != Kind::Device) {
            self.set_length(length)?;
            self.flush()?;
        }
        self.remove = None;
        Ok(edited)
    }

    /// Changes the partition table of the image, which ends at byte `end`, where it is held back and behind the image.
    fn change_table(&mut self, end: u64) -> Result<Edited, Error> {
        let target = match self.takes_length {
            true => end,
            false => self.size.unwrap_or(end),
        };
        let edit = Edit {
            target_sectors: target / u64::from(self.sector_size),
            ..self.edit
        };
        let finished = Finished {
            file: &self.file,
            edges: &self.edges,
            bytes: end,
        };
        let edited = diskmap::edit::edit(&finished, self.sector_size, &edit);
        let edited = edited.map_err(|error| Error::Table {
            path: self.path.clone(),
            error,
        })?;
        for (offset, bytes) in &edited.writes {
            let inside = usize::try_from(end.saturating_sub(*offset)).unwrap_or(usize::MAX);
            let (inside, behind) = bytes.split_at(inside.min(bytes.len()));
            self.put(*offset, inside)?;
            if !behind.is_empty() {
                self.write(offset + inside.len() as u64, behind)?;
            }
        }
        Ok(edited)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(path) = &self.remove {
            // Nothing to be done if this fails: the file has no boot sectors.
            let _ = fs::remove_file(path);
        }
    }
}
