//! Which announced image is accepted, and what its manifest says.

use std::sync::{Arc, mpsc};

use chunkfmt::{HEADER_SIZE, Manifest, ManifestHead, Trust};
use frisbee_cli::Failure;
use frisbee_proto::{Admission, Admitted, ObjectInfo};
use uuid::Uuid;

use crate::receiver::Message;

/// A manifest whose head an owner has signed, and whose body has the root that the head names.
pub(crate) struct Accepted {
    pub(crate) manifest: Manifest,
    /// The image header's bytes; its own signature is not checked yet.
    pub(crate) header: Vec<u8>,
}

/// What the operator accepts.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) trust: Arc<Trust>,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) min_epoch: u64,
}

impl Wanted {
    fn judge(&self, block: &[u8]) -> Result<ManifestHead, Failure> {
        let head = ManifestHead::parse(block)?;
        let refuse = |why: String| Err(Failure::new(frisbee_cli::Exit::Verification, why));
        if self.uuid.is_some_and(|uuid| uuid != head.uuid()) {
            return refuse(format!("image {} is not the one asked for", head.uuid()));
        }
        if head.epoch() < self.min_epoch {
            return refuse(format!(
                "image {} has epoch {}, older than --min-epoch",
                head.uuid(),
                head.epoch()
            ));
        }
        head.verify(block, &self.trust)?;
        Ok(head)
    }
}

/// The judge that the protocol machine asks. Hands the manifest to the main thread.
pub(crate) struct Gate {
    wanted: Wanted,
    messages: mpsc::Sender<Message>,
    head: Option<ManifestHead>,
    /// Why the last announcement that was not accepted was not.
    pub(crate) refused: Option<Failure>,
}

impl Gate {
    pub(crate) fn new(wanted: Wanted, messages: mpsc::Sender<Message>) -> Self {
        Self {
            wanted,
            messages,
            head: None,
            refused: None,
        }
    }
}

impl Admission for Gate {
    fn admit(&mut self, block: &[u8; 1024]) -> Option<Admitted> {
        match self.wanted.judge(block) {
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
                self.refused = Some(why);
                None
            }
        }
    }

    fn open_manifest(&mut self, mut object0: Vec<u8>) -> Option<Vec<ObjectInfo>> {
        match Manifest::parse(self.head.take()?, &object0) {
            Ok((_, manifest)) => {
                object0.truncate(HEADER_SIZE);
                let entries = manifest.entries.iter();
                let objects = entries
                    .map(|entry| ObjectInfo {
                        blocks: entry.blocks,
                        root: entry.root,
                    })
                    .collect();
                let accepted = Box::new(Accepted {
                    manifest,
                    header: object0,
                });
                self.messages.send(Message::Manifest(accepted)).ok()?;
                Some(objects)
            }
            Err(error) => {
                self.refused = Some(error.into());
                None
            }
        }
    }
}
