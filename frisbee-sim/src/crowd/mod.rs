//! A crowd: one server and up to a million clients, which keep no bytes and believe everything, to measure.
//!
//! The machines are the real ones; the network is a constant delay, loss on each client's way, and a port in front of
//! the server. Because nothing that is sent arrives earlier than one delay later, all machines can be run for one delay
//! without regard to each other: first every client takes all datagrams of that time, one client after the other, so
//! that its memory is touched once and not for each datagram; and clients can share the processors. The order of what
//! they send does not depend on it, so a run is the same for the same seed whatever the number of threads.

mod hub;
mod shard;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::hub::Hub;
use self::shard::{Request, Shard};
use crate::bound;
use crate::golden::Golden;
use crate::invariants::Broken;
use crate::loss::Loss;
use crate::report::Report;

/// Nothing takes longer than this.
const LIMIT: Duration = Duration::from_secs(3600);
/// Clients for which a thread is worth while.
const THREAD_CLIENTS: usize = 2000;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// How many clients there are.
    pub clients: u32,
    /// How each loses what is sent to it. Of what it sends, the mean share is lost.
    pub loss: Loss,
    /// Chunks of the image.
    pub chunks: u32,
    /// Blocks of each.
    pub blocks: u32,
    /// The server's ceiling, and the rate of its port in the other direction, in bits per second.
    pub rate: u64,
    /// From the server to each client, and back.
    pub delay: Duration,
    /// Clients start at random within so long.
    pub starts: Duration,
    /// From the manifest on, each looks at its disk for so long before it asks for more.
    pub look: Duration,
    /// Seed of everything random.
    pub seed: u64,
    /// Most threads.
    pub threads: usize,
}

/// What is in the air: a server's batch.
#[derive(Debug)]
struct Batch {
    at: Instant,
    segment: usize,
    bytes: Vec<u8>,
}

impl Crowd {
    /// Measures. `processor_time` returns the processor time that the calling thread has used, for the figures of the
    /// server's work.
    ///
    /// # Errors
    /// A broken promise, or no end.
    ///
    /// # Panics
    /// If the protocol cannot carry the image.
    pub fn run(&self, processor_time: fn() -> Duration) -> Result<Report, Broken> {
        let golden = Golden::uniform(self.chunks as usize, self.blocks, self.seed);
        let mut random = fastrand::Rng::with_seed(self.seed);
        // An Instant cannot be had otherwise; only what has passed since it counts.
        let begin = Instant::now();
        let mut hub = Hub::new(begin, self, &golden, random.u64(..));
        let mut shards = self.shards(begin, &golden, &mut random);
        let mut batches = Vec::new();
        let mut requests: Vec<Request> = Vec::new();
        loop {
            let unfinished: usize = shards.iter().map(Shard::unfinished).sum();
            if unfinished == 0 {
                break;
            }
            let arrivals = batches.iter().map(|batch: &Batch| batch.at);
            let arrivals = arrivals.chain(requests.first().map(|request| request.at));
            let wakes = shards.iter().filter_map(Shard::wake).chain(hub.wake());
            let start = arrivals.chain(wakes).min().ok_or(Broken::Dead)?;
            if start - begin > LIMIT {
                let told = format!("{unfinished} clients have not finished");
                return Err(Broken::NoEnd(told));
            }
            let end = start + self.delay;
            let sent = self.window(
                end,
                &mut hub,
                &mut shards,
                &batches,
                &requests,
                processor_time,
            )?;
            batches = sent;
            requests.clear();
            for shard in &mut shards {
                requests.append(&mut shard.sent);
            }
            requests.sort_by_key(|request| (request.at, request.client));
        }
        Ok(self.report(&hub, &shards, begin))
    }

    fn shards(
        &self,
        begin: Instant,
        golden: &Arc<Golden>,
        random: &mut fastrand::Rng,
    ) -> Vec<Shard> {
        let threads = self
            .threads
            .clamp(1, 1 + self.clients as usize / THREAD_CLIENTS);
        let threads = u32::try_from(threads).unwrap_or(1);
        let first = |thread: u32| {
            let first = u64::from(self.clients) * u64::from(thread) / u64::from(threads);
            u32::try_from(first).unwrap_or(self.clients)
        };
        (0..threads)
            .map(|thread| {
                Shard::new(
                    begin,
                    self,
                    golden,
                    first(thread)..first(thread + 1),
                    random,
                )
            })
            .collect()
    }

    /// One delay of time, for all.
    fn window(
        &self,
        end: Instant,
        hub: &mut Hub,
        shards: &mut [Shard],
        batches: &[Batch],
        requests: &[Request],
        processor_time: fn() -> Duration,
    ) -> Result<Vec<Batch>, Broken> {
        let Some((here, others)) = shards.split_first_mut() else {
            return Ok(Vec::new());
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = others
                .iter_mut()
                .map(|shard| scope.spawn(|| shard.run(self, end, batches)))
                .collect();
            let sent = hub.run(self, end, requests, processor_time)?;
            here.run(self, end, batches)?;
            for other in others {
                match other.join() {
                    Ok(done) => done?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(sent)
        })
    }

    fn report(&self, hub: &Hub, shards: &[Shard], begin: Instant) -> Report {
        let needed = f64::from(self.chunks) * f64::from(self.blocks);
        let total = |figure: fn(&Shard) -> u64| shards.iter().map(figure).sum::<u64>();
        let stats = hub.stats();
        Report {
            crowd: *self,
            sent: hub.sent_of_chunks as f64 / needed.max(1.0),
            sent_of_manifest: hub.sent_of_manifest as f64 / f64::from(hub.manifest_blocks),
            expected: bound::ideal_code(&self.loss, self.blocks, self.clients),
            repeating: match self.loss {
                Loss::Random(probability) => {
                    Some(bound::repeating_blocks(probability, self.clients))
                }
                Loss::Bursts { .. } => None,
            },
            finished: shards
                .iter()
                .filter_map(|shard| shard.last)
                .max()
                .map_or(Duration::ZERO, |last| last - begin),
            requests: total(|shard| shard.requests),
            requests_lost: total(|shard| shard.requests_lost),
            requests_refused: hub.refused,
            requests_handled: stats.requests,
            requests_dropped: stats.overload,
            requests_busiest: hub.busiest,
            processor_time: hub.processor_time,
            requests_time: hub.requests_time,
            datagrams: stats.datagrams,
            deliveries: total(|shard| shard.deliveries),
        }
    }
}
