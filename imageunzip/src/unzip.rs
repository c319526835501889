//! `imageunzip`: an image from a file or a pipe onto a disk or into a file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use chunkfmt::{ChunkFormat, Context, Error, ImageIndex, ImageReader, Next, Trust};
use clap::Parser;
use frisbee_cli::policy::{KeyOptions, Keys, LegacyOptions, TrustOptions, Wanted};
use frisbee_cli::progress::Events;
use frisbee_cli::{Exit, Failure, Interrupt, confirm, exit, say, units};
use serde_json::json;

use crate::choice::TargetArgs;
use crate::contents::{Contents, Held, Image};
use crate::layers::{Base, Layers};
use crate::options::InstallArgs;
use crate::part::ImageDisk;
use crate::run::{Feed, Installation, Title};
use crate::source::{Source, check_file, read_all};
use crate::{Candidate, Expected, Format, Target, cut, legacy, part, stream};

const EXAMPLES: &str = "Examples:
  imageunzip --trust owner.pub --key content.key golden.frz /dev/sdb
  imageunzip --trust owner.pub --key content.key --yes --free zero golden.frz /dev/sdb
  curl -s https://server/golden.frz | imageunzip --trust owner.pub --key content.key --yes - /dev/sdb
  imageunzip --trust owner.pub --key content.key golden.frz disk.img
  imageunzip --trust owner.pub --key content.key golden.frz - | ssh node 'cat > /dev/sda'
  imageunzip --trust owner.pub --key content.key --base golden.frz update.frz /dev/sdb
  imageunzip --trust owner.pub --key content.key update.frz /dev/sdb
  imageunzip --trust owner.pub --key content.key --yes --disk nvme,smallest golden.frz
  imageunzip --trust owner.pub --key content.key --partition 2 golden.frz /dev/sdb2
  imageunzip --allow-legacy --allow-unsigned old.ndz /dev/sdb

The seventh installs a delta on a disk that holds its base, which is verified first.

An image file is checked from beginning to end before the target is touched. From a pipe the chunks are checked one by
one as they come, and the boot sectors are written only after the manifest has proved that nothing is missing. On standard
output the disk comes in order, its boot sectors first: only exit code 0 tells that it is whole.";

const UNTOUCHED: &str = "nothing was written";

/// Install an image onto a disk or into a file
#[derive(Debug, Parser)]
#[command(name = "imageunzip", version, after_long_help = format!("{EXAMPLES}\n\n{}", exit::EXIT_CODES))]
pub struct Cli {
    #[command(flatten)]
    pub(crate) trust: TrustOptions,
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    #[command(flatten)]
    pub(crate) legacy: LegacyOptions,
    /// For a delta: the image that it is relative to; repeated for a delta of a delta [default: what the target holds]
    #[arg(short, long, value_name = "IMAGE")]
    pub(crate) base: Vec<PathBuf>,
    /// Install partition N of an image file alone, onto a partition or into a file
    #[arg(long, value_name = "N", conflicts_with = "base")]
    partition: Option<u32>,
    #[command(flatten)]
    pub(crate) install: InstallArgs,
    /// Print JSON events to stdout (to stderr if the disk goes to stdout)
    #[arg(long)]
    pub(crate) json: bool,
    /// The image; `-` reads standard input
    #[arg(required_unless_present = "list_disks")]
    pub(crate) image: Option<PathBuf>,
    #[command(flatten)]
    choice: TargetArgs,
    /// What has been chosen.
    #[arg(skip)]
    pub(crate) target: PathBuf,
}

impl Cli {
    /// Where JSON events go.
    pub fn events(&self) -> Events {
        match (self.json, self.choice.is_stdout()) {
            (true, true) => Events::Stderr,
            _ => Events::on_stdout(self.json),
        }
    }

