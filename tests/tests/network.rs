//! What can be wrong with a network is said in a line, with exit code 6; and what needs no root: multicast on one
//! machine.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::class;
use e2e::command::{LIMIT, Outcome, run, tool};
use e2e::disk::Recipe;
use e2e::events;
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::room::{INTERFACE, Room};
use e2e::scene::{Scene, last_owner};

/// A group of this test, since all tests share the loopback interface.
fn own_group() -> SocketAddrV4 {
    static GROUPS: AtomicU16 = AtomicU16::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let port = 7001 + GROUPS.fetch_add(1, Ordering::Relaxed);
    SocketAddrV4::new(Ipv4Addr::new(239, 193, high, low), port)
}

/// `frisbeed` and `frisbee-client` with these options.
fn both(scene: &Scene, options: &[&str]) -> Result<[Command; 2]> {
    let mut server = tool("frisbeed")?;
    server.args(options).arg(&scene.image);
    let mut client = scene.keys.client()?;
    client.args(options).arg(scene.path("target"));
    Ok([server, client])
}

#[test]
fn on_one_machine_without_privileges() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let group = own_group();
    let server = Background::start(scene.server(&scene.image, group, "lo", "300M")?)?;
    events::next(&server, "start")?;
    let mut clients = Vec::new();
    for number in 0..3 {
        let target = scene.used_disk(&format!("target-{number}"))?;
        let mut client = scene.client(&target, group, "127.0.0.1")?;
        client.args(["--free", "zero"]);
        clients.push((Background::start(client)?, target));
    }
    for (client, target) in clients {
        client.wait(LIMIT)?.success()?;
        scene.installed_on(&target)?;
        ranges::zero(&target, &scene.disk.ext.free()?)?;
        ensure!(
            last_owner()
                .find(&std::fs::File::open(&target)?, 1)?
                .is_empty(),
            "dirt is left"
        );
    }
    class::end(server)?;
    Ok(())
}

/// Onto a loop device: the client makes the same checks as `imageunzip`.
#[test]
fn onto_a_device() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let recipe = Recipe {
        sector_size: 4096,
        ..Recipe::SMALL
    };
    let scene = Scene::new(&recipe)?;
    let group = own_group();
    let mut server = scene.server(&scene.image, group, "lo", "300M")?;
    server.args(["--exit-after", "5"]);
    let server = Background::start(server)?;
    let file = scene.used_disk("used")?;
    {
        let other = e2e::loop_device::LoopDevice::attach(&file, 512)?;
        let outcome = run(scene.client(other.path(), group, "lo")?)?;
        ensure!(outcome.failure(5)?.contains("4096"), "{outcome}");
    }
    {
        let device = e2e::loop_device::LoopDevice::attach(&file, 4096)?;
        run(scene.client(device.path(), group, "lo")?)?.success()?;
    }
    scene.installed_on(&file)?;
    // `--exit-after` ends it.
    server.wait(LIMIT)?.success()?;
    Ok(())
}

#[test]
fn interfaces_and_groups_that_cannot_be() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let wrong: [(&[&str], &str); 8] = [
        (&["--interface", "no-such-if"], "lo (127.0.0.1)"),
        (&["--interface", "198.51.100.77"], "lo (127.0.0.1)"),
        (&["--interface", ""], ""),
        (
            &["--interface", "lo", "--group", "10.0.0.1:7001"],
            "not a multicast",
        ),
        (&["--interface", "lo", "--group", "239.192.7.1:0"], "port"),
        (&["--interface", "lo", "--group", "239.192.7.1:70000"], ""),
        (&["--interface", "lo", "--group", "[ff11::7]:7001"], "scope"),
        (&["--interface", "lo", "--group", "eth0"], ""),
    ];
    for (options, part) in wrong {
        for command in both(&scene, options)? {
            let outcome = run(command)?;
            let line = outcome.failure(6).with_context(|| format!("{options:?}"))?;
            ensure!(line.contains(part), "{part:?} was expected: {line}");
        }
        ensure!(!scene.path("target").exists(), "the target was made");
    }
    Ok(())
}

