//! The main thread: judges the target, feeds the pipeline, and ends well only when everything is on the disk.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use chunkfmt::Context;
use frisbee_cli::progress::{Events, Progress};
use frisbee_cli::{Exit, Failure, Interrupt, confirm, keys, say, units};
use frisbee_proto::ClientStats;
use frisbee_udp::{Group, Interface};
use imageunzip::{Candidate, Event, InstallOptions, Installer, Report, Stopped};
use serde_json::json;

use crate::Cli;
use crate::admission::{Accepted, Wanted};
use crate::receiver::{Message, Receiver, ReceiverOptions};

const INCOMPLETE: &str = "the disk is incomplete and will not boot";
const UNTOUCHED: &str = "nothing was written";

/// Time between two looks whether a signal has come.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(200);

impl Cli {
    /// Receives and installs an image.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        let trust = Arc::new(keys::load_trust(&self.trust, self.allow_unsigned)?);
        let key = self
            .key
            .as_deref()
            .map(keys::load_content_key)
            .transpose()?;
        let network = |error: frisbee_udp::Error| Failure::new(Exit::Network, error);
        let group: Group = self.group.parse().map_err(network)?;
        let interface = Interface::find(self.interface.as_deref(), group).map_err(network)?;
        // What no image could be written to is better told now than when one has been announced.
        let candidate = Candidate::open(&self.target)?;
        if candidate.holds_data() {
            confirm::can_be_confirmed(&self.target, self.yes)?;
        }
        let interrupt = Interrupt::watch()?;
        if !self.json {
            say(&format!(
                "frisbee-client: waiting for an image on {group}, {interface}"
            ));
        }
        let (sender, messages) = mpsc::channel();
        let wanted = Wanted {
            trust,
            uuid: self.uuid,
            min_epoch: self.min_epoch,
        };
        let options = ReceiverOptions {
            group,
            interface,
            wanted,
            credit_blocks: self.memory.saturating_mul(1024),
            timeout: self.timeout.map(Duration::from_secs),
        };
        let trust = Arc::clone(&options.wanted.trust);
        let receiver = Receiver::start(options, sender.clone())?;
        let inbox = Inbox {
            messages,
            interrupt,
        };
        let accepted = inbox.manifest()?;
        let context = Arc::new(Context::new(&accepted.header, &trust, key.as_slice())?);
        self.install(&accepted, &context, candidate, &receiver, &inbox, sender)
    }
}

/// What comes from the receiver and the pipeline, with an eye on signals.
struct Inbox {
    messages: mpsc::Receiver<Message>,
    interrupt: Interrupt,
}

impl Inbox {
    /// The next message; `state` says what a signal would leave behind.
    fn next(&self, state: &str) -> Result<Message, Failure> {
        loop {
            self.interrupt.check(state)?;
            match self.messages.recv_timeout(SIGNAL_INTERVAL) {
                Ok(Message::Failed(failure)) => return Err(failure),
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(Exit::Internal, "the receiver has ended"));
                }
            }
        }
    }

    /// Waits until an image is accepted.
    fn manifest(&self) -> Result<Box<Accepted>, Failure> {
        loop {
            match self.next(UNTOUCHED)? {
                Message::Manifest(accepted) => return Ok(accepted),
                Message::Line(text) => say(&format!("frisbee-client: {text}")),
                // Chunks come after the manifest, and the pipeline does not run yet.
                _ => {}
            }
        }
    }
}

impl Cli {
    /// Installs the accepted image; until the target has passed its checks, chunks wait in the inbox.
    fn install(
        &self,
        accepted: &Accepted,
        context: &Arc<Context>,
        candidate: Candidate,
        receiver: &Receiver,
        inbox: &Inbox,
        sender: mpsc::Sender<Message>,
    ) -> Result<(), Failure> {
        let (manifest, header) = (&accepted.manifest, context.header());
        context.secrets(manifest)?;
        if !context.is_verified() {
            say(&format!(
                "frisbee-client: image {} has no owner that was checked: anybody may have made it",
                header.uuid()
            ));
        }
        let target = candidate.fit(header)?;
        if target.holds_data() {
            let what = format!(
                "{} ({}) onto {}",
                header.name,
                units::size(header.disk_bytes()),
                self.target.display()
            );
            confirm::confirm_destruction(&self.target, &what, self.yes, &inbox.interrupt)?;
        }
        inbox.interrupt.check(UNTOUCHED)?;

        let events = if self.json {
            Events::Stdout
        } else {
            Events::Off
        };
        let fields = json!({
            "image": header.name, "uuid": header.uuid().to_string(), "epoch": header.epoch(),
            "target": self.target.display().to_string(), "total_bytes": manifest.head.plain_bytes,
        });
        let progress = Arc::new(Progress::start(events, manifest.head.plain_bytes, fields));
        let mut options = InstallOptions {
            free: self.free.into(),
            queue: None,
            ..InstallOptions::default()
        };
        if let Some(threads) = self.threads {
            options.threads = threads.into();
        }
        let observer = {
            let (progress, releases) = (Arc::clone(&progress), receiver.releases());
            move |event| match event {
                Event::Written { index, plain_bytes } => {
                    releases.release(index);
                    progress.advance(plain_bytes);
                }
                Event::Refused { index, error } => {
                    drop(sender.send(Message::Refused { index, error }));
                }
                Event::Failed => drop(sender.send(Message::WriteFailed)),
            }
        };
        // A manifest may be an old one that somebody repeats. Until somebody has the chunks, the disk stays as it is.
        let installed = first_chunk(inbox, manifest.head.chunks, &progress).and_then(|first| {
            let installer = Installer::start(context, target, &options, observer)?;
            feed(installer, first, manifest.head.chunks, inbox, &progress)
        });
        match installed {
            Ok((report, stats)) => {
                self.show_finish(context, &progress, &report, &stats);
                Ok(())
            }
            Err(failure) => {
                progress.fail(&failure.message, failure.exit);
                Err(failure)
            }
        }
    }

