//! The superblock of XFS: what the filesystem is, and where its groups and its log lie.
//!
//! Source: Linux `fs/xfs/libxfs/xfs_format.h` (`struct xfs_dsb`); the checks as in `xfs_sb.c`
//! (`xfs_validate_sb_common`).

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::features::{Features, MORE_BITS, unsupported};
use super::{NAME, crc_matches};
use crate::error::{Cause, Corrupt, Fault};
use crate::filesystem::text_field;
use crate::source::Window;

pub(super) const MAGIC: &[u8; 4] = b"XFSB";
const STRUCTURE: &str = "XFS superblock";
pub(super) const CRC_OFFSET: usize = 224;
const MIN_GROUP_BYTES: u64 = 16 << 20;
const MAX_GROUP_BYTES: u64 = 1 << 40;
const MIN_GROUP_BLOCKS: u64 = 64;
const MAX_LOG_BYTES: u64 = 1 << 31;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 4],
    block_size: U32,
    blocks: U64,
    rt_blocks: U64,
    rt_extents: U64,
    uuid: [u8; 16],
    log_start: U64,
    inodes: [U64; 3],
    rt_extent_size: U32,
    ag_blocks: U32,
    ag_count: U32,
    rt_bitmap_blocks: U32,
    log_blocks: U32,
    version: U16,
    sector_size: U16,
    inode_size: U16,
    inodes_per_block: U16,
    label: [u8; 12],
    block_log: u8,
    sector_log: u8,
    inode_log: u8,
    inodes_per_block_log: u8,
    ag_block_log: u8,
    rt_extents_log: u8,
    in_progress: u8,
    inode_max_percent: u8,
    inode_count: U64,
    free_inodes: U64,
    free_blocks: U64,
    free_rt_extents: U64,
    quota_inodes: [U64; 2],
    quota_flags: U16,
    flags: u8,
    shared_version: u8,
    inode_alignment: U32,
    stripe_unit: U32,
    stripe_width: U32,
    dir_block_log: u8,
    log_sector_log: u8,
    log_sector_size: U16,
    log_stripe_unit: U32,
    features2: U32,
    bad_features2: U32,
    features_compat: U32,
    features_ro_compat: U32,
    features_incompat: U32,
    features_log_incompat: U32,
    crc: U32,
    sparse_inode_alignment: U32,
    project_quota_inode: U64,
    lsn: U64,
    meta_uuid: [u8; 16],
}

/// What the parser needs to know of the filesystem. All logarithms agree with their numbers.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) features: Features,
    /// A power of two from 512 to 65536.
    pub(super) block_size: u32,
    /// A power of two from 512 to 32768, not larger than a block.
    pub(super) sector_size: u32,
    pub(super) blocks: u64,
    /// Blocks of every group but the last.
    pub(super) ag_blocks: u32,
    pub(super) ag_count: u32,
    /// Logarithm of the inodes in a block.
    pub(super) inodes_per_block_log: u8,
    /// Group and block in it where the log starts; the log ends in the same group.
    pub(super) log_group: u32,
    pub(super) log_first: u32,
    pub(super) log_blocks: u32,
    /// As the superblock counts them.
    pub(super) free_blocks: u64,
    pub(super) uuid: [u8; 16],
    /// The UUID that metadata carry.
    pub(super) meta_uuid: [u8; 16],
    pub(super) label: Option<String>,
}

impl Geometry {
    /// Blocks of a group.
    pub(super) fn group_blocks(&self, group: u32) -> u32 {
        let first = u64::from(group).saturating_mul(self.ag_blocks.into());
        let left = self.blocks.saturating_sub(first);
        u32::try_from(left).unwrap_or(u32::MAX).min(self.ag_blocks)
    }

    /// The block of the filesystem, counted without gaps, that is `block` of a group.
    pub(super) fn block(&self, group: u32, block: u32) -> u64 {
        let first = u64::from(group).saturating_mul(self.ag_blocks.into());
        first.saturating_add(block.into())
    }

