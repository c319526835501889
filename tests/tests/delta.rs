//! Deltas: what they leave out and hold, what they are made from, and what comes back.

#![allow(
    clippy::cast_possible_truncation,
    reason = "disks of tests fit into memory"
)]

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::command::{Outcome, must, run, tool};
use e2e::disk::{Disk, Recipe, Table};
use e2e::events;
use e2e::ext::{Ext, Mount};
use e2e::image::Keys;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::Scene;
use nix::mount::MsFlags;
use serde_json::Value;

/// A version of the golden disk.
struct Version {
    ext: Ext,
    disk: Disk,
}

impl Version {
    /// A copy of `disk`.
    fn copy(scene: &Scene, disk: &Path, name: &str) -> Result<Self> {
        let path = scene.path(name);
        fs::copy(disk, &path)?;
        let disk = scene.disk.at(path);
        Ok(Self {
            ext: disk.ext.clone(),
            disk,
        })
    }

    /// A copy of `disk` with a new file of `kib` KiB, and a few files less.
    fn changed(scene: &Scene, disk: &Path, name: &str, kib: usize) -> Result<Self> {
        let version = Self::copy(scene, disk, name)?;
        let (content, script) = (scene.path("content"), scene.path("script"));
        fs::write(&content, name.repeat(kib * 1024 / name.len() + 1))?;
        let root = must("debugfs", ["-R", "ls -p /odd", &version.ext.name()])?;
        // A line is /inode/mode/uid/gid/name/size/.
        let files = root.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split('/').collect();
            let regular = fields.get(2)?.starts_with("100");
            fields
                .get(5)
                .filter(|name| regular && !name.contains('"'))
                .copied()
        });
        let mut commands: String = files
            .take(3)
            .map(|name| format!("rm \"/odd/{name}\"\n"))
            .collect();
        ensure!(!commands.is_empty(), "nothing to delete: {root}");
        commands.push_str(&format!("write {} /new-{name}\n", content.display()));
        fs::write(&script, commands)?;
        let script = script.display().to_string();
        must("debugfs", ["-w", "-f", &script, &version.ext.name()])?;
        version.ext.check()?;
        Ok(version)
    }

    fn path(&self) -> &Path {
        &self.ext.disk
    }

    fn allocated(&self) -> Result<Vec<Range<u64>>> {
        self.disk.allocated()
    }

    /// Checks that a target has all of its data, and a sound filesystem.
    fn is_on(&self, target: &Path) -> Result<()> {
        ranges::same(self.path(), target, &self.allocated()?)?;
        self.ext.on(target).check()
    }
}

/// `imagezip` with the scene's keys and these bases; returns the `finish` event.
fn delta(scene: &Scene, bases: &[&Path], disk: &Path, image: &Path) -> Result<Value> {
    let outcome = zip(&scene.keys, &[], bases, disk, image)?.success()?;
    events::last(&outcome, "finish")
}

fn zip(
    keys: &Keys,
    options: &[&str],
    bases: &[&Path],
    disk: &Path,
    image: &Path,
) -> Result<Outcome> {
    let mut command = keys.imagezip()?;
    command.arg("--json").args(options);
    for base in bases {
        command.arg("--base").arg(base);
    }
    command.arg(disk).arg(image);
    run(command)
}

fn unzip(
    keys: &Keys,
    options: &[&str],
    bases: &[&Path],
    image: &Path,
    target: &Path,
) -> Result<Outcome> {
    let mut command = keys.imageunzip()?;
    command.args(options);
    for base in bases {
        command.arg("--base").arg(base);
    }
    command.arg(image).arg(target);
    run(command)
}

fn number(event: &Value, field: &str) -> Result<u64> {
    event[field]
        .as_u64()
        .with_context(|| format!("no {field} in {event}"))
}

