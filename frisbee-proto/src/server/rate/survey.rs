//! What the clients say about the datagrams that were sent at one rate.
//!
//! A sample of the clients is kept, those that were there first: who comes later with many numbers does not drive them
//! out. Each counts once, however often it reports. The worst tenth, and one of three and more, is left out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::baseline::Loss;
use super::timeline::Timeline;
use super::{left_out, part};
use crate::wire::RequestHead;

/// Clients in the sample.
const MOST: usize = 256;
/// A client that has told of no round for so long has left it.
const SILENT: Duration = Duration::from_secs(3);
/// Datagrams that a client has to tell of to be heard.
const LEAST_DATAGRAMS: u64 = 16;

#[derive(Debug)]
struct Client {
    /// Its last report: when, and what it had heard.
    last: (Instant, u64),
    /// The first one of this round.
    first: Option<(Instant, u64)>,
    /// How much arrives in a second is known.
    measured: bool,
    /// Datagrams of this round, and those of them that it lost, or had no buffer for, or was too busy for.
    all: u64,
    lost: u64,
    overload: u64,
    /// Datagrams received after the first report.
    arrived: u64,
    /// The shortest time under way.
    age: Option<Duration>,
}

/// What a round has shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Findings {
    /// Loss of all clients together that count.
    pub(super) together: Loss,
    /// Loss of the worst one that counts.
    pub(super) worst: Loss,
    /// Loss of the one in the middle.
    pub(super) middle: Loss,
    /// What the most overloaded one that counts could not take, in parts in a million.
    pub(super) overload: u64,
    /// What one received that is slower than three quarters, in datagrams a second.
    pub(super) arrived: Option<u64>,
    /// How long datagrams are under way, with queues: less for a quarter of the clients.
    pub(super) age: Duration,
}

#[derive(Debug)]
pub(super) struct Survey {
    clients: BTreeMap<u64, Client>,
    timeline: Timeline,
    /// The first datagram of the stream.
    stream: Option<u64>,
    /// The first datagram of this round.
    first: u64,
    next: u64,
    /// Clients that have told of enough of it, and those whose reports show how much arrives in a second.
    reporting: usize,
    measured: usize,
}

impl Survey {
    pub(super) fn new() -> Self {
        Self {
            clients: BTreeMap::new(),
            timeline: Timeline::default(),
            stream: None,
            first: 0,
            next: 0,
            reporting: 0,
            measured: 0,
        }
    }

    /// So many datagrams have left, the last one before `next`.
    pub(super) fn sent(&mut self, now: Instant, next: u64, datagrams: u64) {
        if self.stream.is_none() {
            self.first = next.saturating_sub(datagrams);
            self.stream = Some(self.first);
        }
        self.next = next;
        self.timeline.sent(now, next);
    }

    /// Whether a client that has heard everything before `heard` can have so much to tell.
    pub(super) fn is_possible(&self, head: &RequestHead, heard: u64) -> bool {
        let possible = self.stream.map_or(0, |stream| heard.saturating_sub(stream));
        // Late ones and repeated ones are counted as well.
        heard <= self.next && told(head) <= possible * 2 + LEAST_DATAGRAMS
    }

    /// A client that has heard everything before `heard` tells of its last datagrams, as far as that is possible.
    pub(super) fn report(&mut self, now: Instant, head: &RequestHead, heard: u64) {
        let all = told(head);
        // What it tells of was sent in this round, for the most part.
        if all == 0 || heard.saturating_sub(all / 2) < self.first {
            return;
        }
        if !self.clients.contains_key(&head.client) && self.clients.len() >= MOST {
            return;
        }
        let client = self.clients.entry(head.client).or_insert(Client {
            last: (now, heard),
            measured: false,
            first: None,
            all: 0,
            lost: 0,
            overload: 0,
            arrived: 0,
            age: None,
        });
        client.last = (now, heard.max(client.last.1));
        match client.first {
            Some(_) => client.arrived += u64::from(head.received),
            None => client.first = Some((now, heard)),
        }
        let before = client.all;
        if before + all > (self.next - self.first) * 2 + LEAST_DATAGRAMS {
            return;
        }
        client.all += all;
        client.lost += u64::from(head.lost);
        let overload = head.dropped.saturating_add(head.no_buffer);
        client.overload += u64::from(overload);
        let age = self.timeline.age(now, heard);
        client.age = Some(client.age.map_or(age, |least| least.min(age)));
        let enough = before < LEAST_DATAGRAMS && client.all >= LEAST_DATAGRAMS;
        self.reporting += usize::from(enough);
        let measured = client.arrived().is_some() && !std::mem::replace(&mut client.measured, true);
        self.measured += usize::from(measured);
    }

