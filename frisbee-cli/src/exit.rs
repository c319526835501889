//! Exit codes, and the one way an error leaves a program: a line on stderr and its code.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use chunkfmt::ErrorKind;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// The exit codes of all tools. They are part of the interface: scripts depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done; data is on disk and verified.
    Done = 0,
    /// A fault of the program itself.
    Internal = 1,
    /// Wrong use of the command line.
    Usage = 2,
    /// The input is not what it should be: no image, cut short, a key file that cannot be read.
    Input = 3,
    /// A signature, key or hash is wrong.
    Verification = 4,
    /// The target may not be written: too small, mounted, in use, not confirmed.
    Target = 5,
    /// No such interface or group, or nobody answers.
    Network = 6,
    /// Reading or writing failed.
    Io = 7,
    /// The image is installed and verified, but something that was to be done after that failed.
    After = 8,
    /// Stopped by SIGINT or SIGTERM before the work was done.
    Interrupted = 130,
}

/// The table of exit codes for `--help` and manual pages.
pub const EXIT_CODES: &str = "Exit codes:
  0  done: data is on disk and verified
  1  internal error
  2  wrong usage
  3  bad input: not an image, cut short, malformed, unreadable key file
  4  verification failed: signature, owner, key, altered data
  5  target refused: too small, mounted, in use, not confirmed
  6  network: no such interface or group, nobody answers
  7  I/O error: reading, writing or flushing failed, disk full
  8  installed and verified, but a step after it failed: growing, identity, a hook
  130  interrupted before the work was done";

/// Why a program ends early: one line, and an exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong and what to do, on one line.
    pub message: String,
    /// It was an event already.
    pub(crate) told: bool,
}

impl Failure {
    /// A failure with this code and line.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
            told: false,
        }
    }

    /// Puts a file or place in front of the message.
    #[must_use]
    pub fn context(self, place: impl fmt::Display) -> Self {
        Self {
            message: format!("{place}: {}", self.message),
            ..self
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Input => Self::Input,
            ErrorKind::Verification => Self::Verification,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::Io => Self::Io,
        }
    }
}

impl From<ndz::ErrorKind> for Exit {
    fn from(kind: ndz::ErrorKind) -> Self {
        match kind {
            ndz::ErrorKind::Input => Self::Input,
            ndz::ErrorKind::Verification => Self::Verification,
            ndz::ErrorKind::Usage => Self::Usage,
            ndz::ErrorKind::Io => Self::Io,
        }
    }
}

impl From<ndz::Error> for Failure {
    fn from(error: ndz::Error) -> Self {
        Self::new(error.kind().into(), error)
    }
}

impl From<chunkfmt::Error> for Failure {
    fn from(error: chunkfmt::Error) -> Self {
        Self::new(error.kind().into(), error)
    }
}

/// The limit keeps cores from files, the other from programs that collect them (core(5)).
fn no_core_dumps() -> Result<(), Failure> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
        .and_then(|()| set_dumpable(false))
        .map_err(|error| {
            Failure::new(
                Exit::Internal,
                format!("core dumps cannot be turned off: {error}"),
            )
        })
}

/// Prints a line to stderr. That nobody can read it any more is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Runs a program: no core dumps, since keys are in memory; a failure becomes `NAME: message` and its exit code.
pub fn run(name: &str, main: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    match no_core_dumps().and_then(|()| main()) {
        Ok(()) => ExitCode::from(Exit::Done as u8),
        Err(failure) => {
            let line = failure.message.replace('\n', " ");
            say(&format!("{name}: {line}"));
            ExitCode::from(failure.exit as u8)
        }
    }
}
