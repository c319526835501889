//! Full disks: a clear line, exit code 7, and no half file left behind.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::command::{LIMIT, run};
use e2e::disk::Recipe;
use e2e::need::{self, Need};
use e2e::scene::Scene;
use e2e::scratch;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A filesystem in memory with room for little; unmounted when dropped.
struct Small {
    place: TempDir,
}

impl Small {
    fn new(mib: u32) -> Result<Self> {
        let place = scratch::directory()?;
        let options = format!("size={mib}m");
        mount(
            Some("none"),
            place.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .context("mounting tmpfs")?;
        Ok(Self { place })
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    fn is_empty(&self) -> Result<bool> {
        Ok(fs::read_dir(self.path())?.next().is_none())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.place.path(), MntFlags::empty()) {
            eprintln!(
                "{}: cannot be unmounted: {error}",
                self.place.path().display()
            );
        }
    }
}

#[test]
fn the_image_does_not_fit() -> Result<()> {
    if !need::met(&[Need::Root]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let small = Small::new(4)?;
    let mut zip = scene.keys.imagezip()?;
    zip.arg(&scene.disk.path)
        .arg(small.path().join("golden.frz"));
    let outcome = run(zip)?;
    outcome.failure(7)?;
    ensure!(small.is_empty()?, "something is left: {outcome}");
    Ok(())
}

#[test]
fn the_installed_disk_does_not_fit() -> Result<()> {
    if !need::met(&[Need::Root]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let small = Small::new(20)?;
    let outcome = run(scene.imageunzip(&small.path().join("new"))?)?;
    outcome.failure(7)?;
    ensure!(small.is_empty()?, "something is left: {outcome}");

    // A file that was there stays, without anything to boot.
    let old = small.path().join("old");
    File::create(&old)?.set_len(scene.disk.bytes)?;
    let outcome = run(scene.imageunzip(&old)?)?;
    let line = outcome.failure(7)?;
    ensure!(line.contains("will not boot"), "{line}");
    e2e::scene::nothing_to_boot(&old)
}

#[test]
fn the_output_is_full() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let mut zip = scene.keys.imagezip()?;
    zip.arg(&scene.disk.path).arg("-");
    // Not through `Background`, which reads the output.
    let output = zip
        .stdin(std::process::Stdio::null())
        .stdout(File::create("/dev/full")?)
        .output()?;
    let line = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(7),
        "{:?}: {line}",
        output.status
    );
    ensure!(
        line.contains("\nimagezip: ") && !line.contains("panicked"),
        "{line}"
    );
    Ok(())
}

/// Whoever reads the image goes away.
#[test]
fn the_reader_has_gone() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let mut zip = scene.keys.imagezip()?;
    zip.arg(&scene.disk.path)
        .arg("-")
        .stdin(std::process::Stdio::null());
    let mut child = zip
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    let line = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(7),
        "{:?}: {line}",
        output.status
    );
    ensure!(
        line.contains("\nimagezip: ") && !line.contains("panicked"),
        "{line}"
    );
    Ok(())
}

/// An image that exists is not overwritten, nor lost when its successor fails.
#[test]
fn an_old_image_survives() -> Result<()> {
    if !need::met(&[Need::Root]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let small = Small::new(4)?;
    let image = small.path().join("golden.frz");
    fs::write(&image, "the old image")?;
    let zip = |force: bool| {
        let mut zip = scene.keys.imagezip()?;
        if force {
            zip.arg("--force");
        }
        zip.arg(&scene.disk.path).arg(&image);
        Background::start(zip)?.wait(LIMIT)
    };
    zip(false)?.failure(2)?;
    zip(true)?.failure(7)?;
    ensure!(fs::read(&image)? == b"the old image");
    ensure!(
        fs::read_dir(small.path())?.count() == 1,
        "something is left"
    );
    Ok(())
}