    /// Installs the image.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&mut self) -> Result<(), Failure> {
        if self.choice.list(self.json)? {
            return Ok(());
        }
        self.target = self.choice.choose("imageunzip")?;
        self.install.after.check()?;
        let refuse = |message: &str| Err(Failure::new(Exit::Usage, message));
        if self.partition.is_some() {
            if self.choice.is_stdout() {
                return refuse("--partition: standard output gets whole disks: name a file");
            }
            if self.install.compares_always() {
                return refuse(
                    "--reuse: what a target holds of a single partition is not found out",
                );
            }
        }
        if self.choice.is_stdout() {
            stream::refuse_terminal()?;
            if let Some(option) = self.install.needs_disk() {
                let message = format!("{option}: needs a disk, on standard output there is none");
                return Err(Failure::new(Exit::Usage, message));
            }
        }
        let keys = self.keys.load()?;
        let interrupt = Interrupt::watch()?;
        // The command line's rules leave nothing else.
        let missing = || Failure::new(Exit::Usage, "name the image");
        let source = Source::open(self.image.as_deref().ok_or_else(missing)?)?;
        // What a signal makes fail is not the failure to tell.
        let untouched = |failure| interrupt.check(UNTOUCHED).err().unwrap_or(failure);
        if source.is_legacy(&interrupt).map_err(untouched)? {
            if self.partition.is_some() {
                let message = "is an Emulab image, of which --partition knows nothing";
                return Err(Failure::new(Exit::Usage, message).context(source.name()));
            }
            if self.choice.is_stdout() {
                let message =
                    "is an Emulab image, which is not written to standard output: name a file";
                return Err(Failure::new(Exit::Usage, message).context(source.name()));
            }
            return legacy::install::run(self, &source, &keys, &interrupt);
        }
        let trust = self.trust.load()?;
        if let Some(number) = self.partition {
            return part::run(self, &source, number, &trust, &keys, &interrupt);
        }
        if self.choice.is_stdout() {
            return stream::run(self, &source, &trust, &keys, &interrupt);
        }
        self.prepare(&source, &trust, &keys, &interrupt)
            .map_err(untouched)?
            .run()
    }

    /// Makes every check that can be made before the first write.
    fn prepare<'a>(
        &'a self,
        source: &'a Source,
        trust: &Trust,
        keys: &Keys,
        interrupt: &'a Interrupt,
    ) -> Result<Prepared<'a, impl Read + use<'a>>, Failure> {
        let name = source.name();
        let named = |failure: Failure| failure.context(&name);
        let bad = |error: Error| named(error.into());
        let options = self.install.options(0);
        let mut reader = source.reader(trust, interrupt).map_err(bad)?;
        let context = Arc::new(keys.context(reader.header_bytes(), trust).map_err(named)?);
        let header = context.header();
        self.wanted.check(header).map_err(bad)?;
        let layers = self.layers(&context, trust, keys).map_err(named)?;
        let candidate = Candidate::open(&self.target)?;
        // What is at the end of the disk is only known of an image that can be read twice.
        let may_cut = candidate.is_smaller(header)
            && source.seekable().is_some()
            && header.base.is_none()
            && header.chunk_format == ChunkFormat::Frz
            && !self.install.after.keeps_gpt();
        if !may_cut {
            candidate.check(header)?;
        }
        let destroys = candidate.holds_data() && !self.install.dry_run;
        if destroys {
            confirm::can_be_confirmed(&self.target, self.install.yes)?;
        }
        for file in layers.files() {
            candidate.refuse_same_file(file)?;
        }
        for path in self.trust.trust.iter().chain(self.keys.files()) {
            if let Ok(file) = File::open(path) {
                candidate.refuse_same_file(&file)?;
            }
        }
        layers.check(trust, options.threads, interrupt)?;
        let (chunks, held, target) = match source.seekable() {
            Some(file) => {
                candidate.refuse_same_file(file)?;
                let index =
                    check_file(file, &context, trust, options.threads, interrupt).map_err(named)?;
                let contents = Contents::new(&context, index.manifest.clone()).map_err(bad)?;
                let mut target = match may_cut {
                    true => {
                        let disk =
                            ImageDisk::new(file, &index, &contents, &context).map_err(bad)?;
                        let least = cut::least(&disk, header.sector_size, interrupt);
                        candidate.fit_cut(header, least.map_err(named)?)?
                    }
                    false => candidate.fit(header)?,
                };
                let image = Image {
                    context: &context,
                    with_bases: !layers.is_empty(),
                    threads: options.threads,
                };
                let reuse = self.install.looks_at(&target);
                if reuse && !self.json {
                    say(&format!(
                        "imageunzip: comparing {} with the image",
                        self.target.display()
                    ));
                }
                let held = contents
                    .find_on(&mut target, &image, reuse, interrupt, &|_| {})
                    .map_err(named)?;
                let chunks = Chunks::File {
                    file,
                    index: Box::new(index),
                    contents,
                };
                (chunks, held, target)
            }
            None => {
                // Who repeats a header that was signed once must not make a disk be wiped: something of the image has
                // to follow.
                let mut chunk = Vec::new();
                let next = reader.next(&mut chunk).map_err(bad)?;
                match &next {
                    Next::Chunk(index) => context.verify_chunk(&chunk, *index).map(drop),
                    Next::End(manifest) => context.secrets(manifest).map(drop),
                }
                .map_err(bad)?;
                if header.base.is_some() && layers.is_empty() {
                    let message = "is a delta: from a pipe it is installed with --base only";
                    return Err(named(Failure::new(Exit::Usage, message)));
                }
                let first = (next, chunk);
                let target = candidate.fit(header)?;
                (Chunks::Pipe { reader, first }, Held::default(), target)
            }
        };
        if destroys {
            let what = format!(
                "{} ({}) onto {}",
                header.name,
                units::size(header.disk_bytes()),
                self.target.display()
            );
            confirm::confirm_destruction(&self.target, &what, self.install.yes, interrupt)?;
        }
        Ok(Prepared {
            cli: self,
            name,
            context,
            layers,
            target,
            chunks,
            held,
            interrupt,
        })
    }

    pub(crate) fn layers(
        &self,
        context: &Context,
        trust: &Trust,
        keys: &Keys,
    ) -> Result<Layers, Failure> {
        if self.base.is_empty() {
            return Ok(Layers::default());
        }
        let bases = self
            .base
            .iter()
            .map(|path| Base::open(path, trust, keys))
            .collect::<Result<_, _>>()?;
        Layers::new(context.header(), bases)
    }
}

