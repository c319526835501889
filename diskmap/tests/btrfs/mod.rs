//! A Btrfs filesystem with a block group tree, made from a fresh one without: btrfs-progs before
//! 6.19 do not make it by default, and some not at all. The kernel writes all of it anew.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SUPERBLOCK: u64 = 64 << 10;
const NODE_LEN: usize = 16384;
const HEADER_LEN: usize = 101;
const BLOCK_GROUP_TREE: u64 = 11;
const METADATA_ITEM: u8 = 169;
const ROOT_ITEM: u8 = 132;
const BLOCK_GROUP_ITEM: u8 = 192;

type Key = (u64, u8, u64);

/// A leaf that is the root of its tree.
struct Leaf {
    header: Vec<u8>,
    items: Vec<(Key, Vec<u8>)>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn seal(block: &mut [u8]) {
    let crc = crc32c(&block[32..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
}

impl Leaf {
    fn read(file: &File, place: u64) -> Self {
        let mut bytes = vec![0; NODE_LEN];
        file.read_exact_at(&mut bytes, place).unwrap();
        assert_eq!(bytes[100], 0, "not a leaf");
        let items = (0..u32_at(&bytes, 96) as usize)
            .map(|index| {
                let at = HEADER_LEN + index * 25;
                let key = (u64_at(&bytes, at), bytes[at + 8], u64_at(&bytes, at + 9));
                let start = HEADER_LEN + u32_at(&bytes, at + 17) as usize;
                let len = u32_at(&bytes, at + 21) as usize;
                (key, bytes[start..start + len].to_vec())
            })
            .collect();
        Self {
            header: bytes[..HEADER_LEN].to_vec(),
            items,
        }
    }

    fn write(&mut self, file: &File, places: &[u64]) {
        self.items.sort_unstable();
        let mut bytes = vec![0; NODE_LEN];
        bytes[..HEADER_LEN].copy_from_slice(&self.header);
        bytes[96..100].copy_from_slice(&(self.items.len() as u32).to_le_bytes());
        let mut end = NODE_LEN;
        for (index, ((objectid, kind, offset), data)) in self.items.iter().enumerate() {
            let at = HEADER_LEN + index * 25;
            end -= data.len();
            put_u64(&mut bytes, at, *objectid);
            bytes[at + 8] = *kind;
            put_u64(&mut bytes, at + 9, *offset);
            let start = (end - HEADER_LEN) as u32;
            bytes[at + 17..at + 21].copy_from_slice(&start.to_le_bytes());
            bytes[at + 21..at + 25].copy_from_slice(&(data.len() as u32).to_le_bytes());
            bytes[end..end + data.len()].copy_from_slice(data);
        }
        seal(&mut bytes);
        for &place in places {
            file.write_all_at(&bytes, place).unwrap();
        }
    }
}

/// Moves the block group items of a fresh filesystem to a tree of their own. `places` tells
/// where the copies of a logical address lie. The free space tree is not updated: mount with
/// `clear_cache`.
pub(super) fn add_block_group_tree(image: &Path, places: impl Fn(u64) -> Vec<u64>) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut superblock = vec![0; 4096];
    file.read_exact_at(&mut superblock, SUPERBLOCK).unwrap();
    let root_at = places(u64_at(&superblock, 0x50));
    let mut root_tree = Leaf::read(&file, root_at[0]);
    let extent_root = root_tree
        .items
        .iter()
        .find(|(key, _)| *key == (2, ROOT_ITEM, 0));
    let extent_root = extent_root.unwrap().1.clone();
    let extents_at = places(u64_at(&extent_root, 176));
    let mut extents = Leaf::read(&file, extents_at[0]);

    // Behind the last node of the fresh filesystem.
    let nodes = extents
        .items
        .iter()
        .filter(|(key, _)| key.1 == METADATA_ITEM);
    let address = nodes.map(|(key, _)| key.0).max().unwrap() + NODE_LEN as u64;
    let is_group = |item: &(Key, Vec<u8>)| item.0.1 == BLOCK_GROUP_ITEM;
    let mut groups: Vec<_> = extents
        .items
        .iter()
        .filter(|item| is_group(item))
        .cloned()
        .collect();
    extents.items.retain(|item| !is_group(item));
    let mut metadata = Vec::new();
    for value in [1, u64_at(&extents.header, 80), 2] {
        metadata.extend(value.to_le_bytes());
    }
    metadata.push(176);
    metadata.extend(BLOCK_GROUP_TREE.to_le_bytes());
    extents.items.push(((address, METADATA_ITEM, 0), metadata));
    let home = groups
        .iter_mut()
        .find(|(key, _)| key.0 <= address && address < key.0 + key.2)
        .unwrap();
    let used = u64_at(&home.1, 0) + NODE_LEN as u64;
    put_u64(&mut home.1, 0, used);

    let mut header = extents.header.clone();
    put_u64(&mut header, 48, address);
    put_u64(&mut header, 88, BLOCK_GROUP_TREE);
    let mut root_item = extent_root;
    put_u64(&mut root_item, 176, address);
    put_u64(&mut root_item, 192, NODE_LEN as u64);
    root_tree
        .items
        .push(((BLOCK_GROUP_TREE, ROOT_ITEM, 0), root_item));

    Leaf {
        header,
        items: groups,
    }
    .write(&file, &places(address));
    extents.write(&file, &extents_at);
    root_tree.write(&file, &root_at);
    let bytes_used = u64_at(&superblock, 0x78) + NODE_LEN as u64;
    put_u64(&mut superblock, 0x78, bytes_used);
    // FREE_SPACE_TREE, FREE_SPACE_TREE_VALID, BLOCK_GROUP_TREE.
    put_u64(&mut superblock, 0xb4, 1 | 2 | 8);
    seal(&mut superblock);
    file.write_all_at(&superblock, SUPERBLOCK).unwrap();
}
