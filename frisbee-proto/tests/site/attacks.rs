//! What strangers send to a server that serves single addresses.

use std::net::SocketAddr;
use std::time::Duration;

use frisbee_proto::wire::{Item, RequestHead, RequestItems, Stream};
use frisbee_proto::{ServiceConfig, Unicast};

use crate::hall::{Hall, place};
use frisbee_sim::Golden;

const RATE: u64 = 100_000_000;

fn request(uuid: [u8; 16], token: u64, objects: u32) -> Vec<u8> {
    let mut items = RequestItems::default();
    for object in 1..=objects {
        assert!(items.push(&Item::Whole { object }));
    }
    let head = RequestHead {
        client: 1,
        unicast: true,
        token,
        ..RequestHead::default()
    };
    items.encode(&Stream { number: 0, uuid }, 0, &head)
}

#[test]
fn an_unproven_address_gets_less_than_was_sent_in_its_name() {
    let golden = Golden::usual(30, 1);
    let mut hall = Hall::new(1);
    hall.desk(&[&golden], Some(RATE), ServiceConfig::default());
    let victim = SocketAddr::from(([10, 9, 9, 9], 53));
    for (uuid, token, objects) in [
        ([0; 16], 0, 0),
        (golden.image.uuid, 0, 30),
        (golden.image.uuid, 77, 30),
        ([0; 16], u64::MAX, 0),
    ] {
        let before = hall.desks[0].to.get(&victim).copied().unwrap_or(0);
        let datagram = request(uuid, token, objects);
        let asked = 1000 * (datagram.len() as u64 + 66);
        for _ in 0..1000 {
            hall.send(0, 0, victim, datagram.clone());
            hall.run_for(Duration::from_millis(2));
        }
        let sent = hall.desks[0].to.get(&victim).copied().unwrap_or(0) - before;
        assert!(sent > 0, "nobody could get a lane");
        assert!(sent < asked, "{sent} bytes for {asked}");
    }
    // And nothing is left of it.
    let service = &hall.desks[0].site.services()[0];
    assert_eq!(service.lane_stats().opened, 0);
    assert_eq!(service.stats().blocks, 0);
}

#[test]
fn a_flood_of_knocks_does_not_slow_the_group() {
    let golden = Golden::usual(30, 2);
    let mut alone = Hall::new(2);
    alone.desk(&[&golden], Some(RATE), ServiceConfig::default());
    alone.guest(&golden, Unicast::Never);
    alone.run();

    let mut hall = Hall::new(2);
    hall.desk(&[&golden], Some(RATE), ServiceConfig::default());
    hall.guest(&golden, Unicast::Never);
    let mut random = fastrand::Rng::with_seed(2);
    while hall.guests[0].finished.is_none() {
        for _ in 0..50 {
            let host = [10, 200, random.u8(..), random.u8(..)];
            let from = SocketAddr::from((host, random.u16(1..)));
            let token = random.u64(..);
            hall.send(0, 0, from, request([0; 16], token, 0));
        }
        hall.run_for(Duration::from_millis(1));
    }
    let stats = hall.desks[0].site.services()[0].lane_stats();
    assert_eq!((stats.opened, stats.open), (0, 0));
    let challenged: u64 = hall.desks[0].to.values().sum();
    let seconds = hall.time().as_secs_f64();
    let share = challenged as f64 * 8.0 / seconds / RATE as f64;
    assert!(share < 0.055, "CHALLENGEs have {share} of the rate");
    assert!(
        seconds < alone.time().as_secs_f64() * 1.1,
        "{seconds} s instead of {:?}",
        alone.time()
    );
}

#[test]
fn one_host_cannot_take_all_lanes_and_a_full_server_has_room_again() {
    let golden = Golden::usual(6, 3);
    let config = ServiceConfig {
        lanes: 8,
        ..ServiceConfig::default()
    };
    let mut hall = Hall::new(3);
    hall.desk(&[&golden], Some(RATE), config);
    let greedy = |port| SocketAddr::from(([10, 0, 7, 7], port));
    // Their owner is really there, so it can read the tokens.
    let service = |hall: &Hall| hall.desks[0].site.services()[0].lane_stats();
    for port in 1000..1100 {
        let token = hall.desks[0].site.service(0).unwrap();
        let token = learn(token, hall.now, greedy(port));
        hall.send(0, 0, greedy(port), request(golden.image.uuid, token, 6));
        hall.run_for(Duration::from_millis(30));
    }
    assert_eq!(service(&hall).open, 2, "a quarter");
    assert_eq!(service(&hall).refused, 98);
    for _ in 0..8 {
        let guest = hall.guest(&golden, Unicast::Always(place(0, 0)));
        hall.guests[guest].hears_group = false;
    }
    hall.run();
    hall.run_for(Duration::from_secs(7));
    assert_eq!(service(&hall).open, 0);
}

