//! Free blocks of ext2, ext3 and ext4.
//!
//! Every claim is checked twice before it is believed: checksums where the filesystem has them,
//! and always the count of free clusters in the descriptor against the bitmap, and the places of
//! all metadata against each other and against the bitmaps. A block is reported free only if the
//! bitmap of its group says so (or the group was never touched) and no metadata lies there.
//!
//! Source: Linux Documentation/filesystems/ext4 and `fs/ext4/balloc.c`.

mod checksum;
mod features;
mod group;
mod journal;
mod superblock;

use crate::bitmap;
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, FreeRuns, normalize};
use crate::filesystem::{Content, Filesystem, Mapped, Parsed, uuid_text};
use crate::source::Window;
use group::Group;
use superblock::Geometry;

/// As the filesystem is called in messages.
const NAME: &str = "ext";

/// Where an ext superblock seems to stand in the window.
pub(crate) fn detect(window: &Window<'_>) -> Result<Option<u64>, Fault> {
    superblock::detect(window)
}

/// Whether the superblock, if there is one, looks like more than two matching bytes.
pub(crate) fn is_plausible(window: &Window<'_>) -> Result<bool, Fault> {
    superblock::is_plausible(window)
}

/// Maps the filesystem in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let geometry = superblock::read(window)?;
    let groups = group::read_all(window, &geometry)?;
    let metadata = metadata(window, &geometry, &groups)?;
    let mut scan = Scan {
        window,
        geometry: &geometry,
        free: FreeRuns::default(),
        free_blocks: 0,
    };
    scan.groups(&groups, &metadata)?;
    let Scan {
        free, free_blocks, ..
    } = scan;
    if let Some(block) = first_shared(&metadata, free.runs()) {
        return Err(fault_at_block(
            window,
            &geometry,
            block,
            Corrupt::Conflict {
                structure: "ext metadata, and free space by the bitmap",
                block,
            },
        ));
    }
    let journal = journal::contents(window, &geometry, &groups, &metadata, free.runs())?;
    let block_size = u64::from(geometry.block_size);
    Ok(Mapped {
        kind: geometry.features.version(),
        filesystem: Filesystem {
            label: geometry.label,
            uuid: Some(uuid_text(&geometry.uuid)),
            block_size: geometry.block_size,
            size_bytes: geometry.blocks.saturating_mul(block_size),
            used_bytes: (geometry.blocks.saturating_sub(free_blocks)).saturating_mul(block_size),
            features: geometry.features.names(),
        },
        unit: block_size,
        free,
        optional: vec![(Content::Journal, journal)],
    }
    .into())
}

/// All blocks that hold metadata by their place, whichever group they serve; no two may overlap.
fn metadata(
    window: &Window<'_>,
    geometry: &Geometry,
    groups: &[Group],
) -> Result<Vec<Extent>, Fault> {
    let base = (0..geometry.groups).map(|group| geometry.base_metadata(group));
    let of_groups = groups.iter().flat_map(|group| group.metadata(geometry));
    let mut extents: Vec<Extent> = base.chain(of_groups).filter(|e| e.count > 0).collect();
    extents.sort_unstable();
    if let Some(pair) = extents.windows(2).find(|pair| pair[0].overlaps(&pair[1])) {
        let block = pair[1].first;
        return Err(fault_at_block(
            window,
            geometry,
            block,
            Corrupt::Conflict {
                structure: "two pieces of ext metadata",
                block,
            },
        ));
    }
    Ok(normalize(extents))
}

/// The walk over the block bitmaps.
struct Scan<'a> {
    window: &'a Window<'a>,
    geometry: &'a Geometry,
    free: FreeRuns,
    free_blocks: u64,
}

