//! The loop: waits for a request, a loaded object, a deadline or a signal, tells the machines, does what they say.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use frisbee_cli::{Exit, Failure};
use frisbee_proto::{Loaded, ServiceOutput, Site};
use frisbee_udp::{BATCH_BYTES_MAX, RecvBatch, Timer};

use crate::outlet::{Outlet, Side};
use crate::reader::{Job, Reader, Reply};
use crate::signals::Signals;
use crate::status::Status;

/// Batches sent before requests are looked at again: half a megabyte, four milliseconds at 1 Gbit/s.
const BATCHES_PER_TURN: usize = 8;

/// Everything that the loop holds.
pub(crate) struct Drive {
    outlets: Vec<Outlet>,
    timer: Timer,
    site: Site,
    reader: Reader,
    status: Status,
    exit_after: Option<Duration>,
    last_request: Instant,
    buffer: Vec<u8>,
    /// The outlet that is looked at first: a flood at one of them must not keep the others from being heard.
    first: usize,
}

/// What the loop woke up for.
enum Wake {
    Datagrams(io::Result<(usize, Side)>),
    Done(Option<(usize, Reply)>),
    Deadline,
    Signal,
}

impl Drive {
    pub(crate) fn new(
        outlets: Vec<Outlet>,
        timer: Timer,
        site: Site,
        reader: Reader,
        status: Status,
        exit_after: Option<Duration>,
    ) -> Self {
        Self {
            outlets,
            timer,
            site,
            reader,
            status,
            exit_after,
            last_request: Instant::now(),
            buffer: Vec::with_capacity(BATCH_BYTES_MAX),
            first: 0,
        }
    }

    /// Serves until a signal or the end of `exit_after`.
    pub(crate) async fn run(mut self, mut signals: Signals) -> Result<(), Failure> {
        let mut batch = RecvBatch::new();
        loop {
            let deadline = self.send().await?;
            let wake = tokio::select! {
                result = ready(&self.outlets, self.first) => Wake::Datagrams(result),
                reply = self.reader.reply() => Wake::Done(reply),
                () = self.timer.wait_until(deadline) => Wake::Deadline,
                () = signals.recv() => Wake::Signal,
            };
            let now = Instant::now();
            match wake {
                Wake::Datagrams(result) => {
                    let taken = result.and_then(|(place, side)| self.take(place, side, &mut batch));
                    if let Err(error) = taken
                        && error.kind() != io::ErrorKind::WouldBlock
                    {
                        let text = format!("cannot receive requests: {error}");
                        self.status.trouble(now, &text);
                    }
                }
                Wake::Done(done) => match done.ok_or_else(reader_ended)? {
                    (place, Reply::Loaded(object, loaded)) => {
                        self.take_object(now, (place, object), loaded);
                    }
                    (place, Reply::Encoded(object, parity)) => {
                        if let Some(service) = self.site.service(place) {
                            service.handle_parity(now, object, parity.as_ref());
                        }
                    }
                },
                Wake::Deadline => {}
                Wake::Signal => break,
            }
            if now >= self.status.due() {
                self.status.show(now, &self.site);
            }
            if self.exit_at().is_some_and(|end| now >= end) {
                break;
            }
        }
        self.status.finish(&self.site);
        Ok(())
    }

    /// Sends what is due, at most some batches of it. Returns when to come back.
    async fn send(&mut self) -> Result<Instant, Failure> {
        for _ in 0..BATCHES_PER_TURN {
            let now = Instant::now();
            let (place, output) = self.site.poll(now, &mut self.buffer);
            match output {
                ServiceOutput::Transmit { to, transmit } => {
                    let Some(outlet) = self.outlets.get(place) else {
                        continue;
                    };
                    if let Err(error) = outlet.send(to, &self.buffer, transmit.segment).await {
                        let to = to.unwrap_or_else(|| outlet.group.address());
                        let text = format!("cannot send to {to}: {error}");
                        self.status.trouble(now, &text);
                    }
                }
                ServiceOutput::Load(object) => self.have_done(place, Job::Load(object))?,
                ServiceOutput::Encode {
                    object,
                    loaded,
                    blocks,
                } => self.have_done(place, Job::Encode(object, loaded, blocks))?,
                ServiceOutput::TookOver(silence) => self.status.took_over(place, silence),
                ServiceOutput::SteppedBack => self.status.stepped_back(place),
                ServiceOutput::Wait(until) => {
                    let deadlines = [until, Some(self.status.due()), self.exit_at()];
                    return Ok(deadlines.into_iter().flatten().min().unwrap_or(now));
                }
            }
        }
        // More is due at once. The runtime sees new requests only if it is given the chance to look.
        tokio::task::yield_now().await;
        Ok(Instant::now())
    }

    fn take(&mut self, place: usize, side: Side, batch: &mut RecvBatch) -> io::Result<()> {
        self.first = place + 1;
        let (Some(outlet), Some(service)) = (self.outlets.get(place), self.site.service(place))
        else {
            return Ok(());
        };
        outlet.receive(side, batch)?;
        let now = Instant::now();
        for datagram in batch.datagrams() {
            match side {
                Side::Group => service.handle_group(now, datagram.bytes),
                Side::Requests => {
                    let report = service.handle_datagram(now, datagram.from, datagram.bytes);
                    if let Some(report) = report {
                        self.last_request = now;
                        self.status.request(now, place, datagram.from, report);
                    }
                }
            }
        }
        Ok(())
    }

    fn have_done(&self, place: usize, job: Job) -> Result<(), Failure> {
        match self.reader.request(place, job) {
            true => Ok(()),
            false => Err(reader_ended()),
        }
    }

    fn take_object(
        &mut self,
        now: Instant,
        (place, object): (usize, u32),
        loaded: io::Result<Arc<Loaded>>,
    ) {
        let Some(service) = self.site.service(place) else {
            return;
        };
        let what = match loaded {
            Ok(loaded) if service.handle_loaded(now, object, &loaded) => return,
            Ok(_) => "is no longer what the manifest says".into(),
            Err(error) => {
                service.handle_load_failed(now, object);
                match error.kind() {
                    io::ErrorKind::UnexpectedEof => "is no longer in the file".into(),
                    _ => format!("cannot be read ({error})"),
                }
            }
        };
        let name = object
            .checked_sub(1)
            .map_or("the manifest".into(), |chunk| format!("chunk {chunk}"));
        let file = self.outlets.get(place).map(|outlet| outlet.file.display());
        let of = match file.filter(|_| self.outlets.len() > 1) {
            Some(file) => format!("{file}"),
            None => "the image".into(),
        };
        let text = format!(
            "{name} of {of} {what}: the file was changed, put it back or restart with the new one"
        );
        self.status.trouble(now, &text);
    }

    fn exit_at(&self) -> Option<Instant> {
        self.exit_after
            .and_then(|after| self.last_request.checked_add(after))
    }
}

/// Waits until one of the sockets has something; `first` says where to look first.
async fn ready(outlets: &[Outlet], first: usize) -> io::Result<(usize, Side)> {
    poll_fn(|context| {
        let count = outlets.len();
        for place in (0..count).map(|offset| (first + offset) % count) {
            let ready = outlets.get(place).map(|outlet| outlet.poll_ready(context));
            if let Some(Poll::Ready(ready)) = ready {
                return Poll::Ready(ready.map(|side| (place, side)));
            }
        }
        Poll::Pending
    })
    .await
}

fn reader_ended() -> Failure {
    Failure::new(Exit::Internal, "the reader thread has ended")
}
