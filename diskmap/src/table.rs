//! Which partition table a disk has, and what it says.
//!
//! GPT and MBR are read by code of our own: the crates for them (gptman, mbrman) want
//! `Read + Seek`, allocate what the disk tells them to, and do not report which sectors the
//! tables themselves and the chain of boot records occupy, which must be saved in any case.
//!
//! The choice follows the Linux kernel: sector 0 decides. A GPT counts only behind a protective
//! entry. Where two readings of the disk are possible, neither is trusted.

use std::fmt;

use crate::error::{Cause, Corrupt, Effect, Fault, Incompatible, Place, Warning};
use crate::extent::Extent;
use crate::gpt::{self, Gpt};
use crate::mbr::Mbr;
use crate::source::Window;

/// The partition table of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TableKind {
    /// None: a filesystem on the whole disk, or unknown contents.
    #[default]
    None,
    /// Master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Mbr => "MBR",
            Self::Gpt => "GPT",
        })
    }
}

/// One line of a table, as it stands there: unchecked.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) number: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) name: Option<String>,
    /// Type in the table: `0x83`, or a GUID.
    pub(crate) type_id: String,
    /// The extended partition a logical one must lie in.
    pub(crate) container: Option<Extent>,
}

/// A partition inside the disk.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) number: u32,
    pub(crate) extent: Extent,
    pub(crate) name: Option<String>,
    /// Type in the table: `0x83`, or a GUID; empty for the whole disk.
    pub(crate) type_id: String,
    /// Why its contents must not be looked at.
    pub(crate) untrusted: Option<Corrupt>,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) kind: TableKind,
    pub(crate) slices: Vec<Slice>,
    /// Sectors of the tables themselves; never free, whatever a filesystem says.
    pub(crate) reserved: Vec<Extent>,
    pub(crate) warnings: Vec<Warning>,
}

/// Reads the table of a disk. A finding that leaves no trustworthy table is a [`Fault`].
pub(crate) fn read(disk: &Window<'_>, sector_size: u32) -> Result<Table, Fault> {
    let sectors = disk.len() / u64::from(sector_size);
    let mut table = Table {
        kind: TableKind::None,
        slices: Vec::new(),
        reserved: Vec::new(),
        warnings: Vec::new(),
    };
    let mbr = Mbr::read(disk)?;
    if mbr.as_ref().is_some_and(Mbr::is_protective) {
        let entries = table.read_gpt(disk, sector_size, sectors)?;
        table.add(entries, &[], sectors, sector_size);
        return Ok(table);
    }
    // An intact GPT that sector 0 does not announce: stale, or sector 0 was overwritten.
    match gpt::read(disk, 1, sector_size) {
        Ok(_) => return Err(disk.fault(sector_size.into(), Incompatible::NoProtectiveEntry)),
        Err(Fault::Found { .. }) => {}
        Err(error) => return Err(error),
    }
    if let Some(mbr) = mbr.filter(|mbr| !mbr.is_empty()) {
        let found = mbr.partitions(disk, sector_size)?;
        table.kind = TableKind::Mbr;
        table.reserved.extend(found.reserved);
        for cut in found.cuts {
            table.warn(cut, Effect::ChainCut)?;
        }
        table.add(found.entries, &found.containers, sectors, sector_size);
    }
    Ok(table)
}

impl Table {
    /// The primary GPT, or the backup in the last sector if the primary is damaged.
    fn read_gpt(
        &mut self,
        disk: &Window<'_>,
        sector_size: u32,
        sectors: u64,
    ) -> Result<Vec<Entry>, Fault> {
        self.kind = TableKind::Gpt;
        self.reserved.push(Extent { first: 0, count: 1 });
        let end = sectors.saturating_sub(1);
        let primary = match gpt::read(disk, 1, sector_size) {
            Ok(primary) => primary,
            Err(damage) => {
                let Ok(backup) = gpt::read(disk, end, sector_size) else {
                    return Err(damage);
                };
                self.warn(damage, Effect::BackupUsed)?;
                self.reserved.extend(backup.reserved);
                return Ok(backup.entries);
            }
        };
        match gpt::read(disk, primary.alternate_lba, sector_size) {
            Ok(Gpt { reserved, .. }) => self.reserved.extend(reserved),
            Err(damage) => self.warn(damage, Effect::PrimaryUsed)?,
        }
        self.reserved.extend(primary.reserved);
        Ok(primary.entries)
    }

    fn warn(&mut self, fault: Fault, effect: Effect) -> Result<(), Fault> {
        self.warnings
            .push(fault.into_warning(None, effect, false).map_err(Fault::Io)?);
        Ok(())
    }

    /// Takes over the entries that lie inside the disk and marks those that share sectors.
    fn add(&mut self, entries: Vec<Entry>, containers: &[Extent], sectors: u64, sector_size: u32) {
        let disk = Extent {
            first: 0,
            count: sectors,
        };
        for entry in entries {
            let Entry {
                number,
                first,
                last,
                name,
                type_id,
                container,
            } = entry;
            let count = last
                .checked_sub(first)
                .map_or(0, |count| count.saturating_add(1));
            let extent = Extent { first, count };
            let outside = count == 0
                || !disk.covers(&extent)
                || container.is_some_and(|container| !container.covers(&extent));
            let clashes = container.is_none() && containers.iter().any(|c| c.overlaps(&extent));
            let untrusted = if outside {
                Some(Corrupt::PartitionOutside { first, last })
            } else {
                clashes.then_some(Corrupt::PartitionOverlap)
            };
            let end = extent.end().min(sectors);
            let first = first.min(end);
            let extent = Extent {
                first,
                count: end.saturating_sub(first),
            };
            self.slices.push(Slice {
                number,
                extent,
                name,
                type_id,
                untrusted,
            });
        }
        mark_overlaps(&mut self.slices);
        for slice in &self.slices {
            if let Some(kind) = &slice.untrusted {
                let offset = slice.extent.first.saturating_mul(sector_size.into());
                self.warnings.push(Warning {
                    place: Place {
                        partition: Some(slice.number),
                        offset,
                    },
                    cause: Cause::Corrupt(kind.clone()),
                    effect: Effect::RawPartition,
                });
            }
        }
    }
}

/// Marks every slice that shares a sector with another one.
fn mark_overlaps(slices: &mut [Slice]) {
    let mut order: Vec<usize> = (0..slices.len()).collect();
    order.sort_by_key(|&index| slices[index].extent);
    // The slice that reaches furthest so far: whoever begins before its end overlaps it.
    let mut furthest: Option<usize> = None;
    for index in order {
        let extent = slices[index].extent;
        if let Some(other) = furthest {
            if slices[other].extent.overlaps(&extent) {
                for index in [index, other] {
                    slices[index]
                        .untrusted
                        .get_or_insert(Corrupt::PartitionOverlap);
                }
            }
            if slices[other].extent.end() >= extent.end() {
                continue;
            }
        }
        furthest = Some(index);
    }
}
