//! One partition of an image of a whole disk, onto a partition or into a file.
//!
//! The partition table is in the image's own chunks. Of the chunks that touch the partition, what lies inside is written,
//! as many sectors further to the front as the partition lies behind the beginning of the disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use chunkfmt::{Context, Error, ImageIndex, Layout, Opener, Region, Span, Trust};
use diskmap::ReadAt;
use frisbee_cli::policy::Keys;
use frisbee_cli::{Exit, Failure, Interrupt, confirm, units};
use serde_json::json;

use crate::contents::{Contents, Held};
use crate::direct::Aligned;
use crate::run::{Installation, Title};
use crate::source::{Source, check_file};
use crate::unzip::Cli;
use crate::{Candidate, Expected, Format};

/// Installs partition `number` of an image file.
///
/// # Errors
/// Why it is not on the target.
pub(crate) fn run(
    cli: &Cli,
    source: &Source,
    number: u32,
    trust: &Trust,
    keys: &Keys,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let name = source.name();
    let named = |failure: Failure| failure.context(&name);
    let usage = |message: &str| named(Failure::new(Exit::Usage, message));
    let Some(file) = source.seekable() else {
        return Err(usage("is a pipe: --partition needs a file"));
    };
    let bad = |error: Error| named(error.into());
    let reader = source.reader(trust, interrupt).map_err(bad)?;
    let context = Arc::new(keys.context(reader.header_bytes(), trust).map_err(named)?);
    drop(reader);
    let header = context.header();
    cli.wanted.check(header).map_err(bad)?;
    if header.base.is_some() {
        return Err(usage(
            "is a delta: make a full image of it first (imagezip --from)",
        ));
    }
    let candidate = Candidate::open(&cli.target)?;
    candidate.refuse_same_file(file)?;
    for path in cli.trust.trust.iter().chain(cli.keys.files()) {
        if let Ok(file) = File::open(path) {
            candidate.refuse_same_file(&file)?;
        }
    }
    let destroys = candidate.holds_data() && !cli.install.dry_run;
    if destroys {
        confirm::can_be_confirmed(&cli.target, cli.install.yes)?;
    }
    let threads = cli.install.options(0).threads;
    let index = check_file(file, &context, trust, threads, interrupt).map_err(named)?;
    let contents = Contents::new(&context, index.manifest.clone()).map_err(bad)?;
    let disk = ImageDisk::new(file, &index, &contents, &context).map_err(bad)?;
    let extent = diskmap::locate(&disk, header.sector_size, number)
        .map_err(|error| named(Failure::new(Exit::Input, error)))?;
    let part = extent.first..extent.end();
    let bytes = extent.count * u64::from(header.sector_size);
    let target = candidate.fit_length(header.sector_size, Some(bytes))?;

    let needed: Vec<bool> = contents
        .secrets
        .iter()
        .map(|secret| touches(secret.layout.span, &part))
        .collect();
    let total = contents
        .secrets
        .iter()
        .map(|secret| sectors_inside(&secret.layout, &part) * u64::from(header.sector_size))
        .sum();
    let title = Title {
        name: format!("partition {number} of {}", header.name),
        version: format!("epoch {}", header.epoch()),
        fields: json!({
            "uuid": header.uuid().to_string(), "epoch": header.epoch(), "partition": number,
            "first_sector": extent.first, "sectors": extent.count,
        }),
    };
    if destroys {
        let what = format!(
            "{} ({}) onto {}",
            title.name,
            units::size(bytes),
            cli.target.display()
        );
        confirm::confirm_destruction(&cli.target, &what, cli.install.yes, interrupt)?;
    }
    interrupt.check("nothing was written")?;
    let installation = Installation {
        cli,
        source: name.clone(),
        title,
        format: Format::Frz {
            context: Arc::clone(&context),
            bases: Vec::new(),
            part: Some(part),
        },
        target,
        total,
        held: Held::default(),
        interrupt,
    };
    installation.run(|feed| {
        for (number, _) in (0..).zip(&needed).filter(|(_, needed)| **needed) {
            feed.check()?;
            let Some((offset, length)) = index.chunk(number) else {
                continue;
            };
            let mut chunk = feed.installer.buffer();
            chunk.resize(length, 0);
            file.read_exact_at(&mut chunk, offset)
                .map_err(|source| Error::Io { offset, source })?;
            feed.taken(feed.installer.submit(number, chunk))?;
        }
        let entries = contents.manifest.entries.clone();
        Ok(Expected::Part { entries, needed })
    })
}

fn touches(span: Span, part: &Range<u64>) -> bool {
    span.first < part.end && part.start < span.end()
}

fn sectors_inside(layout: &Layout, part: &Range<u64>) -> u64 {
    let inside = layout.regions.iter().map(|region| {
        let end = region.end().min(part.end);
        end.saturating_sub(region.first.max(part.start))
    });
    inside.sum()
}

/// Cuts a chunk down to a part of its disk, of which it becomes a chunk. `data` holds the regions' sectors.
pub(crate) fn clip(layout: &mut Layout, data: &mut Aligned, part: &Range<u64>, sector_size: u32) {
    let inside = |first: u64, end: u64| first.max(part.start)..end.min(part.end);
    let mut before = 0;
    let mut kept = 0;
    layout.regions.retain_mut(|region| {
        let range = inside(region.first, region.end());
        if range.is_empty() {
            if region.first < part.start {
                before += u64::from(region.sectors);
            }
            return false;
        }
        before += range.start - region.first;
        let sectors = range.end - range.start;
        kept += sectors;
        *region = Region {
            first: range.start - part.start,
            // Not more than it was.
            sectors: u32::try_from(sectors).unwrap_or(region.sectors),
        };
        true
    });
    let bytes =
        |sectors: u64| usize::try_from(sectors * u64::from(sector_size)).unwrap_or(usize::MAX);
    data.keep(bytes(before), bytes(kept));
    layout.relocations.retain_mut(|relocation| {
        let is_inside = part.contains(&relocation.sector);
        relocation.sector = relocation.sector.saturating_sub(part.start);
        is_inside
    });
    let span = inside(layout.span.first, layout.span.end());
    layout.span = match span.is_empty() {
        true => Span::default(),
        false => Span {
            first: span.start - part.start,
            sectors: span.end - span.start,
        },
    };
}

