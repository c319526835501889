//! BSD disklabels written by fdisk and parted, and after the other systems' headers, next to what
//! libblkid and the Sleuth Kit read in them; UFS and swap inside.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod common;

use std::path::{Path, PathBuf};

use common::tables::{map_file, patch};
use common::{free, has_tool, map, run, sparse};
use diskmap::{DiskMap, Extent, TableKind};

/// The slice of the tests, in sectors, and the partitions in it: first and number of sectors.
const SLICE: u64 = 2048;
const SLICE_SECTORS: u64 = 100_000;
const DISK_SECTORS: u64 = 180_000;
const A: (u64, u64) = (0, 40_960);
const B: (u64, u64) = (40_960, 8000);
const E: (u64, u64) = (52_000, 47_000);
const SWAP: u8 = 1;
const FFS: u8 = 7;

/// What stands in a partition, and the sectors that its own tools call free, from its start.
struct Part {
    bytes: Vec<u8>,
    free: Vec<Extent>,
}

fn ufs(directory: &Path, options: &str, sectors: u64) -> Part {
    let tree = directory.join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    for number in 0..20_usize {
        let bytes = vec![number as u8; number * 5003 % 70_000];
        std::fs::write(tree.join(format!("sub/f{number}")), bytes).unwrap();
    }
    let path = directory.join("ufs");
    let image = path.display();
    let size = sectors * 512;
    run(
        &format!(
            "makefs -t ffs -s {size} -o {options} {image} {}",
            tree.display()
        ),
        "",
    );
    let fragment = if options.contains("fsize=8192") {
        16
    } else {
        4
    };
    let mut free: Vec<Extent> = Vec::new();
    for line in run(&format!("blkls -l {image}"), "")
        .lines()
        .filter(|line| line.ends_with("|f"))
    {
        let number: u64 = line.split('|').next().unwrap().parse().unwrap();
        let first = number * fragment;
        match free.last_mut() {
            Some(last) if last.end() == first => last.count += fragment,
            _ => free.push(Extent {
                first,
                count: fragment,
            }),
        }
    }
    Part {
        bytes: std::fs::read(&path).unwrap(),
        free,
    }
}

fn swap(directory: &Path) -> Part {
    let path = directory.join("swap");
    sparse(&path, B.1 * 512);
    run(&format!("mkswap {}", path.display()), "");
    Part {
        bytes: std::fs::read(&path).unwrap(),
        free: vec![Extent {
            first: 8,
            count: B.1 - 8,
        }],
    }
}

fn tools() -> bool {
    [
        "makefs", "blkls", "mmls", "mkswap", "fdisk", "sfdisk", "partx", "parted",
    ]
    .iter()
    .all(|tool| has_tool(tool))
}

/// A disk with one slice of the type given, its partitions filled; and what is free.
fn disk(directory: &Path, start: u64, slice_type: &str) -> (PathBuf, Vec<Extent>) {
    let path = directory.join("disk");
    sparse(&path, DISK_SECTORS * 512);
    if start > 0 {
        run(
            &format!("sfdisk -q {}", path.display()),
            &format!("label: dos\n{start},{SLICE_SECTORS},{slice_type}\n"),
        );
    }
    let parts = [
        (A, ufs(directory, "version=1,bsize=16384,fsize=2048", A.1)),
        (B, swap(directory)),
        (
            E,
            ufs(directory, "version=2,bsize=65536,fsize=8192", 45_056),
        ),
    ];
    let mut expected = Vec::new();
    for ((first, _), part) in &parts {
        patch(&path, (start + first) * 512, &part.bytes);
        expected.extend(part.free.iter().map(|run| Extent {
            first: start + first + run.first,
            count: run.count,
        }));
    }
    assert_eq!(
        expected.len(),
        parts.iter().map(|(_, part)| part.free.len()).sum()
    );
    // Free to the end of one partition and from the start of the next.
    expected.dedup_by(|next, last| {
        let touches = last.end() == next.first;
        last.count += if touches { next.count } else { 0 };
        touches
    });
    (path, expected)
}

