//! The free space of NTFS against partclone, sleuthkit and ntfs-3g with its tools.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod common;
mod winfs;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{FileSource, check, free, has_tool, is_subset, map, map_strict, run, sparse};
use diskmap::{Cause, Content, Corrupt, DiskMap, Error, Extent, Incompatible, Options, TableKind};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use winfs::{
    beside, contents, cut_out, filesystem, forensics_sample, has_fuse, map_clean, mounted,
    overwritten, partclone_free, populate, sleuthkit_free, total, tree,
};

fn tools() -> bool {
    [
        "mkntfs",
        "ntfs-3g",
        "ntfsfix",
        "ntfsinfo",
        "ntfsresize",
        "partclone.ntfs",
        "blkls",
        "blkid",
    ]
    .iter()
    .all(|tool| has_tool(tool))
        && has_fuse()
}

/// Works in a mounted image.
fn in_mount(image: &Path, options: &str, work: impl FnOnce(&Path)) {
    let mount = beside(image, "mount");
    let command = format!(
        "ntfs-3g -o no_detach{options} {} {}",
        image.display(),
        mount.display()
    );
    mounted(&command, &mount, || work(&mount));
}

/// Makes a filesystem of `mib` MiB with files and holes.
fn make(path: &Path, mib: u64, options: &str, mount_options: &str) {
    sparse(path, mib << 20);
    run(
        &format!("mkntfs -F -Q -q -L golden {options} {}", path.display()),
        "",
    );
    in_mount(path, mount_options, |mount| populate(mount, 400_000));
}

fn extract(image: &Path) -> PathBuf {
    let directory = beside(image, "files");
    std::fs::create_dir(&directory).unwrap();
    in_mount(image, ",ro", |mount| {
        run(
            &format!("cp -r {}/. {}", mount.display(), directory.display()),
            "",
        );
    });
    directory
}

/// Asserts that a volume is sound: ntfsresize accounts for every cluster of every file.
fn assert_sound(image: &Path) {
    run(&format!("ntfsfix -n {}", image.display()), "");
    run(&format!("ntfsresize -i -f {}", image.display()), "");
}

/// Compares the map of an image with everybody else's, and then overwrites what is free.
fn compare(path: &Path) -> DiskMap {
    assert_sound(path);
    let map = map_clean(path);
    assert_eq!(
        (map.table, map.partitions[0].contents.kind),
        (TableKind::None, "NTFS")
    );
    let found = filesystem(&map);
    let ours = free(&map);
    assert!(total(&ours) > 0, "a test without free space proves nothing");
    assert_eq!(ours, partclone_free("ntfs", path));
    // Sleuthkit knows no clusters above 64 KiB.
    if found.block_size <= 65536 {
        assert_eq!(
            ours,
            sleuthkit_free("ntfs", path, u64::from(found.block_size) / 512)
        );
    }
    assert_eq!(found.size_bytes - found.used_bytes, total(&ours) * 512);

    let info = run(&format!("ntfsinfo -m {}", path.display()), "");
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    assert_eq!(value("Cluster Size:"), found.block_size.to_string());
    assert_eq!(
        found.features,
        [format!("NTFS {}", value("Volume Version:"))]
    );
    let identity = run(&format!("blkid -p -o export {}", path.display()), "");
    let value = |name: &str| {
        identity
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::to_owned)
    };
    assert_eq!(found.uuid, value("UUID="));
    assert_eq!(found.label, value("LABEL="));

    let copy = overwritten(path, &map);
    assert_sound(&copy);
    let (before, after) = (extract(path), extract(&copy));
    run(
        &format!("diff -r {} {}", before.display(), after.display()),
        "",
    );
    map
}

macro_rules! variants {
    ($($name:ident: $mib:literal MiB, $options:literal, $mount:literal => $cluster:literal;)*) => {
        $(#[test]
        fn $name() {
            if tools() {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("disk");
                make(&path, $mib, $options, $mount);
                assert_eq!(filesystem(&compare(&path)).block_size, $cluster);
            }
        })*
    };
}

