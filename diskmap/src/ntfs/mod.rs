//! Free clusters of NTFS.
//!
//! `$Bitmap` has one bit for each cluster and no checksum. It is believed if the volume is not
//! dirty, its journal is closed or empty, Windows does not sleep in it, the MFT's mirror agrees
//! with it, and all clusters of the system files that are read are marked in use. Bits behind the
//! last cluster are not looked at: they can free nothing. The backup of the boot sector lies
//! behind the last cluster, and is saved with all that is in no cluster.
//!
//! Source: ntfs-3g 2022.10.3, `include/ntfs-3g/layout.h`, `libntfs-3g/volume.c`.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod boot;
mod file;
mod logfile;
mod record;
mod root;

use crate::bitmap;
use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::{Extent, FreeRuns};
use crate::filesystem::{Content, Filesystem, Mapped, Parsed, text_field};
use crate::source::Window;
use file::{Contents, Stream, Volume};
use record::Record;
use root::Special;

const NAME: &str = "NTFS";
const BOOT: &str = "NTFS boot sector";
const MFT: &str = "NTFS file $MFT";
const MIRROR: &str = "NTFS file $MFTMirr";
const VOLUME: &str = "NTFS file $Volume";
const CLUSTERS: &str = "NTFS file $Bitmap";

/// Types of attributes.
const ATTRIBUTE_LIST: u32 = 0x20;
const VOLUME_NAME: u32 = 0x60;
const VOLUME_INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;
const INDEX_ROOT: u32 = 0x90;
const INDEX_ALLOCATION: u32 = 0xa0;
const BITMAP: u32 = 0xb0;
/// The number of a record in a reference; above it the sequence number.
const REFERENCE: u64 = 0xffff_ffff_ffff;

/// System files whose clusters must be in use: number and name.
const SYSTEM_FILES: [(u64, &str); 6] = [
    (1, MIRROR),
    (2, logfile::NAME),
    (4, "NTFS file $AttrDef"),
    (6, CLUSTERS),
    (7, "NTFS file $Boot"),
    (10, "NTFS file $UpCase"),
];
const MIRRORED_RECORDS: u64 = 4;
const DIRTY: u16 = 0x0001;
/// Bytes of `$Bitmap` read at once; eight times as many clusters.
const BATCH: usize = 1 << 20;
/// What tells the state of a hibernation file.
const HIBERNATION_HEADER: u64 = 4096;

/// Maps the filesystem in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let volume = Volume::open(window, boot::read(window)?)?;
    let boot = &volume.boot;
    check_mirror(&volume)?;
    let (label, version) = check_volume(&volume)?;
    let mut metadata = vec![(MFT, volume.mft.extents())];
    let mft_start = volume.mft.runs.first().and_then(|run| run.lcn);
    if mft_start != Some(boot.mft) {
        return Err(volume.damaged(MFT, "does not begin where the boot sector says"));
    }
    let mut bitmap = None;
    for (number, name) in SYSTEM_FILES {
        let record = volume.record(number, name)?;
        let stream = match volume.contents(&record, DATA, &[], name)? {
            Some(Contents::Clusters(stream)) => stream,
            // Large records have room for small files.
            Some(Contents::Resident(_)) if number == 4 => continue,
            _ => return Err(volume.damaged(name, "has no clusters")),
        };
        if !stream.plain {
            return Err(volume.damaged(name, "is compressed, encrypted or sparse"));
        }
        let first = stream.runs.first().and_then(|run| run.lcn);
        let wanted = match number {
            1 => Some(boot.mft_mirror),
            7 => Some(0),
            _ => first,
        };
        if first != wanted {
            return Err(volume.damaged(name, "does not begin where it must"));
        }
        metadata.push((name, stream.extents()));
        match number {
            2 => logfile::check(&volume, &stream)?,
            6 => bitmap = Some(stream),
            _ => {}
        }
    }
    let bitmap = bitmap.ok_or_else(|| volume.damaged(CLUSTERS, "is missing"))?;
    let directory = volume.record(5, "NTFS root directory")?;
    let root = root::read(&volume, &directory)?;
    if let Some(stream) = &root.clusters {
        metadata.push(("NTFS root directory", stream.extents()));
    }
    let (free, free_clusters) = read_bitmap(&volume, &bitmap)?;
    check_used(&volume, &metadata, &free)?;
    let optional = special_files(&volume, &root.special, &metadata, &free)?;
    let used = boot.clusters.saturating_sub(free_clusters);
    let behind = boot
        .size_bytes
        .saturating_sub(boot.clusters.saturating_mul(boot.cluster));
    Ok(Mapped {
        kind: NAME,
        filesystem: Filesystem {
            label,
            uuid: Some(format!("{:016X}", boot.serial)),
            block_size: u32::try_from(boot.cluster).unwrap_or(u32::MAX),
            size_bytes: boot.size_bytes,
            used_bytes: used.saturating_mul(boot.cluster).saturating_add(behind),
            features: vec![version],
        },
        unit: boot.cluster,
        free,
        optional,
    }
    .into())
}

