//! How much memory the programs take: in a control group with a limit they come to their end, swapping off or not, whatever
//! the number of threads.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use e2e::cgroup::Cgroup;
use e2e::class::{Class, GROUP};
use e2e::command::{Outcome, run, system};
use e2e::disk::Recipe;
use e2e::need::{self, Need};
use e2e::room::INTERFACE;
use e2e::scene::Scene;

/// More than all buffers together.
const RECIPE: Recipe = Recipe {
    ext_mib: 240,
    data_mib: 170,
    ..Recipe::SMALL
};

/// What a control group counts beside the memory of the program: pages of the image and of the disk, in MiB.
const PAGES: u64 = 32;

/// What the programs take by default, in MiB.
const USUAL: u64 = 256;

/// Runs a command with so many MiB; where no control group can be made, its resident memory is looked at.
fn within(mib: u64, command: &Command) -> Result<()> {
    let (outcome, peak) = match Cgroup::new(mib) {
        Some(group) => (run(group.command(command)?)?, group.peak()?),
        None => resident(command)?,
    };
    println!("{}: at most {peak} MiB of {mib}", outcome.command);
    outcome.success()?;
    ensure!(peak <= mib, "{peak} MiB of {mib}");
    Ok(())
}

/// Most resident memory of a command, in MiB, by time(1).
fn resident(command: &Command) -> Result<(Outcome, u64)> {
    let report = tempfile::NamedTempFile::new()?;
    let mut timed = system("time")?;
    timed.args(["-f", "%M", "-o"]).arg(report.path());
    timed.arg(command.get_program()).args(command.get_args());
    let outcome = run(timed)?;
    let kib: u64 = fs::read_to_string(report.path())?.trim().parse()?;
    Ok((outcome, kib >> 10))
}

#[test]
fn imaging_and_installing() -> Result<()> {
    let scene = Scene::new(&RECIPE)?;
    let mut zip = scene.keys.imagezip()?;
    zip.args(["--threads", "16"]);
    zip.arg(&scene.disk.path).arg(scene.path("again.frz"));
    within(USUAL, &zip)?;
    let mut unzip = scene.imageunzip(&scene.path("new"))?;
    unzip.args(["--threads", "16"]);
    within(USUAL, &unzip)?;
    scene.installed_on(&scene.path("new"))?;

    let mut less = scene.imageunzip(&scene.path("less"))?;
    less.args(["--threads", "16", "--memory", "64M"]);
    within(64 + PAGES, &less)?;
    scene.installed_on(&scene.path("less"))
}

/// A node with 512 MB, of which the system has a part: the disk is larger than the memory, the page cache included.
#[test]
fn a_small_node() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&RECIPE)?;
    let class = Class::new(1)?;
    let server = class.serve(&scene, "400M")?;
    // A new file: the pages of an old one would not count as this group's.
    let target = scene.path("target");
    let client = scene.client(&target, GROUP, INTERFACE)?;
    let client = class.clients[0].netns.command(&client)?;
    within(300, &client)?;
    e2e::class::end(server)?;
    scene.same_data(&target)
}
