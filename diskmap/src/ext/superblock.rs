//! The ext2/3/4 superblock: read, checked in the order of the kernel's mount, reduced to the
//! [`Geometry`] that the rest of the parser computes with.
//!
//! Source: Linux `fs/ext4/ext4.h` (`struct ext4_super_block`) and `fs/ext4/super.c`. After
//! [`read`] the numbers are bounded: `blocks * block_size` fits the partition, so no product or
//! sum of block numbers overflows.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{Protection, crc32c};
use super::features::{self, Features};
use crate::error::{Corrupt, Fault, Incompatible};
use crate::filesystem::text_field;
use crate::source::Window;

/// Byte offset of the superblock in its partition.
pub(super) const OFFSET: u64 = 1024;
const MAGIC: u16 = 0xef53;
const STATE_CLEAN: u16 = 0x0001;
const STATE_ERRORS: u16 = 0x0002;
/// 512 TiB in groups of 128 MiB. Bounds the memory for the descriptors.
const MAX_GROUPS: u64 = 4 << 20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    inodes_count: U32,           // 0x000
    blocks_count_lo: U32,        // 0x004
    counts: [u8; 12],            // 0x008
    first_data_block: U32,       // 0x014
    log_block_size: U32,         // 0x018
    log_cluster_size: U32,       // 0x01c
    blocks_per_group: U32,       // 0x020
    clusters_per_group: U32,     // 0x024
    inodes_per_group: U32,       // 0x028
    mounts: [u8; 12],            // 0x02c
    magic: U16,                  // 0x038
    state: U16,                  // 0x03a
    checks: [u8; 16],            // 0x03c
    rev_level: U32,              // 0x04c
    owner: [u8; 8],              // 0x050
    inode_size: U16,             // 0x058
    block_group_nr: U16,         // 0x05a
    feature_compat: U32,         // 0x05c
    feature_incompat: U32,       // 0x060
    feature_ro_compat: U32,      // 0x064
    uuid: [u8; 16],              // 0x068
    volume_name: [u8; 16],       // 0x078
    last_mounted: [u8; 70],      // 0x088
    reserved_gdt_blocks: U16,    // 0x0ce
    journal_uuid: [u8; 16],      // 0x0d0
    journal_inum: U32,           // 0x0e0
    journal_dev: U32,            // 0x0e4
    orphans_and_hash: [u8; 21],  // 0x0e8
    jnl_backup_type: u8,         // 0x0fd
    desc_size: U16,              // 0x0fe
    mount_opts: [u8; 4],         // 0x100
    first_meta_bg: U32,          // 0x104
    mkfs_time: [u8; 4],          // 0x108
    jnl_blocks: [U32; 17],       // 0x10c
    blocks_count_hi: U32,        // 0x150
    counts_hi: [u8; 33],         // 0x154
    checksum_type: u8,           // 0x175
    errors_and_quota: [u8; 214], // 0x176
    backup_bgs: [U32; 2],        // 0x24c
    encryption: [u8; 28],        // 0x254
    checksum_seed: U32,          // 0x270
    reserved: [u8; 392],         // 0x274
    checksum: U32,               // 0x3fc
}

/// The layout of one filesystem, checked. Blocks are numbered from its start.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) features: Features,
    pub(super) protection: Protection,
    pub(super) block_size: u32,
    pub(super) blocks: u64,
    pub(super) first_data_block: u64,
    pub(super) blocks_per_group: u64,
    /// Blocks per bit of a bitmap; 1 without bigalloc.
    pub(super) blocks_per_cluster: u64,
    pub(super) clusters_per_group: u32,
    pub(super) groups: u32,
    /// Bytes of one group descriptor: 32, or from 64 on.
    pub(super) desc_size: u32,
    pub(super) inode_table_blocks: u64,
    pub(super) inode_size: u16,
    /// Number of the journal's inode and the copy of its block map, where there is one.
    pub(super) journal: Option<(u32, [u8; 60])>,
    pub(super) reserved_gdt_blocks: u64,
    pub(super) first_meta_bg: u64,
    pub(super) backup_groups: [u32; 2],
    pub(super) uuid: [u8; 16],
    pub(super) label: Option<String>,
}

