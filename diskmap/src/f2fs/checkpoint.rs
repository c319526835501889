//! The checkpoint of F2FS that counts: the newer one of two packs, if it was an unmount.
//!
//! A pack is a first block, bitmaps that did not fit there, summaries of the six open segments,
//! and the first block again. The two journals in the summaries hold the latest entries of the
//! segment information table and of the node address table.
//!
//! Source: Linux `include/linux/f2fs_fs.h` (`struct f2fs_checkpoint`, `f2fs_journal`),
//! `fs/f2fs/checkpoint.c` (`validate_checkpoint`), `fs/f2fs/f2fs.h` (`__bitmap_ptr`,
//! `sum_blk_addr`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::superblock::{self, Geometry};
use super::{BLOCK, NAME, SEGMENT, crc, read_block};
use crate::error::{Cause, Corrupt, Fault, Incompatible};
use crate::source::Window;

const STRUCTURE: &str = "F2FS checkpoint";
const UNMOUNT: u32 = 0x0001;
const COMPACT_SUMMARY: u32 = 0x0004;
const LARGE_NAT_BITMAP: u32 = 0x0400;
/// Orphans, error, fsck wanted, quota fsck wanted, disabled (twice), resizing.
const NOT_CLEAN: u32 = 0x0002 | 0x0008 | 0x0010 | 0x0800 | 0x1000 | 0x2000 | 0x4000;
/// Unmount, compact, fast boot, CRC recovery, NAT bits, trimmed, no CRC recovery, large bitmap.
const HARMLESS: u32 = 0x0001 | 0x0004 | 0x0020 | 0x0040 | 0x0080 | 0x0100 | 0x0200 | 0x0400;
/// Data and node logs that are in use.
const LOGS: usize = 3;
const MAX_CHECKSUM_OFFSET: u32 = 4092;
/// Where a summary block keeps its journal: behind 512 entries of 7 bytes.
const JOURNAL_OFFSET: usize = 3584;
const JOURNAL_BYTES: usize = 507;
const COLD_DATA: u64 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawCheckpoint {
    version: U64,
    user_blocks: U64,
    valid_blocks: U64,
    reserved_segments: U32,
    overprovision_segments: U32,
    free_segments: U32,
    node_segments: [U32; 8],
    node_offsets: [U16; 8],
    data_segments: [U32; 8],
    data_offsets: [U16; 8],
    flags: U32,
    pack_blocks: U32,
    start_summary: U32,
    valid_nodes: U32,
    valid_inodes: U32,
    next_free_nid: U32,
    sit_bitmap_bytes: U32,
    nat_bitmap_bytes: U32,
    checksum_offset: U32,
    elapsed_time: U64,
    allocation: [u8; 16],
}

/// The bitmaps come right behind.
const BITMAPS: usize = size_of::<RawCheckpoint>();

pub(super) struct Checkpoint {
    pub(super) version: u64,
    pub(super) valid_blocks: u64,
    pub(super) valid_nodes: u64,
    /// Which copy of each block of the tables counts; the first bit is the highest of byte 0.
    pub(super) sit_bitmap: Vec<u8>,
    pub(super) nat_bitmap: Vec<u8>,
    pub(super) sit_journal: Vec<u8>,
    pub(super) nat_journal: Vec<u8>,
    /// Blocks where writing of nodes goes on.
    pub(super) next_nodes: Vec<u64>,
}

/// Reads the checkpoint, unless the filesystem was left in any other way than by an unmount.
pub(super) fn read(window: &Window<'_>, geometry: &Geometry) -> Result<Checkpoint, Fault> {
    let places = [
        geometry.checkpoint,
        geometry.checkpoint.saturating_add(SEGMENT),
    ];
    let mut newest: Option<(u64, RawCheckpoint, Vec<u8>)> = None;
    for start in places {
        if is_unwritten(window, start)? {
            continue;
        }
        let (raw, block) = pack(window, start)?;
        // As the kernel compares them.
        let is_newer = newest.as_ref().is_none_or(|(_, last, _)| {
            let ahead = raw.version.get().wrapping_sub(last.version.get());
            ahead != 0 && ahead <= u64::MAX / 2
        });
        if is_newer {
            newest = Some((start, raw, block));
        }
    }
    let Some((start, raw, block)) = newest else {
        let kind = Corrupt::Structure {
            structure: STRUCTURE,
            problem: "is missing",
        };
        return Err(window.fault(places[0].saturating_mul(BLOCK), kind));
    };
    let at = start.saturating_mul(BLOCK);
    check_flags(raw.flags.get()).map_err(|kind| window.fault(at, kind))?;
    let fault = |kind| window.fault(at, kind);

    let mut bitmaps = block;
    for index in 1..=geometry.checkpoint_payload {
        bitmaps.extend(read_block(window, start.saturating_add(index))?);
    }
    let (sit, nat) = bitmaps_of(&raw, geometry, &bitmaps).map_err(fault)?;
    let (sit_journal, nat_journal) = journals(window, &raw, geometry, start)?;
    let next_nodes = next_nodes(&raw, geometry).map_err(fault)?;
    Ok(Checkpoint {
        version: raw.version.get(),
        valid_blocks: raw.valid_blocks.get(),
        valid_nodes: raw.valid_nodes.get().into(),
        sit_bitmap: sit,
        nat_bitmap: nat,
        sit_journal,
        nat_journal,
        next_nodes,
    })
}

