//! The free space of XFS against xfs_db, partclone, xfs_repair and the kernel.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use common::overwrite::{hashes, overwrite_free, scratch};
use common::xfs::{self, db, field, tools};
use common::{FileSource, check, free, has_tool, is_root, map, run, skip, sparse};
use diskmap::{Cause, DiskMap, Extent, Incompatible};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// The free extents that xfs_db lists, and the blocks of the groups' free lists, which it lists
/// too; in blocks from the start of the filesystem, sorted.
fn listed(path: &Path) -> (Vec<Extent>, Vec<Extent>) {
    let superblock = db(path, &["sb 0", "p"]);
    let group_blocks = field(&superblock, "agblocks");
    let place = |group: u64, block: u64| group * group_blocks + block;
    let mut kept = Vec::new();
    for group in 0..field(&superblock, "agcount") {
        let header = db(path, &[&format!("agf {group}"), "p"]);
        let first = usize::try_from(field(&header, "flfirst")).unwrap();
        let count = usize::try_from(field(&header, "flcount")).unwrap();
        let list = db(path, &[&format!("agfl {group}"), "p bno"]);
        let slots: Vec<&str> = list
            .split_whitespace()
            .filter_map(|word| word.split_once(':'))
            .map(|(_, block)| block)
            .collect();
        let ring = slots.iter().cycle().skip(first).take(count);
        kept.extend(ring.map(|block| Extent {
            first: place(group, block.parse().unwrap()),
            count: 1,
        }));
    }
    kept.sort_unstable();
    let mut all: Vec<Extent> = db(path, &["freesp -d"])
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::parse::<u64>);
            let mut next = || words.next()?.ok();
            let (group, block, count) = (next()?, next()?, next()?);
            // The histogram that follows has five columns.
            (words.next().is_none()).then(|| Extent {
                first: place(group, block),
                count,
            })
        })
        .collect();
    all.retain(|extent| extent.count > 1 || kept.binary_search(extent).is_err());
    all.sort_unstable();
    (all, kept)
}

/// Free blocks by partclone.
fn partclone_free(path: &Path) -> Option<u64> {
    if !has_tool("partclone.xfs") {
        return None;
    }
    let log = path.with_extension("log");
    let line = format!(
        "partclone.xfs -c -q -s {} -o /dev/null -F -L {}",
        path.display(),
        log.display()
    );
    run(&line, "");
    // Its bitmap; the totals it prints come from the superblock, which counts blocks of the free
    // space trees as free.
    let text = std::fs::read_to_string(log).unwrap();
    let (_, rest) = text.rsplit_once("bfree = ").unwrap();
    Some(rest.lines().next().unwrap().trim().parse().unwrap())
}

fn mapped(path: &Path) -> DiskMap {
    let map = map(&FileSource::open(path));
    check(&map);
    map
}

/// Maps the filesystem in a file and compares with xfs_db and partclone.
fn compare(path: &Path) -> DiskMap {
    let map = mapped(path);
    assert_eq!(map.warnings, []);
    let contents = &map.partitions[0].contents;
    assert_eq!((contents.kind, &contents.raw), ("XFS", &None));
    let filesystem = contents.filesystem.as_ref().unwrap();
    let (runs, kept) = listed(path);
    let sectors = u64::from(filesystem.block_size) / 512;
    let mut expected: Vec<Extent> = Vec::new();
    for run in &runs {
        // Two groups may touch.
        match expected.last_mut() {
            Some(last) if last.end() == run.first * sectors => last.count += run.count * sectors,
            _ => expected.push(Extent {
                first: run.first * sectors,
                count: run.count * sectors,
            }),
        }
    }
    let blocks: u64 = runs.iter().map(|run| run.count).sum();
    assert!(blocks > 0, "a test without free space proves nothing");
    assert_eq!(free(&map), expected);
    let block_size = u64::from(filesystem.block_size);
    assert_eq!(
        filesystem.size_bytes - filesystem.used_bytes,
        blocks * block_size
    );
    let superblock = db(path, &["sb 0", "p"]);
    assert_eq!(
        filesystem.size_bytes,
        field(&superblock, "dblocks") * block_size
    );
    let version = db(path, &["version"]);
    let names = version.trim().rsplit(' ').next().unwrap();
    assert_eq!(filesystem.features.join(","), names);
    let line = format!("blkid -p -o value -s UUID {}", path.display());
    assert_eq!(filesystem.uuid.as_deref(), Some(run(&line, "").trim()));
    // partclone leaves out the blocks of the free lists, which may be few to many thousand; here
    // they are saved: the trees take blocks from there without further reading.
    if let Some(theirs) = partclone_free(path) {
        assert_eq!(theirs, blocks + u64::try_from(kept.len()).unwrap());
    }
    map
}

struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(image: &Path, at: &'a Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let (image, to) = (image.display(), at.display());
        run(&format!("mount -o loop{options} {image} {to}"), "");
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A child of another thread may hold a file of ours open until it is executed.
        for _ in 0..50 {
            let status = std::process::Command::new("umount").arg(self.0).status();
            if status.unwrap().success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        eprintln!("{} stays mounted", self.0.display());
    }
}

/// Writes files of many sizes, side by side, and removes some: extents with gaps between them.
fn populate(root: &Path, reflink: bool) {
    for directory in 0..6_usize {
        let directory = root.join(format!("d{directory}"));
        std::fs::create_dir_all(&directory).unwrap();
        for number in 0..60_usize {
            let path = directory.join(format!("file{number}"));
            let byte = u8::try_from(number).unwrap();
            std::fs::write(path, vec![byte; (number * 7919) % 150_000]).unwrap();
        }
    }
    let open = |name: &str| {
        let options = OpenOptions::new().append(true).create(true).to_owned();
        options.open(root.join(name)).unwrap()
    };
    let mut torn = [open("torn0"), open("torn1"), open("torn2")];
    for round in 0..15_u8 {
        for file in &mut torn {
            file.write_all(&vec![round; 50_000]).unwrap();
            file.sync_all().unwrap();
        }
    }
    let mut holes = open("holes");
    for round in 0..20_u64 {
        holes.seek(SeekFrom::Start(round * 500_000)).unwrap();
        holes.set_len(round * 500_000).unwrap();
        holes.write_all(b"island").unwrap();
    }
    if reflink {
        let line = format!("cp --reflink=always {0}/torn0 {0}/shared", root.display());
        run(&line, "");
        let options = OpenOptions::new().write(true).to_owned();
        let mut shared = options.open(root.join("shared")).unwrap();
        shared.seek(SeekFrom::Start(333_333)).unwrap();
        shared.write_all(&[b'w'; 100_000]).unwrap();
    }
    let link = root.join("link");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink("x".repeat(700), link).unwrap();
    for number in 0..3000_usize {
        std::fs::write(root.join(format!("d0/small{number}")), b"s").unwrap();
    }
    for directory in 0..6_usize {
        for number in (0..60_usize).filter(|number| number % 3 == directory % 3) {
            std::fs::remove_file(root.join(format!("d{directory}/file{number}"))).unwrap();
        }
    }
    for number in (0..3000_usize).filter(|number| number % 128 < 100) {
        std::fs::remove_file(root.join(format!("d0/small{number}"))).unwrap();
    }
    std::fs::remove_file(root.join("torn1")).unwrap();
}

struct Image {
    directory: TempDir,
    path: PathBuf,
    reflink: bool,
}

impl Image {
    fn make(mib: u64, options: &str) -> Self {
        let directory = scratch();
        let path = directory.path().join("disk");
        sparse(&path, mib * MIB);
        run(&format!("mkfs.xfs -q -f {options} {}", path.display()), "");
        let reflink = db(&path, &["version"]).contains("REFLINK");
        Self {
            directory,
            path,
            reflink,
        }
    }

    fn mounted<T>(&self, work: impl FnOnce(&Path) -> T) -> T {
        let at = self.directory.path().join("mnt");
        let _mounted = Mounted::new(&self.path, &at, "");
        work(&at)
    }

    /// Fills it, compares the map, and looks for every file after the free space was overwritten.
    fn fill_and_compare(&self) {
        self.mounted(|root| populate(root, self.reflink));
        self.compare_and_overwrite();
    }

    fn compare_and_overwrite(&self) {
        let map = compare(&self.path);
        let at = self.directory.path().join("mnt");
        let files = {
            let _mounted = Mounted::new(&self.path, &at, ",ro");
            hashes(&at)
        };
        let copy = self.directory.path().join("copy");
        overwrite_free(&self.path, &copy, &map);
        run(&format!("xfs_repair -n {}", copy.display()), "");
        let _mounted = Mounted::new(&copy, &at, ",ro");
        assert!(hashes(&at) == files, "a file is not what it was");
    }
}

fn kernel() -> bool {
    let root = is_root();
    if !root {
        skip("mounting needs root");
    }
    root && tools()
}

macro_rules! variants {
    ($($name:ident: $mib:literal MiB, $options:literal;)*) => {
        $(#[test]
        fn $name() {
            if kernel() {
                Image::make($mib, $options).fill_and_compare();
            }
        })*
    };
}

