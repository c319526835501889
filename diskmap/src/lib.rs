//! What on a disk is worth saving: partition tables and filesystems to allocated extents.
//!
//! The rule behind every decision: a sector counts as free only if a filesystem that was
//! understood completely, and found consistent, says so. Everything else is saved: partition
//! tables, boot loaders, gaps, the space behind a filesystem in its partition, and each partition
//! whose contents are unknown, dirty, damaged or claimed by two owners.
//!
//! The crate does no I/O of its own; it reads through [`ReadAt`]. What is understood: GPT, MBR
//! with logical partitions, or no table; ext2, ext3 and ext4.
//!
//! ```
//! let disk = vec![0_u8; 1 << 20];
//! let map = diskmap::map(&disk, &diskmap::Options::default())?;
//! assert_eq!(map.saved, [diskmap::Extent { first: 0, count: 2048 }]);
//! # Ok::<(), diskmap::Error>(())
//! ```

mod error;
mod ext;
mod extent;
mod gpt;
mod mbr;
mod partition;
mod signature;
mod source;
mod table;

pub use error::{Cause, Corrupt, Effect, Error, Incompatible, Place, Warning};
pub use ext::{ExtInfo, ExtVersion};
pub use extent::Extent;
pub use partition::{Filesystem, Partition};
pub use source::ReadAt;
pub use table::TableKind;

use extent::{FreeRuns, count_inside, normalize, subtract};
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strict: false,
            raw: false,
            sector_size: 512,
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
    /// The partitions in the order of the table. Without a table one of number 0, the whole
    /// disk; none if nothing was parsed.
    pub partitions: Vec<Partition>,
    /// What to save: sorted, disjoint, not touching, not empty, inside the disk.
    pub saved: Vec<Extent>,
    /// What made the map larger than it could be.
    pub warnings: Vec<Warning>,
}

/// Maps a disk.
///
/// # Errors
/// [`Error::Io`] if the source cannot be read; [`Error::SectorSize`] and [`Error::PartialSector`]
/// if it cannot be a disk of such sectors; with [`Options::strict`] the first finding.
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
        reserved,
        mut partitions,
        free,
        warnings,
    } = if options.raw {
        Found::default()
    } else {
        look(source, sector_size, whole)?
    };
    if let (true, Some(warning)) = (options.strict, warnings.first()) {
        return Err(warning.clone().into());
    }
    let free = subtract(free.runs(), &normalize(reserved));
    let saved = subtract(&normalize(vec![whole]), &free);
    for partition in &mut partitions {
        partition.saved_sectors = count_inside(&saved, &partition.extent());
    }
    Ok(DiskMap {
        sector_size,
        disk_sectors,
        table,
        partitions,
        saved,
        warnings,
    })
}

/// The sector size of the disk behind an image file: 4096 if an intact GPT header stands where
/// only such a disk has one, else 512.
pub fn detect_sector_size(source: &dyn ReadAt) -> u32 {
    let is_4k = gpt::has_primary_header(source, 4096) && !gpt::has_primary_header(source, 512);
    if is_4k { 4096 } else { 512 }
}

/// What was found on a disk.
#[derive(Default)]
struct Found {
    table: TableKind,
    /// Sectors of the tables; never free, whatever a filesystem says.
    reserved: Vec<Extent>,
    partitions: Vec<Partition>,
    free: FreeRuns,
    warnings: Vec<Warning>,
}

/// Reads the table and looks into every partition.
fn look(source: &dyn ReadAt, sector_size: u32, whole: Extent) -> Result<Found, Error> {
    let disk = Window::disk(source);
    let checked = table::read(&disk, sector_size).and_then(|table| {
        partition::check_table(&disk, &table, sector_size)?;
        Ok(table)
    });
    let whole = Slice {
        number: 0,
        extent: whole,
        name: None,
        untrusted: None,
    };
    let Table {
        kind,
        mut slices,
        reserved,
        warnings,
    } = match checked {
        Ok(table) => table,
        Err(fault) => {
            let warning = fault.into_warning(None, Effect::RawDisk)?;
            let raw = Partition::raw(&whole, Filesystem::Raw, warning.cause.to_string());
            let (partitions, warnings) = (vec![raw], vec![warning]);
            return Ok(Found {
                partitions,
                warnings,
                ..Found::default()
            });
        }
    };
    if kind == TableKind::None {
        slices.push(whole);
    }
    let mut found = Found {
        table: kind,
        reserved,
        warnings,
        ..Found::default()
    };
    // Free runs are collected in the order of the disk, partitions listed in that of the table.
    let mut order: Vec<usize> = (0..slices.len()).collect();
    order.sort_by_key(|&index| slices[index].extent);
    let mut listed = Vec::with_capacity(slices.len());
    for index in order {
        let (partition, warning) =
            partition::probe(source, &slices[index], sector_size, &mut found.free)?;
        listed.push((index, partition));
        found.warnings.extend(warning);
    }
    listed.sort_by_key(|&(index, _)| index);
    found
        .partitions
        .extend(listed.into_iter().map(|(_, partition)| partition));
    if found.free.is_thinned() {
        let kind = Incompatible::TooManyFreeRuns(FreeRuns::LIMIT);
        let place = Place {
            partition: None,
            offset: 0,
        };
        found.warnings.push(Warning {
            place,
            cause: kind.into(),
            effect: Effect::ShortRunsSaved,
        });
    }
    Ok(found)
}
