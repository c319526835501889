//! Free clusters of FAT12, FAT16 and FAT32.
//!
//! FAT has neither magic numbers nor checksums. What is believed must fit together: the fields of
//! the boot sector and of FAT32's backup of it, the media byte that the table repeats, two tables that are equal, chains that
//! stay inside and in use, directories that begin with themselves. The free count in FAT32's FSInfo sector is advice that drivers leave
//! behind wrong after a crash and check themselves; it proves nothing and is not read.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03; detection also follows
//! util-linux 2.41, `libblkid/src/superblocks/vfat.c`.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod boot;
mod root;
mod table;

use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::FreeRuns;
use crate::filesystem::{Filesystem, Mapped, Parsed};
use crate::source::Window;
use boot::{Geometry, RawBoot};

const BOOT: &str = "FAT boot sector";
const TABLE: &str = "FAT";
const ROOT: &str = "root directory of FAT";

/// Whether a boot sector of FAT seems to stand at the start.
pub(crate) fn detect(window: &Window<'_>) -> Result<Option<u64>, Fault> {
    if !window.contains(0, 512) {
        return Ok(None);
    }
    let raw: RawBoot = window.read_struct(0)?;
    // The name alone does not make one, but casts doubt on everything else.
    Ok((raw.is_plausible() || raw.has_type_name()).then_some(0))
}

/// Maps the filesystem in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let geometry = boot::read(window)?;
    let table = table::read(window, &geometry)?;
    if let Some(root) = geometry.root_cluster {
        check_root(window, &geometry, root, &table.free)?;
    }
    let label = root::read(window, &geometry, &table.free)?;
    let free_sectors = table
        .free_clusters
        .saturating_mul(geometry.sectors_per_cluster.into());
    let used = geometry.total_sectors.saturating_sub(free_sectors);
    let [a, b, c, d] = geometry.serial.to_be_bytes();
    let cluster_bytes = geometry.to_bytes(geometry.sectors_per_cluster.into());
    Ok(Mapped {
        kind: geometry.kind.name(),
        filesystem: Filesystem {
            label,
            uuid: (geometry.serial != 0).then(|| format!("{a:02X}{b:02X}-{c:02X}{d:02X}")),
            block_size: u32::try_from(cluster_bytes).unwrap_or(u32::MAX),
            size_bytes: geometry.to_bytes(geometry.total_sectors),
            used_bytes: geometry.to_bytes(used),
            features: Vec::new(),
        },
        unit: geometry.sector.into(),
        free: table.free,
        optional: Vec::new(),
    }
    .into())
}

/// The root directory of FAT32 must be in use.
fn check_root(
    window: &Window<'_>,
    geometry: &Geometry,
    root: u32,
    free: &FreeRuns,
) -> Result<(), Fault> {
    let block = u64::from(root);
    if !(2..=geometry.last_cluster()).contains(&root) {
        let structure = BOOT;
        return Err(window.fault(0, Corrupt::Outside { structure, block }));
    }
    if root::is_free(geometry, free, root) {
        let structure = "the root directory of FAT32 and free space";
        return Err(window.fault(
            geometry.to_bytes(geometry.cluster_start(root)),
            Corrupt::Conflict { structure, block },
        ));
    }
    Ok(())
}

fn not_clean(window: &Window<'_>, offset: u64, what: &'static str) -> Fault {
    let kind = Incompatible::NotClean {
        filesystem: "FAT",
        what,
        remedy: "unmount it, or run fsck.fat (chkdsk on Windows)",
    };
    window.fault(offset, kind)
}
