//! What was deleted stays deleted: the dirt of free space is in no image, and `--free zero` leaves nothing behind.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use e2e::canary::Canary;
use e2e::command::{run, tool};
use e2e::disk::{Recipe, Table};
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::{Scene, last_owner};

fn absent(canary: &Canary, path: &std::path::Path) -> Result<()> {
    let found = canary.find(&File::open(path)?, 1)?;
    ensure!(
        found.is_empty(),
        "{}: dirt at byte {found:?}",
        path.display()
    );
    Ok(())
}

fn recipes() -> [Recipe; 3] {
    [
        Recipe::SMALL,
        Recipe {
            table: Table::Mbr,
            mke2fs: "-t ext3 -b 2048",
            ..Recipe::SMALL
        },
        Recipe {
            table: Table::None,
            mke2fs: "-t ext2 -b 1024",
            ..Recipe::SMALL
        },
    ]
}

#[test]
fn an_image_holds_no_free_space() -> Result<()> {
    for recipe in recipes() {
        let scene = Scene::new(&recipe)?;
        let image = scene.path("plain.frz");
        let mut zip = tool("imagezip")?;
        zip.args(["--unsigned", "--unencrypted", "--codec", "none"])
            .arg(&scene.disk.path)
            .arg(&image);
        run(zip)?.success()?;
        absent(&scene.disk.canary, &image)?;
        // The search would find it, if it were there.
        let kept = fs::metadata(&image)?.len();
        ensure!(
            kept > ranges::total(&scene.disk.allocated()?),
            "the image is not plain: {kept} bytes"
        );
        let mut raw = tool("imagezip")?;
        raw.args([
            "--unsigned",
            "--unencrypted",
            "--codec",
            "none",
            "--raw",
            "--force",
        ]);
        raw.arg(&scene.disk.path).arg(&image);
        run(raw)?.success()?;
        ensure!(
            !scene.disk.canary.find(&File::open(&image)?, 1)?.is_empty(),
            "a raw image holds everything"
        );
    }
    Ok(())
}

#[test]
fn zero_leaves_nothing_of_the_last_owner() -> Result<()> {
    for recipe in recipes() {
        let scene = Scene::new(&recipe)?;
        let target = scene.used_disk("used")?;
        let mut unzip = scene.imageunzip(&target)?;
        unzip.args(["--free", "zero"]);
        run(unzip)?.success()?;
        scene.installed_on(&target)?;
        absent(&scene.disk.canary, &target)?;
        absent(&last_owner(), &target)?;
        ranges::zero(&target, &scene.disk.ext.free()?)?;
    }
    Ok(())
}

#[test]
fn zero_on_a_device() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    for recipe in [
        Recipe::SMALL,
        Recipe {
            sector_size: 4096,
            ..Recipe::SMALL
        },
    ] {
        let scene = Scene::new(&recipe)?;
        let file = scene.used_disk("used")?;
        {
            let target = LoopDevice::attach(&file, recipe.sector_size)?;
            let mut unzip = scene.imageunzip(target.path())?;
            unzip.args(["--free", "zero"]);
            run(unzip)?.success()?;
        }
        absent(&last_owner(), &file).with_context(|| format!("{recipe:?}"))?;
        ranges::zero(&file, &scene.disk.ext.free()?).with_context(|| format!("{recipe:?}"))?;
        scene.installed_on(&file)?;
    }
    Ok(())
}

#[test]
fn skip_leaves_free_space_alone() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let (target, untouched) = (scene.used_disk("used")?, scene.used_disk("untouched")?);
    let mut unzip = scene.imageunzip(&target)?;
    unzip.args(["--free", "skip"]);
    run(unzip)?.success()?;
    ranges::same(&untouched, &target, &scene.disk.ext.free()?)
}

/// Behind the end of the imaged disk a larger target keeps what it had, apart from its boot sectors.
#[test]
fn zero_reaches_the_end_of_the_imaged_disk() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk_of("used", scene.disk.bytes + (3 << 20))?;
    let mut unzip = scene.imageunzip(&target)?;
    unzip.args(["--free", "zero", "--keep-gpt"]);
    run(unzip)?.success()?;
    let first = last_owner().find(&File::open(&target)?, 1)?;
    ensure!(
        first.first().is_none_or(|&at| at >= scene.disk.bytes),
        "dirt at byte {first:?}"
    );
    scene.installed_on(&target)
}
