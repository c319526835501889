//! Master boot records and the chain of extended boot records behind logical partitions.
//!
//! Source: the layout described in the UEFI specification 2.10, section 5.2, and for the chain
//! the behaviour of the Linux kernel (`block/partitions/msdos.c`). A chain that loops, leaves
//! its container or is too long ends there; what it would have named lies in a gap and is saved.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Corrupt, Fault};
use crate::extent::Extent;
use crate::source::Window;
use crate::table::Entry;

const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const TYPE_PROTECTIVE: u8 = 0xee;
const MAX_LOGICAL: u32 = 256;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSector {
    boot_code: [u8; 446],
    slots: [Slot; 4],
    signature: [u8; 2],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Slot {
    boot_indicator: u8,
    start_chs: [u8; 3],
    os_type: u8,
    end_chs: [u8; 3],
    start: U32,
    count: U32,
}

impl Slot {
    fn is_used(&self) -> bool {
        self.os_type != 0 && self.count.get() != 0
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
    /// Reads sector 0; `None` if it holds no partition table. Boot sectors of FAT and NTFS
    /// end in the same two bytes; their code rarely looks like four boot indicators, and what
    /// does is told by its signature (see `signature`).
    pub(crate) fn read(disk: &Window<'_>) -> Result<Option<Self>, Fault> {
        Ok(slots(disk, 0)?.map(Self))
    }

    /// Whether the disk says that its table is a GPT.
    pub(crate) fn is_protective(&self) -> bool {
        self.0.iter().any(|slot| slot.os_type == TYPE_PROTECTIVE)
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
        for (number, slot) in (1..).zip(&self.0).filter(|(_, slot)| slot.is_used()) {
            if slot.is_extended() {
                found.containers.push(slot.extent(0));
            } else {
                found.entries.push(entry(number, slot, 0, None));
            }
        }
        let mut number = 5;
        for container in found.containers.clone() {
            number = found.follow(disk, sector_size, container, number)?;
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
        container: Extent,
        mut number: u32,
    ) -> Result<u32, Fault> {
        let mut next = Some(container.first);
        while let Some(sector) = next.take() {
            let at = sector.saturating_mul(sector_size.into());
            let record = Extent {
                first: sector,
                count: 1,
            };
            let problem = if number >= MAX_LOGICAL {
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
            // Data slots count from this record, the link from the start of the container.
            for slot in slots.iter().filter(|slot| slot.is_used()) {
                if slot.is_extended() {
                    next = next.or(Some(slot.extent(container.first).first));
                } else {
                    self.entries
                        .push(entry(number, slot, sector, Some(container)));
                    number = number.saturating_add(1);
                }
            }
        }
        Ok(number)
    }
}

/// `base` is the sector that the slot counts from.
fn entry(number: u32, slot: &Slot, base: u64, container: Option<Extent>) -> Entry {
    let extent = slot.extent(base);
    let last = extent.end().saturating_sub(1);
    Entry {
        number,
        first: extent.first,
        last,
        name: None,
        type_id: format!("{:#04x}", slot.os_type),
        container,
    }
}

fn slots(disk: &Window<'_>, at: u64) -> Result<Option<[Slot; 4]>, Fault> {
    if !disk.contains(at, 512) {
        return Ok(None);
    }
    let sector: RawSector = disk.read_struct(at)?;
    let valid = sector.signature == SIGNATURE
        && sector
            .slots
            .iter()
            .all(|slot| matches!(slot.boot_indicator, 0 | 0x80));
    Ok(valid.then_some(sector.slots))
}
