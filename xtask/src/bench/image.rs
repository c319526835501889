//! imagezip and imageunzip beside partclone and zstd.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use e2e::command::must;
use e2e::disk::{Recipe, Table};
use e2e::image::Keys;
use e2e::{ranges, scratch};

use super::pairs::{Pairs, shell, time};
use crate::show::{mb, ratio};

/// An ext4 filesystem with real files.
pub(super) const DISK: Recipe = Recipe {
    table: Table::None,
    sector_size: 512,
    mke2fs: "-t ext4 -b 4096",
    fat_mib: 0,
    ext_mib: 2048,
    data_mib: 900,
};

pub(crate) fn run(runs: usize) -> Result<()> {
    let disk = DISK.cached()?;
    let directory = scratch::directory()?;
    let keys = Keys::make(directory.path())?;
    let place = |name: &str| directory.path().join(name);
    let used = ranges::total(&disk.allocated()?);
    let (image, clone) = (place("ours.frz"), place("partclone.zst"));
    println!("## imagezip and imageunzip\n");
    println!(
        "An ext4 filesystem of {}, {} in use, files of this system; {runs} pairs.\n",
        mb(disk.bytes),
        mb(used)
    );
    println!("| what | ours, s | beside it, s | times as fast |\n|---|---|---|---|");

    let fs_path = disk.path.display();
    let create = Pairs::measure(
        runs,
        || time(keys.imagezip()?.arg("--force").arg(&disk.path).arg(&image)),
        || {
            let log = place("log");
            let line = format!(
                "partclone.ext4 -c -s {fs_path} -o - -L {} | zstd -q -T0 -3",
                log.display()
            );
            time(&mut shell(&format!("{line} > {}", clone.display())))
        },
    )?;
    row(
        "imagezip, zstd 3, encrypted, signed / `partclone.ext4 -c \\| zstd -T0 -3`",
        &create,
    );

    let (restored, cloned) = (place("ours.disk"), place("partclone.disk"));
    let install = Pairs::measure(
        runs,
        || {
            let _ = fs::remove_file(&restored);
            time(keys.imageunzip()?.arg(&image).arg(&restored))
        },
        || {
            let _ = fs::remove_file(&cloned);
            fs::File::create(&cloned)?.set_len(disk.bytes)?;
            let log = place("log");
            let restore = format!(
                "partclone.ext4 -r -C -s - -O {} -L {}",
                cloned.display(),
                log.display()
            );
            time(&mut shell(&format!(
                "zstd -q -dc {} | {restore}",
                clone.display()
            )))
        },
    )?;
    row(
        "imageunzip to a new file, verified, flushed / `zstd -dc \\| partclone.ext4 -r`",
        &install,
    );
    // Both must have done what they were to do.
    for found in [&restored, &cloned] {
        ranges::same(&disk.path, found, &disk.allocated()?)?;
    }

    let (ours, other) = (fs::metadata(&image)?.len(), fs::metadata(&clone)?.len());
    println!(
        "\nImage: {} beside {}: {:.4} times the size.",
        mb(ours),
        mb(other),
        ratio(ours, other)
    );
    println!(
        "Peak memory: imagezip {}, imageunzip {}.",
        peak(
            keys.imagezip()?.arg("--force").arg(&disk.path).arg(&image),
            directory.path()
        )?,
        peak(
            keys.imageunzip()?
                .args(["--free", "zero"])
                .arg(&image)
                .arg(&restored),
            directory.path()
        )?,
    );
    limits(runs, &disk.path, &clone, directory.path())
}

fn row(what: &str, pairs: &Pairs) {
    println!(
        "| {what} | {} | {} | {} |",
        pairs.ours.show(2),
        pairs.other.show(2),
        pairs.ratio.show(2)
    );
}

/// What the codec and the disk do alone.
fn limits(runs: usize, disk: &Path, clone: &Path, place: &Path) -> Result<()> {
    let copy = place.join("copy");
    let limits = Pairs::measure(
        runs,
        || {
            time(&mut shell(&format!(
                "zstd -q -dc {} | zstd -q -T0 -3 > /dev/null",
                clone.display()
            )))
        },
        || {
            time(&mut shell(&format!(
                "zstd -q -d -c {} > /dev/null",
                clone.display()
            )))
        },
    )?;
    println!(
        "\nLimits: the same data through `zstd -d | zstd -T0 -3` {} s; `zstd -d` alone {} s;",
        limits.ours.show(2),
        limits.other.show(2)
    );
    let _ = fs::remove_file(&copy);
    let write = format!(
        "cp --sparse=always {} {} && sync {}",
        disk.display(),
        copy.display(),
        copy.display()
    );
    println!(
        "a copy of the disk without holes, flushed, {:.2} s.\n",
        time(&mut shell(&write))?.as_secs_f64()
    );
    fs::remove_file(copy)?;
    Ok(())
}

/// Peak resident memory of a command, by GNU time or the kernel's accounting through bash.
fn peak(command: &mut Command, place: &Path) -> Result<String> {
    let report = place.join("peak");
    let mut words: Vec<std::ffi::OsString> = vec![
        "-f".into(),
        "%M".into(),
        "-o".into(),
        report.clone().into(),
        command.get_program().into(),
    ];
    words.extend(command.get_args().map(Into::into));
    must("time", words)?;
    let kib: u64 = fs::read_to_string(report)?
        .trim()
        .parse()
        .context("time(1) printed no number")?;
    Ok(format!("{} MiB", kib.div_ceil(1024)))
}