    fn show_finish(
        &self,
        context: &Context,
        progress: &Progress,
        report: &Report,
        stats: &ClientStats,
    ) {
        let time = progress.elapsed();
        let header = context.header();
        let summary = format!(
            "{}: installed {} (epoch {}): {} of data, {} free, {} chunks, {:.2} s, {}; {} datagrams, {} lost, {} forged",
            self.target.display(),
            header.name,
            header.epoch(),
            units::size(report.plain_bytes),
            units::size(report.free_bytes),
            report.chunks,
            time.as_secs_f64(),
            units::throughput(report.plain_bytes, time),
            stats.datagrams,
            stats.lost,
            stats.forged,
        );
        let fields = json!({
            "chunks": report.chunks, "plain_bytes": report.plain_bytes, "free_bytes": report.free_bytes,
            "datagrams": stats.datagrams, "blocks": stats.blocks, "duplicates": stats.duplicates,
            "no_buffer": stats.no_buffer, "lost": stats.lost, "receive_drops": stats.receive_drops,
            "forged": stats.forged, "requests": stats.requests,
        });
        progress.finish(&summary, fields);
    }
}

/// Waits for the first chunk of an image that has any.
fn first_chunk(
    inbox: &Inbox,
    chunks: u32,
    progress: &Progress,
) -> Result<Option<(u32, Vec<u8>)>, Failure> {
    if chunks == 0 {
        return Ok(None);
    }
    loop {
        match inbox.next(UNTOUCHED)? {
            Message::Chunk { index, bytes } => return Ok(Some((index, bytes))),
            Message::Line(text) => progress.line(&format!("frisbee-client: {text}")),
            // Nothing else can come before a chunk.
            _ => {}
        }
    }
}

/// Feeds the pipeline until everything is on the disk.
fn feed(
    installer: Installer,
    first: Option<(u32, Vec<u8>)>,
    chunks: u32,
    inbox: &Inbox,
    progress: &Progress,
) -> Result<(Report, ClientStats), Failure> {
    match submit_all(&installer, first, inbox, progress) {
        Ok(stats) => {
            let report = installer.finish(chunks);
            // A chunk that was refused at the very end says more than that it is missing.
            while let Ok(message) = inbox.messages.try_recv() {
                if let Message::Refused { index, error } = message {
                    return Err(refused(index, error));
                }
            }
            Ok((report?, stats))
        }
        Err(failure) => {
            // The pipeline's own error says best why it has stopped.
            let failure = installer.abort().map_or(failure, Failure::from);
            match failure.message.contains(INCOMPLETE) {
                true => Err(failure),
                false => Err(Failure::new(
                    failure.exit,
                    format!("{failure} ({INCOMPLETE})"),
                )),
            }
        }
    }
}

fn submit_all(
    installer: &Installer,
    first: Option<(u32, Vec<u8>)>,
    inbox: &Inbox,
    progress: &Progress,
) -> Result<ClientStats, Failure> {
    let stopped = |_| Failure::new(Exit::Io, "writing failed");
    if let Some((index, bytes)) = first {
        installer.submit(index, bytes).map_err(stopped)?;
    }
    loop {
        match inbox.next(INCOMPLETE)? {
            Message::Chunk { index, bytes } => {
                installer.submit(index, bytes).map_err(stopped)?;
            }
            Message::Received(stats) => return Ok(stats),
            Message::Line(text) => progress.line(&format!("frisbee-client: {text}")),
            Message::Refused { index, error } => return Err(refused(index, error)),
            Message::WriteFailed => return Err(stopped(Stopped)),
            Message::Manifest(_) | Message::Failed(_) => {}
        }
    }
}

/// The chunk is the one that the owner's manifest names, so no other copy of it would be better.
fn refused(index: u32, error: chunkfmt::Error) -> Failure {
    let failure = Failure::from(error);
    Failure::new(
        failure.exit,
        format!("chunk {index} of the image is not valid: {failure} ({INCOMPLETE})"),
    )
}
