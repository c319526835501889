//! Clients that are served at their own addresses.

use std::time::Duration;

use frisbee_proto::{ServiceConfig, Unicast};

use crate::hall::{Hall, place};
use frisbee_sim::Golden;

const RATE: Option<u64> = Some(200_000_000);

const FALLBACK: Unicast = Unicast::Fallback {
    server: None,
    after: Duration::from_secs(3),
};

#[test]
fn a_single_client_without_multicast() {
    let golden = Golden::usual(20, 1);
    let mut hall = Hall::new(1);
    hall.desk(&[&golden], RATE, ServiceConfig::default());
    let guest = hall.guest(&golden, Unicast::Always(place(0, 0)));
    hall.guests[guest].hears_group = false;
    hall.run();
    let alone = golden.blocks() as f64 * 1122.0 * 8.0 / 200e6;
    let took = hall.time().as_secs_f64();
    assert!(took < alone * 1.05 + 0.05, "{took} for {alone}");
    let service = &hall.desks[0].site.services()[0];
    let sent = service.stats().blocks as f64 / golden.blocks() as f64;
    assert!(sent < 1.01, "{sent} sent for each block");
    assert_eq!(service.lane_stats().challenges, 1);
    // It said that it is done.
    hall.run_for(Duration::from_secs(1));
    assert_eq!(hall.desks[0].site.services()[0].lane_stats().open, 0);
}

#[test]
fn the_port_says_which_of_several_images_is_meant() {
    let goldens = [Golden::usual(6, 1), Golden::usual(8, 2)];
    let mut hall = Hall::new(2);
    hall.desk(
        &goldens.iter().collect::<Vec<_>>(),
        RATE,
        ServiceConfig::default(),
    );
    for (image, golden) in goldens.iter().enumerate() {
        let guest = hall.guest(golden, Unicast::Always(place(0, image)));
        hall.guests[guest].hears_group = false;
    }
    hall.run();
}

#[test]
fn a_client_that_multicast_does_not_reach_falls_back() {
    let golden = Golden::usual(20, 3);
    let mut hall = Hall::new(3);
    hall.desk(&[&golden], RATE, ServiceConfig::default());
    let named = Unicast::Fallback {
        server: Some(place(0, 0)),
        after: Duration::from_secs(3),
    };
    let far = hall.guest(&golden, named);
    hall.guests[far].hears_group = false;
    let near = hall.guest(&golden, named);
    hall.run();
    assert!(hall.guests[near].finished.unwrap() < Duration::from_secs(2));
    let late = hall.guests[far].finished.unwrap();
    assert!(
        late > Duration::from_secs(3) && late < Duration::from_secs(6),
        "{late:?}"
    );
    assert!(hall.guests[far].has_lane() || hall.guests[far].finished.is_some());
}

/// As where a switch forgets who is in the group: it works at first, then nothing comes.
#[test]
fn a_straggler_asks_the_server_that_it_has_heard_and_goes_back_when_the_group_is_there_again() {
    for seed in 0..8 {
        let golden = Golden::usual(60, seed);
        let mut hall = Hall::new(seed);
        let rate = Some(40_000_000);
        hall.desk(&[&golden], rate, ServiceConfig::default());
        let guests: Vec<usize> = (0..4).map(|_| hall.guest(&golden, FALLBACK)).collect();
        hall.run_for(Duration::from_secs(1));
        hall.guests[guests[0]].hears_group = false;
        hall.run_for(Duration::from_millis(4500));
        assert!(hall.guests[guests[0]].has_lane(), "seed {seed}");
        let before = hall.guests[guests[0]].objects();
        hall.run_for(Duration::from_secs(2));
        assert!(hall.guests[guests[0]].objects() > before, "seed {seed}");
        hall.guests[guests[0]].hears_group = true;
        hall.run_for(Duration::from_secs(2));
        assert!(!hall.guests[guests[0]].has_lane(), "seed {seed}");
        assert_eq!(hall.desks[0].site.services()[0].lane_stats().open, 0);
        hall.run();
    }
}