variants! {
    defaults: 320 MiB, "-L golden";
    blocks_of_1k: 128 MiB, "--unsupported -b size=1024 -n size=8192";
    blocks_of_64k: 512 MiB, "-b size=65536";
    sectors_of_4k: 128 MiB, "--unsupported -s size=4096";
    reverse_map_without_reflink: 192 MiB, "--unsupported -l size=20m -m rmapbt=1,reflink=0";
    reverse_map_with_reflink: 192 MiB, "--unsupported -l size=20m -m rmapbt=1,reflink=1 -i nrext64=1";
    old_features: 128 MiB, "--unsupported -m bigtime=0,inobtcount=0,finobt=0,reflink=0 -i sparse=0";
    many_groups: 128 MiB, "--unsupported -d agsize=16m";
    striped: 192 MiB, "--unsupported -d su=64k,sw=4 -l su=256k,size=20m";
    large_inodes: 128 MiB, "--unsupported -i size=2048 -l version=2,su=32k";
}

/// Fails with something else than a clean map.
fn cause(path: &Path) -> Cause {
    let map = mapped(path);
    assert_eq!(free(&map), [], "a warning means a raw copy");
    let [warning] = &map.warnings[..] else {
        panic!("{:?}", map.warnings)
    };
    warning.cause.clone()
}

fn is_not_clean(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::Incompatible(Incompatible::NotClean {
            filesystem: "XFS",
            ..
        })
    )
}

#[test]
fn a_mounted_or_crashed_filesystem_is_copied_raw() {
    if !kernel() || !has_tool("xfs_io") {
        return;
    }
    let image = Image::make(128, "--unsupported");
    image.mounted(|root| {
        populate(root, true);
        run(&format!("sync -f {}", root.display()), "");
        assert!(is_not_clean(&cause(&image.path)));
        // Not even a frozen one: what was unlinked, but is open, is still in the log.
        let frozen = format!("fsfreeze -f {}", root.display());
        run(&frozen, "");
        let found = cause(&image.path);
        run(&frozen.replace("-f", "-u"), "");
        assert!(is_not_clean(&found));
        std::fs::write(root.join("last"), b"words").unwrap();
        run(&format!("xfs_io -x -c shutdown {}", root.display()), "");
    });
    assert!(is_not_clean(&cause(&image.path)));
    // Mounting replays the log.
    image.mounted(|_| ());
    image.compare_and_overwrite();
    // As root filesystems are left behind: read-only first.
    image.mounted(|root| {
        std::fs::write(root.join("more"), vec![b'm'; 100_000]).unwrap();
        run(&format!("mount -o remount,ro {}", root.display()), "");
    });
    image.compare_and_overwrite();
}

#[test]
fn the_log_comes_round() {
    if !kernel() {
        return;
    }
    // mkfs.xfs makes no log this small unless told so.
    let image = Image::make(128, "--unsupported -l size=7m");
    for round in 0..6_usize {
        image.mounted(|root| {
            let directory = root.join("turn");
            std::fs::create_dir_all(&directory).unwrap();
            for number in 0..1000 + 300 * round {
                std::fs::write(directory.join(format!("f{number}")), b"f").unwrap();
            }
            std::fs::remove_dir_all(&directory).unwrap();
        });
        compare(&image.path);
    }
    image.fill_and_compare();
}

#[test]
fn grown() {
    if !kernel() || !has_tool("xfs_growfs") {
        return;
    }
    let image = Image::make(320, "-d agcount=3");
    for mib in [400, 777] {
        let options = OpenOptions::new().write(true).to_owned();
        let file = options.open(&image.path).unwrap();
        file.set_len(mib * MIB).unwrap();
        image.mounted(|root| {
            run(&format!("xfs_growfs {}", root.display()), "");
            populate(root, true);
        });
        compare(&image.path);
    }
    image.compare_and_overwrite();
}

#[test]
fn another_uuid_and_an_emptied_log() {
    if !kernel() || !has_tool("xfs_admin") {
        return;
    }
    let image = Image::make(128, "--unsupported");
    image.mounted(|root| populate(root, true));
    let path = image.path.display();
    run(&format!("xfs_admin -U generate {path}"), "");
    image.compare_and_overwrite();
    run(&format!("xfs_admin -U restore -L label {path}"), "");
    image.compare_and_overwrite();
    run(&format!("xfs_repair -L {path}"), "");
    image.compare_and_overwrite();
    image.mounted(|root| populate(root, true));
    image.compare_and_overwrite();
}