variants! {
    small: 60 MiB, "", "" => 4096;
    sector_clusters: 61 MiB, "-c 512", "" => 512;
    clusters_of_64k: 80 MiB, "-c 65536", "" => 65536;
    clusters_of_256k: 120 MiB, "-c 262144", "" => 262_144;
    clusters_of_2m: 200 MiB, "-c 2097152", "" => 2_097_152;
    sectors_of_4k: 64 MiB, "-s 4096", "" => 4096;
    sectors_of_1k: 33 MiB, "-s 1024 -c 2048", "" => 2048;
    compressed: 60 MiB, "-C", ",compression" => 4096;
    indexing_off: 40 MiB, "-I -z 4", "" => 4096;
}

#[test]
fn aged() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    make(&path, 40, "", "");
    in_mount(&path, "", |mount| {
        // Small files, until the MFT has to grow between them; then holes.
        let many = mount.join("many");
        std::fs::create_dir(&many).unwrap();
        for number in 0..1500 {
            std::fs::write(
                many.join(number.to_string()),
                contents(number, number % 5000),
            )
            .unwrap();
        }
        for number in (0..1500).filter(|number| number % 7 < 3) {
            std::fs::remove_file(many.join(number.to_string())).unwrap();
        }
        // Two files that grow in turn, in pieces.
        let mut files = ["left", "right"].map(|name| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(mount.join(name))
                .unwrap()
        });
        for number in 0..400 {
            for file in &mut files {
                file.write_all(&contents(number, 4096)).unwrap();
            }
        }
        for number in 0..200 {
            std::fs::write(
                mount.join(format!("in the root {number}")),
                contents(number, 900),
            )
            .unwrap();
        }
    });
    compare(&path);
}

#[test]
fn resized() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    make(&path, 90, "", "");
    for mib in [70, 50, 85] {
        if mib == 85 {
            OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(mib << 20)
                .unwrap();
        }
        run(
            &format!("ntfsresize -f -f -b -s {}k {}", mib * 1000, path.display()),
            "y\n",
        );
        // ntfsresize asks Windows to check the volume; nobody else clears that mark.
        assert_eq!(free(&map(&FileSource::open(&path))), []);
        run(&format!("ntfsfix -d {}", path.display()), "");
        let ours = map_clean(&path);
        assert_eq!(
            filesystem(&ours).size_bytes / 512 * 512 / 1_000_000,
            mib - 1 + mib / 90
        );
        let found = free(&ours);
        assert_eq!(found, partclone_free("ntfs", &path));
        std::fs::remove_file(beside(&path, "domain")).unwrap();
        let copy = overwritten(&path, &ours);
        assert_sound(&copy);
        let (before, after) = (extract(&path), extract(&copy));
        run(
            &format!("diff -r {} {}", before.display(), after.display()),
            "",
        );
        run(
            &format!("rm -r {} {}", before.display(), after.display()),
            "",
        );
    }
}

/// The runs of a file by ntfsinfo, in sectors of 512 bytes.
fn runs_of(image: &Path, file: &str, cluster: u64) -> Vec<Extent> {
    let info = run(&format!("ntfsinfo -v {file} {}", image.display()), "");
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
    let mut runs = Vec::new();
    let data = info.split("Dumping attribute $DATA").nth(1).unwrap();
    for line in data.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, lcn, count] = words[..]
            && let (Ok(lcn), Ok(count)) = (hex(lcn), hex(count))
            && line.contains("0x")
        {
            let sectors = cluster / 512;
            runs.push(Extent {
                first: lcn * sectors,
                count: count * sectors,
            });
        }
    }
    assert!(!runs.is_empty(), "{info}");
    runs
}

fn map_without(path: &Path, content: Content) -> DiskMap {
    let options = Options {
        exclude: BTreeSet::from([content]),
        ..Options::default()
    };
    let map = diskmap::map(&FileSource::open(path), &options).unwrap();
    check(&map);
    assert_eq!(map.warnings, []);
    map
}

