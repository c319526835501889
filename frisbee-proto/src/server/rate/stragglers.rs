//! Who loses far more than the others. This is judged by the last datagrams that each has told of, in whatever round they
//! were sent: who is behind a full port hears of them when the rounds of a fast room are over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{ONE, left_out, part};

/// Clients that are looked at, those that were there first.
const MOST: usize = 256;
/// Who has told of nothing for so long is forgotten.
const SILENT: Duration = Duration::from_secs(3);
/// Datagrams after which older ones count half or less: a third of a second at 100 Mbit/s.
const MEMORY: u64 = 4096;
/// Datagrams that tell loss from chance.
const LEAST: u64 = 128;
/// Who loses so much more than twice what the worst of those loses that count is left behind.
const BEHIND: u64 = ONE / 10;

#[derive(Debug)]
struct Told {
    all: u64,
    lost: u64,
    last: Instant,
    behind: bool,
}

#[derive(Debug, Default)]
pub(super) struct Stragglers {
    clients: BTreeMap<u64, Told>,
}

impl Stragglers {
    /// A client tells what has become of some datagrams.
    pub(super) fn report(&mut self, now: Instant, client: u64, received: u64, lost: u64) {
        if !self.clients.contains_key(&client) && self.clients.len() >= MOST {
            return;
        }
        let told = self.clients.entry(client).or_insert(Told {
            all: 0,
            lost: 0,
            last: now,
            behind: false,
        });
        told.last = now;
        told.all += received + lost;
        told.lost += lost;
        while told.all > MEMORY {
            (told.all, told.lost) = (told.all / 2, told.lost / 2);
        }
    }

    /// A client has left.
    pub(super) fn leave(&mut self, client: u64) {
        self.clients.remove(&client);
    }

    /// Judges everybody anew.
    pub(super) fn judge(&mut self, now: Instant) {
        self.clients
            .retain(|_, told| now.saturating_duration_since(told.last) < SILENT);
        let judged = self.clients.values().filter(|told| told.all >= LEAST);
        let mut losses: Vec<u64> = judged.map(|told| part(told.lost, told.all)).collect();
        losses.sort_unstable_by_key(|&loss| std::cmp::Reverse(loss));
        let counts = losses.get(left_out(losses.len(), losses.len()));
        let Some(most) = counts.map(|worst| worst * 2 + BEHIND) else {
            return;
        };
        for told in self.clients.values_mut() {
            told.behind = told.all >= LEAST && part(told.lost, told.all) > most;
        }
    }

    /// Whether this client is among those that do not count, and loses far more than the others.
    pub(super) fn is_behind(&self, client: u64) -> bool {
        self.clients.get(&client).is_some_and(|told| told.behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is behind of clients that lose so many of a thousand datagrams.
    fn behind(lost: &[u64]) -> Vec<u64> {
        let now = Instant::now();
        let mut stragglers = Stragglers::default();
        for (client, &lost) in (0..).zip(lost) {
            for _ in 0..10 {
                stragglers.report(now, client, 100 - lost / 10, lost / 10);
            }
        }
        stragglers.judge(now);
        let clients = 0..lost.len() as u64;
        clients
            .filter(|&client| stragglers.is_behind(client))
            .collect()
    }

    #[test]
    fn the_worst_is_behind_if_it_loses_far_more() {
        assert_eq!(behind(&[0, 750, 0, 0]), [1]);
        assert_eq!(behind(&[0, 90, 0, 0]), [], "not far more");
        assert_eq!(behind(&[0, 750]), [], "of two both count");
        assert_eq!(behind(&[750, 750, 750, 0]), [], "the network's loss");
        assert_eq!(behind(&[300, 750, 300, 300]), [1]);
        assert_eq!(behind(&[300, 690, 300, 300]), []);
    }

    #[test]
    fn it_is_forgiven_and_forgotten() {
        let now = Instant::now();
        let mut stragglers = Stragglers::default();
        let mut tell = |now, lost: u64| {
            for client in 0..4 {
                let lost = if client == 3 { lost } else { 0 };
                for _ in 0..50 {
                    stragglers.report(now, client, 100 - lost, lost);
                }
            }
            stragglers.judge(now);
            stragglers.is_behind(3)
        };
        assert!(!tell(now, 0) && tell(now, 90) && tell(now, 90));
        tell(now, 0);
        assert!(!tell(now, 0));
        assert!(tell(now, 90));
        stragglers.judge(now + SILENT);
        assert!(!stragglers.is_behind(3));
    }

    #[test]
    fn no_more_are_kept_than_that() {
        let now = Instant::now();
        let mut stragglers = Stragglers::default();
        for client in 0..10_000 {
            stragglers.report(now, client, u64::from(u32::MAX), u64::from(u32::MAX));
        }
        assert_eq!(stragglers.clients.len(), MOST);
    }
}
