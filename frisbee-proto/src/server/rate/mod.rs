//! The rate: finds what the path carries, keeps to it, and leaves a share of it to others.
//!
//! Time is cut into rounds with one rate each. A round ends when enough clients have told of datagrams that were sent
//! in it (their REQUESTs say up to which sequence), so what is judged is always the rate of the round; and as it takes
//! at least a round trip, queues included, nothing is judged faster than the network answers. Three things tell of
//! congestion:
//!
//! - loss above the [`Baseline`], the loss that does not depend on the rate: of all clients together (any overflowing
//!   queue before the paths part), and of the worst one that counts;
//! - the queue: how much longer than ever datagrams are under way (LEDBAT, RFC 6817, measures its delay so; here it is
//!   the age of the oldest datagram that a client has not heard, and no clock of the client is needed);
//! - what clients could not take: no buffer free, or dropped by their own system.
//!
//! The response follows what caused it. Congestion that comes when the rate has just been raised is our own: the path's
//! limit is known now, the queue is drained, and the rate stays a little below the limit; from time to time it is tried
//! whether there is more (startup, drain, cruise and probes as in BBR). Congestion that comes while the rate stays is
//! that of others: the rate falls by a part of it each round, to the share of the limit that the priority keeps, for a TCP
//! stream fills whatever is left to it. It rises additively and falls multiplicatively, so that two servers come to
//! share (Chiu and Jain 1989).
//!
//! Random loss is told from congestion by what lowering the rate does: a loss that stays as it was is none of the
//! rate's, becomes the baseline, and the rate goes back. A TCP stream that keeps a queue short loses so little that the
//! two are not confused (1.5 / window^2, RFC 5348 and Mathis 1997).
//!
//! Which client decides: like the current limiting receiver of TFMCC (RFC 4654) the worst one, but for the tenth that
//! is left out and finished by late passes. Without reports the rate is halved every second, as there.

mod baseline;
mod stragglers;
mod survey;
#[cfg(test)]
mod tests;
mod timeline;

use std::time::{Duration, Instant};

use self::baseline::Baseline;
use self::stragglers::Stragglers;
use self::survey::{Findings, Survey};
use super::{ServerConfig, pacing};
use crate::wire::{RequestHead, SEGMENT_SIZE};

/// A whole, in parts in a million.
const ONE: u64 = 1_000_000;

/// Where a server without a ceiling begins: what a network of 10 Mbit/s carries.
const START: u64 = 8_000_000;
/// Nothing brings the rate below this.
const FLOOR: u64 = 1_000_000;
/// Nor below this part of what the client in the middle takes without loss, whatever the others say.
const FLOOR_PART: u64 = 8;

/// Shortest round while the rate is being found, while a queue drains, and otherwise.
const STARTUP_ROUND: Duration = Duration::from_millis(20);
const DRAIN_ROUND: Duration = Duration::from_millis(50);
const ROUND: Duration = Duration::from_millis(200);
/// Datagrams of a round that is to tell losses from chance.
const ROUND_DATAGRAMS: u64 = 250;
/// And of one that is to tell a baseline from an overflowing queue.
const DRAIN_DATAGRAMS: u64 = 100;
/// A round without them, or without reports, ends after this.
const LONGEST_ROUND: Duration = Duration::from_secs(1);

/// A queue that is not taken for one: the jitter of busy machines.
const QUEUE: Duration = Duration::from_millis(8);
/// Longest time that is given to a queue to run empty, unless it does.
const DRAIN_MOST: Duration = Duration::from_secs(4);
/// The shortest time under way is forgotten after one to two of these.
const BASE_WINDOW: Duration = Duration::from_secs(60);

/// Excess loss that calls for more than a twentieth.
const SEVERE: u64 = ONE / 20;
/// What clients could not take is looked at from here.
const OVERLOAD: u64 = ONE / 100;
/// Most that is ever taken for random: a link that loses more is full or broken, and a forger who reports it must not
/// make the server deaf to the true reports.
const MOST_RANDOM: u64 = ONE / 100 * 40;

