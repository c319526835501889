//! One rate for several machines.

use std::time::Instant;

use super::pacing::Pacer;
use crate::FRAMING;

/// Paces everything that one process sends, when its operator has set a ceiling.
#[derive(Debug)]
pub(super) struct SharedPacer {
    ceiling: Option<u64>,
    pacer: Pacer,
}

/// Most datagrams of one batch.
const BATCH: u32 = 60;

impl SharedPacer {
    /// `ceiling` is in bits per second on the wire.
    pub(super) fn new(now: Instant, ceiling: Option<u64>) -> Self {
        Self {
            ceiling,
            pacer: Pacer::new(now, FRAMING),
        }
    }

    /// Datagrams that may leave now, or when it is worth asking again.
    pub(super) fn allowance(&self, now: Instant) -> Result<u32, Instant> {
        let Some(rate) = self.ceiling else {
            return Ok(BATCH);
        };
        let least = self.pacer.worthwhile(rate, BATCH);
        let most = self.pacer.allowance(now, rate).min(BATCH);
        if most >= least {
            return Ok(most);
        }
        Err(self.pacer.ready(least, rate))
    }

    /// So many bytes on the wire leave.
    pub(super) fn charge(&mut self, now: Instant, wire_bytes: usize) {
        if let Some(rate) = self.ceiling {
            let wire_bytes = u64::try_from(wire_bytes).unwrap_or(u64::MAX);
            self.pacer.charge(now, rate, wire_bytes);
        }
    }
}
