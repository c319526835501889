//! `imageunzip`: an image from a file or a pipe onto a disk or into a file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chunkfmt::{ContentKey, Context, Trust};
use clap::{Parser, ValueEnum};
use frisbee_cli::progress::{Events, Progress};
use frisbee_cli::{Exit, Failure, Interrupt, confirm, exit, keys, units};
use serde_json::json;

use crate::source::{Source, check_file, read_all};
use crate::{Event, FreeSpace, InstallOptions, Installer, Report, Target};

const EXAMPLES: &str = "Examples:
  imageunzip --trust owner.pub --key content.key golden.frz /dev/sdb
  imageunzip --trust owner.pub --key content.key --yes --free zero golden.frz /dev/sdb
  curl -s https://server/golden.frz | imageunzip --trust owner.pub --key content.key --yes - /dev/sdb
  imageunzip --trust owner.pub --key content.key golden.frz disk.img

An image file is checked from beginning to end before the target is touched. From a pipe the chunks are checked one by
one as they come, and the boot sectors are written only after the manifest has proved that nothing is missing.";

/// What to do with free space, on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Free {
    /// Leave what is there
    #[default]
    Skip,
    /// Fill it with zeros: nothing of the last user is left
    Zero,
}

impl From<Free> for FreeSpace {
    fn from(free: Free) -> Self {
        match free {
            Free::Skip => Self::Skip,
            Free::Zero => Self::Zero,
        }
    }
}

/// Install an image onto a disk or into a file
#[derive(Debug, Parser)]
#[command(name = "imageunzip", version, after_help = format!("{EXAMPLES}\n\n{}", exit::EXIT_CODES))]
pub struct Cli {
    /// Public key of an owner whose images are accepted [default: all of /etc/frisbee/trust.d/*.pub]
    #[arg(short, long, value_name = "FILE")]
    trust: Vec<PathBuf>,
    /// Accept an unsigned image: anybody may have made it
    #[arg(long)]
    allow_unsigned: bool,
    /// Content key of an encrypted image
    #[arg(short, long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// What to do with the disk's free space
    #[arg(long, value_enum, default_value_t)]
    free: Free,
    /// Overwrite the target without asking
    #[arg(short, long)]
    yes: bool,
    /// Number of threads that decompress [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print JSON events to stdout
    #[arg(long)]
    json: bool,
    /// The image; `-` reads standard input
    image: PathBuf,
    /// The disk, partition or file to write
    target: PathBuf,
}