impl Scan<'_> {
    /// Visits all groups in order. Bitmaps that lie side by side (flex_bg) are read at once.
    fn groups(&mut self, groups: &[Group], metadata: &[Extent]) -> Result<(), Fault> {
        let block_size = usize::try_from(self.geometry.block_size).unwrap_or(usize::MAX);
        let max_blocks = group::READ_BYTES / block_size;
        let mut buffer = Vec::new();
        let mut rest = groups;
        let mut number = 0;
        while let [first, ..] = rest {
            let len = if first.uninit {
                1
            } else {
                side_by_side(&rest[..rest.len().min(max_blocks)])
            };
            let (batch, tail) = rest.split_at(len);
            rest = tail;
            buffer.clear();
            buffer.resize(block_size * len, 0);
            let at = first.block_bitmap * u64::from(self.geometry.block_size);
            if first.uninit {
                self.fill_uninit(&mut buffer, number, metadata);
            } else {
                self.window.read(&mut buffer, at)?;
            }
            for (group, bitmap) in batch.iter().zip(buffer.chunks_exact(block_size)) {
                self.group(number, group, bitmap)
                    .map_err(|kind| self.window.fault(at, kind))?;
                number += 1;
            }
        }
        Ok(())
    }

    /// The bitmap that the kernel would write for a group that has none yet.
    fn fill_uninit(&self, bitmap: &mut [u8], number: u32, metadata: &[Extent]) {
        let extent = self.geometry.group_extent(number);
        let start = metadata.partition_point(|meta| meta.end() <= extent.first);
        for meta in metadata[start..]
            .iter()
            .take_while(|meta| meta.first < extent.end())
        {
            let first = meta.first.max(extent.first) - extent.first;
            let end = meta.end().min(extent.end()) - extent.first;
            let first = first / self.geometry.blocks_per_cluster;
            let end = end.div_ceil(self.geometry.blocks_per_cluster);
            bitmap::set(bitmap, first, end - first);
        }
    }

    /// Checks one bitmap and adds its zeros.
    fn group(&mut self, number: u32, group: &Group, bitmap: &[u8]) -> Result<(), Corrupt> {
        let geometry = self.geometry;
        let covered = usize::try_from(geometry.clusters_per_group / 8).unwrap_or(usize::MAX);
        let covered = bitmap.get(..covered).unwrap_or(bitmap);
        let wide = geometry.desc_size >= 64;
        let matches = group.uninit
            || geometry
                .protection
                .bitmap_matches(covered, group.bitmap_checksum, wide);
        if !matches {
            return Err(Corrupt::Checksum {
                structure: "block bitmap of ext block group",
                number: number.into(),
            });
        }
        let extent = geometry.group_extent(number);
        let per_cluster = geometry.blocks_per_cluster;
        let clusters = u32::try_from(extent.count.div_ceil(per_cluster)).unwrap_or(u32::MAX);
        let mut free_clusters = 0;
        bitmap::zero_runs(bitmap, clusters, |first, count| {
            free_clusters += count;
            let start = extent.first + u64::from(first) * per_cluster;
            // The last cluster of the filesystem may be short.
            let count = (u64::from(count) * per_cluster).min(extent.end() - start);
            self.free_blocks += count;
            self.free.push(Extent {
                first: start,
                count,
            });
        });
        if free_clusters != group.free_clusters {
            return Err(Corrupt::Count {
                what: "free clusters of an ext block group",
                recorded: group.free_clusters.into(),
                counted: free_clusters.into(),
            });
        }
        Ok(())
    }
}

/// How many of the first groups have their bitmaps in consecutive blocks.
fn side_by_side(groups: &[Group]) -> usize {
    let follows = |pair: &&[Group]| {
        !pair[1].uninit && pair[1].block_bitmap == pair[0].block_bitmap.saturating_add(1)
    };
    1 + groups.windows(2).take_while(follows).count()
}

/// The first block that is in both lists.
fn first_shared(one: &[Extent], other: &[Extent]) -> Option<u64> {
    let mut others = other.iter().peekable();
    one.iter().find_map(|extent| {
        while others
            .next_if(|other| other.end() <= extent.first)
            .is_some()
        {}
        let other = others.peek().filter(|other| other.overlaps(extent))?;
        Some(other.first.max(extent.first))
    })
}

fn fault_at_block(window: &Window<'_>, geometry: &Geometry, block: u64, kind: Corrupt) -> Fault {
    window.fault(block.saturating_mul(geometry.block_size.into()), kind)
}
