//! Which partition table a disk has, and what it says.
//!
//! GPT and MBR are read by code of our own: the crates for them (gptman, mbrman) want
//! `Read + Seek`, allocate what the disk tells them to, and do not report which sectors the
//! tables themselves and the chain of boot records occupy, which must be saved in any case.
//!
//! The choice follows the Linux kernel: sector 0 decides. A GPT counts only behind a protective
//! entry. Where two readings of the disk are possible, neither is trusted.

use std::collections::BTreeSet;
use std::fmt;

use crate::error::{Cause, Corrupt, Effect, Fault, Incompatible, Place, Warning};
use crate::extent::Extent;
use crate::gpt;
use crate::mbr::Mbr;
use crate::signature::{self, Signature};
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
    /// Of an MBR: the slots that end where the partition does, or behind it: its own, and those that it is inside of.
    pub(crate) slots: Vec<SlotPlace>,
}

/// A slot of a boot record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotPlace {
    /// Byte offset on the disk.
    pub(crate) at: u64,
    /// First sector of what it describes.
    pub(crate) first: u64,
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
    /// Whether an MBR names partitions beside a GPT.
    pub(crate) hybrid: bool,
    pub(crate) warnings: Vec<Warning>,
}

/// Reads the table of a disk. A finding that leaves no trustworthy table is a [`Fault`].
pub(crate) fn read(disk: &Window<'_>, sector_size: u32) -> Result<Table, Fault> {
    let sectors = disk.len() / u64::from(sector_size);
    let mut table = Table::default();
    table.reserved.push(Extent { first: 0, count: 1 });
    let mbr = Mbr::read(disk)?;
    if let Some(mbr) = mbr.as_ref().filter(|mbr| mbr.is_protective()) {
        let beside = mbr.beside_gpt();
        table.hybrid = !beside.is_empty();
        let (entries, backup) = table.read_gpt(disk, sector_size, sectors)?;
        table.add(entries, &[], sectors);
        if let Some(backup) = backup {
            table.compare(disk, &backup, sectors, sector_size);
        }
        table.mark_overlaps();
        table.mark_beside(&beside);
        table.warn_untrusted(sector_size);
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
        table.add(found.entries, &found.containers, sectors);
        table.mark_overlaps();
        table.warn_untrusted(sector_size);
        table.check_boot_sector(disk)?;
    }
    Ok(table)
}

impl Table {
    /// The entries of the primary GPT, or of the backup in the last sector if the primary is
    /// damaged, and those of the backup if both are intact.
    fn read_gpt(
        &mut self,
        disk: &Window<'_>,
        sector_size: u32,
        sectors: u64,
    ) -> Result<(Vec<Entry>, Option<Vec<Entry>>), Fault> {
        self.kind = TableKind::Gpt;
        let end = sectors.saturating_sub(1);
        let primary = match gpt::read(disk, 1, sector_size) {
            Ok(primary) => primary,
            Err(Fault::Io(error)) => return Err(Fault::Io(error)),
            Err(damage) => {
                let backup = match gpt::read(disk, end, sector_size) {
                    Ok(backup) => backup,
                    Err(Fault::Io(error)) => return Err(Fault::Io(error)),
                    Err(Fault::Found { .. }) => return Err(damage),
                };
                self.warn(damage, Effect::BackupUsed)?;
                self.reserved.extend(backup.reserved);
                // Where the primary stood, and whoever repairs it will put it again.
                self.reserved.push(Extent { first: 1, count: 1 });
                return Ok((backup.entries, None));
            }
        };
        self.reserved.extend(primary.reserved);
        let alternate = primary.alternate_lba;
        if alternate <= 1 {
            let header = disk.fault(sector_size.into(), Corrupt::GptField("alternate_lba"));
            self.warn(header, Effect::PrimaryUsed)?;
            return Ok((primary.entries, None));
        }
        let backup = match gpt::read(disk, alternate, sector_size) {
            Ok(backup) => backup,
            Err(damage) => {
                self.warn(damage, Effect::PrimaryUsed)?;
                return Ok((primary.entries, None));
            }
        };
        self.reserved.extend(backup.reserved);
        if alternate != end {
            let at = alternate.saturating_mul(sector_size.into());
            let kind = Incompatible::GptBackupMisplaced {
                sector: alternate,
                last: end,
            };
            self.warn(disk.fault(at, kind), Effect::NoneLost)?;
        }
        Ok((primary.entries, Some(backup.entries)))
    }

