//! `imagedump` of an Emulab image: what it is, and with `--verify` what of it can be checked.

use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use chunkfmt::Span;
use frisbee_cli::policy::Keys;
use frisbee_cli::{Exit, Failure, Interrupt, units};
use ndz::{Checksum, Chunk, Cipher, Header, Integrity, Place, Reader, SECTOR_SIZE, Summary};
use serde_json::{Value, json};

use super::Legacy;
use super::examine::{Raw, examine};
use crate::Error;
use crate::dump::{Cli, print};
use crate::source::Source;

const PROTECTION: &str =
    "weak: whoever had the file may have changed it; convert it (imagezip --from) and sign it";

/// What is shown of a chunk.
struct Row {
    /// Its lists are empty unless they are shown: a large image has many chunks.
    header: Header,
    span: Span,
    regions: usize,
    relocations: usize,
    plain_bytes: u64,
}

impl Row {
    fn new(raw: &Raw<'_>, with_lists: bool) -> Self {
        let mut header = raw.header.clone();
        let (regions, relocations) = (header.regions.len(), header.relocations.len());
        let plain_bytes = header.sectors() * SECTOR_SIZE as u64;
        if !with_lists {
            header.regions = Vec::new();
            header.relocations = Vec::new();
        }
        Self {
            header,
            span: raw.span,
            regions,
            relocations,
            plain_bytes,
        }
    }
}

/// What is shown of an image.
struct Contents {
    summary: Summary,
    chunks: Vec<Row>,
}

/// Shows or verifies an Emulab image.
pub(crate) fn run(
    cli: &Cli,
    source: &Source,
    keys: &Keys,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    if cli.against.is_some() {
        let message = "--against compares with frz images: convert this one with imagezip --from";
        return Err(Failure::new(Exit::Usage, message));
    }
    if cli.verify {
        // Who asks whether this is what an owner signed is not to hear yes.
        cli.legacy.accept(&cli.trust)?;
    }
    let legacy = Legacy::new(cli.legacy.keys.load(keys)?);
    let bytes = source.bytes(interrupt).map_err(ndz::Error::Read)?;
    let reader = Reader::with_image_id(bytes, legacy.image_id());
    match cli.verify {
        true => verify(cli, source, reader, &legacy, interrupt),
        false => show(cli, reader, &legacy, interrupt),
    }
}

/// Reads all headers, and checks the chunks on all threads.
fn read<R: Read>(
    cli: &Cli,
    reader: Reader<R>,
    interrupt: &Interrupt,
    check: impl Fn(u32, Span, &[u8]) -> Result<(), Error> + Sync,
) -> Result<Contents, Failure> {
    let mut chunks = Vec::new();
    let with_lists = cli.ranges || cli.json;
    let each = |raw: &Raw<'_>| chunks.push(Row::new(raw, with_lists));
    let summary = examine(reader, cli.thread_count(), interrupt, each, check)?;
    Ok(Contents { summary, chunks })
}

fn show<R: Read>(
    cli: &Cli,
    reader: Reader<R>,
    legacy: &Legacy,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let contents = read(cli, reader, interrupt, |index, _, bytes| {
        legacy.verify(&Chunk::parse(index, bytes)?)?;
        Ok(())
    })?;
    print(|out| match cli.json {
        true => writeln!(out, "{:#}", contents.document()),
        false => contents.text(out, cli.ranges),
    })
}

/// What was found out about the chunks.
#[derive(Default)]
struct Findings {
    bad: Vec<Error>,
    /// Number of chunks with a right signature, with a right checksum, and of those that were inflated.
    signed: u32,
    summed: u32,
    inflated: u32,
}

