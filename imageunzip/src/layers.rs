//! The image files that a delta is relative to.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use chunkfmt::{Context, Error, ImageHeader, ImageIndex, Layout, Trust};
use frisbee_cli::policy::Keys;
use frisbee_cli::{Exit, Failure, Interrupt};

use crate::contents::{Contents, Origin, origin};
use crate::source::check_file;

/// An image that a delta, or another base, leaves chunks to.
pub(crate) struct Base {
    name: String,
    file: File,
    index: ImageIndex,
    context: Arc<Context>,
    contents: Contents,
}

impl Base {
    /// Opens an image file and checks its header and manifest, not yet its chunks.
    pub(crate) fn open(path: &Path, trust: &Trust, keys: &Keys) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let named = |failure: Failure| failure.context(&name);
        let input = |error| named(Failure::new(Exit::Input, error));
        // Before it is opened: a named pipe would wait for a writer.
        if !fs::metadata(path).map_err(input)?.is_file() {
            let message = "is not a regular file: a base is not read in one pass";
            return Err(named(Failure::new(Exit::Input, message)));
        }
        let mut file = File::open(path).map_err(input)?;
        let mut read = || -> Result<_, Failure> {
            let index = ImageIndex::read(&mut file, Some(trust))?;
            let context = keys.context(&index.manifest_object, trust)?;
            let contents = Contents::new(&context, index.manifest.clone())?;
            Ok((index, context, contents))
        };
        let (index, context, contents) = read().map_err(named)?;
        Ok(Self {
            file,
            index,
            context: Arc::new(context),
            contents,
            name,
        })
    }
}

/// The bases of a delta, the nearest first; none for an image that stands alone.
#[derive(Default)]
pub(crate) struct Layers(Vec<Base>);

impl Layers {
    /// Puts `bases` into the order in which the image with this `header` names them.
    ///
    /// # Errors
    /// [`Error::BaseMissing`], [`Error::WrongBase`]; a base that does not belong there.
    pub(crate) fn new(header: &ImageHeader, mut bases: Vec<Base>) -> Result<Self, Failure> {
        let mut layers = Vec::new();
        let mut wanted = header.base;
        while let Some(base) = wanted {
            let (uuid, epoch) = (base.uuid, base.epoch);
            let place = bases
                .iter()
                .position(|found| found.index.header.uuid() == uuid);
            if bases.is_empty() {
                let missing = Failure::from(Error::BaseMissing { uuid, epoch });
                let last = layers.last().map(|base: &Base| &base.name);
                return Err(last.map_or(missing, |name| {
                    Failure::new(
                        Exit::Verification,
                        format!("base {name} is a delta too: name its base as well"),
                    )
                }));
            }
            // Without the right one, any of the wrong ones says best what is wrong.
            let found = bases.swap_remove(place.unwrap_or(0));
            base.check(header, &found.index.header, &found.index.manifest.digest)
                .map_err(|error| Failure::from(error).context(&found.name))?;
            wanted = found.index.header.base;
            layers.push(found);
        }
        match bases.first() {
            None => Ok(Self(layers)),
            Some(extra) => {
                let message = "the image is not relative to this one: leave this --base out";
                Err(Failure::new(Exit::Usage, message).context(&extra.name))
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What opens the chunks of each base.
    pub(crate) fn contexts(&self) -> Vec<Arc<Context>> {
        self.0
            .iter()
            .map(|base| Arc::clone(&base.context))
            .collect()
    }

    /// The files, to compare them with a target.
    pub(crate) fn files(&self) -> impl Iterator<Item = &File> {
        self.0.iter().map(|base| &base.file)
    }

    /// Checks all bases from beginning to end.
    pub(crate) fn check(
        &self,
        trust: &Trust,
        threads: usize,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        for base in &self.0 {
            check_file(&base.file, &base.context, trust, threads, interrupt)
                .map_err(|failure| failure.context(&base.name))?;
        }
        Ok(())
    }

    /// Where a chunk that a delta leaves out is.
    pub(crate) fn find(&self, layout: &Layout, context: &Context) -> Result<Origin, Error> {
        origin(self.0.iter().map(|base| &base.contents), layout, context)
    }

    /// Reads a chunk of a base into `chunk`.
    pub(crate) fn read(&self, origin: Origin, chunk: &mut Vec<u8>) -> Result<(), Failure> {
        let missing = || Failure::new(Exit::Internal, "a base has no such chunk");
        let base = self.0.get(origin.layer).ok_or_else(missing)?;
        let (offset, length) = base.index.chunk(origin.index).ok_or_else(missing)?;
        chunk.resize(length, 0);
        base.file
            .read_exact_at(chunk, offset)
            .map_err(|source| Failure::from(Error::Io { offset, source }).context(&base.name))
    }
}
