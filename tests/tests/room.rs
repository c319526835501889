//! What the server shows of the room.

use anyhow::{Context, Result, ensure};
use e2e::class::{self, Class};
use e2e::command::{LIMIT, system, tool};
use e2e::disk::Recipe;
use e2e::need::{self, Need};
use e2e::room::INTERFACE;
use e2e::scene::Scene;
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn events_tell_of_each_client() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(3)?;
    class.clients[1].lose(50)?;
    let server = class.serve(&scene, "20M")?;
    let students = class.students(&scene)?;
    let is_under_way = |line: &str| {
        let event: Value = serde_json::from_str(line).ok()?;
        let clients = event["clients"].as_array()?.clone();
        let half = |client: &Value| {
            let (done, all) = (client["objects_done"].as_u64(), client["objects"].as_u64());
            done.zip(all).is_some_and(|(done, all)| done * 3 > all)
        };
        (clients.len() == 3 && clients.iter().all(half)).then_some((event, clients))
    };
    let (event, clients) = server.line(is_under_way)?;
    ensure!(event["clients_active"] == 3, "{event}");
    for (number, machine) in class.clients.iter().enumerate() {
        let address = format!("{}:", machine.address);
        let is_it = |client: &&Value| {
            let found = client["address"].as_str();
            found.is_some_and(|found| found.starts_with(&address))
        };
        let client = clients.iter().find(is_it).context("not listed")?;
        let figure = |field: &str| client[field].as_f64().context("no figure");
        ensure!(figure("received")? > 500.0, "{client}");
        ensure!(figure("bits_per_second")? > 1e6, "{client}");
        ensure!(figure("objects_written")? > 0.0, "{client}");
        ensure!((number == 1) == (figure("lost")? > 0.0), "{client}");
        ensure!(client["unicast"] == false, "{client}");
    }
    for student in students {
        student.graduates(&scene)?;
    }
    let finish = class::end(server)?;
    ensure!(finish["clients_done"].as_u64() >= Some(2), "{finish}");
    Ok(())
}

#[test]
fn a_terminal_has_a_line_for_each_client_and_the_summary_counts_them() -> Result<()> {
    if !need::met(&[Need::Netns, Need::Tool("script")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let server = tool("frisbeed")?;
    let line = format!(
        "stty rows 24 cols 160; exec {} --rate 20M --exit-after 6 --interface {INTERFACE} {}",
        server.get_program().to_string_lossy(),
        scene.image.display()
    );
    let mut terminal = system("script")?;
    terminal.args(["-qec", &line, "/dev/null"]);
    let terminal = class::start(&class.server, &terminal)?;
    for student in class.students(&scene)? {
        student.graduates(&scene)?;
    }
    let outcome = terminal.wait(LIMIT)?.success()?;
    let text = outcome.stdout_text();
    for machine in &class.clients {
        ensure!(text.contains(&format!("{}:", machine.address)), "{text}");
    }
    ensure!(
        text.contains("% received") && text.contains("% written"),
        "{text}"
    );
    ensure!(text.contains("2 clients finished"), "{text}");
    Ok(())
}

/// Idle is silent but for one ANNOUNCE a second.
#[test]
fn a_server_that_nobody_asks() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let class = Class::new(0)?;
    let server = class.serve(&scene, "100M")?;
    for _ in 0..8 {
        e2e::events::next(&server, "progress")?;
    }
    server.signal(Signal::SIGTERM)?;
    let finish = e2e::events::last(&server.wait(LIMIT)?.success()?, "finish")?;
    let seconds = finish["seconds"].as_f64().context("no figure")?;
    let announces = finish["announces"].as_f64().context("no figure")?;
    // Seven at the beginning, in the first 1.3 s.
    ensure!(announces <= seconds + 7.0, "{finish}");
    ensure!(finish["datagrams"] == finish["announces"], "{finish}");
    Ok(())
}