#[test]
fn upgraded() {
    if !kernel() || !has_tool("xfs_admin") {
        return;
    }
    let image = Image::make(128, "--unsupported -m bigtime=0,inobtcount=0");
    image.mounted(|root| populate(root, true));
    let path = image.path.display();
    run(&format!("xfs_admin -O bigtime=1,inobtcount=1 {path}"), "");
    image.compare_and_overwrite();
}

#[test]
fn devices_elsewhere_are_copied_raw() {
    if !tools() {
        return;
    }
    let directory = scratch();
    let other = directory.path().join("other");
    sparse(&other, 80 * MIB);
    for (option, word) in [("-l logdev", "log"), ("-r rtdev", "realtime")] {
        let path = directory.path().join("disk");
        sparse(&path, 320 * MIB);
        let line = format!(
            "mkfs.xfs -q -f {option}={} {}",
            other.display(),
            path.display()
        );
        run(&line, "");
        let found = cause(&path).to_string();
        assert!(found.contains(word), "{found}");
    }
}

/// The contents of a file in the root directory, by the extents that xfs_db lists.
fn contents(path: &Path, names: &[&String]) -> Vec<Vec<u8>> {
    let mut commands = vec!["sb 0".to_owned(), "p".to_owned()];
    for name in names {
        commands.push(format!("path /{name}"));
        commands.push("p core.size".to_owned());
        commands.push("bmap".to_owned());
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let text = db(path, &commands);
    let block_size = field(&text, "blocksize");
    let group_blocks = field(&text, "agblocks");
    let mut file = std::fs::File::open(path).unwrap();
    let mut list: Vec<Vec<u8>> = Vec::new();
    for line in text.lines() {
        if let Some(size) = line.strip_prefix("core.size = ") {
            list.push(vec![0; size.trim().parse().unwrap()]);
        }
        let Some(extent) = line.strip_prefix("data offset ") else {
            continue;
        };
        let numbers: Vec<u64> = extent
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        let [offset, _, group, block, count, ..] = numbers[..] else {
            panic!("{line}")
        };
        let data = list.last_mut().unwrap();
        let from = usize::try_from(offset * block_size).unwrap();
        let len = usize::try_from(count * block_size).unwrap();
        let end = data.len().min(from + len);
        file.seek(SeekFrom::Start((group * group_blocks + block) * block_size))
            .unwrap();
        file.read_exact(&mut data[from..end]).unwrap();
    }
    list
}

/// Version 4, which kernels do not mount any more: mkfs.xfs fills it, and xfs_repair frees the
/// files whose inodes xfs_db clears.
#[test]
fn version_4() {
    if !tools() {
        return;
    }
    for options in [
        "-m crc=0",
        "-m crc=0 -b size=512 -i size=256",
        "-m crc=0 -b size=1024 -l version=1",
        "-m crc=0 -l lazy-count=0 -i projid32bit=0,attr=1 -n version=ci,ftype=0",
        "-m crc=0 -s size=4096 -d agcount=5",
    ] {
        let directory = scratch();
        let path = directory.path().join("disk");
        let mut files = xfs::make(&path, 96, options);
        compare(&path);
        xfs::punch(&path, &mut files);
        let map = compare(&path);
        assert!(free(&map).len() > 100, "it is in pieces");
        let copy = directory.path().join("copy");
        overwrite_free(&path, &copy, &map);
        run(&format!("xfs_repair -n {}", copy.display()), "");
        let names: Vec<&String> = files.keys().collect();
        let expected: Vec<&Vec<u8>> = files.values().collect();
        assert!(
            contents(&copy, &names).iter().eq(expected),
            "{options}: a file is not what it was"
        );
    }
}

#[test]
fn huge_filesystems_take_little() {
    if !tools() {
        return;
    }
    for (tebibytes, options) in [(15, ""), (15, "-d agsize=8g"), (14, "-b size=1024")] {
        let directory = scratch();
        let path = directory.path().join("disk");
        sparse(&path, tebibytes << 40);
        run(
            &format!("mkfs.xfs -q -f -K {options} {}", path.display()),
            "",
        );
        let start = std::time::Instant::now();
        let map = mapped(&path);
        assert_eq!(map.warnings, []);
        assert!(start.elapsed().as_secs() < 10);
        let counted = field(&db(&path, &["sb 0", "p"]), "fdblocks");
        let filesystem = map.partitions[0].contents.filesystem.as_ref().unwrap();
        let found = filesystem.size_bytes - filesystem.used_bytes;
        let theirs = counted * u64::from(filesystem.block_size);
        // The free lists: four to ten blocks in each group.
        assert!(found <= theirs && found > theirs / 1000 * 999);
    }
}
