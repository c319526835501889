//! `cargo xtask demo`: the whole way, from a golden disk to three installed ones.

use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::canary::Canary;
use e2e::command::{Outcome, run as finish, tool};
use e2e::disk::{Disk, Recipe, Table};
use e2e::image::Keys;
use e2e::{events, packages, ranges, scene, scratch};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cargo::with_release_binaries;
use crate::show::{mb, mb_per_second, ratio};
use crate::tools;

/// An EFI system partition, and an ext4 root with real files.
const GOLDEN: Recipe = Recipe {
    table: Table::Gpt,
    sector_size: 512,
    mke2fs: "-t ext4 -b 4096",
    fat_mib: 64,
    ext_mib: 800,
    data_mib: 440,
};

const GROUP: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(239, 192, 7, 99), 7099);

/// Slow enough that a client can come late.
const RATE: &str = "400M";

const CLIENTS: usize = 3;

/// Longest time for one installation.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Runs the demonstration, with a disk of its own or the user's.
pub(crate) fn run(disk: Option<&Path>) -> Result<()> {
    if disk.is_none() {
        tools::ensure(packages::DEMO_TOOLS.iter().copied())?;
    }
    if !with_release_binaries()? {
        return Ok(());
    }
    let started = Instant::now();
    let directory = scratch::directory()?;
    let demo = Demo {
        place: directory.path().into(),
        keys: make_keys(directory.path())?,
    };
    match disk {
        Some(disk) => demo.with_users_disk(disk)?,
        None => demo.with_own_disk()?,
    }
    println!(
        "\nAll of this took {:.1} s.",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn step(number: u32, what: &str) {
    println!("\n{number}. {what}");
}

fn make_keys(place: &Path) -> Result<Keys> {
    step(
        1,
        "Keys: the owner's for signing, and one that encrypts the content",
    );
    let keys = Keys::make(place)?;
    println!("   imagekey sign owner.key; imagekey content content.key");
    Ok(keys)
}

struct Demo {
    place: PathBuf,
    keys: Keys,
}

/// What an installation is compared with.
enum Golden<'a> {
    /// Made here: another program knows what is in use, and there is dirt in the rest.
    Own(&'a Disk),
    /// The user's: the image says what is in use.
    Users(&'a Path, Vec<std::ops::Range<u64>>),
}

impl Demo {
    fn with_own_disk(&self) -> Result<()> {
        step(
            2,
            "A golden disk: GPT, an EFI system partition, an ext4 root with files of this machine",
        );
        let began = Instant::now();
        let disk = GOLDEN.make(&self.place)?;
        let used = ranges::total(&disk.allocated()?);
        println!(
            "   {} disk, {} in use; every free block filled with a text to look for later ({:.1} s)",
            mb(disk.bytes),
            mb(used),
            began.elapsed().as_secs_f64()
        );
        let image = self.image(&disk.path)?;
        let targets = self.targets(Some(disk.bytes))?;
        self.multicast(&image, &targets)?;
        self.compare(&image, &targets, &Golden::Own(&disk))
    }

    fn with_users_disk(&self, disk: &Path) -> Result<()> {
        step(2, &format!("The golden disk: {}", disk.display()));
        println!("   it is only read");
        let image = self.image(disk)?;
        let saved = self.saved_ranges(&image)?;
        let targets = self.targets(None)?;
        self.multicast(&image, &targets)?;
        self.compare(&image, &targets, &Golden::Users(disk, saved))
    }

    fn image(&self, disk: &Path) -> Result<PathBuf> {
        step(
            3,
            "Image: only what is in use, compressed, encrypted, signed",
        );
        let image = self.place.join("golden.frz");
        let began = Instant::now();
        let mut command = self.keys.imagezip()?;
        command.arg("--json").arg(disk).arg(&image);
        let outcome = Background::start(command)?.wait(PATIENCE)?.success()?;
        let event = events::last(&outcome, "finish")?;
        let (plain, bytes) = (
            number(&event, "plain_bytes")?,
            number(&event, "image_bytes")?,
        );
        println!(
            "   imagezip --sign owner.key --key content.key {} golden.frz",
            disk.display()
        );
        println!(
            "   {} in {} chunks became {} ({:.1} %) in {:.1} s: {:.0} MB/s",
            mb(plain),
            event["chunks"],
            mb(bytes),
            100.0 * ratio(bytes, plain),
            began.elapsed().as_secs_f64(),
            mb_per_second(plain, began.elapsed())
        );
        Ok(image)
    }

    /// Targets for the clients: files that were disks of somebody else, or new files.
    fn targets(&self, dirty: Option<u64>) -> Result<Vec<PathBuf>> {
        let targets: Vec<_> = (1..=CLIENTS)
            .map(|client| self.place.join(format!("client{client}.disk")))
            .collect();
        for target in &targets {
            if let Some(bytes) = dirty {
                scene::last_owner().fill(&File::create(target)?, 0..bytes)?;
            }
        }
        Ok(targets)
    }

    fn multicast(&self, image: &Path, targets: &[PathBuf]) -> Result<()> {
        step(
            4,
            "Multicast over loopback: one server, which has no key, and three clients, one of them late",
        );
        let bytes = fs::metadata(image)?.len();
        let mut server = tool("frisbeed")?;
        server
            .args([
                "--json",
                "--interface",
                "lo",
                "--rate",
                RATE,
                "--group",
                &GROUP.to_string(),
            ])
            .arg(image);
        let server = Background::start(server)?;
        events::next(&server, "start")?;
        println!("   frisbeed --interface lo --rate {RATE} --group {GROUP} golden.frz");
        println!(
            "   frisbee-client --interface lo --group {GROUP} --trust owner.pub --key content.key --free zero ..."
        );
        let (late, early) = targets.split_last().context("no clients")?;
        let mut running = Vec::new();
        for target in early {
            running.push((
                Background::start(self.client(target)?)?,
                Instant::now(),
                "from the beginning",
            ));
        }
        events::progress(&running[0].0, 50)?;
        running.push((
            Background::start(self.client(late)?)?,
            Instant::now(),
            "from 50 % on",
        ));
        // All are waited for at once, so that each has its own time.
        let waiting: Vec<_> = running
            .into_iter()
            .map(|(client, began, when)| {
                thread::spawn(move || (client.wait(PATIENCE), began.elapsed(), when))
            })
            .collect();
        for (number, client) in (1..).zip(waiting) {
            let (outcome, time, when) = client
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            show_client(number, &outcome?.success()?, time, when)?;
        }
        server.signal(Signal::SIGTERM)?;
        let event = events::last(&server.wait(PATIENCE)?.success()?, "finish")?;
        println!(
            "   the server sent {} in all, headers included, for an image of {}: {:.3} bytes per byte of image",
            mb(number(&event, "wire_bytes")?),
            mb(bytes),
            ratio(number(&event, "wire_bytes")?, bytes)
        );
        println!("   (what the late client had missed was sent once more, to it alone)");
        Ok(())
    }

    fn client(&self, target: &Path) -> Result<Command> {
        let mut command = self.keys.client()?;
        command.args([
            "--json",
            "--interface",
            "lo",
            "--free",
            "zero",
            "--group",
            &GROUP.to_string(),
        ]);
        command.arg(target);
        Ok(command)
    }

    fn compare(&self, image: &Path, targets: &[PathBuf], golden: &Golden<'_>) -> Result<()> {
        step(5, "Comparison");
        for target in targets {
            let name = target
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            match golden {
                Golden::Own(disk) => {
                    let used = disk.allocated()?;
                    ranges::same(&disk.path, target, &used)?;
                    disk.ext.on(target).holds(&disk.content)?;
                    absent(&[&disk.canary, &scene::last_owner()], target)?;
                    println!(
                        "   {name}: {} in use identical, e2fsck finds nothing, all files have the same hashes,\n\
                         \x20  nothing of the golden disk's or the target's former free space is left",
                        mb(ranges::total(&used))
                    );
                }
                Golden::Users(disk, saved) => {
                    ranges::same(disk, target, saved)?;
                    println!(
                        "   {name}: all {} that were saved are identical",
                        mb(ranges::total(saved))
                    );
                }
            }
        }
        if let Golden::Own(disk) = golden {
            absent(&[&disk.canary], image)?;
            println!("   golden.frz: nothing of the free space is in it");
        }
        Ok(())
    }

    /// What the image says is in use, in bytes of the disk.
    fn saved_ranges(&self, image: &Path) -> Result<Vec<std::ops::Range<u64>>> {
        let mut command = tool("imagedump")?;
        command
            .arg("--json")
            .arg("--trust")
            .arg(&self.keys.public)
            .arg("--key")
            .arg(&self.keys.content)
            .arg(image);
        let document: Value = serde_json::from_slice(&finish(command)?.success()?.stdout)?;
        let sector = number(&document["header"], "sector_size")?;
        let mut saved = Vec::new();
        for chunk in document["chunks"].as_array().context("no chunks")? {
            for range in chunk["ranges"].as_array().context("no ranges")? {
                let (first, count) = (
                    range[0].as_u64().context("range")?,
                    range[1].as_u64().context("range")?,
                );
                saved.push(first * sector..(first + count) * sector);
            }
        }
        Ok(saved)
    }
}

fn number(event: &Value, field: &str) -> Result<u64> {
    event[field]
        .as_u64()
        .with_context(|| format!("no number {field} in {event}"))
}

fn show_client(client: u32, outcome: &Outcome, time: Duration, when: &str) -> Result<()> {
    let event = events::last(outcome, "finish")?;
    let plain = number(&event, "plain_bytes")?;
    println!(
        "   client {client}, {when}: {} installed in {:.1} s: {:.0} MB/s; {} datagrams, {} lost",
        mb(plain),
        time.as_secs_f64(),
        mb_per_second(plain, time),
        event["datagrams"],
        event["lost"]
    );
    Ok(())
}

fn absent(dirt: &[&Canary], path: &Path) -> Result<()> {
    for canary in dirt {
        let found = canary.find(&File::open(path)?, 1)?;
        ensure!(
            found.is_empty(),
            "{}: holds free space at byte {}",
            path.display(),
            found[0]
        );
    }
    Ok(())
}
