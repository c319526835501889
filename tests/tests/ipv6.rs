//! Installations over IPv6: groups of the site and of the link, interfaces by name and by address.

use std::net::Ipv6Addr;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::class::{self, Class};
use e2e::disk::Recipe;
use e2e::events;
use e2e::need::{self, Need};
use e2e::room::{INTERFACE, Machine};
use e2e::scene::Scene;

/// Two clients install from `group`; each program is told of its machine which interface to use.
fn transfer(
    group: &str,
    ip: Ipv6Addr,
    interface: impl Fn(&Machine) -> Result<String>,
) -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(2)?;
    let mut students = Vec::new();
    for (number, machine) in class.clients.iter().enumerate() {
        machine.with_ipv6()?;
        let target = scene.used_disk(&format!("target-{number}"))?;
        let command = scene.client(&target, group, &interface(machine)?)?;
        let client = Background::start(machine.netns.command(&command)?)?;
        students.push(class::Student { client, target });
        machine.joins(ip)?;
    }
    class.server.with_ipv6()?;
    // The system's own route of groups leads elsewhere.
    class
        .server
        .netns
        .ip("link add other type veth peer name peer")?;
    let command = scene.server(&scene.image, group, &interface(&class.server)?, "100M")?;
    let server = Background::start(class.server.netns.command(&command)?)?;
    let start = events::next(&server, "start")?;
    ensure!(
        start["requests"]
            .as_str()
            .context("no address")?
            .starts_with('['),
        "{start}"
    );
    for student in students {
        student.graduates(&scene)?;
    }
    let finish = class::end(server)?;
    // Each datagram costs 86 bytes on the wire beside its payload, so that the rate is kept.
    let (bytes, datagrams) = (
        finish["wire_bytes"].as_u64().context("bytes")?,
        finish["datagrams"].as_u64().context("datagrams")?,
    );
    ensure!(bytes >= datagrams * (1056 + 86), "{finish}");
    Ok(())
}

#[test]
fn a_group_of_the_site() -> Result<()> {
    let ip = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 7);
    transfer("[ff15::7]:7001", ip, |_| Ok(INTERFACE.into()))
}

#[test]
fn a_group_of_the_site_without_its_port_and_interfaces_by_address() -> Result<()> {
    let ip = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 7, 0x17);
    transfer("ff05::7:17", ip, |machine| {
        let [.., host] = machine.address.octets();
        Ok(format!("fd77::{host:x}"))
    })
}

#[test]
fn a_group_of_the_link() -> Result<()> {
    let ip = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x7007);
    transfer("[ff02::7007]:7001", ip, |_| Ok(INTERFACE.into()))
}

#[test]
fn a_group_of_the_link_that_names_its_interface() -> Result<()> {
    let ip = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 7);
    transfer("[ff12::7%eth0]:7001", ip, |machine| {
        Ok(machine.address.to_string())
    })
}
