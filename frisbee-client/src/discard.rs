//! `/dev/null` as the target: everything is received and proven, and nothing is kept. It shows what a network and a
//! room carry, and needs no content key.

use std::path::Path;
use std::sync::mpsc;

use chunkfmt::{BLOCK_SIZE, ImageHeader};
use frisbee_cli::progress::Progress;
use frisbee_cli::{Failure, units};
use frisbee_proto::ClientStats;
use serde_json::{Value, json};

use crate::Cli;
use crate::admission::Policy;
use crate::install::{Inbox, UNTOUCHED};
use crate::place::Place;
use crate::receiver::Message;

/// Whether what comes is to be thrown away.
pub(crate) fn is_sink(target: &Path) -> bool {
    target == Path::new("/dev/null")
}

/// What a receiver has counted.
pub(crate) fn counters(stats: &ClientStats) -> Value {
    json!({
        "datagrams": stats.datagrams, "blocks": stats.blocks, "duplicates": stats.duplicates,
        "no_buffer": stats.no_buffer, "lost": stats.lost, "receive_drops": stats.receive_drops,
        "forged": stats.forged, "requests": stats.requests,
    })
}

impl Cli {
    /// Receives an image and nothing of its bases.
    pub(crate) fn discard(&self, place: Place, policy: Policy) -> Result<(), Failure> {
        let (sender, messages) = mpsc::channel();
        let inbox = Inbox::new(messages)?;
        let receiver = self.receive(0, place, policy, sender)?;
        let accepted = inbox.manifest(0)?;
        let header = ImageHeader::parse(&accepted.header)?;
        let (name, epoch) = (&header.name, header.epoch());
        let chunks: Vec<u32> = accepted
            .manifest
            .present()
            .map(|(index, _)| index)
            .collect();
        let total = accepted.manifest.head.chunk_blocks * BLOCK_SIZE as u64;
        let fields = json!({
            "image": name, "uuid": header.uuid().to_string(), "epoch": epoch,
            "target": self.target.display().to_string(), "total_bytes": total,
        });
        let progress = Progress::start(self.events(), total, fields);
        let releases = receiver.releases();
        releases.only(chunks);
        let stats = loop {
            match inbox
                .next(UNTOUCHED)
                .map_err(|failure| progress.fail(failure))?
            {
                Message::Chunk { index, bytes, .. } => {
                    releases.release(index);
                    progress.advance(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                }
                Message::Received(_, stats) => break stats,
                Message::Line(text) => progress.line(&format!("frisbee-client: {text}")),
                _ => {}
            }
        };
        let seconds = progress.elapsed().as_secs_f64();
        let summary = format!(
            "received {name} (epoch {epoch}) and kept nothing of it: {} in {seconds:.1} s; {} datagrams, {} lost, {} forged",
            units::size(total),
            stats.datagrams,
            stats.lost,
            stats.forged,
        );
        progress.finish(&summary, counters(&stats));
        Ok(())
    }
}
