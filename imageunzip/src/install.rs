//! The pipeline: chunks in, verified data on the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use chunkfmt::{Context, Layout, Opener};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

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
}

/// The pipeline has stopped because writing failed: [`Installer::finish`] tells why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// An open chunk on its way to the disk; its buffers go round.
#[derive(Default)]
struct Opened {
    index: u32,
    layout: Layout,
    data: Vec<u8>,
}

/// An installation under way.
pub struct Installer {
    chunks: Option<Sender<(u32, Vec<u8>)>>,
    spare: Receiver<Vec<u8>>,
    openers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<Result<(Disk, Written), Error>>>,
    aborted: Arc<AtomicBool>,
    free: FreeSpace,
}

struct Written {
    report: Report,
    seen: Vec<bool>,
}

impl Installer {
    /// Begins to write `target`: from here on what was on it is lost.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Flush`] from the first writes; [`Error::Thread`]
    pub fn start(
        context: &Arc<Context>,
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
        let openers: Vec<Opener> = (0..threads)
            .map(|_| Opener::new(Arc::clone(context)))
            .collect::<Result<_, _>>()?;

        let (chunk_sender, chunk_receiver) = options.queue.map_or_else(unbounded, bounded);
        let (spare_sender, spare) = bounded(threads + options.queue.unwrap_or(threads));
        let (disk_sender, disk_receiver) = bounded(1);
        let (open_sender, open_receiver) = bounded::<Opened>(threads);
        let (empty_sender, empty_receiver) = bounded::<Opened>(2 * threads + 2);
        let openers = openers
            .into_iter()
            .map(|opener| {
                let stage = OpenStage {
                    opener,
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
        match &self.chunks {
            Some(chunks) => chunks.send((index, chunk)).map_err(|_| Stopped),
            None => Err(Stopped),
        }
    }

    /// Waits until all submitted chunks are written, flushes, and writes the boot sectors last if all of
    /// `expected_chunks` have come. After this the disk is complete.
    ///
    /// # Errors
    /// Why the disk is not complete.
    pub fn finish(mut self, expected_chunks: u32) -> Result<Report, Error> {
        let (disk, written) = self.join()?;
        let missing = expected_chunks.saturating_sub(written.report.chunks);
        if missing > 0 {
            return Err(Error::Incomplete { missing });
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
    opener: Opener,
    window: u64,
    chunks: Receiver<(u32, Vec<u8>)>,
    spare: Sender<Vec<u8>>,
    empty: Receiver<Opened>,
    opened: Sender<Opened>,
    observer: Observer,
    aborted: Arc<AtomicBool>,
}

impl OpenStage {
    fn run(mut self) {
        for (index, mut chunk) in &self.chunks {
            if self.aborted.load(Ordering::Relaxed) {
                return;
            }
            let mut opened = self.empty.try_recv().unwrap_or_default();
            opened.index = index;
            let result = self.opener.open(
                index,
                &mut chunk,
                self.window,
                &mut opened.layout,
                &mut opened.data,
            );
            // Full: enough buffers go round already.
            let _ = self.spare.try_send(chunk);
            match result {
                Ok(_) => {
                    if self.opened.send(opened).is_err() {
                        return;
                    }
                }
                Err(error) => (self.observer)(Event::Refused { index, error }),
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
            let bytes =
                usize::try_from(u64::from(region.sectors) * self.sector_size).unwrap_or(usize::MAX);
            let Some((bytes, behind)) = rest.split_at_checked(bytes) else {
                break;
            };
            disk.put(region.first * self.sector_size, bytes)?;
            rest = behind;
            position = region.end();
        }
        self.gap(disk, position, span.end())?;

        let index = usize::try_from(chunk.index).unwrap_or(usize::MAX);
        if written.seen.len() <= index {
            written.seen.resize(index + 1, false);
        }
        if !std::mem::replace(&mut written.seen[index], true) {
            let bytes = chunk.data.len() as u64;
            written.report.chunks += 1;
            written.report.plain_bytes += bytes;
            written.report.free_bytes += span.sectors * self.sector_size - bytes;
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
