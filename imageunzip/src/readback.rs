//! Reading a disk past the page cache: what the device has, not what the kernel remembers having written.
//!
//! After a failed write-back Linux keeps serving the data that never reached the device. So what decides whether data
//! are on a disk is read with `O_DIRECT` (open(2)) where the disk lets it be.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use chunkfmt::{Buffer, Layout};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::after::table;
use crate::direct::{self, ALIGNMENT, Aligned};

/// Where a read ends at the latest if there is another region to be read.
const READ_MAX: u64 = 4 << 20;

/// A gap between regions that is read along with them: less work than another read.
const GAP_MAX: u64 = 64 << 10;

/// A disk that is read back.
#[derive(Debug)]
pub(crate) struct Readback {
    cached: File,
    /// `None` where it cannot be read past the cache.
    direct: Option<File>,
    /// What is shown of chunks instead of what is there: offsets and bytes.
    shown: Vec<(u64, Vec<u8>)>,
    /// There are zeros behind its end.
    padded: bool,
}

/// Memory for direct reads, reused from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Room(Aligned);

/// Where the regions of a chunk are, in bytes.
pub(crate) fn byte_ranges(layout: &Layout, sector_size: u64) -> Vec<Range<u64>> {
    let bytes = |sector: u64| sector.saturating_mul(sector_size);
    let ranges = layout.regions.iter();
    ranges
        .map(|region| bytes(region.first)..bytes(region.end()))
        .collect()
}

impl Readback {
    /// Prepares to read `disk`. What was written to it must have been flushed.
    ///
    /// # Errors
    /// If the kernel has no file descriptors left.
    pub(crate) fn new(disk: &File) -> io::Result<Self> {
        let cached = disk.try_clone()?;
        // The very same file, whatever its path names by now.
        let direct = direct::reopen(disk, OpenOptions::new().read(true)).ok();
        if direct.is_none() {
            // What is clean leaves the cache. That a file in memory has no other place is no error.
            let _ = posix_fadvise(&cached, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        Ok(Self {
            cached,
            direct,
            shown: Vec::new(),
            padded: false,
        })
    }

    /// Shows zeros behind the end of the disk, if `padded`.
    pub(crate) fn padded(self, padded: bool) -> Self {
        Self { padded, ..self }
    }

    /// Shows the disk as an image of so many bytes has it, also if its GPT was moved since the disk is larger, or
    /// smaller because free space was cut off.
    pub(crate) fn showing_image(mut self, sector_size: u32, image_bytes: u64) -> Self {
        (self.shown, self.padded) = table::as_imaged(&self.cached, sector_size, image_bytes);
        self
    }

    /// Reads what stands in the regions of a chunk, one after the other, into `data`.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] if the disk ends before; what reading says.
    pub(crate) fn read_regions(
        &self,
        layout: &Layout,
        sector_size: u32,
        data: &mut Vec<u8>,
        room: &mut Room,
    ) -> io::Result<()> {
        self.read_ranges(&byte_ranges(layout, sector_size.into()), data, room)
    }

    /// Reads ranges of bytes, in order, one after the other, into `data`.
    ///
    /// # Errors
    /// As [`Self::read_regions`].
    pub(crate) fn read_ranges(
        &self,
        ranges: &[Range<u64>],
        data: &mut Vec<u8>,
        room: &mut Room,
    ) -> io::Result<()> {
        data.clear();
        let mut regions = ranges
            .iter()
            .map(|range| (range.start, range.end))
            .peekable();
        let mut together = Vec::new();
        while let Some((start, end)) = regions.next() {
            let mut stop = end;
            together.clear();
            together.push((start, end));
            while let Some((next, end)) =
                regions.next_if(|&(next, end)| next - stop <= GAP_MAX && end - start <= READ_MAX)
            {
                together.push((next, end));
                stop = end;
            }
            let found = self.read(start, stop, room)?;
            for &(from, to) in &together {
                let place = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
                let bytes = found.get(place(from)..place(to));
                let begin = data.len();
                data.extend_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
                if let Some(bytes) = data.get_mut(begin..) {
                    table::overlay(&self.shown, from, bytes);
                }
            }
        }
        Ok(())
    }

    /// Reads the bytes from `start` to `end`.
    ///
    /// # Errors
    /// As [`Self::read_regions`].
    pub(crate) fn read<'a>(
        &self,
        start: u64,
        end: u64,
        room: &'a mut Room,
    ) -> io::Result<&'a [u8]> {
        let first = start - start % ALIGNMENT as u64;
        let last = end.next_multiple_of(ALIGNMENT as u64);
        let length = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        let (skip, wanted) = (length(start - first)?, length(end - start)?);
        let bytes = room.0.of_length(length(last - first)?);
        let read = |file: &File, bytes: &mut [u8]| -> io::Result<()> {
            let mut done = 0;
            // The end of the disk may be anywhere in the last step.
            while done < skip + wanted {
                match file.read_at(&mut bytes[done..], first + done as u64) {
                    Ok(0) if self.padded => {
                        bytes[done..].fill(0);
                        return Ok(());
                    }
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(more) => done += more,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        let direct = self.direct.as_ref().map(|direct| read(direct, bytes));
        match direct {
            // Filesystems and devices differ in what they let be read directly.
            Some(Err(error)) if error.kind() == ErrorKind::InvalidInput => {
                read(&self.cached, bytes)?;
            }
            Some(done) => done?,
            None => read(&self.cached, bytes)?,
        }
        Ok(&bytes[skip..skip + wanted])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;

    use chunkfmt::{Region, Span};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn regions_are_what_stands_there(
            steps in proptest::collection::vec((0_u64..400, 1_u32..60), 0..12), cut in 0_u64..2000,
        ) {
            let mut position = 0;
            let regions: Vec<Region> = steps.iter().map(|&(gap, sectors)| {
                let region = Region { first: position + gap, sectors };
                position = region.end();
                region
            }).collect();
            let disk: Vec<u8> = (0..position * 512).map(|at| (at / 512 * 7 + at % 251).to_le_bytes()[0]).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&disk).unwrap();
            file.sync_all().unwrap();
            let wanted: Vec<u8> = regions.iter().flat_map(|region| {
                disk[usize::try_from(region.first * 512).unwrap()..usize::try_from(region.end() * 512).unwrap()].to_vec()
            }).collect();
            let layout = Layout::new(Span { first: 0, sectors: position }, regions);
            let (mut data, mut room) = (vec![1, 2, 3], Room::default());
            Readback::new(&file).unwrap().read_regions(&layout, 512, &mut data, &mut room).unwrap();
            prop_assert!(data == wanted);

            if cut > 0 && !disk.is_empty() {
                file.set_len((disk.len() as u64).saturating_sub(cut)).unwrap();
                let found = Readback::new(&file).unwrap().read_regions(&layout, 512, &mut data, &mut room);
                prop_assert_eq!(found.unwrap_err().kind(), ErrorKind::UnexpectedEof);
            }
        }
    }
}
