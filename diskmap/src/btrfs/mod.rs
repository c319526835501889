//! Btrfs on a single device.
//!
//! In use is what the extent tree lists, in every copy that the chunk tree gives it. Free is the
//! rest of the chunks, and what of the device is in no chunk; never the first MiB and the places
//! of the superblocks. Believed only if the sums of the block groups, of the superblock and of
//! the device agree with what was counted, the device tree with the chunks, and if every node
//! that was read is in use by its own word. The caches of free space are not read: they may be
//! stale. Trees are written anew at every commit, so they hold together at any time; only a log
//! tree of a crash is not accounted for in the extent tree.
//!
//! Source: Linux `include/uapi/linux/btrfs_tree.h`, `fs/btrfs/` and
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod checksum;
mod chunk;
mod device;
mod extents;
mod node;
mod superblock;
mod tree;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Cause;
use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::{Extent, FreeRuns, normalize};
use crate::filesystem::{Filesystem, Mapped, Parsed, uuid_text};
use crate::source::Window;
use chunk::{CHUNK_ITEM, Chunks};
use extents::Scan;
use node::{Key, Root};
use superblock::Superblock;
use tree::Reader;

const NAME: &str = "Btrfs";
const SUPERBLOCK: &str = "Btrfs superblock";
const NODE: &str = "Btrfs tree node";

const ROOT_TREE: u64 = 1;
const EXTENT_TREE: u64 = 2;
const CHUNK_TREE: u64 = 3;
const DEVICE_TREE: u64 = 4;
const BLOCK_GROUP_TREE: u64 = 11;
const ROOT_ITEM: u8 = 132;

/// What the allocator leaves alone at the start (`BTRFS_DEVICE_RANGE_RESERVED`).
const RESERVED_START: u64 = 1 << 20;

/// The part of `struct btrfs_root_item` that older kernels wrote too.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRoot {
    inode: [u8; 160],
    generation: U64,
    root_dirid: U64,
    bytenr: U64,
    counters: [u8; 54],
    level: u8,
}

/// Maps the filesystem in the window.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let superblock = superblock::read(window)?;
    let at_superblock = |cause: Cause| window.fault(superblock::PLACES[0], cause);
    let mut reader = Reader::new(window, &superblock);
    let system = Chunks::of_superblock(&superblock).map_err(at_superblock)?;
    let chunks = read_chunks(&mut reader, &system, &superblock)?;
    chunks.check_against(&system).map_err(at_superblock)?;
    let on_device = chunks.on_device().map_err(at_superblock)?;

    let device_root = find_root(&mut reader, &chunks, &superblock, DEVICE_TREE)?;
    device::check(&mut reader, &chunks, device_root, &superblock, &on_device)?;

    let mut scan = Scan::new(&superblock, &chunks);
    let everything = Key::MIN..=Key::MAX;
    let root = find_root(&mut reader, &chunks, &superblock, EXTENT_TREE)?;
    reader.walk(
        &chunks,
        EXTENT_TREE,
        root,
        everything.clone(),
        &mut |key, data| scan.extent_tree(key, data),
    )?;
    if superblock.block_group_tree {
        let root = find_root(&mut reader, &chunks, &superblock, BLOCK_GROUP_TREE)?;
        reader.walk(
            &chunks,
            BLOCK_GROUP_TREE,
            root,
            everything,
            &mut |key, data| scan.block_group(key, data),
        )?;
    }
    let in_chunks = scan.finish().map_err(at_superblock)?;
    let free = free_space(&superblock, &on_device, in_chunks);
    check_nodes(&superblock, &reader.into_nodes(), free.runs()).map_err(at_superblock)?;
    if superblock::has_changed(window, &superblock)? {
        let kind = Incompatible::NotClean {
            filesystem: NAME,
            what: "changed while it was read",
            remedy: "unmount it",
        };
        return Err(at_superblock(kind.into()));
    }
    let size_bytes = superblock.device.total_bytes.get();
    let free_units = free.runs().iter().map(|run| run.count).sum::<u64>();
    Ok(Mapped {
        kind: NAME,
        filesystem: Filesystem {
            label: superblock.label,
            uuid: Some(uuid_text(&superblock.uuid)),
            block_size: u32::try_from(superblock.sectorsize).unwrap_or(u32::MAX),
            size_bytes,
            used_bytes: size_bytes.saturating_sub(free_units.saturating_mul(superblock.sectorsize)),
            features: superblock.features,
        },
        unit: superblock.sectorsize,
        free,
        optional: Vec::new(),
    }
    .into())
}

