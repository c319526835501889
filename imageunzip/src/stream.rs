//! An image to standard output: the disk as it would be, from its first byte to its last, free space as zeros.
//!
//! What goes out cannot be taken back, so it goes in order, each chunk after its own checks. An image file is checked
//! from beginning to end before the first byte; of an image from a pipe only the exit code tells that it was whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use chunkfmt::tree::Cv;
use chunkfmt::{
    Context, Error as FormatError, ImageIndex, ImageReader, Layout, Manifest, Next, Opener, Part,
    PlainHash, Trust,
};
use crossbeam_channel::{Receiver, Sender, bounded};
use frisbee_cli::policy::Keys;
use frisbee_cli::progress::Progress;
use frisbee_cli::{Exit, Failure, Interrupt, units};
use serde_json::json;

use crate::contents::{Contents, Origin};
use crate::layers::Layers;
use crate::report::Unreadable;
use crate::source::{Source, check_file};
use crate::unzip::Cli;

/// What free space is written from.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What messages call it.
const NAME: &str = "standard output";

/// What a signal leaves behind.
const INCOMPLETE: &str = "the disk on standard output is incomplete";

/// Checks that standard output is not a terminal.
///
/// # Errors
/// [`Exit::Usage`] if it is.
pub(crate) fn refuse_terminal() -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return Ok(());
    }
    let message = "standard output is a terminal: redirect it into a file or a pipe";
    Err(Failure::new(Exit::Usage, message))
}

/// A chunk on its way, with buffers that go round.
#[derive(Default)]
struct Parcel {
    /// Its place in the image.
    index: u32,
    origin: Option<(Origin, PlainHash)>,
    chunk: Vec<u8>,
    layout: Layout,
    data: Vec<u8>,
    /// By which it proved itself, if it is the image's own.
    root: Option<Cv>,
}

/// Brings the next chunk in order; `None` at the end.
trait Feed: Send {
    fn next(&mut self, parcel: &mut Parcel) -> Result<bool, Failure>;

    /// What the image consists of, known at the end at the latest.
    fn manifest(self) -> Option<Manifest>;
}

/// An image file that was checked, and the bases of a delta.
struct FileFeed<'a> {
    file: &'a File,
    index: ImageIndex,
    contents: Contents,
    context: &'a Context,
    layers: &'a Layers,
    next: u32,
}

impl Feed for FileFeed<'_> {
    fn next(&mut self, parcel: &mut Parcel) -> Result<bool, Failure> {
        let Some(secret) = self.contents.secret(self.next) else {
            return Ok(false);
        };
        parcel.index = self.next;
        if let Some((offset, length)) = self.index.chunk(parcel.index) {
            parcel.origin = None;
            parcel.chunk.resize(length, 0);
            let read = self.file.read_exact_at(&mut parcel.chunk, offset);
            read.map_err(|source| FormatError::Io { offset, source })?;
        } else {
            let origin = self.layers.find(&secret.layout, self.context)?;
            parcel.origin = Some((origin, secret.plain_hash));
            self.layers.read(origin, &mut parcel.chunk)?;
        }
        self.next += 1;
        Ok(true)
    }

    fn manifest(self) -> Option<Manifest> {
        Some(self.contents.manifest)
    }
}

/// An image that is read in one pass.
struct PipeFeed<R> {
    reader: ImageReader<R>,
    manifest: Option<Manifest>,
}

impl<R: Read + Send> Feed for PipeFeed<R> {
    fn next(&mut self, parcel: &mut Parcel) -> Result<bool, Failure> {
        match self.reader.next(&mut parcel.chunk)? {
            Next::Chunk(index) => {
                (parcel.index, parcel.origin) = (index, None);
                Ok(true)
            }
            Next::End(manifest) => {
                self.manifest = Some(*manifest);
                Ok(false)
            }
        }
    }

    fn manifest(self) -> Option<Manifest> {
        self.manifest
    }
}

