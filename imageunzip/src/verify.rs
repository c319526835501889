//! `imagedump --verify` and `--against`: is an image what its owner signed, and a disk what the image says?

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use chunkfmt::parity::ParityEncoder;
use chunkfmt::{
    ChunkEntry, ChunkHeader, ChunkSecret, Error, ImageIndex, Layout, Manifest, Opener, Part, Trust,
};
use frisbee_cli::policy::Keys;
use frisbee_cli::{Exit, Failure, Interrupt, units};
use serde_json::json;

use crate::compare::Comparison;
use crate::dump::{Cli, print};
use crate::readback::{Readback, Room};
use crate::source::{Source, check_chunk, each_chunk};

impl Cli {
    /// Threads to check with.
    pub(crate) fn thread_count(&self) -> usize {
        self.threads.map_or_else(
            || thread::available_parallelism().map_or(1, usize::from),
            usize::from,
        )
    }

    /// Verifies an image file.
    pub(crate) fn verify(
        &self,
        source: &Source,
        trust: &Trust,
        keys: &Keys,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let (mut file, index) = open(source, trust)?;
        let context = Arc::new(keys.context_without_key(&index.manifest_object, trust)?);
        let readable = context.can_open();
        if self.deep && !readable {
            return Err(Error::KeyMissing.into());
        }
        let secrets = match readable {
            true => context.secrets(&index.manifest)?,
            false => Vec::new(),
        };
        let bad: Mutex<Vec<Error>> = Mutex::default();
        let bytes = AtomicU64::new(0);
        let state = || -> Result<_, Error> {
            let opener = match self.deep {
                true => Some(Opener::new(Arc::clone(&context))?),
                false => None,
            };
            Ok((ParityEncoder::default(), opener))
        };
        let each = |(parity, opener): &mut (ParityEncoder, Option<Opener>),
                    number,
                    chunk: &mut Vec<u8>| {
            let checked = check_chunk(&context, &index.manifest, number, chunk)
                .and_then(|()| check_parity(parity, &index.manifest, number, chunk))
                .and_then(|()| ChunkHeader::parse(chunk, number))
                .and_then(|header| {
                    let same = |secret: &ChunkSecret| secret.plain_hash == header.plain_hash;
                    check_secret(&secrets, number, same)
                })
                .and_then(|()| match opener {
                    Some(opener) => {
                        let (mut layout, mut data) = (Layout::default(), Vec::new());
                        let window = context.header().disk_sectors;
                        opener.open(number, chunk, window, &mut layout, &mut data)?;
                        check_secret(&secrets, number, |secret| secret.layout == layout)
                    }
                    None => Ok(()),
                });
            if let Err(error) = checked {
                let mut bad = bad.lock().unwrap_or_else(PoisonError::into_inner);
                bad.push(error);
            }
            bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            Ok(())
        };
        each_chunk(&file, &index, self.thread_count(), interrupt, state, each)?;
        // The index was read at first: what is not a chunk is still the same.
        if ImageIndex::read(&mut file, Some(trust))?.manifest_object != index.manifest_object {
            return Err(Failure::new(Exit::Input, "was changed while it was read"));
        }
        let bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        let chunks = index
            .manifest
            .entries
            .iter()
            .filter(|entry| entry.is_present())
            .count();
        let signed = context.is_verified();
        print(|out| {
            if self.json {
                let document = json!({
                    "verified": bad.is_empty(), "signature_checked": signed, "tiling_checked": readable,
                    "deep": self.deep, "chunks": chunks, "bytes": bytes.load(Ordering::Relaxed),
                    "bad": bad.iter().map(ToString::to_string).collect::<Vec<_>>(),
                });
                return writeln!(out, "{document:#}");
            }
            for error in &bad {
                writeln!(out, "{error}")?;
            }
            if bad.is_empty() {
                let bytes = bytes.load(Ordering::Relaxed);
                let time = start.elapsed();
                let checked = [
                    Some(if signed {
                        "signatures"
                    } else {
                        "no signatures (unsigned)"
                    }),
                    Some("roots of chunks and parity"),
                    readable.then_some("tiling"),
                    self.deep.then_some("data"),
                ];
                let checked: Vec<_> = checked.into_iter().flatten().collect();
                writeln!(
                    out,
                    "{}: right: {chunks} chunks, {}, {:.2} s, {}; checked: {}",
                    source.name(),
                    units::size(bytes),
                    time.as_secs_f64(),
                    units::throughput(bytes, time),
                    checked.join(", "),
                )?;
            }
            Ok(())
        })?;
        match bad.into_iter().next() {
            Some(first) => Err(first.into()),
            None => Ok(()),
        }
    }

