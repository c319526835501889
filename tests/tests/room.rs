//! What the server shows of the room.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::class::{self, Class};
use e2e::command::{LIMIT, system, tool};
use e2e::disk::Recipe;
use e2e::need::{self, Need};
use e2e::room::INTERFACE;
use e2e::scene::Scene;
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
        let third = |client: &Value| {
            let written = client["objects_written"].as_u64();
            written
                .zip(client["objects"].as_u64())
                .is_some_and(|(done, all)| done * 3 > all)
        };
        (clients.len() == 3 && clients.iter().all(third)).then_some((event, clients))
    };
    let (event, clients) = server.line(is_under_way)?;
    let count = |field: &str| event[field].as_u64().context("no figure");
    ensure!(
        count("clients_active")? + count("clients_done")? == 3,
        "{event}"
    );
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
        ensure!(number != 1 || figure("lost")? > 0.0, "{client}");
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
        "stty rows 24 cols 160; exec {} --rate 20M --exit-after 3 --interface {INTERFACE} {}",
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

/// Idle is silent but for one ANNOUNCE a second, by what the kernel counts.
#[test]
fn a_server_that_nobody_asks() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let class = Class::new(1)?;
    let server = class.serve(&scene, "100M")?;
    class.student(&scene, 0)?.graduates(&scene)?;
    let sent = || {
        class.server.netns.enter(|| {
            // Of this thread's namespace: a line of names, then one of figures, "Udp: InDatagrams NoPorts InErrors
            // OutDatagrams ...".
            let all = fs::read_to_string("/proc/thread-self/net/snmp")?;
            let line = all.lines().filter(|line| line.starts_with("Udp: ")).nth(1);
            let datagrams = line.and_then(|line| line.split_whitespace().nth(4));
            Ok(datagrams.context("no Udp")?.parse::<u64>()?)
        })
    };
    // ANNOUNCEs are frequent in the second after the end.
    thread::sleep(Duration::from_secs(2));
    let before = sent()?;
    thread::sleep(Duration::from_secs(4));
    let datagrams = sent()? - before;
    ensure!((3..=5).contains(&datagrams), "{datagrams} in four seconds");
    class::end(server)?;
    Ok(())
}
