//! Records of the MFT: update sequences, attributes, and the lists of runs in them.
//!
//! Source: ntfs-3g 2022.10.3, `include/ntfs-3g/layout.h` (`NTFS_RECORD`, `MFT_RECORD`,
//! `ATTR_RECORD`), `libntfs-3g/mst.c` and `libntfs-3g/runlist.c`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes that one number of an update sequence guards, whatever the sector size is.
const STRIDE: usize = 512;
const IN_USE: u16 = 0x0001;
const END: u32 = 0xffff_ffff;
/// Where an update sequence begins at the earliest in records that hold their own number.
const WITH_NUMBER: u16 = 0x30;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecord {
    magic: [u8; 4],
    usa_offset: U16,
    usa_count: U16,
    lsn: U64,
    sequence_number: U16,
    link_count: U16,
    attrs_offset: U16,
    flags: U16,
    bytes_in_use: U32,
    bytes_allocated: U32,
    base_mft_record: U64,
    next_attr_instance: U16,
    reserved: U16,
    mft_record_number: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawAttribute {
    kind: U32,
    length: U32,
    non_resident: u8,
    name_length: u8,
    name_offset: U16,
    flags: U16,
    instance: U16,
}

/// Behind [`RawAttribute`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawResident {
    value_length: U32,
    value_offset: U16,
    flags: u8,
    reserved: u8,
}

/// Behind [`RawAttribute`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawNonResident {
    lowest_vcn: U64,
    highest_vcn: U64,
    mapping_pairs_offset: U16,
    compression_unit: u8,
    reserved: [u8; 5],
    allocated_size: U64,
    data_size: U64,
    initialized_size: U64,
}

/// A record, without its update sequence.
pub(super) struct Record {
    bytes: Vec<u8>,
    pub(super) number: u64,
    pub(super) sequence: u16,
    /// Number of the record that this one extends; 0 if it stands for itself.
    pub(super) base: u64,
}

/// An attribute of a file, or one part of its list of runs.
pub(super) struct Attribute<'a> {
    pub(super) kind: u32,
    /// UTF-16LE.
    pub(super) name: &'a [u8],
    pub(super) flags: u16,
    pub(super) instance: u16,
    pub(super) body: Body<'a>,
}

pub(super) enum Body<'a> {
    Resident(&'a [u8]),
    NonResident(Part<'a>),
}

/// One part of a list of runs.
pub(super) struct Part<'a> {
    /// First cluster of the file that the part tells of.
    pub(super) first: u64,
    /// Clusters that it tells of.
    pub(super) count: u64,
    /// Bytes of the whole attribute; valid in the first part.
    pub(super) data_size: u64,
    pub(super) initialized_size: u64,
    pairs: &'a [u8],
}

/// Clusters of a file that follow each other on the disk too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First cluster in the file.
    pub(super) vcn: u64,
    /// First cluster on the disk; none in a hole.
    pub(super) lcn: Option<u64>,
    pub(super) count: u64,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.vcn.saturating_add(self.count)
    }
}

/// Checks magic and update sequence of a block that was written in several sectors, and puts
/// back what the sequence stands for.
pub(super) fn unprotect(bytes: &mut [u8], magic: [u8; 4]) -> Result<(), &'static str> {
    const TORN: &str = "was not written completely";
    let word = |bytes: &[u8], at: usize| -> Option<[u8; 2]> {
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()
    };
    if !bytes.starts_with(&magic) {
        return Err("has another magic number");
    }
    let bad = "has a bad update sequence";
    let offset = usize::from(word(bytes, 4).map(u16::from_le_bytes).ok_or(bad)?);
    let count = usize::from(word(bytes, 6).map(u16::from_le_bytes).ok_or(bad)?);
    let end = offset.saturating_add(count.saturating_mul(2));
    let strides = bytes.len() / STRIDE;
    if !bytes.len().is_multiple_of(STRIDE)
        || count != strides.saturating_add(1)
        || !offset.is_multiple_of(2)
        || end > STRIDE.saturating_sub(2)
    {
        return Err(bad);
    }
    let sequence = word(bytes, offset).ok_or(bad)?;
    for stride in 1..=strides {
        let saved = word(bytes, offset.saturating_add(stride.saturating_mul(2))).ok_or(bad)?;
        let at = stride.saturating_mul(STRIDE).saturating_sub(2);
        if word(bytes, at) != Some(sequence) {
            return Err(TORN);
        }
        let place = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..2));
        place.ok_or(bad)?.copy_from_slice(&saved);
    }
    Ok(())
}

