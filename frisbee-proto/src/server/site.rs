//! Several images in one process: one rate for all, in turns.

use std::time::Instant;

use super::shared::SharedPacer;
use super::{Service, ServiceOutput};

/// The services of one process. They share its rate: each has its turn, and what one does not use the others have.
#[derive(Debug)]
pub struct Site {
    services: Vec<Service>,
    pacer: SharedPacer,
    /// The service that has its turn.
    turn: usize,
}

impl Site {
    /// `ceiling` is the rate that all together never exceed, in bits per second on the wire. Each service has to have
    /// the same ceiling, or a lower one.
    pub fn new(now: Instant, ceiling: Option<u64>, services: Vec<Service>) -> Self {
        Self {
            services,
            pacer: SharedPacer::new(now, ceiling),
            turn: 0,
        }
    }

    /// The services, in the order in which they were given.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// One of the services, for its input.
    pub fn service(&mut self, place: usize) -> Option<&mut Service> {
        self.services.get_mut(place)
    }

    /// What to do next, and for which service; that of [`ServiceOutput::Wait`] is of no account. As [`crate::Server::poll`].
    pub fn poll(&mut self, now: Instant, buffer: &mut Vec<u8>) -> (usize, ServiceOutput) {
        let batch = match self.pacer.allowance(now) {
            Ok(batch) => batch as usize,
            Err(ready) => return (0, ServiceOutput::Wait(Some(ready))),
        };
        let mut wait: Option<Instant> = None;
        let count = self.services.len();
        for place in (self.turn..count).chain(0..self.turn.min(count)) {
            let Some(service) = self.services.get_mut(place) else {
                continue;
            };
            match service.poll(now, batch, buffer) {
                ServiceOutput::Wait(until) => wait = wait.into_iter().chain(until).min(),
                output => {
                    if let ServiceOutput::Transmit { transmit, .. } = output {
                        let framing = service.framing() * transmit.datagrams;
                        self.pacer.charge(now, buffer.len() + framing);
                        self.turn = (place + 1) % count;
                    }
                    return (place, output);
                }
            }
        }
        (0, ServiceOutput::Wait(wait))
    }
}
