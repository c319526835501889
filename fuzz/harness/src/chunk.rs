//! Target `chunk`: a chunk on its way from bytes that anybody may have sent to disk data.

use std::cell::RefCell;
use std::sync::Arc;

use chunkfmt::{
    Cipher, Codec, ContentKey, Context, Error, ImageHeader, Layout, Opener, Sealer, Trust,
};

use crate::forge::{self, BLOCK, Forge, Table};

/// Sectors of the target, fewer than the image's disk has.
const WINDOW: u64 = 8000;

/// The only chunk of an encrypted image that there is: nobody without the key can make another one.
pub(crate) const SEALED_DATA: [u8; 5 * 512] = [0x5a; 5 * 512];

const CIPHERS: [Cipher; 4] = [
    Cipher::None,
    Cipher::Aes256Gcm,
    Cipher::ChaCha20Poly1305,
    Cipher::BlowfishCbc,
];

/// An image header with everything to open and to seal its chunks.
pub(crate) struct Bench {
    pub(crate) forge: Forge,
    pub(crate) context: Arc<Context>,
    pub(crate) opener: Opener,
    pub(crate) sealer: Sealer,
}

impl Bench {
    /// The image header of a forge, with a content key if the forge names a cipher.
    pub(crate) fn new(forge: Forge) -> Self {
        let bytes = forge.header();
        let key = (forge.cipher > 0).then(|| {
            let hex = forge.content_key.map(|byte| format!("{byte:02x}")).concat();
            ContentKey::from_hex(&hex).unwrap()
        });
        let trust = Trust::new(Vec::new(), true);
        let context = Arc::new(Context::new(&bytes, &trust, key.as_slice()).unwrap());
        let header = ImageHeader::parse(&bytes).unwrap();
        Self {
            opener: Opener::new(Arc::clone(&context)).unwrap(),
            sealer: Sealer::new(header, key.as_ref(), None, 1)
                .unwrap()
                .without_parity(),
            context,
            forge,
        }
    }
}

/// The forge that bits 0 and 1 (cipher) and 2 and 3 (codec) of a first byte choose.
pub(crate) fn forge_of(how: u8) -> Forge {
    Forge {
        cipher: how & 3,
        codec: (how >> 2 & 3).min(2),
        content_key: [if how & 3 > 0 { 7 } else { 0 }; 32],
        ..Forge::default()
    }
}

thread_local! {
    static BENCHES: RefCell<[Option<Bench>; 16]> = RefCell::default();
}

/// First byte: cipher and codec of the image, bit 4 leaves the chunk as it is. Without it, and without a cipher, what
/// stands before the body is put right, so that the body is looked at.
pub fn feed(data: &[u8]) -> bool {
    let Some((&how, rest)) = data.split_first() else {
        return false;
    };
    BENCHES.with_borrow_mut(|benches| {
        let bench = benches[usize::from(how & 15)].get_or_insert_with(|| Bench::new(forge_of(how)));
        let mut chunk = rest.to_vec();
        if how & 16 == 0 {
            bench
                .forge
                .repair_chunk(forge::u32_at(rest, 56), &mut chunk);
        }
        feed_one(bench, chunk)
    })
}

