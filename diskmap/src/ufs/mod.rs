//! UFS1 and UFS2, the fast filesystem of the BSDs, in either byte order.
//!
//! Source: FreeBSD `sys/ufs/ffs/fs.h`, `ffs_subr.c` (`readsuper`, check hashes) and
//! `sbin/fsck_ffs`; NetBSD `sys/ufs/ffs/fs.h` for its own flags. A bitmap in each cylinder group
//! tells the free fragments; the groups, the array of summaries and the superblock count them.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod group;
mod raw;
mod superblock;

use zerocopy::{BigEndian, LittleEndian};

use crate::error::{Fault, Incompatible};
use crate::filesystem::{Filesystem, Mapped, Parsed};
use crate::source::Window;

pub(crate) use superblock::detect;

const NAME: &str = "UFS";
const DIRTY: &str = "is not marked clean";

/// Maps a filesystem that was unmounted cleanly.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let superblock = superblock::read(window)?;
    let free = if superblock.is_big_endian {
        group::read::<BigEndian>(window, &superblock)?
    } else {
        group::read::<LittleEndian>(window, &superblock)?
    };
    let free_fragments = superblock
        .total
        .free_blocks
        .saturating_mul(superblock.fragments_per_block.into())
        .saturating_add(superblock.total.free_fragments);
    let bytes = |fragments: u64| fragments.saturating_mul(superblock.fragment_bytes());
    let [first, second] = superblock.id;
    Ok(Mapped {
        kind: if superblock.version == 1 {
            "UFS1"
        } else {
            "UFS2"
        },
        filesystem: Filesystem {
            label: superblock.label.clone(),
            uuid: (superblock.id != [0; 2]).then(|| format!("{first:08x}{second:08x}")),
            block_size: superblock.block_size,
            size_bytes: bytes(superblock.size),
            used_bytes: bytes(superblock.size.saturating_sub(free_fragments)),
            features: superblock.features(),
        },
        unit: superblock.fragment_bytes(),
        free,
        optional: Vec::new(),
    }
    .into())
}

/// Bytes of the filesystem whose superblock stands in the window, which may be larger than the
/// filesystem.
pub(crate) fn size(window: &Window<'_>) -> Result<u64, Fault> {
    let superblock = superblock::read(window)?;
    Ok(superblock.size.saturating_mul(superblock.fragment_bytes()))
}

fn unsupported(window: &Window<'_>, offset: u64, what: &'static str) -> Fault {
    window.fault(
        offset,
        Incompatible::Unsupported {
            filesystem: NAME,
            what,
        },
    )
}

fn not_clean(window: &Window<'_>, offset: u64, what: &'static str) -> Fault {
    window.fault(
        offset,
        Incompatible::NotClean {
            filesystem: NAME,
            what,
            remedy: "unmount it or run fsck_ffs",
        },
    )
}
