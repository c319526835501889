//! The loop: waits for a request, a loaded object, a deadline or a signal, tells the machine, does what it says.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_cli::{Exit, Failure};
use frisbee_proto::{Loaded, Server, ServerOutput};
use frisbee_udp::{BATCH_BYTES_MAX, RecvBatch, ServerSocket};
use tokio::time::sleep_until;

use crate::reader::{Job, Reader, Reply};
use crate::signals::Signals;
use crate::status::Status;

/// Batches sent before requests are looked at again: half a megabyte, four milliseconds at 1 Gbit/s.
const BATCHES_PER_TURN: usize = 8;

/// Everything that the loop holds.
pub(crate) struct Drive {
    socket: ServerSocket,
    server: Server,
    reader: Reader,
    status: Status,
    exit_after: Option<Duration>,
    last_request: Instant,
    buffer: Vec<u8>,
}

/// What the loop woke up for.
enum Wake {
    Requests(io::Result<()>),
    Loaded(Option<Reply>),
    Deadline,
    Signal,
}

impl Drive {
    pub(crate) fn new(
        socket: ServerSocket,
        server: Server,
        reader: Reader,
        status: Status,
        exit_after: Option<Duration>,
    ) -> Self {
        let buffer = Vec::with_capacity(BATCH_BYTES_MAX);
        Self {
            socket,
            server,
            reader,
            status,
            exit_after,
            last_request: Instant::now(),
            buffer,
        }
    }

    /// Serves until a signal or the end of `exit_after`.
    pub(crate) async fn run(mut self, mut signals: Signals) -> Result<(), Failure> {
        let mut batch = RecvBatch::new();
        loop {
            let deadline = self.send().await?;
            let wake = tokio::select! {
                result = self.socket.recv(&mut batch) => Wake::Requests(result),
                reply = self.reader.reply() => Wake::Loaded(reply),
                () = wait_until(deadline) => Wake::Deadline,
                () = signals.recv() => Wake::Signal,
            };
            let now = Instant::now();
            match wake {
                Wake::Requests(Ok(())) => self.take_requests(&mut batch),
                Wake::Requests(Err(error)) => self
                    .status
                    .trouble(now, &format!("cannot receive requests: {error}")),
                Wake::Loaded(reply) => match reply.ok_or_else(reader_ended)? {
                    Reply::Loaded(object, loaded) => self.take_object(now, object, loaded),
                    Reply::Encoded(object, parity) => {
                        self.server.handle_parity(now, object, parity);
                    }
                },
                Wake::Deadline => {}
                Wake::Signal => break,
            }
            if now >= self.status.due() {
                self.status.show(now, &self.server);
            }
            if self.exit_at().is_some_and(|end| now >= end) {
                break;
            }
        }
        self.status.finish(&self.server);
        Ok(())
    }

    /// Sends what is due, at most some batches of it. Returns when to come back.
    async fn send(&mut self) -> Result<Instant, Failure> {
        for _ in 0..BATCHES_PER_TURN {
            let now = Instant::now();
            match self.server.poll(now, &mut self.buffer) {
                ServerOutput::Transmit(transmit) => {
                    if let Err(error) = self.socket.multicast(&self.buffer, transmit.segment).await
                    {
                        self.status
                            .trouble(now, &format!("cannot send to the group: {error}"));
                    }
                }
                ServerOutput::Load(object) => {
                    self.have_done(Job::Load(object))?;
                }
                ServerOutput::Encode {
                    object,
                    loaded,
                    blocks,
                } => self.have_done(Job::Encode(object, loaded, blocks))?,
                ServerOutput::Wait(until) => {
                    let deadlines = [until, Some(self.status.due()), self.exit_at()];
                    return Ok(deadlines.into_iter().flatten().min().unwrap_or(now));
                }
            }
        }
        // More is due at once. The runtime sees new requests only if it is given the chance to look.
        tokio::task::yield_now().await;
        Ok(Instant::now())
    }

    fn take_requests(&mut self, batch: &mut RecvBatch) {
        let now = Instant::now();
        for datagram in batch.datagrams() {
            if let Some(report) = self.server.handle_datagram(now, datagram.bytes) {
                self.last_request = now;
                self.status.request(now, report);
            }
        }
    }

    fn have_done(&self, job: Job) -> Result<(), Failure> {
        match self.reader.request(job) {
            true => Ok(()),
            false => Err(reader_ended()),
        }
    }

    fn take_object(&mut self, now: Instant, object: u32, loaded: io::Result<Arc<Loaded>>) {
        let what = match loaded {
            Ok(loaded) => {
                let failures = self.server.stats().load_failures;
                self.server.handle_loaded(now, object, loaded);
                if self.server.stats().load_failures == failures {
                    return;
                }
                "is no longer what the manifest says".into()
            }
            Err(error) => {
                self.server.handle_load_failed(now, object);
                match error.kind() {
                    io::ErrorKind::UnexpectedEof => "is no longer in the file".into(),
                    _ => format!("cannot be read ({error})"),
                }
            }
        };
        let name = object
            .checked_sub(1)
            .map_or("the manifest".into(), |chunk| format!("chunk {chunk}"));
        let text = format!(
            "{name} of the image {what}: the file was changed, put it back or restart with the new one"
        );
        self.status.trouble(now, &text);
    }

    fn exit_at(&self) -> Option<Instant> {
        self.exit_after
            .and_then(|after| self.last_request.checked_add(after))
    }
}

/// Waits until `deadline`, or not at all if that has passed.
///
/// tokio's timers have a resolution of a millisecond and round up, even what is already past. The pacer's burst is made
/// for the one; the other would cost a third of the rate where the rate is more than a turn's batches per millisecond.
async fn wait_until(deadline: Instant) {
    if deadline > Instant::now() {
        sleep_until(deadline.into()).await;
    }
}

fn reader_ended() -> Failure {
    Failure::new(Exit::Internal, "the reader thread has ended")
}
