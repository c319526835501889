//! The golden disks themselves are what the other tests take them for.

use std::fs::File;

use anyhow::{Result, ensure};
use e2e::disk::{Recipe, Table};
use e2e::need::{self, Need};

#[test]
fn dirt_is_in_free_space_only() -> Result<()> {
    for recipe in [
        Recipe::SMALL,
        Recipe {
            table: Table::None,
            mke2fs: "-t ext2 -b 1024",
            ..Recipe::SMALL
        },
        Recipe {
            table: Table::Mbr,
            mke2fs: "-t ext3 -b 2048",
            ..Recipe::SMALL
        },
    ] {
        let disk = recipe.cached()?;
        let found = disk.canary.find(&File::open(&disk.path)?, usize::MAX)?;
        let free = disk.ext.free()?;
        println!(
            "{recipe:?}: {} free ranges, {} canaries",
            free.len(),
            found.len()
        );
        ensure!(
            free.len() > 20,
            "free space is to be in many pieces: {free:?}"
        );
        ensure!(found.len() > 100_000, "free space is to be dirty");
        let inside = |at: &u64| free.iter().any(|range| range.contains(at));
        ensure!(found.iter().all(inside), "dirt is where data is");
    }
    Ok(())
}

#[test]
fn sectors_of_4096_bytes() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let disk = Recipe {
        sector_size: 4096,
        ..Recipe::SMALL
    }
    .cached()?;
    let device = e2e::loop_device::LoopDevice::attach(&disk.path, 4096)?;
    ensure!(
        device.partition(2)?.exists(),
        "the kernel sees the partitions"
    );
    Ok(())
}
