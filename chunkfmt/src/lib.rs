//! The `.frz` image format.
pub mod tree;
/// Bytes of a block: the unit of transmission and the leaf of the BLAKE3 tree.
pub const BLOCK_SIZE: usize = 1024;
/// Blocks of a group, the unit that is checked on arrival (16 KiB).
pub const GROUP_BLOCKS: u32 = 16;
