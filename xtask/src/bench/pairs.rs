//! Pairs of runs, A B A B ..., and what is told of them: medians, spread, and the ratio pair by pair.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The head of a table of [`Rows`].
pub(crate) const HEAD: &str =
    "| what | ours, s | beside it, s | times as fast |\n|---|---|---|---|";

/// Figures of several runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn add(&mut self, figure: f64) {
        self.0.push(figure);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            length if length.is_multiple_of(2) => f64::midpoint(self.0[middle - 1], self.0[middle]),
            _ => self.0[middle],
        }
    }

    /// `median (least-most)` with this many digits.
    pub(crate) fn show(&self, digits: usize) -> String {
        let (least, most) = (
            self.0.first().copied().unwrap_or(f64::NAN),
            self.0.last().copied().unwrap_or(f64::NAN),
        );
        format!(
            "{:.digits$} ({least:.digits$}-{most:.digits$})",
            self.median()
        )
    }
}

/// Times of two things that were done in turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    /// Seconds of ours.
    pub(crate) ours: Figures,
    /// Seconds of the other.
    pub(crate) other: Figures,
    /// How much faster ours was, in each pair.
    pub(crate) ratio: Figures,
}

impl Pairs {
    /// Does both once without counting, then `runs` times in turn. Each returns what it took.
    pub(crate) fn measure(
        runs: usize,
        mut ours: impl FnMut() -> Result<Duration>,
        mut other: impl FnMut() -> Result<Duration>,
    ) -> Result<Self> {
        let mut pairs = Self::default();
        for run in 0..=runs {
            let (ours, other) = (ours()?.as_secs_f64(), other()?.as_secs_f64());
            if run > 0 {
                pairs.ours.add(ours);
                pairs.other.add(other);
                pairs.ratio.add(other / ours);
            }
        }
        Ok(pairs)
    }

    /// Prints a line of a table.
    fn row(&self, what: &str) {
        println!(
            "| {what} | {} | {} | {} |",
            self.ours.show(2),
            self.other.show(2),
            self.ratio.show(2)
        );
    }
}

/// Rows of a table, of which some may be wanted only.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// Pairs of runs for each.
    pub(crate) runs: usize,
    /// Words that a row must have; `None` for all rows.
    pub(crate) only: Option<String>,
}

impl Rows {
    /// Whether a row is wanted.
    pub(crate) fn wants(&self, what: &str) -> bool {
        self.only.as_ref().is_none_or(|only| what.contains(only))
    }

    /// Measures and prints a row, if it is wanted.
    pub(crate) fn row(
        &self,
        what: &str,
        ours: impl FnMut() -> Result<Duration>,
        other: impl FnMut() -> Result<Duration>,
    ) -> Result<Option<Pairs>> {
        if !self.wants(what) {
            return Ok(None);
        }
        let pairs = Pairs::measure(self.runs, ours, other)?;
        pairs.row(what);
        Ok(Some(pairs))
    }
}

/// A command of the shell; fails if any part of a pipe does.
pub(crate) fn shell(line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -o pipefail; {line}")]);
    command
}

/// Time of a command that must succeed.
pub(crate) fn time(command: &mut Command) -> Result<Duration> {
    let began = Instant::now();
    let output = command.output().context("cannot be started")?;
    let time = began.elapsed();
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(time)
}
