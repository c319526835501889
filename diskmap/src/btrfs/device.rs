//! What a Btrfs filesystem says of its device: the item in the chunk tree, and the device tree,
//! which lists the chunks once more by their place on the device.
//!
//! Source: Linux `include/uapi/linux/btrfs_tree.h` (`struct btrfs_dev_extent`,
//! `btrfs_dev_replace_item`).

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::chunk::{Chunks, FIRST_CHUNK_TREE};
use super::extents::check_count;
use super::node::{Key, Root};
use super::superblock::{RawDevice, Superblock};
use super::tree::Reader;
use super::{CHUNK_TREE, DEVICE_TREE, NAME};
use crate::Cause;
use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::Extent;

pub(super) const DEVICE_ITEM: u8 = 216;
const DEVICE_EXTENT: u8 = 204;
const PERSISTENT_ITEM: u8 = 249;
const REPLACE: u8 = 250;
/// `BTRFS_DEV_REPLACE_ITEM_STATE_STARTED` and `_SUSPENDED`.
const REPLACING: [u64; 2] = [1, 4];
const TREE: &str = "Btrfs device tree";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawDeviceExtent {
    chunk_tree: U64,
    chunk_objectid: U64,
    chunk_offset: U64,
    length: U64,
    chunk_tree_uuid: [u8; 16],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawReplace {
    source: U64,
    cursors: [U64; 2],
    mode: U64,
    state: U64,
}

/// Refuses a device item that differs from the superblock's copy, such as a second device.
pub(super) fn check_item(data: &[u8], superblock: &Superblock) -> Result<(), Cause> {
    let known = &superblock.device;
    let same = RawDevice::ref_from_bytes(data).is_ok_and(|raw| {
        (
            raw.devid,
            raw.total_bytes,
            raw.bytes_used,
            raw.uuid,
            raw.fsid,
        ) == (
            known.devid,
            known.total_bytes,
            known.bytes_used,
            known.uuid,
            known.fsid,
        )
    });
    if same {
        Ok(())
    } else {
        Err(structure("has a device item that the superblock lacks"))
    }
}

/// Compares the device tree with the chunks `on_device`: place and logical address of each copy,
/// ascending.
pub(super) fn check(
    reader: &mut Reader<'_>,
    chunks: &Chunks,
    root: Root,
    superblock: &Superblock,
    on_device: &[(Extent, u64)],
) -> Result<(), Fault> {
    let mut expected = on_device.iter();
    reader.walk(
        chunks,
        DEVICE_TREE,
        root,
        Key::MIN..=Key::MAX,
        &mut |key, data| match key.kind {
            DEVICE_EXTENT => {
                let found = extent(key, data, superblock)?;
                if expected.next() == Some(&found) {
                    Ok(())
                } else {
                    Err(structure("disagrees with the chunk tree"))
                }
            }
            PERSISTENT_ITEM => Ok(()),
            REPLACE => check_replace(data),
            kind => Err(field("item type", kind.into())),
        },
    )?;
    let sums = if expected.next().is_some() {
        Err(structure("disagrees with the chunk tree"))
    } else {
        let counted = on_device
            .iter()
            .fold(0_u64, |sum, (copy, _)| sum.saturating_add(copy.count));
        let recorded = superblock.device.bytes_used.get();
        check_count("bytes of the device in Btrfs chunks", recorded, counted)
    };
    sums.map_err(|cause| reader.fault(cause))
}

fn extent(key: Key, data: &[u8], superblock: &Superblock) -> Result<(Extent, u64), Cause> {
    let raw =
        RawDeviceExtent::ref_from_bytes(data).map_err(|_| structure("has an item too short"))?;
    if key.objectid != superblock.device.devid.get() {
        return Err(field("device number", key.objectid));
    }
    if raw.chunk_tree.get() != CHUNK_TREE || raw.chunk_objectid.get() != FIRST_CHUNK_TREE {
        return Err(field("chunk_tree", raw.chunk_tree.get()));
    }
    let copy = Extent {
        first: key.offset,
        count: raw.length.get(),
    };
    Ok((copy, raw.chunk_offset.get()))
}

fn check_replace(data: &[u8]) -> Result<(), Cause> {
    let (raw, _) =
        RawReplace::ref_from_prefix(data).map_err(|_| structure("has an item too short"))?;
    if REPLACING.contains(&raw.state.get()) {
        let kind = Incompatible::NotClean {
            filesystem: NAME,
            what: "is being moved to another device",
            remedy: "finish or cancel the replacement",
        };
        return Err(kind.into());
    }
    Ok(())
}

fn field(field: &'static str, value: u64) -> Cause {
    Cause::field(TREE, field, value)
}

fn structure(problem: &'static str) -> Cause {
    let kind = Corrupt::Structure {
        structure: TREE,
        problem,
    };
    kind.into()
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<RawDeviceExtent>(), 48);
        assert_eq!(offset_of!(RawReplace, state), 32);
    }
}
