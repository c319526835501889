//! Cylinder groups: which fragments are free, and whether everything that counts them agrees.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::byteorder::{ByteOrder, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::raw::{RawSum, Sum};
use super::superblock::{Superblock, hash_without};
use crate::bitmap;
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, FreeRuns};
use crate::source::Window;

const MAGIC: u32 = 0x0009_0255;
const HASH_OFFSET: usize = 132;
const STRUCTURE: &str = "UFS cylinder group";

/// `struct cg`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawGroup<O: ByteOrder> {
    firstfield: U32<O>,
    magic: U32<O>,
    old_time: U32<O>,
    cgx: U32<O>,
    old_ncyl: U16<O>,
    old_niblk: U16<O>,
    ndblk: U32<O>,
    cs: RawSum<O>,
    rotors: [U32<O>; 3],
    frsum: [U32<O>; 8],
    old_btotoff: U32<O>,
    old_boff: U32<O>,
    iusedoff: U32<O>,
    freeoff: U32<O>,
    nextfreeoff: U32<O>,
    clustersumoff: U32<O>,
    clusteroff: U32<O>,
    nclusterblks: U32<O>,
    unused: [U32<O>; 4],
    ckhash: U32<O>,
    time: U64<O>,
    spare: [U64<O>; 3],
}

/// Reads all groups. Returns the free fragments.
pub(super) fn read<O: ByteOrder>(
    window: &Window<'_>,
    superblock: &Superblock,
) -> Result<FreeRuns, Fault> {
    let mut free = FreeRuns::default();
    let mut total = Sum::default();
    let summaries = superblock.summary.first;
    let summaries = summaries.saturating_mul(superblock.fragment_bytes());
    for number in 0..superblock.groups {
        let sum = read_group::<O>(window, superblock, number, &mut free)?;
        let at = summaries.saturating_add(number.saturating_mul(16));
        let mut recorded = [0; 16];
        window.read(&mut recorded, at)?;
        let recorded = RawSum::<O>::ref_from_bytes(&recorded)
            .map(RawSum::to_sum)
            .ok();
        if recorded != Some(sum) {
            let kind = Corrupt::Structure {
                structure: "UFS summary of the cylinder groups",
                problem: "contradicts a group",
            };
            return Err(window.fault(at, kind));
        }
        total.add(&sum);
    }
    let counts = [
        (
            "free UFS blocks",
            superblock.total.free_blocks,
            total.free_blocks,
        ),
        (
            "free UFS fragments",
            superblock.total.free_fragments,
            total.free_fragments,
        ),
        (
            "free UFS inodes",
            superblock.total.free_inodes,
            total.free_inodes,
        ),
    ];
    compare(window, 0, counts)?;
    Ok(free)
}