/// Whether a pack has no first block, as resize.f2fs leaves one of them.
fn is_unwritten(window: &Window<'_>, start: u64) -> Result<bool, Fault> {
    let bytes = read_block(window, start)?;
    Ok(bytes.iter().all(|&byte| byte == 0))
}

/// The first block of a pack, if its copy at the end is of the same version. After an unmount both
/// packs are whole; a torn one means that a checkpoint was under way.
fn pack(window: &Window<'_>, start: u64) -> Result<(RawCheckpoint, Vec<u8>), Fault> {
    let (head, bytes) = block(window, start)?;
    let blocks = u64::from(head.pack_blocks.get());
    if !(3..=SEGMENT).contains(&blocks) {
        let kind = field("cp_pack_total_block_count", blocks);
        return Err(window.fault(start.saturating_mul(BLOCK), kind));
    }
    let end = start.saturating_add(blocks).saturating_sub(1);
    let (tail, _) = block(window, end)?;
    if head.version != tail.version {
        let kind = Corrupt::Structure {
            structure: STRUCTURE,
            problem: "was not completed",
        };
        return Err(window.fault(end.saturating_mul(BLOCK), kind));
    }
    Ok((head, bytes))
}

/// A block with a checksum that matches.
fn block(window: &Window<'_>, number: u64) -> Result<(RawCheckpoint, Vec<u8>), Fault> {
    let fault = |kind| window.fault(number.saturating_mul(BLOCK), kind);
    let bytes = read_block(window, number)?;
    let (raw, _) =
        RawCheckpoint::read_from_prefix(&bytes).map_err(|_| fault(field("length", 0)))?;
    let offset = raw.checksum_offset.get();
    let at = usize::try_from(offset).unwrap_or(usize::MAX);
    let in_range = at >= BITMAPS && offset <= MAX_CHECKSUM_OFFSET && at % 4 == 0;
    let parts = in_range
        .then(|| bytes.split_at_checked(at))
        .flatten()
        .and_then(|(head, rest)| Some((head, rest.split_first_chunk::<4>()?)));
    let Some((head, (stored, tail))) = parts else {
        return Err(fault(field("checksum_offset", offset.into())));
    };
    if crc(crc(superblock::MAGIC, head), tail) != u32::from_le_bytes(*stored) {
        return Err(fault(Corrupt::Checksum {
            structure: STRUCTURE,
            number,
        }));
    }
    Ok((raw, bytes))
}

fn check_flags(flags: u32) -> Result<(), Cause> {
    let not_clean = |what, remedy| Incompatible::NotClean {
        filesystem: NAME,
        what,
        remedy,
    };
    if flags & UNMOUNT == 0 {
        let remedy = "mount and unmount it, or run fsck.f2fs";
        return Err(not_clean("was not unmounted", remedy).into());
    }
    if flags & NOT_CLEAN != 0 {
        let what = "has errors, orphans or a checkpoint that is disabled";
        return Err(not_clean(what, "run fsck.f2fs").into());
    }
    if flags & !(HARMLESS | NOT_CLEAN) != 0 {
        return Err(Incompatible::Features {
            filesystem: NAME,
            set: "checkpoint",
            bits: u64::from(flags & !(HARMLESS | NOT_CLEAN)),
        }
        .into());
    }
    Ok(())
}