impl Record {
    /// Takes the bytes of record `number`, which must be in use.
    pub(super) fn parse(mut bytes: Vec<u8>, number: u64) -> Result<Self, &'static str> {
        unprotect(&mut bytes, *b"FILE")?;
        let (raw, _) = RawRecord::ref_from_prefix(&bytes).map_err(|_| "is too short")?;
        if raw.flags.get() & IN_USE == 0 {
            return Err("is not in use");
        }
        let used = usize::try_from(raw.bytes_in_use.get()).unwrap_or(usize::MAX);
        let allocated = usize::try_from(raw.bytes_allocated.get()).unwrap_or(usize::MAX);
        if used > bytes.len() || allocated != bytes.len() {
            return Err("has a bad size");
        }
        let low = u32::try_from(number & 0xffff_ffff).unwrap_or(0);
        if raw.usa_offset.get() >= WITH_NUMBER && raw.mft_record_number.get() != low {
            return Err("has the number of another one");
        }
        let (sequence, base) = (raw.sequence_number.get(), raw.base_mft_record.get());
        bytes.truncate(used);
        Ok(Self {
            bytes,
            number,
            sequence,
            base: base & super::REFERENCE,
        })
    }

    /// All attributes.
    pub(super) fn attributes(&self) -> Result<Vec<Attribute<'_>>, &'static str> {
        let bad = "has a bad attribute";
        let (raw, _) = RawRecord::ref_from_prefix(&self.bytes).map_err(|_| bad)?;
        let mut rest = self
            .bytes
            .get(usize::from(raw.attrs_offset.get())..)
            .ok_or(bad)?;
        let mut list = Vec::new();
        loop {
            let kind = rest.first_chunk::<4>().ok_or(bad)?;
            if u32::from_le_bytes(*kind) == END {
                return Ok(list);
            }
            let (raw, _) = RawAttribute::ref_from_prefix(rest).map_err(|_| bad)?;
            let length = usize::try_from(raw.length.get()).map_err(|_| bad)?;
            if length < size_of::<RawAttribute>() {
                return Err(bad);
            }
            let (bytes, later) = rest.split_at_checked(length).ok_or(bad)?;
            list.push(attribute(bytes).ok_or(bad)?);
            rest = later;
        }
    }

    /// What identifies the record's contents: all but the update sequence, which two copies may
    /// have counted differently.
    pub(super) fn comparable(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Ok((raw, _)) = RawRecord::ref_from_prefix(&self.bytes) {
            let (offset, count) = (raw.usa_offset.get(), raw.usa_count.get());
            let start = usize::from(offset);
            let end = start.saturating_add(usize::from(count).saturating_mul(2));
            if let Some(sequence) = bytes.get_mut(start..end) {
                sequence.fill(0);
            }
        }
        bytes
    }
}

/// `bytes` are those of one attribute.
fn attribute(bytes: &[u8]) -> Option<Attribute<'_>> {
    let (raw, body) = RawAttribute::ref_from_prefix(bytes).ok()?;
    let name_length = usize::from(raw.name_length).checked_mul(2)?;
    let name = if name_length == 0 {
        &[]
    } else {
        bytes
            .get(usize::from(raw.name_offset.get())..)?
            .get(..name_length)?
    };
    let body = match raw.non_resident {
        0 => {
            let (raw, _) = RawResident::ref_from_prefix(body).ok()?;
            let length = usize::try_from(raw.value_length.get()).ok()?;
            let value = bytes.get(usize::from(raw.value_offset.get())..)?;
            Body::Resident(value.get(..length)?)
        }
        1 => {
            let (raw, _) = RawNonResident::ref_from_prefix(body).ok()?;
            let first = raw.lowest_vcn.get();
            // The highest is -1 if there are no clusters.
            let count = raw.highest_vcn.get().wrapping_add(1).checked_sub(first)?;
            Body::NonResident(Part {
                first,
                count,
                data_size: raw.data_size.get(),
                initialized_size: raw.initialized_size.get(),
                pairs: bytes.get(usize::from(raw.mapping_pairs_offset.get())..)?,
            })
        }
        _ => return None,
    };
    Some(Attribute {
        kind: raw.kind.get(),
        name,
        flags: raw.flags.get(),
        instance: raw.instance.get(),
        body,
    })
}

