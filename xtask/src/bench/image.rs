//! imagezip beside the codec alone, partclone and dd.

use std::fs;

use anyhow::Result;
use e2e::command::{run as run_tool, tool};

use super::pairs::{HEAD, Rows, shell, time};
use super::real::Real;
use crate::show::{mb, ratio};

pub(crate) fn run(rows: &Rows) -> Result<()> {
    println!("## imagezip\n");
    let real = Real::make(rows.runs)?;
    let (keys, disk) = (&real.keys, &real.disk.path);
    let (image, classic, stored) = (
        real.place("ours.frz"),
        real.place("classic.frz"),
        real.place("stored.frz"),
    );
    let (alone, clone, pigz, copy) = (
        real.place("alone.zst"),
        real.place("clone.zst"),
        real.place("clone.gz"),
        real.place("copy"),
    );
    let plain = real.plain.display();
    let modern = || time(keys.imagezip()?.arg("--force").arg(disk).arg(&image));
    println!("{HEAD}");

    let file = alone.display();
    let line = format!("zstd -q -f -T0 -3 {plain} -o {file} && sync {file}");
    rows.row(
        "imagezip, zstd 3, encrypted, signed / `zstd -T0 -3` of the allocated bytes in one file",
        modern,
        || time(&mut shell(&line)),
    )?;
    let line = real.partclone("zstd -q -T0 -3", &clone);
    rows.row(
        "the same / `partclone.ext4 -c \\| zstd -T0 -3`",
        modern,
        || time(&mut shell(&line)),
    )?;
    let line = real.partclone("pigz -4", &pigz);
    rows.row(
        "imagezip, classic suite (zlib 4, Blowfish, RSA-3072) / `partclone.ext4 -c \\| pigz -4`",
        || {
            let mut command = real.classic.imagezip()?;
            command.args(["--force", "--suite", "classic"]);
            time(command.arg(disk).arg(&classic))
        },
        || time(&mut shell(&line)),
    )?;
    let line = format!(
        "dd if={plain} of={} bs=2M conv=fsync status=none",
        copy.display()
    );
    rows.row(
        "imagezip, not compressed, encrypted, signed / `dd` of the allocated bytes, flushed",
        || {
            let mut command = keys.imagezip()?;
            command.args(["--force", "--codec", "none"]);
            time(command.arg(disk).arg(&stored))
        },
        || time(&mut shell(&line)),
    )?;
    if !image.exists() {
        modern()?;
    }
    let line = format!("dd if={plain} of=/dev/null bs=2M status=none");
    rows.row(
        "reading and hashing: imagezip --compare with its own image / `dd` of the allocated bytes to /dev/null",
        || {
            let mut command = keys.imagezip()?;
            command.arg("--compare").arg("--trust").arg(&keys.public);
            time(command.arg("--base").arg(&image).arg(disk))
        },
        || time(&mut shell(&line)),
    )?;

    // All images must hold what is on the disk.
    for (image, keys) in [(&image, keys), (&stored, keys), (&classic, &real.classic)] {
        if !image.exists() {
            continue;
        }
        let mut check = tool("imagedump")?;
        check.arg("--against").arg(disk).arg("--trust");
        check.arg(&keys.public).arg("--key").arg(&keys.content);
        run_tool({
            check.arg(image);
            check
        })?
        .success()?;
    }
    println!();
    for (what, ours, other) in [
        ("zstd alone", &image, &alone),
        ("partclone and zstd", &image, &clone),
        ("partclone and pigz, classic suite", &classic, &pigz),
    ] {
        let (Ok(ours), Ok(other)) = (fs::metadata(ours), fs::metadata(other)) else {
            continue;
        };
        let (ours, other) = (ours.len(), other.len());
        println!(
            "Size beside {what}: {} and {}, {:.4} times.",
            mb(ours),
            mb(other),
            ratio(ours, other)
        );
    }
    println!(
        "Peak memory: {}.\n",
        real.peak(keys.imagezip()?.arg("--force").arg(disk).arg(&image))?
    );
    Ok(())
}
