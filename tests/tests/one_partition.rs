//! `imageunzip --partition`: one partition of an image of a whole disk.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::command::{must, run};
use e2e::disk::{Recipe, Table};
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::Scene;
use serde_json::Value;

/// Where a partition is, as sfdisk(8) says, in bytes.
fn place(disk: &Path, index: usize) -> Result<Range<u64>> {
    let text = must("sfdisk", ["--json".as_ref(), disk.as_os_str()])?;
    let table: Value = serde_json::from_str(&text)?;
    let partition = &table["partitiontable"]["partitions"][index];
    let number = |field: &str| partition[field].as_u64().with_context(|| text.clone());
    let sector = table["partitiontable"]["sectorsize"]
        .as_u64()
        .unwrap_or(512);
    let start = number("start")? * sector;
    Ok(start..start + number("size")? * sector)
}

/// What the golden disk has in that range, as a file.
fn cut(scene: &Scene, range: &Range<u64>) -> Result<PathBuf> {
    let path = scene.path("cut");
    let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
    File::open(&scene.disk.path)?.read_exact_at(&mut bytes, range.start)?;
    fs::write(&path, bytes)?;
    Ok(path)
}

fn allocated(scene: &Scene, range: &Range<u64>) -> Result<Vec<Range<u64>>> {
    let all = scene.disk.allocated()?;
    let inside = all.into_iter().filter_map(|used| {
        let (start, end) = (used.start.max(range.start), used.end.min(range.end));
        (start < end).then(|| start - range.start..end - range.start)
    });
    Ok(inside.collect())
}

#[test]
fn a_partition_alone_is_what_it_is_on_the_disk() -> Result<()> {
    let logical = Recipe {
        table: Table::Mbr,
        mke2fs: "-t ext3 -b 2048",
        ..Recipe::SMALL
    };
    // The logical partition is the third of the list, behind the extended one, and has number 5.
    for (recipe, index, number) in [
        (Recipe::SMALL, 0, "1"),
        (Recipe::SMALL, 1, "2"),
        (logical, 2, "5"),
    ] {
        let scene = Scene::new(&recipe)?;
        let range = place(&scene.disk.path, index)?;
        let whole = cut(&scene, &range)?;
        let used = allocated(&scene, &range)?;
        ensure!(ranges::total(&used) > 0, "{recipe:?}: nothing is in use");

        let new = scene.path("new");
        let mut unzip = scene.imageunzip(&new)?;
        unzip.args(["--partition", number, "--verify"]);
        run(unzip)?.success()?;
        ensure!(fs::metadata(&new)?.len() == range.end - range.start);
        ranges::same(&whole, &new, &used).with_context(|| format!("{recipe:?}"))?;

        // Over what somebody else has left there, which is cleared around it; larger than the partition.
        let dirty = scene.used_disk_of("dirty", range.end - range.start + (5 << 20))?;
        let mut unzip = scene.imageunzip(&dirty)?;
        unzip.args(["--partition", number, "--free", "zero"]);
        run(unzip)?.success()?;
        ranges::same(&whole, &dirty, &used)?;
        if index > 0 {
            must("e2fsck", ["-fn".as_ref(), new.as_os_str()])?;
            must("e2fsck", ["-fn".as_ref(), dirty.as_os_str()])?;
        }
    }
    Ok(())
}

#[test]
fn a_partition_goes_onto_a_device() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let range = place(&scene.disk.path, 1)?;
    let file = scene.used_disk_of("used", range.end - range.start)?;
    {
        let device = LoopDevice::attach(&file, 512)?;
        let mut unzip = scene.imageunzip(device.path())?;
        unzip.args(["--partition", "2"]);
        run(unzip)?.success()?;
    }
    ranges::same(&cut(&scene, &range)?, &file, &allocated(&scene, &range)?)
}

#[test]
fn what_cannot_be_done_is_refused_with_the_target_untouched() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk_of("small", 20 << 20)?;
    let before = ranges::hash(&target)?;
    let refused = |arguments: &[&str], code: i32, word: &str| -> Result<()> {
        let mut unzip = scene.imageunzip(&target)?;
        unzip.args(arguments);
        let outcome = run(unzip)?;
        let message = outcome.failure(code)?;
        ensure!(message.contains(word), "{arguments:?}: {message}");
        ensure!(
            ranges::hash(&target)? == before,
            "{arguments:?}: it was written to"
        );
        Ok(())
    };
    refused(&["--partition", "2"], 5, "more are needed")?;
    refused(&["--partition", "7"], 3, "no partition 7")?;
    refused(&["--partition", "2", "--reuse"], 2, "--reuse")?;
    let mut unzip = scene.imageunzip(&target)?;
    unzip.args(["--partition", "1", "--dry-run"]);
    run(unzip)?.success()?;
    ensure!(ranges::hash(&target)? == before, "a dry run wrote");

    let mut pipe = scene.keys.imageunzip()?;
    pipe.args(["--partition", "2", "-"]).arg(&target);
    let (reader, mut writer) = io::pipe()?;
    pipe.stdin(reader);
    let image = fs::read(&scene.image)?;
    let feeder = std::thread::spawn(move || drop(io::Write::write_all(&mut writer, &image)));
    run(pipe)?.failure(2)?;
    let _ = feeder.join();
    ensure!(
        ranges::hash(&target)? == before,
        "from a pipe: it was written to"
    );
    Ok(())
}
