//! The boot regions of exFAT: main and backup, both under a checksum.
//!
//! Source: Microsoft, "exFAT file system specification" 1.00 (2019), section 3 "Main and Backup
//! Boot Regions".

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BOOT, NAME};
use crate::error::{Corrupt, Fault, Incompatible};
use crate::source::Window;

/// Sectors of a boot region; the last one repeats the checksum of the others.
const REGION: u64 = 12;
/// Bytes of sector 0 that change in use and are not part of the checksum.
const VOLUME_FLAGS: [usize; 2] = [106, 107];
const PERCENT_IN_USE: usize = 112;
const MAX_CLUSTERS: u32 = u32::MAX - 10;

const ACTIVE_FAT: u16 = 0x0001;
const VOLUME_DIRTY: u16 = 0x0002;
const MEDIA_FAILURE: u16 = 0x0004;
/// Has no meaning, by the specification.
const CLEAR_TO_ZERO: u16 = 0x0008;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBoot {
    jump: [u8; 3],
    name: [u8; 8],
    must_be_zero: [u8; 53],
    partition_offset: U64,
    volume_length: U64,
    fat_offset: U32,
    fat_length: U32,
    heap_offset: U32,
    cluster_count: U32,
    root_cluster: U32,
    serial: U32,
    revision: U16,
    flags: U16,
    sector_shift: u8,
    cluster_shift: u8,
    fats: u8,
    drive: u8,
    percent_in_use: u8,
    reserved: [u8; 7],
    code: [u8; 390],
    signature: [u8; 2],
}

/// Where everything lies. Sectors are the filesystem's.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// Bytes of a sector.
    pub(super) sector: u64,
    pub(super) sectors_per_cluster: u64,
    /// Sectors of the filesystem.
    pub(super) sectors: u64,
    /// First sector of the FAT.
    pub(super) fat: u64,
    /// First sector of cluster 2.
    pub(super) heap: u64,
    pub(super) clusters: u32,
    pub(super) root: u32,
    pub(super) serial: u32,
}

impl Boot {
    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        self.sector.saturating_mul(self.sectors_per_cluster)
    }

    /// Clusters count from 2.
    pub(super) fn holds(&self, cluster: u32) -> bool {
        cluster
            .checked_sub(2)
            .is_some_and(|index| index < self.clusters)
    }

    /// The first sector of a cluster.
    pub(super) fn cluster_start(&self, cluster: u32) -> u64 {
        u64::from(cluster.saturating_sub(2))
            .saturating_mul(self.sectors_per_cluster)
            .saturating_add(self.heap)
    }
}

/// Reads and checks both boot regions.
pub(super) fn read(window: &Window<'_>) -> Result<Boot, Fault> {
    let structure = BOOT;
    let bad = |field, value| {
        window.fault(
            0,
            Corrupt::Field {
                structure,
                field,
                value,
            },
        )
    };
    let raw: RawBoot = window.read_struct(0)?;
    if raw.must_be_zero != [0; 53] || raw.signature != [0x55, 0xaa] {
        return Err(bad("BootSignature", 0));
    }
    if !(9..=12).contains(&raw.sector_shift) {
        return Err(bad("BytesPerSectorShift", raw.sector_shift.into()));
    }
    if u32::from(raw.cluster_shift) > 25_u32.saturating_sub(raw.sector_shift.into()) {
        return Err(bad("SectorsPerClusterShift", raw.cluster_shift.into()));
    }
    let sector = 1_u64 << raw.sector_shift;
    for region in [0, REGION] {
        check_region(window, region.saturating_mul(sector), sector)?;
    }
    let backup: RawBoot = window.read_struct(REGION.saturating_mul(sector))?;
    if layout(&backup) != layout(&raw) {
        let problem = "differs from its backup";
        return Err(window.fault(0, Corrupt::Structure { structure, problem }));
    }
    check_state(window, &raw)?;
    let sectors_per_cluster = 1_u64 << raw.cluster_shift;
    let (sectors, clusters) = (raw.volume_length.get(), raw.cluster_count.get());
    let size = sectors.saturating_mul(sector);
    if size > window.len() {
        return Err(window.fault(
            0,
            Corrupt::LargerThanPartition {
                filesystem: NAME,
                bytes: size,
                partition: window.len(),
            },
        ));
    }
    let (fat, fat_length) = (
        u64::from(raw.fat_offset.get()),
        u64::from(raw.fat_length.get()),
    );
    let heap = u64::from(raw.heap_offset.get());
    let fat_bytes = u64::from(clusters).saturating_add(2).saturating_mul(4);
    if fat < REGION.saturating_mul(2) {
        return Err(bad("FatOffset", fat));
    }
    if fat_length < fat_bytes.div_ceil(sector) {
        return Err(bad("FatLength", fat_length));
    }
    if heap < fat.saturating_add(fat_length) {
        return Err(bad("ClusterHeapOffset", heap));
    }
    let heap_sectors = u64::from(clusters).saturating_mul(sectors_per_cluster);
    if clusters == 0 || clusters > MAX_CLUSTERS || heap.saturating_add(heap_sectors) > sectors {
        return Err(bad("ClusterCount", clusters.into()));
    }
    let boot = Boot {
        sector,
        sectors_per_cluster,
        sectors,
        fat,
        heap,
        clusters,
        root: raw.root_cluster.get(),
        serial: raw.serial.get(),
    };
    if !boot.holds(boot.root) {
        return Err(bad("FirstClusterOfRootDirectory", boot.root.into()));
    }
    Ok(boot)
}

