//! The free space of Btrfs against btrfs-progs, partclone and the kernel.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod btrfs;
mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::overwrite::scratch;
use common::{
    FileSource, check, free, has_tool, is_root, is_subset, map, map_strict, run, skip, sparse,
};
use diskmap::{Cause, DiskMap, Extent, Incompatible, ReadAt};

const SECTOR: u64 = 512;

/// A mounted filesystem; unmounted when dropped.
struct Mounted {
    directory: PathBuf,
}

impl Mounted {
    fn new(image: &Path, options: &str) -> Self {
        let directory = image.with_extension("mnt");
        std::fs::create_dir_all(&directory).unwrap();
        run(
            &format!(
                "mount -t btrfs -o loop{options} {} {}",
                image.display(),
                directory.display()
            ),
            "",
        );
        Self { directory }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(&format!("umount {}", self.directory.display()), "");
    }
}

fn have_all() -> bool {
    if !is_root() {
        skip("mounting needs root");
        return false;
    }
    ["mkfs.btrfs", "btrfs", "btrfstune", "partclone.btrfs"]
        .into_iter()
        .all(has_tool)
}

/// Makes a filesystem of `mib` MiB.
fn make(path: &Path, mib: u64, options: &str) {
    sparse(path, mib << 20);
    run(
        &format!("mkfs.btrfs -q -L golden {options} {}", path.display()),
        "",
    );
}

/// Bytes that do not compress well and are the same in every run.
fn noise(len: usize, seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// Writes, overwrites and deletes files of all sizes, some of them inline, some sparse.
fn populate(directory: &Path) {
    for round in 0..3_usize {
        for number in 0..60_usize {
            let path = directory.join(format!("f{}", (number * 7 + round * 31) % 97));
            let len = [100, 3000, 5000, 70_000, 300_000, 1_100_000][number % 6] + number * round;
            std::fs::write(&path, noise(len, number + round)).unwrap();
        }
        for number in 0..30_usize {
            let _ = std::fs::remove_file(directory.join(format!("f{}", (number * 3 + round) % 97)));
        }
        run(&format!("sync -f {}", directory.display()), "");
    }
    let holes = std::fs::File::create(directory.join("holes")).unwrap();
    for number in 0..50_u64 {
        holes
            .write_all_at(&noise(4096, 5), number * 40_960)
            .unwrap();
    }
    std::fs::write(directory.join("zeros"), vec![0; 500_000]).unwrap();
}

fn hashes(directory: &Path) -> BTreeMap<PathBuf, String> {
    let list = run(
        &format!(
            "find {} -type f -exec sha256sum {{}} +",
            directory.display()
        ),
        "",
    );
    let hashes: BTreeMap<PathBuf, String> = list
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(hash, name)| (PathBuf::from(name), hash.to_owned()))
        .collect();
    assert!(hashes.len() > 30);
    hashes
}

fn btrfs_check(image: &Path) {
    run(
        &format!(
            "btrfs check --readonly --check-data-csum {}",
            image.display()
        ),
        "",
    );
}

/// A filesystem as `btrfs inspect-internal` tells it.
struct Dump {
    /// Bytes of the device.
    total: u64,
    nodesize: u64,
    /// Logical start, length and places of each chunk.
    chunks: Vec<(u64, u64, Vec<u64>)>,
    /// Logical start and length of each extent.
    extents: Vec<(u64, u64)>,
    /// Logical addresses of the nodes that the map is made from.
    nodes: Vec<u64>,
}

fn number(text: &str) -> u64 {
    let digits: String = text
        .trim()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap()
}

