//! Disks that nobody here has made: examples for forensics, and the damaged filesystems with which others test their
//! checkers. What is left out of an image may change nothing that anybody sees.
//!
//! `testdata/diskmap/foreign` has a part of e2fsprogs' images; with `E2FSPROGS_TESTS` and `BTRFS_PROGS_TESTS` naming
//! the directories `tests` of unpacked sources, all of them are looked at.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use diskmap::{DiskMap, Options, ReadAt};
use e2e::command::{run, system};
use e2e::ext::Mount;
use e2e::files;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::packages;
use e2e::scratch;
use nix::mount::MsFlags;

/// Images above this many bytes are not looked at.
const LARGEST: u64 = 4 << 30;

struct Source {
    file: File,
    bytes: u64,
}

impl ReadAt for Source {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Maps a disk whose length may not be whole sectors: what is too much is cut off.
fn map(disk: &Path) -> Result<DiskMap> {
    let file = File::options().read(true).write(true).open(disk)?;
    let bytes = file.metadata()?.len().next_multiple_of(512);
    file.set_len(bytes)?;
    Ok(diskmap::map(&Source { file, bytes }, &Options::default())?)
}

/// Exchanges what the map does not save for `dirt`, or for zeros. Returns the bytes that are left.
fn forget(map: &DiskMap, disk: &Path, dirt: u8) -> Result<u64> {
    let (old, new) = (File::open(disk)?, disk.with_extension("restored"));
    let restored = File::create(&new)?;
    let bytes = map.disk_sectors * 512;
    restored.set_len(bytes)?;
    let mut buffer = vec![dirt; 1 << 20];
    if dirt != 0 {
        for at in (0..bytes).step_by(buffer.len()) {
            let length = buffer.len().min(usize::try_from(bytes - at)?);
            restored.write_all_at(&buffer[..length], at)?;
        }
    }
    let mut saved = 0;
    for run in &map.saved {
        let (mut at, end) = (run.first * 512, run.end() * 512);
        saved += end - at;
        while at < end {
            let length = usize::try_from((end - at).min(1 << 20))?;
            old.read_exact_at(&mut buffer[..length], at)?;
            // Zeros stay holes, where they can.
            if dirt != 0 || buffer[..length].iter().any(|&byte| byte != 0) {
                restored.write_all_at(&buffer[..length], at)?;
            }
            at += length as u64;
        }
    }
    fs::rename(new, disk)?;
    Ok(saved)
}

/// Unpacks by the program for the ending of the name.
fn unpack(packed: &Path, to: &Path) -> Result<()> {
    let ending = packed.extension().unwrap_or_default().to_string_lossy();
    let program = match &*ending {
        "gz" => "gzip",
        "bz2" => "bzip2",
        "xz" => "xz",
        _ => {
            fs::copy(packed, to)?;
            return Ok(());
        }
    };
    let mut command = system(program)?;
    command.arg("-dc").arg(packed).stdout(File::create(to)?);
    ensure!(command.status()?.success(), "{}", packed.display());
    Ok(())
}

/// What a checker says of a disk, and how it ends.
fn verdict(program: &str, options: &[&str], disk: &Path) -> Result<String> {
    let mut command = system(program)?;
    command.args(options).arg(disk);
    let outcome = run(command)?;
    // Some of them make e2fsck crash, each time at other addresses.
    let errors = outcome.stderr.lines().filter(|line| !line.contains("0x"));
    let errors: Vec<&str> = errors.collect();
    Ok(format!(
        "{}\n{}\n{}",
        outcome.status,
        outcome.stdout_text(),
        errors.join("\n")
    ))
}

/// How images of one collection were treated.
#[derive(Debug, Default)]
struct Tally {
    images: u32,
    /// With free space that was left out.
    mapped: u32,
    raw: u32,
    differ: Vec<String>,
}

/// Checks that a checker says of a disk the same before and after what is free has become zero.
fn compare(
    tally: &mut Tally,
    name: &str,
    disk: &Path,
    program: &str,
    options: &[&str],
) -> Result<()> {
    let map = map(disk).with_context(|| name.to_owned())?;
    tally.images += 1;
    if map.saved.iter().map(|run| run.count).sum::<u64>() == map.disk_sectors {
        tally.raw += 1;
        return Ok(());
    }
    tally.mapped += 1;
    let before = verdict(program, options, disk)?;
    forget(&map, disk, 0)?;
    let after = verdict(program, options, disk)?;
    if before != after {
        tally
            .differ
            .push(format!("{name}:\n--- before\n{before}\n--- after\n{after}"));
    }
    Ok(())
}

/// All files below a directory with one of these endings.
fn images(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = files::tree(directory)?
        .into_iter()
        .filter(|(path, entry)| {
            let name = path.to_string_lossy();
            entry.content.is_some() && endings.iter().any(|ending| name.ends_with(ending))
        })
        .map(|(path, _)| directory.join(path))
        .collect();
    found.sort();
    Ok(found)
}

fn e2fsprogs(directory: &Path) -> Result<Tally> {
    let place = scratch::directory()?;
    let disk = place.path().join("disk");
    let mut tally = Tally::default();
    for image in images(directory, &["image.gz", "image.bz2", ".image.gz"])? {
        unpack(&image, &disk)?;
        let name = image.display().to_string();
        compare(&mut tally, &name, &disk, "e2fsck", &["-f", "-n"])?;
    }
    Ok(tally)
}

/// A part of e2fsprogs' images: filesystems with almost everything wrong that can be.
#[test]
fn damaged_ext_filesystems() -> Result<()> {
    if !need::met(&[Need::Tool("e2fsck"), Need::Tool("gzip")]) {
        return Ok(());
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/diskmap/foreign/e2fsprogs");
    let tally = e2fsprogs(&own)?;
    ensure!(tally.differ.is_empty(), "{}", tally.differ.join("\n"));
    ensure!(tally.images > 100 && tally.mapped > 20, "{tally:?}");
    if let Some(all) = std::env::var_os("E2FSPROGS_TESTS") {
        let tally = e2fsprogs(Path::new(&all))?;
        println!(
            "{} images, {} mapped, {} raw",
            tally.images, tally.mapped, tally.raw
        );
        ensure!(tally.differ.is_empty(), "{}", tally.differ.join("\n"));
    }
    Ok(())
}

/// The images of btrfs-progs, if they are there.
#[test]
fn damaged_btrfs_filesystems() -> Result<()> {
    let Some(directory) = std::env::var_os("BTRFS_PROGS_TESTS") else {
        return Ok(());
    };
    let place = scratch::directory()?;
    let (packed, disk) = (place.path().join("packed"), place.path().join("disk"));
    let mut tally = Tally::default();
    let endings = [".raw.xz", ".raw", ".img", ".img.xz"];
    for image in images(Path::new(&directory), &endings)? {
        let name = image.display().to_string();
        unpack(&image, &packed)?;
        let _ = fs::remove_file(&disk);
        if name.contains(".img") {
            let mut restore = system("btrfs-image")?;
            restore.arg("-r").arg(&packed).arg(&disk);
            if !run(restore)?.status.success() {
                println!("btrfs-image cannot restore {name}");
                continue;
            }
        } else {
            fs::rename(&packed, &disk)?;
        }
        if fs::metadata(&disk)?.len() <= LARGEST {
            compare(&mut tally, &name, &disk, "btrfs", &["check", "--readonly"])?;
        }
    }
    println!(
        "{} images, {} mapped, {} raw",
        tally.images, tally.mapped, tally.raw
    );
    ensure!(tally.differ.is_empty(), "{}", tally.differ.join("\n"));
    Ok(())
}

/// The files of a filesystem on a disk, by The Sleuth Kit, or the kernel.
fn recovered(
    disk: &Path,
    first_sector: u64,
    kind: &str,
) -> Result<BTreeMap<PathBuf, files::Entry>> {
    if kind == "Btrfs" {
        let device = LoopDevice::read_only(disk, first_sector * 512)?;
        return files::tree(Mount::of("btrfs", device.path(), MsFlags::MS_RDONLY, "")?.path());
    }
    let directory = scratch::directory()?;
    let mut command = system("tsk_recover")?;
    command.args(["-a", "-o", &first_sector.to_string()]);
    command.arg(disk).arg(directory.path());
    run(command)?.success()?;
    files::tree(directory.path())
}

/// The filesystems of the examples have many deleted files: these go, the others stay.
fn example(name: &str, kinds: &[&str]) -> Result<()> {
    let packed = format!("/usr/share/forensics-samples/fs.{name}.xz");
    let needs = [Need::Loop, Need::Tool("xz"), Need::Tool("tsk_recover")];
    if !need::met(&needs) {
        return Ok(());
    }
    // The packages of the others are too large to be fetched for this.
    if name == "multiple" {
        if !need::met(&[Need::Tool(packages::SEVERAL_FILESYSTEMS)]) {
            return Ok(());
        }
    } else if !Path::new(&packed).exists() {
        println!("skipped: {packed} is not there (Debian package forensics-samples-{name})");
        return Ok(());
    }
    let place = scratch::directory()?;
    let disk = place.path().join("disk");
    unpack(Path::new(&packed), &disk)?;
    let map = map(&disk)?;
    let found: Vec<&str> = map
        .partitions
        .iter()
        .map(|partition| partition.contents.kind)
        .collect();
    ensure!(found == kinds, "{found:?}, {:?}", map.warnings);
    let trees = |disk: &Path| -> Result<Vec<_>> {
        let partitions = map
            .partitions
            .iter()
            .filter(|found| found.contents.filesystem.is_some());
        partitions
            .map(|found| recovered(disk, found.first, found.contents.kind))
            .collect()
    };
    let before = trees(&disk)?;
    ensure!(before.iter().all(|tree| tree.len() > 1), "{before:?}");
    let saved = forget(&map, &disk, 0xaa)?;
    ensure!(saved < map.disk_sectors * 512, "nothing was left out");
    for (one, other) in before.iter().zip(trees(&disk)?) {
        files::same_tree(one, &other)?;
    }
    Ok(())
}

macro_rules! examples {
    ($($test:ident: $name:literal, $kinds:expr;)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            example($name, &$kinds)
        })*
    };
}

examples! {
    example_ext2: "ext2", ["ext2"];
    example_ext4: "ext4", ["ext4"];
    example_btrfs: "btrfs", ["Btrfs"];
    example_fat: "vfat", ["FAT32"];
    example_exfat: "exfat", ["exFAT"];
    example_ntfs: "ntfs", ["NTFS"];
    // Its Btrfs claims more than its partition, its ext2 was not unmounted.
    example_of_several: "multiple", ["Btrfs", "ext", "exFAT", "NTFS"];
}