    /// Compares a disk with an image file.
    pub(crate) fn compare(
        &self,
        source: &Source,
        disk_path: &Path,
        trust: &Trust,
        keys: &Keys,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let (file, index) = open(source, trust)?;
        let context = Arc::new(keys.context(&index.manifest_object, trust)?);
        let header = context.header();
        let secrets = context.secrets(&index.manifest)?;
        let disk_name = disk_path.display().to_string();
        let input = |error| Failure::new(Exit::Input, error).context(&disk_name);
        // Before it is opened: a named pipe would wait for a writer.
        let kind = fs::metadata(disk_path).map_err(input)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let message = "is neither a disk nor a file: what is on it cannot be compared";
            return Err(Failure::new(Exit::Input, message).context(disk_name));
        }
        let disk = File::open(disk_path).map_err(input)?;
        let all: Vec<u32> = (0..index.manifest.head.chunks).collect();
        let start = Instant::now();
        let bytes = AtomicU64::new(0);
        let advance = |count| {
            bytes.fetch_add(count, Ordering::Relaxed);
        };
        let disk = Readback::new(&disk).map_err(input)?;
        let disk = disk.showing_image(header.sector_size, header.disk_bytes());
        let comparison = Comparison {
            disk: &disk,
            context: &context,
            secrets: &secrets,
            threads: self.thread_count(),
            interrupt,
            unreadable_differs: false,
        };
        let wrong = comparison.differing(&all, &advance)?;
        let mut room = Room::default();
        let mut opener = Opener::new(Arc::clone(&context))?;
        let mut ranges = Ranges::default();
        for number in wrong {
            interrupt.check("nothing was changed")?;
            let place = usize::try_from(number).ok();
            let Some(secret) = place.and_then(|place| secrets.get(place)) else {
                continue;
            };
            let sector_size = header.sector_size;
            match index.chunk(number) {
                Some((offset, length)) => {
                    let mut chunk = vec![0; length];
                    let read = file.read_exact_at(&mut chunk, offset);
                    read.map_err(|source| Error::Io { offset, source })?;
                    let (mut layout, mut data, mut found) =
                        (Layout::default(), Vec::new(), Vec::new());
                    opener.open(
                        number,
                        &mut chunk,
                        header.disk_sectors,
                        &mut layout,
                        &mut data,
                    )?;
                    match disk.read_regions(&layout, sector_size, &mut found, &mut room) {
                        Ok(()) => ranges.add_difference(&layout, sector_size, &data, &found),
                        // The disk ends before the image does.
                        Err(_) => ranges.add_regions(&layout),
                    }
                }
                // Left out of a delta: which sectors differ cannot be told.
                None => ranges.add_regions(&secret.layout),
            }
        }
        let bytes = bytes.into_inner();
        let time = start.elapsed();
        print(|out| {
            if self.json {
                let document = json!({
                    "same": ranges.0.is_empty(), "compared_bytes": bytes,
                    "differing_sectors": ranges.sectors(), "ranges": ranges.0,
                });
                return writeln!(out, "{document:#}");
            }
            for (first, sectors) in &ranges.0 {
                let last = first + sectors - 1;
                writeln!(out, "differs: sectors {first} to {last} ({sectors})")?;
            }
            if ranges.0.is_empty() {
                writeln!(
                    out,
                    "{disk_name}: holds image {} (epoch {}): {} compared, {:.2} s, {}",
                    header.name,
                    header.epoch(),
                    units::size(bytes),
                    time.as_secs_f64(),
                    units::throughput(bytes, time),
                )?;
            }
            Ok(())
        })?;
        if ranges.0.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{disk_name} is not what the image says: {} sectors in {} ranges differ",
            ranges.sectors(),
            ranges.0.len()
        );
        Err(Failure::new(Exit::Verification, message))
    }
}

/// The file of an image, and its index.
fn open(source: &Source, trust: &Trust) -> Result<(File, ImageIndex), Failure> {
    let Some(file) = source.seekable() else {
        let message = "is a pipe: name a file";
        return Err(Failure::new(Exit::Usage, message));
    };
    let mut file = file
        .try_clone()
        .map_err(|error| Failure::new(Exit::Io, error))?;
    let index = ImageIndex::read(&mut file, Some(trust))?;
    Ok((file, index))
}

fn check_parity(
    parity: &mut ParityEncoder,
    manifest: &Manifest,
    number: u32,
    chunk: &[u8],
) -> Result<(), Error> {
    let entry = usize::try_from(number)
        .ok()
        .and_then(|number| manifest.entries.get(number));
    let entry = entry.copied().unwrap_or_else(ChunkEntry::default);
    match parity.root(chunk, entry.parity_blocks)? == entry.parity_root {
        true => Ok(()),
        false => Err(Error::Parity {
            part: Part::Chunk(number),
        }),
    }
}

/// Compares a chunk with what the manifest's private part says of it; with nothing if that cannot be read.
fn check_secret(
    secrets: &[ChunkSecret],
    number: u32,
    same: impl FnOnce(&ChunkSecret) -> bool,
) -> Result<(), Error> {
    let place = usize::try_from(number).ok();
    match place.and_then(|place| secrets.get(place)).is_none_or(same) {
        true => Ok(()),
        false => Err(Error::NotInManifest {
            part: Part::Chunk(number),
        }),
    }
}

/// Runs of sectors, ascending; runs that touch become one.
#[derive(Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn add(&mut self, first: u64, sectors: u64) {
        match self.0.last_mut() {
            Some((start, count)) if *start + *count == first => *count += sectors,
            _ => self.0.push((first, sectors)),
        }
    }

    fn add_regions(&mut self, layout: &Layout) {
        for region in &layout.regions {
            self.add(region.first, u64::from(region.sectors));
        }
    }

    fn add_difference(&mut self, layout: &Layout, sector_size: u32, wanted: &[u8], found: &[u8]) {
        let sectors = layout
            .regions
            .iter()
            .flat_map(|region| region.first..region.end());
        let size = sector_size as usize;
        for ((sector, wanted), found) in sectors.zip(wanted.chunks(size)).zip(found.chunks(size)) {
            if wanted != found {
                self.add(sector, 1);
            }
        }
    }

    fn sectors(&self) -> u64 {
        self.0.iter().map(|(_, sectors)| sectors).sum()
    }
}
