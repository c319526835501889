//! LILO: sector addresses of 5 bytes, sectors full of them, and the checksum over its descriptor table.

use super::{Relocation, RelocationError, Sectors, get, outside, put, xor_words};

pub(super) const LILO_ADDRESS_SIZE: usize = 5;
const LILO_MAP_ENTRIES: usize = 102;
pub(super) const LILO_TABLE_SIZE: usize = 1024;
/// How far behind the start of the descriptor table a [`super::LILO_CHECKSUM`] entry points.
pub(super) const LILO_TABLE_DISTANCE: u64 = 990;
const LILO_CHECKSUM_SEED: u16 = 0xABCD;

/// Moves one address, which may lie in two sectors.
pub(super) fn relocate_address(
    relocation: &Relocation,
    start: u64,
    sectors: &mut impl Sectors,
) -> Result<(), RelocationError> {
    let mut address = [0; LILO_ADDRESS_SIZE];
    let at = relocation.byte().unwrap_or_default();
    get(relocation, at, &mut address, sectors)?;
    move_address(relocation, &mut address, start)?;
    put(relocation, at, &address, sectors)
}

/// Moves the addresses of a map sector, to the first that is none.
pub(super) fn relocate_map(
    relocation: &Relocation,
    start: u64,
    sectors: &mut impl Sectors,
) -> Result<(), RelocationError> {
    let sector = sectors
        .sector_mut(relocation.sector)
        .ok_or_else(|| outside(relocation))?;
    for address in sector.as_chunks_mut().0.iter_mut().take(LILO_MAP_ENTRIES) {
        if !move_address(relocation, address, start)? {
            break;
        }
    }
    Ok(())
}

/// Adds `start` to a LILO address and keeps its form. False if it is none: all zero, or not a linear one.
fn move_address(
    relocation: &Relocation,
    address: &mut [u8; LILO_ADDRESS_SIZE],
    start: u64,
) -> Result<bool, RelocationError> {
    const LINEAR: u8 = 0x40;
    const LBA32_NO_COUNT: u8 = 0x10;
    const NOT_CHS: u8 = 0x70;
    let far = RelocationError::TooFar {
        sector: relocation.sector,
    };
    let [low, middle, flags, high, top] = *address;
    if flags & NOT_CHS == 0 {
        return Ok(false);
    }
    let wide = flags & LINEAR == 0 && flags & LBA32_NO_COUNT != 0;
    let sector = u32::from_le_bytes([low, middle, high, if wide { top } else { 0 }]);
    let moved = u64::from(sector)
        .checked_add(start)
        .and_then(|moved| u32::try_from(moved).ok())
        .ok_or(far)?;
    let [low, middle, high, new_top] = moved.to_le_bytes();
    if !wide && new_top != 0 {
        return Err(far);
    }
    *address = [low, middle, flags, high, if wide { new_top } else { top }];
    Ok(true)
}

/// Computes the checksum of LILO's descriptor table anew.
pub(super) fn set_checksum(
    relocation: &Relocation,
    sectors: &mut impl Sectors,
) -> Result<(), RelocationError> {
    let table_at = relocation
        .byte()
        .and_then(|at| at.checked_sub(LILO_TABLE_DISTANCE))
        .unwrap_or_default();
    let mut table = [0; LILO_TABLE_SIZE];
    get(relocation, table_at, &mut table, sectors)?;
    table[..2].fill(0);
    let sum = xor_words(&table, LILO_CHECKSUM_SEED);
    put(relocation, table_at, &sum.to_le_bytes(), sectors)
}
