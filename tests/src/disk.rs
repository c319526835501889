//! Golden disks: partition tables and filesystems with real files, on files, with dirt in all free space.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::canary::Canary;
use crate::command::{must, system};
use crate::ext::Ext;
use crate::loop_device::LoopDevice;
use crate::{files, ranges, scratch};

/// To be raised when the same recipe makes another disk, so that cached ones are not used.
const VERSION: u32 = 1;

const MIB: u64 = 1 << 20;

/// Where the first partition begins, and what is left behind the last.
const MARGIN: u64 = MIB;

/// How a disk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The filesystem has the whole disk.
    None,
    /// A FAT partition, and the filesystem in a logical partition.
    Mbr,
    /// An EFI system partition and the filesystem.
    Gpt,
}

/// What a disk is to be.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// How it is divided.
    pub table: Table,
    /// Bytes of a sector. Another than 512 needs loop devices where there is a table.
    pub sector_size: u32,
    /// Arguments of `mke2fs`: type and features.
    pub mke2fs: &'static str,
    /// Size of the FAT partition in MiB.
    pub fat_mib: u64,
    /// Size of the ext filesystem in MiB.
    pub ext_mib: u64,
    /// How much of it is files, in MiB.
    pub data_mib: u64,
}

impl Recipe {
    /// A small disk as most machines have it: GPT, EFI system partition, ext4.
    pub const SMALL: Self = Self {
        table: Table::Gpt,
        sector_size: 512,
        mke2fs: "-t ext4 -b 4096",
        fat_mib: 8,
        ext_mib: 96,
        data_mib: 40,
    };

    /// A disk of a few chunks, for what is done hundreds of times.
    pub const TINY: Self = Self {
        table: Table::None,
        sector_size: 512,
        mke2fs: "-t ext2 -b 1024",
        fat_mib: 0,
        ext_mib: 10,
        data_mib: 5,
    };

    /// Makes the disk, or takes it from the cache.
    ///
    /// # Errors
    /// What one of the tools says.
    pub fn cached(&self) -> Result<Disk> {
        let words = format!("{VERSION} {self:?}");
        let name = format!("disk-{}", &blake3::hash(words.as_bytes()).to_hex()[..16]);
        let directory = scratch::cached(&name, |directory| self.make(directory).map(drop))?;
        Ok(self.disk(&directory))
    }

    /// Makes the disk in `directory`.
    ///
    /// # Errors
    /// What one of the tools says.
    pub fn make(&self, directory: &Path) -> Result<Disk> {
        let disk = self.disk(directory);
        let content = &disk.content;
        // A little more: some are deleted again.
        files::copy(&content.join("files"), self.data_mib * MIB * 12 / 11)?;

        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&disk.path)?;
        file.set_len(disk.bytes)?;
        disk.canary.fill(
            &file,
            self.ext_offset()..self.ext_offset() + self.ext_mib * MIB,
        )?;
        self.write_table(&disk.path)?;
        if self.table != Table::None {
            self.make_fat(&disk.path, content)?;
        }
        let mut arguments: Vec<String> = self.mke2fs.split_whitespace().map(Into::into).collect();
        // Everything is initialized now: the kernel never mounts the disk, so would not do it later.
        let extended = format!(
            "nodiscard,lazy_itable_init=0,lazy_journal_init=0,offset={}",
            self.ext_offset()
        );
        arguments.extend(["-q", "-F", "-E", &extended, "-d"].map(Into::into));
        arguments.extend([
            content.display().to_string(),
            disk.path.display().to_string(),
        ]);
        arguments.push(format!("{}k", self.ext_mib * 1024));
        files::add_odd_ones(&content.join("odd"))?;
        must("mke2fs", arguments)?;
        disk.delete_some()?;
        disk.clean_slack(&file)?;
        disk.ext.holds(content).context("the golden disk")?;
        file.sync_all()?;
        Ok(disk)
    }

    fn fat_offset() -> u64 {
        MARGIN
    }

    fn ext_offset(&self) -> u64 {
        match self.table {
            Table::None => 0,
            Table::Gpt => Self::fat_offset() + self.fat_mib * MIB,
            // Logical partitions have a table of their own in front of them.
            Table::Mbr => Self::fat_offset() + self.fat_mib * MIB + MARGIN,
        }
    }

    fn disk(&self, directory: &Path) -> Disk {
        let margin = if self.table == Table::None { 0 } else { MARGIN };
        let path = directory.join("disk");
        Disk {
            bytes: self.ext_offset() + self.ext_mib * MIB + margin,
            sector_size: self.sector_size,
            ext: Ext {
                disk: path.clone(),
                offset: self.ext_offset(),
            },
            fat_offset: (self.table != Table::None).then(Self::fat_offset),
            content: directory.join("content"),
            canary: Canary::new("the golden disk"),
            path,
        }
    }

    fn write_table(&self, disk: &Path) -> Result<()> {
        let sectors = |bytes: u64| bytes / u64::from(self.sector_size);
        let (fat_start, fat_size) = (sectors(Self::fat_offset()), sectors(self.fat_mib * MIB));
        let (ext_start, ext_size) = (sectors(self.ext_offset()), sectors(self.ext_mib * MIB));
        let script = match self.table {
            Table::None => return Ok(()),
            Table::Gpt => format!(
                "label: gpt\nstart={fat_start}, size={fat_size}, type=U, name=EFI\n\
                 start={ext_start}, size={ext_size}, type=L, name=root\n"
            ),
            Table::Mbr => format!(
                "label: dos\nstart={fat_start}, size={fat_size}, type=c, bootable\n\
                 start={}, size={}, type=5\nstart={ext_start}, size={ext_size}, type=83\n",
                ext_start - sectors(MARGIN),
                ext_size + sectors(MARGIN),
            ),
        };
        // Only a device has sectors of another size.
        let device = match self.sector_size {
            512 => None,
            size => Some(LoopDevice::attach(disk, size)?),
        };
        let place = device.as_ref().map_or(disk, LoopDevice::path);
        let mut command = system("sfdisk")?;
        command
            .arg("--quiet")
            .arg("--no-reread")
            .arg("--no-tell-kernel")
            .arg(place)
            .stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn()?;
        child
            .stdin
            .take()
            .context("sfdisk has no stdin")?
            .write_all(script.as_bytes())?;
        ensure!(child.wait()?.success(), "sfdisk failed on\n{script}");
        Ok(())
    }

    fn make_fat(&self, disk: &Path, content: &Path) -> Result<()> {
        let offset = Self::fat_offset() / u64::from(self.sector_size);
        let sector = self.sector_size.to_string();
        let blocks = (self.fat_mib * 1024).to_string();
        let name = disk.to_string_lossy();
        // mkfs.vfat chooses by the size of the file, not of the partition.
        let bits = if self.fat_mib < 16 { "12" } else { "16" };
        must(
            "mkfs.vfat",
            [
                "-F",
                bits,
                "-S",
                &sector,
                "-n",
                "EFI",
                "--offset",
                &offset.to_string(),
                &name,
                &blocks,
            ],
        )?;
        let volume = format!("{name}@@{}", Self::fat_offset());
        let mut programs: Vec<_> = fs::read_dir(content.join("files/usr/bin"))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        programs.sort();
        let programs = programs
            .iter()
            .filter(|path| path.is_file() && !path.is_symlink())
            .take(8);
        let arguments = ["-i", &volume]
            .map(OsString::from)
            .into_iter()
            .chain(programs.map(|path| path.clone().into()));
        must("mcopy", arguments.chain(["::".into()]))?;
        Ok(())
    }
}

