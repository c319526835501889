//! The pipeline with chunks of Emulab images: large ones, bad ones, in any order; and relocations of frz images.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use chunkfmt::relocation::{Relocation, SHORT_SECTOR};
use chunkfmt::{Context, ImageHeader, Layout, LegacyIndex, Region, Sealer, Span, Trust};
use frisbee_cli::policy::LegacyKeys;
use imageunzip::{
    Candidate, Error, Event, Expected, Format, FreeSpace, InstallOptions, Installer, Legacy,
    Target, Window,
};
use ndz::{Plan, Version, Writer};

const SECTOR: usize = 512;
const CHUNK: usize = ndz::CHUNK_SIZE;
const EDGE: usize = 1 << 20;
const DIRT: u8 = 0xDD;

/// From this sector on data cannot be compressed; before, they are little else than the numbers of the sectors.
const NOISE: u64 = 90_000;

/// An Emulab image.
struct Image {
    chunks: Vec<Vec<u8>>,
    spans: Vec<Span>,
    index: LegacyIndex,
    disk: Vec<u8>,
    used: Vec<ndz::Region>,
}

impl Image {
    /// One of 49 MiB: a chunk of 39 MiB, and usual ones.
    fn large() -> Self {
        let region = |first, sectors| ndz::Region { first, sectors };
        let used = vec![region(0, 80_000), region(NOISE, 9000)];
        Self::new(100_000, used, Vec::new())
    }

    fn new(sectors: u64, used: Vec<ndz::Region>, relocations: Vec<Relocation>) -> Self {
        let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
        let disk: Vec<u8> = (0..sectors)
            .flat_map(|sector| {
                std::array::from_fn::<_, { SECTOR / 8 }, _>(|_| {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    let word = if sector < NOISE {
                        sector * 7 + 1
                    } else {
                        noise
                    };
                    word.to_le_bytes()
                })
            })
            .flatten()
            .collect();
        let plan = Plan {
            version: Version::V3,
            image_id: None,
            ranges: used.clone(),
            disk_sectors: Some(sectors),
            relocations,
            level: 4,
        };
        let mut bytes = Vec::new();
        let read = |first: u64, buffer: &mut [u8]| {
            let at = first as usize * SECTOR;
            buffer.copy_from_slice(&disk[at..at + buffer.len()]);
            Ok(())
        };
        Writer::new(plan)
            .unwrap()
            .write_to(&mut bytes, read)
            .unwrap();
        let chunks: Vec<_> = bytes.chunks(CHUNK).map(<[u8]>::to_vec).collect();
        let mut index = LegacyIndex::default();
        let mut spans = Vec::new();
        for (number, chunk) in (0..).zip(&chunks) {
            let span = ndz::Chunk::parse(number, chunk)
                .unwrap()
                .header()
                .span
                .unwrap();
            let (first, sectors) = (span.first, span.end - span.first);
            spans.push(Span { first, sectors });
            index.add(chunk, Span { first, sectors }, 0);
        }
        Self {
            chunks,
            spans,
            index,
            disk,
            used,
        }
    }

    /// What a dirty target holds afterwards.
    fn installed(&self, free: FreeSpace) -> Vec<u8> {
        let free = if free == FreeSpace::Zero { 0 } else { DIRT };
        let mut expected = vec![free; self.disk.len()];
        expected[..EDGE].fill(0);
        expected[self.disk.len() - EDGE..].fill(0);
        for region in &self.used {
            let range = region.first as usize * SECTOR..region.end() as usize * SECTOR;
            expected[range.clone()].copy_from_slice(&self.disk[range]);
        }
        expected
    }

