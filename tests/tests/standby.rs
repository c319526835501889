//! Servers that wait for the end of another one, and networks that are away for a while.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::anatomy::Anatomy;
use e2e::background::Background;
use e2e::class::{self, Class};
use e2e::disk::Recipe;
use e2e::events;
use e2e::need::{self, Need};
use e2e::room::{INTERFACE, Machine};
use e2e::scene::Scene;
use serde_json::Value;

fn standby(machine: &Machine, scene: &Scene) -> Result<Background> {
    let image = scene.image.to_str().context("a path")?;
    class::serve_with(machine, ["--standby", "--rate", "30M", image])
}

/// Each chunk of the image was written, and none twice.
fn once(finish: &Value, scene: &Scene) -> Result<()> {
    let chunks = Anatomy::of(&fs::read(&scene.image)?)?.chunks.len();
    ensure!(finish["chunks"] == chunks, "not {chunks} chunks: {finish}");
    ensure!(finish["bytes"] == finish["total_bytes"], "{finish}");
    Ok(())
}

fn takes_over(server: &Background) -> Result<()> {
    let event = events::next(server, "takeover")?;
    let silence = event["silence_seconds"].as_f64().context("no figure")?;
    ensure!((2.0..3.0).contains(&silence), "{event}");
    Ok(())
}

#[test]
fn a_standby_takes_over_from_a_server_that_is_killed_and_steps_back() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(3)?;
    class.clients[1].lose(10)?;
    let spare = class.room.machine()?;
    let primary = class.serve(&scene, "30M")?;
    let standby = standby(&spare, &scene)?;
    let students = class.students(&scene)?;
    events::progress(&students[0].client, 30)?;
    primary.kill()?;
    takes_over(&standby)?;
    for student in students {
        once(&student.graduates(&scene)?, &scene)?;
    }
    // The first one is back, and the next client is served by it.
    let primary = class.serve(&scene, "30M")?;
    events::next(&standby, "standby")?;
    let target = scene.used_disk("late")?;
    let late = class::student(&class.clients[0], &scene, target, class::GROUP)?;
    late.graduates(&scene)?;
    let sent = |finish: &Value| finish["sent_per_byte"].as_f64().context("no figure");
    let (first, second) = (class::end(primary)?, class::end(standby)?);
    ensure!(sent(&first)? > 0.99, "{first}");
    ensure!((0.1..0.9).contains(&sent(&second)?), "{second}");
    Ok(())
}

#[test]
fn a_standby_without_another_server_serves() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let class = Class::new(1)?;
    let server = standby(&class.server, &scene)?;
    let student = class.student(&scene, 0)?;
    takes_over(&server)?;
    student.graduates(&scene)?;
    class::end(server)?;
    Ok(())
}

/// Both serve all the time; one of them is killed and started again.
#[test]
fn two_servers_of_one_image() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(3)?;
    class.lose(10)?;
    let spare = class.room.machine()?;
    let first = class.serve(&scene, "30M")?;
    let second = class::serve(&spare, &scene, &scene.image, class::GROUP, "30M")?;
    let students = class.students(&scene)?;
    events::progress(&students[0].client, 30)?;
    first.kill()?;
    let first = class.serve(&scene, "30M")?;
    for student in students {
        once(&student.graduates(&scene)?, &scene)?;
    }
    let (first, second) = (class::end(first)?, class::end(second)?);
    ensure!(first["load_failures"] == 0, "{first}");
    ensure!(second["load_failures"] == 0, "{second}");
    Ok(())
}

#[test]
fn an_interface_that_is_down_for_a_while() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let server = class.serve(&scene, "30M")?;
    let students = class.students(&scene)?;
    events::progress(&students[0].client, 20)?;
    for machine in [&class.clients[0], &class.server] {
        machine.netns.ip(&format!("link set {INTERFACE} down"))?;
        thread::sleep(Duration::from_secs(2));
        machine.netns.ip(&format!("link set {INTERFACE} up"))?;
        machine
            .netns
            .ip(&format!("route add 224.0.0.0/4 dev {INTERFACE}"))?;
    }
    for student in students {
        student.graduates(&scene)?;
    }
    class::end(server)?;
    Ok(())
}