/// Times between two probes for more: doubled if there is none.
const PROBE_FIRST: Duration = Duration::from_secs(5);
const PROBE_MOST: Duration = Duration::from_secs(20);
/// The first one after the limit was found: it was found in a hurry.
const PROBE_SOON: Duration = Duration::from_secs(1);
/// Rounds without congestion after which the rate rises slowly, faster, and fast; three times as many beside others.
const CLEAN: [(u32, u64); 3] = [(20, 20), (10, 50), (3, 100)];
/// Rounds with heavy loss that show, at the share that is kept, that the path carries less than it did: a TCP stream
/// that starts causes fewer.
const SEVERE_ROUNDS: u32 = 4;
/// The limit is measured anew after so long, then after twice as long each time unless it turns out much higher.
const REMEASURE_FIRST: Duration = Duration::from_secs(5);
const REMEASURE_MOST: Duration = Duration::from_secs(80);
/// Rounds that others are given to notice and to give way.
const REMEASURE_ROUNDS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The limit is not known: the rate doubles each round.
    Startup {
        /// What was delivered in the round before.
        before: u64,
        /// The most that was delivered in a round that was congested.
        most: u64,
        /// Rounds at this rate that were congested and have shown nothing.
        doubts: u32,
    },
    /// The queue that we have made runs empty.
    Drain { until: Instant },
    /// Near the limit, or at the share that others leave.
    Cruise,
    /// Tries whether there is more than the limit was when this began.
    Probe { from: u64 },
}

const STARTUP: Phase = Phase::Startup {
    before: 0,
    most: 0,
    doubts: 0,
};

/// A cut that has not shown yet whether it helped.
#[derive(Clone, Copy, Debug)]
struct Cut {
    rate: u64,
    limit: Option<u64>,
    phase: Phase,
    excess: u64,
}

#[derive(Debug)]
pub(super) struct Rate {
    ceiling: u64,
    /// Wire bytes of a full datagram.
    segment: u64,
    /// The part of the limit that is kept beside others, in parts in a million.
    share: u64,
    /// Whether others are made to give way for a moment, to find out what the path carries.
    insists: bool,
    rate: u64,
    /// What the path carries, as far as it is known.
    limit: Option<u64>,
    phase: Phase,
    round: Instant,
    /// Wire bytes sent in this round.
    sent: u64,
    survey: Survey,
    stragglers: Stragglers,
    together: Baseline,
    worst: Baseline,
    base: Base,
    /// How much longer than ever datagrams were under way in the round before.
    queue: Duration,
    cut: Option<Cut>,
    /// Rounds since there was congestion, and with heavy loss one after the other.
    clean: u32,
    severe: u32,
    /// A queue stays though the rate is well below the limit: it is that of others.
    crowded: bool,
    /// The limit before it began to be measured anew, and when it was measured last.
    measured: u64,
    measured_at: Instant,
    remeasure_wait: Duration,
    probed: Instant,
    probe_wait: Duration,
    /// What the client in the middle takes without loss.
    proven: u64,
}

impl Rate {
    pub(super) fn new(now: Instant, config: &ServerConfig) -> Self {
        let rate = config.ceiling.unwrap_or(START).max(1);
        Self {
            ceiling: config.ceiling.unwrap_or(u64::MAX).max(1),
            segment: (SEGMENT_SIZE + config.framing) as u64,
            share: config.priority.share(),
            insists: config.priority.insists(),
            rate,
            limit: None,
            phase: STARTUP,
            round: now,
            sent: 0,
            survey: Survey::new(),
            stragglers: Stragglers::default(),
            together: Baseline::default(),
            worst: Baseline::default(),
            base: Base::new(now),
            queue: Duration::ZERO,
            cut: None,
            clean: 0,
            severe: 0,
            remeasure_wait: REMEASURE_FIRST,
            crowded: false,
            measured: 0,
            measured_at: now,
            probed: now,
            probe_wait: PROBE_FIRST,
            proven: 0,
        }
    }

    /// Bits per second on the wire.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// So many datagrams and wire bytes were sent; `next` is the sequence after them.
    pub(super) fn sent(&mut self, now: Instant, next: u64, datagrams: u64, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
        self.survey.sent(now, next, datagrams);
    }

    /// A report about this stream of a client that expects `heard` next.
    pub(super) fn report(&mut self, now: Instant, head: &RequestHead, heard: u64) {
        if head.done {
            self.stragglers.leave(head.client);
            self.survey.leave(head.client);
        } else if self.survey.is_possible(head, heard) {
            let (received, lost) = (head.received.into(), head.lost.into());
            self.stragglers.report(now, head.client, received, lost);
            self.survey.report(now, head, heard);
        }
    }

    /// Whether this client loses far more than those that the rate follows.
    pub(super) fn is_behind(&self, client: u64) -> bool {
        self.stragglers.is_behind(client)
    }