    /// A client has left: it says nothing any more, and is not waited for.
    pub(super) fn leave(&mut self, client: u64) {
        if let Some(client) = self.clients.remove(&client) {
            self.reporting -= usize::from(client.all >= LEAST_DATAGRAMS);
            self.measured -= usize::from(client.measured);
        }
    }

    /// Clients that were heard lately, at most those of the sample.
    fn population(&self) -> usize {
        self.clients.len()
    }

    /// Whether enough clients have told of this round, and it has so many datagrams.
    pub(super) fn is_enough(&self, datagrams: u64) -> bool {
        self.next - self.first >= datagrams
            && self.measured > self.left_out()
            && self.measured >= self.population().div_ceil(2)
    }

    /// Whether anybody that counts has told of this round.
    pub(super) fn is_some(&self) -> bool {
        self.reporting > self.left_out()
    }

    /// Clients that do not count.
    fn left_out(&self) -> usize {
        left_out(self.population(), self.reporting)
    }

    /// The findings of the round that ends now; another one begins.
    pub(super) fn finish(&mut self, now: Instant) -> Option<Findings> {
        let findings = self.is_some().then(|| self.findings());
        self.clients
            .retain(|_, client| now.saturating_duration_since(client.last.0) < SILENT);
        for client in self.clients.values_mut() {
            (client.all, client.lost, client.overload, client.arrived) = (0, 0, 0, 0);
            (client.first, client.age, client.measured) = (None, None, false);
        }
        (self.first, self.reporting, self.measured) = (self.next, 0, 0);
        findings
    }

    fn findings(&self) -> Findings {
        let left_out = self.left_out();
        let reporting = || {
            let all = self.clients.values();
            all.filter(|client| client.all >= LEAST_DATAGRAMS)
        };
        let mut losses: Vec<Loss> = reporting()
            .map(|client| Loss {
                part: client.loss(),
                datagrams: client.all,
            })
            .collect();
        losses.sort_unstable_by_key(|loss| std::cmp::Reverse((loss.part, loss.datagrams)));
        let counting = losses.get(left_out..).unwrap_or_default();
        let datagrams = counting.iter().map(|loss| loss.datagrams).sum::<u64>();
        let lost = counting
            .iter()
            .map(|loss| loss.part * loss.datagrams)
            .sum::<u64>();
        let mut overloads: Vec<u64> = reporting()
            .map(|client| part(client.overload, client.all))
            .collect();
        overloads.sort_unstable_by_key(|&part| std::cmp::Reverse(part));
        let mut arrived: Vec<u64> = reporting().filter_map(Client::arrived).collect();
        arrived.sort_unstable();
        let mut ages: Vec<Duration> = reporting().filter_map(|client| client.age).collect();
        ages.sort_unstable();
        Findings {
            together: Loss {
                part: lost / datagrams.max(1),
                datagrams,
            },
            worst: counting.first().copied().unwrap_or_default(),
            middle: losses.get(losses.len() / 2).copied().unwrap_or_default(),
            overload: overloads.get(left_out).copied().unwrap_or_default(),
            arrived: arrived.get(left_out.max(arrived.len() / 4)).copied(),
            age: ages.get(ages.len() / 4).copied().unwrap_or_default(),
        }
    }
}

/// Datagrams that a report is about.
fn told(head: &RequestHead) -> u64 {
    u64::from(head.received) + u64::from(head.lost)
}

impl Client {
    /// The part that it lost in this round.
    fn loss(&self) -> u64 {
        part(self.lost, self.all)
    }

    /// Datagrams a second that it received in this round.
    fn arrived(&self) -> Option<u64> {
        let ((from, first), (to, last)) = (self.first?, self.last);
        let micros = u64::try_from(to.saturating_duration_since(from).as_micros()).ok()?;
        (micros >= 10_000 && last.saturating_sub(first) >= LEAST_DATAGRAMS)
            .then(|| self.arrived.saturating_mul(1_000_000) / micros)
    }
}
