//! Turns over the bits of images, for `cargo xtask flips`. The argument is N: of the large image, every Nth bit.

use std::io::{self, Write};
use std::thread;
use std::time::Instant;

use chunkfmt::Suite;
use fuzz_harness::flips::{From, Subject};

fn main() -> io::Result<()> {
    let every = std::env::args().nth(1).and_then(|word| word.parse().ok());
    let every = every.unwrap_or(1).max(1);
    // Small chunks, so that each flip costs little: only one chunk has to be looked at for it.
    run(
        "modern, 4 MiB",
        Suite::Modern,
        (128, 43 << 10),
        From::Part,
        every,
    )?;
    run(
        "modern, 64 KiB, each as a stream",
        Suite::Modern,
        (4, 19 << 10),
        From::Start,
        every,
    )?;
    run(
        "classic, 64 KiB",
        Suite::Classic,
        (4, 19 << 10),
        From::Part,
        every,
    )?;
    // And the largest chunks that there are, whose hash trees are deep.
    run(
        "modern, chunks of 2 MiB",
        Suite::Modern,
        (2, 2 << 20),
        From::Part,
        9973 * every,
    )
}

fn run(
    name: &str,
    suite: Suite,
    (chunks, bytes): (u32, usize),
    from: From,
    every: usize,
) -> io::Result<()> {
    let start = Instant::now();
    let subject = Subject::new(suite, chunks, bytes);
    let threads = thread::available_parallelism()?.get();
    let tally = subject.flip(0..subject.bits(), every, from, threads);
    let (flips, time) = (tally.values().sum::<u64>(), start.elapsed().as_secs_f64());
    let mut out = io::stdout();
    writeln!(
        out,
        "{name}: {flips} of {} bits, none accepted, {time:.0} s",
        subject.bits()
    )?;
    for (found_by, count) in tally {
        writeln!(out, "  {count:>10}  {found_by}")?;
    }
    Ok(())
}
