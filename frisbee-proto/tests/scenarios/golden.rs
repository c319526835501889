//! The images that are served: random bytes, and a client's trust in them.

use std::sync::Arc;

use chunkfmt::BLOCK_SIZE;
use frisbee_proto::{Admission, Admitted, Image, Loaded, ObjectInfo};

/// An image of random bytes.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    pub(crate) image: Image,
    pub(crate) objects: Vec<Arc<Loaded>>,
    pub(crate) bytes: Vec<Vec<u8>>,
}

impl Golden {
    /// With objects of these many blocks, object 0 first.
    pub(crate) fn new(blocks: &[u32], seed: u64) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x601d);
        let mut fill = |length: usize| {
            let mut bytes = vec![0; length];
            random.fill(&mut bytes);
            bytes
        };
        let head = fill(1024).try_into().unwrap();
        let uuid = fill(16).try_into().unwrap();
        let bytes: Vec<_> = blocks
            .iter()
            .map(|&blocks| fill(blocks as usize * BLOCK_SIZE))
            .collect();
        let load = |bytes: &Vec<u8>| Arc::new(Loaded::new(bytes.clone()).unwrap());
        let objects: Vec<_> = bytes.iter().map(load).collect();
        let infos = objects.iter().map(|object| object.info()).collect();
        let image = Image {
            uuid,
            head,
            objects: infos,
        };
        Arc::new(Self {
            image,
            objects,
            bytes,
        })
    }

    /// An ordinary image: `chunks` chunks of 513 to 2065 blocks, 32 MiB at 20 chunks.
    pub(crate) fn usual(chunks: usize, seed: u64) -> Arc<Self> {
        let sizes = [2065, 2049, 1200, 2065, 513, 1700];
        let blocks: Vec<u32> = std::iter::once(9)
            .chain(sizes.into_iter().cycle().take(chunks))
            .collect();
        Self::new(&blocks, seed)
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.image
            .objects
            .iter()
            .map(|info| u64::from(info.blocks))
            .sum()
    }
}

/// Admits the heads of these images and knows what their manifests say.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) images: Vec<Arc<Golden>>,
    pub(crate) admitted: Option<Arc<Golden>>,
}

impl Admission for Owner {
    fn admit(&mut self, head: &[u8; 1024]) -> Option<Admitted> {
        let golden = self
            .images
            .iter()
            .find(|golden| *head == *golden.image.head)?;
        self.admitted = Some(Arc::clone(golden));
        let object0 = golden.image.objects[0];
        Some(Admitted {
            uuid: golden.image.uuid,
            object_blocks: object0.blocks,
            object_root: object0.root,
        })
    }

    fn open_manifest(&mut self, object0: Vec<u8>) -> Option<Vec<ObjectInfo>> {
        let golden = self.admitted.as_ref()?;
        assert_eq!(object0, golden.bytes[0], "an unverified manifest");
        Some(golden.image.objects[1..].to_vec())
    }
}
