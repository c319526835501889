//! Installations by broadcast, for switches that do not pass multicast on.

use anyhow::{Result, ensure};
use e2e::background::Background;
use e2e::class::{self, Class};
use e2e::command::{run, tool};
use e2e::disk::Recipe;
use e2e::events;
use e2e::need::{self, Need};
use e2e::room::INTERFACE;
use e2e::scene::Scene;

fn transfer(group: &str) -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(3)?;
    for machine in class.clients.iter().chain([&class.server]) {
        machine.filter("ip daddr 224.0.0.0/4 drop", "ip daddr 224.0.0.0/4 drop")?;
    }
    let mut students = Vec::new();
    for (number, machine) in class.clients.iter().enumerate() {
        let target = scene.used_disk(&format!("target-{number}"))?;
        students.push(class::student(machine, &scene, target, group)?);
    }
    // Two clients on one machine get a copy each.
    let target = scene.used_disk("target-twin")?;
    students.push(class::student(&class.clients[0], &scene, target, group)?);
    // And one on the server's.
    let target = scene.used_disk("target-server")?;
    students.push(class::student(&class.server, &scene, target, group)?);
    let server = class::serve(&class.server, &scene, &scene.image, group, "100M")?;
    for student in students {
        student.graduates(&scene)?;
    }
    class::end(server)?;
    Ok(())
}

#[test]
fn the_broadcast_address_of_the_network() -> Result<()> {
    transfer("10.77.0.255:7001")
}

#[test]
fn the_broadcast_address_of_every_network() -> Result<()> {
    transfer("255.255.255.255:7001")
}

#[test]
fn an_address_of_another_network_is_refused() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let class = Class::new(0)?;
    for group in ["10.78.0.255:7001", "10.77.0.1:7001"] {
        let mut command = tool("frisbeed")?;
        command.args(["--interface", INTERFACE, "--group", group]);
        command.arg(&scene.image);
        let outcome = run(class.server.netns.command(&command)?)?;
        let line = outcome.failure(6)?;
        ensure!(line.contains("10.77.0.255 (eth0)"), "{line}");
    }
    Ok(())
}

/// A program that broadcasts on another interface is not heard.
#[test]
fn broadcasts_of_another_interface_stay_out() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let client = &class.clients[0];
    client.netns.ip("link add left type veth peer name right")?;
    client.netns.ip("link set left up")?;
    client.netns.ip("link set right up")?;
    client
        .netns
        .ip("address add 10.99.0.1/24 brd 10.99.0.255 dev left")?;
    client
        .netns
        .ip("address add 10.99.0.2/24 brd 10.99.0.255 dev right")?;
    let group = "255.255.255.255:7001";
    let target = scene.used_disk("target")?;
    let command = scene.client(&target, group, "right")?;
    let other = Background::start(client.netns.command(&command)?)?;
    let student = class::student(client, &scene, scene.used_disk("target-0")?, group)?;
    let server = class::serve(&class.server, &scene, &scene.image, group, "100M")?;
    student.graduates(&scene)?;
    class::end(server)?;
    ensure!(events::last(&other.kill()?, "start").is_err());
    Ok(())
}