#[test]
fn a_delta_and_a_delta_of_it() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let base = &*scene.image;
    let second = Version::changed(&scene, &scene.disk.path, "second", 500)?;
    let third = Version::changed(&scene, second.path(), "third", 900)?;
    let (to_second, to_third) = (scene.path("second.frz"), scene.path("third.frz"));
    let event = delta(&scene, &[base], second.path(), &to_second)?;
    ensure!(
        number(&event, "left_out_chunks")? > number(&event, "chunks")?,
        "{event}"
    );
    let event = delta(&scene, &[base, &to_second], third.path(), &to_third)?;
    ensure!(
        number(&event, "left_out_chunks")? > number(&event, "chunks")?,
        "{event}"
    );
    let size = |path: &Path| Ok::<u64, anyhow::Error>(fs::metadata(path)?.len());
    ensure!(size(&to_second)? + size(&to_third)? < size(base)?);

    // From the files.
    let target = scene.used_disk("from-files")?;
    unzip(&scene.keys, &[], &[base], &to_second, &target)?.success()?;
    second.is_on(&target)?;
    let target = scene.used_disk("from-files-again")?;
    unzip(&scene.keys, &[], &[base, &to_second], &to_third, &target)?.success()?;
    third.is_on(&target)?;
    // On a disk that has the version before.
    let target = scene.used_disk("update")?;
    scene.keys.unzip(base, &target)?;
    for (image, version) in [(&to_second, &second), (&to_third, &third)] {
        unzip(&scene.keys, &[], &[], image, &target)?.success()?;
        version.is_on(&target)?;
    }
    Ok(())
}

/// A filesystem that the kernel has worked with between two images.
#[test]
fn a_filesystem_that_was_mounted() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let recipe = Recipe {
        table: Table::None,
        ..Recipe::SMALL
    };
    let scene = Scene::new(&recipe)?;
    let changed = Version::copy(&scene, &scene.disk.path, "changed")?;
    {
        let device = LoopDevice::attach(changed.path(), 512)?;
        let mounted = Mount::new(device.path(), MsFlags::empty())?;
        for file in 0..40 {
            let text = format!("{file}").repeat(file * 700);
            fs::write(mounted.path().join(format!("new-{file}")), text)?;
        }
        fs::remove_dir_all(mounted.path().join("odd"))?;
    }
    let image = scene.path("changed.frz");
    let event = delta(&scene, &[&scene.image], changed.path(), &image)?;
    ensure!(number(&event, "left_out_chunks")? > 0, "{event}");
    let target = scene.used_disk("used")?;
    let free = ["--free", "zero"];
    unzip(&scene.keys, &free, &[&scene.image], &image, &target)?.success()?;
    changed.is_on(&target)?;
    ranges::zero(&target, &changed.ext.free()?)
}

#[test]
fn an_unchanged_disk_gives_an_empty_delta() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let image = scene.path("same.frz");
    let event = delta(&scene, &[&scene.image], &scene.disk.path, &image)?;
    ensure!(
        number(&event, "chunks")? == 0 && number(&event, "plain_bytes")? == 0,
        "{event}"
    );
    let all = ranges::total(&scene.disk.allocated()?);
    ensure!(number(&event, "left_out_bytes")? == all, "{event}");
    let target = scene.used_disk("used")?;
    unzip(&scene.keys, &[], &[&scene.image], &image, &target)?.success()?;
    scene.installed_on(&target)
}

