//! The main thread: judges the target, feeds the pipeline, and ends well only when everything is on the disk.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use chunkfmt::{BLOCK_SIZE, Context, ImageHeader, Trust};
use frisbee_cli::policy::{LegacyKeys, Wanted};
use frisbee_cli::progress::{Events, Progress};
use frisbee_cli::{Exit, Failure, Interrupt, confirm, say, units};
use frisbee_proto::ClientStats;
use frisbee_udp::{DEFAULT_PORT, Group, Interface};
use imageunzip::{
    Candidate, Event, Expected, Held, ImageId, InstallOptions, Installed, Installer, Origin,
    Report, Stopped, dry_run,
};
use serde_json::json;

use crate::Cli;
use crate::admission::{Accepted, Policy};
use crate::discard::{counters, is_sink};
use crate::image::{Image, Plan};
use crate::place::{self, Place};
use crate::receiver::{Message, Receiver, ReceiverOptions, Releases};

const INCOMPLETE: &str = "the disk is incomplete and will not boot";

pub(crate) const UNTOUCHED: &str = "nothing was written";

/// Time between two looks whether a signal has come.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(200);

impl Cli {
    /// Where JSON events go.
    pub fn events(&self) -> Events {
        Events::on_stdout(self.json)
    }

    /// Receives and installs an image.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&mut self) -> Result<(), Failure> {
        if self.choice.list(self.json)? {
            return Ok(());
        }
        if let Some(server) = &self.probe {
            return crate::probe::run(self, server.as_deref());
        }
        self.target = self.choice.choose("frisbee-client")?;
        self.install.after.check()?;
        let trust = Arc::new(self.legacy.load_trust(&self.trust)?);
        let keys = self.keys.load()?;
        let legacy = self.legacy.keys.load(&keys)?;
        let network = |error: frisbee_udp::Error| Failure::new(Exit::Network, error);
        let place = match &self.unicast {
            Some(server) => Place::Server(place::find_server(server, DEFAULT_PORT)?),
            None => self.place(self.group.parse().map_err(network)?)?,
        };
        let base_groups: Vec<Group> = self
            .base_group
            .iter()
            .map(|group| group.parse().map_err(network))
            .collect::<Result<_, _>>()?;
        if is_sink(&self.target) {
            let policy = self.policy(&trust, self.wanted.clone());
            return self.discard(place, policy);
        }
        // What no image could be written to is better told now than when one has been announced.
        let candidate = Candidate::open(&self.target)?;
        if candidate.holds_data() && !self.install.dry_run {
            confirm::can_be_confirmed(&self.target, self.install.yes)?;
        }
        let (sender, messages) = mpsc::channel();
        let inbox = Inbox::new(messages)?;
        let receive = |layer, place, wanted: Wanted| {
            self.receive(layer, place, self.policy(&trust, wanted), sender.clone())
        };
        let mut receivers = vec![receive(0, place, self.wanted.clone())?];
        let image = Image::new(inbox.manifest(0)?, &trust, &keys, legacy)?;
        let header = image.context.header();
        self.wanted.check(header)?;
        let mut bases = Vec::new();
        let mut next = header.base;
        while let (Some(base), Some(&last)) = (next, base_groups.last()) {
            let layer = receivers.len();
            let group = base_groups.get(layer - 1).copied().unwrap_or(last);
            let wanted = Wanted {
                uuid: Some(base.uuid),
                ..Wanted::default()
            };
            receivers.push(receive(layer, self.place(group)?, wanted)?);
            let found = Image::new(inbox.manifest(layer)?, &trust, &keys, LegacyKeys::default())?;
            let digest = &found.contents.manifest.digest;
            base.check(header, found.context.header(), digest)?;
            next = found.context.header().base;
            bases.push(found);
        }
        let room = Room {
            receivers,
            inbox,
            sender,
        };
        self.install_image(&image, &bases, candidate, &room)
    }

    /// Bytes of memory for chunks between network and disk.
    fn credit(&self) -> u64 {
        self.install.memory / 4
    }

    /// A group, and what is done when nothing comes there.
    fn place(&self, group: Group) -> Result<Place, Failure> {
        let interface = Interface::find(self.interface.as_deref(), group)
            .map_err(|error| Failure::new(Exit::Network, error))?;
        Ok(Place::Group {
            group,
            interface,
            unicast: place::fallback(self.fallback.as_deref(), self.fallback_after)?,
        })
    }

    fn policy(&self, trust: &Arc<Trust>, wanted: Wanted) -> Policy {
        Policy {
            trust: Arc::clone(trust),
            wanted,
            owners: self.trust.clone(),
            legacy: self.legacy.clone(),
        }
    }

    pub(crate) fn receive(
        &self,
        layer: usize,
        place: Place,
        policy: Policy,
        sender: mpsc::Sender<Message>,
    ) -> Result<Receiver, Failure> {
        if !self.json {
            let what = if layer == 0 { "an image" } else { "its base" };
            say(&format!("frisbee-client: waiting for {what} from {place}"));
        }
        let options = ReceiverOptions {
            place,
            policy,
            layer,
            credit_blocks: u32::try_from(self.credit() / BLOCK_SIZE as u64).unwrap_or(u32::MAX),
            timeout: self.timeout.map(Duration::from_secs),
        };
        Receiver::start(options, sender)
    }
}

