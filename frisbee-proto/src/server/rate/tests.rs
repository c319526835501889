use std::time::{Duration, Instant};

use super::*;

/// A path without delay that delivers at most so much to each client, and clients that report each 20 ms.
struct Path {
    now: Instant,
    rate: Rate,
    next: u64,
}

impl Path {
    fn new(ceiling: Option<u64>) -> Self {
        let now = Instant::now();
        let config = ServerConfig {
            ceiling,
            ..ServerConfig::default()
        };
        Self {
            now,
            rate: Rate::new(now, &config),
            next: 1000,
        }
    }

    /// Sends at the rate for a time. `tell` makes of the number of datagrams in 20 ms what each client tells.
    fn run(&mut self, time: Duration, mut tell: impl FnMut(u32) -> Vec<RequestHead>) {
        let end = self.now + time;
        while self.now < end {
            let mut all = 0;
            for _ in 0..20 {
                self.now += Duration::from_millis(1);
                self.rate.update(self.now);
                let bytes = self.rate.rate() / 8000;
                let datagrams = (bytes / 1138).max(1);
                self.next += datagrams;
                all += u32::try_from(datagrams).unwrap();
                self.rate.sent(self.now, self.next, datagrams, bytes);
            }
            for head in tell(all) {
                self.rate.report(self.now, &head, self.next);
            }
        }
    }
}

/// A client that loses so many percent.
fn loses(client: u64, all: u32, percent: u32) -> RequestHead {
    let lost = all * percent / 100;
    RequestHead {
        client,
        received: all - lost,
        lost,
        ..RequestHead::default()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_ceiling_holds_and_silence_halves_down_to_the_floor() {
    let mut path = Path::new(Some(50_000_000));
    path.run(seconds(5), |all| vec![loses(1, all, 0)]);
    assert_eq!(path.rate.rate(), 50_000_000);
    path.run(seconds(2), |_| Vec::new());
    assert!(path.rate.rate() <= 25_000_000, "{}", path.rate.rate());
    path.run(seconds(30), |_| Vec::new());
    let proven = 50_000_000 / FLOOR_PART;
    assert!((FLOOR..=proven).contains(&path.rate.rate()));
}

#[test]
fn one_of_many_that_tells_of_loss_slows_nobody() {
    for liar in [5, 30, 100] {
        let mut path = Path::new(Some(50_000_000));
        path.run(seconds(10), |all| {
            (0..10)
                .map(|client| loses(client, all, if client == 7 { liar } else { 0 }))
                .collect()
        });
        assert_eq!(path.rate.rate(), 50_000_000, "{liar} %");
    }
}

#[test]
fn whoever_says_that_all_is_lost_cannot_stop_it() {
    let mut path = Path::new(Some(50_000_000));
    path.run(seconds(2), |all| vec![loses(1, all, 0)]);
    path.run(seconds(20), |all| {
        let true_ones = (0..9).map(|client| loses(client, all, 0));
        let forged = (100..108).map(|client| loses(client, all, 100));
        true_ones.chain(forged).collect()
    });
    let least = 50_000_000 / FLOOR_PART / 2;
    assert!(path.rate.rate() >= least, "{}", path.rate.rate());
}

#[test]
fn a_disk_that_takes_half_gets_about_half() {
    let most = 25_000_000_u64;
    let mut path = Path::new(Some(50_000_000));
    let mut taken = Vec::new();
    for _ in 0..20 {
        let rate = path.rate.rate();
        path.run(Duration::from_millis(500), |all| {
            let room = u32::try_from(most / 50 / 8 / 1138).unwrap();
            let no_buffer = all.saturating_sub(room);
            vec![RequestHead {
                no_buffer,
                ..loses(1, all, 0)
            }]
        });
        taken.push(rate);
    }
    let late = &taken[10..];
    let mean = late.iter().sum::<u64>() / late.len() as u64;
    assert!((most / 2..most / 10 * 13).contains(&mean), "{taken:?}");
}
