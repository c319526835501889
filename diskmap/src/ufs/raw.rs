//! The superblock of UFS as it stands on the disk, and the numbers that are counted in UFS.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::byteorder::{ByteOrder, I32, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Where the superblock's own check hash is.
pub(super) const HASH_OFFSET: usize = 1304;

/// `struct csum`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawSum<O: ByteOrder> {
    pub(super) ndir: U32<O>,
    pub(super) nbfree: U32<O>,
    pub(super) nifree: U32<O>,
    pub(super) nffree: U32<O>,
}

/// `struct csum_total`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawTotal<O: ByteOrder> {
    pub(super) ndir: U64<O>,
    pub(super) nbfree: U64<O>,
    pub(super) nifree: U64<O>,
    pub(super) nffree: U64<O>,
    pub(super) spare: [U64<O>; 4],
}

/// `struct fs`. What is not needed is named `unused`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawSuperblock<O: ByteOrder> {
    pub(super) unused0: [U32<O>; 2],
    pub(super) sblkno: U32<O>,
    pub(super) cblkno: U32<O>,
    pub(super) iblkno: U32<O>,
    pub(super) dblkno: U32<O>,
    pub(super) old_cgoffset: U32<O>,
    pub(super) old_cgmask: U32<O>,
    pub(super) old_time: U32<O>,
    pub(super) old_size: U32<O>,
    pub(super) old_dsize: U32<O>,
    pub(super) ncg: U32<O>,
    pub(super) bsize: U32<O>,
    pub(super) fsize: U32<O>,
    pub(super) frag: U32<O>,
    pub(super) unused1: [U32<O>; 5],
    pub(super) bshift: I32<O>,
    pub(super) fshift: I32<O>,
    pub(super) unused2: [U32<O>; 2],
    pub(super) fragshift: I32<O>,
    pub(super) fsbtodb: I32<O>,
    pub(super) sbsize: U32<O>,
    pub(super) unused3: [U32<O>; 3],
    pub(super) inopb: U32<O>,
    pub(super) unused4: [U32<O>; 5],
    pub(super) id: [U32<O>; 2],
    pub(super) old_csaddr: U32<O>,
    pub(super) cssize: U32<O>,
    pub(super) cgsize: U32<O>,
    pub(super) unused5: [U32<O>; 5],
    pub(super) ipg: U32<O>,
    pub(super) fpg: U32<O>,
    pub(super) old_cstotal: RawSum<O>,
    pub(super) fmod: u8,
    pub(super) clean: u8,
    pub(super) ronly: u8,
    pub(super) old_flags: u8,
    pub(super) fsmnt: [u8; 468],
    pub(super) volname: [u8; 32],
    pub(super) unused6: [u8; 288],
    pub(super) sblockloc: U64<O>,
    pub(super) cstotal: RawTotal<O>,
    pub(super) time: U64<O>,
    pub(super) size: U64<O>,
    pub(super) dsize: U64<O>,
    pub(super) csaddr: U64<O>,
    pub(super) pendingblocks: U64<O>,
    pub(super) pendinginodes: U32<O>,
    pub(super) unused7: [u8; 188],
    pub(super) ckhash: U32<O>,
    pub(super) metackhash: U32<O>,
    pub(super) flags: U32<O>,
    pub(super) contigsumsize: I32<O>,
    pub(super) unused8: [u8; 52],
    pub(super) magic: U32<O>,
}

/// Free blocks and fragments, and what else is counted with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    pub(super) directories: u64,
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u64,
    pub(super) free_fragments: u64,
}

impl Sum {
    pub(super) fn add(&mut self, other: &Self) {
        let add = |one: &mut u64, other: u64| *one = one.saturating_add(other);
        add(&mut self.directories, other.directories);
        add(&mut self.free_blocks, other.free_blocks);
        add(&mut self.free_inodes, other.free_inodes);
        add(&mut self.free_fragments, other.free_fragments);
    }
}

impl<O: ByteOrder> RawSum<O> {
    pub(super) fn to_sum(&self) -> Sum {
        Sum {
            directories: self.ndir.get().into(),
            free_blocks: self.nbfree.get().into(),
            free_inodes: self.nifree.get().into(),
            free_fragments: self.nffree.get().into(),
        }
    }
}

impl<O: ByteOrder> RawTotal<O> {
    pub(super) fn to_sum(&self) -> Sum {
        Sum {
            directories: self.ndir.get(),
            free_blocks: self.nbfree.get(),
            free_inodes: self.nifree.get(),
            free_fragments: self.nffree.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use zerocopy::LittleEndian;

    use super::*;

    #[test]
    fn the_layout_is_that_of_fs_h() {
        type Raw = RawSuperblock<LittleEndian>;
        // FreeBSD's CTASSERT in fs.h.
        assert_eq!(size_of::<Raw>(), 1376);
        let offsets = [
            (offset_of!(Raw, ncg), 44),
            (offset_of!(Raw, bshift), 80),
            (offset_of!(Raw, fragshift), 96),
            (offset_of!(Raw, sbsize), 104),
            (offset_of!(Raw, inopb), 120),
            (offset_of!(Raw, id), 144),
            (offset_of!(Raw, cssize), 156),
            (offset_of!(Raw, ipg), 184),
            (offset_of!(Raw, old_cstotal), 192),
            (offset_of!(Raw, clean), 209),
            (offset_of!(Raw, volname), 680),
            (offset_of!(Raw, sblockloc), 1000),
            (offset_of!(Raw, cstotal), 1008),
            (offset_of!(Raw, size), 1080),
            (offset_of!(Raw, csaddr), 1096),
            (offset_of!(Raw, pendinginodes), 1112),
            (offset_of!(Raw, ckhash), HASH_OFFSET),
            (offset_of!(Raw, flags), 1312),
            (offset_of!(Raw, contigsumsize), 1316),
            (offset_of!(Raw, magic), 1372),
        ];
        for (is, should) in offsets {
            assert_eq!(is, should);
        }
    }
}
