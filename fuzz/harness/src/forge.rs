//! Structures of the image format, written and repaired by the tables of docs/FORMAT.md, not with the code under test.
//!
//! Nothing is encrypted here, and what is signed is signed with Ed25519: that is enough to say anything at all in the
//! name of an owner.

use ed25519_dalek::pkcs8::EncodePublicKey;
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};

/// Bytes of a block.
pub const BLOCK: usize = 1024;
/// Bytes of the image header.
pub const HEADER: usize = 4096;
/// Bytes of the signature area.
const AREA: usize = 512;
/// Bytes of an entry of the manifest.
pub const ENTRY: usize = 72;
/// Longest body of a chunk, in bytes.
pub const BODY_MAX: usize = 2_130_944;

/// The codec numbers of section 3.
pub const ZSTD: u8 = 1;
/// As [`ZSTD`].
pub const ZLIB: u8 = 2;

/// What all structures of a forged image have in common (section 2), and its sizes.
#[derive(Clone, Debug)]
pub struct Forge {
    /// Signs everything, if there is one.
    pub owner: Option<SigningKey>,
    /// Codec of header and manifest, and of chunks unless they say otherwise.
    pub codec: u8,
    /// Cipher that the structures name.
    pub cipher: u8,
    /// Sectors of the disk.
    pub disk_sectors: u64,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Largest number of disk bytes in a chunk.
    pub chunk_size: u32,
    /// Of 32 bytes; zeros for an image that is not encrypted.
    pub content_key: [u8; 32],
    /// Whether the image is a delta to some other one.
    pub delta: bool,
    /// Whether the chunks are Emulab's.
    pub ndz: bool,
}

const UUID: [u8; 16] = *b"frz-fuzz-harness";
const SALT: [u8; 16] = *b"salt of harness.";

/// Writes `value` at `at`, as far as there is room.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(value) {
        *place = *byte;
    }
}