/// What must be the same in both regions, of what is read.
fn layout(raw: &RawBoot) -> impl PartialEq {
    (
        raw.volume_length,
        (raw.fat_offset, raw.fat_length),
        (raw.heap_offset, raw.cluster_count, raw.root_cluster),
        (raw.revision, raw.fats, raw.sector_shift, raw.cluster_shift),
    )
}

/// Refuses what is in use, failed, or of another kind.
fn check_state(window: &Window<'_>, raw: &RawBoot) -> Result<(), Fault> {
    let unsupported = |what| {
        let filesystem = NAME;
        Err(window.fault(0, Incompatible::Unsupported { filesystem, what }))
    };
    if raw.revision.get() != 0x0100 {
        return unsupported("has a revision other than 1.00");
    }
    if raw.fats != 1 {
        return unsupported("has two FATs and two bitmaps (TexFAT)");
    }
    let flags = raw.flags.get();
    let not_clean = |what| {
        let kind = Incompatible::NotClean {
            filesystem: NAME,
            what,
            remedy: "unmount it, or run fsck.exfat (chkdsk on Windows)",
        };
        Err(window.fault(0, kind))
    };
    if flags & VOLUME_DIRTY != 0 {
        return not_clean("was not unmounted");
    }
    if flags & MEDIA_FAILURE != 0 {
        return not_clean("had disk errors");
    }
    if flags & ACTIVE_FAT != 0 {
        return unsupported("uses a second FAT that it does not have");
    }
    if flags & !CLEAR_TO_ZERO != 0 {
        return Err(window.fault(
            0,
            Incompatible::Features {
                filesystem: NAME,
                set: "volume flag",
                bits: flags.into(),
            },
        ));
    }
    Ok(())
}

/// Checks the checksum of a region.
fn check_region(window: &Window<'_>, at: u64, sector: u64) -> Result<(), Fault> {
    let size = usize::try_from(sector).unwrap_or(usize::MAX);
    let sectors = usize::try_from(REGION).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size.saturating_mul(sectors)];
    window.read(&mut bytes, at)?;
    let (summed, sums) = bytes.split_at(size.saturating_mul(sectors.saturating_sub(1)));
    let mut sum = 0_u32;
    for (index, &byte) in summed.iter().enumerate() {
        if !VOLUME_FLAGS.contains(&index) && index != PERCENT_IN_USE {
            sum = super::add_to_checksum(sum, byte);
        }
    }
    if sums.chunks_exact(4).any(|word| word != sum.to_le_bytes()) {
        let structure = "exFAT boot region at byte";
        let number = at;
        return Err(window.fault(at, Corrupt::Checksum { structure, number }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layout_is_that_of_the_specification() {
        assert_eq!(size_of::<RawBoot>(), 512);
        assert_eq!(offset_of!(RawBoot, partition_offset), 64);
        assert_eq!(offset_of!(RawBoot, cluster_count), 92);
        assert_eq!(offset_of!(RawBoot, flags), VOLUME_FLAGS[0]);
        assert_eq!(offset_of!(RawBoot, sector_shift), 108);
        assert_eq!(offset_of!(RawBoot, percent_in_use), PERCENT_IN_USE);
        assert_eq!(offset_of!(RawBoot, code), 120);
    }
}
