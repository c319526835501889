//! What a region holds, by its signatures, and which parser understands it.
//!
//! All signatures are looked for, also those of contents that are copied raw: an ext superblock
//! survives in the first 64 KiB when another filesystem, RAID or encryption is put over it, and
//! its bitmaps then describe data that is long gone. A region with two signatures is ambiguous
//! and copied raw. Offsets: util-linux 2.41, `libblkid/src/superblocks`.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use crate::error::Fault;
use crate::filesystem::Parser;
use crate::source::Window;
use crate::{bsd_label, btrfs, exfat, ext, f2fs, fat, lvm, ntfs, swap, ufs, xfs};

/// A signature that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    /// Byte offset in the window.
    pub(crate) offset: u64,
}

const MD_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
const LUKS: &str = "LUKS encryption";
pub(crate) const BTRFS: &str = "Btrfs";
pub(crate) const EXT: &str = "ext";
const LVM: &str = "LVM";
pub(crate) const SWAP: &str = "swap";
const FAT: &str = "FAT";
/// What begins with a boot sector that ends in the same two bytes as a partition table.
pub(crate) const WITH_BOOT_SECTOR: [&str; 5] = [FAT, NTFS, EXFAT, "BitLocker", "ReFS"];
const XFS: &str = "XFS";
const NTFS: &str = "NTFS";
const F2FS: &str = "F2FS";
pub(crate) const UFS: &str = "UFS";
pub(crate) const BSD: &str = bsd_label::NAME;
const EXFAT: &str = "exFAT";
const MD: &str = "Linux software RAID";
const ZFS: &str = "ZFS";
const DDF_MAGIC: [u8; 4] = [0xde, 0x11, 0xde, 0x11];
const IMSM_MAGIC: &[u8] = b"Intel Raid ISM Cfg Sig. ";

/// The parser of what a signature announces.
pub(crate) fn parser(name: &str) -> Option<Parser> {
    match name {
        EXT => Some(ext::map),
        BTRFS => Some(btrfs::map),
        LVM => Some(lvm::map),
        SWAP => Some(swap::map),
        FAT => Some(fat::map),
        XFS => Some(xfs::map),
        NTFS => Some(ntfs::map),
        F2FS => Some(f2fs::map),
        UFS => Some(ufs::map),
        BSD => Some(bsd_label::map),
        EXFAT => Some(exfat::map),
        _ => None,
    }
}

