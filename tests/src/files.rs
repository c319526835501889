//! Real files of this machine: the programs, libraries and documents that disks are filled with.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::ranges;

/// Where files come from, with the part of all bytes that has been reached when the next one begins, in percent.
/// What is short in one is taken from those behind it.
const SOURCES: [(&str, u64); 4] = [
    ("/usr/bin", 25),
    ("/usr/share", 50),
    ("/usr/lib", 100),
    ("/usr", 100),
];

/// Copies files of this machine to `destination` in a fixed order, until they have `bytes` bytes. Returns what they
/// have: less than a sixteenth more.
///
/// # Errors
/// If the machine does not have enough.
pub fn copy(destination: &Path, bytes: u64) -> Result<u64> {
    let mut copier = Copier {
        largest: bytes / 16,
        limit: 0,
        copied: 0,
    };
    for (source, percent) in SOURCES {
        copier.limit = bytes / 100 * percent;
        copier.directory(
            Path::new(source),
            &destination.join(source.trim_start_matches('/')),
        )?;
    }
    ensure!(
        copier.copied >= bytes / 100 * 100,
        "/usr has only {} bytes of files, {bytes} are needed",
        copier.copied
    );
    Ok(copier.copied)
}

struct Copier {
    /// A few large files would not be like a disk.
    largest: u64,
    limit: u64,
    copied: u64,
}

impl Copier {
    fn directory(&mut self, from: &Path, to: &Path) -> Result<()> {
        // What cannot be read is left out: not everybody is root.
        let mut entries: Vec<_> = fs::read_dir(from).into_iter().flatten().flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if self.copied >= self.limit {
                return Ok(());
            }
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                self.directory(&from, &to)?;
            } else if fs::symlink_metadata(&to).is_err() {
                self.file(&from, &to, kind.is_symlink())?;
            }
        }
        Ok(())
    }

    fn file(&mut self, from: &Path, to: &Path, is_link: bool) -> Result<()> {
        let make_directory = || fs::create_dir_all(to.parent().unwrap_or(to));
        if is_link {
            make_directory()?;
            symlink(fs::read_link(from)?, to)?;
            return Ok(());
        }
        let Ok(file) = File::open(from) else {
            return Ok(());
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > self.largest {
            return Ok(());
        }
        make_directory()?;
        self.copied += fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
        Ok(())
    }
}

/// Makes a directory of what real trees seldom have: an empty file, one with holes, links, long names.
///
/// # Errors
/// What the system says.
pub fn add_odd_ones(odd: &Path) -> Result<()> {
    fs::create_dir_all(odd)?;
    fs::write(odd.join("empty"), "")?;
    let sparse = File::create(odd.join("sparse"))?;
    sparse.set_len(3 << 20)?;
    sparse.write_all_at(b"island", 1 << 20)?;
    fs::write(odd.join("n".repeat(255)), "a long name")?;
    fs::hard_link(odd.join("sparse"), odd.join("the same file"))?;
    symlink("sparse", odd.join("short link"))?;
    symlink("x/".repeat(200), odd.join("long link"))?;
    fs::write(odd.join("secret"), "0600")?;
    fs::set_permissions(odd.join("secret"), PermissionsExt::from_mode(0o600))?;
    Ok(())
}

/// What is compared of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// Where a symbolic link points.
    pub link: Option<PathBuf>,
    /// Hash of the content of a regular file.
    pub content: Option<blake3::Hash>,
}

/// All files below a directory, by their path in it, without `lost+found`.
///
/// # Errors
/// What the system says.
pub fn tree(directory: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(place) = waiting.pop() {
        for entry in fs::read_dir(&place).with_context(|| place.display().to_string())? {
            let path = entry?.path();
            let metadata: Metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() && path.file_name().is_some_and(|name| name == "lost+found") {
                continue;
            }
            let kind = metadata.file_type();
            let link = if kind.is_symlink() {
                Some(fs::read_link(&path)?)
            } else {
                None
            };
            let content = if kind.is_file() {
                Some(ranges::hash(&path)?)
            } else {
                None
            };
            let mode = metadata.permissions().mode();
            found.insert(
                path.strip_prefix(directory)?.to_path_buf(),
                Entry {
                    mode,
                    link,
                    content,
                },
            );
            if kind.is_dir() {
                waiting.push(path);
            }
        }
    }
    Ok(found)
}

/// Checks that two directories hold the same files.
///
/// # Errors
/// The first that differs.
pub fn same_tree(one: &BTreeMap<PathBuf, Entry>, other: &BTreeMap<PathBuf, Entry>) -> Result<()> {
    for path in one.keys().chain(other.keys()) {
        let (left, right) = (one.get(path), other.get(path));
        ensure!(
            left == right,
            "{}: {left:?} became {right:?}",
            path.display()
        );
    }
    Ok(())
}
