//! Every filesystem through an image: sound, with all its files, and without what was deleted in it.

use anyhow::Result;
use e2e::filesystem::aged::Holds;
use e2e::filesystem::mounted::{By, Mounted};
use e2e::filesystem::unmounted::{F2fs, Fat, Ufs};
use e2e::filesystem::{Lies, ext, survives};

macro_rules! ext_mounted {
    ($($name:ident: $lies:ident, $mib:literal MiB, $version:ident, $mke2fs:literal, $options:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            let (version, mke2fs, options) = (stringify!($version), $mke2fs, $options);
            survives(&ext::Mounted { version, mke2fs, options }, $mib, Lies::$lies)
        })*
    };
}

ext_mounted! {
    ext2: InPartition, 80 MiB, ext2, "-b 1024", "";
    ext2_revision_0: Alone, 80 MiB, ext2, "-b 4096 -r 0 -O none", "";
    ext2_large_sectors: OnLargeSectors, 80 MiB, ext2, "-b 4096", "";
    ext3: InPartition, 80 MiB, ext3, "-b 2048", "";
    ext3_old_tables: Alone, 90 MiB, ext3, "-b 1024 -O ^resize_inode,^sparse_super", "";
    ext4: InPartition, 80 MiB, ext4, "", "";
    ext4_1k: Alone, 80 MiB, ext4, "-b 1024", "";
    ext4_large_sectors: OnLargeSectors, 80 MiB, ext4, "", "";
    ext4_bigalloc: InPartition, 128 MiB, ext4, "-O bigalloc -C 8192", "";
    ext4_inline_data: InPartition, 80 MiB, ext4, "-O inline_data -I 512", "";
    ext4_orphan_file: Alone, 80 MiB, ext4, "-O orphan_file,mmp,fast_commit", "";
    ext4_encrypted: InPartition, 80 MiB, ext4, "-O encrypt,stable_inodes", "test_dummy_encryption=v2";
    ext4_uninit_bg: Alone, 80 MiB, ext4, "-b 1024 -O ^64bit,^metadata_csum,uninit_bg", "";
    ext4_large_dir: Alone, 80 MiB, ext4, "-O large_dir,ea_inode -b 2048", "";
}

macro_rules! ext_offline {
    ($($name:ident: $lies:ident, $mib:literal MiB, $version:ident, $mke2fs:literal, $tune2fs:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            let (version, mke2fs, tune2fs) = (stringify!($version), $mke2fs, $tune2fs);
            survives(&ext::Offline { version, mke2fs, tune2fs }, $mib, Lies::$lies)
        })*
    };
}

ext_offline! {
    ext4_quota: InPartition, 64 MiB, ext4, "", "-O quota,project";
    ext4_casefold_verity: Alone, 64 MiB, ext4, "-O casefold,verity,inline_data,encrypt", "";
    ext4_meta_bg: Alone, 56 MiB, ext4, "-b 1024 -O meta_bg,^resize_inode -g 1024", "";
    ext4_no_journal: InPartition, 56 MiB, ext4, "-O ^has_journal,^extent,^64bit", "";
}

const XFS: Mounted = Mounted {
    kind: "XFS",
    make: "mkfs.xfs -q -f -K",
    check: "xfs_repair -n",
    by: By::Kernel("xfs"),
    options: "",
    holds: Holds::Everything,
    // What it has allocated behind the ends of files that grow.
    slack: 2 << 20,
};

const BTRFS: Mounted = Mounted {
    kind: "Btrfs",
    make: "mkfs.btrfs -q -f -K",
    check: "btrfs check --readonly",
    by: By::Kernel("btrfs"),
    options: "nodiscard",
    slack: 0,
    ..XFS
};

const NTFS: Mounted = Mounted {
    kind: "NTFS",
    make: "mkntfs -q -Q",
    check: "ntfsfix -n",
    by: By::Fuse("ntfs-3g"),
    slack: 1500 * 16384,
    ..XFS
};

const EXFAT: Mounted = Mounted {
    kind: "exFAT",
    make: "mkfs.exfat",
    check: "fsck.exfat -n",
    by: By::Fuse("mount.exfat-fuse"),
    holds: Holds::PlainFiles,
    ..NTFS
};

macro_rules! mounted {
    ($($name:ident: $lies:ident, $mib:literal MiB, $base:ident, $make:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            survives(&Mounted { make: $make, ..$base }, $mib, Lies::$lies)
        })*
    };
}

