//! Changes to the partition table of a disk that was copied onto another one: a backup GPT at the true end, a last
//! partition that reaches there, new identifiers.
//!
//! Nothing is written here: the caller gets bytes and their places. Whatever is in doubt stays as it is.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod gpt;
mod mbr;

use crate::error::{Error, Fault};
use crate::extent::Extent;
use crate::source::{ReadAt, Window};
use crate::table::{self, Table, TableKind};
use crate::{gpt as gpt_table, signature};

/// What to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Edit {
    /// Sectors of the disk that the copy is on.
    pub target_sectors: u64,
    /// A GPT takes all of that disk: its backup moves to the end.
    pub resize: bool,
    /// The last partition grows to the end of that disk, as far as the table goes.
    pub grow: bool,
    /// Random bytes, from which the disk and its partitions get new identifiers.
    pub new_ids: Option<[u8; 32]>,
}

/// A partition, after the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number; 0 for a disk without a table.
    pub number: u32,
    /// Its sectors.
    pub extent: Extent,
}

/// What was changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edited {
    /// The table that was found.
    pub kind: TableKind,
    /// What to write: byte offsets on the target, and bytes. In this order, later ones win.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// The partitions that may be looked into. Empty if the table is in doubt.
    pub partitions: Vec<Place>,
    /// Where the backup GPT has moved to.
    pub moved: Option<u64>,
    /// The partition that has grown, and how many sectors it had.
    pub grown: Option<(u32, u64)>,
    /// Identifiers (PARTUUID, or GUID of the disk) as `blkid` prints them: old and new.
    pub ids: Vec<(String, String)>,
    /// Why something that was to be changed is as it was.
    pub doubt: Option<String>,
}

/// Finds out what to change on the target, for a copied disk that `disk` reads.
///
/// # Errors
/// [`Error::Io`] if it cannot be read.
pub fn edit(disk: &dyn ReadAt, sector_size: u32, edit: &Edit) -> Result<Edited, Error> {
    let size = u64::from(sector_size);
    let window = Window::disk(disk);
    let sectors = window.len().checked_div(size).unwrap_or(0);
    let mut edited = Edited::default();
    let found = match table::read(&window, sector_size) {
        Ok(found) => found,
        Err(Fault::Io(error)) => return Err(error),
        Err(fault) => {
            // Without a GPT, the size of the disk changes nothing.
            let concerns_size = edit.resize
                && edit.target_sectors != sectors
                && gpt_table::has_header(disk, sector_size);
            if concerns_size || edit.grow || edit.new_ids.is_some() {
                edited.doubt = Some(words(fault)?);
            }
            return Ok(edited);
        }
    };
    edited.kind = found.kind;
    edited.partitions = places(&found, sectors);
    let result = match found.kind {
        TableKind::Gpt => {
            let nothing = !edit.grow
                && edit.new_ids.is_none()
                && (!edit.resize || edit.target_sectors == sectors);
            if nothing {
                return Ok(edited);
            }
            gpt::edit(&window, sector_size, &found, edit, &mut edited)
        }
        TableKind::Mbr => mbr::edit(&window, sector_size, &found, edit, &mut edited),
        TableKind::None => {
            if let Some(whole) = edited.partitions.first_mut().filter(|_| edit.grow)
                && edit.target_sectors > sectors
            {
                whole.extent.count = edit.target_sectors;
                edited.grown = Some((0, sectors));
            }
            Ok(())
        }
    };
    match result {
        Ok(()) => {}
        Err(Stop::Doubt(doubt)) => {
            edited = Edited {
                kind: found.kind,
                partitions: places(&found, sectors),
                doubt: Some(doubt),
                ..Edited::default()
            };
        }
        Err(Stop::Fault(Fault::Io(error))) => return Err(error),
        Err(Stop::Fault(fault)) => {
            edited = Edited {
                kind: found.kind,
                partitions: places(&found, sectors),
                doubt: Some(words(fault)?),
                ..Edited::default()
            };
        }
    }
    Ok(edited)
}

/// What of a disk with a partition table must not be cut off. All numbers are in sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Where the last partition ends.
    pub end: u64,
    /// What the table needs behind it.
    pub behind: u64,
    /// The backup GPT, which moves.
    pub backup: Vec<Extent>,
}

