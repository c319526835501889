//! Disks that are not simply there: virtual ones in the formats of others, and files with holes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use e2e::background::Background;
use e2e::command::{LIMIT, Outcome, must, run, tool};
use e2e::disk::Recipe;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::scene::Scene;
use nix::sys::signal::Signal;
use serde_json::Value;

const NEEDS: [Need; 2] = [Need::Tool("qemu-nbd"), Need::Tool("qemu-img")];

/// Formats as qemu-img names them, with options.
const FORMATS: [(&str, &str); 8] = [
    ("qcow2", "compat=1.1"),
    ("qcow2", "compat=0.10,cluster_size=4096"),
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=streamOptimized"),
    ("vdi", "static=off"),
    ("vdi", "static=on"),
    ("vhdx", "subformat=dynamic"),
    ("vhdx", "subformat=fixed"),
];

/// Converts a raw disk with qemu-img.
fn convert(disk: &Path, format: &str, options: &[&str], to: &Path) -> Result<()> {
    let mut arguments = vec!["convert", "-f", "raw", "-O", format];
    arguments.extend(options);
    let (disk, to) = (disk.to_string_lossy(), to.to_string_lossy());
    arguments.extend([&*disk, &*to]);
    must("qemu-img", arguments)?;
    Ok(())
}

fn zip(scene: &Scene, options: &[&str], source: &Path, image: &Path) -> Result<Outcome> {
    let mut command = scene.keys.imagezip()?;
    command.args(options).arg(source).arg(image);
    run(command)
}

fn info(options: &[&str], source: &Path) -> Result<Value> {
    let mut command = tool("imagezip")?;
    command.args(["--info", "--json"]).args(options).arg(source);
    Ok(serde_json::from_slice(&run(command)?.success()?.stdout)?)
}

/// Processes of qemu-nbd that have this file open.
fn servers_of(path: &Path) -> Result<usize> {
    let wanted = fs::canonicalize(path)?;
    let mut found = 0;
    for process in fs::read_dir("/proc")?.flatten() {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let files = fs::read_dir(process.path().join("fd"));
        let mut files = files.into_iter().flatten().flatten();
        let holds = files.any(|file| fs::read_link(file.path()).is_ok_and(|path| path == wanted));
        found += usize::from(name.trim() == "qemu-nbd" && holds);
    }
    Ok(found)
}

/// A virtual disk is imaged as the raw disk that it was made of: the same map, the same data.
#[test]
fn virtual_disks() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let mut expected = info(&[], &scene.disk.path)?;
    for (format, options) in FORMATS {
        let source = scene.path("virtual");
        convert(&scene.disk.path, format, &["-o", options], &source)?;
        let mut map = info(&[], &source)?;
        expected["source"] = Value::Null;
        map["source"] = Value::Null;
        ensure!(map == expected, "{format} {options}: {map}\nnot {expected}");
        let (image, target) = (scene.path("virtual.frz"), scene.used_disk("used")?);
        zip(&scene, &["--force"], &source, &image)?.success()?;
        scene.keys.unzip(&image, &target)?;
        scene.same_data(&target)?;
        ensure!(servers_of(&source)? == 0, "qemu-nbd is left behind");
        // As a file of bytes it is another disk.
        zip(
            &scene,
            &["--force", "--source-format", "raw"],
            &source,
            &image,
        )?
        .success()?;
        let copy = scene.path("copy");
        scene.keys.unzip(&image, &copy)?;
        must("cmp", [&source, &copy])?;
        fs::remove_file(&source)?;
        fs::remove_file(&copy)?;
    }
    Ok(())
}

/// Every sector, with qemu's own comparison as the judge.
#[test]
fn a_virtual_disk_saved_whole() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let (source, image) = (scene.path("disk.qcow2"), scene.path("whole.frz"));
    // Compressed clusters and holes, and a size that is no multiple of a cluster.
    let raw = scene.path("raw");
    fs::copy(&scene.disk.path, &raw)?;
    let file = File::options().write(true).open(&raw)?;
    let bytes = scene.disk.bytes + (40 << 20) + 512;
    file.set_len(bytes)?;
    file.write_all_at(b"the end", bytes - 512)?;
    convert(&raw, "qcow2", &["-c"], &source)?;
    zip(&scene, &["--raw"], &source, &image)?.success()?;
    let target = scene.path("target");
    scene.keys.unzip(&image, &target)?;
    let (source, target) = (source.to_string_lossy(), target.to_string_lossy());
    must(
        "qemu-img",
        ["compare", "-f", "qcow2", "-F", "raw", &source, &target],
    )?;
    Ok(())
}

