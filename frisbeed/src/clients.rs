//! Who has asked lately, for the eye of the operator only: nothing of this reaches the protocol.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use frisbee_proto::wire::RequestHead;

/// A client that has said nothing for this long is no longer shown.
const MEMORY: Duration = Duration::from_secs(10);

/// Clients shown at most. Requests can be forged, so the table has to end somewhere.
const CLIENTS_MAX: usize = 4096;

/// What recent requests said about their senders.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    heard: HashMap<u64, (Instant, RequestHead)>,
    done: u64,
}

/// The recent clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Clients that asked for something lately.
    pub(crate) active: usize,
    /// Clients that said they have everything, since the start.
    pub(crate) done: u64,
    /// Objects that the client furthest behind has.
    pub(crate) least_objects: Option<u32>,
}

impl Clients {
    /// Notes what a request said.
    pub(crate) fn note(&mut self, now: Instant, report: RequestHead) {
        let known = self.heard.contains_key(&report.client);
        if known || self.heard.len() < CLIENTS_MAX {
            let before = self.heard.insert(report.client, (now, report));
            if report.done && before.is_none_or(|(_, before)| !before.done) {
                self.done = self.done.saturating_add(1);
            }
        }
    }

    /// Who is there now.
    pub(crate) fn summary(&mut self, now: Instant) -> Summary {
        self.heard
            .retain(|_, (heard, _)| now.saturating_duration_since(*heard) < MEMORY);
        let active = || {
            self.heard
                .values()
                .map(|(_, report)| report)
                .filter(|report| !report.done)
        };
        Summary {
            active: active().count(),
            done: self.done,
            least_objects: active().map(|report| report.objects_done).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(client: u64, objects_done: u32, done: bool) -> RequestHead {
        RequestHead {
            client,
            done,
            objects_done,
            ..RequestHead::default()
        }
    }

    #[test]
    fn the_slowest_is_named_the_done_are_counted_once_and_the_silent_are_forgotten() {
        let mut clients = Clients::default();
        let start = Instant::now();
        clients.note(start, report(1, 40, false));
        clients.note(start, report(2, 7, false));
        assert_eq!(
            clients.summary(start),
            Summary {
                active: 2,
                done: 0,
                least_objects: Some(7)
            }
        );
        clients.note(start, report(2, 90, true));
        clients.note(start, report(2, 90, true));
        assert_eq!(
            clients.summary(start),
            Summary {
                active: 1,
                done: 1,
                least_objects: Some(40)
            }
        );
        assert_eq!(
            clients.summary(start + MEMORY),
            Summary {
                active: 0,
                done: 1,
                least_objects: None
            }
        );
    }

    #[test]
    fn forged_clients_cannot_fill_the_memory() {
        let mut clients = Clients::default();
        let now = Instant::now();
        (0..2 * CLIENTS_MAX as u64).for_each(|client| clients.note(now, report(client, 0, true)));
        assert_eq!(clients.heard.len(), CLIENTS_MAX);
        assert_eq!(clients.done, CLIENTS_MAX as u64);
    }
}
