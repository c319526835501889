//! Where an image comes from: a file that is checked before it is used, or a pipe.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use chunkfmt::{Context, Error, ImageIndex, ImageReader, Manifest, Next, Part, Trust};
use frisbee_cli::pipe::{self, Interruptible};
use frisbee_cli::{Exit, Failure, Interrupt};

/// Bytes that tell what an image is.
const HEAD: u64 = 4;

/// An image to be read from beginning to end.
pub(crate) struct Source {
    /// For messages.
    name: String,
    file: File,
    /// It can be read out of order, and twice.
    seekable: bool,
    /// The first bytes, once they were looked at. Of a pipe they cannot be read again.
    head: OnceCell<Vec<u8>>,
}

impl Source {
    /// Opens `path`; `-` is standard input, and so is a path that names a pipe.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let (name, file) = pipe::open(path)?;
        let kind = file
            .metadata()
            .map_err(|error| Failure::new(Exit::Input, error).context(&name))?
            .file_type();
        if kind.is_dir() || kind.is_block_device() {
            let message = "is not a file with an image";
            return Err(Failure::new(Exit::Input, message).context(name));
        }
        Ok(Self {
            name,
            file,
            seekable: kind.is_file(),
            head: OnceCell::new(),
        })
    }

    /// Whether it begins like an Emulab image. Of a pipe this waits for the first bytes.
    pub(crate) fn is_legacy(&self, interrupt: &Interrupt) -> Result<bool, Failure> {
        let mut head = Vec::new();
        let io = |source| Failure::from(Error::Io { offset: 0, source });
        let rewound = match self.seekable {
            true => (&self.file).rewind(),
            false => Ok(()),
        };
        let reader = Interruptible::new(&self.file, interrupt);
        rewound
            .and_then(|()| reader.take(HEAD).read_to_end(&mut head))
            .map_err(io)?;
        Ok(ndz::is_image(self.head.get_or_init(|| head)))
    }

    /// The bytes from the beginning; of a pipe there is only one time to read them.
    pub(crate) fn bytes<'a>(&'a self, interrupt: &'a Interrupt) -> io::Result<impl Read + use<'a>> {
        let head = self.head.get().map_or(&[][..], Vec::as_slice);
        let head = match self.seekable {
            true => {
                (&self.file).rewind()?;
                &[]
            }
            false => head,
        };
        let reader = Interruptible::new(&self.file, interrupt);
        // Chunk by chunk; only header blocks are small.
        Ok(BufReader::with_capacity(256 * 1024, head.chain(reader)))
    }

    /// The name for messages.
    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    /// The file, if it can be read out of order.
    pub(crate) fn seekable(&self) -> Option<&File> {
        self.seekable.then_some(&self.file)
    }

    /// A reader of frz images from the beginning; of a pipe there is only one.
    pub(crate) fn reader<'a>(
        &'a self,
        trust: &Trust,
        interrupt: &'a Interrupt,
    ) -> Result<ImageReader<impl Read + use<'a>>, Error> {
        let bytes = self
            .bytes(interrupt)
            .map_err(|source| Error::Io { offset: 0, source })?;
        ImageReader::new(bytes, trust.clone())
    }
}

/// Reads all chunks that an image file has, on all threads and in no order, and hands each with its index to `each`,
/// which has a `state` per thread. The first error ends it.
pub(crate) fn each_chunk<S>(
    file: &File,
    index: &ImageIndex,
    threads: usize,
    interrupt: &Interrupt,
    state: impl Fn() -> Result<S, Error> + Sync,
    each: impl Fn(&mut S, u32, &mut Vec<u8>) -> Result<(), Error> + Sync,
) -> Result<(), Failure> {
    let next = AtomicU32::new(0);
    let visit = || -> Result<(), Error> {
        let mut chunk = Vec::new();
        let mut state = state()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= index.manifest.head.chunks || interrupt.is_raised() {
                return Ok(());
            }
            let Some((offset, length)) = index.chunk(number) else {
                // Left out of a delta.
                continue;
            };
            chunk.resize(length, 0);
            file.read_exact_at(&mut chunk, offset)
                .map_err(|source| Error::Io { offset, source })?;
            each(&mut state, number, &mut chunk)?;
        }
    };
    let results: Vec<_> = thread::scope(|scope| {
        // Fewer threads than wanted check the same, and this one always does.
        let handles: Vec<_> = (1..threads)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, visit).ok())
            .collect();
        let own = visit();
        handles
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .chain([Ok(own)])
            .collect()
    });
    for result in results {
        result.map_err(|_| Failure::new(Exit::Internal, "a checking thread panicked"))??;
    }
    interrupt.check("nothing was written")
}

/// Checks a chunk on its own, and that it is the one which the manifest names.
pub(crate) fn check_chunk(
    context: &Context,
    manifest: &Manifest,
    number: u32,
    chunk: &[u8],
) -> Result<(), Error> {
    // The chunk's own checks say best what is wrong with it; the manifest says that it is the right one.
    let root = context.verify_chunk(chunk, number)?.root;
    let entry = usize::try_from(number)
        .ok()
        .and_then(|number| manifest.entries.get(number));
    match entry {
        Some(entry) if entry.root == root => Ok(()),
        _ => Err(Error::NotInManifest {
            part: Part::Chunk(number),
        }),
    }
}

/// Checks a whole image file against its manifest, on all cores: everything that can be wrong with the image is found
/// before a disk is touched. Returns its index.
pub(crate) fn check_file(
    file: &File,
    context: &Context,
    trust: &Trust,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<ImageIndex, Failure> {
    let mut handle: &File = file;
    let index = ImageIndex::read(&mut handle, Some(trust))?;
    context.secrets(&index.manifest)?;
    let each = |_: &mut (), number, chunk: &mut Vec<u8>| {
        check_chunk(context, &index.manifest, number, chunk)
    };
    each_chunk(file, &index, threads, interrupt, || Ok(()), each)?;
    Ok(index)
}

/// Reads all chunks of an image in order and hands each to `each`. The manifest is returned; that the chunks are
/// those which it names is left to the caller, who hashes them anyway.
pub(crate) fn read_all<R: Read>(
    reader: &mut ImageReader<R>,
    mut buffer: impl FnMut() -> Vec<u8>,
    mut each: impl FnMut(u32, Vec<u8>) -> Result<(), Failure>,
) -> Result<Manifest, Failure> {
    loop {
        let mut chunk = buffer();
        match reader.next(&mut chunk)? {
            Next::Chunk(index) => each(index, chunk)?,
            Next::End(manifest) => return Ok(*manifest),
        }
    }
}
