//! What an image consists of, and for a delta, where the chunks are that it leaves out.

use chunkfmt::{ChunkSecret, Context, Error, Layout, Manifest};
use frisbee_cli::{Exit, Failure, Interrupt};

use crate::Target;
use crate::compare::differing;

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

    /// Bytes of disk data in the chunks that the image leaves to its base.
    pub fn absent_bytes(&self, sector_size: u32) -> u64 {
        self.absent()
            .map(|(_, secret)| secret.layout.data_sectors() * u64::from(sector_size))
            .sum()
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

    /// Checks that a disk holds what this delta leaves out, and keeps what of it would be wiped at first.
    ///
    /// # Errors
    /// If the disk holds something else, or cannot be read.
    pub fn hold_on(
        &self,
        target: &mut Target,
        context: &Context,
        threads: usize,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let absent: Vec<u32> = self.absent().map(|(index, _)| index).collect();
        let Some(disk) = target.existing() else {
            return Err(base_missing(context).into());
        };
        let wrong = differing(
            disk,
            context,
            &self.secrets,
            &absent,
            threads,
            interrupt,
            &|_| {},
        )?;
        if let Some(first) = wrong.first().and_then(|&index| self.secret(index)) {
            let message = format!(
                "{} does not hold the base of this delta: {} of {} chunks differ, the first at sector {}: install the base as well",
                target.path().display(),
                wrong.len(),
                absent.len(),
                first.layout.span.first,
            );
            return Err(Failure::new(Exit::Verification, message));
        }
        target.retain(self.absent().map(|(_, secret)| &secret.layout))?;
        Ok(())
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
