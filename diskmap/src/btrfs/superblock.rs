//! The Btrfs superblock: read from its first place, checked as the kernel does before it mounts,
//! and reduced to what the trees are read with.
//!
//! Source: Linux `include/uapi/linux/btrfs_tree.h` (`struct btrfs_super_block`) and
//! `fs/btrfs/disk-io.c` (`btrfs_validate_super`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Checksum;
use super::node::Root;
use super::{NAME, SUPERBLOCK};
use crate::Cause;
use crate::error::{Corrupt, Fault, Incompatible};
use crate::filesystem::text_field;
use crate::source::Window;

/// Where superblocks stand, as far as the device reaches.
pub(super) const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// Bytes that nothing else is put into at each place (`BTRFS_STRIPE_LEN`).
pub(super) const PLACE_LEN: u64 = 64 << 10;
/// Bytes of a superblock.
const LEN: u64 = 4096;
const MAGIC: &[u8; 8] = b"_BHRfS_M";
/// `BTRFS_HEADER_FLAG_WRITTEN`, the only flag of a superblock at rest: others tell of errors,
/// seed devices, dumps of metadata alone, and conversions that were cut short.
const FLAG_WRITTEN: u64 = 1;
pub(super) const LEVELS: u8 = 8;
const SYS_CHUNKS_LEN: usize = 2048;

const MIXED_BACKREF: u64 = 1 << 0;
const MIXED_GROUPS: u64 = 1 << 2;
const METADATA_UUID: u64 = 1 << 10;
const BLOCK_GROUP_TREE: u64 = 1 << 3;
/// Features that are understood, or do not matter to where things lie, by bit. Not here: zoned,
/// extent tree v2, RAID stripe tree, remap tree, and whatever comes next.
const INCOMPAT: [(u64, &str); 13] = [
    (MIXED_BACKREF, "MIXED_BACKREF"),
    (1 << 1, "DEFAULT_SUBVOL"),
    (MIXED_GROUPS, "MIXED_GROUPS"),
    (1 << 3, "COMPRESS_LZO"),
    (1 << 4, "COMPRESS_ZSTD"),
    (1 << 5, "BIG_METADATA"),
    (1 << 6, "EXTENDED_IREF"),
    (1 << 7, "RAID56"),
    (1 << 8, "SKINNY_METADATA"),
    (1 << 9, "NO_HOLES"),
    (METADATA_UUID, "METADATA_UUID"),
    (1 << 11, "RAID1C34"),
    (1 << 16, "SIMPLE_QUOTA"),
];
const COMPAT_RO: [(u64, &str); 4] = [
    (1 << 0, "FREE_SPACE_TREE"),
    (1 << 1, "FREE_SPACE_TREE_VALID"),
    (1 << 2, "VERITY"),
    (BLOCK_GROUP_TREE, "BLOCK_GROUP_TREE"),
];

/// `struct btrfs_dev_item`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawDevice {
    pub(super) devid: U64,
    pub(super) total_bytes: U64,
    pub(super) bytes_used: U64,
    io: [u8; 12],
    kind: U64,
    generation: U64,
    start_offset: U64,
    speed: [u8; 6],
    pub(super) uuid: [u8; 16],
    pub(super) fsid: [u8; 16],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    checksum: [u8; 32],               // 0x000
    fsid: [u8; 16],                   // 0x020
    bytenr: U64,                      // 0x030
    flags: U64,                       // 0x038
    magic: [u8; 8],                   // 0x040
    generation: U64,                  // 0x048
    root: U64,                        // 0x050
    chunk_root: U64,                  // 0x058
    log_root: U64,                    // 0x060
    log_root_transid: U64,            // 0x068
    total_bytes: U64,                 // 0x070
    bytes_used: U64,                  // 0x078
    root_dir_objectid: U64,           // 0x080
    num_devices: U64,                 // 0x088
    sectorsize: U32,                  // 0x090
    nodesize: U32,                    // 0x094
    leafsize: U32,                    // 0x098
    stripesize: U32,                  // 0x09c
    sys_chunk_array_size: U32,        // 0x0a0
    chunk_root_generation: U64,       // 0x0a4
    compat_flags: U64,                // 0x0ac
    compat_ro_flags: U64,             // 0x0b4
    incompat_flags: U64,              // 0x0bc
    csum_type: U16,                   // 0x0c4
    root_level: u8,                   // 0x0c6
    chunk_root_level: u8,             // 0x0c7
    log_root_level: u8,               // 0x0c8
    device: RawDevice,                // 0x0c9
    label: [u8; 256],                 // 0x12b
    generations: [u8; 16],            // 0x22b
    metadata_uuid: [u8; 16],          // 0x23b
    reserved: [u8; 224],              // 0x24b
    sys_chunks: [u8; SYS_CHUNKS_LEN], // 0x32b
    backups_and_padding: [u8; 1237],  // 0xb2b
}

