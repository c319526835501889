//! The pipeline: workers make chunks of what a source gives them, the caller's thread writes them in order.
//!
//! A worker takes a buffer before it takes the next chunk from the source, both from shared stock. So the chunk that
//! the writer waits for always has its buffer, and memory is bounded by the number of buffers.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::thread;

use chunkfmt::tree::Cv;
use chunkfmt::{Part, Sealed, Sealer, Span};
use crossbeam_channel::{Receiver, Sender, bounded};
use frisbee_cli::Interrupt;
use frisbee_cli::stages::{Stages, Stopwatch};

use crate::Error;

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Number of chunks in the image.
    pub(crate) chunks: usize,
    /// Bytes of disk data in them.
    pub(crate) plain_bytes: u64,
    /// Number of chunks that are left out, because the base holds them.
    pub(crate) left_out_chunks: usize,
    /// Bytes of disk data in those.
    pub(crate) left_out_bytes: u64,
    /// Bytes of the image.
    pub(crate) image_bytes: u64,
}

/// Gives out what the chunks are to be made of, in order.
pub(crate) trait Source: Send {
    /// What one chunk is made of, but for the data.
    type Item;

    /// The next one, with its data in `input` as far as the source has it at hand; `None` at the end.
    ///
    /// # Errors
    /// If it cannot be read.
    fn take(&mut self, input: &mut Vec<u8>) -> Result<Option<Self::Item>, Error>;

    /// Checks, after the last chunk, that the source was whole. `roots` are those of the chunks that came from an
    /// image, with their indexes there.
    ///
    /// # Errors
    /// If it was not: then there must be no image.
    fn check(&mut self, roots: &[(u32, Cv)]) -> Result<(), Error>;
}

/// Makes chunks in one thread.
pub(crate) trait Maker: Send {
    /// That of the source.
    type Item;

    /// Makes a chunk in `out`, which it clears, of what [`Source::take`] gave. If reading is left to be done, `watch`
    /// has to be told when it is done.
    ///
    /// # Errors
    /// If reading or sealing fails.
    fn make(
        &mut self,
        item: Self::Item,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        watch: &mut Watch<'_>,
    ) -> Result<Made, Error>;
}

/// The time of a thread that works for two stages in turn: reading, and making chunks.
pub(crate) struct Watch<'a> {
    reading: Stopwatch<'a>,
    making: Stopwatch<'a>,
}

impl<'a> Watch<'a> {
    fn start(stages: &'a Stages) -> Self {
        Self {
            reading: stages.input.stopwatch(),
            making: stages.middle.stopwatch(),
        }
    }

    /// The time since the last call went into reading.
    pub(crate) fn has_read(&mut self) {
        self.reading.worked();
        self.making.waited_for_input();
    }

    fn has_made(&mut self) {
        self.reading.waited_for_output();
        self.making.worked();
    }

    fn has_waited(&mut self) {
        self.reading.waited_for_output();
        self.making.waited_for_output();
    }
}

/// A chunk that was made.
pub(crate) struct Made {
    /// Its position in the image.
    pub(crate) index: u32,
    /// Its lines of the manifest.
    pub(crate) sealed: Sealed,
    /// The sectors that it answers for.
    pub(crate) span: Span,
    /// Bytes of disk data, also of a chunk that is left out.
    pub(crate) data_bytes: u64,
    /// The root that it had in the image that it was taken from.
    pub(crate) root: Option<(u32, Cv)>,
}

/// A chunk and its bytes. An error ends the work at once: the writer would wait for this chunk for ever.
type Done = Result<(Made, Vec<u8>), Error>;

/// Tells the writer if a worker dies, for the same reason.
struct Watched(Sender<Done>);

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            // Fails if the writer has gone already.
            let _ = self.0.send(Err(Error::Thread("it panicked".into())));
        }
    }
}

/// What the threads of the pipeline are made of.
pub(crate) struct Workers<M> {
    /// One for each thread.
    pub(crate) makers: Vec<M>,
    /// For finished chunks; more than threads.
    pub(crate) buffers: usize,
}

