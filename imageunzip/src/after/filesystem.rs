//! The filesystems that can be given a new identity, grown or mounted, and where they keep their UUID.

use diskmap::ReadAt;

/// What is in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ext,
    Xfs,
    Btrfs,
    F2fs,
    Fat,
    Ntfs,
    ExFat,
    Swap,
}

impl Kind {
    /// The filesystem with this name in messages of diskmap.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "ext" => Self::Ext,
            "XFS" => Self::Xfs,
            "Btrfs" => Self::Btrfs,
            "F2FS" => Self::F2fs,
            "FAT" => Self::Fat,
            "NTFS" => Self::Ntfs,
            "exFAT" => Self::ExFat,
            "swap" => Self::Swap,
            _ => return None,
        })
    }

    /// As it is called in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ext => "ext",
            Self::Xfs => "XFS",
            Self::Btrfs => "Btrfs",
            Self::F2fs => "F2FS",
            Self::Fat => "FAT",
            Self::Ntfs => "NTFS",
            Self::ExFat => "exFAT",
            Self::Swap => "swap",
        }
    }

    /// Type and options for mount(2); `None` for what holds no files of interest.
    pub(super) fn mount(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Ext => Some(("ext4", "")),
            // The golden disk may be mounted on this very machine.
            Self::Xfs => Some(("xfs", "nouuid")),
            Self::Btrfs => Some(("btrfs", "")),
            Self::F2fs => Some(("f2fs", "")),
            Self::Fat => Some(("vfat", "")),
            Self::Ntfs | Self::ExFat | Self::Swap => None,
        }
    }

    /// Whether a Linux system may have its root there.
    pub(super) fn can_be_root(self) -> bool {
        matches!(self, Self::Ext | Self::Xfs | Self::Btrfs | Self::F2fs)
    }

    /// The UUID or serial number as `blkid` prints it, of the filesystem that begins at byte `start`.
    ///
    /// Offsets: util-linux 2.41, `libblkid/src/superblocks`.
    pub(super) fn uuid(self, disk: &dyn ReadAt, start: u64) -> Option<String> {
        let read = |offset: u64, bytes: &mut [u8]| {
            disk.read_exact_at(bytes, start.checked_add(offset)?).ok()
        };
        let long = |offset| {
            let mut bytes = [0; 16];
            read(offset, &mut bytes)?;
            Some(uuid::Uuid::from_bytes(bytes).hyphenated().to_string())
        };
        let serial = |offset| {
            let mut bytes = [0; 4];
            read(offset, &mut bytes)?;
            let serial = u32::from_le_bytes(bytes);
            Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff))
        };
        match self {
            Self::Ext => long(1024 + 104),
            Self::Xfs => long(32),
            Self::Btrfs => long((64 << 10) + 32),
            Self::F2fs => long(1024 + 108),
            Self::Swap => long(1024 + 12),
            Self::ExFat => serial(100),
            Self::Fat => {
                let mut table_sectors = [0; 2];
                read(22, &mut table_sectors)?;
                // FAT32 has its number of sectors elsewhere.
                serial(if table_sectors == [0; 2] { 67 } else { 39 })
            }
            Self::Ntfs => {
                let mut bytes = [0; 8];
                read(72, &mut bytes)?;
                Some(format!("{:016X}", u64::from_le_bytes(bytes)))
            }
        }
    }
}
