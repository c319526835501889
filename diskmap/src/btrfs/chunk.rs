//! Chunks: where the logical addresses of a Btrfs filesystem lie on its device.
//!
//! Source: Linux `include/uapi/linux/btrfs_tree.h` (`struct btrfs_chunk`, `btrfs_stripe`) and
//! `fs/btrfs/tree-checker.c` (`btrfs_check_chunk_valid`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::node::{Key, RawKey};
use super::superblock::Superblock;
use super::{NAME, SUPERBLOCK};
use crate::Cause;
use crate::error::Corrupt;
use crate::extent::Extent;

pub(super) const DATA: u64 = 1 << 0;
pub(super) const SYSTEM: u64 = 1 << 1;
pub(super) const METADATA: u64 = 1 << 2;
const DUP: u64 = 1 << 5;
pub(super) const FIRST_CHUNK_TREE: u64 = 256;
pub(super) const CHUNK_ITEM: u8 = 228;
const CHUNK: &str = "Btrfs chunk";
/// 256 TiB in chunks of 1 GiB. Bounds the memory.
const MAX_CHUNKS: usize = 1 << 18;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawChunk {
    length: U64,
    owner: U64,
    stripe_len: U64,
    kind: U64,
    io_align: U32,
    io_width: U32,
    sector_size: U32,
    num_stripes: U16,
    sub_stripes: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawStripe {
    devid: U64,
    offset: U64,
    device_uuid: [u8; 16],
}

/// A range of logical addresses and its copies on the device; all in bytes, and multiples of
/// `sectorsize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) logical: Extent,
    /// What it holds, and its profile.
    pub(super) kind: u64,
    /// Where its copies start on the device.
    copies: (u64, Option<u64>),
}

impl Chunk {
    /// Where the bytes `part` of the chunk, by logical address, lie on the device: every copy.
    pub(super) fn copies(&self, part: Extent) -> impl Iterator<Item = Extent> + use<> {
        let skipped = part.first.saturating_sub(self.logical.first);
        [Some(self.copies.0), self.copies.1]
            .into_iter()
            .flatten()
            .map(move |start| Extent {
                first: start.saturating_add(skipped),
                count: part.count,
            })
    }
}

/// The chunks of a filesystem, ascending and disjoint by logical address.
#[derive(Default)]
pub(super) struct Chunks {
    list: Vec<Chunk>,
}

impl Chunks {
    /// Those of `sys_chunk_array` in the superblock.
    pub(super) fn of_superblock(superblock: &Superblock) -> Result<Self, Cause> {
        let mut list = Vec::new();
        let mut rest = superblock.sys_chunks.as_slice();
        while !rest.is_empty() {
            let (key, chunk, stripes) = split(rest).ok_or(Corrupt::Structure {
                structure: SUPERBLOCK,
                problem: "has a sys_chunk_array that ends amid a chunk",
            })?;
            let chunk = parse(key, chunk, stripes.0, superblock)?;
            if chunk.kind & SYSTEM == 0 {
                return Err(field("type", chunk.kind));
            }
            list.push(chunk);
            rest = stripes.1;
        }
        list.sort_unstable_by_key(|chunk| chunk.logical);
        let chunks = Self { list };
        chunks.check_logical()?;
        Ok(chunks)
    }

    /// Adds a chunk of the chunk tree; in ascending order.
    pub(super) fn push(
        &mut self,
        key: Key,
        data: &[u8],
        superblock: &Superblock,
    ) -> Result<(), Cause> {
        let short = || field("item size", u64::try_from(data.len()).unwrap_or(u64::MAX));
        let (raw, stripes) = RawChunk::ref_from_prefix(data).map_err(|_| short())?;
        let stripes = <[RawStripe]>::ref_from_bytes(stripes).map_err(|_| short())?;
        if self.list.len() >= MAX_CHUNKS {
            return Err(unsupported("has more chunks than are read"));
        }
        self.list.push(parse(key, raw, stripes, superblock)?);
        Ok(())
    }

    /// Checks that the tree has the chunks of the superblock, no others of their kind, and that
    /// no two share addresses.
    pub(super) fn check_against(&self, of_superblock: &Self) -> Result<(), Cause> {
        self.check_logical()?;
        let system = self.list.iter().filter(|chunk| chunk.kind & SYSTEM != 0);
        if !system.eq(&of_superblock.list) {
            let kind = Corrupt::Structure {
                structure: SUPERBLOCK,
                problem: "has other system chunks than the chunk tree",
            };
            return Err(kind.into());
        }
        Ok(())
    }

