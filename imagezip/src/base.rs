//! The images that a delta is relative to, and which chunks they hold.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use chunkfmt::{Base, ChunkSecret, Context, Error, ImageHeader, ImageIndex, Layout};
use frisbee_cli::{Exit, Failure};

use crate::inputs::Access;

/// An image file that is read by its index.
pub(crate) struct Indexed {
    /// The name for messages.
    pub(crate) name: String,
    /// Header, manifest, and where the chunks are.
    pub(crate) index: ImageIndex,
    /// What opens its chunks.
    pub(crate) context: Arc<Context>,
    /// Layouts and plain hashes of its chunks.
    pub(crate) secrets: Vec<ChunkSecret>,
    file: File,
}

impl Indexed {
    /// Opens an image file and checks its header and manifest, not its chunks.
    ///
    /// # Errors
    /// What is wrong with it, with its owner, or the key.
    pub(crate) fn open(path: &Path, access: &Access) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let named = |failure: Failure| failure.context(&name);
        let io = |error| named(Failure::new(Exit::Input, error));
        // Before it is opened: a named pipe would wait for a writer.
        if !fs::metadata(path).map_err(io)?.is_file() {
            let message = "is not a regular file: bases and deltas are not read in one pass";
            return Err(named(Failure::new(Exit::Input, message)));
        }
        let mut file = File::open(path).map_err(io)?;
        let index = ImageIndex::read(&mut file, Some(&access.trust))
            .map_err(|error| named(error.into()))?;
        let context = access.context(&index.manifest_object).map_err(named)?;
        let secrets = context
            .secrets(&index.manifest)
            .map_err(|error| named(error.into()))?;
        Ok(Self {
            name,
            index,
            context: Arc::new(context),
            secrets,
            file,
        })
    }

    /// How a delta names it.
    pub(crate) fn as_base(&self) -> Base {
        Base {
            uuid: self.index.header.uuid(),
            epoch: self.index.header.epoch(),
            manifest: self.index.manifest.digest,
        }
    }

    /// Bytes of disk data in all chunks, also those that a delta leaves out.
    pub(crate) fn plain_bytes(&self) -> u64 {
        let sectors = self
            .secrets
            .iter()
            .map(|secret| secret.layout.data_sectors());
        sectors.sum::<u64>() * u64::from(self.index.header.sector_size)
    }

    /// The chunk with exactly this layout, be it in this image or in its own bases.
    fn find(&self, layout: &Layout) -> Option<(u32, &ChunkSecret)> {
        let place = self
            .secrets
            .binary_search_by_key(&layout.span.first, |secret| secret.layout.span.first)
            .ok()?;
        let secret = self.secrets.get(place)?;
        let index = u32::try_from(place).ok()?;
        (secret.layout == *layout).then_some((index, secret))
    }

    /// Whether the image, or one that it is a delta to, holds exactly this chunk.
    ///
    /// # Errors
    /// [`Error::Limit`] for a layout that cannot be written.
    pub(crate) fn holds(&self, layout: &Layout, data: &[u8]) -> Result<bool, Error> {
        match self.find(layout) {
            Some((_, secret)) => Ok(self.context.plain_hash(layout, data)? == secret.plain_hash),
            None => Ok(false),
        }
    }

    /// Reads the chunk with this index into `chunk`; `false` if a delta leaves it out.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub(crate) fn read(&self, index: u32, chunk: &mut Vec<u8>) -> Result<bool, Error> {
        let Some((offset, length)) = self.index.chunk(index) else {
            return Ok(false);
        };
        chunk.resize(length, 0);
        self.file
            .read_exact_at(chunk, offset)
            .map_err(|source| Error::Io { offset, source })?;
        Ok(true)
    }
}

/// The bases of a delta, the nearest first, without a gap down to an image that stands alone.
pub(crate) struct Chain(Vec<Indexed>);

