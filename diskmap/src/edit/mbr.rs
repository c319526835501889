//! Changes to an MBR: the slots that end with the last partition, and the signature of the disk.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::IntoBytes;

use super::{Bounds, Edit, Edited, Fresh, Stop, extent, grown_end, wiped_end};
use crate::extent::Extent;
use crate::mbr::{self, DISK_SIGNATURE, Mbr, Slot};
use crate::source::Window;
use crate::table::{Entry, Table};

/// Makes the changes, or says why there are none.
pub(super) fn edit(
    disk: &Window<'_>,
    sector_size: u32,
    found: &Table,
    edit: &Edit,
    edited: &mut Edited,
) -> Result<(), Stop> {
    if !edit.grow && edit.new_ids.is_none() {
        return Ok(());
    }
    let table = Mbr::read(disk)?.ok_or_else(|| Stop::doubt("the MBR cannot be read again"))?;
    let listed = table.partitions(disk, sector_size)?;
    if !listed.cuts.is_empty() {
        return Err(Stop::doubt("the chain of logical partitions is damaged"));
    }
    if found.slices.iter().any(|slice| slice.untrusted.is_some()) {
        return Err(Stop::doubt("partitions overlap, or lie outside the disk"));
    }
    if edit.grow {
        let behind = listed
            .containers
            .iter()
            .filter(|container| {
                !listed
                    .entries
                    .iter()
                    .any(|entry| entry.container == Some(**container))
            })
            .map(Extent::end)
            .max()
            .unwrap_or(0);
        if let Some(last) = listed.entries.iter().max_by_key(|entry| entry.last)
            && last.last >= behind
        {
            grow(disk, sector_size, last, edit.target_sectors, edited)?;
        }
    }
    if let Some(random) = edit.new_ids {
        let mut bytes = [0; 4];
        let at = u64::try_from(DISK_SIGNATURE).unwrap_or(0);
        disk.read(&mut bytes, at)?;
        let (old, new) = (u32::from_le_bytes(bytes), Fresh(random).signature());
        edited.writes.push((at, new.to_le_bytes().to_vec()));
        edited
            .ids
            .push((format!("{old:08x}"), format!("{new:08x}")));
        for entry in &listed.entries {
            let number = entry.number;
            edited.ids.push((
                format!("{old:08x}-{number:02x}"),
                format!("{new:08x}-{number:02x}"),
            ));
        }
    }
    Ok(())
}

/// What of the disk must not be cut off.
pub(super) fn bounds(disk: &Window<'_>, sector_size: u32, found: &Table) -> Result<Bounds, Stop> {
    let table = Mbr::read(disk)?.ok_or_else(|| Stop::doubt("the MBR cannot be read again"))?;
    let listed = table.partitions(disk, sector_size)?;
    let partitions = found.slices.iter().map(|slice| slice.extent.end());
    let ends = partitions.chain(listed.containers.iter().map(Extent::end));
    Ok(Bounds {
        end: ends.max().unwrap_or(0),
        behind: 0,
        backup: Vec::new(),
    })
}

/// Lets a partition, and those that it is inside of, reach to the end of the target.
fn grow(
    disk: &Window<'_>,
    sector_size: u32,
    last: &Entry,
    target_sectors: u64,
    edited: &mut Edited,
) -> Result<(), Stop> {
    let before = extent(last.first, last.last.saturating_add(1));
    // Sectors are counted in 32 bits from the slot's base, and so is the size; the first sector of all is the least.
    let limit = target_sectors.min(u64::from(u32::MAX));
    let Some(end) = grown_end(before.end(), limit, sector_size) else {
        return Ok(());
    };
    edited
        .writes
        .push(wiped_end(before.end(), end, sector_size));
    for place in &last.slots {
        let mut slot: Slot = disk.read_struct(place.at)?;
        let count = end.saturating_sub(place.first);
        if count <= slot.count.get().into() {
            continue;
        }
        let count = u32::try_from(count)
            .map_err(|_| Stop::doubt("the partition is too large for an MBR"))?;
        slot.count.set(count);
        slot.end_chs = mbr::end_chs(end.saturating_sub(1), slot.end_chs);
        edited.writes.push((place.at, slot.as_bytes().to_vec()));
    }
    edited.grown = Some((last.number, before.count));
    let grown = edited
        .partitions
        .iter_mut()
        .find(|place| place.number == last.number);
    if let Some(place) = grown {
        place.extent = extent(before.first, end);
    }
    Ok(())
}
