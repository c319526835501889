//! What the operator sees: one line for each image at the start, the state once a second, troubles at most every ten
//! seconds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use frisbee_cli::progress::{Events, Progress};
use frisbee_cli::units;
use frisbee_proto::wire::RequestHead;
use frisbee_proto::{ServerStats, Service, Site};
use frisbee_udp::Throttle;
use serde_json::{Value, json};

use crate::outlet::Outlet;
use crate::room::Room;
use crate::screen::Screen;

/// Time between two states shown.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two lines about trouble.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(10);

/// Says what goes on, as JSON events, on a terminal, or in a few lines.
pub(crate) struct Status {
    events: Events,
    progress: Progress,
    screen: Screen,
    room: Room,
    trouble: Throttle,
    due: Instant,
    last_wire_bytes: u64,
    last_shown: Instant,
    /// Names and sizes of the images.
    images: Vec<(String, u64)>,
}

impl Status {
    /// Says what is served where.
    pub(crate) fn start(
        events: Events,
        outlets: &[Outlet],
        ceiling: Option<u64>,
        standby: bool,
    ) -> Self {
        let mut fields = outlets.first().map(fields_of).unwrap_or_default();
        if let Value::Object(fields) = &mut fields {
            fields.insert("rate".into(), json!(ceiling));
            fields.insert("standby".into(), json!(standby));
            fields.insert("images".into(), outlets.iter().map(fields_of).collect());
        }
        let objects = outlets.iter().map(|outlet| {
            let present = outlet.image.index().manifest.present().count();
            u32::try_from(present + 1).unwrap_or(u32::MAX)
        });
        let images = outlets.iter().map(|outlet| {
            let name = outlet.image.index().header.name.clone();
            (name, outlet.image.object_bytes())
        });
        let now = Instant::now();
        let status = Self {
            events,
            progress: Progress::start(events, 0, fields),
            screen: Screen::new(events),
            room: Room::new(objects.collect()),
            trouble: Throttle::new(TROUBLE_INTERVAL),
            due: now + INTERVAL,
            last_wire_bytes: 0,
            last_shown: now,
            images: images.collect(),
        };
        if events == Events::Off {
            for outlet in outlets {
                status.line(&title(outlet, ceiling, standby));
            }
        }
        status
    }

