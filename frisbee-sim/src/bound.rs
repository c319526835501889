//! What repairs cost at the least, by computation.

use crate::loss::Loss;

/// Tails below this part of a client do not count.
const NEGLIGIBLE: f64 = 1e-9;

/// Expected datagrams per block until each of `clients` has received `blocks` of them, whichever: what an ideal code
/// needs.
///
/// The chain of states of the loss goes through a distribution over (blocks received, state), datagram by datagram; a
/// client that has `blocks` leaves it. Clients are independent, so the last of them is done after `n` datagrams with the
/// probability that one is, to the power of their number.
pub fn ideal_code(loss: &Loss, blocks: u32, clients: u32) -> f64 {
    let (begin, end, lost) = match *loss {
        Loss::Random(probability) => (0.0, 0.0, [probability, 0.0]),
        Loss::Bursts { begin, end, lost } => (begin, end, [0.0, lost]),
    };
    let bad = loss.bad();
    // By blocks received: probability of that, in the good and in the bad state.
    let mut there = vec![[0.0; 2]; blocks as usize];
    if let Some(first) = there.first_mut() {
        *first = [1.0 - bad, bad];
    }
    let mut expected = 0.0;
    for sent in 0_u32.. {
        let unfinished: f64 = there.iter().flatten().sum();
        let one_is_left = -(f64::from(clients) * (-unfinished.min(1.0)).ln_1p()).exp_m1();
        if one_is_left < NEGLIGIBLE || sent / 1000 > blocks {
            break;
        }
        expected += one_is_left;
        // From the end: what is received moves one place up.
        let mut below = [0.0; 2];
        for place in &mut there {
            let [good, bad] = *place;
            let moved = [
                good * (1.0 - begin) + bad * end,
                good * begin + bad * (1.0 - end),
            ];
            let stays = [moved[0] * lost[0], moved[1] * lost[1]];
            *place = [stays[0] + below[0], stays[1] + below[1]];
            below = [moved[0] - stays[0], moved[1] - stays[1]];
        }
    }
    expected / f64::from(blocks.max(1))
}

/// Expected datagrams per block if each block is repeated until each of `clients` has it, at independent loss.
pub fn repeating_blocks(probability: f64, clients: u32) -> f64 {
    let missing = |round: i32| -(f64::from(clients) * (-probability.powi(round)).ln_1p()).exp_m1();
    1.0 + (1..10_000)
        .map(missing)
        .take_while(|&missing| missing > NEGLIGIBLE)
        .sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_published() {
        let ideal =
            |percent: f64, clients| ideal_code(&Loss::Random(percent / 100.0), 1024, clients);
        for (percent, clients, expected) in [
            (0.0, 1_000_000, 1.0),
            (1.0, 1, 1.0101),
            (1.0, 16, 1.016),
            (1.0, 100, 1.019),
            (1.0, 1000, 1.022),
            (1.0, 10_000, 1.024),
            (5.0, 1000, 1.078),
        ] {
            let found = ideal(percent, clients);
            assert!(
                (found - expected).abs() < 0.0006,
                "{percent} %, {clients}: {found}"
            );
        }
        for (percent, blocks, clients, expected) in [(1.0, 256, 1000, 1.036), (5.0, 64, 16, 1.110)]
        {
            let found = ideal_code(&Loss::Random(percent / 100.0), blocks, clients);
            assert!((found - expected).abs() < 0.001, "{found} for {expected}");
        }
        assert!((repeating_blocks(0.01, 1) - 1.0 / 0.99).abs() < 1e-6);
        assert!((repeating_blocks(0.01, 16) - 1.1501).abs() < 0.001);
        assert!((repeating_blocks(0.0, 16) - 1.0).abs() < 1e-9);
    }

    /// The same number by throwing dice.
    #[test]
    fn as_thrown() {
        for loss in [
            Loss::Random(0.05),
            Loss::bursts(0.02, 8.0),
            Loss::Bursts {
                begin: 0.01,
                end: 0.05,
                lost: 0.5,
            },
        ] {
            let (blocks, clients, rooms) = (200, 20, 400);
            let longest = |room: u64| {
                let client = |client| {
                    let mut fate = crate::loss::Fate::new(&loss, room * 1000 + client);
                    let (mut sent, mut got) = (0_u32, 0);
                    while got < blocks {
                        sent += 1;
                        got += u32::from(!fate.is_lost(&loss));
                    }
                    sent
                };
                (0..clients).map(client).max().unwrap_or(0)
            };
            let thrown: u32 = (0..rooms).map(longest).sum();
            let thrown = f64::from(thrown) / (f64::from(blocks) * rooms as f64);
            let computed = ideal_code(&loss, blocks, 20);
            assert!(
                (thrown / computed - 1.0).abs() < 0.01,
                "{loss:?}: {thrown}, {computed}"
            );
        }
    }
}
