//! What protection costs, beside the published figures of secure Frisbee; and how fast an image is verified.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::command::{run as run_tool, tool};
use e2e::image::Keys;
use e2e::scratch;

use super::real::DISK;
use crate::cargo::{cargo, see};

/// What the authors of secure Frisbee measured (R. Ricci, J. Duerig: Securing the Frisbee multicast disk loader, CSET
/// 2008, section 5): overhead of signing, and of signing with encryption.
const PUBLISHED: &str = "Secure Frisbee, published: create +5.6 % signed, +11.1 % signed and encrypted; install +29.5 % and +56.8 %.";

pub(crate) fn run(runs: usize) -> Result<()> {
    let disk = DISK.cached()?;
    println!("## What protection costs\n");
    let mut bench = cargo();
    bench
        .args([
            "bench",
            "--quiet",
            "--locked",
            "--package",
            "chunkfmt",
            "--bench",
            "crypto",
            "--",
        ])
        .arg(&disk.path)
        .arg(runs.to_string());
    see(bench)?;
    println!("{PUBLISHED}\n");

    let directory = scratch::directory()?;
    let keys = Keys::make(directory.path())?;
    let image = directory.path().join("image.frz");
    keys.zip(&disk.path, &image)?;
    // Into the page cache.
    std::io::copy(&mut std::fs::File::open(&image)?, &mut std::io::sink())?;
    let mut shown = Vec::new();
    for _ in 0..runs {
        let mut verify: Command = tool("imagedump")?;
        verify
            .args(["--verify", "--threads", "1", "--trust"])
            .arg(&keys.public);
        let outcome = run_tool({
            verify.arg(&image);
            verify
        })?
        .success()?;
        let line = outcome.stdout_text();
        let rate = line
            .split([',', ';'])
            .find(|part| part.trim().ends_with("/s"));
        shown.push(rate.context("imagedump names no rate")?.to_owned());
    }
    ensure!(!shown.is_empty());
    println!(
        "`imagedump --verify`, one thread, from the page cache: {}.",
        shown.join(", ")
    );
    Ok(())
}
