//! What image and install are measured with: a filesystem of real files, its allocated bytes as one file, keys.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use e2e::command::{must, run as run_tool, tool};
use e2e::disk::{Disk, Recipe, Table};
use e2e::image::Keys;
use e2e::{ranges, scratch};
use tempfile::TempDir;

use crate::show::mb;

/// An ext4 filesystem with real files, for what is measured many times.
pub(super) const DISK: Recipe = Recipe {
    table: Table::None,
    sector_size: 512,
    mke2fs: "-t ext4 -b 4096",
    fat_mib: 0,
    ext_mib: 2048,
    data_mib: 900,
};

/// A larger one: more than 2 GB in use.
const LARGE: Recipe = Recipe {
    ext_mib: 4096,
    data_mib: 2000,
    ..DISK
};

/// All of it in one directory that goes away.
pub(super) struct Real {
    pub(super) disk: Disk,
    /// The allocated bytes of the disk, one after the other.
    pub(super) plain: PathBuf,
    /// Ed25519.
    pub(super) keys: Keys,
    /// RSA, for the classic suite; the same content key.
    pub(super) classic: Keys,
    directory: TempDir,
}

impl Real {
    /// Makes it, with the large filesystem if the machine has enough files, and says what it is.
    pub(super) fn make(runs: usize) -> Result<Self> {
        let disk = LARGE.cached().or_else(|error| {
            eprintln!("no large filesystem, a smaller one: {error:#}");
            DISK.cached()
        })?;
        let directory = scratch::directory()?;
        let keys = Keys::make(directory.path())?;
        let classic = Keys {
            owner: directory.path().join("rsa.key"),
            public: directory.path().join("rsa.pub"),
            content: keys.content.clone(),
        };
        let mut sign = tool("imagekey")?;
        sign.args(["sign", "--rsa", "3072"]).arg(&classic.owner);
        run_tool(sign)?.success()?;
        let plain = directory.path().join("plain");
        write_allocated(&disk, &plain)?;
        println!(
            "An ext4 filesystem of {}, {} in use, files of this system; {runs} pairs. Both sides flush what they write.\n",
            mb(disk.bytes),
            mb(ranges::total(&disk.allocated()?)),
        );
        Ok(Self {
            disk,
            plain,
            keys,
            classic,
            directory,
        })
    }

    /// A file in the directory.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The shell's words for a pipe from the filesystem through `packer` into `file`.
    pub(super) fn partclone(&self, packer: &str, file: &Path) -> String {
        format!(
            "partclone.ext4 -c -s {} -o - -L {} | {packer} > {file} && sync {file}",
            self.disk.path.display(),
            self.place("log").display(),
            file = file.display(),
        )
    }

    /// Checks that a disk has all that is allocated on this one.
    pub(super) fn same(&self, found: &Path) -> Result<()> {
        ranges::same(&self.disk.path, found, &self.disk.allocated()?)
    }

    /// Peak resident memory of a command, by GNU time.
    pub(super) fn peak(&self, command: &Command) -> Result<String> {
        let report = self.place("peak");
        let mut words: Vec<std::ffi::OsString> = vec![
            "-f".into(),
            "%M".into(),
            "-o".into(),
            report.clone().into(),
            command.get_program().into(),
        ];
        words.extend(command.get_args().map(Into::into));
        must("time", words)?;
        let kib: u64 = fs::read_to_string(report)?
            .trim()
            .parse()
            .context("time(1) printed no number")?;
        Ok(format!("{} MiB", kib.div_ceil(1024)))
    }
}

fn write_allocated(disk: &Disk, plain: &Path) -> Result<()> {
    let mut from = File::open(&disk.path)?;
    let mut to = BufWriter::with_capacity(1 << 20, File::create(plain)?);
    for range in disk.allocated()? {
        from.seek(SeekFrom::Start(range.start))?;
        io::copy(&mut (&from).take(range.end - range.start), &mut to)?;
    }
    to.flush()?;
    to.get_ref().sync_all()?;
    Ok(())
}
