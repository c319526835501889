//! Targets of `diskmap`: small disks that their own tools made, with patches on them.
//!
//! An input names one of the target's disks and says which bytes of it are others; most of it are therefore
//! structures that a parser goes a long way with. Checksums can be put right after the patches ([`fixup`]).

pub mod fixup;
pub mod sparse;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use diskmap::{Content, DiskMap, Extent, Options};
use sparse::{BLOCK, Base, Disk};

/// What disks of one target are called in `testdata/diskmap/seeds`, and their bytes.
type Packed = (&'static str, &'static [u8]);

macro_rules! packed {
    ($($target:ident: $($name:literal),*;)*) => {
        /// The disks of all targets.
        pub const PACKED: &[(&str, &[Packed])] = &[$((stringify!($target), &[$((
            $name,
            include_bytes!(concat!("../../../testdata/diskmap/seeds/", $name, ".zst")),
        )),*])),*];

        $(
            /// See [`feed`].
            pub fn $target(data: &[u8]) -> bool {
                feed(stringify!($target), data)
            }
        )*
    };
}

packed! {
    table: "table-gpt", "table-mbr", "table-bsd";
    ext: "ext-ext4", "ext-ext4-4k", "ext-ext2", "ext-ext3", "ext-bigalloc", "ext-uninit", "ext-meta-bg";
    xfs: "xfs-v5", "xfs-v5-1k", "xfs-v4";
    btrfs: "btrfs-single", "btrfs-dup", "btrfs-mixed";
    fat: "fat-12", "fat-16", "fat-32";
    exfat: "exfat";
    ntfs: "ntfs-4k", "ntfs-512";
    f2fs: "f2fs", "f2fs-extra";
    ufs: "ufs-1", "ufs-2";
    lvm: "lvm";
    swap: "swap";
}

/// Most bytes that mapping may read, for each byte that is on the disk, and beside that.
const READS_EACH: u64 = 16;
const READS_MORE: u64 = 64 << 20;

/// The disks of a target, unpacked once.
///
/// # Panics
/// If there is no such target.
pub fn bases(target: &str) -> &'static [Base] {
    static UNPACKED: [OnceLock<Vec<Base>>; PACKED.len()] =
        [const { OnceLock::new() }; PACKED.len()];
    let at = PACKED.iter().position(|(name, _)| *name == target);
    let at = at.unwrap();
    UNPACKED[at].get_or_init(|| {
        let packed = PACKED[at].1.iter();
        packed
            .map(|(name, bytes)| Base::unpack(name, bytes))
            .collect()
    })
}

/// First byte: which disk; second byte: bit 0 leaves checksums as they are, bit 1 excludes what can be, bit 2 takes the
/// disk for one partition, bit 3 has sectors of 4096 bytes. Then patches, see `patch`.
///
/// # Panics
/// If the map is not one.
pub fn feed(target: &str, data: &[u8]) -> bool {
    let Some((&[which, how], rest)) = data.split_first_chunk() else {
        return false;
    };
    let bases = bases(target);
    let base = &bases[usize::from(which) % bases.len()];
    let mut disk = Disk::new(base);
    let patched = patch(&mut disk, rest);
    if how & 1 == 0 {
        fixup::put_right(&mut disk, &patched);
    }
    let mut options = Options::default();
    if how & 2 != 0 {
        options.exclude =
            BTreeSet::from([Content::PageFile, Content::Hibernation, Content::Journal]);
    }
    options.partition = how & 4 != 0;
    if how & 8 != 0 {
        options.sector_size = 4096;
    }
    let map = map(&disk, &options);
    map.warnings.is_empty() && map.saved.iter().map(|run| run.count).sum::<u64>() < map.disk_sectors
}

