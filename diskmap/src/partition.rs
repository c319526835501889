//! One partition, or the whole disk where there is no table: what is in it, what of it is free.

use std::fmt;

use crate::error::{Effect, Error, Fault, Incompatible, Place, Warning};
use crate::ext::{self, ExtInfo, ExtVersion};
use crate::extent::{Extent, FreeRuns};
use crate::signature;
use crate::source::{ReadAt, Window};
use crate::table::{Slice, Table, TableKind};

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filesystem {
    /// ext2, ext3 or ext4; its free blocks are left out.
    Ext(ExtInfo),
    /// Recognised by its signature, copied raw.
    Recognised(&'static str),
    /// Unknown, or not to be trusted; copied raw.
    Raw,
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext(ExtInfo {
                version: ExtVersion::Ext2,
                ..
            }) => "ext2",
            Self::Ext(ExtInfo {
                version: ExtVersion::Ext3,
                ..
            }) => "ext3",
            Self::Ext(ExtInfo {
                version: ExtVersion::Ext4,
                ..
            }) => "ext4",
            Self::Recognised(name) => name,
            Self::Raw => "raw",
        })
    }
}

/// A partition and what of it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number as Linux counts: primary ones from 1, logical ones from 5, 0 for the whole disk.
    pub number: u32,
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub count: u64,
    /// Contents.
    pub kind: Filesystem,
    /// Label of the filesystem.
    pub label: Option<String>,
    /// Name in the GPT.
    pub name: Option<String>,
    /// Sectors of it that are saved.
    pub saved_sectors: u64,
    /// Why it is copied raw, if it is.
    pub note: Option<String>,
}

impl Partition {
    /// A partition that is saved completely.
    pub(crate) fn raw(slice: &Slice, kind: Filesystem, note: String) -> Self {
        Self {
            number: slice.number,
            first: slice.extent.first,
            count: slice.extent.count,
            kind,
            label: None,
            name: slice.name.clone(),
            saved_sectors: slice.extent.count,
            note: Some(note),
        }
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent {
            first: self.first,
            count: self.count,
        }
    }
}

/// Looks into a slice and adds what is free in it to `free`, in sectors of the disk.
pub(crate) fn probe(
    source: &dyn ReadAt,
    slice: &Slice,
    sector_size: u32,
    free: &mut FreeRuns,
) -> Result<(Partition, Option<Warning>), Error> {
    if let Some(cause) = &slice.untrusted {
        return Ok((
            Partition::raw(slice, Filesystem::Raw, cause.to_string()),
            None,
        ));
    }
    let size = u64::from(sector_size);
    let start = slice.extent.first.saturating_mul(size);
    let window = Window::part(source, start, slice.extent.count.saturating_mul(size));
    let number = (slice.number != 0).then_some(slice.number);
    match contents(&window) {
        Ok(Contents::Unknown) => Ok((
            Partition::raw(slice, Filesystem::Raw, "no known filesystem".into()),
            None,
        )),
        Ok(Contents::Recognised(name)) => {
            let note = format!("{name} is not parsed");
            Ok((
                Partition::raw(slice, Filesystem::Recognised(name), note),
                None,
            ))
        }
        Ok(Contents::Ext(map)) => {
            let block_size = u64::from(map.info.block_size);
            for run in map.free.runs() {
                // Whole sectors only, where blocks are smaller than sectors.
                let first = run.first.saturating_mul(block_size).div_ceil(size);
                let end = run.end().saturating_mul(block_size) / size;
                if let Some(count) = end.checked_sub(first).filter(|&count| count > 0) {
                    free.push(Extent {
                        first: slice.extent.first.saturating_add(first),
                        count,
                    });
                }
            }
            let thinned = map.free.is_thinned().then(|| Warning {
                place: Place {
                    partition: number,
                    offset: start,
                },
                cause: Incompatible::TooManyFreeRuns(FreeRuns::LIMIT).into(),
                effect: Effect::ShortRunsSaved,
            });
            let partition = Partition {
                label: map.label,
                note: None,
                ..Partition::raw(slice, Filesystem::Ext(map.info), String::new())
            };
            Ok((partition, thinned))
        }
        Err(fault) => {
            let effect = number.map_or(Effect::RawDisk, |_| Effect::RawPartition);
            let warning = fault.into_warning(number, effect)?;
            let partition = Partition::raw(slice, Filesystem::Raw, warning.cause.to_string());
            Ok((partition, Some(warning)))
        }
    }
}

enum Contents {
    Unknown,
    Recognised(&'static str),
    Ext(ext::ExtMap),
}

fn contents(window: &Window<'_>) -> Result<Contents, Fault> {
    let signatures = signature::find(window)?;
    let has_ext = ext::is_present(window)?;
    match signatures.first() {
        Some(other) if has_ext => {
            let kind = Incompatible::Ambiguous {
                first: "ext",
                second: other.name,
            };
            Err(window.fault(other.offset, kind))
        }
        Some(other) => Ok(Contents::Recognised(other.name)),
        None if has_ext => Ok(Contents::Ext(ext::map(window)?)),
        None => Ok(Contents::Unknown),
    }
}

/// Refuses a table on a disk that something else claims as a whole: a filesystem or RAID made
/// over an old table leaves partitions behind that describe nothing. Sector 0 is the table's own,
/// and what lies in a partition is the partition's.
pub(crate) fn check_table(disk: &Window<'_>, table: &Table, sector_size: u32) -> Result<(), Fault> {
    if table.kind == TableKind::None {
        return Ok(());
    }
    let mut claims: Vec<_> = signature::find(disk)?;
    if ext::is_plausible(disk)? {
        claims.push(signature::Signature {
            name: "ext",
            offset: ext::SUPERBLOCK_OFFSET,
        });
    }
    let in_a_partition = |offset: u64| {
        let sector = Extent {
            first: offset / u64::from(sector_size),
            count: 1,
        };
        table
            .slices
            .iter()
            .any(|slice| slice.extent.covers(&sector))
    };
    match claims
        .iter()
        .find(|claim| claim.offset >= 512 && !in_a_partition(claim.offset))
    {
        Some(claim) => {
            let first = "a partition table";
            Err(disk.fault(
                claim.offset,
                Incompatible::Ambiguous {
                    first,
                    second: claim.name,
                },
            ))
        }
        None => Ok(()),
    }
}
