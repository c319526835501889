//! Disks that fail while they are written: a line that says where, exit code 7, an end in time, and nothing to boot.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::class::{Class, GROUP};
use e2e::command::Outcome;
use e2e::disk::Recipe;
use e2e::fault_disk::{FaultyTarget, WriteFault};
use e2e::fuse_disk::{Errno, FuseDisk};
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::room::INTERFACE;
use e2e::scene::{Scene, nothing_to_boot};

/// Longer than any of these runs, and shorter than a user's patience.
const SOON: Duration = Duration::from_secs(60);

const MIB: u64 = 1 << 20;

/// A used disk with a fault: the file below it, and what is shown.
fn faulty(scene: &Scene, fault: WriteFault) -> Result<(PathBuf, FuseDisk<FaultyTarget>)> {
    let file = scene.used_disk("below")?;
    let medium = FaultyTarget::new(&file, fault)?;
    let mount = mount_point(scene);
    Ok((file, FuseDisk::show(medium, &mount)?))
}

/// A place where nothing is mounted yet.
fn mount_point(scene: &Scene) -> PathBuf {
    let names = (0..).map(|number| scene.path(&format!("mount-{number}")));
    let mut free = names.filter(|path| !path.exists());
    free.next().unwrap_or_default()
}

fn install(scene: &Scene, target: &Path) -> Result<Outcome> {
    let mut unzip = scene.imageunzip(target)?;
    unzip.stdin(Stdio::null());
    Background::start(unzip)?.wait(SOON)
}

/// Installs onto a disk with a fault, which must fail; returns what is said.
fn fails(scene: &Scene, fault: &WriteFault) -> Result<String> {
    let (file, disk) = faulty(scene, fault.clone())?;
    let line = install(scene, disk.path())?.failure(7)?.to_owned();
    let context = || format!("{fault:?}: {line}");
    ensure!(line.contains(&*disk.path().to_string_lossy()), context());
    ensure!(line.contains("will not boot"), context());
    drop(disk);
    nothing_to_boot(&file).with_context(context)?;
    Ok(line)
}

fn needs() -> bool {
    need::met(&[Need::Root, Need::File("/dev/fuse")])
}

/// The numbers in "writing N bytes at byte M".
fn range(line: &str) -> Result<(u64, u64)> {
    let (_, rest) = line.split_once("writing ").context("no range")?;
    let (length, rest) = rest.split_once(" bytes at byte ").context("no range")?;
    let offset = rest.split(':').next().unwrap_or_default();
    Ok((offset.parse()?, length.parse()?))
}

