//! The sending side of a probe.
//!
//! Idle, it sends a beacon a second. A run is made for clients that repeat its token, which only who hears it can, and
//! goes on only while one of them replies.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::wire::{self, PROBE_SIZE, Phase, Probe, ProbeDatagram, Reply, Way};
use super::{
    COPIES, INTERVAL, PAUSE, PRESENT, ProbeOutput, ProbeTarget, RATE_TIME, SIZES, SIZES_RATE,
    ladder,
};
use crate::server::wire_time;
use crate::wire::SEGMENT_SIZE;

/// Time between two beacons while nobody replies.
const IDLE_BEACON: Duration = Duration::from_secs(1);
/// From the first client to the run: others that were started at the same time take part.
const GATHER: Duration = Duration::from_millis(600);
/// Clients that are remembered.
const CLIENTS_MAX: usize = 1024;
/// Answers that wait to be sent.
const ANSWERS_MAX: usize = 64;
/// Most that may be sent ahead of the rate.
const BURST: Duration = Duration::from_millis(2);
/// Loads in one call.
const BATCH: u32 = 32;
/// If every client loses more of a step than this, in parts per thousand, higher rates are not tried.
const HOPELESS: u16 = 200;

/// How a server probes.
#[derive(Clone, Copy, Debug)]
pub struct ProbeServerConfig {
    /// Rate never exceeded, in bits per second on the wire.
    pub ceiling: u64,
    /// Longest time of one run.
    pub duration: Duration,
    /// Time to live (hop limit) with which it multicasts, for clients to know.
    pub ttl: u8,
    /// Bytes that a datagram costs beside its payload, see [`crate::framing`].
    pub framing: usize,
    /// Seed of everything random, from the system's random source.
    pub seed: u64,
}

impl Default for ProbeServerConfig {
    fn default() -> Self {
        Self {
            ceiling: 1_000_000_000,
            duration: Duration::from_secs(10),
            ttl: 1,
            framing: crate::FRAMING,
            seed: 0,
        }
    }
}

/// What is known of a client.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Where it replies from.
    pub address: SocketAddr,
    /// When it replied last.
    pub last: Instant,
    /// What it said last.
    pub reply: Reply,
    /// Ways on which it was heard, see [`Way::bit`].
    pub heard: u8,
    /// The last run was made for it, too.
    pub takes_part: bool,
    proven: bool,
    served: bool,
}

/// Some datagrams of one size at one rate.
#[derive(Clone, Copy, Debug)]
struct Step {
    phase: Phase,
    size: u16,
    rate: u64,
    /// Datagrams, if the time is long enough.
    count: u32,
    time: Duration,
}

#[derive(Debug)]
enum State {
    /// Nobody, or a run begins then.
    Idle(Option<Instant>),
    Running {
        end: Instant,
        steps: VecDeque<Step>,
        /// The present step ends then at the latest.
        step_end: Instant,
        /// When the next one begins, once this one has been sent.
        next: Option<Instant>,
    },
    Done,
}

/// The machine.
#[derive(Debug)]
pub struct ProbeServer {
    config: ProbeServerConfig,
    random: fastrand::Rng,
    token: u64,
    clients: HashMap<u64, Seen>,
    answers: VecDeque<(SocketAddr, Probe)>,
    state: State,
    run: u16,
    sequence: u32,
    /// Number of the present step, loads sent of it and of the one before.
    step: u8,
    number: u32,
    before: u32,
    beacon: Instant,
    /// The second half of a beacon.
    all_hosts_due: bool,
    finished: bool,
    /// When everything sent so far is through at the ceiling.
    clear: Instant,
    /// The same for loads, at the rate of the step.
    step_clear: Instant,
}

impl ProbeServer {
    /// A server that nobody has replied to.
    pub fn new(now: Instant, config: ProbeServerConfig) -> Self {
        let mut random = fastrand::Rng::with_seed(config.seed);
        Self {
            config,
            token: random.u64(1..),
            sequence: random.u32(..),
            random,
            clients: HashMap::new(),
            answers: VecDeque::new(),
            state: State::Idle(None),
            run: 0,
            step: 0,
            number: 0,
            before: 0,
            beacon: now,
            all_hosts_due: false,
            finished: false,
            clear: now,
            step_clear: now,
        }
    }

    /// The clients heard since the start, at most 1024.
    pub fn clients(&self) -> impl Iterator<Item = &Seen> {
        self.clients.values()
    }

