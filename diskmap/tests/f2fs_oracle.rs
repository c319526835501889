//! The free space of F2FS against dump.f2fs, partclone and fsck.f2fs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::overwrite::{Flipped, overwrite_free, scratch};
use common::{FileSource, check, free, has_tool, map, run, sparse};
use diskmap::{Cause, DiskMap, Extent, Incompatible};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

fn tools() -> bool {
    ["mkfs.f2fs", "sload.f2fs", "fsck.f2fs", "dump.f2fs"]
        .iter()
        .all(|tool| has_tool(tool))
}

/// Runs a tool of f2fs-tools that leaves files in `directory`, and says yes to all it asks.
fn run_in(directory: &Path, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .current_dir(directory)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended without asking.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"y\n");
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A number that dump.f2fs prints as `name [0x hexadecimal : decimal]`.
fn number(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name))
        .unwrap();
    let (_, decimal) = line.rsplit_once(':').unwrap();
    decimal.trim().trim_end_matches(']').parse().unwrap()
}

struct Image {
    directory: TempDir,
    path: PathBuf,
    /// partclone 0.3.23 crashes on sections of several segments and on large node bitmaps.
    partclone: bool,
}

impl Image {
    fn make(mib: u64, options: &str) -> Self {
        let directory = scratch();
        let path = directory.path().join("disk");
        sparse(&path, mib * MIB);
        run(&format!("mkfs.f2fs -q -f {options} {}", path.display()), "");
        Self {
            directory,
            path,
            partclone: !options.contains("-s ") && !options.contains("-i"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds files from a directory of the given name.
    fn load(&self, name: &str, options: &str) {
        let source = self.path(name);
        for directory in 0..2_usize {
            let directory = source.join(format!("{name}{directory}"));
            std::fs::create_dir_all(&directory).unwrap();
            for number in 0..14_usize {
                let path = directory.join(format!("{name}{number}"));
                let byte = u8::try_from(number).unwrap();
                std::fs::write(path, vec![byte; (number * 7919 * 37) % 2_500_000 + 1]).unwrap();
            }
        }
        let line = format!(
            "sload.f2fs {options} -f {} {}",
            source.display(),
            self.path.display()
        );
        // Ends with a check, and finds its own checksums of inodes wrong with some features.
        run_in(source.as_path(), &line);
        run_in(
            source.as_path(),
            &format!("fsck.f2fs -f -y {}", self.path.display()),
        );
    }

    /// The extents that are free by dump.f2fs, in sectors, and the blocks that are saved although
    /// they are free: where the node logs go on.
    fn listed(&self) -> (Vec<Extent>, Vec<u64>) {
        let text = run(&format!("dump.f2fs -d 1 {}", self.path.display()), "");
        let main = number(&text, "main_blkaddr");
        let mut kept: Vec<u64> = (0..3)
            .map(|log| {
                let segment = number(&text, &format!("cur_node_segno[{log}]"));
                main + segment * 512 + number(&text, &format!("cur_node_blkoff[{log}]"))
            })
            .collect();
        kept.sort_unstable();
        let work = self.path("work");
        std::fs::create_dir_all(&work).unwrap();
        let line = format!("dump.f2fs -s 0~-1 {}", self.path.display());
        run_in(&work, &line);
        let text = std::fs::read_to_string(work.join("dump_sit")).unwrap();
        // Segments without valid blocks are listed without a map, the others with 64 bytes.
        let mut maps: Vec<Vec<u8>> = Vec::new();
        for line in text.lines().skip(1) {
            if line.starts_with("segno:") {
                maps.push(Vec::new());
            } else if let Some(map) = maps.last_mut().filter(|_| line.starts_with("  ")) {
                let bytes = line.split_whitespace();
                map.extend(bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
            }
        }
        assert_eq!(
            u64::try_from(maps.len()).unwrap(),
            number_of_segments(&self.path)
        );
        let mut runs: Vec<Extent> = Vec::new();
        for (segment, map) in maps.iter().enumerate() {
            for bit in 0..512_usize {
                let byte = map.get(bit / 8).copied().unwrap_or(0);
                let block = main + u64::try_from(segment * 512 + bit).unwrap();
                if byte >> (7 - bit % 8) & 1 == 1 || kept.contains(&block) {
                    continue;
                }
                match runs.last_mut() {
                    Some(run) if run.end() == block * 8 => run.count += 8,
                    _ => runs.push(Extent {
                        first: block * 8,
                        count: 8,
                    }),
                }
            }
        }
        (runs, kept)
    }

    /// The blocks that partclone saves, by the bitmap in its image.
    fn partclone_used(&self, blocks: u64) -> Option<Vec<u64>> {
        if !self.partclone || !has_tool("partclone.f2fs") {
            return None;
        }
        let image = self.path("partclone");
        let line = format!(
            "partclone.f2fs -c -q -F -s {} -O {} -L {}",
            self.path.display(),
            image.display(),
            self.path("log").display()
        );
        run(&line, "");
        let bytes = std::fs::read(&image).unwrap();
        std::fs::remove_file(image).unwrap();
        // Format 0002: a header of 110 bytes, then a bit for each block, the lowest first.
        let is_used = |block: &u64| {
            let byte = bytes[110 + usize::try_from(block / 8).unwrap()];
            byte >> (block % 8) & 1 == 1
        };
        Some((0..blocks).filter(is_used).collect())
    }

    /// Maps it and compares with dump.f2fs and partclone.
    fn compare(&self) -> DiskMap {
        let map = mapped(&self.path);
        assert_eq!(map.warnings, []);
        let contents = &map.partitions[0].contents;
        assert_eq!((contents.kind, &contents.raw), ("F2FS", &None));
        let filesystem = contents.filesystem.as_ref().unwrap();
        let (expected, kept) = self.listed();
        assert_eq!(free(&map), expected);
        let saved: u64 = map.saved.iter().map(|extent| extent.count).sum();
        let tail = map.disk_sectors * 512 - filesystem.size_bytes;
        let kept_bytes = BLOCK * u64::try_from(kept.len()).unwrap();
        assert_eq!(saved * 512, filesystem.used_bytes + kept_bytes + tail);
        let line = format!("blkid -p -o value -s UUID {}", self.path.display());
        assert_eq!(filesystem.uuid.as_deref(), Some(run(&line, "").trim()));
        let text = run(&format!("dump.f2fs -d 1 {}", self.path.display()), "");
        let features = text
            .lines()
            .find_map(|line| line.split_once("superblock features = "))
            .and_then(|(_, rest)| rest.split_once(':'))
            .map(|(_, names)| names.split_whitespace().collect::<Vec<_>>());
        assert_eq!(
            Some(filesystem.features.clone()),
            features.map(|names| { names.into_iter().map(str::to_owned).collect::<Vec<_>>() })
        );
        // Exactly partclone's blocks, and those where the node logs go on.
        if let Some(mut used) = self.partclone_used(filesystem.size_bytes / BLOCK) {
            used.extend(kept);
            used.sort_unstable();
            used.dedup();
            let is_saved = |block: &u64| {
                let at = map.saved.partition_point(|e| e.end() <= block * 8);
                map.saved.get(at).is_some_and(|e| e.first <= block * 8)
            };
            let ours = (0..filesystem.size_bytes / BLOCK).filter(is_saved);
            assert!(ours.eq(used), "other blocks than partclone");
        }
        map
    }

    /// The inodes that dump.f2fs lists, and their blocks.
    fn inodes(&self, path: &Path) -> Vec<(u64, u64)> {
        let work = self.path("work");
        std::fs::create_dir_all(&work).unwrap();
        run_in(&work, &format!("dump.f2fs -n 0~-1 {}", path.display()));
        let text = std::fs::read_to_string(work.join("dump_nat")).unwrap();
        let mut list = Vec::new();
        for line in text.lines() {
            let numbers: Vec<u64> = line
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|word| word.parse().ok())
                .collect();
            // Node, inode, offset, block, pack.
            match numbers[..] {
                [node, inode, _, block, _] if node == inode => list.push((inode, block)),
                _ => {}
            }
        }
        list
    }

    /// What dump.f2fs gets out of all inodes, by name.
    fn files(&self, path: &Path) -> BTreeMap<String, Vec<u8>> {
        let work = self.path("work");
        let _ = std::fs::remove_dir_all(&work);
        std::fs::create_dir_all(&work).unwrap();
        let mut files = BTreeMap::new();
        for (inode, _) in self.inodes(path) {
            run_in(&work, &format!("dump.f2fs -i {inode:x} {}", path.display()));
            let Ok(list) = std::fs::read_dir(work.join("lost_found")) else {
                continue;
            };
            for entry in list {
                let found = entry.unwrap().path();
                let name = found.file_name().unwrap().to_string_lossy().into_owned();
                let bytes = std::fs::read(&found).unwrap();
                std::fs::remove_file(found).unwrap();
                files.insert(format!("{inode} {name}"), bytes);
            }
        }
        files
    }

    /// Compares the map, and looks for every file after the free space was overwritten.
    fn compare_and_overwrite(&self) -> DiskMap {
        let map = self.compare();
        let files = self.files(&self.path);
        assert!(files.len() > 10, "{:?}", files.keys());
        let copy = self.path("copy");
        overwrite_free(&self.path, &copy, &map);
        // The tool complains about some features that it set itself, and writes in spite of its
        // option: what counts is that it finds no more in the copy.
        let plain = self.path("plain");
        overwrite_free(
            &self.path,
            &plain,
            &DiskMap {
                saved: vec![Extent {
                    first: 0,
                    count: map.disk_sectors,
                }],
                ..map.clone()
            },
        );
        let fsck = |path: &Path| {
            let text = run_in(
                self.directory.path(),
                &format!("fsck.f2fs --dry-run -f {}", path.display()),
            );
            assert!(text.contains("[Ok..]"), "{text}");
            text.replace(&path.display().to_string(), "")
        };
        let files_copy = self.files(&copy);
        let found = fsck(&copy);
        assert_eq!(found, fsck(&plain));
        assert!(!self.partclone || !found.contains("[Fail]") || found.contains("casefold"));
        assert!(files == files_copy, "a file is not what it was");
        map
    }
}

fn number_of_segments(path: &Path) -> u64 {
    let text = run(&format!("dump.f2fs -d 1 {}", path.display()), "");
    number(&text, "segment_count_main")
}

fn mapped(path: &Path) -> DiskMap {
    let map = map(&FileSource::open(path));
    check(&map);
    map
}

macro_rules! variants {
    ($($name:ident: $mib:literal MiB, $options:literal;)*) => {
        $(#[test]
        fn $name() {
            if tools() {
                let image = Image::make($mib, $options);
                image.compare();
                image.load("one", "");
                image.compare_and_overwrite();
            }
        })*
    };
}

variants! {
    defaults: 200 MiB, "-l golden";
    all_features: 200 MiB, "-g android -C utf8 -O extra_attr,inode_checksum,sb_checksum,compression,encrypt,quota,project_quota,flexible_inline_xattr,inode_crtime,lost_found,verity,casefold";
    sections_of_four_segments: 300 MiB, "-s 4 -z 2";
    much_overprovision: 200 MiB, "-o 25 -a 1";
    large_node_bitmap: 200 MiB, "-i";
}

/// Files loaded twice, half of the first ones lost to damage and freed by fsck.f2fs, the size
/// changed: a table with many holes.
#[test]
fn aged_and_grown() {
    if !tools() || !has_tool("resize.f2fs") {
        return;
    }
    let image = Image::make(256, "-O extra_attr,inode_checksum,sb_checksum");
    image.load("one", "");
    image.load("two", "");
    image.compare();
    let work = image.path("work");
    let options = OpenOptions::new().write(true).to_owned();
    let file = options.open(&image.path).unwrap();
    let mut lost = 0;
    // Not those of directories near the root.
    for (inode, block) in image.inodes(&image.path) {
        if inode > 9 && inode % 2 == 1 {
            file.write_all_at(&[0; 4096], block * BLOCK).unwrap();
            lost += 1;
        }
    }
    assert!(lost > 10);
    let fsck = format!("fsck.f2fs -f -y {}", image.path.display());
    run_in(&work, &fsck);
    run_in(&work, &fsck);
    let map = image.compare_and_overwrite();
    assert!(free(&map).len() > 10, "it has holes");
    file.set_len(400 * MIB).unwrap();
    run(&format!("resize.f2fs {}", image.path.display()), "");
    image.compare_and_overwrite();
}

#[test]
fn more_than_fits_in_one_checkpoint_block() {
    if !tools() {
        return;
    }
    let image = Image::make(3500 << 10, "");
    let start = std::time::Instant::now();
    let map = mapped(&image.path);
    assert!(start.elapsed().as_secs() < 10);
    assert_eq!(map.warnings, []);
    let text = run(&format!("dump.f2fs -d 1 {}", image.path.display()), "");
    assert_eq!(number(&text, "cp_payload"), 1);
    let main = number(&text, "segment_count_main") * 512;
    let spare = main - number(&text, "valid_block_count");
    let saved: u64 = map.saved.iter().map(|extent| extent.count).sum();
    // All but the blocks where the node logs go on.
    assert_eq!((map.disk_sectors - saved) / 8, spare - 3);
}

fn is_not_clean(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::Incompatible(Incompatible::NotClean {
            filesystem: "F2FS",
            ..
        })
    )
}

const CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::Algorithm {
    xorout: 0,
    ..crc::CRC_32_ISO_HDLC
});

/// CRC-32 as F2FS uses it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut digest = CRC32.digest_with_initial(0xf2f5_2010_u32.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

/// An image as bytes, and where things lie in it.
struct Sample {
    bytes: Vec<u8>,
    checkpoint: usize,
    pack_blocks: usize,
    warm_node: usize,
    sit: usize,
}

impl Sample {
    fn new(options: &str) -> Self {
        let image = Image::make(64, options);
        let small = image.path("small");
        std::fs::create_dir_all(&small).unwrap();
        for number in 0..30 {
            std::fs::write(small.join(format!("{number}")), vec![b's'; number * 999]).unwrap();
        }
        run(
            &format!("sload.f2fs -f {} {}", small.display(), image.path.display()),
            "",
        );
        let text = run(&format!("dump.f2fs -d 1 {}", image.path.display()), "");
        let get = |name: &str| usize::try_from(number(&text, name)).unwrap();
        let bytes = std::fs::read(&image.path).unwrap();
        let at = |pack: usize| (get("cp_blkaddr") + 512 * pack) * 4096;
        let version = |pack: usize| {
            let field = bytes[at(pack)..].first_chunk::<8>().unwrap();
            u64::from_le_bytes(*field)
        };
        let pack = usize::from(version(1) > version(0));
        Self {
            checkpoint: at(pack),
            pack_blocks: get("cp_pack_total_block_count"),
            warm_node: (get("main_blkaddr")
                + get("cur_node_segno[1]") * 512
                + get("cur_node_blkoff[1]"))
                * 4096,
            sit: get("sit_blkaddr") * 4096,
            bytes,
        }
    }