fn compare<const N: usize>(
    window: &Window<'_>,
    offset: u64,
    counts: [(&'static str, u64, u64); N],
) -> Result<(), Fault> {
    for (what, recorded, counted) in counts {
        if recorded != counted {
            let kind = Corrupt::Count {
                what,
                recorded,
                counted,
            };
            return Err(window.fault(offset, kind));
        }
    }
    Ok(())
}

fn read_group<O: ByteOrder>(
    window: &Window<'_>,
    superblock: &Superblock,
    number: u64,
    free: &mut FreeRuns,
) -> Result<Sum, Fault> {
    let group = superblock.group(number);
    let metadata = superblock.metadata(number);
    let at = superblock
        .group_block(number)
        .saturating_mul(superblock.fragment_bytes());
    if !group.covers(&metadata) {
        let kind = Corrupt::Outside {
            structure: STRUCTURE,
            block: metadata.first,
        };
        return Err(window.fault(at, kind));
    }
    let mut bytes = vec![0; usize::try_from(superblock.group_bytes).unwrap_or(0)];
    window.read(&mut bytes, at)?;
    let bad = |field, value: u32| {
        let kind = Corrupt::Field {
            structure: STRUCTURE,
            field,
            value: value.into(),
        };
        window.fault(at, kind)
    };
    let Ok((raw, _)) = RawGroup::<O>::ref_from_prefix(&bytes) else {
        return Err(bad("size", superblock.group_bytes));
    };
    if raw.magic.get() != MAGIC {
        return Err(bad("cg_magic", raw.magic.get()));
    }
    if superblock.groups_are_hashed && hash_without(&bytes, HASH_OFFSET) != Some(raw.ckhash.get()) {
        let kind = Corrupt::Checksum {
            structure: STRUCTURE,
            number,
        };
        return Err(window.fault(at, kind));
    }
    if u64::from(raw.cgx.get()) != number {
        return Err(bad("cg_cgx", raw.cgx.get()));
    }
    if u64::from(raw.ndblk.get()) != group.count {
        return Err(bad("cg_ndblk", raw.ndblk.get()));
    }
    // The map of inodes and that of fragments follow each other behind the fixed fields.
    let inode_map = map_at(&bytes, raw.iusedoff.get(), superblock.inodes_per_group)
        .ok_or_else(|| bad("cg_iusedoff", raw.iusedoff.get()))?;
    let fragments = superblock.fragments_per_group;
    let fragment_map = map_at(&bytes, raw.freeoff.get(), fragments)
        .filter(|_| {
            let end = raw
                .iusedoff
                .get()
                .saturating_add(superblock.inodes_per_group.div_ceil(8));
            raw.freeoff.get() == end
        })
        .ok_or_else(|| bad("cg_freeoff", raw.freeoff.get()))?;

    // A set bit is a free fragment: the other way round than the runs of zeros are.
    let used: Vec<u8> = fragment_map.iter().map(|byte| !byte).collect();
    let counted = Fragments::count(&used, fragments, superblock.fragments_per_block);
    let recorded = raw.cs.to_sum();
    let free_inodes = u64::from(zeros(inode_map, superblock.inodes_per_group));
    compare(
        window,
        at,
        [
            (
                "free blocks of a UFS cylinder group",
                recorded.free_blocks,
                counted.free_blocks,
            ),
            (
                "free fragments of a UFS cylinder group",
                recorded.free_fragments,
                counted.free_fragments,
            ),
            (
                "free inodes of a UFS cylinder group",
                recorded.free_inodes,
                free_inodes,
            ),
        ],
    )?;
    check_runs(window, at, raw, &counted, superblock.fragments_per_block)?;
    if superblock.has_cluster_maps {
        let blocks = u32::try_from(group.count)
            .unwrap_or(0)
            .checked_div(superblock.fragments_per_block)
            .unwrap_or(0);
        if raw.nclusterblks.get() != blocks {
            return Err(bad("cg_nclusterblks", raw.nclusterblks.get()));
        }
        let map = map_at(&bytes, raw.clusteroff.get(), blocks)
            .ok_or_else(|| bad("cg_clusteroff", raw.clusteroff.get()))?;
        let mut free_blocks = vec![0; map.len()];
        for &(first, count) in &counted.block_runs {
            bitmap::set(&mut free_blocks, first.into(), count.into());
        }
        let used_bits = blocks.checked_rem(8).unwrap_or(0);
        if let (Some(last), true) = (free_blocks.last_mut(), used_bits != 0) {
            // What lies behind the last block of the group is not looked at.
            let spare = u8::MAX.checked_shl(used_bits).unwrap_or(0);
            *last = (*last & !spare) | (map.last().copied().unwrap_or(0) & spare);
        }
        if free_blocks != map {
            let kind = Corrupt::Structure {
                structure: STRUCTURE,
                problem: "contradicts its own map of free blocks",
            };
            return Err(window.fault(at, kind));
        }
    }
    let mut problem = None;
    bitmap::zero_runs(&used, fragments, |first, count| {
        let run = Extent {
            first: group.first.saturating_add(first.into()),
            count: count.into(),
        };
        let reserved = [metadata, superblock.summary];
        if !group.covers(&run) || reserved.iter().any(|extent| extent.overlaps(&run)) {
            problem = problem.or(Some(run.first));
        }
        free.push(run);
    });
    match problem {
        Some(block) => {
            let structure = "UFS metadata is called free, or what lies behind the end";
            Err(window.fault(at, Corrupt::Conflict { structure, block }))
        }
        None => Ok(recorded),
    }
}

/// A map of so many bits behind the fixed fields.
fn map_at(bytes: &[u8], offset: u32, bits: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let len = usize::try_from(bits.div_ceil(8)).ok()?;
    if start < size_of::<RawGroup<zerocopy::LittleEndian>>() {
        return None;
    }
    bytes.get(start..)?.get(..len)
}

fn zeros(map: &[u8], bits: u32) -> u32 {
    let mut total = 0_u32;
    bitmap::zero_runs(map, bits, |_, count| total = total.saturating_add(count));
    total
}

/// Compares the numbers of free runs of each length that are shorter than a block.
fn check_runs<O: ByteOrder>(
    window: &Window<'_>,
    at: u64,
    raw: &RawGroup<O>,
    counted: &Fragments,
    per_block: u32,
) -> Result<(), Fault> {
    let lengths = usize::try_from(per_block).unwrap_or(0);
    for (recorded, &counted) in raw.frsum.iter().zip(&counted.runs).take(lengths).skip(1) {
        let recorded = u64::from(recorded.get());
        let what = "runs of free fragments in a UFS cylinder group";
        compare(window, at, [(what, recorded, counted)])?;
    }
    Ok(())
}

/// Free blocks, and free fragments of blocks that are not wholly free.
#[derive(Default)]
struct Fragments {
    free_blocks: u64,
    free_fragments: u64,
    /// First block and number, ascending.
    block_runs: Vec<(u32, u32)>,
    /// Runs of free fragments by their length, in blocks that are not wholly free.
    runs: [u64; 8],
}

impl Fragments {
    fn count(used: &[u8], fragments: u32, per_block: u32) -> Self {
        let mut count = Self::default();
        let per_block = per_block.max(1);
        bitmap::zero_runs(used, fragments, |first, len| {
            let end = first.saturating_add(len);
            let to_block = |fragment: u32| fragment.checked_div(per_block).unwrap_or(0);
            let (from, to) = (to_block(first.next_multiple_of(per_block)), to_block(end));
            if from > to {
                // Within one block.
                count.add_run(len);
                return;
            }
            let blocks = to.saturating_sub(from);
            if blocks > 0 {
                count.free_blocks = count.free_blocks.saturating_add(blocks.into());
                count.block_runs.push((from, blocks));
            }
            count.add_run(from.saturating_mul(per_block).saturating_sub(first));
            count.add_run(end.saturating_sub(to.saturating_mul(per_block)));
        });
        count
    }

    fn add_run(&mut self, len: u32) {
        let index = usize::try_from(len).unwrap_or(usize::MAX);
        if let (Some(runs), true) = (self.runs.get_mut(index), len > 0) {
            *runs = runs.saturating_add(1);
        }
        self.free_fragments = self.free_fragments.saturating_add(len.into());
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_layout_is_that_of_fs_h() {
        type Raw = RawGroup<zerocopy::LittleEndian>;
        assert_eq!(size_of::<Raw>(), 168);
        assert_eq!(offset_of!(Raw, ndblk), 20);
        assert_eq!(offset_of!(Raw, cs), 24);
        assert_eq!(offset_of!(Raw, iusedoff), 92);
        assert_eq!(offset_of!(Raw, freeoff), 96);
        assert_eq!(offset_of!(Raw, nclusterblks), 112);
        assert_eq!(offset_of!(Raw, ckhash), HASH_OFFSET);
        assert_eq!(offset_of!(Raw, time), 136);
    }

    #[test]
    fn only_whole_aligned_blocks_count_as_blocks() {
        // Fragments 1 to 15, 18 and 20 to 23 are free.
        let used = [0b0000_0001, 0, 0b0000_1011];
        let count = Fragments::count(&used, 24, 8);
        assert_eq!((count.free_blocks, count.free_fragments), (1, 12));
        assert_eq!(count.block_runs, [(1, 1)]);
        assert_eq!(count.runs, [0, 1, 0, 0, 1, 0, 0, 1]);
        let count = Fragments::count(&used, 24, 4);
        assert_eq!((count.free_blocks, count.free_fragments), (4, 4));
        assert_eq!(count.block_runs, [(1, 3), (5, 1)]);
        assert_eq!(count.runs, [0, 1, 0, 1, 0, 0, 0, 0]);
        let count = Fragments::count(&used, 24, 1);
        assert_eq!((count.free_blocks, count.free_fragments), (20, 0));
        // Two runs in one block, and one over the end of a block.
        let count = Fragments::count(&[0b1001_1001, 0b1111_1110], 16, 8);
        assert_eq!((count.free_blocks, count.free_fragments), (0, 5));
        assert_eq!(count.runs, [0, 1, 2, 0, 0, 0, 0, 0]);
    }
}
