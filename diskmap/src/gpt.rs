//! GUID partition tables (UEFI specification 2.10, section 5.3): one header and its entries.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use crc::{CRC_32_ISO_HDLC, Crc};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::Extent;
use crate::filesystem::uuid_text;
use crate::source::{ReadAt, Window};
use crate::table::Entry;

pub(crate) const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION_1: u32 = 0x0001_0000;
const HEADER_SIZE: usize = 92;
/// The tables in use have 16 KiB; what is larger than this is not read into memory.
const MAX_ENTRIES_BYTES: u64 = 4 << 20;

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    signature: [u8; 8],
    revision: U32,
    pub(crate) header_size: U32,
    pub(crate) header_crc32: U32,
    reserved: U32,
    pub(crate) my_lba: U64,
    pub(crate) alternate_lba: U64,
    pub(crate) first_usable_lba: U64,
    pub(crate) last_usable_lba: U64,
    pub(crate) disk_guid: [u8; 16],
    pub(crate) partition_entry_lba: U64,
    pub(crate) number_of_entries: U32,
    pub(crate) size_of_entry: U32,
    pub(crate) entries_crc32: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawEntry {
    pub(crate) type_guid: [u8; 16],
    pub(crate) unique_guid: [u8; 16],
    pub(crate) starting_lba: U64,
    pub(crate) ending_lba: U64,
    attributes: U64,
    name: [U16; 36],
}

/// One intact table, primary or backup.
#[derive(Debug)]
pub(crate) struct Gpt {
    pub(crate) entries: Vec<Entry>,
    /// The sectors of the header and of the entries.
    pub(crate) reserved: [Extent; 2],
    /// Where the other header stands.
    pub(crate) alternate_lba: u64,
    /// The header's fields.
    pub(crate) header: RawHeader,
    /// The bytes of all entries.
    pub(crate) table: Vec<u8>,
}

/// Reads and checks the table whose header stands at sector `lba`.
pub(crate) fn read(disk: &Window<'_>, lba: u64, sector_size: u32) -> Result<Gpt, Fault> {
    let size = u64::from(sector_size);
    let sectors = disk.len().checked_div(size).unwrap_or(0);
    let at = lba.saturating_mul(size);
    let bad = |field| disk.fault(at, Corrupt::GptField(field));
    let header = read_header(disk, at, sector_size)?;

    if header.my_lba.get() != lba {
        return Err(bad("my_lba"));
    }
    let (first_usable, last_usable) = (header.first_usable_lba.get(), header.last_usable_lba.get());
    if first_usable > last_usable || last_usable >= sectors {
        return Err(bad("range of usable sectors"));
    }
    let entry_size = header.size_of_entry.get();
    if entry_size < 128 || entry_size > sector_size || !entry_size.is_power_of_two() {
        return Err(disk.fault(at, Incompatible::GptEntrySize(entry_size)));
    }
    let bytes = u64::from(header.number_of_entries.get())
        .checked_mul(u64::from(entry_size))
        .filter(|bytes| (1..=MAX_ENTRIES_BYTES).contains(bytes))
        .ok_or_else(|| bad("number_of_partition_entries"))?;
    let entries_lba = header.partition_entry_lba.get();
    let entries_at = entries_lba
        .checked_mul(size)
        .filter(|&start| entries_lba >= 2 && disk.contains(start, bytes))
        .ok_or_else(|| bad("partition_entry_lba"))?;

    let mut table = vec![0; usize::try_from(bytes).map_err(|_| bad("entries"))?];
    disk.read(&mut table, entries_at)?;
    if CRC.checksum(&table) != header.entries_crc32.get() {
        return Err(disk.fault(entries_at, Corrupt::GptEntriesChecksum));
    }
    let usable = Extent::between(first_usable, last_usable.saturating_add(1));
    let stride = usize::try_from(entry_size).map_err(|_| bad("entries"))?;
    let entries = (1..)
        .zip(table.chunks_exact(stride))
        .filter_map(|(number, bytes)| {
            let (raw, _) = RawEntry::ref_from_prefix(bytes).ok()?;
            (raw.type_guid != [0; 16]).then(|| Entry {
                number,
                first: raw.starting_lba.get(),
                last: raw.ending_lba.get(),
                name: name(&raw.name),
                type_id: guid(&raw.type_guid),
                container: usable,
                slots: Vec::new(),
            })
        });
    Ok(Gpt {
        entries: entries.collect(),
        reserved: [
            Extent {
                first: lba,
                count: 1,
            },
            Extent {
                first: entries_lba,
                count: bytes.div_ceil(size),
            },
        ],
        alternate_lba: header.alternate_lba.get(),
        header,
        table,
    })
}

/// Whether an intact header stands in sector 1 or in the last one of a disk with this sector size.
pub(crate) fn has_header(source: &dyn ReadAt, sector_size: u32) -> bool {
    let disk = Window::disk(source);
    let size = u64::from(sector_size);
    let sectors = disk.len().checked_div(size).unwrap_or(0);
    [1, sectors.saturating_sub(1)].into_iter().any(|lba| {
        read_header(&disk, lba.saturating_mul(size), sector_size)
            .is_ok_and(|header| header.my_lba.get() == lba)
    })
}

/// The header at byte `at`, its signature, revision, size and CRC checked.
fn read_header(disk: &Window<'_>, at: u64, sector_size: u32) -> Result<RawHeader, Fault> {
    let sector_len = usize::try_from(sector_size).unwrap_or(usize::MAX);
    let mut sector = vec![0; sector_len];
    disk.read(&mut sector, at)?;
    if !sector.starts_with(SIGNATURE) {
        return Err(disk.fault(at, Corrupt::GptSignature));
    }
    let bad = |field| disk.fault(at, Corrupt::GptField(field));
    let (header, _) = RawHeader::read_from_prefix(&sector).map_err(|_| bad("header_size"))?;
    if header.revision.get() != REVISION_1 {
        return Err(bad("revision"));
    }
    let len = usize::try_from(header.header_size.get()).unwrap_or(usize::MAX);
    if len < HEADER_SIZE {
        return Err(bad("header_size"));
    }
    let covered = sector.get_mut(..len).ok_or_else(|| bad("header_size"))?;
    if let Some(own) = covered.get_mut(16..20) {
        own.fill(0);
    }
    if CRC.checksum(covered) != header.header_crc32.get() {
        return Err(disk.fault(at, Corrupt::GptHeaderChecksum));
    }
    Ok(header)
}

fn name(units: &[U16; 36]) -> Option<String> {
    let units = units
        .iter()
        .map(|unit| unit.get())
        .take_while(|&unit| unit != 0);
    let name: String = char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    (!name.is_empty()).then_some(name)
}

/// A GUID as text: its first three fields are stored with the lowest byte first.
pub(crate) fn guid(bytes: &[u8; 16]) -> String {
    let mut bytes = *bytes;
    for field in [0..4, 4..6, 6..8] {
        if let Some(field) = bytes.get_mut(field) {
            field.reverse();
        }
    }
    uuid_text(&bytes).to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_the_specification() {
        assert_eq!(size_of::<RawHeader>(), HEADER_SIZE);
        assert_eq!(size_of::<RawEntry>(), 128);
    }
}
