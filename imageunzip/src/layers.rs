//! A delta and the images that it is relative to: where each chunk of the disk comes from.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use chunkfmt::{ChunkSecret, ContentKey, Context, Error, ImageHeader, ImageIndex, Layout, Trust};
use frisbee_cli::{Exit, Failure, Interrupt};

use crate::source::check_file;

/// An image that a delta, or another base, leaves chunks to.
pub(crate) struct Base {
    name: String,
    file: File,
    index: ImageIndex,
    context: Arc<Context>,
    secrets: Vec<ChunkSecret>,
}

impl Base {
    /// Opens an image file and checks its header and manifest, not yet its chunks.
    pub(crate) fn open(path: &Path, trust: &Trust, keys: &[ContentKey]) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let named = |failure: Failure| failure.context(&name);
        let mut file = File::open(path).map_err(|error| named(Failure::new(Exit::Input, error)))?;
        let read = || -> Result<_, Error> {
            let index = ImageIndex::read(&mut file, Some(trust))?;
            let context = Context::new(&index.manifest_object, trust, keys)?;
            let secrets = context.secrets(&index.manifest)?;
            Ok((index, context, secrets))
        };
        let (index, context, secrets) = { read }().map_err(|error| named(error.into()))?;
        Ok(Self {
            file,
            index,
            context: Arc::new(context),
            secrets,
            name,
        })
    }

    /// The chunk with exactly this layout.
    fn find(&self, layout: &Layout) -> Option<u32> {
        let place = self
            .secrets
            .binary_search_by_key(&layout.span.first, |secret| secret.layout.span.first)
            .ok()?;
        let same = self.secrets.get(place)?.layout == *layout;
        u32::try_from(place).ok().filter(|_| same)
    }
}

/// The bases of a delta, the nearest first; none for an image that stands alone.
#[derive(Default)]
pub(crate) struct Layers(Vec<Base>);

/// A chunk of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Which base, 0 is the nearest.
    pub(crate) layer: usize,
    /// The chunk's index there.
    pub(crate) index: u32,
}

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
            let Some(place) = bases
                .iter()
                .position(|found| found.index.header.uuid() == uuid)
            else {
                if let [other, ..] = &bases[..] {
                    let field = "UUID";
                    let error = Error::WrongBase { field, uuid, epoch };
                    return Err(Failure::from(error).context(&other.name));
                }
                return Err(Error::BaseMissing { uuid, epoch }.into());
            };
            let found = bases.swap_remove(place);
            let field = if found.index.header.epoch() != epoch {
                Some("epoch")
            } else if found.index.manifest.digest != base.manifest {
                Some("manifest digest")
            } else if (
                found.index.header.disk_sectors,
                found.index.header.sector_size,
            ) != (header.disk_sectors, header.sector_size)
            {
                Some("disk size")
            } else {
                None
            };
            if let Some(field) = field {
                let error = Error::WrongBase { field, uuid, epoch };
                return Err(Failure::from(error).context(&found.name));
            }
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
    ///
    /// # Errors
    /// [`Error::WrongBase`] if no base has it, although the manifests fit each other.
    pub(crate) fn find(&self, layout: &Layout, header: &ImageHeader) -> Result<Origin, Error> {
        for (layer, base) in self.0.iter().enumerate() {
            let Some(index) = base.find(layout) else {
                break;
            };
            if base.index.chunk(index).is_some() {
                return Ok(Origin { layer, index });
            }
        }
        let (uuid, epoch) = header
            .base
            .map_or_else(Default::default, |base| (base.uuid, base.epoch));
        Err(Error::WrongBase {
            field: "division into chunks",
            uuid,
            epoch,
        })
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
