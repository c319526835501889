//! What on a disk is worth saving: partition tables and filesystems to allocated extents.
//!
//! The rule behind every decision: a sector counts as free only if a filesystem that was
//! understood completely, and found consistent, says so. Everything else is saved: partition
//! tables, boot loaders, gaps, the space behind a filesystem in its partition, and each partition
//! whose contents are unknown, dirty, damaged or claimed by two owners.
//!
//! The crate does no I/O of its own; it reads through [`ReadAt`]. What is understood: GPT, MBR
//! with logical partitions, or no table; ext2, ext3 and ext4; swap areas; FAT12, FAT16 and
//! FAT32; NTFS; exFAT; Btrfs on one device; XFS; F2FS; UFS1 and UFS2; logical volumes of LVM2;
//! partitions of BSD disklabels.
//!
//! ```
//! let disk = vec![0_u8; 1 << 20];
//! let map = diskmap::map(&disk, &diskmap::Options::default())?;
//! assert_eq!(map.saved, [diskmap::Extent { first: 0, count: 2048 }]);
//! # Ok::<(), diskmap::Error>(())
//! ```

mod bitmap;
mod bsd_label;
mod btrfs;
pub mod edit;
mod error;
mod exfat;
mod ext;
mod extent;
mod f2fs;
mod fat;
mod filesystem;
mod gpt;
mod lvm;
mod mbr;
mod ntfs;
mod partition;
mod pieces;
mod signature;
mod source;
mod swap;
mod table;
mod ufs;
mod xfs;

use std::collections::BTreeSet;

pub use error::{Cause, Corrupt, Effect, Error, Incompatible, Place, Warning};
pub use extent::Extent;
pub use filesystem::{Content, Filesystem};
pub use partition::{Contents, Partition, Volume};
pub use source::ReadAt;
pub use table::TableKind;

use extent::{FreeRuns, count_inside, intersect, normalize, subtract};
use partition::Spared;
use source::Window;
use table::{Slice, Table};

/// How to map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Turn the first warning into an error.
    pub strict: bool,
    /// Parse nothing, save every sector.
    pub raw: bool,
    /// Bytes in a sector of the disk: 512, 1024, 2048 or 4096.
    pub sector_size: u32,
    /// Do not look for a partition table: the source is one partition.
    pub partition: bool,
    /// Numbers of partitions that are not saved at all, as if they were free.
    pub skip: BTreeSet<u32>,
    /// Numbers of partitions that are saved whole.
    pub raw_partitions: BTreeSet<u32>,
    /// What to leave out although it is in use.
    pub exclude: BTreeSet<Content>,
    /// Take what cannot be read for damaged: a warning and a raw copy instead of [`Error::Io`].
    pub rescue: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strict: false,
            raw: false,
            sector_size: 512,
            partition: false,
            skip: BTreeSet::new(),
            raw_partitions: BTreeSet::new(),
            exclude: BTreeSet::new(),
            rescue: false,
        }
    }
}

/// The map of a disk. All numbers are in sectors of `sector_size` bytes.
#[derive(Debug, Clone)]
pub struct DiskMap {
    /// Bytes in a sector.
    pub sector_size: u32,
    /// Sectors of the disk.
    pub disk_sectors: u64,
    /// The partition table that was found and used.
    pub table: TableKind,
    /// Whether sector 0 names partitions beside those of the GPT (a hybrid MBR). The GPT was
    /// followed; what only the MBR names is saved.
    pub hybrid: bool,
    /// The partitions in the order of the table. Without a table one of number 0, the whole
    /// disk; none if nothing was parsed.
    pub partitions: Vec<Partition>,
    /// What to save: sorted, disjoint, not touching, not empty, inside the disk.
    pub saved: Vec<Extent>,
    /// What of it is saved as zeros, without being read: contents that were to be left out, but
    /// must not survive on the target. Sorted, disjoint, not touching, not empty.
    pub zeroed: Vec<Extent>,
    /// What made the map larger than it could be.
    pub warnings: Vec<Warning>,
}

/// Maps a disk.
///
/// # Errors
/// [`Error::Io`] if the source cannot be read; [`Error::SectorSize`] and [`Error::PartialSector`]
/// if it cannot be a disk of such sectors; [`Error::NoPartition`] if [`Options`] name one that is
/// not there; with [`Options::strict`] the first finding.
pub fn map(source: &dyn ReadAt, options: &Options) -> Result<DiskMap, Error> {
    let sector_size = options.sector_size;
    if ![512, 1024, 2048, 4096].contains(&sector_size) {
        return Err(Error::SectorSize(sector_size));
    }
    let size = source.size();
    if !size.is_multiple_of(u64::from(sector_size)) {
        return Err(Error::PartialSector { size, sector_size });
    }
    let disk_sectors = size / u64::from(sector_size);
    let whole = Extent {
        first: 0,
        count: disk_sectors,
    };
    let Found {
        table,
        hybrid,
        reserved,
        mut partitions,
        spared: Spared {
            free,
            zeroed,
            warnings,
        },
    } = if options.raw {
        Found::default()
    } else {
        look(source, options, whole)?
    };
    let named = options.skip.iter().chain(&options.raw_partitions);
    for &number in named {
        if !partitions.iter().any(|found| found.number == number) {
            return Err(Error::NoPartition(number));
        }
    }
    let harmful = |warning: &&Warning| warning.effect != Effect::NoneLost;
    if let (true, Some(warning)) = (options.strict, warnings.iter().find(harmful)) {
        return Err(warning.clone().into());
    }
    let reserved = normalize(reserved);
    let free = subtract(free.runs(), &reserved);
    let saved = subtract(&normalize(vec![whole]), &free);
    let zeroed = subtract(&intersect(&saved, &normalize(zeroed)), &reserved);
    for partition in &mut partitions {
        partition.saved_sectors = count_inside(&saved, &partition.extent());
    }
    Ok(DiskMap {
        sector_size,
        disk_sectors,
        table,
        hybrid,
        partitions,
        saved,
        zeroed,
        warnings,
    })
}

