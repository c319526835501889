//! Several images in one process, which share one rate.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use e2e::class::{self, Class, GROUP};
use e2e::command::{run, tool};
use e2e::disk::Recipe;
use e2e::need::{self, Need};
use e2e::scene::Scene;

/// On groups that differ in address and port, or in the address alone.
#[test]
fn two_images_from_one_server() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let first = Scene::new(&Recipe::SMALL)?;
    let second = Scene::new(&Recipe {
        mke2fs: "-t ext3 -b 1024",
        ..Recipe::SMALL
    })?;
    const RATE: f64 = 60e6;
    for port in [7002, GROUP.port()] {
        let other = SocketAddrV4::new(Ipv4Addr::new(239, 192, 7, 2), port);
        let class = Class::new(2)?;
        let options = [
            "--rate".into(),
            "60M".into(),
            "--serve".into(),
            format!("{GROUP}={}", first.image.display()),
            "--serve".into(),
            format!("{other}={}", second.image.display()),
        ];
        // The clients wait for the server, so that all begin together.
        let mut students = Vec::new();
        for (number, machine) in class.clients.iter().enumerate() {
            let name = format!("target-{port}-{number}");
            for (scene, group) in [(&first, GROUP), (&second, other)] {
                let target = scene.used_disk(&name)?;
                students.push((scene, class::student(machine, scene, target, group)?));
                machine.joins(*group.ip())?;
            }
        }
        let server = class::serve_with(&class.server, options)?;
        for (scene, student) in students {
            student.graduates(scene).context(other)?;
        }
        let finish = class::end(server)?;
        let number = |field: &str| finish[field].as_f64().context("no figure");
        let bits = number("wire_bytes")? * 8.0;
        let most = RATE * number("seconds")? + 1e6;
        ensure!(bits <= most, "above the rate: {finish}");
        ensure!(finish["clients_done"] == 4, "{finish}");
        for image in 0..2 {
            let sent = finish["images"][image]["sent_per_byte"].as_f64();
            ensure!(
                sent.is_some_and(|sent| (0.99..1.25).contains(&sent)),
                "{finish}"
            );
        }
    }
    Ok(())
}

#[test]
fn each_image_has_its_share() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let group = |number: u8| SocketAddrV4::new(Ipv4Addr::new(239, 192, 7, number), 7001);
    let mut students = Vec::new();
    for (machine, number) in class.clients.iter().zip(1..) {
        let target = scene.used_disk(&format!("target-{number}"))?;
        students.push(class::student(machine, &scene, target, group(number))?);
        machine.joins(*group(number).ip())?;
    }
    let served = (1..3).map(|number| format!("{}={}", group(number), scene.image.display()));
    let served = served.flat_map(|served| ["--serve".to_owned(), served]);
    let options = ["--rate".into(), "30M".into()].into_iter().chain(served);
    let server = class::serve_with(&class.server, options)?;
    // What is sent of each between two events, when both are under way.
    let mut before = None;
    let shares = server.line(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let image = |image: usize| event["images"][image]["blocks"].as_f64();
        let now = [image(0)?, image(1)?];
        let [one, other] = before
            .replace(now)
            .filter(|before| before.iter().all(|&sent| sent > 100.0))?;
        Some([now[0] - one, now[1] - other])
    })?;
    let most = shares.iter().copied().fold(0.0, f64::max);
    ensure!(shares.iter().all(|share| share * 1.5 > most), "{shares:?}");
    for student in students {
        student.graduates(&scene)?;
    }
    class::end(server)?;
    Ok(())
}

#[test]
fn what_cannot_be_meant() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let image = scene.image.display().to_string();
    let on = |group: &str| format!("{group}={image}");
    let twice = [on("239.192.7.2:7002"), on("239.192.7.2:7002")];
    let default = on("239.192.7.1:7001");
    let cases: [(Vec<&str>, &str); 5] = [
        (vec![], "IMAGE"),
        (vec!["--serve", &image], "ADDRESS:PORT=IMAGE"),
        (vec!["--serve", "239.192.7.2:7002="], "no image"),
        (
            vec!["--serve", &twice[0], "--serve", &twice[1]],
            "two images",
        ),
        (vec!["--serve", &default, &image], "two images"),
    ];
    for (options, part) in cases {
        let mut command = tool("frisbeed")?;
        command.args(["--interface", "lo"]).args(&options);
        let outcome = run(command)?;
        ensure!(outcome.code() == Some(2), "{options:?}: {outcome}");
        ensure!(outcome.stderr.contains(part), "{options:?}: {outcome}");
    }
    Ok(())
}