#[test]
fn a_lane_survives_the_server_and_an_absence_of_a_minute() {
    for seed in 0..8 {
        let golden = Golden::usual(20, seed);
        let mut hall = Hall::new(seed);
        hall.desk(&[&golden], RATE, ServiceConfig::default());
        let guest = hall.guest(&golden, Unicast::Always(place(0, 0)));
        hall.guests[guest].hears_group = false;
        hall.run_for(Duration::from_millis(500));
        hall.desks[0].up = false;
        hall.run_for(Duration::from_secs(60));
        let before = hall.guests[guest].objects();
        // Another run at the same address, which knows nothing of the lane.
        let again = hall.desk(&[&golden], RATE, ServiceConfig::default());
        hall.desks.swap(0, again);
        hall.run();
        let sent = hall.desks[0].site.services()[0].stats().blocks;
        assert!(before > 0 && sent < golden.blocks(), "seed {seed}");
        let after = hall.time() - Duration::from_millis(60_500);
        assert!(
            after < Duration::from_millis(2600),
            "seed {seed}: {after:?}"
        );
    }
}

#[test]
fn a_client_whose_cable_was_out_for_a_minute() {
    for unicast in [FALLBACK, Unicast::Always(place(0, 0))] {
        let golden = Golden::usual(20, 5);
        let mut hall = Hall::new(5);
        hall.desk(&[&golden], RATE, ServiceConfig::default());
        let guest = hall.guest(&golden, unicast);
        hall.run_for(Duration::from_millis(500));
        hall.guests[guest].cut_off = true;
        hall.run_for(Duration::from_secs(60));
        assert_eq!(hall.desks[0].site.services()[0].lane_stats().open, 0);
        hall.guests[guest].cut_off = false;
        hall.run();
        let after = hall.time() - Duration::from_millis(60_500);
        assert!(
            after < Duration::from_millis(3500),
            "{unicast:?}: {after:?}"
        );
    }
}

#[test]
fn objects_are_read_once_for_all_lanes() {
    let golden = Golden::usual(20, 6);
    let mut hall = Hall::new(6);
    hall.desk(&[&golden], RATE, ServiceConfig::default());
    for _ in 0..8 {
        let guest = hall.guest(&golden, Unicast::Always(place(0, 0)));
        hall.guests[guest].hears_group = false;
    }
    hall.run();
    let loads = hall.desks[0].loads;
    assert!(
        loads < 2 * golden.objects.len() as u64,
        "{loads} objects read"
    );
}

#[test]
fn parity_is_computed_for_the_group_and_all_lanes_together() {
    for seed in 0..2 {
        let golden = Golden::usual(12, seed);
        let mut hall = Hall::new(seed);
        hall.desk(&[&golden], RATE, ServiceConfig::default());
        for number in 0..6 {
            let alone = number < 3;
            let unicast = match alone {
                true => Unicast::Always(place(0, 0)),
                false => Unicast::Never,
            };
            let guest = hall.guest(&golden, unicast);
            hall.guests[guest].hears_group = !alone;
            hall.guests[guest].loses = 0.03;
        }
        hall.run();
        let stats = hall.desks[0].site.services()[0].stats();
        let (encodes, objects) = (hall.desks[0].encodes, golden.objects.len() as u64);
        let streams = (stats.blocks + stats.parity_blocks) as f64 / golden.blocks() as f64;
        println!(
            "seed {seed}: {encodes} of {objects} encoded, {stats:?}, {streams:.3} images sent"
        );
        assert_eq!(stats.load_failures, 0, "seed {seed}");
        assert!(stats.parity_blocks > 0, "seed {seed}");
        assert!(encodes < 2 * objects, "seed {seed}: {encodes} encoded");
        // One to the group and three to lanes, each repaired; a lane repeats what it lost, 1 / (1 - p).
        assert!(streams < 4.0 * 1.08, "seed {seed}: {streams} images sent");
    }
}
