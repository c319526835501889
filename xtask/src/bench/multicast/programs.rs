//! Running many programs at once, and when each of them ended.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::command::{LIMIT, Outcome};
use nix::unistd::{SysconfVar, sysconf};

/// Waits until all of them have ended, and says when and how each did; `None` for those that have not at `limit`,
/// which are killed.
pub(super) fn ends(
    programs: Vec<Background>,
    limit: Duration,
) -> Result<Vec<Option<(Instant, Outcome)>>> {
    let end = Instant::now() + limit;
    // Short enough not to be seen in the figures, and next to nothing for the processor.
    let pause = Duration::from_millis(if programs.len() > 8 { 5 } else { 1 });
    let mut ended: Vec<Option<(Instant, Outcome)>> = programs.iter().map(|_| None).collect();
    let mut running: Vec<Option<Background>> = programs.into_iter().map(Some).collect();
    while running.iter().any(Option::is_some) && Instant::now() < end {
        for (slot, ended) in running.iter_mut().zip(&mut ended) {
            if let Some(program) = slot
                && !program.is_running()?
            {
                let at = Instant::now();
                let outcome = slot.take().map(|program| program.wait(LIMIT)).transpose()?;
                *ended = outcome.map(|outcome| (at, outcome));
            }
        }
        sleep(pause);
    }
    Ok(ended)
}

/// Processor time that a program has taken up to now.
pub(super) fn cpu(program: &Background) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", program.id()))?;
    // proc(5): the name may contain anything; utime and stime are the 14th and 15th fields.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse().unwrap_or(0)).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the clock's ticks")?;
    let per_second = u64::try_from(per_second)?;
    ensure!(per_second > 0, "the clock does not tick");
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}
