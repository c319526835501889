//! `frisbeed --probe` and `frisbee-client --probe`: what works is measured, and what does not is named.

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::class::{self, Class, GROUP};
use e2e::command::{Outcome, run, tool};
use e2e::events;
use e2e::need::{self, Need};
use e2e::room::{INTERFACE, Machine};
use serde_json::Value;

/// The server, with one rate only, so that a run is short.
fn server(machine: &Machine) -> Result<Background> {
    class::serve_with(machine, ["--probe", "--rate", "11M"])
}

fn probe(machine: &Machine, options: &[&str]) -> Result<Outcome> {
    let mut client = tool("frisbee-client")?;
    client.args(["--interface", INTERFACE]).args(options);
    run(machine.netns.command(&client)?)
}

/// Probes a network that does not work: exit code 6, this verdict, and a line that has these words.
fn fails(machine: &Machine, options: &[&str], verdict: &str, words: &[&str]) -> Result<Value> {
    let options = [&["--probe", "--json"][..], options].concat();
    let outcome = probe(machine, &options)?;
    let line = outcome.failure(6)?;
    let found = events::last(&outcome, "probe")?;
    ensure!(found["verdict"] == verdict, "{verdict}: {outcome}");
    ensure!(found["works"] == false, "{outcome}");
    for word in words {
        ensure!(line.contains(word), "{word:?} was expected: {line}");
    }
    ensure!(
        events::last(&outcome, "fail")?["exit"] == 6,
        "no event: {outcome}"
    );
    Ok(found)
}

fn works(machine: &Machine, options: &[&str]) -> Result<Value> {
    let options = [&["--probe", "--json"][..], options].concat();
    let outcome = probe(machine, &options)?.success()?;
    let found = events::last(&outcome, "finish")?;
    ensure!(
        found["verdict"] == "works" && found["works"] == true,
        "{outcome}"
    );
    Ok(found)
}

fn share_lost(found: &Value) -> Result<f64> {
    let (mut sent, mut received) = (0.0, 0.0);
    for step in found["steps"].as_array().context("no steps")? {
        sent += step["sent"].as_f64().context("no figure")?;
        received += step["received"].as_f64().context("no figure")?;
    }
    ensure!(sent > 1000.0, "{found}");
    Ok((sent - received) / sent)
}

#[test]
fn a_network_that_works() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(2)?;
    let words = ["--probe", "--rate", "30M", "--exit-after", "2"];
    let server = class::serve_with(&class.server, words)?;
    // One loses five of a hundred datagrams.
    class.clients[1].lose(50)?;
    let (good, lossy) = std::thread::scope(|scope| {
        let good = scope.spawn(|| works(&class.clients[0], &[]));
        let lossy = works(&class.clients[1], &[])?;
        let good = good.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        anyhow::Ok((good, lossy))
    })?;
    ensure!(good["rate"] == 30_000_000, "{good}");
    ensure!(good["loss"] == 0.0, "{good}");
    ensure!(good["largest"] == 1452, "{good}");
    ensure!(
        good["server"] == format!("{}:7001", class.server.address),
        "{good}"
    );
    for way in ["heard_unicast", "heard_group", "heard_broadcast"] {
        ensure!(good[way] == true, "{way}: {good}");
    }
    // 10 Mbit/s for half a second is 557 datagrams of 1056 bytes and 66 of framing; 30 Mbit/s, 1671.
    let sent: Vec<f64> = good["steps"]
        .as_array()
        .context("no steps")?
        .iter()
        .filter_map(|step| step["sent"].as_f64())
        .collect();
    ensure!(
        sent.len() == 2 && (500.0..=580.0).contains(&sent[0]) && sent[1] > 1200.0,
        "{good}"
    );
    // Five standard deviations of a binomial distribution: sqrt(0.05 x 0.95 / 2000) each.
    let lost = share_lost(&lossy)?;
    ensure!((0.026..0.074).contains(&lost), "{lost}: {lossy}");

    let outcome = server.wait(e2e::command::LIMIT)?.success()?;
    let finish = events::last(&outcome, "finish")?;
    ensure!(
        finish["clients"] == 2 && finish["reached"] == 2,
        "{outcome}"
    );
    Ok(())
}

