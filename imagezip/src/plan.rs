//! Where a disk is cut into chunks.
//!
//! The disk is divided into windows of 64 MiB at fixed positions. A chunk never reaches over the end of a window that
//! holds data, and inside a window it is cut at multiples of 64 KiB: so a change on the disk can move the borders of
//! chunks in its own window only, and an unchanged part of a disk gives unchanged chunks. Windows without data belong
//! to the chunk before them.

use chunkfmt::{Layout, Region, Span};
use diskmap::Extent;

/// Bytes of a window.
const WINDOW: u64 = 64 << 20;

/// Chunks are cut at multiples of this many bytes of the disk.
const CUT: u64 = 64 << 10;

/// One chunk to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its position in the image.
    pub index: u32,
    /// The sectors that it answers for, and those that it holds.
    pub layout: Layout,
}

/// Cuts a disk into chunks, from the first sector to the last.
#[derive(Debug)]
pub struct Plan<I> {
    extents: I,
    /// What is left of the extent that was cut, or the next one.
    ahead: Option<Extent>,
    disk_sectors: u64,
    window: u64,
    cut: u64,
    chunk_sectors: u64,
    position: u64,
    index: u32,
}

impl<I: Iterator<Item = Extent>> Plan<I> {
    /// Plans chunks of at most `chunk_size` bytes of the `saved` extents, which are sorted, disjoint and inside the
    /// disk.
    pub fn new(saved: I, disk_sectors: u64, sector_size: u32, chunk_size: u32) -> Self {
        let sector_size = u64::from(sector_size);
        let mut extents = saved;
        let ahead = extents.next();
        Self {
            extents,
            ahead,
            disk_sectors,
            window: WINDOW / sector_size,
            cut: CUT / sector_size,
            chunk_sectors: u64::from(chunk_size) / sector_size,
            position: 0,
            index: 0,
        }
    }

    /// Takes as much of the extent ahead as the chunk has room for and the window holds; `None` if that is nothing.
    fn take(&mut self, room: u64, window_end: u64) -> Option<Region> {
        let extent = self.ahead.filter(|extent| extent.first < window_end)?;
        let mut end = extent.end().min(window_end);
        if extent.first + room < end {
            // Back to the last position where chunks are cut. In an empty chunk there always is one.
            let full = extent.first + room;
            end = full - full % self.cut;
        }
        let sectors = end
            .checked_sub(extent.first)
            .filter(|&sectors| sectors > 0)?;
        let region = Region {
            first: extent.first,
            sectors: u32::try_from(sectors).ok()?,
        };
        let rest = Extent {
            first: end,
            count: extent.end() - end,
        };
        self.ahead = if rest.count > 0 {
            Some(rest)
        } else {
            self.extents.next()
        };
        Some(region)
    }

    fn window_of(&self, sector: u64) -> u64 {
        sector - sector % self.window
    }
}

