//! What is to be installed: an image, and where the chunks come from that it leaves to its bases.

use std::collections::HashMap;
use std::sync::Arc;

use chunkfmt::{
    ChunkFormat, Context, Error, ImageHeader, PlainHash, SignatureAlgorithm, Span, Trust,
};
use frisbee_cli::Failure;
use frisbee_cli::policy::{Keys, LegacyKeys};
use imageunzip::{Contents, Format, Held, Legacy, Origin, Target, origin};

use crate::admission::Accepted;
use crate::install::{UNTOUCHED, refused};
use crate::receiver::Message;

/// An image of which the manifest is here.
pub(crate) struct Image {
    pub(crate) context: Arc<Context>,
    pub(crate) contents: Contents,
    /// What opens the chunks of an Emulab image.
    pub(crate) legacy: Option<Arc<Legacy>>,
}

impl Image {
    pub(crate) fn new(
        accepted: Accepted,
        trust: &Trust,
        keys: &Keys,
        legacy: LegacyKeys,
    ) -> Result<Self, Failure> {
        let header = ImageHeader::parse(&accepted.header)?;
        let is_legacy = header.chunk_format == ChunkFormat::Ndz;
        let unsigned = Trust::new(Vec::new(), true);
        let trust = match header.signature_algorithm() {
            // Accepted already, and its chunks prove themselves if that is asked for.
            SignatureAlgorithm::None if is_legacy => &unsigned,
            _ => trust,
        };
        let context = keys.context(&accepted.header, trust)?;
        let contents = Contents::new(&context, accepted.manifest)?;
        let legacy =
            is_legacy.then(|| Legacy::of_manifest(legacy, &contents.manifest, header.disk_sectors));
        Ok(Self {
            context: Arc::new(context),
            contents,
            legacy: legacy.map(Arc::new),
        })
    }

    pub(crate) fn format(&self, bases: &[Self]) -> Format {
        match &self.legacy {
            Some(legacy) => Format::Ndz(Arc::clone(legacy)),
            None => Format::Frz {
                context: Arc::clone(&self.context),
                bases: bases.iter().map(|base| Arc::clone(&base.context)).collect(),
                part: None,
            },
        }
    }

    /// The sectors that a chunk answers for.
    pub(crate) fn span(&self, index: u32) -> Span {
        let secret = self.contents.secret(index);
        secret.map(|secret| secret.layout.span).unwrap_or_default()
    }

    /// Judges an Emulab image by the first of its chunks: its manifest proves nothing, so the target waits for it.
    pub(crate) fn check_first(
        &self,
        first: Option<&Message>,
        target: &Target,
    ) -> Result<(), Failure> {
        let (Some(legacy), Some(Message::Chunk { index, bytes, .. })) = (&self.legacy, first)
        else {
            return Ok(());
        };
        let checked = legacy.check(*index, bytes, self.span(*index), &target.window());
        checked.map_err(|error| refused(*index, error, UNTOUCHED))
    }
}

/// Where the chunks come from that a delta leaves out.
#[derive(Default)]
pub(crate) struct Plan {
    /// What becomes of the chunks of the bases.
    pub(crate) uses: HashMap<Origin, (u32, PlainHash)>,
    /// Where a chunk of the image comes from, if from a base.
    pub(crate) origins: HashMap<u32, Origin>,
}

impl Plan {
    /// `held` is on the target already.
    pub(crate) fn new(image: &Image, bases: &[Image], held: &Held) -> Result<Self, Error> {
        let mut plan = Self::default();
        if bases.is_empty() {
            return Ok(plan);
        }
        for (index, secret) in image.contents.absent() {
            if held.has(index) {
                continue;
            }
            let contents = bases.iter().map(|base| &base.contents);
            let place = origin(contents, &secret.layout, &image.context)?;
            plan.uses.insert(place, (index, secret.plain_hash));
            plan.origins.insert(index, place);
        }
        Ok(plan)
    }

    /// The chunks of a base that are needed, sorted.
    pub(crate) fn needed(&self, layer: usize) -> Vec<u32> {
        let places = self.uses.keys().filter(|place| place.layer == layer);
        let mut needed: Vec<u32> = places.map(|place| place.index).collect();
        needed.sort_unstable();
        needed
    }
}
