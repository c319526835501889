//! Every bit of an image turned over, one at a time: nothing is accepted that is not what the owner signed, and no byte
//! of a bad chunk reaches the target.
//!
//! An image is read as imageunzip reads a pipe: stream, opener, the manifest's roots at the end. The target only
//! compares what it is given with the disk that was imaged.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use chunkfmt::tree::Cv;
use chunkfmt::{
    Cipher, Codec, ContentKey, Context, Error, HEADER_SIZE, ImageHeader, ImageReader, Layout, Next,
    Opener, Region, Sealer, SigningKey, Span, Suite, Trust, check_roots,
};

const SECTOR: usize = 512;

/// An RSA key of 3072 bits, behind the byte that makes it a seed.
const RSA: &str = include_str!("../../../testdata/fuzz/keys/seed-rsa-private");

/// An image, and what is needed to install it.
pub struct Subject {
    /// The image.
    pub image: Vec<u8>,
    disk: Vec<u8>,
    trust: Trust,
    key: ContentKey,
    /// The first byte of each part: header, chunks, manifest with footer.
    parts: Vec<usize>,
    roots: Vec<(u32, Cv)>,
    layouts: Vec<Layout>,
}

/// Where reading begins when a bit of a part is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first byte of the image, as a client does.
    Start,
    /// At the part with the wrong bit: what stands before it is read as without the flip, so what comes of it is known.
    Part,
}

/// How many flips were found by what. All of them were.
pub type Tally = BTreeMap<String, u64>;

impl Subject {
    /// An image of `chunks` chunks, signed and encrypted, of about `chunk_bytes` each: some shrink, some do not, and
    /// each has several regions and free space.
    #[must_use]
    pub fn new(suite: Suite, chunks: u32, chunk_bytes: usize) -> Self {
        let signer = Arc::new(match suite {
            Suite::Modern => SigningKey::generate().unwrap(),
            Suite::Classic => SigningKey::from_pem(&RSA[1..]).unwrap(),
        });
        let key = ContentKey::generate().unwrap();
        let span_sectors = (2 * chunk_bytes / SECTOR) as u64;
        let sectors = u64::from(chunks) * span_sectors;
        let header =
            ImageHeader::new("flips".into(), 1, 512, sectors, Some(&key), Some(&signer)).unwrap();
        let header = match suite {
            Suite::Modern => header,
            Suite::Classic => header
                .with_codec(Codec::Zlib)
                .with_cipher(Cipher::BlowfishCbc)
                .unwrap(),
        };
        let mut subject = Self {
            image: Vec::new(),
            disk: noise(sectors),
            trust: Trust::new(vec![signer.verifying_key()], false),
            key: key.clone(),
            parts: vec![0],
            roots: Vec::new(),
            layouts: Vec::new(),
        };
        let mut sealer = Sealer::new(header, Some(&key), Some(signer), 3).unwrap();
        subject.image.extend_from_slice(sealer.header_bytes());
        let (mut sealed, mut chunk) = (Vec::new(), Vec::new());
        for index in 0..chunks {
            let span = Span {
                first: u64::from(index) * span_sectors,
                sectors: span_sectors,
            };
            let regions = regions(span, index);
            if index % 2 == 1 {
                subject.make_compressible(&regions);
            }
            let data: Vec<u8> = regions
                .iter()
                .flat_map(|region| subject.at(region).to_vec())
                .collect();
            let layout = Layout::new(span, regions);
            sealed.push(
                sealer
                    .seal(index, layout.clone(), &data, &mut chunk)
                    .unwrap(),
            );
            subject.layouts.push(layout);
            subject.parts.push(subject.image.len());
            subject
                .roots
                .push((index, *blake3::hash(&chunk).as_bytes()));
            subject.image.extend_from_slice(&chunk);
        }
        subject.parts.push(subject.image.len());
        subject.image.extend(sealer.finish(&sealed).unwrap());
        // Without a flip the image is good, wherever reading begins; only the manifest's place is another then.
        for part in 0..subject.parts.len() {
            let mut opened = 0;
            let result = subject.read(&subject.image, part, &mut None, &mut opened);
            assert_eq!(opened, u64::from(chunks) - part.saturating_sub(1) as u64);
            assert!(result.is_ok() || (2..=chunks as usize).contains(&part));
        }
        subject
    }

    fn sectors(&self) -> u64 {
        (self.disk.len() / SECTOR) as u64
    }

    fn at(&self, region: &Region) -> &[u8] {
        let byte = |sector: u64| usize::try_from(sector).unwrap() * SECTOR;
        &self.disk[byte(region.first)..byte(region.end())]
    }

