//! The pipeline: chunks in, verified data on the disk.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use chunkfmt::tree::Cv;
use chunkfmt::{ChunkEntry, Context, Error as FormatError, Layout, Opener, Part, PlainHash, Span};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use frisbee_cli::stages::Stages;

use crate::contents::Origin;
use crate::legacy::Legacy;
use crate::open::{ChunkOpener, Job, OpenStage, Opened, Parcel, Proof, Source};
use crate::report::Report;
use crate::target::Disk;
use crate::write::{WriteStage, Written};
use crate::{Error, Target};

/// What happens to free space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FreeSpace {
    /// It keeps what was there.
    #[default]
    Skip,
    /// It is zero afterwards: nothing of the last user is left.
    Zero,
    /// The device is told that it is not used. What is read there afterwards is the device's affair.
    Discard,
}

/// How to install.
#[derive(Clone, Copy, Debug)]
pub struct InstallOptions {
    /// What happens to free space.
    pub free: FreeSpace,
    /// Whether everything is read back, past the page cache, before the boot sectors are written.
    pub verify: bool,
    /// Number of threads that open chunks.
    pub threads: usize,
    /// Most chunks that wait to be opened, after which [`Installer::submit`] waits. `None` for a caller that bounds
    /// them itself.
    pub queue: Option<usize>,
    /// Most opened chunks that wait to be written, beside one for each thread. Chunks take unlike times to open and to
    /// write: with some in store, neither waits for the other.
    pub ahead: usize,
}

impl InstallOptions {
    /// What [`Self::ahead`] is where memory allows it.
    pub(crate) const AHEAD: usize = 14;
}

impl Default for InstallOptions {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            free: FreeSpace::Skip,
            verify: false,
            threads,
            queue: Some(threads),
            ahead: Self::AHEAD,
        }
    }
}

/// What the pipeline reports while it runs, from its own threads.
#[derive(Debug)]
pub enum Event {
    /// A chunk's data was handed to the kernel.
    Written {
        /// Which chunk.
        index: u32,
        /// Bytes of disk data in it.
        plain_bytes: u64,
    },
    /// A chunk was refused; nothing of it was written. Another copy may be submitted.
    Refused {
        /// Which chunk.
        index: u32,
        /// What is wrong with it.
        error: Error,
    },
    /// A chunk has a relocation of a kind that is not known; the bytes stay as they are in the image.
    UnknownRelocation {
        /// Which chunk.
        index: u32,
        /// The kind.
        kind: u32,
    },
    /// Writing failed and the pipeline has stopped; [`Installer::finish`] tells why.
    Failed,
}

/// The pipeline has stopped because writing failed: [`Installer::finish`] tells why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

pub(crate) type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// What the chunks are, and what opens them.
pub enum Format {
    /// Chunks of the frz format.
    Frz {
        /// Opens the image's own chunks.
        context: Arc<Context>,
        /// Open the chunks that a delta leaves out, the nearest base first.
        bases: Vec<Arc<Context>>,
        /// The sectors of the imaged disk that the target gets; `None` for all.
        part: Option<Range<u64>>,
    },
    /// Chunks of an Emulab image.
    Ndz(Arc<Legacy>),
}

impl Format {
    /// Chunks of an image that is no delta.
    pub fn frz(context: &Arc<Context>) -> Self {
        Self::Frz {
            context: Arc::clone(context),
            bases: Vec::new(),
            part: None,
        }
    }

    /// With `verify` the data's own hashes are checked too, on the way from the codec to the disk.
    fn opener(&self, verify: bool) -> Result<ChunkOpener, FormatError> {
        let opener = |context: &Arc<Context>| {
            let opener = Opener::new(Arc::clone(context))?;
            Ok(match verify {
                true => opener,
                false => opener.without_plain_hash(),
            })
        };
        Ok(match self {
            Self::Frz {
                context,
                bases,
                part,
            } => ChunkOpener::Frz {
                context: Arc::clone(context),
                own: Box::new(opener(context)?),
                bases: bases.iter().map(opener).collect::<Result<_, _>>()?,
                part: part.clone(),
            },
            Self::Ndz(legacy) => ChunkOpener::Ndz(Arc::clone(legacy)),
        })
    }
}

/// What must have come before the boot sectors are written.
#[derive(Clone, Debug)]
pub enum Expected<'a> {
    /// The chunks that a manifest names.
    Manifest(Cow<'a, [ChunkEntry]>),
    /// Of the chunks that a manifest names, those that are needed.
    Part {
        /// What the manifest says.
        entries: Vec<ChunkEntry>,
        /// Which of them.
        needed: Vec<bool>,
    },
    /// The chunks with these roots: those of an Emulab image that was checked before it was read again.
    Checked(Vec<Cv>),
    /// So many chunks. Nothing tells more of an Emulab image that came through a pipe.
    Count(u32),
}