fn not_clean(volume: &Volume<'_>, what: &'static str) -> Fault {
    let kind = Incompatible::NotClean {
        filesystem: NAME,
        what,
        remedy: "start Windows, run chkdsk, and shut it down completely (shutdown /s)",
    };
    volume.window.fault(0, kind)
}

/// The first records of the MFT stand in its mirror too.
fn check_mirror(volume: &Volume<'_>) -> Result<(), Fault> {
    let start = volume.boot.mft_mirror.saturating_mul(volume.boot.cluster);
    let length = u64::try_from(volume.boot.record).unwrap_or(u64::MAX);
    for number in 0..MIRRORED_RECORDS {
        let record = volume.record(number, MFT)?;
        let mut bytes = vec![0; volume.boot.record];
        let at = start.saturating_add(number.saturating_mul(length));
        volume.window.read(&mut bytes, at)?;
        let copy = Record::parse(bytes, number);
        if copy.map(|copy| copy.comparable()) != Ok(record.comparable()) {
            return Err(volume.damaged(MIRROR, "differs from the MFT"));
        }
    }
    Ok(())
}

/// Refuses a dirty volume; its label and version.
fn check_volume(volume: &Volume<'_>) -> Result<(Option<String>, String), Fault> {
    let record = volume.record(3, VOLUME)?;
    let contents = volume.contents(&record, VOLUME_INFORMATION, &[], VOLUME)?;
    let Some(Contents::Resident(information)) = contents else {
        return Err(volume.damaged(VOLUME, "has no information"));
    };
    // Eight reserved bytes, the version's two numbers, and flags.
    let Some(&[major, minor, low, high]) = information.get(8..12) else {
        return Err(volume.damaged(VOLUME, "has no information"));
    };
    if !matches!((major, minor), (1, 1 | 2) | (3, 0 | 1)) {
        let filesystem = NAME;
        let what = "has a version other than 1.1, 1.2, 3.0 and 3.1";
        return Err(volume
            .window
            .fault(0, Incompatible::Unsupported { filesystem, what }));
    }
    let flags = u16::from_le_bytes([low, high]);
    if flags & DIRTY != 0 {
        return Err(not_clean(volume, "is marked dirty"));
    } else if flags != 0 {
        // Work that the next mount by Windows, or chkdsk, has to finish.
        return Err(not_clean(volume, "has unfinished work on its volume"));
    }
    let label = match volume.contents(&record, VOLUME_NAME, &[], VOLUME)? {
        Some(Contents::Resident(bytes)) => text_field(utf16(&bytes).as_bytes()),
        _ => None,
    };
    Ok((label, format!("NTFS {major}.{minor}")))
}

fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    char::decode_utf16(units)
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// The zeros of `$Bitmap`, and how many there are.
fn read_bitmap(volume: &Volume<'_>, stream: &Stream) -> Result<(FreeRuns, u64), Fault> {
    let clusters = volume.boot.clusters;
    let needed = clusters.div_ceil(8);
    // What is not initialized would read as zeros: free, without anybody having said so.
    if stream.initialized_size < needed {
        return Err(volume.damaged(CLUSTERS, "is too short"));
    }
    let mut free = FreeRuns::default();
    let mut free_clusters = 0_u64;
    let mut buffer = Vec::new();
    let mut at = 0_u64;
    while at < needed {
        let left = usize::try_from(needed.saturating_sub(at)).unwrap_or(usize::MAX);
        buffer.resize(left.min(BATCH), 0);
        volume.read(stream, &mut buffer, at, CLUSTERS)?;
        let first = at.saturating_mul(8);
        let bytes = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let bits = bytes.saturating_mul(8).min(clusters.saturating_sub(first));
        let bits = u32::try_from(bits).unwrap_or(u32::MAX);
        bitmap::zero_runs(&buffer, bits, |start, count| {
            free_clusters = free_clusters.saturating_add(count.into());
            free.push(Extent {
                first: first.saturating_add(start.into()),
                count: count.into(),
            });
        });
        at = at.saturating_add(bytes);
    }
    Ok((free, free_clusters))
}