#[test]
fn nobody_answers() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let target = scene.used_disk("used")?;
    let before = ranges::hash(&target)?;
    let mut client = scene.keys.client()?;
    client
        .args([
            "--interface",
            "lo",
            "--timeout",
            "1",
            "--group",
            &own_group().to_string(),
        ])
        .arg(&target);
    let outcome: Outcome = run(client)?;
    outcome.failure(6)?;
    ensure!(ranges::hash(&target)? == before, "the target was touched");
    Ok(())
}

/// The server goes away and nobody takes over.
#[test]
fn nobody_answers_any_more() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let group = own_group();
    let server = Background::start(scene.server(&scene.image, group, "lo", "40M")?)?;
    events::next(&server, "start")?;
    // It has an old system on it, which could boot.
    let target = scene.path("old");
    std::fs::copy(&scene.disk.path, &target)?;
    let mut client = scene.keys.client()?;
    client
        .args([
            "--json",
            "--interface",
            "lo",
            "--timeout",
            "2",
            "--group",
            &group.to_string(),
        ])
        .arg(&target);
    let client = Background::start(client)?;
    events::progress(&client, 20)?;
    server.kill()?;
    let outcome = client.wait(LIMIT)?;
    ensure!(
        outcome.code() == Some(6) && outcome.stderr.contains("will not boot"),
        "{outcome}"
    );
    ensure!(events::last(&outcome, "fail")?["exit"] == 6, "{outcome}");
    e2e::scene::nothing_to_boot(&target)
}

#[test]
fn a_network_without_a_route() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let room = Room::new()?;
    let machine = room.machine()?;
    machine.netns.ip("route del 224.0.0.0/4")?;
    // No interface is named, and the system knows none for the group.
    for command in both(&scene, &[])? {
        let outcome = run(machine.netns.command(&command)?)?;
        ensure!(outcome.failure(6)?.contains("--interface"), "{outcome}");
    }
    machine.netns.ip(&format!("link set {INTERFACE} down"))?;
    for command in both(&scene, &["--interface", INTERFACE])? {
        run(machine.netns.command(&command)?)?.failure(6)?;
    }
    Ok(())
}

/// An image that is not one is not served.
#[test]
fn no_image_to_serve() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let bad = scene.path("bad.frz");
    let image = std::fs::read(&scene.image)?;
    for bytes in [
        &b""[..],
        b"nonsense",
        &image[..image.len() / 2],
        &image[..image.len() - 1],
    ] {
        std::fs::write(&bad, bytes)?;
        let group = own_group();
        run(scene.server(&bad, group, "lo", "40M")?)?.failure(3)?;
    }
    run(scene.server(&scene.path("nowhere"), own_group(), "lo", "40M")?)?.failure(3)?;
    Ok(())
}

/// `/dev/null`: everything is received and proven, without a content key and without being asked whether it may be
/// written to.
#[test]
fn nothing_is_kept() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let group = own_group();
    let server = Background::start(scene.server(&scene.image, group, "lo", "300M")?)?;
    events::next(&server, "start")?;
    let client = |owner: &Path, timeout: &str| -> Result<Outcome> {
        let mut client = tool("frisbee-client")?;
        client.args(["--json", "--interface", "lo", "--timeout", timeout]);
        client.args(["--group", &group.to_string(), "--trust"]);
        client.arg(owner).arg("/dev/null");
        run(client)
    };
    let outcome = client(&scene.keys.public, "60")?.success()?;
    let finish = events::last(&outcome, "finish")?;
    let blocks = finish["blocks"].as_u64().context("no blocks")?;
    let image = std::fs::metadata(&scene.image)?.len();
    ensure!(finish["bytes"] == finish["total_bytes"], "{finish}");
    ensure!(blocks * 1024 > image / 2, "{finish}");
    // What is not trusted is not received either.
    let other = Scene::new(&Recipe::TINY)?;
    client(&other.keys.public, "1")?.failure(4)?;
    class::end(server)?;
    Ok(())
}
