//! The install pipeline: chunks in any order, more than once, some of them bad; disks that do not fit.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex};

use chunkfmt::{
    ChunkEntry, ContentKey, Context, ImageHeader, ImageIndex, Layout, Region, Sealed, Sealer,
    SigningKey, Span, Trust,
};
use imageunzip::{
    Error, Event, Expected, Format, FreeSpace, InstallOptions, Installer, Report, Target,
};

const SECTOR: usize = 512;
const SPAN: u64 = 1000;
const EDGE: usize = 1 << 20;

/// An image of a disk of `sectors` sectors: in each span of 1000 the first 600 sectors are in use.
struct Image {
    context: Arc<Context>,
    chunks: Vec<Vec<u8>>,
    entries: Vec<ChunkEntry>,
    disk: Vec<u8>,
}

impl Image {
    fn new(sectors: u64) -> Self {
        let disk: Vec<u8> = (0..sectors as usize * SECTOR)
            .map(|i| (i / 100 + i % 7 + 1) as u8 | 1)
            .collect();
        let (key, signer) = (
            ContentKey::generate().unwrap(),
            Arc::new(SigningKey::generate().unwrap()),
        );
        let header =
            ImageHeader::new("disk".into(), 1, 512, sectors, Some(&key), Some(&signer)).unwrap();
        let trust = Trust::new(vec![signer.verifying_key()], false);
        let mut sealer = Sealer::new(header, Some(&key), Some(signer), 1).unwrap();
        let (mut chunks, mut sealed) = (Vec::new(), Vec::new());
        for (index, first) in (0..).zip((0..sectors).step_by(SPAN as usize)) {
            let span = Span {
                first,
                sectors: SPAN.min(sectors - first),
            };
            let region = Region {
                first,
                sectors: span.sectors.min(600) as u32,
            };
            let data = &disk[first as usize * SECTOR..region.end() as usize * SECTOR];
            let mut chunk = Vec::new();
            let layout = Layout::new(span, vec![region]);
            sealed.push(sealer.seal(index, layout, data, &mut chunk).unwrap());
            chunks.push(chunk);
        }
        let context = Arc::new(Context::new(sealer.header_bytes(), &trust, &[key]).unwrap());
        Self {
            context,
            entries: entries(&sealer, &chunks, &sealed),
            chunks,
            disk,
        }
    }

    /// What a target holds after an installation if it held `before`.
    fn installed(&self, before: u8, free: FreeSpace) -> Vec<u8> {
        let free = if free == FreeSpace::Zero { 0 } else { before };
        let in_use = |at: usize| (at / SECTOR) as u64 % SPAN < 600;
        let edge = |at: usize| at < EDGE || at >= self.disk.len() - EDGE;
        let byte = |(at, &byte): (usize, &u8)| match (in_use(at), edge(at)) {
            (true, _) => byte,
            // Free space at the ends, where partition tables are, is always cleared.
            (false, true) => 0,
            (false, false) => free,
        };
        self.disk.iter().enumerate().map(byte).collect()
    }

    fn start(&self, path: &Path, free: FreeSpace, events: &Arc<Mutex<Vec<Event>>>) -> Installer {
        let target = Target::open(path, self.context.header()).unwrap();
        let options = InstallOptions {
            verify: true,
            free,
            threads: 2,
            queue: None,
            ahead: 1,
        };
        let events = Arc::clone(events);
        Installer::start(
            &Format::frz(&self.context),
            target,
            &options,
            move |event| {
                events.lock().unwrap().push(event);
            },
        )
        .unwrap()
    }

    fn install(&self, path: &Path, free: FreeSpace, order: &[usize]) -> Result<Report, Error> {
        let installer = self.start(path, free, &Arc::default());
        for &index in order {
            installer
                .submit(index as u32, self.chunks[index].clone())
                .unwrap();
        }
        installer.finish(&Expected::Manifest((&self.entries).into()))
    }
}

/// What the manifest of these chunks says of them.
fn entries(sealer: &Sealer, chunks: &[Vec<u8>], sealed: &[Sealed]) -> Vec<ChunkEntry> {
    let mut image = sealer.header_bytes().to_vec();
    image.extend(chunks.concat());
    image.extend(sealer.finish(sealed).unwrap());
    let index = ImageIndex::read(&mut Cursor::new(image), None).unwrap();
    index.manifest.entries
}

fn dirty(path: &Path, bytes: usize) {
    fs::write(path, vec![0xDD; bytes]).unwrap();
}

#[test]
fn any_order_and_copies_give_the_disk() {
    let image = Image::new(10_500);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let last = image.chunks.len() - 1;
    let backwards: Vec<usize> = (0..=last).rev().collect();
    let twice: Vec<usize> = (0..=last).chain((0..=last).rev()).collect();
    for order in [backwards, twice] {
        for free in [FreeSpace::Skip, FreeSpace::Zero] {
            dirty(&path, image.disk.len());
            let report = image.install(&path, free, &order).unwrap();
            assert_eq!(report.chunks as usize, image.chunks.len());
            assert_eq!(
                (report.plain_bytes + report.free_bytes) as usize,
                image.disk.len()
            );
            assert!(
                fs::read(&path).unwrap() == image.installed(0xDD, free),
                "{free:?}, {order:?}"
            );
        }
    }
}