/// Base and delta have content keys of their own; the base is encrypted, the delta may be not.
#[test]
fn the_keys_of_base_and_delta_are_independent() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let changed = Version::changed(&scene, &scene.disk.path, "changed", 300)?;
    let other = scene.path("other.key");
    let mut imagekey = tool("imagekey")?;
    imagekey.arg("content").arg(&other);
    run(imagekey)?.success()?;
    let old = scene.keys.content.to_string_lossy().into_owned();
    let new = other.to_string_lossy().into_owned();
    let own = Keys {
        content: other,
        ..scene.keys.clone()
    };
    let options: [(&str, &[&str]); 2] = [
        ("key", &["--key", &old]),
        ("from-key", &["--from-key", &old]),
    ];
    for (name, options) in options {
        let image = scene.path(name);
        zip(&own, options, &[&scene.image], changed.path(), &image)?.success()?;
        let target = scene.used_disk("used")?;
        unzip(&scene.keys, &[], &[&scene.image], &image, &target)?.failure(4)?;
        let both = ["--key", &new];
        unzip(&scene.keys, &both, &[&scene.image], &image, &target)?.success()?;
        changed.is_on(&target)?;
    }
    // Without the base's key nothing of it can be compared.
    let image = scene.path("never.frz");
    zip(&own, &[], &[&scene.image], changed.path(), &image)
        .map(|outcome| refused(&outcome, 4, "key", &image))??;

    let mut open = tool("imagezip")?;
    open.arg("--sign")
        .arg(&scene.keys.owner)
        .arg("--unencrypted");
    open.args(["--from-key", &old])
        .arg("--base")
        .arg(&scene.image);
    let image = scene.path("open.frz");
    open.arg(changed.path()).arg(&image);
    run(open)?.success()?;
    let target = scene.used_disk("used")?;
    unzip(&scene.keys, &[], &[&scene.image], &image, &target)?.success()?;
    changed.is_on(&target)
}

/// Checks that there is an error with this exit code and words, and no image.
fn refused(outcome: &Outcome, code: i32, words: &str, image: &Path) -> Result<()> {
    let last = outcome.stderr.lines().last().unwrap_or_default();
    ensure!(outcome.code() == Some(code), "{code} expected: {outcome}");
    ensure!(last.contains(words), "no {words:?}: {outcome}");
    ensure!(!image.exists(), "there is an image: {outcome}");
    Ok(())
}

#[test]
fn what_is_not_the_base_is_refused() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let base = &*scene.image;
    let changed = Version::changed(&scene, &scene.disk.path, "changed", 100)?;
    let first = scene.path("first.frz");
    delta(&scene, &[base], changed.path(), &first)?;
    let never = scene.path("never.frz");
    let refuse = |keys: &Keys, options: &[&str], bases: &[&Path], code, words: &str| {
        let outcome = zip(keys, options, bases, changed.path(), &never)?;
        refused(&outcome, code, words, &never)
    };
    let keys = &scene.keys;

    // Another image of the same disk, by the same owner, with the same key.
    let twin = scene.path("twin.frz");
    keys.zip(&scene.disk.path, &twin)?;
    refuse(keys, &[], &[&twin, &first], 4, "not the base of this delta")?;
    refuse(keys, &[], &[&first], 4, "--base")?;
    refuse(keys, &[], &[&twin, base], 2, "leave this --base out")?;
    refuse(keys, &[], &[&scene.path("nothing")], 3, "No such file")?;
    refuse(keys, &[], &[&scene.disk.path], 3, "not a frz image")?;

    // Of somebody else.
    let place = scene.path("other");
    fs::create_dir(&place)?;
    let other = Keys {
        content: keys.content.clone(),
        ..Keys::make(&place)?
    };
    refuse(&other, &[], &[base], 4, "not trusted")?;
    let public = keys.public.to_string_lossy();
    let image = scene.path("adopted.frz");
    let trusting = ["--trust", &public];
    zip(&other, &trusting, &[base], changed.path(), &image)?.success()?;

    // Changed by somebody else: each byte of the manifest's root table and of the header counts.
    let bytes = fs::read(base)?;
    let parts = e2e::anatomy::Anatomy::of(&bytes)?;
    let places = [
        60,
        140,
        parts.manifest + 90,
        parts.manifest + 1024 + 20,
        parts.footer - 1000,
        parts.footer + 40,
    ];
    for place in places {
        let altered = scene.path("altered.frz");
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        fs::write(&altered, bytes)?;
        let outcome = zip(keys, &[], &[&altered], changed.path(), &never)?;
        ensure!(
            matches!(outcome.code(), Some(3 | 4)) && !never.exists(),
            "byte {place}: {outcome}"
        );
    }

    // Not later than the base, and another disk.
    let dump = document(keys, base)?;
    let epoch = number(&dump["header"], "epoch")?.to_string();
    refuse(keys, &["--epoch", &epoch], &[base], 2, "larger")?;
    let longer = scene.path("longer");
    fs::copy(&scene.disk.path, &longer)?;
    File::options()
        .write(true)
        .open(&longer)?
        .set_len(scene.disk.bytes + 512)?;
    let outcome = zip(keys, &[], &[base], &longer, &never)?;
    refused(&outcome, 3, "without --base", &never)?;
    // The base itself is never written to, even if it is forced.
    let outcome = zip(keys, &["--force"], &[base], changed.path(), base)?;
    ensure!(outcome.code() == Some(2), "{outcome}");
    ensure!(fs::read(base)? == bytes);
    Ok(())
}

