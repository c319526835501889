//! `frisbee-client --probe`: does multicast work between this machine and one with `frisbeed --probe`, and if not, why.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use frisbee_cli::progress::Progress;
use frisbee_cli::{Exit, Failure, Interrupt, units};
use frisbee_proto::probe::wire::Way;
use frisbee_proto::probe::{
    Circumstances, ProbeClient, ProbeClientConfig, ProbeOutput, ProbeTarget, Report, Verdict,
};
use frisbee_udp::{ClientOptions, ClientSocket, Group, Interface, QuerierWatch, RecvBatch};
use serde_json::{Value, json};

use crate::Cli;
use crate::place::find_server;

/// Between two messages that provoke a query of a querier.
const SOLICIT_INTERVAL: Duration = Duration::from_millis(500);

/// Longest sleep, so that a signal is seen soon.
const NAP: Duration = Duration::from_millis(100);

struct Probing {
    group: Group,
    interface: Interface,
    socket: ClientSocket,
    /// The group that every machine is in.
    all_hosts: ClientSocket,
    machine: ProbeClient,
    watch: io::Result<QuerierWatch>,
    querier: Option<IpAddr>,
    /// The first thing that could not be sent.
    unsent: Option<String>,
}

/// Probes, and tells what was found.
pub(crate) fn run(cli: &Cli, server: Option<&str>) -> Result<(), Failure> {
    let network = |error: frisbee_udp::Error| Failure::new(Exit::Network, error);
    let group: Group = cli.group.parse().map_err(network)?;
    let port = group.address().port();
    let server = server.map(|text| find_server(text, port)).transpose()?;
    if server.is_some_and(|server| server.is_ipv6() != group.is_ipv6()) {
        let text = "the server's address is of another family than the group: give both of IPv4, or both of IPv6";
        return Err(Failure::new(Exit::Network, text));
    }
    let interface = Interface::find(cli.interface.as_deref(), group).map_err(network)?;
    interface.can_send_to(group).map_err(network)?;
    let interrupt = Interrupt::watch()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, error))?;
    let entered = runtime.enter();
    let join = |group| ClientSocket::join(group, &interface, ClientOptions::default());
    let defaults = ProbeClientConfig::default();
    let config = ProbeClientConfig {
        patience: cli.timeout.map_or(defaults.patience, Duration::from_secs),
        server,
        framing: frisbee_proto::framing(group.address().ip()),
        seed: getrandom::u64().map_err(|error| Failure::new(Exit::Internal, error))?,
    };
    let mut probing = Probing {
        socket: join(group).map_err(network)?,
        all_hosts: join(group.all_hosts()).map_err(network)?,
        machine: ProbeClient::new(Instant::now(), config),
        watch: QuerierWatch::open(group, &interface),
        querier: None,
        unsent: None,
        group,
        interface: interface.clone(),
    };
    drop(entered);
    let fields = json!({
        "probe": true, "group": group.to_string(), "interface": interface.name(),
        "address": interface.address().to_string(),
    });
    let progress = Progress::start(cli.events(), 0, fields);
    if !cli.json {
        progress.line(&format!("frisbee-client: probing {group} on {interface}"));
    }
    runtime.block_on(probing.run(&interrupt))?;
    probing.conclude(&progress, cli.json)
}

impl Probing {
    async fn run(&mut self, interrupt: &Interrupt) -> Result<(), Failure> {
        let mut buffer = Vec::new();
        let (mut batch, mut other) = (RecvBatch::new(), RecvBatch::new());
        let mut solicit = Instant::now();
        loop {
            interrupt.check("the network was not probed to the end")?;
            let now = Instant::now();
            if now >= solicit {
                solicit = now + SOLICIT_INTERVAL;
                self.look_for_querier();
            }
            let until = match self.machine.poll(now, &mut buffer) {
                ProbeOutput::Send { to, .. } => {
                    self.send(to, &buffer).await;
                    continue;
                }
                ProbeOutput::Finished => return Ok(()),
                ProbeOutput::Wait(until) => until.min(now + NAP),
            };
            let received = tokio::select! {
                received = self.socket.recv(&mut batch) => received.map(|()| &batch),
                received = self.all_hosts.recv(&mut other) => received.map(|()| &other),
                () = tokio::time::sleep_until(until.into()) => continue,
            };
            let now = Instant::now();
            match received {
                Ok(batch) => {
                    for datagram in batch.datagrams() {
                        self.machine
                            .handle_datagram(now, datagram.from, datagram.bytes);
                    }
                }
                // What was sent before has been refused, by nobody at that port or a firewall that says so.
                Err(error) => self.note(&format!("an earlier datagram came back: {error}")),
            }
        }
    }