/// Writes an image to `output`. `advance` is called with the bytes of disk data
/// that are done.
///
/// # Errors
/// The first error of any thread.
pub(crate) fn create<S: Source, M: Maker<Item = S::Item>>(
    source: S,
    workers: Workers<M>,
    sealer: &Sealer,
    output: &mut impl Write,
    interrupt: &Interrupt,
    stages: &Stages,
    mut advance: impl FnMut(u64),
) -> Result<Summary, Error> {
    let write_error = |source| Error::Write { source };
    let source = Mutex::new(source);
    let Workers { makers, buffers } = workers;
    let (empty_sender, empty_receiver) = bounded(buffers);
    for _ in 0..buffers {
        // The channel has room for all of them.
        let _ = empty_sender.send(Vec::new());
    }
    let (done_sender, done_receiver) = bounded(buffers);

    output
        .write_all(sealer.header_bytes())
        .map_err(write_error)?;
    let written = thread::scope(|scope| {
        let workers: Vec<_> = makers
            .into_iter()
            .map(|maker| {
                let (empty, done) = (empty_receiver.clone(), Watched(done_sender.clone()));
                let source = &source;
                scope.spawn(move || {
                    if let Err(error) = work(source, maker, &empty, &done.0, interrupt, stages) {
                        // Fails if the writer has gone: it knows an error already.
                        let _ = done.0.send(Err(error));
                    }
                })
            })
            .collect();
        drop((done_sender, empty_receiver));
        // Dropping its ends of the channels stops the workers, whatever the reason.
        let written = write_in_order(&done_receiver, empty_sender, output, stages, &mut advance);
        drop(done_receiver);
        for worker in workers {
            worker
                .join()
                .map_err(|_| Error::Thread("it panicked".into()))?;
        }
        written
    })?;
    if interrupt.is_raised() {
        return Err(Error::Interrupted);
    }
    if written.position != sealer.header().disk_sectors {
        return Err(untiled(written.sealed.len()));
    }
    source
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .check(&written.roots)?;
    let end = sealer.finish(&written.sealed)?;
    output.write_all(&end).map_err(write_error)?;
    let mut summary = written.summary;
    summary.image_bytes += (sealer.header_bytes().len() + end.len()) as u64;
    Ok(summary)
}

fn untiled(index: usize) -> Error {
    Error::Format(chunkfmt::Error::Field {
        part: Part::Chunk(u32::try_from(index).unwrap_or(u32::MAX)),
        field: "span",
    })
}

#[derive(Default)]
struct Written {
    sealed: Vec<Sealed>,
    roots: Vec<(u32, Cv)>,
    /// The sector up to which the spans tile the disk.
    position: u64,
    summary: Summary,
}

fn write_in_order(
    done: &Receiver<Done>,
    empty: Sender<Vec<u8>>,
    output: &mut impl Write,
    stages: &Stages,
    advance: &mut impl FnMut(u64),
) -> Result<Written, Error> {
    let empty = empty;
    let mut watch = stages.output.stopwatch();
    let mut waiting = BTreeMap::new();
    let mut written = Written::default();
    for made in done {
        let (made, chunk) = made?;
        watch.waited_for_input();
        waiting.insert(made.index, (made, chunk));
        while let Some(entry) = waiting
            .first_entry()
            .filter(|entry| *entry.key() as usize == written.sealed.len())
        {
            let (made, chunk) = entry.remove();
            if made.span.first != written.position {
                return Err(untiled(written.sealed.len()));
            }
            written.position = made.span.end();
            output
                .write_all(&chunk)
                .map_err(|source| Error::Write { source })?;
            watch.worked();
            let summary = &mut written.summary;
            if made.sealed.is_present() {
                summary.chunks += 1;
                summary.plain_bytes += made.data_bytes;
                summary.image_bytes += chunk.len() as u64;
            } else {
                summary.left_out_chunks += 1;
                summary.left_out_bytes += made.data_bytes;
            }
            advance(made.data_bytes);
            written.roots.extend(made.root);
            written.sealed.push(made.sealed);
            // Fails when all workers have ended: then nobody needs the buffer.
            let _ = empty.send(chunk);
        }
    }
    Ok(written)
}

fn work<S: Source, M: Maker<Item = S::Item>>(
    source: &Mutex<S>,
    mut maker: M,
    empty: &Receiver<Vec<u8>>,
    done: &Sender<Done>,
    interrupt: &Interrupt,
    stages: &Stages,
) -> Result<(), Error> {
    let mut watch = Watch::start(stages);
    let mut input = Vec::new();
    // Ends with the source, or when the writer has gone because it could not write.
    while let Ok(mut out) = empty.recv() {
        watch.has_waited();
        if interrupt.is_raised() {
            return Ok(());
        }
        let item = {
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            match source.take(&mut input) {
                Ok(item) => item,
                Err(error) => {
                    // While nobody else can ask: what a source says after its first error is not why it has failed.
                    let _ = done.send(Err(error));
                    return Ok(());
                }
            }
        };
        watch.has_read();
        let Some(item) = item else {
            return Ok(());
        };
        let made = maker.make(item, &mut input, &mut out, &mut watch)?;
        watch.has_made();
        if done.send(Ok((made, out))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
