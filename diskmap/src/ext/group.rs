//! Block groups: where descriptors, superblock backups, bitmaps and inode tables lie.
//!
//! Source: Linux `fs/ext4/balloc.c` (`ext4_bg_has_super`, `ext4_num_base_meta_blocks`) and
//! `fs/ext4/super.c` (`descriptor_loc`, `ext4_check_descriptors`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::features;
use super::superblock::Geometry;
use crate::error::{Corrupt, Fault};
use crate::extent::Extent;
use crate::source::Window;

const BLOCK_UNINIT: u16 = 0x0002;
/// The most one read of consecutive descriptor or bitmap blocks takes.
pub(super) const READ_BYTES: usize = 1 << 20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawDescriptor {
    block_bitmap_lo: U32,      // 0x00
    inode_bitmap_lo: U32,      // 0x04
    inode_table_lo: U32,       // 0x08
    free_blocks_count_lo: U16, // 0x0c
    inode_counts_lo: U32,      // 0x0e
    flags: U16,                // 0x12
    exclude_bitmap_lo: U32,    // 0x14
    block_bitmap_csum_lo: U16, // 0x18
    inode_bitmap_csum_lo: U16, // 0x1a
    itable_unused_lo: U16,     // 0x1c
    checksum: U16,             // 0x1e
}

/// The second half of a descriptor, with feature 64bit.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawDescriptorHigh {
    block_bitmap_hi: U32,      // 0x20
    inode_bitmap_hi: U32,      // 0x24
    inode_table_hi: U32,       // 0x28
    free_blocks_count_hi: U16, // 0x2c
    inode_counts_hi: [u8; 6],  // 0x2e
    exclude_bitmap_hi: U32,    // 0x34
    block_bitmap_csum_hi: U16, // 0x38
    inode_bitmap_csum_hi: U16, // 0x3a
    reserved: U32,             // 0x3c
}

/// What a descriptor says, in block numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    pub(super) free_clusters: u32,
    pub(super) bitmap_checksum: u32,
    /// The bitmap has never been written: only metadata is used in this group.
    pub(super) uninit: bool,
}

impl Geometry {
    /// The blocks of a group; the last one may be short.
    pub(super) fn group_extent(&self, group: u32) -> Extent {
        let first = self.first_data_block + u64::from(group) * self.blocks_per_group;
        Extent {
            first,
            count: self.blocks_per_group.min(self.blocks - first),
        }
    }

    /// The superblock backup with its descriptors, and blocks reserved for more descriptors, at
    /// the start of a group.
    pub(super) fn base_metadata(&self, group: u32) -> Extent {
        let first = self.group_extent(group).first;
        let has_super = self.has_superblock(group);
        let meta_bg = self.features.incompat(features::META_BG);
        let per_block = self.descriptors_per_block();
        let mut count = u64::from(has_super);
        if !meta_bg || u64::from(group) < self.first_meta_bg * u64::from(per_block) {
            if has_super {
                let blocks = if meta_bg {
                    self.first_meta_bg
                } else {
                    self.descriptor_blocks()
                };
                count += blocks + self.reserved_gdt_blocks;
            }
        } else {
            // One descriptor block in the first, second and last group of each metagroup.
            let place = group % per_block;
            count += u64::from(place <= 1 || place == per_block - 1);
        }
        // Bigalloc with 1 KiB blocks: group 0 begins with the boot block.
        if group == 0 && self.superblock() > first {
            count += 1;
        }
        Extent { first, count }
    }

    /// Block number of the primary superblock.
    fn superblock(&self) -> u64 {
        u64::from(self.block_size == 1024)
    }

    fn has_superblock(&self, group: u32) -> bool {
        if group == 0 {
            true
        } else if self.features.compat(features::SPARSE_SUPER2) {
            self.backup_groups.contains(&group)
        } else {
            !self.features.ro_compat(features::SPARSE_SUPER)
                || group == 1
                || [3, 5, 7].into_iter().any(|root| is_power(group, root))
        }
    }

    fn descriptors_per_block(&self) -> u32 {
        self.block_size / self.desc_size
    }

    fn descriptor_blocks(&self) -> u64 {
        self.groups.div_ceil(self.descriptors_per_block()).into()
    }

    /// The block that holds descriptor block `index` of the primary copy.
    fn descriptor_block(&self, index: u64) -> u64 {
        if !self.features.incompat(features::META_BG) || index < self.first_meta_bg {
            return self.superblock() + 1 + index;
        }
        // `index` is less than the number of groups, which is a u32.
        let group = u32::try_from(index).unwrap_or(u32::MAX) * self.descriptors_per_block();
        let first = self.group_extent(group).first;
        let before = if group == 0 {
            self.superblock() - first
        } else {
            0
        };
        first + before + u64::from(self.has_superblock(group))
    }
}

