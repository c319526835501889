//! Where an image comes from: a file that is checked before it is used, or a pipe.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use chunkfmt::{Context, Error, ImageIndex, ImageReader, Manifest, Next, Part, Trust, check_roots};
use frisbee_cli::{Exit, Failure, Interrupt};

/// An image to be read from beginning to end.
pub(crate) enum Source {
    /// A file, with its name for messages.
    File(PathBuf, File),
    /// Standard input.
    Pipe,
}

impl Source {
    /// Opens `path`; `-` is standard input, and so is a path that names a pipe.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Pipe);
        }
        let fail = |error| Failure::new(Exit::Input, format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.is_dir() {
            return Err(Failure::new(
                Exit::Input,
                format!("{}: is a directory, not an image", path.display()),
            ));
        }
        Ok(Self::File(path.into(), file))
    }

    /// The name for messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path, _) => path.display().to_string(),
            Self::Pipe => "standard input".into(),
        }
    }

    /// The file, if it can be read out of order.
    pub(crate) fn seekable(&self) -> Option<&File> {
        match self {
            Self::File(_, file) => file
                .metadata()
                .is_ok_and(|metadata| metadata.is_file())
                .then_some(file),
            Self::Pipe => None,
        }
    }

    /// A reader from the beginning.
    pub(crate) fn reader(&self, trust: &Trust) -> Result<ImageReader<Box<dyn Read + '_>>, Error> {
        let reader: Box<dyn Read> = match self {
            // Chunk by chunk; only header blocks are small.
            Self::File(_, file) => Box::new(BufReader::with_capacity(256 * 1024, file)),
            Self::Pipe => Box::new(std::io::stdin().lock()),
        };
        ImageReader::new(reader, trust.clone())
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
        let handles: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(check)).collect();
        handles
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
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
                roots.push(*blake3::hash(&chunk).as_bytes());
                each(index, chunk)?;
            }
            Next::End(manifest) => {
                check_roots(&manifest, &roots)?;
                return Ok(*manifest);
            }
        }
    }
}
