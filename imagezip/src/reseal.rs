//! An image made of another image: chunk by chunk, with the same layouts, without a disk in between.

use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;

use chunkfmt::tree::Cv;
use chunkfmt::{
    ChunkSecret, Context, Error as FormatError, ImageReader, Layout, Manifest, Next, Opener, Part,
    Sealer, check_roots,
};
use frisbee_cli::pipe::Interruptible;
use frisbee_cli::{Exit, Failure, Interrupt};

use crate::base::{Chain, Indexed};
use crate::create::{Made, Maker, Source, Watch};
use crate::inputs::Access;
use crate::pipe::Input;
use crate::scan::seal;
use crate::{Error, Piece};

/// A chunk that was read and is not open yet.
pub(crate) struct Taken {
    /// Its position in the new image.
    index: u32,
    /// Where it comes from: 0 is the image, 1 its base, and so on.
    layer: usize,
    /// Its position there.
    origin: u32,
    /// What the delta says of a chunk that it leaves out.
    expected: Option<ChunkSecret>,
}

/// An image that is read in one pass.
pub(crate) struct Stream<R> {
    name: String,
    reader: ImageReader<R>,
    context: Arc<Context>,
    interrupt: Interrupt,
    manifest: Option<Manifest>,
}

impl Stream<BufReader<Interruptible<File>>> {
    /// Reads and checks the header of an image in a file or a pipe.
    ///
    /// # Errors
    /// What is wrong with it, its owner, or the key.
    pub(crate) fn open(
        input: Input,
        access: &Access,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        let Input { name, pipe } = input;
        let named = |failure: Failure| failure.context(&name);
        let reader = ImageReader::new(pipe, access.trust.clone()).map_err(|error| {
            let interrupted = interrupt.check("no image was written").err();
            interrupted.unwrap_or_else(|| named(error.into()))
        })?;
        let bytes = reader.header_bytes();
        let context = access.context(bytes).map_err(named)?;
        Ok(Self {
            reader,
            context: Arc::new(context),
            interrupt: interrupt.clone(),
            manifest: None,
            name,
        })
    }
}

impl<R> Stream<R> {
    /// The name for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What opens its chunks.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn error(&self, source: FormatError) -> Error {
        // What a signal makes fail is not the failure to tell.
        match self.interrupt.is_raised() {
            true => Error::Interrupted,
            false => Error::Image {
                name: self.name.clone(),
                source,
            },
        }
    }
}

impl<R: Read + Send> Source for Stream<R> {
    type Item = Taken;

    fn take(&mut self, chunk: &mut Vec<u8>) -> Result<Option<Taken>, Error> {
        if self.manifest.is_some() {
            return Ok(None);
        }
        match self.reader.next(chunk) {
            Ok(Next::Chunk(index)) => Ok(Some(Taken {
                index,
                layer: 0,
                origin: index,
                expected: None,
            })),
            Ok(Next::End(manifest)) => {
                self.manifest = Some(*manifest);
                Ok(None)
            }
            Err(error) => Err(self.error(error)),
        }
    }

    fn check(&mut self, roots: &[(u32, Cv)]) -> Result<(), Error> {
        let Some(manifest) = &self.manifest else {
            return Err(Error::Interrupted);
        };
        check_roots(manifest, roots)
            .and_then(|()| self.context.secrets(manifest).map(drop))
            .map_err(|error| self.error(error))
    }
}

/// A delta with its bases, all of them files.
pub(crate) struct Layers<'a> {
    delta: &'a Indexed,
    chain: &'a Chain,
    next: u32,
}

impl<'a> Layers<'a> {
    /// Begins with the first chunk.
    pub(crate) fn new(delta: &'a Indexed, chain: &'a Chain) -> Self {
        Self {
            delta,
            chain,
            next: 0,
        }
    }

    /// What opens the chunks of all layers, the delta's first.
    pub(crate) fn contexts(&self) -> Vec<Arc<Context>> {
        let images = [self.delta].into_iter().chain(self.chain.images());
        images.map(|image| Arc::clone(&image.context)).collect()
    }

    /// The names of all layers for messages, the delta's first.
    pub(crate) fn names(&self) -> Vec<String> {
        let images = [self.delta].into_iter().chain(self.chain.images());
        images.map(|image| image.name.clone()).collect()
    }

    fn lost(&self) -> Error {
        let base = self.delta.index.header.base;
        let (uuid, epoch) = base.map_or_else(Default::default, |base| (base.uuid, base.epoch));
        Error::Image {
            name: self.delta.name.clone(),
            source: FormatError::WrongBase {
                field: "division into chunks",
                uuid,
                epoch,
            },
        }
    }
}