#[test]
fn page_and_hibernation_files_can_be_left_out() {
    if !tools() {
        return;
    }
    for cluster in [512, 4096, 65536] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        make(&path, 60, &format!("-c {cluster}"), "");
        in_mount(&path, "", |mount| {
            // In pieces, and with so many neighbours that the index leaves its root.
            tree(&mount.join("before"), 5, 30, 30_000);
            let mut files = ["PageFile.sys", "hiberfil.sys", "swapfile.sys", "other"].map(|name| {
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(mount.join(name))
                    .unwrap()
            });
            for number in 0..40 {
                for file in &mut files {
                    file.write_all(&contents(number, 20_000)).unwrap();
                }
            }
            for number in 0..300 {
                std::fs::write(mount.join(format!("neighbour{number}")), "x").unwrap();
            }
        });
        let all = compare(&path);
        let of = |names: &[&str]| -> Vec<Extent> {
            let mut runs: Vec<Extent> = names
                .iter()
                .flat_map(|name| runs_of(&path, &format!("-F {name}"), cluster))
                .collect();
            runs.sort_unstable();
            runs
        };
        let freed = |content| {
            let without = map_without(&path, content);
            assert!(is_subset(&without.saved, &all.saved));
            total(&all.saved) - total(&without.saved)
        };
        let pages = of(&["PageFile.sys", "swapfile.sys"]);
        assert_eq!(freed(Content::PageFile), total(&pages));
        let hibernation = of(&["hiberfil.sys"]);
        let head = 4096.max(cluster) / 512;
        assert_eq!(freed(Content::Hibernation), total(&hibernation) - head);
        // Overwritten they are garbage, but all others are not, and nobody is hibernated.
        let options = Options {
            exclude: BTreeSet::from([Content::PageFile, Content::Hibernation]),
            ..Options::default()
        };
        let without = diskmap::map(&FileSource::open(&path), &options).unwrap();
        std::fs::remove_file(beside(&path, "overwritten")).unwrap();
        run(&format!("rm -r {}", beside(&path, "files").display()), "");
        run(
            &format!(
                "rm -r {}",
                beside(&beside(&path, "overwritten"), "files").display()
            ),
            "",
        );
        let copy = overwritten(&path, &without);
        assert_sound(&copy);
        let (before, after) = (extract(&path), extract(&copy));
        for name in ["PageFile.sys", "hiberfil.sys", "swapfile.sys"] {
            assert_ne!(
                std::fs::read(before.join(name)).unwrap(),
                std::fs::read(after.join(name)).unwrap()
            );
            std::fs::remove_file(before.join(name)).unwrap();
            std::fs::remove_file(after.join(name)).unwrap();
        }
        run(
            &format!("diff -r {} {}", before.display(), after.display()),
            "",
        );
    }
}

#[test]
fn hibernated_systems_are_copied_raw() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    make(&path, 30, "", "");
    let state = |header: &[u8], len: usize| {
        let mut bytes = vec![0; len];
        bytes[..header.len()].copy_from_slice(header);
        in_mount(&path, ",remove_hiberfile", |mount| {
            std::fs::write(mount.join("hiberfil.sys"), bytes).unwrap();
        });
        let strict = map_strict(&FileSource::open(&path));
        if strict.is_err() {
            assert_eq!(free(&map(&FileSource::open(&path))), []);
        }
        (
            strict.err().map(|error| error.to_string()),
            reads_only(&path),
        )
    };
    for header in [&b"wake"[..], b"WAKE", &[0; 4]] {
        let (error, refused) = state(header, 100_000);
        assert_eq!((error, refused), (None, false), "{header:?}");
    }
    for (header, len) in [
        (&b"hibr"[..], 100_000),
        (b"HIBR", 100_000),
        (b"", 2000),
        (b"", 100),
    ] {
        let (error, refused) = state(header, len);
        assert!(error.unwrap().contains("hibernated"), "{header:?}");
        assert!(refused, "{header:?}");
    }
}

/// Whether ntfs-3g refuses to write to a volume.
fn reads_only(image: &Path) -> bool {
    let mut is_refused = false;
    in_mount(image, "", |mount| {
        is_refused = std::fs::write(mount.join("probe"), "x").is_err();
    });
    is_refused
}

/// A small filesystem with files, its bytes and where its parts lie.
struct Sample {
    bytes: Vec<u8>,
    free: Vec<Extent>,
    mft: usize,
    mirror: usize,
}

const RECORD: usize = 1024;

