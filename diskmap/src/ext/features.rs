//! Feature bits of ext2/3/4 and which of them the map understands.
//!
//! Source: Linux `fs/ext4/ext4.h`. A bit is in a `KNOWN_` set when its effect on which blocks are
//! used is handled here, or when it has none; every other bit means a raw copy. That holds for
//! all three sets, also `compat`: sparse_super2 is one and moves the backups of the superblock.

use crate::error::Incompatible;

// compat
pub(super) const HAS_JOURNAL: u32 = 0x0004;
pub(super) const SPARSE_SUPER2: u32 = 0x0200;
/// dir_prealloc, imagic_inodes, has_journal, ext_attr, resize_inode, dir_index, sparse_super2,
/// fast_commit, stable_inodes, orphan_file.
const KNOWN_COMPAT: u32 = 0x0001
    | 0x0002
    | HAS_JOURNAL
    | 0x0008
    | 0x0010
    | 0x0020
    | SPARSE_SUPER2
    | 0x0400
    | 0x0800
    | 0x1000;

// incompat
pub(super) const RECOVER: u32 = 0x0004;
pub(super) const JOURNAL_DEV: u32 = 0x0008;
pub(super) const META_BG: u32 = 0x0010;
pub(super) const BIT64: u32 = 0x0080;
pub(super) const FLEX_BG: u32 = 0x0200;
pub(super) const CSUM_SEED: u32 = 0x2000;
const FILETYPE: u32 = 0x0002;
/// filetype, recover and journal_dev (told apart before), meta_bg, extents, 64bit, mmp, flex_bg,
/// ea_inode, metadata_csum_seed, largedir, inline_data, encrypt, casefold.
const KNOWN_INCOMPAT: u32 = FILETYPE
    | RECOVER
    | JOURNAL_DEV
    | META_BG
    | 0x0040
    | BIT64
    | 0x0100
    | FLEX_BG
    | 0x0400
    | CSUM_SEED
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;

// ro_compat
pub(super) const SPARSE_SUPER: u32 = 0x0001;
pub(super) const GDT_CSUM: u32 = 0x0010;
pub(super) const BIGALLOC: u32 = 0x0200;
pub(super) const METADATA_CSUM: u32 = 0x0400;
const LARGE_FILE: u32 = 0x0002;
/// sparse_super, large_file, btree_dir, huge_file, gdt_csum (uninit_bg), dir_nlink, extra_isize,
/// quota, bigalloc, metadata_csum, read-only, project, verity, orphan_present.
const KNOWN_RO_COMPAT: u32 = SPARSE_SUPER
    | LARGE_FILE
    | 0x0004
    | 0x0008
    | GDT_CSUM
    | 0x0020
    | 0x0040
    | 0x0100
    | BIGALLOC
    | METADATA_CSUM
    | 0x1000
    | 0x2000
    | 0x8000
    | 0x1_0000;

/// Which generation of the filesystem the features make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtVersion {
    /// No journal, nothing newer.
    Ext2,
    /// A journal, nothing newer.
    Ext3,
    /// Any feature the ext3 driver did not know.
    Ext4,
}

/// The three sets of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
}

impl Features {
    pub(super) fn check_known(self) -> Result<(), Incompatible> {
        for (set, bits, known) in [
            ("incompat", self.incompat, KNOWN_INCOMPAT),
            ("ro_compat", self.ro_compat, KNOWN_RO_COMPAT),
            ("compat", self.compat, KNOWN_COMPAT),
        ] {
            let bits = bits & !known;
            if bits != 0 {
                return Err(Incompatible::ExtFeatures { set, bits });
            }
        }
        Ok(())
    }

    pub(super) fn compat(self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    pub(super) fn incompat(self, bit: u32) -> bool {
        self.incompat & bit != 0
    }

    pub(super) fn ro_compat(self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }

    pub(super) fn version(self) -> ExtVersion {
        const EXT3_INCOMPAT: u32 = FILETYPE | RECOVER | JOURNAL_DEV | META_BG;
        const EXT3_RO_COMPAT: u32 = SPARSE_SUPER | LARGE_FILE | 0x0004;
        if self.incompat & !EXT3_INCOMPAT != 0 || self.ro_compat & !EXT3_RO_COMPAT != 0 {
            ExtVersion::Ext4
        } else if self.compat(HAS_JOURNAL) {
            ExtVersion::Ext3
        } else {
            ExtVersion::Ext2
        }
    }
}