#[test]
fn in_words() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(1)?;
    let mut words = tool("frisbeed")?;
    words.args(["--probe", "--rate", "11M", "--exit-after", "2"]);
    words.args(["--interface", INTERFACE]);
    let server = class::start(&class.server, &words)?;
    let outcome = probe(&class.clients[0], &["--probe"])?.success()?;
    let text = outcome.stderr.clone() + &outcome.stdout_text();
    for part in [
        "frisbee-client: multicast works: 11 Mbit/s, 0 % lost, datagrams of up to 1452 bytes",
        "server 10.77.0.1:7001, time to live 1: hears directly, by the group, by broadcast",
        "sizes: up to 1452 bytes arrive",
        "IGMP querier: none answers",
    ] {
        ensure!(text.contains(part), "{part:?} was expected: {text}");
    }
    let outcome = server.wait(e2e::command::LIMIT)?.success()?;
    let text = outcome.stderr.clone() + &outcome.stdout_text();
    ensure!(
        text.contains("frisbeed: multicast works with all clients probed (1)"),
        "{text}"
    );
    Ok(())
}

#[test]
fn other_groups() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(1)?;
    for machine in [&class.server, &class.clients[0]] {
        machine.with_ipv6()?;
    }
    for group in ["[ff12::7%eth0]:7001", "10.77.0.255:7001"] {
        let words = ["--probe", "--rate", "11M", "--group", group];
        let server = class::serve_with(&class.server, words)?;
        let found = works(&class.clients[0], &["--group", group])?;
        ensure!(found["rate"] == 11_000_000, "{found}");
        class::end(server)?;
    }
    Ok(())
}

/// Rates are not tried, but an image that is announced says that the group arrives.
#[test]
fn beside_a_server_that_serves() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let scene = e2e::scene::Scene::new(&e2e::disk::Recipe::TINY)?;
    let class = Class::new(1)?;
    let server = class.serve(&scene, "30M")?;
    let found = works(&class.clients[0], &["--timeout", "2"])?;
    let from = format!("{}:7001", class.server.address);
    ensure!(found["announcer"] == from, "{found}");
    class::end(server)?;
    Ok(())
}

#[test]
fn interfaces_that_cannot_be() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(0)?;
    let machine = &class.server;
    let both = |words: &str| -> Result<()> {
        for name in ["frisbeed", "frisbee-client"] {
            let mut command = tool(name)?;
            command.args(["--probe", "--interface", INTERFACE]);
            let outcome = run(machine.netns.command(&command)?)?;
            let line = outcome.failure(6)?;
            ensure!(line.contains(words), "{words:?} was expected: {line}");
        }
        Ok(())
    };
    machine
        .netns
        .ip(&format!("link set {INTERFACE} multicast off"))?;
    both("eth0 does not multicast: ip link set dev eth0 multicast on")?;
    class.room.switch().ip("link set port0 down")?;
    both("eth0 has no carrier: check its cable")?;
    machine.netns.ip(&format!("link set {INTERFACE} down"))?;
    both("eth0 is down: ip link set dev eth0 up")?;
    machine
        .netns
        .ip(&format!("link set {INTERFACE} name eth7"))?;
    both("there is no interface \"eth0\"")
}

#[test]
fn nobody_is_there() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(1)?;
    let machine = &class.clients[0];
    let words = ["is frisbeed --probe running", "UDP port 7001"];
    fails(machine, &["--timeout", "1"], "silence", &words)?;
    // Nor is there a client.
    let words = ["--probe", "--exit-after", "1"];
    let outcome = class::serve_with(&class.server, words)?.wait(e2e::command::LIMIT)?;
    let line = outcome.failure(6)?;
    ensure!(
        line.contains("no frisbee-client --probe was heard"),
        "{line}"
    );
    // As if nobody were: a firewall that lets nothing in.
    machine.filter("meta l4proto udp drop", "accept")?;
    let _server = server(&class.server)?;
    fails(machine, &["--timeout", "2"], "silence", &["firewall"])?;
    Ok(())
}

#[test]
fn a_firewall_of_the_client_drops_the_group() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(1)?;
    let machine = &class.clients[0];
    machine.filter("ip daddr 224.0.0.0/4 drop", "accept")?;
    let server = server(&class.server)?;
    let words = ["though unicast does", "firewall on this machine"];
    let found = fails(machine, &[], "blocked", &words)?;
    ensure!(found["group_datagrams"] == 0, "{found}");
    ensure!(found["answers"].as_u64() > Some(0), "{found}");
    ensure!(found["heard_unicast"] == true, "{found}");
    server.signal(nix::sys::signal::Signal::SIGTERM)?;
    let outcome = server.wait(e2e::command::LIMIT)?;
    let line = outcome.failure(6)?;
    ensure!(line.contains("with 0 of 1 clients"), "{line}");
    Ok(())
}