/// What a superblock says, checked.
pub(super) struct Superblock {
    pub(super) checksum: Checksum,
    /// The filesystem's identity for its users.
    pub(super) uuid: [u8; 16],
    /// The identity that stands in nodes; another one after `btrfstune -m`.
    pub(super) fsid: [u8; 16],
    pub(super) label: Option<String>,
    pub(super) generation: u64,
    pub(super) root: Root,
    pub(super) chunk_root: Root,
    /// Sum of all extents.
    pub(super) bytes_used: u64,
    pub(super) sectorsize: u64,
    pub(super) nodesize: u32,
    pub(super) mixed_groups: bool,
    pub(super) block_group_tree: bool,
    pub(super) features: Vec<String>,
    pub(super) device: RawDevice,
    /// `sys_chunk_array`: chunks that hold the chunk tree.
    pub(super) sys_chunks: Vec<u8>,
    /// All of it.
    bytes: Vec<u8>,
}

/// Reads the superblock and compares it with its mirrors.
pub(super) fn read(window: &Window<'_>) -> Result<Superblock, Fault> {
    let at = PLACES[0];
    let raw: RawSuperblock = window.read_struct(at)?;
    let checked = check_sum(&raw)
        .and_then(|checksum| check_kind(&raw).map(|()| checksum))
        .and_then(|checksum| check_fields(&raw, window.len(), checksum))
        .map_err(|cause| window.fault(at, cause))?;
    for mirror in PLACES.into_iter().skip(1) {
        if !window.contains(mirror, LEN) {
            continue;
        }
        let other: RawSuperblock = window.read_struct(mirror)?;
        let ours = other.magic == *MAGIC
            && other.bytenr.get() == mirror
            && other.fsid == raw.fsid
            && check_sum(&other).is_ok();
        if ours && other.generation.get() > raw.generation.get() {
            let kind = Corrupt::Structure {
                structure: SUPERBLOCK,
                problem: "is older than its mirror",
            };
            return Err(window.fault(at, kind));
        }
    }
    Ok(checked)
}

/// Whether the superblock was written since it was read: by a commit, or by `fsync`, which leaves
/// the generation alone and adds a log tree.
pub(super) fn has_changed(window: &Window<'_>, superblock: &Superblock) -> Result<bool, Fault> {
    let raw: RawSuperblock = window.read_struct(PLACES[0])?;
    Ok(raw.as_bytes() != superblock.bytes)
}

/// Magic and checksum.
fn check_sum(raw: &RawSuperblock) -> Result<Checksum, Cause> {
    if raw.magic != *MAGIC {
        return Err(field("magic", 0));
    }
    let checksum = Checksum::of_type(raw.csum_type.get())
        .ok_or_else(|| unsupported("uses an unknown type of checksum"))?;
    if !checksum.matches(raw.as_bytes()) {
        let kind = Corrupt::Checksum {
            structure: SUPERBLOCK,
            number: 0,
        };
        return Err(kind.into());
    }
    Ok(checksum)
}

/// Features, devices and state.
fn check_kind(raw: &RawSuperblock) -> Result<(), Cause> {
    let known = |names: &[(u64, &str)]| names.iter().fold(0, |all, (bit, _)| all | bit);
    let sets = [
        ("compat", raw.compat_flags.get(), 0),
        ("compat_ro", raw.compat_ro_flags.get(), known(&COMPAT_RO)),
        ("incompat", raw.incompat_flags.get(), known(&INCOMPAT)),
    ];
    for (set, flags, known) in sets {
        let bits = flags & !known;
        if bits != 0 {
            let kind = Incompatible::Features {
                filesystem: NAME,
                set,
                bits,
            };
            return Err(kind.into());
        }
    }
    if raw.incompat_flags.get() & MIXED_BACKREF == 0 {
        return Err(unsupported("has back references of the first version"));
    }
    if raw.flags.get() != FLAG_WRITTEN {
        return Err(unsupported(
            "is marked as damaged, as a seed or as half converted",
        ));
    }
    if raw.num_devices.get() != 1 {
        return Err(unsupported("spans several devices"));
    }
    if raw.log_root.get() != 0 {
        let kind = Incompatible::NotClean {
            filesystem: NAME,
            what: "has a log tree that was not replayed",
            remedy: "mount and unmount it",
        };
        return Err(kind.into());
    }
    Ok(())
}

