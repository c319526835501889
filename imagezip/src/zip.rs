//! `imagezip`: the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use chunkfmt::{Codec, ImageHeader, Sealer};
use clap::{ArgGroup, Parser, ValueEnum};
use diskmap::{DiskMap, Options, ReadAt};
use frisbee_cli::progress::{Events, Progress};
use frisbee_cli::{Exit, Failure, Interrupt, exit, keys, units};
use serde_json::json;

use crate::output::Output;
use crate::{Disk, Error, Job, Summary, create};

const EXAMPLES: &str = "Examples:
  imagezip --sign owner.key --key content.key /dev/sda golden.frz
  imagezip --sign owner.key --key content.key /dev/sda - | ssh server 'cat > golden.frz'
  imagezip --sign owner.key --unencrypted --name lab-2026 disk.img lab.frz

Only what partition tables and filesystems say is in use is read: ext2, ext3 and ext4 are looked into, everything else
is saved whole. The keys are made by imagekey.";

/// Codecs on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum CodecName {
    /// Zstandard
    #[default]
    Zstd,
    /// No compression
    None,
}

/// Make an image of a disk
#[derive(Debug, Parser)]
#[command(name = "imagezip", version, after_help = format!("{EXAMPLES}\n\n{}", exit::EXIT_CODES))]
#[command(group = ArgGroup::new("signing").required(true).args(["sign", "unsigned"]))]
#[command(group = ArgGroup::new("encryption").required(true).args(["key", "unencrypted"]))]
pub struct Cli {
    /// Sign with this owner's private key
    #[arg(short, long, value_name = "FILE")]
    sign: Option<PathBuf>,
    /// The passphrase of an encrypted private key is the first line of this file [default: ask]
    #[arg(long, value_name = "FILE", requires = "sign")]
    passphrase_file: Option<PathBuf>,
    /// Do not sign: anybody can change the image unnoticed
    #[arg(long)]
    unsigned: bool,
    /// Encrypt with this content key
    #[arg(short, long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Do not encrypt: whoever has the image, or listens to its transmission, can read the disk
    #[arg(long)]
    unencrypted: bool,
    /// Name of the image [default: the image file's name without its extension]
    #[arg(short, long)]
    name: Option<String>,
    /// Version number of the image, rising from version to version [default: seconds since 1970]
    #[arg(short, long)]
    epoch: Option<u64>,
    /// Compression
    #[arg(long, value_enum, default_value_t)]
    codec: CodecName,
    /// Zstandard level, 1 (fast) to 19 (small)
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// Most data in one chunk, 64K to 2M
    #[arg(long, value_name = "SIZE", default_value = "2M", value_parser = units::parse_size)]
    chunk_size: u64,
    /// Save every sector, look into nothing
    #[arg(long)]
    raw: bool,
    /// Fail where a filesystem is damaged or not understood, instead of saving it whole
    #[arg(long, conflicts_with = "raw")]
    strict: bool,
    /// Sector size of a disk in a file: 512 or 4096 [default: found out]
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"])]
    sector_size: Option<String>,
    /// Read the source even while it is mounted: the image may hold a damaged filesystem
    #[arg(long)]
    allow_mounted: bool,
    /// Overwrite an existing image
    #[arg(short, long)]
    force: bool,
    /// Number of threads that compress [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print JSON events to stdout (to stderr if the image goes to stdout)
    #[arg(long)]
    json: bool,
    /// The disk, partition or file to read
    source: PathBuf,
    /// The image to write; `-` writes to standard output
    image: PathBuf,
}

