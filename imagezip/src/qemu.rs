//! A virtual disk that qemu-nbd opens: the program is run for the time that is needed and asked over a socket that
//! nobody else can reach.
//!
//! It ends when the last connection does. So it does not outlive this process, however that ends.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use frisbee_cli::{Exit, Failure};
use serde_json::json;
use tempfile::TempDir;

use crate::disk::How;
use crate::nbd::{Answer, Connection};
use crate::source_format::SourceFormat;

/// The program, of the Debian package `qemu-utils`, as is the next.
const PROGRAM: &str = "qemu-nbd";

/// What checks a disk's tables.
const CHECKER: &str = "qemu-img";

/// How the checker ends if nothing is wrong, if some space is lost, and if it has no check for this format.
const CHECKED: [i32; 3] = [0, 3, 63];

/// How long it may take to open a disk, which may lie on a slow network.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to end when it has closed a connection.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks whether it is ready.
const START_INTERVAL: Duration = Duration::from_millis(3);

/// How much of what it says on stderr is repeated, in bytes.
const WORDS_MAX: usize = 500;

/// A running qemu-nbd.
#[derive(Debug)]
pub(crate) struct Qemu {
    /// Connections that nobody uses at the moment. Each thread that reads takes one of its own.
    idle: Mutex<Vec<Connection<UnixStream>>>,
    child: Child,
    socket: PathBuf,
    words: PathBuf,
    size: u64,
    /// Holds socket and words; nobody else can enter it.
    _directory: TempDir,
}

impl Qemu {
    /// Opens a virtual disk for reading.
    ///
    /// # Errors
    /// If the program is missing, or what it says about the disk.
    pub(crate) fn open(path: &Path, format: SourceFormat, how: &How) -> Result<Self, Failure> {
        let fail = |message: String| Failure::new(Exit::Input, message).context(path.display());
        let broken = |error: io::Error| {
            let message = format!("{PROGRAM} cannot be started: {error}");
            Failure::new(Exit::Internal, message).context(path.display())
        };
        let absolute = fs::canonicalize(path).map_err(|error| fail(error.to_string()))?;
        let name = absolute
            .to_str()
            .ok_or_else(|| fail("qemu cannot open a file whose name is not UTF-8".into()))?;
        // Named so, neither the format nor the file is a matter of guessing: a file's name could be taken for a URL.
        let mut node = json!({
            "driver": format.driver(), "read-only": true,
            "file": { "driver": "file", "filename": name, "read-only": true },
        });
        if !how.allow_backing {
            node["backing"] = serde_json::Value::Null;
        }
        if how.allow_used {
            node["force-share"] = true.into();
        }
        let directory = tempfile::tempdir().map_err(broken)?;
        let socket = directory.path().join("socket");
        let words = directory.path().join("stderr");
        let missing = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => fail(format!(
                "is a {} disk, which {PROGRAM} has to open: install it (Debian package qemu-utils), or convert the \
                 disk with qemu-img convert -O raw",
                format.name()
            )),
            _ => broken(error),
        };
        let node = format!("json:{node}");
        // What lies behind the end of a file that was cut short would be read as zeros. A disk that is in use has
        // tables that are being written.
        if !how.allow_used && !how.rescue {
            let checked = Command::new(CHECKER)
                .args(["check", "-q", &node])
                .stdin(Stdio::null())
                .process_group(0)
                .output()
                .map_err(missing)?;
            if !checked
                .status
                .code()
                .is_some_and(|code| CHECKED.contains(&code))
            {
                let said = [checked.stderr, checked.stdout].concat();
                let said = in_short(&said, CHECKER);
                return Err(fail(format!(
                    "qemu cannot open it, or it is damaged: {said}"
                )));
            }
        }
        let child = Command::new(PROGRAM)
            .arg("--read-only")
            .arg("--shared=0")
            .arg("--socket")
            .arg(&socket)
            .arg("--")
            .arg(&node)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&words).map_err(broken)?)
            // A signal from the terminal is for us to answer.
            .process_group(0)
            .spawn()
            .map_err(missing)?;
        let mut qemu = Self {
            idle: Mutex::default(),
            child,
            socket,
            words,
            size: 0,
            _directory: directory,
        };
        let first = qemu.wait_until_ready().map_err(|error| match error {
            Some(error) => broken(error),
            None => fail(format!("qemu cannot open it: {}", qemu.last_words())),
        })?;
        qemu.size = first.size();
        qemu.put_back(first);
        Ok(qemu)
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The first connection; an error without a reason if the program has ended instead.
    fn wait_until_ready(&mut self) -> Result<Connection<UnixStream>, Option<io::Error>> {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(&self.socket) {
                // It listens before it looks at the disk.
                Ok(stream) => {
                    return Connection::open(stream)
                        .map_err(|error| (!self.ends()).then_some(error));
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => return Err(Some(error)),
            }
            if self.child.try_wait().map_err(Some)?.is_some() {
                return Err(None);
            }
            if begun.elapsed() > START_LIMIT {
                return Err(Some(ErrorKind::TimedOut.into()));
            }
            thread::sleep(START_INTERVAL);
        }
    }

    /// Whether it ends by itself.
    fn ends(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < END_LIMIT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(START_INTERVAL);
        }
        false
    }

    fn last_words(&self) -> String {
        in_short(&fs::read(&self.words).unwrap_or_default(), PROGRAM)
    }

    fn put_back(&self, connection: Connection<UnixStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(connection);
    }

    fn connection(&self) -> io::Result<Connection<UnixStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let found = idle.pop();
        drop(idle);
        match found {
            Some(connection) => Ok(connection),
            None => Connection::open(UnixStream::connect(&self.socket)?),
        }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// If it cannot be read: the disk's errors, or the program has ended.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let read = self.connection().and_then(|mut connection| {
            let answer = connection.read(buffer, offset)?;
            self.put_back(connection);
            Ok(answer)
        });
        match read {
            Ok(Answer::Data) => Ok(()),
            Ok(Answer::Error(errno)) => Err(io::Error::from_raw_os_error(errno)),
            // Its connection is gone, so the reason is told here.
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{PROGRAM} failed: {error}"),
            )),
        }
    }
}

/// What a program has said, as one line.
fn in_short(words: &[u8], program: &str) -> String {
    let words = String::from_utf8_lossy(words);
    let words = words.trim().replace('\n', "; ");
    let node = words.find("json:").zip(words.find("': "));
    // It repeats the whole description of what it was to open.
    let words = match node {
        Some((from, to)) if from < to => words.get(to + 3..).unwrap_or_default(),
        _ => words
            .trim_start_matches(program)
            .trim_start_matches([':', ' ']),
    };
    let words: String = words
        .chars()
        .filter(|c| !c.is_control())
        .take(WORDS_MAX)
        .collect();
    match words.is_empty() {
        true => format!("{program} ended without a word"),
        false => words,
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        idle.drain(..).for_each(Connection::close);
        // It only reads: there is nothing that it would have to finish.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