/// The token of an address, as a host there would read it from the CHALLENGE.
fn learn(service: &mut frisbee_proto::Service, now: std::time::Instant, from: SocketAddr) -> u64 {
    use frisbee_proto::wire::{Message, decode};
    service.handle_datagram(now, from, &request([0; 16], 0, 0));
    let mut buffer = Vec::new();
    service.poll(now, 60, &mut buffer);
    match decode(&buffer).unwrap().message {
        Message::Challenge(challenge) => challenge.token,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_of_another_address_is_of_no_use() {
    let golden = Golden::usual(6, 4);
    let mut hall = Hall::new(4);
    hall.desk(&[&golden], Some(RATE), ServiceConfig::default());
    let own = SocketAddr::from(([10, 0, 7, 7], 1000));
    let service = hall.desks[0].site.service(0).unwrap();
    let token = learn(service, hall.now, own);
    for victim in [
        SocketAddr::from(([10, 0, 7, 7], 1001)),
        SocketAddr::from(([10, 0, 7, 8], 1000)),
    ] {
        hall.send(0, 0, victim, request(golden.image.uuid, token, 6));
    }
    hall.run_for(Duration::from_secs(1));
    assert_eq!(hall.desks[0].site.services()[0].lane_stats().opened, 0);
    hall.send(0, 0, own, request(golden.image.uuid, token, 6));
    hall.run_for(Duration::from_secs(1));
    assert_eq!(hall.desks[0].site.services()[0].lane_stats().opened, 1);
}

#[test]
fn without_lanes_no_knock_is_answered() {
    let golden = Golden::usual(3, 5);
    let config = ServiceConfig {
        lanes: 0,
        ..ServiceConfig::default()
    };
    let mut hall = Hall::new(5);
    hall.desk(&[&golden], Some(RATE), config);
    for token in 0..10 {
        let from = SocketAddr::from(([10, 0, 7, 7], 1000));
        hall.send(0, 0, from, request(golden.image.uuid, token, 3));
    }
    hall.run_for(Duration::from_secs(1));
    assert!(hall.desks[0].to.is_empty());
    assert_eq!(hall.desks[0].site.services()[0].stats().rejected, 10);
}

/// False CHALLENGEs in the name of the server: a lane that works goes on.
#[test]
fn false_challenges_do_not_stop_a_lane() {
    use frisbee_proto::wire::Challenge;
    let golden = Golden::usual(6, 6);
    let alone = golden.blocks() as f64 * 1122.0 * 8.0 / RATE as f64;
    let uuid = golden.image.uuid;
    // As many as there are datagrams, and one for a hundred of them.
    for (gap, most) in [(90, 3.0), (9000, 1.25)] {
        let mut hall = Hall::new(6);
        hall.desk(&[&golden], Some(RATE), ServiceConfig::default());
        let guest = hall.guest(&golden, Unicast::Always(place(0, 0)));
        hall.guests[guest].hears_group = false;
        hall.guests[guest].loses = 0.01;
        let mut random = fastrand::Rng::with_seed(6);
        while hall.guests[guest].finished.is_none() {
            let number = random.u16(1..);
            let forged = Challenge {
                client: random.u64(..),
                token: random.u64(..),
            };
            let forged = Stream { number, uuid }.challenge(forged);
            hall.whisper(guest, place(0, 0), forged);
            hall.run_for(Duration::from_micros(gap));
            assert!(
                hall.time() < Duration::from_secs(60),
                "every {gap} us: no end"
            );
        }
        let took = hall.time().as_secs_f64();
        println!("a false CHALLENGE every {gap} us: {took:.2} s for {alone:.2}");
        assert!(took < alone * most, "every {gap} us: {took} for {alone}");
    }
}