/// First sector, sectors and type; the letter is the index.
type Entry = (u64, u64, u8);

/// A label as `disklabel.h` has it, at byte `at` of the disk.
fn write_label(path: &Path, at: u64, version: u16, entries: &[Entry]) -> Vec<u8> {
    let mut label = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| label[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x8256_4557_u32.to_le_bytes());
    put(24, b"pack");
    put(40, &512_u32.to_le_bytes());
    put(60, &(DISK_SECTORS as u32).to_le_bytes());
    put(114, &version.to_le_bytes());
    put(132, &0x8256_4557_u32.to_le_bytes());
    put(138, &(entries.len() as u16).to_le_bytes());
    for (index, &(first, count, kind)) in entries.iter().enumerate() {
        let at = 148 + 16 * index;
        put(at, &(count as u32).to_le_bytes());
        put(at + 4, &(first as u32).to_le_bytes());
        if version == 1 {
            put(at + 8, &((first >> 32) as u16).to_le_bytes());
            put(at + 10, &((count >> 32) as u16).to_le_bytes());
        } else {
            // Bytes of a fragment.
            put(at + 8, &2048_u32.to_le_bytes());
        }
        put(at + 12, &[kind]);
    }
    sum(&mut label);
    label.truncate(148 + 16 * entries.len());
    patch(path, at, &label);
    label
}

fn sum(label: &mut [u8]) {
    label[136..138].fill(0);
    let end = 148 + 16 * usize::from(label[138]);
    let sum = label[..end.min(512)]
        .chunks_exact(2)
        .fold([0; 2], |[a, b], pair| [a ^ pair[0], b ^ pair[1]]);
    label[136..138].copy_from_slice(&sum);
}

fn volumes(map: &DiskMap) -> Vec<(String, u64, &'static str)> {
    map.partitions[0]
        .volumes
        .iter()
        .map(|volume| {
            (
                volume.name.clone(),
                volume.size_bytes / 512,
                volume.contents.kind,
            )
        })
        .collect()
}

fn all_volumes() -> Vec<(String, u64, &'static str)> {
    [("a", A.1, "UFS1"), ("b", B.1, "swap"), ("e", E.1, "UFS2")]
        .map(|(name, count, kind)| (name.to_owned(), count, kind))
        .to_vec()
}

/// Overwrites what is free; label, table and filesystems must read as before.
fn overwrite(path: &Path, expected: &[Extent]) {
    let mmls = |from: u64| run(&format!("mmls -t bsd -o {from} {}", path.display()), "");
    let before = mmls(SLICE);
    for extent in expected {
        patch(
            path,
            extent.first * 512,
            &vec![0xaa; extent.count as usize * 512],
        );
    }
    assert_eq!(mmls(SLICE), before);
    assert_eq!(free(&map_file(path)), expected);
    let out = path.with_extension("out");
    run(
        &format!(
            "tsk_recover -f ufs1 -o {SLICE} -a {} {}",
            path.display(),
            out.display()
        ),
        "",
    );
    for number in 1..20_usize {
        let bytes = std::fs::read(out.join(format!("sub/f{number}"))).unwrap();
        assert!(bytes == vec![number as u8; number * 5003 % 70_000]);
    }
}

/// First sector and number of sectors by libblkid.
fn partx(path: &Path) -> Vec<(u64, u64)> {
    // It fails where there is no table.
    let output = std::process::Command::new("partx")
        .args(["-g", "-o", "START,SECTORS"])
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace().map(|word| word.parse().unwrap());
            (words.next().unwrap(), words.next().unwrap())
        })
        .collect()
}