impl Cli {
    /// Installs the image.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        let trust = keys::load_trust(&self.trust, self.allow_unsigned)?;
        let key = self
            .key
            .as_deref()
            .map(keys::load_content_key)
            .transpose()?;
        let interrupt = Interrupt::watch()?;
        let source = Source::open(&self.image)?;
        self.install(&source, &trust, key.as_ref(), &interrupt)
    }

    fn install(
        &self,
        source: &Source,
        trust: &Trust,
        key: Option<&ContentKey>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let name = source.name();
        let named = |failure: Failure| failure.context(&name);
        // What a signal makes fail is not the failure to tell.
        let interrupted = |failure: Failure| {
            interrupt
                .check("nothing was written")
                .err()
                .unwrap_or(failure)
        };
        let mut options = InstallOptions {
            free: self.free.into(),
            ..InstallOptions::default()
        };
        if let Some(threads) = self.threads {
            options.threads = threads.into();
        }
        let mut reader = source
            .reader(trust, interrupt)
            .map_err(|error| interrupted(named(error.into())))?;
        let header_bytes = reader.header_bytes().to_vec();
        let context = Context::new(&header_bytes, trust, key.map_or(&[], std::slice::from_ref))
            .map_err(|error| named(error.into()))?;
        let target = Target::open(&self.target, context.header())?;
        if target.holds_data() {
            confirm::can_be_confirmed(&self.target, self.yes)?;
        }
        let mut total = context.header().disk_bytes();
        let mut checked = None;
        if let Some(file) = source.seekable() {
            target.refuse_same_file(file)?;
            let manifest =
                check_file(file, &context, trust, options.threads, interrupt).map_err(named)?;
            total = manifest.head.plain_bytes;
            checked = Some(manifest.head);
            reader = source
                .reader(trust, interrupt)
                .map_err(|error| named(error.into()))?;
            if reader.header_bytes() != header_bytes {
                let message = "was changed while it was read: nothing was written";
                return Err(named(Failure::new(Exit::Input, message)));
            }
        }
        let header = context.header().clone();
        if target.holds_data() {
            let what = format!(
                "{} ({}) onto {}",
                header.name,
                units::size(header.disk_bytes()),
                self.target.display()
            );
            confirm::confirm_destruction(&self.target, &what, self.yes, interrupt)?;
        }

        let events = if self.json {
            Events::Stdout
        } else {
            Events::Off
        };
        let fields = json!({
            "image": header.name, "uuid": header.uuid().to_string(), "epoch": header.epoch(),
            "target": self.target.display().to_string(), "total_bytes": total,
        });
        let progress = Arc::new(Progress::start(events, total, fields));
        let refused: Arc<Mutex<Option<chunkfmt::Error>>> = Arc::default();
        let observer = {
            let (progress, refused) = (Arc::clone(&progress), Arc::clone(&refused));
            move |event| match event {
                Event::Written { plain_bytes, .. } => progress.advance(plain_bytes),
                Event::Refused { error, .. } => {
                    refused
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                }
                Event::Failed => {}
            }
        };
        let take_refused = || {
            refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        };
        let incomplete = if target.holds_data() {
            "the disk is incomplete and will not boot"
        } else {
            "the unfinished file was removed"
        };
        let context = Arc::new(context);

        let result = (|| -> Result<Report, Failure> {
            let installer = Installer::start(&context, target, &options, observer)?;
            let read = read_all(
                &mut reader,
                || installer.buffer(),
                |index, chunk| {
                    interrupt.check(incomplete)?;
                    if let Some(error) = take_refused() {
                        return Err(Failure::from(error));
                    }
                    // The pipeline's own error follows when it is ended.
                    installer
                        .submit(index, chunk)
                        .map_err(|_| Failure::new(Exit::Io, "writing failed"))
                },
            );
            // The end of a pipe is the first place where its manifest can be judged.
            let read = read.and_then(|manifest| {
                context.secrets(&manifest)?;
                match checked.is_none_or(|checked| checked == manifest.head) {
                    true => Ok(manifest.head.chunks),
                    false => Err(Failure::new(Exit::Input, "was changed while it was read")),
                }
            });
            let chunks = match read {
                Ok(chunks) => chunks,
                Err(failure) => {
                    interrupt.check(incomplete)?;
                    let failure = installer
                        .abort()
                        .map_or_else(|| named(failure), Failure::from);
                    return Err(Failure::new(
                        failure.exit,
                        format!("{failure} ({incomplete})"),
                    ));
                }
            };
            let finished = installer.finish(chunks);
            if let Some(error) = take_refused() {
                let failure = named(error.into());
                return Err(Failure::new(
                    failure.exit,
                    format!("{failure} ({incomplete})"),
                ));
            }
            Ok(finished?)
        })();
        match result {
            Ok(report) => {
                let time = progress.elapsed();
                let summary = format!(
                    "{}: installed {} (epoch {}): {} of data, {} free{}, {} chunks, {:.2} s, {}",
                    self.target.display(),
                    header.name,
                    header.epoch(),
                    units::size(report.plain_bytes),
                    units::size(report.free_bytes),
                    if matches!(self.free, Free::Zero) {
                        " (zeroed)"
                    } else {
                        ""
                    },
                    report.chunks,
                    time.as_secs_f64(),
                    units::throughput(report.plain_bytes, time),
                );
                let fields = json!({
                    "chunks": report.chunks, "plain_bytes": report.plain_bytes, "free_bytes": report.free_bytes,
                });
                progress.finish(&summary, fields);
                Ok(())
            }
            Err(failure) => {
                progress.fail(&failure.message, failure.exit);
                Err(failure)
            }
        }
    }
}