fn check_fields(
    raw: &RawSuperblock,
    window_len: u64,
    checksum: Checksum,
) -> Result<Superblock, Cause> {
    let (sectorsize, nodesize) = (raw.sectorsize.get(), raw.nodesize.get());
    let device = &raw.device;
    let fsid = if raw.incompat_flags.get() & METADATA_UUID == 0 {
        raw.fsid
    } else {
        raw.metadata_uuid
    };
    let size = |value: u32| value.is_power_of_two() && (4096..=65536).contains(&value);
    let sys_len = usize::try_from(raw.sys_chunk_array_size.get()).unwrap_or(usize::MAX);
    let sectors = u64::from(sectorsize);
    let aligned = |value: &U64| size(sectorsize) && value.get().is_multiple_of(sectors);
    let checks = [
        (raw.bytenr.get() == PLACES[0], "bytenr", raw.bytenr.get()),
        (size(sectorsize), "sectorsize", sectors),
        (
            size(nodesize) && nodesize >= sectorsize,
            "nodesize",
            nodesize.into(),
        ),
        (
            raw.leafsize == raw.nodesize,
            "leafsize",
            raw.leafsize.get().into(),
        ),
        (raw.root_level < LEVELS, "root_level", raw.root_level.into()),
        (
            raw.chunk_root_level < LEVELS,
            "chunk_root_level",
            raw.chunk_root_level.into(),
        ),
        (aligned(&raw.root), "root", raw.root.get()),
        (aligned(&raw.chunk_root), "chunk_root", raw.chunk_root.get()),
        (
            raw.chunk_root_generation <= raw.generation,
            "chunk_root_generation",
            raw.chunk_root_generation.get(),
        ),
        (
            sys_len <= SYS_CHUNKS_LEN,
            "sys_chunk_array_size",
            raw.sys_chunk_array_size.get().into(),
        ),
        (device.fsid == fsid, "dev_item.fsid", 0),
        (
            device.start_offset.get() == 0,
            "dev_item.start_offset",
            device.start_offset.get(),
        ),
        (
            device.total_bytes <= raw.total_bytes,
            "total_bytes",
            raw.total_bytes.get(),
        ),
    ];
    if let Some((_, name, value)) = checks.into_iter().find(|(good, ..)| !good) {
        return Err(field(name, value));
    }
    if device.total_bytes.get() > window_len {
        let kind = Corrupt::LargerThanPartition {
            filesystem: NAME,
            bytes: device.total_bytes.get(),
            partition: window_len,
        };
        return Err(kind.into());
    }
    Ok(Superblock {
        checksum,
        uuid: raw.fsid,
        fsid,
        label: text_field(&raw.label),
        generation: raw.generation.get(),
        root: Root {
            bytenr: raw.root.get(),
            generation: raw.generation.get(),
            level: raw.root_level,
        },
        chunk_root: Root {
            bytenr: raw.chunk_root.get(),
            generation: raw.chunk_root_generation.get(),
            level: raw.chunk_root_level,
        },
        bytes_used: raw.bytes_used.get(),
        sectorsize: sectors,
        nodesize,
        mixed_groups: raw.incompat_flags.get() & MIXED_GROUPS != 0,
        block_group_tree: raw.compat_ro_flags.get() & BLOCK_GROUP_TREE != 0,
        features: feature_names(raw, checksum),
        device: device.clone(),
        sys_chunks: raw.sys_chunks.iter().take(sys_len).copied().collect(),
        bytes: raw.as_bytes().to_vec(),
    })
}

/// Names as `btrfs inspect-internal dump-super` prints them.
fn feature_names(raw: &RawSuperblock, checksum: Checksum) -> Vec<String> {
    let names = |flags: u64, names: &'static [(u64, &'static str)]| {
        names
            .iter()
            .filter(move |(bit, _)| flags & bit != 0)
            .map(|(_, name)| *name)
    };
    names(raw.incompat_flags.get(), &INCOMPAT)
        .chain(names(raw.compat_ro_flags.get(), &COMPAT_RO))
        .chain([checksum.name()])
        .map(str::to_owned)
        .collect()
}

fn field(field: &'static str, value: u64) -> Cause {
    Cause::field(SUPERBLOCK, field, value)
}

fn unsupported(what: &'static str) -> Cause {
    Cause::unsupported(NAME, what)
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<RawSuperblock>(), 0x1000);
        assert_eq!(size_of::<RawDevice>(), 98);
        assert_eq!(offset_of!(RawDevice, start_offset), 0x34);
        assert_eq!(offset_of!(RawDevice, uuid), 0x42);
        let offsets = [
            (offset_of!(RawSuperblock, magic), 0x40),
            (offset_of!(RawSuperblock, log_root), 0x60),
            (offset_of!(RawSuperblock, num_devices), 0x88),
            (offset_of!(RawSuperblock, sys_chunk_array_size), 0xa0),
            (offset_of!(RawSuperblock, incompat_flags), 0xbc),
            (offset_of!(RawSuperblock, csum_type), 0xc4),
            (offset_of!(RawSuperblock, device), 0xc9),
            (offset_of!(RawSuperblock, label), 0x12b),
            (offset_of!(RawSuperblock, metadata_uuid), 0x23b),
            (offset_of!(RawSuperblock, sys_chunks), 0x32b),
        ];
        for (found, documented) in offsets {
            assert_eq!(found, documented);
        }
    }
}