fn sample() -> Option<&'static Sample> {
    static SAMPLE: std::sync::OnceLock<Option<Sample>> = std::sync::OnceLock::new();
    let make = || {
        if !tools() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        make(&path, 30, "", "");
        let bytes = std::fs::read(&path).unwrap();
        let map = map_clean(&path);
        let cluster = |at: usize| {
            let lcn = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            usize::try_from(lcn * 4096).unwrap()
        };
        let (mft, mirror) = (cluster(0x30), cluster(0x38));
        Some(Sample {
            free: free(&map),
            mft,
            mirror,
            bytes,
        })
    };
    SAMPLE.get_or_init(make).as_ref()
}

/// The strict error after an edit, which must leave nothing free.
fn error_after(bytes: &[u8], edit: impl FnOnce(&mut [u8])) -> Cause {
    let mut bytes = bytes.to_vec();
    edit(&mut bytes);
    assert_eq!(free(&map(&bytes)), []);
    match map_strict(&bytes).unwrap_err() {
        Error::Incompatible { kind, .. } => kind.into(),
        Error::Corrupt { kind, .. } => kind.into(),
        other => panic!("{other}"),
    }
}

fn is_not_clean(cause: &Cause) -> bool {
    matches!(cause, Cause::Incompatible(Incompatible::NotClean { .. }))
}

#[test]
fn volumes_with_flags_are_copied_raw() {
    let Some(sample) = sample() else { return };
    // $VOLUME_INFORMATION: the type, 24 bytes of attribute header, then reserved and version.
    let record = &sample.bytes[sample.mft + 3 * RECORD..][..RECORD];
    let attribute = record
        .windows(8)
        .position(|bytes| bytes == [0x70, 0, 0, 0, 0x28, 0, 0, 0])
        .unwrap();
    let version = attribute + 24 + 8;
    assert_eq!(record[version..version + 4], [3, 1, 0, 0]);
    for bit in 0..16 {
        let flags = (1_u16 << bit).to_le_bytes();
        let cause = error_after(&sample.bytes, |bytes| {
            for start in [sample.mft, sample.mirror] {
                bytes[start + 3 * RECORD + version + 2..][..2].copy_from_slice(&flags);
            }
        });
        assert!(is_not_clean(&cause), "{flags:?}: {cause}");
        // In one copy only it is a contradiction.
        let cause = error_after(&sample.bytes, |bytes| {
            bytes[sample.mft + 3 * RECORD + version + 2..][..2].copy_from_slice(&flags);
        });
        assert!(matches!(cause, Cause::Corrupt(Corrupt::Structure { .. })));
    }
    let cause = error_after(&sample.bytes, |bytes| {
        for start in [sample.mft, sample.mirror] {
            bytes[start + 3 * RECORD + version] = 4;
        }
    });
    assert!(matches!(
        cause,
        Cause::Incompatible(Incompatible::Unsupported { .. })
    ));
}

/// A restart page of 4096 bytes as Windows writes it.
fn restart_page(lsn: u64, client_in_use: u16, flags: u16, version: (u16, u16)) -> Vec<u8> {
    let mut page = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"RSTR");
    put(4, &30_u16.to_le_bytes());
    put(6, &9_u16.to_le_bytes());
    put(16, &4096_u32.to_le_bytes());
    put(20, &4096_u32.to_le_bytes());
    put(24, &48_u16.to_le_bytes());
    put(26, &version.1.to_le_bytes());
    put(28, &version.0.to_le_bytes());
    // The restart area with one client, "NTFS".
    put(48, &lsn.to_le_bytes());
    put(48 + 8, &1_u16.to_le_bytes());
    put(
        48 + 10,
        &(if client_in_use == 0 { 0xffff_u16 } else { 0 }).to_le_bytes(),
    );
    put(48 + 12, &client_in_use.to_le_bytes());
    put(48 + 14, &flags.to_le_bytes());
    // 67 minus the bits of the size of the log.
    put(48 + 16, &45_u32.to_le_bytes());
    put(48 + 20, &(48_u16 + 160).to_le_bytes());
    put(48 + 22, &48_u16.to_le_bytes());
    put(48 + 24, &(2_u64 << 20).to_le_bytes());
    put(48 + 36, &48_u16.to_le_bytes());
    put(48 + 38, &64_u16.to_le_bytes());
    put(96, &lsn.to_le_bytes());
    put(96 + 8, &lsn.to_le_bytes());
    put(96 + 16, &0xffff_u16.to_le_bytes());
    put(96 + 18, &0xffff_u16.to_le_bytes());
    put(96 + 28, &8_u32.to_le_bytes());
    let name: Vec<u8> = "NTFS".encode_utf16().flat_map(u16::to_le_bytes).collect();
    put(96 + 32, &name);
    // Update sequence 1; what it replaces is zero.
    put(30, &1_u16.to_le_bytes());
    for stride in 1..=8 {
        put(stride * 512 - 2, &1_u16.to_le_bytes());
    }
    page
}

