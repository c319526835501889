//! The receiving thread: sockets and a clock around the protocol machine. It never waits for a disk.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use frisbee_cli::{Exit, Failure};
use frisbee_proto::{Client, ClientConfig, ClientOutput, ClientStats, Event};
use frisbee_udp::{DropCounter, RecvBatch, Throttle};
use tokio::sync::mpsc as async_mpsc;
use tokio::time::sleep_until;

use crate::admission::{Accepted, Gate, Policy};
use crate::patience::{Patience, Verdict};
use crate::place::{Place, Socket};

/// Time between two looks at the kernel's drop counter and at the progress made.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// What the main thread hears of, from this thread and from those of the pipeline.
pub(crate) enum Message {
    /// An image was accepted, the one of this layer.
    Manifest(usize, Box<Accepted>),
    /// A chunk that has the root which the manifest of its image names.
    Chunk {
        /// Which image: 0 is the one that is wanted, the others are its bases.
        layer: usize,
        index: u32,
        bytes: Vec<u8>,
    },
    /// Everything of this layer's image has been delivered.
    Received(usize, ClientStats),
    /// Something to tell the user.
    Line(String),
    /// The end, from the network's side.
    Failed(Failure),
    /// The pipeline refused a chunk.
    Refused {
        index: u32,
        error: imageunzip::Error,
    },
    /// The pipeline has stopped.
    WriteFailed,
}

/// How to receive.
pub(crate) struct ReceiverOptions {
    pub(crate) place: Place,
    pub(crate) policy: Policy,
    /// Which image it is for: 0 is the one that is wanted, the others are its bases.
    pub(crate) layer: usize,
    /// Blocks that may be on their way between network and disk.
    pub(crate) credit_blocks: u32,
    pub(crate) timeout: Option<Duration>,
}

/// The thread, which ends when this is dropped.
pub(crate) struct Receiver {
    releases: Releases,
    thread: Option<JoinHandle<()>>,
}

/// Gives the memory of chunks back to the receiver.
#[derive(Clone)]
pub(crate) struct Releases(async_mpsc::UnboundedSender<Control>);

enum Control {
    /// This chunk is on the disk.
    Release(u32),
    /// Of these chunks only is anything needed.
    Only(Vec<u32>),
    /// The main thread wants no more.
    Stop,
}

impl Releases {
    /// This chunk's memory is free again.
    pub(crate) fn release(&self, index: u32) {
        // A receiver that has everything has ended.
        let _ = self.0.send(Control::Release(index));
    }

    /// These chunks, sorted, and no others are to be received. Before this nothing is asked for but the manifest.
    pub(crate) fn only(&self, chunks: Vec<u32>) {
        let _ = self.0.send(Control::Only(chunks));
    }
}

