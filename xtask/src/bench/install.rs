//! imageunzip beside partclone, and beside the codec alone.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Result;
use e2e::command::must;
use e2e::loop_device::LoopDevice;
use tempfile::TempDir;

use super::pairs::{HEAD, Rows, shell, time};
use super::real::Real;

/// Files here are in memory.
const MEMORY: &str = "/dev/shm";

pub(crate) fn run(rows: &Rows) -> Result<()> {
    println!("## imageunzip\n");
    let real = Real::make(rows.runs)?;
    let (keys, disk) = (&real.keys, &real.disk);
    let (image, alone, clone) = (
        real.place("ours.frz"),
        real.place("alone.zst"),
        real.place("clone.zst"),
    );
    keys.zip(&disk.path, &image)?;
    must(
        "zstd",
        [
            "-q".as_ref(),
            "-T0".as_ref(),
            real.plain.as_os_str(),
            "-o".as_ref(),
            alone.as_os_str(),
        ],
    )?;
    must(
        "bash",
        ["-c".to_owned(), real.partclone("zstd -q -T0 -3", &clone)],
    )?;
    println!("{HEAD}");

    let (restored, cloned) = (real.place("ours.disk"), real.place("partclone.disk"));
    let measured = rows.row(
        "imageunzip to a new file, all checks / `zstd -dc \\| partclone.ext4 -r`",
        || {
            let _ = fs::remove_file(&restored);
            time(keys.imageunzip()?.arg(&image).arg(&restored))
        },
        || {
            let _ = fs::remove_file(&cloned);
            File::create(&cloned)?.set_len(disk.bytes)?;
            let line = format!(
                "zstd -q -dc {} | partclone.ext4 -r -C -s - -O {file} -L {} && sync {file}",
                clone.display(),
                real.place("log").display(),
                file = cloned.display(),
            );
            time(&mut shell(&line))
        },
    )?;
    if measured.is_some() {
        // Both must have done what they were to do.
        for found in [&restored, &cloned] {
            real.same(found)?;
            fs::remove_file(found)?;
        }
    }

    let memory = TempDir::new_in(Path::new(MEMORY))?;
    let backing = memory.path().join("disk");
    File::create(&backing)?.set_len(disk.bytes)?;
    let device = LoopDevice::attach(&backing, disk.sector_size)?;
    let line = format!("taskset -c 0 zstd -q -dc {} > /dev/null", alone.display());
    let measured = rows.row(
        "imageunzip to a device in memory, all checks / `zstd -d` on one core to /dev/null",
        || time(keys.imageunzip()?.arg(&image).arg(device.path())),
        || time(&mut shell(&line)),
    )?;
    let Some(pairs) = measured else {
        return Ok(());
    };
    real.same(device.path())?;
    println!(
        "\nOf what two cores could do that only decompress, imageunzip to memory has {:.2}.",
        pairs.ratio.median() / 2.0
    );
    let mut command = keys.imageunzip()?;
    command.arg(&image).arg(device.path());
    println!("Peak memory: {}.\n", real.peak(&command)?);
    Ok(())
}