impl Cli {
    /// Makes the image.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        let key = self
            .key
            .as_deref()
            .map(keys::load_content_key)
            .transpose()?;
        let signer = self
            .sign
            .as_deref()
            .map(|path| keys::load_signing_key(path, self.passphrase_file.as_deref()))
            .transpose()?
            .map(Arc::new);
        let interrupt = Interrupt::watch()?;
        let sector_size = self
            .sector_size
            .as_deref()
            .and_then(|size| size.parse().ok());
        let disk = Disk::open(&self.source, sector_size, self.allow_mounted)?;
        let options = Options {
            strict: self.strict,
            raw: self.raw,
            sector_size: disk.sector_size(),
        };
        let map = diskmap::map(&disk, &options).map_err(|source| Error::Map {
            path: self.source.clone(),
            source,
        })?;
        if map.disk_sectors == 0 {
            let message = format!(
                "{}: is empty: there is no disk to image",
                self.source.display()
            );
            return Err(Failure::new(Exit::Input, message));
        }
        let header = ImageHeader::new(
            self.image_name(),
            self.epoch.unwrap_or_else(now),
            map.sector_size,
            map.disk_sectors,
            key.as_ref(),
            signer.as_deref(),
        )?;
        let codec = if self.codec == CodecName::Zstd {
            Codec::Zstd
        } else {
            Codec::None
        };
        let chunk_size = u32::try_from(self.chunk_size).unwrap_or(u32::MAX);
        let header = header
            .with_created(now())
            .with_codec(codec)
            .with_chunk_size(chunk_size)?;
        let sealer = Sealer::new(header, key.as_ref(), signer, self.level)?;
        let inputs = [Some(&self.source), self.sign.as_ref(), self.key.as_ref()];
        let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
        // Without a key an encrypted image tells nothing; the other is the disk.
        let mut output = Output::open(&self.image, self.force, &inputs, self.unencrypted)?;
        let progress = self.start(&disk, &map, sealer.header(), &output);
        for warning in &map.warnings {
            progress.line(&format!(
                "imagezip: {}: warning: {warning}",
                self.source.display()
            ));
        }
        let image = output.name();
        let job = Job {
            disk: &disk,
            saved: &map.saved,
            sealer: &sealer,
            threads: self.threads.map_or_else(default_threads, usize::from),
            interrupt: &interrupt,
        };
        let made = create(&job, &mut output, |bytes| progress.advance(bytes)).and_then(|summary| {
            output.commit().map_err(|source| Error::Write { source })?;
            Ok(summary)
        });
        match made {
            Ok(summary) => {
                Self::report(&progress, &image, &sealer, &disk, summary);
                Ok(())
            }
            Err(error) => {
                let place = matches!(error, Error::Write { .. }).then_some(&image);
                let failure = Failure::from(error);
                let failure = match place {
                    Some(image) => failure.context(image),
                    None => failure,
                };
                progress.fail(&failure.message, failure.exit);
                Err(failure)
            }
        }
    }

    fn image_name(&self) -> String {
        let stem = |path: &PathBuf| {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        };
        let from = if self.image.as_os_str() == "-" {
            &self.source
        } else {
            &self.image
        };
        self.name.clone().or_else(|| stem(from)).unwrap_or_default()
    }

    fn start(&self, disk: &Disk, map: &DiskMap, header: &ImageHeader, output: &Output) -> Progress {
        let events = match (self.json, output) {
            (false, _) => Events::Off,
            (true, Output::Pipe(_)) => Events::Stderr,
            (true, Output::File { .. }) => Events::Stdout,
        };
        let saved: u64 = map.saved.iter().map(|extent| extent.count).sum();
        let saved_bytes = saved * u64::from(map.sector_size);
        let partitions: Vec<_> = map
            .partitions
            .iter()
            .map(|partition| {
                json!({
                    "number": partition.number, "first_sector": partition.first, "sectors": partition.count,
                    "kind": partition.kind.to_string(), "saved_sectors": partition.saved_sectors,
                    "note": partition.note,
                })
            })
            .collect();
        let fields = json!({
            "source": self.source.display().to_string(), "image": output.name(), "name": header.name,
            "uuid": header.uuid().to_string(), "epoch": header.epoch(), "disk_bytes": disk.size(),
            "sector_size": map.sector_size, "total_bytes": saved_bytes, "partitions": partitions,
        });
        let progress = Progress::start(events, saved_bytes, fields);
        if events == Events::Off {
            for partition in &map.partitions {
                let sector = u64::from(map.sector_size);
                let note = partition
                    .note
                    .as_deref()
                    .map(|note| format!(" ({note})"))
                    .unwrap_or_default();
                progress.line(&format!(
                    "{}: {}, {}, {} to save{note}",
                    partition_name(partition.number),
                    partition.kind,
                    units::size(partition.count * sector),
                    units::size(partition.saved_sectors * sector),
                ));
            }
        }
        progress
    }

    fn report(progress: &Progress, image: &str, sealer: &Sealer, disk: &Disk, summary: Summary) {
        let time = progress.elapsed();
        let line = format!(
            "{image}: {} of {} saved as {} in {} chunks, {:.2} s, {}",
            units::size(summary.plain_bytes),
            units::size(disk.size()),
            units::size(summary.image_bytes),
            summary.chunks,
            time.as_secs_f64(),
            units::throughput(summary.plain_bytes, time),
        );
        let fields = json!({
            "uuid": sealer.header().uuid().to_string(), "chunks": summary.chunks,
            "plain_bytes": summary.plain_bytes, "image_bytes": summary.image_bytes,
        });
        progress.finish(&line, fields);
    }
}

fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// What a line about a partition begins with.
fn partition_name(number: u32) -> String {
    match number {
        // Without a partition table.
        0 => "whole disk".into(),
        _ => format!("partition {number}"),
    }
}
