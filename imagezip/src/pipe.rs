//! Reading a file or a pipe from beginning to end. A pipe may have nothing to give for long: a signal ends the waiting.

use std::fs::File;
use std::io::{self, BufReader, Read};
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

impl Pipe {
    /// Opens `path`; `-` is standard input. Returns the name for messages, too.
    ///
    /// # Errors
    /// If it cannot be opened, or cannot be an image.
    pub(crate) fn open(
        path: &Path,
        interrupt: &Interrupt,
    ) -> Result<(String, BufReader<Self>), Failure> {
        let fail = |error| Failure::new(Exit::Input, error).context(path.display());
        let (name, file) = if path == Path::new("-") {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
            ("standard input".to_owned(), File::from(stdin))
        } else {
            (path.display().to_string(), File::open(path).map_err(fail)?)
        };
        let pipe = Self {
            file,
            interrupt: interrupt.clone(),
        };
        Ok((name, BufReader::with_capacity(BUFFER, pipe)))
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
