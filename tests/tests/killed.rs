//! Installations that are cut off in the middle leave a disk that does not boot, and the next one completes it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::canary::Canary;
use e2e::command::LIMIT;
use e2e::disk::Recipe;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::scene::{Scene, nothing_to_boot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An installation from a pipe that has got the first half of the image and waits for the rest.
struct HalfWay {
    child: Child,
}

impl HalfWay {
    /// Starts it, and waits until data of the golden disk is on the target.
    fn start(scene: &Scene, target: &Path) -> Result<Self> {
        let mut unzip = scene.keys.imageunzip()?;
        unzip
            .arg("-")
            .arg(target)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let mut half_way = Self {
            child: unzip.spawn()?,
        };
        let image = fs::read(&scene.image)?;
        let stdin = half_way.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(&image[..image.len() / 2])?;
        let end = Instant::now() + LIMIT;
        let middle = scene.disk.ext.offset + (2 << 20);
        let expected = bytes_at(&scene.disk.path, middle)?;
        while bytes_at(target, middle)? != expected {
            ensure!(
                half_way.child.try_wait()?.is_none() && Instant::now() < end,
                "nothing was written"
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(half_way)
    }
}

impl Drop for HalfWay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bytes_at(path: &Path, at: u64) -> Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; 64 * 1024];
    File::open(path)?.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// A disk with another system on it, which could boot, and whose middle is dirt.
fn bootable(scene: &Scene) -> Result<std::path::PathBuf> {
    let path = scene.path("old disk");
    fs::copy(&scene.disk.path, &path)?;
    let file = File::options().write(true).open(&path)?;
    Canary::new("the old system").fill(&file, 1 << 20..scene.disk.bytes - (1 << 20))?;
    if nothing_to_boot(&path).is_ok() {
        bail!("the old disk has no partition table");
    }
    Ok(path)
}

#[test]
fn killed_at_once() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = bootable(&scene)?;
    let mut half_way = HalfWay::start(&scene, &target)?;
    half_way.child.kill()?;
    half_way.child.wait()?;
    nothing_to_boot(&target)?;
    scene.keys.unzip(&scene.image, &target)?;
    scene.installed_on(&target)
}

#[test]
fn killed_on_a_device() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let file = bootable(&scene)?;
    {
        let device = LoopDevice::attach(&file, 512)?;
        let mut half_way = HalfWay::start(&scene, device.path())?;
        half_way.child.kill()?;
        half_way.child.wait()?;
        nothing_to_boot(device.path())?;
        scene.keys.unzip(&scene.image, device.path())?;
    }
    scene.installed_on(&file)
}

#[test]
fn interrupted() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let target = bootable(&scene)?;
        let mut half_way = HalfWay::start(&scene, &target)?;
        kill(Pid::from_raw(half_way.child.id().cast_signed()), signal)?;
        // It may be waiting for input, which now ends.
        drop(half_way.child.stdin.take());
        let status = half_way.child.wait()?;
        let mut said = String::new();
        std::io::Read::read_to_string(
            half_way.child.stderr.as_mut().context("no stderr")?,
            &mut said,
        )?;
        ensure!(
            matches!(status.code(), Some(130 | 3)),
            "{signal}: {status}: {said}"
        );
        ensure!(
            said.contains("will not boot") && said.trim_end().lines().count() == 1,
            "{signal}: {said}"
        );
        nothing_to_boot(&target)?;
    }
    Ok(())
}

/// A new file is not left half written, unless there was no time for anything.
#[test]
fn a_new_file_is_removed() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.path("new");
    let mut unzip = scene.keys.imageunzip()?;
    unzip
        .arg("-")
        .arg(&target)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = unzip.spawn()?;
    let image = fs::read(&scene.image)?;
    child
        .stdin
        .take()
        .context("no stdin")?
        .write_all(&image[..image.len() / 2])?;
    let output = child.wait_with_output()?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(!target.exists(), "a half file is left");
    Ok(())
}

/// Without the end of the image the disk does not boot, though every chunk may be there.
#[test]
fn the_manifest_is_missing() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = bootable(&scene)?;
    let image = fs::read(&scene.image)?;
    let manifest = e2e::anatomy::Anatomy::of(&image)?.manifest;
    let mut unzip = scene.keys.imageunzip()?;
    unzip
        .arg("-")
        .arg(&target)
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = unzip.spawn()?;
    child
        .stdin
        .take()
        .context("no stdin")?
        .write_all(&image[..manifest])?;
    ensure!(child.wait()?.code() == Some(3));
    nothing_to_boot(&target)
}
