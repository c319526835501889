//! Rooms of machines that install one image at the same time, over networks as they are: lossy, disordered, with
//! latecomers, and with servers and clients that die.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::class::{self, Class, GROUP, Student};
use e2e::disk::Recipe;
use e2e::events;
use e2e::need::{self, Need};
use e2e::relay::{Disorder, Relay};
use e2e::room::Room;
use e2e::scene::{Scene, nothing_to_boot};
use nix::sys::signal::Signal;
use serde_json::Value;

fn number(event: &Value, field: &str) -> Result<f64> {
    event[field]
        .as_f64()
        .with_context(|| format!("no {field} in {event}"))
}

/// A room where everybody starts at once and loses this many of a thousand packets, each his own.
fn room(clients: usize, permille: u32, rate: &str) -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(clients)?;
    if permille > 0 {
        class.lose(permille)?;
    }
    // The clients wait for the server, so that all begin together.
    let mut students = Vec::new();
    for (number, machine) in class.clients.iter().enumerate() {
        students.push(class::student(
            machine,
            &scene,
            scene.path(&format!("target-{number}")),
            GROUP,
        )?);
        machine.joins(*GROUP.ip())?;
    }
    let server = class.serve(&scene, rate)?;
    let (mut lost, mut received) = (0.0, 0.0);
    for student in students {
        let finish = student.graduates(&scene)?;
        lost += number(&finish, "lost")?;
        received += number(&finish, "datagrams")?;
    }
    let finish = class::end(server)?;
    let sent = number(&finish, "sent_per_byte")?;
    println!(
        "{clients} clients, {permille} per mille: {sent:.3} sent per byte, {lost} of {received} lost"
    );
    // Every loss is repaired once or twice, for all who share it; nothing else is sent twice.
    let bound = 1.05 + 2.0 * lost / (received / f64::from(u32::try_from(clients)?));
    ensure!(
        sent <= bound,
        "{sent} bytes sent per byte of image: {finish}"
    );
    if permille > 0 {
        ensure!(lost > 0.0, "the network did not lose anything");
    }
    Ok(())
}

#[test]
fn one_client() -> Result<()> {
    room(1, 0, "200M")
}

#[test]
fn one_client_that_loses_five_percent() -> Result<()> {
    room(1, 50, "100M")
}

#[test]
fn four_clients() -> Result<()> {
    room(4, 0, "100M")
}

#[test]
fn four_clients_that_lose_one_percent() -> Result<()> {
    room(4, 10, "100M")
}

#[test]
fn sixteen_clients() -> Result<()> {
    room(16, 0, "40M")
}

#[test]
fn sixteen_clients_that_lose_one_percent() -> Result<()> {
    room(16, 10, "40M")
}

#[test]
fn sixteen_clients_that_lose_five_percent() -> Result<()> {
    room(16, 50, "40M")
}

#[test]
fn a_network_that_reorders_and_duplicates() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let far = Room::new()?;
    let (near_end, far_end) = (&class.clients[0], far.machine()?);
    let disorder = Disorder {
        window: 12,
        duplicates: 50,
        seed: 1,
    };
    let relay = Relay::start(near_end, &far_end, GROUP, disorder)?;
    let server = class.serve(&scene, "60M")?;
    // They live as long as the test: a machine that is dropped takes its network with it.
    let machines = far.machines(2)?;
    let mut students = Vec::new();
    for (number, machine) in machines.iter().enumerate() {
        let target = scene.used_disk(&format!("far-{number}"))?;
        students.push(class::student(machine, &scene, target, GROUP)?);
    }
    for student in students {
        student.graduates(&scene)?;
    }
    ensure!(
        relay.passed() > 1000,
        "the relay has passed {}",
        relay.passed()
    );
    class::end(server)?;
    Ok(())
}

#[test]
fn a_client_that_comes_late() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let server = class.serve(&scene, "30M")?;
    let first = class.student(&scene, 0)?;
    events::progress(&first.client, 40)?;
    let late = class.student(&scene, 1)?;
    let finish = first.graduates(&scene)?;
    ensure!(finish["bottleneck"] == "receiving", "{finish}");
    late.graduates(&scene)?;
    let sent = number(&class::end(server)?, "sent_per_byte")?;
    // What the first already had is sent again, and no more.
    ensure!(sent < 1.95, "{sent} bytes sent per byte of image");
    Ok(())
}

/// Kills the server in mid-transfer, and starts another one when `meanwhile` is over.
fn a_server_comes_back(meanwhile: impl FnOnce(&[Student]) -> Result<()>) -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    class.lose(10)?;
    let server = class.serve(&scene, "30M")?;
    let students = class.students(&scene)?;
    events::progress(&students[0].client, 30)?;
    server.kill()?;
    meanwhile(&students)?;
    let server = class.serve(&scene, "30M")?;
    for student in students {
        student.graduates(&scene)?;
    }
    let sent = number(&class::end(server)?, "sent_per_byte")?;
    ensure!(
        sent < 0.9,
        "the second server began from the start: {sent} bytes per byte of image"
    );
    Ok(())
}

#[test]
fn a_server_that_dies_and_is_started_again() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    a_server_comes_back(|_| Ok(()))
}

/// Long enough for every timer of the client: it has asked for unicast in vain, and said that it waits.
#[test]
fn a_server_that_is_away_for_a_while() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    a_server_comes_back(|students| {
        thread::sleep(Duration::from_secs(15));
        for student in students {
            loop {
                let told = events::next(&student.client, "message")?;
                let text = told["text"].as_str().context("no text")?;
                if text.contains("is the server still running?") {
                    break;
                }
                // So the packet filter tells the sender what it has dropped.
                ensure!(text.contains("Operation not permitted"), "{text}");
            }
        }
        Ok(())
    })
}

