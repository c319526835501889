//! Free clusters of exFAT.
//!
//! The allocation bitmap has no checksum. It is believed if the volume is not dirty, both boot
//! regions are whole and agree, the up-case table matches its checksum, and the clusters of the
//! bitmap, of the up-case table, of the root directory and of the files in it are marked in use. `PercentInUse` is
//! advice that drivers leave behind wrong: it is not read.
//!
//! Source: Microsoft, "exFAT file system specification" 1.00 (2019).

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod boot;
mod root;

use crate::bitmap;
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, FreeRuns};
use crate::filesystem::{Filesystem, Mapped, Parsed};
use crate::source::Window;
use boot::Boot;
use root::Table;

const NAME: &str = "exFAT";
const BOOT: &str = "exFAT boot sector";
const FAT: &str = "exFAT FAT";
const ROOT: &str = "exFAT root directory";
const BITMAP: &str = "exFAT allocation bitmap";
const UP_CASE: &str = "exFAT up-case table at cluster";
/// Bytes of the bitmap read at once; eight times as many clusters.
const BATCH: usize = 1 << 20;

/// Maps the filesystem in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let boot = boot::read(window)?;
    let root = root::read(window, &boot)?;
    let (free, free_clusters) = read_bitmap(window, &boot, root.bitmap)?;
    let single = |&cluster: &u32| (cluster, 1, ROOT);
    let tables = [(root.bitmap, BITMAP), (root.up_case, UP_CASE)];
    let tables = tables.map(|(table, name)| (table.first_cluster, table.clusters, name));
    for (cluster, count, structure) in root.clusters.iter().map(single).chain(tables) {
        root::check_used(window, &boot, &free, cluster, count.into(), structure)?;
    }
    root::check_files(window, &boot, &root, &free)?;
    let free_sectors = free_clusters.saturating_mul(boot.sectors_per_cluster);
    let used = boot.sectors.saturating_sub(free_sectors);
    let [a, b, c, d] = boot.serial.to_be_bytes();
    Ok(Mapped {
        kind: NAME,
        filesystem: Filesystem {
            label: root.label,
            uuid: Some(format!("{a:02X}{b:02X}-{c:02X}{d:02X}")),
            block_size: u32::try_from(boot.cluster()).unwrap_or(u32::MAX),
            size_bytes: boot.sectors.saturating_mul(boot.sector),
            used_bytes: used.saturating_mul(boot.sector),
            features: Vec::new(),
        },
        unit: boot.sector,
        free,
        optional: Vec::new(),
    }
    .into())
}

/// The zeros of the bitmap in sectors, and how many clusters they are.
fn read_bitmap(window: &Window<'_>, boot: &Boot, table: Table) -> Result<(FreeRuns, u64), Fault> {
    let needed = u64::from(boot.clusters).div_ceil(8);
    let start = boot
        .cluster_start(table.first_cluster)
        .saturating_mul(boot.sector);
    if table.length < needed {
        let kind = Corrupt::Field {
            structure: BITMAP,
            field: "DataLength",
            value: table.length,
        };
        return Err(window.fault(start, kind));
    }
    let mut free = FreeRuns::default();
    let mut free_clusters = 0_u64;
    let mut buffer = Vec::new();
    let mut at = 0_u64;
    let mut rest = boot.clusters;
    // Cluster 2 has the first bit.
    let mut cluster = 2_u32;
    while rest > 0 {
        let left = usize::try_from(needed.saturating_sub(at)).unwrap_or(usize::MAX);
        buffer.resize(left.min(BATCH), 0);
        window.read(&mut buffer, start.saturating_add(at))?;
        let bits = u32::try_from(buffer.len().saturating_mul(8)).unwrap_or(u32::MAX);
        let bits = bits.min(rest);
        bitmap::zero_runs(&buffer, bits, |first, count| {
            free_clusters = free_clusters.saturating_add(count.into());
            free.push(Extent {
                first: boot.cluster_start(cluster.saturating_add(first)),
                count: u64::from(count).saturating_mul(boot.sectors_per_cluster),
            });
        });
        at = at.saturating_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        cluster = cluster.saturating_add(bits);
        rest = rest.saturating_sub(bits);
    }
    Ok((free, free_clusters))
}

/// Section 3.4, figure 1: rotate right, then add.
fn add_to_checksum(sum: u32, byte: u8) -> u32 {
    sum.rotate_right(1).wrapping_add(byte.into())
}
