//! What the operator sees: one line at the start, the state once a second, troubles at most every ten seconds.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use frisbee_cli::progress::{Events, Progress};
use frisbee_cli::units;
use frisbee_proto::Server;
use frisbee_proto::wire::RequestHead;
use frisbee_udp::{Group, Interface, Throttle};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::clients::Clients;
use crate::image::ImageFile;

/// Time between two states shown.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two lines about trouble.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(10);

/// What there is to say at the start.
pub(crate) struct Start<'a> {
    pub(crate) file: &'a Path,
    pub(crate) image: &'a ImageFile,
    pub(crate) group: Group,
    pub(crate) interface: &'a Interface,
    pub(crate) requests: SocketAddr,
    pub(crate) ceiling: Option<u64>,
}

/// Says what goes on, as JSON events, on a terminal, or in two lines.
pub(crate) struct Status {
    progress: Progress,
    spinner: ProgressBar,
    clients: Clients,
    trouble: Throttle,
    due: Instant,
    last_wire_bytes: u64,
    last_shown: Instant,
    object_bytes: u64,
}

impl Status {
    /// Says what is served where.
    pub(crate) fn start(events: Events, start: &Start<'_>) -> Self {
        let header = &start.image.index().header;
        let head = &start.image.index().manifest.head;
        let fields = json!({
            "file": start.file.display().to_string(),
            "name": header.name,
            "uuid": head.uuid().to_string(),
            "epoch": head.epoch(),
            "image_bytes": head.image_bytes(),
            "group": start.group.to_string(),
            "interface": start.interface.name(),
            "requests": start.requests.to_string(),
            "rate": start.ceiling,
        });
        let progress = Progress::start(events, 0, fields);
        let on_terminal = events == Events::Off && std::io::stderr().is_terminal();
        let target = if on_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let spinner = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        let now = Instant::now();
        let status = Self {
            progress,
            spinner,
            clients: Clients::default(),
            trouble: Throttle::new(TROUBLE_INTERVAL),
            due: now + INTERVAL,
            last_wire_bytes: 0,
            last_shown: now,
            object_bytes: start.image.object_bytes(),
        };
        if events == Events::Off {
            let rate = start
                .ceiling
                .map_or("rate by what clients keep up with".into(), |rate| {
                    format!("at most {}", units::rate(rate))
                });
            let (name, uuid, size) = (&header.name, head.uuid(), units::size(head.image_bytes()));
            status.line(&format!(
                "frisbeed: serving {} ({name:?}, {uuid}, {size}) to {} on {}, requests to {}, {rate}",
                start.file.display(),
                start.group,
                start.interface,
                start.requests,
            ));
        }
        status
    }

    /// A request was understood.
    pub(crate) fn request(&mut self, now: Instant, report: RequestHead) {
        self.clients.note(now, report);
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

    /// When [`Status::show`] is to be called next.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Shows the present state.
    pub(crate) fn show(&mut self, now: Instant, server: &Server) {
        let stats = server.stats();
        let clients = self.clients.summary(now);
        let elapsed = now.saturating_duration_since(self.last_shown);
        let sent = stats.wire_bytes.saturating_sub(self.last_wire_bytes);
        let throughput = bits_per_second(sent, elapsed);
        self.progress.emit(
            "progress",
            json!({
                "wire_bytes": stats.wire_bytes,
                "bits_per_second": throughput,
                "rate": server.rate(),
                "blocks": stats.blocks,
                "repair_blocks": stats.repair_blocks,
                "parity_blocks": stats.parity_blocks,
                "requests": stats.requests,
                "rejected": stats.rejected,
                "load_failures": stats.load_failures,
                "queued_objects": server.queued_objects(),
                "clients": clients.active,
                "clients_done": clients.done,
                "least_objects": clients.least_objects,
            }),
        );
        self.spinner.set_message(format!(
            "{}, {} asking, {} done, sent {}, {} objects queued",
            units::rate(throughput),
            clients.active,
            clients.done,
            units::size(stats.wire_bytes),
            server.queued_objects(),
        ));
        self.spinner.tick();
        (self.last_wire_bytes, self.last_shown, self.due) = (stats.wire_bytes, now, now + INTERVAL);
    }

    /// Says what was done.
    pub(crate) fn finish(&self, server: &Server) {
        let stats = server.stats();
        self.spinner.finish_and_clear();
        let per_byte = ratio(
            (stats.blocks + stats.parity_blocks).saturating_mul(chunkfmt::BLOCK_SIZE as u64),
            self.object_bytes,
        );
        let elapsed = self.progress.elapsed();
        let summary = format!(
            "frisbeed: sent {} in {:.1} s: {per_byte:.3} bytes of data per byte of image, {} repair blocks, {} of parity, {} requests",
            units::size(stats.wire_bytes),
            elapsed.as_secs_f64(),
            stats.repair_blocks,
            stats.parity_blocks,
            stats.requests,
        );
        let fields = json!({
            "wire_bytes": stats.wire_bytes,
            "datagrams": stats.datagrams,
            "blocks": stats.blocks,
            "repair_blocks": stats.repair_blocks,
            "parity_blocks": stats.parity_blocks,
            "proofs": stats.proofs,
            "announces": stats.announces,
            "requests": stats.requests,
            "rejected": stats.rejected,
            "load_failures": stats.load_failures,
            "sent_per_byte": per_byte,
        });
        self.progress.finish(&summary, fields);
    }

    fn line(&self, text: &str) {
        self.spinner.suspend(|| self.progress.line(text));
    }
}

fn bits_per_second(bytes: u64, time: Duration) -> u64 {
    let bits = u128::from(bytes) * 8 * 1_000_000_000;
    u64::try_from(bits / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
