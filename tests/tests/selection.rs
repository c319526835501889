//! What of a disk is imaged: `--info`, one partition alone, partitions left out, partitions copied raw.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::command::{Outcome, must, run, tool};
use e2e::disk::{Recipe, Table};
use e2e::ranges;
use e2e::scene::Scene;
use serde_json::Value;

fn info(options: &[&str], source: &Path) -> Result<Value> {
    let mut command = tool("imagezip")?;
    command
        .arg("--info")
        .arg("--json")
        .args(options)
        .arg(source);
    Ok(serde_json::from_slice(&run(command)?.success()?.stdout)?)
}

fn zip(scene: &Scene, options: &[&str], image: &Path) -> Result<Outcome> {
    let mut command = scene.keys.imagezip()?;
    command.args(options).arg(&scene.disk.path).arg(image);
    run(command)
}

fn unzip(scene: &Scene, options: &[&str], image: &Path, target: &Path) -> Result<()> {
    let mut command = scene.keys.imageunzip()?;
    command.args(options).arg(image).arg(target);
    run(command)?.success()?;
    Ok(())
}

/// The table and its JSON say what dumpe2fs and blkid say.
#[test]
fn the_map_of_a_disk() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let map = info(&[], &scene.disk.path)?;
    let partitions = map["partitions"].as_array().context("no partitions")?;
    ensure!(
        map["table"]
            .as_str()
            .is_some_and(|table| table.contains("GPT"))
            && partitions.len() == 2,
        "{map}"
    );
    let ext = &partitions[1];
    let text = must(
        "dumpe2fs",
        [Path::new("-h"), scene.disk.ext.name().as_ref()],
    )?;
    let field = |name: &str| -> Result<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.with_context(|| name.to_owned())?.trim().to_owned())
    };
    ensure!(ext["filesystem"] == "ext4", "{ext}");
    ensure!(ext["uuid"] == field("Filesystem UUID:")?, "{ext}");
    let mut features: Vec<String> = serde_json::from_value(ext["features"].clone())?;
    let mut theirs: Vec<String> = field("Filesystem features:")?
        .split_whitespace()
        .map(String::from)
        .collect();
    features.sort_unstable();
    theirs.sort_unstable();
    ensure!(features == theirs, "{features:?} instead of {theirs:?}");
    let number = |name: &str| -> Result<u64> { Ok(field(name)?.parse()?) };
    let used = (number("Block count:")? - number("Free blocks:")?) * number("Block size:")?;
    ensure!(ext["used_bytes"] == used, "{ext}: {used} used");
    ensure!(ext["saved_bytes"].as_u64() >= Some(used), "{ext}");
    ensure!(map["size_bytes"] == scene.disk.bytes, "{map}");

    let mut command = tool("imagezip")?;
    command.arg("--info").arg(&scene.disk.path);
    let table = run(command)?.success()?;
    let text = table.stdout_text();
    for word in [
        "partition 1",
        "partition 2",
        "ext4",
        "EFI system",
        "total",
        "metadata_csum",
    ] {
        ensure!(text.contains(word), "no {word} in:\n{text}");
    }
    Ok(())
}

/// A partition imaged from the disk is the image of the partition.
#[test]
fn one_partition_alone() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let ext = &scene.disk.ext;
    let map = info(&["--partition", "2"], &scene.disk.path)?;
    ensure!(
        map["size_bytes"]
            .as_u64()
            .is_some_and(|size| size < scene.disk.bytes),
        "{map}"
    );
    let image = scene.path("partition.frz");
    zip(&scene, &["--partition", "2"], &image)?.success()?;
    let target = scene.path("partition");
    unzip(&scene, &[], &image, &target)?;
    // Back to its place, then the whole disk can be compared.
    let disk = scene.path("disk");
    fs::copy(&scene.disk.path, &disk)?;
    let bytes = fs::read(&target)?;
    let file = File::options().write(true).open(&disk)?;
    file.write_all_at(&bytes, ext.offset)?;
    scene.same_data(&disk)?;
    ensure!(
        zip(&scene, &["--force", "--partition", "5"], &image)?
            .failure(3)?
            .contains("no partition 5")
    );
    Ok(())
}

/// What a partition that is left out had on the target stays there.
#[test]
fn partitions_left_out_and_copied_raw() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let map = info(
        &["--skip-partition", "1", "--raw-partition", "2"],
        &scene.disk.path,
    )?;
    let first = &map["partitions"][0];
    let second = &map["partitions"][1];
    ensure!(
        first["saved_bytes"] == 0 && second["saved_bytes"] == second["size_bytes"],
        "{map}"
    );
    let place = |partition: &Value| -> Result<std::ops::Range<u64>> {
        let start = partition["first_sector"].as_u64().context("no place")? * 512;
        Ok(start..start + partition["size_bytes"].as_u64().context("no size")?)
    };
    let (skipped, raw) = (place(first)?, place(second)?);
    let image = scene.path("parts.frz");
    zip(
        &scene,
        &["--skip-partition", "1", "--raw-partition", "2"],
        &image,
    )?
    .success()?;
    let target = scene.used_disk("used")?;
    let before = scene.used_disk("before")?;
    unzip(&scene, &[], &image, &target)?;
    ranges::same(&before, &target, &[skipped])?;
    ranges::same(&scene.disk.path, &target, &[raw])?;
    zip(&scene, &["--force", "--skip-partition", "9"], &image)?.failure(3)?;
    Ok(())
}

/// The blocks of an empty journal come out as zeros, whatever was in them and whatever the target had there.
#[test]
fn a_journal_left_out() -> Result<()> {
    let scene = Scene::new(&Recipe {
        table: Table::None,
        ..Recipe::SMALL
    })?;
    let source = scene.path("journal");
    fs::copy(&scene.disk.path, &source)?;
    let list = must(
        "debugfs",
        [Path::new("-R"), Path::new("blocks <8>"), &source],
    )?;
    let blocks: Vec<u64> = list
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let size = 4096;
    ensure!(blocks.len() > 100, "no journal to leave out: {list}");
    let file = File::options().write(true).open(&source)?;
    for block in &blocks[1..] {
        file.write_all_at(&[0xa5; 4096], block * size)?;
    }
    let image = scene.path("journal.frz");
    for options in [&[][..], &["--exclude", "journals"]] {
        let mut command = scene.keys.imagezip()?;
        command
            .args(["--force", "--codec", "none"])
            .args(options)
            .arg(&source)
            .arg(&image);
        run(command)?.success()?;
        let target = scene.used_disk("used")?;
        unzip(&scene, &[], &image, &target)?;
        must("e2fsck", [Path::new("-fn"), &target])?;
        let installed = File::open(&target)?;
        let mut block = [0; 4096];
        for number in &blocks[1..] {
            installed.read_exact_at(&mut block, number * size)?;
            let expected = if options.is_empty() { 0xa5 } else { 0 };
            ensure!(block == [expected; 4096], "block {number} of the journal");
        }
    }
    Ok(())
}