/// Finds out what the end of a disk is good for. `None` if it has no table, or one that is in doubt.
///
/// # Errors
/// [`Error::Io`] if it cannot be read.
pub fn bounds(disk: &dyn ReadAt, sector_size: u32) -> Result<Option<Bounds>, Error> {
    let window = Window::disk(disk);
    let found = match table::read(&window, sector_size) {
        Ok(found) => found,
        Err(Fault::Io(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let in_doubt = !found.warnings.is_empty()
        || found.hybrid
        || found.slices.iter().any(|slice| slice.untrusted.is_some());
    if in_doubt {
        return Ok(None);
    }
    let bounds = match found.kind {
        TableKind::Gpt => gpt::bounds(&window, sector_size, &found),
        TableKind::Mbr => mbr::bounds(&window, sector_size, &found),
        TableKind::None => return Ok(None),
    };
    match bounds {
        Ok(bounds) => Ok(Some(bounds)),
        Err(Stop::Fault(Fault::Io(error))) => Err(error),
        Err(_) => Ok(None),
    }
}

/// What stands in a region, by its signatures, as messages call it: `ext`, `XFS`, `FAT`. None if nothing is known, or
/// if two things claim it.
///
/// # Errors
/// [`Error::Io`] if it cannot be read.
pub fn identify(
    disk: &dyn ReadAt,
    offset: u64,
    length: u64,
) -> Result<Option<&'static str>, Error> {
    let window = Window::part(disk, offset, length);
    let found = match signature::find(&window) {
        Ok(found) => found,
        Err(Fault::Io(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let mut names: Vec<&str> = found.iter().map(|found| found.name).collect();
    names.dedup();
    Ok(match names[..] {
        [name] => Some(name),
        _ => None,
    })
}

/// Why nothing is changed.
enum Stop {
    Doubt(String),
    Fault(Fault),
}

impl Stop {
    fn doubt(text: &str) -> Self {
        Self::Doubt(text.to_owned())
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The finding in words.
fn words(fault: Fault) -> Result<String, Error> {
    match fault {
        Fault::Io(error) => Err(error),
        Fault::Found { offset, cause } => Ok(format!("byte {offset}: {cause}")),
    }
}

fn places(table: &Table, sectors: u64) -> Vec<Place> {
    if table.kind == TableKind::None {
        let extent = Extent {
            first: 0,
            count: sectors,
        };
        return vec![Place { number: 0, extent }];
    }
    let sound = table
        .slices
        .iter()
        .filter(|slice| slice.untrusted.is_none());
    sound
        .map(|slice| Place {
            number: slice.number,
            extent: slice.extent,
        })
        .collect()
}

/// The sectors from `first` on, before `end`.
fn extent(first: u64, end: u64) -> Extent {
    Extent {
        first,
        count: end.saturating_sub(first),
    }
}

/// Where a partition that ends at sector `end` ends after growing: on a whole MiB, as partitioning programs do it, and
/// not behind sector `limit`. `None` if it does not grow.
fn grown_end(end: u64, limit: u64, sector_size: u32) -> Option<u64> {
    let unit = (1_u64 << 20).checked_div(sector_size.into()).unwrap_or(1);
    let rest = limit.checked_rem(unit).unwrap_or(0);
    let aligned = limit.saturating_sub(rest);
    (aligned > end).then_some(aligned)
}

/// Zeros for the end of the sectors that a partition has got, from `before` to `end`: what stood there may be the label
/// of a RAID or ZFS that was on the target before, which is looked for at the end of a partition.
fn wiped_end(before: u64, end: u64, sector_size: u32) -> (u64, Vec<u8>) {
    const LABELS: u64 = 1 << 20;
    let size = u64::from(sector_size);
    let (before, end) = (before.saturating_mul(size), end.saturating_mul(size));
    let start = end.saturating_sub(LABELS).max(before);
    let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    (start, vec![0; length])
}

/// New random bytes for each number, from those that the caller gave.
struct Fresh([u8; 32]);

impl Fresh {
    /// A random UUID (RFC 9562, version 4) in the order of its text.
    fn uuid(&self, number: u32) -> [u8; 16] {
        use sha2::{Digest, Sha256};
        let digest = Sha256::new()
            .chain_update(self.0)
            .chain_update(number.to_le_bytes())
            .finalize();
        let mut uuid = [0; 16];
        uuid.iter_mut()
            .zip(digest)
            .for_each(|(byte, random)| *byte = random);
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }

    /// A signature of an MBR: never 0, which means that there is none.
    fn signature(&self) -> u32 {
        let [a, b, c, d, ..] = self.uuid(0);
        u32::from_le_bytes([a, b, c, d]).max(1)
    }
}
