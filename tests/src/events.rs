//! The JSON events that the tools write with `--json`, one object on each line.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::background::Background;
use crate::command::Outcome;

/// The event with this name on a line, if it is one.
fn named(line: &str, name: &str) -> Option<Value> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["event"] == name).then_some(event)
}

/// Waits for the next event with this name.
///
/// # Errors
/// If it does not come.
pub fn next(program: &Background, name: &str) -> Result<Value> {
    program
        .line(|line| named(line, name))
        .with_context(|| format!("waiting for the event {name}"))
}

/// Waits until a `progress` event says that `percent` of the bytes are done.
///
/// # Errors
/// If it does not come.
pub fn progress(program: &Background, percent: u64) -> Result<()> {
    let reached = |event: &Value| {
        let (bytes, total) = (event["bytes"].as_u64()?, event["total_bytes"].as_u64()?);
        (total > 0 && bytes.saturating_mul(100) >= total.saturating_mul(percent)).then_some(())
    };
    program
        .line(|line| reached(&named(line, "progress")?))
        .with_context(|| format!("waiting for {percent} % of the bytes"))
}

/// The last event with this name among those of a program that has ended.
///
/// # Errors
/// If there is none.
pub fn last(outcome: &Outcome, name: &str) -> Result<Value> {
    let text = outcome.stdout_text();
    let found = text.lines().rev().find_map(|line| named(line, name));
    found.with_context(|| format!("no event {name}: {outcome}"))
}
