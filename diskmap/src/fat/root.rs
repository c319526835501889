//! The root directory of FAT: the volume label, and whether what it names is where it should be.
//!
//! Nothing proves that the boot sector's layout is right. That the directories in the root
//! directory begin with themselves does, and a table is stale if the first clusters of files are
//! free in it.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03, section "FAT Directory
//! Structure".

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ROOT;
use super::boot::{Geometry, Kind};
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, FreeRuns};
use crate::filesystem::text_field;
use crate::source::Window;

/// The most entries of a directory.
const MAX_ENTRIES: u32 = 65536;
/// Attributes: volume label, directory, and the four that together mark a long name.
const LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
const DELETED: u8 = 0xe5;
const END: u8 = 0;
/// What formatters write into the boot sector instead of nothing.
const NO_NAME: &[u8; 11] = b"NO NAME    ";
const ITSELF: &[u8; 11] = b".          ";
/// Sectors read at once at most.
const BATCH: u64 = 128;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    name: [u8; 11],
    attributes: u8,
    times: [u8; 8],
    cluster_high: U16,
    modified: U32,
    cluster_low: U16,
    size: U32,
}

impl RawEntry {
    fn cluster(&self, kind: Kind) -> u32 {
        // OS/2 kept other things in the high word of FAT16.
        let high = match kind {
            Kind::Fat32 => self.cluster_high.get(),
            Kind::Fat12 | Kind::Fat16 => 0,
        };
        u32::from(high) << 16 | u32::from(self.cluster_low.get())
    }
}

/// The label. Refuses a root directory that contradicts the table.
pub(super) fn read(
    window: &Window<'_>,
    geometry: &Geometry,
    free: &FreeRuns,
) -> Result<Option<String>, Fault> {
    let mut walk = Walk {
        window,
        geometry,
        free,
        left: MAX_ENTRIES,
        label: None,
    };
    match geometry.root_cluster {
        None => {
            let sectors = geometry.data_start.saturating_sub(geometry.root_start);
            walk.run(geometry.root_start, sectors)?;
        }
        Some(root) => walk.chain(root)?,
    }
    Ok(match walk.label {
        Some(label) => label,
        None if geometry.label == *NO_NAME => None,
        None => text_field(&geometry.label),
    })
}

struct Walk<'a> {
    window: &'a Window<'a>,
    geometry: &'a Geometry,
    free: &'a FreeRuns,
    /// Entries that the directory may still have.
    left: u32,
    label: Option<Option<String>>,
}

impl Walk<'_> {
    /// Follows the root directory of FAT32. The table's chains do not branch, but may come back.
    fn chain(&mut self, root: u32) -> Result<(), Fault> {
        let mut cluster = root;
        loop {
            let first = self.geometry.cluster_start(cluster);
            if self.run(first, self.geometry.sectors_per_cluster.into())? {
                return Ok(());
            }
            let mut entry = [0; 4];
            let at = u64::from(cluster).saturating_mul(4);
            let fat = self.geometry.to_bytes(self.geometry.reserved);
            self.window.read(&mut entry, fat.saturating_add(at))?;
            cluster = u32::from_le_bytes(entry) & 0x0fff_ffff;
            if !(2..=self.geometry.last_cluster()).contains(&cluster) {
                return Ok(());
            }
        }
    }

    /// Looks through some sectors of the directory; whether it ends there.
    fn run(&mut self, first: u64, sectors: u64) -> Result<bool, Fault> {
        let mut done = 0;
        let mut bytes = Vec::new();
        while done < sectors {
            let count = sectors.saturating_sub(done).min(BATCH);
            let len = self.geometry.to_bytes(count);
            bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
            let at = self.geometry.to_bytes(first.saturating_add(done));
            self.window.read(&mut bytes, at)?;
            for entry in bytes.chunks_exact(size_of::<RawEntry>()) {
                let Ok(entry) = RawEntry::read_from_bytes(entry) else {
                    break;
                };
                let [start, ..] = entry.name;
                if start == END || self.left == 0 {
                    return Ok(true);
                }
                self.left = self.left.saturating_sub(1);
                if start != DELETED && entry.attributes & LONG_NAME != LONG_NAME {
                    self.entry(&entry)?;
                }
            }
            done = done.saturating_add(count);
        }
        Ok(false)
    }

    fn entry(&mut self, entry: &RawEntry) -> Result<(), Fault> {
        let is_directory = entry.attributes & DIRECTORY != 0;
        if entry.attributes & LABEL != 0 && !is_directory {
            self.label.get_or_insert_with(|| text_field(&entry.name));
            return Ok(());
        }
        let cluster = entry.cluster(self.geometry.kind);
        if cluster == 0 && !is_directory {
            return Ok(());
        }
        let block = u64::from(cluster);
        let structure = ROOT;
        let fault = |kind: Corrupt| {
            let at = self.geometry.cluster_start(cluster);
            Err(self.window.fault(self.geometry.to_bytes(at), kind))
        };
        if !(2..=self.geometry.last_cluster()).contains(&cluster) {
            return fault(Corrupt::Outside { structure, block });
        }
        if is_free(self.geometry, self.free, cluster) {
            let structure = "a file in the root directory of FAT and free space";
            return fault(Corrupt::Conflict { structure, block });
        }
        if is_directory {
            let at = self.geometry.to_bytes(self.geometry.cluster_start(cluster));
            let itself: RawEntry = self.window.read_struct(at)?;
            if itself.name != *ITSELF || itself.cluster(self.geometry.kind) != cluster {
                let problem = "names a directory that is not there";
                return fault(Corrupt::Structure { structure, problem });
            }
        }
        Ok(())
    }
}

/// Whether a cluster is among the free runs.
pub(super) fn is_free(geometry: &Geometry, free: &FreeRuns, cluster: u32) -> bool {
    let extent = Extent {
        first: geometry.cluster_start(cluster),
        count: geometry.sectors_per_cluster.into(),
    };
    let at = free.runs().partition_point(|run| run.end() <= extent.first);
    free.runs().get(at).is_some_and(|run| run.overlaps(&extent))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layout_is_that_of_the_specification() {
        assert_eq!(size_of::<RawEntry>(), 32);
        assert_eq!(offset_of!(RawEntry, cluster_high), 20);
        assert_eq!(offset_of!(RawEntry, cluster_low), 26);
    }
}
