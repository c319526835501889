//! `imagedump`: header, manifest, chunks and ranges of an image, for people or as JSON.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use chunkfmt::{
    BLOCK_SIZE, Context, ImageHeader, Layout, ManifestHead, Opener, Region, Span, Trust,
};
use clap::Parser;
use frisbee_cli::{Exit, Failure, Interrupt, exit, keys, units};
use serde_json::{Value, json};

use crate::source::{Source, read_all};

const EXAMPLES: &str = "Examples:
  imagedump golden.frz                                       header, manifest, chunks
  imagedump --key content.key --ranges golden.frz            also which sectors each chunk holds
  imagedump --trust owner.pub golden.frz                     also checks the owner's signatures
  imagedump --json golden.frz | jq .header.name

Without --trust no signature is checked, and the output says so. Hashes of chunks against the manifest are always
checked; the sectors of an encrypted image can only be shown with its key.";

/// Show what an image consists of
#[derive(Debug, Parser)]
#[command(name = "imagedump", version, after_help = format!("{EXAMPLES}\n\n{}", exit::EXIT_CODES))]
pub struct Cli {
    /// Check signatures by this owner's public key
    #[arg(short, long, value_name = "FILE")]
    trust: Vec<PathBuf>,
    /// Content key of an encrypted image: shows sectors
    #[arg(short, long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Show the ranges of sectors in each chunk
    #[arg(long)]
    ranges: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// The image; `-` reads standard input
    image: PathBuf,
}