    /// Time has passed: at the end of a round the rate changes.
    pub(super) fn update(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.round);
        let least = match self.phase {
            Phase::Startup { .. } => STARTUP_ROUND,
            Phase::Drain { .. } => DRAIN_ROUND,
            Phase::Cruise | Phase::Probe { .. } => ROUND,
        };
        let datagrams = match self.phase {
            Phase::Startup { .. } if self.measured == 0 => 0,
            Phase::Startup { .. } | Phase::Drain { .. } => DRAIN_DATAGRAMS,
            Phase::Cruise | Phase::Probe { .. } => ROUND_DATAGRAMS,
        };
        let enough = self.survey.is_enough(datagrams) || elapsed >= LONGEST_ROUND;
        if elapsed < least || !enough {
            return;
        }
        let bits = u128::from(self.sent) * 8_000_000_000 / elapsed.as_nanos().max(1);
        let actual = u64::try_from(bits).unwrap_or(u64::MAX).min(self.rate);
        let used = actual >= self.rate / 10 * 8;
        self.stragglers.judge(now);
        match self.survey.finish(now) {
            Some(findings) => self.judge(now, &findings, actual, used),
            // Nobody hears us, or nobody needs what is still queued.
            None if used => self.rate /= 2,
            None => {}
        }
        let floor = FLOOR.max(self.proven / FLOOR_PART);
        self.rate = self.rate.max(floor).min(self.ceiling);
        (self.round, self.sent) = (now, 0);
    }

    fn judge(&mut self, now: Instant, findings: &Findings, actual: u64, used: bool) {
        self.base.learn(now, findings.age);
        let tolerated = QUEUE + pacing::burst(self.segment, self.rate);
        let queue = findings.age.saturating_sub(self.base.least());
        let queued = queue > tolerated;
        let together = self.together.excess(findings.together);
        let worst = self.worst.excess(findings.worst);
        let overload = findings.overload;
        let overload = if overload > OVERLOAD { overload } else { 0 };
        let excess = together.max(worst).max(overload);
        let congested = queued || excess > 0;
        let delivered = self.delivered(findings, actual, excess, queued);
        self.prove(findings, actual);

        if let Some(cut) = self.cut.take()
            && !queued
            && overload == 0
            && excess > cut.excess / 3 * 2
            && findings.worst.part <= MOST_RANDOM
        {
            self.together.is(findings.together);
            self.worst.is(findings.worst);
            (self.rate, self.limit, self.phase) = (cut.rate, cut.limit, cut.phase);
            return;
        }
        let slow = |limit| self.rate <= limit / 100 * 97;
        let random = !congested && self.limit.is_none_or(slow);
        // At the share that is always kept, what stays is not ours.
        let yielded = !queued && overload == 0 && self.clean == 0 && self.is_yielding();
        self.together.learn(findings.together, random || yielded);
        self.worst.learn(findings.worst, random || yielded);

        self.clean = if congested {
            0
        } else {
            self.clean.saturating_add(1)
        };
        let trouble = Trouble {
            excess,
            delivered,
            queue,
            queued,
            falls: queue + QUEUE / 4 < std::mem::replace(&mut self.queue, queue),
        };
        match self.phase {
            Phase::Startup {
                before,
                most,
                doubts,
            } if congested => self.startup_congested(now, (before, most), doubts, trouble),
            Phase::Drain { until } => {
                if !queued || (now >= until && !trouble.falls) {
                    self.crowded = queued;
                    self.cruise(now);
                }
            }
            Phase::Probe { from } if congested => self.probe_congested(now, from, trouble),
            Phase::Cruise if congested => self.yields(now, trouble),
            _ if !used => {}
            Phase::Startup { most, .. } => {
                self.rate = self.rate.saturating_mul(2);
                self.phase = Phase::Startup {
                    before: actual,
                    most,
                    doubts: 0,
                };
            }
            Phase::Probe { from } => self.probe(from, queue),
            Phase::Cruise => self.grow(now),
        }
    }

    /// What arrived of what was sent in this round, as bits a second.
    fn delivered(&self, findings: &Findings, actual: u64, excess: u64, queued: bool) -> u64 {
        let arrived = parts(actual, ONE.saturating_sub(excess));
        // While a queue grows, datagrams arrive more slowly than they leave.
        let sure = (ONE - self.together.level().min(ONE / 2)).max(1);
        match findings.arrived {
            Some(datagrams) if queued => arrived.min(
                datagrams
                    .saturating_mul(self.segment * 8)
                    .saturating_mul(100)
                    / (sure / 10_000),
            ),
            _ => arrived,
        }
    }

    fn prove(&mut self, findings: &Findings, actual: u64) {
        let excess = self.worst.excess(findings.middle);
        if excess == 0 {
            self.proven = self.proven.max(actual);
        } else {
            self.proven = self.proven.min(parts(actual, ONE - excess.min(ONE)));
        }
    }

    fn is_yielding(&self) -> bool {
        let share = |limit| self.rate <= parts(limit, self.share) / 100 * 102;
        self.limit.is_some_and(share)
    }

    /// The rate was raised to more than the path carries, or others are there.
    fn startup_congested(
        &mut self,
        now: Instant,
        (before, most): (u64, u64),
        doubts: u32,
        trouble: Trouble,
    ) {
        let most = most.max(trouble.delivered);
        let small = trouble.excess < SEVERE && !trouble.queued;
        // Most of it comes through, and more than before: the queue is that of others, who give way.
        let rises = !small
            && trouble.delivered / 5 * 4 > before
            && trouble.delivered > self.rate / 10 * 6
            && self.rate < self.ceiling;
        let patience = if self.measured > 0 {
            REMEASURE_ROUNDS
        } else {
            u32::from(small)
        };
        if rises {
            self.phase = Phase::Startup {
                before: trouble.delivered,
                most,
                doubts: 0,
            };
            self.rate = self.rate.saturating_mul(2);
            return;
        }
        if doubts < patience {
            self.phase = Phase::Startup {
                before,
                most,
                doubts: doubts + 1,
            };
            return;
        }
        self.note_cut(trouble.excess);
        // Beside others too little is measured, never too much.
        let known = self.measured / 10 * 9;
        if most / 3 * 2 > known {
            self.remeasure_wait = REMEASURE_FIRST;
        }
        (self.measured, self.measured_at) = (0, now);
        self.limit = Some(most.max(known).max(FLOOR));
        self.probe_wait = PROBE_SOON;
        self.drain(now, trouble.queue);
    }

    /// There is no more than this: our own doing.
    fn probe_congested(&mut self, now: Instant, from: u64, trouble: Trouble) {
        let limit = if trouble.excess >= SEVERE {
            trouble.delivered
        } else {
            let least = from / 100 * 98;
            trouble
                .delivered
                .clamp(least, (self.rate / 100 * 97).max(least))
        };
        self.probe_wait = if limit / 21 * 20 > from {
            PROBE_FIRST
        } else {
            (self.probe_wait * 2).clamp(PROBE_FIRST, PROBE_MOST)
        };
        self.note_cut(trouble.excess);
        self.limit = Some(limit.max(FLOOR));
        self.drain(now, trouble.queue);
        if trouble.excess == 0 {
            self.remeasure(now, limit);
        }
    }

    /// Congestion though the rate was not raised over the limit: others are there, or the path carries less than it
    /// did.
    fn yields(&mut self, now: Instant, trouble: Trouble) {
        let limit = self.limit.unwrap_or(self.rate);
        self.limit = Some(limit);
        let kept = parts(limit, self.share).min(self.rate);
        let at_share = self.is_yielding();
        if trouble.excess >= SEVERE {
            self.note_cut(trouble.excess);
            self.severe += 1;
            if at_share && self.severe >= SEVERE_ROUNDS {
                self.limit = Some(parts(limit, ONE.saturating_sub(trouble.excess)).max(FLOOR));
                self.rate = self.rate.min(trouble.delivered);
            } else {
                self.rate = self.rate.min(trouble.delivered.max(kept));
            }
            return;
        }
        self.severe = 0;
        if self.rate > limit / 10 * 9 && trouble.delivered < self.rate / 100 * 97 {
            self.limit = Some(trouble.delivered.max(limit / 100 * 95));
        } else if self.rate > limit / 100 * 96 {
            self.limit = Some(limit / 100 * 99);
        }
        if trouble.excess == 0 && trouble.falls {
            return;
        }
        self.crowded |= self.rate < limit / 10 * 9;
        // A TCP stream falls further at once, and rises later: who does neither pushes it aside.
        let stays = if self.crowded { 17 } else { 19 };
        self.rate = (self.rate / 20 * stays).max(kept);
        if trouble.excess == 0 {
            self.remeasure(now, limit);
        }
    }

    /// Others may hide the limit: where a queue alone tells of it, it is measured anew from time to time.
    fn remeasure(&mut self, now: Instant, limit: u64) {
        let since = now.saturating_duration_since(self.measured_at);
        if self.insists && self.crowded && since >= self.remeasure_wait {
            (self.phase, self.measured) = (STARTUP, limit);
            self.remeasure_wait = (self.remeasure_wait * 2).min(REMEASURE_MOST);
        }
    }

    fn note_cut(&mut self, excess: u64) {
        self.cut = (excess >= SEVERE).then_some(Cut {
            rate: self.rate,
            limit: self.limit,
            phase: match self.phase {
                Phase::Startup { .. } => STARTUP,
                _ => Phase::Cruise,
            },
            excess,
        });
    }

    /// Well below the limit until our queue is gone, or should be: after four times its length, and that of what was sent
    /// until now.
    fn drain(&mut self, now: Instant, queue: Duration) {
        let wait = (queue * 6 + DRAIN_ROUND * 2).min(DRAIN_MOST);
        self.phase = Phase::Drain { until: now + wait };
        self.rate = self.limit.unwrap_or(self.rate) / 4 * 3;
    }

    fn cruise(&mut self, now: Instant) {
        (self.phase, self.probed) = (Phase::Cruise, now);
        self.rate = self.near_limit();
    }

    /// As near to the limit as leaves no queue.
    fn near_limit(&self) -> u64 {
        match self.limit {
            Some(limit) if limit < self.ceiling => limit / 100 * 98,
            _ => self.ceiling,
        }
    }

    /// Additively, up to the limit; from time to time over it.
    fn grow(&mut self, now: Instant) {
        let Some(limit) = self.limit else {
            self.phase = STARTUP;
            return;
        };
        let near = self.near_limit();
        if self.rate < near {
            let patience = if self.crowded { 3 } else { 1 };
            let steps = CLEAN
                .iter()
                .find(|&&(rounds, _)| self.clean > rounds * patience);
            if let Some((_, steps)) = steps {
                self.rate = (self.rate + limit / steps).min(near);
            }
            self.probed = now;
            return;
        }
        // So near to the limit without a queue: there is nobody else.
        self.crowded = false;
        if self.rate < self.ceiling && now.saturating_duration_since(self.probed) >= self.probe_wait
        {
            self.phase = Phase::Probe { from: limit };
            self.rate = limit;
        }
    }

    /// The probe's rate was not too much.
    fn probe(&mut self, from: u64, queue: Duration) {
        self.limit = self.limit.map(|limit| limit.max(self.rate));
        if self.rate / 23 * 20 > from {
            // The path has changed.
            (self.phase, self.limit, self.probe_wait) = (STARTUP, None, PROBE_FIRST);
        } else {
            let again = if self.probe_wait == PROBE_SOON && queue <= QUEUE / 4 {
                self.rate.saturating_sub(from)
            } else {
                0
            };
            self.rate += from / 50 + again;
        }
    }
}