/// Applies patches: two bytes say which of the blocks that hold structures, or, with the highest bit, which block of
/// the disk; two bytes where in it; one byte how long; then the bytes. Returns the blocks that are others now.
fn patch(disk: &mut Disk<'_>, mut rest: &[u8]) -> BTreeSet<u64> {
    let mut patched = BTreeSet::new();
    while let Some((&[a, b, c, d, length], tail)) = rest.split_first_chunk() {
        let which = u16::from_le_bytes([a, b]);
        let block = if which & 0x8000 == 0 {
            let blocks = disk.base().structures();
            blocks[usize::from(which) % blocks.len()]
        } else {
            u64::from(which & 0x7fff)
        };
        let at = u64::from(u16::from_le_bytes([c, d])) % BLOCK as u64;
        let (bytes, tail) = tail.split_at(usize::from(length).min(tail.len()));
        disk.write(block * BLOCK as u64 + at, bytes);
        patched.insert(block);
        patched.insert(block + 1);
        rest = tail;
    }
    patched
}

/// Maps a disk and checks what is true of every map.
///
/// # Panics
/// If it is not.
pub fn map(disk: &Disk<'_>, options: &Options) -> DiskMap {
    let map = diskmap::map(disk, options).unwrap();
    let most = disk.base().stored_bytes() * READS_EACH + READS_MORE;
    assert!(
        disk.read_bytes() <= most,
        "{} bytes read",
        disk.read_bytes()
    );
    let sound = |runs: &[Extent]| {
        assert!(runs.iter().all(|run| run.count > 0));
        assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].first));
        assert!(
            runs.last()
                .is_none_or(|last| last.end() <= map.disk_sectors)
        );
    };
    sound(&map.saved);
    sound(&map.zeroed);
    assert!(is_subset(&map.zeroed, &map.saved));
    for partition in &map.partitions {
        assert!(partition.saved_sectors <= partition.count);
        let whole = Extent {
            first: partition.first,
            count: partition.count,
        };
        assert!(whole.end() <= map.disk_sectors || partition.contents.raw.is_some());
        if let Some(filesystem) = &partition.contents.filesystem {
            assert!(filesystem.used_bytes <= filesystem.size_bytes);
        }
    }
    map
}

/// Whether all sectors of `inner` lie in `outer`; both sorted, disjoint, not touching.
pub fn is_subset(inner: &[Extent], outer: &[Extent]) -> bool {
    inner.iter().all(|run| {
        let at = outer.partition_point(|outer| outer.end() <= run.first);
        outer
            .get(at)
            .is_some_and(|outer| outer.first <= run.first && run.end() <= outer.end())
    })
}

/// Inputs that the fuzzer begins with: each disk as it is, and with the first bytes of some blocks written again.
pub(crate) fn seeds() -> Vec<crate::seeds::Seed> {
    let mut seeds = Vec::new();
    for (target, disks) in PACKED {
        for (number, (name, _)) in (0_u8..).zip(*disks) {
            seeds.push((*target, format!("{name}-whole"), vec![number, 1]));
            let base = &bases(target)[usize::from(number)];
            let mut patches = vec![number, 0];
            let blocks = base.structures();
            let step = (blocks.len() / 12).max(1);
            for (index, block) in (0_u16..).zip(blocks).step_by(step).take(12) {
                let mut bytes = [0; 64];
                Disk::new(base).read(&mut bytes, block * BLOCK as u64);
                patches.extend_from_slice(&index.to_le_bytes());
                patches.extend_from_slice(&[0, 0, 64]);
                patches.extend_from_slice(&bytes);
            }
            seeds.push((*target, format!("{name}-patched"), patches));
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed for disks that nobody has changed, all checksums are what they were.
    #[test]
    fn checksums_are_those_of_the_tools() {
        for (target, _) in PACKED {
            for base in bases(target) {
                let mut disk = Disk::new(base);
                let blocks = base.structures().iter().copied();
                fixup::put_right(&mut disk, &blocks.collect());
                let mut changed = Vec::new();
                for &block in base.structures() {
                    let (mut one, mut other) = ([0; BLOCK], [0; BLOCK]);
                    disk.read(&mut one, block * BLOCK as u64);
                    Disk::new(base).read(&mut other, block * BLOCK as u64);
                    if one != other {
                        let at = one.iter().zip(&other).position(|(a, b)| a != b).unwrap();
                        changed.push((block, at));
                    }
                }
                assert_eq!(changed, [], "{}", base.name);
            }
        }
    }
}
