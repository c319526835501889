//! Filesystems that this kernel does not mount: filled and read by programs.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::aged::{self, Holds};
use super::{Driver, Tree, Volume};
use crate::canary::Canary;
use crate::command::{must, must_line, system};
use crate::{files, scratch};

/// FAT, by mtools.
#[derive(Clone, Copy, Debug)]
pub struct Fat {
    /// What imagezip calls it.
    pub kind: &'static str,
    /// Arguments of mkfs.fat.
    pub mkfs: &'static str,
    /// See [`Driver::slack`]: mtools leaves what was in the rest of a last cluster.
    pub slack: u64,
}

/// F2FS, by f2fs-tools.
#[derive(Clone, Copy, Debug)]
pub struct F2fs {
    /// Arguments of mkfs.f2fs.
    pub mkfs: &'static str,
}

/// UFS, by makefs; read by The Sleuth Kit.
#[derive(Clone, Copy, Debug)]
pub struct Ufs {
    /// What imagezip calls it.
    pub kind: &'static str,
    /// Options of makefs.
    pub options: &'static str,
    /// More arguments of makefs.
    pub arguments: &'static str,
}

/// Permissions are made by the program that reads the files.
fn without_modes(mut tree: Tree) -> Tree {
    tree.values_mut().for_each(|entry| entry.mode = 0);
    tree
}

/// The number before `behind` in a text.
fn number_before(text: &str, behind: &str) -> Result<u64> {
    let before = text
        .split(behind)
        .next()
        .filter(|before| before.len() < text.len());
    let word = before.and_then(|before| before.split([' ', '\t', '\n', '/']).next_back());
    word.and_then(|word| word.parse().ok())
        .with_context(|| format!("no number before {behind:?} in {text}"))
}

impl Fat {
    fn name(volume: &Volume) -> String {
        format!("{}@@{}", volume.disk.display(), volume.offset)
    }

    fn copy(volume: &Volume, files: &[PathBuf], to: &str) -> Result<()> {
        let mut arguments = vec![
            "-s".into(),
            "-Q".into(),
            "-i".into(),
            Self::name(volume).into(),
        ];
        arguments.extend(files.iter().map(|path| path.clone().into_os_string()));
        arguments.push(to.into());
        must("mcopy", arguments)?;
        Ok(())
    }

    fn clusters(volume: &Volume) -> Result<(u64, u64, u64)> {
        let device = volume.read_only()?;
        let text = must_line(&format!("fsck.fat -n -v {}", device.path().display()))?;
        let size = number_before(&text, " bytes per cluster")?;
        let total = number_before(&text, " clusters\n")?;
        let used = text.rsplit(" files, ").next().unwrap_or_default();
        let used = used.split('/').next().unwrap_or_default().parse()?;
        Ok((size, used, total))
    }
}

impl Driver for Fat {
    fn kind(&self) -> &str {
        self.kind
    }

    fn tools(&self) -> Vec<&'static str> {
        vec!["mkfs.fat", "fsck.fat", "mcopy", "mdel"]
    }

    fn make(&self, volume: &Volume, dirt: &Canary) -> Result<()> {
        let device = volume.device()?;
        must_line(&format!(
            "mkfs.fat {} {}",
            self.mkfs,
            device.path().display()
        ))?;
        drop(device);
        let (size, used, total) = Self::clusters(volume)?;
        let directory = scratch::directory()?;
        let piece = usize::try_from((total - used) * size * 95 / 100 / 30)?;
        let mut litter = Vec::new();
        for number in 0..30 {
            let path = directory.path().join(format!("litter{number}"));
            fs::write(&path, dirt.dirt(piece))?;
            litter.push(path);
        }
        Self::copy(volume, &litter, "::")?;
        let delete = |first: usize| {
            let names = (first..30)
                .step_by(2)
                .map(|number| format!("::litter{number}"));
            let options = ["-i".into(), Self::name(volume)];
            must("mdel", options.into_iter().chain(names)).map(drop)
        };
        let content = aged::content(Holds::PlainFiles)?;
        delete(0)?;
        // The larger files are in the half of the directories that is copied first.
        Self::copy(
            volume,
            &[content.join("small"), content.join("empty")],
            "::",
        )?;
        delete(1)?;
        Self::copy(volume, &[content.join("files")], "::")?;
        let name = Self::name(volume);
        let mut doomed = Vec::new();
        for (path, entry) in files::tree(&content.join("files"))?.iter().step_by(5) {
            if entry.content.is_some() {
                doomed.push(format!("::files/{}", path.display()));
            }
        }
        must("mdel", ["-i".into(), name].into_iter().chain(doomed))?;
        Ok(())
    }

    fn slack(&self) -> u64 {
        self.slack
    }

    fn check(&self, volume: &Volume) -> Result<()> {
        Self::clusters(volume).map(drop)
    }

    fn tree(&self, volume: &Volume) -> Result<Tree> {
        let directory = scratch::directory()?;
        let place = directory.path().to_string_lossy();
        must(
            "mcopy",
            ["-s", "-n", "-Q", "-i", &Self::name(volume), "::*", &place],
        )?;
        Ok(without_modes(files::tree(directory.path())?))
    }

    fn free(&self, volume: &Volume) -> Result<u64> {
        let (size, used, total) = Self::clusters(volume)?;
        Ok((total - used) * size)
    }
}