/// Where a superblock seems to stand, damaged or not: the magic number.
pub(super) fn detect(window: &Window<'_>) -> Result<Option<u64>, Fault> {
    Ok(read_raw(window)?.map(|_| OFFSET))
}

/// Whether what stands here is a superblock and not boot code with two matching bytes.
pub(super) fn is_plausible(window: &Window<'_>) -> Result<bool, Fault> {
    Ok(read_raw(window)?.is_some_and(|raw| {
        raw.rev_level.get() <= 1
            && raw.log_block_size.get() <= 6
            && raw.blocks_per_group.get() >= 256
            && raw.inodes_per_group.get() > 0
    }))
}

fn read_raw(window: &Window<'_>) -> Result<Option<RawSuperblock>, Fault> {
    if !window.contains(OFFSET, 1024) {
        return Ok(None);
    }
    let raw: RawSuperblock = window.read_struct(OFFSET)?;
    Ok((raw.magic.get() == MAGIC).then_some(raw))
}

/// Reads the superblock and checks all of it.
pub(super) fn read(window: &Window<'_>) -> Result<Geometry, Fault> {
    let raw: RawSuperblock = window.read_struct(OFFSET)?;
    let fault = |cause: crate::Cause| window.fault(OFFSET, cause);
    let features = check_kind(&raw).map_err(|kind| fault(kind.into()))?;
    let protection = check_protection(&raw, features).map_err(fault)?;
    check_state(&raw, features).map_err(|kind| fault(kind.into()))?;
    geometry(&raw, features, protection, window.len()).map_err(fault)
}

/// Revision and features.
fn check_kind(raw: &RawSuperblock) -> Result<Features, Incompatible> {
    let features = Features {
        compat: raw.feature_compat.get(),
        incompat: raw.feature_incompat.get(),
        ro_compat: raw.feature_ro_compat.get(),
    };
    let revision = raw.rev_level.get();
    if revision > 1 {
        return Err(unsupported("has a revision later than 1"));
    }
    features.check_known()?;
    if features.incompat(features::JOURNAL_DEV) {
        return Err(unsupported(
            "is the journal of a filesystem on another device",
        ));
    }
    // Room to grow the first table and a second kind of table: no tool makes both, and e2fsck takes it for damage.
    if features.incompat(features::META_BG) && features.compat(features::RESIZE_INODE) {
        return Err(unsupported("has both resize_inode and meta_bg"));
    }
    Ok(features)
}

fn unsupported(what: &'static str) -> Incompatible {
    Incompatible::Unsupported {
        filesystem: super::NAME,
        what,
    }
}

fn not_clean(what: &'static str) -> Incompatible {
    Incompatible::NotClean {
        filesystem: super::NAME,
        what,
        remedy: "unmount it or run e2fsck",
    }
}

fn check_protection(raw: &RawSuperblock, features: Features) -> Result<Protection, crate::Cause> {
    if features.ro_compat(features::METADATA_CSUM) {
        if raw.checksum_type != 1 {
            return Err(unsupported("has checksums other than CRC-32C").into());
        }
        let (covered, _) = raw.as_bytes().split_at(1020);
        if crc32c(!0, &[covered]) != raw.checksum.get() {
            return Err(Corrupt::Checksum {
                structure: "ext superblock at byte",
                number: OFFSET,
            }
            .into());
        }
        let seed = if features.incompat(features::CSUM_SEED) {
            raw.checksum_seed.get()
        } else {
            crc32c(!0, &[&raw.uuid])
        };
        Ok(Protection::Crc32c { seed })
    } else if features.ro_compat(features::GDT_CSUM) {
        Ok(Protection::Crc16 { uuid: raw.uuid })
    } else {
        Ok(Protection::None)
    }
}