/// Refuses a bitmap that calls free what is known to be in use.
fn check_used(
    volume: &Volume<'_>,
    owners: &[(&'static str, Vec<Extent>)],
    free: &FreeRuns,
) -> Result<(), Fault> {
    for (structure, extents) in owners {
        if let Some(block) = extents
            .iter()
            .find_map(|extent| shared(free.runs(), extent))
        {
            let at = block.saturating_mul(volume.boot.cluster);
            return Err(volume
                .window
                .fault(at, Corrupt::Conflict { structure, block }));
        }
    }
    Ok(())
}

/// The first cluster of `extent` that is in the sorted `runs` too.
fn shared(runs: &[Extent], extent: &Extent) -> Option<u64> {
    let at = runs.partition_point(|run| run.end() <= extent.first);
    let run = runs.get(at).filter(|run| run.overlaps(extent))?;
    Some(run.first.max(extent.first))
}

/// Where the page files and the hibernation file lie. Refuses a hibernated system.
fn special_files(
    volume: &Volume<'_>,
    special: &[(Special, u64)],
    metadata: &[(&'static str, Vec<Extent>)],
    free: &FreeRuns,
) -> Result<Vec<(Content, Vec<Extent>)>, Fault> {
    let mut optional = Vec::new();
    for &(kind, reference) in special {
        let (content, name) = match kind {
            Special::PageFile => (Content::PageFile, "NTFS page file"),
            Special::Hibernation => (Content::Hibernation, "NTFS hibernation file"),
        };
        let record = volume.record(reference & REFERENCE, name)?;
        if u64::from(record.sequence) != reference >> 48 {
            return Err(volume.damaged(name, "is not what the root directory names"));
        }
        let contents = volume.contents(&record, DATA, &[], name)?;
        if kind == Special::Hibernation {
            check_hibernation(volume, contents.as_ref(), name)?;
        }
        let Some(Contents::Clusters(stream)) = contents else {
            continue;
        };
        if !stream.plain {
            continue;
        }
        let extents = stream.extents();
        check_used(volume, &[(name, extents.clone())], free)?;
        for (structure, owned) in metadata {
            if let Some(block) = extents.iter().find_map(|extent| shared(owned, extent)) {
                let at = block.saturating_mul(volume.boot.cluster);
                return Err(volume
                    .window
                    .fault(at, Corrupt::Conflict { structure, block }));
            }
        }
        let kept = match kind {
            Special::PageFile => 0,
            Special::Hibernation => HIBERNATION_HEADER.div_ceil(volume.boot.cluster),
        };
        optional.push((content, without_head(&stream, kept)));
    }
    Ok(optional)
}

/// The clusters of a stream but for its first `kept` ones.
fn without_head(stream: &Stream, kept: u64) -> Vec<Extent> {
    let extents = stream.runs.iter().filter_map(|run| {
        let first = run.lcn?;
        let skipped = kept.saturating_sub(run.vcn).min(run.count);
        Extent::between(
            first.saturating_add(skipped),
            first.saturating_add(run.count),
        )
    });
    crate::extent::normalize(extents.collect())
}

/// Refuses a hibernated system, and what cannot be told from one: ntfs-3g 2022.10.3,
/// `libntfs-3g/volume.c` (`ntfs_volume_check_hiberfile`).
fn check_hibernation(
    volume: &Volume<'_>,
    contents: Option<&Contents>,
    name: &'static str,
) -> Result<(), Fault> {
    // Windows marks a volume of a hibernated system, other than its own, with a short file.
    let stream = match contents {
        Some(Contents::Clusters(stream))
            if stream.data_size >= HIBERNATION_HEADER && stream.plain =>
        {
            stream
        }
        _ => return Err(not_clean(volume, "belongs to a hibernated Windows")),
    };
    let mut magic = [0; 4];
    volume.read(stream, &mut magic, 0, name)?;
    magic.make_ascii_lowercase();
    // Asleep, waking up, or linked to what sleeps elsewhere.
    if matches!(&magic, b"hibr" | b"rstr" | b"link") {
        return Err(not_clean(volume, "holds a hibernated Windows"));
    }
    Ok(())
}