/// A virtual disk whose file is damaged or cut short: no image, and a reason.
#[test]
fn a_virtual_disk_cut_short() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let (source, image) = (scene.path("disk.qcow2"), scene.path("never.frz"));
    convert(&scene.disk.path, "qcow2", &[], &source)?;
    let whole = fs::metadata(&source)?.len();
    let refused = |options: &[&str], code: i32| -> Result<String> {
        let outcome = zip(&scene, options, &source, &image)?;
        let line = outcome.failure(code)?.to_owned();
        ensure!(!image.exists() && line.contains("disk.qcow2"), "{outcome}");
        ensure!(servers_of(&source)? == 0, "qemu-nbd is left behind");
        Ok(line)
    };
    let file = File::options().write(true).open(&source)?;
    // By itself, qemu reads zeros behind the end of the file.
    for length in [whole - (1 << 20), whole / 2, 100_000, 100] {
        file.set_len(length)?;
        let line = refused(&["--raw"], 3)?;
        ensure!(line.contains("qemu"), "{line}");
    }
    // A cluster that is said to begin in the middle of one.
    let mut header = [0; 48];
    convert(&scene.disk.path, "qcow2", &[], &source)?;
    let file = File::options().read(true).write(true).open(&source)?;
    file.read_exact_at(&mut header, 0)?;
    let first_level = u64::from_be_bytes(header[40..48].try_into()?);
    let mut entry = [0; 8];
    file.read_exact_at(&mut entry, first_level)?;
    let second_level = u64::from_be_bytes(entry) & 0x00ff_ffff_ffff_fe00;
    let bad = 1_u64 << 63 | 0x1_0200;
    file.write_all_at(&bad.to_be_bytes(), second_level + 20 * 8)?;
    refused(&["--raw"], 3)?;
    // What can be read is saved, and the rest is named.
    let outcome = zip(&scene, &["--raw", "--rescue"], &source, &image)?.success()?;
    ensure!(outcome.stderr.contains("could not be read"), "{outcome}");
    Ok(())
}

/// A virtual disk leads to no other file unless that is allowed.
#[test]
fn a_disk_on_another() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let image = scene.path("made.frz");
    let (base, disk) = (scene.path("base.qcow2"), scene.path("disk.qcow2"));
    convert(&scene.disk.path, "qcow2", &[], &base)?;
    let name = disk.to_string_lossy();
    must(
        "qemu-img",
        [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            "base.qcow2",
            &name,
        ],
    )?;
    for options in [&[][..], &["--raw"], &["--source-format", "qcow2"]] {
        let outcome = zip(&scene, options, &disk, &image)?;
        let line = outcome.failure(3)?;
        ensure!(
            line.contains("--allow-backing") && !image.exists(),
            "{line}"
        );
    }
    zip(&scene, &["--allow-backing"], &disk, &image)?.success()?;
    let target = scene.used_disk("used")?;
    scene.keys.unzip(&image, &target)?;
    scene.same_data(&target)?;

    // Its data in another file, and parts in other files: those are never opened.
    let apart = scene.path("apart.qcow2");
    let options = format!(
        "data_file={},data_file_raw=on",
        scene.path("data").display()
    );
    convert(&scene.disk.path, "qcow2", &["-o", &options], &apart)?;
    let parts = scene.path("parts.vmdk");
    convert(
        &scene.disk.path,
        "vmdk",
        &["-o", "subformat=twoGbMaxExtentSparse"],
        &parts,
    )?;
    fs::remove_file(&image)?;
    for source in [&apart, &parts] {
        let outcome = zip(&scene, &["--allow-backing"], source, &image)?;
        let line = outcome.failure(3)?;
        ensure!(line.contains("other files") && !image.exists(), "{line}");
    }
    Ok(())
}

/// A raw disk whose first bytes were made to look like a virtual one does not lead to the files that it names.
#[test]
fn a_raw_disk_in_disguise() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let (secret, disk) = (scene.path("secret"), scene.path("disk"));
    fs::write(&secret, vec![b's'; 1 << 20])?;
    let (name, from) = (disk.to_string_lossy(), secret.to_string_lossy());
    must(
        "qemu-img",
        [
            "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &from, &name,
        ],
    )?;
    File::options().write(true).open(&disk)?.set_len(1 << 20)?;
    let image = scene.path("never.frz");
    zip(&scene, &[], &disk, &image)?.failure(3)?;
    zip(&scene, &["--source-format", "raw"], &disk, &image)?.success()?;
    let target = scene.path("target");
    scene.keys.unzip(&image, &target)?;
    must("cmp", [&disk, &target])?;
    Ok(())
}

