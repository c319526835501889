//! Who has asked lately, for the eye of the operator only: nothing of this reaches the protocol.
//!
//! All of it comes from REQUESTs, which anybody can forge: so the table ends somewhere, and its figures are hearsay.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use frisbee_cli::units;
use frisbee_proto::FRAMING;
use frisbee_proto::wire::{RequestHead, SEGMENT_SIZE};
use serde_json::{Value, json};

/// A client that has said nothing for this long is no longer shown. One that waits says something every ten seconds;
/// every sixteen where there are as many as are known.
const MEMORY: Duration = Duration::from_secs(20);

/// Clients known at most.
const CLIENTS_MAX: usize = 4096;

/// Clients that are listed at most.
pub(crate) const LISTED_MAX: usize = 256;

/// Seconds after which two thirds of a rate are that of the last datagrams.
const RATE_MEMORY: f64 = 3.0;

/// What a client is doing, as far as its REQUESTs tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing stands in its way.
    Receiving,
    /// Its buffers are full: its disk is slower than the network.
    Disk,
    /// Its own system drops datagrams before it gets to read them.
    Busy,
    /// It has everything.
    Done,
}

impl State {
    fn of(report: &RequestHead) -> Self {
        match report {
            RequestHead { done: true, .. } => Self::Done,
            RequestHead { dropped: 1.., .. } => Self::Busy,
            RequestHead { no_buffer: 1.., .. } | RequestHead { free_blocks: 0, .. } => Self::Disk,
            _ => Self::Receiving,
        }
    }

    /// A word for events.
    fn name(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Disk => "disk",
            Self::Busy => "busy",
            Self::Done => "done",
        }
    }

    /// Words for people.
    fn words(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Disk => "waits for its disk",
            Self::Busy => "too busy to receive",
            Self::Done => "done",
        }
    }
}

/// One client.
#[derive(Clone, Debug)]
struct Guest {
    heard: Instant,
    from: SocketAddr,
    report: RequestHead,
    /// Of all its reports.
    received: u64,
    lost: u64,
    dropped: u64,
    no_buffer: u64,
    /// Bits per second on the wire.
    rate: f64,
}

impl Guest {
    fn new(now: Instant, from: SocketAddr, report: RequestHead) -> Self {
        Self {
            heard: now,
            from,
            report,
            received: report.received.into(),
            lost: report.lost.into(),
            dropped: report.dropped.into(),
            no_buffer: report.no_buffer.into(),
            rate: 0.0,
        }
    }

    fn hear(&mut self, now: Instant, from: SocketAddr, report: RequestHead) {
        let time = now.saturating_duration_since(self.heard).as_secs_f64();
        let bits = f64::from(report.received) * ((SEGMENT_SIZE + FRAMING) * 8) as f64;
        let keep = (-time / RATE_MEMORY).exp();
        self.rate = self.rate * keep + bits / time.max(1e-3) * (1.0 - keep);
        let sum = |total: &mut u64, more: u32| *total = total.saturating_add(more.into());
        sum(&mut self.received, report.received);
        sum(&mut self.lost, report.lost);
        sum(&mut self.dropped, report.dropped);
        sum(&mut self.no_buffer, report.no_buffer);
        (self.heard, self.from, self.report) = (now, from, report);
    }

    fn loss(&self) -> f64 {
        let all = self.received.saturating_add(self.lost).max(1);
        ratio(self.lost, all)
    }

    fn bits_per_second(&self) -> u64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "for display; a float that is out of range becomes the nearest number"
        )]
        let rate = self.rate as u64;
        rate
    }
}

/// What recent requests said about their senders.
#[derive(Debug)]
pub(crate) struct Room {
    /// By image and client.
    guests: HashMap<(usize, u64), Guest>,
    /// Objects of each image.
    objects: Vec<u32>,
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

impl Room {
    /// An empty one, for images of these many objects.
    pub(crate) fn new(objects: Vec<u32>) -> Self {
        Self {
            guests: HashMap::new(),
            objects,
            done: 0,
        }
    }

    /// Notes what a request said.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        image: usize,
        from: SocketAddr,
        report: RequestHead,
    ) {
        let key = (image, report.client);
        let has_room = self.guests.len() < CLIENTS_MAX;
        let was_done = match self.guests.get_mut(&key) {
            Some(guest) => {
                let before = guest.report.done;
                guest.hear(now, from, report);
                before
            }
            None if has_room => {
                self.guests.insert(key, Guest::new(now, from, report));
                false
            }
            None => return,
        };
        if report.done && !was_done {
            self.done = self.done.saturating_add(1);
        }
    }

    /// Forgets the silent. Who is there now?
    pub(crate) fn summary(&mut self, now: Instant) -> Summary {
        self.guests
            .retain(|_, guest| now.saturating_duration_since(guest.heard) < MEMORY);
        let active = || self.guests.values().filter(|guest| !guest.report.done);
        Summary {
            active: active().count(),
            done: self.done,
            least_objects: active().map(|guest| guest.report.objects_done).min(),
        }
    }

    /// Clients that said they have everything, since the start.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// At most so many clients: those furthest behind first, those that are done last.
    fn listed(&self, most: usize) -> Vec<(usize, u64, &Guest)> {
        let guests = self.guests.iter();
        let mut listed: Vec<_> = guests
            .map(|(&(image, client), guest)| (image, client, guest))
            .collect();
        listed.sort_by_key(|&(image, client, guest)| {
            let report = &guest.report;
            (report.done, report.objects_done, guest.from, image, client)
        });
        listed.truncate(most);
        listed
    }

