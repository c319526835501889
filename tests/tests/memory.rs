//! How much memory the programs take: in a control group with a limit they come to their end, swapping off or not, whatever
//! the number of threads.

use std::process::Command;

use anyhow::{Context, Result};
use e2e::background::Background;
use e2e::cgroup::Cgroup;
use e2e::class::{Class, GROUP};
use e2e::command::{LIMIT, run};
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

/// What the programs take by default, in MiB.
const USUAL: u64 = 256;

/// Whether control groups can be made.
fn limits() -> bool {
    if !need::met(&[Need::Root]) {
        return false;
    }
    let can = Cgroup::new(USUAL).is_some();
    if !can {
        // Not a matter of installing something, so no failure in CI either.
        println!("skipped: no control group can be made here");
    }
    can
}

/// Runs a command with so many MiB.
fn within(mib: u64, command: &Command) -> Result<()> {
    let group = Cgroup::new(mib).context("no control group")?;
    let outcome = run(group.command(command)?)?;
    println!(
        "{}: at most {} MiB of {mib}",
        outcome.command,
        group.peak()?
    );
    outcome.success()?;
    Ok(())
}

#[test]
fn imaging_and_installing() -> Result<()> {
    if !limits() {
        return Ok(());
    }
    let scene = Scene::new(&RECIPE)?;
    let mut zip = scene.keys.imagezip()?;
    zip.args(["--threads", "16"]);
    zip.arg(&scene.disk.path).arg(scene.path("again.frz"));
    within(USUAL, &zip)?;
    let mut unzip = scene.imageunzip(&scene.path("new"))?;
    unzip.args(["--threads", "16"]);
    within(USUAL, &unzip)?;
    scene.installed_on(&scene.path("new"))
}

/// A node with 512 MB, of which the system has a part: the disk is larger than the memory, the page cache included.
#[test]
fn a_small_node() -> Result<()> {
    if !limits() || !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&RECIPE)?;
    let class = Class::new(1)?;
    let server = class.serve(&scene, "400M")?;
    // A new file: the pages of an old one would not count as this group's.
    let target = scene.path("target");
    let client = scene.client(&target, GROUP, INTERFACE)?;
    let client = class.clients[0].netns.command(&client)?;
    let group = Cgroup::new(300).context("no control group")?;
    let client = Background::start(group.command(&client)?)?;
    client.wait(LIMIT)?.success()?;
    println!("at most {} MiB", group.peak()?);
    e2e::class::end(server)?;
    scene.same_data(&target)
}
