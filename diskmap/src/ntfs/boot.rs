//! The boot sector of NTFS.
//!
//! Source: ntfs-3g 2022.10.3, `include/ntfs-3g/layout.h` (`NTFS_BOOT_SECTOR`) and
//! `libntfs-3g/bootsect.c`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BOOT, NAME};
use crate::error::{Corrupt, Fault};
use crate::source::Window;

/// Windows 10 (1709) and later.
const MAX_CLUSTER: u64 = 2 << 20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBoot {
    jump: [u8; 3],
    oem_id: [u8; 8],
    bytes_per_sector: U16,
    sectors_per_cluster: u8,
    /// Fields of FAT that are zero here, but for the media byte and the geometry.
    fat: [u8; 26],
    number_of_sectors: U64,
    mft_lcn: U64,
    mftmirr_lcn: U64,
    clusters_per_mft_record: i8,
    reserved0: [u8; 3],
    clusters_per_index_record: i8,
    reserved1: [u8; 3],
    volume_serial_number: U64,
    checksum: U32,
    bootstrap: [u8; 426],
    end_of_sector: [u8; 2],
}

/// What the boot sector says.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Whole clusters of the filesystem.
    pub(super) clusters: u64,
    /// Bytes of the filesystem.
    pub(super) size_bytes: u64,
    /// Bytes of a record of the MFT.
    pub(super) record: usize,
    pub(super) mft: u64,
    pub(super) mft_mirror: u64,
    pub(super) serial: u64,
}

/// Reads and checks the boot sector.
pub(super) fn read(window: &Window<'_>) -> Result<Boot, Fault> {
    let raw: RawBoot = window.read_struct(0)?;
    let bad = |field, value| {
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
    let sector = u64::from(raw.bytes_per_sector.get());
    if ![512, 1024, 2048, 4096].contains(&sector) {
        return Err(bad("bytes_per_sector", sector));
    }
    if raw.end_of_sector != [0x55, 0xaa] {
        return Err(bad("end_of_sector_marker", 0));
    }
    let code = raw.sectors_per_cluster;
    // From 0x80 on the negative binary logarithm.
    let per_cluster = if code > 0x80 {
        1_u64
            .checked_shl(u32::from(code).abs_diff(256))
            .unwrap_or(0)
    } else {
        code.into()
    };
    let cluster = per_cluster.saturating_mul(sector);
    if !per_cluster.is_power_of_two() || cluster > MAX_CLUSTER {
        return Err(bad("sectors_per_cluster", code.into()));
    }
    let sectors = raw.number_of_sectors.get();
    let size_bytes = sectors.saturating_mul(sector);
    if size_bytes > window.len() {
        return Err(window.fault(
            0,
            Corrupt::LargerThanPartition {
                filesystem: NAME,
                bytes: size_bytes,
                partition: window.len(),
            },
        ));
    }
    check_backup(window, &raw, size_bytes)?;
    let clusters = sectors.checked_div(per_cluster).unwrap_or(0);
    // Cluster numbers are signed, and less than 2^48 of the format's 2^64 are ever in use.
    if clusters == 0 || clusters > 1 << 48 {
        return Err(bad("number_of_sectors", sectors));
    }
    let code = raw.clusters_per_mft_record;
    let record = if code > 0 {
        u64::from(code.unsigned_abs()).saturating_mul(cluster)
    } else {
        1_u64.checked_shl(code.unsigned_abs().into()).unwrap_or(0)
    };
    if ![512, 1024, 2048, 4096].contains(&record) {
        return Err(bad("clusters_per_mft_record", record));
    }
    for (field, lcn) in [("mft_lcn", raw.mft_lcn), ("mftmirr_lcn", raw.mftmirr_lcn)] {
        if lcn.get() >= clusters {
            return Err(bad(field, lcn.get()));
        }
    }
    Ok(Boot {
        cluster,
        clusters,
        size_bytes,
        record: usize::try_from(record).unwrap_or(usize::MAX),
        mft: raw.mft_lcn.get(),
        mft_mirror: raw.mftmirr_lcn.get(),
        serial: raw.volume_serial_number.get(),
    })
}

/// The backup stands behind the last sector. Where there is one it must describe the same
/// layout; the fields of the disk's geometry and the place in it, others change alone.
fn check_backup(window: &Window<'_>, raw: &RawBoot, at: u64) -> Result<(), Fault> {
    if !window.contains(at, 512) {
        return Ok(());
    }
    let copy: RawBoot = window.read_struct(at)?;
    let layout = |boot: &RawBoot| {
        (
            boot.bytes_per_sector,
            boot.sectors_per_cluster,
            boot.number_of_sectors,
            boot.mft_lcn,
            boot.mftmirr_lcn,
            boot.clusters_per_mft_record,
            boot.clusters_per_index_record,
        )
    };
    if copy.oem_id == raw.oem_id && layout(&copy) != layout(raw) {
        let structure = BOOT;
        let problem = "differs from its backup";
        return Err(window.fault(at, Corrupt::Structure { structure, problem }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layout_is_that_of_ntfs_3g() {
        assert_eq!(size_of::<RawBoot>(), 512);
        assert_eq!(offset_of!(RawBoot, bytes_per_sector), 0x0b);
        assert_eq!(offset_of!(RawBoot, number_of_sectors), 0x28);
        assert_eq!(offset_of!(RawBoot, clusters_per_mft_record), 0x40);
        assert_eq!(offset_of!(RawBoot, volume_serial_number), 0x48);
        assert_eq!(offset_of!(RawBoot, end_of_sector), 0x1fe);
    }
}
