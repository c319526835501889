//! Feature bits of ext2/3/4 and which of them the map understands.
//!
//! Source: Linux `fs/ext4/ext4.h`. A bit is in a `KNOWN_` set when its effect on which blocks are
//! used is handled here, or when it has none; every other bit means a raw copy. That holds for
//! all three sets, also `compat`: sparse_super2 is one and moves the backups of the superblock.

use crate::error::Incompatible;

// compat
pub(super) const HAS_JOURNAL: u32 = 0x0004;
pub(super) const RESIZE_INODE: u32 = 0x0010;
pub(super) const SPARSE_SUPER2: u32 = 0x0200;
/// dir_prealloc, imagic_inodes, has_journal, ext_attr, resize_inode, dir_index, sparse_super2,
/// fast_commit, stable_inodes, orphan_file.
const KNOWN_COMPAT: u32 = 0x0001
    | 0x0002
    | HAS_JOURNAL
    | 0x0008
    | RESIZE_INODE
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

/// Names as e2fsprogs prints them (`lib/e2p/feature.c`).
const NAMES: [&[(u32, &str)]; 3] = [
    &[
        (0x0001, "dir_prealloc"),
        (0x0002, "imagic_inodes"),
        (HAS_JOURNAL, "has_journal"),
        (0x0008, "ext_attr"),
        (RESIZE_INODE, "resize_inode"),
        (0x0020, "dir_index"),
        (SPARSE_SUPER2, "sparse_super2"),
        (0x0400, "fast_commit"),
        (0x0800, "stable_inodes"),
        (0x1000, "orphan_file"),
    ],
    &[
        (FILETYPE, "filetype"),
        (RECOVER, "needs_recovery"),
        (JOURNAL_DEV, "journal_dev"),
        (META_BG, "meta_bg"),
        (0x0040, "extent"),
        (BIT64, "64bit"),
        (0x0100, "mmp"),
        (FLEX_BG, "flex_bg"),
        (0x0400, "ea_inode"),
        (CSUM_SEED, "metadata_csum_seed"),
        (0x4000, "large_dir"),
        (0x8000, "inline_data"),
        (0x1_0000, "encrypt"),
        (0x2_0000, "casefold"),
    ],
    &[
        (SPARSE_SUPER, "sparse_super"),
        (LARGE_FILE, "large_file"),
        (0x0008, "huge_file"),
        (GDT_CSUM, "uninit_bg"),
        (0x0020, "dir_nlink"),
        (0x0040, "extra_isize"),
        (0x0100, "quota"),
        (BIGALLOC, "bigalloc"),
        (METADATA_CSUM, "metadata_csum"),
        (0x1000, "read-only"),
        (0x2000, "project"),
        (0x8000, "verity"),
        (0x1_0000, "orphan_present"),
    ],
];

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
                return Err(Incompatible::Features {
                    filesystem: super::NAME,
                    set,
                    bits: bits.into(),
                });
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

    /// Which generation of the filesystem the features make it: ext2 has no journal, ext3 nothing
    /// that came with ext4.
    pub(super) fn version(self) -> &'static str {
        const EXT3_INCOMPAT: u32 = FILETYPE | RECOVER | JOURNAL_DEV | META_BG;
        const EXT3_RO_COMPAT: u32 = SPARSE_SUPER | LARGE_FILE | 0x0004;
        if self.incompat & !EXT3_INCOMPAT != 0 || self.ro_compat & !EXT3_RO_COMPAT != 0 {
            "ext4"
        } else if self.compat(HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Names of the features, in the order of `dumpe2fs`.
    pub(super) fn names(self) -> Vec<String> {
        NAMES
            .iter()
            .zip([self.compat, self.incompat, self.ro_compat])
            .flat_map(|(names, bits)| names.iter().filter(move |(bit, _)| bits & bit != 0))
            .map(|(_, name)| (*name).to_owned())
            .collect()
    }
}