/// The disk in an image file that was checked. Free space is zeros.
pub(crate) struct ImageDisk<'a> {
    file: &'a File,
    index: &'a ImageIndex,
    contents: &'a Contents,
    sector_size: u32,
    sectors: u64,
    state: Mutex<State>,
}

struct State {
    opener: Opener,
    chunk: Vec<u8>,
    /// The chunk that was opened last.
    opened: Option<(u32, Layout, Vec<u8>)>,
}

impl<'a> ImageDisk<'a> {
    pub(crate) fn new(
        file: &'a File,
        index: &'a ImageIndex,
        contents: &'a Contents,
        context: &Arc<Context>,
    ) -> Result<Self, Error> {
        let header = context.header();
        Ok(Self {
            file,
            index,
            contents,
            sector_size: header.sector_size,
            sectors: header.disk_sectors,
            state: Mutex::new(State {
                opener: Opener::new(Arc::clone(context))?,
                chunk: Vec::new(),
                opened: None,
            }),
        })
    }

    /// Copies to `buffer`, which stands at `offset`, what a chunk has of it.
    fn copy(&self, number: u32, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            opener,
            chunk,
            opened,
        } = &mut *state;
        if opened.as_ref().is_none_or(|(open, ..)| *open != number) {
            let Some((at, length)) = self.index.chunk(number) else {
                return Ok(());
            };
            chunk.resize(length, 0);
            self.file.read_exact_at(chunk, at)?;
            let (mut layout, mut data) = (Layout::default(), Vec::new());
            opener
                .open(number, chunk, self.sectors, &mut layout, &mut data)
                .map_err(io::Error::other)?;
            *opened = Some((number, layout, data));
        }
        let Some((_, layout, data)) = opened else {
            return Ok(());
        };
        let end = offset + buffer.len() as u64;
        let sector_size = u64::from(self.sector_size);
        let mut at = 0;
        for region in &layout.regions {
            let (first, behind) = (region.first * sector_size, region.end() * sector_size);
            let range = first.max(offset)..behind.min(end);
            let place = |base: u64, position: u64| usize::try_from(position - base).ok();
            if !range.is_empty()
                && let Some(to) = place(offset, range.start).zip(place(offset, range.end))
                && let Some(from) = place(first, range.start + at).zip(place(first, range.end + at))
                && let Some(to) = buffer.get_mut(to.0..to.1)
                && let Some(from) = data.get(from.0..from.1)
            {
                to.copy_from_slice(from);
            }
            at += behind - first;
        }
        Ok(())
    }
}

impl ReadAt for ImageDisk<'_> {
    fn size(&self) -> u64 {
        self.sectors * u64::from(self.sector_size)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        let end = end.filter(|&end| end <= self.size());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.fill(0);
        let sector_size = u64::from(self.sector_size);
        let wanted = offset / sector_size..end.div_ceil(sector_size);
        let secrets = &self.contents.secrets;
        // The spans tile the disk.
        let from = secrets.partition_point(|secret| secret.layout.span.end() <= wanted.start);
        let number = u32::try_from(from).map_err(io::Error::other)?;
        let there = (number..).zip(secrets.iter().skip(from));
        for (number, _) in there.take_while(|(_, secret)| touches(secret.layout.span, &wanted)) {
            self.copy(number, buffer, offset)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Sector by sector, a clipped chunk holds what the chunk has inside.
        #[test]
        fn a_clipped_chunk_holds_what_is_inside(
            first in 0_u64..50, steps in proptest::collection::vec((0_u64..8, 1_u32..8), 0..10), tail in 0_u64..8,
            start in 0_u64..120, length in 1_u64..120,
        ) {
            let mut position = first;
            let regions: Vec<Region> = steps.iter().map(|&(gap, sectors)| {
                let region = Region { first: position + gap, sectors };
                position = region.end();
                region
            }).collect();
            let span = Span { first, sectors: position - first + tail };
            let sectors = |layout: &Layout| -> Vec<u64> {
                layout.regions.iter().flat_map(|region| region.first..region.end()).collect()
            };
            let mut layout = Layout::new(span, regions);
            let held = sectors(&layout);
            // Each sector is filled with its number.
            let bytes: Vec<u8> = held.iter().flat_map(|&sector| [sector.to_le_bytes()[0]; 512]).collect();
            let mut data = Aligned::default();
            data.extend_from_slice(&bytes);
            let part = start..start + length;
            clip(&mut layout, &mut data, &part, 512);
            let inside: Vec<u64> = held.into_iter().filter(|sector| part.contains(sector)).collect();
            let expected: Vec<u8> = inside.iter().flat_map(|&sector| [sector.to_le_bytes()[0]; 512]).collect();
            prop_assert_eq!(&*data, &expected);
            let shifted: Vec<u64> = inside.iter().map(|sector| sector - start).collect();
            prop_assert_eq!(sectors(&layout), shifted);
            let all = (span.first..span.end()).filter(|sector| part.contains(sector)).count();
            prop_assert_eq!(layout.span.sectors, all as u64);
            prop_assert!(layout.span.end() <= length);
        }
    }
}
