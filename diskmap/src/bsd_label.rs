//! BSD disklabels: the partitions inside of a slice of FreeBSD, NetBSD or OpenBSD, or of a disk
//! without any other table.
//!
//! Source: FreeBSD `sys/sys/disklabel.h` and `sys/geom/part/g_part_bsd.c`, OpenBSD
//! `sys/sys/disklabel.h` (version 1), Linux `block/partitions/msdos.c` (`parse_bsd`). Only what a
//! filesystem in one of the partitions calls free is free: the label, the boot blocks and the gaps
//! are in none, or in the boot area that a UFS never frees.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::{Extent, FreeRuns};
use crate::filesystem::{Container, Filesystem, Inner, Parsed, text_field};
use crate::source::Window;
use crate::ufs;

pub(crate) const NAME: &str = "BSD disklabel";
const MAGIC: u32 = 0x8256_4557;
/// Sector 1 of disks with sectors of 512 and of 4096 bytes; sector 0 of some architectures.
const LOCATIONS: [u64; 3] = [512, 4096, 64];
const MAX_PARTITIONS: usize = 22;
/// `c`: the whole slice, of OpenBSD the whole disk.
const RAW_PARTITION: usize = 2;
/// `d` of NetBSD: the whole disk.
const WHOLE_DISK: usize = 3;
/// Boot blocks (`BBSIZE`).
const BOOT_BYTES: u64 = 8192;
const UNUSED: u8 = 0;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLabel {
    magic: U32,
    kind: [U16; 2],
    type_name: [u8; 16],
    pack_name: [u8; 16],
    sector_size: U32,
    geometry: [U32; 5],
    unused: [u8; 48],
    sectors_high: U16,
    version: U16,
    spare: [U32; 4],
    magic2: U32,
    checksum: U16,
    partitions: U16,
    boot_size: U32,
    superblock_size: U32,
    list: [RawPartition; MAX_PARTITIONS],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPartition {
    size: U32,
    offset: U32,
    /// Version 1: the high halves. Else the size of fragments.
    offset_high: U16,
    size_high: U16,
    kind: u8,
    fragments: u8,
    cylinders: U16,
}

/// Whether a label, damaged or not, seems to stand in the window.
pub(crate) fn detect(window: &Window<'_>) -> Result<Option<u64>, Fault> {
    Ok(locations(window)?.first().copied())
}

fn locations(window: &Window<'_>) -> Result<Vec<u64>, Fault> {
    let mut found = Vec::new();
    for location in LOCATIONS {
        if !window.contains(location, 4) {
            continue;
        }
        let magic: [u8; 4] = window.read_struct(location)?;
        if magic == MAGIC.to_le_bytes() || magic == MAGIC.to_be_bytes() {
            found.push(location);
        }
    }
    Ok(found)
}

/// Whether a partition of this type may hold a label: FreeBSD, OpenBSD or NetBSD in an MBR,
/// FreeBSD or OpenBSD in a GPT, or if there is no table.
pub(crate) fn is_expected_in(type_id: &str) -> bool {
    let in_mbr = ["", "0xa5", "0xa6", "0xa9"];
    let in_gpt = [
        "516E7CB4-6ECF-11D6-8FF8-00022D09712B",
        "824CC7A0-36A8-11E3-890A-952519AD3F61",
    ];
    in_mbr.contains(&type_id) || in_gpt.contains(&type_id)
}

/// Lists the partitions of the label in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let found = locations(window)?;
    let &[at] = found.as_slice() else {
        let kind = Corrupt::Structure {
            structure: NAME,
            problem: "stands in two places",
        };
        return Err(window.fault(0, kind));
    };
    let label = read(window, at)?;
    let sector = u64::from(label.sector_size.get());
    let bad = |field, value| {
        window.fault(
            at,
            Corrupt::Field {
                structure: NAME,
                field,
                value,
            },
        )
    };
    // In sector 1, or in sector 0 of whatever size.
    let fits = if at >= 512 { sector == at } else { true };
    if !fits || ![512, 1024, 2048, 4096].contains(&sector) {
        return Err(bad("d_secsize", sector));
    }
    let sectors = window.len().checked_div(sector).unwrap_or(0);
    let base = base(window, at, &label, sector)?;
    let count = usize::from(label.partitions.get());
    let mut volumes = Vec::new();
    for (index, raw) in label.list.iter().enumerate().take(count) {
        let listed = extent(&label, raw);
        if listed.count == 0 || index == RAW_PARTITION {
            continue;
        }
        let (start, end) = (listed.first, listed.end());
        let slice_end = base.saturating_add(sectors);
        let leaves = start < base || slice_end < end;
        let covers = start <= base && slice_end <= end;
        if (index == WHOLE_DISK && covers) || (raw.kind == UNUSED && leaves) {
            continue;
        }
        // OpenBSD and NetBSD list the partitions of others, too.
        if end <= base || slice_end <= start {
            continue;
        }
        if leaves {
            let kind = Corrupt::Outside {
                structure: NAME,
                block: start,
            };
            return Err(window.fault(at, kind));
        }
        let piece = Extent {
            first: start.saturating_sub(base).saturating_mul(sector),
            count: listed.count.saturating_mul(sector),
        };
        volumes.push(Inner {
            name: name(index),
            pieces: vec![piece],
            raw: reason(window, &label, raw, &piece)?,
        });
    }
    check_first(window, at, &volumes)?;
    Ok(Container {
        kind: NAME,
        filesystem: Filesystem {
            label: text_field(&label.pack_name),
            uuid: None,
            block_size: label.sector_size.get(),
            size_bytes: window.len(),
            used_bytes: window.len(),
            features: Vec::new(),
        },
        unit: 512,
        free: FreeRuns::default(),
        volumes,
    }
    .into())
}

