//! The images that are served, random bytes, and a client's trust in them.

use std::sync::Arc;

use chunkfmt::BLOCK_SIZE;
use chunkfmt::parity::usual_count;
use frisbee_proto::{Admission, Admitted, Image, Loaded, ObjectInfo, Parity};

/// An image of random bytes.
#[derive(Clone, Debug)]
pub struct Golden {
    /// What a server serves.
    pub image: Image,
    /// Its objects as the server reads them.
    pub objects: Vec<Arc<Loaded>>,
    /// Their bytes; those of the last one are those of all that follow.
    pub bytes: Vec<Vec<u8>>,
    /// Their parity blocks, computed once for all servers.
    pub(crate) parity: Vec<Option<Arc<Parity>>>,
}

impl Golden {
    /// With objects of these many blocks, object 0 first, and the usual parity.
    ///
    /// # Panics
    /// If an object has no blocks, or more than the format allows.
    pub fn new(blocks: &[u32], seed: u64) -> Arc<Self> {
        Self::with_parity(blocks, seed, usual_count)
    }

    /// As [`Golden::new`], without parity.
    ///
    /// # Panics
    /// As [`Golden::new`].
    pub fn without_parity(blocks: &[u32], seed: u64) -> Arc<Self> {
        Self::with_parity(blocks, seed, |_| 0)
    }

    /// As [`Golden::new`]; `parity` says how many parity blocks a chunk of so many blocks has.
    ///
    /// # Panics
    /// As [`Golden::new`].
    pub fn with_parity(blocks: &[u32], seed: u64, parity: impl Fn(u32) -> u32) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x601d);
        let mut head = Box::new([0; 1024]);
        random.fill(&mut *head);
        let mut uuid = [0; 16];
        random.fill(&mut uuid);
        let mut golden = Self {
            image: Image {
                uuid,
                head,
                objects: Vec::new(),
            },
            objects: Vec::new(),
            bytes: Vec::new(),
            parity: Vec::new(),
        };
        for (object, &blocks) in blocks.iter().enumerate() {
            let mut bytes = vec![0; blocks as usize * BLOCK_SIZE];
            random.fill(&mut bytes);
            let count = if object == 0 { 0 } else { parity(blocks) };
            golden.push(bytes, count);
        }
        Arc::new(golden)
    }

    /// An ordinary image: `chunks` chunks of 513 to 2065 blocks, 32 MiB at 20 chunks.
    ///
    /// # Panics
    /// Never.
    pub fn usual(chunks: usize, seed: u64) -> Arc<Self> {
        Self::new(&usual_sizes(chunks), seed)
    }

    /// `chunks` chunks of `blocks` blocks with the usual parity. All have the same bytes, which are kept once.
    ///
    /// # Panics
    /// As [`Golden::new`].
    pub fn uniform(chunks: usize, blocks: u32, seed: u64) -> Arc<Self> {
        // The manifest has some hundred bytes for each chunk.
        let manifest = 1 + u32::try_from(chunks / 8).unwrap_or(u32::MAX - 1);
        let one = Self::new(&[manifest, blocks], seed);
        let mut golden = Arc::unwrap_or_clone(one);
        let (info, loaded) = (golden.image.objects[1], Arc::clone(&golden.objects[1]));
        golden.image.objects.resize(1 + chunks, info);
        golden.objects.resize(1 + chunks, loaded);
        let parity = golden.parity[1].clone();
        golden.parity.resize(1 + chunks, parity);
        Arc::new(golden)
    }

    /// Blocks of all objects.
    pub fn blocks(&self) -> u64 {
        let blocks = |info: &ObjectInfo| u64::from(info.blocks);
        self.image.objects.iter().map(blocks).sum()
    }

    /// The bytes of an object, if there is one.
    pub fn object(&self, object: u32) -> Option<&[u8]> {
        let place = usize::try_from(object).ok()?;
        let known = place < self.objects.len();
        let bytes = self.bytes.get(place).or(self.bytes.last());
        bytes.filter(|_| known).map(Vec::as_slice)
    }

    /// Blocks of its largest object.
    pub fn largest(&self) -> u32 {
        let blocks = self.image.objects.iter().map(|info| info.blocks);
        blocks.max().unwrap_or(0)
    }

    /// Number of the last object.
    pub fn last(&self) -> u32 {
        u32::try_from(self.objects.len()).map_or(u32::MAX, |count| count.saturating_sub(1))
    }

    #[allow(clippy::expect_used, reason = "documented")]
    fn push(&mut self, bytes: Vec<u8>, parity: u32) {
        let loaded = Loaded::new(bytes.clone()).expect("an object has blocks");
        let parity = u16::try_from(parity).ok().filter(|&count| count > 0);
        let parity = parity.and_then(|count| Parity::of(&loaded, count));
        self.image.objects.push(ObjectInfo {
            parity: parity.as_ref().map(Parity::info),
            ..loaded.info()
        });
        self.objects.push(Arc::new(loaded));
        self.bytes.push(bytes);
        self.parity.push(parity.map(Arc::new));
    }

    /// What its head says to whoever trusts it.
    pub(crate) fn admitted(&self) -> Admitted {
        let object0 = self.image.objects[0];
        Admitted {
            uuid: self.image.uuid,
            object_blocks: object0.blocks,
            object_root: object0.root,
        }
    }
}

/// Blocks of the objects of an ordinary image.
pub fn usual_sizes(chunks: usize) -> Vec<u32> {
    let sizes = [2065, 2049, 1200, 2065, 513, 1700];
    let chunks = sizes.into_iter().cycle().take(chunks);
    std::iter::once(9).chain(chunks).collect()
}

/// Admits the heads of these images and knows what their manifests say.
#[derive(Debug)]
pub struct Owner {
    images: Vec<Arc<Golden>>,
    admitted: Option<Arc<Golden>>,
}

impl Owner {
    /// Of these images.
    pub fn new(images: Vec<Arc<Golden>>) -> Self {
        Self {
            images,
            admitted: None,
        }
    }
}

impl Admission for Owner {
    fn admit(&mut self, head: &[u8; 1024]) -> Option<Admitted> {
        let mut images = self.images.iter();
        let golden = images.find(|golden| *head == *golden.image.head)?;
        self.admitted = Some(Arc::clone(golden));
        Some(golden.admitted())
    }

    fn open_manifest(&mut self, object0: Vec<u8>) -> Option<Arc<[ObjectInfo]>> {
        // A manifest that was not verified is refused, and a room has none that may be.
        let golden = self.admitted.as_ref()?;
        (object0 == golden.bytes[0]).then(|| golden.image.objects[1..].into())
    }
}