/// Runs a program in a directory with an answer to what it asks.
fn in_directory(directory: &Path, line: &str, answer: Option<&Path>) -> Result<String> {
    let mut words = line.split(' ');
    let mut command = system(words.next().unwrap_or_default())?;
    command.args(words).current_dir(directory);
    command.stdin(match answer {
        Some(path) => Stdio::from(File::open(path)?),
        None => Stdio::null(),
    });
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Driver for F2fs {
    fn kind(&self) -> &str {
        "F2FS"
    }

    fn tools(&self) -> Vec<&'static str> {
        vec!["mkfs.f2fs", "sload.f2fs", "fsck.f2fs", "dump.f2fs"]
    }

    fn make(&self, volume: &Volume, dirt: &Canary) -> Result<()> {
        let device = volume.device()?;
        let place = device.path().display();
        must_line(&format!("mkfs.f2fs -q -f -t 0 {} {place}", self.mkfs))?;
        // Nothing can be deleted: what is zero in the main area of the new filesystem is free.
        let mut superblock = [0; 4096];
        let file = File::options().read(true).write(true).open(device.path())?;
        file.read_exact_at(&mut superblock, 1024)?;
        let main = u32::from_le_bytes(superblock[92..96].try_into()?);
        let mut block = vec![0; 4096];
        for at in (u64::from(main) * 4096..volume.bytes).step_by(4096) {
            file.read_exact_at(&mut block, at)?;
            if block.iter().all(|&byte| byte == 0) {
                file.write_all_at(&dirt.dirt(4096), at)?;
            }
        }
        file.sync_all()?;
        let content = aged::content(Holds::PlainFiles)?;
        for part in ["files/0", "files/3", "small/2"] {
            let target = part.replace('/', "-");
            let source = content.join(part);
            must_line(&format!(
                "sload.f2fs -f {} -t /{target} {place}",
                source.display()
            ))?;
        }
        Ok(())
    }

    fn slack(&self) -> u64 {
        // sload.f2fs leaves what was in the rest of a last block.
        200 * 4096
    }

    fn check(&self, volume: &Volume) -> Result<()> {
        let device = volume.read_only()?;
        let text = must_line(&format!("fsck.f2fs --dry-run {}", device.path().display()))?;
        ensure!(!text.contains("[Fail]"), "{text}");
        Ok(())
    }

    fn tree(&self, volume: &Volume) -> Result<Tree> {
        let device = volume.read_only()?;
        let place = device.path().display();
        let directory = scratch::directory()?;
        let yes = directory.path().join("yes");
        fs::write(&yes, "y\n")?;
        in_directory(
            directory.path(),
            &format!("dump.f2fs -n 0~-1 {place}"),
            None,
        )?;
        let nat = fs::read_to_string(directory.path().join("dump_nat"))?;
        let mut tree = Tree::new();
        for line in nat.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| {
                let at = words.iter().position(|word| word.starts_with(name))?;
                let inside = words[at].trim_start_matches(name);
                let word = if inside.is_empty() {
                    words.get(at + 1)?
                } else {
                    inside
                };
                word.parse::<u64>().ok()
            };
            // Nodes that are no inodes belong to one.
            let (Some(nid), Some(ino)) = (after("nid:"), after("ino:")) else {
                continue;
            };
            if nid != ino || nid < 4 {
                continue;
            }
            let _ = fs::remove_dir_all(directory.path().join("lost_found"));
            let line = format!("dump.f2fs -i {nid:#x} {place}");
            in_directory(directory.path(), &line, Some(&yes))?;
            for (path, entry) in
                files::tree(&directory.path().join("lost_found")).unwrap_or_default()
            {
                tree.insert(Path::new(&nid.to_string()).join(path), entry);
            }
        }
        Ok(without_modes(tree))
    }

    fn free(&self, volume: &Volume) -> Result<u64> {
        let device = volume.read_only()?;
        let text = must_line(&format!("dump.f2fs -d 1 {}", device.path().display()))?;
        // Such as `valid_block_count  [0x  15 : 21]`.
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.rsplit(": ").next());
            let number =
                number.and_then(|rest| rest.trim_end_matches(']').trim().parse::<u64>().ok());
            number.with_context(|| format!("dump.f2fs: no {name}"))
        };
        let blocks = value("segment_count_main ")? * 512;
        Ok((blocks - value("valid_block_count ")?) * 4096)
    }
}

