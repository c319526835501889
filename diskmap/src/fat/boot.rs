//! The boot sector of FAT: the BIOS parameter block and what follows from it.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03, sections "Boot Sector and
//! BPB" and "FAT Type Determination"; where implementations differ, Linux `fs/fat/inode.c` and
//! Microsoft's `fastfat` (`fat.h`).

use std::ops::Range;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::BOOT;
use crate::error::{Corrupt, Fault, Incompatible};
use crate::source::Window;

/// Bits of the state byte: not unmounted, and a surface scan is wanted.
const STATE_DIRTY: u8 = 0x03;
/// FAT32's `BPB_ExtFlags`: only one FAT is kept up to date.
const NOT_MIRRORED: u16 = 0x0080;
/// The largest number of clusters: numbers from 0x0ffffff7 have a meaning of their own.
const MAX_CLUSTERS: u64 = 0x0fff_fff4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawBoot {
    jump: [u8; 3],
    oem_name: [u8; 8],
    bytes_per_sector: U16,
    sectors_per_cluster: u8,
    reserved_sectors: U16,
    fats: u8,
    root_entries: U16,
    total_sectors_16: U16,
    media: u8,
    fat_sectors_16: U16,
    sectors_per_track: U16,
    heads: U16,
    hidden_sectors: U32,
    total_sectors_32: U32,
    /// What FAT12 and FAT16 keep where FAT32 has more of its BPB.
    rest: [u8; 474],
    signature: [u8; 2],
}

/// Both at offset 36.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFat32 {
    fat_sectors_32: U32,
    ext_flags: U16,
    version: U16,
    root_cluster: U32,
    fsinfo_sector: U16,
    backup_sector: U16,
    reserved: [u8; 12],
    tail: RawTail,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTail {
    drive: u8,
    state: u8,
    boot_signature: u8,
    serial: U32,
    label: [u8; 11],
    type_name: [u8; 8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
        }
    }

    /// Bits of an entry of the table.
    pub(super) fn entry_bits(self) -> u32 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }
}

/// Where everything lies, in sectors of the filesystem.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) kind: Kind,
    /// Bytes of a sector; that of the disk may differ.
    pub(super) sector: u32,
    pub(super) sectors_per_cluster: u32,
    pub(super) total_sectors: u64,
    /// Where the first FAT begins.
    pub(super) reserved: u64,
    pub(super) fats: u32,
    pub(super) fat_sectors: u64,
    /// Where the root directory begins that is not in clusters.
    pub(super) root_start: u64,
    /// Where cluster 2 begins.
    pub(super) data_start: u64,
    pub(super) clusters: u32,
    /// FAT32: where the root directory begins.
    pub(super) root_cluster: Option<u32>,
    pub(super) media: u8,
    pub(super) serial: u32,
    pub(super) label: [u8; 11],
}

/// What the fields say before they are checked.
struct Layout {
    sector: u32,
    total: u64,
    fat_sectors: u64,
    root_start: u64,
    data_start: u64,
    clusters: u64,
    bits: u64,
}

impl RawBoot {
    fn fat32(&self) -> Option<&RawFat32> {
        RawFat32::ref_from_prefix(&self.rest)
            .ok()
            .map(|(part, _)| part)
    }

    /// The fields that FAT12 and FAT16 have at offset 36, FAT32 at offset 64.
    fn tail(&self, is_32: bool) -> Option<&RawTail> {
        if is_32 {
            return self.fat32().map(|part| &part.tail);
        }
        RawTail::ref_from_prefix(&self.rest)
            .ok()
            .map(|(part, _)| part)
    }

    /// A name of the type where one may stand; it tells nothing for sure.
    pub(super) fn has_type_name(&self) -> bool {
        let names = |is_32| self.tail(is_32).map(|tail| &tail.type_name);
        names(false).is_some_and(|name| [b"FAT12   ", b"FAT16   "].contains(&name))
            || names(true).is_some_and(|name| name == b"FAT32   ")
    }

    /// Whether the fields fit together as only those of a FAT filesystem do. All of them at
    /// once are as rare by accident as a magic number of four bytes. Boot sectors of NTFS and
    /// exFAT have no FATs here.
    pub(super) fn is_plausible(&self) -> bool {
        self.layout().is_ok()
    }

