//! Staying in the group: on the right interface, through what happens to it, and not farther than the local network.

use std::net::Ipv6Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::class::{self, Class, GROUP};
use e2e::disk::Recipe;
use e2e::events;
use e2e::need::{self, Need};
use e2e::room::{INTERFACE, Machine};
use e2e::scene::Scene;

/// Whether the machine's interface is a member of the group.
fn is_member(machine: &Machine, interface: &str) -> Result<bool> {
    let groups = machine
        .netns
        .ip(&format!("maddress show dev {interface}"))?;
    Ok(groups.contains(&GROUP.ip().to_string()))
}

/// Gives the machine its address back, and the route of groups.
fn address_back(machine: &Machine, address: &str) -> Result<()> {
    machine
        .netns
        .ip(&format!("address add {address}/24 dev {INTERFACE}"))?;
    machine
        .netns
        .ip(&format!("route add 224.0.0.0/4 dev {INTERFACE}"))?;
    Ok(())
}

/// Installs on one machine to which `accident` happens in the middle, without any way but the group. Returns what the
/// client has said.
fn through(accident: impl FnOnce(&Machine) -> Result<()>) -> Result<String> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let server = class.serve(&scene, "20M")?;
    let group = GROUP.to_string();
    let options = [
        "--interface",
        INTERFACE,
        "--group",
        &group,
        "--fallback-after",
        "0",
    ];
    let machine = &class.clients[0];
    let target = scene.used_disk("target")?;
    let student = class::student_with(machine, &scene, target, &options)?;
    events::progress(&student.client, 20)?;
    accident(machine)?;
    let said = {
        let outcome = student.client.wait(e2e::command::LIMIT)?.success()?;
        scene.same_data(&student.target)?;
        outcome.stdout_text()
    };
    class::end(server)?;
    Ok(said)
}

#[test]
fn an_interface_that_is_down_for_a_while() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let said = through(|machine| {
        machine.netns.ip(&format!("link set {INTERFACE} down"))?;
        thread::sleep(Duration::from_secs(3));
        machine.netns.ip(&format!("link set {INTERFACE} up"))?;
        machine
            .netns
            .ip(&format!("route add 224.0.0.0/4 dev {INTERFACE}"))?;
        Ok(())
    })?;
    ensure!(said.contains("eth0 is down: ip link set"), "{said}");
    ensure!(said.contains("is back: joined 239.192.7.1:7001"), "{said}");
    Ok(())
}

#[test]
fn a_cable_that_is_out_for_a_while() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let server = class.serve(&scene, "20M")?;
    let student = class.student(&scene, 0)?;
    events::progress(&student.client, 20)?;
    class.room.switch().ip("link set port1 down")?;
    let told = events::next(&student.client, "message")?;
    let text = told["text"].as_str().context("no text")?;
    ensure!(text.contains("no carrier"), "{text}");
    class.room.switch().ip("link set port1 up")?;
    student.graduates(&scene)?;
    class::end(server)?;
    Ok(())
}

#[test]
fn an_address_that_is_gone_for_a_while() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let said = through(|machine| {
        let address = machine.address.to_string();
        machine
            .netns
            .ip(&format!("address flush dev {INTERFACE}"))?;
        thread::sleep(Duration::from_secs(3));
        address_back(machine, &address)
    })?;
    ensure!(said.contains("has no IPv4 address"), "{said}");
    ensure!(said.contains("is back: joined 239.192.7.1:7001"), "{said}");
    Ok(())
}

/// Too short to be seen by who looks once a second; the system forgets the membership all the same.
#[test]
fn an_address_that_is_gone_for_a_moment() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    through(|machine| {
        ensure!(is_member(machine, INTERFACE)?, "is no member");
        let address = machine.address.to_string();
        machine
            .netns
            .ip(&format!("address flush dev {INTERFACE}"))?;
        // The system has forgotten the membership, unless the client was so quick that it has joined again.
        address_back(machine, &address)
    })?;
    Ok(())
}

