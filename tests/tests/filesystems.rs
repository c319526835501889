//! Every filesystem through an image: sound, with all its files, and without what was deleted in it.

use anyhow::Result;
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