#[test]
fn bad_sectors() -> Result<()> {
    if !needs() {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    for place in [2 * MIB, 3 * MIB + 512, 4 * MIB] {
        let line = fails(&scene, &WriteFault::Bad(place..place + 512))?;
        let (offset, length) = range(&line)?;
        ensure!(
            offset <= place && place < offset + length,
            "{place}: {line}"
        );
    }
    // Where the partition table is wiped, or the superblock is written at the end.
    for place in [1024, scene.disk.bytes - 512] {
        let (offset, length) = range(&fails(&scene, &WriteFault::Bad(place..place + 512))?)?;
        ensure!(offset <= place && place < offset + length, "{place}");
    }
    Ok(())
}

/// A device is written past the page cache: so it is told where it failed, and not only that a flush did.
#[test]
fn bad_sectors_of_a_device() -> Result<()> {
    if !needs() || !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let allocated = scene.disk.allocated()?;
    let largest = allocated.iter().max_by_key(|range| range.end - range.start);
    let largest = largest.context("nothing is allocated")?;
    let place = (largest.start + largest.end) / 2 / 4096 * 4096;
    let (file, disk) = faulty(&scene, WriteFault::Bad(place..place + 512))?;
    {
        let device = LoopDevice::attach(disk.path(), 512)?;
        let outcome = install(&scene, device.path())?;
        let line = outcome.failure(7)?;
        let (offset, length) = range(line)?;
        ensure!(
            offset <= place && place < offset + length && length <= 2 * MIB,
            "{place}: {line}"
        );
        ensure!(line.contains("will not boot"), "{line}");
    }
    drop(disk);
    nothing_to_boot(&file)
}

#[test]
fn a_device_that_vanishes() -> Result<()> {
    if !needs() || !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    for after in [8, 30, 60] {
        let (file, disk) = faulty(&scene, WriteFault::Gone(after, Errno::ENODEV))?;
        {
            let device = LoopDevice::attach(disk.path(), 512)?;
            let outcome = install(&scene, device.path())?;
            outcome.failure(7).with_context(|| after.to_string())?;
        }
        drop(disk);
        nothing_to_boot(&file).with_context(|| after.to_string())?;
    }
    Ok(())
}

#[test]
fn no_room() -> Result<()> {
    if !needs() {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    for from in [0, 3 * MIB, 5 * MIB] {
        let line = fails(&scene, &WriteFault::Full(from))?;
        ensure!(line.contains("No space left"), "{line}");
        let (offset, length) = range(&line)?;
        ensure!(offset + length > from, "{from}: {line}");
    }
    Ok(())
}

#[test]
fn gone() -> Result<()> {
    if !needs() {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let errors = [Errno::EIO, Errno::ENODEV, Errno::ENXIO];
    for (after, error) in [0, 1, 3, 5, 8, 11]
        .into_iter()
        .zip(errors.into_iter().cycle())
    {
        let (file, disk) = faulty(&scene, WriteFault::Gone(after, error))?;
        let line = install(&scene, disk.path())?.failure(7)?.to_owned();
        drop(disk);
        nothing_to_boot(&file).with_context(|| format!("{after}: {line}"))?;
    }
    Ok(())
}

#[test]
fn flushes_that_fail() -> Result<()> {
    if !needs() {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let (file, disk) = faulty(&scene, WriteFault::Flush(u64::MAX))?;
    install(&scene, disk.path())?.success()?;
    scene.same_data(&file)?;
    let flushes = disk.medium().flushes();
    drop(disk);
    ensure!(flushes >= 4, "{flushes} flushes");
    for number in 0..flushes {
        let line = fails(&scene, &WriteFault::Flush(number))?;
        ensure!(line.contains("flushing"), "{line}");
    }
    Ok(())
}

#[test]
fn short_writes() -> Result<()> {
    if !needs() {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let (file, disk) = faulty(&scene, WriteFault::Short(3 * 4096))?;
    install(&scene, disk.path())?.success()?;
    drop(disk);
    scene.installed_on(&file)
}

/// The disk is pulled out while the installation waits for the network.
#[test]
fn pulled_out() -> Result<()> {
    if !needs() {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let (file, disk) = faulty(&scene, WriteFault::Short(usize::MAX))?;
    let mut unzip = scene.keys.imageunzip()?;
    unzip.arg("-").arg(disk.path()).stdin(Stdio::piped());
    let mut child = unzip.stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let image = fs::read(&scene.image)?;
    let (first, rest) = image.split_at(image.len() / 2);
    stdin.write_all(first)?;
    while disk.medium().flushes() == 0 {
        ensure!(child.try_wait()?.is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    disk.pull_out()?;
    // It may have gone already.
    let _ = stdin.write_all(rest);
    drop(stdin);
    let output = child.wait_with_output()?;
    drop(disk);
    let line = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(7), "{}: {line}", output.status);
    ensure!(line.contains("will not boot"), "{line}");
    nothing_to_boot(&file)
}

#[test]
fn a_client() -> Result<()> {
    if !needs() || !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let class = Class::new(1)?;
    let server = class.serve(&scene, "200M")?;
    for fault in [
        WriteFault::Bad(4 * MIB..4 * MIB + 512),
        WriteFault::Full(3 * MIB),
        WriteFault::Flush(1),
        WriteFault::Gone(6, Errno::EIO),
    ] {
        let (file, disk) = faulty(&scene, fault.clone())?;
        let client = scene.client(disk.path(), GROUP, INTERFACE)?;
        let client = Background::start(class.clients[0].netns.command(&client)?)?;
        let outcome = client.wait(SOON)?;
        ensure!(outcome.code() == Some(7), "{fault:?}: {outcome}");
        let line = outcome.stderr.lines().last().unwrap_or_default();
        ensure!(line.contains("will not boot"), "{fault:?}: {line}");
        if !matches!(fault, WriteFault::Flush(_)) {
            let (offset, length) = range(line)?;
            ensure!(length > 0 && offset < scene.disk.bytes, "{line}");
        }
        drop(disk);
        nothing_to_boot(&file).with_context(|| format!("{fault:?}: {line}"))?;
    }
    e2e::class::end(server)?;
    Ok(())
}

/// A disk that takes everything and has something else: only reading back finds that.
#[test]
fn a_disk_that_lies() -> Result<()> {
    if !needs() {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let allocated = scene.disk.allocated()?;
    let middle = allocated.iter().find(|range| range.end > 2 * MIB);
    let middle = middle.context("nothing is in use")?.end - 1;
    for place in [middle, 1080, scene.disk.bytes - 1] {
        let (_, disk) = faulty(&scene, WriteFault::Lies(place))?;
        install(&scene, disk.path())?.success()?;
        drop(disk);

        let (file, disk) = faulty(&scene, WriteFault::Lies(place))?;
        let mut unzip = scene.imageunzip(disk.path())?;
        unzip.arg("--verify").stdin(Stdio::null());
        let outcome = Background::start(unzip)?.wait(SOON)?;
        let line = outcome.failure(7)?;
        ensure!(line.contains("is not what was written"), "{place}: {line}");
        drop(disk);
        nothing_to_boot(&file).with_context(|| format!("{place}: {line}"))?;
    }
    Ok(())
}
