//! Large filesystems: mapping them takes little memory.

use std::fs::File;
use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::command::{must_line, profile_directory, system};
use e2e::need::{self, Need};
use e2e::{command, scratch};

/// Bytes of address space that mapping may take.
const MEMORY: u64 = 256 << 20;

/// Maps a sparse file of `tib` TiB that a program makes a filesystem in.
fn maps(make: &'static str, kind: &str, tib: u64) -> Result<()> {
    let program = make.split(' ').next().unwrap_or_default();
    if !need::met(&[Need::Tool(program), Need::Tool("prlimit")]) {
        return Ok(());
    }
    let directory = scratch::directory()?;
    let disk = directory.path().join("disk");
    File::create(&disk)?.set_len(tib << 40)?;
    must_line(&format!("{make} {}", disk.display()))?;
    let mut limited = system("prlimit")?;
    limited.arg(format!("--as={MEMORY}"));
    limited.arg(profile_directory()?.join("imagezip"));
    limited.args(["--info", "--json"]).arg(&disk);
    let start = Instant::now();
    let outcome = command::run(limited)?.success()?;
    println!("{kind} of {tib} TiB: mapped in {:?}", start.elapsed());
    let info: serde_json::Value = serde_json::from_slice(&outcome.stdout)?;
    let partition = &info["partitions"][0];
    ensure!(
        partition["filesystem"] == kind && partition["why_raw"].is_null(),
        "{info}"
    );
    let saved = partition["saved_bytes"].as_u64().unwrap_or(u64::MAX);
    ensure!(saved < (tib << 40) / 50, "{saved} bytes are saved");
    Ok(())
}

// The host's filesystem may have no files of 16 TiB.
#[test]
fn ext4() -> Result<()> {
    let make =
        "mke2fs -q -F -t ext4 -i 1048576 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    maps(make, "ext4", 15)
}

#[test]
fn xfs() -> Result<()> {
    maps("mkfs.xfs -q -f -K -l size=64m", "XFS", 15)
}