fn verify<R: Read>(
    cli: &Cli,
    source: &Source,
    reader: Reader<R>,
    legacy: &Legacy,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let start = Instant::now();
    let findings: Mutex<Findings> = Mutex::default();
    let check = |index, _: Span, bytes: &[u8]| {
        let chunk = Chunk::parse(index, bytes)?;
        let readable = legacy.can_open(chunk.header().cipher);
        let checked = legacy.verify(&chunk).and_then(|integrity| {
            if readable {
                legacy.unlock(&chunk, Place::AsStored, |_| ())?;
            }
            Ok(integrity)
        });
        let mut findings = findings.lock().unwrap_or_else(PoisonError::into_inner);
        match checked {
            Ok(integrity) => {
                findings.signed += u32::from(integrity == Integrity::Signature);
                findings.summed += u32::from(integrity == Integrity::Checksum);
                findings.inflated += u32::from(readable);
            }
            Err(error) => findings.bad.push(error.into()),
        }
        Ok(())
    };
    let contents = read(cli, reader, interrupt, check)?;
    let findings = findings
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if cli.deep && findings.bad.is_empty() && findings.inflated < contents.summary.chunks {
        return Err(ndz::Error::KeyNeeded { chunk: 0 }.into());
    }
    let Findings {
        mut bad,
        signed,
        summed,
        inflated,
    } = findings;
    // The threads find them in no order.
    bad.sort_by_key(ToString::to_string);
    let good = bad.is_empty();
    print(|out| {
        if cli.json {
            let document = json!({
                "format": "ndz", "verified": good, "chunks": contents.summary.chunks,
                "signature_checked": good && signed > 0, "checksum_checked": good && summed > 0,
                "data_checked": good && inflated > 0, "maybe_cut": contents.summary.maybe_cut,
                "bad": bad.iter().map(ToString::to_string).collect::<Vec<_>>(),
            });
            return writeln!(out, "{document:#}");
        }
        for error in &bad {
            writeln!(out, "{error}")?;
        }
        if good {
            let bytes = contents.image_bytes();
            let time = start.elapsed();
            let has = |kind| contents.first(|header| header.checksum == kind);
            let checked = [
                Some("headers and order of the chunks"),
                (signed > 0).then_some("signatures (SHA-1, RSA of 512 bits)"),
                (summed > 0).then_some("checksums (SHA-1)"),
                (inflated > 0).then_some("data (Adler-32)"),
            ];
            let open = [
                (has(Checksum::SignedSha1) && signed == 0)
                    .then_some("signatures (no --legacy-key)"),
                (inflated == 0).then_some("encrypted data (no --key)"),
                contents
                    .summary
                    .maybe_cut
                    .then_some("whether chunks are missing at the end: the last one is full"),
            ];
            let list = |items: &[Option<&str>]| {
                let items: Vec<_> = items.iter().flatten().copied().collect();
                items.join(", ")
            };
            write!(
                out,
                "{}: an Emulab image without a fault: {} chunks, {}, {:.2} s, {}; checked: {}",
                source.name(),
                contents.summary.chunks,
                units::size(bytes),
                time.as_secs_f64(),
                units::throughput(bytes, time),
                list(&checked),
            )?;
            let open = list(&open);
            if !open.is_empty() {
                write!(out, "; not checked: {open}")?;
            }
            writeln!(out, "\nprotection: {PROTECTION}")?;
        }
        Ok(())
    })?;
    match bad.into_iter().next() {
        Some(first) => Err(first.into()),
        None => Ok(()),
    }
}

impl Contents {
    /// Whether this is so of the first chunk. Version, cipher and kind of checksum are the same in all.
    fn first(&self, is: impl Fn(&Header) -> bool) -> bool {
        self.chunks.first().is_some_and(|row| is(&row.header))
    }

    fn image_bytes(&self) -> u64 {
        u64::from(self.summary.chunks) * ndz::CHUNK_SIZE as u64
    }

    fn plain_bytes(&self) -> u64 {
        self.chunks.iter().map(|row| row.plain_bytes).sum()
    }

    fn image_id(&self) -> Option<String> {
        self.chunks
            .first()?
            .header
            .image_id
            .map(|id| id.to_string())
    }

