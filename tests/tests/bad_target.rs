//! Targets that must not be written are refused before the first write, with exit code 5.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use e2e::command::{must, run};
use e2e::disk::{Recipe, Table};
use e2e::ext::Mount;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::Scene;
use nix::libc;
use nix::mount::MsFlags;

/// Installs onto `target`, which must be refused with a line that contains `reason`; `file` holds its bytes.
fn refused(scene: &Scene, target: &Path, file: &Path, reason: &str) -> Result<()> {
    let before = ranges::hash(file)?;
    let outcome = run(scene.imageunzip(target)?)?;
    let line = outcome.failure(5)?;
    ensure!(line.contains(reason), "{reason:?} was expected: {line}");
    ensure!(
        line.contains(&*target.to_string_lossy()),
        "the target is not named: {line}"
    );
    ensure!(
        ranges::hash(file)? == before,
        "the target was touched: {outcome}"
    );
    Ok(())
}

#[test]
fn too_small() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    for bytes in [
        1,
        512,
        scene.disk.bytes / 2,
        scene.disk.bytes - 512,
        scene.disk.bytes - 1,
    ] {
        let target = scene.used_disk_of("small", bytes)?;
        refused(&scene, &target, &target, "more are needed")?;
    }
    Ok(())
}

#[test]
fn no_disk_at_all() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    for target in ["/dev/null", "/proc", "/nowhere/disk"] {
        run(scene.imageunzip(Path::new(target))?)?.failure(5)?;
    }
    let pipe = scene.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR)?;
    run(scene.imageunzip(&pipe)?)?.failure(5)?;
    Ok(())
}

#[test]
fn the_image_itself() -> Result<()> {
    let scene = Scene::new(&Recipe {
        data_mib: 1,
        ext_mib: 8,
        ..Recipe::TINY
    })?;
    // As large as the disk, so that nothing else refuses it.
    let image = scene.path("raw.frz");
    let mut zip = scene.keys.imagezip()?;
    zip.args(["--raw", "--codec", "none"])
        .arg(&scene.disk.path)
        .arg(&image);
    run(zip)?.success()?;
    let before = ranges::hash(&image)?;
    let mut unzip = scene.keys.imageunzip()?;
    unzip.arg(&image).arg(&image);
    run(unzip)?.failure(5)?;
    ensure!(ranges::hash(&image)? == before);
    Ok(())
}

#[test]
fn read_only() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let file = scene.used_disk("used")?;
    let device = LoopDevice::read_only(&file, 0)?;
    refused(&scene, device.path(), &file, "")
}

#[test]
fn mounted() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let whole = Recipe {
        table: Table::None,
        ..Recipe::SMALL
    };
    let scene = Scene::new(&whole)?;
    let file = scene.path("disk");
    fs::copy(&scene.disk.path, &file)?;
    let device = LoopDevice::attach(&file, 512)?;
    let mounted = Mount::new(device.path(), MsFlags::MS_RDONLY)?;
    refused(&scene, device.path(), &file, "mounted")?;
    drop(mounted);
    run(scene.imageunzip(device.path())?)?.success()?;
    Ok(())
}

#[test]
fn a_partition_of_it_is_mounted() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let file = scene.path("disk");
    fs::copy(&scene.disk.path, &file)?;
    let device = LoopDevice::attach(&file, 512)?;
    let partition = device.partition(2)?;
    let mounted = Mount::new(&partition, MsFlags::MS_RDONLY)?;
    refused(&scene, device.path(), &file, "mounted")?;
    drop(mounted);
    Ok(())
}

#[test]
fn swap_space() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    struct Swap<'a>(&'a LoopDevice);
    impl Drop for Swap<'_> {
        fn drop(&mut self) {
            if let Err(error) = must("swapoff", [self.0.path()]) {
                eprintln!("{error:#}");
            }
        }
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let file = scene.used_disk("used")?;
    let device = LoopDevice::attach(&file, 512)?;
    must("mkswap", [device.path()])?;
    must("swapon", [device.path()])?;
    let swap = Swap(&device);
    refused(&scene, device.path(), &file, "swap")?;
    drop(swap);
    Ok(())
}

#[test]
fn held_by_another_program() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let file = scene.used_disk("used")?;
    let lock = File::open(&file)?;
    lock.lock()?;
    refused(&scene, &file, &file, "in use")?;
    drop(lock);
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let device = LoopDevice::attach(&file, 512)?;
    // The file is the disk of a device now: writing to both would mix.
    refused(&scene, &file, &file, "in use")?;
    let holder = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(device.path())?;
    refused(&scene, device.path(), &file, "in use")?;
    drop(holder);
    run(scene.imageunzip(device.path())?)?.success()?;
    Ok(())
}

#[test]
fn sectors_of_another_size() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let file = scene.used_disk("used")?;
    let device = LoopDevice::attach(&file, 4096)?;
    refused(&scene, device.path(), &file, "4096")
}

/// Without a terminal nobody can be asked, so nothing is destroyed without `--yes`.
#[test]
fn not_confirmed() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let target = scene.used_disk("used")?;
    let before = ranges::hash(&target)?;
    let mut unzip = e2e::command::tool("imageunzip")?;
    unzip
        .arg("--trust")
        .arg(&scene.keys.public)
        .arg("--key")
        .arg(&scene.keys.content);
    unzip.arg(&scene.image).arg(&target);
    let outcome = run(unzip)?;
    ensure!(outcome.failure(5)?.contains("--yes"), "{outcome}");
    ensure!(ranges::hash(&target)? == before, "the target was touched");
    Ok(())
}