#[test]
fn a_firewall_of_the_server_drops_replies() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(1)?;
    class.server.filter("udp dport 7001 drop", "accept")?;
    let _server = server(&class.server)?;
    let words = ["the group arrives", "UDP port 7001 into its firewall"];
    let found = fails(&class.clients[0], &[], "server-deaf", &words)?;
    ensure!(found["group_datagrams"].as_u64() > Some(0), "{found}");
    Ok(())
}

/// The second one first hears that a run is over, which was not made for it.
#[test]
fn one_client_after_another() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(2)?;
    let server = server(&class.server)?;
    for client in &class.clients {
        works(client, &[])?;
    }
    drop(server);
    Ok(())
}

/// The switch is the kernel's bridge, with its own querier and snooping.
#[test]
fn a_switch_that_snoops() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(2)?;
    let [member, other] = &class.clients[..] else {
        anyhow::bail!("two clients");
    };
    // It hears nothing of who joins what at the other one's port.
    other.filter("accept", "meta l4proto igmp drop")?;
    // It passes on everything until members have had this long to answer, in hundredths of a second.
    let switch = class.room.switch();
    switch.ip("link set bridge type bridge mcast_query_response_interval 10")?;
    switch.ip("link set bridge type bridge mcast_snooping 1 mcast_querier 1")?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    let server = server(&class.server)?;
    let found = works(member, &[])?;
    ensure!(found["querier"] == "0.0.0.0", "{found}");
    let words = ["IGMP snooping", "querier"];
    let found = fails(other, &[], "snooping", &words)?;
    ensure!(found["all_hosts_datagrams"].as_u64() > Some(0), "{found}");
    drop(server);
    Ok(())
}

#[test]
fn an_mtu_that_is_too_small() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(1)?;
    let machine = &class.clients[0];
    // A payload of 1172 bytes fits: of the sizes that are tried, 1056 is the largest.
    class.room.switch().ip("link set port1 mtu 1200")?;
    let first = server(&class.server)?;
    let words = ["1440 bytes do not arrive", "has 1056", "MTU"];
    let found = fails(machine, &[], "mtu", &words)?;
    ensure!(found["largest"] == 1056, "{found}");
    drop(first);
    // On the server itself, which says so, too.
    class.room.switch().ip("link set port1 mtu 1500")?;
    class
        .server
        .netns
        .ip(&format!("link set {INTERFACE} mtu 1200"))?;
    let second = server(&class.server)?;
    fails(machine, &[], "mtu", &words)?;
    let told = events::next(&second, "message")?;
    let text = told["text"].as_str().context("no text")?;
    ensure!(
        text.contains("larger than the MTU of this machine's interface"),
        "{text}"
    );
    Ok(())
}

/// A router between, which does not pass the group on, and its time to live.
#[test]
fn a_router_between() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let class = Class::new(1)?;
    let far = e2e::room::Room::new()?;
    let (client, router) = (far.machine()?, &class.clients[0]);
    client.netns.ip("address flush dev eth0")?;
    client.netns.ip("address add 10.88.0.2/24 dev eth0")?;
    client.netns.ip("route add 224.0.0.0/4 dev eth0")?;
    far.switch().ip(&format!(
        "link add port99 type veth peer name far netns {}",
        router.netns.name()
    ))?;
    far.switch().ip("link set port99 master bridge up")?;
    router.netns.ip("link set far up")?;
    router.netns.ip("address add 10.88.0.1/24 dev far")?;
    let mut sysctl = e2e::command::system("sysctl")?;
    sysctl.args(["-w", "net.ipv4.ip_forward=1"]);
    run(router.netns.command(&sysctl)?)?.success()?;
    client
        .netns
        .ip("route add default via 10.88.0.1 dev eth0")?;
    let to_far = format!("route add 10.88.0.0/24 via {}", router.address);
    class.server.netns.ip(&to_far)?;

    let option = format!("--probe={}", class.server.address);
    let direct = |verdict: &str, words: &str| -> Result<()> {
        let outcome = probe(&client, &[&option, "--json"])?;
        let line = outcome.failure(6)?;
        let found = events::last(&outcome, "probe")?;
        ensure!(found["verdict"] == verdict, "{verdict}: {outcome}");
        ensure!(line.contains(words), "{words:?} was expected: {line}");
        Ok(())
    };
    let first = server(&class.server)?;
    direct("ttl", "frisbeed --ttl 8")?;
    drop(first);
    let words = ["--probe", "--rate", "11M", "--ttl", "8"];
    let second = class::serve_with(&class.server, words)?;
    direct("routers", "does not pass 239.192.7.1:7001 on")?;
    drop(second);
    ensure!(GROUP.port() == 7001, "the words above name it");
    Ok(())
}
