//! The root directory of exFAT: where the allocation bitmap and the up-case table are, the label.
//!
//! Source: Microsoft, "exFAT file system specification" 1.00 (2019), sections 4.1 "File
//! Allocation Table", 6 "Directory Structure", and 7.1 to 7.3.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::boot::Boot;
use super::{BOOT, FAT, ROOT, UP_CASE};
use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::{Extent, FreeRuns};
use crate::filesystem::text_field;
use crate::source::Window;

const END_OF_DIRECTORY: u8 = 0x00;
const ALLOCATION_BITMAP: u8 = 0x81;
const UP_CASE_TABLE: u8 = 0x82;
const VOLUME_LABEL: u8 = 0x83;
const STREAM: u8 = 0xc0;
/// A stream's flag: its clusters follow each other, and the FAT says nothing of them.
const NO_FAT_CHAIN: u8 = 0x02;
const ENTRY: usize = 32;
/// The most bytes of a directory and of an up-case table.
const MAX_DIRECTORY: u64 = 256 << 20;
const MAX_UP_CASE: u64 = 128 << 10;
const END_OF_CHAIN: u32 = 0xffff_ffff;
/// Bytes of the directory read at once.
const BATCH: u64 = 64 << 10;

/// Entries 0x81, 0x82 and 0xc0, as far as they are read.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTable {
    entry_type: u8,
    /// Of a bitmap: to which FAT it belongs. Of a stream: whether it has a chain.
    flags: u8,
    reserved0: [u8; 2],
    checksum: U32,
    reserved1: [u8; 12],
    first_cluster: U32,
    data_length: U64,
}

/// A stream of clusters that follow each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) first_cluster: u32,
    pub(super) clusters: u32,
    /// Bytes.
    pub(super) length: u64,
}

/// What the root directory tells.
pub(super) struct Root {
    /// Its own clusters.
    pub(super) clusters: Vec<u32>,
    pub(super) bitmap: Table,
    pub(super) up_case: Table,
    pub(super) label: Option<String>,
}

/// Looks through the root directory.
pub(super) fn read(window: &Window<'_>, boot: &Boot) -> Result<Root, Fault> {
    let structure = ROOT;
    let corrupt = |problem| {
        let at = boot.cluster_start(boot.root).saturating_mul(boot.sector);
        window.fault(at, Corrupt::Structure { structure, problem })
    };
    let mut found = Found::default();
    let mut clusters = Vec::new();
    let mut cluster = boot.root;
    loop {
        let length = u64::try_from(clusters.len()).unwrap_or(u64::MAX);
        let bytes = length.saturating_mul(boot.cluster());
        // Longer than the volume, it comes back to itself.
        if length >= u64::from(boot.clusters) || bytes >= MAX_DIRECTORY.max(boot.cluster()) {
            return Err(corrupt("does not end"));
        }
        clusters.push(cluster);
        // The rest of the chain is the directory's too, whatever is in it.
        if !found.ended {
            look(window, boot, cluster, &mut found)?;
        }
        cluster = match next(window, boot, cluster)? {
            END_OF_CHAIN => break,
            next => next,
        };
    }
    let table = |entry: Option<RawTable>, missing| {
        let entry = entry.ok_or_else(|| corrupt(missing))?;
        let table = chain(window, boot, &entry)?;
        Ok((table, entry.checksum.get()))
    };
    if found.bitmaps > 1 {
        return Err(corrupt("has several allocation bitmaps"));
    }
    let (bitmap, _) = table(found.bitmap, "has no allocation bitmap")?;
    let (up_case, checksum) = table(found.up_case, "has no up-case table")?;
    check_up_case(window, boot, up_case, checksum)?;
    Ok(Root {
        clusters,
        bitmap,
        up_case,
        label: found.label,
    })
}

#[derive(Default)]
struct Found {
    ended: bool,
    bitmaps: u32,
    bitmap: Option<RawTable>,
    up_case: Option<RawTable>,
    label: Option<String>,
}

/// Takes what matters from one cluster of the directory.
fn look(window: &Window<'_>, boot: &Boot, cluster: u32, found: &mut Found) -> Result<(), Fault> {
    let ended = each_entry(window, boot, cluster, |entry| {
        match entry.first() {
            Some(&ALLOCATION_BITMAP) => {
                found.bitmaps = found.bitmaps.saturating_add(1);
                found.bitmap = RawTable::read_from_bytes(entry).ok();
            }
            Some(&UP_CASE_TABLE) => found.up_case = RawTable::read_from_bytes(entry).ok(),
            Some(&VOLUME_LABEL) => found.label = label(entry),
            _ => {}
        }
        Ok(())
    })?;
    found.ended = ended;
    Ok(())
}

