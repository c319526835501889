//! Checksums put right, where a patch has made them wrong: a fuzzer would never find them.

#![allow(
    clippy::cast_possible_truncation,
    reason = "disks of a few hundred MiB"
)]

use std::collections::BTreeSet;

use crc::{Algorithm, CRC_16_MODBUS, CRC_32_ISCSI, CRC_32_ISO_HDLC, Crc};

use super::sparse::{BLOCK, Disk};

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// As ext4 uses it, without the final inversion.
const CRC32C_RAW: Crc<u32> = Crc::<u32>::new(&Algorithm {
    xorout: 0,
    ..CRC_32_ISCSI
});
const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Puts the checksums right of the structures in and around these blocks.
pub fn put_right(disk: &mut Disk<'_>, patched: &BTreeSet<u64>) {
    let name = disk.base().name;
    let family = name.split('-').next().unwrap_or_default();
    match family {
        "table" => gpt(disk),
        "ext" => ext(disk),
        "xfs" if name != "xfs-v4" => patched.iter().for_each(|&block| xfs(disk, block)),
        "btrfs" => btrfs(disk, patched),
        "exfat" => exfat(disk),
        "ntfs" => patched.iter().for_each(|&block| ntfs(disk, block)),
        "lvm" => lvm(disk),
        _ => {}
    }
}