    /// Where it lies in the window, in bytes.
    pub(super) fn offset(&self, group: u32, block: u32) -> u64 {
        self.block(group, block)
            .saturating_mul(self.block_size.into())
    }
}

/// Reads and checks the superblock of the first group.
pub(super) fn read(window: &Window<'_>) -> Result<Geometry, Fault> {
    let raw: RawSuperblock = window.read_struct(0)?;
    let features = features(&raw).map_err(|kind| window.fault(0, kind))?;
    if features.is_v5() {
        let sector_size = sector_size(&raw).map_err(|kind| window.fault(0, kind))?;
        let mut sector = vec![0; usize::try_from(sector_size).unwrap_or_default()];
        window.read(&mut sector, 0)?;
        if !crc_matches(&sector, CRC_OFFSET) {
            let kind = Corrupt::Checksum {
                structure: STRUCTURE,
                number: 0,
            };
            return Err(window.fault(0, kind));
        }
    }
    geometry(&raw, features, window.len()).map_err(|cause| window.fault(0, cause))
}

/// The feature bits; unknown ones are refused before anything else is believed.
fn features(raw: &RawSuperblock) -> Result<Features, Cause> {
    check(raw.magic == *MAGIC, "magicnum", 0)?;
    let mut features = Features {
        version: raw.version.get(),
        ..Features::default()
    };
    if features.version & MORE_BITS != 0 {
        // Kernels before 2.6.26 on some machines wrote the one for the other.
        let (good, bad) = (raw.features2.get(), raw.bad_features2.get());
        check(bad == 0 || good == bad, "bad_features2", bad)?;
        features.features2 = good;
    }
    if features.is_v5() {
        features.compat = raw.features_compat.get();
        features.ro_compat = raw.features_ro_compat.get();
        features.incompat = raw.features_incompat.get();
        features.log_incompat = raw.features_log_incompat.get();
    }
    features.check_known()?;
    Ok(features)
}

fn sector_size(raw: &RawSuperblock) -> Result<u32, Cause> {
    let size = raw.sector_size.get().into();
    let is_size = (9..=15).contains(&raw.sector_log) && size == power(raw.sector_log);
    check(is_size, "sectsize", size)?;
    Ok(size)
}

