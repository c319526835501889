//! What an image consists of, what of it a disk holds already, and where the chunks are that a delta leaves out.

use chunkfmt::{ChunkFormat, ChunkSecret, Context, Error, Layout, Manifest, relocation};
use frisbee_cli::{Exit, Failure, Interrupt};

use crate::Target;
use crate::compare::Comparison;

/// A manifest with its private part.
#[derive(Debug)]
pub struct Contents {
    /// The manifest.
    pub manifest: Manifest,
    /// Its private part: a line for each entry.
    pub secrets: Vec<ChunkSecret>,
}

/// A chunk of one of a delta's bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Which base, 0 is the nearest.
    pub layer: usize,
    /// The chunk's index there.
    pub index: u32,
}

impl Contents {
    /// Opens the private part of a manifest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(context: &Context, manifest: Manifest) -> Result<Self, Error> {
        let secrets = context.secrets(&manifest)?;
        Ok(Self { manifest, secrets })
    }

    /// What the private part says of a chunk.
    pub fn secret(&self, index: u32) -> Option<&ChunkSecret> {
        self.secrets.get(usize::try_from(index).ok()?)
    }

    /// Whether the image has this chunk itself.
    pub fn is_present(&self, index: u32) -> bool {
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.manifest.entries.get(index));
        entry.is_some_and(chunkfmt::ChunkEntry::is_present)
    }

    /// The chunks that the image leaves to its base.
    pub fn absent(&self) -> impl Iterator<Item = (u32, &ChunkSecret)> {
        let lines = self.manifest.entries.iter().zip(&self.secrets);
        (0..)
            .zip(lines)
            .filter_map(|(index, (entry, secret))| (!entry.is_present()).then_some((index, secret)))
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

    /// Finds the chunks that a target holds already, and keeps what of them would be wiped at first: those that a delta
    /// leaves out if it is to be installed without its base, and with `reuse` all others too.
    ///
    /// # Errors
    /// If the base is needed and the target holds something else, or it cannot be read.
    pub fn find_on(
        &self,
        target: &mut Target,
        image: &Image<'_>,
        reuse: bool,
        interrupt: &Interrupt,
        advance: &(impl Fn(u64) + Sync),
    ) -> Result<Held, Failure> {
        let needs_base = image.context.header().base.is_some() && !image.with_bases;
        let Some(disk) = target.existing() else {
            return match needs_base {
                true => Err(base_missing(image.context).into()),
                false => Ok(Held::default()),
            };
        };
        // Emulab images have no plain hashes.
        let reuse = reuse && image.context.header().chunk_format == ChunkFormat::Frz;
        let can_be_kept = |secret: &ChunkSecret| {
            // Relocations made something else of it.
            let mut relocations = secret.layout.relocations.iter();
            relocations.all(|relocation| relocation.kind == relocation::UNREADABLE)
        };
        let is_needed = |index: u32| needs_base && !self.is_present(index);
        let which: Vec<u32> = (0..)
            .zip(&self.secrets)
            .filter(|&(index, secret)| is_needed(index) || (reuse && can_be_kept(secret)))
            .map(|(index, _)| index)
            .collect();
        if which.is_empty() {
            return Ok(Held::default());
        }
        let disk = disk.map_err(|error| Failure::new(Exit::Io, error))?;
        let comparison = Comparison {
            disk: &disk,
            context: image.context,
            secrets: &self.secrets,
            threads: image.threads,
            interrupt,
            unreadable_differs: reuse,
        };
        let wrong = comparison.differing(&which, advance)?;
        let missing: Vec<u32> = wrong.iter().copied().filter(|&at| is_needed(at)).collect();
        if let Some(first) = missing.first().and_then(|&index| self.secret(index)) {
            let message = format!(
                "{} does not hold the base of this delta: {} of {} chunks differ, the first at sector {}: install the base as well",
                target.path().display(),
                missing.len(),
                self.absent().count(),
                first.layout.span.first,
            );
            return Err(Failure::new(Exit::Verification, message));
        }
        let mut held = Held {
            chunks: vec![false; self.secrets.len()],
            ..Held::default()
        };
        let sector_size = u64::from(image.context.header().sector_size);
        for index in which {
            let place = usize::try_from(index).unwrap_or(usize::MAX);
            let kept = held.chunks.get_mut(place).zip(self.secrets.get(place));
            if let Some((kept, secret)) = kept.filter(|_| wrong.binary_search(&index).is_err()) {
                *kept = true;
                held.count += 1;
                held.bytes += secret.layout.data_sectors() * sector_size;
            }
        }
        let layouts = (0..)
            .zip(&self.secrets)
            .filter(|&(index, _)| held.has(index))
            .map(|(_, secret)| &secret.layout);
        target.retain(layouts)?;
        Ok(held)
    }

    /// Bytes of disk data in the chunks that are not held.
    pub fn bytes_without(&self, held: &Held, sector_size: u32) -> u64 {
        let all: u64 = self
            .secrets
            .iter()
            .map(|secret| secret.layout.data_sectors())
            .sum();
        (all * u64::from(sector_size)).saturating_sub(held.bytes)
    }
}

/// An image that is to be installed.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// Opens it.
    pub context: &'a Context,
    /// What a delta leaves out comes from its bases.
    pub with_bases: bool,
    /// Number of threads to hash the target with.
    pub threads: usize,
}

/// The chunks of an image that a target holds already.
#[derive(Clone, Debug, Default)]
pub struct Held {
    chunks: Vec<bool>,
    /// How many they are.
    pub count: u32,
    /// Bytes of disk data in them.
    pub bytes: u64,
}

impl Held {
    /// Whether the target holds this chunk.
    pub fn has(&self, index: u32) -> bool {
        let place = usize::try_from(index).ok();
        place
            .and_then(|place| self.chunks.get(place))
            .is_some_and(|&held| held)
    }
}

/// What to say of a delta without its base.
fn base_missing(context: &Context) -> Error {
    let base = context.header().base;
    let (uuid, epoch) = base.map_or_else(Default::default, |base| (base.uuid, base.epoch));
    Error::BaseMissing { uuid, epoch }
}

/// Where a chunk is that a delta leaves out; `bases` are in order, the nearest first.
///
/// # Errors
/// [`Error::WrongBase`] if no base has it, although each names the next.
pub fn origin<'a>(
    bases: impl IntoIterator<Item = &'a Contents>,
    layout: &Layout,
    context: &Context,
) -> Result<Origin, Error> {
    for (layer, base) in bases.into_iter().enumerate() {
        let Some(index) = base.find(layout) else {
            break;
        };
        if base.is_present(index) {
            return Ok(Origin { layer, index });
        }
    }
    let base = context.header().base;
    let (uuid, epoch) = base.map_or_else(Default::default, |base| (base.uuid, base.epoch));
    Err(Error::WrongBase {
        field: "division into chunks",
        uuid,
        epoch,
    })
}