/// Whether the bitmaps on the disk are the latest word.
fn check_state(raw: &RawSuperblock, features: Features) -> Result<(), Incompatible> {
    if features.incompat(features::RECOVER) {
        return Err(not_clean("has a journal that needs recovery"));
    }
    // An external journal may hold commits that nothing here shows.
    if features.compat(features::HAS_JOURNAL) && raw.journal_inum.get() == 0 {
        return Err(unsupported("has its journal on another device"));
    }
    let state = raw.state.get();
    if state & STATE_CLEAN == 0 || state & STATE_ERRORS != 0 {
        return Err(not_clean("is not marked clean"));
    }
    Ok(())
}

fn geometry(
    raw: &RawSuperblock,
    features: Features,
    protection: Protection,
    partition: u64,
) -> Result<Geometry, crate::Cause> {
    let log_block_size = raw.log_block_size.get();
    check(log_block_size <= 6, "log_block_size", log_block_size)?;
    let block_size = 1024_u32 << log_block_size;
    let bits_per_block = block_size.saturating_mul(8);

    let bigalloc = features.ro_compat(features::BIGALLOC);
    let log_cluster_size = raw.log_cluster_size.get();
    let cluster_bits = log_cluster_size.checked_sub(log_block_size);
    let cluster_bits = cluster_bits.filter(|&bits| bits <= 20 && (bigalloc || bits == 0));
    let cluster_bits =
        cluster_bits.ok_or_else(|| bad("log_cluster_size", log_cluster_size.into()))?;

    let first_data_block = raw.first_data_block.get();
    if bigalloc && first_data_block != 0 {
        return Err(unsupported("has clusters that are not counted from block 0").into());
    }
    let expected = u32::from(log_block_size == 0 && !bigalloc);
    check(
        first_data_block == expected,
        "first_data_block",
        first_data_block,
    )?;

    let blocks_per_group = raw.blocks_per_group.get();
    let clusters_per_group = if bigalloc {
        raw.clusters_per_group.get()
    } else {
        blocks_per_group
    };
    let in_range =
        (8..=bits_per_block).contains(&clusters_per_group) && clusters_per_group % 8 == 0;
    check(in_range, "clusters_per_group", clusters_per_group)?;
    let expected = u64::from(clusters_per_group) << cluster_bits;
    let in_range = blocks_per_group >= 256 && u64::from(blocks_per_group) == expected;
    check(in_range, "blocks_per_group", blocks_per_group)?;

    let blocks_hi = raw.blocks_count_hi.get();
    check(
        blocks_hi == 0 || features.incompat(features::BIT64),
        "blocks_count_hi",
        blocks_hi,
    )?;
    let blocks = u64::from(blocks_hi) << 32 | u64::from(raw.blocks_count_lo.get());
    let filesystem = blocks.saturating_mul(block_size.into());
    if filesystem > partition {
        return Err(Corrupt::LargerThanPartition {
            filesystem: super::NAME,
            bytes: filesystem,
            partition,
        }
        .into());
    }
    let data_blocks = blocks
        .checked_sub(first_data_block.into())
        .filter(|&blocks| blocks > 0);
    let data_blocks = data_blocks.ok_or_else(|| bad("blocks_count", blocks))?;
    let groups = data_blocks.div_ceil(blocks_per_group.into());
    let groups = u32::try_from(groups)
        .ok()
        .filter(|&count| u64::from(count) <= MAX_GROUPS)
        .ok_or_else(|| unsupported("has more block groups than are mapped"))?;

    let desc_size = descriptor_size(raw, features)?;
    let desc_blocks = groups.div_ceil(block_size.checked_div(desc_size).unwrap_or(1));
    let first_meta_bg = raw.first_meta_bg.get();
    let in_range = !features.incompat(features::META_BG) || first_meta_bg <= desc_blocks;
    check(in_range, "first_meta_bg", first_meta_bg)?;
    let reserved = raw.reserved_gdt_blocks.get();
    check(
        u32::from(reserved) <= block_size >> 2,
        "reserved_gdt_blocks",
        reserved.into(),
    )?;

    // A backup at the start of a partition describes a filesystem that begins elsewhere.
    check(
        raw.block_group_nr.get() == 0,
        "block_group_nr",
        raw.block_group_nr.get().into(),
    )?;
    Ok(Geometry {
        inode_table_blocks: inode_table_blocks(raw, block_size, groups)?,
        inode_size: inode_size(raw),
        journal: journal(raw, features),
        features,
        protection,
        block_size,
        blocks,
        first_data_block: first_data_block.into(),
        blocks_per_group: blocks_per_group.into(),
        blocks_per_cluster: 1 << cluster_bits,
        clusters_per_group,
        groups,
        desc_size,
        reserved_gdt_blocks: reserved.into(),
        first_meta_bg: first_meta_bg.into(),
        backup_groups: raw.backup_bgs.map(U32::get),
        uuid: raw.uuid,
        label: text_field(&raw.volume_name),
    })
}

