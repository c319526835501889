//! Reading a file or a pipe from beginning to end. A pipe may have nothing to give for long: a signal ends the waiting.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Exit, Failure, Interrupt};

/// Milliseconds between two looks whether a signal has come.
const SIGNAL_INTERVAL: u16 = 100;

/// A file or pipe and its name for messages; `-` is standard input.
///
/// # Errors
/// If it cannot be opened.
pub fn open(path: &Path) -> Result<(String, File), Failure> {
    let fail = |error| Failure::new(Exit::Input, error).context(path.display());
    if path == Path::new("-") {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
        return Ok(("standard input".into(), File::from(stdin)));
    }
    // A named pipe that nobody writes to yet is waited for where a signal can end it, not here.
    let mut options = File::options();
    options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    Ok((
        path.display().to_string(),
        options.open(path).map_err(fail)?,
    ))
}

/// Reads from a file or pipe until a signal comes; then it fails.
pub struct Interruptible<F> {
    file: F,
    interrupt: Interrupt,
}

impl<F> Interruptible<F> {
    /// Reads from `file`.
    pub fn new(file: F, interrupt: &Interrupt) -> Self {
        Self {
            file,
            interrupt: interrupt.clone(),
        }
    }
}

impl<F: Read + AsFd> Read for Interruptible<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.interrupt.is_raised() {
                return Err(io::Error::other("interrupted"));
            }
            let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(SIGNAL_INTERVAL)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => match self.file.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                },
            }
        }
    }
}