/// What congestion a round has shown.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Loss above the baseline, or what clients could not take, in parts in a million.
    excess: u64,
    /// Bits a second that arrived.
    delivered: u64,
    queue: Duration,
    queued: bool,
    /// The queue was longer the round before.
    falls: bool,
}

/// The shortest time under way in the last one to two windows.
#[derive(Debug)]
struct Base {
    since: Instant,
    least: Option<Duration>,
    before: Option<Duration>,
}

impl Base {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            least: None,
            before: None,
        }
    }

    fn learn(&mut self, now: Instant, age: Duration) {
        if now.saturating_duration_since(self.since) >= BASE_WINDOW {
            (self.since, self.before, self.least) = (now, self.least, None);
        }
        self.least = Some(self.least.map_or(age, |least| least.min(age)));
    }

    fn least(&self) -> Duration {
        let all = [self.least, self.before];
        all.into_iter().flatten().min().unwrap_or_default()
    }
}

/// Clients whose loss does not count, the worst ones: of so many that are there, and so many that have reported.
fn left_out(population: usize, reporting: usize) -> usize {
    match population {
        0..3 => 0,
        _ => reporting.div_ceil(10).max(1),
    }
}

/// Parts in a million.
fn part(some: u64, all: u64) -> u64 {
    some.min(all) * ONE / all.max(1)
}

/// So many parts in a million of a number.
fn parts(number: u64, part: u64) -> u64 {
    let product = u128::from(number) * u128::from(part) / u128::from(ONE);
    u64::try_from(product).unwrap_or(u64::MAX)
}