fn descriptor_size(raw: &RawSuperblock, features: Features) -> Result<u32, Corrupt> {
    if !features.incompat(features::BIT64) {
        return Ok(32);
    }
    let size = raw.desc_size.get();
    check(
        (64..=1024).contains(&size) && size.is_power_of_two(),
        "desc_size",
        size.into(),
    )?;
    Ok(size.into())
}

fn inode_size(raw: &RawSuperblock) -> u16 {
    match raw.rev_level.get() {
        0 => 128,
        _ => raw.inode_size.get(),
    }
}

fn journal(raw: &RawSuperblock, features: Features) -> Option<(u32, [u8; 60])> {
    let is_copied = features.compat(features::HAS_JOURNAL) && raw.jnl_backup_type == 1;
    let map = raw.jnl_blocks.as_bytes().first_chunk()?;
    is_copied.then_some((raw.journal_inum.get(), *map))
}

fn inode_table_blocks(raw: &RawSuperblock, block_size: u32, groups: u32) -> Result<u64, Corrupt> {
    let inode_size = inode_size(raw);
    let in_range = inode_size >= 128 && u32::from(inode_size) <= block_size;
    check(
        in_range && inode_size.is_power_of_two(),
        "inode_size",
        inode_size.into(),
    )?;
    let per_group = raw.inodes_per_group.get();
    let in_range = (1..=block_size.saturating_mul(8)).contains(&per_group);
    check(in_range, "inodes_per_group", per_group)?;
    let inodes = raw.inodes_count.get();
    let expected = u64::from(per_group).saturating_mul(groups.into());
    check(u64::from(inodes) == expected, "inodes_count", inodes)?;
    let bytes = u64::from(per_group).saturating_mul(inode_size.into());
    Ok(bytes.div_ceil(block_size.into()))
}

fn check(valid: bool, field: &'static str, value: u32) -> Result<(), Corrupt> {
    if valid {
        Ok(())
    } else {
        Err(bad(field, value.into()))
    }
}

fn bad(field: &'static str, value: u64) -> Corrupt {
    Corrupt::Field {
        structure: "ext superblock",
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
        assert_eq!(size_of::<RawSuperblock>(), 1024);
        assert_eq!(offset_of!(RawSuperblock, magic), 0x38);
        assert_eq!(offset_of!(RawSuperblock, uuid), 0x68);
        assert_eq!(offset_of!(RawSuperblock, reserved_gdt_blocks), 0xce);
        assert_eq!(offset_of!(RawSuperblock, jnl_backup_type), 0xfd);
        assert_eq!(offset_of!(RawSuperblock, desc_size), 0xfe);
        assert_eq!(offset_of!(RawSuperblock, jnl_blocks), 0x10c);
        assert_eq!(offset_of!(RawSuperblock, blocks_count_hi), 0x150);
        assert_eq!(offset_of!(RawSuperblock, checksum_type), 0x175);
        assert_eq!(offset_of!(RawSuperblock, backup_bgs), 0x24c);
        assert_eq!(offset_of!(RawSuperblock, checksum_seed), 0x270);
        assert_eq!(offset_of!(RawSuperblock, checksum), 0x3fc);
    }
}
