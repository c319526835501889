//! Where an image comes from: a file that is checked before it is used, or a pipe.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use chunkfmt::{Context, Error, ImageIndex, ImageReader, Manifest, Next, Part, Trust, check_roots};
use frisbee_cli::{Exit, Failure, Interrupt};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Milliseconds between two looks whether a signal has come.
const SIGNAL_INTERVAL: u16 = 100;

/// An image to be read from beginning to end.
pub(crate) struct Source {
    /// For messages.
    name: PathBuf,
    file: File,
    /// It can be read out of order, and twice.
    seekable: bool,
}

/// Reads a file or a pipe. A pipe may have nothing to give for long: a signal ends the waiting.
struct Reader<'a> {
    file: &'a File,
    interrupt: &'a Interrupt,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.interrupt.is_raised() {
                return Err(io::Error::other("interrupted"));
            }
            let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(SIGNAL_INTERVAL)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => return self.file.read(buffer),
            }
        }
    }
}

impl Source {
    /// Opens `path`; `-` is standard input, and so is a path that names a pipe.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let fail = |error| Failure::new(Exit::Input, format!("{}: {error}", path.display()));
        let (name, file) = if path == Path::new("-") {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
            (PathBuf::from("standard input"), File::from(stdin))
        } else {
            (path.into(), File::open(path).map_err(fail)?)
        };
        let kind = file.metadata().map_err(fail)?.file_type();
        if kind.is_dir() || kind.is_block_device() {
            let message = format!("{}: is not a file with an image", name.display());
            return Err(Failure::new(Exit::Input, message));
        }
        Ok(Self {
            name,
            file,
            seekable: kind.is_file(),
        })
    }

    /// The name for messages.
    pub(crate) fn name(&self) -> String {
        self.name.display().to_string()
    }

    /// The file, if it can be read out of order.
    pub(crate) fn seekable(&self) -> Option<&File> {
        self.seekable.then_some(&self.file)
    }

    /// A reader from the beginning; of a pipe there is only one.
    pub(crate) fn reader<'a>(
        &'a self,
        trust: &Trust,
        interrupt: &'a Interrupt,
    ) -> Result<ImageReader<impl Read + use<'a>>, Error> {
        if self.seekable {
            (&self.file)
                .rewind()
                .map_err(|source| Error::Io { offset: 0, source })?;
        }
        let reader = Reader {
            file: &self.file,
            interrupt,
        };
        // Chunk by chunk; only header blocks are small.
        ImageReader::new(BufReader::with_capacity(256 * 1024, reader), trust.clone())
    }
}

/// Checks a whole image file against its manifest, on all cores: everything that can be wrong with the image is found
/// before a disk is touched. Returns its manifest.
pub(crate) fn check_file(
    file: &File,
    context: &Context,
    trust: &Trust,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<Manifest, Failure> {
    let mut handle: &File = file;
    let index = ImageIndex::read(&mut handle, Some(trust))?;
    context.secrets(&index.manifest)?;
    let next = AtomicU32::new(0);
    let check = || -> Result<(), Error> {
        let mut chunk = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((offset, length)) = index.chunk(number) else {
                return Ok(());
            };
            if interrupt.is_raised() {
                return Ok(());
            }
            chunk.resize(length, 0);
            file.read_exact_at(&mut chunk, offset)
                .map_err(|source| Error::Io { offset, source })?;
            // The chunk's own checks say best what is wrong with it; the manifest says that it is the right one.
            let wrong = || context.verify_chunk(&chunk, number).err();
            let part = Part::Chunk(number);
            let entry = usize::try_from(number)
                .ok()
                .and_then(|number| index.manifest.entries.get(number));
            if entry.is_none_or(|entry| entry.root != *blake3::hash(&chunk).as_bytes()) {
                return Err(wrong().unwrap_or(Error::NotInManifest { part }));
            }
        }
    };
    let results: Vec<_> = thread::scope(|scope| {
        // Fewer threads than wanted check the same, and this one always does.
        let handles: Vec<_> = (1..threads)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, check).ok())
            .collect();
        let own = check();
        handles
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .chain([Ok(own)])
            .collect()
    });
    for result in results {
        result.map_err(|_| Failure::new(Exit::Internal, "a checking thread panicked"))??;
    }
    interrupt.check("nothing was written")?;
    Ok(index.manifest)
}

/// Reads all chunks of an image in order, hands each to `each`, and checks at the end that they are those of the
/// manifest, which is returned.
pub(crate) fn read_all<R: Read>(
    reader: &mut ImageReader<R>,
    mut buffer: impl FnMut() -> Vec<u8>,
    mut each: impl FnMut(u32, Vec<u8>) -> Result<(), Failure>,
) -> Result<Manifest, Failure> {
    let mut roots = Vec::new();
    loop {
        let mut chunk = buffer();
        match reader.next(&mut chunk)? {
            Next::Chunk(index) => {
                roots.push((index, *blake3::hash(&chunk).as_bytes()));
                each(index, chunk)?;
            }
            Next::End(manifest) => {
                check_roots(&manifest, &roots)?;
                return Ok(*manifest);
            }
        }
    }
}
