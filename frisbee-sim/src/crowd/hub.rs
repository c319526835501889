//! The server of a crowd, with the port in front of it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::wire::{self, Message};
use frisbee_proto::{Server, ServerConfig, ServerOutput, ServerStats};

use super::shard::Request;
use super::{Batch, Crowd};
use crate::clock::Queue;
use crate::golden::Golden;
use crate::host::{Host, Work};
use crate::invariants::{Broken, waits};
use crate::link::{Port, Shaper};

/// Where it is.
pub(super) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 7001);
/// Bytes that its port and its socket hold together.
const BUFFER: u64 = 4 << 20;
/// Datagrams that arrive within so long are read together.
const READ_TOGETHER: u128 = 20_000;
/// Its disk takes so long for an object at the most.
const DISK: Duration = Duration::from_millis(2);
/// In which REQUESTs are counted.
const TICK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Hub {
    host: Host,
    port: Port,
    shaper: Shaper,
    /// What has passed the port.
    inbox: Queue<Vec<u8>>,
    work: Queue<(u32, Work)>,
    random: fastrand::Rng,
    begin: Instant,
    pub(super) manifest_blocks: u32,
    /// Blocks sent of object 0.
    pub(super) sent_of_manifest: u64,
    /// Blocks and parity blocks of all others.
    pub(super) sent_of_chunks: u64,
    /// Datagrams that the port had no room for.
    pub(super) refused: u64,
    pub(super) processor_time: Duration,
    /// The part of it that REQUESTs took as they came.
    pub(super) requests_time: Duration,
    /// When the present 10 ms began, and how many REQUESTs came since.
    tick: (Instant, u32),
    /// Most that came in 10 ms.
    pub(super) busiest: u32,
}

impl Hub {
    pub(super) fn new(begin: Instant, crowd: &Crowd, golden: &Arc<Golden>, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = ServerConfig {
            ceiling: Some(crowd.rate),
            seed: random.u64(..),
            ..ServerConfig::default()
        };
        #[allow(clippy::expect_used, reason = "documented")]
        let host = Host::new(begin, Arc::clone(golden), config, ADDRESS.into())
            .expect("an image that can be served");
        Self {
            host,
            port: Port {
                rate: crowd.rate,
                buffer: BUFFER,
            },
            shaper: Shaper::default(),
            inbox: Queue::new(),
            work: Queue::new(),
            random,
            begin,
            manifest_blocks: golden.image.objects[0].blocks,
            sent_of_manifest: 0,
            sent_of_chunks: 0,
            refused: 0,
            processor_time: Duration::ZERO,
            requests_time: Duration::ZERO,
            tick: (begin, 0),
            busiest: 0,
        }
    }

    fn server(&mut self) -> &mut Server {
        &mut self.host.server
    }

    pub(super) fn stats(&self) -> &ServerStats {
        self.host.server.stats()
    }

    /// When there is something to do.
    pub(super) fn wake(&self) -> Option<Instant> {
        let due = [self.inbox.next(), self.host.wake, self.work.next()];
        due.into_iter().flatten().min()
    }

    /// Runs until `end`; `requests` reach the port before that, in this order. Returns what was sent.
    pub(super) fn run(
        &mut self,
        crowd: &Crowd,
        end: Instant,
        requests: &[Request],
        processor_time: fn() -> Duration,
    ) -> Result<Vec<Batch>, Broken> {
        let before = processor_time();
        for request in requests {
            match self
                .shaper
                .pass(request.at, &self.port, request.datagram.len())
            {
                Some(at) => {
                    let at = self.read_at(at);
                    self.inbox.push(at, request.datagram.clone());
                }
                None => self.refused += 1,
            }
        }
        let mut sent = Vec::new();
        while let Some(now) = self.wake().filter(|&wake| wake < end) {
            self.read(now, processor_time);
            while let Some((object, work)) = self.work.pop(now) {
                self.host.done(now, object, work);
            }
            self.poll(crowd, now, &mut sent)?;
        }
        self.processor_time += processor_time().saturating_sub(before);
        Ok(sent)
    }

    /// Gives the server what has come.
    fn read(&mut self, now: Instant, processor_time: fn() -> Duration) {
        let came: Vec<_> = std::iter::from_fn(|| self.inbox.pop(now)).collect();
        if came.is_empty() {
            return;
        }
        if now - self.tick.0 >= TICK {
            self.tick = (now, 0);
        }
        self.tick.1 += u32::try_from(came.len()).unwrap_or(u32::MAX);
        self.busiest = self.busiest.max(self.tick.1);
        let before = processor_time();
        for datagram in came {
            self.server().handle_datagram(now, &datagram);
        }
        self.requests_time += processor_time().saturating_sub(before);
    }

    fn read_at(&self, at: Instant) -> Instant {
        let nanos = (at - self.begin).as_nanos().next_multiple_of(READ_TOGETHER);
        self.begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn poll(&mut self, crowd: &Crowd, now: Instant, sent: &mut Vec<Batch>) -> Result<(), Broken> {
        loop {
            let mut bytes = Vec::new();
            match self.server().poll(now, &mut bytes) {
                ServerOutput::Transmit(transmit) => {
                    let segment = transmit.segment;
                    bytes
                        .chunks(segment)
                        .for_each(|datagram| self.count(datagram));
                    let at = now + crowd.delay;
                    sent.push(Batch { at, segment, bytes });
                }
                ServerOutput::Load(object) => self.begin_work(now, object, Work::Read)?,
                ServerOutput::Encode { object, .. } => {
                    self.begin_work(now, object, Work::Encode)?;
                }
                ServerOutput::Wait(wake) => {
                    self.host.wake = wake;
                    return waits(now, wake, || "the server".to_owned());
                }
            }
        }
    }

    fn begin_work(&mut self, now: Instant, object: u32, work: Work) -> Result<(), Broken> {
        let time = self.host.begin(0, object, work, DISK, &mut self.random)?;
        self.work.push(now + time, (object, work));
        Ok(())
    }

    fn count(&mut self, datagram: &[u8]) {
        let message = wire::decode(datagram).map(|datagram| datagram.message);
        match message {
            Ok(Message::Data(0, ..)) => self.sent_of_manifest += 1,
            Ok(Message::Data(..) | Message::Parity(..)) => self.sent_of_chunks += 1,
            _ => {}
        }
    }
}
