//! Crowds: what is sent stays near what an ideal code would send, and who speaks does not become many.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use frisbee_sim::{Crowd, Loss, Report};

fn run(clients: u32, loss: Loss, blocks: u32, seed: u64) -> Report {
    let crowd = Crowd {
        clients,
        loss,
        chunks: 4,
        blocks,
        rate: 1_000_000_000,
        delay: Duration::from_millis(1),
        starts: Duration::ZERO,
        look: Duration::from_secs(2),
        seed,
        threads: 1,
    };
    let report = crowd.run(|| Duration::ZERO).unwrap();
    println!("{report}");
    report
}

#[test]
fn repairs_cost_what_an_ideal_code_would() {
    for (clients, loss, blocks) in [
        (10, Loss::Random(0.01), 256),
        (100, Loss::Random(0.05), 256),
        (1000, Loss::Random(0.01), 256),
        (1000, Loss::Random(0.05), 256),
        // A smaller chunk has less parity than the unluckiest of these clients needs, an eighth.
        (1000, Loss::bursts(0.01, 8.0), 1024),
    ] {
        // One run strays from what is expected; the mean of several hardly does.
        let excess: f64 = (1..5)
            .map(|seed| run(clients, loss, blocks, seed).excess())
            .sum();
        assert!((excess / 4.0).abs() < 0.05, "{clients} at {loss:?}");
    }
}

#[test]
fn most_of_a_crowd_is_silent() {
    let report = run(20_000, Loss::Random(0.01), 256, 1);
    assert!(report.excess().abs() < 0.05);
    // One REQUEST for the manifest and one that it is done were 40000, and for chunks and repairs come more.
    assert!(report.requests < 20_000);
    assert!(report.finished < Duration::from_secs(3));
}

#[test]
fn the_same_seed_is_the_same_crowd_on_any_number_of_threads() {
    let crowd = |threads| Crowd {
        threads,
        ..run(1, Loss::NONE, 64, 1).crowd
    };
    let row = |threads| {
        let crowd = Crowd {
            clients: 4500,
            loss: Loss::Random(0.02),
            ..crowd(threads)
        };
        crowd.run(|| Duration::ZERO).unwrap().row()
    };
    assert_eq!(row(1), row(3));
}
