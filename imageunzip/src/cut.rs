//! How much of an imaged disk a smaller target has to have: all but free space at its end.

use std::io;

use diskmap::ReadAt;
use frisbee_cli::{Exit, Failure, Interrupt};

/// Bytes that are looked at together.
const STEP: u64 = 1 << 20;

/// The least bytes that a disk has to have, for all partitions of `disk`, and everything outside of them that is not
/// zero, and the backup GPT behind it. All bytes where that cannot be told.
///
/// # Errors
/// If the image cannot be read; on an interrupt.
pub(crate) fn least(
    disk: &dyn ReadAt,
    sector_size: u32,
    interrupt: &Interrupt,
) -> Result<u64, Failure> {
    let bad = |error: io::Error| Failure::new(Exit::Input, error);
    let found = diskmap::edit::bounds(disk, sector_size);
    let found = found.map_err(|error| Failure::new(Exit::Input, error))?;
    let (all, size) = (disk.size(), u64::from(sector_size));
    let Some(bounds) = found else {
        return Ok(all);
    };
    let moves: Vec<_> = bounds
        .backup
        .iter()
        .map(|part| part.first * size..part.end() * size)
        .collect();
    // Only so much of what is cut off is there when the table is changed.
    if moves.iter().any(|part| part.start + STEP < all) {
        return Ok(all);
    }
    let least = bounds.end * size;
    let mut end = all;
    let mut buffer = Vec::new();
    while end > least {
        interrupt.check("nothing was written")?;
        let start = end.saturating_sub(STEP).max(least);
        buffer.resize(usize::try_from(end - start).unwrap_or(0), 0);
        disk.read_exact_at(&mut buffer, start).map_err(bad)?;
        for part in &moves {
            let place = |at: u64| usize::try_from(at.clamp(start, end) - start).unwrap_or(0);
            buffer[place(part.start)..place(part.end)].fill(0);
        }
        if let Some(last) = buffer.iter().rposition(|&byte| byte != 0) {
            end = (start + last as u64 + 1).next_multiple_of(size);
            break;
        }
        end = start;
    }
    Ok((end + bounds.behind * size).min(all))
}
