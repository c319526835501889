//! A target that is smaller than the imaged disk, where only free space is cut off: judged by sgdisk, sfdisk, e2fsck.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::command::{LIMIT, must, run, tool};
use e2e::disk::{Recipe, Table};
use e2e::image::Keys;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::Scene;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A disk with 64 MiB behind its last partition.
fn scene(table: Table, change: impl FnOnce(&File) -> Result<()>) -> Result<(Scene, TempDir)> {
    let golden = Recipe {
        table,
        ..Recipe::SMALL
    }
    .cached()?;
    let directory = e2e::scratch::directory()?;
    let path = directory.path().join("disk");
    fs::copy(&golden.path, &path)?;
    let file = File::options().write(true).open(&path)?;
    file.set_len(golden.bytes + 64 * MIB)?;
    if table == Table::Gpt {
        must("sgdisk", [Path::new("-e"), &path])?;
        // The old backup, which sgdisk leaves, and what else stands behind the last partition.
        file.write_all_at(&vec![0; 1 << 20], golden.bytes - MIB)?;
    }
    change(&file)?;
    let mut disk = golden.at(path);
    disk.bytes += 64 * MIB;
    Ok((Scene::of(disk)?, directory))
}

/// Whether the disk holds the image, by imagedump.
fn same(scene: &Scene, target: &Path) -> Result<()> {
    let mut dump = tool("imagedump")?;
    dump.arg("--against").arg(target).arg("--trust");
    dump.arg(&scene.keys.public)
        .arg("--key")
        .arg(&scene.keys.content)
        .arg(&scene.image);
    run(dump)?.success()?;
    Ok(())
}

fn sound(scene: &Scene, table: Table, target: &Path) -> Result<()> {
    match table {
        Table::Gpt => {
            let text = must("sgdisk", [Path::new("-v"), target])?;
            ensure!(text.contains("No problems found"), "{text}");
        }
        _ => drop(must("sfdisk", [Path::new("--verify"), target])?),
    }
    let lines = |disk: &Path| -> Result<Vec<String>> {
        let text = must("sfdisk", [Path::new("--dump"), disk])?;
        let lines = text.lines().filter(|line| line.contains("start="));
        Ok(lines
            .filter_map(|line| line.split_once(" : "))
            .map(|(_, rest)| rest.to_owned())
            .collect())
    };
    ensure!(lines(target)? == lines(&scene.disk.path)?);
    let ext = scene.disk.ext.on(target);
    ext.check()?;
    ext.holds(&scene.disk.content)
}

#[test]
fn free_space_is_cut_off() -> Result<()> {
    for table in [Table::Gpt, Table::Mbr] {
        let (scene, _directory) = scene(table, |_| Ok(()))?;
        // Also so little that old and new backup GPT overlap, and less than a sector.
        for less in [32 * MIB, 63 * MIB, MIB / 2, 10 * 512, 512, 100] {
            let target = scene.used_disk_of(&format!("small-{less}"), scene.disk.bytes - less)?;
            let mut unzip = scene.imageunzip(&target)?;
            unzip.args(["--verify", "--free", "zero"]);
            run(unzip)?.success()?;
            ensure!(fs::metadata(&target)?.len() == scene.disk.bytes - less);
            same(&scene, &target)?;
            // What is there is recognised, and stays.
            let mut again = scene.imageunzip(&target)?;
            again.args(["--verify", "--reuse"]);
            run(again)?.success()?;
            if less % 512 == 0 {
                sound(&scene, table, &target)?;
            }
            same(&scene, &target)?;
        }
    }
    Ok(())
}

#[test]
fn on_a_device() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    for table in [Table::Gpt, Table::Mbr] {
        let (scene, _directory) = scene(table, |_| Ok(()))?;
        let file = scene.used_disk_of("small", scene.disk.bytes - 32 * MIB)?;
        let device = LoopDevice::attach(&file, 512)?;
        let mut unzip = scene.imageunzip(device.path())?;
        unzip.arg("--verify");
        run(unzip)?.success()?;
        sound(&scene, table, device.path())?;
        same(&scene, device.path())?;
    }
    Ok(())
}

#[test]
fn sectors_of_4096_bytes() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let golden = Recipe {
        sector_size: 4096,
        ..Recipe::SMALL
    }
    .cached()?;
    let directory = e2e::scratch::directory()?;
    let keys = Keys::make(directory.path())?;
    let (disk, image) = (
        directory.path().join("disk"),
        directory.path().join("golden.frz"),
    );
    fs::copy(&golden.path, &disk)?;
    let bytes = golden.bytes + 64 * MIB;
    let file = File::options().write(true).open(&disk)?;
    file.set_len(bytes)?;
    let source = LoopDevice::attach(&disk, 4096)?;
    must("sgdisk", [Path::new("-e"), source.path()])?;
    file.write_all_at(&vec![0; 1 << 20], golden.bytes - MIB)?;
    keys.zip(source.path(), &image)?;
    drop(source);
    for less in [4096, 32 * MIB] {
        let small = directory.path().join("small");
        File::create(&small)?.set_len(bytes - less)?;
        let target = LoopDevice::attach(&small, 4096)?;
        let mut unzip = keys.imageunzip()?;
        unzip.arg("--verify").arg(&image).arg(target.path());
        run(unzip)?.success()?;
        let text = must("sgdisk", [Path::new("-v"), target.path()])?;
        ensure!(text.contains("No problems found"), "{text}");
        drop(target);
        golden.ext.on(&small).holds(&golden.content)?;
    }
    Ok(())
}