/// The version bitmaps of SIT and NAT.
fn bitmaps_of(
    raw: &RawCheckpoint,
    geometry: &Geometry,
    bytes: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Corrupt> {
    let (sit_bytes, nat_bytes) = (raw.sit_bitmap_bytes.get(), raw.nat_bitmap_bytes.get());
    for (name, bytes, blocks) in [
        ("sit_ver_bitmap_bytesize", sit_bytes, geometry.sit_blocks),
        ("nat_ver_bitmap_bytesize", nat_bytes, geometry.nat_blocks),
    ] {
        if u64::from(bytes) != blocks / 8 {
            return Err(field(name, bytes.into()));
        }
    }
    let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    let (sit_bytes, nat_bytes) = (size(sit_bytes), size(nat_bytes));
    let (sit, nat) = if raw.flags.get() & LARGE_NAT_BITMAP != 0 {
        // The checksum stands before them.
        let nat = BITMAPS.saturating_add(4);
        if size(raw.checksum_offset.get()) != BITMAPS {
            return Err(field("checksum_offset", raw.checksum_offset.get().into()));
        }
        (nat.saturating_add(nat_bytes), nat)
    } else if geometry.checkpoint_payload > 0 {
        (size(4096), BITMAPS)
    } else {
        (BITMAPS, BITMAPS.saturating_add(sit_bytes))
    };
    let part = |start: usize, len: usize, name| {
        let end = start.saturating_add(len);
        let part = bytes.get(start..end).map(<[u8]>::to_vec);
        part.ok_or_else(|| field(name, u64::try_from(len).unwrap_or(u64::MAX)))
    };
    let sit = part(sit, sit_bytes, "sit_ver_bitmap_bytesize")?;
    let nat = part(nat, nat_bytes, "nat_ver_bitmap_bytesize")?;
    Ok((sit, nat))
}

/// The journals of SIT and NAT, which hang on the summaries of two of the data logs.
fn journals(
    window: &Window<'_>,
    raw: &RawCheckpoint,
    geometry: &Geometry,
    start: u64,
) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let fault = |kind| window.fault(start.saturating_mul(BLOCK), kind);
    let pack = u64::from(raw.pack_blocks.get());
    let summaries = u64::from(raw.start_summary.get());
    // The first block and its payload come before (orphans would, too), the last block after.
    let first = geometry.checkpoint_payload.saturating_add(1);
    let compact = raw.flags.get() & COMPACT_SUMMARY != 0;
    let end = pack.saturating_sub(1);
    let count = end.saturating_sub(summaries);
    let fits = summaries == first
        && if compact {
            (4..=5).contains(&count)
        } else {
            count == 6
        };
    if !fits {
        return Err(fault(field("cp_pack_start_sum", summaries)));
    }
    let block = start.saturating_add(summaries);
    let cut = |bytes: &[u8], at: usize| {
        let end = at.saturating_add(JOURNAL_BYTES);
        bytes.get(at..end).unwrap_or_default().to_vec()
    };
    if compact {
        let bytes = read_block(window, block)?;
        return Ok((cut(&bytes, JOURNAL_BYTES), cut(&bytes, 0)));
    }
    let hot = read_block(window, block)?;
    let cold = read_block(window, block.saturating_add(COLD_DATA))?;
    Ok((cut(&cold, JOURNAL_OFFSET), cut(&hot, JOURNAL_OFFSET)))
}

/// Where the three node logs go on. All open segments must lie in the main area.
fn next_nodes(raw: &RawCheckpoint, geometry: &Geometry) -> Result<Vec<u64>, Corrupt> {
    let nodes = raw.node_segments.iter().zip(&raw.node_offsets).take(LOGS);
    let data = raw.data_segments.iter().zip(&raw.data_offsets).take(LOGS);
    let mut next = Vec::new();
    for (index, (segment, offset)) in nodes.chain(data).enumerate() {
        let (segment, offset) = (segment.get(), u64::from(offset.get()));
        if segment >= geometry.main_segments || offset > SEGMENT {
            return Err(Corrupt::Outside {
                structure: STRUCTURE,
                block: segment.into(),
            });
        }
        let first = u64::from(segment).saturating_mul(SEGMENT);
        let block = geometry.main.saturating_add(first).saturating_add(offset);
        // Behind a full segment the kernel looks into the next one.
        if index < LOGS && block < geometry.main_end() {
            next.push(block);
        }
    }
    Ok(next)
}

fn field(field: &'static str, value: u64) -> Corrupt {
    Corrupt::Field {
        structure: STRUCTURE,
        field,
        value,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layout_is_that_of_the_kernel() {
        assert_eq!(BITMAPS, 192);
        assert_eq!(offset_of!(RawCheckpoint, node_segments), 36);
        assert_eq!(offset_of!(RawCheckpoint, data_segments), 84);
        assert_eq!(offset_of!(RawCheckpoint, flags), 132);
        assert_eq!(offset_of!(RawCheckpoint, sit_bitmap_bytes), 156);
        assert_eq!(offset_of!(RawCheckpoint, checksum_offset), 164);
    }
}