mounted! {
    xfs: InPartition, 320 MiB, XFS, "mkfs.xfs -q -f -K";
    xfs_1k: Alone, 300 MiB, XFS, "mkfs.xfs -q -f -K -b size=1024 -m rmapbt=1,reflink=1 -i nrext64=1";
    xfs_old: InPartition, 300 MiB, XFS, "mkfs.xfs -q -f -K -m finobt=0,reflink=0,bigtime=0,inobtcount=0 -d agcount=4";
    xfs_large_sectors: OnLargeSectors, 300 MiB, XFS, "mkfs.xfs -q -f -K";
    btrfs: InPartition, 192 MiB, BTRFS, "mkfs.btrfs -q -f -K";
    btrfs_single: Alone, 160 MiB, BTRFS, "mkfs.btrfs -q -f -K -m single -n 4096 --csum xxhash";
    btrfs_mixed: Alone, 160 MiB, BTRFS, "mkfs.btrfs -q -f -K -M --csum blake2";
    btrfs_large_sectors: OnLargeSectors, 160 MiB, BTRFS, "mkfs.btrfs -q -f -K -O ^no-holes --csum sha256";
    ntfs: InPartition, 80 MiB, NTFS, "mkntfs -q -Q";
    ntfs_512: Alone, 80 MiB, NTFS, "mkntfs -q -Q -c 512";
    ntfs_16k: InPartition, 112 MiB, NTFS, "mkntfs -q -Q -c 16384";
    ntfs_large_sectors: OnLargeSectors, 80 MiB, NTFS, "mkntfs -q -Q";
    exfat: InPartition, 80 MiB, EXFAT, "mkfs.exfat";
    exfat_512: Alone, 64 MiB, EXFAT, "mkfs.exfat -c 512";
    exfat_8k: InPartition, 96 MiB, EXFAT, "mkfs.exfat -c 8K";
    exfat_large_sectors: OnLargeSectors, 80 MiB, EXFAT, "mkfs.exfat";
}

macro_rules! fat {
    ($($name:ident: $lies:ident, $mib:literal MiB, $kind:literal, $mkfs:literal, $cluster:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            survives(&Fat { kind: $kind, mkfs: $mkfs, slack: 1500 * $cluster }, $mib, Lies::$lies)
        })*
    };
}

fat! {
    fat12: Alone, 60 MiB, "FAT12", "-F 12 -s 32", 16384;
    fat16: InPartition, 64 MiB, "FAT16", "-F 16 -s 4", 2048;
    fat32: InPartition, 80 MiB, "FAT32", "-F 32 -s 1", 512;
    fat32_1k: Alone, 80 MiB, "FAT32", "-F 32 -s 2", 1024;
    fat32_large_sectors: OnLargeSectors, 270 MiB, "FAT32", "-F 32 -S 4096 -s 1", 4096;
}

macro_rules! f2fs {
    ($($name:ident: $lies:ident, $mib:literal MiB, $mkfs:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            survives(&F2fs { mkfs: $mkfs }, $mib, Lies::$lies)
        })*
    };
}

f2fs! {
    f2fs: InPartition, 80 MiB, "";
    f2fs_checksums: Alone, 80 MiB, "-O extra_attr,inode_checksum,sb_checksum,inode_crtime";
    f2fs_lost_found: Alone, 96 MiB, "-a 0 -O lost_found,sb_checksum -l label";
    f2fs_overprovision: InPartition, 128 MiB, "-o 10 -O encrypt,verity,extra_attr";
}

macro_rules! ufs {
    ($($name:ident: $lies:ident, $mib:literal MiB, $kind:literal, $options:literal, $arguments:literal;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            survives(&Ufs { kind: $kind, options: $options, arguments: $arguments }, $mib, Lies::$lies)
        })*
    };
}

ufs! {
    ufs1: InPartition, 64 MiB, "UFS1", "version=1,bsize=8192,fsize=1024", "";
    ufs1_16k: Alone, 64 MiB, "UFS1", "version=1,bsize=16384,fsize=2048", "";
    ufs1_4k: Alone, 64 MiB, "UFS1", "version=1,bsize=4096,fsize=512", "";
    ufs1_large_sectors: OnLargeSectors, 64 MiB, "UFS1", "version=1,bsize=32768,fsize=4096", "-S 4096";
}