    /// Leaves 4 bits in each byte of these regions.
    fn make_compressible(&mut self, regions: &[Region]) {
        for region in regions {
            let first = usize::try_from(region.first).unwrap() * SECTOR;
            let length = region.sectors as usize * SECTOR;
            for byte in &mut self.disk[first..first + length] {
                *byte &= 15;
            }
        }
    }

    /// Number of bits of the image.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.image.len() as u64 * 8
    }

    /// Turns over one of `step` of these bits at a time, each on its own, in `threads` threads.
    ///
    /// # Panics
    /// If one is accepted, or anything wrong reaches the target.
    #[must_use]
    pub fn flip(&self, bits: Range<u64>, step: usize, from: From, threads: usize) -> Tally {
        let mut tally = Tally::new();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let bits = bits.clone().step_by(step);
                    let bits = bits.skip(thread).step_by(threads);
                    scope.spawn(move || self.flip_these(bits, from))
                })
                .collect();
            for worker in workers {
                for (found_by, count) in worker.join().unwrap() {
                    *tally.entry(found_by).or_default() += count;
                }
            }
        });
        tally
    }

    fn flip_these(&self, bits: impl Iterator<Item = u64>, from: From) -> Tally {
        let (mut image, mut tally, mut opener) = (self.image.clone(), Tally::new(), None);
        for bit in bits {
            let at = usize::try_from(bit / 8).unwrap();
            let mask = 1 << (bit % 8);
            image[at] ^= mask;
            let part = self.parts.partition_point(|&first| first <= at) - 1;
            let begin = if from == From::Start { 0 } else { part };
            let mut opened = 0;
            let Err(error) = self.read(&image, begin, &mut opener, &mut opened) else {
                panic!("byte {at}, bit mask {mask:#x}: accepted");
            };
            // The chunks before the wrong part are good; neither the wrong one nor any after it may be opened.
            let before = part.saturating_sub(1.max(begin)) as u64;
            assert_eq!(opened, before, "byte {at}, bit mask {mask:#x}: {error}");
            *tally.entry(name(&error)).or_default() += 1;
            image[at] ^= mask;
        }
        assert!(image == self.image);
        tally
    }

    /// Reads the image and compares what would be written with the disk; `opened` counts the chunks that were opened.
    /// The opener is `kept` for the next time if the header is not in question.
    /// Chunks before `part` are not opened, and not even read, unless the manifest's place is to be compared.
    fn read(
        &self,
        image: &[u8],
        part: usize,
        kept: &mut Option<Opener>,
        opened: &mut u64,
    ) -> Result<(), Error> {
        let is_end = part == self.parts.len() - 1;
        let begin = if is_end {
            HEADER_SIZE
        } else {
            self.parts[part].max(HEADER_SIZE)
        };
        let source = image[..HEADER_SIZE].chain(&image[begin..]);
        let mut reader = ImageReader::new(source, self.trust.clone())?;
        if part == 0 || kept.is_none() {
            let keys = std::slice::from_ref(&self.key);
            let context = Context::new(reader.header_bytes(), &self.trust, keys)?;
            *kept = Some(Opener::new(Arc::new(context))?);
        }
        let opener = kept.as_mut().unwrap();
        let skipped = part.saturating_sub(1);
        let mut roots = self.roots[..skipped].to_vec();
        let (mut chunk, mut layout, mut data) = (Vec::new(), Layout::default(), Vec::new());
        loop {
            let index = match reader.next(&mut chunk)? {
                Next::Chunk(_) if is_end => continue,
                Next::Chunk(index) => index + u32::try_from(skipped).unwrap(),
                Next::End(manifest) => return check_roots(&manifest, &roots),
            };
            let verified =
                opener.open(index, &mut chunk, self.sectors(), &mut layout, &mut data)?;
            roots.push((index, verified.root));
            self.compare(index, &layout, &data);
            *opened += 1;
        }
    }

    /// What a target would do: the layout decides what is cleared, the data what is written.
    fn compare(&self, index: u32, layout: &Layout, mut data: &[u8]) {
        let expected = self.layouts.get(index as usize);
        assert_eq!(expected, Some(layout), "chunk {index} at another place");
        for region in &layout.regions {
            let bytes = self.at(region);
            let (piece, rest) = data.split_at(bytes.len());
            assert!(piece == bytes, "chunk {index}: other data");
            data = rest;
        }
        assert!(data.is_empty());
    }
}

/// Regions of `span`, about half of it.
fn regions(span: Span, index: u32) -> Vec<Region> {
    let count = u64::from(index % 3 + 2);
    let step = span.sectors / count;
    (0..count)
        .map(|region| Region {
            first: span.first + region * step,
            sectors: u32::try_from(step / 2).unwrap(),
        })
        .collect()
}

fn noise(sectors: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(sectors).unwrap() * SECTOR];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// The name of an error's kind.
fn name(error: &Error) -> String {
    let text = format!("{error:?}");
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}
