//! Images of a valid owner that claim or unfold to far more than they are: what a reader may not pay for with memory.

use std::io::Write;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePublicKey;
use flate2::{Compression, write::ZlibEncoder};

use crate::forge::{self, BLOCK, Forge, Table, ZLIB, ZSTD};

/// Disk bytes of the chunk in each bomb, the most that there can be.
pub const CHUNK: usize = LENGTH as usize;
/// As [`CHUNK`], as it stands in chunk headers.
const LENGTH: u32 = 2 << 20;

/// Every byte that a bomb would write.
pub const FILL: u8 = 0x55;

/// A hostile image.
pub struct Bomb {
    /// What is hostile about it.
    pub name: &'static str,
    /// Its bytes.
    pub image: Vec<u8>,
}

/// Size of an RLE block of Zstandard, the largest that there is (RFC 8878, section 3.1.1.2).
const RLE: usize = 128 << 10;

/// The owner of all bombs.
fn forge(codec: u8) -> Forge {
    Forge {
        owner: Some(SigningKey::from_bytes(&[0x42; 32])),
        codec,
        disk_sectors: (CHUNK / 512) as u64,
        ..Forge::default()
    }
}

/// The owner's public key file.
#[must_use]
pub fn public_key() -> String {
    let owner = SigningKey::from_bytes(&[0x42; 32]).verifying_key();
    owner.to_public_key_pem(pkcs8::LineEnding::LF).unwrap()
}

/// A frame of Zstandard with this window descriptor that gives so many bytes (RFC 8878, section 3.1.1).
fn frame(window: u8, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    let blocks = bytes.div_ceil(RLE).max(1);
    for block in 0..blocks {
        let size = RLE.min(bytes - block * RLE);
        let last = usize::from(block == blocks - 1);
        let header = last | 1 << 1 | size << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(FILL);
    }
    frame
}

fn zlib(bytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    let piece = vec![FILL; 1 << 20];
    for _ in 0..bytes.div_ceil(piece.len()) {
        encoder.write_all(&piece).unwrap();
    }
    encoder.finish().unwrap()
}

/// The layout of the one chunk: everything is one region.
fn whole_disk() -> Table {
    let sectors = LENGTH / 512;
    Table {
        span: (0, sectors.into()),
        regions: vec![(0, sectors)],
        ..Table::default()
    }
}

/// An image whose chunk has this body and claims this many bytes. The manifest tells what a good one would.
fn image(codec: u8, plain_length: u32, body: &[u8]) -> Vec<u8> {
    let forge = forge(codec);
    let layout = whole_disk().write();
    let hash = forge.plain_hash(&layout, &[FILL; CHUNK]);
    let chunk = forge.chunk(0, codec, plain_length, hash, body);
    forge.image(&[chunk], &[&hash[..], &layout].concat())
}

/// As [`image`], of packed data behind the usual layout.
fn packed(codec: u8, data: &[u8]) -> Vec<u8> {
    image(codec, LENGTH, &[&whole_disk().write(), data].concat())
}

/// Images that are as good as they look, to compare with: they hold [`CHUNK`] bytes.
#[must_use]
pub fn good() -> Vec<Bomb> {
    let bomb = |name, image| Bomb { name, image };
    vec![
        bomb("good zstd", packed(ZSTD, &frame(0x38, CHUNK))),
        bomb("good zlib", packed(ZLIB, &zlib(CHUNK))),
    ]
}

/// An image that is good, but asks for a window of 2 GiB, the largest that the library knows, for its 2 MiB.
#[must_use]
pub fn large_window() -> Bomb {
    Bomb {
        name: "zstd: window of 2 GiB",
        image: packed(ZSTD, &frame(21 << 3, CHUNK)),
    }
}

/// Images that must be refused.
#[must_use]
pub fn all() -> Vec<Bomb> {
    let kinds = [zstd_bombs(), zlib_bombs(), layout_bombs(), manifest_bombs()];
    kinds.into_iter().flatten().collect()
}

