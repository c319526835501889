//! Standard output as the target: the disk in order, and an exit code that tells whether all of it is there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use e2e::command::{Outcome, run};
use e2e::disk::Recipe;
use e2e::image::Keys;
use e2e::need::{self, Need};
use e2e::scene::Scene;
use serde_json::Value;

/// Writes an image to standard output, with these options.
fn to_stdout(keys: &Keys, options: &[&str], image: &Path) -> Result<Outcome> {
    let mut command = keys.imageunzip()?;
    command.args(options).arg(image).arg("-");
    run(command)
}

/// The same, with the first `bytes` bytes of the image from a pipe.
fn from_pipe(keys: &Keys, image: &Path, bytes: u64) -> Result<Outcome> {
    let mut command = Command::new("sh");
    let unzip = keys.imageunzip()?;
    let script = format!("head -c {bytes} \"$IMAGE\" | exec \"$0\" \"$@\" - -");
    command.arg("-c").arg(script).arg(unzip.get_program());
    command.args(unzip.get_args()).env("IMAGE", image);
    run(command)
}

/// The bytes of a disk that an image makes, its free space zeros.
fn disk_of(scene: &Scene, image: &Path) -> Result<Vec<u8>> {
    let target = scene.path("new");
    scene.keys.unzip(image, &target)?;
    let bytes = fs::read(&target)?;
    fs::remove_file(&target)?;
    Ok(bytes)
}

fn zip(scene: &Scene, options: &[&str], image: &Path) -> Result<()> {
    let mut command = scene.keys.imagezip()?;
    command.args(options).arg(&scene.disk.path).arg(image);
    run(command)?.success()?;
    Ok(())
}

#[test]
fn the_disk_in_order() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let expected = disk_of(&scene, &scene.image)?;
    let outcome = to_stdout(&scene.keys, &[], &scene.image)?.success()?;
    ensure!(outcome.stdout == expected, "another disk, from a file");
    let length = fs::metadata(&scene.image)?.len();
    let outcome = from_pipe(&scene.keys, &scene.image, length)?.success()?;
    ensure!(outcome.stdout == expected, "another disk, from a pipe");
    // Every sector, against the disk itself; many small chunks.
    let raw = scene.path("raw.frz");
    zip(
        &scene,
        &["--raw", "--chunk-size", "64K", "--level", "1"],
        &raw,
    )?;
    let outcome = to_stdout(&scene.keys, &["--json"], &raw)?.success()?;
    ensure!(
        outcome.stdout == fs::read(&scene.disk.path)?,
        "another disk"
    );
    // Events go where they are not in the way.
    let events: Vec<Value> = outcome
        .stderr
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    ensure!(
        names.first() == Some(&"start") && names.last() == Some(&"finish"),
        "{names:?}"
    );
    Ok(())
}

#[test]
fn a_delta() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let changed = scene.path("changed");
    fs::copy(&scene.disk.path, &changed)?;
    let file = File::options().write(true).open(&changed)?;
    file.write_all_at(&[0xa5; 3000], scene.disk.bytes / 2)?;
    let (base, delta) = (scene.path("base.frz"), scene.path("delta.frz"));
    let small = ["--raw", "--chunk-size", "64K"];
    zip(&scene, &small, &base)?;
    let mut command = scene.keys.imagezip()?;
    command
        .args(small)
        .arg("--base")
        .args([&base, &changed, &delta]);
    run(command)?.success()?;
    let name = base.to_string_lossy();
    let outcome = to_stdout(&scene.keys, &["--base", &name], &delta)?.success()?;
    ensure!(outcome.stdout == fs::read(&changed)?, "another disk");
    let outcome = to_stdout(&scene.keys, &[], &delta)?;
    ensure!(outcome.failure(2)?.contains("--base"), "{outcome}");
    Ok(())
}