    fn cipher(&self) -> &'static str {
        match self.first(|header| header.cipher == Cipher::BlowfishCbc) {
            true => "Blowfish-CBC",
            false => "none",
        }
    }

    fn checksum(&self) -> &'static str {
        match self.chunks.first().map(|row| row.header.checksum) {
            Some(Checksum::Sha1) => "SHA-1, not signed",
            Some(Checksum::SignedSha1) => "SHA-1, signed with RSA of 512 bits",
            Some(Checksum::None) | None => "none",
        }
    }

    fn text(&self, out: &mut impl Write, ranges: bool) -> io::Result<()> {
        let Summary {
            version, sectors, ..
        } = self.summary;
        let count = |of: fn(&Row) -> usize| -> usize { self.chunks.iter().map(of).sum() };
        let bytes = sectors.saturating_mul(SECTOR_SIZE as u64);
        writeln!(
            out,
            "format        Emulab image (ndz), version {}",
            version.number()
        )?;
        let id = self.image_id().unwrap_or_else(|| "none".into());
        writeln!(out, "image id      {id}")?;
        writeln!(
            out,
            "disk          {sectors} sectors of 512 bytes, {}",
            units::size(bytes)
        )?;
        writeln!(out, "cipher        {}", self.cipher())?;
        writeln!(out, "checksum      {}", self.checksum())?;
        writeln!(out, "protection    {PROTECTION}")?;
        let chunks = self.summary.chunks;
        let cut = match self.summary.maybe_cut {
            true => "; the last one is full: the image may have been cut behind it",
            false => "",
        };
        writeln!(out, "chunks        {chunks} of 1 MiB{cut}")?;
        writeln!(out, "regions       {}", count(|row| row.regions))?;
        writeln!(out, "relocations   {}", count(|row| row.relocations))?;
        writeln!(out, "data          {}", units::size(self.plain_bytes()))?;
        writeln!(
            out,
            "\nchunk      stored bytes  plain bytes  regions  relocations  first sector       sectors"
        )?;
        for row in &self.chunks {
            let Row { header, span, .. } = row;
            writeln!(
                out,
                "{:<9}  {:>12}  {:>11}  {:>7}  {:>11}  {:>12}  {:>12}",
                header.index,
                header.data_size,
                row.plain_bytes,
                row.regions,
                row.relocations,
                span.first,
                span.sectors,
            )?;
            for region in header.regions.iter().filter(|_| ranges) {
                let (first, last) = (region.first, region.end() - 1);
                writeln!(
                    out,
                    "          sectors {first} to {last} ({})",
                    region.sectors
                )?;
            }
        }
        Ok(())
    }

    fn document(&self) -> Value {
        let chunks: Vec<Value> = self
            .chunks
            .iter()
            .map(|row| {
                let Row { header, span, .. } = row;
                let ranges = header.regions.iter();
                let ranges = ranges.map(|region| json!([region.first, region.sectors]));
                let relocations = header.relocations.iter().map(|relocation| {
                    json!({
                        "kind": relocation.kind, "sector": relocation.sector,
                        "offset": relocation.offset, "size": relocation.size,
                    })
                });
                json!({
                    "index": header.index, "stored_bytes": header.data_size, "plain_bytes": row.plain_bytes,
                    "first_sector": span.first, "sectors": span.sectors,
                    "ranges": ranges.collect::<Vec<_>>(), "relocations": relocations.collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "format": "ndz", "version": self.summary.version.number(), "image_id": self.image_id(),
            "disk_sectors": self.summary.sectors, "sector_size": SECTOR_SIZE, "cipher": self.cipher(),
            "checksum": self.checksum(), "maybe_cut": self.summary.maybe_cut, "plain_bytes": self.plain_bytes(),
            "image_bytes": self.image_bytes(), "chunks": chunks,
        })
    }
}
