//! Progress of a long run: a bar on a terminal, JSON lines where asked for, otherwise nothing but the last word.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::stages::{Snapshot, Stages};
use crate::{Failure, say};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

/// Shortest time between two JSON progress events, and two looks at what limits the run.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time after which two thirds of the rate are that of the last bytes.
const RATE_MEMORY: Duration = Duration::from_secs(8);

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

impl Events {
    /// To stdout if they are asked for.
    pub fn on_stdout(asked: bool) -> Self {
        match asked {
            true => Self::Stdout,
            false => Self::Off,
        }
    }

    /// Writes one event: `{"event": NAME, "seconds": since the start, ...fields}`.
    fn emit(self, event: &str, time: Duration, fields: Value) {
        let mut object = Map::new();
        object.insert("event".into(), event.into());
        object.insert("seconds".into(), json!(time.as_secs_f64()));
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        let line = format!("{}\n", Value::Object(object));
        // A reader that has gone must not end an installation.
        let _ = match self {
            Self::Off => Ok(()),
            Self::Stdout => std::io::stdout().write_all(line.as_bytes()),
            Self::Stderr => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    /// Runs a program of which a failure has to be an event too, also one from before the `start` event.
    ///
    /// # Errors
    /// Those of `main`.
    pub fn watch(self, main: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let began = Instant::now();
        main().map_err(|failure| match failure.told {
            true => failure,
            false => {
                self.emit("fail", began.elapsed(), cause(&failure));
                told(failure)
            }
        })
    }
}

fn cause(failure: &Failure) -> Value {
    json!({ "error": failure.message, "exit": failure.exit as u8 })
}

fn told(failure: Failure) -> Failure {
    Failure {
        told: true,
        ..failure
    }
}

/// How fast the run is just now.
#[derive(Debug, Default)]
struct Pace {
    /// When it was looked at last, since the start, and how many bytes were done then.
    at: Duration,
    bytes: u64,
    /// Bytes per second, of which the last ones count most.
    rate: Option<f64>,
    spent: Snapshot,
}

impl Pace {
    /// Counts the bytes since the last look, if that is long ago.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn look(&mut self, at: Duration, bytes: u64) -> bool {
        let time = at.saturating_sub(self.at);
        if time < INTERVAL {
            return false;
        }
        let new = bytes.saturating_sub(self.bytes) as f64 / time.as_secs_f64();
        let keep = (-time.as_secs_f64() / RATE_MEMORY.as_secs_f64()).exp();
        self.rate = Some(self.rate.map_or(new, |old| old * keep + new * (1.0 - keep)));
        (self.at, self.bytes) = (at, bytes);
        true
    }
}

/// Seconds that `bytes` take at this rate.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn eta(bytes: u64, rate: f64) -> Option<f64> {
    (rate > 0.0).then(|| bytes as f64 / rate)
}

/// Shows one run: start, progress, finish or fail. Shared by all threads of the run.
pub struct Progress {
    events: Events,
    bar: ProgressBar,
    started: Instant,
    pace: Mutex<Pace>,
    stages: OnceLock<Arc<Stages>>,
}

