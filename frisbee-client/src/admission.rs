//! Which announced image is accepted, and what its manifest says.

use std::sync::{Arc, mpsc};

use chunkfmt::{
    ChunkFormat, Error, HEADER_SIZE, ImageHeader, Manifest, ManifestHead, SignatureAlgorithm, Trust,
};
use frisbee_cli::Failure;
use frisbee_cli::policy::{LegacyOptions, TrustOptions, Wanted};
use frisbee_proto::{Admission, Admitted, ObjectInfo};

use crate::receiver::Message;

/// A manifest whose head an owner has signed, and whose body has the root that the head names.
pub(crate) struct Accepted {
    pub(crate) manifest: Manifest,
    /// The image header's bytes; its own signature is not checked yet.
    pub(crate) header: Vec<u8>,
}

/// What the operator accepts.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) trust: Arc<Trust>,
    pub(crate) wanted: Wanted,
    pub(crate) owners: TrustOptions,
    pub(crate) legacy: LegacyOptions,
}

impl Policy {
    fn judge(&self, block: &[u8]) -> Result<ManifestHead, Error> {
        let head = ManifestHead::parse(block)?;
        self.wanted.check_head(&head)?;
        match head.verify(block, &self.trust) {
            // It may be an Emulab image with signed chunks, which only the image header tells.
            Err(Error::Unsigned) if self.legacy.demands_signature() => Ok(head),
            other => other.map(|()| head),
        }
    }

    /// Judges what the head does not tell.
    fn judge_header(&self, header: &ImageHeader) -> Result<(), Failure> {
        let unsigned = header.signature_algorithm() == SignatureAlgorithm::None;
        match header.chunk_format {
            ChunkFormat::Ndz if unsigned => self.legacy.accept(&self.owners),
            ChunkFormat::Ndz if !self.legacy.allow_legacy => Err(Error::Legacy.into()),
            ChunkFormat::Frz if unsigned && !self.owners.allow_unsigned => {
                Err(Error::Unsigned.into())
            }
            ChunkFormat::Ndz | ChunkFormat::Frz => Ok(()),
        }
    }
}

/// The judge that the protocol machine asks. Hands the manifest to the main thread.
pub(crate) struct Gate {
    policy: Policy,
    /// Which image: 0 is the one that is wanted, the others are its bases.
    layer: usize,
    messages: mpsc::Sender<Message>,
    /// The chunk that each object is, object 0 left out.
    pub(crate) chunks: Vec<u32>,
    head: Option<ManifestHead>,
    /// Why the last announcement that was not accepted was not.
    pub(crate) refused: Option<Failure>,
}

impl Gate {
    pub(crate) fn new(policy: Policy, layer: usize, messages: mpsc::Sender<Message>) -> Self {
        Self {
            policy,
            layer,
            messages,
            chunks: Vec::new(),
            head: None,
            refused: None,
        }
    }
}

impl Admission for Gate {
    fn admit(&mut self, block: &[u8; 1024]) -> Option<Admitted> {
        match self.policy.judge(block) {
            Ok(head) => {
                let admitted = Admitted {
                    uuid: head.uuid().into_bytes(),
                    object_blocks: head.object_blocks,
                    object_root: head.object_root,
                };
                self.head = Some(head);
                Some(admitted)
            }
            Err(why) => {
                self.refused = Some(why.into());
                None
            }
        }
    }

    fn open_manifest(&mut self, mut object0: Vec<u8>) -> Option<Arc<[ObjectInfo]>> {
        let parsed = Manifest::parse(self.head.take()?, &object0).map_err(Failure::from);
        let judged = parsed.and_then(|(header, manifest)| {
            self.policy.judge_header(&header)?;
            Ok(manifest)
        });
        match judged {
            Ok(manifest) => {
                object0.truncate(HEADER_SIZE);
                let present = manifest.present();
                let objects = present
                    .map(|(_, entry)| ObjectInfo::of_chunk(entry))
                    .collect();
                self.chunks = manifest.present().map(|(index, _)| index).collect();
                let accepted = Box::new(Accepted {
                    manifest,
                    header: object0,
                });
                let layer = self.layer;
                self.messages
                    .send(Message::Manifest(layer, accepted))
                    .ok()?;
                Some(objects)
            }
            Err(why) => {
                self.refused = Some(why);
                None
            }
        }
    }
}
