//! What a disk holds already is neither read from the image nor written, what was written is read back, and a dry run
//! touches nothing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::command::{Outcome, run};
use e2e::disk::Recipe;
use e2e::events;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::{Scene, last_owner};
use serde_json::Value;

fn install(scene: &Scene, target: &Path, arguments: &[&str]) -> Result<Outcome> {
    let mut unzip = scene.imageunzip(target)?;
    unzip.arg("--json").args(arguments);
    run(unzip)?.success()
}

fn number(event: &Value, field: &str) -> Result<u64> {
    event[field]
        .as_u64()
        .with_context(|| format!("{field}: {event}"))
}

/// Overwrites one allocated byte behind the first MiB.
fn damage(scene: &Scene, target: &Path) -> Result<()> {
    let allocated = scene.disk.allocated()?;
    let place = allocated.iter().find(|range| range.start > 8 << 20);
    let at = place.context("there is nothing to damage")?.start;
    let mut byte = [0];
    let file = File::options().read(true).write(true).open(target)?;
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[!byte[0]], at)?;
    file.sync_all()?;
    Ok(())
}

#[test]
fn one_damaged_chunk_is_all_that_is_written_again() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk("target")?;
    let whole = events::last(&install(&scene, &target, &[])?, "finish")?;
    let chunks = number(&whole, "chunks")?;
    ensure!(
        chunks > 10 && number(&whole, "kept_chunks")? == 0,
        "{whole}"
    );

    damage(&scene, &target)?;
    let again = events::last(
        &install(&scene, &target, &["--reuse", "--verify"])?,
        "finish",
    )?;
    ensure!(number(&again, "chunks")? == 1, "{again}");
    ensure!(number(&again, "kept_chunks")? == chunks - 1, "{again}");
    let bytes = number(&again, "plain_bytes")? + number(&again, "kept_bytes")?;
    ensure!(bytes == number(&whole, "plain_bytes")?, "{again}");
    scene.installed_on(&target)?;

    // Nothing is compared where nothing says that it is worth while.
    let plain = events::last(&install(&scene, &target, &[])?, "finish")?;
    ensure!(number(&plain, "chunks")? == chunks, "{plain}");
    scene.installed_on(&target)
}

/// The next version of a golden disk, on a disk that has the version before: what has not changed stays.
#[test]
fn an_older_version_is_brought_up_to_date() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk("target")?;
    let whole = events::last(&install(&scene, &target, &[])?, "finish")?;
    let next = scene.path("next");
    fs::copy(&scene.disk.path, &next)?;
    // In the data of a large file, so that the filesystem stays sound.
    let allocated = scene.disk.allocated()?;
    let largest = allocated.iter().max_by_key(|range| range.end - range.start);
    let largest = largest.context("nothing is allocated")?;
    let file = File::options().write(true).open(&next)?;
    file.write_all_at(b"newer", (largest.start + largest.end) / 2)?;
    let image = scene.path("next.frz");
    scene.keys.zip(&next, &image)?;

    let mut unzip = scene.keys.imageunzip()?;
    unzip.args(["--json", "--reuse"]).arg(&image).arg(&target);
    let outcome = run(unzip)?.success()?;
    let updated = events::last(&outcome, "finish")?;
    ensure!(number(&updated, "chunks")? == 1, "{updated}");
    ensure!(
        number(&updated, "kept_chunks")? + 1 == number(&whole, "chunks")?,
        "{updated}"
    );
    ranges::same(&next, &target, &allocated)
}

#[test]
fn free_space_around_what_is_kept_is_cleared_too() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk("target")?;
    install(&scene, &target, &[])?;
    install(&scene, &target, &["--reuse", "--free", "zero"])?;
    scene.installed_on(&target)?;
    ranges::zero(&target, &scene.disk.ext.free()?)?;
    let found = last_owner().find(&File::open(&target)?, 1)?;
    ensure!(found.is_empty(), "dirt at byte {found:?}");
    Ok(())
}

#[test]
fn a_dry_run_writes_nothing() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk("target")?;
    let before = ranges::hash(&target)?;
    let planned = events::last(
        &install(&scene, &target, &["--dry-run", "--reuse"])?,
        "finish",
    )?;
    ensure!(
        planned["dry_run"] == true && planned["destroys"] == true,
        "{planned}"
    );
    ensure!(ranges::hash(&target)? == before, "it was written to");
    let total = number(&planned, "total_bytes")? + number(&planned, "kept_bytes")?;

    let new = scene.path("new");
    install(&scene, &new, &["--dry-run"])?;
    ensure!(!new.exists(), "a file was made");

    let small = scene.used_disk_of("small", scene.disk.bytes - (1 << 20))?;
    let mut unzip = scene.imageunzip(&small)?;
    unzip.arg("--dry-run");
    run(unzip)?.failure(5)?;

    let done = events::last(&install(&scene, &target, &[])?, "finish")?;
    ensure!(number(&done, "plain_bytes")? == total, "{planned} {done}");
    Ok(())
}

/// An interrupted installation leaves a marker with the image's UUID; another image's marker is none.
#[test]
fn an_interrupted_installation_goes_on() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let target = scene.used_disk("target")?;
    let whole = events::last(&install(&scene, &target, &[])?, "finish")?;
    let begun = scene.path("begun");
    fs::copy(&target, &begun)?;
    // What the first writes of an installation do.
    let uuid = whole_uuid(&scene, &target)?;
    let text = format!(
        "frisbee: this disk is incomplete: the installation of image {uuid} was interrupted. \
         Run it again: what is on the disk already stays.\n"
    );
    let mut head = vec![0; 1 << 20];
    let mark = |head: &mut [u8], text: &str| {
        for (place, byte) in head.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
    };
    mark(&mut head, &text);
    let file = File::options().write(true).open(&begun)?;
    file.write_all_at(&head, 0)?;
    file.write_all_at(&vec![0; 1 << 20], scene.disk.bytes - (1 << 20))?;
    let resumed = events::last(&install(&scene, &begun, &[])?, "finish")?;
    let (kept, all) = (
        number(&resumed, "kept_bytes")?,
        number(&whole, "plain_bytes")?,
    );
    ensure!(kept > all / 2 && kept < all, "{resumed}");
    scene.installed_on(&begun)?;

    mark(
        &mut head,
        &text.replace(&uuid, "8d0ca7b2-1f5e-4a3a-9a52-6a4b1b1c9d10"),
    );
    file.write_all_at(&head, 0)?;
    let other = events::last(&install(&scene, &begun, &[])?, "finish")?;
    ensure!(number(&other, "kept_chunks")? == 0, "{other}");
    scene.installed_on(&begun)
}

fn whole_uuid(scene: &Scene, target: &Path) -> Result<String> {
    let start = events::last(&install(scene, target, &["--dry-run"])?, "start")?;
    Ok(start["uuid"].as_str().context("no UUID")?.to_owned())
}

#[test]
fn discarded_space_of_a_device_in_memory_is_zero() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let file = scene.used_disk("used")?;
    {
        let target = LoopDevice::attach(&file, 512)?;
        let outcome = install(&scene, target.path(), &["--free", "discard", "--verify"])?;
        let messages = format!("{outcome}");
        ensure!(!messages.contains("does not discard"), "{messages}");
    }
    // A loop device makes holes in its file.
    ranges::zero(&file, &scene.disk.ext.free()?)?;
    scene.installed_on(&file)
}