#[test]
fn a_new_file_is_made_and_a_larger_one_keeps_its_size() {
    let image = Image::new(10_000);
    let all: Vec<usize> = (0..image.chunks.len()).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new");
    image.install(&path, FreeSpace::Skip, &all).unwrap();
    assert!(fs::read(&path).unwrap() == image.installed(0, FreeSpace::Skip));

    let larger = directory.path().join("larger");
    for free in [FreeSpace::Skip, FreeSpace::Zero] {
        dirty(&larger, image.disk.len() + 4 * EDGE);
        image.install(&larger, free, &all).unwrap();
        let bytes = fs::read(&larger).unwrap();
        assert_eq!(bytes.len(), image.disk.len() + 4 * EDGE);
        assert!(bytes[..image.disk.len()] == image.installed(0xDD, free));
        let (behind, end) = bytes[image.disk.len()..].split_at(3 * EDGE);
        let expected = if free == FreeSpace::Zero { 0 } else { 0xDD };
        assert!(
            behind.iter().all(|&byte| byte == expected),
            "behind the disk, {free:?}"
        );
        assert!(
            end.iter().all(|&byte| byte == 0),
            "the backup of the old partition table"
        );
    }
}

#[test]
fn without_all_chunks_the_ends_of_the_disk_stay_empty() {
    let image = Image::new(3000);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let ends_empty = || {
        let bytes = fs::read(&path).unwrap();
        let (head, tail) = (&bytes[..EDGE], &bytes[bytes.len() - EDGE..]);
        let (note, head) = head.split_at(512);
        let what = image.context.header().uuid().to_string();
        head.iter().chain(tail).all(|&byte| byte == 0)
            && note.ends_with(&[0; 128])
            && String::from_utf8_lossy(note).contains(&what)
    };
    dirty(&path, image.disk.len());
    let error = image.install(&path, FreeSpace::Skip, &[2, 0]).unwrap_err();
    assert!(matches!(error, Error::Incomplete { missing: 1 }), "{error}");
    assert!(ends_empty());

    dirty(&path, image.disk.len());
    let installer = image.start(&path, FreeSpace::Skip, &Arc::default());
    for (index, chunk) in (0..).zip(&image.chunks) {
        installer.submit(index, chunk.clone()).unwrap();
    }
    assert!(installer.abort().is_none());
    assert!(ends_empty(), "aborted");

    let new = directory.path().join("new");
    image.install(&new, FreeSpace::Skip, &[0]).unwrap_err();
    assert!(
        !new.exists(),
        "a file that was made for the installation is removed"
    );
}

#[test]
fn a_bad_chunk_is_refused_and_a_good_copy_taken() {
    let image = Image::new(3000);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    dirty(&path, image.disk.len());
    let events = Arc::default();
    let installer = image.start(&path, FreeSpace::Skip, &events);
    let mut bad = image.chunks[1].clone();
    bad[1500] ^= 1;
    installer.submit(1, bad).unwrap();
    installer.submit(1, image.chunks[0].clone()).unwrap();
    installer.submit(1, Vec::new()).unwrap();
    for (index, chunk) in (0..).zip(&image.chunks) {
        installer.submit(index, chunk.clone()).unwrap();
    }
    installer
        .finish(&Expected::Manifest((&image.entries).into()))
        .unwrap();
    let events = events.lock().unwrap();
    let refused = events
        .iter()
        .filter(|event| matches!(event, Event::Refused { index: 1, .. }))
        .count();
    assert_eq!(refused, 3, "{events:?}");
    assert!(fs::read(&path).unwrap() == image.installed(0xDD, FreeSpace::Skip));
}

#[test]
fn targets_that_do_not_fit_are_refused_untouched() {
    let image = Image::new(3000);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let refuse = |path: &Path| {
        Target::open(path, image.context.header())
            .map(|_| ())
            .unwrap_err()
    };
    dirty(&path, image.disk.len() - 1);
    assert!(matches!(refuse(&path), Error::Larger { .. }));
    assert!(fs::read(&path).unwrap().iter().all(|&byte| byte == 0xDD));

    dirty(&path, image.disk.len());
    let held = File::open(&path).unwrap();
    held.try_lock().unwrap();
    assert!(matches!(refuse(&path), Error::InUse { .. }));
    drop(held);

    assert!(matches!(refuse(directory.path()), Error::Kind { .. }));
    assert!(matches!(refuse(Path::new("/dev/null")), Error::Kind { .. }));
    assert!(matches!(
        refuse(&directory.path().join("no/such/directory")),
        Error::Open { .. }
    ));
}
