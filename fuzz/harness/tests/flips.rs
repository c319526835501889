//! Every bit of a small image turned over: see `fuzz_harness::flips`.

use chunkfmt::Suite;
use fuzz_harness::flips::{From, Subject};

const THREADS: usize = 2;

/// All bits of 64 KiB, padding and reserved bytes too.
#[test]
fn no_bit_of_a_modern_image_can_be_turned_over() {
    let subject = Subject::new(Suite::Modern, 4, 19 << 10);
    assert!(subject.bits() > 60 * 1024 * 8);
    let tally = subject.flip(0..subject.bits(), 1, From::Part, THREADS);
    println!("{tally:?}");
    assert_eq!(tally.values().sum::<u64>(), subject.bits());
}

/// Every 101st bit, each time with the whole image before it.
#[test]
fn a_flip_is_found_in_a_stream() {
    let subject = Subject::new(Suite::Modern, 4, 19 << 10);
    let tally = subject.flip(0..subject.bits(), 101, From::Start, THREADS);
    assert_eq!(tally.values().sum::<u64>(), subject.bits().div_ceil(101));
}

/// Every 101st bit: RSA signatures and SHA-256 take longer.
#[test]
fn no_bit_of_a_classic_image_can_be_turned_over() {
    let subject = Subject::new(Suite::Classic, 4, 19 << 10);
    let tally = subject.flip(0..subject.bits(), 101, From::Start, THREADS);
    println!("{tally:?}");
    assert_eq!(tally.values().sum::<u64>(), subject.bits().div_ceil(101));
}
