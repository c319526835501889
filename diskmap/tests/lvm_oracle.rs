//! Logical volumes by LVM's own tools, with filesystems in them.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{FileSource, check, free, has_tool, is_root, make_ext, map, run, skip, sparse};
use diskmap::{Cause, DiskMap, Extent, Incompatible};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Physical volumes on loop devices, and an LVM that sees no others.
struct Lvm {
    directory: tempfile::TempDir,
    images: Vec<PathBuf>,
    loops: Vec<String>,
}

/// A piece of a logical volume, or free extents; in bytes of the physical volume.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Segment {
    /// Empty if free.
    volume: String,
    /// Extent of the logical volume.
    position: u64,
    place: Extent,
}

impl Lvm {
    /// Makes `count` physical volumes of 400 MiB; `None` if that cannot be done here.
    fn new(count: usize, pvcreate: &str) -> Option<Self> {
        if !is_root() {
            skip("loop devices need root");
            return None;
        }
        if !["lvm", "losetup", "mke2fs", "debugfs"]
            .into_iter()
            .all(has_tool)
        {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut lvm = Self {
            directory,
            images: Vec::new(),
            loops: Vec::new(),
        };
        for number in 0..count {
            let image = lvm.path(&format!("pv{number}"));
            sparse(&image, 400 * MIB);
            let name = run(&format!("losetup -f --show {}", image.display()), "");
            lvm.loops.push(name.trim().to_owned());
            lvm.images.push(image);
        }
        lvm.configure(&lvm.loops);
        for device in lvm.loops.clone() {
            lvm.run(&format!("pvcreate -y {pvcreate} {device}"));
        }
        Some(lvm)
    }

    /// Lets LVM see these devices and no others.
    fn configure(&self, devices: &[String]) {
        let filter: String = devices
            .iter()
            .map(|name| format!("\"a|^{name}$|\", "))
            .collect();
        let config = format!(
            "devices {{ use_devicesfile = 0 filter = [ {filter} \"r|.*|\" ] }}\n\
             activation {{ udev_sync = 0 udev_rules = 0 monitoring = 0 }}\n\
             global {{ use_lvmpolld = 0 locking_dir = \"{0}\" event_activation = 0 }}\n\
             backup {{ backup = 0 archive = 0 }}\n",
            self.path("lock").display()
        );
        std::fs::write(self.path("lvm.conf"), config).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a command of LVM that needs no device mapper.
    fn run(&self, line: &str) -> String {
        let system = self.directory.path().display();
        run(
            &format!(
                "env LVM_SUPPRESS_FD_WARNINGS=1 LVM_SYSTEM_DIR={system} lvm {line} --driverloaded n"
            ),
            "",
        )
    }

    fn vgcreate(&self, options: &str) {
        self.run(&format!("vgcreate {options} vg {}", self.loops.join(" ")));
    }

    fn lvcreate(&self, options: &str) {
        self.run(&format!(
            "lvcreate -an --zero n --wipesignatures n {options} vg"
        ));
    }

    /// The segments of a physical volume, as `pvs` lists them; sorted by volume and position.
    fn segments(&self, index: usize) -> Vec<Segment> {
        let fields = "pe_start,vg_extent_size,pvseg_start,pvseg_size,seg_start_pe,lv_full_name";
        let text = self.run(&format!(
            "pvs --segments --noheadings --separator , --units b --nosuffix -a -o {fields} {}",
            self.loops[index]
        ));
        let mut list: Vec<Segment> = text
            .lines()
            .filter(|line| line.contains(','))
            .map(|line| {
                let words: Vec<&str> = line.trim().split(',').collect();
                let number = |index: usize| words[index].parse::<u64>().unwrap_or(0);
                Segment {
                    // Free extents have the name of the group alone.
                    volume: words[5].trim_end_matches("vg/").to_owned(),
                    position: number(4),
                    place: Extent {
                        first: number(0) + number(2) * number(1),
                        count: number(3) * number(1),
                    },
                }
            })
            .collect();
        list.sort_unstable();
        list
    }

    /// Where a logical volume lies on the first physical volume.
    fn pieces(&self, volume: &str) -> Vec<Extent> {
        let segments = self.segments(0).into_iter();
        let pieces: Vec<Extent> = segments
            .filter(|segment| segment.volume == volume)
            .map(|segment| segment.place)
            .collect();
        assert!(!pieces.is_empty());
        pieces
    }

    /// Makes a filesystem in a file, then puts it into a logical volume.
    fn fill(&self, volume: &str, make: impl FnOnce(&Path, u64)) {
        let pieces = self.pieces(volume);
        let path = self.path("volume");
        make(&path, pieces.iter().map(|piece| piece.count).sum());
        let from = std::fs::File::open(&path).unwrap();
        let to = std::fs::OpenOptions::new()
            .write(true)
            .open(&self.images[0])
            .unwrap();
        copy(
            &from,
            &to,
            pieces.iter().scan(0, |at, piece| {
                let start = *at;
                *at += piece.count;
                Some((start, piece.first, piece.count))
            }),
        );
        to.sync_all().unwrap();
    }

    /// The contents of a logical volume in `image`, as a file.
    fn extract(&self, image: &Path, volume: &str) -> PathBuf {
        let pieces = self.pieces(volume);
        let path = self.path("extracted");
        sparse(&path, pieces.iter().map(|piece| piece.count).sum());
        let from = std::fs::File::open(image).unwrap();
        let to = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        copy(
            &from,
            &to,
            pieces.iter().scan(0, |at, piece| {
                let start = *at;
                *at += piece.count;
                Some((piece.first, start, piece.count))
            }),
        );
        path
    }

    /// Compares the map of the first physical volume with LVM, and with the maps of the volumes
    /// `parsed` by themselves.
    fn compare(&self, parsed: &[&str]) -> DiskMap {
        let image = &self.images[0];
        let map = map(&FileSource::open(image));
        check(&map);
        assert_eq!(map.warnings, []);
        let partition = &map.partitions[0];
        assert_eq!(partition.contents.kind, "LVM");
        let filesystem = partition.contents.filesystem.as_ref().unwrap();
        assert_eq!(filesystem.label.as_deref(), Some("vg"));
        let uuid = run(
            &format!("blkid -p -o value -s UUID {}", image.display()),
            "",
        );
        assert_eq!(filesystem.uuid.as_deref(), Some(uuid.trim()));

        let mut expected = vec![false; map.disk_sectors as usize];
        let mut mark = |first: u64, count: u64| {
            expected[(first / SECTOR) as usize..((first + count) / SECTOR) as usize].fill(true);
        };
        let segments = self.segments(0);
        for segment in segments.iter().filter(|segment| segment.volume.is_empty()) {
            mark(segment.place.first, segment.place.count);
        }
        for volume in parsed {
            let alone = common::map(&FileSource::open(&self.extract(image, volume)));
            assert_eq!(alone.warnings, []);
            let pieces = self.pieces(volume);
            for run in free(&alone) {
                for sector in run.first..run.end() {
                    let mut at = sector * SECTOR;
                    let piece = pieces.iter().find(|piece| {
                        let inside = at < piece.count;
                        at -= if inside { 0 } else { piece.count };
                        inside
                    });
                    mark(piece.unwrap().first + at, SECTOR);
                }
            }
        }
        let mut found = vec![false; map.disk_sectors as usize];
        for run in free(&map) {
            found[run.first as usize..run.end() as usize].fill(true);
        }
        assert!(found == expected);
        let mut names: Vec<&str> = segments
            .iter()
            .map(|segment| segment.volume.as_str())
            .collect();
        names.retain(|name| !name.is_empty());
        names.dedup();
        for volume in &partition.volumes {
            assert!(names.contains(&volume.name.as_str()), "{}", volume.name);
            let is_parsed = parsed.contains(&volume.name.as_str());
            assert_eq!(volume.contents.raw.is_none(), is_parsed, "{volume:?}");
        }
        assert_eq!(partition.volumes.len(), names.len());
        map
    }

    /// A copy whose free space is garbage.
    fn overwritten(&self, map: &DiskMap) -> PathBuf {
        let copy = self.path("copy");
        run(
            &format!(
                "cp --sparse=always {} {}",
                self.images[0].display(),
                copy.display()
            ),
            "",
        );
        let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
        for run in free(map) {
            let mut at = run.first;
            while at < run.end() {
                let count = (run.end() - at).min(2048);
                file.write_all_at(&vec![0xaa; (count * SECTOR) as usize], at * SECTOR)
                    .unwrap();
                at += count;
            }
        }
        copy
    }

    /// Puts an edited text in place of the group's.
    fn edit(&self, edit: impl FnOnce(String) -> String) {
        let path = self.path("text");
        self.run(&format!("vgcfgbackup -f {} vg", path.display()));
        let text = edit(std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, text).unwrap();
        self.run(&format!("vgcfgrestore --force -y -f {} vg", path.display()));
    }
}

impl Drop for Lvm {
    fn drop(&mut self) {
        for device in &self.loops {
            run(&format!("losetup -d {device}"), "");
        }
    }
}

/// Copies pieces: from, to, bytes.
fn copy(from: &std::fs::File, to: &std::fs::File, pieces: impl Iterator<Item = (u64, u64, u64)>) {
    for (source, target, count) in pieces {
        let mut done = 0;
        while done < count {
            let mut bytes = vec![0; (count - done).min(MIB) as usize];
            from.read_exact_at(&mut bytes, source + done).unwrap();
            to.write_all_at(&bytes, target + done).unwrap();
            done += bytes.len() as u64;
        }
    }
}

fn ext4(path: &Path, bytes: u64) {
    let _ = std::fs::remove_dir_all(path.with_extension("d"));
    make_ext(path, bytes, "-t ext4 -b 1024");
}

/// The sums of all files of an ext filesystem, which must be sound.
fn ext_files(path: &Path) -> String {
    run(&format!("e2fsck -fn {}", path.display()), "");
    let out = path.with_extension("out");
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir(&out).unwrap();
    run(
        &format!("debugfs -f - {}", path.display()),
        &format!("rdump / {}\n", out.display()),
    );
    let list = run(
        &format!("find {} -type f -exec sha256sum {{}} +", out.display()),
        "",
    );
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    assert!(lines.len() >= 16);
    lines.join("\n")
}

/// Compares and proves with a copy: the volumes `ext` hold ext filesystems.
fn prove(lvm: &Lvm, parsed: &[&str], ext: &[&str]) {
    let map = lvm.compare(parsed);
    let copy = lvm.overwritten(&map);
    for volume in ext {
        let before = ext_files(&lvm.extract(&lvm.images[0], volume));
        assert_eq!(ext_files(&lvm.extract(&copy, volume)), before);
    }
    // LVM reads the same from the copy.
    let before = lvm.run("vgs --noheadings -o vg_uuid,vg_seqno,vg_free vg");
    let mut devices = lvm.loops.clone();
    devices[0] = run(&format!("losetup -f --show {}", copy.display()), "")
        .trim()
        .to_owned();
    lvm.configure(&devices);
    let after = lvm.run("vgs --noheadings -o vg_uuid,vg_seqno,vg_free vg");
    lvm.run("vgck vg");
    run(&format!("losetup -d {}", devices[0]), "");
    lvm.configure(&lvm.loops);
    assert_eq!(before, after);
}

#[test]
fn one_volume() {
    let Some(lvm) = Lvm::new(1, "") else { return };
    lvm.vgcreate("-s 4M");
    lvm.lvcreate("-l 20 -n root");
    lvm.fill("vg/root", ext4);
    prove(&lvm, &["vg/root"], &["vg/root"]);
}

#[test]
fn small_extents_two_copies_and_holes() {
    let Some(lvm) = Lvm::new(1, "--pvmetadatacopies 2 --dataalignment 64k") else {
        return;
    };
    lvm.vgcreate("-s 4k");
    for (name, extents) in [("a", 3001), ("b", 4003), ("c", 5009)] {
        lvm.lvcreate(&format!("-l {extents} -n {name}"));
    }
    for round in 0..6 {
        lvm.run(&format!("lvextend -l +{} vg/a", 1001 + round));
        lvm.run(&format!("lvextend -l +{} vg/c", 701 + round));
    }
    lvm.run("lvremove -f vg/b");
    // It goes to the hole first.
    lvm.run("lvextend -l +2000 vg/c");
    lvm.fill("vg/a", ext4);
    lvm.fill("vg/c", ext4);
    assert!(lvm.pieces("vg/a").len() > 5);
    prove(&lvm, &["vg/a", "vg/c"], &["vg/a", "vg/c"]);
}

#[test]
fn filesystems_of_other_kinds() {
    let Some(lvm) = Lvm::new(1, "") else { return };
    if !["mkfs.btrfs", "btrfs", "mkswap"].into_iter().all(has_tool) {
        return;
    }
    lvm.vgcreate("-s 1M");
    lvm.lvcreate("-l 60 -n fs");
    lvm.lvcreate("-l 10 -n swap");
    lvm.run("lvextend -l +80 vg/fs");
    lvm.fill("vg/fs", |path, bytes| {
        sparse(path, bytes);
        run(&format!("mkfs.btrfs -q -f {}", path.display()), "");
    });
    lvm.fill("vg/swap", |path, bytes| {
        sparse(path, bytes);
        run(&format!("mkswap {}", path.display()), "");
    });
    let map = lvm.compare(&["vg/fs", "vg/swap"]);
    let kinds: Vec<&str> = map.partitions[0]
        .volumes
        .iter()
        .map(|volume| volume.contents.kind)
        .collect();
    assert_eq!(kinds, ["Btrfs", "swap"]);
    let copy = lvm.overwritten(&map);
    let copy = lvm.extract(&copy, "vg/fs");
    run(&format!("btrfs check --readonly {}", copy.display()), "");
}

#[test]
fn xfs_in_two_pieces() {
    let Some(lvm) = Lvm::new(1, "") else { return };
    if !["mkfs.xfs", "xfs_repair"].into_iter().all(has_tool) {
        return;
    }
    lvm.vgcreate("-s 1M");
    lvm.lvcreate("-l 200 -n fs");
    lvm.lvcreate("-l 10 -n between");
    lvm.run("lvextend -l +130 vg/fs");
    lvm.fill("vg/fs", |path, bytes| {
        sparse(path, bytes);
        run(&format!("mkfs.xfs -q {}", path.display()), "");
    });
    let map = lvm.compare(&["vg/fs"]);
    let copy = lvm.overwritten(&map);
    let copy = lvm.extract(&copy, "vg/fs");
    run(&format!("xfs_repair -n {}", copy.display()), "");
}

#[test]
fn what_spans_physical_volumes_is_saved() {
    let Some(lvm) = Lvm::new(2, "") else { return };
    lvm.vgcreate("-s 4M");
    lvm.lvcreate("-l 20 -n here");
    lvm.lvcreate("-i 2 -l 20 -n stripes");
    // More than is left on either.
    lvm.lvcreate("-l 110 -n both");
    lvm.fill("vg/here", ext4);
    prove(&lvm, &["vg/here"], &["vg/here"]);
}

/// The disk of a virtual machine over an older filesystem: the superblock at byte 1024 is still
/// there.
#[test]
fn a_volume_with_partitions_is_saved() {
    let Some(lvm) = Lvm::new(1, "") else { return };
    if !has_tool("sfdisk") {
        return;
    }
    lvm.vgcreate("-s 4M");
    for label in ["dos", "gpt"] {
        lvm.lvcreate(&format!("-l 20 -n {label}"));
        lvm.fill(&format!("vg/{label}"), |path, bytes| {
            ext4(path, bytes);
            run(
                &format!("sfdisk -q --wipe never {}", path.display()),
                &format!("label: {label}\n2048,\n"),
            );
            // GPT entries overwrite the superblock; here it comes after them.
            if label == "gpt" {
                let other = path.with_extension("other");
                ext4(&other, bytes);
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                copy(
                    &std::fs::File::open(&other).unwrap(),
                    &file,
                    [(1024, 1024, 1024)].into_iter(),
                );
            }
        });
    }
    lvm.lvcreate("-l 20 -n plain");
    lvm.fill("vg/plain", ext4);
    prove(&lvm, &["vg/plain"], &["vg/plain"]);
}

/// Snapshots, pools and hidden volumes: the device mapper is needed to make them, but not to
/// describe them.
#[test]
fn what_others_are_made_from_is_saved() {
    let Some(lvm) = Lvm::new(1, "") else { return };
    lvm.vgcreate("-s 4M");
    for name in ["plain", "origin", "cow", "tdata", "tmeta", "spare"] {
        lvm.lvcreate(&format!("-l 8 -n {name}"));
    }
    for name in ["vg/plain", "vg/origin", "vg/tdata"] {
        lvm.fill(name, ext4);
    }
    lvm.compare(&["vg/plain", "vg/origin", "vg/tdata"]);
    lvm.edit(|text| {
        let text = text
            .replace("\t\ttdata {", "\t\tpool_tdata {")
            .replace("\t\ttmeta {", "\t\tpool_tmeta {")
            .replace("\t\tspare {", "\t\tlvol0_pmspare {");
        let mut result = String::new();
        let mut volume = "";
        for line in text.lines() {
            if let Some(name) = line
                .strip_prefix("\t\t")
                .and_then(|rest| rest.strip_suffix(" {"))
            {
                volume = if name.starts_with('\t') { volume } else { name };
            }
            let hidden = ["cow", "pool_tdata", "pool_tmeta", "lvol0_pmspare"].contains(&volume);
            if hidden && line.contains("status = ") {
                result += "\t\t\tstatus = [\"READ\", \"WRITE\"]\n";
            } else {
                result += line;
                result.push('\n');
            }
            if line.starts_with("\tlogical_volumes {") {
                result += SNAPSHOT_AND_POOL;
            }
        }
        result
    });
    prove(&lvm, &["vg/plain"], &["vg/plain"]);
    let segments = lvm.segments(0);
    assert!(
        segments
            .iter()
            .any(|segment| segment.volume.contains("tdata"))
    );
}

const SNAPSHOT_AND_POOL: &str = r#"
		snapshot0 {
			id = "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa"
			status = ["READ", "WRITE"]
			flags = []
			segment_count = 1

			segment1 {
				start_extent = 0
				extent_count = 8

				type = "snapshot"
				chunk_size = 8
				origin = "origin"
				cow_store = "cow"
			}
		}
		pool {
			id = "bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb"
			status = ["READ", "WRITE", "VISIBLE"]
			flags = []
			segment_count = 1

			segment1 {
				start_extent = 0
				extent_count = 8

				type = "thin-pool"
				metadata = "pool_tmeta"
				pool = "pool_tdata"
				transaction_id = 0
				chunk_size = 128
				discards = "passdown"
				zero_new_blocks = 1
			}
		}
"#;

/// Why nothing of the first physical volume is free.
fn reason(lvm: &Lvm) -> Cause {
    let map = map(&FileSource::open(&lvm.images[0]));
    assert_eq!(free(&map), []);
    let [warning] = &map.warnings[..] else {
        panic!("{:?}", map.warnings)
    };
    warning.cause.clone()
}

fn is_unsupported(cause: &Cause) -> bool {
    matches!(cause, Cause::Incompatible(Incompatible::Unsupported { .. }))
}

#[test]
fn without_a_usual_group_it_is_raw() {
    let Some(lvm) = Lvm::new(2, "") else { return };
    assert!(is_unsupported(&reason(&lvm)), "no group yet");
    lvm.vgcreate("-s 4M");
    lvm.lvcreate("-l 20 -n root");
    lvm.fill("vg/root", ext4);
    lvm.compare(&["vg/root"]);
    lvm.run("vgexport vg");
    assert!(is_unsupported(&reason(&lvm)), "exported");
    lvm.run("vgimport vg");
    lvm.compare(&["vg/root"]);
    lvm.run(&format!("pvchange --metadataignore y -y {}", lvm.loops[0]));
    assert!(
        is_unsupported(&reason(&lvm)),
        "metadata on the other one only"
    );
}

/// LVM's checksum, bit by bit.
fn lvm_crc(bytes: &[u8]) -> u32 {
    let mut crc = 0xf597_a6cf_u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

/// The first metadata area: its header and its text.
struct Area {
    header: Vec<u8>,
    text: Vec<u8>,
}

const AREA: u64 = 4096;

impl Area {
    fn read(image: &Path) -> Self {
        let file = std::fs::File::open(image).unwrap();
        let mut header = vec![0; 512];
        file.read_exact_at(&mut header, AREA).unwrap();
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let mut text = vec![0; number(48) as usize];
        file.read_exact_at(&mut text, AREA + number(40)).unwrap();
        Self { header, text }
    }

    fn size(&self) -> u64 {
        u64::from_le_bytes(self.header[32..40].try_into().unwrap())
    }

    /// Writes the text to `offset`, around the end of the ring, with good checksums.
    fn write(&mut self, image: &Path, offset: u64) {
        let size = self.size();
        self.header[40..48].copy_from_slice(&offset.to_le_bytes());
        self.header[48..56].copy_from_slice(&(self.text.len() as u64).to_le_bytes());
        let crc = lvm_crc(&self.text);
        self.header[56..60].copy_from_slice(&crc.to_le_bytes());
        let crc = lvm_crc(&self.header[4..]);
        self.header[..4].copy_from_slice(&crc.to_le_bytes());
        let file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
        file.write_all_at(&self.header, AREA).unwrap();
        let behind = (size - offset).min(self.text.len() as u64);
        let (first, rest) = self.text.split_at(behind as usize);
        file.write_all_at(first, AREA + offset).unwrap();
        file.write_all_at(rest, AREA + 512).unwrap();
    }

    fn replace(&mut self, from: &str, to: &str) {
        let text = String::from_utf8(self.text.clone()).unwrap();
        assert!(text.contains(from), "{from}");
        self.text = text.replacen(from, to, 1).into_bytes();
    }
}

#[test]
fn metadata_around_the_end_of_the_ring() {
    let Some(lvm) = Lvm::new(1, "") else { return };
    lvm.vgcreate("-s 4M");
    lvm.lvcreate("-l 20 -n root");
    lvm.fill("vg/root", ext4);
    let mut area = Area::read(&lvm.images[0]);
    let offset = area.size() - 512;
    area.write(&lvm.images[0], offset);
    lvm.compare(&["vg/root"]);
}

#[test]
fn what_the_text_must_not_say() {
    let Some(lvm) = Lvm::new(1, "") else { return };
    lvm.vgcreate("-s 4M");
    lvm.lvcreate("-l 20 -n one");
    lvm.lvcreate("-l 20 -n two");
    lvm.compare(&[]);
    let image = &lvm.images[0];
    for (from, to) in [
        ("\"pv0\", 20", "\"pv0\", 19"),
        ("\"pv0\", 20", "\"pv0\", 80"),
        ("\"pv0\", 20", "\"pv0\", 18446744073709551615"),
        ("\"pv0\", 20", "\"pv0\", 9223372036854775807"),
        ("\"pv0\", 20", "\"pv1\", 20"),
        ("\"pv0\", 20", "\"pv0\", -1"),
        ("\"pv0\", 20", "\"pv0\", 20, \"pv0\", 50"),
        ("stripe_count = 1", "stripe_count = 0"),
        ("stripe_count = 1", "stripe_count = 3"),
        ("type = \"striped\"", "type = \"magic\""),
        ("type = \"striped\"", "type = \"mirror\""),
        ("extent_count = 20", "extent_count = 0"),
        ("start_extent = 0", "start_extent = 1"),
        ("segment_count = 1", "segment_count = 2"),
        ("segment1", "segment2"),
        ("pe_start = 2048", "pe_start = 4096"),
        ("pe_count = 99", "pe_count = 990"),
        ("pe_count = 99", "pe_count = 9223372036854775807"),
        ("extent_size = 8192", "extent_size = 0"),
        ("extent_size = 8192", "extent_size = 9223372036854775807"),
        ("\"RESIZEABLE\"", "\"PARTIAL\""),
        ("\"ALLOCATABLE\"", "\"EXPORTED\""),
        ("logical_volumes {", "illogical_volumes {"),
        ("contents = \"Text Format", "contents = \"Other Format"),
        ("\ntwo {", "\none {"),
        ("seqno", "\"seqno"),
    ] {
        let mut area = Area::read(image);
        let before = Area::read(image);
        area.replace(from, to);
        area.write(image, 8192);
        reason(&lvm);
        let mut area = before;
        area.write(image, 8192);
        lvm.compare(&[]);
    }
    // A change that was begun.
    let mut area = Area::read(image);
    area.header[64] = 1;
    area.write(image, 8192);
    assert!(matches!(
        reason(&lvm),
        Cause::Incompatible(Incompatible::NotClean { .. })
    ));
}

#[test]
fn damage_makes_it_raw() {
    let Some(lvm) = Lvm::new(1, "--pvmetadatacopies 2") else {
        return;
    };
    lvm.vgcreate("-s 4M");
    lvm.lvcreate("-l 20 -n root");
    lvm.fill("vg/root", ext4);
    lvm.compare(&["vg/root"]);
    let image = &lvm.images[0];
    let area = Area::read(image);
    let number = |at: usize| u64::from_le_bytes(area.header[at..at + 8].try_into().unwrap());
    let text = AREA + number(40)..AREA + number(40) + number(48);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    for at in (520..1024)
        .step_by(3)
        .chain((AREA..AREA + 512).step_by(5))
        .chain(text.step_by(17))
    {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        assert_eq!(free(&map(&FileSource::open(image))), [], "{at}");
        file.write_all_at(&byte, at).unwrap();
    }
    // An older text in the first area, as after a crash between the two.
    let mut area = Area::read(image);
    area.replace("seqno = 2", "seqno = 1");
    area.write(image, 8192);
    reason(&lvm);
}