/// What comes from the receivers and the pipeline, with an eye on signals.
pub(crate) struct Inbox {
    messages: mpsc::Receiver<Message>,
    /// Came while something else was waited for.
    early: RefCell<VecDeque<Message>>,
    interrupt: Interrupt,
}

impl Inbox {
    pub(crate) fn new(messages: mpsc::Receiver<Message>) -> Result<Self, Failure> {
        Ok(Self {
            messages,
            early: RefCell::default(),
            interrupt: Interrupt::watch()?,
        })
    }

    /// The next message; `state` says what a signal would leave behind.
    pub(crate) fn next(&self, state: &str) -> Result<Message, Failure> {
        let early = self.early.borrow_mut().pop_front();
        early.map_or_else(|| self.wait(state), Ok)
    }

    fn wait(&self, state: &str) -> Result<Message, Failure> {
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

    /// Waits until the image of this layer is accepted.
    pub(crate) fn manifest(&self, wanted: usize) -> Result<Accepted, Failure> {
        loop {
            match self.wait(UNTOUCHED)? {
                Message::Manifest(layer, accepted) if layer == wanted => return Ok(*accepted),
                Message::Line(text) => say(&format!("frisbee-client: {text}")),
                // Chunks of another layer, bounded by its credit.
                other => self.early.borrow_mut().push_back(other),
            }
        }
    }
}

/// The receivers, by layer, and what they say.
struct Room {
    receivers: Vec<Receiver>,
    inbox: Inbox,
    sender: mpsc::Sender<Message>,
}

impl Cli {
    /// Installs the accepted image; until the target has passed its checks, chunks wait in the inbox.
    fn install_image(
        &self,
        image: &Image,
        bases: &[Image],
        candidate: Candidate,
        room: &Room,
    ) -> Result<(), Failure> {
        let Image {
            context, contents, ..
        } = image;
        let header = context.header();
        let inbox = &room.inbox;
        if !context.is_verified() {
            say(&format!(
                "frisbee-client: image {} has no owner that was checked: anybody may have made it",
                header.uuid()
            ));
        }
        let options = InstallOptions {
            queue: None,
            ..self.install.options(self.credit())
        };
        let mut target = candidate.fit(header)?;
        target.change_table(self.install.after.edit()?);
        let reuse = self.install.looks_at(&target);
        if reuse {
            say(&format!(
                "frisbee-client: comparing {} with the image",
                self.target.display()
            ));
        }
        let compared = imageunzip::Image {
            context,
            with_bases: !bases.is_empty(),
            threads: options.threads,
        };
        let held = contents.find_on(&mut target, &compared, reuse, &inbox.interrupt, &|_| {})?;
        let plan = Plan::new(image, bases, &held)?;
        if target.holds_data() && !self.install.dry_run {
            let what = format!(
                "{} ({}) onto {}",
                header.name,
                units::size(header.disk_bytes()),
                self.target.display()
            );
            confirm::confirm_destruction(&self.target, &what, self.install.yes, &inbox.interrupt)?;
        }
        inbox.interrupt.check(UNTOUCHED)?;

        let total = contents.bytes_without(&held, header.sector_size);
        let fields = json!({
            "image": header.name, "uuid": header.uuid().to_string(), "epoch": header.epoch(),
            "target": self.target.display().to_string(), "total_bytes": total,
        });
        let progress = Arc::new(Progress::start(self.events(), total, fields));
        if self.install.dry_run {
            let title = format!("{} (epoch {})", header.name, header.epoch());
            let (line, fields) = dry_run(&title, &target, total, &held);
            progress.finish(&line, fields);
            return Ok(());
        }
        let releases: Vec<Releases> = room.receivers.iter().map(Receiver::releases).collect();
        let needed: Vec<u32> = contents
            .manifest
            .present()
            .map(|(index, _)| index)
            .filter(|&index| !held.has(index))
            .collect();
        if let Some(own) = releases.first() {
            own.only(needed.clone());
        }
        for (layer, releases) in releases.iter().skip(1).enumerate() {
            releases.only(plan.needed(layer));
        }
        let observer = {
            let (progress, releases) = (Arc::clone(&progress), releases.clone());
            let (origins, sender) = (plan.origins.clone(), room.sender.clone());
            let held = held.clone();
            move |event| match event {
                Event::Written { index, plain_bytes } => {
                    let (layer, index) = origins
                        .get(&index)
                        .map_or((0, index), |place| (place.layer + 1, place.index));
                    // What the target had did not come from the network.
                    let is_received = layer > 0 || !held.has(index);
                    if let Some(releases) = releases.get(layer).filter(|_| is_received) {
                        releases.release(index);
                    }
                    progress.advance(plain_bytes);
                }
                Event::Refused { index, error } => {
                    drop(sender.send(Message::Refused { index, error }));
                }
                Event::UnknownRelocation { index, kind } => {
                    let text = format!(
                        "chunk {index}: a relocation of kind {kind}, which is not known: its bytes stay as they are"
                    );
                    drop(sender.send(Message::Line(text)));
                }
                Event::Failed => drop(sender.send(Message::WriteFailed)),
            }
        };
        // A manifest may be an old one that somebody repeats. Until somebody has the chunks, the disk stays as it is.
        let expected = needed.len() + plan.uses.len();
        let format = image.format(bases);
        let installed = first_chunk(inbox, expected, &held, &progress).and_then(|first| {
            image.check_first(first.as_ref(), &target)?;
            let installer = Installer::start(&format, target, &options, observer)?;
            progress.show_stages(installer.stages());
            let feed = Feed {
                installer: &installer,
                image,
                plan: &plan,
                held: &held,
                releases: &releases,
                inbox,
                progress: &progress,
            };
            let fed = feed.run(first);
            let (report, stats) = finish(installer, fed, image, inbox)?;
            self.finish_disk(header, &report, &progress, &inbox.interrupt)?;
            Ok((report, stats))
        });
        match installed {
            Ok((report, stats)) => {
                self.show_finish(context, &progress, &report, &stats);
                Ok(())
            }
            Err(failure) => Err(progress.fail(failure)),
        }
    }