/// Reads the label and checks its magic numbers and its sum.
fn read(window: &Window<'_>, at: u64) -> Result<RawLabel, Fault> {
    let label: RawLabel = window.read_struct(at)?;
    let unsupported = |what| {
        let filesystem = NAME;
        window.fault(at, Incompatible::Unsupported { filesystem, what })
    };
    if label.magic.get() != MAGIC {
        return Err(unsupported("has the other byte order"));
    }
    let count = label.partitions.get();
    let bytes = usize::from(count).saturating_mul(size_of::<RawPartition>());
    let end = size_of::<RawLabel>()
        .saturating_sub(size_of::<[RawPartition; MAX_PARTITIONS]>())
        .saturating_add(bytes);
    if usize::from(count) > MAX_PARTITIONS {
        return Err(unsupported("has more than 22 partitions"));
    }
    let sum = label
        .as_bytes()
        .get(..end)
        .unwrap_or_default()
        .chunks_exact(2)
        .fold(0, |sum, pair| {
            sum ^ U16::read_from_bytes(pair).map_or(0, U16::get)
        });
    if label.magic2.get() != MAGIC || sum != 0 {
        let kind = Corrupt::Checksum {
            structure: "BSD disklabel at byte",
            number: at,
        };
        return Err(window.fault(at, kind));
    }
    if label.version.get() > 1 {
        return Err(unsupported("has a version later than 1"));
    }
    Ok(label)
}

/// Sectors of a partition, as the label counts them.
fn extent(label: &RawLabel, raw: &RawPartition) -> Extent {
    let high = |value: U16| {
        if label.version.get() == 1 {
            u64::from(value.get()) << 32
        } else {
            0
        }
    };
    Extent {
        first: high(raw.offset_high) | u64::from(raw.offset.get()),
        count: high(raw.size_high) | u64::from(raw.size.get()),
    }
}

/// The sector in the label's count that the window begins with. FreeBSD counts from the slice,
/// the others, and FreeBSD before version 5, from the disk; the raw partition tells which.
fn base(window: &Window<'_>, at: u64, label: &RawLabel, sector: u64) -> Result<u64, Fault> {
    let start = window.on_disk(0).checked_div(sector).unwrap_or(0);
    let sectors = window.len().checked_div(sector).unwrap_or(0);
    let raw = label
        .list
        .get(RAW_PARTITION)
        .filter(|_| usize::from(label.partitions.get()) > RAW_PARTITION)
        .map(|raw| extent(label, raw));
    match raw.filter(|raw| raw.count != 0) {
        Some(raw) if raw.first == start => Ok(start),
        Some(raw) if raw.first == 0 && raw.count <= sectors => Ok(0),
        // The whole disk.
        Some(raw) if raw.first == 0 && raw.end() >= start.saturating_add(sectors) => Ok(start),
        None if start == 0 => Ok(0),
        _ => {
            let kind = Incompatible::Unsupported {
                filesystem: NAME,
                what: "does not tell by its raw partition what it counts from",
            };
            Err(window.fault(at, kind))
        }
    }
}

/// `a` to `v`.
fn name(index: usize) -> String {
    let letter = u32::try_from(index)
        .ok()
        .and_then(|index| char::from_u32(u32::from(b'a').saturating_add(index)));
    letter.unwrap_or('?').to_string()
}

/// Why a partition is not looked into.
fn reason(
    window: &Window<'_>,
    label: &RawLabel,
    raw: &RawPartition,
    piece: &Extent,
) -> Result<Option<String>, Fault> {
    if raw.kind == UNUSED {
        return Ok(Some("the disklabel calls it unused".to_owned()));
    }
    // Only a UFS is known to leave the label and the boot blocks alone.
    let boot_bytes = BOOT_BYTES.max(label.boot_size.get().into());
    if piece.first < boot_bytes && (piece.first != 0 || ufs::detect(window)?.is_none()) {
        return Ok(Some("it holds the boot blocks".to_owned()));
    }
    Ok(None)
}

/// Where a UFS begins with the slice: it must be that of a partition which begins there, and
/// not a later one over the whole slice, whose label and other partitions mean nothing any more.
fn check_first(window: &Window<'_>, at: u64, volumes: &[Inner]) -> Result<(), Fault> {
    if ufs::detect(window)?.is_none() {
        return Ok(());
    }
    let size = ufs::size(window)?;
    let mut first = volumes.iter().flat_map(|volume| &volume.pieces);
    if first.any(|piece| piece.first == 0 && size <= piece.count) {
        return Ok(());
    }
    let kind = Incompatible::Ambiguous {
        first: NAME,
        second: "UFS",
    };
    Err(window.fault(at, kind))
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_layout_is_that_of_disklabel_h() {
        assert_eq!(size_of::<RawLabel>(), 148 + 22 * 16);
        assert_eq!(size_of::<RawPartition>(), 16);
        assert_eq!(offset_of!(RawLabel, sector_size), 40);
        assert_eq!(offset_of!(RawLabel, version), 114);
        assert_eq!(offset_of!(RawLabel, magic2), 132);
        assert_eq!(offset_of!(RawLabel, partitions), 138);
        assert_eq!(offset_of!(RawLabel, list), 148);
        assert_eq!(offset_of!(RawPartition, kind), 12);
    }
}
