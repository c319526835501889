//! `cargo xtask bench`: beside other tools, in pairs, in the same minutes, on files of a real system.

mod crypto;
mod image;
mod install;
mod multicast;
mod pairs;
mod real;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use e2e::{need, packages};

pub(crate) use self::pairs::Rows;
use crate::cargo::with_release_binaries;
use crate::tools;

pub(crate) use multicast::MulticastArgs;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// imagezip beside zstd, partclone and dd
    Image,
    /// imageunzip beside partclone and zstd
    Install,
    /// frisbeed and frisbee-client beside udpcast and UFTP
    Multicast,
    /// What frisbeed leaves to a TCP stream on the same line, at each priority
    Share,
    /// What signing, encryption, hashes and parity cost, in CPU time
    Crypto,
}

/// Measures, and prints tables as they stand in docs/PERFORMANCE.md.
pub(crate) fn run(
    subject: Option<Subject>,
    rows: &Rows,
    of_multicast: &MulticastArgs,
) -> Result<()> {
    ensure!(
        need::is_root(),
        "the measurements need root: network namespaces, and packages to compare with"
    );
    let programs = packages::TOOLS
        .iter()
        .chain(packages::BENCH_TOOLS)
        .map(|(program, _)| *program);
    tools::ensure(programs)?;
    if !with_release_binaries()? {
        return Ok(());
    }
    let wanted = |named| subject.is_none_or(|subject| subject == named);
    if wanted(Subject::Image) {
        image::run(rows)?;
    }
    if wanted(Subject::Install) {
        install::run(rows)?;
    }
    if wanted(Subject::Multicast) {
        multicast::run(rows, of_multicast)?;
    }
    // Without a subject it is among the rows of multicast.
    if subject == Some(Subject::Share) {
        multicast::beside(rows, of_multicast)?;
    }
    if wanted(Subject::Crypto) {
        crypto::run(rows.runs)?;
    }
    Ok(())
}