    /// Takes a datagram that arrived. Whether it was a reply of a client.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> bool {
        let Ok(ProbeDatagram::Reply(reply)) = wire::decode(bytes) else {
            return false;
        };
        let is_known = self.clients.contains_key(&reply.client);
        if !is_known && self.clients.len() >= CLIENTS_MAX {
            return false;
        }
        let proven = reply.token == self.token;
        let seen = self.clients.entry(reply.client).or_insert(Seen {
            address: from,
            last: now,
            reply,
            heard: 0,
            takes_part: false,
            proven,
            served: false,
        });
        // Who does not have the token may be anybody.
        if proven || !seen.proven {
            (seen.address, seen.last, seen.reply) = (from, now, reply);
            seen.proven |= proven;
            seen.heard |= reply.way.bit();
        }
        let answer = Probe {
            client: reply.client,
            heard: seen.heard,
            takes_part: seen.takes_part,
            way: Way::Unicast,
            ..self.here()
        };
        if !reply.done && self.answers.len() < ANSWERS_MAX {
            self.answers.push_back((from, answer));
        }
        self.beacon = self.beacon.min(now + INTERVAL);
        true
    }

    /// What is to be done.
    pub fn poll(&mut self, now: Instant, buffer: &mut Vec<u8>) -> ProbeOutput {
        buffer.clear();
        self.advance(now);
        if std::mem::take(&mut self.finished) {
            return ProbeOutput::Finished;
        }
        // Beacons and answers are few and small; whoever asks for many gets none.
        let is_late = self.clear > now + 10 * BURST;
        if is_late {
            self.answers.clear();
        }
        if let Some((to, answer)) = self.answers.pop_front() {
            answer.encode(buffer);
            return self.send(now, buffer, ProbeTarget::Unicast(to), PROBE_SIZE);
        }
        if std::mem::take(&mut self.all_hosts_due) {
            let beacon = Probe {
                way: Way::AllHosts,
                ..self.here()
            };
            beacon.encode(buffer);
            return self.send(now, buffer, ProbeTarget::AllHosts, PROBE_SIZE);
        }
        if now >= self.beacon && !is_late {
            let interval = if self.anybody(now) {
                INTERVAL
            } else {
                IDLE_BEACON
            };
            self.beacon = now + interval;
            self.all_hosts_due = true;
            self.here().encode(buffer);
            self.sequence = self.sequence.wrapping_add(1);
            return self.send(now, buffer, ProbeTarget::Group, PROBE_SIZE);
        }
        match self.load(now, buffer) {
            Ok(segment) => self.send(now, buffer, ProbeTarget::Group, segment),
            Err(until) => ProbeOutput::Wait(until.min(self.beacon).max(now)),
        }
    }

    /// A datagram to the group without a load.
    fn here(&self) -> Probe {
        let phase = match &self.state {
            State::Idle(_) => Phase::Idle,
            State::Running { steps, .. } => steps.front().map_or(Phase::Rates, |step| step.phase),
            State::Done => Phase::Done,
        };
        Probe {
            run: self.run,
            sequence: self.sequence,
            token: self.token,
            number: self.number,
            before: self.before,
            phase,
            step: self.step,
            ttl: self.config.ttl,
            way: Way::Group,
            ..Probe::default()
        }
    }

    fn send(
        &mut self,
        now: Instant,
        buffer: &[u8],
        to: ProbeTarget,
        segment: usize,
    ) -> ProbeOutput {
        let framing = buffer.len().div_ceil(segment) * self.config.framing;
        let bytes = u64::try_from(buffer.len() + framing).unwrap_or(u64::MAX);
        self.clear = self.clear.max(now) + wire_time(bytes, self.config.ceiling);
        ProbeOutput::Send { to, segment }
    }

    fn present(&self, now: Instant) -> impl Iterator<Item = &Seen> {
        let is_present = move |seen: &&Seen| {
            now.saturating_duration_since(seen.last) < PRESENT && !seen.reply.done
        };
        self.clients.values().filter(is_present)
    }

    fn anybody(&self, now: Instant) -> bool {
        self.present(now).next().is_some()
    }

    /// Begins and ends runs and steps.
    fn advance(&mut self, now: Instant) {
        let waiting = self.present(now).any(|seen| seen.proven && !seen.served);
        match &self.state {
            State::Idle(Some(start)) if now >= *start => match waiting {
                true => self.begin(now),
                false => self.state = State::Idle(None),
            },
            State::Idle(None) | State::Done if waiting => {
                self.state = State::Idle(Some(now + GATHER));
            }
            State::Running { end, .. } => {
                let over = now >= *end || !self.present(now).any(|seen| seen.takes_part);
                match over {
                    true => self.end(),
                    false => self.advance_step(now),
                }
            }
            State::Idle(_) | State::Done => {}
        }
    }

    fn begin(&mut self, now: Instant) {
        self.run = self.random.u16(1..);
        (self.step, self.number, self.before) = (0, 0, 0);
        for seen in self.clients.values_mut() {
            let is_present =
                seen.proven && !seen.served && now.saturating_duration_since(seen.last) < PRESENT;
            seen.takes_part = is_present;
            seen.served |= is_present;
        }
        let rate = SIZES_RATE.min(self.config.ceiling);
        let sizes = SIZES.map(|size| Step {
            phase: Phase::Sizes,
            size,
            rate,
            count: COPIES,
            time: RATE_TIME,
        });
        self.state = State::Running {
            end: now + self.config.duration,
            steps: sizes.into(),
            step_end: now + RATE_TIME,
            next: None,
        };
    }

    fn end(&mut self) {
        (self.before, self.number) = (self.number, 0);
        self.step = self.step.saturating_add(1);
        self.state = State::Done;
        self.finished = true;
    }

    fn advance_step(&mut self, now: Instant) {
        let State::Running {
            steps,
            step_end,
            next,
            ..
        } = &mut self.state
        else {
            return;
        };
        let Some(step) = steps.front().copied() else {
            return;
        };
        if self.number < step.count && now < *step_end {
            return;
        }
        let last_of_sizes = step.phase == Phase::Sizes && steps.len() == 1;
        let pause = match step.phase {
            Phase::Sizes if !last_of_sizes => Duration::ZERO,
            // What is under way arrives, and clients say what has arrived.
            _ => PAUSE + 2 * INTERVAL,
        };
        if now < *next.get_or_insert(now + pause) {
            return;
        }
        steps.pop_front();
        let goes_on = match step.phase {
            Phase::Rates => self.worth_going_on(),
            _ if last_of_sizes => self.plan_rates(),
            _ => true,
        };
        let State::Running {
            steps,
            step_end,
            next,
            ..
        } = &mut self.state
        else {
            return;
        };
        match steps.front().filter(|_| goes_on) {
            Some(step) => {
                (*step_end, *next) = (now + step.time, None);
                (self.before, self.number) = (self.number, 0);
                self.step = self.step.saturating_add(1);
                self.step_clear = now;
            }
            None => self.end(),
        }
    }

    /// Adds the steps of the second phase. False if nothing has arrived in the first one.
    fn plan_rates(&mut self) -> bool {
        let parts = self.clients.values().filter(|seen| seen.takes_part);
        let largest = parts
            .map(|seen| seen.reply.largest)
            .filter(|&size| size > 0);
        let most = u16::try_from(SEGMENT_SIZE).unwrap_or(u16::MAX);
        let Some(size) = largest.min().map(|size| size.min(most)) else {
            return false;
        };
        let rates = ladder(self.config.ceiling).into_iter().map(|rate| Step {
            phase: Phase::Rates,
            size,
            rate,
            count: u32::MAX,
            time: RATE_TIME,
        });
        if let State::Running { steps, .. } = &mut self.state {
            steps.extend(rates);
        }
        true
    }

    fn worth_going_on(&self) -> bool {
        let mut parts = self.clients.values().filter(|seen| seen.takes_part);
        parts.any(|seen| seen.reply.lost < HOPELESS)
    }

    /// Fills the buffer with loads that are due. Otherwise says when there may be some.
    fn load(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Result<usize, Instant> {
        let State::Running {
            steps,
            step_end,
            next,
            ..
        } = &self.state
        else {
            let start = match self.state {
                State::Idle(start) => start,
                _ => None,
            };
            return Err(start.unwrap_or(self.beacon));
        };
        let Some(&step) = steps.front() else {
            return Err(now);
        };
        if self.number >= step.count || now >= *step_end {
            return Err(next.unwrap_or(now));
        }
        let size = usize::from(step.size);
        let each = u64::try_from(size + self.config.framing).unwrap_or(u64::MAX);
        let one = wire_time(each, step.rate);
        let debt = self
            .step_clear
            .max(self.clear)
            .saturating_duration_since(now);
        if debt > BURST {
            return Err(now + (debt - BURST));
        }
        let room = (BURST - debt).as_nanos() / one.as_nanos().max(1);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let count = room.clamp(1, BATCH).min(step.count - self.number);
        let mut probe = Probe {
            rate: step.rate,
            load: true,
            size: step.size,
            ..self.here()
        };
        for _ in 0..count {
            (probe.sequence, probe.number) = (self.sequence, self.number);
            probe.encode(buffer);
            self.sequence = self.sequence.wrapping_add(1);
            self.number += 1;
        }
        self.step_clear = self.step_clear.max(now) + one * count;
        Ok(size)
    }
}