/// Tells the offset at which something seems to stand.
type Detector = fn(&Window<'_>) -> Result<Option<u64>, Fault>;

/// What takes more than a few fixed bytes to recognise.
const DETECTORS: &[(&str, Detector)] = &[
    (EXT, ext::detect),
    (FAT, fat::detect),
    (UFS, ufs::detect),
    (BSD, bsd_label::detect),
];

/// Signatures at a fixed distance from the start.
const AT_START: &[(&str, u64, &[u8])] = &[
    (LUKS, 0, b"LUKS\xba\xbe"),
    (XFS, 0, b"XFSB"),
    ("squashfs", 0, b"hsqs"),
    (NTFS, 3, b"NTFS    "),
    (EXFAT, 3, b"EXFAT   "),
    ("BitLocker", 3, b"-FVE-FS-"),
    // "To Go": made up as FAT32, with an identifier of its own.
    (
        "BitLocker",
        424,
        &[
            0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3,
            0xd0, 0x01,
        ],
    ),
    ("APFS", 32, b"NXSB"),
    (LVM, 0, b"LABELONE"),
    (LVM, 512, b"LABELONE"),
    (LVM, 1024, b"LABELONE"),
    (LVM, 1536, b"LABELONE"),
    (F2FS, 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    (MD, 0, &MD_MAGIC),
    (MD, 4096, &MD_MAGIC),
    (
        "bcache",
        4120,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ],
    ),
    ("HFS+", 1024, b"H+\0\x04"),
    ("HFS+", 1024, b"HX\0\x05"),
    ("HFS", 1024, b"BD"),
    (
        "bcachefs",
        4120,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d,
            0xf7, 0xef,
        ],
    ),
    ("ReFS", 3, b"ReFS\0"),
    ("VDO", 0, b"dmvdo001"),
    ("dm-integrity", 0, b"integrt\0"),
    ("Ceph BlueStore", 0, b"bluestore block device"),
    ("Oracle ASM", 32, b"ORCLDISK"),
    ("JFS", 32768, b"JFS1"),
    ("GFS2", 65536, &[0x01, 0x16, 0x19, 0x70]),
    ("ISO 9660", 32769, b"CD001"),
    ("ReiserFS", 65588, b"ReIsEr"),
    // Their mkfs leaves what other filesystems have further behind.
    ("ReiserFS", 8244, b"ReIsEr"),
    ("Reiser4", 65536, b"ReIsEr4"),
    ("UDF", 32769, b"BEA01"),
    ("NILFS2", 1024, &[2, 0, 0, 0, 0, 0, 0x34, 0x34]),
    ("EROFS", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("VxFS", 1024, &[0xf5, 0xfc, 0x01, 0xa5]),
    ("OCFS2", 1024, b"OCFSV2"),
    ("OCFS2", 2048, b"OCFSV2"),
    ("OCFS2", 4096, b"OCFSV2"),
    ("OCFS2", 8192, b"OCFSV2"),
    ("Stratis", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("LVM snapshot", 0, b"SnAp"),
    ("dm-verity", 0, b"verity\0\0"),
    ("zonefs", 0, b"SFOZ"),
    ("romfs", 0, b"-rom1fs-"),
    ("cramfs", 0, &[0x45, 0x3d, 0xcd, 0x28]),
    ("BFS", 0, &[0xce, 0xfa, 0xad, 0x1b]),
    ("XFS log", 0, &[0xfe, 0xed, 0xba, 0xbe]),
    (BTRFS, 65600, b"_BHRfS_M"),
];
/// Swap areas: the last bytes of the first page. Those of a suspended system stand there too.
const SWAP_PAGE_ENDS: [u64; 5] = [4086, 8182, 16374, 32758, 65526];
const SWAP_MAGICS: [&[u8]; 7] = [
    b"SWAPSPACE2",
    b"SWAP-SPACE",
    b"S1SUSPEND\0",
    b"S2SUSPEND\0",
    b"ULSUSPEND\0",
    b"LINHIB0001",
    // TuxOnIce.
    &[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c],
];
/// Enough for every entry above.
const START_LEN: usize = 68 << 10;

/// The array of uberblocks of the first ZFS label (OpenZFS `vdev_impl.h`).
const ZFS_UBERBLOCKS: u64 = 128 << 10;
const ZFS_UBERBLOCKS_LEN: usize = 128 << 10;
const ZFS_MAGIC: u64 = 0x00ba_b10c;

/// Lists the signatures in a window, in the order of their tables.
pub(crate) fn find(window: &Window<'_>) -> Result<Vec<Signature>, Fault> {
    let mut found = Vec::new();
    let start = read_clipped(window, 0, START_LEN)?;
    for &(name, offset, magic) in AT_START {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if start.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            found.push(Signature { name, offset });
        }
    }
    for offset in SWAP_PAGE_ENDS {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let page_end = start.get(at..).unwrap_or_default();
        if SWAP_MAGICS.iter().any(|magic| page_end.starts_with(magic)) {
            found.push(Signature { name: SWAP, offset });
        }
    }
    for &(name, detect) in DETECTORS {
        if let Some(offset) = detect(window)? {
            found.push(Signature { name, offset });
        }
    }
    let uberblocks = read_clipped(window, ZFS_UBERBLOCKS, ZFS_UBERBLOCKS_LEN)?;
    let is_uberblock = |block: &&[u8]| {
        block.starts_with(&ZFS_MAGIC.to_le_bytes()) || block.starts_with(&ZFS_MAGIC.to_be_bytes())
    };
    if uberblocks.chunks(1024).any(|block| is_uberblock(&block)) {
        found.push(Signature {
            name: ZFS,
            offset: ZFS_UBERBLOCKS,
        });
    }
    // VMFS volume member and its filesystem, behind 1 and 2 MiB.
    let vmfs: [(u64, [u8; 4]); 2] = [
        (0x0010_0000, [0x0d, 0xd0, 0x01, 0xc0]),
        (0x0020_0000, [0x5e, 0xf1, 0xab, 0x2f]),
    ];
    for (offset, magic) in vmfs {
        if read_clipped(window, offset, magic.len())? == magic {
            found.push(Signature {
                name: "VMFS",
                offset,
            });
        }
    }
    for (name, offset, magic) in at_end(window.len()) {
        if read_clipped(window, offset, magic.len())? == magic {
            found.push(Signature { name, offset });
        }
    }
    Ok(found)
}

/// Signatures of RAID members, which stand at the end. A mirror with its superblock there looks
/// like the filesystem it holds, a stripe does too, and only for the mirror that is true.
fn at_end(len: u64) -> Vec<(&'static str, u64, &'static [u8])> {
    const MD_BE: [u8; 4] = [0xa9, 0x2b, 0x4e, 0xfc];
    let mut list: Vec<(&str, u64, &[u8])> = Vec::new();
    // md 0.90: the last whole 64 KiB; md 1.0: at least 8 KiB before the end, on 4 KiB.
    if let Some(at) = (len & !0xffff).checked_sub(0x1_0000) {
        list.push((MD, at, &MD_MAGIC));
        list.push((MD, at, &MD_BE));
    }
    if let Some(at) = len.checked_sub(8192) {
        list.push((MD, at & !0xfff, &MD_MAGIC));
    }
    for sector in [512_u64, 4096] {
        if let Some(at) = len.checked_sub(sector.saturating_mul(2)) {
            list.push(("Intel RAID", at, IMSM_MAGIC));
            list.push(("NVIDIA RAID", at, b"NVIDIA"));
        }
        if let Some(at) = len.checked_sub(sector) {
            list.push(("DDF RAID", at, &DDF_MAGIC));
            list.push(("LSI RAID", at, b"$XIDE$"));
            // Not GEOM::MIRROR, ::LABEL and ::JOURNAL, which leave what they hold in its place.
            let scattered: [&[u8]; 6] = [
                b"GEOM::STRIPE\0",
                b"GEOM::CONCAT\0",
                b"GEOM::RAID3\0",
                b"GEOM::VIRSTOR\0",
                b"GEOM::SHSEC\0",
                b"GEOM::ELI\0",
            ];
            list.extend(scattered.map(|magic| ("GEOM", at, magic)));
        }
    }
    list
}

/// Up to `len` bytes at `offset`; fewer, or none, at the end of the window.
fn read_clipped(window: &Window<'_>, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
    let left = usize::try_from(window.len().saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(left)];
    if !bytes.is_empty() {
        window.read(&mut bytes, offset)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Vec<&'static str> {
        find(&Window::disk(&bytes))
            .unwrap()
            .iter()
            .map(|found| found.name)
            .collect()
    }

    #[test]
    fn every_signature_at_the_start_is_found() {
        for &(name, offset, magic) in AT_START {
            let mut bytes = vec![0; 300 << 10];
            let at = usize::try_from(offset).unwrap();
            bytes[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(names(&bytes), [name]);
        }
    }

    #[test]
    fn signatures_at_the_end_are_found_at_odd_lengths_too() {
        for len in [1 << 20, (1 << 20) + 512, (3 << 20) + 7 * 512] {
            for (name, offset, magic) in at_end(len) {
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                let at = usize::try_from(offset).unwrap();
                bytes[at..at + magic.len()].copy_from_slice(magic);
                assert!(names(&bytes).contains(&name), "{name} at {offset} of {len}");
            }
        }
    }

    #[test]
    fn a_zfs_label_is_found_by_any_of_its_uberblocks() {
        let mut bytes = vec![0; 300 << 10];
        let at = (128 << 10) + 77 * 1024;
        bytes[at..at + 8].copy_from_slice(&ZFS_MAGIC.to_be_bytes());
        assert_eq!(names(&bytes), [ZFS]);
    }

    #[test]
    fn tiny_windows_hold_nothing() {
        for len in [0, 1, 511, 512, 1024, 4095] {
            assert!(names(&vec![0; len]).is_empty());
        }
    }
}
