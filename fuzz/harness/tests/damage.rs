//! Random damage to what has checksums: the map of the damaged disk calls nothing free that the intact one used.
//!
//! Not for the fuzzer, which learns to write the checksums that a parser compares with.

use std::ops::Range;

use diskmap::{DiskMap, Extent, Options};
use fuzz_harness::disk::sparse::{BLOCK, Disk};
use fuzz_harness::disk::{bases, is_subset, map};

/// Numbers that are the same every time (Marsaglia, Xorshift RNGs).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn free(map: &DiskMap) -> Vec<Extent> {
    let ends = map.saved.iter().map(Extent::end);
    let starts = map.saved.iter().map(|run| run.first);
    let gaps = [0]
        .into_iter()
        .chain(ends)
        .zip(starts.chain([map.disk_sectors]));
    gaps.filter(|(first, end)| first < end)
        .map(|(first, end)| Extent {
            first,
            count: end - first,
        })
        .collect()
}

/// Damages each of these disks `times` times, in `places` of it, or anywhere in its structures.
fn survive(target: &str, disks: &[&str], times: u64, places: &[Range<u64>]) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut noticed = 0;
    for base in bases(target)
        .iter()
        .filter(|base| disks.contains(&base.name))
    {
        let intact = free(&map(&Disk::new(base), &Options::default()));
        assert!(!intact.is_empty());
        for time in 0..times {
            let mut disk = Disk::new(base);
            let mut done = Vec::new();
            for _ in 0..=random.below(3) {
                let offset = if places.is_empty() {
                    let blocks = base.structures();
                    let index = usize::try_from(random.below(blocks.len() as u64)).unwrap_or(0);
                    blocks[index] * BLOCK as u64 + random.below(BLOCK as u64)
                } else {
                    let index = usize::try_from(random.below(places.len() as u64)).unwrap_or(0);
                    let place = &places[index];
                    place.start + random.below(place.end - place.start)
                };
                let value = random.below(256).to_le_bytes()[0];
                let bytes = vec![value; 1 + usize::from(random.below(3) == 0) * 7];
                disk.write(offset, &bytes);
                done.push((offset, bytes));
            }
            let map = map(&disk, &Options::default());
            noticed += u64::from(!map.warnings.is_empty());
            assert!(
                is_subset(&free(&map), &intact),
                "{} time {time}: {done:?}",
                base.name
            );
        }
    }
    println!(
        "{target}: {noticed} of {} times something was said",
        times * disks.len() as u64
    );
    assert!(noticed > 0, "nothing that was damaged matters");
}

#[test]
fn ext() {
    let disks = ["ext-ext4", "ext-ext4-4k", "ext-bigalloc", "ext-meta-bg"];
    survive("ext", &disks, 400, &[]);
    // Superblock and descriptors.
    survive("ext", &disks, 400, std::slice::from_ref(&(1024..4096)));
}

#[test]
fn xfs() {
    survive("xfs", &["xfs-v5", "xfs-v5-1k"], 300, &[]);
}

#[test]
fn btrfs() {
    survive(
        "btrfs",
        &["btrfs-single", "btrfs-dup", "btrfs-mixed"],
        300,
        &[],
    );
}

#[test]
fn gpt() {
    let disk = 32 << 20;
    survive(
        "table",
        &["table-gpt"],
        1000,
        &[512..17_408, disk - 33 * 512..disk],
    );
}

#[test]
fn exfat() {
    survive(
        "exfat",
        &["exfat"],
        1000,
        std::slice::from_ref(&(0..24 * 512)),
    );
}