impl Expected<'_> {
    fn chunks(&self) -> u32 {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        match self {
            Self::Manifest(entries) => count(entries.len()),
            Self::Part { entries, .. } => count(entries.len()),
            Self::Checked(roots) => count(roots.len()),
            Self::Count(chunks) => *chunks,
        }
    }

    /// Whether the disk is incomplete without this chunk.
    fn needs(&self, index: u32) -> bool {
        let place = usize::try_from(index).ok();
        match self {
            Self::Part { needed, .. } => place.and_then(|place| needed.get(place)) != Some(&false),
            _ => true,
        }
    }

    /// Checks the root of a chunk that has come.
    fn check(&self, index: u32, root: Cv) -> Result<(), Error> {
        let place = usize::try_from(index).ok();
        let named = |entries: &[ChunkEntry]| {
            let entry = place.and_then(|place| entries.get(place));
            match entry.is_some_and(|entry| entry.root == root) {
                true => Ok(()),
                false => {
                    let part = Part::Chunk(index);
                    Err(FormatError::NotInManifest { part }.into())
                }
            }
        };
        match self {
            Self::Manifest(entries) => named(entries),
            Self::Part { entries, .. } => named(entries),
            Self::Checked(roots) => match place.and_then(|place| roots.get(place)) == Some(&root) {
                true => Ok(()),
                false => Err(Error::Changed { chunk: index }),
            },
            Self::Count(_) => Ok(()),
        }
    }
}

/// An installation under way.
pub struct Installer {
    chunks: Option<Sender<Job>>,
    spare: Receiver<Vec<u8>>,
    openers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<Result<(Disk, Written), Error>>>,
    aborted: Arc<AtomicBool>,
    options: InstallOptions,
    stages: Arc<Stages>,
    /// When the last chunk was handed over.
    fed: Mutex<Instant>,
    /// Somebody else bounds the chunks that wait.
    unbounded: bool,
}

impl Installer {
    /// Begins to write `target`: from here on what was on it is lost.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Flush`] from the first writes; [`Error::Thread`]
    pub fn start(
        format: &Format,
        target: Target,
        options: &InstallOptions,
        observer: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let observer: Observer = Arc::new(observer);
        let aborted = Arc::new(AtomicBool::new(false));
        let window = target.window();
        let threads = options.threads.max(1);
        let unbounded_queue = options.queue.is_none();
        let stages = Arc::new(match unbounded_queue {
            true => Stages::new("receiving", "opening", "writing"),
            false => Stages::new("reading", "opening", "writing"),
        });
        stages.input.add_thread();
        let thread_error = |error: std::io::Error| Error::Thread(error.to_string());

        // Everything that can fail without the disk comes before the first write, which is the last thing here.
        let openers: Vec<ChunkOpener> = (0..threads)
            .map(|_| format.opener(options.verify))
            .collect::<Result<_, FormatError>>()?;

        let (chunk_sender, chunk_receiver) = options.queue.map_or_else(unbounded, bounded);
        let (spare_sender, spare) = bounded(threads + options.queue.unwrap_or(threads));
        let (disk_sender, disk_receiver) = bounded(1);
        let (open_sender, open_receiver) = bounded::<Parcel>(threads + options.ahead);
        let (empty_sender, empty_receiver) = bounded::<Opened>(2 * threads + 2 + options.ahead);
        let openers = openers
            .into_iter()
            .map(|opener| {
                let stage = OpenStage {
                    opener,
                    window,
                    verify: options.verify,
                    chunks: chunk_receiver.clone(),
                    spare: spare_sender.clone(),
                    empty: empty_receiver.clone(),
                    opened: open_sender.clone(),
                    observer: Arc::clone(&observer),
                    aborted: Arc::clone(&aborted),
                    stages: Arc::clone(&stages),
                };
                thread::Builder::new()
                    .name("open".into())
                    .spawn(move || stage.run())
                    .map_err(thread_error)
            })
            .collect::<Result<_, _>>()?;
        let stage = WriteStage {
            sector_size: window.sector_size.into(),
            free: options.free,
            verify: options.verify,
            empty: empty_sender,
            observer,
            stages: Arc::clone(&stages),
        };
        let writer = thread::Builder::new()
            .name("write".into())
            .spawn(move || stage.run(&disk_receiver, &open_receiver))
            .map_err(thread_error)?;
        let installer = Self {
            chunks: Some(chunk_sender),
            spare,
            openers,
            writer: Some(writer),
            aborted,
            options: *options,
            stages,
            fed: Mutex::new(Instant::now()),
            unbounded: unbounded_queue,
        };
        let died = |_| Error::Thread("it ended before the disk came".into());
        let began = target
            .begin()
            .and_then(|disk| disk_sender.send(disk).map_err(died));
        // A writer that waits for a disk in vain has to hear of it before it is waited for.
        drop(disk_sender);
        began.map(|()| installer)
    }

