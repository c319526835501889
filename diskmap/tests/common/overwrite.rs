//! The strongest test of a map: all that it calls free is overwritten, and nothing is missed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{free, run};
use diskmap::DiskMap;

/// Copies an image and fills in the copy what the map calls free with garbage.
pub(crate) fn overwrite_free(image: &Path, copy: &Path, map: &DiskMap) {
    run(
        &format!("cp --sparse=always {} {}", image.display(), copy.display()),
        "",
    );
    let file = OpenOptions::new().write(true).open(copy).unwrap();
    let garbage = vec![0xaa; 1 << 20];
    let sector = u64::from(map.sector_size);
    for extent in free(map) {
        let (mut at, end) = (extent.first * sector, extent.end() * sector);
        while at < end {
            let len = garbage.len().min(usize::try_from(end - at).unwrap());
            file.write_all_at(&garbage[..len], at).unwrap();
            at += u64::try_from(len).unwrap();
        }
    }
}

/// Hashes of the contents of all files under a directory, and where links point, by path.
pub(crate) fn hashes(directory: &Path) -> BTreeMap<String, u64> {
    let mut list = BTreeMap::new();
    visit(directory, directory, &mut list);
    list
}

fn visit(root: &Path, directory: &Path, list: &mut BTreeMap<String, u64>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap().file_type();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let bytes = if kind.is_dir() {
            visit(root, &path, list);
            Vec::new()
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            target.into_os_string().into_encoded_bytes()
        } else if kind.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        list.insert(name, hasher.finish());
    }
}

/// A directory for images, in memory where that is possible: the tools write through.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// An image with one byte changed.
pub(crate) struct Flipped<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
    /// The bits to invert.
    pub(crate) mask: u8,
}

impl diskmap::ReadAt for Flipped<'_> {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.bytes.read_exact_at(buf, offset)?;
        let start = usize::try_from(offset).unwrap();
        if let Some(byte) = self.at.checked_sub(start).and_then(|at| buf.get_mut(at)) {
            *byte ^= self.mask;
        }
        Ok(())
    }
}