/// The 4 bytes at `at` as a number; 0 where there are none.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at.saturating_add(4));
    field
        .and_then(|field| field.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

/// The 8 bytes at `at` as a number; 0 where there are none.
#[must_use]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at.saturating_add(8));
    field
        .and_then(|field| field.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// Derives from content key, salt and UUID (section 5).
fn derive(context: &str, key: &[u8; 32], salt: &[u8], uuid: &[u8]) -> [u8; 32] {
    blake3::derive_key(context, &[&key[..], salt, uuid].concat())
}

fn key_check(key: &[u8; 32], salt: &[u8], uuid: &[u8]) -> [u8; 16] {
    let derived = derive("frz 2026-11 v1 content key check", key, salt, uuid);
    std::array::from_fn(|at| derived[at])
}

impl Default for Forge {
    /// Unsigned, not encrypted, Zstandard, a disk of 4 MiB.
    fn default() -> Self {
        Self {
            owner: None,
            codec: ZSTD,
            cipher: 0,
            disk_sectors: 8192,
            sector_size: 512,
            chunk_size: 2 << 20,
            content_key: [0; 32],
            delta: false,
            ndz: false,
        }
    }
}

impl Forge {
    /// The key id of section 4.
    fn signer(&self) -> [u8; 16] {
        let Some(owner) = &self.owner else {
            return [0; 16];
        };
        let spki = owner.verifying_key().to_public_key_der();
        let id = spki.map_or([0; 32], |spki| Sha256::digest(spki.as_bytes()).into());
        std::array::from_fn(|at| id[at])
    }

    /// Puts the common fields into `block`, all but the codec (section 2), and zeros into the signature area.
    pub fn identify(&self, magic: &[u8; 8], block: &mut [u8]) {
        put(block, 0, magic);
        put(block, 8, &1_u16.to_le_bytes());
        put(block, 10, &[u8::from(self.owner.is_some())]);
        put(block, 12, &[self.cipher, 0, 0, 0]);
        put(block, 16, &UUID);
        put(block, 32, &7_u64.to_le_bytes());
        put(block, 40, &self.signer());
        let signed = block.len() - AREA;
        block[signed..].fill(0);
    }

    fn sign(&self, block: &mut [u8]) {
        let signed = block.len() - AREA;
        let (message, area) = block.split_at_mut(signed);
        area.fill(0);
        if let Some(owner) = &self.owner {
            put(area, 0, &owner.sign(message).to_bytes());
        }
    }

    /// The image header (section 6).
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut header = vec![0; HEADER];
        self.identify(b"FRZIMAGE", &mut header);
        put(&mut header, 11, &[self.codec]);
        put(&mut header, 64, &self.sector_size.to_le_bytes());
        put(&mut header, 68, &self.chunk_size.to_le_bytes());
        put(&mut header, 72, &self.disk_sectors.to_le_bytes());
        put(&mut header, 80, &SALT);
        let check = key_check(&self.content_key, &SALT, &UUID);
        put(&mut header, 96, &check);
        if self.delta {
            put(&mut header, 112, &[0xba; 16]);
            put(&mut header, 128, &6_u64.to_le_bytes());
            put(&mut header, 136, &[0xbd; 32]);
        }
        put(&mut header, 168, &6_u16.to_le_bytes());
        put(&mut header, 170, &[u8::from(self.ndz)]);
        put(&mut header, 176, b"golden");
        self.sign(&mut header);
        header
    }

    /// The keyed hash of section 7.
    #[must_use]
    pub fn plain_hash(&self, layout: &[u8], data: &[u8]) -> [u8; 32] {
        let context = "frz 2026-11 v1 plain data hash key";
        let key = derive(context, &self.content_key, &SALT, &UUID);
        let inner = blake3::keyed_hash(&key, data);
        *blake3::keyed_hash(&key, &[layout, inner.as_bytes()].concat()).as_bytes()
    }

    /// A chunk (section 7) with this body, which is not looked into.
    #[must_use]
    pub fn chunk(
        &self,
        index: u32,
        codec: u8,
        plain_length: u32,
        plain_hash: [u8; 32],
        body: &[u8],
    ) -> Vec<u8> {
        let mut chunk = vec![0; BLOCK];
        put(&mut chunk, 11, &[codec]);
        put(&mut chunk, 64, &plain_length.to_le_bytes());
        put(&mut chunk, 112, &plain_hash);
        chunk.extend_from_slice(body);
        self.repair_chunk(index, &mut chunk);
        chunk
    }

    /// Makes a chunk of `chunk` whose body is all that follows the first block: everything in the header is put right
    /// that can be but codec, plain length, plain hash and reserved bytes.
    pub fn repair_chunk(&self, index: u32, chunk: &mut Vec<u8>) {
        chunk.resize(chunk.len().clamp(BLOCK, BLOCK + BODY_MAX), 0);
        let body = u32::try_from(chunk.len() - BLOCK).unwrap_or(u32::MAX);
        chunk.resize(chunk.len().next_multiple_of(BLOCK), 0);
        self.identify(b"FRZCHUNK", &mut chunk[..BLOCK]);
        put(chunk, 56, &index.to_le_bytes());
        put(chunk, 60, &body.to_le_bytes());
        self.seal(chunk);
    }

    /// Puts digest and signature of a chunk right.
    pub fn seal(&self, chunk: &mut [u8]) {
        chunk[BLOCK - AREA..BLOCK].fill(0);
        chunk[80..112].fill(0);
        let digest = blake3::hash(chunk);
        put(chunk, 80, digest.as_bytes());
        self.sign(&mut chunk[..BLOCK]);
    }

    /// A manifest head (section 9) over `header` and a body that is padded already, with the numbers that are given
    /// instead of the right ones.
    #[must_use]
    pub fn manifest_head(
        &self,
        chunks: u32,
        body_length: u64,
        chunk_blocks: u64,
        header: &[u8],
        padded_body: &[u8],
    ) -> Vec<u8> {
        let mut head = vec![0; BLOCK];
        put(&mut head, 11, &[self.codec]);
        put(&mut head, 56, &chunks.to_le_bytes());
        put(&mut head, 64, &body_length.to_le_bytes());
        put(&mut head, 72, &chunk_blocks.to_le_bytes());
        self.repair_head(&mut head, header, padded_body);
        head
    }

    /// Puts right in a manifest head what follows from the object and from its own body length, and the signature.
    pub fn repair_head(&self, head: &mut [u8], header: &[u8], padded_body: &[u8]) {
        self.identify(b"FRZMANIF", head);
        let blocks = 4 + u64_at(head, 64).div_ceil(1024);
        put(
            head,
            60,
            &u32::try_from(blocks).unwrap_or(u32::MAX).to_le_bytes(),
        );
        let root = blake3::Hasher::new()
            .update(header)
            .update(padded_body)
            .finalize();
        put(head, 80, root.as_bytes());
        self.sign(head);
    }

    /// An entry of the manifest for this chunk, without parity.
    #[must_use]
    pub fn entry(chunk: &[u8]) -> Vec<u8> {
        let mut entry = vec![0; ENTRY];
        let blocks = u32::try_from(chunk.len() / BLOCK).unwrap_or(u32::MAX);
        put(&mut entry, 0, &blocks.to_le_bytes());
        put(&mut entry, 8, blake3::hash(chunk).as_bytes());
        entry
    }

    /// The footer (section 10) for a manifest at this place.
    #[must_use]
    pub fn footer(&self, manifest_offset: u64, manifest_length: u64) -> Vec<u8> {
        let mut footer = vec![0; BLOCK];
        put(&mut footer, 0, b"FRZFOOTR");
        put(&mut footer, 8, &1_u16.to_le_bytes());
        put(&mut footer, 16, &UUID);
        put(&mut footer, 32, &manifest_offset.to_le_bytes());
        put(&mut footer, 40, &manifest_length.to_le_bytes());
        footer
    }

    /// A whole image of these chunks. `private` is the private part of the manifest.
    #[must_use]
    pub fn image(&self, chunks: &[Vec<u8>], private: &[u8]) -> Vec<u8> {
        let header = self.header();
        let mut body: Vec<u8> = chunks.iter().flat_map(|chunk| Self::entry(chunk)).collect();
        body.extend_from_slice(private);
        let body_length = body.len() as u64;
        body.resize(body.len().next_multiple_of(BLOCK), 0);
        let bytes: usize = chunks.iter().map(Vec::len).sum();
        let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let blocks = (bytes / BLOCK) as u64;
        let head = self.manifest_head(count, body_length, blocks, &header, &body);
        let footer = self.footer((HEADER + bytes) as u64, (BLOCK + body.len()) as u64);
        [header, chunks.concat(), head, body, footer].concat()
    }
}

/// Puts the key check of an image header right, for an image that is not encrypted, and takes the signature off.
pub fn repair_header(header: &mut [u8]) {
    put(header, 10, &[0]);
    put(header, 12, &[0]);
    put(header, 40, &[0; 16]);
    if let (Some(uuid), Some(salt)) = (header.get(16..32), header.get(80..96)) {
        let check = key_check(&[0; 32], salt, uuid);
        put(header, 96, &check);
    }
    if let Some(area) = header.get_mut(HEADER - AREA..HEADER) {
        area.fill(0);
    }
}

/// A layout (section 8) as its table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// First sector and number of sectors.
    pub span: (u64, u64),
    /// First sector and number of sectors of each region.
    pub regions: Vec<(u64, u32)>,
    /// Kind, offset, sector, size.
    pub relocations: Vec<(u32, u32, u64, u64)>,
    /// Bytes of the layout.
    pub length: usize,
}

