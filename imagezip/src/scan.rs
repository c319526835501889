//! Chunks of a disk: what the plan says is read, and sealed, or left out if the base of a delta holds it.

use std::vec;

use chunkfmt::Sealer;
use chunkfmt::tree::Cv;
use diskmap::Extent;

use crate::base::Indexed;
use crate::create::{Made, Maker, Source, Watch};
use crate::{Disk, Error, Piece, Plan};

/// Where a disk is cut.
pub(crate) type DiskPlan = Plan<vec::IntoIter<Extent>>;

impl Source for DiskPlan {
    type Item = Piece;

    fn take(&mut self, _input: &mut Vec<u8>) -> Result<Option<Piece>, Error> {
        Ok(Iterator::next(self))
    }

    fn check(&mut self, _roots: &[(u32, Cv)]) -> Result<(), Error> {
        Ok(())
    }
}

/// Reads pieces of a disk and seals them.
pub(crate) struct Scanner<'a> {
    /// The disk.
    pub(crate) disk: &'a Disk,
    /// Of the new image.
    pub(crate) sealer: Sealer,
    /// What the new image is a delta to.
    pub(crate) base: Option<&'a Indexed>,
}

impl Maker for Scanner<'_> {
    type Item = Piece;

    fn make(
        &mut self,
        mut piece: Piece,
        data: &mut Vec<u8>,
        out: &mut Vec<u8>,
        watch: &mut Watch<'_>,
    ) -> Result<Made, Error> {
        self.disk.read_piece(&mut piece.layout, data)?;
        watch.has_read();
        seal(&mut self.sealer, self.base, piece, data, out)
    }
}

/// Seals a piece with its data, or leaves it out if the base holds it.
///
/// # Errors
/// If sealing fails.
pub(crate) fn seal(
    sealer: &mut Sealer,
    base: Option<&Indexed>,
    piece: Piece,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Result<Made, Error> {
    let Piece { index, layout } = piece;
    let span = layout.span;
    let held = match base {
        Some(base) => base.holds(&layout, data)?,
        None => false,
    };
    let sealed = if held {
        out.clear();
        sealer.leave_out(layout, data)?
    } else {
        sealer.seal(index, layout, data, out)?
    };
    Ok(Made {
        index,
        sealed,
        span,
        data_bytes: data.len() as u64,
        root: None,
    })
}