impl Part<'_> {
    /// Appends the runs; `clusters` is the number of clusters of the filesystem. `None` if they
    /// contradict the part's counts or leave the filesystem.
    pub(super) fn decode(&self, clusters: u64, runs: &mut Vec<Run>) -> Option<()> {
        let mut rest = self.pairs;
        let mut vcn = self.first;
        let mut lcn = 0_i64;
        let end = self.first.checked_add(self.count)?;
        loop {
            let (&header, later) = rest.split_first()?;
            if header == 0 {
                return (vcn == end).then_some(());
            }
            let (length, later) = signed(later, header & 0xf)?;
            let (delta, later) = signed(later, header >> 4)?;
            rest = later;
            let count = u64::try_from(length).ok().filter(|&count| count > 0)?;
            let lcn = if header >> 4 == 0 {
                None
            } else {
                lcn = lcn.checked_add(delta)?;
                let first = u64::try_from(lcn).ok()?;
                if first.checked_add(count)? > clusters {
                    return None;
                }
                Some(first)
            };
            runs.push(Run { vcn, lcn, count });
            vcn = vcn.checked_add(count).filter(|&vcn| vcn <= end)?;
        }
    }
}

/// A little-endian signed number of `len` bytes, and what follows it.
fn signed(bytes: &[u8], len: u8) -> Option<(i64, &[u8])> {
    if len > 8 {
        return None;
    }
    let (number, rest) = bytes.split_at_checked(len.into())?;
    let fill = match number.last() {
        Some(0x80..) => 0xff,
        _ => 0,
    };
    let mut wide = [fill; 8];
    wide.get_mut(..number.len())?.copy_from_slice(number);
    Some((i64::from_le_bytes(wide), rest))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layouts_are_those_of_ntfs_3g() {
        assert_eq!(size_of::<RawRecord>(), 0x30);
        assert_eq!(offset_of!(RawRecord, flags), 0x16);
        assert_eq!(offset_of!(RawRecord, base_mft_record), 0x20);
        assert_eq!(size_of::<RawAttribute>(), 0x10);
        assert_eq!(offset_of!(RawResident, value_offset), 0x14 - 0x10);
        assert_eq!(
            offset_of!(RawNonResident, mapping_pairs_offset),
            0x20 - 0x10
        );
        assert_eq!(offset_of!(RawNonResident, data_size), 0x30 - 0x10);
    }

    fn decoded(pairs: &[u8], count: u64, clusters: u64) -> Option<Vec<Run>> {
        let part = Part {
            first: 0,
            count,
            data_size: 0,
            initialized_size: 0,
            pairs,
        };
        let mut runs = Vec::new();
        part.decode(clusters, &mut runs).map(|()| runs)
    }

    #[test]
    fn runs_are_decoded_and_bounded() {
        // The example of the Linux-NTFS documentation, "Data Runs", with a hole and a way back.
        let pairs = [0x21, 0x18, 0x34, 0x56, 0x01, 0x08, 0x11, 0x02, 0xf0, 0x00];
        let run = |vcn, lcn, count| Run { vcn, lcn, count };
        let expected = vec![
            run(0, Some(0x5634), 0x18),
            run(0x18, None, 8),
            run(0x20, Some(0x5624), 2),
        ];
        assert_eq!(decoded(&pairs, 0x22, 0x5634 + 0x18), Some(expected));
        assert_eq!(decoded(&pairs, 0x22, 0x5634 + 0x17), None);
        assert_eq!(decoded(&pairs, 0x21, 0x10000), None);
        assert_eq!(decoded(&pairs, 0x23, 0x10000), None);
        assert_eq!(decoded(&pairs[..9], 0x22, 0x10000), None);
        assert_eq!(decoded(&[0x11, 0x00, 0x01, 0x00], 0, 0x10000), None);
        assert_eq!(decoded(&[0x11, 0x01, 0xff, 0x00], 1, 0x10000), None);
    }
}
