//! What the tests of this crate share: files as sources, tools, and the free space by dumpe2fs.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod overwrite;
pub(crate) mod tables;
pub(crate) mod xfs;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use diskmap::{DiskMap, Extent, Options, ReadAt};

/// A file as a disk.
pub(crate) struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Self { file, size }
    }
}

impl ReadAt for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        FileExt::read_exact_at(&self.file, buf, offset)
    }
}

/// Maps with default options.
pub(crate) fn map(source: &dyn ReadAt) -> DiskMap {
    diskmap::map(source, &Options::default()).unwrap()
}

pub(crate) fn map_strict(source: &dyn ReadAt) -> Result<DiskMap, diskmap::Error> {
    diskmap::map(
        source,
        &Options {
            strict: true,
            ..Options::default()
        },
    )
}

/// The sectors that are not saved.
pub(crate) fn free(map: &DiskMap) -> Vec<Extent> {
    let ends = map.saved.iter().map(Extent::end);
    let starts = map
        .saved
        .iter()
        .map(|extent| extent.first)
        .chain([map.disk_sectors]);
    [0].into_iter()
        .chain(ends)
        .zip(starts)
        .filter(|(first, end)| first < end)
        .map(|(first, end)| Extent {
            first,
            count: end - first,
        })
        .collect()
}

/// Asserts the invariants every map keeps.
pub(crate) fn check(map: &DiskMap) {
    assert!(map.saved.iter().all(|extent| extent.count > 0));
    assert!(
        map.saved
            .windows(2)
            .all(|pair| pair[0].end() < pair[1].first),
        "not sorted"
    );
    assert!(
        map.saved
            .last()
            .is_none_or(|last| last.end() <= map.disk_sectors)
    );
}

/// Whether all sectors of `inner` lie in `outer`; both sorted and merged.
pub(crate) fn is_subset(inner: &[Extent], outer: &[Extent]) -> bool {
    inner.iter().all(|extent| {
        let at = outer.partition_point(|outer| outer.end() <= extent.first);
        outer
            .get(at)
            .is_some_and(|o| o.first <= extent.first && extent.end() <= o.end())
    })
}

/// Reports that a test cannot run here. In CI everything must run.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot skip in CI: {why}");
    eprintln!("skipped: {why}");
}

/// Whether the test runs as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Whether a tool is installed; says so if not.
pub(crate) fn has_tool(name: &str) -> bool {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(name).exists());
    if !found {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Runs a tool that must succeed; words of `line` are separated by spaces. Returns its output.
pub(crate) fn run(line: &str, input: &str) -> String {
    let mut words = line.split_whitespace();
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{line}: {}\n{text}\n{errors}",
        output.status
    );
    text + &errors
}

/// A sparse file.
pub(crate) fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

/// Makes a filesystem with files in it and holes between them.
pub(crate) fn make_ext(path: &Path, bytes: u64, options: &str) {
    sparse(path, bytes);
    populate(path, &format!("mke2fs -q -F {options}"));
}

fn populate(path: &Path, mke2fs: &str) {
    let directory = path.with_extension("d");
    std::fs::create_dir_all(&directory).unwrap();
    let mut removals = String::new();
    for number in 0..24_usize {
        let name = format!("file{number}");
        let len = (number * 7919) % 60_000 + 1;
        std::fs::write(directory.join(&name), vec![b'x'; len]).unwrap();
        if number % 3 == 1 {
            removals += &format!("rm {name}\n");
        }
    }
    run(
        &format!("{mke2fs} -d {} {}", directory.display(), path.display()),
        "",
    );
    run(&format!("debugfs -w -f - {}", path.display()), &removals);
}

/// The free runs that dumpe2fs lists, in sectors of 512 bytes, merged.
pub(crate) fn dumpe2fs_free(path: &Path) -> Vec<Extent> {
    let text = run(&format!("dumpe2fs {}", path.display()), "");
    let header = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    let block_size = header("Block size:").unwrap();
    let blocks = header("Block count:").unwrap();
    // With bigalloc both ends of a range are first blocks of clusters.
    let cluster = header("Cluster size:").map_or(1, |size| size / block_size);
    let sectors = block_size / 512;
    let mut runs: Vec<Extent> = Vec::new();
    for list in text
        .lines()
        .filter_map(|line| line.strip_prefix("  Free blocks: "))
    {
        for range in list.split(", ").filter(|range| !range.trim().is_empty()) {
            let (first, last) = range
                .trim()
                .split_once('-')
                .unwrap_or((range.trim(), range.trim()));
            let first: u64 = first.parse().unwrap();
            let end = (last.parse::<u64>().unwrap() + cluster).min(blocks);
            match runs.last_mut() {
                Some(run) if run.end() == first * sectors => run.count = end * sectors - run.first,
                _ => runs.push(Extent {
                    first: first * sectors,
                    count: (end - first) * sectors,
                }),
            }
        }
    }
    runs
}
