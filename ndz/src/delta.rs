//! Which sectors a delta has to hold: those in use today that are not as a signature file says.

use std::io;

use crate::header::Region;
use crate::{Error, PIECE_MAX, SECTOR_SIZE, Signature};

impl Signature {
    /// What of the `allocated` regions of a disk has changed since the image of this signature was made.
    ///
    /// Allocated sectors in no entry are changed. An entry that has any is hashed as a whole, free sectors included; if
    /// the hash is another one, its allocated sectors are changed. So they are, without reading, if the entry overlaps
    /// one of the `fixups` (sectors that do not go into the image as they are on the disk) or goes beyond the disk.
    ///
    /// `read` fills a buffer of at most 1 MiB from the given sector on. The answer is ascending and has no two regions
    /// that touch.
    ///
    /// # Errors
    /// [`Error::Usage`] if `allocated` is not ascending, overlaps or goes beyond the disk; [`Error::ReadDisk`].
    pub fn changed(
        &self,
        allocated: &[Region],
        fixups: &[Region],
        disk_sectors: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Vec<Region>, Error> {
        check_ranges(allocated, disk_sectors)?;
        let mut changed = Merged(Vec::new());
        let mut buffer = vec![0; PIECE_MAX];
        let mut entries = self.entries().iter().peekable();
        // Whether the entry at the front differs, once that is known: it may overlap several regions.
        let mut differs = None;
        for region in allocated {
            let mut at = region.first;
            while at < region.end() {
                while entries.next_if(|entry| entry.sectors.end() <= at).is_some() {
                    differs = None;
                }
                let Some(entry) = entries.peek() else {
                    changed.add(at, region.end());
                    break;
                };
                if entry.sectors.first > at {
                    let end = region.end().min(entry.sectors.first);
                    changed.add(at, end);
                    at = end;
                    continue;
                }
                let end = region.end().min(entry.sectors.end());
                let is_changed = if let Some(known) = differs {
                    known
                } else {
                    let overlaps = |fixup: &Region| {
                        fixup.first < entry.sectors.end()
                            && entry.sectors.first < fixup.end()
                            && fixup.sectors > 0
                    };
                    entry.sectors.end() > disk_sectors
                        || fixups.iter().any(overlaps)
                        || self.hash(entry.sectors, &mut buffer, &mut read)? != *entry.hash()
                };
                differs = Some(is_changed);
                if is_changed {
                    changed.add(at, end);
                }
                at = end;
            }
        }
        Ok(changed.0)
    }

    fn hash(
        &self,
        sectors: Region,
        buffer: &mut [u8],
        read: &mut impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<[u8; 20], Error> {
        let mut hasher = self.hasher();
        let mut at = sectors.first;
        while at < sectors.end() {
            let bytes = usize::try_from(sectors.end() - at)
                .unwrap_or(PIECE_MAX)
                .saturating_mul(SECTOR_SIZE);
            let length = bytes.min(buffer.len());
            let piece = buffer.get_mut(..length).unwrap_or_default();
            read(at, piece).map_err(|source| Error::ReadDisk { sector: at, source })?;
            hasher.update(piece);
            at += (length / SECTOR_SIZE) as u64;
        }
        Ok(hasher.finish())
    }
}

/// Ascending regions of which those that touch are one.
struct Merged(Vec<Region>);

impl Merged {
    fn add(&mut self, first: u64, end: u64) {
        match self.0.last_mut() {
            Some(last) if last.end() == first => last.sectors += end - first,
            _ => self.0.push(Region {
                first,
                sectors: end - first,
            }),
        }
    }
}

/// Checks that regions are not empty, ascending, without overlap, and end before sector `end`.
pub(crate) fn check_ranges(ranges: &[Region], end: u64) -> Result<(), Error> {
    let mut free_from = 0;
    for range in ranges {
        let range_end = range.first.checked_add(range.sectors);
        if range.sectors == 0 || range.first < free_from {
            return Err(Error::Usage(
                "ranges of sectors have to be ascending, without overlap, and not empty",
            ));
        }
        free_from = range_end.filter(|&range_end| range_end <= end).ok_or(Error::Usage(
            "a range of sectors goes beyond the end of the disk, or of what the image format can name",
        ))?;
    }
    Ok(())
}
