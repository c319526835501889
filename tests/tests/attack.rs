//! Attackers in the segment: they can delay, but nothing that they send is ever installed.

use std::fs;
use std::net::{SocketAddrV4, UdpSocket};

use anyhow::{Context, Result, ensure};
use e2e::class::{self, Class, GROUP};
use e2e::command::{LIMIT, run};
use e2e::disk::Recipe;
use e2e::forger::{Flood, Forger, Source};
use e2e::need::{self, Need};
use e2e::ranges;
use e2e::room::INTERFACE;
use e2e::scene::Scene;

/// Answers one of `every` datagrams with two forged ones.
fn forged(source: Source, every: u64) -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    class.clients[1].lose(10)?;
    let attacker = class.room.machine()?;
    let server = class.serve(&scene, "80M")?;
    let address = SocketAddrV4::new(class.server.address, GROUP.port());
    let forger = Forger::start(&attacker, GROUP, address, source, every)?;
    let mut noticed = Vec::new();
    for student in class.students(&scene)? {
        let finish = student.graduates(&scene)?;
        noticed.push(finish["forged"].as_u64().context("no figure")?);
    }
    let forged = forger.forged();
    println!("{source:?}: {forged} datagrams forged, {noticed:?} noticed");
    ensure!(forged > 20_000 / every, "only {forged} were forged");
    // Half of them are blocks, proofs and parity with a false content.
    ensure!(
        noticed.iter().all(|&count| count > 10),
        "of {forged} only {noticed:?} were noticed"
    );
    drop(forger);
    class::end(server)?;
    Ok(())
}

#[test]
fn one_datagram_in_ten_is_forged_from_a_strange_address() -> Result<()> {
    forged(Source::Own, 20)
}

#[test]
fn every_other_datagram_is_forged_from_the_servers_address() -> Result<()> {
    forged(Source::Server, 2)
}

#[test]
fn one_datagram_in_a_hundred_is_forged_from_the_servers_address() -> Result<()> {
    forged(Source::Server, 200)
}

/// Peak of the memory that a process had in use, in bytes.
fn peak(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.context("no VmHWM")?.parse::<u64>()? * 1024)
}

/// REQUESTs as fast as a machine can send them, half of them in the name of another machine that never asked.
#[test]
fn a_flood_of_requests() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    const RATE: f64 = 20e6;
    let scene = Scene::new(&Recipe::TINY)?;
    let class = Class::new(2)?;
    class.clients[1].lose(10)?;
    let (attacker, victim) = (class.room.machine()?, class.room.machine()?);
    let (address, port) = (victim.address, 40_001);
    let ears = victim.netns.enter(move || {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })?;
    let server = class.serve(&scene, "20M")?;
    let process = server.id();
    let flood = Flood::start(
        &attacker,
        GROUP,
        SocketAddrV4::new(class.server.address, GROUP.port()),
        Some(SocketAddrV4::new(address, port)),
    )?;
    for student in class.students(&scene)? {
        student.graduates(&scene)?;
    }
    let (sent, memory) = (flood.sent(), peak(process)?);
    drop(flood);
    let (mut answers, mut buffer) = (0_u64, [0; 2048]);
    while let Ok(length) = ears.recv(&mut buffer) {
        ensure!(length == 48 && buffer[1] == 6, "not a CHALLENGE: {length}");
        answers += 1;
    }
    let finish = class::end(server)?;
    println!("{sent} REQUESTs, {answers} answers to the victim, {memory} bytes in use: {finish}");
    ensure!(sent > 100_000, "{sent} are no flood");
    ensure!(answers > 0, "the victim's address was never challenged");
    let figure = |field: &str| finish[field].as_f64().context("no figure");
    let most = RATE * figure("seconds")? + 1e6;
    // A twentieth of the rate: 48 bytes each, and 66 around them.
    let challenges = finish["images"][0]["challenges"].as_f64();
    let bits = challenges.context("no figure")? * (48.0 + 66.0) * 8.0;
    ensure!(bits <= most / 20.0, "{finish}");
    ensure!(
        figure("wire_bytes")? * 8.0 <= most,
        "above the rate: {finish}"
    );
    ensure!(memory < 256 << 20, "{memory} bytes in use");
    Ok(())
}

/// Whoever has an older image of the same owner serves it to the group, louder than the true one.
#[test]
fn an_older_image_of_the_same_owner() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let image = scene.path("later.frz");
    let mut later = scene.keys.imagezip()?;
    later.args(["--epoch", "99999999999"]);
    later.arg(&scene.disk.path).arg(&image);
    run(later)?.success()?;
    let class = Class::new(2)?;
    let attacker = class.room.machine()?;
    let loud = class::serve(&attacker, &scene, &scene.image, GROUP, "100M")?;
    let group = GROUP.to_string();
    let mut options = vec!["--interface", INTERFACE, "--group", &group];
    options.extend(["--min-epoch", "99999999999"]);
    let mut students = Vec::new();
    for (number, machine) in class.clients.iter().enumerate() {
        let target = scene.used_disk(&format!("target-{number}"))?;
        students.push(class::student_with(machine, &scene, target, &options)?);
    }
    let server = class::serve(&class.server, &scene, &image, GROUP, "60M")?;
    for student in students {
        let start = e2e::events::next(&student.client, "start")?;
        ensure!(start["epoch"] == 99_999_999_999_u64, "{start}");
        student.graduates(&scene)?;
    }
    let quiet = class::end(loud)?;
    ensure!(quiet["blocks"] == 0, "{quiet}");
    class::end(server)?;
    Ok(())
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
        let outcome = run(class.clients[0].netns.command(&client)?)?;
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
