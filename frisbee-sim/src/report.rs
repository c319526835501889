//! The figures of a crowd.

use std::fmt;
use std::time::Duration;

use crate::crowd::Crowd;
use crate::loss::Loss;

/// The figures of a crowd.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// What was measured.
    pub crowd: Crowd,
    /// Blocks and parity blocks sent per block of the chunks.
    pub sent: f64,
    /// Blocks sent per block of object 0, which has no parity.
    pub sent_of_manifest: f64,
    /// What an ideal code would have sent per block ([`crate::bound::ideal_code`]).
    pub expected: f64,
    /// What repeating blocks would have, at independent loss.
    pub repeating: Option<f64>,
    /// When the last client had everything.
    pub finished: Duration,
    /// REQUESTs that all clients sent.
    pub requests: u64,
    /// Those of them that were lost on the way.
    pub requests_lost: u64,
    /// Those for which the port before the server had no room.
    pub requests_refused: u64,
    /// Those that the server acted on.
    pub requests_handled: u64,
    /// Those that it dropped because there were too many.
    pub requests_dropped: u64,
    /// Most of them that arrived in 10 ms.
    pub requests_busiest: u32,
    /// Processor time of the server machine, from decoding REQUESTs to batches that are ready to be sent.
    pub processor_time: Duration,
    /// The part of it that was for REQUESTs as they came, dropped ones included.
    pub requests_time: Duration,
    /// Datagrams that it sent.
    pub datagrams: u64,
    /// Datagrams that clients took.
    pub deliveries: u64,
}

impl Report {
    /// Cells of [`Report::row`].
    pub const HEADER: &str = "\
| clients | loss | sent/needed | ideal code | above it | repeating blocks | object 0 | time | requests per chunk | per client | most in 10 ms | lost, dropped by the port, by the server | one request | server |
|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

    /// By how much more was sent than an ideal code would have.
    pub fn excess(&self) -> f64 {
        self.sent / self.expected - 1.0
    }

    /// One row of a table in Markdown.
    pub fn row(&self) -> String {
        let loss = match self.crowd.loss {
            Loss::Random(probability) => format!("{:.1} %", probability * 100.0),
            Loss::Bursts { end, .. } => {
                let (mean, length) = (self.crowd.loss.mean() * 100.0, 1.0 / end);
                format!("{mean:.1} %, bursts of {length:.0}")
            }
        };
        let repeating = self
            .repeating
            .map_or("-".into(), |sent| format!("{sent:.3}"));
        let handled = self.requests_handled + self.requests_dropped;
        format!(
            "| {} | {loss} | {:.4} | {:.4} | {:+.1} % | {repeating} | {:.2} | {:.2} s | {:.1} | {:.2} | {} | {}, {}, {} | {:.0} ns | {:.1?} |",
            self.crowd.clients,
            self.sent,
            self.expected,
            self.excess() * 100.0,
            self.sent_of_manifest,
            self.finished.as_secs_f64(),
            self.requests as f64 / f64::from(self.crowd.chunks.max(1)),
            self.requests as f64 / f64::from(self.crowd.clients.max(1)),
            self.requests_busiest,
            self.requests_lost,
            self.requests_refused,
            self.requests_dropped,
            self.requests_time.as_nanos() as f64 / handled.max(1) as f64,
            self.processor_time,
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Self::HEADER)?;
        write!(f, "{}", self.row())
    }
}