/// A clock that stands still, or goes back, does not make a delta that is older than its base.
#[test]
fn epochs_rise() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let (future, next) = (scene.path("future.frz"), scene.path("next.frz"));
    let epoch = ["--epoch", "99999999999"];
    zip(&scene.keys, &epoch, &[], &scene.disk.path, &future)?.success()?;
    delta(&scene, &[&future], &scene.disk.path, &next)?;
    let dump = document(&scene.keys, &next)?;
    ensure!(dump["header"]["epoch"] == 100_000_000_000_u64, "{dump}");
    ensure!(
        dump["header"]["base"]["epoch"] == 99_999_999_999_u64,
        "{dump}"
    );
    Ok(())
}

/// The chunk size is the base's, whatever is asked for.
#[test]
fn chunks_are_those_of_the_base() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let (base, image) = (scene.path("base.frz"), scene.path("delta.frz"));
    let small = ["--chunk-size", "256K"];
    zip(&scene.keys, &small, &[], &scene.disk.path, &base)?.success()?;
    let event = delta(&scene, &[&base], &scene.disk.path, &image)?;
    ensure!(number(&event, "chunks")? == 0, "{event}");
    let other = ["--chunk-size", "1M", "--force"];
    let outcome = zip(&scene.keys, &other, &[&base], &scene.disk.path, &image)?.success()?;
    ensure!(outcome.stderr.contains("warning"), "{outcome}");
    let event = events::last(&outcome, "finish")?;
    ensure!(number(&event, "chunks")? == 0, "{event}");
    Ok(())
}

/// What `imagedump` tells of an image.
fn document(keys: &Keys, image: &Path) -> Result<Value> {
    let mut command = tool("imagedump")?;
    command.arg("--json").arg("--trust").arg(&keys.public);
    command.arg("--key").arg(&keys.content).arg(image);
    Ok(serde_json::from_slice(&run(command)?.success()?.stdout)?)
}

/// Ranges of bytes from JSON pairs of first sector and number of sectors.
fn byte_ranges(pairs: &Value) -> Result<Vec<Range<u64>>> {
    let pairs = pairs.as_array().context("no ranges")?;
    pairs
        .iter()
        .map(|pair| {
            let first = pair[0].as_u64().context("no first sector")? * 512;
            let sectors = pair[1].as_u64().context("no number of sectors")?;
            Ok(first..first + sectors * 512)
        })
        .collect()
}

/// The sectors of `new` that are in use and not the same in `old`, and those that are not in use any more.
fn changed_sectors(old: &Version, new: &Version) -> Result<Vec<u64>> {
    let map = |version: &Version| -> Result<Vec<bool>> {
        let mut map = vec![false; usize::try_from(version.disk.bytes / 512)?];
        for range in version.allocated()? {
            map[usize::try_from(range.start / 512)?..usize::try_from(range.end / 512)?].fill(true);
        }
        Ok(map)
    };
    let (used_before, used) = (map(old)?, map(new)?);
    let (before, after) = (fs::read(old.path())?, fs::read(new.path())?);
    let sectors = before.chunks(512).zip(after.chunks(512));
    let states = used_before.iter().zip(&used);
    let changed = sectors
        .zip(states)
        .map(|((before, after), states)| states.0 != states.1 || (*states.1 && before != after));
    let numbers = (0_u64..).zip(changed);
    Ok(numbers
        .filter_map(|(number, changed)| changed.then_some(number))
        .collect())
}

