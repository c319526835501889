//! Where a disk is cut into chunks.
//!
//! The disk is divided into blocks of a power of two of sectors at multiples of their size, each of them into two
//! halves, and so on; a chunk with data is the largest such block whose data fits. So borders depend on nothing but the
//! data between them: a change on the disk touches the chunks around it, an unchanged part gives unchanged chunks, and
//! a delta can leave them out. Blocks without data in a row are one chunk.

use std::collections::VecDeque;

use chunkfmt::{Layout, Region, Span};
use diskmap::Extent;

/// Bytes of the largest block. The distance of a region from the beginning of its span is a number of 32 bits.
const BLOCK_MAX: u64 = 1 << 40;

/// One chunk to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its position in the image.
    pub(crate) index: u32,
    /// The sectors that it answers for, and those that it holds.
    pub(crate) layout: Layout,
}

/// Cuts a disk into chunks, from the first sector to the last. It looks ahead no further than a chunk's data.
#[derive(Debug)]
pub(crate) struct Plan<I> {
    extents: I,
    /// The extents from `position` on that are known.
    ahead: VecDeque<Extent>,
    /// Sectors in `ahead`.
    ahead_sectors: u64,
    disk_sectors: u64,
    block_max: u64,
    chunk_sectors: u64,
    position: u64,
    index: u32,
}

impl<I: Iterator<Item = Extent>> Plan<I> {
    /// Plans chunks of at most `chunk_size` bytes of the `saved` extents, which are sorted, disjoint and inside the
    /// disk.
    pub(crate) fn new(saved: I, disk_sectors: u64, sector_size: u32, chunk_size: u32) -> Self {
        let sector_size = u64::from(sector_size);
        Self {
            extents: saved,
            ahead: VecDeque::new(),
            ahead_sectors: 0,
            disk_sectors,
            block_max: BLOCK_MAX / sector_size,
            chunk_sectors: u64::from(chunk_size) / sector_size,
            position: 0,
            index: 0,
        }
    }

    /// The sector up to which the data from `position` on fits into one chunk.
    fn reach(&mut self) -> u64 {
        while self.ahead_sectors <= self.chunk_sectors {
            let Some(extent) = self.extents.next() else {
                return u64::MAX;
            };
            self.ahead_sectors += extent.count;
            self.ahead.push_back(extent);
        }
        let mut room = self.chunk_sectors;
        for extent in &self.ahead {
            if extent.count > room {
                return extent.first + room;
            }
            room -= extent.count;
        }
        u64::MAX
    }

    /// The end of the largest block that begins at sector `first` and whose data fits.
    fn block_end(&self, first: u64, reach: u64) -> u64 {
        // What `first` is a multiple of. A block as large as a chunk always fits.
        let aligned = 1_u64
            .checked_shl(first.trailing_zeros())
            .unwrap_or(self.block_max);
        let mut sectors = aligned.min(self.block_max);
        while sectors > 1 && first.saturating_add(sectors) > reach {
            sectors /= 2;
        }
        first.saturating_add(sectors)
    }

    /// Takes the regions before sector `end`.
    fn take(&mut self, end: u64) -> Vec<Region> {
        let mut regions = Vec::new();
        while let Some(extent) = self.ahead.front_mut().filter(|extent| extent.first < end) {
            let sectors = extent.count.min(end - extent.first);
            regions.push(Region {
                first: extent.first,
                // Not more than a chunk holds.
                sectors: u32::try_from(sectors).unwrap_or(u32::MAX),
            });
            self.ahead_sectors -= sectors;
            extent.first += sectors;
            extent.count -= sectors;
            if extent.count == 0 {
                self.ahead.pop_front();
            }
        }
        regions
    }
}

impl<I: Iterator<Item = Extent>> Iterator for Plan<I> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let first = self.position;
        if first >= self.disk_sectors {
            return None;
        }
        let reach = self.reach();
        let data = self.ahead.front().map(|extent| extent.first);
        let end = match data {
            None => self.disk_sectors,
            Some(data) => {
                let mut end = self.block_end(first, reach);
                // Without data: up to the block that has some.
                while end <= data {
                    let next = self.block_end(end, reach);
                    if next > data {
                        break;
                    }
                    end = next;
                }
                end.min(self.disk_sectors)
            }
        };
        let regions = self.take(end);
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
        const MIB: u64 = (1 << 20) / 512;
        check(&[], 0);
        check(&[], 1);
        check(&[(0, 1)], 1);
        check(&[], 1 << 40);
        check(&[(0, 1), ((1 << 40) - 1, 1)], 1 << 40);
        check(&[((1 << 40) - 1, 1)], 1 << 40);
        check(&[(0, 2600 * MIB + 17)], 2700 * MIB);
        check(&[(64 * MIB - 1, 2)], 192 * MIB);
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
    fn little_data_gives_few_chunks() {
        assert_eq!(plan(&[], 1 << 40).len(), 1);
        assert_eq!(plan(&[(5, 10), (1 << 30, 100)], 1 << 31).len(), 1);
        // Full at both ends of an empty TiB.
        let end = (1 << 31) - 8192;
        let pieces = plan(&[(0, 8192), (end, 8192)], 1 << 31);
        assert_eq!(pieces.len(), 5, "{pieces:?}");
    }

    /// Sectors of data in the chunks of `one` that `other` does not have.
    fn changed(one: &[Piece], other: &[Piece]) -> u64 {
        one.iter()
            .filter(|piece| other.iter().all(|known| known.layout != piece.layout))
            .map(|piece| piece.layout.data_sectors())
            .sum()
    }

    proptest! {
        /// A change inside one small block costs one chunk, and what was added.
        #[test]
        fn a_change_costs_one_chunk(
            steps in proptest::collection::vec((1_u64..30_000, 1_u64..9000), 0..60),
            at in 0_u64..500, length in 1_u64..4096,
        ) {
            let mut position = 0;
            let (mut saved, mut with_hole) = (Vec::new(), Vec::new());
            let hole = at * 4096..at * 4096 + length;
            for (gap, count) in steps {
                let (first, end) = (position + gap, position + gap + count);
                saved.push((first, count));
                for (first, end) in [(first, end.min(hole.start)), (first.max(hole.end), end)] {
                    if first < end {
                        with_hole.push((first, end - first));
                    }
                }
                position = end;
            }
            let (whole, holed) = (plan(&saved, position + 1), plan(&with_hole, position + 1));
            prop_assert!(changed(&holed, &whole) <= 4096);
            prop_assert!(changed(&whole, &holed) <= 4096 + length);
        }

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