    async fn send(&mut self, to: ProbeTarget, bytes: &[u8]) {
        let destination = match to {
            ProbeTarget::Unicast(to) => Some(to),
            ProbeTarget::Group => Some(self.group.on(&self.interface)),
            ProbeTarget::AllHosts => Some(self.group.all_hosts().on(&self.interface)),
            ProbeTarget::Broadcast => {
                let broadcast = self.group.broadcast(&self.interface);
                broadcast.map(|group| group.on(&self.interface))
            }
        };
        if let Some(destination) = destination
            && let Err(error) = self.socket.send(destination, bytes).await
        {
            self.note(&format!("cannot send to {destination}: {error}"));
        }
    }

    fn note(&mut self, what: &str) {
        self.unsent.get_or_insert_with(|| what.into());
    }

    fn look_for_querier(&mut self) {
        if let Ok(watch) = &mut self.watch
            && self.group.is_multicast()
        {
            self.querier = watch.heard().or(self.querier);
            if self.querier.is_none() {
                // If it fails, one can still listen.
                let _ = watch.solicit(self.group, &self.interface);
            }
        }
    }

    fn conclude(mut self, progress: &Progress, json: bool) -> Result<(), Failure> {
        self.look_for_querier();
        let report = self.machine.report();
        let here = Circumstances {
            routed: report
                .server
                .is_some_and(|server| !self.interface.is_neighbour(server.ip())),
            broadcast: !self.group.is_multicast(),
        };
        let verdict = report.verdict(here);
        let fields = self.fields(&report, verdict);
        progress.emit("probe", fields.clone());
        if !json {
            for line in self.lines(&report) {
                progress.line(&format!("frisbee-client: {line}"));
            }
        }
        let text = self.explain(&report, verdict);
        if verdict.is_good() {
            progress.finish(&format!("frisbee-client: {text}"), fields);
            return Ok(());
        }
        Err(progress.fail(Failure::new(Exit::Network, text)))
    }

