//! Disks with partition tables and filesystems in them.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{FileSource, check, dumpe2fs_free, has_tool, make_ext, map, run, sparse};
use diskmap::{DiskMap, Extent};

pub(crate) const MIB: u64 = 2048;
pub(crate) const DISK_SECTORS: u64 = 200 * MIB;

/// A disk with a table made by `tool` from `script`, and ext filesystems of 20 MiB put where
/// `filesystems` says. Returns its path and the sectors that dumpe2fs calls free.
pub(crate) fn disk(
    directory: &Path,
    script: Script,
    filesystems: &[u64],
) -> (PathBuf, Vec<Extent>) {
    let path = directory.join("disk");
    sparse(&path, DISK_SECTORS * 512);
    match script {
        Script::Sgdisk(options) => run(&format!("sgdisk {options} {}", path.display()), ""),
        Script::Sfdisk(lines) => run(&format!("sfdisk -q {}", path.display()), lines),
    };
    let mut expected = Vec::new();
    for (number, &first) in filesystems.iter().enumerate() {
        let part = directory.join(format!("part{number}"));
        make_ext(&part, 20 << 20, "-t ext4 -b 1024");
        let bytes = std::fs::read(&part).unwrap();
        patch(&path, first * 512, &bytes);
        let shift = |run: Extent| Extent {
            first: run.first + first,
            count: run.count,
        };
        expected.extend(dumpe2fs_free(&part).into_iter().map(shift));
    }
    expected.sort_unstable();
    (path, expected)
}

#[derive(Clone, Copy)]
pub(crate) enum Script {
    Sgdisk(&'static str),
    Sfdisk(&'static str),
}

pub(crate) fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, offset)
        .unwrap();
}

pub(crate) fn map_file(path: &Path) -> DiskMap {
    let map = map(&FileSource::open(path));
    check(&map);
    map
}

/// Two ext partitions, one swap area, one unformatted; 21 MiB where the filesystem has 20.
pub(crate) const GPT: &str = "-n 1:2048:+21M -c 1:boot -n 2:0:+8M -n 4:0:+21M -n 3:0:+30M";
pub(crate) const GPT_EXT: [u64; 2] = [MIB, 30 * MIB];
pub(crate) const MBR: &str = "label: dos\n\
    2048,43008,83,*\n\
    ,16384,82\n\
    61440,307200,5\n\
    368640,,83\n\
    63488,43008,83\n\
    108544,8192,83\n\
    120832,43008,83\n";
pub(crate) const MBR_EXT: [u64; 3] = [2048, 63488, 120_832];

pub(crate) fn tools() -> bool {
    ["sgdisk", "sfdisk", "mke2fs", "mkswap"]
        .iter()
        .all(|tool| has_tool(tool))
}

pub(crate) fn sector_with_signature() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Slot `index` of the MBR: first sector and count.
pub(crate) fn set_slot(bytes: &mut [u8], index: usize, first: u32, count: u32) {
    let at = 446 + 16 * index + 8;
    bytes[at..at + 4].copy_from_slice(&first.to_le_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&count.to_le_bytes());
}