    /// How the stages spend their time.
    pub fn stages(&self) -> Arc<Stages> {
        Arc::clone(&self.stages)
    }

    /// A buffer for the next chunk, reused where possible.
    pub fn buffer(&self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_default()
    }

    /// Hands over a chunk, verified or not.
    ///
    /// # Errors
    /// [`Stopped`] if writing has failed.
    pub fn submit(&self, index: u32, chunk: Vec<u8>) -> Result<(), Stopped> {
        self.send(index, chunk, Source::Own)
    }

    /// Hands over a chunk of a base, for a chunk that a delta leaves out and to which it gives this plain hash.
    ///
    /// # Errors
    /// [`Stopped`] if writing has failed.
    pub fn submit_from_base(
        &self,
        index: u32,
        chunk: Vec<u8>,
        origin: Origin,
        plain_hash: PlainHash,
    ) -> Result<(), Stopped> {
        let source = Source::Base { origin, plain_hash };
        self.send(index, chunk, source)
    }

    /// Hands over a chunk of an Emulab image, 1 MiB, with the sectors that it answers for.
    ///
    /// # Errors
    /// [`Stopped`] if writing has failed.
    pub fn submit_legacy(&self, index: u32, chunk: Vec<u8>, span: Span) -> Result<(), Stopped> {
        self.send(index, chunk, Source::Ndz(span))
    }

    /// Says that a chunk is on the disk already: only free space in it may still have to be cleared.
    ///
    /// # Errors
    /// [`Stopped`] if writing has failed.
    pub fn keep(&self, index: u32, layout: Layout) -> Result<(), Stopped> {
        self.send(index, Vec::new(), Source::Kept(layout))
    }

    fn send(&self, index: u32, bytes: Vec<u8>, source: Source) -> Result<(), Stopped> {
        let job = Job {
            index,
            bytes,
            source,
        };
        let chunks = self.chunks.as_ref().ok_or(Stopped)?;
        let mut fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        let (input, came) = (&self.stages.input, Instant::now());
        let since = came.duration_since(*fed);
        // Who bounds the chunks itself waits there for chunks to be written, as long as there are some.
        match self.unbounded && !chunks.is_empty() {
            true => input.add_wait_for_output(since),
            false => input.add_work(since),
        }
        let sent = chunks.send(job).map_err(|_| Stopped);
        *fed = Instant::now();
        input.add_wait_for_output(fed.duration_since(came));
        sent
    }

    /// Waits until all submitted chunks are written, flushes, and writes the boot sectors last if all chunks that are
    /// `expected` have come, and no others. After this the disk is complete.
    ///
    /// # Errors
    /// Why the disk is not complete.
    pub fn finish(mut self, expected: &Expected<'_>) -> Result<Report, Error> {
        let (disk, written) = self.join()?;
        let chunks = expected.chunks();
        let mut missing = 0;
        for index in 0..chunks {
            match written.proof(index) {
                None => missing += u32::from(expected.needs(index)),
                Some(Proof::Root(root)) => expected.check(index, root)?,
                Some(Proof::PlainHash | Proof::OnDisk) => {}
            }
        }
        if missing > 0 {
            return Err(Error::Incomplete { missing });
        }
        let found = u32::try_from(written.seen.len()).unwrap_or(u32::MAX);
        if found > chunks {
            let expected = chunks;
            return Err(FormatError::ChunkCount { expected, found }.into());
        }
        let InstallOptions {
            free,
            verify,
            threads,
            ..
        } = self.options;
        if verify {
            disk.verify(&written.checks, threads)?;
        }
        let mut report = written.report;
        report.verified = verify;
        report.free = free;
        report.discard_refused = free == FreeSpace::Discard && !disk.has_discarded();
        let (end, short_end) = (written.end, written.short_end);
        let writing = &self.stages.output;
        report.table = writing.time(|| disk.complete(free, end, short_end, verify))?;
        Ok(report)
    }

    /// Stops without completing the disk, which then does not boot; a file made for it is removed. Returns the error
    /// that had stopped the pipeline, if one had.
    pub fn abort(mut self) -> Option<Error> {
        self.aborted.store(true, Ordering::Relaxed);
        self.join().err()
    }

    fn join(&mut self) -> Result<(Disk, Written), Error> {
        self.chunks = None;
        let died = |_| Error::Thread("it panicked".into());
        let openers: Vec<_> = self
            .openers
            .drain(..)
            .map(|opener| opener.join().map_err(died))
            .collect();
        let writer = self
            .writer
            .take()
            .ok_or_else(|| Error::Thread("already finished".into()))?;
        let written = writer.join().map_err(died)??;
        openers.into_iter().collect::<Result<(), _>>()?;
        Ok(written)
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        if self.writer.is_some() {
            self.aborted.store(true, Ordering::Relaxed);
            let _ = self.join();
        }
    }
}