#[test]
fn only_closed_journals_are_accepted() {
    let Some(sample) = sample() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, &sample.bytes).unwrap();
    let [log] = runs_of(&path, "-i 2", 4096)[..] else {
        panic!("the journal is in pieces");
    };
    let log = usize::try_from(log.first).unwrap() * 512;
    let with = |pages: [Vec<u8>; 2]| {
        let mut bytes = sample.bytes.clone();
        for (page, at) in pages.iter().zip([log, log + 4096]) {
            bytes[at..at + 4096].copy_from_slice(page);
        }
        bytes
    };
    let clean = |lsn| restart_page(lsn, 0xffff, 0, (1, 1));
    let flagged = |lsn| restart_page(lsn, 0, 2, (1, 1));
    let open = |lsn| restart_page(lsn, 0, 0, (1, 1));
    for (pages, wanted) in [
        ([clean(8), clean(9)], true),
        ([flagged(9), flagged(8)], true),
        ([flagged(9), open(8)], true),
        ([open(8), clean(9)], true),
        ([open(9), clean(8)], false),
        ([clean(8), open(9)], false),
        ([open(8), open(9)], false),
    ] {
        let bytes = with(pages);
        assert_eq!(
            free(&map(&bytes)),
            if wanted {
                sample.free.clone()
            } else {
                Vec::new()
            }
        );
        // ntfs-3g is of the same opinion: 15 means "not shut down cleanly".
        std::fs::write(&path, &bytes).unwrap();
        let probe = Command::new("ntfs-3g.probe")
            .arg("--readwrite")
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(probe.status.code(), Some(if wanted { 0 } else { 15 }));
    }
    // Stricter than ntfs-3g: a page that was torn, or is of another version, may be the newer one.
    let mut torn = clean(9);
    torn[4094] ^= 1;
    for pages in [
        [clean(9), torn],
        [clean(9), vec![0xff; 4096]],
        [clean(9), restart_page(8, 0xffff, 0, (2, 0))],
        [vec![0xff; 4096], clean(9)],
        [clean(9), open(9)],
    ] {
        assert!(is_not_clean(&error_after(&with(pages), |_| ())));
    }
    let cause = error_after(&sample.bytes, |bytes| bytes[log + (1 << 20)] = 0);
    assert!(is_not_clean(&cause));
}

