//! Changes to a GPT: both headers, both lists of entries, and the size in the protective MBR.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::{FromBytes, IntoBytes};

use super::{Bounds, Edit, Edited, Fresh, Stop, extent, grown_end, wiped_end};
use crate::extent::Extent;
use crate::gpt::{self, CRC, Gpt, RawEntry, RawHeader};
use crate::mbr::Mbr;
use crate::source::Window;
use crate::table::Table;

/// Makes the changes, or says why there are none.
pub(super) fn edit(
    disk: &Window<'_>,
    sector_size: u32,
    found: &Table,
    edit: &Edit,
    edited: &mut Edited,
) -> Result<(), Stop> {
    let size = u64::from(sector_size);
    let sectors = disk.len().checked_div(size).unwrap_or(0);
    let (mut primary, mut backup) = read(disk, sector_size, sectors, found)?;
    let old_backup = backup.reserved;
    let target = match edit.resize {
        true => edit.target_sectors,
        false => sectors,
    };
    let moved = |lba: u64| {
        lba.checked_add(target)
            .and_then(|lba| lba.checked_sub(sectors))
            .ok_or_else(|| Stop::doubt("the target is too small for the table"))
    };
    if target != sectors {
        let last_usable = moved(primary.header.last_usable_lba.get())?;
        let reaches = |slice: &Extent| slice.end() > last_usable.saturating_add(1);
        if found.slices.iter().any(|slice| reaches(&slice.extent))
            || last_usable < primary.header.first_usable_lba.get()
        {
            return Err(Stop::doubt("a partition reaches where the backup would be"));
        }
        for header in [&mut primary.header, &mut backup.header] {
            header.last_usable_lba.set(last_usable);
        }
        let last = target.saturating_sub(1);
        primary.header.alternate_lba.set(last);
        backup.header.my_lba.set(last);
        let entries = moved(backup.header.partition_entry_lba.get())?;
        backup.header.partition_entry_lba.set(entries);
        edited.moved = Some(last);
    }
    let stride = usize::try_from(primary.header.size_of_entry.get()).unwrap_or(usize::MAX);
    if edit.grow {
        grow(&mut primary, stride, sector_size, edited);
    }
    if let Some(random) = edit.new_ids {
        renew(&mut primary, stride, &Fresh(random), edited);
        backup.header.disk_guid = primary.header.disk_guid;
    }
    let old: Vec<_> = old_backup
        .iter()
        .map(|part| (part.first, zeros(part, size)))
        .collect();
    if target != sectors {
        edited.writes.extend(
            old.into_iter()
                .map(|(first, zeros)| (first.saturating_mul(size), zeros)),
        );
        if let Some(write) = protective(disk, sectors, target)? {
            edited.writes.push(write);
        }
    }
    for half in [&backup.header, &primary.header] {
        let at = half.partition_entry_lba.get().saturating_mul(size);
        edited.writes.push((at, primary.table.clone()));
    }
    let checksum = CRC.checksum(&primary.table);
    let places = [
        (backup.header, sectors.saturating_sub(1)),
        (primary.header, 1),
    ];
    for (header, old_lba) in places {
        edited
            .writes
            .push(sealed(disk, sector_size, header, old_lba, checksum)?);
    }
    Ok(())
}

/// What of the disk must not be cut off.
pub(super) fn bounds(disk: &Window<'_>, sector_size: u32, found: &Table) -> Result<Bounds, Stop> {
    let sectors = disk.len().checked_div(sector_size.into()).unwrap_or(0);
    let (primary, backup) = read(disk, sector_size, sectors, found)?;
    // That it can be changed.
    protective(disk, sectors, sectors)?;
    let usable = primary.header.last_usable_lba.get().saturating_add(1);
    let ends = found.slices.iter().map(|slice| slice.extent.end());
    let first = primary.header.first_usable_lba.get().saturating_add(1);
    Ok(Bounds {
        end: ends.max().unwrap_or(0).max(first),
        behind: sectors.saturating_sub(usable),
        backup: backup.reserved.to_vec(),
    })
}

/// Reads both halves and checks that they say the same, at the two ends of the disk.
fn read(
    disk: &Window<'_>,
    sector_size: u32,
    sectors: u64,
    found: &Table,
) -> Result<(Gpt, Gpt), Stop> {
    if found.hybrid {
        return Err(Stop::doubt("the MBR names partitions beside the GPT"));
    }
    if found.slices.iter().any(|slice| slice.untrusted.is_some()) {
        return Err(Stop::doubt("partitions overlap, or lie outside the disk"));
    }
    let last = sectors.saturating_sub(1);
    let primary = gpt::read(disk, 1, sector_size)?;
    if primary.alternate_lba != last {
        return Err(Stop::Doubt(format!(
            "the backup GPT stands in sector {}, not in the last one, {last}",
            primary.alternate_lba
        )));
    }
    let backup = gpt::read(disk, last, sector_size)?;
    let (one, other) = (&primary.header, &backup.header);
    let same = backup.alternate_lba == 1
        && one.disk_guid == other.disk_guid
        && one.first_usable_lba == other.first_usable_lba
        && one.last_usable_lba == other.last_usable_lba
        && one.size_of_entry == other.size_of_entry
        && primary.table == backup.table;
    if !same {
        return Err(Stop::doubt(
            "the backup GPT is not the same as the primary one",
        ));
    }
    let usable = extent(
        one.first_usable_lba.get(),
        one.last_usable_lba.get().saturating_add(1),
    );
    let all = [primary.reserved, backup.reserved].concat();
    if all.iter().any(|part| part.overlaps(&usable)) {
        return Err(Stop::doubt("the GPT lies where partitions may be"));
    }
    Ok((primary, backup))
}

