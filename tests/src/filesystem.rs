//! Filesystems of every kind, as their own tools make, fill, check and read them; and the way through an image that
//! each has to survive.

pub mod aged;
pub mod ext;
pub mod mounted;
pub mod unmounted;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::canary::Canary;
use crate::command::{run, system, tool};
use crate::files::{self, Entry};
use crate::image::Keys;
use crate::loop_device::LoopDevice;
use crate::need::{self, Need};
use crate::scene::last_owner;
use crate::{events, scratch};

/// The files of a filesystem.
pub type Tree = BTreeMap<PathBuf, Entry>;

const MIB: u64 = 1 << 20;

/// What the partition table has before the partition, and behind it.
const MARGIN: u64 = MIB;

/// One kind of filesystem, made in one way.
pub trait Driver: fmt::Debug {
    /// What imagezip calls it.
    fn kind(&self) -> &str;

    /// The programs that are needed.
    fn tools(&self) -> Vec<&'static str>;

    /// Makes it on a volume full of zeros: with files, with holes between them, with `dirt` in as much of its free
    /// space as can be.
    ///
    /// # Errors
    /// What one of the programs says.
    fn make(&self, volume: &Volume, dirt: &Canary) -> Result<()>;

    /// Checks it with its own checker, which changes nothing.
    ///
    /// # Errors
    /// What the checker found.
    fn check(&self, volume: &Volume) -> Result<()>;

    /// All files, as somebody else reads them.
    ///
    /// # Errors
    /// If it cannot be read.
    fn tree(&self, volume: &Volume) -> Result<Tree>;

    /// Bytes of dirt that may be saved all the same: in the unused parts of allocation units that are larger than
    /// what the filesystem writes.
    fn slack(&self) -> u64 {
        0
    }

    /// Bytes that are free, as somebody else counts them.
    ///
    /// # Errors
    /// If it cannot be read.
    fn free(&self, volume: &Volume) -> Result<u64>;
}

/// A part of a disk in a file.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The file.
    pub disk: PathBuf,
    /// Where the part begins, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of a sector.
    pub sector_size: u32,
}

impl Volume {
    /// The volume as a device.
    ///
    /// # Errors
    /// What `losetup` says.
    pub fn device(&self) -> Result<LoopDevice> {
        LoopDevice::part(
            &self.disk,
            (self.offset, self.bytes),
            self.sector_size,
            false,
        )
    }

    /// The volume as a device that cannot be written to.
    ///
    /// # Errors
    /// What `losetup` says.
    pub fn read_only(&self) -> Result<LoopDevice> {
        LoopDevice::part(
            &self.disk,
            (self.offset, self.bytes),
            self.sector_size,
            true,
        )
    }

    /// The same part of another disk.
    #[must_use]
    pub fn on(&self, disk: &Path) -> Self {
        Self {
            disk: disk.into(),
            ..self.clone()
        }
    }
}

/// How a filesystem lies on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// It has the whole disk.
    Alone,
    /// In a partition.
    InPartition,
    /// In a partition of a device with sectors of 4096 bytes.
    OnLargeSectors,
}

