//! The pipeline: workers read and seal chunks, the caller's thread writes them in order.
//!
//! A worker takes a buffer before it takes the next piece of the plan, both from shared stock. So the piece that the
//! writer waits for always has its buffer, and memory is bounded by the number of buffers.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::thread;

use chunkfmt::{Sealed, Sealer};
use crossbeam_channel::{Receiver, Sender, bounded};
use diskmap::Extent;
use frisbee_cli::Interrupt;

use crate::{Disk, Error, Piece, Plan};

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of chunks.
    pub chunks: usize,
    /// Bytes of disk data in the image.
    pub plain_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
}

struct Done {
    index: u32,
    sealed: Sealed,
    chunk: Vec<u8>,
}

/// What an image is made of, and with what.
pub struct Job<'a> {
    /// The disk.
    pub disk: &'a Disk,
    /// What of it is to be saved: sorted, disjoint, inside the disk.
    pub saved: &'a [Extent],
    /// Header, keys and codec.
    pub sealer: &'a Sealer,
    /// Number of threads that read and compress.
    pub threads: usize,
    /// Ends the work early.
    pub interrupt: &'a Interrupt,
}

/// Writes an image to `output`. `advance` is called with the bytes of disk data that have been written.
///
/// # Errors
/// The first error of any thread.
pub fn create(
    job: &Job<'_>,
    output: &mut impl Write,
    mut advance: impl FnMut(u64),
) -> Result<Summary, Error> {
    let &Job {
        disk,
        saved,
        sealer,
        threads,
        interrupt,
    } = job;
    let write_error = |source| Error::Write { source };
    let header = sealer.header();
    let plan = Plan::new(
        saved.iter().copied(),
        header.disk_sectors,
        header.sector_size,
        header.chunk_size,
    );
    let plan = Mutex::new(plan);
    let threads = threads.max(1);
    let buffers = 2 * threads + 2;
    let (empty_sender, empty_receiver) = bounded(buffers);
    for _ in 0..buffers {
        // The channel has room for all of them.
        let _ = empty_sender.send(Vec::new());
    }
    let (done_sender, done_receiver) = bounded(buffers);

    output
        .write_all(sealer.header_bytes())
        .map_err(write_error)?;
    let sealed = thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..threads {
            let worker = Worker {
                disk,
                plan: &plan,
                sealer: sealer.for_thread()?,
                empty: empty_receiver.clone(),
                done: done_sender.clone(),
                interrupt,
            };
            workers.push(scope.spawn(move || worker.run()));
        }
        drop((done_sender, empty_receiver));
        // Dropping its ends of the channels stops the workers, whatever the reason.
        let written =
            write_in_order(&done_receiver, empty_sender, output, &mut advance).map_err(write_error);
        drop(done_receiver);
        for worker in workers {
            worker
                .join()
                .map_err(|_| Error::Thread("it panicked".into()))??;
        }
        written
    })?;
    if interrupt.is_raised() {
        return Err(Error::Interrupted);
    }
    let end = sealer.finish(&sealed)?;
    output.write_all(&end).map_err(write_error)?;
    let chunk_bytes: u64 = sealed.iter().map(Sealed::chunk_bytes).sum();
    Ok(Summary {
        chunks: sealed.len(),
        plain_bytes: sealed.iter().map(Sealed::plain_bytes).sum(),
        image_bytes: (sealer.header_bytes().len() + end.len()) as u64 + chunk_bytes,
    })
}

fn write_in_order(
    done: &Receiver<Done>,
    empty: Sender<Vec<u8>>,
    output: &mut impl Write,
    advance: &mut impl FnMut(u64),
) -> std::io::Result<Vec<Sealed>> {
    let empty = empty;
    let mut waiting = BTreeMap::new();
    let mut written = Vec::new();
    for Done {
        index,
        sealed,
        chunk,
    } in done
    {
        waiting.insert(index, (sealed, chunk));
        while let Some(entry) = waiting
            .first_entry()
            .filter(|entry| *entry.key() as usize == written.len())
        {
            let (sealed, chunk) = entry.remove();
            output.write_all(&chunk)?;
            advance(sealed.plain_bytes());
            written.push(sealed);
            // Fails when all workers have ended: then nobody needs the buffer.
            let _ = empty.send(chunk);
        }
    }
    Ok(written)
}

struct Worker<'a, I> {
    disk: &'a Disk,
    plan: &'a Mutex<Plan<I>>,
    sealer: Sealer,
    empty: Receiver<Vec<u8>>,
    done: Sender<Done>,
    interrupt: &'a Interrupt,
}

impl<I: Iterator<Item = Extent>> Worker<'_, I> {
    fn run(mut self) -> Result<(), Error> {
        let mut data = Vec::new();
        // Ends with the plan, or when the writer has gone because it could not write.
        while let Ok(mut chunk) = self.empty.recv() {
            let piece = self
                .plan
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next();
            let Some(piece) = piece.filter(|_| !self.interrupt.is_raised()) else {
                return Ok(());
            };
            self.read(&piece, &mut data)?;
            let Piece { index, layout } = piece;
            let sealed = self.sealer.seal(index, layout, &data, &mut chunk)?;
            let done = Done {
                index,
                sealed,
                chunk,
            };
            if self.done.send(done).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read(&self, piece: &Piece, data: &mut Vec<u8>) -> Result<(), Error> {
        let sector_size = u64::from(self.sealer.header().sector_size);
        let sectors = piece.layout.data_sectors();
        // At most the chunk size.
        data.resize(usize::try_from(sectors * sector_size).unwrap_or(0), 0);
        let mut rest = &mut data[..];
        for region in &piece.layout.regions {
            let bytes =
                usize::try_from(u64::from(region.sectors) * sector_size).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(bytes.min(rest.len()));
            self.disk.read(now, region.first * sector_size)?;
            rest = later;
        }
        Ok(())
    }
}
