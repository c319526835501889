//! The free space of ext filesystems against dumpe2fs, partclone and the kernel.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{FileSource, check, dumpe2fs_free, free, has_tool, is_root, make_ext, map, run, skip};
use diskmap::{Content, Options, TableKind};

/// Maps the filesystem in a file and compares with dumpe2fs, sector by sector.
fn compare(path: &Path) -> &'static str {
    run(&format!("e2fsck -fn {}", path.display()), "");
    let map = map(&FileSource::open(path));
    check(&map);
    assert_eq!(map.warnings, []);
    assert_eq!(map.table, TableKind::None);
    let expected = dumpe2fs_free(path);
    assert!(
        !expected.is_empty(),
        "a test without free space proves nothing"
    );
    assert_eq!(free(&map), expected);
    let [partition] = &map.partitions[..] else {
        panic!("{:?}", map.partitions)
    };
    assert_eq!(
        (partition.number, partition.first, partition.count),
        (0, 0, map.disk_sectors)
    );
    let filesystem = partition.contents.filesystem.as_ref().unwrap();
    assert_eq!(filesystem.label.as_deref(), Some("golden"));
    let free_sectors: u64 = expected.iter().map(|extent| extent.count).sum();
    assert_eq!(
        filesystem.size_bytes - filesystem.used_bytes,
        free_sectors * 512
    );
    assert_eq!(partition.saved_sectors, map.disk_sectors - free_sectors);
    partition.contents.kind
}

/// Makes a filesystem of `mib` MiB and compares.
fn variant(mib: u64, options: &str) -> &'static str {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    make_ext(&path, mib << 20, &format!("-L golden {options}"));
    compare(&path)
}

macro_rules! variants {
    ($($name:ident: $mib:literal MiB, $options:literal => $version:ident;)*) => {
        $(#[test]
        fn $name() {
            if has_tool("mke2fs") && has_tool("debugfs") && has_tool("dumpe2fs") {
                assert_eq!(variant($mib, $options), stringify!($version));
            }
        })*
    };
}

variants! {
    ext2: 100 MiB, "-t ext2" => ext2;
    ext2_revision_0: 40 MiB, "-t ext2 -r 0 -O none" => ext2;
    ext2_without_sparse_super: 100 MiB, "-t ext2 -b 1024 -O ^sparse_super,^resize_inode" => ext2;
    ext3: 100 MiB, "-t ext3" => ext3;
    ext4: 1000 MiB, "-t ext4" => ext4;
    ext4_1k_blocks: 200 MiB, "-t ext4 -b 1024" => ext4;
    ext4_2k_blocks: 300 MiB, "-t ext4 -b 2048" => ext4;
    ext4_64k_blocks: 9000 MiB, "-t ext4 -b 65536" => ext4;
    ext4_no_flex_bg: 700 MiB, "-t ext4 -O ^flex_bg" => ext4;
    ext4_flex_bg_of_64: 3000 MiB, "-t ext4 -b 1024 -G 64" => ext4;
    ext4_packed_metadata: 600 MiB, "-t ext4 -b 1024 -E packed_meta_blocks=1" => ext4;
    ext4_meta_bg: 3000 MiB, "-t ext4 -b 1024 -O meta_bg,^resize_inode" => ext4;
    ext4_meta_bg_4k_no_flex: 3000 MiB, "-t ext4 -O meta_bg,^resize_inode,^flex_bg" => ext4;
    ext4_bigalloc: 2000 MiB, "-t ext4 -O bigalloc -C 65536" => ext4;
    ext4_bigalloc_1k: 300 MiB, "-t ext4 -b 1024 -O bigalloc -C 8192" => ext4;
    ext4_bigalloc_short_end: 333 MiB, "-t ext4 -b 1024 -O bigalloc -C 16384 -g 8192" => ext4;
    ext4_uninit_bg: 1000 MiB, "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg" => ext4;
    ext4_uninit_bg_no_flex: 600 MiB, "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^flex_bg" => ext4;
    ext4_no_64bit: 600 MiB, "-t ext4 -O ^64bit" => ext4;
    ext4_uninit_bg_no_64bit: 600 MiB, "-t ext4 -O ^64bit,^metadata_csum,uninit_bg" => ext4;
    ext4_sparse_super2: 700 MiB, "-t ext4 -b 1024 -O sparse_super2,^resize_inode" => ext4;
    ext4_sparse_super2_one_backup: 700 MiB,
        "-t ext4 -b 1024 -O sparse_super2,^resize_inode -E num_backup_sb=1" => ext4;
    ext4_no_checksums: 600 MiB, "-t ext4 -O ^metadata_csum,^uninit_bg" => ext4;
    ext4_checksum_seed: 300 MiB, "-t ext4 -b 1024 -O metadata_csum_seed" => ext4;
    ext4_desc_size_128: 300 MiB, "-t ext4 -b 1024 -E desc_size=128" => ext4;
    ext4_few_inodes: 600 MiB, "-t ext4 -N 64" => ext4;
    ext4_many_inodes_of_1k: 300 MiB, "-t ext4 -i 4096 -I 1024" => ext4;
    ext4_no_journal: 300 MiB, "-t ext4 -O ^has_journal" => ext4;
    ext4_small_groups: 300 MiB, "-t ext4 -b 1024 -g 1024" => ext4;
    ext4_eager_init: 700 MiB, "-t ext4 -b 1024 -E lazy_itable_init=0,lazy_journal_init=0" => ext4;
    ext4_project_mmp_orphan_file: 300 MiB, "-t ext4 -O project,mmp,orphan_file" => ext4;
    ext4_inline_casefold_encrypt: 300 MiB, "-t ext4 -O inline_data,casefold,encrypt,verity" => ext4;
    ext4_short_last_group: 131 MiB, "-t ext4 -b 1024 -E stride=16" => ext4;
}