/// Makes a disk of `mib` MiB with the filesystem, images it and installs the image on used disks, in both ways of
/// treating free space if it is in a partition: everything that was in use is there again, and nothing that was not.
///
/// # Errors
/// What is wrong.
pub fn survives(driver: &dyn Driver, mib: u64, lies: Lies) -> Result<()> {
    let mut needs = vec![Need::Loop, Need::Tool("sfdisk")];
    needs.extend(driver.tools().into_iter().map(Need::Tool));
    if !need::met(&needs) {
        return Ok(());
    }
    let directory = scratch::in_memory()?;
    let path = |name: &str| directory.path().join(name);
    let dirt = Canary::new("this filesystem");
    let golden = blank(&path("golden"), mib, lies)?;
    driver.make(&golden, &dirt).context("making it")?;
    driver.check(&golden).context("before it is imaged")?;
    let expected = driver.tree(&golden)?;
    ensure!(expected.len() > 60, "only {} files", expected.len());
    let free = driver.free(&golden)?;
    let left = dirt.find(&File::open(&golden.disk)?, usize::MAX)?.len() as u64 * 32;
    ensure!(
        left > free / 3,
        "only {left} of {free} free bytes are dirty: the test would prove nothing"
    );

    let keys = Keys::make(directory.path())?;
    let (image, plain) = (path("golden.frz"), path("plain.frz"));
    zip(&golden, &image, &["--sign"], &keys)?;
    let saved = zip(&golden, &plain, &["--unsigned"], &keys)?;
    let kind = saved["partitions"][0]["kind"].as_str().unwrap_or_default();
    let note = &saved["partitions"][0]["note"];
    ensure!(
        kind == driver.kind() && note.is_null(),
        "it was not understood: {kind}, {note}"
    );
    let total = saved["total_bytes"].as_u64().context("no total_bytes")?;
    let in_use = golden.bytes - free + 2 * MARGIN;
    ensure!(
        total <= in_use + in_use / 33,
        "{total} bytes are saved, where {in_use} are in use"
    );
    clean(&dirt, &plain, driver.slack())?;
    fs::remove_file(&plain)?;

    // What lies on a whole disk is cleared as what lies in a partition: once is enough.
    let modes: &[&str] = match lies {
        Lies::Alone => &["skip"],
        Lies::InPartition | Lies::OnLargeSectors => &["skip", "zero"],
    };
    for &mode in modes {
        let target = golden.on(&path("target"));
        let bytes = fs::metadata(&golden.disk)?.len();
        last_owner().fill(&File::create(&target.disk)?, 0..bytes)?;
        unzip(&image, &target, mode, &keys)?;
        driver.check(&target).context(mode)?;
        files::same_tree(&expected, &driver.tree(&target)?).context(mode)?;
        if mode == "zero" {
            clean(&dirt, &target.disk, driver.slack())?;
            clean(&last_owner(), &target.disk, 0)?;
        }
    }
    Ok(())
}

/// A new disk, and where its filesystem is to be.
fn blank(path: &Path, mib: u64, lies: Lies) -> Result<Volume> {
    let sector_size: u32 = if lies == Lies::OnLargeSectors {
        4096
    } else {
        512
    };
    let offset = if lies == Lies::Alone { 0 } else { MARGIN };
    let volume = Volume {
        disk: path.into(),
        offset,
        bytes: mib * MIB,
        sector_size,
    };
    File::create(path)?.set_len(volume.bytes + 2 * offset)?;
    if lies == Lies::Alone {
        return Ok(volume);
    }
    let device = LoopDevice::attach(path, sector_size)?;
    let sectors = |bytes: u64| bytes / u64::from(sector_size);
    let mut sfdisk = system("sfdisk")?;
    sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel"]);
    let mut child = sfdisk.arg(device.path()).stdin(Stdio::piped()).spawn()?;
    let script = format!(
        "label: gpt\nstart={}, size={}, type=L\n",
        sectors(offset),
        sectors(volume.bytes)
    );
    let mut stdin = child.stdin.take().context("sfdisk has no stdin")?;
    stdin.write_all(script.as_bytes())?;
    drop(stdin);
    ensure!(child.wait()?.success(), "sfdisk failed on\n{script}");
    Ok(volume)
}

/// Images the disk; returns the event with which that begins, and the bytes that were saved.
fn zip(golden: &Volume, image: &Path, how: &[&str], keys: &Keys) -> Result<serde_json::Value> {
    let mut command = if how == ["--sign"] {
        let mut command = keys.imagezip()?;
        command.args(["--level", "1"]);
        command
    } else {
        let mut command = tool("imagezip")?;
        command.args(["--unsigned", "--unencrypted", "--codec", "none"]);
        command
    };
    command.arg("--json");
    // Only a device has sectors of another size.
    let device = match golden.sector_size {
        512 => None,
        size => Some(LoopDevice::attach(&golden.disk, size)?),
    };
    let source = device
        .as_ref()
        .map_or(golden.disk.as_path(), LoopDevice::path);
    command.arg(source).arg(image);
    events::last(&run(command)?.success()?, "start")
}

fn unzip(image: &Path, target: &Volume, mode: &str, keys: &Keys) -> Result<()> {
    let device = match target.sector_size {
        512 => None,
        size => Some(LoopDevice::attach(&target.disk, size)?),
    };
    let place = device
        .as_ref()
        .map_or(target.disk.as_path(), LoopDevice::path);
    let mut command = keys.imageunzip()?;
    command.args(["--free", mode]).arg(image).arg(place);
    run(command)?.success()?;
    Ok(())
}

fn clean(dirt: &Canary, file: &Path, most: u64) -> Result<()> {
    let found = dirt.find(&File::open(file)?, usize::MAX)?;
    ensure!(
        found.len() as u64 * 32 <= most,
        "{}: dirt at {} places, the first are {:?}",
        file.display(),
        found.len(),
        &found[..found.len().min(9)]
    );
    Ok(())
}