impl Chain {
    /// Opens the images at `paths`; the last one is the nearest base.
    ///
    /// # Errors
    /// What is wrong with one of them, or that they do not belong together.
    pub(crate) fn open(
        paths: &[impl AsRef<Path>],
        access: &Access,
    ) -> Result<Option<Self>, Failure> {
        let mut images = open_all(paths, access)?;
        let Some(nearest) = images.pop() else {
            return Ok(None);
        };
        let mut chain = Self::below(&nearest.index.header, images)?;
        chain.0.insert(0, nearest);
        Ok(Some(chain))
    }

    /// Opens the images at `paths` as the bases of the delta with this header, in any order.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_below(
        header: &ImageHeader,
        paths: &[impl AsRef<Path>],
        access: &Access,
    ) -> Result<Self, Failure> {
        Self::below(header, open_all(paths, access)?)
    }

    fn below(header: &ImageHeader, mut images: Vec<Indexed>) -> Result<Self, Failure> {
        let mut chain = Vec::new();
        let mut wanted = header.base;
        while let Some(base) = wanted {
            let (uuid, epoch) = (base.uuid, base.epoch);
            let same = |found: &Indexed| found.index.header.uuid() == uuid;
            let Some(place) = images.iter().position(same) else {
                return Err(match images.first() {
                    Some(other) => {
                        let field = "UUID";
                        Failure::from(Error::WrongBase { field, uuid, epoch }).context(&other.name)
                    }
                    None => Error::BaseMissing { uuid, epoch }.into(),
                });
            };
            let found = images.swap_remove(place);
            let field = match found.as_base() {
                other if other.epoch != epoch => Some("epoch"),
                other if other.manifest != base.manifest => Some("manifest digest"),
                _ if !same_disk(&found.index.header, header) => Some("disk size"),
                _ => None,
            };
            if let Some(field) = field {
                let error = Error::WrongBase { field, uuid, epoch };
                return Err(Failure::from(error).context(&found.name));
            }
            wanted = found.index.header.base;
            chain.push(found);
        }
        match images.first() {
            None => Ok(Self(chain)),
            Some(extra) => {
                let message = "no other image here is relative to this one: leave this --base out, or name the newest \
                               image last";
                Err(Failure::new(Exit::Usage, message).context(&extra.name))
            }
        }
    }

    /// The image that the delta names.
    pub(crate) fn nearest(&self) -> Option<&Indexed> {
        self.0.first()
    }

    /// All images, the nearest first.
    pub(crate) fn images(&self) -> &[Indexed] {
        &self.0
    }

    /// Where a chunk with this layout is, that a delta leaves out: which base, and its index there.
    pub(crate) fn find(&self, layout: &Layout) -> Option<(usize, u32)> {
        for (layer, image) in self.0.iter().enumerate() {
            let (index, _) = image.find(layout)?;
            if image.index.chunk(index).is_some() {
                return Some((layer, index));
            }
        }
        None
    }

    /// Checks that the disk of a new delta is as large as that of the base.
    ///
    /// # Errors
    /// Which of both sizes differs.
    pub(crate) fn check_disk(&self, sector_size: u32, disk_sectors: u64) -> Result<(), Failure> {
        let Some(base) = self.nearest() else {
            return Ok(());
        };
        let header = &base.index.header;
        if (header.sector_size, header.disk_sectors) == (sector_size, disk_sectors) {
            return Ok(());
        }
        let message = format!(
            "is of a disk of {} sectors of {} bytes, this one has {disk_sectors} of {sector_size}: make a full image, \
             without --base",
            header.disk_sectors, header.sector_size
        );
        Err(Failure::new(Exit::Input, message).context(&base.name))
    }
}

fn open_all(paths: &[impl AsRef<Path>], access: &Access) -> Result<Vec<Indexed>, Failure> {
    paths
        .iter()
        .map(|path| Indexed::open(path.as_ref(), access))
        .collect()
}

fn same_disk(one: &ImageHeader, other: &ImageHeader) -> bool {
    (one.sector_size, one.disk_sectors) == (other.sector_size, other.disk_sectors)
}
