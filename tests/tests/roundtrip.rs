//! Disk to image to disk: what comes back is what was there, by byte comparison, e2fsck and the files themselves.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::command::{LIMIT, run};
use e2e::disk::{Recipe, Table};
use e2e::ext::Mount;
use e2e::files;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::scene::Scene;
use nix::mount::MsFlags;

/// Onto a file full of dirt, and into a new one.
fn through_files(recipe: &Recipe) -> Result<()> {
    let scene = Scene::new(recipe)?;
    let (used, new) = (scene.used_disk("used")?, scene.path("new"));
    scene.keys.unzip(&scene.image, &used)?;
    scene.installed_on(&used)?;
    scene.keys.unzip(&scene.image, &new)?;
    scene.installed_on(&new)?;
    ensure!(fs::metadata(&new)?.len() == scene.disk.bytes);
    Ok(())
}

/// From a loop device onto a loop device.
fn through_devices(recipe: &Recipe) -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(recipe)?;
    let image = scene.path("device.frz");
    {
        let source = LoopDevice::attach(&scene.disk.path, recipe.sector_size)?;
        scene.keys.zip(source.path(), &image)?;
    }
    let file = scene.used_disk("used")?;
    {
        let target = LoopDevice::attach(&file, recipe.sector_size)?;
        scene.keys.unzip(&image, target.path())?;
    }
    scene.installed_on(&file)
}

#[test]
fn gpt_on_files() -> Result<()> {
    through_files(&Recipe::SMALL)
}

#[test]
fn mbr_with_logical_partition() -> Result<()> {
    through_files(&Recipe {
        table: Table::Mbr,
        mke2fs: "-t ext3 -b 2048",
        ..Recipe::SMALL
    })
}

#[test]
fn whole_disk_without_a_table() -> Result<()> {
    through_files(&Recipe {
        table: Table::None,
        mke2fs: "-t ext2 -b 1024",
        ..Recipe::SMALL
    })
}

#[test]
fn gpt_on_devices_with_sectors_of_512_bytes() -> Result<()> {
    through_devices(&Recipe::SMALL)
}

#[test]
fn gpt_on_devices_with_sectors_of_4096_bytes() -> Result<()> {
    through_devices(&Recipe {
        sector_size: 4096,
        ..Recipe::SMALL
    })
}

#[test]
fn through_a_pipe() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk("used")?;
    let mut zip = scene.keys.imagezip()?;
    zip.arg(&scene.disk.path).arg("-").stdout(Stdio::piped());
    let mut zip = zip.stderr(Stdio::null()).spawn()?;
    let mut unzip = scene.keys.imageunzip()?;
    unzip
        .arg("-")
        .arg(&target)
        .stdin(zip.stdout.take().context("no pipe")?);
    let outcome = Background::start(unzip)?.wait(LIMIT)?.success()?;
    ensure!(zip.wait()?.success(), "imagezip failed");
    ensure!(outcome.stdout.is_empty(), "{outcome}");
    scene.installed_on(&target)
}

#[test]
fn onto_a_larger_disk() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk_of("used", scene.disk.bytes + (5 << 20))?;
    let mut unzip = scene.imageunzip(&target)?;
    unzip.arg("--keep-gpt");
    run(unzip)?.success()?;
    scene.installed_on(&target)?;
    ensure!(
        fs::metadata(&target)?.len() == scene.disk.bytes + (5 << 20),
        "the target's size has changed"
    );
    Ok(())
}

#[test]
fn unsigned_and_unencrypted_if_both_sides_say_so() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let (image, target) = (scene.path("plain.frz"), scene.path("target"));
    let mut zip = e2e::command::tool("imagezip")?;
    zip.args(["--unsigned", "--unencrypted"])
        .arg(&scene.disk.path)
        .arg(&image);
    run(zip)?.success()?;
    let unzip = |options: &[&str]| {
        let mut command = e2e::command::tool("imageunzip")?;
        command.args(options).arg("--yes").arg(&image).arg(&target);
        run(command)
    };
    let trust = scene.keys.public.to_string_lossy();
    unzip(&["--trust", &trust])?.failure(4)?;
    ensure!(!target.exists());
    unzip(&["--allow-unsigned"])?.success()?;
    scene.installed_on(&target)
}

/// A filesystem that the kernel has worked with: files written, deleted, the journal used.
#[test]
fn a_filesystem_that_was_mounted() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let recipe = Recipe {
        table: Table::None,
        ..Recipe::SMALL
    };
    let golden = recipe.cached()?;
    let directory = e2e::scratch::directory()?;
    let path = directory.path().join("disk");
    fs::copy(&golden.path, &path)?;
    let content = directory.path().join("content");
    {
        let device = LoopDevice::attach(&path, 512)?;
        let mounted = Mount::new(device.path(), MsFlags::empty())?;
        change(mounted.path())?;
        // The oracle of the files is the kernel, before the disk is imaged.
        copy_tree(mounted.path(), &content)?;
    }
    let mut disk = golden;
    disk.ext = disk.ext.on(&path);
    (disk.path, disk.content) = (path, content);
    let scene = Scene::of(disk)?;
    let used = scene.used_disk("used")?;
    scene.keys.unzip(&scene.image, &used)?;
    scene.installed_on(&used)
}

/// Deletes every third file, writes some new ones.
fn change(root: &Path) -> Result<()> {
    for (path, entry) in files::tree(root)?.iter().step_by(3) {
        if entry.content.is_some() {
            fs::remove_file(root.join(path))?;
        }
    }
    for number in 0..200 {
        fs::write(
            root.join(format!("odd/new-{number}")),
            format!("{number}").repeat(number * 97),
        )?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut copy = e2e::command::system("cp")?;
    copy.arg("-a").arg(from).arg(to);
    run(copy)?.success()?;
    Ok(())
}
