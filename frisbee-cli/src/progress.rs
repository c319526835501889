//! Progress of a long run: a bar on a terminal, JSON lines where asked for, otherwise nothing but the last word.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

/// Shortest time between two JSON progress events.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// Where JSON events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// Not asked for.
    Off,
    /// To stdout.
    Stdout,
    /// To stderr, because stdout carries the data.
    Stderr,
}

/// Shows one run: start, progress, finish or fail. Shared by all threads of the run.
pub struct Progress {
    events: Events,
    bar: ProgressBar,
    started: Instant,
    last_event: Mutex<Instant>,
}

impl Progress {
    /// Begins a run of `total` bytes. `fields` are those of the `start` event.
    pub fn start(events: Events, total: u64, fields: Value) -> Self {
        // Without an end there is no bar.
        let draw = events == Events::Off && total > 0 && std::io::stderr().is_terminal();
        let target = if draw {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template =
            "{bar:30} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} ETA {eta} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let now = Instant::now();
        let progress = Self {
            events,
            bar,
            started: now,
            last_event: Mutex::new(now),
        };
        progress.emit("start", fields);
        progress
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts `bytes` more as done.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        let due = self.last_event.lock().is_ok_and(|mut last| {
            let due = last.elapsed() >= EVENT_INTERVAL;
            if due {
                *last = Instant::now();
            }
            due
        });
        if due {
            let total = self.bar.length().unwrap_or(0);
            self.emit(
                "progress",
                json!({ "bytes": self.bar.position(), "total_bytes": total }),
            );
        }
    }

    /// Sets the note at the end of the bar.
    pub fn note(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// Prints a line without disturbing the bar; with JSON events, as a `message` event.
    pub fn line(&self, text: &str) {
        match self.events {
            Events::Off => self.bar.suspend(|| say(text)),
            _ => self.emit("message", json!({ "text": text })),
        }
    }

    /// Ends the run well: `summary` on stderr, or a `finish` event with `fields`.
    pub fn finish(&self, summary: &str, fields: Value) {
        self.bar.finish_and_clear();
        match self.events {
            Events::Off => say(summary),
            _ => self.emit("finish", fields),
        }
    }

    /// Ends the run badly: a `fail` event; the error line itself is printed by [`crate::run`].
    pub fn fail(&self, message: &str, exit: crate::Exit) {
        self.bar.finish_and_clear();
        self.emit("fail", json!({ "error": message, "exit": exit as u8 }));
    }

    /// Writes one event: `{"event": NAME, "seconds": since the start, ...fields}`.
    pub fn emit(&self, event: &str, fields: Value) {
        let mut object = Map::new();
        object.insert("event".into(), event.into());
        object.insert(
            "seconds".into(),
            json!(self.started.elapsed().as_secs_f64()),
        );
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        let line = format!("{}\n", Value::Object(object));
        // A reader that has gone must not end an installation.
        let _ = match self.events {
            Events::Off => Ok(()),
            Events::Stdout => std::io::stdout().write_all(line.as_bytes()),
            Events::Stderr => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}
