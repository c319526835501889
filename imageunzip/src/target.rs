//! The disk or file that is written, after every check that could have refused it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use chunkfmt::relocation::PartitionPlace;
use chunkfmt::{ImageHeader, Layout};
use diskmap::edit::{Edit, Edited};
use frisbee_cli::write_back::WriteBack;
use nix::fcntl::{FallocateFlags, fallocate};
use uuid::Uuid;

use crate::Error;
use crate::after::table::{self, Finished};
use crate::candidate::{Candidate, FILE_MAX, Kind, refuse_same_file};
use crate::direct::DirectWriter;
use crate::discard::discard;
use crate::edges::Edges;
use crate::install::FreeSpace;
use crate::marker;
use crate::open::Window;
use crate::readback::{Readback, Room};
use crate::sparse;
use crate::write::Check;

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
    /// The image that it was opened for, if images of its format have a UUID.
    pub(crate) image: Option<Uuid>,
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

    /// To read what is on it; `None` if there is nothing yet.
    pub(crate) fn existing(&self) -> Option<io::Result<Readback>> {
        let file = self.file.as_ref()?;
        let end = self.edges.end();
        Some(Readback::new(file).map(|disk| disk.showing_image(self.sector_size, end)))
    }

    /// Whether an installation of the very image that the target was opened for was interrupted on it.
    pub fn was_interrupted(&self) -> bool {
        let mut block = [0; marker::LENGTH];
        let read = self
            .file
            .as_ref()
            .map(|file| file.read_exact_at(&mut block, 0));
        matches!(read, Some(Ok(()))) && self.image.is_some() && marker::parse(&block) == self.image
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
        // A GPT that was moved to the end of a larger disk is moved again.
        let (shown, _) = table::as_imaged(file, self.sector_size, edges.end());
        let regions = layouts.into_iter().flat_map(|layout| &layout.regions);
        for region in regions {
            let (start, end) = (region.first * sector_size, region.end() * sector_size);
            let (from, to) = edges.middle(start, end - start);
            for (offset, end) in [(start, from), (to, end)] {
                let length = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let mut bytes = vec![0; length];
                // What is cut off is zeros.
                let there = match edges.is_cut() {
                    true => self.size.unwrap_or(0).saturating_sub(offset),
                    false => u64::MAX,
                };
                let there = usize::try_from(there).unwrap_or(usize::MAX).min(length);
                file.read_exact_at(&mut bytes[..there], offset)
                    .map_err(|source| Error::Read {
                        path: self.path.clone(),
                        offset,
                        source,
                    })?;
                table::overlay(&shown, offset, &mut bytes);
                self.retained.push((offset, bytes));
            }
        }
        Ok(())
    }

    /// Bytes of the imaged disk that are cut off.
    pub fn cut_bytes(&self) -> u64 {
        match (self.edges.is_cut(), self.size) {
            (true, Some(size)) => self.edges.end() - size,
            _ => 0,
        }
    }

    /// Says what is to be changed in the partition table, before it is written.
    pub fn change_table(&mut self, edit: Edit) {
        self.edit = edit;
    }

    /// Where data may go.
    pub fn window(&self) -> Window {
        Window {
            bytes: match self.edges.is_cut() {
                true => self.edges.end(),
                false => self.size.unwrap_or(FILE_MAX),
            },
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
            discard: self.kind == Kind::Device,
            remove: (self.kind == Kind::NewFile).then(|| self.path.clone()),
            path: self.path,
            direct: DirectWriter::new(&file, self.kind, self.sector_size),
            file,
            sector_size: self.sector_size,
            edit: self.edit,
            back: WriteBack::default(),
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
        if let Some(image) = self.image
            && disk.edges.parts()[0].1.len() >= marker::LENGTH
        {
            disk.write(0, &marker::write(image))?;
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
    direct: DirectWriter,
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
    /// The device has not refused to discard yet.
    discard: bool,
    /// A file to remove unless the installation is completed.
    remove: Option<PathBuf>,
    sector_size: u32,
    /// What is changed in the partition table at the end.
    edit: Edit,
    /// Has what is written reach the disk while chunks are opened.
    back: WriteBack,
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
            return Ok(());
        }
        if self.sparse {
            let write = |run: Range<usize>| {
                let bytes = middle.get(run.clone()).unwrap_or_default();
                self.write(offset + run.start as u64, bytes)
            };
            sparse::runs(middle).try_for_each(write)?;
            self.back.wrote(&self.file, offset, middle.len() as u64);
            return Ok(());
        }
        let written = self.direct.write(offset, middle);
        let written = written.map_err(|(done, source)| Error::Write {
            path: self.path.clone(),
            offset: offset + done as u64,
            length: (middle.len() - done) as u64,
            source,
        })?;
        let rest = middle.get(written..).unwrap_or_default();
        if !rest.is_empty() {
            let offset = offset + written as u64;
            self.write(offset, rest)?;
            self.back.wrote(&self.file, offset, rest.len() as u64);
        }
        Ok(())
    }

    /// Does with a range of free space what is wanted; in the edges it is zero already.
    pub(crate) fn free(&mut self, free: FreeSpace, offset: u64, length: u64) -> Result<(), Error> {
        let (start, end) = self.edges.middle(offset, length);
        self.free_all(free, start, end)
    }

    fn free_all(&mut self, free: FreeSpace, start: u64, end: u64) -> Result<(), Error> {
        match free {
            FreeSpace::Skip => Ok(()),
            FreeSpace::Zero => self.zero_out(start, end),
            FreeSpace::Discard => self.discard(start, end),
        }
    }

    /// Tells the device that a range is not used, if it can be told. A file gives the space back.
    fn discard(&mut self, start: u64, end: u64) -> Result<(), Error> {
        if self.kind != Kind::Device {
            return self.zero_out(start, end);
        }
        if self.discard && start < end {
            // It is a hint: a device that does not take it keeps what was there.
            self.discard = discard(&self.file, start, end - start).is_ok();
        }
        Ok(())
    }

    /// Whether everything that was to be discarded was.
    pub(crate) fn has_discarded(&self) -> bool {
        self.kind != Kind::Device || self.discard
    }

    /// Reads back what was written, on so many threads, and compares it.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::Read`]
    pub(crate) fn verify(&self, checks: &[Check], threads: usize) -> Result<(), Error> {
        self.flush()?;
        let read_error = |offset, source| Error::Read {
            path: self.path.clone(),
            offset,
            source,
        };
        let disk = Readback::new(&self.file).map_err(|source| read_error(0, source))?;
        let disk = disk.padded(self.edges.is_cut());
        let next = AtomicUsize::new(0);
        let verify = || -> Result<(), Error> {
            let (mut data, mut room) = (Vec::new(), Room::default());
            while let Some(check) = checks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let offset = check.ranges.first().map_or(0, |range| range.start);
                disk.read_ranges(&check.ranges, &mut data, &mut room)
                    .map_err(|source| read_error(offset, source))?;
                let mut rest = &mut data[..];
                for range in &check.ranges {
                    let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
                    let (now, later) = rest.split_at_mut(length.min(rest.len()));
                    self.edges.fill(range.start, now);
                    rest = later;
                }
                if blake3::hash(&data) != check.hash {
                    let end = check.ranges.last().map_or(0, |range| range.end);
                    return Err(self.differs(offset, end - offset));
                }
            }
            Ok(())
        };
        let results: Vec<_> = thread::scope(|scope| {
            let handles: Vec<_> = (1..threads)
                .filter_map(|_| thread::Builder::new().spawn_scoped(scope, verify).ok())
                .collect();
            let own = verify();
            handles
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .chain([Ok(own)])
                .collect()
        });
        for result in results {
            result.map_err(|_| Error::Thread("it panicked".into()))??;
        }
        Ok(())
    }

    fn differs(&self, offset: u64, length: u64) -> Error {
        Error::ReadBack {
            path: self.path.clone(),
            offset,
            length,
        }
    }

    /// Reads back the edges, which were written last.
    fn verify_edges(&self) -> Result<(), Error> {
        let mut room = Room::default();
        for (offset, edge) in self.edges.parts() {
            let found = Readback::new(&self.file).and_then(|disk| {
                Ok(disk.read(offset, offset + edge.len() as u64, &mut room)? == edge)
            });
            let wrong = match found {
                Ok(true) => continue,
                Ok(false) => self.differs(offset, edge.len() as u64),
                Err(source) => Error::Read {
                    path: self.path.clone(),
                    offset,
                    source,
                },
            };
            return Err(wrong);
        }
        Ok(())
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

    /// What was written of the edges may be on the disk though the device says that it is not: then it would boot.
    fn wipe_edges(&self) {
        let whole = self.size.map(Edges::new);
        let whole = whole.iter().flat_map(Edges::parts);
        for (offset, bytes) in self.edges.parts().into_iter().chain(whole) {
            // The device fails already: that this may fail as well is no news.
            let _ = self.write(offset, &vec![0; bytes.len()]);
        }
        let _ = self.flush();
    }

    /// Completes the installation: everything is flushed, then the edges are written and flushed, the boot sectors
    /// last. `end` is where the image's last sector ends, `short_end` where its data do, if that is before.
    /// What lies behind it on a larger target is `free` as well. With `verify` the edges are read back. Returns what has
    /// changed in the partition table.
    pub(crate) fn complete(
        mut self,
        free: FreeSpace,
        end: u64,
        short_end: Option<u64>,
        verify: bool,
    ) -> Result<Edited, Error> {
        self.free_all(free, end, self.size.unwrap_or(end))?;
        if self.takes_length {
            // Behind what was written there may be free space, which the table is read through.
            self.set_length(end)?;
        }
        // The table's backup must not be there before the data are.
        self.flush()?;
        let edited = self.change_table(end)?;
        self.flush()?;
        for (offset, bytes) in self.edges.last_writes() {
            let written = self.write(offset, bytes).and_then(|()| self.flush());
            written.inspect_err(|_| self.wipe_edges())?;
        }
        if verify {
            let verified = self.verify_edges();
            verified.inspect_err(|_| self.wipe_edges())?;
        }
        // Whole sectors were written, of which the last may not be full.
        let length = match self.takes_length {
            true => short_end.or(Some(end)),
            false => self.size,
        };
        if let Some(length) = length.filter(|_| self.kind != Kind::Device) {
            let cut = self.set_length(length).and_then(|()| self.flush());
            cut.inspect_err(|_| self.wipe_edges())?;
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
        if let Some(doubt) = edited.doubt.as_ref().filter(|_| self.edges.is_cut()) {
            return Err(Error::NotCut {
                path: self.path.clone(),
                doubt: doubt.clone(),
            });
        }
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