#[test]
fn contradictions_are_found() {
    let Some(sample) = sample() else { return };
    // The bitmap calls a cluster of the MFT, of its mirror or of the boot sector free.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, &sample.bytes).unwrap();
    let bitmap = usize::try_from(runs_of(&path, "-i 6", 4096)[0].first).unwrap() * 512;
    for owner in [0, sample.mft, sample.mirror, bitmap] {
        let cluster = owner / 4096;
        let cause = error_after(&sample.bytes, |bytes| {
            bytes[bitmap + cluster / 8] &= !(1 << (cluster % 8));
        });
        assert!(
            matches!(cause, Cause::Corrupt(Corrupt::Conflict { .. })),
            "{cause}"
        );
    }
    // An index block of the root directory that the tree leads to is marked unused, or is torn.
    let record = &sample.bytes[sample.mft + 5 * RECORD..][..RECORD];
    let attribute = record
        .windows(4)
        .position(|bytes| bytes == [0xb0, 0, 0, 0])
        .unwrap();
    let bits = attribute + usize::from(record[attribute + 0x14]);
    assert_eq!(record[bits] & 1, 1);
    for index_bits in [0, 0xfe] {
        let cause = error_after(&sample.bytes, |bytes| {
            bytes[sample.mft + 5 * RECORD + bits] = index_bits;
        });
        assert!(
            matches!(cause, Cause::Corrupt(Corrupt::Structure { .. })),
            "{cause}"
        );
    }
    // Its index blocks are a hole of 2^58 bytes, which would take years to look through, and no
    // entry of the index root leads there.
    let start = |kind: u8| record.windows(4).position(|bytes| bytes == [kind, 0, 0, 0]);
    let (root, blocks) = (start(0x90).unwrap(), start(0xa0).unwrap());
    let at = sample.mft + 5 * RECORD;
    let mut hole = sample.bytes.clone();
    let mut put = |offset: usize, bytes: &[u8]| {
        hole[at + offset..][..bytes.len()].copy_from_slice(bytes);
    };
    let header = root + usize::from(record[root + 0x14]) + 0x10;
    let entry = header + usize::from(record[header]);
    assert_eq!(record[entry + 12], 3);
    put(entry + 12, &[2]);
    put(bits, &[0]);
    let clusters = 1_u64 << 46;
    put(blocks + 0x0c, &0x8000_u16.to_le_bytes());
    put(blocks + 0x18, &(clusters - 1).to_le_bytes());
    for size in [0x28, 0x30, 0x38] {
        put(blocks + size, &(clusters * 4096).to_le_bytes());
    }
    let runs = blocks + usize::from(record[blocks + 0x20]);
    put(runs, &[0x06, 0, 0, 0, 0, 0, 0x40, 0]);
    let hole = map(&hole);
    check(&hole);
    assert_eq!(hole.warnings, []);
    let index = sample
        .bytes
        .windows(4)
        .step_by(512)
        .position(|bytes| bytes == b"INDX")
        .unwrap()
        * 512;
    error_after(&sample.bytes, |bytes| bytes[index + 510] ^= 1);
    // The boot sector contradicts its backup, the mirror the MFT.
    for at in [0x0d, 0x30, 0x38, 0x40] {
        error_after(&sample.bytes, |bytes| bytes[at] ^= 1);
    }
    error_after(&sample.bytes, |bytes| bytes[sample.mirror + 0x30] ^= 1);
    // Its partition ends too early, a restart page is torn, another owner left a signature.
    assert_eq!(free(&map(&sample.bytes[..20 << 20].to_vec())), []);
    let cause = error_after(&sample.bytes, |bytes| {
        bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
    });
    assert!(matches!(
        cause,
        Cause::Incompatible(Incompatible::Ambiguous { .. })
    ));
}

#[test]
fn what_others_made() {
    let directory = tempfile::tempdir().unwrap();
    if !tools() {
        return;
    }
    for (name, number) in [("ntfs", 1), ("multiple", 4)] {
        let Some(disk) = forensics_sample(directory.path(), name) else {
            return;
        };
        let map = map(&FileSource::open(&disk));
        assert_eq!(map.table, TableKind::Mbr);
        let found = map
            .partitions
            .iter()
            .find(|found| found.number == number)
            .unwrap();
        let part = cut_out(&disk, found.first, found.count);
        let inner = compare(&part);
        assert_eq!(found.contents.filesystem.as_ref(), Some(filesystem(&inner)));
        assert_eq!(found.saved_sectors, total(&inner.saved));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), cases: 200, ..ProptestConfig::default() })]

    /// Damage to what exists twice never frees what was in use.
    #[test]
    fn damage_to_mirrored_records_frees_nothing(at in 0..4 * RECORD, boot in any::<bool>(), value in any::<u8>()) {
        let Some(sample) = sample() else { return Ok(()) };
        let mut bytes = sample.bytes.clone();
        let place = if boot { at % 512 } else { sample.mft + at };
        bytes[place] = value;
        let map = map(&bytes);
        check(&map);
        prop_assert!(is_subset(&free(&map), &sample.free), "byte {} = {:#x}", place, value);
    }

    /// Whatever the other records of the system files say, the map is a map.
    #[test]
    fn damage_to_records_does_not_panic(edits in prop::collection::vec((4 * RECORD..12 * RECORD, any::<u8>()), 1..6)) {
        let Some(sample) = sample() else { return Ok(()) };
        let mut bytes = sample.bytes.clone();
        for (at, value) in edits {
            bytes[sample.mft + at] = value;
        }
        check(&map(&bytes));
    }
}