    /// What is done with the disk when the image is on it.
    fn finish_disk(
        &self,
        header: &ImageHeader,
        report: &Report,
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let image = ImageId {
            name: header.name.clone(),
            uuid: header.uuid().to_string(),
            epoch: header.epoch().to_string(),
        };
        let installed = Installed {
            program: "frisbee-client",
            target: &self.target,
            sector_size: header.sector_size,
            image: &image,
        };
        let after = &self.install.after;
        after.run(&installed, report, progress, interrupt)
    }

    fn show_finish(
        &self,
        context: &Context,
        progress: &Progress,
        report: &Report,
        stats: &ClientStats,
    ) {
        let (target, header) = (imageunzip::title(&self.target), context.header());
        for warning in report.warnings() {
            progress.line(&format!("frisbee-client: {target}: {warning}"));
        }
        let summary = format!(
            "{target}: installed {} (epoch {}): {}; {}",
            header.name,
            header.epoch(),
            report.summary(progress.elapsed()),
            network_summary(stats),
        );
        let mut fields = report.fields();
        if let (Some(fields), serde_json::Value::Object(network)) =
            (fields.as_object_mut(), counters(stats))
        {
            fields.extend(network);
        }
        progress.finish(&summary, fields);
    }
}

/// What became of the datagrams, and what to do about those that were lost in this machine.
fn network_summary(stats: &ClientStats) -> String {
    let mut text = format!(
        "{} datagrams, {} lost, {} forged",
        stats.datagrams, stats.lost, stats.forged
    );
    if stats.receive_drops > 0 {
        text += &format!(
            ", {} dropped by this machine's kernel because it was busy (a larger sysctl net.core.rmem_max helps)",
            stats.receive_drops
        );
    }
    if stats.no_buffer > 0 {
        text += &format!(
            ", {} blocks passed while the disk was behind (--memory gives them room)",
            stats.no_buffer
        );
    }
    text
}

/// Waits for the first chunk, if any will come.
fn first_chunk(
    inbox: &Inbox,
    expected: usize,
    held: &Held,
    progress: &Progress,
) -> Result<Option<Message>, Failure> {
    if expected == 0 {
        return Ok(None);
    }
    // What came before, and how the images ended of which nothing is needed.
    let mut ended = Vec::new();
    loop {
        match inbox.next(UNTOUCHED)? {
            Message::Line(text) => progress.line(&format!("frisbee-client: {text}")),
            // One that the target has proves nothing.
            message @ Message::Chunk {
                layer: 0, index, ..
            } if held.has(index) => {
                ended.push(message);
            }
            message @ Message::Chunk { .. } => {
                inbox.early.borrow_mut().extend(ended);
                return Ok(Some(message));
            }
            other => ended.push(other),
        }
    }
}

/// Brings chunks from the receivers to the pipeline.
struct Feed<'a> {
    installer: &'a Installer,
    image: &'a Image,
    plan: &'a Plan,
    /// What the target has already.
    held: &'a Held,
    releases: &'a [Releases],
    inbox: &'a Inbox,
    progress: &'a Progress,
}

