//! Sources with sectors that cannot be read: without `--rescue` no image; with it all that can be read, zeros for the
//! rest, and a warning wherever the image is installed.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use e2e::command::{Outcome, run};
use e2e::disk::{Recipe, Table};
use e2e::events;
use e2e::fault_disk::{Fault, FaultDisk, Faulty};
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::Scene;

const SECTOR: u64 = 512;

/// Images `source` with these options.
fn zip(scene: &Scene, options: &[&str], source: &Path, image: &Path) -> Result<Outcome> {
    let mut command = scene.keys.imagezip()?;
    command.args(options).arg(source).arg(image);
    run(command)
}

/// Installs an image on a disk with other data; returns that and what was said.
fn unzip(scene: &Scene, image: &Path, options: &[&str]) -> Result<(PathBuf, Outcome)> {
    let target = scene.used_disk("installed")?;
    let mut command = scene.keys.imageunzip()?;
    command.args(options).arg(image).arg(&target);
    Ok((target, run(command)?.success()?))
}

/// Sector ranges in the middle of allocated runs of at least 128 KiB, as bytes.
fn places(scene: &Scene, sectors: &[u64]) -> Result<Vec<Range<u64>>> {
    let runs = scene.disk.allocated()?;
    // Not the filesystem's own structures, which come first.
    let large = runs
        .iter()
        .rev()
        .filter(|run| run.end - run.start >= 128 << 10);
    let places = large.zip(sectors).map(|(run, count)| {
        let start = (run.start + 20_000).next_multiple_of(SECTOR);
        start..start + count * SECTOR
    });
    let places: Vec<_> = places.collect();
    ensure!(
        places.len() == sectors.len(),
        "the disk has too few long runs"
    );
    Ok(places)
}

/// What must be on the disk: the source with zeros at `bad`.
fn expected(scene: &Scene, bad: &[Range<u64>]) -> Result<PathBuf> {
    let path = scene.path("expected");
    fs::copy(&scene.disk.path, &path)?;
    let file = File::options().write(true).open(&path)?;
    for range in bad {
        let length = usize::try_from(range.end - range.start)?;
        file.write_all_at(&vec![0; length], range.start)?;
    }
    Ok(path)
}