/// Writes an image to standard output.
///
/// # Errors
/// Why what is there is not the disk.
pub(crate) fn run(
    cli: &Cli,
    source: &Source,
    trust: &Trust,
    keys: &Keys,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    // The library's stdout takes writing to a closed one for success.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let stdout: File = stdout
        .map_err(|error| Failure::new(Exit::Io, error).context(NAME))?
        .into();
    let name = source.name();
    let named = |failure: Failure| failure.context(&name);
    let bad = |error: FormatError| named(error.into());
    let reader = source.reader(trust, interrupt).map_err(bad)?;
    let context = keys.context(reader.header_bytes(), trust).map_err(named)?;
    let context = Arc::new(context);
    let header = context.header();
    cli.wanted.check(header).map_err(bad)?;
    let layers = cli.layers(&context, trust, keys).map_err(named)?;
    let is_delta = header.base.is_some();
    if is_delta && (layers.is_empty() || source.seekable().is_none()) {
        let message = "is a delta: to standard output it is written from a file, with --base";
        return Err(named(Failure::new(Exit::Usage, message)));
    }
    let threads = cli.install.options(0).threads;
    layers.check(trust, threads, interrupt)?;
    let stream = Stream {
        context: &context,
        layers: &layers,
        threads,
        interrupt,
    };
    let fields = json!({
        "image": header.name, "uuid": header.uuid().to_string(), "epoch": header.epoch(), "target": "-",
        "total_bytes": header.disk_bytes(),
    });
    let start = || Progress::start(cli.events(), header.disk_bytes(), fields);
    let (progress, written) = match source.seekable() {
        Some(mut file) => {
            check_file(file, &context, trust, threads, interrupt).map_err(named)?;
            let index = ImageIndex::read(&mut file, Some(trust)).map_err(bad)?;
            let contents = Contents::new(&context, index.manifest.clone()).map_err(bad)?;
            let feed = FileFeed {
                file,
                index,
                contents,
                context: &context,
                layers: &layers,
                next: 0,
            };
            let progress = start();
            let written = stream.run(feed, stdout, &progress);
            (progress, written)
        }
        None => {
            let feed = PipeFeed {
                reader,
                manifest: None,
            };
            let progress = start();
            let written = stream.run(feed, stdout, &progress);
            (progress, written)
        }
    };
    match written {
        Ok(written) => {
            if let Some(warning) = written.unreadable.warning() {
                progress.line(&format!("imageunzip: {NAME}: {warning}"));
            }
            let time = progress.elapsed();
            let line = format!(
                "{NAME}: written {} (epoch {}): {} of data in {} chunks, {} in all, {:.2} s, {}",
                header.name,
                header.epoch(),
                units::size(written.plain_bytes),
                written.chunks,
                units::size(header.disk_bytes()),
                time.as_secs_f64(),
                units::throughput(header.disk_bytes(), time),
            );
            let fields = json!({
                "chunks": written.chunks, "plain_bytes": written.plain_bytes,
                "unreadable_bytes": written.unreadable.bytes, "unreadable": written.unreadable.ranges(),
            });
            progress.finish(&line, fields);
            Ok(())
        }
        Err(failure) => {
            // What a signal makes fail is not the failure to tell.
            let failure = interrupt.check(INCOMPLETE).err().unwrap_or(failure);
            Err(progress.fail(failure))
        }
    }
}

/// What was written.
#[derive(Default)]
struct Written {
    chunks: u32,
    plain_bytes: u64,
    unreadable: Unreadable,
    /// The roots of the image's own chunks, by their index.
    roots: Vec<Option<Cv>>,
}

/// What is common to all threads.
struct Stream<'a> {
    context: &'a Arc<Context>,
    layers: &'a Layers,
    threads: usize,
    interrupt: &'a Interrupt,
}