impl Feed<'_> {
    /// Feeds the pipeline until every receiver has delivered everything.
    fn run(&self, first: Option<Message>) -> Result<ClientStats, Failure> {
        let stopped = |_| Failure::new(Exit::Io, "writing failed");
        for (index, secret) in (0..).zip(&self.image.contents.secrets) {
            if self.held.has(index) {
                let layout = secret.layout.clone();
                self.installer.keep(index, layout).map_err(stopped)?;
            }
        }
        let mut first = first;
        let mut stats = None;
        let mut ended = 0;
        while ended < self.releases.len() {
            let message = match first.take() {
                Some(message) => message,
                None => self.inbox.next(INCOMPLETE)?,
            };
            match message {
                Message::Chunk {
                    layer,
                    index,
                    bytes,
                } => self.submit(layer, index, bytes).map_err(stopped)?,
                Message::Received(layer, received) => {
                    ended += 1;
                    if layer == 0 {
                        stats = Some(received);
                    }
                }
                Message::Line(text) => self.progress.line(&format!("frisbee-client: {text}")),
                Message::Refused { index, error } => {
                    return Err(refused(index, error, INCOMPLETE));
                }
                Message::WriteFailed => return Err(stopped(Stopped)),
                Message::Manifest(..) | Message::Failed(_) => {}
            }
        }
        Ok(stats.unwrap_or_default())
    }

    fn submit(&self, layer: usize, index: u32, bytes: Vec<u8>) -> Result<(), Stopped> {
        let Some(layer) = layer.checked_sub(1) else {
            if self.held.has(index) {
                // It was under way before the receiver knew what is needed.
                if let Some(releases) = self.releases.first() {
                    releases.release(index);
                }
                return Ok(());
            }
            return match &self.image.legacy {
                Some(_) => {
                    let span = self.image.span(index);
                    self.installer.submit_legacy(index, bytes, span)
                }
                None => self.installer.submit(index, bytes),
            };
        };
        let origin = Origin { layer, index };
        match self.plan.uses.get(&origin) {
            Some(&(index, plain_hash)) => self
                .installer
                .submit_from_base(index, bytes, origin, plain_hash),
            None => {
                // It was under way before the base's receiver knew what is needed.
                if let Some(releases) = self.releases.get(layer + 1) {
                    releases.release(index);
                }
                Ok(())
            }
        }
    }
}

/// Ends the pipeline, well only if everything is on the disk.
fn finish(
    installer: Installer,
    fed: Result<ClientStats, Failure>,
    image: &Image,
    inbox: &Inbox,
) -> Result<(Report, ClientStats), Failure> {
    match fed {
        Ok(stats) => {
            let entries = &image.contents.manifest.entries;
            let report = installer.finish(&Expected::Manifest(entries.into()));
            // A chunk that was refused at the very end says more than that it is missing.
            while let Ok(message) = inbox.messages.try_recv() {
                if let Message::Refused { index, error } = message {
                    return Err(refused(index, error, INCOMPLETE));
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

/// The chunk is the one that the owner's manifest names, so no other copy of it would be better.
pub(crate) fn refused(index: u32, error: imageunzip::Error, state: &str) -> Failure {
    let failure = Failure::from(error);
    Failure::new(
        failure.exit,
        format!("chunk {index} of the image is not valid: {failure} ({state})"),
    )
}