#[test]
fn bad_sectors() -> Result<()> {
    if !need::met(&[Need::Root, Need::File("/dev/fuse")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let bad = places(&scene, &[1, 3, 40])?;
    let faults = bad.iter().map(|bytes| Fault {
        bytes: bytes.clone(),
        times: None,
    });
    let source = FaultDisk::show(
        Faulty::new(&scene.disk.path, faults.collect())?,
        &scene.path("faulty"),
    )?;
    let image = scene.path("rescued.frz");

    let refused = zip(&scene, &[], source.path(), &image)?;
    refused.failure(7)?;
    ensure!(!image.exists(), "an image without what it should hold");

    let outcome = zip(&scene, &["--rescue"], source.path(), &image)?.success()?;
    ensure!(outcome.stderr.contains("22.0 KiB"), "not told: {outcome}");
    let (target, said) = unzip(&scene, &image, &["--json"])?;
    for range in scene.disk.allocated()? {
        ranges::same(
            &expected(&scene, &bad)?,
            &target,
            std::slice::from_ref(&range),
        )?;
    }
    let mut sectors: Vec<[u64; 2]> = bad
        .iter()
        .map(|range| [range.start / SECTOR, (range.end - range.start) / SECTOR])
        .collect();
    sectors.sort_unstable();
    let finish = events::last(&said, "finish")?;
    let mut told: Vec<[u64; 2]> = serde_json::from_value(finish["unreadable"].clone())?;
    told.sort_unstable();
    ensure!(told == sectors, "{told:?} instead of {sectors:?}");
    let (_, said) = unzip(&scene, &image, &[])?;
    let [first, _] = sectors[0];
    ensure!(
        said.stderr.contains("could not be read") && said.stderr.contains(&first.to_string()),
        "{said}"
    );
    Ok(())
}

#[test]
fn sectors_that_can_be_read_at_the_third_time() -> Result<()> {
    if !need::met(&[Need::Root, Need::File("/dev/fuse")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let faults = places(&scene, &[1, 8])?.into_iter().map(|bytes| Fault {
        bytes: bytes.start..bytes.start + 1,
        // The long read, the one of 64 KiB, and two of the sector.
        times: Some(4),
    });
    let source = FaultDisk::show(
        Faulty::new(&scene.disk.path, faults.collect())?,
        &scene.path("faulty"),
    )?;
    let image = scene.path("rescued.frz");
    let outcome = zip(&scene, &["--rescue"], source.path(), &image)?.success()?;
    ensure!(!outcome.stderr.contains("could not be read"), "{outcome}");
    let (target, _) = unzip(&scene, &image, &[])?;
    scene.installed_on(&target)
}

/// Where the filesystem's own structures cannot be read, its partition is copied whole.
#[test]
fn unreadable_structures() -> Result<()> {
    if !need::met(&[Need::Root, Need::File("/dev/fuse")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe {
        table: Table::None,
        ..Recipe::SMALL
    })?;
    // The first group descriptor.
    let at = scene.disk.ext.offset + 4096;
    let bad = at..at + SECTOR;
    let fault = Fault {
        bytes: bad.clone(),
        times: None,
    };
    let source = FaultDisk::show(
        Faulty::new(&scene.disk.path, vec![fault])?,
        &scene.path("faulty"),
    )?;
    let image = scene.path("rescued.frz");
    zip(&scene, &[], source.path(), &image)?.failure(7)?;
    zip(&scene, &["--rescue", "--strict"], source.path(), &image)?.failure(3)?;
    let outcome = zip(&scene, &["--rescue"], source.path(), &image)?.success()?;
    ensure!(outcome.stderr.contains("copied raw"), "{outcome}");
    let (target, _) = unzip(&scene, &image, &[])?;
    let whole = 0..scene.disk.bytes;
    ranges::same(
        &expected(&scene, &[bad])?,
        &target,
        std::slice::from_ref(&whole),
    )
}

/// A copy that ddrescue could not finish has zeros in it, which its map file tells from data.
#[test]
fn the_map_file_of_ddrescue() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let bad = places(&scene, &[4])?;
    let source = expected(&scene, &bad)?;
    let map = scene.path("map");
    let (start, end, size) = (bad[0].start, bad[0].end, scene.disk.bytes);
    let text = format!(
        "# Mapfile. Created by GNU ddrescue version 1.27\n0x00000000     +               1\n\
         0x0  {start:#x}  +\n{start:#x}  {:#x}  -\n{end:#x}  {:#x}  +\n",
        end - start,
        size - end
    );
    fs::write(&map, text)?;
    let image = scene.path("rescued.frz");
    let map_name = map.to_string_lossy().into_owned();
    zip(&scene, &["--rescue-map", &map_name], &source, &image)?.success()?;
    let (target, said) = unzip(&scene, &image, &["--json"])?;
    for range in scene.disk.allocated()? {
        ranges::same(&source, &target, std::slice::from_ref(&range))?;
    }
    let finish = events::last(&said, "finish")?;
    ensure!(
        finish["unreadable"] == serde_json::json!([[start / SECTOR, 4]]),
        "{finish}"
    );

    // Zeros in place of a filesystem's structures would say that everything is free.
    let at = scene.disk.ext.offset + 4096;
    fs::write(
        &map,
        format!(
            "0 +\n0 {at} +\n{at} 512 -\n{} {} +\n",
            at + 512,
            size - at - 512
        ),
    )?;
    let options = ["--force", "--rescue-map", &map_name];
    let outcome = zip(&scene, &options, &source, &image)?.success()?;
    ensure!(outcome.stderr.contains("copied raw"), "{outcome}");

    fs::write(&map, "a list of shopping\n")?;
    zip(&scene, &options, &source, &image)?.failure(3)?;
    fs::write(&map, "0 +\n0 10 eggs\n")?;
    let outcome = zip(&scene, &options, &source, &image)?;
    ensure!(outcome.failure(3)?.contains("line 2"), "{outcome}");
    Ok(())
}
