//! `imagezip`: the command line.

mod disk;
mod emulab;
mod image;
mod info;
mod piped;
mod run;
mod types;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use chunkfmt::ImageHeader;
use clap::{Parser, ValueEnum};
use frisbee_cli::progress::Events;
use frisbee_cli::{Exit, Failure, Interrupt, exit, units};

use crate::base::{Chain, Indexed};
use crate::budget::{self, Budget, Need};
use crate::inputs::{Access, Inputs};
use crate::output::Output;
use crate::pipe::Input;
use crate::protect::{Protected, Protection};
use crate::selection::{self, Selection};

const EXAMPLES: &str = "Examples:
  imagezip --sign owner.key --key content.key /dev/sda golden.frz
  imagezip --sign owner.key --key content.key /dev/sda - | ssh server 'cat > golden.frz'
  imagezip --sign owner.key --unencrypted --name lab-2026 disk.img lab.frz
  imagezip --sign owner.key --key content.key machine.qcow2 golden.frz
  ssh node 'cat /dev/sda' | imagezip --sign owner.key --key content.key --raw --size 256060514304 - golden.frz
  imagezip --sign owner.key --recipient age1... /dev/sda golden.frz
  imagezip --sign owner.key --key content.key --base golden.frz /dev/sda update.frz
  imagezip --info /dev/sda
  imagezip --sign owner.key --key content.key --partition 2 /dev/sda root.frz
  imagezip --sign owner.key --key content.key --exclude page-files,hibernation /dev/sda windows.frz
  imagezip --compare --key content.key --trust owner.pub --base golden.frz /dev/sda
  imagezip --sign new.key --key new.content --trust old.pub --from-key old.content --from old.frz new.frz
  imagezip --sign owner.key --key content.key --allow-legacy --from emulab.ndz new.frz
  imagezip --format ndz --unsigned --unencrypted /dev/sda1 slice.ndz

Only what partition tables and filesystems say is in use is read; what is not understood is saved whole (--info shows
what that is, and why). The keys are made by imagekey. A delta is installed with imageunzip --base golden.frz update.frz,
or on a disk that holds golden.frz. --compare ends with 0 whether the disk differs or not; --json tells which sectors may.";

const USAGE: &str = "imagezip [OPTIONS] --sign <FILE> --key <FILE> <SOURCE> <IMAGE>
       imagezip [OPTIONS] --sign <FILE> --key <FILE> --base <BASE> <SOURCE> <DELTA>
       imagezip [OPTIONS] --info <SOURCE>
       imagezip [OPTIONS] --compare --base <BASE> <SOURCE>
       imagezip [OPTIONS] --sign <FILE> --key <FILE> --from <IMAGE> <NEW IMAGE>";

/// Image formats on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Signed, encrypted, compressed: docs/FORMAT.md
    #[default]
    Frz,
    /// Emulab's
    Ndz,
}

/// Make an image of a disk
#[derive(Debug, Parser)]
#[command(name = "imagezip", version, override_usage = USAGE)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", exit::EXIT_CODES))]
pub struct Cli {
    /// Name of the image [default: the image file's name without its extension, or that of the image it is made from]
    #[arg(short, long)]
    name: Option<String>,
    /// Version number of the image, rising from version to version [default: seconds since 1970, or that of the image
    /// it is made from]
    #[arg(short, long)]
    epoch: Option<u64>,
    /// Most data in one chunk, 64K to 2M; best a power of two [default: 2M, or as in the base]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, conflicts_with = "from")]
    chunk_size: Option<u64>,
    /// Write nothing, print what is on the source and what of it would be saved; with --json as one JSON object
    #[arg(long, conflicts_with_all = ["from", "base", "compare", "image"])]
    info: bool,
    /// Format of the image: frz, or ndz for the tools of Emulab, which is neither signed nor encrypted
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, conflicts_with_all = ["from", "compare"])]
    format: Format,
    /// Version of an ndz image, 3 or 5 [default: 3, for disks above 2 TiB 5]
    #[arg(long, value_name = "N", value_parser = ["3", "5"], requires = "format")]
    ndz_version: Option<String>,
    /// Overwrite an existing image
    #[arg(short, long)]
    force: bool,
    /// Number of threads that compress [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Most memory for threads, their buffers and the codec; fewer threads are started where more would not fit. The map
    /// of the disk and the manifest come on top: about 200 bytes for each chunk, and 16 for each run of sectors in use
    #[arg(long, value_name = "SIZE", value_parser = budget::parse, default_value = budget::USUAL)]
    memory: u64,
    /// Print JSON events to stdout (to stderr if the image goes to stdout)
    #[arg(long)]
    json: bool,
    /// The disk, partition or file to read; `-` is standard input, a pipe with --raw and --size. With --from, the image to
    /// write
    source: PathBuf,
    /// The image to write; `-` writes to standard output
    #[arg(required_unless_present_any = ["compare", "from", "info"], conflicts_with = "from")]
    image: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    protection: Protection,
    #[command(flatten)]
    inputs: Inputs,
}