/// Where the chunks of an image come from.
enum Chunks<'a, R> {
    /// A file that was checked from beginning to end.
    File {
        file: &'a File,
        index: Box<ImageIndex>,
        contents: Contents,
    },
    /// A pipe, of which something was read behind the header.
    Pipe {
        reader: ImageReader<R>,
        first: (Next, Vec<u8>),
    },
}

/// An image and a target that have passed every check.
struct Prepared<'a, R> {
    cli: &'a Cli,
    name: String,
    context: Arc<Context>,
    layers: Layers,
    target: Target,
    chunks: Chunks<'a, R>,
    /// What is on the target already.
    held: Held,
    interrupt: &'a Interrupt,
}

impl<R: Read> Prepared<'_, R> {
    fn run(self) -> Result<(), Failure> {
        let Self {
            cli,
            name,
            context,
            layers,
            target,
            chunks,
            held,
            interrupt,
        } = self;
        let header = context.header();
        let total = match &chunks {
            Chunks::File { contents, .. } => contents.bytes_without(&held, header.sector_size),
            Chunks::Pipe { .. } => header.disk_bytes(),
        };
        let installation = Installation {
            cli,
            source: name,
            title: Title {
                name: header.name.clone(),
                version: format!("epoch {}", header.epoch()),
                fields: json!({ "uuid": header.uuid().to_string(), "epoch": header.epoch() }),
            },
            format: Format::Frz {
                context: Arc::clone(&context),
                bases: layers.contexts(),
                part: None,
            },
            target,
            total,
            held: held.clone(),
            interrupt,
        };
        let bring_absent = |feed: &Feed<'_>, contents: &Contents| {
            for (index, secret) in contents.absent() {
                feed.check()?;
                if held.has(index) {
                    continue;
                }
                let origin = layers.find(&secret.layout, &context)?;
                let mut chunk = feed.installer.buffer();
                layers.read(origin, &mut chunk)?;
                let hash = secret.plain_hash;
                let installer = feed.installer;
                feed.taken(installer.submit_from_base(index, chunk, origin, hash))?;
            }
            Ok::<_, Failure>(())
        };
        installation.run(|feed| {
            let installer = feed.installer;
            let submit = |index, chunk| {
                feed.check()?;
                feed.taken(installer.submit(index, chunk))
            };
            let contents = match chunks {
                Chunks::File {
                    file,
                    index,
                    contents,
                } => {
                    for (number, secret) in (0..).zip(&contents.secrets) {
                        feed.check()?;
                        if held.has(number) {
                            feed.taken(installer.keep(number, secret.layout.clone()))?;
                        } else if let Some((offset, length)) = index.chunk(number) {
                            let mut chunk = installer.buffer();
                            chunk.resize(length, 0);
                            file.read_exact_at(&mut chunk, offset)
                                .map_err(|source| Error::Io { offset, source })?;
                            submit(number, chunk)?;
                        }
                    }
                    contents
                }
                Chunks::Pipe { mut reader, first } => {
                    let manifest = match first {
                        (Next::End(manifest), _) => *manifest,
                        (Next::Chunk(index), chunk) => {
                            submit(index, chunk)?;
                            read_all(&mut reader, || installer.buffer(), submit)?
                        }
                    };
                    // The end of a pipe is the first place where its manifest can be judged.
                    Contents::new(&context, manifest)?
                }
            };
            bring_absent(feed, &contents)?;
            Ok(Expected::Manifest(contents.manifest.entries.into()))
        })
    }
}