fn geometry(raw: &RawSuperblock, features: Features, partition: u64) -> Result<Geometry, Cause> {
    check(raw.in_progress == 0, "inprogress", raw.in_progress.into())?;
    check(
        raw.shared_version == 0,
        "shared_vn",
        raw.shared_version.into(),
    )?;
    let sector_size = sector_size(raw)?;
    let block_size = raw.block_size.get();
    let smallest = if features.is_v5() { 10 } else { 9 };
    let is_size = (smallest..=16).contains(&raw.block_log) && block_size == power(raw.block_log);
    check(is_size, "blocksize", block_size)?;
    check(sector_size <= block_size, "sectsize", sector_size)?;
    let inode_size = u32::from(raw.inode_size.get());
    let is_size = (8..=11).contains(&raw.inode_log) && inode_size == power(raw.inode_log);
    check(is_size && inode_size <= block_size, "inodesize", inode_size)?;
    let per_block_log = raw.block_log.saturating_sub(raw.inode_log);
    let per_block = u32::from(raw.inodes_per_block.get());
    let agree = raw.inodes_per_block_log == per_block_log && per_block == power(per_block_log);
    check(agree, "inopblock", per_block)?;

    if raw.rt_blocks.get() != 0 || raw.rt_extents.get() != 0 {
        return Err(unsupported("has a realtime section").into());
    }
    let blocks = raw.blocks.get();
    let bytes = blocks.saturating_mul(block_size.into());
    if bytes > partition {
        return Err(Corrupt::LargerThanPartition {
            filesystem: NAME,
            bytes,
            partition,
        }
        .into());
    }
    let ag_blocks = raw.ag_blocks.get();
    let ag_bytes = u64::from(ag_blocks).saturating_mul(block_size.into());
    let in_range = (MIN_GROUP_BYTES..=MAX_GROUP_BYTES).contains(&ag_bytes);
    check(in_range, "agblocks", ag_blocks)?;
    let ag_log = u32::BITS.saturating_sub(ag_blocks.saturating_sub(1).leading_zeros());
    let agree = u32::from(raw.ag_block_log) == ag_log;
    check(agree, "agblklog", raw.ag_block_log.into())?;
    let ag_count = raw.ag_count.get();
    let groups = blocks.div_ceil(ag_blocks.max(1).into());
    let agree = groups > 0 && u64::from(ag_count) == groups;
    check(agree, "agcount", ag_count)?;
    let last_first = u64::from(ag_count.saturating_sub(1)).saturating_mul(ag_blocks.into());
    let in_range = blocks.saturating_sub(last_first) >= MIN_GROUP_BLOCKS;
    check(in_range, "agcount", ag_count)?;

    let log = log(raw, ag_log, block_size)?;
    let geometry = Geometry {
        features,
        block_size,
        sector_size,
        blocks,
        ag_blocks,
        ag_count,
        inodes_per_block_log: per_block_log,
        log_group: log.0,
        log_first: log.1,
        log_blocks: log.2,
        free_blocks: raw.free_blocks.get(),
        uuid: raw.uuid,
        meta_uuid: if features.has_meta_uuid() {
            raw.meta_uuid
        } else {
            raw.uuid
        },
        label: text_field(&raw.label),
    };
    let (group, first, count) = log;
    let end = u64::from(first).saturating_add(count.into());
    let inside = group < ag_count && end <= geometry.group_blocks(group).into();
    if !inside {
        return Err(Corrupt::Outside {
            structure: STRUCTURE,
            block: raw.log_start.get(),
        }
        .into());
    }
    Ok(geometry)
}

/// Group, block and number of blocks of the log.
fn log(raw: &RawSuperblock, ag_log: u32, block_size: u32) -> Result<(u32, u32, u32), Cause> {
    let start = raw.log_start.get();
    if start == 0 {
        return Err(unsupported("has its log on another device").into());
    }
    let outside = || Corrupt::Outside {
        structure: STRUCTURE,
        block: start,
    };
    let group = start.checked_shr(ag_log).unwrap_or_default();
    let first = group
        .checked_shl(ag_log)
        .and_then(|base| start.checked_sub(base));
    let group = u32::try_from(group).map_err(|_| outside())?;
    let first = first.and_then(|first| u32::try_from(first).ok());
    let first = first.ok_or_else(outside)?;
    let count = raw.log_blocks.get();
    let bytes = u64::from(count).saturating_mul(block_size.into());
    check(count > 0 && bytes <= MAX_LOG_BYTES, "logblocks", count)?;
    Ok((group, first, count))
}

fn power(log: u8) -> u32 {
    1_u32.checked_shl(log.into()).unwrap_or_default()
}

fn check(valid: bool, field: &'static str, value: u32) -> Result<(), Cause> {
    if valid {
        return Ok(());
    }
    Err(Cause::field(STRUCTURE, field, value.into()))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<RawSuperblock>(), 264);
        assert_eq!(offset_of!(RawSuperblock, log_start), 48);
        assert_eq!(offset_of!(RawSuperblock, ag_blocks), 84);
        assert_eq!(offset_of!(RawSuperblock, version), 100);
        assert_eq!(offset_of!(RawSuperblock, label), 108);
        assert_eq!(offset_of!(RawSuperblock, in_progress), 126);
        assert_eq!(offset_of!(RawSuperblock, free_blocks), 144);
        assert_eq!(offset_of!(RawSuperblock, features2), 200);
        assert_eq!(offset_of!(RawSuperblock, features_incompat), 216);
        assert_eq!(offset_of!(RawSuperblock, crc), CRC_OFFSET);
        assert_eq!(offset_of!(RawSuperblock, meta_uuid), 248);
    }
}
