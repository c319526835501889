//! `imageunzip` of an Emulab image.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use chunkfmt::LegacyIndex;
use frisbee_cli::policy::Keys;
use frisbee_cli::{Exit, Failure, Interrupt, confirm, say, units};
use ndz::{Header, Reader, Summary};
use serde_json::json;

use super::Legacy;
use super::examine::{examine, next};
use super::rules::end_of;
use crate::run::{Installation, Title};
use crate::source::Source;
use crate::unzip::Cli;
use crate::{Candidate, Expected, Format, Held, Target};

const SECTOR_SIZE: u32 = 512;
const UNTOUCHED: &str = "nothing was written";

/// What is known of an image before its target is touched.
struct Known {
    /// What it says of itself.
    title: Title,
    target: Target,
    /// Bytes of the image; `None` from a pipe.
    length: Option<u64>,
    /// Bytes of data; 0 from a pipe.
    total: u64,
    /// The chunks that were checked; `None` from a pipe.
    expected: Option<Expected<'static>>,
}

/// Installs an Emulab image.
pub(crate) fn run(
    cli: &Cli,
    source: &Source,
    keys: &Keys,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let name = source.name();
    let named = |failure: Failure| failure.context(&name);
    // What a signal makes fail is not the failure to tell.
    let untouched = |failure| interrupt.check(UNTOUCHED).err().unwrap_or(failure);
    cli.legacy.accept(&cli.trust).map_err(named)?;
    cli.wanted.check_legacy_file().map_err(named)?;
    if !cli.base.is_empty() {
        let message =
            "--base is for frz images: install the base of an Emulab delta, then the delta over it";
        return Err(named(Failure::new(Exit::Usage, message)));
    }
    let legacy = Arc::new(Legacy::new(cli.legacy.keys.load(keys)?));
    let candidate = Candidate::open(&cli.target)?;
    if candidate.holds_data() && !cli.install.dry_run {
        confirm::can_be_confirmed(&cli.target, cli.install.yes)?;
    }
    let open = || {
        let bytes = source.bytes(interrupt).map_err(ndz::Error::Read)?;
        Ok::<_, ndz::Error>(Reader::with_image_id(bytes, legacy.image_id()))
    };
    let mut reader;
    let (known, first) = match source.seekable() {
        Some(file) => {
            candidate.refuse_same_file(file)?;
            let reading = open().map_err(|error| named(error.into()))?;
            let known = look(cli, &name, reading, &legacy, candidate, interrupt);
            let known = known.map_err(untouched)?;
            reader = open().map_err(|error| named(error.into()))?;
            (known, None)
        }
        None => {
            let target = candidate.fit_length(SECTOR_SIZE, None)?;
            reader = open().map_err(|error| named(error.into()))?;
            // The first chunk tells what is wrong with keys and kind of image, so the target waits for it.
            let first = next(&mut reader)
                .map_err(|error| untouched(named(error.into())))?
                .ok_or_else(|| named(ndz::Error::Empty.into()))?;
            let (header, span) = &first;
            legacy
                .check(0, reader.bytes(), *span, &target.window())
                .map_err(|error| named(error.into()))?;
            let known = Known {
                title: title(&name, header),
                target,
                length: None,
                total: 0,
                expected: None,
            };
            (known, Some(first))
        }
    };
    if known.target.holds_data() && !cli.install.dry_run {
        let what = format!(
            "{} ({}, {}) onto {}",
            known.title.name,
            known.title.version,
            known.length.map_or("of unknown size".into(), units::size),
            cli.target.display()
        );
        confirm::confirm_destruction(&cli.target, &what, cli.install.yes, interrupt)?;
    }
    interrupt.check(UNTOUCHED)?;
    let installation = Installation {
        cli,
        source: name.clone(),
        title: known.title,
        format: Format::Ndz(legacy),
        target: known.target,
        total: known.total,
        held: Held::default(),
        interrupt,
    };
    let expected = known.expected;
    let mut first = first;
    installation.run(|feed| {
        loop {
            feed.check()?;
            let found = match first.take() {
                Some(first) => Some(first),
                None => next(&mut reader)?,
            };
            let Some((header, span)) = found else {
                break;
            };
            let mut chunk = feed.installer.buffer();
            chunk.clear();
            chunk.extend_from_slice(reader.bytes());
            feed.taken(feed.installer.submit_legacy(header.index, chunk, span))?;
        }
        let summary = reader.finish()?;
        if expected.is_none() {
            warn(&name, &summary);
        }
        Ok(expected.unwrap_or(Expected::Count(summary.chunks)))
    })
}

/// Checks a file from beginning to end, and whether it fits.
fn look<R: Read>(
    cli: &Cli,
    name: &str,
    reader: Reader<R>,
    legacy: &Legacy,
    candidate: Candidate,
    interrupt: &Interrupt,
) -> Result<Known, Failure> {
    let mut index = LegacyIndex::default();
    let (mut length, mut title_of) = (0, None);
    let window = candidate.window(SECTOR_SIZE);
    let summary = examine(
        reader,
        cli.install.options(0).threads,
        interrupt,
        |raw| {
            let plain_bytes = raw.header.sectors() * u64::from(SECTOR_SIZE);
            index.add(raw.bytes, raw.span, plain_bytes);
            length = end_of(raw.header, raw.span).max(length);
            title_of.get_or_insert_with(|| title(name, raw.header));
        },
        |number, span, bytes| legacy.check(number, bytes, span, &window),
    )
    .map_err(|failure| failure.context(name))?;
    warn(name, &summary);
    let title = title_of.ok_or_else(|| Failure::from(ndz::Error::Empty).context(name))?;
    Ok(Known {
        title,
        target: candidate.fit_length(SECTOR_SIZE, Some(length))?,
        length: Some(length),
        total: index.plain_bytes(),
        expected: Some(Expected::Checked(index.roots().collect())),
    })
}

fn title(source: &str, header: &Header) -> Title {
    let stem = Path::new(source).file_stem().unwrap_or_default();
    let version = header.version.number();
    Title {
        name: stem.to_string_lossy().into_owned(),
        version: format!("Emulab image, version {version}"),
        fields: json!({
            "format": "ndz", "version": version, "image_id": header.image_id.map(|id| id.to_string()),
        }),
    }
}

/// Tells what cannot be known of an image of this format.
pub(super) fn warn(name: &str, summary: &Summary) {
    if summary.maybe_cut {
        say(&format!(
            "imageunzip: warning: {name}: the last chunk is full: the image may have been cut behind it"
        ));
    }
}
