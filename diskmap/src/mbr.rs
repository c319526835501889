//! Master boot records and the chain of extended boot records behind logical partitions.
//!
//! Source: the layout described in the UEFI specification 2.10, section 5.2, and for the chain
//! the behaviour of the Linux kernel (`block/partitions/msdos.c`). A chain that loops, leaves
//! its container or is too long ends there; what it would have named lies in a gap and is saved.
//! Partitions are numbered as the kernel does it, since users name them by these numbers.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Corrupt, Fault};
use crate::extent::Extent;
use crate::source::Window;
use crate::table::{Entry, SlotPlace};

/// Where the disk's signature stands in sector 0, 4 bytes.
pub(crate) const DISK_SIGNATURE: usize = 440;

const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const TYPE_PROTECTIVE: u8 = 0xee;
const MAX_LOGICAL: u32 = 256;
/// Boot records in a row without a logical partition; the kernel gives up after as many.
const MAX_EMPTY_RECORDS: u32 = 100;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSector {
    boot_code: [u8; 446],
    slots: [Slot; 4],
    signature: [u8; 2],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct Slot {
    boot_indicator: u8,
    start_chs: [u8; 3],
    os_type: u8,
    pub(crate) end_chs: [u8; 3],
    pub(crate) start: U32,
    pub(crate) count: U32,
}

/// Where the slots of a boot record begin.
const SLOTS: u64 = 446;

impl Slot {
    /// A slot without a type is a partition to the kernel and to libblkid if it has a size.
    fn is_used(&self) -> bool {
        self.count.get() != 0
    }

    /// CHS, LBA and Linux flavours of an extended partition.
    fn is_extended(&self) -> bool {
        matches!(self.os_type, 0x05 | 0x0f | 0x85)
    }

    fn extent(&self, base: u64) -> Extent {
        Extent {
            first: base.saturating_add(self.start.get().into()),
            count: self.count.get().into(),
        }
    }
}

/// The four slots of sector 0.
pub(crate) struct Mbr([Slot; 4]);

/// The partitions of an MBR disk.
#[derive(Default)]
pub(crate) struct Partitions {
    pub(crate) entries: Vec<Entry>,
    /// Extended partitions.
    pub(crate) containers: Vec<Extent>,
    /// The sectors of the boot records.
    pub(crate) reserved: Vec<Extent>,
    /// Where a chain was cut.
    pub(crate) cuts: Vec<Fault>,
}

impl Mbr {
    /// Reads sector 0; `None` if it holds no partition table.
    pub(crate) fn read(disk: &Window<'_>) -> Result<Option<Self>, Fault> {
        let is_table = |slots: &[Slot; 4]| {
            let mut indicators = slots.iter().map(|slot| slot.boot_indicator);
            indicators.all(|indicator| matches!(indicator, 0 | 0x80))
        };
        Ok(slots(disk, 0)?.filter(is_table).map(Self))
    }

    /// Whether the disk says that its table is a GPT, in whichever slot.
    pub(crate) fn is_protective(&self) -> bool {
        self.0.iter().any(|slot| slot.os_type == TYPE_PROTECTIVE)
    }

    /// The only slot of a protective MBR, if it is as usual, and the byte of the disk at which it stands.
    pub(crate) fn protective_slot(disk: &Window<'_>) -> Result<Option<(u64, Slot)>, Fault> {
        let Some(mbr) = Self::read(disk)? else {
            return Ok(None);
        };
        let mut used = mbr.0.iter().enumerate().filter(|(_, slot)| slot.is_used());
        let found = used
            .next()
            .filter(|(_, slot)| slot.os_type == TYPE_PROTECTIVE && slot.start.get() == 1);
        Ok(match (found, used.next()) {
            (Some((index, slot)), None) => Some((place(0, index, slot, 0).at, *slot)),
            _ => None,
        })
    }

    /// What a hybrid MBR names beside the GPT.
    pub(crate) fn beside_gpt(&self) -> Vec<Extent> {
        let others = self
            .0
            .iter()
            .filter(|slot| slot.is_used() && slot.os_type != 0 && slot.os_type != TYPE_PROTECTIVE);
        others.map(|slot| slot.extent(0)).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.0.iter().any(Slot::is_used)
    }

    /// Lists primary and logical partitions, following every chain.
    pub(crate) fn partitions(
        &self,
        disk: &Window<'_>,
        sector_size: u32,
    ) -> Result<Partitions, Fault> {
        let mut found = Partitions::default();
        found.reserved.push(Extent { first: 0, count: 1 });
        let mut chains = Vec::new();
        for (index, slot) in self.0.iter().enumerate() {
            if !slot.is_used() {
                continue;
            }
            let place = place(0, index, slot, 0);
            if slot.is_extended() {
                found.containers.push(slot.extent(0));
                chains.push((slot.extent(0), place));
            } else {
                let number = u32::try_from(index).unwrap_or(0).saturating_add(1);
                found
                    .entries
                    .push(entry(number, slot, 0, None, vec![place]));
            }
        }
        let mut number = 5;
        for (container, place) in chains {
            number = found.follow(disk, sector_size, (container, place), number)?;
            if !found.cuts.is_empty() {
                // The numbers of what follows would be wrong.
                break;
            }
        }
        Ok(found)
    }
}

impl Partitions {
    /// Follows one chain from its container; `number` is that of the next logical partition.
    fn follow(
        &mut self,
        disk: &Window<'_>,
        sector_size: u32,
        (container, container_slot): (Extent, SlotPlace),
        mut number: u32,
    ) -> Result<u32, Fault> {
        let mut link = None;
        // The part of the container that the record describes, which begins with the record.
        let mut next = Some(container);
        let mut empty_records = 0_u32;
        while let Some(part) = next.take() {
            let sector = part.first;
            let at = sector.saturating_mul(sector_size.into());
            let record = Extent {
                first: sector,
                count: 1,
            };
            let problem = if number >= MAX_LOGICAL || empty_records >= MAX_EMPTY_RECORDS {
                Some("is too long")
            } else if !container.covers(&record) || !disk.contains(at, sector_size.into()) {
                Some("leaves the extended partition")
            } else if self.reserved.contains(&record) {
                Some("comes back to itself")
            } else {
                None
            };
            if let Some(problem) = problem {
                self.cuts
                    .push(disk.fault(at, Corrupt::ExtendedChain(problem)));
                break;
            }
            let Some(slots) = slots(disk, at)? else {
                self.cuts
                    .push(disk.fault(at, Corrupt::ExtendedChain("has a bad boot record")));
                break;
            };
            self.reserved.push(record);
            empty_records = empty_records.saturating_add(1);
            let mut next_link = None;
            // Data slots count from this record, the link from the start of the container.
            for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.is_used()) {
                let own = place(at, index, slot, sector);
                if slot.is_extended() {
                    if next.is_none() {
                        next = Some(slot.extent(container.first));
                        next_link = Some(place(at, index, slot, container.first));
                    }
                    continue;
                }
                // OS/2 uses all four slots, others leave garbage in the last two.
                let extent = slot.extent(sector);
                let reach = u64::from(slot.start.get()).saturating_add(slot.count.get().into());
                if index >= 2 && (reach > part.count || !container.covers(&extent)) {
                    continue;
                }
                let around = [Some(own), link, Some(container_slot)];
                let slots = around.into_iter().flatten().collect();
                self.entries
                    .push(entry(number, slot, sector, Some(container), slots));
                number = number.saturating_add(1);
                empty_records = 0;
            }
            link = next_link;
        }
        Ok(number)
    }
}

