//! The partition table of the image, on a disk that is not the imaged one: changed before the boot sectors are written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use diskmap::ReadAt;
use diskmap::edit::Edited;
use frisbee_cli::units;

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