    fn changed(&self, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        edit(&mut bytes);
        bytes
    }

    /// With both blocks of the checkpoint changed, and their checksums right.
    fn checkpoint_changed(&self, edit: impl Fn(&mut [u8])) -> Vec<u8> {
        self.changed(|bytes| {
            for block in [0, self.pack_blocks - 1] {
                let at = self.checkpoint + block * 4096;
                let block = &mut bytes[at..at + 4096];
                edit(block);
                let sum = crc32(&block[..4092]);
                block[4092..].copy_from_slice(&sum.to_le_bytes());
            }
        })
    }
}

fn cause_of(bytes: &[u8]) -> Cause {
    let map = map(&bytes);
    check(&map);
    assert_eq!(free(&map), [], "a warning means a raw copy");
    map.warnings[0].cause.clone()
}

#[test]
fn what_is_not_clean_is_copied_raw() {
    if !tools() {
        return;
    }
    let sample = Sample::new("");
    assert_eq!(map(&sample.bytes).warnings, []);
    let same = sample.checkpoint_changed(|_| ());
    assert!(
        same == sample.bytes,
        "the checksum here is that of the tools"
    );
    // Not unmounted; orphans, errors, fsck, quota, disabled, resizing.
    for (set, clear) in [
        (0, 1_u32),
        (2, 0),
        (8, 0),
        (0x10, 0),
        (0x800, 0),
        (0x1000, 0),
        (0x2000, 0),
        (0x4000, 0),
    ] {
        let bytes = sample.checkpoint_changed(|block| {
            let flags = u32::from_le_bytes(*block[132..].first_chunk().unwrap());
            block[132..136].copy_from_slice(&(flags & !clear | set).to_le_bytes());
        });
        assert!(is_not_clean(&cause_of(&bytes)), "{set:#x} {clear:#x}");
    }
    let unknown = sample.checkpoint_changed(|block| block[134] |= 1);
    assert!(matches!(
        cause_of(&unknown),
        Cause::Incompatible(Incompatible::Features { .. })
    ));
    // A node with the version of the checkpoint, where the next one is looked for.
    let version = *sample.bytes[sample.checkpoint..]
        .first_chunk::<4>()
        .unwrap();
    let at = sample.warm_node + 4072 + 12;
    let bytes = sample.changed(|bytes| bytes[at..at + 4].copy_from_slice(&version));
    assert!(is_not_clean(&cause_of(&bytes)));
}

#[test]
fn damage_is_found() {
    if !tools() {
        return;
    }
    let sample = Sample::new("-O extra_attr,sb_checksum");
    let whole = free(&map(&sample.bytes));
    assert!(!whole.is_empty());
    let pack_end = sample.checkpoint + (sample.pack_blocks - 1) * 4096;
    let mut places: Vec<usize> = (1024..1024 + 3072).step_by(7).collect();
    places.extend((sample.checkpoint..sample.checkpoint + 4096).step_by(11));
    places.extend((pack_end..pack_end + 4096).step_by(13));
    let flipped = |at, mask| {
        let bytes = &sample.bytes;
        free(&map(&Flipped { bytes, at, mask }))
    };
    for at in places {
        assert_eq!(flipped(at, 0x10), [], "byte {at}");
    }
    // The tables have no checksums: an entry that agrees with itself can be wrong, one flipped
    // bit cannot hide.
    for copy in 0..2 {
        let start = sample.sit + copy * 512 * 4096;
        for segment in 0..20 {
            for at in [2, 5, 40, 65] {
                let found = flipped(start + segment * 74 + at, 0x80);
                assert!(found.is_empty() || found == whole, "{segment} {at}");
            }
        }
    }
}
