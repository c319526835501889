//! Clients that multicast does not reach: alone, behind a switch that forgets them, or by choice.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::class::{self, Class, GROUP};
use e2e::command::LIMIT;
use e2e::disk::Recipe;
use e2e::events;
use e2e::need::{self, Need};
use e2e::room::INTERFACE;
use e2e::scene::Scene;
use serde_json::Value;

const NO_GROUP: &str = "ip daddr 224.0.0.0/4 drop";

fn finish(class_server: e2e::background::Background) -> Result<(Value, Value)> {
    let finish = class::end(class_server)?;
    let image = finish["images"][0].clone();
    Ok((finish, image))
}

#[test]
fn a_single_machine() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let (machine, address) = (&class.clients[0], class.server.address.to_string());
    machine.filter(NO_GROUP, NO_GROUP)?;
    let server = class.serve(&scene, "40M")?;
    let target = scene.used_disk("target")?;
    let student = class::student_with(machine, &scene, target, &["--unicast", &address])?;
    events::progress(&student.client, 10)?;
    let groups = machine
        .netns
        .ip(&format!("maddress show dev {INTERFACE}"))?;
    ensure!(!groups.contains(&GROUP.ip().to_string()), "{groups}");
    let done = student.graduates(&scene)?;
    ensure!(done["lost"] == 0, "{done}");
    let (finish, image) = finish(server)?;
    ensure!(image["unicast_opened"] == 1, "{finish}");
    ensure!(finish["clients_done"] == 1, "{finish}");
    let sent = finish["sent_per_byte"].as_f64().context("no figure")?;
    ensure!(sent < 1.01, "{finish}");
    Ok(())
}

#[test]
fn several_machines_that_lose_packets() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(3)?;
    class.lose(10)?;
    let server = class.serve(&scene, "100M")?;
    let address = format!("{}:{}", class.server.address, GROUP.port());
    let mut students = Vec::new();
    for (number, machine) in class.clients.iter().enumerate() {
        let target = scene.used_disk(&format!("target-{number}"))?;
        let options = ["--unicast", &address];
        students.push(class::student_with(machine, &scene, target, &options)?);
    }
    for student in students {
        student.graduates(&scene)?;
    }
    let (finish, image) = finish(server)?;
    ensure!(image["unicast_opened"].as_u64() >= Some(3), "{finish}");
    Ok(())
}

/// One hears nothing of the group from the beginning, and is told whom to ask then; the other one has the group.
#[test]
fn where_multicast_does_not_arrive() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    class.clients[0].filter(NO_GROUP, "accept")?;
    let server = class.serve(&scene, "100M")?;
    let address = class.server.address.to_string();
    let group = GROUP.to_string();
    let options = [
        "--interface",
        INTERFACE,
        "--group",
        &group,
        "--fallback-after",
        "2",
        "--fallback",
        &address,
    ];
    let mut students = Vec::new();
    for (number, machine) in class.clients.iter().enumerate() {
        let target = scene.used_disk(&format!("target-{number}"))?;
        students.push(class::student_with(machine, &scene, target, &options)?);
    }
    for student in students {
        student.graduates(&scene)?;
    }
    let (finish, image) = finish(server)?;
    ensure!(image["unicast_opened"] == 1, "{finish}");
    Ok(())
}

/// As behind a switch that snoops without a querier: after a while nothing comes any more, and later it does again.
#[test]
fn where_a_switch_forgets_who_is_in_the_group() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let machine = &class.clients[0];
    let server = class.serve(&scene, "20M")?;
    let target = scene.used_disk("target")?;
    let group = GROUP.to_string();
    let options = [
        "--interface",
        INTERFACE,
        "--group",
        &group,
        "--fallback-after",
        "2",
    ];
    let student = class::student_with(machine, &scene, target, &options)?;
    events::progress(&student.client, 10)?;
    machine.filter(NO_GROUP, "accept")?;
    let told = events::next(&student.client, "message")?;
    let text = told["text"].as_str().context("no text")?;
    ensure!(text.contains("by unicast"), "{text}");
    let again = machine.netns.command(&{
        let mut nft = e2e::command::system("nft")?;
        nft.args(["delete", "table", "inet", "filter"]);
        nft
    })?;
    ensure!({ again }.status()?.success(), "nft");
    student.graduates(&scene)?;
    let (finish, image) = finish(server)?;
    ensure!(image["unicast_opened"] == 1, "{finish}");
    Ok(())
}

#[test]
fn a_server_that_does_not_serve_single_machines() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let class = Class::new(1)?;
    let image = scene.image.to_str().context("a path")?;
    let server = class::serve_with(&class.server, ["--no-unicast", image])?;
    let address = class.server.address.to_string();
    let mut client = scene.keys.client()?;
    client.args(["--timeout", "2", "--unicast", &address]);
    let client = class::start(&class.clients[0], client.arg(scene.path("target")))?;
    let outcome = client.wait(LIMIT)?;
    let line = outcome.failure(6)?;
    ensure!(line.contains("--no-unicast"), "{line}");
    let (finish, image) = finish(server)?;
    ensure!(image["challenges"] == 0, "{finish}");
    Ok(())
}

/// A REQUEST of 92 bytes for datagrams to its sender alone, from the tables of `docs/PROTOCOL.md`.
fn knock(token: u64) -> Vec<u8> {
    let mut request = vec![0; 92];
    (request[0], request[1]) = (1, 2);
    request[40..48].copy_from_slice(&token.to_le_bytes());
    request[48] = 2;
    request
}

/// Whoever names a false address makes the server send less there than was sent to it, and nothing of the image.
#[test]
fn an_address_that_is_not_proven() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let attacker = class.room.machine()?;
    let server = class.serve(&scene, "50M")?;
    let student = class.student(&scene, 0)?;
    let to = SocketAddrV4::new(class.server.address, GROUP.port());
    let (sent, received) = attacker.netns.enter(|| {
        let socket = std::net::UdpSocket::bind((attacker.address, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        let (mut sent, mut received, mut answer) = (0, 0, [0; 2000]);
        for number in 0..3000 {
            sent += socket.send_to(&knock(number), to)?;
            while let Ok(length) = socket.recv(&mut answer) {
                ensure!(answer[1] == 6 && length == 48, "type {}", answer[1]);
                received += length;
            }
        }
        Ok((sent, received))
    })?;
    println!("{received} bytes came back for {sent}");
    ensure!(
        received > 0 && received * 92 <= sent * 48,
        "{received} of {sent}"
    );
    student.graduates(&scene)?;
    let (finish, image) = finish(server)?;
    ensure!(image["unicast_opened"] == 0, "{finish}");
    Ok(())
}