/// What `--compare` says is what a comparison sector by sector finds, and what a delta holds.
#[test]
fn compare_says_what_differs() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let old = Version::copy(&scene, &scene.disk.path, "old")?;
    let new = Version::changed(&scene, old.path(), "new", 700)?;
    // Dirt in free space is no difference.
    let free = new.ext.free()?.first().context("no free space")?.clone();
    let file = File::options().write(true).open(new.path())?;
    file.write_all_at(&[0x5a; 512], free.start)?;
    let compare = |disk: &Path| {
        let mut command = tool("imagezip")?;
        command.args(["--compare", "--json", "--trust"]);
        command.arg(&scene.keys.public).arg("--key");
        command.arg(&scene.keys.content).arg("--base");
        command.arg(&scene.image).arg(disk);
        events::last(&run(command)?.success()?, "finish")
    };
    let same = compare(old.path())?;
    ensure!(number(&same, "differing_chunks")? == 0, "{same}");
    ensure!(number(&same, "differing_bytes")? == 0, "{same}");

    let found = compare(new.path())?;
    let changed = changed_sectors(&old, &new)?;
    ensure!(changed.len() > 100, "{} sectors changed", changed.len());
    let chunks = found["differing"].as_array().context("no list")?;
    let mut spans = Vec::new();
    let mut differing = Vec::new();
    for chunk in chunks {
        let first = number(chunk, "first_sector")?;
        spans.push(first..first + number(chunk, "sectors")?);
        differing.extend(byte_ranges(&chunk["ranges"])?);
    }
    let inside = |sector: &u64| spans.iter().any(|span| span.contains(sector));
    ensure!(changed.iter().all(inside), "a change was not found");
    // Where borders of chunks are the base's, a chunk differs only if something in it does.
    let dump = document(&scene.keys, &scene.image)?;
    let bordered = |span: &Range<u64>| {
        let same = |chunk: &Value| {
            chunk["first_sector"] == span.start && chunk["sectors"] == span.end - span.start
        };
        dump["chunks"]
            .as_array()
            .is_some_and(|chunks| chunks.iter().any(same))
    };
    for span in spans.iter().filter(|span| bordered(span)) {
        ensure!(
            changed.iter().any(|sector| span.contains(sector)),
            "nothing differs in {span:?}"
        );
    }
    ensure!(spans.iter().any(bordered), "no border is as before");
    ensure!(ranges::total(&differing) == number(&found, "differing_bytes")?);
    let all = ranges::total(&new.allocated()?);
    ensure!(number(&found, "plain_bytes")? == all, "{found}");
    ensure!(number(&found, "differing_chunks")? < number(&found, "chunks")? / 2);

    // The same by an image of all of the new disk, and the bytes of both disks.
    let full = scene.path("full.frz");
    scene.keys.zip(new.path(), &full)?;
    let full = document(&scene.keys, &full)?;
    let (before, after) = (fs::read(old.path())?, fs::read(new.path())?);
    let mut expected = Vec::new();
    for chunk in full["chunks"].as_array().context("no chunks")? {
        let same_layout = |other: &Value| {
            ["first_sector", "sectors", "ranges"]
                .iter()
                .all(|field| other[*field] == chunk[*field])
        };
        let in_base = dump["chunks"].as_array().context("no chunks")?;
        let same_data = byte_ranges(&chunk["ranges"])?.into_iter().all(|range| {
            let range = range.start as usize..range.end as usize;
            before[range.clone()] == after[range]
        });
        if !(same_data && in_base.iter().any(same_layout)) {
            expected.push(chunk["first_sector"].as_u64());
        }
    }
    let firsts: Vec<_> = spans.iter().map(|span| Some(span.start)).collect();
    ensure!(firsts == expected, "{firsts:?} instead of {expected:?}");

    let made = delta(&scene, &[&scene.image], new.path(), &scene.path("new.frz"))?;
    ensure!(number(&made, "chunks")? == number(&found, "differing_chunks")?);
    ensure!(number(&made, "plain_bytes")? == number(&found, "differing_bytes")?);
    Ok(())
}