    /// A request was understood.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        image: usize,
        from: SocketAddr,
        report: RequestHead,
    ) {
        self.room.note(now, image, from, report);
    }

    /// Something went wrong that the server survives. What strangers can cause may not flood a log.
    pub(crate) fn trouble(&mut self, now: Instant, what: &str) {
        match self.trouble.pass(now) {
            None => {}
            Some(0) => self.line(&format!("frisbeed: {what}")),
            Some(more) => self.line(&format!(
                "frisbeed: {what} ({more} more messages were held back)"
            )),
        }
    }

    /// This standby serves an image from now on.
    pub(crate) fn took_over(&self, image: usize, silence: Duration) {
        let seconds = silence.as_secs_f64();
        let fields = json!({ "image": image, "silence_seconds": seconds });
        let text = format!("no other server was heard for {seconds:.1} s: serving");
        self.role(image, "takeover", fields, &text);
    }

    /// This standby is silent from now on.
    pub(crate) fn stepped_back(&self, image: usize) {
        let text = "another server is heard: standing by";
        self.role(image, "standby", json!({ "image": image }), text);
    }

    fn role(&self, image: usize, event: &str, fields: Value, text: &str) {
        match self.events {
            Events::Off => {
                let name = self.images.get(image).map_or("", |(name, _)| name);
                self.line(&format!("frisbeed: {name:?}: {text}"));
            }
            _ => self.progress.emit(event, fields),
        }
    }

    /// When [`Status::show`] is to be called next.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Shows the present state.
    pub(crate) fn show(&mut self, now: Instant, site: &Site) {
        let stats = stats(site);
        let clients = self.room.summary(now);
        let elapsed = now.saturating_duration_since(self.last_shown);
        let sent = stats.wire_bytes.saturating_sub(self.last_wire_bytes);
        let throughput = bits_per_second(sent, elapsed);
        let services = site.services();
        let queued: usize = services.iter().map(Service::queued_objects).sum();
        let lanes: usize = services
            .iter()
            .map(|service| service.lane_stats().open)
            .sum();
        if self.events != Events::Off {
            let images = services.iter().map(|service| {
                let (stats, lanes) = (service.stats(), service.lane_stats());
                json!({
                    "wire_bytes": stats.wire_bytes,
                    "blocks": stats.blocks,
                    "rate": service.rate(),
                    "queued_objects": service.queued_objects(),
                    "standing_by": service.is_quiet(),
                    "unicast": lanes.open,
                    "unicast_refused": lanes.refused,
                })
            });
            let fields = json!({
                "wire_bytes": stats.wire_bytes,
                "bits_per_second": throughput,
                "rate": services.iter().map(Service::rate).max(),
                "blocks": stats.blocks,
                "repair_blocks": stats.repair_blocks,
                "parity_blocks": stats.parity_blocks,
                "requests": stats.requests,
                "rejected": stats.rejected,
                "load_failures": stats.load_failures,
                "queued_objects": queued,
                "unicast": lanes,
                "images": images.collect::<Value>(),
                "clients_active": clients.active,
                "clients_done": clients.done,
                "least_objects": clients.least_objects,
                "clients": self.room.fields(now),
            });
            self.progress.emit("progress", fields);
        }
        let by_unicast = match lanes {
            0 => String::new(),
            lanes => format!(" ({lanes} by unicast)"),
        };
        let server = format!(
            "{}, {} asking{by_unicast}, {} done, sent {}, {queued} objects queued",
            units::rate(throughput),
            clients.active,
            clients.done,
            units::size(stats.wire_bytes),
        );
        self.screen.show(server, &self.room);
        (self.last_wire_bytes, self.last_shown, self.due) = (stats.wire_bytes, now, now + INTERVAL);
    }

    /// Says what was done.
    pub(crate) fn finish(&self, site: &Site) {
        let all = stats(site);
        self.screen.clear();
        let bytes = |stats: &ServerStats| {
            (stats.blocks + stats.parity_blocks).saturating_mul(chunkfmt::BLOCK_SIZE as u64)
        };
        let image_bytes = self.images.iter().map(|&(_, bytes)| bytes).sum();
        let per_byte = ratio(bytes(&all), image_bytes);
        let each = site.services().iter().zip(&self.images);
        let images = each.map(|(service, &(_, size))| {
            let (stats, lanes) = (service.stats(), service.lane_stats());
            json!({
                "wire_bytes": stats.wire_bytes,
                "blocks": stats.blocks,
                "parity_blocks": stats.parity_blocks,
                "sent_per_byte": ratio(bytes(&stats), size),
                "unicast_opened": lanes.opened,
                "unicast_refused": lanes.refused,
                "challenges": lanes.challenges,
            })
        });
        let elapsed = self.progress.elapsed();
        let finished = match self.room.done() {
            1 => "1 client finished".into(),
            done => format!("{done} clients finished"),
        };
        let summary = format!(
            "frisbeed: sent {} in {:.1} s: {per_byte:.3} bytes of data per byte of image, {} repair blocks, {} of parity, {} requests, {finished}",
            units::size(all.wire_bytes),
            elapsed.as_secs_f64(),
            all.repair_blocks,
            all.parity_blocks,
            all.requests,
        );
        let fields = json!({
            "wire_bytes": all.wire_bytes,
            "datagrams": all.datagrams,
            "blocks": all.blocks,
            "repair_blocks": all.repair_blocks,
            "parity_blocks": all.parity_blocks,
            "proofs": all.proofs,
            "announces": all.announces,
            "requests": all.requests,
            "rejected": all.rejected,
            "load_failures": all.load_failures,
            "sent_per_byte": per_byte,
            "clients_done": self.room.done(),
            "images": images.collect::<Value>(),
        });
        self.progress.finish(&summary, fields);
    }

    fn line(&self, text: &str) {
        self.screen.suspend(|| self.progress.line(text));
    }
}

/// An image and its place, as the `start` event tells them.
fn fields_of(outlet: &Outlet) -> Value {
    let header = &outlet.image.index().header;
    let head = &outlet.image.index().manifest.head;
    json!({
        "file": outlet.file.display().to_string(),
        "name": header.name,
        "uuid": head.uuid().to_string(),
        "epoch": head.epoch(),
        "image_bytes": head.image_bytes(),
        "group": outlet.group.to_string(),
        "interface": outlet.interface.name(),
        "requests": outlet.requests.to_string(),
    })
}

/// The same as a line.
fn title(outlet: &Outlet, ceiling: Option<u64>, standby: bool) -> String {
    let header = &outlet.image.index().header;
    let head = &outlet.image.index().manifest.head;
    let rate = ceiling.map_or("rate by what clients keep up with".into(), |rate| {
        format!("at most {}", units::rate(rate))
    });
    let (name, uuid, size) = (&header.name, head.uuid(), units::size(head.image_bytes()));
    let does = if standby {
        "standing by for"
    } else {
        "serving"
    };
    format!(
        "frisbeed: {does} {} ({name:?}, {uuid}, {size}) to {} on {}, requests to {}, {rate}",
        outlet.file.display(),
        outlet.group,
        outlet.interface,
        outlet.requests,
    )
}

/// What all services have done.
fn stats(site: &Site) -> ServerStats {
    let mut all = ServerStats::default();
    for service in site.services() {
        all.add(&service.stats());
    }
    all
}

fn bits_per_second(bytes: u64, time: Duration) -> u64 {
    let bits = u128::from(bytes) * 8 * 1_000_000_000;
    u64::try_from(bits / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
