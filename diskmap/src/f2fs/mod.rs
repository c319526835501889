//! Free blocks of F2FS.
//!
//! The areas for metadata (superblocks, checkpoints, SIT, NAT and SSA) are saved whole. In the main
//! area those blocks are free that the segment information does not mark valid, provided that
//! the filesystem was unmounted, nothing was written after its last checkpoint, and the counters
//! and the node address table agree with the segment information.
//!
//! The blocks where writing of nodes would go on are saved too, although they are free. On mount
//! the kernel looks there for nodes of the current checkpoint; stale ones, left on the target by
//! an earlier installation of the same image, must not be taken for new.
//!
//! Source: Linux `Documentation/filesystems/f2fs.rst`, `include/linux/f2fs_fs.h` and `fs/f2fs`.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod checkpoint;
mod node;
mod segment;
mod superblock;

use crc::{Algorithm, CRC_32_ISO_HDLC, Crc, Table};
use zerocopy::FromBytes;

use crate::error::{Corrupt, Fault};
use crate::filesystem::{Filesystem, Mapped, Parsed, uuid_text};
use crate::source::Window;

const NAME: &str = "F2FS";
/// Bytes.
const BLOCK: u64 = 4096;
/// Blocks.
const SEGMENT: u64 = 512;

static CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC32_RAW);
const CRC32_RAW: Algorithm<u32> = Algorithm {
    xorout: 0,
    ..CRC_32_ISO_HDLC
};

/// Maps the filesystem in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let geometry = superblock::read(window)?;
    let checkpoint = checkpoint::read(window, &geometry)?;
    node::check_nothing_follows(window, &checkpoint)?;
    let mut keep = checkpoint.next_nodes.clone();
    keep.sort_unstable();
    let segments = segment::read(window, &geometry, &checkpoint, &keep)?;
    if segments.valid_blocks != checkpoint.valid_blocks {
        let kind = Corrupt::Count {
            what: "valid blocks of F2FS",
            recorded: checkpoint.valid_blocks,
            counted: segments.valid_blocks,
        };
        return Err(window.fault(geometry.checkpoint.saturating_mul(BLOCK), kind));
    }
    node::check(window, &geometry, &checkpoint, &segments)?;
    let main = geometry.main_end().saturating_sub(geometry.main);
    let free_blocks = main.saturating_sub(segments.valid_blocks);
    let used = geometry.blocks.saturating_sub(free_blocks);
    Ok(Mapped {
        kind: NAME,
        filesystem: Filesystem {
            label: geometry.label,
            uuid: Some(uuid_text(&geometry.uuid)),
            block_size: 4096,
            size_bytes: geometry.blocks.saturating_mul(BLOCK),
            used_bytes: used.saturating_mul(BLOCK),
            features: geometry.features.iter().map(|&name| name.into()).collect(),
        },
        unit: BLOCK,
        free: segments.free,
        optional: Vec::new(),
    }
    .into())
}

/// CRC-32 without the final inversion, continued from `seed`.
fn crc(seed: u32, bytes: &[u8]) -> u32 {
    // The crate wants the initial value in the order of the unreflected polynomial.
    let mut digest = CRC32.digest_with_initial(seed.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

fn read_block(window: &Window<'_>, number: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; 4096];
    window.read(&mut bytes, number.saturating_mul(BLOCK))?;
    Ok(bytes)
}

/// A bit of a bitmap whose first bit is the highest of its first byte.
fn is_set(bitmap: &[u8], bit: u64) -> bool {
    let byte = usize::try_from(bit / 8).ok();
    let byte = byte.and_then(|at| bitmap.get(at)).copied();
    byte.is_some_and(|byte| byte.reverse_bits() >> (bit % 8) & 1 != 0)
}

/// The entries of a journal: a number, and so many entries.
fn journal_entries<T: FromBytes>(bytes: &[u8], structure: &'static str) -> Result<Vec<T>, Corrupt> {
    let (count, entries) = bytes.split_first_chunk::<2>().unwrap_or((&[0; 2], &[]));
    let count = u16::from_le_bytes(*count);
    let entries = entries.chunks_exact(size_of::<T>());
    if usize::from(count) > entries.len() {
        return Err(Corrupt::Field {
            structure,
            field: "number of entries",
            value: count.into(),
        });
    }
    let entries = entries.take(count.into());
    Ok(entries
        .filter_map(|bytes| T::read_from_bytes(bytes).ok())
        .collect())
}