fn feed_one(bench: &mut Bench, mut chunk: Vec<u8>) -> bool {
    let index = forge::u32_at(&chunk, 56);
    let wrong_index = bench.context.verify_chunk(&chunk, index.wrapping_add(1));
    assert!(wrong_index.is_err(), "a chunk is good for two places");
    let Ok(verified) = bench.context.verify_chunk(&chunk, index) else {
        assert!(open(bench, index, &chunk).0.is_err());
        return false;
    };
    assert_eq!(verified.root, *blake3::hash(&chunk).as_bytes());
    assert_eq!(verified.header.blocks() as usize * BLOCK, chunk.len());
    let (opened, (layout, plain)) = open(bench, index, &chunk);
    let error = opened.err();
    assert!(
        plain.capacity() <= 2 << 20,
        "more memory than a chunk has data"
    );
    assert!(layout.regions.capacity() <= (chunk.len() / 8).next_power_of_two());
    if bench.forge.cipher > 0 {
        // The cipher vouches for layout and data; nobody but the owner of the key can have made them.
        if error.is_none() || matches!(error, Some(Error::PlainHash { .. })) {
            assert_eq!((index, &plain[..]), (3, &SEALED_DATA[..]));
            assert_eq!(layout, sealed_layout());
        }
        return error.is_none();
    }
    match error {
        None => {
            check_good(bench, index, &chunk, &layout, &plain);
            true
        }
        // Everything was read: with the right hash it must be good, if layouts have one form only.
        Some(Error::PlainHash { .. }) => {
            let hash = bench.context.plain_hash(&layout, &plain).unwrap();
            assert_eq!(
                hash,
                bench
                    .forge
                    .plain_hash(&Table::from(&layout).write(), &plain)
            );
            forge::put(&mut chunk, 112, &hash);
            bench.forge.seal(&mut chunk);
            let (opened, (again, same)) = open(bench, index, &chunk);
            opened.unwrap();
            assert!(again == layout && same == plain);
            check_good(bench, index, &chunk, &layout, &plain);
            true
        }
        Some(_) => false,
    }
}

/// A layout and the data of its regions; whatever is there after a failure.
type Opened = (Layout, Vec<u8>);

fn open(bench: &mut Bench, index: u32, chunk: &[u8]) -> (Result<(), Error>, Opened) {
    let (mut layout, mut plain) = (Layout::default(), Vec::new());
    let mut scratch = chunk.to_vec();
    let opened = bench
        .opener
        .open(index, &mut scratch, WINDOW, &mut layout, &mut plain);
    let opened = opened.map(|verified| {
        assert_eq!(verified.header.plain_hash, chunk[112..144]);
    });
    (opened, (layout, plain))
}

/// What must be true of a chunk that was accepted.
fn check_good(bench: &mut Bench, index: u32, chunk: &[u8], layout: &Layout, plain: &[u8]) {
    let body_length = forge::u32_at(chunk, 60) as usize;
    let body = &chunk[BLOCK..BLOCK + body_length];
    let table = Table::read(body, WINDOW, 512).unwrap();
    assert_eq!(table, Table::from(layout));
    assert_eq!(table.write(), body[..table.length]);
    assert_eq!(table.data_sectors() * 512, plain.len() as u128);
    assert_eq!(forge::u32_at(chunk, 64) as usize, plain.len());
    let packed = &body[table.length..];
    assert!(chunk[11] != 0 || packed == plain);

    let mut sealed = Vec::new();
    let layout = layout.clone();
    bench
        .sealer
        .seal(index, layout.clone(), plain, &mut sealed)
        .unwrap();
    let (opened, (again, same)) = open(bench, index, &sealed);
    opened.unwrap();
    assert!(again == layout && same == plain);
}

/// The layout of the one chunk in an encrypted image.
pub(crate) fn sealed_layout() -> Layout {
    use chunkfmt::{Region, Span};
    let region = |first, sectors| Region { first, sectors };
    Layout::new(
        Span {
            first: 100,
            sectors: 50,
        },
        vec![region(101, 2), region(110, 3)],
    )
}

/// The ciphers and codecs that a first byte can choose.
pub(crate) fn choices() -> impl Iterator<Item = (u8, Cipher, Codec)> {
    let codecs = [Codec::None, Codec::Zstd, Codec::Zlib];
    (0..4_u8).flat_map(move |cipher| {
        (0..3_u8).map(move |codec| {
            let (cipher_at, codec_at) = (usize::from(cipher), usize::from(codec));
            (cipher | codec << 2, CIPHERS[cipher_at], codecs[codec_at])
        })
    })
}