fn dump(image: &Path) -> Dump {
    let dump = |tree: &str| {
        run(
            &format!(
                "btrfs inspect-internal dump-tree -t {tree} {}",
                image.display()
            ),
            "",
        )
    };
    let header = run(
        &format!("btrfs inspect-internal dump-super {}", image.display()),
        "",
    );
    let of_header = |name: &str| {
        let line = header
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        number(line.unwrap().split_whitespace().nth(1).unwrap())
    };
    let (chunk_tree, extent_tree) = (dump("chunk"), dump("extent"));
    let mut chunks = Vec::new();
    for line in chunk_tree.lines() {
        if let Some((_, at)) = line.split_once(" CHUNK_ITEM ") {
            chunks.push((number(at), 0, Vec::new()));
        } else if let Some(rest) = line.trim().strip_prefix("length ") {
            chunks.last_mut().unwrap().1 = number(rest);
        } else if line.trim().starts_with("stripe ") {
            let offset = line.split_once(" offset ").unwrap().1;
            chunks.last_mut().unwrap().2.push(number(offset));
        }
    }
    let nodesize = of_header("nodesize");
    let mut extents = Vec::new();
    for line in extent_tree.lines() {
        // Pointers of internal nodes have a block, items have an itemoff.
        let Some((_, key)) = line
            .split_once(" key (")
            .filter(|_| line.contains("itemoff"))
        else {
            continue;
        };
        let words: Vec<&str> = key.split(')').next().unwrap().split(' ').collect();
        match words[1] {
            "EXTENT_ITEM" => extents.push((number(words[0]), number(words[2]))),
            "METADATA_ITEM" => extents.push((number(words[0]), nodesize)),
            _ => {}
        }
    }
    let block_groups = if header.contains("BLOCK_GROUP_TREE") {
        dump("11")
    } else {
        String::new()
    };
    // The root tree's root is read too; its other nodes not always.
    let mut nodes = vec![of_header("root")];
    for tree in [&chunk_tree, &extent_tree, &dump("dev"), &block_groups] {
        for line in tree.lines() {
            let mut words = line.split(' ');
            if matches!(words.next(), Some("leaf" | "node")) && line.contains(" items ") {
                nodes.push(number(words.next().unwrap()));
            }
        }
    }
    Dump {
        total: of_header("dev_item.total_bytes"),
        nodesize,
        chunks,
        extents,
        nodes,
    }
}

impl Dump {
    /// All copies of a logical extent.
    fn places(&self, first: u64, len: u64) -> impl Iterator<Item = Extent> + '_ {
        let (start, size, places) = self
            .chunks
            .iter()
            .find(|(start, size, _)| *start <= first && first < start + size)
            .unwrap();
        assert!(first + len <= start + size);
        places.iter().map(move |place| Extent {
            first: place + (first - start),
            count: len,
        })
    }

    /// What is reserved, in bytes.
    fn reserved(&self) -> Vec<Extent> {
        [(0, 1 << 20), (64 << 20, 64 << 10), (256 << 30, 64 << 10)]
            .into_iter()
            .filter(|(first, _)| *first < self.total)
            .map(|(first, count)| Extent { first, count })
            .collect()
    }

    /// The free runs in sectors of 512 bytes.
    fn free(&self) -> Vec<Extent> {
        let mut used = self.reserved();
        for &(first, len) in &self.extents {
            used.extend(self.places(first, len));
        }
        used.push(Extent {
            first: self.total,
            count: 0,
        });
        used.sort_unstable();
        let mut runs = Vec::new();
        let mut position = 0;
        for extent in used {
            if extent.first > position {
                runs.push(Extent {
                    first: position / SECTOR,
                    count: (extent.first - position) / SECTOR,
                });
            }
            position = position.max(extent.end());
        }
        runs
    }

    /// Bytes of the second copies, and of what is reserved: partclone's count has neither.
    fn beyond_partclone(&self) -> u64 {
        let extents = self.extents.iter();
        let copies: u64 = extents
            .map(|&(first, len)| {
                self.places(first, len)
                    .skip(1)
                    .map(|copy| copy.count)
                    .sum::<u64>()
            })
            .sum();
        copies
            + self
                .reserved()
                .iter()
                .map(|extent| extent.count)
                .sum::<u64>()
    }
}

/// Blocks in use, in bytes, by partclone.
fn partclone_used(image: &Path) -> u64 {
    let log = image.with_extension("log");
    run(
        &format!(
            "partclone.btrfs -c -q -s {} -o /dev/null -F -L {}",
            image.display(),
            log.display()
        ),
        "",
    );
    let log = std::fs::read_to_string(log).unwrap();
    let field = |name: &str| {
        let line = log.lines().find(|line| line.starts_with(name)).unwrap();
        let word = line.split_whitespace().rev().nth(1).unwrap();
        word.parse::<u64>().unwrap()
    };
    field("Space in use:") * field("Block size:")
}

/// Fills what the map calls free with garbage, in a copy.
fn overwrite(image: &Path, map: &DiskMap) -> PathBuf {
    let copy = image.with_extension("copy");
    run(
        &format!("cp --sparse=always {} {}", image.display(), copy.display()),
        "",
    );
    let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
    let garbage = vec![0xaa; 1 << 20];
    for run in free(map) {
        let (mut at, end) = (run.first * SECTOR, run.end() * SECTOR);
        while at < end {
            let len = (end - at).min(1 << 20);
            file.write_all_at(&garbage[..len as usize], at).unwrap();
            at += len;
        }
    }
    copy
}

