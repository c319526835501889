//! Versions and feature bits of XFS: which are known, and their names.
//!
//! Source: Linux `fs/xfs/libxfs/xfs_format.h` (`XFS_SB_VERSION_*`, `XFS_SB_FEAT_*`); names as
//! xfsprogs 6.1, `db/sb.c` (`version_string`).

use super::NAME;
use crate::error::Incompatible;

/// `sb_versionnum`: the low four bits are the version.
const VERSION_MASK: u16 = 0x000f;
const SHARED: u16 = 0x0200;
const LOG_V2: u16 = 0x0400;
const EXTENT_FLAG: u16 = 0x1000;
const DIR_V2: u16 = 0x2000;
/// `sb_features2` is in use.
pub(super) const MORE_BITS: u16 = 0x8000;
/// What version 5 takes for granted.
const V5_BITS: u16 = 0x0020 | 0x0080 | LOG_V2 | EXTENT_FLAG | DIR_V2 | MORE_BITS;

/// `sb_features2`.
const LAZY_COUNT: u32 = 0x0002;
const CRC: u32 = 0x0100;
const KNOWN_FEATURES2: u32 = LAZY_COUNT | 0x0008 | 0x0080 | 0x0200;
const V5_FEATURES2: u32 = LAZY_COUNT | 0x0008 | 0x0080 | CRC;

/// `sb_features_ro_compat`: finobt, rmapbt, reflink, inobtcount.
const KNOWN_RO_COMPAT: u32 = 0x000f;
const FREE_INODE_TREE: u32 = 0x0001;
const REVERSE_MAP: u32 = 0x0002;
const REFLINK: u32 = 0x0004;

/// `sb_features_incompat`.
const SPARSE_INODES: u32 = 0x0002;
const META_UUID: u32 = 0x0004;
const NEEDS_REPAIR: u32 = 0x0010;
/// ftype, sparse inodes, meta_uuid, bigtime, needsrepair, nrext64, exchange-range, parent and
/// metadir; not zoned, whose data do not lie in allocation groups.
const KNOWN_INCOMPAT: u32 = 0x01ff;

/// `sb_features_log_incompat`: logged extended attributes. Says nothing while the log is clean.
const KNOWN_LOG_INCOMPAT: u32 = 0x0001;

/// The sets in which the names below look for their bits.
enum Set {
    Version,
    Features2,
    RoCompat,
    Incompat,
}

/// In the order of `xfs_db -c version`.
const NAMES: &[(Set, u32, &str)] = &[
    (Set::Version, 0x0020, "NLINK"),
    (Set::Version, 0x2000, "DIRV2"),
    (Set::Version, 0x0010, "ATTR"),
    (Set::Version, 0x0040, "QUOTA"),
    (Set::Version, 0x0080, "ALIGN"),
    (Set::Version, 0x0100, "DALIGN"),
    (Set::Version, 0x0400, "LOGV2"),
    (Set::Version, 0x1000, "EXTFLG"),
    (Set::Version, 0x0800, "SECTOR"),
    (Set::Version, 0x4000, "ASCII_CI"),
    (Set::Version, 0x8000, "MOREBITS"),
    (Set::Features2, 0x0008, "ATTR2"),
    (Set::Features2, LAZY_COUNT, "LAZYSBCOUNT"),
    (Set::Features2, 0x0080, "PROJID32BIT"),
    (Set::Features2, CRC, "CRC"),
    (Set::Features2, 0x0200, "FTYPE"),
    (Set::Incompat, 0x0001, "FTYPE"),
    (Set::RoCompat, FREE_INODE_TREE, "FINOBT"),
    (Set::Incompat, SPARSE_INODES, "SPARSE_INODES"),
    (Set::Incompat, META_UUID, "META_UUID"),
    (Set::RoCompat, REVERSE_MAP, "RMAPBT"),
    (Set::RoCompat, REFLINK, "REFLINK"),
    (Set::RoCompat, 0x0008, "INOBTCNT"),
    (Set::Incompat, 0x0008, "BIGTIME"),
    (Set::Incompat, NEEDS_REPAIR, "NEEDSREPAIR"),
    (Set::Incompat, 0x0020, "NREXT64"),
    (Set::Incompat, 0x0040, "EXCHANGE"),
    (Set::Incompat, 0x0080, "PARENT"),
    (Set::Incompat, 0x0100, "METADIR"),
];