/// Where a partition lies, in sectors. A BSD partition or a logical volume has no number.
///
/// # Errors
/// As [`map`]; [`Error::NoPartition`] if there is none of this number, [`Error::Corrupt`] if the
/// table is damaged or the partition leaves the disk or shares sectors with another one.
pub fn locate(source: &dyn ReadAt, sector_size: u32, number: u32) -> Result<Extent, Error> {
    let disk = Window::disk(source);
    let to_error = |fault: error::Fault| -> Result<Extent, Error> {
        let warning = fault.into_warning(None, Effect::RawDisk, false)?;
        Err(warning.into())
    };
    let checked = table::read(&disk, sector_size).and_then(|table| {
        partition::check_table(&disk, &table, sector_size)?;
        Ok(table)
    });
    let table = match checked {
        Ok(table) => table,
        Err(fault) => return to_error(fault),
    };
    let slice = table.slices.iter().find(|slice| slice.number == number);
    let slice = slice.ok_or(Error::NoPartition(number))?;
    match &slice.untrusted {
        Some(kind) => Err(Error::Corrupt {
            place: Place {
                partition: Some(number),
                offset: slice.extent.first.saturating_mul(sector_size.into()),
            },
            kind: kind.clone(),
        }),
        None => Ok(slice.extent),
    }
}

/// The sector size of the disk behind an image file: 4096 if an intact GPT header, the primary or
/// that in the last sector, stands where only such a disk has one, else 512. An MBR looks the same
/// with either.
pub fn detect_sector_size(source: &dyn ReadAt) -> u32 {
    let is_4k = gpt::has_header(source, 4096) && !gpt::has_header(source, 512);
    if is_4k { 4096 } else { 512 }
}

/// What was found on a disk.
#[derive(Default)]
struct Found {
    table: TableKind,
    hybrid: bool,
    /// Sectors of the tables; never free, whatever a filesystem says.
    reserved: Vec<Extent>,
    partitions: Vec<Partition>,
    spared: Spared,
}

/// Reads the table and looks into every partition.
fn look(source: &dyn ReadAt, options: &Options, whole: Extent) -> Result<Found, Error> {
    let disk = Window::disk(source);
    let sector_size = options.sector_size;
    let whole = Slice {
        number: 0,
        extent: whole,
        name: None,
        type_id: String::new(),
        untrusted: None,
    };
    let checked = if options.partition {
        Ok(Table::default())
    } else {
        table::read(&disk, sector_size).and_then(|table| {
            partition::check_table(&disk, &table, sector_size)?;
            Ok(table)
        })
    };
    let Table {
        kind,
        mut slices,
        reserved,
        hybrid,
        warnings,
    } = match checked {
        Ok(table) => table,
        Err(fault) => {
            let warning = fault.into_warning(None, Effect::RawDisk, options.rescue)?;
            let raw = Partition::raw(&whole, warning.cause.to_string());
            let mut found = Found::default();
            found.partitions.push(raw);
            found.spared.warnings.push(warning);
            return Ok(found);
        }
    };
    if kind == TableKind::None {
        slices.push(whole);
    }
    let mut spared = Spared {
        warnings,
        ..Spared::default()
    };
    // Free runs are collected in the order of the disk, partitions listed in that of the table.
    let mut order: Vec<usize> = (0..slices.len()).collect();
    order.sort_by_key(|&index| slices[index].extent);
    let mut listed = Vec::with_capacity(slices.len());
    for index in order {
        let partition = partition::probe(source, &slices[index], options, &mut spared)?;
        listed.push((index, partition));
    }
    let suspended = Cause::from(swap::SUSPENDED);
    if spared.warnings.iter().any(|found| found.cause == suspended) {
        for (_, partition) in &mut listed {
            if partition.keep_for_sleeper() {
                spared.free = spared.free.without(&[partition.extent()]);
            }
        }
    }
    listed.sort_by_key(|&(index, _)| index);
    let partitions = listed.into_iter().map(|(_, partition)| partition);
    if spared.free.is_thinned() {
        let kind = Incompatible::TooManyFreeRuns(FreeRuns::LIMIT);
        let place = Place {
            partition: None,
            offset: 0,
        };
        spared.warnings.push(Warning {
            place,
            cause: kind.into(),
            effect: Effect::ShortRunsSaved,
        });
    }
    Ok(Found {
        table: kind,
        hybrid,
        reserved,
        partitions: partitions.collect(),
        spared,
    })
}