/// `base` is the sector that the slot counts from.
fn entry(
    number: u32,
    slot: &Slot,
    base: u64,
    container: Option<Extent>,
    slots: Vec<SlotPlace>,
) -> Entry {
    let extent = slot.extent(base);
    let last = extent.end().saturating_sub(1);
    Entry {
        number,
        first: extent.first,
        last,
        name: None,
        type_id: format!("{:#04x}", slot.os_type),
        container,
        slots,
    }
}

/// Where a slot of the boot record at byte `at` stands; `base` is the sector that it counts from.
fn place(at: u64, index: usize, slot: &Slot, base: u64) -> SlotPlace {
    let index = u64::try_from(index).unwrap_or(0);
    SlotPlace {
        at: at
            .saturating_add(SLOTS)
            .saturating_add(index.saturating_mul(16)),
        first: slot.extent(base).first,
    }
}

/// The slots of a boot record; `None` if it is none.
fn slots(disk: &Window<'_>, at: u64) -> Result<Option<[Slot; 4]>, Fault> {
    if !disk.contains(at, 512) {
        return Ok(None);
    }
    let sector: RawSector = disk.read_struct(at)?;
    Ok((sector.signature == SIGNATURE).then_some(sector.slots))
}

/// The cylinder, head and sector of a sector in the geometry of 255 heads and 63 sectors; `old` if that is the value
/// for whatever is too far for it, or not in that geometry at all.
pub(crate) fn end_chs(sector: u64, old: [u8; 3]) -> [u8; 3] {
    const TOO_FAR: [[u8; 3]; 2] = [[0xfe, 0xff, 0xff], [0xff, 0xff, 0xff]];
    if old == [0; 3] || TOO_FAR.contains(&old) {
        return old;
    }
    let (head, rest) = (sector / 63 % 255, sector % 63);
    let cylinder = sector / (63 * 255);
    let byte = |number: u64| u8::try_from(number & 0xff).unwrap_or(0);
    match cylinder {
        0..=1023 => [
            byte(head),
            byte(rest.saturating_add(1)) | byte((cylinder >> 8) << 6),
            byte(cylinder),
        ],
        _ => TOO_FAR[0],
    }
}