impl Progress {
    /// Begins a run of `total` bytes, 0 if that is not known. `fields` are those of the `start` event.
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
        if draw {
            // The time that is left goes on also while nothing comes.
            bar.enable_steady_tick(INTERVAL);
        }
        let progress = Self {
            events,
            bar,
            started: Instant::now(),
            pace: Mutex::default(),
            stages: OnceLock::new(),
        };
        progress.emit("start", fields);
        progress
    }

    /// Tells the stages of the pipeline that does the work: from here on it is shown which of them limits it.
    pub fn show_stages(&self, stages: Arc<Stages>) {
        // There is one pipeline in a run.
        let _ = self.stages.set(stages);
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts `bytes` more as done.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        let done = self.bar.position();
        let (rate, limit) = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            if !pace.look(self.elapsed(), done) {
                return;
            }
            let stages = self.stages.get();
            let limit = stages.and_then(|stages| stages.bottleneck_since(&pace.spent));
            if let Some(stages) = stages {
                pace.spent = stages.snapshot();
            }
            (pace.rate, limit)
        };
        match self.events {
            Events::Off => {
                if let Some(limit) = limit {
                    self.bar.set_message(format!("limited by {limit}"));
                }
            }
            _ => self.emit("progress", self.figures(rate, limit)),
        }
    }

    /// What is done, and how fast; nothing for a run that counts no bytes.
    fn figures(&self, rate: Option<f64>, limit: Option<&str>) -> Value {
        let (bytes, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let mut fields = Map::new();
        if bytes > 0 || total > 0 {
            let left = total.checked_sub(bytes).filter(|_| total > 0);
            let eta = left.zip(rate).and_then(|(left, rate)| eta(left, rate));
            fields.insert("bytes".into(), bytes.into());
            fields.insert("total_bytes".into(), total.into());
            fields.insert("bytes_per_second".into(), rate.into());
            fields.insert("eta_seconds".into(), eta.into());
        }
        if let Some(stages) = self.stages.get() {
            fields.insert("stages".into(), stages.fields());
            fields.insert("bottleneck".into(), limit.into());
        }
        Value::Object(fields)
    }

    /// [`Self::figures`] of the whole run, with more `fields`.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn last_figures(&self, fields: Value) -> Value {
        let rate = self.bar.position() as f64 / self.elapsed().as_secs_f64().max(1e-6);
        let mut figures = self.figures(Some(rate), self.bottleneck());
        if let (Value::Object(figures), Value::Object(fields)) = (&mut figures, fields) {
            figures.extend(fields);
        }
        figures
    }

    /// The stage that has limited the whole run.
    fn bottleneck(&self) -> Option<&'static str> {
        self.stages.get().and_then(|stages| stages.bottleneck())
    }

    /// Prints a line without disturbing the bar; with JSON events, as a `message` event.
    pub fn line(&self, text: &str) {
        match self.events {
            Events::Off => self.bar.suspend(|| say(text)),
            _ => self.emit("message", json!({ "text": text })),
        }
    }

    /// Ends the run well: `summary` on stderr, with what has limited the run, or a `finish` event with `fields`.
    pub fn finish(&self, summary: &str, fields: Value) {
        self.bar.finish_and_clear();
        match (self.events, self.bottleneck()) {
            (Events::Off, Some(limit)) => say(&format!("{summary}, limited by {limit}")),
            (Events::Off, None) => say(summary),
            _ => self.emit("finish", self.last_figures(fields)),
        }
    }

    /// Ends the run badly: a `fail` event; the error line itself is printed by [`crate::run`].
    #[must_use]
    pub fn fail(&self, failure: Failure) -> Failure {
        self.bar.finish_and_clear();
        self.emit("fail", self.last_figures(cause(&failure)));
        told(failure)
    }

    /// Writes one event: `{"event": NAME, "seconds": since the start, ...fields}`.
    pub fn emit(&self, event: &str, fields: Value) {
        self.events.emit(event, self.elapsed(), fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows() {
        let mut pace = Pace::default();
        assert!(!pace.look(Duration::from_millis(999), 500));
        assert_eq!(pace.rate, None);
        assert!(pace.look(Duration::from_secs(2), 2000));
        assert_eq!(pace.rate, Some(1000.0));
        // Nothing for very long: the past is forgotten.
        assert!(pace.look(Duration::from_secs(1000), 2000));
        assert!(pace.rate.is_some_and(|rate| rate < 1e-3));
        let mut pace = Pace::default();
        for second in 1..=60 {
            assert!(pace.look(Duration::from_secs(second), second * 300));
            assert!(pace.rate.is_some_and(|rate| (rate - 300.0).abs() < 1e-6));
        }
        assert!(pace.look(Duration::from_secs(61), 60 * 300));
        assert!(pace.rate.is_some_and(|rate| (200.0..300.0).contains(&rate)));
    }

    #[test]
    fn the_time_that_is_left() {
        assert_eq!(eta(5000, 1000.0), Some(5.0));
        assert_eq!(eta(5000, 0.0), None);
        let progress = Progress::start(Events::Off, 1000, Value::Null);
        progress.bar.inc(400);
        let figures = progress.figures(Some(200.0), None);
        assert_eq!(figures["eta_seconds"], 3.0);
        assert_eq!(figures["bytes"], 400);
        assert!(figures.get("bottleneck").is_none());
        // More than was expected.
        progress.bar.inc(700);
        assert!(progress.figures(Some(200.0), None)["eta_seconds"].is_null());
    }

    #[test]
    fn a_failure_is_told_once() {
        let progress = Progress::start(Events::Off, 0, Value::Null);
        let failure = progress.fail(Failure::new(crate::Exit::Io, "the disk has gone"));
        assert!(failure.told);
        let early = Events::Off.watch(|| Err(Failure::new(crate::Exit::Io, "no such disk")));
        assert!(early.is_err_and(|failure| failure.told && failure.context("here").told));
    }
}