/// One chunk as it is shown.
struct Row {
    index: u32,
    bytes: usize,
    plain_bytes: u32,
    codec: &'static str,
    root: String,
    opened: Option<(Span, Vec<Region>)>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cli {
    /// Prints the image's contents.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        let trust = match self.trust.as_slice() {
            [] => Trust::new(Vec::new(), true),
            named => keys::load_trust(named, false)?,
        };
        let key = self
            .key
            .as_deref()
            .map(keys::load_content_key)
            .transpose()?;
        let interrupt = Interrupt::watch()?;
        let source = Source::open(&self.image)?;
        let name = source.name();
        self.dump(&source, &trust, key.as_ref(), &interrupt)
            .map_err(|failure| failure.context(name))
    }

    fn dump(
        &self,
        source: &Source,
        trust: &Trust,
        key: Option<&chunkfmt::ContentKey>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let mut reader = source.reader(trust, interrupt)?;
        let context = Arc::new(Context::without_key(
            reader.header_bytes(),
            trust,
            key.map_or(&[], std::slice::from_ref),
        )?);
        let header = context.header().clone();
        let readable = key.is_some() || header.cipher() == chunkfmt::Cipher::None;
        let mut opener = if readable {
            Some(Opener::new(Arc::clone(&context))?)
        } else {
            None
        };
        let (mut rows, mut layout, mut data) = (Vec::new(), Layout::default(), Vec::new());
        let manifest = read_all(&mut reader, Vec::new, |index, mut chunk| {
            interrupt.check("nothing was changed")?;
            let found = context.verify_chunk(&chunk, index)?;
            let root = hex(&found.root);
            let opened = match &mut opener {
                Some(opener) => {
                    opener.open(
                        index,
                        &mut chunk,
                        header.disk_sectors,
                        &mut layout,
                        &mut data,
                    )?;
                    let regions = if self.ranges || self.json {
                        layout.regions.clone()
                    } else {
                        Vec::new()
                    };
                    Some((layout.span, regions))
                }
                None => None,
            };
            rows.push(Row {
                index,
                bytes: chunk.len(),
                plain_bytes: found.header.plain_length,
                codec: found.header.codec().name(),
                root,
                opened,
            });
            Ok(())
        })?;
        if readable {
            context.secrets(&manifest)?;
        }
        let mut out = BufWriter::new(io::stdout().lock());
        let written = if self.json {
            let document = self.document(&context, &manifest.head, &rows);
            writeln!(out, "{document:#}")
        } else {
            self.text(&mut out, &context, &manifest.head, &rows)
        };
        match written.and_then(|()| out.flush()) {
            // The reader, `head` for one, has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other
                .map_err(|error| Failure::new(Exit::Io, format!("writing the output: {error}"))),
        }
    }

    fn text(
        &self,
        out: &mut impl Write,
        context: &Context,
        head: &ManifestHead,
        rows: &[Row],
    ) -> io::Result<()> {
        let header = context.header();
        let signature = match header.signature_algorithm() {
            chunkfmt::SignatureAlgorithm::None => "none: anybody may have made this image".into(),
            algorithm if context.is_verified() => {
                format!("{}, key {}: valid", algorithm.name(), header.signer())
            }
            algorithm => format!(
                "{}, key {}: not checked (name its owner with --trust)",
                algorithm.name(),
                header.signer()
            ),
        };
        writeln!(out, "name          {}", header.name)?;
        writeln!(out, "UUID          {}", header.uuid())?;
        writeln!(out, "epoch         {}", header.epoch())?;
        writeln!(out, "created       {}", date(header.created))?;
        writeln!(
            out,
            "disk          {} sectors of {} bytes, {}",
            header.disk_sectors,
            header.sector_size,
            units::size(header.disk_bytes())
        )?;
        writeln!(out, "codec         {}", header.codec().name())?;
        writeln!(out, "cipher        {}", header.cipher().name())?;
        writeln!(out, "signature     {signature}")?;
        writeln!(
            out,
            "chunks        {}, at most {} of data each",
            head.chunks,
            units::size(header.chunk_size.into())
        )?;
        writeln!(out, "data          {}", units::size(head.plain_bytes))?;
        writeln!(
            out,
            "image         {}, {:.1} % of the data",
            units::size(head.image_bytes()),
            percent(head.image_bytes(), head.plain_bytes)
        )?;
        writeln!(out, "object root   {}", hex(&head.object_root))?;
        writeln!(
            out,
            "\nchunk      blocks  plain bytes  codec  {}root",
            if rows.iter().any(|row| row.opened.is_some()) {
                "first sector       sectors  "
            } else {
                ""
            }
        )?;
        for row in rows {
            write!(
                out,
                "{:<9} {:>7}  {:>11}  {:<5}  ",
                row.index,
                row.bytes / BLOCK_SIZE,
                row.plain_bytes,
                row.codec
            )?;
            if let Some((span, _)) = &row.opened {
                write!(out, "{:>12}  {:>12}  ", span.first, span.sectors)?;
            }
            writeln!(out, "{}", row.root)?;
            for region in row
                .opened
                .iter()
                .flat_map(|(_, regions)| regions)
                .filter(|_| self.ranges)
            {
                writeln!(
                    out,
                    "          sectors {} to {} ({})",
                    region.first,
                    region.end() - 1,
                    region.sectors
                )?;
            }
        }
        Ok(())
    }

    fn document(&self, context: &Context, head: &ManifestHead, rows: &[Row]) -> Value {
        let chunks: Vec<Value> = rows
            .iter()
            .map(|row| {
                let mut chunk = json!({
                    "index": row.index, "blocks": row.bytes / BLOCK_SIZE, "plain_bytes": row.plain_bytes,
                    "codec": row.codec, "root": row.root,
                });
                if let Some((span, regions)) = &row.opened {
                    chunk["first_sector"] = span.first.into();
                    chunk["sectors"] = span.sectors.into();
                    let ranges = regions.iter().map(|region| json!([region.first, region.sectors]));
                    chunk["ranges"] = ranges.collect();
                }
                chunk
            })
            .collect();
        json!({
            "header": header_document(context.header(), context.is_verified()),
            "manifest": {
                "chunks": head.chunks, "plain_bytes": head.plain_bytes, "image_bytes": head.image_bytes(),
                "root": hex(&head.object_root),
            },
            "chunks": chunks,
        })
    }
}

fn header_document(header: &ImageHeader, verified: bool) -> Value {
    json!({
        "name": header.name, "uuid": header.uuid().to_string(), "epoch": header.epoch(), "created": header.created,
        "sector_size": header.sector_size, "disk_sectors": header.disk_sectors, "disk_bytes": header.disk_bytes(),
        "chunk_size": header.chunk_size, "codec": header.codec().name(), "cipher": header.cipher().name(),
        "signature": header.signature_algorithm().name(), "signer": header.signer().to_string(),
        "signature_checked": verified,
    })
}

#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / (whole.max(1)) as f64
}

/// Seconds since 1970 as a date, which the format does not promise to be near today.
fn date(seconds: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        // What RFC 3339 can write.
        Some(time) if seconds < 253_402_300_800 => {
            humantime::format_rfc3339_seconds(time).to_string()
        }
        _ => format!("{seconds} s after 1970-01-01"),
    }
}