impl Driver for Ufs {
    fn kind(&self) -> &str {
        self.kind
    }

    fn tools(&self) -> Vec<&'static str> {
        vec!["makefs", "blkls", "fsstat", "tsk_recover"]
    }

    fn make(&self, volume: &Volume, dirt: &Canary) -> Result<()> {
        let content = aged::content(Holds::Everything)?;
        let directory = scratch::directory()?;
        let image = directory.path().join("ufs");
        let (size, options) = (volume.bytes.to_string(), self.options);
        let mut arguments = vec!["-t", "ffs", "-s", &size, "-o", options];
        arguments.extend(self.arguments.split_whitespace());
        let (name, source) = (image.to_string_lossy(), content.to_string_lossy());
        arguments.extend([&*name, &*source]);
        must("makefs", arguments)?;
        let mut bytes = Vec::new();
        File::open(&image)?.read_to_end(&mut bytes)?;
        let disk = File::options().write(true).open(&volume.disk)?;
        disk.write_all_at(&bytes, volume.offset)?;
        drop(bytes);
        // Nothing can be deleted in it.
        let (unit, free) = self.unallocated(volume)?;
        for fragment in free {
            disk.write_all_at(&dirt.dirt(unit), volume.offset + fragment * unit as u64)?;
        }
        disk.sync_all()?;
        Ok(())
    }

    fn check(&self, volume: &Volume) -> Result<()> {
        let device = volume.read_only()?;
        let text = must_line(&format!("fsstat -f ufs {}", device.path().display()))?;
        ensure!(text.contains("CYLINDER GROUP"), "{text}");
        Ok(())
    }

    fn tree(&self, volume: &Volume) -> Result<Tree> {
        let device = volume.read_only()?;
        let directory = scratch::directory()?;
        must_line(&format!(
            "tsk_recover -a -f ufs {} {}",
            device.path().display(),
            directory.path().display()
        ))?;
        Ok(without_modes(files::tree(directory.path())?))
    }

    fn free(&self, volume: &Volume) -> Result<u64> {
        let (unit, free) = self.unallocated(volume)?;
        Ok((unit * free.len()) as u64)
    }
}

impl Ufs {
    /// Bytes of a fragment, and the numbers of the free ones, by The Sleuth Kit.
    fn unallocated(&self, volume: &Volume) -> Result<(usize, Vec<u64>)> {
        let device = volume.read_only()?;
        let place = device.path().display();
        let text = must_line(&format!("fsstat -f ufs {place}"))?;
        let size = text
            .lines()
            .find_map(|line| line.strip_prefix("Fragment Size: "));
        let unit = size.context("fsstat: no fragment size")?.trim().parse()?;
        let list = must_line(&format!("blkls -f ufs -A -l {place}"))?;
        let free = list
            .lines()
            .filter_map(|line| {
                line.split_once("|f")
                    .and_then(|(number, _)| number.parse().ok())
            })
            .collect();
        Ok((unit, free))
    }
}
