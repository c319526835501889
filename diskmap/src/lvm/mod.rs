//! LVM2: the logical volumes on one physical volume.
//!
//! Free is what no segment of any logical volume claims, hidden ones included. The label, the
//! metadata, all before the first extent and behind the last one are saved. All copies of the
//! metadata must agree.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod area;
mod config;
mod group;
mod label;

use crate::Cause;
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, FreeRuns};
use crate::filesystem::{Container, Filesystem, Inner, Parsed};
use crate::pieces::Pieces;
use crate::source::Window;
use crate::table::{self, TableKind};
use group::Group;
use label::{Label, SECTOR};

const NAME: &str = "LVM";

/// Maps the physical volume in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let label = label::read(window)?;
    let mut metadata = label.metadata.iter();
    let Some(first) = metadata.next() else {
        // A label without any was refused.
        return Err(window.fault(0, disagree()));
    };
    let at_first = |cause: Cause| window.fault(first.first, cause);
    let text = area::read(window, *first)?;
    let tree = parse(&text).map_err(at_first)?;
    let (name, section) = group::of_text(&tree).map_err(at_first)?;
    for place in metadata {
        let at_place = |cause: Cause| window.fault(place.first, cause);
        let text = area::read(window, *place)?;
        let tree = parse(&text).map_err(at_place)?;
        if group::of_text(&tree).map_err(at_place)? != (name, section) {
            return Err(at_place(disagree()));
        }
    }
    let mut group = group::read(name, section, &label).map_err(at_first)?;
    for volume in group
        .volumes
        .iter_mut()
        .filter(|volume| volume.raw.is_none())
    {
        if is_partitioned(window, volume)? {
            volume.raw = Some("a disk with partitions of its own".to_owned());
        }
    }
    let reserved = Extent {
        first: 0,
        count: SECTOR.saturating_mul(4),
    };
    let mut places = label.metadata.iter().chain([&reserved]);
    if let Some(place) = places.find(|place| place.overlaps(&group.data)) {
        let kind = Corrupt::Conflict {
            structure: "LVM extents and metadata",
            block: place.first,
        };
        return Err(at_first(kind.into()));
    }
    Ok(container(&label, group).into())
}

/// Whether a volume has a partition table, as the disks of virtual machines have. Sector 0 with
/// the table leaves intact what an older filesystem in the whole volume has further behind, such
/// as the superblock of ext, and its bitmaps know nothing of the partitions.
fn is_partitioned(window: &Window<'_>, volume: &Inner) -> Result<bool, Fault> {
    let Some(pieces) = Pieces::new(*window, &volume.pieces) else {
        return Ok(false);
    };
    let disk = Window::disk(&pieces);
    for sector_size in [512, 4096] {
        match table::read(&disk, sector_size) {
            Ok(table) if table.kind == TableKind::None => {}
            Ok(_) | Err(Fault::Found { .. }) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn container(label: &Label, group: Group) -> Container {
    let in_sectors = |bytes: &Extent| Extent {
        first: bytes.first.div_euclid(SECTOR),
        count: bytes.count.div_euclid(SECTOR),
    };
    let used: Vec<Extent> = group.used.iter().map(in_sectors).collect();
    let mut free = FreeRuns::default();
    free.push_gaps(in_sectors(&group.data), &used);
    let free_sectors = free.runs().iter().map(|run| run.count).sum::<u64>();
    Container {
        kind: NAME,
        filesystem: Filesystem {
            label: Some(group.name),
            uuid: Some(label.uuid_text()),
            block_size: u32::try_from(group.extent_size).unwrap_or(u32::MAX),
            size_bytes: label.device_size,
            used_bytes: label
                .device_size
                .saturating_sub(free_sectors.saturating_mul(SECTOR)),
            features: vec!["lvm2".to_owned()],
        },
        unit: SECTOR,
        free,
        volumes: group.volumes,
    }
}

fn parse(text: &str) -> Result<config::Section<'_>, Cause> {
    config::parse(text).ok_or_else(|| {
        let kind = Corrupt::Structure {
            structure: "LVM metadata text",
            problem: "is malformed",
        };
        kind.into()
    })
}

fn disagree() -> Cause {
    let kind = Corrupt::Structure {
        structure: "LVM metadata text",
        problem: "differs from its other copy",
    };
    kind.into()
}
