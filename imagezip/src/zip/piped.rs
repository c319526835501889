//! Imaging a disk that comes through a pipe.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use frisbee_cli::pipe::{self, Interruptible};
use frisbee_cli::progress::Progress;
use frisbee_cli::{Exit, Failure, Interrupt};
use serde_json::json;

use super::run::Run;
use super::{Cli, DiskShape, now};
use crate::inputs::Access;
use crate::piped::{PieceSealer, Piped};
use crate::protect::Protected;
use crate::selection;

impl Cli {
    /// Whether the source can only be read once, from beginning to end.
    ///
    /// # Errors
    /// If it is a terminal.
    pub(super) fn is_pipe(&self) -> Result<bool, Failure> {
        let is_stdin = self.source == Path::new("-");
        if is_stdin && io::stdin().is_terminal() {
            let message = "standard input is a terminal: redirect it from a disk, a file or a pipe";
            return Err(Failure::new(Exit::Usage, message));
        }
        let path = selection::path_of(&self.source);
        // What is wrong with another source is said when it is opened.
        let kind = fs::metadata(path).map(|metadata| metadata.file_type());
        Ok(kind.is_ok_and(|kind| match is_stdin {
            true => !kind.is_file() && !kind.is_block_device(),
            false => kind.is_fifo(),
        }))
    }

    /// Makes an image, or a delta, of what comes through a pipe.
    pub(super) fn make_from_pipe(
        &self,
        image: &Path,
        access: Option<&Access>,
        protected: &Protected,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let chain = self.open_chain(access)?;
        let usual = chain.as_ref().and_then(|chain| chain.nearest());
        let usual = usual.map(|base| base.index.header.sector_size);
        let (name, file) = pipe::open(&self.source)?;
        let shape = self.selection.pipe_shape(usual);
        let (sectors, sector_size) = shape.map_err(|failure| failure.context(&name))?;
        let base = Self::nearest(chain.as_ref(), sector_size, sectors)?;
        let shape = DiskShape {
            sector_size,
            sectors,
            chunk_size: self.choose_chunk_size(base),
        };
        let epoch = self.epoch(now(), base)?;
        let header = self.describe(protected, self.name_after(image), epoch, &shape, base)?;
        // What is read ahead for a thread.
        let extra = u64::from(shape.chunk_size);
        let budget = self.budget(protected, shape.chunk_size, extra)?;
        let sealer = protected.sealer(header)?;
        let output = self.open_output(image, protected.key.is_none())?;
        let header = sealer.header();
        let size = header.disk_bytes();
        let fields = json!({
            "source": name, "image": output.name(), "name": header.name, "uuid": header.uuid().to_string(),
            "epoch": header.epoch(), "disk_bytes": size, "sector_size": sector_size, "total_bytes": size,
        });
        let progress = Progress::start(self.events(), size, fields);
        let makers = (0..budget.threads)
            .map(|_| {
                let sealer = sealer.for_thread()?;
                Ok(PieceSealer { sealer, base })
            })
            .collect::<Result<_, Failure>>()?;
        let pipe = Interruptible::new(file, interrupt);
        let disk = (sectors, sector_size);
        let source = Piped::new((name, pipe), disk, shape.chunk_size, interrupt);
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