    fn checked(&self) -> Expected<'static> {
        Expected::Checked(self.index.roots().collect())
    }

    fn count(&self) -> Expected<'static> {
        Expected::Count(self.chunks.len() as u32)
    }

    fn target(&self, path: &Path) -> Target {
        fs::write(path, vec![DIRT; self.disk.len()]).unwrap();
        let length = Some(self.disk.len() as u64);
        Candidate::open(path)
            .unwrap()
            .fit_length(512, length)
            .unwrap()
    }

    fn start(&self, target: Target, free: FreeSpace, events: &Arc<Mutex<Vec<Event>>>) -> Installer {
        let legacy = Arc::new(Legacy::new(LegacyKeys::default()));
        let options = InstallOptions {
            verify: true,
            free,
            threads: 2,
            queue: None,
            ahead: 1,
        };
        let events = Arc::clone(events);
        let note = move |event| events.lock().unwrap().push(event);
        Installer::start(&Format::Ndz(legacy), target, &options, note).unwrap()
    }

    fn submit(&self, installer: &Installer, index: usize) {
        let chunk = self.chunks[index].clone();
        installer
            .submit_legacy(index as u32, chunk, self.spans[index])
            .unwrap();
    }
}

#[test]
fn large_chunks_come_in_parts_and_in_any_order() {
    let image = Image::large();
    let largest = (0..).zip(&image.chunks).map(|(index, chunk)| {
        let chunk = ndz::Chunk::parse(index, chunk).unwrap();
        chunk.header().sectors()
    });
    let largest = largest.max().unwrap() * SECTOR as u64;
    assert!(largest > 32 << 20, "the largest chunk has {largest} bytes");
    assert!(image.chunks.len() > 1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    for (free, expected) in [
        (FreeSpace::Skip, image.checked()),
        (FreeSpace::Zero, image.count()),
    ] {
        let events = Arc::default();
        let installer = image.start(image.target(&path), free, &events);
        for index in (0..image.chunks.len()).rev().chain([0]) {
            image.submit(&installer, index);
        }
        let report = installer.finish(&expected).unwrap();
        assert_eq!(report.chunks as usize, image.chunks.len());
        let total = report.plain_bytes + report.free_bytes;
        assert_eq!(total as usize, image.disk.len());
        assert!(
            fs::read(&path).unwrap() == image.installed(free),
            "{free:?}"
        );
    }
}

#[test]
fn nothing_of_a_bad_chunk_is_written() {
    let image = Image::large();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let events = Arc::default();
    let installer = image.start(image.target(&path), FreeSpace::Skip, &events);
    // The last byte of the stream is one of its checksum: everything before is good.
    let mut bad = image.chunks[0].clone();
    let size = u32::from_le_bytes(bad[4..8].try_into().unwrap()) as usize;
    bad[ndz::HEADER_SIZE + size - 1] ^= 1;
    installer.submit_legacy(0, bad, image.spans[0]).unwrap();
    let shorter = Span {
        sectors: image.spans[0].sectors - 1,
        ..image.spans[0]
    };
    let good = || image.chunks[0].clone();
    installer.submit_legacy(0, good(), shorter).unwrap();
    installer.submit_legacy(1, good(), image.spans[1]).unwrap();
    installer.submit(0, good()).unwrap();
    let error = installer.finish(&image.checked()).unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
    let events = events.lock().unwrap();
    let refused = events
        .iter()
        .filter(|event| matches!(event, Event::Refused { .. }));
    assert_eq!(refused.count(), 4, "{events:?}");
    let mut expected = vec![DIRT; image.disk.len()];
    expected[..EDGE].fill(0);
    expected[image.disk.len() - EDGE..].fill(0);
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn what_was_not_checked_does_not_boot() {
    let image = Image::large();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let mut other: Vec<_> = image.index.roots().collect();
    other[0] = [0; 32];
    let too_few = Expected::Count(image.chunks.len() as u32 - 1);
    let too_many = Expected::Count(image.chunks.len() as u32 + 1);
    for expected in [Expected::Checked(other), too_few, too_many] {
        let installer = image.start(image.target(&path), FreeSpace::Skip, &Arc::default());
        for index in 0..image.chunks.len() {
            image.submit(&installer, index);
        }
        assert!(installer.finish(&expected).is_err(), "{expected:?}");
        let found = fs::read(&path).unwrap();
        let (head, tail) = (&found[..EDGE], &found[found.len() - EDGE..]);
        assert!(
            head.iter().chain(tail).all(|&byte| byte == 0),
            "{expected:?}"
        );
    }
}

/// In any order, a manifest says which chunk is which.
#[test]
fn chunks_that_the_manifest_does_not_mean() {
    let region = |first, sectors| ndz::Region { first, sectors };
    let short = Relocation {
        kind: SHORT_SECTOR,
        offset: 0,
        sector: 99,
        size: 7,
    };
    let image = Image::new(100, vec![region(10, 90)], vec![short]);
    let window = Window {
        bytes: 1 << 30,
        sector_size: 512,
        partition: None,
    };
    let check = |manifest: &chunkfmt::Manifest, sectors, window: &Window| {
        let legacy = Legacy::of_manifest(LegacyKeys::default(), manifest, sectors);
        legacy.check(0, &image.chunks[0], image.spans[0], window)
    };
    let manifest = image.index.finish("disk".into()).unwrap().manifest;
    check(&manifest, 100, &window).unwrap();
    let error = check(&manifest, 101, &window).unwrap_err();
    assert!(
        matches!(error, Error::Ndz(ndz::Error::AfterEnd { chunk: 0 })),
        "{error}"
    );
    let small = |bytes| Window { bytes, ..window };
    check(&manifest, 100, &small(99 * 512 + 7)).unwrap();
    let error = check(&manifest, 100, &small(99 * 512 + 6)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Beyond {
                chunk: 0,
                end: 50_695,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn relocations_that_are_not_known_are_told() {
    let region = |first, sectors| ndz::Region { first, sectors };
    let odd = Relocation {
        kind: 100,
        offset: 0,
        sector: 12,
        size: 5,
    };
    let image = Image::new(8192, vec![region(10, 90)], vec![odd]);
    let directory = tempfile::tempdir().unwrap();
    let events = Arc::default();
    let target = image.target(&directory.path().join("disk"));
    let installer = image.start(target, FreeSpace::Skip, &events);
    image.submit(&installer, 0);
    installer.finish(&image.count()).unwrap();
    let events = events.lock().unwrap();
    let told = |event: &Event| {
        matches!(
            event,
            Event::UnknownRelocation {
                index: 0,
                kind: 100
            }
        )
    };
    assert!(events.iter().any(told), "{events:?}");
}

/// An image made of an Emulab image keeps the exact length of a file.
#[test]
fn a_frz_image_with_a_short_last_sector() {
    let header = ImageHeader::new("file".into(), 1, 512, 100, None, None).unwrap();
    let mut sealer = Sealer::new(header, None, None, 1).unwrap();
    let region = Region {
        first: 0,
        sectors: 100,
    };
    let span = Span {
        first: 0,
        sectors: 100,
    };
    let mut layout = Layout::new(span, vec![region]);
    layout.relocations.push(Relocation {
        kind: SHORT_SECTOR,
        offset: 0,
        sector: 99,
        size: 7,
    });
    let data = vec![0x11; 100 * SECTOR];
    let mut chunk = Vec::new();
    sealer.seal(0, layout, &data, &mut chunk).unwrap();
    let trust = Trust::new(Vec::new(), true);
    let context = Arc::new(Context::new(sealer.header_bytes(), &trust, &[]).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new");
    let target = Target::open(&path, context.header()).unwrap();
    let options = InstallOptions::default();
    let installer = Installer::start(&Format::frz(&context), target, &options, |_| ()).unwrap();
    installer.submit(0, chunk).unwrap();
    installer.finish(&Expected::Count(1)).unwrap();
    assert!(fs::read(&path).unwrap() == data[..99 * SECTOR + 7]);
}