/// A golden disk in a file.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// The ext filesystem.
    pub ext: Ext,
    /// Where the FAT filesystem begins, if there is one.
    fat_offset: Option<u64>,
    /// The directory with the files of the ext filesystem.
    pub content: PathBuf,
    /// What is in free space.
    pub canary: Canary,
}

impl Disk {
    /// Deletes every eleventh file, so that free space is in many pieces.
    fn delete_some(&self) -> Result<()> {
        let mut commands = String::new();
        for (path, entry) in files::tree(&self.content)?.iter().step_by(11) {
            // Names are those of system files; `"` is the only one that debugfs could misread.
            if entry.content.is_some() && !path.as_os_str().as_bytes().contains(&b'"') {
                writeln!(commands, "rm \"/{}\"", path.display())?;
                fs::remove_file(self.content.join(path))?;
            }
        }
        let script = self.path.with_extension("debugfs");
        fs::write(&script, commands)?;
        must(
            "debugfs",
            ["-w", "-f", &script.to_string_lossy(), &self.ext.name()],
        )?;
        fs::remove_file(script)?;
        Ok(())
    }

    /// Another file with the same partitions, such as a copy.
    #[must_use]
    pub fn at(&self, path: PathBuf) -> Self {
        Self {
            ext: self.ext.on(&path),
            path,
            ..self.clone()
        }
    }

    /// The parts of the disk that are in use, by oracles that are not ours.
    ///
    /// # Errors
    /// See [`Ext::free`]; if blkls does not understand the FAT filesystem.
    pub fn allocated(&self) -> Result<Vec<Range<u64>>> {
        let mut free = self.fat_free()?;
        free.extend(self.ext.free()?);
        Ok(ranges::complement(&free, self.bytes))
    }

    /// The free space of the FAT filesystem by sleuthkit.
    fn fat_free(&self) -> Result<Vec<Range<u64>>> {
        let Some(offset) = self.fat_offset else {
            return Ok(Vec::new());
        };
        let size = u64::from(self.sector_size);
        let (sector, first) = (size.to_string(), (offset / size).to_string());
        let disk = self.path.to_string_lossy();
        let list = must("blkls", ["-b", &sector, "-o", &first, "-l", "-A", &disk])?;
        let mut found: Vec<Range<u64>> = Vec::new();
        let numbers = list.lines().filter_map(|line| line.strip_suffix("|f"));
        for number in numbers {
            let start = offset + number.parse::<u64>()? * size;
            match found.last_mut() {
                Some(before) if before.end == start => before.end += size,
                _ => found.push(start..start + size),
            }
        }
        Ok(found)
    }

    /// Zeroes the dirt in blocks that are in use but not all of whose bytes mean something, such as the space behind
    /// a superblock: whoever saves the block saves it too.
    fn clean_slack(&self, file: &File) -> Result<()> {
        let dirt = self.canary.dirt(32);
        for range in self.allocated()? {
            let mut block = [0; 1024];
            for at in (range.start..range.end).step_by(block.len()) {
                file.read_exact_at(&mut block, at)?;
                if memchr::memmem::find(&block, &dirt).is_some() {
                    file.write_all_at(&[0; 1024], at)?;
                }
            }
        }
        Ok(())
    }
}
