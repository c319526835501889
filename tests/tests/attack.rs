//! Attackers in the segment: they can delay, but nothing that they send is ever installed.

use std::fs;
use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use e2e::class::{self, Class, GROUP};
use e2e::command::LIMIT;
use e2e::disk::Recipe;
use e2e::forger::{Forger, Source};
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::room::INTERFACE;
use e2e::scene::Scene;

fn forged(source: Source) -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    class.clients[1].lose(10)?;
    let attacker = class.room.machine()?;
    let server = class.serve(&scene, "40M")?;
    let forger = Forger::start(
        &attacker,
        GROUP,
        SocketAddrV4::new(class.server.address, GROUP.port()),
        source,
        2,
    )?;
    let students = class.students(&scene)?;
    for student in students {
        let finish = student.graduates(&scene)?;
        ensure!(
            finish["forged"].as_u64().is_some_and(|count| count > 100),
            "few were noticed: {finish}"
        );
    }
    println!("{source:?}: {} datagrams forged", forger.forged());
    ensure!(
        forger.forged() > 1000,
        "only {} datagrams were forged",
        forger.forged()
    );
    drop(forger);
    class::end(server)?;
    Ok(())
}

#[test]
fn wrong_blocks_and_proofs_from_a_strange_address() -> Result<()> {
    forged(Source::Own)
}

#[test]
fn wrong_blocks_and_proofs_from_the_servers_address() -> Result<()> {
    forged(Source::Server)
}

/// A server with an image of another owner, in the same group, and louder.
#[test]
fn a_server_of_a_stranger() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let stranger = Scene::new(&Recipe::TINY)?;
    let class = Class::new(1)?;
    let machine = class.room.machine()?;
    let _loud = class::serve(&machine, &stranger, &stranger.image, GROUP, "100M")?;
    let student = class.student(&scene, 0)?;
    let server = class.serve(&scene, "100M")?;
    student.graduates(&scene)?;
    class::end(server)?;
    Ok(())
}

/// The image in the server's hands is changed by whoever holds the server: clients install nothing of it.
#[test]
fn an_image_changed_on_the_server() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let class = Class::new(1)?;
    let image = fs::read(&scene.image)?;
    let anatomy = e2e::anatomy::Anatomy::of(&image)?;
    let changed = scene.path("changed.frz");
    let middle = anatomy.chunks[anatomy.chunks.len() / 2].bytes.start + 5000;
    for at in [middle, anatomy.manifest + 60, anatomy.manifest + 1500, 100] {
        let mut bytes = image.clone();
        bytes[at] ^= 1;
        fs::write(&changed, bytes)?;
        let mut server = class
            .server
            .netns
            .command(&scene.server(&changed, GROUP, INTERFACE, "100M")?)?;
        server.args(["--exit-after", "30"]);
        let server = e2e::background::Background::start(server)?;
        let target = scene.used_disk("target")?;
        let mut client = scene.keys.client()?;
        client
            .args([
                "--timeout",
                "2",
                "--group",
                &GROUP.to_string(),
                "--interface",
                INTERFACE,
            ])
            .arg(&target);
        let client = e2e::background::Background::start(class.clients[0].netns.command(&client)?)?;
        let outcome = client.wait(LIMIT)?;
        ensure!(
            matches!(outcome.code(), Some(4 | 6)),
            "byte {at}: {outcome}"
        );
        scene
            .spoiled_safely(&target)
            .with_context(|| format!("byte {at}"))?;
        drop(server);
    }
    Ok(())
}

/// The file is cut and overwritten while it is served: the server survives, and sends nothing wrong.
#[test]
fn an_image_that_changes_while_it_is_served() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let served = scene.path("served.frz");
    fs::copy(&scene.image, &served)?;
    let mut server = class::serve(&class.server, &scene, &served, GROUP, "30M")?;
    let student = class.student(&scene, 0)?;
    e2e::events::progress(&student.client, 10)?;
    let length = fs::metadata(&served)?.len();
    fs::File::options()
        .write(true)
        .open(&served)?
        .set_len(length / 8)?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    ensure!(server.is_running()?, "the server died: {}", server.stderr());
    // It comes back, and so does the rest of the installation.
    fs::copy(&scene.image, &served)?;
    student.graduates(&scene)?;
    class::end(server)?;
    Ok(())
}

/// Noise on the group and on the server's port.
#[test]
fn noise() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let attacker = class.room.machine()?;
    let server = class.serve(&scene, "60M")?;
    let requests = SocketAddrV4::new(class.server.address, GROUP.port());
    let noise = e2e::forger::Noise::start(&attacker, &[GROUP, requests])?;
    for student in class.students(&scene)? {
        student.graduates(&scene)?;
    }
    ensure!(
        noise.sent() > 1000,
        "only {} datagrams of noise",
        noise.sent()
    );
    drop(noise);
    let finish = class::end(server)?;
    ensure!(
        finish["rejected"].as_u64().is_some_and(|count| count > 0),
        "{finish}"
    );
    Ok(())
}

/// A node that is not to be written stays as it is, whatever the network says.
#[test]
fn refused_targets_and_keys() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let stranger = Scene::new(&Recipe::TINY)?;
    let class = Class::new(1)?;
    let _server = class.serve(&scene, "100M")?;
    let try_with = |keys: &e2e::image::Keys, bytes: u64, code: i32| {
        let target = scene.used_disk_of("target", bytes)?;
        let before = ranges::hash(&target)?;
        let mut client = keys.client()?;
        client
            .args([
                "--timeout",
                "3",
                "--group",
                &GROUP.to_string(),
                "--interface",
                INTERFACE,
            ])
            .arg(&target);
        let outcome = e2e::command::run(class.clients[0].netns.command(&client)?)?;
        let line = outcome.failure(code)?.to_owned();
        ensure!(
            ranges::hash(&target)? == before,
            "the target was touched: {outcome}"
        );
        Ok(line)
    };
    try_with(&scene.keys, scene.disk.bytes - 512, 5).context("too small")?;
    let wrong_key = e2e::image::Keys {
        content: stranger.keys.content.clone(),
        ..scene.keys.clone()
    };
    try_with(&wrong_key, scene.disk.bytes, 4).context("another content key")?;
    let line = try_with(&stranger.keys, scene.disk.bytes, 4).context("another owner")?;
    ensure!(line.contains("not trusted"), "{line}");
    Ok(())
}