/// While a virtual machine has its disk open for writing, it is not read.
#[test]
fn a_disk_of_a_running_machine() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let (disk, image) = (scene.path("disk.qcow2"), scene.path("made.frz"));
    convert(&scene.disk.path, "qcow2", &[], &disk)?;
    let mut machine = Command::new("qemu-nbd");
    machine
        .args(["--persistent", "--format=qcow2", "--socket"])
        .arg(scene.path("socket"))
        .arg(&disk);
    let machine = Background::start(machine)?;
    while !scene.path("socket").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let outcome = zip(&scene, &[], &disk, &image)?;
    ensure!(
        outcome.failure(3)?.contains("lock") && !image.exists(),
        "{outcome}"
    );
    zip(&scene, &["--allow-mounted"], &disk, &image)?.success()?;
    machine.signal(Signal::SIGTERM)?;
    machine.wait(LIMIT)?;
    Ok(())
}

/// However imagezip ends, qemu-nbd ends with it.
#[test]
fn killed_with_a_virtual_disk() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let disk = scene.path("disk.qcow2");
    convert(&scene.disk.path, "qcow2", &[], &disk)?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT] {
        let mut command = scene.keys.imagezip()?;
        command
            .args(["--raw", "--level", "19", "--threads", "1"])
            .arg(&disk)
            .arg(scene.path("never.frz"));
        let running = Background::start(command)?;
        let begun = std::time::Instant::now();
        while servers_of(&disk)? == 0 && begun.elapsed() < LIMIT {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        running.signal(signal)?;
        let outcome = running.wait(LIMIT)?;
        let killed = signal == Signal::SIGKILL;
        ensure!(killed || outcome.code() == Some(130), "{outcome}");
        while servers_of(&disk)? > 0 {
            ensure!(begun.elapsed() < LIMIT, "qemu-nbd is left behind");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Without qemu-nbd: a reason, and what to do.
#[test]
fn no_qemu() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let (disk, image) = (scene.path("disk.vdi"), scene.path("never.frz"));
    convert(&scene.disk.path, "vdi", &[], &disk)?;
    let mut command = scene.keys.imagezip()?;
    command.env("PATH", scene.path("")).arg(&disk).arg(&image);
    let outcome = run(command)?;
    let line = outcome.failure(3)?;
    ensure!(
        line.contains("qemu-utils") && line.contains("VDI"),
        "{line}"
    );
    // One that ends at once, and says why.
    for (name, ending) in [
        ("qemu-img", "exit 63"),
        ("qemu-nbd", "echo no, thanks >&2; exit 1"),
    ] {
        let fake = scene.path(name);
        fs::write(&fake, format!("#!/bin/sh\n{ending}\n"))?;
        fs::set_permissions(&fake, PermissionsExt::from_mode(0o755))?;
    }
    let mut command = scene.keys.imagezip()?;
    command.env("PATH", scene.path("")).arg(&disk).arg(&image);
    let outcome = run(command)?;
    ensure!(outcome.failure(3)?.contains("no, thanks"), "{outcome}");
    Ok(())
}

/// Holes of a raw disk are zeros: they are restored as such, not left as free space.
#[test]
fn files_with_holes() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let disk: PathBuf = scene.path("sparse");
    let file = File::create(&disk)?;
    let bytes = (96 << 20) + 4096;
    file.set_len(bytes)?;
    for at in [3 << 20, (7 << 20) - 100, 50 << 20, bytes - 5] {
        file.write_all_at(b"data!", at)?;
    }
    ensure!(
        fs::metadata(&disk)?.blocks() * 512 < 1 << 20,
        "it has no holes"
    );
    let image = scene.path("sparse.frz");
    zip(&scene, &[], &disk, &image)?.success()?;
    let target = scene.used_disk_of("used", bytes)?;
    scene.keys.unzip(&image, &target)?;
    must("cmp", [&disk, &target])?;
    ensure!(ranges::hash(&disk)? == ranges::hash(&target)?);
    // A file that is made new has holes again, but for the ends of the disk.
    let new = scene.path("new");
    scene.keys.unzip(&image, &new)?;
    must("cmp", [&disk, &new])?;
    let used = fs::metadata(&new)?.blocks() * 512;
    ensure!(used < 4 << 20, "{used} bytes on disk");
    Ok(())
}

/// Images what `feed`, a command of the shell, writes into a pipe.
fn zip_pipe(scene: &Scene, feed: &str, options: &[&str], image: &Path) -> Result<Outcome> {
    let mut command = Command::new("sh");
    let zip = scene.keys.imagezip()?;
    command
        .arg("-c")
        .arg(format!("{feed} | exec \"$0\" \"$@\""));
    command
        .arg(zip.get_program())
        .args(zip.get_args())
        .args(options);
    command.arg("-").arg(image).env("DISK", &scene.disk.path);
    run(command)
}

/// A disk from a pipe is saved whole, and is what went into it.
#[test]
fn through_a_pipe() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let (image, target) = (scene.path("piped.frz"), scene.path("target"));
    let size = scene.disk.bytes.to_string();
    let options = ["--raw", "--size", &size, "--name", "piped"];
    zip_pipe(&scene, "cat \"$DISK\"", &options, &image)?.success()?;
    scene.keys.unzip(&image, &target)?;
    must("cmp", [&scene.disk.path, &target])?;
    // The same chunks as of the file: a delta of one to the other is empty.
    let delta = scene.path("delta.frz");
    let base = image.to_string_lossy();
    let mut options = options.to_vec();
    options.extend(["--base", &base, "--json"]);
    let outcome = zip_pipe(&scene, "cat \"$DISK\"", &options, &delta)?.success()?;
    let last = outcome
        .stdout_text()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned();
    let finish: Value = serde_json::from_str(&last)?;
    ensure!(
        finish["plain_bytes"] == 0 && finish["left_out_bytes"] == scene.disk.bytes,
        "{finish}"
    );
    Ok(())
}

