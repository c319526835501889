//! Free blocks of XFS, versions 4 and 5.
//!
//! The free space of each allocation group is what its two B+trees say: one sorted by block, one
//! by length. It is believed only if both hold together, agree with each other and with the
//! counters of the group, overlap nothing that the headers and the inode tree know to be in use,
//! and if the log is known to hold nothing that would still change them.
//!
//! The log itself is always saved. Zeros in its place would start a new count of log cycles,
//! and version 5 refuses metadata that was stamped in a cycle ahead of its log.
//!
//! Source: "XFS Algorithms & Data Structures" (xfs-documentation, `design/XFS_Filesystem_Structure`)
//! and Linux `fs/xfs/libxfs/xfs_format.h`.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod btree;
mod features;
mod group;
mod log;
mod superblock;

use crc::{CRC_32_ISCSI, Crc, Table};

use crate::error::{Corrupt, Fault};
use crate::extent::FreeRuns;
use crate::filesystem::{Filesystem, Mapped, Parsed, uuid_text};
use crate::source::Window;
use group::Scan;

const NAME: &str = "XFS";

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Maps the filesystem in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let geometry = superblock::read(window)?;
    log::check_clean(window, &geometry)?;
    let mut scan = Scan {
        window,
        geometry: &geometry,
        free: FreeRuns::default(),
        free_blocks: 0,
        counted_blocks: 0,
    };
    for number in 0..geometry.ag_count {
        scan.group(number)?;
    }
    let Scan {
        free,
        free_blocks,
        counted_blocks,
        ..
    } = scan;
    if counted_blocks != geometry.free_blocks {
        let kind = Corrupt::Count {
            what: "free blocks of the XFS superblock",
            recorded: geometry.free_blocks,
            counted: counted_blocks,
        };
        return Err(window.fault(0, kind));
    }
    let block_size = u64::from(geometry.block_size);
    let used = geometry.blocks.saturating_sub(free_blocks);
    Ok(Mapped {
        kind: NAME,
        filesystem: Filesystem {
            label: geometry.label,
            uuid: Some(uuid_text(&geometry.uuid)),
            block_size: geometry.block_size,
            size_bytes: geometry.blocks.saturating_mul(block_size),
            used_bytes: used.saturating_mul(block_size),
            features: geometry.features.names(),
        },
        unit: block_size,
        free,
        optional: Vec::new(),
    }
    .into())
}

/// Whether a structure matches the CRC-32C it carries at `at`, in little-endian order.
fn crc_matches(bytes: &[u8], at: usize) -> bool {
    let end = at.saturating_add(4);
    let (Some(head), Some(stored), Some(tail)) =
        (bytes.get(..at), bytes.get(at..end), bytes.get(end..))
    else {
        return false;
    };
    let mut digest = CRC32C.digest();
    digest.update(head);
    digest.update(&[0; 4]);
    digest.update(tail);
    stored == digest.finalize().to_le_bytes()
}

/// The big-endian number at `at`; 0 if the bytes end there.
fn be32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    u32::from_be_bytes(field.copied().unwrap_or_default())
}