/// The sets of a superblock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Features {
    pub(super) version: u16,
    /// Zero unless `sb_versionnum` announces them.
    pub(super) features2: u32,
    pub(super) compat: u32,
    pub(super) ro_compat: u32,
    pub(super) incompat: u32,
    pub(super) log_incompat: u32,
}

impl Features {
    /// Refuses all that is not understood.
    pub(super) fn check_known(self) -> Result<(), Incompatible> {
        let number = self.version & VERSION_MASK;
        if number != 4 && number != 5 {
            return Err(unsupported("has a version other than 4 and 5"));
        }
        let bits = |set, bits: u32| Incompatible::Features {
            filesystem: NAME,
            set,
            bits: bits.into(),
        };
        // Directories of version 1 and extents without flags are from IRIX.
        let needed = if self.is_v5() {
            V5_BITS
        } else {
            DIR_V2 | EXTENT_FLAG
        };
        if self.version & SHARED != 0 || self.version & needed != needed {
            return Err(bits("version", self.version.into()));
        }
        if self.is_v5() && self.features2 & V5_FEATURES2 != V5_FEATURES2 {
            return Err(bits("features2", self.features2));
        }
        let crc = if self.is_v5() { CRC } else { 0 };
        for (set, value, known) in [
            ("features2", self.features2, KNOWN_FEATURES2 | crc),
            ("compat", self.compat, 0),
            ("ro_compat", self.ro_compat, KNOWN_RO_COMPAT),
            ("incompat", self.incompat, KNOWN_INCOMPAT),
            ("log_incompat", self.log_incompat, KNOWN_LOG_INCOMPAT),
        ] {
            if value & !known != 0 {
                return Err(bits(set, value & !known));
            }
        }
        if self.incompat & NEEDS_REPAIR != 0 {
            return Err(Incompatible::NotClean {
                filesystem: NAME,
                what: "is marked as in need of repair",
                remedy: "run xfs_repair",
            });
        }
        Ok(())
    }

    /// Metadata with checksums and self-description.
    pub(super) fn is_v5(self) -> bool {
        self.version & VERSION_MASK == 5
    }

    /// The superblock has no count of its own; blocks of the free space trees count as free.
    pub(super) fn has_lazy_count(self) -> bool {
        self.features2 & LAZY_COUNT != 0
    }

    pub(super) fn has_log_v2(self) -> bool {
        self.version & LOG_V2 != 0
    }

    pub(super) fn has_free_inode_tree(self) -> bool {
        self.ro_compat & FREE_INODE_TREE != 0
    }

    pub(super) fn has_reverse_map(self) -> bool {
        self.ro_compat & REVERSE_MAP != 0
    }

    pub(super) fn has_reflink(self) -> bool {
        self.ro_compat & REFLINK != 0
    }

    pub(super) fn has_sparse_inodes(self) -> bool {
        self.incompat & SPARSE_INODES != 0
    }

    /// Metadata carry another UUID than the user sees.
    pub(super) fn has_meta_uuid(self) -> bool {
        self.incompat & META_UUID != 0
    }

    /// Names as `xfs_db -c version` prints them, the version first.
    pub(super) fn names(self) -> Vec<String> {
        let version = if self.is_v5() { "V5" } else { "V4" };
        let named = NAMES.iter().filter(|(set, bit, _)| {
            let set = match set {
                Set::Version => self.version.into(),
                Set::Features2 => self.features2,
                Set::RoCompat => self.ro_compat,
                Set::Incompat => self.incompat,
            };
            set & bit != 0
        });
        [version]
            .into_iter()
            .chain(named.map(|&(_, _, name)| name))
            .map(str::to_owned)
            .collect()
    }
}

pub(super) fn unsupported(what: &'static str) -> Incompatible {
    Incompatible::Unsupported {
        filesystem: NAME,
        what,
    }
}