/// Both headers and their entries (UEFI 2.10, section 5.3).
fn gpt(disk: &mut Disk<'_>) {
    let sectors = diskmap::ReadAt::size(disk) / 512;
    for at in [512, (sectors - 1) * 512] {
        let mut header = [0; 512];
        disk.read(&mut header, at);
        if !header.starts_with(b"EFI PART") {
            continue;
        }
        let (place, count, size) = (le64(&header, 72), le32(&header, 80), le32(&header, 84));
        let bytes = u64::from(count) * u64::from(size);
        if place < sectors && bytes <= 1 << 20 {
            let mut entries = vec![0; bytes as usize];
            disk.read(&mut entries, place * 512);
            header[88..92].copy_from_slice(&CRC32.checksum(&entries).to_le_bytes());
        }
        header[16..20].fill(0);
        let length = (le32(&header, 12) as usize).clamp(92, 512);
        let checksum = CRC32.checksum(&header[..length]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        disk.write(at, &header);
    }
}

/// Superblock, bitmaps and descriptors of the first table (Linux, Documentation/filesystems/ext4).
fn ext(disk: &mut Disk<'_>) {
    let mut superblock = [0; 1024];
    disk.read(&mut superblock, 1024);
    let incompat = le32(&superblock, 0x60);
    let ro_compat = le32(&superblock, 0x64);
    let metadata = ro_compat & 0x400 != 0;
    if metadata {
        let checksum = CRC32C_RAW.checksum(&superblock[..0x3fc]);
        superblock[0x3fc..].copy_from_slice(&checksum.to_le_bytes());
        disk.write(1024, &superblock);
    }
    if !metadata && ro_compat & 0x10 == 0 {
        return;
    }
    let block = 1024 << le32(&superblock, 0x18).min(6);
    let size = if incompat & 0x80 != 0 {
        usize::from(le16(&superblock, 0xfe)).clamp(32, 1024)
    } else {
        32
    };
    let first = 1024 / block + 1;
    let groups = le32(&superblock, 0x04).div_ceil(le32(&superblock, 0x20).max(1));
    // With meta_bg the other descriptors are elsewhere.
    let most = if incompat & 0x10 != 0 {
        block / size as u64
    } else {
        512
    };
    let uuid = superblock[0x68..0x78].to_vec();
    let seed = if incompat & 0x2000 != 0 {
        le32(&superblock, 0x270)
    } else {
        CRC32C_RAW.checksum(&uuid)
    };
    let clusters = (le32(&superblock, 0x24) / 8) as usize;
    for group in 0..groups.min(most as u32) {
        let at = first * block + u64::from(group) * size as u64;
        let mut descriptor = vec![0; size];
        disk.read(&mut descriptor, at);
        let from_seed = |bytes: &[&[u8]]| {
            let mut digest = CRC32C_RAW.digest_with_initial(seed.reverse_bits());
            bytes.iter().for_each(|bytes| digest.update(bytes));
            digest.finalize()
        };
        // A bitmap that is not initialized has no checksum.
        if metadata && descriptor[0x12] & 2 == 0 {
            let mut bitmap = vec![0; clusters.min(1 << 16)];
            disk.read(&mut bitmap, u64::from(le32(&descriptor, 0)) * block);
            let checksum = from_seed(&[&bitmap]).to_le_bytes();
            descriptor[0x18..0x1a].copy_from_slice(&checksum[..2]);
            if size >= 64 {
                descriptor[0x38..0x3a].copy_from_slice(&checksum[2..]);
            }
        }
        descriptor[0x1e..0x20].fill(0);
        let number = group.to_le_bytes();
        let checksum = if metadata {
            let checksum = from_seed(&[&number, &descriptor]).to_le_bytes();
            [checksum[0], checksum[1]]
        } else {
            let mut digest = CRC16.digest();
            digest.update(&uuid);
            digest.update(&number);
            digest.update(&descriptor[..0x1e]);
            digest.update(&descriptor[0x20..]);
            digest.finalize().to_le_bytes()
        };
        descriptor[0x1e..0x20].copy_from_slice(&checksum);
        disk.write(at, &descriptor);
    }
}

/// Magic, bytes of the structure (0: a block of the filesystem), place of the checksum (Linux, fs/xfs/libxfs/xfs_format.h).
const XFS: &[(&[u8; 4], usize, usize)] = &[
    (b"XFSB", 512, 224),
    (b"XAGF", 512, 216),
    (b"XAGI", 512, 312),
    (b"XAFL", 512, 32),
    (b"AB3B", 0, 52),
    (b"AB3C", 0, 52),
    (b"IAB3", 0, 52),
    (b"FIB3", 0, 52),
    (b"RMB3", 0, 52),
    (b"R3FC", 0, 52),
    (b"BMA3", 0, 64),
];

fn xfs(disk: &mut Disk<'_>, block: u64) {
    let start = block * BLOCK as u64;
    let size = if disk.base().name.ends_with("1k") {
        1024
    } else {
        BLOCK
    };
    for at in (0..BLOCK).step_by(512) {
        let mut bytes = vec![0; size];
        disk.read(&mut bytes, start + at as u64);
        for &(magic, length, place) in XFS {
            let length = if length == 0 { size } else { length };
            if bytes.starts_with(magic) && (length == 512 || at % size == 0) {
                bytes[place..place + 4].fill(0);
                let checksum = CRC32C.checksum(&bytes[..length]);
                bytes[place..place + 4].copy_from_slice(&checksum.to_le_bytes());
                disk.write(start + at as u64, &bytes[..length]);
                break;
            }
        }
        // An inode of version 3.
        if bytes.starts_with(b"IN") && bytes[4] == 3 {
            bytes[100..104].fill(0);
            let checksum = CRC32C.checksum(&bytes[..512]);
            bytes[100..104].copy_from_slice(&checksum.to_le_bytes());
            disk.write(start + at as u64, &bytes[..512]);
        }
    }
}

/// Superblocks and nodes (btrfs on-disk format: `struct btrfs_header`).
fn btrfs(disk: &mut Disk<'_>, patched: &BTreeSet<u64>) {
    const SUPERBLOCK: u64 = 65536;
    let node = if disk.base().name == "btrfs-dup" {
        16384
    } else {
        4096
    };
    let mut identity = [0; 16];
    disk.read(&mut identity, SUPERBLOCK + 32);
    for &block in patched {
        let at = block * BLOCK as u64 / node * node;
        let is_superblock = [SUPERBLOCK, 64 << 20].contains(&at);
        let mut bytes = vec![0; if is_superblock { 4096 } else { node as usize }];
        disk.read(&mut bytes, at);
        if is_superblock || bytes[32..48] == identity {
            let checksum = CRC32C.checksum(&bytes[32..]);
            disk.write(at, &checksum.to_le_bytes());
        }
    }
}

/// The sector with the sum of the boot region (exFAT specification, section 3.4), with sectors of 512 bytes.
fn exfat(disk: &mut Disk<'_>) {
    for start in [0, 12 * 512] {
        let mut region = [0; 11 * 512];
        disk.read(&mut region, start);
        let mut sum = 0_u32;
        for (at, &byte) in region.iter().enumerate() {
            if ![106, 107, 112].contains(&at) {
                sum = sum.rotate_right(1).wrapping_add(byte.into());
            }
        }
        disk.write(start + 11 * 512, &sum.to_le_bytes().repeat(128));
    }
}

/// Update sequences: the last two bytes of each sector of a record are those of the sequence.
fn ntfs(disk: &mut Disk<'_>, block: u64) {
    let start = block * BLOCK as u64;
    for at in (0..BLOCK as u64).step_by(1024) {
        let mut record = [0; 1024];
        disk.read(&mut record, start + at);
        let place = usize::from(le16(&record, 4));
        if record.starts_with(b"FILE") && (40..=500).contains(&place) {
            let sequence = [record[place], record[place + 1]];
            disk.write(start + at + 510, &sequence);
            disk.write(start + at + 1022, &sequence);
        }
    }
}

/// Label, header of the metadata area, and the text (LVM2, lib/format_text/layout.h): CRC-32 with a start of its own.
fn lvm(disk: &mut Disk<'_>) {
    const LVM: Crc<u32> = Crc::<u32>::new(&Algorithm {
        init: 0xf597_a6cf_u32.reverse_bits(),
        xorout: 0,
        ..CRC_32_ISO_HDLC
    });
    let mut label = [0; 512];
    disk.read(&mut label, 512);
    let checksum = LVM.checksum(&label[20..]);
    disk.write(512 + 16, &checksum.to_le_bytes());
    let mut header = [0; 512];
    disk.read(&mut header, 4096);
    let (offset, size) = (le64(&header, 40), le64(&header, 48));
    if offset < 1 << 20 && size < 1 << 20 {
        let mut text = vec![0; size as usize];
        disk.read(&mut text, 4096 + offset);
        header[56..60].copy_from_slice(&LVM.checksum(&text).to_le_bytes());
    }
    let checksum = LVM.checksum(&header[4..]);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    disk.write(4096, &header);
}
