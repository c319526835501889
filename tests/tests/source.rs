//! Sources that are damaged, in use or no disks: an image has everything of them, or there is no image.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use e2e::background::Background;
use e2e::command::{LIMIT, Outcome, run};
use e2e::disk::{Disk, Recipe, Table};
use e2e::ext::Mount;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::Scene;
use nix::mount::MsFlags;
use nix::sys::signal::Signal;

/// Images `source` with these options.
fn zip(scene: &Scene, options: &[&str], source: &Path, image: &Path) -> Result<Outcome> {
    let mut command = scene.keys.imagezip()?;
    command.args(options).arg(source).arg(image);
    run(command)
}

/// A copy of the scene's disk with something changed in its filesystem.
fn damaged(scene: &Scene, offset: u64, bytes: &[u8]) -> Result<std::path::PathBuf> {
    let path = scene.path("damaged");
    fs::copy(&scene.disk.path, &path)?;
    let file = File::options().write(true).open(&path)?;
    file.write_all_at(bytes, scene.disk.ext.offset + offset)?;
    Ok(path)
}

/// What is not understood is saved whole, and said; `--strict` refuses it.
#[test]
fn a_damaged_filesystem_is_saved_whole() -> Result<()> {
    let scene = Scene::new(&Recipe {
        table: Table::None,
        ..Recipe::SMALL
    })?;
    let block = 4096;
    // Superblock: free blocks, features, magic. Behind it the group descriptors. Last, a bit of the block bitmap.
    let bitmap = first_bitmap(&scene.disk)?;
    for (offset, bytes) in [
        (1024 + 12, &[1_u8, 2, 3, 4][..]),
        (1024 + 0x60, &[0xff; 4]),
        (1024 + 0x38, &[0; 2]),
        (block, &[0xaa; 8]),
        (bitmap * block + 2000, &[0x55; 1]),
    ] {
        let source = damaged(&scene, offset, bytes)?;
        let (image, target) = (scene.path("damaged.frz"), scene.used_disk("used")?);
        let outcome = zip(&scene, &["--force"], &source, &image)?.success()?;
        scene.keys.unzip(&image, &target)?;
        let whole = 0..scene.disk.bytes;
        ranges::same(&source, &target, std::slice::from_ref(&whole))?;
        // Without its magic it is no filesystem that could be damaged.
        let known = offset != 1024 + 0x38;
        ensure!(
            !known || outcome.stderr.contains("warning"),
            "nothing was said about byte {offset}: {outcome}"
        );
        fs::remove_file(&image)?;
        if known {
            zip(&scene, &["--strict"], &source, &image)?.failure(3)?;
            ensure!(!image.exists());
        }
    }
    Ok(())
}

/// The block of the first group's block bitmap, by dumpe2fs.
fn first_bitmap(disk: &Disk) -> Result<u64> {
    let text = e2e::command::must("dumpe2fs", [disk.ext.name()])?;
    let found = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Block bitmap at "));
    let number: String = found
        .unwrap_or_default()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Ok(number.parse()?)
}

/// The journal of a disk that lost power may hold newer bitmaps than the disk: everything is saved.
#[test]
fn a_disk_that_lost_power() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe {
        table: Table::None,
        ..Recipe::SMALL
    })?;
    let (disk, source) = (scene.path("running"), scene.path("lost-power"));
    fs::copy(&scene.disk.path, &disk)?;
    {
        let device = LoopDevice::attach(&disk, 512)?;
        let mounted = Mount::new(device.path(), MsFlags::MS_SYNCHRONOUS)?;
        for number in 0..50 {
            fs::write(
                mounted.path().join(format!("new-{number}")),
                format!("{number}").repeat(1000),
            )?;
        }
        // The disk as it is in this moment.
        fs::copy(&disk, &source)?;
    }
    let (image, target) = (scene.path("lost-power.frz"), scene.used_disk("used")?);
    zip(&scene, &[], &source, &image)?.success()?;
    scene.keys.unzip(&image, &target)?;
    let whole = 0..scene.disk.bytes;
    ranges::same(&source, &target, std::slice::from_ref(&whole))
}

#[test]
fn a_mounted_source() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe {
        table: Table::None,
        ..Recipe::SMALL
    })?;
    let disk = scene.path("disk");
    fs::copy(&scene.disk.path, &disk)?;
    let device = LoopDevice::attach(&disk, 512)?;
    let image = scene.path("mounted.frz");
    let mounted = Mount::new(device.path(), MsFlags::MS_RDONLY)?;
    let outcome = zip(&scene, &[], device.path(), &image)?;
    ensure!(
        outcome.failure(3)?.contains("mounted") && !image.exists(),
        "{outcome}"
    );
    zip(&scene, &["--allow-mounted"], device.path(), &image)?.success()?;
    drop(mounted);
    let target = scene.used_disk("used")?;
    scene.keys.unzip(&image, &target)?;
    // The kernel's view may be ahead of the disk, in bitmaps that it has initialized in memory.
    scene.disk.ext.on(&target).holds(&scene.disk.content)
}

#[test]
fn no_disk() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let image = scene.path("never.frz");
    let odd = scene.path("odd");
    File::create(&odd)?.set_len(1_000_001)?;
    let nowhere = scene.path("nowhere");
    for source in [&odd, &nowhere, Path::new("/dev/null"), Path::new("/usr")] {
        zip(&scene, &[], source, &image)?.failure(3)?;
        ensure!(!image.exists(), "{}", source.display());
    }
    let place = scene.path("no/such/directory/image.frz");
    zip(&scene, &[], &scene.disk.path, &place)?.failure(7)?;
    Ok(())
}

#[test]
fn raw_saves_every_sector() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let (image, target) = (scene.path("raw.frz"), scene.used_disk("used")?);
    zip(
        &scene,
        &["--raw", "--chunk-size", "64K", "--level", "1"],
        &scene.disk.path,
        &image,
    )?
    .success()?;
    scene.keys.unzip(&image, &target)?;
    ensure!(ranges::hash(&target)? == ranges::hash(&scene.disk.path)?);
    Ok(())
}

/// Wherever it is stopped, there is a whole image or none, and nothing beside it.
#[test]
fn stopped() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let place = scene.path("images");
    fs::create_dir(&place)?;
    let mut stopped = 0;
    for delay in [0, 20, 40, 60, 80, 120] {
        let image = place.join("golden.frz");
        let mut command = scene.keys.imagezip()?;
        command
            .args(["--level", "15"])
            .arg(&scene.disk.path)
            .arg(&image);
        let running = Background::start(command)?;
        std::thread::sleep(std::time::Duration::from_millis(delay));
        running.signal(Signal::SIGTERM)?;
        let outcome = running.wait(LIMIT)?;
        if outcome.status.success() {
            fs::remove_file(&image)?;
        } else {
            stopped += 1;
            // Before it can listen, the signal ends it as any program.
            ensure!(matches!(outcome.code(), Some(130) | None), "{outcome}");
        }
        ensure!(
            fs::read_dir(&place)?.next().is_none(),
            "something is left after {delay} ms: {outcome}"
        );
    }
    ensure!(stopped > 0, "it was never stopped in time");
    Ok(())
}
