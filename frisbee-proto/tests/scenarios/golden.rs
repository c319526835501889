//! The images that are served: random bytes, and a client's trust in them.

use std::sync::Arc;

use chunkfmt::BLOCK_SIZE;
use chunkfmt::parity::usual_count;
use frisbee_proto::{Admission, Admitted, Image, Loaded, ObjectInfo, Parity};

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
        Self::make(blocks, seed, true)
    }

    /// As [`Golden::new`], without parity.
    pub(crate) fn without_parity(blocks: &[u32], seed: u64) -> Arc<Self> {
        Self::make(blocks, seed, false)
    }

    fn make(blocks: &[u32], seed: u64, with_parity: bool) -> Arc<Self> {
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
        let mut infos: Vec<ObjectInfo> = objects.iter().map(|object| object.info()).collect();
        for (info, object) in infos.iter_mut().zip(&objects).skip(1) {
            let count = u16::try_from(usual_count(info.blocks)).unwrap();
            info.parity = Parity::of(object, count)
                .filter(|_| with_parity)
                .map(|parity| parity.info());
        }
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
        Self::new(&usual_sizes(chunks), seed)
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.image
            .objects
            .iter()
            .map(|info| u64::from(info.blocks))
            .sum()
    }
}

/// Blocks of the objects of an ordinary image.
pub(crate) fn usual_sizes(chunks: usize) -> Vec<u32> {
    let sizes = [2065, 2049, 1200, 2065, 513, 1700];
    let chunks = sizes.into_iter().cycle().take(chunks);
    std::iter::once(9).chain(chunks).collect()
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

    fn open_manifest(&mut self, object0: Vec<u8>) -> Option<Arc<[ObjectInfo]>> {
        let golden = self.admitted.as_ref()?;
        assert_eq!(object0, golden.bytes[0], "an unverified manifest");
        Some(golden.image.objects[1..].into())
    }
}