    fn protocol(&self) -> &'static str {
        if self.group.is_ipv6() { "MLD" } else { "IGMP" }
    }

    /// What is known of a querier. `None` where none is needed.
    fn querier_line(&self) -> Option<String> {
        let protocol = self.protocol();
        if !self.group.is_multicast() {
            return None;
        }
        Some(match (&self.watch, self.querier) {
            (Err(error), _) => format!(
                "{protocol} querier: it cannot be told whether there is one ({error}: raw sockets need CAP_NET_RAW)"
            ),
            (_, Some(querier)) => format!("{protocol} querier: {querier}"),
            (Ok(_), None) if self.group.is_ipv6() => format!(
                "{protocol} querier: none heard in this short time; if there is none, switches that snoop stop forwarding \
                 after some minutes"
            ),
            (Ok(_), None) => format!(
                "{protocol} querier: none answers; switches that snoop stop forwarding after some minutes: switch a querier \
                 on in the switch or the router"
            ),
        })
    }

    fn lines(&self, report: &Report) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(server) = report.server {
            let ways = [
                (Way::Unicast, "directly"),
                (Way::Group, "by the group"),
                (Way::Broadcast, "by broadcast"),
            ];
            let heard = ways.iter().filter(|(way, _)| report.was_heard(*way));
            let heard: Vec<&str> = heard.map(|(_, name)| *name).collect();
            let heard = if heard.is_empty() {
                "nothing of this machine that this machine would know of".into()
            } else {
                heard.join(", ")
            };
            lines.push(format!(
                "server {server}, time to live {}: hears {heard}",
                report.ttl
            ));
            lines.push(format!(
                "heard of it: {} datagrams by the group, {} by the group of all machines, {} answers",
                report.group, report.all_hosts, report.unicast
            ));
            let towards = Interface::address_towards(server);
            if let Ok(address) = towards
                && address != self.interface.address()
            {
                lines.push(format!(
                    "the way to {server} leads through the interface of {address}, not {}: with rp_filter, what comes \
                     from it is dropped here",
                    self.interface
                ));
            }
        }
        if report.largest > 0 {
            lines.push(format!("sizes: up to {} bytes arrive", report.largest));
        }
        if !report.steps.is_empty() {
            let mut text = String::from("rates:");
            for step in report.steps.iter().filter(|step| step.rate > 0) {
                let lost = f64::from(step.lost()) / 10.0;
                let _ = write!(text, " {} {lost} % lost,", units::rate(step.rate));
            }
            lines.push(text.trim_end_matches(',').into());
        }
        lines.extend(self.unsent.clone());
        lines.extend(self.querier_line());
        lines
    }

    /// What it means, and what to do.
    fn explain(&self, report: &Report, verdict: Verdict) -> String {
        let kind = if self.group.is_multicast() {
            "multicast"
        } else {
            "broadcast"
        };
        let (group, name) = (self.group, self.interface.name());
        let server = report
            .server
            .map_or_else(String::new, |server| server.ip().to_string());
        let port = self.group.address().port();
        match verdict {
            Verdict::Works(Some((rate, lost))) => format!(
                "{kind} works: {}, {} % lost, datagrams of up to {} bytes",
                units::rate(rate),
                f64::from(lost) / 10.0,
                report.largest
            ),
            Verdict::Works(None) => {
                let from = report
                    .announcer
                    .map_or_else(String::new, |from| from.to_string());
                format!(
                    "{kind} works: an image is announced by {from} (frisbeed --probe there would tell rate and loss)"
                )
            }
            Verdict::Silence => format!(
                "nothing was heard on {group}, {name}, neither by {kind} nor by unicast: is frisbeed --probe running on this \
                 group in the same network? If it is, a firewall on one of the two machines drops UDP port {port}: let it \
                 through (with --probe=SERVER its address is asked directly)"
            ),
            Verdict::Deaf => format!(
                "the group arrives, but {server} does not hear this machine: let UDP port {port} into its firewall, and out of \
                 this machine's"
            ),
            Verdict::Snooping => format!(
                "a switch does not pass {group} on to this machine, though it passes the group of all machines: it snoops \
                 ({} snooping) and does not know of this member. Switch a querier on in the switch or the router, or \
                 snooping off; or a firewall here drops this group alone, or this machine's {} reports",
                self.protocol(),
                self.protocol()
            ),
            Verdict::Ttl => format!(
                "{server} is behind a router, and its datagrams live for one network: frisbeed --ttl 8, and multicast routing \
                 (PIM) on the routers between"
            ),
            Verdict::Routers => format!(
                "{server} is behind a router that does not pass {group} on: switch multicast routing (PIM) on there, or put \
                 both into one network"
            ),
            Verdict::Blocked => format!(
                "{kind} does not arrive, though unicast does: a firewall on this machine or a switch drops it. Let {group} \
                 into this machine (nft: ip daddr), and look for filters of multicast or storm control in the switch"
            ),
            Verdict::Stopped(after) => format!(
                "the group arrived for {:.1} s and then stopped, while unicast went on: a switch snoops and forgets members \
                 because nobody queries. Switch an {} querier on in the switch or the router, or snooping off",
                after.as_secs_f64(),
                self.protocol()
            ),
            Verdict::Mtu(size) => format!(
                "datagrams of {size} bytes do not arrive, the largest that does has {}: an MTU on the way is too small. Set \
                 1500 on both machines and everything between",
                report.largest
            ),
            Verdict::Lossy(lost) => format!(
                "{} % of the datagrams are lost even at the lowest rate: Wi-Fi, a bad cable, or storm control in the switch. \
                 frisbeed --rate may help",
                f64::from(lost) / 10.0
            ),
            Verdict::Interrupted => {
                format!(
                    "{kind} arrives, but {server} fell silent before its run was over: start it again"
                )
            }
            _ => format!("{kind} does not work"),
        }
    }

    fn fields(&self, report: &Report, verdict: Verdict) -> Value {
        let (rate, lost) = match verdict {
            Verdict::Works(Some((rate, lost))) => (Some(rate), Some(f64::from(lost) / 1000.0)),
            _ => (None, None),
        };
        let steps: Vec<Value> = report
            .steps
            .iter()
            .map(|step| {
                json!({
                    "rate": step.rate, "sent": step.sent, "received": step.received,
                    "arrived_bits_per_second": step.arrived,
                })
            })
            .collect();
        json!({
            "verdict": verdict.name(),
            "works": verdict.is_good(),
            "rate": rate,
            "loss": lost,
            "largest": report.largest,
            "server": report.server.map(|server| server.to_string()),
            "announcer": report.announcer.map(|server| server.to_string()),
            "ttl": report.ttl,
            "group_datagrams": report.group,
            "all_hosts_datagrams": report.all_hosts,
            "answers": report.unicast,
            "heard_unicast": report.was_heard(Way::Unicast),
            "heard_group": report.was_heard(Way::Group),
            "heard_broadcast": report.was_heard(Way::Broadcast),
            "steps": steps,
            "querier": self.querier.map(|querier| querier.to_string()),
            "querier_known": self.watch.is_ok(),
            "trouble": self.unsent,
        })
    }
}
