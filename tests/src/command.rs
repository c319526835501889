//! Running programs: the tools under test with all that they say, and system programs that must succeed.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::background::Background;
use crate::packages;

/// No single command of a test takes this long on any machine; one that does hangs.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The tools under test. Their error lines begin with their names.
pub const PROGRAMS: [&str; 6] = [
    "imagezip",
    "imagekey",
    "imageunzip",
    "imagedump",
    "frisbeed",
    "frisbee-client",
];

/// The directory of the built binaries: the environment's `E2E_BINARIES`, or the one of the running test.
///
/// # Errors
/// If the running program is in no such directory.
pub fn profile_directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let mut directories = program.ancestors().skip(1);
    let found = directories.find(|directory| directory.file_name() != Some(OsStr::new("deps")));
    Ok(found
        .context("the running program is in no directory")?
        .into())
}

/// A tool of this project, by name.
///
/// # Errors
/// If it was not built.
pub fn tool(name: &str) -> Result<Command> {
    let directory = match std::env::var_os("E2E_BINARIES") {
        Some(directory) => directory.into(),
        None => profile_directory()?,
    };
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is not there: run cargo build --workspace first",
        path.display()
    );
    Ok(Command::new(path))
}

/// A program of the system.
///
/// # Errors
/// If it is not installed.
pub fn system(name: &str) -> Result<Command> {
    match packages::find(name) {
        Some(path) => Ok(Command::new(path)),
        None => bail!(
            "{name} is not installed: apt-get install {}",
            packages::package(name)
        ),
    }
}

/// Runs a program of the system that must succeed, and returns its stdout.
///
/// # Errors
/// All that it said, if it fails.
pub fn must<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = system(name)?;
    command.args(arguments);
    Ok(run(command)?.success()?.stdout_text())
}

/// As [`must`], with the words of `line` as arguments.
///
/// # Errors
/// All that it said, if it fails.
pub fn must_line(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    must(words.next().unwrap_or_default(), words)
}

/// Runs a command to its end, with an empty stdin.
///
/// # Errors
/// If it cannot be started or does not end in time.
pub fn run(mut command: Command) -> Result<Outcome> {
    command.stdin(Stdio::null());
    Background::start(command)?.wait(LIMIT)
}

/// What a program did.
#[derive(Debug)]
pub struct Outcome {
    /// Its command line.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Outcome {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it wrote to stdout, as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// # Errors
    /// All that it said, unless it ended well.
    pub fn success(self) -> Result<Self> {
        ensure!(self.status.success(), "{self}");
        Ok(self)
    }

    /// Checks that it failed as the tools are to fail: with this exit code, and one line on stderr that says why,
    /// the last one. Returns the line without its newline.
    ///
    /// # Errors
    /// All that it said, if not.
    pub fn failure(&self, code: i32) -> Result<&str> {
        ensure!(
            self.code() == Some(code),
            "exit code {code} was expected: {self}"
        );
        ensure!(!self.stderr.contains("panicked"), "{self}");
        let is_event = |line: &str| line.starts_with('{') && line.contains("\"event\":");
        ensure!(
            self.stdout.is_empty() || self.stdout_text().lines().all(is_event),
            "nothing but events on stdout was expected: {self}"
        );
        let of = |name: &str| {
            self.stderr
                .lines()
                .filter(|line| line.starts_with(&format!("{name}: ")))
                .count()
        };
        // The network's programs may have said before what they wait for, or what slows them down.
        let once = PROGRAMS
            .iter()
            .all(|name| name.starts_with("frisbee") || of(name) <= 1);
        let last = self.stderr.lines().last().unwrap_or_default();
        let is_error = PROGRAMS
            .iter()
            .any(|name| last.starts_with(&format!("{name}: ")));
        ensure!(
            once && is_error,
            "one line that says why was expected: {self}"
        );
        Ok(last)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "{}: exit code {code}", self.command)?,
            (None, signal) => write!(
                f,
                "{}: ended by signal {}",
                self.command,
                signal.unwrap_or(0)
            )?,
        }
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stdout: String = stdout.chars().take(4000).collect();
        write!(f, "\n-- stdout --\n{stdout}\n-- stderr --\n{}", self.stderr)
    }
}
