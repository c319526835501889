//! What one run gave, kept as a line of JSON, so that a table can be made of many short goes.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::{Value, json};

use super::super::pairs::Figures;
use super::Row;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) row: Row,
    /// Which program, and how it was called.
    pub(super) tool: String,
    pub(super) clients: usize,
    /// Packets lost of a hundred, at each client.
    pub(super) loss: u32,
    /// Named figures, in the order of the table's columns.
    pub(super) figures: Vec<(String, f64)>,
    /// Why there are none.
    pub(super) failed: Option<String>,
}

impl Sample {
    pub(super) fn new(row: Row, tool: &str, clients: usize, loss: u32) -> Self {
        Self {
            row,
            tool: tool.into(),
            clients,
            loss,
            figures: Vec::new(),
            failed: None,
        }
    }

    #[must_use]
    pub(super) fn with(mut self, name: &str, figure: f64) -> Self {
        self.figures.push((name.into(), figure));
        self
    }

    pub(super) fn failed(mut self, why: impl Into<String>) -> Self {
        self.failed = Some(why.into());
        self
    }

    fn place(&self) -> (Row, u32, usize, &str) {
        (self.row, self.loss, self.clients, &self.tool)
    }

    fn to_json(&self) -> Value {
        let row = self.row.to_possible_value();
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|(name, figure)| json!([name, figure]))
            .collect();
        json!({
            "row": row.as_ref().map(PossibleValue::get_name), "tool": self.tool, "clients": self.clients,
            "loss": self.loss, "figures": figures, "failed": self.failed,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let figures = value["figures"].as_array()?.iter();
        let figure = |pair: &Value| Some((pair[0].as_str()?.to_owned(), pair[1].as_f64()?));
        Some(Self {
            row: Row::from_str(value["row"].as_str()?, false).ok()?,
            tool: value["tool"].as_str()?.into(),
            clients: value["clients"].as_u64()?.try_into().ok()?,
            loss: value["loss"].as_u64()?.try_into().ok()?,
            figures: figures.map(figure).collect::<Option<_>>()?,
            failed: value["failed"].as_str().map(Into::into),
        })
    }
}

/// What all runs gave.
#[derive(Debug, Default)]
pub(super) struct Samples {
    all: Vec<Sample>,
    /// Where each is written to as soon as it is there: a later run may hang.
    record: Option<File>,
}

impl Samples {
    /// None, and the file that those to come are appended to.
    pub(super) fn new(record: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| {
            let file = File::options().append(true).create(true).open(path);
            file.with_context(|| format!("{}", path.display()))
        };
        Ok(Self {
            all: Vec::new(),
            record: record.map(open).transpose()?,
        })
    }

    /// Says, writes down and keeps what a run gave.
    pub(super) fn push(&mut self, sample: Sample) -> Result<()> {
        let line = sample.to_json();
        eprintln!("{line}");
        if let Some(file) = &mut self.record {
            writeln!(file, "{line}")?;
        }
        self.all.push(sample);
        Ok(())
    }

    /// Prints one table for each kind of row.
    pub(super) fn print(&self) {
        print(&self.all);
    }
}

/// The samples of a file.
pub(super) fn recorded(path: &Path) -> Result<Vec<Sample>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let sample = |line: &str| {
        let value = serde_json::from_str(line).ok();
        let sample = value.as_ref().and_then(Sample::from_json);
        sample.with_context(|| format!("{}: not a sample: {line}", path.display()))
    };
    text.lines().map(sample).collect()
}

/// Prints one table for each kind of row.
pub(super) fn print(samples: &[Sample]) {
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    // Stable: tools stay in the order in which they ran.
    sorted.sort_by_key(|sample| (sample.row, sample.loss, sample.clients));
    for of_row in sorted.chunk_by(|a, b| a.row == b.row) {
        let mut columns: Vec<&str> = Vec::new();
        for (name, _) in of_row.iter().flat_map(|sample| &sample.figures) {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
        println!(
            "### {}\n",
            of_row.first().map_or("", |sample| sample.row.title())
        );
        println!("| clients | loss | program | {} |", columns.join(" | "));
        println!("|---|---|---|{}", "---|".repeat(columns.len()));
        let mut seen: Vec<(Row, u32, usize, &str)> = Vec::new();
        for sample in of_row {
            if seen.contains(&sample.place()) {
                continue;
            }
            seen.push(sample.place());
            let same = of_row
                .iter()
                .filter(|other| other.place() == sample.place());
            print_line(&same.copied().collect::<Vec<_>>(), &columns);
        }
        println!();
    }
}

/// Prints what all runs of the same kind gave.
fn print_line(runs: &[&Sample], columns: &[&str]) {
    let Some(first) = runs.first() else { return };
    let cells = columns.iter().map(|column| {
        let mut figures = Figures::default();
        let mut of_column = runs
            .iter()
            .flat_map(|run| &run.figures)
            .filter(|(name, _)| name == column);
        let Some((_, one)) = of_column.next() else {
            return String::new();
        };
        figures.add(*one);
        of_column.for_each(|(_, figure)| figures.add(*figure));
        figures.show(digits(figures.median()))
    });
    let mut cells: Vec<String> = cells.collect();
    let failures: Vec<&str> = runs
        .iter()
        .filter_map(|run| run.failed.as_deref())
        .collect();
    if let Some(why) = failures.first() {
        let text = format!("failed {} of {} times: {why}", failures.len(), runs.len());
        match cells.first_mut() {
            Some(cell) if cell.is_empty() => *cell = text,
            Some(cell) => *cell = format!("{cell}; {text}"),
            None => cells.push(text),
        }
    }
    println!(
        "| {} | {} % | {} | {} |",
        first.clients,
        first.loss,
        first.tool,
        cells.join(" | ")
    );
}

/// Digits behind the point that say something.
fn digits(figure: f64) -> usize {
    match figure {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_back() {
        let sample = Sample::new(Row::Rooms, "udpcast", 4, 5)
            .with("seconds", 1.25)
            .with("sent", 1.0);
        let hung = Sample::new(Row::Hall, "uftp", 48, 0).failed("hangs");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("samples");
        for given in [&sample, &hung] {
            let mut samples = Samples::new(Some(&path)).unwrap();
            samples.push(given.clone()).unwrap();
        }
        assert_eq!(recorded(&path).unwrap(), [sample, hung]);
    }
}
