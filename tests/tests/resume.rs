//! Installations that are interrupted again and again, by kill -9 and by power cuts: the disk is never bootable by half, the
//! next run goes on where the last one ended, and the end is what one run without interruption gives.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::class::{self, Class, GROUP};
use e2e::command::run;
use e2e::crash_disk;
use e2e::disk::{Recipe, Table};
use e2e::events;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::scene::{Scene, last_owner};
use fastrand::Rng;
use nix::sys::signal::Signal;
use serde_json::Value;

/// A disk with a partition table and a few chunks, so that hundreds of installations take seconds.
const RECIPE: Recipe = Recipe {
    table: Table::Gpt,
    fat_mib: 2,
    ..Recipe::TINY
};

const SECTOR: usize = 512;

/// The ends of a disk, which are written last.
const EDGE: u64 = 1 << 20;

/// What is written at the very last.
const BOOT: u64 = 4096;

/// Installations that are interrupted, onto a disk that another system was on.
struct Course {
    scene: Scene,
    /// What is in use on the golden disk.
    allocated: Vec<Range<u64>>,
    golden: Vec<u8>,
    /// The disk as it was at first: it boots, and between its ends is dirt.
    old: Vec<u8>,
    /// Bytes of data that are written in one run.
    all: u64,
}

impl Course {
    fn new() -> Result<Self> {
        let scene = Scene::new(&RECIPE)?;
        let golden = fs::read(&scene.disk.path)?;
        let mut old = golden.clone();
        let middle = usize::try_from(EDGE)?..old.len() - usize::try_from(EDGE)?;
        let dirt = last_owner().dirt(middle.len());
        old[middle].copy_from_slice(&dirt);
        let mut course = Self {
            allocated: scene.disk.allocated()?,
            scene,
            golden,
            old,
            all: 0,
        };
        let target = course.target()?;
        let finish = course.finish(&target)?;
        course.all = number(&finish, "plain_bytes")?;
        ensure!(number(&finish, "kept_bytes")? == 0, "{finish}");
        course.complete(&fs::read(&target)?)?;
        Ok(course)
    }

    /// The old disk, as a file.
    fn target(&self) -> Result<PathBuf> {
        let target = self.scene.path("target");
        fs::write(&target, &self.old)?;
        Ok(target)
    }

    fn command(&self, target: &Path) -> Result<Command> {
        let mut unzip = self.scene.imageunzip(target)?;
        unzip.args(["--json", "--threads", "2"]);
        Ok(unzip)
    }

    /// Installs without interruption; returns the last event.
    fn finish(&self, target: &Path) -> Result<Value> {
        events::last(&run(self.command(target)?)?.success()?, "finish")
    }

    /// Checks that the disk is the golden one, wherever that is in use.
    fn complete(&self, disk: &[u8]) -> Result<()> {
        self.same(disk, 0).context("at the end")
    }

    fn same(&self, disk: &[u8], from: u64) -> Result<()> {
        for range in &self.allocated {
            let (start, end) = (range.start.max(from), range.end.max(from));
            let range = usize::try_from(start)?..usize::try_from(end)?;
            ensure!(
                disk[range.clone()] == self.golden[range.clone()],
                "a byte in {range:?} is another one"
            );
        }
        Ok(())
    }

    /// Checks that what firmware looks for is only on a disk of which nothing was written yet, or everything but the
    /// very last write.
    fn safe(&self, disk: &[u8]) -> Result<()> {
        let found = what_boots(disk);
        if found.is_empty() {
            return Ok(());
        }
        let edge = usize::try_from(EDGE)?;
        let middle = edge..disk.len() - edge;
        if disk[middle.clone()] == self.old[middle] {
            return Ok(());
        }
        // What was not flushed may be missing of the boot sectors alone.
        let from = match found.iter().all(|&place| place == disk.len() - SECTOR) {
            // The backup of the table is written before, and with it the whole end of the disk.
            true => EDGE,
            false => BOOT,
        };
        self.same(disk, from)
            .with_context(|| format!("there is something to boot at {found:?}"))
    }

    /// Installs with one interruption after the other, and then to the end. Returns the share that was on the disk then.
    fn finish_after(&self, target: &Path) -> Result<f64> {
        let finish = self.finish(target)?;
        self.complete(&fs::read(target)?)?;
        let (written, kept) = (
            number(&finish, "plain_bytes")?,
            number(&finish, "kept_bytes")?,
        );
        ensure!(written + kept == self.all, "{finish}");
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        Ok(kept as f64 / self.all as f64)
    }
}

fn number(event: &Value, field: &str) -> Result<u64> {
    let found = event[field].as_u64();
    found.with_context(|| format!("{field}: {event}"))
}

/// The sectors in which firmware or a kernel would find a partition table: MBR, GPT, backup of the GPT.
fn what_boots(disk: &[u8]) -> Vec<usize> {
    let last = disk.len() - SECTOR;
    let mut found = Vec::new();
    if disk[510..512] == [0x55, 0xaa] {
        found.push(0);
    }
    for place in [SECTOR, last] {
        if disk[place..].starts_with(b"EFI PART") {
            found.push(place);
        }
    }
    found
}