/// Compares the map of an unmounted filesystem with everything that knows better.
fn compare(image: &Path) -> DiskMap {
    btrfs_check(image);
    let map = map(&FileSource::open(image));
    check(&map);
    assert_eq!(map.warnings, []);
    let contents = &map.partitions[0].contents;
    assert_eq!(contents.kind, "Btrfs");
    let filesystem = contents.filesystem.as_ref().unwrap();
    assert_eq!(filesystem.label.as_deref(), Some("golden"));
    let uuid = run(
        &format!("blkid -p -o value -s UUID {}", image.display()),
        "",
    );
    assert_eq!(filesystem.uuid.as_deref(), Some(uuid.trim()));
    let header = run(
        &format!("btrfs inspect-internal dump-super {}", image.display()),
        "",
    );
    for name in &filesystem.features {
        assert!(header.contains(name), "{name}");
    }
    let dump = dump(image);
    let expected = dump.free();
    let expected_sectors: u64 = expected.iter().map(|run| run.count).sum();
    assert!(expected_sectors * SECTOR > filesystem.size_bytes / 10);
    assert_eq!(free(&map), expected);
    assert_eq!(
        filesystem.used_bytes,
        filesystem.size_bytes - expected_sectors * SECTOR
    );
    // It counts in nodes, rounded down.
    let difference = filesystem.used_bytes - dump.beyond_partclone() - partclone_used(image);
    assert!(difference < dump.nodesize, "{difference}");
    map
}

/// Compares, and proves with a copy whose free space is garbage that nothing is missing.
fn prove(image: &Path) {
    let map = compare(image);
    let copy = prove_by_kernel(image, &map);
    btrfs_check(&copy);
}

/// Proves with a copy that the kernel finds all files and no damage. Returns the copy.
fn prove_by_kernel(image: &Path, map: &DiskMap) -> PathBuf {
    let copy = overwrite(image, map);
    // The UUID of a mounted filesystem must be unique.
    let before = {
        let mounted = Mounted::new(image, ",ro");
        relative(hashes(&mounted.directory), &mounted.directory)
    };
    let mounted = Mounted::new(&copy, "");
    let after = relative(hashes(&mounted.directory), &mounted.directory);
    assert_eq!(before, after);
    let scrub = run(
        &format!("btrfs scrub start -B {}", mounted.directory.display()),
        "",
    );
    assert!(scrub.contains("no errors found"), "{scrub}");
    drop(mounted);
    copy
}

fn relative(map: BTreeMap<PathBuf, String>, base: &Path) -> BTreeMap<PathBuf, String> {
    map.into_iter()
        .map(|(path, hash)| (path.strip_prefix(base).unwrap().to_owned(), hash))
        .collect()
}