impl Receiver {
    /// Joins the group, if there is one, and starts to receive.
    pub(crate) fn start(
        options: ReceiverOptions,
        messages: mpsc::Sender<Message>,
    ) -> Result<Self, Failure> {
        let internal = |error: io::Error| {
            Failure::new(
                Exit::Internal,
                format!("cannot start the receiver: {error}"),
            )
        };
        let seed = getrandom::u64().map_err(|error| Failure::new(Exit::Internal, error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(internal)?;
        let entered = runtime.enter();
        let socket = options.place.open(Instant::now())?;
        drop(entered);
        let (sender, controls) = async_mpsc::unbounded_channel();
        let now = Instant::now();
        let config = ClientConfig {
            credit_blocks: options.credit_blocks,
            // The main thread may find on the disk what need not be asked for.
            hold: true,
            unicast: options.place.unicast(),
            seed,
            ..ClientConfig::default()
        };
        let gate = Gate::new(options.policy, options.layer, messages.clone());
        let mut drive = Drive {
            layer: options.layer,
            place: options.place.to_string(),
            has_lane: false,
            drops: socket.drop_counters(),
            socket,
            client: Client::new(now, config, gate),
            messages,
            controls,
            held: true,
            delivered: 0,
            patience: Patience::new(now, options.timeout),
            housekeeping: now,
            trouble: Throttle::new(Duration::from_secs(10)),
        };
        let thread = thread::Builder::new()
            .name("receive".into())
            .spawn(move || {
                if let Err(failure) = runtime.block_on(drive.run()) {
                    // If the main thread has gone, nobody wants to know.
                    let _ = drive.messages.send(Message::Failed(failure));
                }
            })
            .map_err(internal)?;
        Ok(Self {
            releases: Releases(sender),
            thread: Some(thread),
        })
    }

    /// For the pipeline.
    pub(crate) fn releases(&self) -> Releases {
        self.releases.clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.releases.0.send(Control::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Drive {
    layer: usize,
    /// Group and interface, or the server, for messages.
    place: String,
    /// A server sends to this client alone, and the user has been told.
    has_lane: bool,
    socket: Socket,
    drops: Vec<DropCounter>,
    client: Client<Gate>,
    messages: mpsc::Sender<Message>,
    controls: async_mpsc::UnboundedReceiver<Control>,
    /// The main thread has not said yet what is needed.
    held: bool,
    /// Chunks delivered and not released.
    delivered: u64,
    patience: Patience,
    housekeeping: Instant,
    trouble: Throttle,
}

/// What the loop woke up for.
enum Wake {
    Datagrams(io::Result<()>),
    Control(Option<Control>),
    Deadline,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Sleep(Instant),
    End,
}

impl Drive {
    async fn run(&mut self) -> Result<(), Failure> {
        let buffer = self.socket.receive_buffer();
        if buffer.is_short() {
            self.line(format!(
                "the receive buffer has {} KiB instead of {}: sysctl net.core.rmem_max={} lets it receive faster",
                buffer.got >> 10,
                buffer.wanted >> 10,
                buffer.wanted,
            ));
        }
        let mut batch = RecvBatch::new();
        loop {
            let Next::Sleep(deadline) = self.advance().await? else {
                return Ok(());
            };
            let wake = tokio::select! {
                result = self.socket.recv(&mut batch) => Wake::Datagrams(result),
                control = self.controls.recv() => Wake::Control(control),
                () = sleep_until(deadline.into()) => Wake::Deadline,
            };
            let now = Instant::now();
            match wake {
                Wake::Datagrams(Ok(())) => {
                    for datagram in batch.datagrams() {
                        self.client
                            .handle_datagram(now, datagram.from, datagram.bytes);
                    }
                }
                Wake::Datagrams(Err(error)) => {
                    self.trouble(now, &format!("cannot receive: {error}"));
                }
                Wake::Control(Some(Control::Release(index))) => self.release(now, index),
                Wake::Control(Some(Control::Only(chunks))) => {
                    self.skip_others(now, &chunks);
                    self.client.go(now);
                    self.held = false;
                }
                Wake::Control(Some(Control::Stop) | None) => return Ok(()),
                Wake::Deadline => {}
            }
            if now >= self.housekeeping {
                self.keep_house(now)?;
            }
        }
    }

    /// Does what the machine says until it has to wait.
    async fn advance(&mut self) -> Result<Next, Failure> {
        loop {
            let now = Instant::now();
            match self.client.poll(now) {
                ClientOutput::Send { to, datagram } => {
                    if let Err(error) = self.socket.send(to, &datagram).await {
                        self.trouble(now, &format!("cannot send to {to}: {error}"));
                    }
                }
                ClientOutput::Object { object, bytes } => {
                    let place = usize::try_from(object).unwrap_or(0).saturating_sub(1);
                    let chunks = &self.client.admission().chunks;
                    let index = chunks.get(place).copied().unwrap_or(u32::MAX);
                    self.delivered = self.delivered.saturating_add(1);
                    let layer = self.layer;
                    let _ = self.messages.send(Message::Chunk {
                        layer,
                        index,
                        bytes,
                    });
                }
                ClientOutput::Event(Event::Finished) => {
                    self.note_drops();
                    let received = Message::Received(self.layer, *self.client.stats());
                    let _ = self.messages.send(received);
                    return Ok(Next::End);
                }
                ClientOutput::Event(Event::ManifestRefused) => {
                    let why = self.client.admission().refused.as_ref();
                    return Err(why.map_or_else(
                        || Failure::new(Exit::Internal, "the manifest cannot be used"),
                        |why| {
                            Failure::new(
                                why.exit,
                                format!("the image's manifest cannot be used: {why}"),
                            )
                        },
                    ));
                }
                ClientOutput::Event(Event::Server(server)) => self.tell_lane(server),
                ClientOutput::Event(_) => {}
                ClientOutput::Wait(until) => {
                    return Ok(Next::Sleep(
                        until.map_or(self.housekeeping, |until| until.min(self.housekeeping)),
                    ));
                }
            }
        }
    }

    fn release(&mut self, now: Instant, index: u32) {
        let place = self.client.admission().chunks.binary_search(&index);
        let object = place.ok().and_then(|place| u32::try_from(place + 1).ok());
        if let Some(object) = object {
            self.delivered = self.delivered.saturating_sub(1);
            self.client.release(now, object);
        }
    }

    fn skip_others(&mut self, now: Instant, needed: &[u32]) {
        let chunks = self.client.admission().chunks.clone();
        for (object, chunk) in (1..).zip(chunks) {
            if needed.binary_search(&chunk).is_err() {
                self.client.skip(now, object);
            }
        }
    }

    fn keep_house(&mut self, now: Instant) -> Result<(), Failure> {
        self.housekeeping = now + HOUSEKEEPING;
        self.note_drops();
        if let Some(news) = self.socket.look_after(now, self.client.stats().datagrams) {
            if news.moved {
                self.drops = self.socket.drop_counters();
            }
            self.line(news.line);
        }
        let stats = self.client.stats();
        let progress = stats.proven.saturating_add(stats.objects_done);
        match self.patience.look(now, progress, self.is_waited_for()) {
            Verdict::Wait => {}
            Verdict::Say(waited) => self.line(format!(
                "waiting for {} s: {}",
                waited.as_secs(),
                self.waiting_for()
            )),
            Verdict::GiveUp(waited) => {
                let exit = match &self.client.admission().refused {
                    Some(why) if progress == 0 => why.exit,
                    _ => Exit::Network,
                };
                let message = format!(
                    "gave up after {} s: {}",
                    waited.as_secs(),
                    self.waiting_for()
                );
                return Err(Failure::new(exit, message));
            }
        }
        Ok(())
    }

    /// Whether the next step is the main thread's.
    fn is_waited_for(&self) -> bool {
        let has_manifest = !self.client.admission().chunks.is_empty();
        self.delivered > 0 || (self.held && has_manifest)
    }

    /// Says when the image comes another way.
    fn tell_lane(&mut self, server: SocketAddr) {
        let has_lane = self.client.has_lane();
        if has_lane != std::mem::replace(&mut self.has_lane, has_lane) && self.socket.is_group() {
            self.line(match has_lane {
                true => format!(
                    "nothing useful comes from {}: receiving from {server} by unicast",
                    self.place
                ),
                false => format!("{} carries the image again", self.place),
            });
        }
    }

    fn note_drops(&mut self) {
        let counters = self.drops.iter_mut();
        let drops = counters.filter_map(DropCounter::read).sum();
        self.client.note_receive_drops(drops);
    }

    fn waiting_for(&self) -> String {
        let stats = self.client.stats();
        let place = &self.place;
        match &self.client.admission().refused {
            _ if stats.blocks > 0 => {
                format!("no more data comes from {place}: is the server still running?")
            }
            Some(why) => {
                format!("no announcement on {place} is accepted, the last one because: {why}")
            }
            None if stats.datagrams > stats.malformed => {
                format!("{place} carries data, but no announcement yet")
            }
            None if !self.socket.is_group() => format!(
                "nothing comes from {place}: is frisbeed running there, on this port, with lanes left and without --no-unicast?"
            ),
            None => format!(
                "nothing comes from {place}: is frisbeed running on this group, and does the network pass multicast?"
            ),
        }
    }

    fn trouble(&mut self, now: Instant, what: &str) {
        if self.trouble.pass(now).is_some() {
            self.line(what.into());
        }
    }

    fn line(&self, text: String) {
        let _ = self.messages.send(Message::Line(text));
    }
}
