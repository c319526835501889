//! The listening side of a probe: answers what it hears, and counts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::report::{Report, SizeReport, StepReport};
use super::wire::{self, Phase, Probe, ProbeDatagram, Reply, Way};
use super::{INTERVAL, PRESENT, ProbeOutput, ProbeTarget};
use crate::wire::{Message, decode};

/// From joining the group to the first reply, which makes a run begin: with a querier of IGMPv2 about, Linux reports a
/// membership within a second of joining (RFC 2236, section 3), and before that a switch that snoops passes nothing on.
const SETTLE: Duration = Duration::from_millis(1200);
/// From the first sign of a server on, so long may it take until a run begins: another one may be under way.
const BEGIN: Duration = Duration::from_secs(15);
/// A server that multicasts without answering is given this long.
const DEAF: Duration = Duration::from_secs(4);
/// From the end of a run to the end of the probe: what is under way arrives.
const LINGER: Duration = Duration::from_millis(500);
/// Loads that are missed before a step counts as silent.
const SILENCE: Duration = Duration::from_millis(800);

/// How a client probes.
#[derive(Clone, Copy, Debug)]
pub struct ProbeClientConfig {
    /// How long to wait for the first sign of a server; 2.4 s at least.
    pub patience: Duration,
    /// A server to ask if nothing comes by itself.
    pub server: Option<SocketAddr>,
    /// Bytes that a datagram costs beside its payload, see [`crate::framing`].
    pub framing: usize,
    /// Seed of everything random, from the system's random source.
    pub seed: u64,
}

impl Default for ProbeClientConfig {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(8),
            server: None,
            framing: crate::FRAMING,
            seed: 0,
        }
    }
}

/// Loads of one step.
#[derive(Debug, Default)]
struct Tally {
    phase: Phase,
    rate: u64,
    size: u16,
    received: u32,
    /// Loads sent, as far as is known.
    sent: u32,
    span: Option<(Instant, Instant)>,
}

/// The machine.
#[derive(Debug)]
pub struct ProbeClient {
    config: ProbeClientConfig,
    client: u64,
    started: Instant,
    /// The server that is being answered, its token and its run.
    server: Option<(SocketAddr, u64)>,
    run: u16,
    phase: Phase,
    steps: Vec<Tally>,
    /// The present run is made for this client, too; or it was heard from its beginning.
    takes_part: bool,
    first: Option<Instant>,
    last: Option<Instant>,
    last_answer: Option<Instant>,
    last_group: Option<Instant>,
    run_over: Option<Instant>,
    next_reply: Instant,
    pending: Vec<ProbeTarget>,
    report: Report,
    finished: bool,
}

impl ProbeClient {
    /// A client that has just joined the group and has heard nothing.
    pub fn new(now: Instant, config: ProbeClientConfig) -> Self {
        Self {
            client: fastrand::Rng::with_seed(config.seed).u64(1..),
            config,
            started: now,
            server: None,
            run: 0,
            phase: Phase::Idle,
            steps: Vec::new(),
            takes_part: false,
            first: None,
            last: None,
            last_answer: None,
            last_group: None,
            run_over: None,
            next_reply: now + SETTLE,
            pending: Vec::new(),
            report: Report::default(),
            finished: false,
        }
    }

    /// What has been found out up to now.
    pub fn report(&self) -> Report {
        let mut report = self.report.clone();
        for step in &self.steps {
            match step.phase {
                Phase::Sizes => report.sizes.push(SizeReport {
                    size: step.size,
                    received: step.received,
                    sent: step.sent,
                }),
                _ => report.steps.push(step.report(self.config.framing)),
            }
        }
        report.is_complete = self.takes_part && self.phase == Phase::Done;
        if let (Some(group), Some(answer)) = (self.last_group, self.last_answer) {
            let silence = answer.saturating_duration_since(group);
            report.stopped = (silence >= SILENCE && report.is_complete)
                .then(|| group.saturating_duration_since(self.first.unwrap_or(group)));
        }
        report
    }