/// How much of the whole was on the disk when the last runs began: nothing at first, nearly all in the end.
fn judge(shares: &mut [f64]) -> Result<()> {
    shares.sort_by(f64::total_cmp);
    println!("on the disk already: {shares:.2?}");
    let (first, last) = (shares.first().copied(), shares.last().copied());
    ensure!(first.is_some_and(|share| share < 0.2), "{shares:?}");
    ensure!(last.is_some_and(|share| share > 0.7), "{shares:?}");
    Ok(())
}

/// Kills at 200 moments of the run, up to four times before it may end.
#[test]
fn killed_at_any_moment() -> Result<()> {
    const KILLS: usize = 200;
    let course = Course::new()?;
    let mut random = Rng::with_seed(1);
    let target = course.target()?;
    let began = Instant::now();
    course.finish(&target)?;
    let whole = began.elapsed();
    let (mut kills, mut ended, mut shares) = (0, 0, Vec::new());
    while kills < KILLS {
        let target = course.target()?;
        for _ in 0..random.usize(1..=4) {
            let child = course.command(&target)?;
            let mut child = silent(child).spawn()?;
            thread::sleep(whole.mul_f64(random.f64() * 1.1));
            child.kill()?;
            match child.wait()?.success() {
                // It was faster.
                true => ended += 1,
                false => kills += 1,
            }
            course.safe(&fs::read(&target)?)?;
        }
        shares.push(course.finish_after(&target)?);
    }
    println!("{kills} kills in runs of {whole:?}, {ended} ended before");
    judge(&mut shares)
}

fn silent(mut command: Command) -> Command {
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Cuts the power after each share of the writes, up to three times before the installation may end.
#[test]
fn power_cuts() -> Result<()> {
    const CUTS: usize = 100;
    if !need::met(&[Need::Root, Need::File("/dev/fuse")]) {
        return Ok(());
    }
    let course = Course::new()?;
    let show = |disk: Vec<u8>, power: Option<usize>, number: usize| {
        crash_disk::show(disk, power, &course.scene.path(&format!("mount-{number}")))
    };
    let disk = show(course.old.clone(), None, 0)?;
    course.finish(disk.path())?;
    let accesses = disk.medium().accesses();
    // Chunks, both ends of the disk twice, and flushes.
    ensure!(accesses > 12, "{accesses} accesses");
    drop(disk);

    let mut random = Rng::with_seed(2);
    let (mut cuts, mut shares) = (0, Vec::new());
    while cuts < CUTS {
        let mut bytes = course.old.clone();
        for _ in 0..random.usize(1..=3) {
            let power = random.usize(0..accesses);
            let disk = show(bytes, Some(power), cuts + 1)?;
            let outcome = run(course.command(disk.path())?)?;
            bytes = disk.medium().after_power_cut(&mut random);
            if disk.medium().is_off() {
                cuts += 1;
                ensure!(outcome.code() == Some(7), "{outcome}");
            }
            course.safe(&bytes).with_context(|| format!("cut {cuts}"))?;
        }
        let target = course.scene.path("target");
        fs::write(&target, &bytes)?;
        shares.push(course.finish_after(&target)?);
    }
    println!("{cuts} cuts in runs of {accesses} accesses");
    judge(&mut shares)
}

/// The same on a block device, of which the page cache writes back what it likes.
#[test]
fn power_cuts_of_a_device() -> Result<()> {
    if !need::met(&[Need::Loop, Need::File("/dev/fuse")]) {
        return Ok(());
    }
    let course = Course::new()?;
    let mut random = Rng::with_seed(3);
    let mut cuts = 0;
    for number in 0..12 {
        let power = 6 + number * 4;
        let mount = course.scene.path(&format!("mount-{number}"));
        let disk = crash_disk::show(course.old.clone(), Some(power), &mount)?;
        {
            let device = LoopDevice::attach(disk.path(), 512)?;
            let outcome = run(course.command(device.path())?)?;
            // What the device has taken, the disk must have: a flush that fails is an error.
            let expected = if disk.medium().is_off() { 7 } else { 0 };
            ensure!(outcome.code() == Some(expected), "{expected}: {outcome}");
        }
        cuts += usize::from(disk.medium().is_off());
        let bytes = disk.medium().after_power_cut(&mut random);
        course
            .safe(&bytes)
            .with_context(|| format!("after {power}"))?;
        let target = course.scene.path("target");
        fs::write(&target, &bytes)?;
        course.finish_after(&target)?;
    }
    ensure!(cuts > 4, "only {cuts} cuts");
    Ok(())
}

/// A client that is killed in the middle; the server goes away meanwhile and another one comes.
#[test]
fn a_client_goes_on() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let server = class.serve(&scene, "60M")?;
    let target = scene.used_disk("target")?;
    let start = |target: &Path| class::student(&class.clients[0], &scene, target.into(), GROUP);
    let first = start(&target)?;
    events::progress(&first.client, 60)?;
    first.client.kill()?;
    e2e::scene::nothing_to_boot(&target)?;
    server.signal(Signal::SIGKILL)?;
    drop(server);

    let server = class.serve(&scene, "60M")?;
    let finish = start(&target)?.graduates(&scene)?;
    let (written, kept) = (
        number(&finish, "plain_bytes")?,
        number(&finish, "kept_bytes")?,
    );
    ensure!(kept * 100 > (written + kept) * 40, "{finish}");
    // What is on the disk was not received again.
    let blocks = number(&finish, "blocks")?;
    let image = fs::metadata(&scene.image)?.len();
    ensure!(blocks * 1024 < image * 3 / 4, "{finish}");
    class::end(server)?;
    Ok(())
}
