//! `imagedump --verify` and `--against`, and which images `imageunzip` is told to accept.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::command::{Outcome, run, system, tool};
use e2e::disk::Recipe;
use e2e::scene::Scene;
use serde_json::Value;

fn dump(scene: &Scene, with_key: bool) -> Result<Command> {
    let mut command = tool("imagedump")?;
    command.arg("--trust").arg(&scene.keys.public);
    if with_key {
        command.arg("--key").arg(&scene.keys.content);
    }
    Ok(command)
}

/// What is said on stderr when verification has failed. What is wrong stands on stdout: it is what was asked for.
fn refused(outcome: &Outcome) -> Result<&str> {
    ensure!(outcome.code() == Some(4), "{outcome:?}");
    Ok(&outcome.stderr)
}

/// Changes one byte of a file.
fn flip(path: &Path, offset: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    Ok(file.write_all_at(&[byte[0] ^ 0x10], offset)?)
}

#[test]
fn an_image_is_verified_with_and_without_its_key() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    for (with_key, deep) in [(false, false), (true, false), (true, true)] {
        let mut command = dump(&scene, with_key)?;
        command.args(["--verify", "--json"]);
        if deep {
            command.arg("--deep");
        }
        let outcome = run({
            command.arg(&scene.image);
            command
        })?
        .success()?;
        let report: Value = serde_json::from_slice(&outcome.stdout)?;
        ensure!(
            report["verified"] == true && report["signature_checked"] == true,
            "{report:#}"
        );
        ensure!(
            report["tiling_checked"] == with_key && report["deep"] == deep,
            "{report:#}"
        );
    }
    let mut without_key = dump(&scene, false)?;
    without_key.args(["--verify", "--deep"]).arg(&scene.image);
    ensure!(run(without_key)?.failure(4)?.contains("--key"));
    Ok(())
}

/// Wherever a byte is changed, all that is wrong is told, and the exit code is that of a failed verification.
#[test]
fn a_changed_image_is_found_out() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let length = fs::metadata(&scene.image)?.len();
    let broken = scene.path("broken.frz");
    let verify = || -> Result<_> {
        let mut command = dump(&scene, false)?;
        command.args(["--verify", "--threads", "1"]).arg(&broken);
        run(command)
    };
    fs::copy(&scene.image, &broken)?;
    // In the header block and in the body of the first chunk, and in that of a later one.
    flip(&broken, 4096 + 90)?;
    let outcome = verify()?;
    ensure!(refused(&outcome)?.contains("chunk 0"), "{outcome:?}");
    fs::copy(&scene.image, &broken)?;
    flip(&broken, 4096 + 5000)?;
    flip(&broken, length / 2)?;
    let outcome = verify()?;
    ensure!(refused(&outcome)?.contains("chunk 0"), "{outcome:?}");
    let told = outcome.stdout_text();
    ensure!(told.lines().count() == 2, "both chunks are named: {told}");
    fs::copy(&scene.image, &broken)?;
    // In the manifest, which ends two blocks before the file does.
    flip(&broken, length - 3000)?;
    let code = verify()?.code();
    ensure!(code == Some(3) || code == Some(4), "{code:?}");
    Ok(())
}

#[test]
fn a_disk_is_compared_with_an_image() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let disk = scene.used_disk("disk")?;
    scene.keys.unzip(&scene.image, &disk)?;
    let compare = |json: bool| -> Result<_> {
        let mut command = dump(&scene, true)?;
        command.arg("--against").arg(&disk).arg(&scene.image);
        if json {
            command.arg("--json");
        }
        run(command)
    };
    let same = compare(false)?.success()?;
    ensure!(same.stdout_text().contains("holds image"), "{same:?}");

    // A byte that is in use, one that is free, and the two sectors at a border between chunks' sectors.
    let used = scene.disk.allocated()?;
    let place = used.get(used.len() / 2).context("nothing is in use")?.start;
    let free = used.windows(2).map(|pair| pair[0].end..pair[1].start);
    let free = free
        .max_by_key(|gap| gap.end - gap.start)
        .context("nothing is free")?;
    flip(&disk, (free.start + free.end) / 2)?;
    compare(false)?.success()?;
    flip(&disk, place + 5)?;
    flip(&disk, place + 512)?;
    let outcome = compare(false)?;
    ensure!(
        refused(&outcome)?.contains("2 sectors in 1 ranges differ"),
        "{outcome:?}"
    );
    let first = place / 512;
    let line = format!("differs: sectors {first} to {} (2)", first + 1);
    ensure!(outcome.stdout_text().trim() == line, "{outcome:?}");
    let outcome = compare(true)?;
    refused(&outcome)?;
    let report: Value = serde_json::from_slice(&outcome.stdout)?;
    ensure!(
        report["ranges"] == serde_json::json!([[first, 2]]),
        "{report:#}"
    );

    // A disk that ends too early.
    let length = fs::metadata(&disk)?.len();
    File::options()
        .write(true)
        .open(&disk)?
        .set_len(length / 2)?;
    refused(&compare(false)?)?;
    Ok(())
}

#[test]
fn only_the_wanted_image_is_installed() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let target = scene.path("target");
    let unzip = |arguments: &[&str]| -> Result<_> {
        let mut command = scene.keys.imageunzip()?;
        command.args(arguments).arg(&scene.image).arg(&target);
        run(command)
    };
    let far = u64::from(u32::MAX).to_string();
    let refused = [
        (vec!["--min-epoch", &far], "or later is asked for"),
        (
            vec!["--uuid", "00000000-0000-4000-8000-000000000000"],
            "is asked for",
        ),
        (vec!["--suite", "classic"], "suite classic is asked for"),
    ];
    for (arguments, words) in refused {
        let outcome = unzip(&arguments)?;
        ensure!(outcome.failure(4)?.contains(words), "{outcome:?}");
        ensure!(!target.exists());
    }
    unzip(&["--min-epoch", "1", "--suite", "modern"])?.success()?;
    Ok(())
}

/// A header that was signed once can be repeated by anybody: alone it must not make a disk be wiped.
#[test]
fn from_a_pipe_nothing_is_written_before_a_chunk_has_come() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let target = scene.used_disk("target")?;
    let before = fs::read(&target)?;
    let broken = scene.path("broken.frz");
    fs::copy(&scene.image, &broken)?;
    // In the first chunk's data.
    flip(&broken, 4096 + 2000)?;
    for (image, length) in [
        (&scene.image, 4096),
        (&scene.image, 7000),
        (&broken, 1 << 30),
    ] {
        let unzip = scene.keys.imageunzip()?;
        let words = std::iter::once(unzip.get_program()).chain(unzip.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.display())).collect();
        let line = format!(
            "head -c {length} '{}' | {} - '{}'",
            image.display(),
            words.join(" "),
            target.display()
        );
        let mut shell = system("sh")?;
        shell.arg("-c").arg(line);
        let outcome = run(shell)?;
        ensure!(matches!(outcome.code(), Some(3 | 4)), "{outcome:?}");
        ensure!(
            fs::read(&target)? == before,
            "the target was touched: {outcome:?}"
        );
    }
    Ok(())
}