impl Source for Layers<'_> {
    type Item = Taken;

    fn take(&mut self, chunk: &mut Vec<u8>) -> Result<Option<Taken>, Error> {
        let index = self.next;
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(secret) = self.delta.secrets.get(place) else {
            return Ok(None);
        };
        self.next += 1;
        let own = |image: &Indexed, index, chunk: &mut Vec<u8>| {
            image.read(index, chunk).map_err(|source| Error::Image {
                name: image.name.clone(),
                source,
            })
        };
        if own(self.delta, index, chunk)? {
            return Ok(Some(Taken {
                index,
                layer: 0,
                origin: index,
                expected: None,
            }));
        }
        let (layer, origin) = self.chain.find(&secret.layout).ok_or_else(|| self.lost())?;
        let image = self.chain.images().get(layer).ok_or_else(|| self.lost())?;
        own(image, origin, chunk)?;
        Ok(Some(Taken {
            index,
            layer: layer + 1,
            origin,
            expected: Some(secret.clone()),
        }))
    }

    fn check(&mut self, roots: &[(u32, Cv)]) -> Result<(), Error> {
        check_roots(&self.delta.index.manifest, roots).map_err(|source| Error::Image {
            name: self.delta.name.clone(),
            source,
        })
    }
}

/// Opens chunks and seals them again.
pub(crate) struct Resealer<'a> {
    /// Names for messages: of the image, then of its bases.
    names: &'a [String],
    /// Of the image; it knows the plain hashes of the chunks that come from a base.
    context: Arc<Context>,
    openers: Vec<Opener>,
    sealer: Sealer,
    to: To<'a>,
    data: Vec<u8>,
}

/// What the new image is.
#[derive(Clone, Copy)]
pub(crate) enum To<'a> {
    /// A full image, with all chunks.
    Full,
    /// A delta: what this image holds is left out.
    Delta(&'a Indexed),
    /// The delta that it was: what came from a base is left out.
    SameDelta,
}

impl<'a> Resealer<'a> {
    /// Opens chunks with `contexts`, the image's first, then those of its bases, which have these `names`.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn new(
        names: &'a [String],
        contexts: &[Arc<Context>],
        sealer: Sealer,
        to: To<'a>,
    ) -> Result<Self, Failure> {
        let openers = contexts
            .iter()
            .map(|context| Opener::new(Arc::clone(context)))
            .collect::<Result<_, _>>()?;
        let context = contexts.first().map(Arc::clone);
        let missing = || Failure::new(Exit::Internal, "no image to read");
        Ok(Self {
            names,
            context: context.ok_or_else(missing)?,
            openers,
            sealer,
            to,
            data: Vec::new(),
        })
    }
}

impl Resealer<'_> {
    /// Opens a chunk and checks that it is the expected one; returns its layout and root.
    fn open(&mut self, taken: &Taken, chunk: &mut [u8]) -> Result<(Layout, Cv), FormatError> {
        let part = Part::Chunk(taken.index);
        let opener = self.openers.get_mut(taken.layer);
        let opener = opener.ok_or(FormatError::NotInManifest { part })?;
        let mut layout = Layout::default();
        let verified = opener.open(taken.origin, chunk, u64::MAX, &mut layout, &mut self.data)?;
        if let Some(expected) = &taken.expected
            && (layout != expected.layout
                || self.context.plain_hash(&layout, &self.data)? != expected.plain_hash)
        {
            return Err(FormatError::PlainHash { part });
        }
        Ok((layout, verified.root))
    }
}

impl Maker for Resealer<'_> {
    type Item = Taken;

    fn make(
        &mut self,
        taken: Taken,
        chunk: &mut Vec<u8>,
        out: &mut Vec<u8>,
        _watch: &mut Watch<'_>,
    ) -> Result<Made, Error> {
        let (layout, root) = self.open(&taken, chunk).map_err(|source| {
            let name = self.names.get(taken.layer).cloned().unwrap_or_default();
            Error::Image { name, source }
        })?;
        let (index, span) = (taken.index, layout.span);
        let from_base = taken.layer > 0;
        let mut made = match self.to {
            To::SameDelta if from_base => {
                out.clear();
                Made {
                    index,
                    sealed: self.sealer.leave_out(layout, &self.data)?,
                    span,
                    data_bytes: self.data.len() as u64,
                    root: None,
                }
            }
            To::Full | To::SameDelta | To::Delta(_) => {
                let base = match self.to {
                    To::Delta(base) => Some(base),
                    To::Full | To::SameDelta => None,
                };
                let piece = Piece { index, layout };
                seal(&mut self.sealer, base, piece, &self.data, out)?
            }
        };
        made.root = Some((index, root)).filter(|_| !from_base);
        Ok(made)
    }
}
