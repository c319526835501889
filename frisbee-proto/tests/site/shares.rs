//! One rate for all that a process sends.

use std::time::Duration;

use frisbee_proto::{ServiceConfig, Unicast};

use crate::hall::{Hall, place};
use frisbee_sim::Golden;

#[test]
fn images_have_equal_shares_of_the_rate_and_one_alone_has_it_all() {
    for rate in [20_000_000, 200_000_000, 2_000_000_000_u64] {
        // 3 images of equal size, one of them wanted by three clients: that is no reason for more.
        let goldens: Vec<_> = (0..3).map(|seed| Golden::usual(12, seed)).collect();
        let mut hall = Hall::new(rate);
        hall.desk(
            &goldens.iter().collect::<Vec<_>>(),
            Some(rate),
            ServiceConfig::default(),
        );
        for golden in [
            &goldens[0],
            &goldens[1],
            &goldens[2],
            &goldens[0],
            &goldens[0],
        ] {
            hall.guest(golden, Unicast::Never);
        }
        let alone = goldens[0].blocks() as f64 * 1122.0 * 8.0 / rate as f64;
        hall.run_for(Duration::from_secs_f64(alone * 1.5));
        let sent: Vec<u64> = hall.desks[0]
            .site
            .services()
            .iter()
            .map(|service| service.stats().wire_bytes)
            .collect();
        let (most, least) = (*sent.iter().max().unwrap(), *sent.iter().min().unwrap());
        // At the highest rate the beginning counts: 15 ms of 80.
        assert!(least * 100 > most * 75, "{rate}: {sent:?}");
        hall.run();
        let took = hall.time().as_secs_f64();
        assert!(
            took < alone * 3.0 * 1.06 + 0.1,
            "{rate}: {took} for 3 x {alone}"
        );
    }
}

#[test]
fn what_one_image_does_not_use_the_others_have() {
    let goldens: Vec<_> = (0..3).map(|seed| Golden::usual(12, seed)).collect();
    let mut hall = Hall::new(1);
    let rate = 200_000_000;
    hall.desk(
        &goldens.iter().collect::<Vec<_>>(),
        Some(rate),
        ServiceConfig::default(),
    );
    hall.guest(&goldens[1], Unicast::Never);
    hall.run();
    let alone = goldens[1].blocks() as f64 * 1122.0 * 8.0 / rate as f64;
    let took = hall.time().as_secs_f64();
    assert!(took < alone * 1.05 + 0.05, "{took} for {alone}");
}

#[test]
fn lanes_leave_the_group_half_of_the_rate() {
    let golden = Golden::usual(20, 1);
    let mut hall = Hall::new(1);
    let rate = 100_000_000;
    hall.desk(&[&golden], Some(rate), ServiceConfig::default());
    for _ in 0..6 {
        let guest = hall.guest(&golden, Unicast::Always(place(0, 0)));
        hall.guests[guest].hears_group = false;
    }
    let near = hall.guest(&golden, Unicast::Never);
    hall.run();
    let alone = golden.blocks() as f64 * 1122.0 * 8.0 / rate as f64;
    let took = hall.guests[near].finished.unwrap().as_secs_f64();
    assert!(took < alone * 2.1 + 0.1, "{took} for {alone}");
    // Among themselves they are equal.
    let sent: Vec<u64> = hall.desks[0].to.values().copied().collect();
    let (most, least) = (*sent.iter().max().unwrap(), *sent.iter().min().unwrap());
    assert!(least * 100 > most * 90, "{sent:?}");
}

#[test]
fn a_server_that_nobody_asks_is_silent_but_for_one_announce_a_second() {
    let goldens: Vec<_> = (0..2).map(|seed| Golden::usual(3, seed)).collect();
    let mut hall = Hall::new(1);
    hall.desk(
        &goldens.iter().collect::<Vec<_>>(),
        Some(1_000_000_000),
        ServiceConfig::default(),
    );
    hall.run_for(Duration::from_secs(5));
    let before: Vec<_> = hall.desks[0]
        .site
        .services()
        .iter()
        .map(frisbee_proto::Service::stats)
        .collect();
    hall.run_for(Duration::from_secs(100));
    for (service, before) in hall.desks[0].site.services().iter().zip(before) {
        let stats = service.stats();
        assert_eq!(stats.datagrams - before.datagrams, 100);
        assert_eq!(stats.announces - before.announces, 100);
    }
    assert_eq!(hall.desks[0].loads, 0);
}