/// Visits the entries in one cluster of the directory; whether it ends there.
fn each_entry(
    window: &Window<'_>,
    boot: &Boot,
    cluster: u32,
    mut visit: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<bool, Fault> {
    let start = boot.cluster_start(cluster).saturating_mul(boot.sector);
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < boot.cluster() {
        let len = boot.cluster().saturating_sub(at).min(BATCH);
        bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        window.read(&mut bytes, start.saturating_add(at))?;
        for entry in bytes.chunks_exact(ENTRY) {
            if entry.first() == Some(&END_OF_DIRECTORY) {
                return Ok(true);
            }
            visit(entry)?;
        }
        at = at.saturating_add(len);
    }
    Ok(false)
}

/// Refuses a bitmap that calls free what the files of the root directory begin with, or lie in
/// as a whole where they have no chain.
pub(super) fn check_files(
    window: &Window<'_>,
    boot: &Boot,
    root: &Root,
    free: &FreeRuns,
) -> Result<(), Fault> {
    for &cluster in &root.clusters {
        let ended = each_entry(window, boot, cluster, |entry| {
            if entry.first() != Some(&STREAM) {
                return Ok(());
            }
            let Ok(raw) = RawTable::read_from_bytes(entry) else {
                return Ok(());
            };
            let first = raw.first_cluster.get();
            if first == 0 {
                return Ok(());
            }
            let clusters = if raw.flags & NO_FAT_CHAIN == 0 {
                1
            } else {
                raw.data_length.get().div_ceil(boot.cluster()).max(1)
            };
            let last = u64::from(first).saturating_add(clusters).saturating_sub(1);
            let last = u32::try_from(last).unwrap_or(u32::MAX);
            let structure = ROOT;
            if !boot.holds(first) || !boot.holds(last) {
                let block = first.into();
                return Err(window.fault(0, Corrupt::Outside { structure, block }));
            }
            check_used(
                window,
                boot,
                free,
                first,
                clusters,
                "a file of exFAT and free space",
            )
        })?;
        if ended {
            break;
        }
    }
    Ok(())
}

/// Refuses clusters that are free.
pub(super) fn check_used(
    window: &Window<'_>,
    boot: &Boot,
    free: &FreeRuns,
    cluster: u32,
    count: u64,
    structure: &'static str,
) -> Result<(), Fault> {
    let extent = Extent {
        first: boot.cluster_start(cluster),
        count: count.saturating_mul(boot.sectors_per_cluster),
    };
    let at = free.runs().partition_point(|run| run.end() <= extent.first);
    if free.runs().get(at).is_some_and(|run| run.overlaps(&extent)) {
        let block = cluster.into();
        let at = extent.first.saturating_mul(boot.sector);
        return Err(window.fault(at, Corrupt::Conflict { structure, block }));
    }
    Ok(())
}

/// A count of characters, then at most eleven of them in UTF-16.
fn label(entry: &[u8]) -> Option<String> {
    let count = usize::from(*entry.get(1)?);
    let characters = entry.get(2..24)?.chunks_exact(2).take(count);
    let units = characters.map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let text: String = char::decode_utf16(units)
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    text_field(text.as_bytes())
}

/// The entry of the FAT of a cluster: another one, or the end of the chain.
fn next(window: &Window<'_>, boot: &Boot, cluster: u32) -> Result<u32, Fault> {
    let at = boot
        .fat
        .saturating_mul(boot.sector)
        .saturating_add(u64::from(cluster).saturating_mul(4));
    let entry: U32 = window.read_struct(at)?;
    let next = entry.get();
    if next == END_OF_CHAIN || boot.holds(next) {
        return Ok(next);
    }
    let structure = FAT;
    let block = next.into();
    Err(window.fault(at, Corrupt::Outside { structure, block }))
}

/// Follows the chain of a table. Linux and other drivers read its clusters in a row without the
/// FAT, so if the chain says otherwise there are two readings.
fn chain(window: &Window<'_>, boot: &Boot, entry: &RawTable) -> Result<Table, Fault> {
    let first_cluster = entry.first_cluster.get();
    let length = entry.data_length.get();
    let clusters = length.div_ceil(boot.cluster());
    let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
    if !boot.holds(first_cluster) || clusters == 0 || clusters > boot.clusters {
        let structure = ROOT;
        let block = first_cluster.into();
        return Err(window.fault(0, Corrupt::Outside { structure, block }));
    }
    let mut cluster = first_cluster;
    for index in 1..=clusters {
        let next = next(window, boot, cluster)?;
        let is_last = index == clusters;
        if is_last != (next == END_OF_CHAIN) {
            let structure = FAT;
            let problem = "has a chain of another length than its stream";
            return Err(window.fault(0, Corrupt::Structure { structure, problem }));
        }
        if !is_last && next != cluster.saturating_add(1) {
            let filesystem = super::NAME;
            let what = "has its allocation bitmap or up-case table in pieces";
            return Err(window.fault(0, Incompatible::Unsupported { filesystem, what }));
        }
        cluster = next;
    }
    Ok(Table {
        first_cluster,
        clusters,
        length,
    })
}

/// The up-case table has a checksum: proof that the clusters are where they seem to be.
fn check_up_case(
    window: &Window<'_>,
    boot: &Boot,
    table: Table,
    checksum: u32,
) -> Result<(), Fault> {
    let at = boot
        .cluster_start(table.first_cluster)
        .saturating_mul(boot.sector);
    if table.length > MAX_UP_CASE {
        let structure = BOOT;
        let (field, value) = ("length of the up-case table", table.length);
        return Err(window.fault(
            at,
            Corrupt::Field {
                structure,
                field,
                value,
            },
        ));
    }
    let mut bytes = vec![0; usize::try_from(table.length).unwrap_or(usize::MAX)];
    window.read(&mut bytes, at)?;
    let sum = bytes
        .iter()
        .fold(0, |sum, &byte| super::add_to_checksum(sum, byte));
    if sum != checksum {
        let structure = UP_CASE;
        let number = table.first_cluster.into();
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
        assert_eq!(size_of::<RawTable>(), ENTRY);
        assert_eq!(offset_of!(RawTable, checksum), 4);
        assert_eq!(offset_of!(RawTable, first_cluster), 20);
    }
}