/// Reads the chunk tree through the chunks that the superblock lists.
fn read_chunks(
    reader: &mut Reader<'_>,
    system: &Chunks,
    superblock: &Superblock,
) -> Result<Chunks, Fault> {
    let mut chunks = Chunks::default();
    reader.walk(
        system,
        CHUNK_TREE,
        superblock.chunk_root,
        Key::MIN..=Key::MAX,
        &mut |key, data| match key.kind {
            CHUNK_ITEM => chunks.push(key, data, superblock),
            device::DEVICE_ITEM => device::check_item(data, superblock),
            kind => Err(Corrupt::Field {
                structure: "Btrfs chunk tree",
                field: "item type",
                value: kind.into(),
            }
            .into()),
        },
    )?;
    Ok(chunks)
}

/// Looks up where the tree `number` begins.
fn find_root(
    reader: &mut Reader<'_>,
    chunks: &Chunks,
    superblock: &Superblock,
    number: u64,
) -> Result<Root, Fault> {
    let key = Key::new(number, ROOT_ITEM, 0);
    let mut found = None;
    reader.walk(
        chunks,
        ROOT_TREE,
        superblock.root,
        key..=key,
        &mut |_, data| {
            let (raw, _) = RawRoot::ref_from_prefix(data).map_err(|_| missing_root())?;
            found = Some(Root {
                bytenr: raw.bytenr.get(),
                generation: raw.generation.get(),
                level: raw.level,
            });
            Ok(())
        },
    )?;
    found.ok_or_else(|| reader.fault(missing_root()))
}

fn missing_root() -> Cause {
    let kind = Corrupt::Structure {
        structure: "Btrfs root tree",
        problem: "lacks the root of a tree that every filesystem has",
    };
    kind.into()
}

/// What is free on the device, in sectors of the filesystem: `in_chunks`, and what is in no chunk.
fn free_space(
    superblock: &Superblock,
    on_device: &[(Extent, u64)],
    in_chunks: FreeRuns,
) -> FreeRuns {
    let unit = superblock.sectorsize;
    let in_sectors = |bytes: Extent| Extent {
        first: bytes.first.div_euclid(unit),
        count: bytes.count.div_euclid(unit),
    };
    let space = in_sectors(Extent {
        first: 0,
        count: superblock.device.total_bytes.get(),
    });
    let chunks: Vec<Extent> = on_device
        .iter()
        .map(|(copy, _)| in_sectors(*copy))
        .collect();
    let start = Extent {
        first: 0,
        count: RESERVED_START,
    };
    let places = superblock::PLACES.map(|first| Extent {
        first,
        count: superblock::PLACE_LEN,
    });
    let reserved = [start].into_iter().chain(places).map(in_sectors).collect();
    let mut in_no_chunk = FreeRuns::default();
    in_no_chunk.push_gaps(space, &normalize(chunks));
    in_chunks
        .with(in_no_chunk.runs().iter().copied())
        .without(&normalize(reserved))
}

/// Refuses a map that calls a node free that was read to make it.
fn check_nodes(superblock: &Superblock, nodes: &[u64], free: &[Extent]) -> Result<(), Cause> {
    let unit = superblock.sectorsize;
    for &place in nodes {
        let node = Extent {
            first: place.div_euclid(unit),
            count: u64::from(superblock.nodesize).div_euclid(unit),
        };
        let at = free.partition_point(|run| run.end() <= node.first);
        if free.get(at).is_some_and(|run| run.overlaps(&node)) {
            let kind = Corrupt::Conflict {
                structure: "a Btrfs tree node lies in free space",
                block: place,
            };
            return Err(kind.into());
        }
    }
    Ok(())
}