impl Cli {
    /// Makes the image.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        if self.info {
            return self.show_info();
        }
        let signer = self.protection.load_signer()?;
        let with_base = !self.inputs.base.is_empty();
        let load_access = || self.inputs.load(&self.protection, signer.as_deref());
        if self.inputs.compare {
            let access = load_access()?;
            return self.compare(&access, &Interrupt::watch()?);
        }
        if self.format == Format::Ndz {
            return self.write_emulab(&Interrupt::watch()?);
        }
        let protected = self.protection.load(signer.clone())?;
        let interrupt = Interrupt::watch()?;
        if let Some(from) = &self.inputs.from {
            let mut input = Input::open(from, &interrupt)?;
            if input.is_emulab(&interrupt)? {
                let access = with_base.then(load_access).transpose()?;
                return self.make_from_emulab(from, access.as_ref(), &protected, &interrupt);
            }
            return self.make_from_image(from, input, &load_access()?, &protected, &interrupt);
        }
        // The command line's rules leave nothing else.
        let missing = || Failure::new(Exit::Usage, "name the image to write");
        let image = self.image.as_deref().ok_or_else(missing)?;
        let access = with_base.then(load_access).transpose()?;
        if self.is_pipe()? {
            return self.make_from_pipe(image, access.as_ref(), &protected, &interrupt);
        }
        self.make_from_disk(image, access.as_ref(), &protected, &interrupt)
    }

    /// The images of --base; the last one is the nearest.
    fn open_chain(&self, access: Option<&Access>) -> Result<Option<Chain>, Failure> {
        match access {
            Some(access) => Chain::open(&self.inputs.base, access),
            None => Ok(None),
        }
    }

    /// The base of a delta, if a delta is made; it must be of a disk of this size.
    fn nearest(
        chain: Option<&Chain>,
        sector_size: u32,
        disk_sectors: u64,
    ) -> Result<Option<&Indexed>, Failure> {
        let Some(chain) = chain else {
            return Ok(None);
        };
        chain.check_disk(sector_size, disk_sectors)?;
        Ok(chain.nearest())
    }

    /// The epoch of the new image: later than that of its base.
    fn epoch(&self, usual: u64, base: Option<&Indexed>) -> Result<u64, Failure> {
        let Some(base) = base else {
            return Ok(self.epoch.unwrap_or(usual));
        };
        let before = base.index.header.epoch();
        let epoch = self.epoch.unwrap_or(usual.max(before.saturating_add(1)));
        if epoch <= before {
            let message = format!(
                "--epoch {epoch}: a delta is newer than its base {}, which has epoch {before}: name a larger one",
                base.name,
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(epoch)
    }

    fn describe(
        &self,
        protected: &Protected,
        name: String,
        epoch: u64,
        disk: &DiskShape,
        base: Option<&Indexed>,
    ) -> Result<ImageHeader, Failure> {
        let header = protected
            .header(name, epoch, disk.sector_size, disk.sectors)?
            .with_created(now())
            .with_chunk_size(disk.chunk_size)?;
        Ok(match base {
            Some(base) => header.with_base(base.as_base()),
            None => header,
        })
    }

    /// A `secret` image can be read by its owner only: it is not encrypted.
    fn open_output(&self, image: &Path, secret: bool) -> Result<Output, Failure> {
        let mut inputs: Vec<&Path> = self
            .protection
            .files()
            .chain(self.inputs.files())
            .chain(self.selection.files())
            .collect();
        if self.inputs.from.is_none() {
            inputs.push(selection::path_of(&self.source));
        }
        Output::open(image, self.force, &inputs, secret)
    }

    /// Where JSON events go.
    pub fn events(&self) -> Events {
        let image = match self.inputs.from {
            Some(_) => Some(self.source.as_path()),
            None => self.image.as_deref(),
        };
        match (self.json, image == Some(Path::new("-"))) {
            (false, _) => Events::Off,
            (true, true) => Events::Stderr,
            (true, false) => Events::Stdout,
        }
    }

    /// What of the threads fits into the memory; `extra` bytes are needed for each besides sealing a chunk.
    fn budget(
        &self,
        protected: &Protected,
        chunk_size: u32,
        extra: u64,
    ) -> Result<Budget, Failure> {
        let sealing = protected.memory(chunk_size);
        let need = Need {
            worker: u64::from(chunk_size) + sealing.worker + extra,
            buffer: sealing.chunk,
        };
        Budget::new(self.memory, self.threads(), need)
    }

    fn threads(&self) -> usize {
        let usual = || thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(usual, usize::from)
    }
}

/// What an image header says about the disk.
struct DiskShape {
    /// Bytes of a sector.
    sector_size: u32,
    sectors: u64,
    /// Most bytes of data in a chunk.
    chunk_size: u32,
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
