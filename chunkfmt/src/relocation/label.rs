//! BSD disklabels: partition offsets that are relative in an image and absolute on a disk.

use super::{
    OPENBSD_LABEL, PartitionPlace, Relocation, RelocationError, Sectors, outside, xor_words,
};

pub(super) const LABEL_MAGIC: u32 = 0x8256_4557;
/// Bytes of a BSD disklabel before its partition entries.
pub(super) const LABEL_HEAD: usize = 148;
const LABEL_ENTRY: usize = 16;
/// Most entries that fit into one sector behind the label's head.
const LABEL_ENTRIES_MAX: u16 = 22;

/// Adds the partition's start to the offsets of a BSD disklabel, cuts what does not fit into the partition, and lets
/// entry 2, the whole slice, be as large as the partition (docs/NDZ.md, Relocations).
pub(super) fn relocate(
    relocation: &Relocation,
    place: PartitionPlace,
    sectors: &mut impl Sectors,
) -> Result<(), RelocationError> {
    let bad = RelocationError::NotALabel {
        sector: relocation.sector,
    };
    let far = RelocationError::TooFar {
        sector: relocation.sector,
    };
    let sector = sectors
        .sector_mut(relocation.sector)
        .ok_or_else(|| outside(relocation))?;
    let label = sector.get_mut(relocation.offset as usize..).ok_or(bad)?;
    let magic = LABEL_MAGIC.to_le_bytes();
    if label.get(..4) != Some(&magic) || label.get(132..136) != Some(&magic) {
        return Err(bad);
    }
    let entries = match label.get(138..140) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => return Err(bad),
    };
    if entries > LABEL_ENTRIES_MAX {
        return Err(bad);
    }
    let label = label
        .get_mut(..LABEL_HEAD + LABEL_ENTRY * usize::from(entries))
        .ok_or(bad)?;
    let (head, table) = label.split_at_mut(LABEL_HEAD);
    let end = place.first_sector.checked_add(place.sectors).ok_or(far)?;
    for (index, entry) in table
        .as_chunks_mut::<LABEL_ENTRY>()
        .0
        .iter_mut()
        .enumerate()
    {
        let [s0, s1, s2, s3, o0, o1, o2, o3, ..] = *entry;
        let size = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
        let offset = u64::from(u32::from_le_bytes([o0, o1, o2, o3]));
        let absolute = relocation.kind == OPENBSD_LABEL && (index == 2 || (8..16).contains(&index));
        if size == 0 || absolute {
            continue;
        }
        let offset = offset.checked_add(place.first_sector).ok_or(far)?;
        let size = if offset.checked_add(size).ok_or(far)? > end {
            end.saturating_sub(offset)
        } else if index == 2 {
            place.sectors
        } else {
            size
        };
        let size = u32::try_from(size).map_err(|_| far)?;
        let offset = u32::try_from(offset).map_err(|_| far)?;
        for (to, from) in entry
            .iter_mut()
            .zip(size.to_le_bytes().into_iter().chain(offset.to_le_bytes()))
        {
            *to = from;
        }
    }
    head[136..138].fill(0);
    let sum = xor_words(table, xor_words(head, 0));
    head[136..138].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}