#[test]
fn a_label_by_fdisk() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), SLICE, "a5");
    let range = |(first, count): (u64, u64)| {
        let first = SLICE + first;
        format!("{first}\n{}\n", first + count - 1)
    };
    let script = format!(
        "b\ny\nn\na\n{}n\nb\n{}n\ne\n{}t\na\n7\nt\nb\n1\nt\ne\n7\nw\nq\n",
        range(A),
        range(B),
        range(E)
    );
    run(&format!("fdisk {}", path.display()), &script);
    let map = map_file(&path);
    assert_eq!(map.warnings, []);
    assert_eq!(map.partitions[0].contents.kind, "BSD disklabel");
    assert_eq!(volumes(&map), all_volumes());
    assert_eq!(free(&map), expected);
    // libblkid numbers them from 5.
    let mut listed = partx(&path);
    listed.remove(0);
    assert_eq!(
        listed,
        [A, B, E].map(|(first, count)| (SLICE + first, count))
    );
    overwrite(&path, &expected);
}

#[test]
fn labels_of_the_three_systems() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // Type of the slice, version of the label, what partitions count from, c, d, and more.
    let unused = (0, 0, 0);
    let foreign = (SLICE + SLICE_SECTORS + 500, 3000, 8);
    let cases: [(&str, u16, u64, Entry, Entry, Entry); 5] = [
        ("a5", 0, 0, (0, SLICE_SECTORS, 0), unused, unused),
        ("a5", 0, SLICE, (SLICE, SLICE_SECTORS, 0), unused, unused),
        ("a6", 1, SLICE, (0, DISK_SECTORS, 0), unused, foreign),
        ("a6", 1, SLICE, (0, (1 << 32) + 5, 0), unused, foreign),
        (
            "a9",
            0,
            SLICE,
            (SLICE, SLICE_SECTORS, 0),
            (0, DISK_SECTORS, 0),
            foreign,
        ),
    ];
    for (slice_type, version, base, c, d, more) in cases {
        let (path, expected) = disk(directory.path(), SLICE, slice_type);
        let entry = |(first, count): (u64, u64), kind| (base + first, count, kind);
        let entries = [entry(A, FFS), entry(B, SWAP), c, d, entry(E, FFS), more];
        write_label(&path, (SLICE + 1) * 512, version, &entries);
        let map = map_file(&path);
        assert_eq!(map.warnings, [], "{slice_type}");
        assert_eq!(volumes(&map), all_volumes());
        assert_eq!(free(&map), expected);
        let label = map.partitions[0].contents.filesystem.clone().unwrap().label;
        assert_eq!(label.as_deref(), Some("pack"));
        if slice_type == "a5" {
            overwrite(&path, &expected);
            std::fs::remove_dir_all(path.with_extension("out")).unwrap();
        }
    }
}

#[test]
fn labels_of_whole_disks() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), 0, "");
    let whole = (0, DISK_SECTORS, 0);
    let at_start = |(first, count): (u64, u64), kind| (first, count, kind);
    let entries = [
        at_start(A, FFS),
        at_start(B, SWAP),
        whole,
        whole,
        at_start(E, FFS),
    ];
    // Sector 1, and the other place in sector 0.
    for at in [512, 64] {
        write_label(&path, at, 0, &entries);
        let map = map_file(&path);
        assert_eq!((map.table, &map.warnings[..]), (TableKind::None, &[][..]));
        assert_eq!(volumes(&map), all_volumes());
        assert_eq!(free(&map), expected);
        patch(&path, 0, &[0; 1024]);
    }
    // By parted, in sector 0; not from the start.
    sparse(&path, DISK_SECTORS * 512);
    run(
        &format!(
            "parted -s {} mklabel bsd mkpart 2048s 43007s mkpart 60000s 99999s",
            path.display()
        ),
        "",
    );
    let part = ufs(directory.path(), "version=1,bsize=16384,fsize=2048", 40_960);
    patch(&path, 2048 * 512, &part.bytes);
    // Its sum is wrong (parted 3.5), which libblkid does not mind and the BSDs do.
    assert_eq!(free(&map_file(&path)), []);
    let mut label = std::fs::read(&path).unwrap()[64..576].to_vec();
    sum(&mut label);
    patch(&path, 64, &label);
    assert_eq!(partx(&path), [(2048, 40_960), (60_000, 40_000)]);
    let map = map_file(&path);
    assert_eq!(map.warnings, []);
    let shifted = part.free.iter().map(|run| Extent {
        first: run.first + 2048,
        count: run.count,
    });
    assert_eq!(free(&map), shifted.collect::<Vec<_>>());
    let listed = volumes(&map);
    assert_eq!(listed[0], ("a".to_owned(), 40_960, "UFS1"));
    assert_eq!(listed[1], ("b".to_owned(), 40_000, "raw"));
}

