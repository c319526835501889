//! Reading a file or a pipe from beginning to end. A pipe may have nothing to give for long: a signal ends the waiting.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;

use frisbee_cli::{Exit, Failure, Interrupt};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Milliseconds between two looks whether a signal has come.
const SIGNAL_INTERVAL: u16 = 100;

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// A file or a pipe.
pub(crate) struct Pipe {
    file: File,
    interrupt: Interrupt,
}

/// An image that is read from beginning to end.
pub(crate) struct Input {
    /// The name for messages.
    pub(crate) name: String,
    /// Where it comes from.
    pub(crate) pipe: BufReader<Pipe>,
}

impl Input {
    /// Opens `path`; `-` is standard input.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(path: &Path, interrupt: &Interrupt) -> Result<Self, Failure> {
        let fail = |error| Failure::new(Exit::Input, error).context(path.display());
        let (name, file) = if path == Path::new("-") {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
            ("standard input".to_owned(), File::from(stdin))
        } else {
            (path.display().to_string(), File::open(path).map_err(fail)?)
        };
        let pipe = Pipe {
            file,
            interrupt: interrupt.clone(),
        };
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
        // 0x69696969 plus version minus 1, the lowest byte first (docs/NDZ.md, Header).
        let magic = begin.first_chunk::<4>();
        Ok(magic.is_some_and(|magic| (0x69..=0x6f).contains(&magic[0]) && magic[1..] == [0x69; 3]))
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.interrupt.is_raised() {
                return Err(io::Error::other("interrupted"));
            }
            let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(SIGNAL_INTERVAL)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => return self.file.read(buffer),
            }
        }
    }
}
