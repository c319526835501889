//! How many threads and buffers fit into the memory that the user allows.

use frisbee_cli::{Exit, Failure, units};

/// What `--memory` is without the option, in bytes.
pub(crate) const USUAL: &str = "256M";

/// The program itself, its stacks and queues, in bytes.
const BASE: u64 = 24 << 20;

/// What one worker needs, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// Buffers that are its own, and what the codec and parity keep.
    pub(crate) worker: u64,
    /// One of the buffers that go round between workers and writer.
    pub(crate) buffer: u64,
}

/// What the pipeline is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) threads: usize,
    /// More than threads, so that none waits while another's chunk is written.
    pub(crate) buffers: usize,
}

impl Budget {
    /// As many of the `wanted` threads as fit into `memory` bytes, and up to two buffers for each and two more.
    ///
    /// # Errors
    /// If not even one thread fits; the message names the least memory.
    pub(crate) fn new(memory: u64, wanted: usize, need: Need) -> Result<Self, Failure> {
        // One buffer of each worker, and two for the writer.
        let fixed = BASE + 2 * need.buffer;
        let one = need.worker + need.buffer;
        let fit = memory.saturating_sub(fixed) / one;
        let threads = usize::try_from(fit).unwrap_or(usize::MAX).min(wanted);
        if threads == 0 {
            let message = format!(
                "--memory {memory}: compressing like this needs at least {}M: allow more, or choose a lower --level",
                (fixed + one).div_ceil(1 << 20)
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let rest = memory - fixed - threads as u64 * one;
        let more = usize::try_from(rest / need.buffer).unwrap_or(usize::MAX);
        Ok(Self {
            threads,
            buffers: threads + 2 + more.min(threads),
        })
    }

    /// Threads that only read, into one buffer each.
    pub(crate) fn readers(memory: u64, wanted: usize, buffer: u64) -> Result<usize, Failure> {
        let need = Need { worker: 0, buffer };
        Ok(Self::new(memory, wanted, need)?.threads)
    }
}

/// `--memory` as a number of bytes.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    units::parse_size(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: Need = Need {
        worker: 10 << 20,
        buffer: 2 << 20,
    };

    #[test]
    fn memory_is_never_exceeded() {
        for mebibytes in 1..600 {
            let memory = mebibytes << 20;
            for wanted in [1, 2, 7, 64, 1000] {
                match Budget::new(memory, wanted, NEED) {
                    Ok(budget) => {
                        let used = BASE
                            + budget.threads as u64 * NEED.worker
                            + budget.buffers as u64 * NEED.buffer;
                        assert!(used <= memory, "{mebibytes} MiB: {budget:?}");
                        assert!((1..=wanted).contains(&budget.threads));
                        assert!(budget.buffers >= budget.threads + 2);
                        assert!(budget.buffers <= 2 * budget.threads + 2);
                    }
                    Err(failure) => {
                        assert!(mebibytes < 40, "{mebibytes} MiB would do");
                        assert!(failure.message.contains("at least 40M"), "{failure:?}");
                    }
                }
            }
        }
        assert!(Budget::new(40 << 20, 1, NEED).is_ok());
    }

    #[test]
    fn a_few_cores_get_all_that_they_want() {
        let usual = parse(USUAL).unwrap();
        let budget = Budget::new(usual, 4, NEED).unwrap();
        let (threads, buffers) = (4, 10);
        assert_eq!(budget, Budget { threads, buffers });
    }
}