#[test]
fn labels_that_are_not_believed() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), SLICE, "a5");
    let c = (0, SLICE_SECTORS, 0);
    let unused = (0, 0, 0);
    let entry = |(first, count): (u64, u64), kind| (first, count, kind);
    let good = [entry(A, FFS), entry(B, SWAP), c, unused, entry(E, FFS)];
    let at = (SLICE + 1) * 512;
    let label = write_label(&path, at, 0, &good);
    let intact = std::fs::read(&path).unwrap();
    assert_eq!(free(&map(&intact)), expected);
    let start = at as usize;

    // Each byte of the label.
    for (offset, &byte) in label.iter().enumerate() {
        patch(&path, at + offset as u64, &[byte ^ 0x04]);
        let left = free(&map_file(&path));
        patch(&path, at + offset as u64, &[byte]);
        // Without the magic number there is no label, but a UFS that is smaller than the slice.
        let is_subset = common::is_subset(&left, &expected);
        assert!(left.is_empty() || offset < 4 && is_subset, "byte {offset}");
    }
    // Fields that contradict each other, under a right sum.
    let with = |index: usize, entry: Entry| {
        let mut entries = good;
        entries[index] = entry;
        entries
    };
    let tables: [[Entry; 5]; 7] = [
        with(1, (40_000, 8000, SWAP)),   // overlaps a
        with(3, (10_000, 100, 0)),       // unused, inside of a
        with(4, (60_000, 50_000, FFS)),  // leaves the slice
        with(2, (0, 0, 0)),              // no raw partition
        with(2, (17, SLICE_SECTORS, 0)), // counts from nowhere known
        with(0, (16, A.1 - 16, FFS)),    // UFS where no partition begins
        with(0, (0, 30_000, FFS)),       // UFS larger than its partition
    ];
    for entries in tables {
        write_label(&path, at, 0, &entries);
        let map = map_file(&path);
        assert_eq!((free(&map), map.warnings.len()), (vec![], 1), "{entries:?}");
    }
    write_label(&path, at, 2, &good);
    assert_eq!(free(&map_file(&path)), []);
    // A label in each of two places, or in sector 1 of larger sectors.
    write_label(&path, at, 0, &good);
    write_label(&path, SLICE * 512 + 64, 0, &good);
    assert_eq!(free(&map_file(&path)), []);
    patch(&path, SLICE * 512, &intact[SLICE as usize * 512..][..512]);
    assert_eq!(free(&map_file(&path)), expected);
    let mut other = label.clone();
    other[40..44].copy_from_slice(&1024_u32.to_le_bytes());
    sum(&mut other);
    patch(&path, at, &other);
    assert_eq!(free(&map_file(&path)), []);
    // What is not UFS has the boot blocks in it.
    let entries = [unused, (0, 90_000, SWAP), c];
    write_label(&path, at, 0, &entries);
    patch(&path, SLICE * 512 + 8192, &[0; 8192]);
    patch(&path, SLICE * 512 + 16384, &[0; 8192]);
    patch(&path, SLICE * 512 + 4086, b"SWAPSPACE2");
    let map = map_file(&path);
    assert_eq!(free(&map), []);

    // A slice of another type.
    let mut bytes = intact.clone();
    bytes[446 + 4] = 0x83;
    let other = common::map(&bytes);
    assert_eq!(free(&other), []);
    assert!(other.partitions[0].contents.raw.is_some());
    // Big-endian.
    let mut bytes = intact;
    for pair in bytes[start..start + 148].chunks_exact_mut(4) {
        pair.reverse();
    }
    assert_eq!(free(&common::map(&bytes)), []);
}