    /// The clients as an event tells them.
    pub(crate) fn fields(&self, now: Instant) -> Value {
        let listed = self.listed(LISTED_MAX).into_iter();
        let fields = listed.map(|(image, client, guest)| {
            json!({
                "address": guest.from.to_string(),
                "client": format!("{client:016x}"),
                "image": image,
                "state": State::of(&guest.report).name(),
                "objects": self.objects.get(image),
                "objects_done": guest.report.objects_done,
                "objects_written": guest.report.objects_written,
                "bits_per_second": guest.bits_per_second(),
                "received": guest.received,
                "lost": guest.lost,
                "dropped": guest.dropped,
                "no_buffer": guest.no_buffer,
                "unicast": guest.report.unicast,
                "silent_seconds": now.saturating_duration_since(guest.heard).as_secs_f64(),
            })
        });
        fields.collect()
    }

    /// The clients as lines for a terminal, at most so many; behind them, what has no place.
    pub(crate) fn lines(&self, most: usize) -> Vec<String> {
        let all = self.guests.len();
        let room = if all > most {
            most.saturating_sub(1)
        } else {
            all
        };
        let mut lines: Vec<String> = self
            .listed(room)
            .into_iter()
            .map(|(image, _, guest)| self.line(image, guest))
            .collect();
        if all > room && most > 0 {
            lines.push(format!("and {} more, further ahead", all - room));
        }
        lines
    }

    fn line(&self, image: usize, guest: &Guest) -> String {
        let report = &guest.report;
        let of = self.objects.get(image).copied().unwrap_or(0);
        let percent = |objects: u32| (100.0 * ratio(objects.into(), of.max(1).into())).min(100.0);
        let image = match self.objects.len() {
            0 | 1 => String::new(),
            _ => format!("image {}  ", image + 1),
        };
        let lane = if report.unicast { ", by unicast" } else { "" };
        let dropped = match guest.dropped {
            0 => String::new(),
            dropped => format!(", {dropped} dropped by its system"),
        };
        format!(
            "{image}{:<21} {:>3.0} % received, {:>3.0} % written  {:>11}  loss {:.1} %  {}{lane}{dropped}",
            guest.from.to_string(),
            percent(report.objects_done),
            percent(report.objects_written),
            units::rate(guest.bits_per_second()),
            guest.loss() * 100.0,
            State::of(report).words(),
        )
    }
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(client: u64, objects_done: u32, done: bool) -> RequestHead {
        RequestHead {
            client,
            done,
            objects_done,
            free_blocks: 1000,
            ..RequestHead::default()
        }
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 40_000))
    }

    #[test]
    fn the_slowest_is_named_the_done_are_counted_once_and_the_silent_are_forgotten() {
        let mut room = Room::new(vec![100]);
        let start = Instant::now();
        let summary = |active, done, least_objects| Summary {
            active,
            done,
            least_objects,
        };
        room.note(start, 0, address(1), report(1, 40, false));
        room.note(start, 0, address(2), report(2, 7, false));
        assert_eq!(room.summary(start), summary(2, 0, Some(7)));
        room.note(start, 0, address(2), report(2, 90, true));
        room.note(start, 0, address(2), report(2, 90, true));
        assert_eq!(room.summary(start), summary(1, 1, Some(40)));
        assert_eq!(room.summary(start + MEMORY), summary(0, 1, None));
    }

    #[test]
    fn forged_clients_cannot_fill_the_memory() {
        let mut room = Room::new(vec![100]);
        let now = Instant::now();
        for client in 0..2 * CLIENTS_MAX as u64 {
            room.note(now, 0, address(1), report(client, 0, true));
        }
        assert_eq!(room.guests.len(), CLIENTS_MAX);
        assert_eq!(room.done, CLIENTS_MAX as u64);
        assert_eq!(room.fields(now).as_array().unwrap().len(), LISTED_MAX);
        assert_eq!(room.lines(20).len(), 20);
    }

    #[test]
    fn each_client_has_a_line_with_what_it_has_said() {
        let mut room = Room::new(vec![200]);
        let start = Instant::now();
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            let slow = RequestHead {
                received: 900,
                lost: 100,
                no_buffer: 5,
                objects_written: 20,
                ..report(1, 50, false)
            };
            room.note(now, 0, address(1), slow);
            let quick = RequestHead {
                received: 10_000,
                dropped: u32::from(second == 9),
                unicast: true,
                ..report(2, 150, false)
            };
            room.note(now, 0, address(2), quick);
        }
        room.note(start, 0, address(3), report(3, 200, true));
        let lines = room.lines(10);
        for (line, parts) in lines.iter().zip([
            &[
                "10.0.0.1",
                " 25 % received",
                " 10 % written",
                "loss 10.0 %",
                "waits for its disk",
            ][..],
            &[
                "10.0.0.2",
                " 75 % received",
                "loss 0.0 %",
                "too busy",
                "by unicast",
                "1 dropped",
            ],
            &["10.0.0.3", "100 % received", "done"],
        ]) {
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
        assert_eq!(room.lines(2)[1], "and 2 more, further ahead");
        let fields = room.fields(start + Duration::from_secs(9));
        assert_eq!(fields[0]["lost"], 1000);
        assert_eq!(fields[0]["state"], "disk");
        // 10,000 datagrams a second of 1122 bytes, nearly, after 9 s.
        let rate = fields[1]["bits_per_second"].as_f64().unwrap();
        assert!((8.0e7..9.0e7).contains(&rate), "{rate}");
        assert_eq!(fields[2]["state"], "done");
    }
}
