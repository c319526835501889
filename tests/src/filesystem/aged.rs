//! The life of a filesystem that is mounted: filled up, emptied, used by many files, some of them deleted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;

use crate::canary::Canary;
use crate::command::{run, system};
use crate::{files, scratch};

/// Bytes of the files on a filesystem.
const BYTES: u64 = 16 << 20;

/// To be raised when the directories below become others, so that cached ones are not used.
const VERSION: u32 = 2;

/// What a filesystem can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Everything that Linux has.
    Everything,
    /// Regular files and directories, with names that Windows allows too.
    PlainFiles,
}

/// The directory with files for filesystems that can hold this; not to be changed.
///
/// # Errors
/// If this machine has not enough files.
pub fn content(holds: Holds) -> Result<PathBuf> {
    scratch::cached(&format!("content-{VERSION}-{holds:?}"), |directory| {
        match holds {
            Holds::Everything => {
                files::copy(&directory.join("files"), BYTES)?;
                files::add_odd_ones(&directory.join("odd"))?;
            }
            Holds::PlainFiles => plain(directory)?,
        }
        for number in 0..300_usize {
            let place = directory.join(format!("small/{}/{}", number % 7, number % 3));
            fs::create_dir_all(&place)?;
            let text = format!("{number}\n").repeat(number * number % 977);
            fs::write(
                place.join(format!("a rather long name of number {number}.text")),
                text,
            )?;
        }
        Ok(())
    })
}

/// Copies the regular files of [`Holds::Everything`] with names that no system minds.
fn plain(directory: &Path) -> Result<()> {
    let source = scratch::directory()?;
    files::copy(source.path(), BYTES)?;
    for (number, (path, entry)) in files::tree(source.path())?.iter().enumerate() {
        if entry.content.is_none() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name: String = name
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() {
                    letter
                } else {
                    '_'
                }
            })
            .take(100)
            .collect();
        let place = directory.join(format!("files/{}/{}", number % 11, number % 5));
        fs::create_dir_all(&place)?;
        // Not every mode can be kept either.
        let bytes = fs::read(source.path().join(path))?;
        fs::write(place.join(format!("{number} {name}.bin")), bytes)?;
    }
    fs::write(directory.join("empty"), "")?;
    fs::write(directory.join("n".repeat(200)), "a long name")?;
    Ok(())
}

/// Lives through it, on the filesystem that is mounted at `root`.
///
/// # Errors
/// What the system says.
pub fn live(root: &Path, dirt: &Canary, holds: Holds) -> Result<()> {
    let litter = fill(&root.join("litter"), dirt)?;
    // Holes, into which the first files are torn.
    let (even, odd): (Vec<_>, Vec<_>) = (0..).zip(litter).partition(|(number, _)| number % 2 == 0);
    remove(even.into_iter().map(|(_, path)| path))?;
    let source = content(holds)?;
    copy(&source, &root.join("first"))?;
    remove(odd.into_iter().map(|(_, path)| path))?;
    copy(&source.join("small"), &root.join("second"))?;
    for (path, entry) in files::tree(root)?.iter().step_by(5) {
        if entry.content.is_some() {
            fs::remove_file(root.join(path))?;
        }
    }
    let file = File::create(root.join("with holes"))?;
    for number in 0..40 {
        file.write_all_at(&[number; 5000], u64::from(number) * 70_000)?;
    }
    for number in 0..30 {
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(root.join(format!("log-{}", number % 3)))?;
        log.write_all(format!("line {number}\n").repeat(700).as_bytes())?;
        log.sync_all()?;
    }
    fs::rename(root.join("second"), root.join("third"))?;
    nix::unistd::sync();
    Ok(())
}

/// Fills all free space with dirt, and deletes it again.
///
/// # Errors
/// What the system says.
pub fn litter(root: &Path, dirt: &Canary) -> Result<()> {
    let directory = root.join("more litter");
    remove(fill(&directory, dirt)?.into_iter())?;
    Ok(fs::remove_dir(directory)?)
}

/// Fills all free space with files full of dirt, each at most a fiftieth of it, in a new directory.
fn fill(directory: &Path, dirt: &Canary) -> Result<Vec<PathBuf>> {
    fs::create_dir(directory)?;
    let room = statvfs(directory)?;
    let room = room.blocks_free() * room.fragment_size();
    let piece = usize::try_from(room / 50)?.next_multiple_of(4096);
    let bytes = dirt.dirt(piece);
    let mut litter = Vec::new();
    for number in 0..60 {
        let path = directory.join(format!("{number}"));
        let mut file = File::create(&path)?;
        litter.push(path);
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error).context("filling the filesystem"),
        }
    }
    Ok(litter)
}

fn remove(litter: impl Iterator<Item = PathBuf>) -> Result<()> {
    for path in litter {
        fs::remove_file(path)?;
    }
    // Some filesystems give space back only then.
    nix::unistd::sync();
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut cp = system("cp")?;
    cp.args(["--recursive", "--no-dereference", "--preserve=mode,links"]);
    cp.arg("--sparse=always").arg(from).arg(to);
    run(cp)?.success()?;
    Ok(())
}

/// Bytes that the kernel calls free.
///
/// # Errors
/// What the kernel says.
pub fn free(root: &Path) -> Result<u64> {
    let room = statvfs(root)?;
    Ok(room.blocks_free() * room.fragment_size())
}