    /// The first field that makes no sense, or where everything lies.
    fn layout(&self) -> Result<Layout, (&'static str, u64)> {
        let sector = self.bytes_per_sector.get();
        if ![512, 1024, 2048, 4096].contains(&sector) {
            return Err(("BPB_BytsPerSec", sector.into()));
        }
        let sector = u32::from(sector);
        if !self.sectors_per_cluster.is_power_of_two() {
            return Err(("BPB_SecPerClus", self.sectors_per_cluster.into()));
        }
        let reserved = u64::from(self.reserved_sectors.get());
        if reserved == 0 {
            return Err(("BPB_RsvdSecCnt", 0));
        }
        if !matches!(self.fats, 1 | 2) {
            return Err(("BPB_NumFATs", self.fats.into()));
        }
        if self.media != 0xf0 && self.media < 0xf8 {
            return Err(("BPB_Media", self.media.into()));
        }
        let is_32 = self.fat_sectors_16.get() == 0;
        let fat_sectors = if is_32 {
            self.fat32()
                .map_or(0, |part| u64::from(part.fat_sectors_32.get()))
        } else {
            self.fat_sectors_16.get().into()
        };
        if fat_sectors == 0 {
            return Err(("BPB_FATSz", 0));
        }
        let root_entries = u64::from(self.root_entries.get());
        // All implementations but the letter of the specification tell FAT32 by this.
        if (root_entries == 0) != is_32 {
            return Err(("BPB_RootEntCnt", root_entries));
        }
        let root_bytes = root_entries.saturating_mul(32);
        if !root_bytes.is_multiple_of(sector.into()) {
            return Err(("BPB_RootEntCnt", root_entries));
        }
        let (small, large) = (self.total_sectors_16.get(), self.total_sectors_32.get());
        let total = match small {
            0 => u64::from(large),
            _ if large != 0 && large != small.into() => {
                return Err(("BPB_TotSec32", large.into()));
            }
            _ => small.into(),
        };
        let fats = u64::from(self.fats).saturating_mul(fat_sectors);
        let root_start = reserved.saturating_add(fats);
        let root_sectors = root_bytes.checked_div(sector.into()).unwrap_or(0);
        let data_start = root_start.saturating_add(root_sectors);
        let data = total.checked_sub(data_start).ok_or(("BPB_TotSec", total))?;
        let clusters = data
            .checked_div(self.sectors_per_cluster.into())
            .unwrap_or(0);
        let bits = if is_32 {
            32
        } else if clusters < 4085 {
            12
        } else {
            16
        };
        let most = if is_32 { MAX_CLUSTERS } else { 65524 };
        if clusters == 0 || clusters > most {
            return Err(("number of clusters", clusters));
        }
        let capacity = fat_sectors
            .saturating_mul(sector.into())
            .saturating_mul(8)
            .checked_div(bits)
            .unwrap_or(0);
        if capacity < clusters.saturating_add(2) {
            return Err(("BPB_FATSz", fat_sectors));
        }
        Ok(Layout {
            sector,
            total,
            fat_sectors,
            root_start,
            data_start,
            clusters,
            bits,
        })
    }
}