    fn check_logical(&self) -> Result<(), Corrupt> {
        let mut pairs = self.list.iter().zip(self.list.iter().skip(1));
        match pairs.find(|(one, next)| one.logical.end() > next.logical.first) {
            Some((_, next)) => Err(Corrupt::Conflict {
                structure: CHUNK,
                block: next.logical.first,
            }),
            None => Ok(()),
        }
    }

    /// All copies on the device with the logical address of their chunk, ascending; checked to
    /// be disjoint.
    pub(super) fn on_device(&self) -> Result<Vec<(Extent, u64)>, Cause> {
        let mut copies: Vec<(Extent, u64)> = self
            .list
            .iter()
            .flat_map(|chunk| {
                let first = chunk.logical.first;
                chunk.copies(chunk.logical).map(move |copy| (copy, first))
            })
            .collect();
        copies.sort_unstable();
        let mut pairs = copies.iter().zip(copies.iter().skip(1));
        match pairs.find(|((one, _), (next, _))| one.overlaps(next)) {
            Some((_, (next, _))) => {
                let kind = Corrupt::Conflict {
                    structure: CHUNK,
                    block: next.first,
                };
                Err(kind.into())
            }
            None => Ok(copies),
        }
    }

    /// Where the first copy of `len` logical bytes lies, if they lie in one chunk.
    pub(super) fn physical(&self, logical: u64, len: u64) -> Option<u64> {
        let at = self
            .list
            .partition_point(|chunk| chunk.logical.end() <= logical);
        let part = Extent {
            first: logical,
            count: len,
        };
        let chunk = self
            .list
            .get(at)
            .filter(|chunk| logical.checked_add(len).is_some() && chunk.logical.covers(&part))?;
        chunk.copies(part).next().map(|copy| copy.first)
    }

    pub(super) fn list(&self) -> &[Chunk] {
        &self.list
    }
}

/// Key, chunk, its stripes, and what follows.
type Split<'a> = (Key, &'a RawChunk, (&'a [RawStripe], &'a [u8]));

fn split(array: &[u8]) -> Option<Split<'_>> {
    let (key, rest) = RawKey::ref_from_prefix(array).ok()?;
    let (chunk, rest) = RawChunk::ref_from_prefix(rest).ok()?;
    let stripes =
        <[RawStripe]>::ref_from_prefix_with_elems(rest, chunk.num_stripes.get().into()).ok()?;
    Some(((*key).into(), chunk, stripes))
}

fn parse(
    key: Key,
    raw: &RawChunk,
    stripes: &[RawStripe],
    superblock: &Superblock,
) -> Result<Chunk, Cause> {
    let kind = raw.kind.get();
    let logical = Extent {
        first: key.offset,
        count: raw.length.get(),
    };
    if key.objectid != FIRST_CHUNK_TREE || key.kind != CHUNK_ITEM {
        return Err(field("key", key.objectid));
    }
    let contents = kind & (DATA | SYSTEM | METADATA);
    let known = [DATA, SYSTEM, METADATA].contains(&contents)
        || (superblock.mixed_groups && contents == DATA | METADATA);
    let profile = kind & !contents;
    let copies = match profile {
        0 => 1,
        DUP => 2,
        _ => {
            return Err(unsupported(
                "has chunks with a profile other than single or DUP",
            ));
        }
    };
    if !known {
        return Err(field("type", kind));
    }
    if usize::from(raw.num_stripes.get()) != copies || stripes.len() != copies {
        return Err(field("num_stripes", raw.num_stripes.get().into()));
    }
    let aligned = |value: u64| value.is_multiple_of(superblock.sectorsize);
    let length = logical.count;
    let fits = key.offset.checked_add(length).is_some();
    if length == 0 || !aligned(length) || !fits {
        return Err(field("length", length));
    }
    if !aligned(key.offset) {
        return Err(field("logical address", key.offset));
    }
    let device = &superblock.device;
    for stripe in stripes {
        if stripe.devid != device.devid || stripe.device_uuid != device.uuid {
            return Err(unsupported("has chunks on another device"));
        }
        let offset = stripe.offset.get();
        let end = offset.checked_add(length);
        if !aligned(offset) || end.is_none_or(|end| end > device.total_bytes.get()) {
            let kind = Corrupt::Outside {
                structure: CHUNK,
                block: offset,
            };
            return Err(kind.into());
        }
    }
    let mut places = stripes.iter().map(|stripe| stripe.offset.get());
    let first = places.next().ok_or_else(|| field("num_stripes", 0))?;
    Ok(Chunk {
        logical,
        kind,
        copies: (first, places.next()),
    })
}

fn field(field: &'static str, value: u64) -> Cause {
    Cause::field(CHUNK, field, value)
}

fn unsupported(what: &'static str) -> Cause {
    Cause::unsupported(NAME, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<RawChunk>(), 48);
        assert_eq!(size_of::<RawStripe>(), 32);
    }
}