impl<I: Iterator<Item = Extent>> Iterator for Plan<I> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let first = self.position;
        if first >= self.disk_sectors {
            return None;
        }
        let mut regions = Vec::new();
        let data = self.ahead.map(|extent| extent.first);
        // A disk may begin with more free space than a region can be away from the begin of its span.
        let window = data
            .filter(|data| data - first <= u64::from(u32::MAX))
            .map(|data| self.window_of(data));
        if let Some(window) = window {
            let mut room = self.chunk_sectors;
            while let Some(region) = self.take(room, window + self.window) {
                room -= u64::from(region.sectors);
                regions.push(region);
            }
        }
        // The chunk answers for all up to what the next one begins with.
        let end = match self.ahead.map(|extent| extent.first) {
            None => self.disk_sectors,
            Some(next) if Some(self.window_of(next)) == window => next,
            Some(next) => self.window_of(next),
        };
        self.position = end;
        let index = self.index;
        self.index = index.checked_add(1)?;
        let span = Span {
            first,
            sectors: end - first,
        };
        Some(Piece {
            index,
            layout: Layout::new(span, regions),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNK: u32 = 2 << 20;

    fn plan(saved: &[(u64, u64)], disk_sectors: u64) -> Vec<Piece> {
        let saved: Vec<Extent> = saved
            .iter()
            .map(|&(first, count)| Extent { first, count })
            .collect();
        Plan::new(saved.into_iter(), disk_sectors, 512, CHUNK).collect()
    }

    /// Spans tile the disk; regions are all of `saved` and nothing else, in order, inside their spans.
    fn check(saved: &[(u64, u64)], disk_sectors: u64) {
        let pieces = plan(saved, disk_sectors);
        let mut position = 0;
        let mut sectors = Vec::new();
        for (index, piece) in (0..).zip(&pieces) {
            assert_eq!((piece.index, piece.layout.span.first), (index, position));
            assert!(piece.layout.span.sectors > 0);
            position = piece.layout.span.end();
            let mut inside = piece.layout.span.first;
            for region in &piece.layout.regions {
                assert!(
                    region.first >= inside
                        && region.sectors > 0
                        && region.first - inside <= u64::from(u32::MAX)
                );
                inside = region.end();
                match sectors.last_mut() {
                    Some((_, end)) if *end == region.first => *end = region.end(),
                    _ => sectors.push((region.first, region.end())),
                }
            }
            assert!(inside <= position);
            let held: u64 = piece
                .layout
                .regions
                .iter()
                .map(|region| u64::from(region.sectors))
                .sum();
            assert!(held <= u64::from(CHUNK) / 512);
        }
        assert_eq!(position, disk_sectors);
        let expected: Vec<_> = saved
            .iter()
            .map(|&(first, count)| (first, first + count))
            .collect();
        assert_eq!(sectors, expected);
    }

    #[test]
    fn disks_of_all_kinds() {
        const WINDOW_SECTORS: u64 = WINDOW / 512;
        check(&[], 0);
        check(&[], 1);
        check(&[(0, 1)], 1);
        check(&[], 1 << 40);
        check(&[(0, 1), ((1 << 40) - 1, 1)], 1 << 40);
        check(&[((1 << 40) - 1, 1)], 1 << 40);
        check(&[(0, 40 * WINDOW_SECTORS + 17)], 41 * WINDOW_SECTORS);
        check(&[(WINDOW_SECTORS - 1, 2)], 3 * WINDOW_SECTORS);
    }

    #[test]
    fn a_full_disk_gives_full_chunks() {
        let pieces = plan(&[(0, 1 << 20)], 1 << 20);
        assert_eq!(pieces.len(), (1 << 20) * 512 / CHUNK as usize);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.layout.regions.len() == 1 && piece.layout.span.sectors == 4096)
        );
    }

    #[test]
    fn a_change_moves_no_border_outside_its_window() {
        let window = WINDOW / 512;
        let all = plan(&[(0, 10 * window)], 10 * window);
        let hole = plan(
            &[
                (0, 3 * window + 5000),
                (3 * window + 5100, 7 * window - 5100),
            ],
            10 * window,
        );
        let outside = |pieces: Vec<Piece>| -> Vec<_> {
            let inside = 3 * window..4 * window;
            let outside = pieces
                .into_iter()
                .filter(|piece| !inside.contains(&piece.layout.span.first));
            outside
                .map(|piece| (piece.layout.span, piece.layout.regions))
                .collect()
        };
        assert_eq!(outside(all), outside(hole));
    }

    proptest! {
        #[test]
        fn any_extents(steps in proptest::collection::vec((1_u64..300_000, 1_u64..20_000), 0..60), tail in 0_u64..300_000) {
            let mut position = 0;
            let mut saved = Vec::new();
            for (gap, count) in steps {
                saved.push((position + gap, count));
                position += gap + count;
            }
            check(&saved, position + tail);
        }
    }
}