/// Reads and checks the boot sector.
pub(super) fn read(window: &Window<'_>) -> Result<Geometry, Fault> {
    let raw: RawBoot = window.read_struct(0)?;
    let field = |field, value| {
        let structure = BOOT;
        window.fault(
            0,
            Corrupt::Field {
                structure,
                field,
                value,
            },
        )
    };
    let unsupported = |what| {
        let filesystem = "FAT";
        window.fault(0, Incompatible::Unsupported { filesystem, what })
    };
    let layout = raw.layout().map_err(|(name, value)| field(name, value))?;
    let kind = match layout.bits {
        12 => Kind::Fat12,
        16 => Kind::Fat16,
        _ => Kind::Fat32,
    };
    // The driver of Windows counts differently here: two readings are possible.
    if kind != Kind::Fat32 && matches!(layout.clusters, 4085 | 4086) {
        return Err(unsupported("is at the limit of FAT12 and FAT16"));
    }
    let tail = raw
        .tail(kind == Kind::Fat32)
        .ok_or_else(|| field("length", 0))?;
    let contradicts = match &tail.type_name {
        b"FAT12   " => kind != Kind::Fat12,
        b"FAT16   " => kind != Kind::Fat16,
        b"FAT32   " => kind != Kind::Fat32,
        b"HPFS    " | b"JFS     " => true,
        _ => false,
    };
    if contradicts {
        return Err(unsupported(
            "is named otherwise than its number of clusters tells",
        ));
    }
    if tail.state & STATE_DIRTY != 0 {
        return Err(super::not_clean(window, 0, "was not unmounted"));
    }
    let mut root_cluster = None;
    if kind == Kind::Fat32 {
        let part = raw.fat32().ok_or_else(|| field("length", 0))?;
        if part.version.get() != 0 {
            return Err(field("BPB_FSVer", part.version.get().into()));
        }
        if part.ext_flags.get() & NOT_MIRRORED != 0 {
            return Err(unsupported("does not mirror its FATs"));
        }
        root_cluster = Some(part.root_cluster.get());
        check_backup(window, &raw, part.backup_sector.get(), layout.sector)?;
    }
    let bytes = layout.total.saturating_mul(layout.sector.into());
    if bytes > window.len() {
        return Err(window.fault(
            0,
            Corrupt::LargerThanPartition {
                filesystem: kind.name(),
                bytes,
                partition: window.len(),
            },
        ));
    }
    let has_serial = matches!(tail.boot_signature, 0x28 | 0x29);
    let has_label = tail.boot_signature == 0x29;
    Ok(Geometry {
        kind,
        sector: layout.sector,
        sectors_per_cluster: raw.sectors_per_cluster.into(),
        total_sectors: layout.total,
        reserved: raw.reserved_sectors.get().into(),
        fats: raw.fats.into(),
        fat_sectors: layout.fat_sectors,
        root_start: layout.root_start,
        data_start: layout.data_start,
        clusters: u32::try_from(layout.clusters).unwrap_or(u32::MAX),
        root_cluster,
        media: raw.media,
        serial: if has_serial { tail.serial.get() } else { 0 },
        label: if has_label { tail.label } else { [b' '; 11] },
    })
}

/// FAT32 has a copy of its boot sector. Labels, serial and the place in the disk are changed by
/// tools that forget the copy; what the layout follows from is not.
fn check_backup(
    window: &Window<'_>,
    raw: &RawBoot,
    backup_sector: u16,
    sector: u32,
) -> Result<(), Fault> {
    const LAYOUT: [Range<usize>; 2] = [11..28, 32..48];
    let structure = BOOT;
    if matches!(backup_sector, 0 | u16::MAX) {
        return Ok(());
    }
    if backup_sector >= raw.reserved_sectors.get() {
        let block = backup_sector.into();
        return Err(window.fault(0, Corrupt::Outside { structure, block }));
    }
    let at = u64::from(backup_sector).saturating_mul(sector.into());
    let copy: RawBoot = window.read_struct(at)?;
    let differs =
        |range: Range<usize>| raw.as_bytes().get(range.clone()) != copy.as_bytes().get(range);
    if LAYOUT.into_iter().any(differs) {
        let problem = "differs from its backup";
        return Err(window.fault(at, Corrupt::Structure { structure, problem }));
    }
    Ok(())
}

impl Geometry {
    /// The first sector of a cluster; clusters count from 2.
    pub(super) fn cluster_start(&self, cluster: u32) -> u64 {
        u64::from(cluster.saturating_sub(2))
            .saturating_mul(self.sectors_per_cluster.into())
            .saturating_add(self.data_start)
    }

    pub(super) fn to_bytes(&self, sectors: u64) -> u64 {
        sectors.saturating_mul(self.sector.into())
    }

    /// The last cluster's number.
    pub(super) fn last_cluster(&self) -> u32 {
        self.clusters.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layouts_are_those_of_the_specification() {
        assert_eq!(size_of::<RawBoot>(), 512);
        assert_eq!(offset_of!(RawBoot, bytes_per_sector), 11);
        assert_eq!(offset_of!(RawBoot, media), 21);
        assert_eq!(offset_of!(RawBoot, total_sectors_32), 32);
        assert_eq!(offset_of!(RawBoot, rest), 36);
        // What follows begins at 36, that of FAT32 at 64.
        assert_eq!(offset_of!(RawTail, serial), 39 - 36);
        assert_eq!(offset_of!(RawTail, type_name), 54 - 36);
        assert_eq!(offset_of!(RawFat32, root_cluster), 44 - 36);
        assert_eq!(offset_of!(RawFat32, tail), 64 - 36);
        assert_eq!(offset_of!(RawTail, state), 65 - 64);
    }
}
