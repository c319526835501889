//! What a slip of the hand must not destroy, and what must not end as if it had been done.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use e2e::background::Background;
use e2e::command::{run, tool};
use e2e::disk::Recipe;
use e2e::need::{Need, met};
use e2e::scene::Scene;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A small disk and its image; `None` where they cannot be made.
fn scene() -> Result<Option<Scene>> {
    let needs = ["mke2fs", "debugfs", "dumpe2fs"].map(Need::Tool);
    met(&needs).then(|| Scene::new(&Recipe::TINY)).transpose()
}

#[test]
fn an_image_replaces_neither_its_source_nor_a_key_nor_what_is_no_file() -> Result<()> {
    let Some(scene) = scene()? else {
        return Ok(());
    };
    let source = scene.path("source");
    fs::copy(&scene.disk.path, &source)?;
    let linked = scene.path("another name");
    fs::hard_link(&source, &linked)?;
    let pipe = scene.path("pipe");
    mkfifo(&pipe, Mode::S_IRWXU)?;
    let link = scene.path("link");
    symlink("nowhere", &link)?;
    let before = fs::read(&source)?;
    let key = fs::read(&scene.keys.owner)?;
    for image in [
        &source,
        &linked,
        &scene.keys.owner,
        &scene.keys.content,
        &pipe,
        &link,
    ] {
        let mut zip = scene.keys.imagezip()?;
        zip.arg("--force").arg(&source).arg(image);
        run(zip)?.failure(2)?;
    }
    assert!(fs::read(&source)? == before);
    assert!(fs::read(&scene.keys.owner)? == key);
    assert!(fs::symlink_metadata(&pipe)?.file_type().is_fifo());
    assert!(fs::symlink_metadata(&link)?.is_symlink());
    Ok(())
}

#[test]
fn a_mistyped_device_does_not_become_a_file() -> Result<()> {
    let Some(scene) = scene()? else {
        return Ok(());
    };
    for target in ["/dev/no-such-disk", "/dev/../dev/no-such-disk"] {
        run(scene.imageunzip(target.as_ref())?)?.failure(5)?;
    }
    assert!(!fs::exists("/dev/no-such-disk")?);
    Ok(())
}

#[test]
fn a_damaged_image_from_a_redirected_file_leaves_the_target_alone() -> Result<()> {
    let Some(scene) = scene()? else {
        return Ok(());
    };
    let mut image = fs::read(&scene.image)?;
    let middle = image.len() / 2;
    image[middle] ^= 1;
    let damaged = scene.path("damaged");
    fs::write(&damaged, image)?;
    let target = scene.used_disk("target")?;
    let before = fs::read(&target)?;
    let mut unzip = scene.keys.imageunzip()?;
    unzip.arg("-").arg(&target).stdin(File::open(&damaged)?);
    let outcome = Background::start(unzip)?.wait(e2e::command::LIMIT)?;
    outcome.failure(4)?;
    assert!(fs::read(&target)? == before);
    Ok(())
}

#[test]
fn what_cannot_be_written_is_no_success() -> Result<()> {
    let Some(scene) = scene()? else {
        return Ok(());
    };
    // Open for reading only, as `1</dev/null` makes it.
    let mut zip = scene.keys.imagezip()?;
    zip.arg(&scene.disk.path)
        .arg("-")
        .stdout(File::open("/dev/null")?)
        .stderr(Stdio::null());
    assert_eq!(zip.status()?.code(), Some(7));
    // Messages that nobody can read any more do not end an installation.
    let target = scene.used_disk("target")?;
    let mut unzip = scene.imageunzip(&target)?;
    unzip
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::options().write(true).open("/dev/full")?);
    assert_eq!(unzip.status()?.code(), Some(0));
    scene.installed_on(&target)
}

#[test]
fn a_signal_ends_the_waiting_for_a_pipe() -> Result<()> {
    let Some(scene) = scene()? else {
        return Ok(());
    };
    let target = scene.path("new");
    let (mut unzip, mut zip) = (scene.keys.imageunzip()?, scene.keys.imagezip()?);
    unzip.arg("-");
    zip.args(["--from", "-"]);
    for mut command in [unzip, zip] {
        command.arg(&target).stdin(Stdio::piped());
        let running = Background::start(command)?;
        while !catches_sigterm(running.id())? {
            std::thread::sleep(Duration::from_millis(5));
        }
        running.signal(Signal::SIGTERM)?;
        assert_eq!(running.wait(Duration::from_secs(30))?.code(), Some(130));
        assert!(!target.exists());
    }
    Ok(())
}

/// Whether a process has a handler for SIGTERM, by the mask in proc(5).
fn catches_sigterm(process: u32) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .unwrap_or("0");
    Ok(u64::from_str_radix(mask.trim(), 16)? >> (Signal::SIGTERM as u32 - 1) & 1 == 1)
}

#[test]
fn what_holds_a_disk_in_clear_is_the_owners_alone() -> Result<()> {
    let Some(scene) = scene()? else {
        return Ok(());
    };
    let (image, target) = (scene.path("clear.frz"), scene.path("target"));
    let mut zip = tool("imagezip")?;
    zip.args(["--unsigned", "--unencrypted"])
        .arg(&scene.disk.path)
        .arg(&image);
    run(zip)?.success()?;
    run(scene.imageunzip(&target)?)?.success()?;
    for file in [image, target] {
        assert_eq!(fs::metadata(file)?.permissions().mode() & 0o077, 0);
    }
    Ok(())
}
