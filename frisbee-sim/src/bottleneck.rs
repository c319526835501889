//! A port that everything passes which servers send, and TCP streams beside it.

use std::time::{Duration, Instant};

use frisbee_proto::FRAMING;

use crate::link::{Port, Shaper};
use crate::tcp::Tcp;

/// A shared port: one queue for servers and streams, whose tail is dropped.
#[derive(Debug)]
pub struct Bottleneck {
    port: Port,
    shaper: Shaper,
    /// Datagrams of servers that found no room.
    pub dropped: u64,
    streams: Vec<Tcp>,
}

impl Bottleneck {
    /// One that nothing has passed yet.
    pub fn new(port: Port) -> Self {
        Self {
            port,
            shaper: Shaper::default(),
            dropped: 0,
            streams: Vec::new(),
        }
    }

    /// A port of this rate in bits per second, with a queue that takes so long to pass.
    pub fn of(rate: u64, queue: Duration) -> Self {
        let bytes = u128::from(rate) * queue.as_micros() / 8_000_000;
        let buffer = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self::new(Port { rate, buffer })
    }

    /// Another rate from now on; what waits keeps its time.
    pub fn set_rate(&mut self, rate: u64) {
        self.port.rate = rate;
    }

    /// Wire bytes of all streams that arrived.
    pub fn streamed(&self) -> u64 {
        let arrived: u64 = self.streams.iter().map(Tcp::arrived).sum();
        arrived * Tcp::WIRE
    }

    /// When a server's datagram is through, unless it is dropped.
    pub(crate) fn pass(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let through = self.shaper.pass(now, &self.port, bytes);
        self.dropped += u64::from(through.is_none());
        through
    }

    /// A stream begins; returns its place.
    pub(crate) fn stream(&mut self, now: Instant) -> usize {
        self.streams.push(Tcp::new(now));
        self.streams.len() - 1
    }

    /// Sends what the window of a stream allows. Returns the segments that arrive, and when that is acknowledged.
    pub(crate) fn push(&mut self, now: Instant, stream: usize) -> Vec<(Instant, u64)> {
        let segments = std::iter::from_fn(|| self.streams[stream].segment(now));
        let segments: Vec<u64> = segments.collect();
        let bytes = usize::try_from(Tcp::WIRE).unwrap_or(usize::MAX) - FRAMING;
        let through = segments.into_iter().filter_map(|segment| {
            let through = self.shaper.pass(now, &self.port, bytes)?;
            Some((through + Tcp::DELAY, segment))
        });
        through.collect()
    }

    pub(crate) fn acknowledged(&mut self, now: Instant, stream: usize, segment: u64) {
        self.streams[stream].acknowledged(now, segment);
    }

    /// Whether a stream was silent for too long.
    pub(crate) fn check(&mut self, now: Instant, stream: usize) {
        self.streams[stream].check(now);
    }
}
