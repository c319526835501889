//! What the tests of FAT, NTFS and exFAT share: partclone's map as the expectation, garbage in
//! free sectors, trees of files to put into images, images that others made.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use diskmap::{DiskMap, Extent, Filesystem};

use super::common::{FileSource, check, free, has_tool, is_root, map, run, skip};

/// Maps a file that must be understood without a warning.
pub(crate) fn map_clean(path: &Path) -> DiskMap {
    let map = map(&FileSource::open(path));
    check(&map);
    assert_eq!(map.warnings, []);
    map
}

/// The filesystem of the only partition.
pub(crate) fn filesystem(map: &DiskMap) -> &Filesystem {
    map.partitions[0].contents.filesystem.as_ref().unwrap()
}

pub(crate) fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.count).sum()
}

/// What `partclone.NAME` would not save of a file, in sectors of 512 bytes, by its list for
/// ddrescue.
pub(crate) fn partclone_free(name: &str, path: &Path) -> Vec<Extent> {
    let (list, log) = (beside(path, "domain"), beside(path, "log"));
    let (image, list_name, log) = (path.display(), list.display(), log.display());
    run(
        &format!("partclone.{name} -D -q -s {image} -o {list_name} -L {log}"),
        "",
    );
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let mut free: Vec<Extent> = Vec::new();
    for line in std::fs::read_to_string(list).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [first, count, "?"] = words[..] {
            add(&mut free, hex(first) / 512, hex(count) / 512);
        }
    }
    free
}

/// What sleuthkit calls unallocated, in sectors of 512 bytes; its unit has `sectors` of them.
pub(crate) fn sleuthkit_free(kind: &str, path: &Path, sectors: u64) -> Vec<Extent> {
    let list = run(&format!("blkls -l -f {kind} {}", path.display()), "");
    let mut free = Vec::new();
    for line in list.lines() {
        if let Some(unit) = line.strip_suffix("|f") {
            add(&mut free, unit.parse::<u64>().unwrap() * sectors, sectors);
        }
    }
    free
}

/// Appends a run, merged with the last one.
fn add(runs: &mut Vec<Extent>, first: u64, count: u64) {
    match runs.last_mut() {
        Some(last) if last.end() == first => last.count += count,
        _ => runs.push(Extent { first, count }),
    }
}

/// A path next to another one, and as unique.
pub(crate) fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.with_file_name(format!("{name}.{what}"))
}

/// Writes into a copy of the file garbage to all sectors that the map calls free.
pub(crate) fn overwritten(path: &Path, map: &DiskMap) -> PathBuf {
    let copy = beside(path, "overwritten");
    run(
        &format!("cp --sparse=always {} {}", path.display(), copy.display()),
        "",
    );
    let file = OpenOptions::new().write(true).open(&copy).unwrap();
    let garbage = vec![0xaa; 1 << 20];
    let size = u64::from(map.sector_size);
    for extent in free(map) {
        let end = extent.end() * size;
        let mut at = extent.first * size;
        while at < end {
            let len = garbage.len().min(usize::try_from(end - at).unwrap());
            file.write_all_at(&garbage[..len], at).unwrap();
            at += u64::try_from(len).unwrap();
        }
    }
    copy
}

/// Works in a filesystem that `command`, which stays in the foreground, mounts at `mount`; its
/// program has written everything when this returns.
pub(crate) fn mounted(command: &str, mount: &Path, work: impl FnOnce()) {
    std::fs::create_dir_all(mount).unwrap();
    let mut words = command.split_whitespace();
    let mut server = Command::new(words.next().unwrap())
        .args(words)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let name = format!(" {} ", mount.display());
    let is_mounted = || {
        std::fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(&name)
    };
    while !is_mounted() {
        assert!(server.try_wait().unwrap().is_none(), "{command}: ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    {
        let _unmount = Unmount(mount);
        work();
    }
    assert!(server.wait().unwrap().success(), "{command}: failed");
}

/// Unmounts when it goes, so that no failing test leaves a mount behind.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let unmount = || Command::new("umount").arg(self.0).status();
        // Another test that starts a program holds our open files for a moment.
        let done = (0..50).any(|_| {
            let done = unmount().is_ok_and(|status| status.success());
            if !done {
                std::thread::sleep(Duration::from_millis(20));
            }
            done
        });
        assert!(done || std::thread::panicking());
    }
}

/// Whether filesystems in user space can be mounted.
pub(crate) fn has_fuse() -> bool {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        skip("needs root and /dev/fuse");
        return false;
    }
    has_tool("umount")
}

/// Fills a mounted filesystem, makes holes, and fills some of them.
pub(crate) fn populate(mount: &Path, largest: usize) {
    tree(mount, 1, 40, largest);
    for number in (0..40).step_by(3) {
        let name = format!("dir{}/file 1 {number}.bin", number % 5);
        std::fs::remove_file(mount.join(name)).unwrap();
    }
    for number in 0..6 {
        std::fs::write(
            mount.join(format!("more{number}")),
            contents(number, largest * 2),
        )
        .unwrap();
    }
    std::fs::remove_file(mount.join("more1")).unwrap();
}

/// Bytes that no two files share.
pub(crate) fn contents(seed: usize, len: usize) -> Vec<u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len / 8 + 1).flat_map(next).collect();
    bytes.truncate(len);
    bytes
}

/// A directory with `count` files in some directories, of up to `largest` bytes.
pub(crate) fn tree(directory: &Path, seed: usize, count: usize, largest: usize) {
    for number in 0..count {
        let inner = directory.join(format!("dir{}", number % 5));
        std::fs::create_dir_all(&inner).unwrap();
        let len = (number * 7919 + seed) * 31 % largest;
        std::fs::write(
            inner.join(format!("file {seed} {number}.bin")),
            contents(seed + number, len),
        )
        .unwrap();
    }
}

/// An image of Debian's package forensics-samples-NAME, unpacked.
pub(crate) fn forensics_sample(directory: &Path, name: &str) -> Option<PathBuf> {
    let packed = format!("/usr/share/forensics-samples/fs.{name}.xz");
    if !has_tool("xz") || !Path::new(&packed).exists() {
        skip(&format!("{packed} is not there"));
        return None;
    }
    let path = directory.join(name);
    let copy = path.with_extension("xz");
    std::fs::copy(packed, &copy).unwrap();
    run(&format!("xz -d {}", copy.display()), "");
    std::fs::rename(directory.join(name), &path).unwrap();
    Some(path)
}

/// One partition of a disk in a file of its own.
pub(crate) fn cut_out(disk: &Path, first: u64, count: u64) -> PathBuf {
    let path = beside(disk, &format!("part{first}"));
    run(
        &format!(
            "dd if={} of={} bs=512 skip={first} count={count} status=none conv=sparse",
            disk.display(),
            path.display()
        ),
        "",
    );
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(count * 512)
        .unwrap();
    path
}
