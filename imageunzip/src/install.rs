//! The pipeline: chunks in, verified data on the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use chunkfmt::tree::Cv;
use chunkfmt::{ChunkEntry, Context, Error as FormatError, Layout, Opener, Part, PlainHash};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::contents::Origin;
use crate::target::Disk;
use crate::{Error, Target};

/// What happens to free space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FreeSpace {
    /// It keeps what was there.
    #[default]
    Skip,
    /// It is zero afterwards: nothing of the last user is left.
    Zero,
}

/// How to install.
#[derive(Clone, Copy, Debug)]
pub struct InstallOptions {
    /// What happens to free space.
    pub free: FreeSpace,
    /// Number of threads that open chunks.
    pub threads: usize,
    /// Most chunks that wait to be opened, after which [`Installer::submit`] waits. `None` for a caller that bounds
    /// them itself.
    pub queue: Option<usize>,
}

impl Default for InstallOptions {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            free: FreeSpace::Skip,
            threads,
            queue: Some(threads),
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
        error: chunkfmt::Error,
    },
    /// Writing failed and the pipeline has stopped; [`Installer::finish`] tells why.
    Failed,
}

/// What was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chunks written.
    pub chunks: u32,
    /// Bytes of disk data written.
    pub plain_bytes: u64,
    /// Bytes of free space in the imaged disk.
    pub free_bytes: u64,
    /// Chunks that were on the disk already, of which nothing was written.
    pub kept_chunks: u32,
}

/// The pipeline has stopped because writing failed: [`Installer::finish`] tells why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// A chunk on its way into the pipeline.
struct Job {
    index: u32,
    bytes: Vec<u8>,
    source: Source,
}

enum Source {
    /// A chunk of the image itself.
    Own,
    /// A chunk of a base, which must have the plain hash that the image names.
    Base {
        origin: Origin,
        plain_hash: PlainHash,
    },
    /// On the disk already; only its free space is still to be cleared.
    Kept(Layout),
}

/// How an open chunk proved to be the right one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Proof {
    /// By this root, which the manifest has to name.
    Root(Cv),
    /// By its plain hash, which is the manifest's.
    PlainHash,
    /// By what is on the disk.
    #[default]
    OnDisk,
}

/// An open chunk on its way to the disk; its buffers go round.
#[derive(Default)]
struct Opened {
    index: u32,
    proof: Proof,
    layout: Layout,
    data: Vec<u8>,
}

/// An installation under way.
pub struct Installer {
    chunks: Option<Sender<Job>>,
    spare: Receiver<Vec<u8>>,
    openers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<Result<(Disk, Written), Error>>>,
    aborted: Arc<AtomicBool>,
    free: FreeSpace,
}

struct Written {
    report: Report,
    seen: Vec<Option<Proof>>,
}

impl Installer {
    /// Begins to write `target`: from here on what was on it is lost. `bases` open the chunks that a delta leaves
    /// out, the nearest first.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Flush`] from the first writes; [`Error::Thread`]
    pub fn start(
        context: &Arc<Context>,
        bases: &[Arc<Context>],
        target: Target,
        options: &InstallOptions,
        observer: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let observer: Observer = Arc::new(observer);
        let aborted = Arc::new(AtomicBool::new(false));
        let window = target.sectors();
        let sector_size = u64::from(context.header().sector_size);
        let threads = options.threads.max(1);
        let thread_error = |error: std::io::Error| Error::Thread(error.to_string());

        // Everything that can fail without the disk comes before the first write, which is the last thing here.
        let opener = |context: &Arc<Context>| {
            Ok::<_, FormatError>(Opener::new(Arc::clone(context))?.without_plain_hash())
        };
        let openers: Vec<(Opener, Vec<Opener>)> = (0..threads)
            .map(|_| {
                let bases = bases.iter().map(opener).collect::<Result<_, _>>()?;
                Ok((opener(context)?, bases))
            })
            .collect::<Result<_, FormatError>>()?;

        let (chunk_sender, chunk_receiver) = options.queue.map_or_else(unbounded, bounded);
        let (spare_sender, spare) = bounded(threads + options.queue.unwrap_or(threads));
        let (disk_sender, disk_receiver) = bounded(1);
        let (open_sender, open_receiver) = bounded::<Opened>(threads);
        let (empty_sender, empty_receiver) = bounded::<Opened>(2 * threads + 2);
        let openers = openers
            .into_iter()
            .map(|(opener, bases)| {
                let stage = OpenStage {
                    context: Arc::clone(context),
                    opener,
                    bases,
                    window,
                    chunks: chunk_receiver.clone(),
                    spare: spare_sender.clone(),
                    empty: empty_receiver.clone(),
                    opened: open_sender.clone(),
                    observer: Arc::clone(&observer),
                    aborted: Arc::clone(&aborted),
                };
                thread::Builder::new()
                    .name("open".into())
                    .spawn(move || stage.run())
                    .map_err(thread_error)
            })
            .collect::<Result<_, _>>()?;
        let stage = WriteStage {
            sector_size,
            free: options.free,
            empty: empty_sender,
            observer,
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
            free: options.free,
        };
        let died = |_| Error::Thread("it ended before the disk came".into());
        let began = target
            .begin()
            .and_then(|disk| disk_sender.send(disk).map_err(died));
        // A writer that waits for a disk in vain has to hear of it before it is waited for.
        drop(disk_sender);
        began.map(|()| installer)
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
        match &self.chunks {
            Some(chunks) => chunks.send(job).map_err(|_| Stopped),
            None => Err(Stopped),
        }
    }

