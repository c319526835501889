//! Chunks of a disk: what the plan says is read, and sealed, or left out if the base of a delta holds it.

use std::collections::VecDeque;
use std::vec;

use chunkfmt::Sealer;
use chunkfmt::tree::Cv;
use diskmap::Extent;

use crate::base::Indexed;
use crate::create::{Made, Maker, Source, Watch};
use crate::{Disk, Error, Piece, Plan};

/// Where a disk is cut.
pub(crate) type DiskPlan = Plan<vec::IntoIter<Extent>>;

/// Pieces that are announced to the kernel before they are read: 16 MiB of data.
const AHEAD: usize = 8;

/// A plan whose pieces the kernel begins to read before a thread asks for them. Several threads that read in turn do not
/// look to the kernel like one that reads from beginning to end.
pub(crate) struct Ahead<'a> {
    disk: &'a Disk,
    plan: DiskPlan,
    announced: VecDeque<Piece>,
}

impl<'a> Ahead<'a> {
    pub(crate) fn new(disk: &'a Disk, plan: DiskPlan) -> Self {
        Self {
            disk,
            plan,
            announced: VecDeque::new(),
        }
    }
}

impl Iterator for Ahead<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while self.announced.len() <= AHEAD {
            let Some(piece) = self.plan.next() else {
                break;
            };
            self.disk.announce(&piece.layout);
            self.announced.push_back(piece);
        }
        self.announced.pop_front()
    }
}

impl Source for Ahead<'_> {
    type Item = Piece;

    fn take(&mut self, _input: &mut Vec<u8>) -> Result<Option<Piece>, Error> {
        Ok(self.next())
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
