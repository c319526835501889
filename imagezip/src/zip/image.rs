//! Making an image of another image.

use std::path::Path;
use std::sync::Arc;

use chunkfmt::{Context, ImageHeader};
use frisbee_cli::progress::Progress;
use frisbee_cli::{Exit, Failure, Interrupt};
use serde_json::json;

use super::run::Run;
use super::{Cli, DiskShape};
use crate::base::{Chain, Indexed};
use crate::create::Source;
use crate::inputs::Access;
use crate::pipe::Input;
use crate::protect::Protected;
use crate::reseal::{Layers, Resealer, Stream, Taken, To};

/// The image that is read.
struct Old<'a> {
    /// Its name for messages, and those of its bases.
    names: &'a [String],
    header: &'a ImageHeader,
    /// What opens its chunks and those of its bases.
    contexts: &'a [Arc<Context>],
    /// Bytes of disk data, 0 if that is not known.
    total: u64,
}

/// What is made of it.
struct New<'a> {
    to: To<'a>,
    /// What it is a delta to.
    base: Option<&'a Indexed>,
    protected: &'a Protected,
}

impl Cli {
    /// Makes an image of another image.
    pub(super) fn make_from_image(
        &self,
        from: &Path,
        input: Input,
        access: &Access,
        protected: &Protected,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let stream = Stream::open(input, access, interrupt)?;
        let names = [stream.name().to_owned()];
        let context = Arc::clone(stream.context());
        let header = context.header();
        if header.base.is_some() {
            drop(stream);
            return self.make_from_delta(from, access, protected, interrupt);
        }
        if self.inputs.keep_delta {
            let message = "is no delta: leave out --keep-delta";
            return Err(Failure::new(Exit::Usage, message).context(from.display()));
        }
        let chain = self.open_chain(Some(access))?;
        let base = Self::nearest(chain.as_ref(), header.sector_size, header.disk_sectors)?;
        // The end of a pipe is not known; what else is wrong with a file is said when it is read.
        let total = Indexed::open(from, access)
            .map_or(0, |indexed| indexed.index.manifest.head.plain_bytes);
        let old = Old {
            names: &names,
            header,
            contexts: &[Arc::clone(&context)],
            total,
        };
        let new = New {
            to: base.map_or(To::Full, To::Delta),
            base,
            protected,
        };
        self.reseal(stream, &old, &new, interrupt)
    }

    fn make_from_delta(
        &self,
        from: &Path,
        access: &Access,
        protected: &Protected,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        if from == Path::new("-") {
            let message = "the image on standard input is a delta, which is not read in one pass: name its file";
            return Err(Failure::new(Exit::Usage, message));
        }
        let delta = Indexed::open(from, access)?;
        let header = &delta.index.header;
        let chain = Chain::open_below(header, &self.inputs.base, access)?;
        let layers = Layers::new(&delta, &chain);
        let old = Old {
            names: &layers.names(),
            header,
            contexts: &layers.contexts(),
            total: delta.plain_bytes(),
        };
        let (to, base) = match self.inputs.keep_delta {
            true => (To::SameDelta, chain.nearest()),
            false => (To::Full, None),
        };
        let new = New {
            to,
            base,
            protected,
        };
        self.reseal(layers, &old, &new, interrupt)
    }

    fn reseal<S: Source<Item = Taken>>(
        &self,
        source: S,
        old: &Old<'_>,
        new: &New<'_>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let shape = DiskShape {
            sector_size: old.header.sector_size,
            sectors: old.header.disk_sectors,
            chunk_size: old.header.chunk_size,
        };
        let name = self.name.clone();
        let name = name.unwrap_or_else(|| old.header.name.clone());
        let epoch = self.epoch(old.header.epoch(), new.base)?;
        let header = self.describe(new.protected, name, epoch, &shape, new.base)?;
        let budget = self.budget(new.protected, shape.chunk_size, u64::from(shape.chunk_size))?;
        let sealer = new.protected.sealer(header)?;
        let output = self.open_output(&self.source, new.protected.key.is_none())?;
        let header = sealer.header();
        let fields = json!({
            "source": old.names.first(), "image": output.name(), "name": header.name, "uuid": header.uuid().to_string(),
            "epoch": header.epoch(), "disk_bytes": header.disk_bytes(), "sector_size": header.sector_size,
            "total_bytes": old.total,
        });
        let progress = Progress::start(self.events(), old.total, fields);
        let makers = (0..budget.threads)
            .map(|_| Resealer::new(old.names, old.contexts, sealer.for_thread()?, new.to))
            .collect::<Result<_, _>>()?;
        let run = Run {
            sealer: &sealer,
            buffers: budget.buffers,
            output,
            progress: &progress,
            interrupt,
            disk: None,
        };
        run.write(source, makers)
    }
}