/// A laptop whose lid is closed: the server goes on without it, and it gets the rest afterwards.
#[test]
fn a_client_that_sleeps_for_a_while() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let server = class.serve(&scene, "30M")?;
    let sleeper = class.student(&scene, 0)?;
    let witness = class.student(&scene, 1)?;
    events::progress(&sleeper.client, 20)?;
    sleeper.client.signal(Signal::SIGSTOP)?;
    witness.graduates(&scene)?;
    thread::sleep(Duration::from_secs(3));
    sleeper.client.signal(Signal::SIGCONT)?;
    sleeper.graduates(&scene)?;
    let sent = number(&class::end(server)?, "sent_per_byte")?;
    // What the sleeper has missed is sent again, and no more.
    ensure!(sent < 1.85, "{sent} bytes sent per byte of image");
    Ok(())
}

#[test]
fn clients_that_start_all_through_the_transfer() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(4)?;
    let server = class.serve(&scene, "30M")?;
    let mut random = fastrand::Rng::with_seed(7);
    let mut students = vec![class.student(&scene, 0)?];
    for number in 1..4 {
        thread::sleep(Duration::from_millis(random.u64(0..800)));
        students.push(class.student(&scene, number)?);
    }
    for student in students {
        student.graduates(&scene)?;
    }
    let sent = number(&class::end(server)?, "sent_per_byte")?;
    // One pass, and one for what the latecomers have missed.
    ensure!(sent < 2.0, "{sent} bytes sent per byte of image");
    Ok(())
}

#[test]
fn another_server_takes_over() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let spare = class.room.machine()?;
    let server = class.serve(&scene, "30M")?;
    let second = class::serve(&spare, &scene, &scene.image, GROUP, "30M")?;
    let students = class.students(&scene)?;
    events::progress(&students[0].client, 20)?;
    server.kill()?;
    for student in students {
        student.graduates(&scene)?;
    }
    class::end(second)?;
    Ok(())
}

#[test]
fn a_client_that_dies_and_is_started_again() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let server = class.serve(&scene, "30M")?;
    // It has an old system on it, which could boot.
    let target = scene.path("old");
    std::fs::copy(&scene.disk.path, &target)?;
    let victim = class::student(&class.clients[0], &scene, target.clone(), GROUP)?;
    let witness = class.student(&scene, 1)?;
    events::progress(&victim.client, 30)?;
    victim.client.kill()?;
    nothing_to_boot(&target)?;
    let again = class::student(&class.clients[0], &scene, target.clone(), GROUP)?;
    again.graduates(&scene)?;
    scene.installed_on(&target)?;
    witness.graduates(&scene)?;
    class::end(server)?;
    Ok(())
}

#[test]
fn a_client_that_is_told_to_stop() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let _server = class.serve(&scene, "30M")?;
    let target = scene.path("old");
    std::fs::copy(&scene.disk.path, &target)?;
    let student = class::student(&class.clients[0], &scene, target.clone(), GROUP)?;
    events::progress(&student.client, 20)?;
    student.client.signal(Signal::SIGTERM)?;
    let outcome = student.client.wait(e2e::command::LIMIT)?;
    ensure!(
        outcome.code() == Some(130) && outcome.stderr.contains("will not boot"),
        "{outcome}"
    );
    nothing_to_boot(&target)
}

/// Two images at once, in groups that differ in address and port, or in the address alone.
#[test]
fn two_images_at_once() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let first = Scene::new(&Recipe::SMALL)?;
    let second = Scene::new(&Recipe {
        mke2fs: "-t ext3 -b 1024",
        ..Recipe::SMALL
    })?;
    for other in [
        SocketAddrV4::new(Ipv4Addr::new(239, 192, 7, 2), 7002),
        SocketAddrV4::new(Ipv4Addr::new(239, 192, 7, 2), 7001),
    ] {
        let class = Class::new(2)?;
        let server = class.serve(&first, "60M")?;
        // The same machine serves both; one client of each is on the same machine too.
        let other_server = class::serve(&class.server, &second, &second.image, other, "60M")?;
        let mut students = Vec::new();
        for (number, machine) in class.clients.iter().enumerate() {
            let name = format!("target-{}-{number}", other.port());
            students.push((
                &first,
                class::student(machine, &first, first.used_disk(&name)?, GROUP)?,
            ));
            students.push((
                &second,
                class::student(machine, &second, second.used_disk(&name)?, other)?,
            ));
        }
        for (scene, student) in students {
            student
                .graduates(scene)
                .with_context(|| format!("with {GROUP} and {other}"))?;
        }
        class::end(server)?;
        class::end(other_server)?;
    }
    Ok(())
}

/// Two images in one group is a mistake; the clients still take what they were told to take.
#[test]
fn two_images_in_one_group() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let first = Scene::new(&Recipe::SMALL)?;
    let second = Scene::new(&Recipe {
        mke2fs: "-t ext3 -b 1024",
        ..Recipe::SMALL
    })?;
    let class = Class::new(2)?;
    let other = class.room.machine()?;
    let server = class.serve(&first, "50M")?;
    let other_server = class::serve(&other, &second, &second.image, GROUP, "50M")?;
    // Each trusts another owner.
    let one = class::student(&class.clients[0], &first, first.used_disk("target")?, GROUP)?;
    let two = class::student(
        &class.clients[1],
        &second,
        second.used_disk("target")?,
        GROUP,
    )?;
    one.graduates(&first)?;
    two.graduates(&second)?;
    class::end(server)?;
    class::end(other_server)?;
    Ok(())
}
