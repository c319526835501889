//! A program that runs beside the test: its output is collected, and it is killed when its guard is dropped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::Outcome;

/// A running program.
pub struct Background {
    command: String,
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<()>>,
    said: Arc<Mutex<String>>,
    lines: Receiver<String>,
}

impl Background {
    /// Starts a program. Its stdin is what `command` says, else empty; its output is collected.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let words = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let shown = words
            .map(|word| word.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("{shown}: cannot be started"))?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().map(|pipe| {
            thread::spawn(move || {
                let mut all = Vec::new();
                let mut reader = BufReader::new(pipe);
                loop {
                    let start = all.len();
                    if reader.read_until(b'\n', &mut all).unwrap_or(0) == 0 {
                        return all;
                    }
                    // Nobody may be listening.
                    let _ =
                        sender.send(String::from_utf8_lossy(&all[start..]).trim_end().to_owned());
                }
            })
        });
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().map(|mut pipe| {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..count]);
                    said.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push_str(&text);
                }
            })
        });
        Ok(Self {
            command: shown,
            child,
            stdout,
            stderr,
            said,
            lines,
        })
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr up to now.
    pub fn stderr(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a line on stdout of which `wanted` makes something.
    ///
    /// # Errors
    /// If the program ends first, or nothing comes within [`crate::command::LIMIT`].
    pub fn line<T>(&self, mut wanted: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let end = Instant::now() + crate::command::LIMIT;
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{}: has not said it: {}", self.command, self.stderr())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{}: ended early: {}", self.command, self.stderr())
                }
            }
        }
    }

    /// Waits until what it has written to stderr contains `text`.
    ///
    /// # Errors
    /// If the program ends without, or it does not come within [`crate::command::LIMIT`].
    pub fn says(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + crate::command::LIMIT;
        loop {
            let running = self.child.try_wait()?.is_none();
            if self.stderr().contains(text) {
                return Ok(());
            }
            if !running || Instant::now() > end {
                bail!("{}: has not said {text:?}: {}", self.command, self.stderr());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is no more.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("a process number")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("{}: {signal}", self.command))
    }

    /// Kills it as `kill -9` does, and waits for its end.
    ///
    /// # Errors
    /// If that fails.
    pub fn kill(mut self) -> Result<Outcome> {
        self.child.kill()?;
        self.wait(crate::command::LIMIT)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If that does not come within `limit`.
    pub fn wait(mut self, limit: Duration) -> Result<Outcome> {
        let status = self.end(limit)?;
        let stdout = self
            .stdout
            .take()
            .map(JoinHandle::join)
            .and_then(Result::ok)
            .unwrap_or_default();
        if let Some(thread) = self.stderr.take() {
            let _ = thread.join();
        }
        Ok(Outcome {
            command: std::mem::take(&mut self.command),
            status,
            stdout,
            stderr: self.stderr(),
        })
    }

    fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!(
                    "{}: did not end within {} s: {}",
                    self.command,
                    limit.as_secs(),
                    self.stderr()
                );
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