/// A pipe that ends too early, or goes on, or of which nobody knows how long it is: no image.
#[test]
fn pipes_that_do_not_fit() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let image = scene.path("never.frz");
    let cat = "cat \"$DISK\"";
    let bytes = scene.disk.bytes;
    let (less, size, more) = (
        (bytes - 512).to_string(),
        bytes.to_string(),
        (bytes + 512).to_string(),
    );
    let odd = (bytes - 1).to_string();
    for (options, code, word) in [
        (&["--raw", "--size", &less][..], 3, "goes on"),
        (&["--raw", "--size", &more], 3, "ended after"),
        (&["--raw"], 2, "--size"),
        (&["--size", &size], 2, "--raw"),
        (&["--raw", "--size", &odd], 2, "sectors"),
        (&["--raw", "--size", "0"], 2, "sectors"),
        (&["--raw", "--size", &size, "--rescue"], 2, "whole"),
        (
            &["--raw", "--size", &size, "--source-format", "qcow2"],
            2,
            "whole",
        ),
    ] {
        let outcome = zip_pipe(&scene, cat, options, &image)?;
        let line = outcome.failure(code)?;
        ensure!(
            line.contains(word) && !image.exists(),
            "{options:?}: {line}"
        );
    }
    let outcome = zip_pipe(&scene, "true", &["--raw", "--size", &size], &image)?;
    ensure!(
        outcome.failure(3)?.contains("ended after 0 of"),
        "{outcome}"
    );
    Ok(())
}

/// A file as standard input is a file, with all that can be done with one.
#[test]
fn a_file_as_standard_input() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let (image, target) = (scene.path("input.frz"), scene.used_disk("used")?);
    let mut command = scene.keys.imagezip()?;
    command
        .arg("-")
        .arg(&image)
        .stdin(File::open(&scene.disk.path)?);
    Background::start(command)?.wait(LIMIT)?.success()?;
    scene.keys.unzip(&image, &target)?;
    scene.same_data(&target)
}

/// A signal ends the waiting for a pipe.
#[test]
fn a_pipe_that_says_nothing() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let (image, pipe) = (scene.path("never.frz"), scene.path("pipe"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    let _held = File::options().read(true).write(true).open(&pipe)?;
    let mut command = scene.keys.imagezip()?;
    command
        .args(["--raw", "--size", "1M"])
        .arg(&pipe)
        .arg(&image);
    let running = Background::start(command)?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    running.signal(Signal::SIGTERM)?;
    let outcome = running.wait(LIMIT)?;
    ensure!(outcome.code() == Some(130) && !image.exists(), "{outcome}");
    Ok(())
}
