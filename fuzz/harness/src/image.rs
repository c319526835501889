//! Target `image`: whole images, read as a stream and by their index, which must agree.

use std::io::Cursor;
use std::sync::Arc;

use chunkfmt::{
    Context, Error, HEADER_SIZE, ImageIndex, ImageReader, Layout, Manifest, Next, Opener, Trust,
    check_roots,
};

use crate::forge::{self, BLOCK, ENTRY, Forge};

/// Sectors of the target.
const WINDOW: u64 = 1 << 20;

/// First byte: bit 0 leaves all as it is. Without it key check, digests, roots and footer are put right, so that
/// readers get as far as the lengths allow. The rest is the image, unsigned and not encrypted.
pub fn feed(data: &[u8]) -> bool {
    let Some((&how, rest)) = data.split_first() else {
        return false;
    };
    let mut image = rest.to_vec();
    if how & 1 == 0 {
        repair(&mut image);
    }
    let trust = Trust::new(Vec::new(), true);
    let index = ImageIndex::read(&mut Cursor::new(&image), Some(&trust));
    let unchecked = ImageIndex::read(&mut Cursor::new(&image), None);
    // Without trust the signature area is not looked at either.
    assert!(index.is_err() || unchecked.is_ok());
    assert!(ImageIndex::read(&mut Cursor::new(&image), Some(&Trust::default())).is_err());
    assert!(install(&image, &Trust::default()).is_err());
    let Ok((manifest, pieces)) = install(&image, &trust) else {
        return false;
    };
    // What a stream gives, the file gives too.
    let index = index.unwrap();
    assert_eq!(index.manifest.entries, manifest.entries);
    assert_eq!(index.manifest.digest, manifest.digest);
    assert_eq!(index.manifest.head.image_bytes(), image.len() as u64);
    let mut found = Vec::new();
    let mut installer = Installer::new(&image[..HEADER_SIZE], &trust).unwrap();
    for (number, entry) in (0..index.manifest.head.chunks)
        .zip(&index.manifest.entries)
        .rev()
    {
        let Some((offset, length)) = index.chunk(number) else {
            assert!(!entry.is_present());
            continue;
        };
        let offset = usize::try_from(offset).unwrap();
        let mut chunk = image[offset..offset + length].to_vec();
        assert_eq!(entry.root, *blake3::hash(&chunk).as_bytes());
        found.push(installer.open(number, &mut chunk).unwrap());
    }
    found.reverse();
    assert_eq!(found, pieces);
    assert!(index.chunk(index.manifest.head.chunks).is_none());
    // One byte more or less is another file.
    let longer = [&image[..], &[0]].concat();
    assert!(matches!(install(&longer, &trust), Err(Error::Trailing)));
    let shorter = &image[..image.len() - 1];
    assert!(matches!(
        install(shorter, &trust),
        Err(Error::Truncated { .. })
    ));
    for other in [&longer[..], shorter] {
        assert!(ImageIndex::read(&mut Cursor::new(other), Some(&trust)).is_err());
    }
    true
}

/// What a chunk would write: span, number of regions, hash of the data.
type Piece = (u64, u64, usize, blake3::Hash);

struct Installer {
    opener: Opener,
    layout: Layout,
    data: Vec<u8>,
}

impl Installer {
    fn new(header: &[u8], trust: &Trust) -> Result<Self, Error> {
        let context = Arc::new(Context::new(header, trust, &[])?);
        Ok(Self {
            opener: Opener::new(context)?,
            layout: Layout::default(),
            data: Vec::new(),
        })
    }

    fn open(&mut self, index: u32, chunk: &mut [u8]) -> Result<Piece, Error> {
        let Self {
            opener,
            layout,
            data,
        } = self;
        opener.open(index, chunk, WINDOW, layout, data)?;
        assert!(layout.span.end() <= WINDOW && data.len() <= 2 << 20);
        Ok((
            layout.span.first,
            layout.span.sectors,
            layout.regions.len(),
            blake3::hash(data),
        ))
    }
}

fn install(image: &[u8], trust: &Trust) -> Result<(Manifest, Vec<Piece>), Error> {
    let mut reader = ImageReader::new(image, trust.clone())?;
    let mut installer = Installer::new(reader.header_bytes(), trust)?;
    let (mut chunk, mut roots, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match reader.next(&mut chunk)? {
            Next::Chunk(index) => {
                roots.push((index, *blake3::hash(&chunk).as_bytes()));
                pieces.push(installer.open(index, &mut chunk)?);
            }
            Next::End(manifest) => {
                check_roots(&manifest, &roots)?;
                assert_eq!(reader.offset(), image.len() as u64);
                return Ok((*manifest, pieces));
            }
        }
    }
}

/// Puts right what follows from other bytes, part by part, for as long as parts can be told apart.
fn repair(image: &mut [u8]) {
    let Some((header, mut rest)) = image.split_at_mut_checked(HEADER_SIZE) else {
        return;
    };
    forge::repair_header(header);
    // The same names as the header's, whatever they are.
    let prefix: [u8; 56] = std::array::from_fn(|at| header[at]);
    let identify = |block: &mut [u8]| {
        forge::put(block, 8, &prefix[8..11]);
        forge::put(block, 12, &prefix[12..]);
        block[BLOCK - 512..].fill(0);
    };
    let forge = Forge::default();
    let mut at = HEADER_SIZE;
    let mut entries = Vec::new();
    while rest.starts_with(b"FRZCHUNK") && rest.len() >= BLOCK {
        let length = BLOCK + (forge::u32_at(rest, 60) as usize).next_multiple_of(BLOCK);
        let Some((chunk, behind)) = rest.split_at_mut_checked(length) else {
            return;
        };
        identify(&mut chunk[..BLOCK]);
        forge.seal(chunk);
        entries.push(Forge::entry(chunk));
        at += length;
        rest = behind;
    }
    let Some((head, behind)) = rest
        .split_at_mut_checked(BLOCK)
        .filter(|(head, _)| head.starts_with(b"FRZMANIF"))
    else {
        return;
    };
    let body_length = usize::try_from(forge::u64_at(head, 64)).unwrap_or(usize::MAX);
    let Some((body, footer)) = body_length
        .checked_next_multiple_of(BLOCK)
        .and_then(|length| behind.split_at_mut_checked(length))
    else {
        return;
    };
    let mut blocks = 0;
    let mut chunks = entries.iter();
    for place in body
        .chunks_exact_mut(ENTRY)
        .take(forge::u32_at(head, 56) as usize)
    {
        // Block count and root; what a delta leaves out stays out. Parity is left alone.
        if forge::u32_at(place, 0) > 0
            && let Some(entry) = chunks.next()
        {
            forge::put(place, 0, &entry[..4]);
            forge::put(place, 8, &entry[8..40]);
        }
        blocks += u64::from(forge::u32_at(place, 0));
    }
    identify(head);
    forge::put(head, 11, &prefix[11..12]);
    forge::put(head, 72, &blocks.to_le_bytes());
    let root = blake3::Hasher::new().update(header).update(body).finalize();
    forge::put(head, 80, root.as_bytes());
    forge::put(footer, 16, &prefix[16..32]);
    forge::put(footer, 32, &(at as u64).to_le_bytes());
    forge::put(footer, 40, &((BLOCK + body.len()) as u64).to_le_bytes());
}
