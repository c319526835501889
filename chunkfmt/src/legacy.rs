//! Header and manifest for an Emulab image, made so that it can be served as it is (docs/FORMAT.md, section 14).
//!
//! They are not signed: they say what a server has, and nothing of whether it is what somebody wanted to be installed.

use crate::cipher::ImageKeys;
use crate::manifest::Line;
use crate::tree::Cv;
use crate::{
    BLOCK_SIZE, ChunkEntry, ChunkFormat, ChunkSecret, Codec, Error, ImageHeader, ImageIndex,
    Layout, Manifest, ManifestHead, NDZ_CHUNK_BLOCKS, Span,
};

/// Bytes of a sector in Emulab images.
const SECTOR_SIZE: u32 = 512;

/// Bytes of a chunk of an Emulab image.
const CHUNK_BYTES: usize = NDZ_CHUNK_BLOCKS as usize * BLOCK_SIZE;

/// The chunks of an Emulab image, taken in order. Whether they are valid is the caller's to check.
#[derive(Debug, Default)]
pub struct LegacyIndex {
    chunks: Vec<(ChunkEntry, ChunkSecret)>,
    sectors: u64,
    plain_bytes: u64,
}

impl LegacyIndex {
    /// Takes the next chunk, 1 MiB, with the sectors that it answers for and the bytes of disk data in it.
    pub fn add(&mut self, chunk: &[u8], span: Span, plain_bytes: u64) {
        let entry = ChunkEntry {
            blocks: NDZ_CHUNK_BLOCKS,
            root: *blake3::hash(chunk).as_bytes(),
            ..ChunkEntry::default()
        };
        let secret = ChunkSecret {
            plain_hash: [0; 32],
            layout: Layout::new(span, Vec::new()),
        };
        self.chunks.push((entry, secret));
        self.sectors = self.sectors.max(span.end());
        self.plain_bytes = self.plain_bytes.saturating_add(plain_bytes);
    }

    /// The roots of the chunks, in their order.
    pub fn roots(&self) -> impl Iterator<Item = Cv> {
        self.chunks.iter().map(|(entry, _)| entry.root)
    }

    /// Bytes of disk data in all chunks.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Header, manifest and places of the chunks in the file. They depend on nothing but the chunks and the `name`, so
    /// that all servers of a file agree. The UUID is made of BLAKE3 over the roots and the name (RFC 9562, version 8).
    ///
    /// # Errors
    /// [`Error::Limit`] for a name, a disk or a number of chunks that the format cannot hold.
    pub fn finish(self, name: String) -> Result<ImageIndex, Error> {
        let mut hasher = blake3::Hasher::new();
        for root in self.roots() {
            hasher.update(&root);
        }
        hasher.update(name.as_bytes());
        let mut uuid = [0; 16];
        hasher.finalize_xof().fill(&mut uuid);
        let uuid = uuid::Builder::from_custom_bytes(uuid)
            .into_uuid()
            .into_bytes();
        let salt = [0; 16];
        let keys = ImageKeys::derive(None, &salt, &uuid);
        let mut header = ImageHeader::new(name, 0, SECTOR_SIZE, self.sectors, None, None)?;
        header.identity.uuid = uuid;
        header.identity.codec = Codec::None;
        header.chunk_format = ChunkFormat::Ndz;
        header.salt = salt;
        header.key_check = keys.check();
        let header_bytes = header.to_bytes(None)?;
        let lines: Vec<Line<'_>> = self
            .chunks
            .iter()
            .map(|(entry, secret)| (*entry, secret))
            .collect();
        let bytes = Manifest::build(
            &header,
            &header_bytes,
            &keys,
            None,
            &lines,
            self.plain_bytes,
        )?;
        let (head, body) = bytes.split_at(BLOCK_SIZE.min(bytes.len()));
        let mut object = header_bytes;
        object.extend_from_slice(body);
        let (header, manifest) = Manifest::parse(ManifestHead::parse(head)?, &object)?;
        let offsets = (0..self.chunks.len())
            .map(|index| (index * CHUNK_BYTES) as u64)
            .collect();
        Ok(ImageIndex {
            manifest,
            header,
            manifest_head: head.to_vec(),
            manifest_object: object,
            offsets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Trust};

    fn index(name: &str, sizes: &[u64]) -> ImageIndex {
        let mut index = LegacyIndex::default();
        let mut first = 0;
        for (number, &sectors) in (1_u8..).zip(sizes) {
            index.add(&vec![number; CHUNK_BYTES], Span { first, sectors }, 512);
            first += sectors;
        }
        index.finish(name.into()).unwrap()
    }

    #[test]
    fn a_client_reads_what_a_server_made() {
        let index = index("lab", &[100, 50]);
        assert_eq!(index.header.disk_sectors, 150);
        assert_eq!(index.manifest.head.plain_bytes, 1024);
        assert_eq!(index.chunk(1), Some((1 << 20, 1 << 20)));
        assert_eq!(index.chunk(2), None);
        let root = *blake3::hash(&vec![2; CHUNK_BYTES]).as_bytes();
        assert_eq!(index.manifest.entries[1].root, root);

        let object = &index.manifest_object;
        let unsigned = Trust::new(Vec::new(), true);
        let context = Context::new(object, &unsigned, &[]).unwrap();
        let secrets = context.secrets(&index.manifest).unwrap();
        let spans: Vec<_> = secrets.iter().map(|secret| secret.layout.span).collect();
        let span = |first, sectors| Span { first, sectors };
        assert_eq!(spans, [span(0, 100), span(100, 50)]);
        let refused = context.verify_chunk(&vec![1; CHUNK_BYTES], 0);
        assert!(matches!(refused, Err(Error::Legacy)));
        assert!(matches!(
            Context::new(object, &Trust::default(), &[]),
            Err(Error::Unsigned)
        ));
    }

    #[test]
    fn servers_of_one_file_agree_and_others_do_not() {
        let (one, two) = (index("lab", &[100, 50]), index("lab", &[100, 50]));
        assert_eq!(one.manifest_head, two.manifest_head);
        assert_eq!(one.manifest_object, two.manifest_object);
        let uuid = one.header.uuid();
        assert_eq!(
            (uuid.get_version_num(), uuid.get_variant()),
            (8, uuid::Variant::RFC4122)
        );
        for other in [index("lab", &[100]), index("lib", &[100, 50])] {
            assert_ne!(other.header.uuid(), uuid);
        }
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused() {
        let finish = |name: &str, sectors| {
            let mut index = LegacyIndex::default();
            index.add(&[0; CHUNK_BYTES], Span { first: 0, sectors }, 0);
            index.finish(name.into())
        };
        assert!(finish("lab", 1).is_ok());
        assert!(matches!(
            finish(&"x".repeat(256), 1),
            Err(Error::Limit { .. })
        ));
        assert!(matches!(
            finish("lab", u64::MAX / 512),
            Err(Error::Limit { .. })
        ));
    }
}
