//! What no sender can do without: one copy of every byte, and one pass to sum it. `cargo xtask bench multicast` puts the
//! processor time of the server beside it.
//!
//! `cargo bench -p frisbee-udp --bench copy -- FILE` prints the seconds for a file.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// As much as one batch has.
const PIECE: usize = 64 << 10;

fn main() -> io::Result<()> {
    // cargo adds an option of its own.
    let Some(path) = std::env::args().skip(1).find(|word| !word.starts_with('-')) else {
        return Ok(());
    };
    let mut file = File::open(path)?;
    let (mut from, mut to) = (vec![0; 32 * PIECE], vec![0; PIECE]);
    let mut time = Duration::ZERO;
    loop {
        let length = file.read(&mut from)?;
        if length == 0 {
            break;
        }
        let began = thread_time()?;
        for piece in from[..length].chunks(PIECE) {
            let to = &mut to[..piece.len()];
            to.copy_from_slice(black_box(piece));
            black_box(checksum(to));
        }
        time += thread_time()?.saturating_sub(began);
    }
    println!("{:.6}", time.as_secs_f64());
    Ok(())
}

fn thread_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// The Internet checksum (RFC 1071), in words of 32 bits as kernels do.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(4);
    let rest = words.remainder().iter().map(|&byte| u64::from(byte));
    let sum: u64 = words
        .map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]])))
        .chain(rest)
        .sum();
    let folded = (0..4).fold(sum, |sum, _| (sum >> 16) + (sum & 0xffff));
    !u16::try_from(folded).unwrap_or(u16::MAX)
}
