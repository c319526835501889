//! `imagedump`: header, manifest, chunks and ranges of an image, for people or as JSON; and whether they are right.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use chunkfmt::tree::Cv;
use chunkfmt::{
    BLOCK_SIZE, Context, ImageHeader, Layout, ManifestHead, Opener, Region, Span, Trust,
    check_roots,
};
use clap::Parser;
use frisbee_cli::policy::{KeyOptions, Keys, LegacyOptions, TrustOptions};
use frisbee_cli::{Exit, Failure, Interrupt, exit, say, units};
use serde_json::{Value, json};

use crate::legacy;
use crate::report::Unreadable;
use crate::source::{Source, read_all};

const EXAMPLES: &str = "Examples:
  imagedump golden.frz                                       header, manifest, chunks
  imagedump --key content.key --ranges golden.frz            also which sectors each chunk holds
  imagedump --trust owner.pub golden.frz                     also checks the owner's signatures
  imagedump --json golden.frz | jq .header.name
  imagedump --verify --trust owner.pub golden.frz            is the file what its owner signed?
  imagedump --verify --deep --key content.key golden.frz     also decrypts and decompresses everything
  imagedump --against /dev/sdb --key content.key golden.frz  is the disk what the image says?
  imagedump --verify --allow-legacy --key old.ekey --legacy-key old.ndz.skey old.ndz

To show an image no signature needs to be checked: without --trust none is, and the output says so. Hashes of chunks against the manifest are always
checked; the sectors of an encrypted image can only be shown with its key.";

/// Show what an image consists of
#[derive(Debug, Parser)]
#[command(name = "imagedump", version, after_long_help = format!("{EXAMPLES}\n\n{}", exit::EXIT_CODES))]
pub struct Cli {
    #[command(flatten)]
    pub(crate) trust: TrustOptions,
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    #[command(flatten)]
    pub(crate) legacy: LegacyOptions,
    /// Verify signatures, the roots of chunks and parity, and (with the key, if there is one) that the chunks tile the
    /// disk
    #[arg(long, conflicts_with = "ranges")]
    pub(crate) verify: bool,
    /// With --verify: also decrypt and decompress every chunk and check its plain hash
    #[arg(long, requires = "verify")]
    pub(crate) deep: bool,
    /// Compare a disk, partition or file with the image and list the sectors that differ
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["verify", "ranges"])]
    pub(crate) against: Option<PathBuf>,
    /// Number of threads for --verify and --against [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Show the ranges of sectors in each chunk
    #[arg(long)]
    pub(crate) ranges: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// The image; `-` reads standard input (not with --verify and --against)
    image: PathBuf,
}

/// One chunk as it is shown.
struct Row {
    index: u32,
    bytes: usize,
    plain_bytes: u32,
    codec: &'static str,
    root: Cv,
    opened: Option<(Span, Vec<Region>)>,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cli {
    /// Prints the image's contents.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        let keys = self.keys.load()?;
        let interrupt = Interrupt::watch()?;
        let source = Source::open(&self.image)?;
        let name = source.name();
        if source.is_legacy(&interrupt)? {
            let done = legacy::dump::run(self, &source, &keys, &interrupt);
            return done.map_err(|failure| failure.context(name));
        }
        let checking = self.verify || self.against.is_some();
        let trust = match self.trust.trust.as_slice() {
            [] if !checking => Trust::new(Vec::new(), true),
            _ => self.trust.load()?,
        };
        let done = match &self.against {
            Some(disk) => self.compare(&source, disk, &trust, &keys, &interrupt),
            None if self.verify => self.verify(&source, &trust, &keys, &interrupt),
            None => self.dump(&source, &trust, &keys, &interrupt),
        };
        done.map_err(|failure| failure.context(name))
    }

    fn dump(
        &self,
        source: &Source,
        trust: &Trust,
        keys: &Keys,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let mut reader = source.reader(trust, interrupt)?;
        let context = Arc::new(keys.context_without_key(reader.header_bytes(), trust)?);
        let header = context.header().clone();
        let readable = context.can_open();
        let mut opener = if readable {
            Some(Opener::new(Arc::clone(&context))?)
        } else {
            None
        };
        let (mut rows, mut layout, mut data) = (Vec::new(), Layout::default(), Vec::new());
        let mut unreadable = Unreadable::default();
        let manifest = read_all(&mut reader, Vec::new, |index, mut chunk| {
            interrupt.check("nothing was changed")?;
            let found = context.verify_chunk(&chunk, index)?;
            let root = found.root;
            let opened = match &mut opener {
                Some(opener) => {
                    opener.open(
                        index,
                        &mut chunk,
                        header.disk_sectors,
                        &mut layout,
                        &mut data,
                    )?;
                    unreadable.add(&layout, header.sector_size.into());
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
        let roots: Vec<_> = rows.iter().map(|row| (row.index, row.root)).collect();
        check_roots(&manifest, &roots)?;
        if readable {
            context.secrets(&manifest)?;
        }
        print(|out| {
            if self.json {
                let mut document = self.document(&context, &manifest.head, &rows);
                document["unreadable"] = unreadable.ranges();
                writeln!(out, "{document:#}")
            } else {
                if let Some(warning) = unreadable.warning() {
                    say(&format!("imagedump: {warning}"));
                }
                self.text(out, &context, &manifest.head, &rows)
            }
        })
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
        if let Some(base) = header.base {
            writeln!(
                out,
                "delta to      {} (epoch {}), {} of {} chunks here",
                base.uuid,
                base.epoch,
                rows.len(),
                head.chunks
            )?;
        }
        if !header.wrapped_keys().is_empty() {
            writeln!(
                out,
                "wrapped keys  {} bytes, an age file",
                header.wrapped_keys().len()
            )?;
        }
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
            writeln!(out, "{}", hex(&row.root))?;
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
                    "codec": row.codec, "root": hex(&row.root),
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

/// Writes to stdout.
pub(crate) fn print(
    write: impl FnOnce(&mut BufWriter<io::StdoutLock<'_>>) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        // The reader, `head` for one, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => {
            other.map_err(|error| Failure::new(Exit::Io, format!("writing the output: {error}")))
        }
    }
}

fn header_document(header: &ImageHeader, verified: bool) -> Value {
    json!({
        "name": header.name, "uuid": header.uuid().to_string(), "epoch": header.epoch(), "created": header.created,
        "sector_size": header.sector_size, "disk_sectors": header.disk_sectors, "disk_bytes": header.disk_bytes(),
        "chunk_size": header.chunk_size, "codec": header.codec().name(), "cipher": header.cipher().name(),
        "signature": header.signature_algorithm().name(), "signer": header.signer().to_string(),
        "signature_checked": verified, "suite": header.suite().map(chunkfmt::Suite::name),
        "base": header.base.map(|base| json!({
            "uuid": base.uuid.to_string(), "epoch": base.epoch, "manifest": hex(&base.manifest),
        })),
        "wrapped_key_bytes": header.wrapped_keys().len(),
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
