//! The two superblocks of F2FS: where its areas lie.
//!
//! Source: Linux `include/linux/f2fs_fs.h` (`struct f2fs_super_block`); the checks as in
//! `fs/f2fs/super.c` (`sanity_check_raw_super`, `sanity_check_area_boundary`). The feature bits
//! as f2fs-tools 1.16, `include/f2fs_fs.h`, their names as its `lib/libf2fs.c`
//! (`print_sb_state`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BLOCK, NAME, SEGMENT, crc};
use crate::error::{Cause, Corrupt, Fault, Incompatible};
use crate::source::Window;

const STRUCTURE: &str = "F2FS superblock";
pub(super) const MAGIC: u32 = 0xf2f5_2010;
const OFFSET: u64 = 1024;
const BACKUP_OFFSET: u64 = BLOCK + OFFSET;
const CHECKSUM_OFFSET: u32 = 3068;
const SB_CHECKSUM: u32 = 0x0800;

/// Names of the features that do not change what is allocated where. Not among them: zoned
/// devices (0x0002), read-only filesystems with two logs (0x4000), files that alias a device
/// (0x8000), and packed summaries (0x1_0000).
const FEATURES: &[(u32, &str)] = &[
    (0x0001, "encrypt"),
    (0x0400, "verity"),
    (0x0008, "extra_attr"),
    (0x0010, "project_quota"),
    (0x0020, "inode_checksum"),
    (0x0040, "flexible_inline_xattr"),
    (0x0080, "quota_ino"),
    (0x0100, "inode_crtime"),
    (0x0200, "lost_found"),
    (SB_CHECKSUM, "sb_checksum"),
    (0x1000, "casefold"),
    (0x2000, "compression"),
];
const ZONED: u32 = 0x0002;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawDevice {
    path: [u8; 64],
    segments: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: U32,
    version: [U16; 2],
    log_sector_size: U32,
    log_sectors_per_block: U32,
    log_block_size: U32,
    log_blocks_per_segment: U32,
    segments_per_section: U32,
    sections_per_zone: U32,
    checksum_offset: U32,
    blocks: U64,
    sections: U32,
    segments: U32,
    checkpoint_segments: U32,
    sit_segments: U32,
    nat_segments: U32,
    ssa_segments: U32,
    main_segments: U32,
    segment0: U32,
    checkpoint: U32,
    sit: U32,
    nat: U32,
    ssa: U32,
    main: U32,
    root_inode: U32,
    node_inode: U32,
    meta_inode: U32,
    uuid: [u8; 16],
    label: [U16; 512],
    extension_count: U32,
    extensions: [[u8; 8]; 64],
    checkpoint_payload: U32,
    kernel_version: [u8; 256],
    first_kernel_version: [u8; 256],
    features: U32,
    encryption_level: u8,
    encryption_salt: [u8; 16],
    devices: [RawDevice; 8],
    quota_inodes: [U32; 3],
    hot_extension_count: u8,
    encoding: U16,
    encoding_flags: U16,
    stop_reasons: [u8; 32],
    errors: [u8; 16],
    reserved: [u8; 258],
    checksum: U32,
}

/// What the parser needs to know. All places are block numbers; the areas follow each other
/// without gaps and end inside the partition.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) blocks: u64,
    pub(super) checkpoint: u64,
    /// Blocks behind the first of a checkpoint that hold bitmaps.
    pub(super) checkpoint_payload: u64,
    pub(super) sit: u64,
    /// Blocks of one of the two copies of the segment information table.
    pub(super) sit_blocks: u64,
    pub(super) nat: u64,
    /// Blocks of one of the two copies of the node address table.
    pub(super) nat_blocks: u64,
    pub(super) main: u64,
    pub(super) main_segments: u32,
    /// Inodes that have no block.
    pub(super) virtual_inodes: [u32; 2],
    pub(super) features: Vec<&'static str>,
    pub(super) uuid: [u8; 16],
    pub(super) label: Option<String>,
}

impl Geometry {
    /// The block behind the main area.
    pub(super) fn main_end(&self) -> u64 {
        let blocks = u64::from(self.main_segments).saturating_mul(SEGMENT);
        self.main.saturating_add(blocks)
    }
}

/// Reads the superblock and compares it with its copy.
pub(super) fn read(window: &Window<'_>) -> Result<Geometry, Fault> {
    let fault = |cause| window.fault(OFFSET, cause);
    let raw: RawSuperblock = window.read_struct(OFFSET)?;
    let geometry = geometry(&raw, window.len()).map_err(fault)?;
    let backup: RawSuperblock = window.read_struct(BACKUP_OFFSET)?;
    let same = backup.as_bytes().get(..PLACES) == raw.as_bytes().get(..PLACES)
        && backup.uuid == raw.uuid
        && backup.checkpoint_payload == raw.checkpoint_payload
        && backup.features == raw.features;
    if !same {
        let kind = Corrupt::Structure {
            structure: STRUCTURE,
            problem: "differs from its copy",
        };
        return Err(window.fault(BACKUP_OFFSET, kind));
    }
    Ok(geometry)
}

/// All that stands before the inode numbers.
const PLACES: usize = std::mem::offset_of!(RawSuperblock, root_inode);