    /// Takes a datagram that arrived.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        match wire::decode(bytes) {
            Ok(ProbeDatagram::Probe(probe)) => self.hear(now, from, &probe),
            Ok(ProbeDatagram::Reply(_)) => {}
            Err(_) => {
                let decoded = decode(bytes).map(|datagram| datagram.message);
                if matches!(decoded, Ok(Message::Announce(..))) {
                    self.report.announces = self.report.announces.saturating_add(1);
                    self.report.announcer = Some(from);
                }
            }
        }
    }

    fn hear(&mut self, now: Instant, from: SocketAddr, probe: &Probe) {
        let (server, _) = *self.server.get_or_insert((from, probe.token));
        if server != from {
            self.report.others = self.report.others.saturating_add(1);
            return;
        }
        // A server that was restarted has another token.
        self.server = Some((server, probe.token));
        self.report.server = Some(server);
        self.report.ttl = probe.ttl;
        self.first = self.first.or(Some(now));
        self.last = Some(now);
        match probe.way {
            Way::Group | Way::Broadcast => {
                self.report.group = self.report.group.saturating_add(1);
                self.last_group = Some(now);
            }
            Way::AllHosts => self.report.all_hosts = self.report.all_hosts.saturating_add(1),
            Way::Unicast if probe.client == self.client => {
                self.report.unicast = self.report.unicast.saturating_add(1);
                self.report.heard |= probe.heard;
                self.last_answer = Some(now);
            }
            // An answer to another client.
            Way::Unicast => return,
        }
        if probe.run != self.run {
            self.run = probe.run;
            (self.steps, self.takes_part, self.run_over) = (Vec::new(), false, None);
            self.phase = Phase::Idle;
        }
        if probe.run == 0 {
            return;
        }
        let from_beginning = probe.phase == Phase::Sizes && probe.step == 0;
        self.takes_part |= probe.takes_part || from_beginning;
        self.phase = self.phase.max(probe.phase);
        if self.phase == Phase::Done {
            self.run_over = self.run_over.or(Some(now));
        }
        self.count(now, probe);
    }

    fn count(&mut self, now: Instant, probe: &Probe) {
        let step = usize::from(probe.step);
        if let Some(before) = step
            .checked_sub(1)
            .and_then(|before| self.steps.get_mut(before))
        {
            before.sent = before.sent.max(probe.before);
        }
        if probe.phase == Phase::Done {
            return;
        }
        while self.steps.len() <= step {
            self.steps.push(Tally::default());
        }
        let Some(tally) = self.steps.get_mut(step) else {
            return;
        };
        tally.phase = probe.phase;
        if !probe.load {
            tally.sent = tally.sent.max(probe.number);
            return;
        }
        (tally.rate, tally.size) = (probe.rate, probe.size);
        tally.received = tally.received.saturating_add(1);
        tally.sent = tally.sent.max(probe.number.saturating_add(1));
        tally.span = Some((tally.span.map_or(now, |(first, _)| first), now));
        self.report.largest = self.report.largest.max(probe.size);
    }

    /// What is to be done.
    pub fn poll(&mut self, now: Instant, buffer: &mut Vec<u8>) -> ProbeOutput {
        buffer.clear();
        if self.finished {
            return ProbeOutput::Finished;
        }
        let is_over = self.is_over(now);
        if is_over && !self.finished {
            self.finished = true;
            if let Some((server, _)) = self.server {
                return self.reply(buffer, ProbeTarget::Unicast(server), true);
            }
            return ProbeOutput::Finished;
        }
        if now >= self.next_reply {
            self.next_reply = now + INTERVAL;
            self.pending = self.targets(now);
        }
        match self.pending.pop() {
            Some(to) => self.reply(buffer, to, false),
            None => ProbeOutput::Wait(self.next_reply.min(self.deadline())),
        }
    }

    /// Whom to reply to: as long as no server has answered, whoever there may be.
    fn targets(&self, now: Instant) -> Vec<ProbeTarget> {
        let mut targets = Vec::new();
        let server = self.server.map(|(server, _)| server);
        let asked = server
            .into_iter()
            .chain(self.config.server.filter(|_| server.is_none()));
        targets.extend(asked.map(ProbeTarget::Unicast));
        // Some times even if it has: it says what has reached it.
        let heard = self.first.unwrap_or(now).max(self.started + SETTLE);
        let young = now.saturating_duration_since(heard) < 3 * INTERVAL;
        if self.last_answer.is_none() || young {
            targets.extend([ProbeTarget::Group, ProbeTarget::Broadcast]);
        }
        targets
    }

    fn reply(&self, buffer: &mut Vec<u8>, to: ProbeTarget, done: bool) -> ProbeOutput {
        let tally = self.steps.last();
        let lost = tally.map_or(0, |tally| {
            let lost = tally.sent.saturating_sub(tally.received);
            u64::from(lost) * 1000 / u64::from(tally.sent.max(1))
        });
        let step = self.steps.len().saturating_sub(1);
        Reply {
            run: self.run,
            client: self.client,
            token: self.server.map_or(0, |(_, token)| token),
            group: self.report.group,
            all_hosts: self.report.all_hosts,
            received: tally.map_or(0, |tally| tally.received),
            lost: u16::try_from(lost).unwrap_or(u16::MAX),
            largest: self.report.largest,
            step: u8::try_from(step).unwrap_or(u8::MAX),
            way: match to {
                ProbeTarget::Unicast(_) => Way::Unicast,
                ProbeTarget::Group => Way::Group,
                ProbeTarget::AllHosts => Way::AllHosts,
                ProbeTarget::Broadcast => Way::Broadcast,
            },
            done,
        }
        .encode(buffer);
        let segment = buffer.len();
        ProbeOutput::Send { to, segment }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline()
    }

    /// When the probe is over if nothing more comes.
    fn deadline(&self) -> Instant {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return self.started + self.config.patience.max(2 * SETTLE);
        };
        if let (true, Some(over)) = (self.takes_part, self.run_over) {
            return over + LINGER;
        }
        let gone = last + 2 * PRESENT;
        if self.last_answer.is_none() && !self.takes_part {
            return (first + DEAF).min(gone);
        }
        match self.takes_part {
            true => gone,
            false => gone.min(first + BEGIN),
        }
    }
}

impl Tally {
    fn report(&self, framing: usize) -> StepReport {
        let bits = |count: u32| u64::from(count) * (u64::from(self.size) + framing as u64) * 8;
        let time = self
            .span
            .map(|(first, last)| last.saturating_duration_since(first));
        let nanos = time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        // The first one ends no time.
        let bits = u128::from(bits(self.received.saturating_sub(1))) * 1_000_000_000;
        StepReport {
            rate: self.rate,
            sent: self.sent,
            received: self.received,
            arrived: u64::try_from(bits / u128::from(nanos.max(1))).unwrap_or(u64::MAX),
        }
    }
}