#[test]
fn another_address() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let said = through(|machine| {
        machine
            .netns
            .ip(&format!("address flush dev {INTERFACE}"))?;
        address_back(machine, "10.77.0.99")
    })?;
    ensure!(said.contains("is now eth0 (10.77.0.99)"), "{said}");
    Ok(())
}

/// As when a driver is loaded anew, or a USB adapter is plugged in again.
#[test]
fn an_interface_that_is_another_one() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let machine = &class.clients[0];
    let server = class.serve(&scene, "20M")?;
    let student = class.student(&scene, 0)?;
    events::progress(&student.client, 20)?;
    machine.netns.ip(&format!("link del {INTERFACE}"))?;
    let switch = class.room.switch();
    switch.ip(&format!(
        "link add port99 type veth peer name {INTERFACE} netns {}",
        machine.netns.name()
    ))?;
    switch.ip("link set port99 master bridge up")?;
    machine.netns.ip(&format!("link set {INTERFACE} up"))?;
    address_back(machine, &machine.address.to_string())?;
    student.graduates(&scene)?;
    class::end(server)?;
    Ok(())
}

/// Both programs are told which interface; the system's route of groups leads to another one.
#[test]
fn the_right_one_of_two_interfaces() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    for machine in class.clients.iter().chain([&class.server]) {
        let netns = &machine.netns;
        netns.ip("link add other type veth peer name peer")?;
        netns.ip("link set other up")?;
        netns.ip("link set peer up")?;
        netns.ip("address add 10.99.0.1/24 dev other")?;
        netns.ip("route replace 224.0.0.0/4 dev other")?;
    }
    let server = class.serve(&scene, "50M")?;
    let by_name = class.student(&scene, 0)?;
    let machine = &class.clients[1];
    let target = scene.used_disk("target-by-address")?;
    let command = scene.client(&target, GROUP, &machine.address.to_string())?;
    let client = Background::start(machine.netns.command(&command)?)?;
    let by_address = class::Student { client, target };
    for (student, machine) in [&by_name, &by_address].into_iter().zip(&class.clients) {
        events::progress(&student.client, 10)?;
        ensure!(is_member(machine, INTERFACE)?, "is no member");
        ensure!(!is_member(machine, "other")?, "is a member elsewhere");
    }
    by_name.graduates(&scene)?;
    by_address.graduates(&scene)?;
    class::end(server)?;
    Ok(())
}

/// Datagrams that would pass a router, or those that would not, are dropped by the clients' filter.
#[test]
fn datagrams_do_not_leave_the_network_unless_told_to() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let image = scene.image.to_str().context("a path")?.to_owned();
    let ipv6 = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 7);
    let cases: [(&str, &str, &[&str]); 3] = [
        ("239.192.7.1:7001", "ip ttl != 1 drop", &[]),
        ("239.192.7.1:7001", "ip ttl != 8 drop", &["--ttl", "8"]),
        ("[ff15::7]:7001", "ip6 hoplimit != 1 drop", &[]),
    ];
    for (group, rule, options) in cases {
        let class = Class::new(1)?;
        class.server.with_ipv6()?;
        let client = &class.clients[0];
        client.with_ipv6()?;
        client.filter(&format!("udp dport 7001 {rule}"), "accept")?;
        let target = scene.used_disk("target")?;
        let command = scene.client(&target, group, INTERFACE)?;
        let student = class::start(client, &command)?;
        if group.starts_with('[') {
            client.joins(ipv6)?;
        }
        let words = [&["--group", group][..], options, &[&image]].concat();
        let server = class::serve_with(&class.server, words)?;
        let outcome = student.wait(e2e::command::LIMIT)?;
        let finish = events::last(&outcome.success()?, "finish").context(rule)?;
        let lost = finish["lost"].as_u64().context("no figure")?;
        ensure!(lost == 0, "{rule}: {finish}");
        class::end(server)?;
    }
    Ok(())
}
