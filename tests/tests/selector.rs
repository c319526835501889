//! Targets chosen by what they are (`--disk`), on the disks of this machine.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};
use e2e::command::{Outcome, must, run, tool};
use e2e::disk::Recipe;
use e2e::ext::Mount;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::Scene;
use nix::mount::MsFlags;
use serde_json::Value;

/// Installs with these options instead of a target.
fn unzip(scene: &Scene, options: &[&str]) -> Result<Outcome> {
    let mut command = scene.keys.imageunzip()?;
    command.args(options).arg(&scene.image);
    run(command)
}

fn disks(program: &str) -> Result<Vec<Value>> {
    let mut command = tool(program)?;
    command.args(["--list-disks", "--json"]);
    let list: Value = serde_json::from_slice(&run(command)?.success()?.stdout)?;
    Ok(list["disks"].as_array().context("no list")?.clone())
}

#[test]
fn a_disk_by_its_name() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let file = scene.used_disk("used")?;
    let device = LoopDevice::attach(&file, 512)?;
    let name = device
        .path()
        .file_name()
        .context("no name")?
        .to_string_lossy()
        .into_owned();
    for program in ["imageunzip", "frisbee-client"] {
        let list = disks(program)?;
        let path = device.path().to_string_lossy();
        let found = list
            .iter()
            .find(|disk| disk["path"] == *path)
            .context("not listed")?;
        ensure!(
            found["size_bytes"] == scene.disk.bytes && found["special"] == "loop device",
            "{found}"
        );
    }
    let before = ranges::hash(&file)?;
    // By what it is, it is never meant.
    let outcome = unzip(&scene, &["--disk", "smallest,model=no such disk"])?;
    let line = outcome.failure(5)?;
    ensure!(
        line.contains("no disk is meant") && line.contains(&name),
        "{line}"
    );
    let selector = format!("name={name}");
    let outcome = unzip(&scene, &["--disk", &format!("{selector},hdd")])?;
    ensure!(outcome.failure(5)?.contains("is not hdd"), "{outcome}");
    // As large as it is, but another one is too.
    let twin = scene.used_disk_of("twin", scene.disk.bytes)?;
    let other = LoopDevice::attach(&twin, 512)?;
    let outcome = unzip(&scene, &["--disk", "name=loop*,largest,smallest"])?;
    ensure!(outcome.code() == Some(2), "{outcome}");
    drop(other);
    ensure!(ranges::hash(&file)? == before, "the target was touched");

    let outcome = unzip(&scene, &["--disk", &selector])?.success()?;
    ensure!(
        outcome
            .stderr
            .contains(&format!("--disk {selector} is {}", device.path().display())),
        "{outcome}"
    );
    drop(device);
    scene.same_data(&file)
}

/// A disk in use is not meant, and the reason is told.
#[test]
fn a_disk_in_use() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let file = scene.path("disk");
    fs::copy(&scene.disk.path, &file)?;
    let device = LoopDevice::attach(&file, 512)?;
    let partition = device.partition(2)?;
    let mounted = Mount::new(&partition, MsFlags::MS_RDONLY)?;
    let selector = format!(
        "name={}",
        device
            .path()
            .file_name()
            .context("no name")?
            .to_string_lossy()
    );
    let outcome = unzip(&scene, &["--disk", &selector])?;
    let line = outcome.failure(5)?;
    ensure!(line.contains("is mounted on"), "{line}");
    // The other partition is free, the disk is not.
    let first = device.partition(1)?;
    ensure!(first != partition);
    drop(mounted);
    unzip(&scene, &["--disk", &selector])?.success()?;
    Ok(())
}

/// What holds a disk is told by its name; what names none is found all the same.
#[test]
fn held() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let file = scene.used_disk("used")?;
    let device = LoopDevice::attach(&file, 512)?;
    let holder = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(device.path())?;
    let selector = format!(
        "name={}",
        device
            .path()
            .file_name()
            .context("no name")?
            .to_string_lossy()
    );
    let outcome = unzip(&scene, &["--disk", &selector])?;
    ensure!(outcome.failure(5)?.contains("exclusively"), "{outcome}");
    drop(holder);
    Ok(())
}

/// A link that udev would make leads to the disk.
#[test]
fn a_stable_name() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let file = scene.used_disk("used")?;
    let device = LoopDevice::attach(&file, 512)?;
    let link = scene.path("by-id");
    std::os::unix::fs::symlink(device.path(), &link)?;
    scene.keys.unzip(&scene.image, &link)?;
    drop(device);
    scene.same_data(&file)
}

/// The command line: exactly one of target and selector, and no image is needed to list disks.
#[test]
fn usage() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let target = scene.path("target");
    let target = target.to_string_lossy();
    for options in [
        &["--disk", "only", &target][..],
        &[],
        &["--disk", "biggest"],
        &["--disk", ""],
    ] {
        let mut command = scene.keys.imageunzip()?;
        command.arg(&scene.image).args(options);
        let outcome = run(command)?;
        ensure!(outcome.code() == Some(2), "{outcome}");
    }
    let table = the_table()?;
    ensure!(table.starts_with("disk"), "{table}");
    Ok(())
}

fn the_table() -> Result<String> {
    let mut command = tool("imageunzip")?;
    command.arg("--list-disks");
    let table = run(command)?.success()?.stdout_text();
    let kernel = must(
        "lsblk",
        [
            "--nodeps",
            "--noheadings",
            "--bytes",
            "--output",
            "NAME,SIZE,TYPE",
        ],
    )?;
    for line in kernel.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(size), Some("disk")) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let listed = table
            .lines()
            .any(|line| line.starts_with(&format!("/dev/{name} ")));
        ensure!(listed || size == "0", "{name} is not in:\n{table}");
    }
    Ok(table)
}