impl Table {
    /// Reads the layout at the beginning of `bytes`; `None` if section 8 does not allow it. All numbers are so wide
    /// that none can wrap.
    #[must_use]
    pub fn read(bytes: &[u8], disk_sectors: u64, sector_size: u32) -> Option<Self> {
        let wide = |number: u64| u128::from(number);
        if bytes.len() < 32 || bytes[24..32] != [0; 8] {
            return None;
        }
        let span = (u64_at(bytes, 0), u64_at(bytes, 8));
        let span_end = wide(span.0) + wide(span.1);
        if span.1 == 0 || span_end > wide(disk_sectors) {
            return None;
        }
        let (count, relocation_count) = (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize);
        let length = 32 + 8 * count + 24 * relocation_count;
        if length > bytes.len() {
            return None;
        }
        let mut table = Self {
            span,
            length,
            ..Self::default()
        };
        let mut position = wide(span.0);
        for region in 0..count {
            let at = 32 + 8 * region;
            let first = position + wide(u32_at(bytes, at).into());
            let sectors = u32_at(bytes, at + 4);
            position = first + wide(sectors.into());
            if sectors == 0 || position > span_end {
                return None;
            }
            table.regions.push((u64::try_from(first).ok()?, sectors));
        }
        for relocation in 0..relocation_count {
            let at = 32 + 8 * count + 24 * relocation;
            let (kind, offset) = (u32_at(bytes, at), u32_at(bytes, at + 4));
            let (sector, size) = (u64_at(bytes, at + 8), u64_at(bytes, at + 16));
            let start = wide(sector) * wide(sector_size.into()) + wide(offset.into());
            let end = start + wide(size);
            let inside = table.regions.iter().any(|&(first, sectors)| {
                let bytes = |sector: u128| sector * wide(sector_size.into());
                let region_end = bytes(wide(first) + wide(sectors.into()));
                bytes(wide(first)) <= start && start < region_end && end <= region_end
            });
            if offset >= sector_size || !inside {
                return None;
            }
            table.relocations.push((kind, offset, sector, size));
        }
        Some(table)
    }

    /// Sectors in all regions.
    #[must_use]
    pub fn data_sectors(&self) -> u128 {
        self.regions
            .iter()
            .map(|&(_, sectors)| u128::from(sectors))
            .sum()
    }

    /// The bytes of the layout.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = [self.span.0.to_le_bytes(), self.span.1.to_le_bytes()].concat();
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        bytes.extend(count(self.regions.len()));
        bytes.extend(count(self.relocations.len()));
        bytes.extend([0; 8]);
        let mut position = self.span.0;
        for &(first, sectors) in &self.regions {
            let gap = u32::try_from(first - position).unwrap_or(u32::MAX);
            bytes.extend(gap.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            position = first + u64::from(sectors);
        }
        for &(kind, offset, sector, size) in &self.relocations {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            bytes.extend(sector.to_le_bytes());
            bytes.extend(size.to_le_bytes());
        }
        bytes
    }
}

impl From<&chunkfmt::Layout> for Table {
    fn from(layout: &chunkfmt::Layout) -> Self {
        Self {
            span: (layout.span.first, layout.span.sectors),
            regions: layout
                .regions
                .iter()
                .map(|region| (region.first, region.sectors))
                .collect(),
            relocations: layout
                .relocations
                .iter()
                .map(|item| (item.kind, item.offset, item.sector, item.size))
                .collect(),
            length: 32 + 8 * layout.regions.len() + 24 * layout.relocations.len(),
        }
    }
}