/// Reads and checks all group descriptors.
pub(super) fn read_all(window: &Window<'_>, geometry: &Geometry) -> Result<Vec<Group>, Fault> {
    let block_size = usize::try_from(geometry.block_size).unwrap_or(usize::MAX);
    let per_block = geometry.descriptors_per_block();
    let desc_size = block_size / usize::try_from(per_block).unwrap_or(1);
    let max_blocks = u64::try_from(READ_BYTES / block_size).unwrap_or(1);
    let blocks = geometry.descriptor_blocks();
    let mut groups = Vec::new();
    let mut buffer = Vec::new();
    let mut number = 0;
    let mut index = 0;
    while index < blocks {
        let first = geometry.descriptor_block(index);
        let mut count = 1;
        while count < max_blocks
            && index + count < blocks
            && geometry.descriptor_block(index + count) == first + count
        {
            count += 1;
        }
        let at = first * u64::from(geometry.block_size);
        buffer.resize(block_size * usize::try_from(count).unwrap_or(1), 0);
        window.read(&mut buffer, at)?;
        for bytes in buffer.chunks_exact(desc_size) {
            if number == geometry.groups {
                break;
            }
            let group = parse(geometry, number, bytes).map_err(|kind| window.fault(at, kind))?;
            groups.push(group);
            number += 1;
        }
        index += count;
    }
    Ok(groups)
}

fn parse(geometry: &Geometry, number: u32, bytes: &[u8]) -> Result<Group, Corrupt> {
    let (low, rest) = RawDescriptor::ref_from_prefix(bytes).map_err(|_| Corrupt::PastEnd)?;
    if !geometry
        .protection
        .descriptor_matches(number, bytes, low.checksum.get())
    {
        return Err(Corrupt::Checksum {
            structure: "descriptor of ext block group",
            number: number.into(),
        });
    }
    let high = RawDescriptorHigh::ref_from_prefix(rest)
        .ok()
        .map(|(high, _)| high);
    let join = |low: U32, high: Option<U32>| {
        u64::from(high.map_or(0, U32::get)) << 32 | u64::from(low.get())
    };
    let join16 = |low: U16, high: Option<U16>| {
        u32::from(high.map_or(0, U16::get)) << 16 | u32::from(low.get())
    };
    let group = Group {
        block_bitmap: join(low.block_bitmap_lo, high.map(|high| high.block_bitmap_hi)),
        inode_bitmap: join(low.inode_bitmap_lo, high.map(|high| high.inode_bitmap_hi)),
        inode_table: join(low.inode_table_lo, high.map(|high| high.inode_table_hi)),
        free_clusters: join16(
            low.free_blocks_count_lo,
            high.map(|high| high.free_blocks_count_hi),
        ),
        bitmap_checksum: join16(
            low.block_bitmap_csum_lo,
            high.map(|high| high.block_bitmap_csum_hi),
        ),
        uninit: geometry.protection.honours_uninit() && low.flags.get() & BLOCK_UNINIT != 0,
    };
    let bounds = if geometry.features.incompat(features::FLEX_BG) {
        let first = geometry.first_data_block;
        Extent {
            first,
            count: geometry.blocks - first,
        }
    } else {
        geometry.group_extent(number)
    };
    let outside = group
        .metadata(geometry)
        .into_iter()
        .find(|extent| !bounds.covers(extent));
    if let Some(extent) = outside {
        return Err(Corrupt::Outside {
            structure: "descriptor of an ext block group",
            block: extent.first,
        });
    }
    if group.uninit && number == 0 {
        return Err(Corrupt::Field {
            structure: "descriptor of ext block group 0",
            field: "bg_flags",
            value: BLOCK_UNINIT.into(),
        });
    }
    Ok(group)
}

impl Group {
    /// The first block of the inode table.
    pub(super) fn inode_table(&self) -> u64 {
        self.inode_table
    }

    /// Both bitmaps and the inode table.
    pub(super) fn metadata(&self, geometry: &Geometry) -> [Extent; 3] {
        [
            Extent {
                first: self.block_bitmap,
                count: 1,
            },
            Extent {
                first: self.inode_bitmap,
                count: 1,
            },
            Extent {
                first: self.inode_table,
                count: geometry.inode_table_blocks,
            },
        ]
    }
}

fn is_power(number: u32, root: u32) -> bool {
    let mut power = root;
    while power < number {
        power = power.saturating_mul(root);
    }
    power == number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!(size_of::<RawDescriptor>(), 32);
        assert_eq!(size_of::<RawDescriptorHigh>(), 32);
    }

    #[test]
    fn powers() {
        let backups: Vec<u32> = (1..100)
            .filter(|&n| [3, 5, 7].iter().any(|&root| is_power(n, root)))
            .collect();
        assert_eq!(backups, [3, 5, 7, 9, 25, 27, 49, 81]);
        assert!(!is_power(u32::MAX - 1, 3));
    }
}