fn variant(mib: u64, mkfs: &str, mount: &str) {
    if !have_all() {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    make(&image, mib, mkfs);
    compare(&image);
    {
        let mounted = Mounted::new(&image, mount);
        populate(&mounted.directory);
    }
    prove(&image);
}

macro_rules! variants {
    ($($name:ident: $mib:literal MiB, $mkfs:literal, $mount:literal;)*) => {
        $(#[test]
        fn $name() {
            variant($mib, $mkfs, $mount);
        })*
    };
}

variants! {
    default: 300 MiB, "", "";
    metadata_single: 300 MiB, "-m single", "";
    data_dup: 450 MiB, "-m dup -d dup", "";
    mixed: 200 MiB, "--mixed", "";
    mixed_dup: 300 MiB, "--mixed -m dup -d dup", "";
    nodes_of_4k: 300 MiB, "-n 4096", "";
    nodes_of_64k: 300 MiB, "-n 65536", "";
    xxhash: 300 MiB, "--csum xxhash", "";
    sha256: 300 MiB, "--csum sha256", "";
    blake2: 300 MiB, "--csum blake2", "";
    old_features: 300 MiB, "-O ^no-holes,^extref,^skinny-metadata -R ^free-space-tree", "";
    space_cache_v1: 300 MiB, "-R ^free-space-tree", ",space_cache=v1";
    compressed: 300 MiB, "", ",compress-force=zstd";
    quota: 300 MiB, "-R quota", "";
}

/// Files with shared extents, subvolumes and snapshots; then chunks moved, and the whole grown
/// and shrunk.
#[test]
fn aged() {
    if !have_all() {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    make(&image, 500, "");
    {
        let mounted = Mounted::new(&image, "");
        let at = mounted.directory.display();
        run(&format!("btrfs subvolume create {at}/sub"), "");
        populate(&mounted.directory.join("sub"));
        run(&format!("btrfs subvolume snapshot {at}/sub {at}/snap"), "");
        run(
            &format!("btrfs subvolume snapshot -r {at}/sub {at}/fixed"),
            "",
        );
        populate(&mounted.directory.join("sub"));
        for number in 0..40 {
            let from = mounted.directory.join(format!("sub/f{number}"));
            if from.exists() {
                run(
                    &format!("cp --reflink=always {} {at}/r{number}", from.display()),
                    "",
                );
                let file = std::fs::OpenOptions::new()
                    .write(true)
                    .open(mounted.directory.join(format!("r{number}")))
                    .unwrap();
                file.write_all_at(&noise(9000, number), 0).unwrap();
            }
        }
        run(&format!("btrfs subvolume delete -c {at}/snap"), "");
    }
    prove(&image);
    {
        let mounted = Mounted::new(&image, "");
        let at = mounted.directory.display();
        run(&format!("btrfs balance start --full-balance {at}"), "");
        run(&format!("btrfs filesystem resize 400M {at}"), "");
    }
    let shrunk = compare(&image);
    // What lies behind the filesystem is saved.
    assert_eq!(shrunk.saved.last().unwrap().end(), (500 << 20) / SECTOR);
    assert!(shrunk.saved.last().unwrap().count >= (100 << 20) / SECTOR);
    {
        let mounted = Mounted::new(&image, "");
        let at = mounted.directory.display();
        run(&format!("btrfs filesystem resize max {at}"), "");
        run(
            &format!("btrfs balance start -f -mconvert=single -dconvert=dup {at}"),
            "",
        );
        populate(&mounted.directory);
    }
    prove(&image);
}

#[test]
fn another_metadata_uuid() {
    if !have_all() {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    make(&image, 300, "");
    run(&format!("btrfstune -m {}", image.display()), "");
    compare(&image);
}

#[test]
fn block_group_tree() {
    if !have_all() {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    make(&image, 300, "");
    let fresh = dump(&image);
    btrfs::add_block_group_tree(&image, |address| {
        let places = fresh.places(address, fresh.nodesize);
        places.map(|place| place.first).collect()
    });
    {
        let mounted = Mounted::new(&image, ",clear_cache");
        populate(&mounted.directory);
        let at = mounted.directory.display();
        run(&format!("btrfs balance start --full-balance {at}"), "");
    }
    let map = compare(&image);
    let filesystem = map.partitions[0].contents.filesystem.as_ref().unwrap();
    assert!(
        filesystem
            .features
            .iter()
            .any(|name| name == "BLOCK_GROUP_TREE")
    );
    prove(&image);
}

#[test]
fn converted_from_ext4() {
    if !have_all() || !has_tool("btrfs-convert") {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    common::make_ext(&image, 400 << 20, "-t ext4 -b 4096");
    run(&format!("btrfs-convert -L {}", image.display()), "");
    run(
        &format!("btrfs filesystem label {} golden", image.display()),
        "",
    );
    compare(&image);
    {
        let mounted = Mounted::new(&image, "");
        populate(&mounted.directory);
    }
    prove(&image);
}

/// Owner references in the items of extents, which these btrfs-progs do not know; the kernel
/// does, and reads all from the copy.
#[test]
fn simple_quota() {
    if !have_all() || !has_tool("perl") {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    make(&image, 300, "");
    {
        let mounted = Mounted::new(&image, "");
        let at = mounted.directory.display();
        // BTRFS_IOC_QUOTA_CTL with BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA.
        let script = format!(
            "opendir my $d, '{at}' or die; my $a = pack 'QQ', 4, 0;\n\
             open my $f, '<', '{at}' or die; ioctl $f, 0xc0109428, $a or die $!;\n"
        );
        run("perl -", &script);
        populate(&mounted.directory);
    }
    let before = map(&FileSource::open(&image));
    assert_eq!(before.warnings, []);
    let filesystem = before.partitions[0].contents.filesystem.as_ref().unwrap();
    assert!(
        filesystem
            .features
            .iter()
            .any(|name| name == "SIMPLE_QUOTA")
    );
    assert!(filesystem.used_bytes < filesystem.size_bytes / 2);
    prove_by_kernel(&image, &before);
}

/// Far more than 32 bits of sectors, and the third superblock.
#[test]
fn fifteen_tebibytes() {
    if !have_all() {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    make(&image, 15 << 20, "");
    compare(&image);
    let started = std::time::Instant::now();
    map(&FileSource::open(&image));
    assert!(started.elapsed().as_secs() < 10);
}

/// The one reason for which nothing of `image` is free.
fn reason(image: &Path) -> Cause {
    let map = map(&FileSource::open(image));
    assert_eq!(free(&map), []);
    assert!(map_strict(&FileSource::open(image)).is_err());
    let [warning] = &map.warnings[..] else {
        panic!("{:?}", map.warnings)
    };
    warning.cause.clone()
}

#[test]
fn data_that_is_only_in_the_log_tree() {
    if !have_all() {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    let crashed = directory.path().join("crashed");
    make(&image, 300, "");
    {
        let mounted = Mounted::new(&image, ",commit=300");
        populate(&mounted.directory);
        let file = std::fs::File::create(mounted.directory.join("logged")).unwrap();
        file.write_all_at(&noise(100_000, 1), 0).unwrap();
        file.sync_all().unwrap();
        run(&format!("cp {} {}", image.display(), crashed.display()), "");
    }
    let cause = reason(&crashed);
    assert!(
        matches!(cause, Cause::Incompatible(Incompatible::NotClean { .. })),
        "{cause}"
    );
    drop(Mounted::new(&crashed, ""));
    prove(&crashed);
}

#[test]
fn what_spans_devices_is_raw() {
    if !have_all() {
        return;
    }
    let directory = scratch();
    for options in ["-d single -m raid1", "-d raid0 -m raid1"] {
        let images = ["one", "two"].map(|name| directory.path().join(name));
        images.iter().for_each(|image| sparse(image, 300 << 20));
        let [one, two] = images.each_ref().map(|image| image.display());
        run(&format!("mkfs.btrfs -q -f {options} {one} {two}"), "");
        for image in &images {
            let cause = reason(image);
            assert!(
                matches!(cause, Cause::Incompatible(Incompatible::Unsupported { .. })),
                "{cause}"
            );
        }
    }
    let image = directory.path().join("seed");
    make(&image, 300, "");
    run(&format!("btrfstune -S 1 {}", image.display()), "");
    reason(&image);
}

/// Damages `len` bytes at `at` of `image`, maps, and restores them.
fn with_damage<T>(image: &Path, at: u64, damage: &[u8], then: impl FnOnce() -> T) -> T {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let mut before = vec![0; damage.len()];
    file.read_exact_at(&mut before, at).unwrap();
    file.write_all_at(damage, at).unwrap();
    let result = then();
    file.write_all_at(&before, at).unwrap();
    result
}

#[test]
fn damage_makes_it_raw() {
    if !have_all() {
        return;
    }
    let directory = scratch();
    let image = directory.path().join("disk");
    for options in ["-n 4096", "--csum xxhash"] {
        make(&image, 300, options);
        {
            let mounted = Mounted::new(&image, "");
            populate(&mounted.directory);
        }
        let intact = free(&compare(&image));
        let dump = dump(&image);
        let mut places: Vec<(u64, u64)> = dump
            .nodes
            .iter()
            .map(|&node| dump.places(node, dump.nodesize).next().unwrap())
            .map(|place| (place.first, dump.nodesize))
            .collect();
        assert!(places.len() >= 4);
        places.push((64 << 10, 4096));
        let random = noise(20_000, 9);
        let mut random = random
            .chunks_exact(4)
            .map(|four| u32::from_le_bytes(four.try_into().unwrap()));
        for (place, len) in places {
            for _ in 0..6 {
                let at = place + u64::from(random.next().unwrap()) % len;
                let mut byte = [0];
                FileSource::open(&image)
                    .read_exact_at(&mut byte, at)
                    .unwrap();
                let flipped = [byte[0] ^ (1 << (random.next().unwrap() % 8))];
                let cause = with_damage(&image, at, &flipped, || {
                    // Without its magic number it is nothing at all, and raw too.
                    let map = map(&FileSource::open(&image));
                    assert_eq!(free(&map), [], "{at}");
                    map.partitions[0].contents.raw.clone()
                });
                assert!(cause.is_some());
            }
            // Whole sectors of something else.
            with_damage(&image, place, &noise(512, 3), || {
                assert_eq!(free(&map(&FileSource::open(&image))), []);
            });
        }
        // Damage where nothing is read frees nothing.
        for _ in 0..100 {
            let at = u64::from(random.next().unwrap()) % ((300 << 20) - 512);
            with_damage(&image, at, &noise(512, 8), || {
                assert!(is_subset(&free(&map(&FileSource::open(&image))), &intact));
            });
        }
    }
}