#[test]
fn what_is_left_behind_the_last_partition_is_given_to_it() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    for table in [Table::Gpt, Table::Mbr] {
        let (scene, _directory) = scene(table, |_| Ok(()))?;
        let target = scene.used_disk_of("small", scene.disk.bytes - 32 * MIB)?;
        let mut unzip = scene.imageunzip(&target)?;
        unzip.arg("--grow");
        run(unzip)?.success()?;
        match table {
            Table::Gpt => {
                let text = must("sgdisk", [Path::new("-v"), &target])?;
                ensure!(text.contains("No problems found"), "{text}");
            }
            _ => drop(must("sfdisk", [Path::new("--verify"), &target])?),
        }
        let ext = scene.disk.ext.on(&target);
        ext.check()?;
        ext.holds(&scene.disk.content)?;
        let text = must("dumpe2fs", ["-h", &ext.name()])?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.context("no such field")?.trim().parse()?)
        };
        let bytes = field("Block count:")? * field("Block size:")?;
        let room = scene.disk.bytes - 32 * MIB - scene.disk.ext.offset;
        ensure!(
            bytes <= room && bytes + 2 * MIB >= room,
            "{table:?}: {bytes} of {room}"
        );
    }
    Ok(())
}

#[test]
fn killed_and_repeated() -> Result<()> {
    let (scene, _directory) = scene(Table::Gpt, |_| Ok(()))?;
    let target = scene.path("small");
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..10 {
        scene.used_disk_of("small", scene.disk.bytes - 32 * MIB)?;
        let mut unzip = scene.imageunzip(&target)?;
        let mut child = unzip.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        thread::sleep(Duration::from_millis(random.u64(0..600)));
        child.kill()?;
        child.wait()?;
        let mut head = [0; 1024];
        File::open(&target)?.read_exact_at(&mut head, 0)?;
        if head[510..].starts_with(&[0x55, 0xaa]) || head[512..].starts_with(b"EFI PART") {
            same(&scene, &target).context("a table before everything is there")?;
        }
        run(scene.imageunzip(&target)?)?.success()?;
        sound(&scene, Table::Gpt, &target)?;
        same(&scene, &target)?;
    }
    Ok(())
}

#[test]
fn a_dry_run_says_so_and_writes_nothing() -> Result<()> {
    let (scene, _directory) = scene(Table::Gpt, |_| Ok(()))?;
    let target = scene.used_disk_of("small", scene.disk.bytes - 32 * MIB)?;
    let before = ranges::hash(&target)?;
    let mut unzip = scene.imageunzip(&target)?;
    unzip.arg("--dry-run");
    let outcome = run(unzip)?.success()?;
    let text = format!("{outcome}");
    ensure!(text.contains("cut off"), "{text}");
    ensure!(ranges::hash(&target)? == before, "the target was touched");
    Ok(())
}

/// Installs onto a disk of so many bytes, which must be refused with a line that contains `reason`.
fn refused(scene: &Scene, bytes: u64, reason: &str) -> Result<()> {
    let target = scene.used_disk_of("small", bytes)?;
    let before = ranges::hash(&target)?;
    let outcome = run(scene.imageunzip(&target)?)?;
    let line = outcome.failure(5)?;
    ensure!(line.contains(reason), "{reason:?} was expected: {line}");
    ensure!(ranges::hash(&target)? == before, "the target was touched");
    Ok(())
}

#[test]
fn what_is_used_is_not_cut_off() -> Result<()> {
    let (gpt, _directory) = scene(Table::Gpt, |_| Ok(()))?;
    let text = must("sfdisk", [Path::new("--json"), &gpt.disk.path])?;
    let table: serde_json::Value = serde_json::from_str(&text)?;
    let table = &table["partitiontable"];
    let partitions = table["partitions"].as_array().context("no partitions")?;
    let end = partitions
        .iter()
        .filter_map(|partition| Some(partition["start"].as_u64()? + partition["size"].as_u64()?))
        .max();
    let usable = table["lastlba"].as_u64().context("no last sector")? + 1;
    let least = end.context("no partition")? * 512 + gpt.disk.bytes - usable * 512;
    for bytes in [least - 1, least - 512, least / 2] {
        refused(&gpt, bytes, &format!("{least} bytes are the least"))?;
    }
    let target = gpt.used_disk_of("least", least)?;
    run(gpt.imageunzip(&target)?)?.success()?;
    sound(&gpt, Table::Gpt, &target)?;

    // Something outside of the partitions.
    let at = gpt.disk.bytes - 40 * MIB;
    for table in [Table::Gpt, Table::Mbr] {
        let (scene, _directory) = scene(table, |file| Ok(file.write_all_at(b"x", at)?))?;
        refused(&scene, scene.disk.bytes - 41 * MIB, "bytes are the least")?;
    }
    // A filesystem without a table.
    let bare = Scene::new(&Recipe {
        table: Table::None,
        ..Recipe::SMALL
    })?;
    refused(&bare, bare.disk.bytes - 512, "more are needed")
}

#[test]
fn a_pipe_is_refused() -> Result<()> {
    let (scene, _directory) = scene(Table::Gpt, |_| Ok(()))?;
    let target = scene.used_disk_of("small", scene.disk.bytes - 32 * MIB)?;
    let before = ranges::hash(&target)?;
    let mut unzip = scene.keys.imageunzip()?;
    let (reader, mut writer) = std::io::pipe()?;
    unzip.arg("-").arg(&target).stdin(reader);
    let unzip = Background::start(unzip)?;
    // It ends before it has read everything.
    let _ = std::io::copy(&mut File::open(&scene.image)?, &mut writer);
    drop(writer);
    let outcome = unzip.wait(LIMIT)?;
    ensure!(outcome.failure(5)?.contains("in a file"), "{outcome}");
    ensure!(ranges::hash(&target)? == before, "the target was touched");
    Ok(())
}