fn geometry(raw: &RawSuperblock, partition: u64) -> Result<Geometry, Cause> {
    check(raw.magic.get() == MAGIC, "magic", raw.magic.get())?;
    let features = raw.features.get();
    if features & ZONED != 0 {
        return Err(unsupported("is for a zoned device"));
    }
    let known = FEATURES.iter().fold(0, |bits, (bit, _)| bits | bit);
    if features & !known != 0 {
        return Err(Incompatible::Features {
            filesystem: NAME,
            set: "superblock",
            bits: u64::from(features & !known),
        }
        .into());
    }
    if features & SB_CHECKSUM != 0 {
        let at = raw.checksum_offset.get();
        check(at == CHECKSUM_OFFSET, "checksum_offset", at)?;
        let covered = usize::try_from(at).unwrap_or_default();
        let covered = raw.as_bytes().get(..covered).unwrap_or_default();
        if crc(MAGIC, covered) != raw.checksum.get() {
            return Err(Corrupt::Checksum {
                structure: STRUCTURE,
                number: 0,
            }
            .into());
        }
    }
    if raw.devices.iter().any(|device| device.path[0] != 0) {
        return Err(unsupported("spans several devices"));
    }
    let recorded = raw.stop_reasons.iter().chain(&raw.errors);
    if recorded.into_iter().any(|&byte| byte != 0) {
        return Err(Incompatible::NotClean {
            filesystem: NAME,
            what: "has recorded errors",
            remedy: "run fsck.f2fs",
        }
        .into());
    }
    let log_block = raw.log_block_size.get();
    if log_block != 12 {
        return Err(unsupported("has blocks of another size than 4096 bytes"));
    }
    let log_sector = raw.log_sector_size.get();
    let sectors = log_sector.saturating_add(raw.log_sectors_per_block.get());
    check((9..=12).contains(&log_sector), "log_sectorsize", log_sector)?;
    check(sectors == log_block, "log_sectors_per_block", sectors)?;
    let log_segment = raw.log_blocks_per_segment.get();
    check(log_segment == 9, "log_blocks_per_seg", log_segment)?;

    let blocks = raw.blocks.get();
    let bytes = blocks.saturating_mul(BLOCK);
    if bytes > partition {
        return Err(Corrupt::LargerThanPartition {
            filesystem: NAME,
            bytes,
            partition,
        }
        .into());
    }
    let segments = [
        raw.checkpoint_segments,
        raw.sit_segments,
        raw.nat_segments,
        raw.ssa_segments,
        raw.main_segments,
    ]
    .map(U32::get);
    let starts = [raw.checkpoint, raw.sit, raw.nat, raw.ssa, raw.main].map(U32::get);
    let fields = [
        "cp_blkaddr",
        "sit_blkaddr",
        "nat_blkaddr",
        "ssa_blkaddr",
        "main_blkaddr",
    ];
    let segment0 = raw.segment0.get();
    // Two superblocks come first.
    check(segment0 >= 2, "segment0_blkaddr", segment0)?;
    let mut end = u64::from(segment0);
    for ((start, count), field) in starts.into_iter().zip(segments).zip(fields) {
        check(u64::from(start) == end, field, start)?;
        end = end.saturating_add(u64::from(count).saturating_mul(SEGMENT));
    }
    let [
        checkpoint_segments,
        sit_segments,
        nat_segments,
        ssa_segments,
        main_segments,
    ] = segments;
    check(end <= blocks, "segment_count_main", main_segments)?;
    let per_section = raw.segments_per_section.get();
    let sections = raw.sections.get();
    let agree = per_section > 0
        && u64::from(sections).saturating_mul(per_section.into()) == u64::from(main_segments);
    check(agree, "section_count", sections)?;
    check(
        checkpoint_segments == 2,
        "segment_count_ckpt",
        checkpoint_segments,
    )?;
    check(sit_segments % 2 == 0, "segment_count_sit", sit_segments)?;
    check(nat_segments % 2 == 0, "segment_count_nat", nat_segments)?;
    let ssa_blocks = u64::from(ssa_segments).saturating_mul(SEGMENT);
    let covers = main_segments > 0 && ssa_blocks >= u64::from(main_segments);
    check(covers, "segment_count_ssa", ssa_segments)?;
    let copy = |segments: u32| u64::from(segments / 2).saturating_mul(SEGMENT);
    let payload = raw.checkpoint_payload.get();
    check(u64::from(payload) < SEGMENT - 8, "cp_payload", payload)?;
    Ok(Geometry {
        blocks,
        checkpoint: raw.checkpoint.get().into(),
        checkpoint_payload: payload.into(),
        sit: raw.sit.get().into(),
        sit_blocks: copy(sit_segments),
        nat: raw.nat.get().into(),
        nat_blocks: copy(nat_segments),
        main: raw.main.get().into(),
        main_segments,
        virtual_inodes: [raw.node_inode.get(), raw.meta_inode.get()],
        features: FEATURES
            .iter()
            .filter(|(bit, _)| features & bit != 0)
            .map(|&(_, name)| name)
            .collect(),
        uuid: raw.uuid,
        label: label(&raw.label),
    })
}

fn label(units: &[U16]) -> Option<String> {
    let units = units.iter().map(|unit| unit.get());
    let units = units.take_while(|&unit| unit != 0);
    let text: String = char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    (!text.is_empty()).then_some(text)
}

fn unsupported(what: &'static str) -> Cause {
    Incompatible::Unsupported {
        filesystem: NAME,
        what,
    }
    .into()
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
        assert_eq!(size_of::<RawSuperblock>(), 3072);
        assert_eq!(offset_of!(RawSuperblock, blocks), 36);
        assert_eq!(offset_of!(RawSuperblock, segment0), 72);
        assert_eq!(offset_of!(RawSuperblock, uuid), 108);
        assert_eq!(offset_of!(RawSuperblock, checkpoint_payload), 1664);
        assert_eq!(offset_of!(RawSuperblock, features), 2180);
        assert_eq!(offset_of!(RawSuperblock, devices), 2201);
        assert_eq!(offset_of!(RawSuperblock, stop_reasons), 2762);
        assert_eq!(offset_of!(RawSuperblock, checksum), 3068);
    }
}