fn zstd_bombs() -> Vec<Bomb> {
    let bomb = |name, data: &[u8]| Bomb {
        name,
        image: packed(ZSTD, data),
    };
    let sized = |flag: u8, size: &[u8]| {
        let mut data = vec![0x28, 0xb5, 0x2f, 0xfd, flag, 0x38];
        data.extend_from_slice(size);
        data.extend_from_slice(&frame(0x38, CHUNK)[6..]);
        data
    };
    let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &u32::MAX.to_le_bytes()].concat();
    vec![
        bomb("zstd: 1 GiB", &frame(0x38, 1 << 30)),
        bomb("zstd: one byte more", &frame(0x38, CHUNK + 1)),
        bomb("zstd: one byte less", &frame(0x38, CHUNK - 1)),
        bomb("zstd: many frames", &frame(0x38, 64).repeat(CHUNK / 64)),
        bomb(
            "zstd: frames of just the right length",
            &frame(0x38, CHUNK / 16).repeat(16),
        ),
        bomb("zstd: empty frames", &frame(0x38, 0).repeat(200_000)),
        bomb("zstd: window of 3.75 TiB", &frame(0xff, CHUNK)),
        bomb("zstd: window of 4 GiB", &frame(22 << 3, CHUNK)),
        bomb(
            "zstd: claims 2^63 bytes",
            &sized(0xc0, &(1_u64 << 63).to_le_bytes()),
        ),
        bomb("zstd: claims 4 GiB", &sized(0x80, &u32::MAX.to_le_bytes())),
        bomb("zstd: a skippable frame of 4 GiB", &skippable),
    ]
}

fn zlib_bombs() -> Vec<Bomb> {
    let bomb = |name, data: &[u8]| Bomb {
        name,
        image: packed(ZLIB, data),
    };
    let gigabyte = zlib(1 << 30);
    assert!(gigabyte.len() < 1_100_000, "the highest ratio");
    vec![
        bomb("zlib: 1 GiB", &gigabyte),
        bomb(
            "zlib: two streams",
            &[zlib(CHUNK / 2), zlib(CHUNK / 2)].concat(),
        ),
        bomb("zlib: nothing after the header", &[0x78, 0x9c]),
    ]
}

fn layout_bombs() -> Vec<Bomb> {
    let bomb = |name, plain_length, layout: &Table, counts: (u32, u32)| {
        let mut body = [layout.write(), frame(0x38, CHUNK)].concat();
        forge::put(&mut body, 16, &counts.0.to_le_bytes());
        forge::put(&mut body, 20, &counts.1.to_le_bytes());
        Bomb {
            name,
            image: image(ZSTD, plain_length, &body),
        }
    };
    let mut long = whole_disk();
    long.span.1 = u64::MAX;
    long.regions[0].1 = u32::MAX;
    let (length, disk) = (LENGTH, whole_disk());
    vec![
        bomb("chunk of 4 GiB", u32::MAX, &disk, (1, 0)),
        bomb("span and region without end", length, &long, (1, 0)),
        bomb("2^32 regions", length, &disk, (u32::MAX, 0)),
        bomb("2^32 relocations", length, &disk, (1, u32::MAX)),
    ]
}

fn manifest_bombs() -> Vec<Bomb> {
    let bomb = |name, chunks: u32, body_length: u64, footer_length: u64| {
        let forge = forge(ZSTD);
        let header = forge.header();
        let body = vec![0; 2 * BLOCK];
        let head = forge.manifest_head(chunks, body_length, 2 * u64::from(chunks), &header, &body);
        let footer = forge.footer(forge::HEADER as u64, footer_length);
        Bomb {
            name,
            image: [header, head, body, footer].concat(),
        }
    };
    let as_is = 3 * BLOCK as u64;
    // What the head's own fields say of the largest body that they can say.
    let largest = (u64::from(u32::MAX) - 4) * 1024;
    vec![
        bomb("manifest of 2^60 bytes", 1, 1 << 60, as_is),
        bomb("manifest of 4 TiB", 1, largest, as_is),
        bomb(
            "manifest of 4 TiB, so says the footer",
            1,
            largest,
            1024 + largest,
        ),
        bomb("2^32 chunks", u32::MAX, 2048, as_is),
        bomb("2^32 chunks in 4 TiB", u32::MAX, largest, as_is),
        bomb(
            "2^32 chunks in as many bytes",
            u32::MAX,
            u64::from(u32::MAX) * 136,
            as_is,
        ),
    ]
}
