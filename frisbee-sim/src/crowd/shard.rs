//! Some of the clients, which one thread runs.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use frisbee_proto::{
    Admission, Admitted, Client, ClientConfig, ClientOutput, Event, ObjectInfo, Weightless,
};

use super::{Batch, Crowd, hub};
use crate::golden::Golden;
use crate::invariants::{Broken, waits};
use crate::loss::{Fate, Loss};

/// Trusts the one image, without looking.
#[derive(Debug)]
struct Trust(Arc<Known>);

/// What all clients know of the image.
#[derive(Debug)]
struct Known {
    admitted: Admitted,
    chunks: Arc<[ObjectInfo]>,
}

impl Admission for Trust {
    fn admit(&mut self, _: &[u8; 1024]) -> Option<Admitted> {
        Some(self.0.admitted)
    }

    fn open_manifest(&mut self, _: Vec<u8>) -> Option<Arc<[ObjectInfo]>> {
        Some(Arc::clone(&self.0.chunks))
    }
}

/// A REQUEST under way.
#[derive(Debug)]
pub(super) struct Request {
    /// When it is at the server's port.
    pub(super) at: Instant,
    pub(super) client: u32,
    pub(super) datagram: Vec<u8>,
}

#[derive(Debug)]
struct Seat {
    /// `None` once it has finished.
    client: Option<Client<Trust, Weightless>>,
    down: Fate,
    up: Fate,
    start: Instant,
    /// When it will have looked at its disk.
    go: Option<Instant>,
}

/// Some of the clients.
#[derive(Debug)]
pub(super) struct Shard {
    first: u32,
    seats: Vec<Seat>,
    /// When each has something to do: beside the seats, so that a look at all of them touches little memory.
    wakes: Vec<Option<Instant>>,
    server: SocketAddr,
    unfinished: usize,
    /// What they sent, by client.
    pub(super) sent: Vec<Request>,
    pub(super) requests: u64,
    pub(super) requests_lost: u64,
    pub(super) deliveries: u64,
    /// When the last one finished.
    pub(super) last: Option<Instant>,
}

impl Shard {
    pub(super) fn new(
        begin: Instant,
        crowd: &Crowd,
        golden: &Golden,
        clients: Range<u32>,
        random: &mut fastrand::Rng,
    ) -> Self {
        let known = Arc::new(Known {
            admitted: golden.admitted(),
            chunks: golden.image.objects[1..].into(),
        });
        let up = Loss::Random(crowd.loss.mean());
        let seats: Vec<Seat> = clients
            .clone()
            .map(|_| {
                let start = begin + crowd.starts.mul_f64(random.f64());
                let config = ClientConfig {
                    hold: true,
                    seed: random.u64(..),
                    ..ClientConfig::default()
                };
                let trust = Trust(Arc::clone(&known));
                Seat {
                    client: Some(Client::with_content(start, config, trust)),
                    down: Fate::new(&crowd.loss, random.u64(..)),
                    up: Fate::new(&up, random.u64(..)),
                    start,
                    go: None,
                }
            })
            .collect();
        Self {
            first: clients.start,
            wakes: vec![None; seats.len()],
            unfinished: seats.len(),
            seats,
            server: hub::ADDRESS.into(),
            sent: Vec::new(),
            requests: 0,
            requests_lost: 0,
            deliveries: 0,
            last: None,
        }
    }

    pub(super) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// When the first of them has something to do.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.wakes.iter().flatten().min().copied()
    }

    /// Runs all clients until `end`, given what reaches them before.
    pub(super) fn run(
        &mut self,
        crowd: &Crowd,
        end: Instant,
        batches: &[Batch],
    ) -> Result<(), Broken> {
        for place in 0..self.seats.len() {
            if !batches.is_empty() || self.wakes[place].is_some_and(|wake| wake < end) {
                self.run_one(crowd, end, batches, place)?;
            }
        }
        Ok(())
    }

    fn run_one(
        &mut self,
        crowd: &Crowd,
        end: Instant,
        batches: &[Batch],
        place: usize,
    ) -> Result<(), Broken> {
        for batch in batches {
            let due = batch.at;
            while let Some(wake) = self.wakes[place].filter(|&wake| wake <= due) {
                self.poll(crowd, wake, place)?;
            }
            let seat = &mut self.seats[place];
            let Some(client) = seat.client.as_mut().filter(|_| seat.start <= due) else {
                return Ok(());
            };
            for datagram in batch.bytes.chunks(batch.segment) {
                if !seat.down.is_lost(&crowd.loss) {
                    client.handle_datagram(due, self.server, datagram);
                    self.deliveries += 1;
                }
            }
            self.poll(crowd, due, place)?;
        }
        while let Some(wake) = self.wakes[place].filter(|&wake| wake < end) {
            self.poll(crowd, wake, place)?;
        }
        Ok(())
    }

    fn poll(&mut self, crowd: &Crowd, now: Instant, place: usize) -> Result<(), Broken> {
        let up = Loss::Random(crowd.loss.mean());
        let seat = &mut self.seats[place];
        let Some(client) = &mut seat.client else {
            return Ok(());
        };
        if seat.go.take_if(|go| *go <= now).is_some() {
            client.go(now);
        }
        loop {
            match client.poll(now) {
                ClientOutput::Send { datagram, .. } => {
                    self.requests += 1;
                    if seat.up.is_lost(&up) {
                        self.requests_lost += 1;
                        continue;
                    }
                    self.sent.push(Request {
                        at: now + crowd.delay,
                        client: self.first + u32::try_from(place).unwrap_or(u32::MAX),
                        datagram,
                    });
                }
                ClientOutput::Object { object, .. } => client.release(now, object),
                ClientOutput::Event(Event::Finished) => {
                    (seat.client, self.wakes[place]) = (None, None);
                    self.unfinished -= 1;
                    self.last = self.last.max(Some(now));
                    return Ok(());
                }
                ClientOutput::Event(Event::ManifestRefused) => return Err(Broken::Manifest(place)),
                ClientOutput::Event(Event::Manifest { .. }) => seat.go = Some(now + crowd.look),
                ClientOutput::Event(_) => {}
                ClientOutput::Wait(wake) => {
                    self.wakes[place] = wake.into_iter().chain(seat.go).min();
                    return waits(now, wake, || format!("client {place}"));
                }
            }
        }
    }
}