/// `imagezip --from` with the scene's keys.
fn reseal(
    scene: &Scene,
    options: &[&str],
    bases: &[&Path],
    from: &Path,
    to: &Path,
) -> Result<Outcome> {
    let mut command = scene.keys.imagezip()?;
    command.arg("--json").args(options);
    for base in bases {
        command.arg("--base").arg(base);
    }
    command.arg("--from").arg(from).arg(to);
    run(command)
}

#[test]
fn images_of_deltas() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let base = &*scene.image;
    let second = Version::changed(&scene, &scene.disk.path, "second", 500)?;
    let third = Version::changed(&scene, second.path(), "third", 900)?;
    let (to_second, to_third) = (scene.path("second.frz"), scene.path("third.frz"));
    delta(&scene, &[base], second.path(), &to_second)?;
    let made = delta(&scene, &[base, &to_second], third.path(), &to_third)?;

    let never = scene.path("never.frz");
    let outcome = reseal(&scene, &[], &[], &to_third, &never)?;
    refused(&outcome, 4, "--base", &never)?;
    let outcome = reseal(&scene, &[], &[base], &to_third, &never)?;
    refused(&outcome, 4, "not the base of this delta", &never)?;
    let outcome = reseal(&scene, &["--keep-delta"], &[base], base, &never)?;
    refused(&outcome, 2, "no delta", &never)?;

    // Flattened: the bases are not needed any more.
    let flat = scene.path("flat.frz");
    reseal(&scene, &[], &[base, &to_second], &to_third, &flat)?.success()?;
    let target = scene.used_disk("flat")?;
    scene.keys.unzip(&flat, &target)?;
    third.is_on(&target)?;
    // Still a delta.
    let kept = scene.path("kept.frz");
    let outcome = reseal(
        &scene,
        &["--keep-delta"],
        &[base, &to_second],
        &to_third,
        &kept,
    )?;
    let event = events::last(&outcome.success()?, "finish")?;
    ensure!(
        event["chunks"] == made["chunks"] && event["left_out_chunks"] == made["left_out_chunks"]
    );
    let target = scene.used_disk("kept")?;
    unzip(&scene.keys, &[], &[base, &to_second], &kept, &target)?.success()?;
    third.is_on(&target)?;
    // A full image becomes a delta.
    let again = scene.path("again.frz");
    let later = ["--epoch", "99999999999"];
    let event = reseal(&scene, &later, &[base], &flat, &again)?.success()?;
    let event = events::last(&event, "finish")?;
    ensure!(
        number(&event, "left_out_chunks")? > number(&event, "chunks")?,
        "{event}"
    );
    let target = scene.used_disk("again")?;
    unzip(&scene.keys, &[], &[base], &again, &target)?.success()?;
    third.is_on(&target)
}

/// A damaged chunk of a base, or of the delta, is found, and there is no image.
#[test]
fn images_of_damaged_deltas() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let changed = Version::changed(&scene, &scene.disk.path, "changed", 100)?;
    let first = scene.path("first.frz");
    delta(&scene, &[&scene.image], changed.path(), &first)?;
    let never = scene.path("never.frz");
    let damage = |image: &Path, name: &str| -> Result<PathBuf> {
        let mut bytes = fs::read(image)?;
        let parts = e2e::anatomy::Anatomy::of(&bytes)?;
        for chunk in &parts.chunks {
            bytes[chunk.bytes.start + 1024] ^= 1;
        }
        let path = scene.path(name);
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let base = damage(&scene.image, "damaged-base.frz")?;
    let outcome = reseal(&scene, &[], &[&base], &first, &never)?;
    refused(&outcome, 4, "signed hash", &never)?;
    ensure!(outcome.stderr.contains("damaged-base.frz"), "{outcome}");
    let damaged = damage(&first, "damaged-delta.frz")?;
    let outcome = reseal(&scene, &[], &[&scene.image], &damaged, &never)?;
    refused(&outcome, 4, "signed hash", &never)
}