    /// Waits until all submitted chunks are written, flushes, and writes the boot sectors last if all chunks of the
    /// manifest, whose `entries` these are, have come, and no others. After this the disk is complete.
    ///
    /// # Errors
    /// Why the disk is not complete.
    pub fn finish(mut self, entries: &[ChunkEntry]) -> Result<Report, Error> {
        let (disk, written) = self.join()?;
        let mut missing = 0;
        for (index, entry) in (0..).zip(entries) {
            let seen = usize::try_from(index)
                .ok()
                .and_then(|index| written.seen.get(index))
                .copied()
                .flatten();
            match seen {
                None => missing += 1,
                Some(Proof::Root(root)) if root != entry.root => {
                    let part = Part::Chunk(index);
                    return Err(FormatError::NotInManifest { part }.into());
                }
                Some(_) => {}
            }
        }
        if missing > 0 {
            return Err(Error::Incomplete { missing });
        }
        if written.seen.len() > entries.len() {
            let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
            let (expected, found) = (count(entries.len()), count(written.seen.len()));
            return Err(FormatError::ChunkCount { expected, found }.into());
        }
        disk.complete(self.free == FreeSpace::Zero)?;
        Ok(written.report)
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

/// One thread of the middle stage.
struct OpenStage {
    context: Arc<Context>,
    opener: Opener,
    bases: Vec<Opener>,
    window: u64,
    chunks: Receiver<Job>,
    spare: Sender<Vec<u8>>,
    empty: Receiver<Opened>,
    opened: Sender<Opened>,
    observer: Observer,
    aborted: Arc<AtomicBool>,
}

impl OpenStage {
    fn run(mut self) {
        while let Ok(mut job) = self.chunks.recv() {
            if self.aborted.load(Ordering::Relaxed) {
                return;
            }
            let mut opened = self.empty.try_recv().unwrap_or_default();
            opened.index = job.index;
            let result = self.open(&mut job, &mut opened);
            // Full: enough buffers go round already.
            let _ = self.spare.try_send(job.bytes);
            match result {
                Ok(proof) => {
                    opened.proof = proof;
                    if self.opened.send(opened).is_err() {
                        return;
                    }
                }
                Err(error) => (self.observer)(Event::Refused {
                    index: job.index,
                    error,
                }),
            }
        }
    }

    fn open(&mut self, job: &mut Job, opened: &mut Opened) -> Result<Proof, FormatError> {
        let (layout, data) = (&mut opened.layout, &mut opened.data);
        match &mut job.source {
            Source::Own => {
                let verified =
                    self.opener
                        .open(job.index, &mut job.bytes, self.window, layout, data)?;
                Ok(Proof::Root(verified.root))
            }
            Source::Base { origin, plain_hash } => {
                let part = Part::Chunk(job.index);
                let missing = FormatError::NotInManifest { part };
                let opener = self.bases.get_mut(origin.layer).ok_or(missing)?;
                opener.open(origin.index, &mut job.bytes, self.window, layout, data)?;
                match self.context.plain_hash(layout, data)? == *plain_hash {
                    true => Ok(Proof::PlainHash),
                    false => Err(FormatError::PlainHash { part }),
                }
            }
            Source::Kept(kept) => {
                *layout = std::mem::take(kept);
                data.clear();
                Ok(Proof::OnDisk)
            }
        }
    }
}

/// The last stage.
struct WriteStage {
    sector_size: u64,
    free: FreeSpace,
    empty: Sender<Opened>,
    observer: Observer,
}

impl WriteStage {
    fn run(
        self,
        disk: &Receiver<Disk>,
        chunks: &Receiver<Opened>,
    ) -> Result<(Disk, Written), Error> {
        let gone = |_| Error::Thread("there is no disk to write".into());
        let mut disk = disk.recv().map_err(gone)?;
        let mut written = Written {
            report: Report::default(),
            seen: Vec::new(),
        };
        for chunk in chunks {
            if let Err(error) = self.write(&mut disk, &chunk, &mut written) {
                (self.observer)(Event::Failed);
                return Err(error);
            }
            (self.observer)(Event::Written {
                index: chunk.index,
                plain_bytes: chunk.data.len() as u64,
            });
            let _ = self.empty.try_send(chunk);
        }
        Ok((disk, written))
    }

    fn write(&self, disk: &mut Disk, chunk: &Opened, written: &mut Written) -> Result<(), Error> {
        let span = chunk.layout.span;
        let mut rest = &chunk.data[..];
        let mut position = span.first;
        for region in &chunk.layout.regions {
            self.gap(disk, position, region.first)?;
            position = region.end();
            if chunk.proof == Proof::OnDisk {
                continue;
            }
            let bytes =
                usize::try_from(u64::from(region.sectors) * self.sector_size).unwrap_or(usize::MAX);
            let Some((bytes, behind)) = rest.split_at_checked(bytes) else {
                break;
            };
            disk.put(region.first * self.sector_size, bytes)?;
            rest = behind;
        }
        self.gap(disk, position, span.end())?;

        let index = usize::try_from(chunk.index).unwrap_or(usize::MAX);
        if written.seen.len() <= index {
            written.seen.resize(index + 1, None);
        }
        if written.seen[index].replace(chunk.proof).is_none() {
            match chunk.proof {
                Proof::OnDisk => written.report.kept_chunks += 1,
                _ => written.report.chunks += 1,
            }
            let free = span.sectors - chunk.layout.data_sectors();
            written.report.plain_bytes += chunk.data.len() as u64;
            written.report.free_bytes += free * self.sector_size;
        }
        Ok(())
    }

    fn gap(&self, disk: &mut Disk, first: u64, end: u64) -> Result<(), Error> {
        match self.free {
            FreeSpace::Zero if first < end => {
                disk.zero(first * self.sector_size, (end - first) * self.sector_size)
            }
            _ => Ok(()),
        }
    }
}