#[test]
fn ext4_quota() {
    if !has_tool("tune2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    make_ext(&path, 300 << 20, "-L golden -t ext4");
    run(&format!("tune2fs -O quota,project {}", path.display()), "");
    assert_eq!(compare(&path), "ext4");
}

#[test]
fn more_than_32_bits_of_blocks() {
    if !has_tool("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    // 5 * 2^30 blocks; the high words of counts and places are in use.
    let options =
        "-L golden -t ext4 -b 1024 -O bigalloc,sparse_super2,^resize_inode -C 65536 -N 200000";
    make_ext(&path, 5 << 40, options);
    assert_eq!(compare(&path), "ext4");
}

#[test]
fn grown_and_shrunk() {
    if !has_tool("resize2fs") {
        return;
    }
    for options in [
        "-t ext4 -b 1024",
        "-t ext4 -O ^64bit,^metadata_csum,uninit_bg",
        "-t ext3 -b 1024",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        make_ext(&path, 200 << 20, &format!("-L golden {options}"));
        for mib in [900, 1300, 150] {
            if mib > 200 {
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(mib << 20)
                    .unwrap();
            }
            run(&format!("e2fsck -fy {}", path.display()), "");
            run(&format!("resize2fs {} {mib}M", path.display()), "");
            compare(&path);
        }
    }
}

#[test]
fn agrees_with_partclone() {
    if !has_tool("partclone.ext4") {
        return;
    }
    for options in [
        "-t ext2",
        "-t ext3 -b 1024",
        "-t ext4",
        "-t ext4 -b 1024 -O ^flex_bg",
        "-t ext4 -O ^metadata_csum,uninit_bg",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        make_ext(&path, 120 << 20, options);
        let log = directory.path().join("log");
        let image = directory.path().join("image");
        run(
            &format!(
                "partclone.ext4 -c -q -s {} -o {} -L {}",
                path.display(),
                image.display(),
                log.display()
            ),
            "",
        );
        let log = std::fs::read_to_string(log).unwrap();
        let line = log
            .lines()
            .find(|line| line.starts_with("Free Space:"))
            .unwrap();
        let blocks: u64 = line
            .split_whitespace()
            .rev()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let map = map(&FileSource::open(&path));
        let filesystem = map.partitions[0].contents.filesystem.as_ref().unwrap();
        let free = filesystem.size_bytes - filesystem.used_bytes;
        assert_eq!(free / u64::from(filesystem.block_size), blocks, "{options}");
    }
}

#[test]
fn the_kernel_fills_and_empties_it() {
    if !is_root() {
        return skip("mounting needs root");
    }
    for options in [
        "-t ext4",
        "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg",
        "-t ext4 -O bigalloc",
        "-t ext2 -b 1024",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let mount = directory.path().join("mnt");
        std::fs::create_dir(&mount).unwrap();
        make_ext(&path, 600 << 20, &format!("-L golden {options}"));
        run(
            &format!("mount -o loop {} {}", path.display(), mount.display()),
            "",
        );
        for number in 0..60_usize {
            let bytes = vec![b'k'; (number * 104_729) % 3_000_000];
            std::fs::write(mount.join(format!("k{number}")), bytes).unwrap();
        }
        for number in (0..60).step_by(2) {
            std::fs::remove_file(mount.join(format!("k{number}"))).unwrap();
        }
        run(&format!("sync -f {}", mount.display()), "");
        let mounted = map(&FileSource::open(&path));
        run(&format!("umount {}", mount.display()), "");
        assert_eq!(
            free(&mounted),
            [],
            "{options}: a mounted filesystem is copied raw"
        );
        assert_eq!(mounted.warnings.len(), 1);
        compare(&path);
    }
}

/// What debugfs says of the journal's blocks.
fn journal_blocks(path: &Path) -> String {
    run(&format!("debugfs -f - {}", path.display()), "blocks <8>\n")
}

/// The journal's blocks but the first are what debugfs lists, and the filesystem is sound without.
#[test]
fn an_empty_journal_can_be_left_out() {
    if !["mke2fs", "debugfs", "e2fsck"]
        .iter()
        .all(|tool| has_tool(tool))
    {
        return;
    }
    for (options, is_told) in [
        ("-t ext4", true),
        ("-t ext4 -b 1024 -J size=40", true),
        ("-t ext4 -O ^metadata_csum,bigalloc -J size=64", true),
        ("-t ext4 -J size=512", true),
        // Its map is no extents.
        ("-t ext3", false),
        ("-t ext2", false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        make_ext(&path, 2000 << 20, &format!("-L golden {options}"));
        let with = Options {
            exclude: [Content::Journal].into(),
            ..Options::default()
        };
        let map = diskmap::map(&FileSource::open(&path), &with).unwrap();
        check(&map);
        let all = common::map(&FileSource::open(&path));
        assert_eq!(
            (map.saved, all.zeroed),
            (all.saved, Vec::new()),
            "{options}"
        );
        assert_eq!(!map.zeroed.is_empty(), is_told, "{options}");
        if !is_told {
            continue;
        }
        let filesystem = map.partitions[0].contents.filesystem.as_ref().unwrap();
        let sectors = u64::from(filesystem.block_size / 512);
        let list = journal_blocks(&path);
        let blocks: Vec<u64> = list
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let zeroed: BTreeSet<u64> = map
            .zeroed
            .iter()
            .flat_map(|run| (run.first..run.end()).step_by(usize::try_from(sectors).unwrap()))
            .map(|sector| sector / sectors)
            .collect();
        // Besides the journal's own superblock at most the block that maps it stays.
        let kept: Vec<u64> = blocks
            .iter()
            .copied()
            .filter(|block| !zeroed.contains(block))
            .collect();
        assert_eq!(kept.first(), blocks.first(), "{options}");
        assert!(kept.len() <= 2, "{options}: {kept:?}");
        assert_eq!(zeroed.len() + kept.len(), blocks.len(), "{options}");
        for run in &map.zeroed {
            let bytes = vec![0; usize::try_from(run.count * 512).unwrap()];
            common::tables::patch(&path, run.first * 512, &bytes);
        }
        run(&format!("e2fsck -fn {}", path.display()), "");
    }
}

/// What a running system has in its journal is not left out.
#[test]
fn a_journal_that_is_needed_stays() {
    if !has_tool("mke2fs") || !has_tool("debugfs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    make_ext(&path, 200 << 20, "-t ext4 -b 4096");
    // s_start of the journal's superblock, which begins at the first of its blocks.
    let list = journal_blocks(&path);
    let first: u64 = list
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap();
    common::tables::patch(&path, first * 4096 + 0x1c, &[0, 0, 0, 1]);
    let with = Options {
        exclude: [Content::Journal].into(),
        ..Options::default()
    };
    let map = diskmap::map(&FileSource::open(&path), &with).unwrap();
    assert_eq!(map.zeroed, []);
}

/// Zeros go nowhere that the journal is not known to be.
#[test]
fn a_journal_with_a_damaged_map_stays() {
    if !has_tool("mke2fs") || !has_tool("debugfs") {
        return;
    }
    let with = Options {
        exclude: [Content::Journal].into(),
        ..Options::default()
    };
    // With a checksum any damage is found, without one that which takes blocks of others.
    for (options, start) in [
        ("-O ^flex_bg", 40_001_u32),
        ("-O ^flex_bg,^metadata_csum", 100),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        make_ext(
            &path,
            200 << 20,
            &format!("-t ext4 -b 1024 -J size=40 {options}"),
        );
        let zeroed = || {
            let map = diskmap::map(&FileSource::open(&path), &with).unwrap();
            check(&map);
            assert_eq!(map.warnings, []);
            map.zeroed
        };
        assert_ne!(zeroed(), [], "{options}");
        // The copy of the map in the superblock: a node above one leaf.
        let bytes = std::fs::read(&path).unwrap();
        let map = &bytes[1024 + 0x10c..];
        assert_eq!((map[2], map[6]), (1, 1), "one entry, depth 1");
        let leaf = u32::from_le_bytes(map[16..20].try_into().unwrap());
        let second = u64::from(leaf) * 1024 + 12 + 12 + 8;
        common::tables::patch(&path, second, &start.to_le_bytes());
        assert_eq!(zeroed(), [], "{options}");
    }
}
