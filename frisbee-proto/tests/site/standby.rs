//! Servers that wait for the end of another one.

use std::time::Duration;

use frisbee_proto::{ServiceConfig, Unicast};

use crate::hall::{Hall, place};
use frisbee_sim::Golden;

const RATE: Option<u64> = Some(100_000_000);

fn waiting() -> ServiceConfig {
    ServiceConfig {
        standby: true,
        ..ServiceConfig::default()
    }
}

#[test]
fn a_standby_is_silent_takes_over_and_steps_back() {
    for seed in 0..10 {
        let golden = Golden::usual(30, seed);
        let mut hall = Hall::new(seed);
        let primary = hall.desk(&[&golden], RATE, ServiceConfig::default());
        let standby = hall.desk(&[&golden], RATE, waiting());
        for _ in 0..3 {
            let guest = hall.guest(&golden, Unicast::Never);
            hall.guests[guest].loses = 0.02;
        }
        hall.run_for(Duration::from_millis(1500));
        assert_eq!(hall.desks[standby].sent, 0, "seed {seed}");
        hall.desks[primary].up = false;
        let killed = hall.time();
        hall.run();
        let [(at, silence)] = hall.desks[standby].took_over[..] else {
            panic!("seed {seed}: {:?}", hall.desks[standby].took_over);
        };
        assert!(at - killed < Duration::from_secs(3), "seed {seed}: {at:?}");
        assert!(silence < Duration::from_secs(3), "seed {seed}: {silence:?}");
        let stats = hall.desks[standby].site.services()[0].stats();
        assert!(stats.parity_blocks > 0, "seed {seed}: {stats:?}");
        let sent = stats.blocks;
        assert!(sent < golden.blocks() * 7 / 10, "seed {seed}: {sent} again");

        // The primary is back, as another run.
        let again = hall.desk(&[&golden], RATE, ServiceConfig::default());
        hall.run_for(Duration::from_secs(5));
        assert_eq!(hall.desks[standby].stepped_back, 1, "seed {seed}");
        let before = hall.desks[standby].sent;
        hall.guest(&golden, Unicast::Never);
        hall.run();
        assert_eq!(hall.desks[standby].sent, before, "seed {seed}");
        assert!(hall.desks[again].sent > 0);
    }
}

#[test]
fn a_standby_that_is_alone_serves_and_of_two_only_one() {
    for seed in 0..10 {
        let golden = Golden::usual(10, seed);
        let mut hall = Hall::new(seed);
        hall.desk(&[&golden], RATE, waiting());
        hall.desk(&[&golden], RATE, waiting());
        hall.guest(&golden, Unicast::Never);
        hall.run();
        hall.run_for(Duration::from_secs(10));
        let quiet = |desk: usize| hall.desks[desk].site.services()[0].is_quiet();
        assert!(quiet(0) != quiet(1), "seed {seed}");
    }
}

#[test]
fn another_image_on_the_group_is_no_reason_to_be_silent() {
    let (golden, other) = (Golden::usual(5, 1), Golden::usual(5, 2));
    let mut hall = Hall::new(1);
    hall.desk(&[&other], RATE, ServiceConfig::default());
    hall.desk(&[&golden], RATE, waiting());
    hall.guest(&golden, Unicast::Never);
    hall.run();
}

#[test]
fn a_standby_serves_who_names_it() {
    let golden = Golden::usual(5, 1);
    let mut hall = Hall::new(1);
    hall.desk(&[&golden], RATE, ServiceConfig::default());
    let standby = hall.desk(&[&golden], RATE, waiting());
    let guest = hall.guest(&golden, Unicast::Always(place(standby, 0)));
    hall.guests[guest].hears_group = false;
    hall.run();
    assert!(hall.desks[standby].site.services()[0].is_quiet());
}

#[test]
fn servers_that_are_gone_for_a_minute() {
    for seed in 0..10 {
        let golden = Golden::usual(20, seed);
        let mut hall = Hall::new(seed);
        hall.desk(&[&golden], RATE, ServiceConfig::default());
        for _ in 0..3 {
            hall.guest(&golden, Unicast::Never);
        }
        hall.run_for(Duration::from_secs(1));
        hall.desks[0].up = false;
        hall.run_for(Duration::from_secs(60));
        hall.desk(&[&golden], RATE, ServiceConfig::default());
        hall.run();
        let after = hall.time() - Duration::from_secs(61);
        assert!(after < Duration::from_secs(3), "seed {seed}: {after:?}");
    }
}