/// Of an image file that is not whole, not a byte goes out. Of one from a pipe, the exit code tells.
#[test]
fn images_that_are_not_whole() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let image = scene.path("small.frz");
    zip(&scene, &["--raw", "--chunk-size", "64K"], &image)?;
    let bytes = fs::read(&image)?;
    let expected = fs::read(&scene.disk.path)?;
    let damaged = scene.path("damaged.frz");
    for place in [bytes.len() / 2, bytes.len() * 3 / 4, bytes.len() - 3000] {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        fs::write(&damaged, &bytes)?;
        let outcome = to_stdout(&scene.keys, &[], &damaged)?;
        ensure!(
            outcome.code().is_some_and(|code| [3, 4].contains(&code)),
            "{outcome}"
        );
        ensure!(outcome.stdout.is_empty(), "something went out");
        let outcome = from_pipe(&scene.keys, &damaged, bytes.len() as u64)?;
        ensure!(
            outcome.code().is_some_and(|code| [3, 4].contains(&code)),
            "{outcome}"
        );
        ensure!(
            expected.starts_with(&outcome.stdout),
            "wrong bytes went out"
        );
    }
    for length in [100, bytes.len() / 2, bytes.len() - 1] {
        let outcome = from_pipe(&scene.keys, &image, length as u64)?;
        ensure!(outcome.code() == Some(3), "{outcome}");
        ensure!(
            expected.starts_with(&outcome.stdout),
            "wrong bytes went out"
        );
    }
    Ok(())
}

/// An image of somebody who is not trusted.
#[test]
fn a_stranger() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let place = scene.path("others");
    fs::create_dir(&place)?;
    let other = Keys::make(&place)?;
    let outcome = to_stdout(&other, &[], &scene.image)?;
    outcome.failure(4)?;
    Ok(())
}

/// A reader that goes away is an error, not success.
#[test]
fn nobody_reads() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let code = scene.path("code");
    let unzip = scene.keys.imageunzip()?;
    let mut command = Command::new("sh");
    let script = "{ \"$0\" \"$@\" \"$IMAGE\" -; echo $? >\"$CODE\"; } | head -c 100000 >/dev/null";
    command.arg("-c").arg(script).arg(unzip.get_program());
    command
        .args(unzip.get_args())
        .env("IMAGE", &scene.image)
        .env("CODE", &code);
    let outcome = run(command)?;
    let found = fs::read_to_string(&code)?;
    ensure!(found.trim() == "7", "exit code {found}: {outcome}");
    ensure!(outcome.stderr.contains("standard output"), "{outcome}");
    // No space left.
    let mut command = scene.keys.imageunzip()?;
    command.arg(&scene.image).arg("-").stdin(Stdio::null());
    command.stdout(File::options().write(true).open("/dev/full")?);
    command.stderr(Stdio::null());
    ensure!(command.status()?.code() == Some(7));
    Ok(())
}

#[test]
fn a_terminal() -> Result<()> {
    if !need::met(&[Need::Tool("script")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let unzip = scene.keys.imageunzip()?;
    let mut words = vec![unzip.get_program().to_string_lossy().into_owned()];
    words.extend(
        unzip
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.extend([scene.image.to_string_lossy().into_owned(), "-".into()]);
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command"])
        .arg(words.join(" "))
        .arg("/dev/null");
    let outcome = run(command)?;
    ensure!(outcome.code() == Some(2), "{outcome}");
    ensure!(outcome.stdout_text().contains("is a terminal"), "{outcome}");
    ensure!(outcome.stdout.len() < 1000, "the disk went to the terminal");
    Ok(())
}

/// An empty image file, and what is none.
#[test]
fn no_image() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let empty = scene.path("empty");
    fs::write(&empty, "")?;
    to_stdout(&scene.keys, &[], &empty)?.failure(3)?;
    to_stdout(&scene.keys, &[], &scene.disk.path)?.failure(3)?;
    // Nothing can be done with a disk that is not there.
    for option in ["--grow", "--verify", "--dry-run", "--reuse"] {
        to_stdout(&scene.keys, &[option], &scene.image)?.failure(2)?;
    }
    Ok(())
}