fn zeros(part: &Extent, size: u64) -> Vec<u8> {
    let bytes = part.count.saturating_mul(size);
    vec![0; usize::try_from(bytes).unwrap_or(0)]
}

/// The sector of a header, with its checksums. What stands behind the header stays.
fn sealed(
    disk: &Window<'_>,
    sector_size: u32,
    mut header: RawHeader,
    old_lba: u64,
    entries_checksum: u32,
) -> Result<(u64, Vec<u8>), Stop> {
    let size = u64::from(sector_size);
    header.entries_crc32.set(entries_checksum);
    header.header_crc32.set(0);
    let mut sector = vec![0; usize::try_from(sector_size).unwrap_or(0)];
    disk.read(&mut sector, old_lba.saturating_mul(size))?;
    let length = usize::try_from(header.header_size.get()).unwrap_or(usize::MAX);
    let bad = || Stop::doubt("the header of the GPT is larger than a sector");
    put(&mut sector, header.as_bytes());
    let checksum = CRC.checksum(sector.get(..length).ok_or_else(bad)?);
    header.header_crc32.set(checksum);
    put(&mut sector, header.as_bytes());
    Ok((header.my_lba.get().saturating_mul(size), sector))
}

fn put(sector: &mut [u8], bytes: &[u8]) {
    sector
        .iter_mut()
        .zip(bytes)
        .for_each(|(place, byte)| *place = *byte);
}

/// Sector 0 with the size of the target in the protective entry; `None` if nothing changes there.
fn protective(
    disk: &Window<'_>,
    sectors: u64,
    target: u64,
) -> Result<Option<(u64, Vec<u8>)>, Stop> {
    let whole = |sectors: u64| u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    let Some((at, mut slot)) = Mbr::protective_slot(disk)? else {
        return Err(Stop::doubt("the protective MBR is an unusual one"));
    };
    // The largest number means "all", whatever the size; an unusual one is not ours to change. Nobody reads the cylinders.
    let count = slot.count.get();
    if count == u32::MAX && whole(sectors) != u32::MAX {
        return Ok(None);
    }
    if count != whole(sectors) {
        return Err(Stop::doubt(
            "the protective MBR has another size than the disk",
        ));
    }
    slot.count.set(whole(target));
    Ok(Some((at, slot.as_bytes().to_vec())))
}

/// Lets the last partition reach to the end of the usable sectors.
fn grow(primary: &mut Gpt, stride: usize, sector_size: u32, edited: &mut Edited) {
    let limit = primary.header.last_usable_lba.get().saturating_add(1);
    let Some(last) = primary.entries.iter().max_by_key(|entry| entry.last) else {
        return;
    };
    let before = last.last.saturating_sub(last.first).saturating_add(1);
    let Some(end) = grown_end(last.last.saturating_add(1), limit, sector_size) else {
        return;
    };
    let index = usize::try_from(last.number.saturating_sub(1)).unwrap_or(usize::MAX);
    let Some(raw) = primary
        .table
        .chunks_exact_mut(stride)
        .nth(index)
        .and_then(|bytes| RawEntry::mut_from_prefix(bytes).ok())
    else {
        return;
    };
    raw.0.ending_lba.set(end.saturating_sub(1));
    let behind = last.last.saturating_add(1);
    edited.writes.push(wiped_end(behind, end, sector_size));
    edited.grown = Some((last.number, before));
    let grown = edited
        .partitions
        .iter_mut()
        .find(|place| place.number == last.number);
    if let Some(place) = grown {
        place.extent = extent(last.first, end);
    }
}

/// Gives the disk and its partitions new GUIDs.
fn renew(primary: &mut Gpt, stride: usize, fresh: &Fresh, edited: &mut Edited) {
    let mut ids = Vec::new();
    let mut replace = |number: u32, place: &mut [u8; 16]| {
        let old = gpt::guid(place).to_lowercase();
        *place = fresh.uuid(number);
        // The first three fields are stored with the lowest byte first.
        place[0..4].reverse();
        place[4..6].reverse();
        place[6..8].reverse();
        ids.push((old, gpt::guid(place).to_lowercase()));
    };
    replace(0, &mut primary.header.disk_guid);
    for (number, bytes) in (1..).zip(primary.table.chunks_exact_mut(stride)) {
        if let Ok((raw, _)) = RawEntry::mut_from_prefix(bytes)
            && raw.type_guid != [0; 16]
        {
            replace(number, &mut raw.unique_guid);
        }
    }
    edited.ids = ids;
}