impl Stream<'_> {
    /// Opens all chunks of `feed` on all threads and writes them in order.
    fn run<F: Feed>(
        &self,
        mut feed: F,
        stdout: File,
        progress: &Progress,
    ) -> Result<Written, Failure> {
        // As many chunks are under way as there are buffers, whichever of them takes longest.
        let buffers = 2 * self.threads + 2;
        let (empty_sender, empty) = bounded(buffers);
        let (job_sender, jobs) = bounded::<(u64, Parcel)>(buffers);
        let (done_sender, done) = bounded(buffers);
        for _ in 0..buffers {
            // The channel has room for all of them.
            let _ = empty_sender.send(Parcel::default());
        }
        let openers = (0..self.threads)
            .map(|_| self.openers())
            .collect::<Result<Vec<_>, FormatError>>()?;
        let mut writer = Writer {
            stdout,
            sector_size: self.context.header().sector_size.into(),
            position: 0,
            written: Written::default(),
        };
        let (written, manifest) = thread::scope(|scope| {
            let feeder = scope.spawn(move || -> Result<Option<Manifest>, Failure> {
                let mut number = 0;
                while let Ok(mut parcel) = empty.recv() {
                    self.interrupt.check(INCOMPLETE)?;
                    if !feed.next(&mut parcel)? {
                        return Ok(feed.manifest());
                    }
                    if job_sender.send((number, parcel)).is_err() {
                        break;
                    }
                    number += 1;
                }
                // The writer has ended, and says why.
                Ok(None)
            });
            for opener in openers {
                let (jobs, done) = (jobs.clone(), done_sender.clone());
                scope.spawn(move || self.open(opener, &jobs, &done));
            }
            drop((jobs, done_sender));
            let written = write_in_order(&mut writer, &done, empty_sender, progress);
            drop(done);
            let died = |_| Failure::new(Exit::Internal, "a thread panicked");
            let fed = feeder.join().map_err(died)?;
            written?;
            Ok::<_, Failure>((std::mem::take(&mut writer.written), fed?))
        })?;
        let manifest =
            manifest.ok_or_else(|| Failure::new(Exit::Internal, "a thread has ended"))?;
        self.check(&manifest, &written)?;
        let end = self.context.header().disk_bytes();
        writer.gap(end)?;
        Ok(written)
    }

    /// Those of the image and of its bases.
    fn openers(&self) -> Result<Vec<Opener>, FormatError> {
        let contexts = self.layers.contexts();
        let all = [Arc::clone(self.context)].into_iter().chain(contexts);
        all.map(Opener::new).collect()
    }

    fn open(
        &self,
        mut openers: Vec<Opener>,
        jobs: &Receiver<(u64, Parcel)>,
        done: &Sender<Result<(u64, Parcel), Failure>>,
    ) {
        for (number, mut parcel) in jobs {
            let opened = self.open_one(&mut openers, &mut parcel);
            if done.send(opened.map(|()| (number, parcel))).is_err() {
                return;
            }
        }
    }

    fn open_one(&self, openers: &mut [Opener], parcel: &mut Parcel) -> Result<(), Failure> {
        let header = self.context.header();
        let part = Part::Chunk(parcel.index);
        let (layer, index) = match parcel.origin {
            Some((origin, _)) => (origin.layer + 1, origin.index),
            None => (0, parcel.index),
        };
        let missing = FormatError::NotInManifest { part };
        let opener = openers.get_mut(layer).ok_or(missing)?;
        let Parcel {
            chunk,
            layout,
            data,
            ..
        } = parcel;
        let verified = opener.open(index, chunk, header.disk_sectors, layout, data)?;
        parcel.root = parcel.origin.is_none().then_some(verified.root);
        if let Some((_, plain_hash)) = parcel.origin
            && self.context.plain_hash(layout, data)? != plain_hash
        {
            return Err(FormatError::PlainHash { part }.into());
        }
        Ok(())
    }

    /// Checks that what was written is what the manifest names.
    fn check(&self, manifest: &Manifest, written: &Written) -> Result<(), Failure> {
        self.context.secrets(manifest)?;
        let expected = manifest.head.chunks;
        if written.chunks != expected {
            let found = written.chunks;
            return Err(FormatError::ChunkCount { expected, found }.into());
        }
        for ((index, entry), root) in (0..).zip(&manifest.entries).zip(&written.roots) {
            if root.is_some_and(|root| root != entry.root) {
                let part = Part::Chunk(index);
                return Err(FormatError::NotInManifest { part }.into());
            }
        }
        Ok(())
    }
}

/// Writes chunks in the order in which they were handed out.
fn write_in_order(
    writer: &mut Writer,
    done: &Receiver<Result<(u64, Parcel), Failure>>,
    empty: Sender<Parcel>,
    progress: &Progress,
) -> Result<(), Failure> {
    let empty = empty;
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for opened in done {
        let (number, parcel) = opened?;
        waiting.insert(number, parcel);
        while let Some(parcel) = waiting.remove(&next) {
            let before = writer.position;
            writer.put(&parcel)?;
            progress.advance(writer.position - before);
            next += 1;
            // Fails when everything has been read.
            let _ = empty.send(parcel);
        }
    }
    Ok(())
}

struct Writer {
    stdout: File,
    sector_size: u64,
    /// Bytes that are written.
    position: u64,
    written: Written,
}

impl Writer {
    fn put(&mut self, parcel: &Parcel) -> Result<(), Failure> {
        let (layout, sector_size) = (&parcel.layout, self.sector_size);
        if layout.span.first * sector_size != self.position {
            let part = Part::Chunk(parcel.index);
            let field = "span";
            return Err(FormatError::Field { part, field }.into());
        }
        let mut rest = &parcel.data[..];
        for region in &layout.regions {
            self.gap(region.first * sector_size)?;
            let bytes = u64::from(region.sectors) * sector_size;
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(bytes.min(rest.len()));
            self.write(now)?;
            rest = later;
        }
        self.gap(layout.span.end() * sector_size)?;
        let written = &mut self.written;
        written.chunks += 1;
        written.plain_bytes += parcel.data.len() as u64;
        written.unreadable.add(layout, sector_size);
        written.roots.push(parcel.root);
        Ok(())
    }

    /// Writes zeros up to a position.
    fn gap(&mut self, end: u64) -> Result<(), Failure> {
        while self.position < end {
            let length = (end - self.position).min(ZEROS.len() as u64);
            let length = usize::try_from(length).unwrap_or(ZEROS.len());
            self.write(ZEROS.get(..length).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let place = self.position;
        self.stdout.write_all(bytes).map_err(|error| {
            let message = format!("{NAME}: writing at byte {place} of the disk: {error}");
            Failure::new(Exit::Io, message)
        })?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
