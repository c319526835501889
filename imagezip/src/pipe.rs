//! An image that is read from beginning to end, from a file or a pipe.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use frisbee_cli::pipe::{self, Interruptible};
use frisbee_cli::{Exit, Failure, Interrupt};

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// An image that is read from beginning to end.
pub(crate) struct Input {
    /// The name for messages.
    pub(crate) name: String,
    /// Where it comes from.
    pub(crate) pipe: BufReader<Interruptible<File>>,
}

impl Input {
    /// Opens `path`; `-` is standard input.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(path: &Path, interrupt: &Interrupt) -> Result<Self, Failure> {
        let (name, file) = pipe::open(path)?;
        let pipe = Interruptible::new(file, interrupt);
        Ok(Self {
            name,
            pipe: BufReader::with_capacity(BUFFER, pipe),
        })
    }

    /// Whether it begins as an Emulab image does; nothing is consumed.
    ///
    /// # Errors
    /// If reading fails, or on a signal.
    pub(crate) fn is_emulab(&mut self, interrupt: &Interrupt) -> Result<bool, Failure> {
        let begin = self.pipe.fill_buf().map_err(|error| {
            let interrupted = interrupt.check("no image was written").err();
            interrupted.unwrap_or_else(|| Failure::new(Exit::Io, error).context(&self.name))
        })?;
        Ok(ndz::is_image(begin))
    }
}
