//! The partition table of the image, on a disk that is not the imaged one: changed before the boot sectors are written.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use diskmap::ReadAt;
use diskmap::edit::{Edit, Edited};
use frisbee_cli::units;

use super::volume::Disk;
use super::{AfterArgs, Log};
use crate::edges::Edges;

/// A disk whose ends are still held back, as it will be.
pub(crate) struct Finished<'a> {
    pub(crate) file: &'a File,
    pub(crate) edges: &'a Edges,
    /// Bytes of the imaged disk.
    pub(crate) bytes: u64,
}

impl ReadAt for Finished<'_> {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (start, end) = self.edges.middle(offset, buf.len() as u64);
        let place = |position: u64| usize::try_from(position - offset).map_err(io::Error::other);
        if let Some(middle) = buf.get_mut(place(start)?..place(end)?)
            && !middle.is_empty()
        {
            self.file.read_exact_at(middle, start)?;
        }
        self.edges.fill(offset, buf);
        Ok(())
    }
}

/// Bytes of a disk, and their offsets.
type Patches = Vec<(u64, Vec<u8>)>;

/// What of a disk was changed for its size when an image of so many bytes was installed on it: offsets, and the bytes as
/// they are in the image, and whether the image's end was cut off. Nothing if nothing was, or if that cannot be told.
pub(crate) fn as_imaged(file: &File, sector_size: u32, image_bytes: u64) -> (Patches, bool) {
    changed_back(file, sector_size, image_bytes).unwrap_or_default()
}

fn changed_back(
    mut file: &File,
    sector_size: u32,
    image_bytes: u64,
) -> io::Result<(Patches, bool)> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let size = u64::from(sector_size);
    let disk = Disk {
        file: file.try_clone()?,
        bytes: bytes - bytes % size,
    };
    let is_cut = disk.bytes < image_bytes;
    let bounds = || diskmap::edit::bounds(&disk, sector_size).map_err(io::Error::other);
    if disk.bytes == image_bytes || (is_cut && bounds()?.is_none()) {
        return Ok(Default::default());
    }
    let back = Edit {
        target_sectors: image_bytes / size,
        resize: true,
        ..Edit::default()
    };
    let edited = diskmap::edit::edit(&disk, sector_size, &back).map_err(io::Error::other)?;
    let mut writes = edited.writes;
    writes.retain(|(offset, bytes)| offset + bytes.len() as u64 <= image_bytes);
    Ok((writes, is_cut && edited.doubt.is_none()))
}

/// Puts what [`as_imaged`] has found over bytes that were read at `offset`.
pub(crate) fn overlay(patches: &[(u64, Vec<u8>)], offset: u64, bytes: &mut [u8]) {
    let end = offset + bytes.len() as u64;
    for (at, patch) in patches {
        let from = offset.max(*at);
        let to = end.min(at + patch.len() as u64);
        let place = |base: u64, at: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
        if from < to
            && let Some(over) = bytes.get_mut(place(offset, from)..place(offset, to))
            && let Some(patch) = patch.get(place(*at, from)..place(*at, to))
        {
            over.copy_from_slice(patch);
        }
    }
}

/// Tells what has changed in the table, and what has not.
pub(super) fn tell(table: &Edited, args: &AfterArgs, log: &Log<'_>) {
    if let Some(doubt) = &table.doubt {
        let text = format!("the partition table was left as it is in the image: {doubt}");
        log.warning("table", &text);
    }
    if let Some(sector) = table.moved {
        let text = format!("the backup GPT is at the end of the disk now, in sector {sector}");
        log.done("table", &text);
    }
    if !table.ids.is_empty() {
        let text = format!(
            "the partition table has {} new identifiers",
            table.ids.len()
        );
        log.done("table", &text);
    }
    if args.grow && table.grown.is_none() && table.doubt.is_none() {
        log.done(
            "grow",
            "nothing to grow: nothing is free behind the last partition",
        );
    }
}

/// A number of sectors as a size.
pub(super) fn size(sectors: u64, sector_size: u32) -> String {
    units::size(sectors.saturating_mul(sector_size.into()))
}