    /// Distrusts the partitions of the primary GPT that are not the same in the backup: a tool
    /// that was interrupted between writing them, and nobody knows which is true.
    fn compare(&mut self, disk: &Window<'_>, backup: &[Entry], sectors: u64, sector_size: u32) {
        let mut other = Self::default();
        other.add(backup.to_vec(), &[], sectors);
        other.mark_overlaps();
        let key = |slice: &Slice| (slice.number, slice.extent);
        let same = self.slices.len() == other.slices.len()
            && self
                .slices
                .iter()
                .zip(&other.slices)
                .all(|(one, other)| key(one) == key(other));
        if same {
            return;
        }
        let sound = other
            .slices
            .iter()
            .filter(|slice| slice.untrusted.is_none());
        let known: BTreeSet<_> = sound.map(key).collect();
        for slice in &mut self.slices {
            if !known.contains(&key(slice)) {
                slice.untrusted.get_or_insert(Corrupt::Structure {
                    structure: "partition",
                    problem: "is not the same in the backup GPT",
                });
            }
        }
        let kind = Corrupt::Structure {
            structure: "backup GPT",
            problem: "lists other partitions than the primary one",
        };
        self.warnings.push(Warning {
            place: Place {
                partition: None,
                offset: disk.on_disk(sector_size.into()),
            },
            cause: kind.into(),
            effect: Effect::DifferencesRaw,
        });
    }

    /// Distrusts what a hybrid MBR cuts otherwise than the GPT: a system that goes by the MBR
    /// has a filesystem of its own there.
    fn mark_beside(&mut self, beside: &[Extent]) {
        for slice in &mut self.slices {
            let other = |slot: &Extent| *slot != slice.extent && slot.overlaps(&slice.extent);
            if beside.iter().any(other) {
                slice.untrusted.get_or_insert(Corrupt::PartitionOverlap);
            }
        }
    }

    /// Refuses the table in a sector 0 that is also the boot sector of a filesystem, unless the
    /// table says that this filesystem is its partition.
    fn check_boot_sector(&self, disk: &Window<'_>) -> Result<(), Fault> {
        if self.slices.iter().any(|slice| slice.extent.first == 0) {
            return Ok(());
        }
        let claims = signature::find(disk)?;
        let is_boot_sector = |claim: &&Signature| {
            claim.offset < 512 && signature::WITH_BOOT_SECTOR.contains(&claim.name)
        };
        match claims.iter().find(is_boot_sector).map(|claim| claim.name) {
            Some(second) => {
                let first = "a partition table";
                Err(disk.fault(0, Incompatible::Ambiguous { first, second }))
            }
            None => Ok(()),
        }
    }

    fn warn(&mut self, fault: Fault, effect: Effect) -> Result<(), Fault> {
        self.warnings
            .push(fault.into_warning(None, effect, false).map_err(Fault::Io)?);
        Ok(())
    }

    /// Takes over the entries, cut off at the end of the disk, and marks those that lie outside.
    fn add(&mut self, entries: Vec<Entry>, containers: &[Extent], sectors: u64) {
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
                slots: _,
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
    }

    /// Marks every slice that shares a sector with another one.
    fn mark_overlaps(&mut self) {
        let slices = &mut self.slices;
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

    fn warn_untrusted(&mut self, sector_size: u32) {
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
