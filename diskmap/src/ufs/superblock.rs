//! The superblock of UFS1 and UFS2: where it is, what it says, and whether it makes sense.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use crc::{CRC_32_ISCSI, Crc};
use zerocopy::FromBytes;
use zerocopy::byteorder::{BigEndian, ByteOrder, LittleEndian};

use super::raw::{HASH_OFFSET, RawSuperblock, Sum};
use super::{DIRTY, NAME, not_clean, unsupported};
use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::Extent;
use crate::filesystem::text_field;
use crate::source::Window;

/// `SBLOCKSEARCH`.
const LOCATIONS: [u64; 4] = [65536, 8192, 0, 262_144];
const MAGIC_OFFSET: u64 = 1372;
const MAGIC_UFS1: u32 = 0x0001_1954;
const MAGIC_UFS2: u32 = 0x1954_0119;
/// NetBSD: UFS2 with extended attributes of another layout.
const MAGIC_UFS2EA: u32 = 0x1901_2038;
/// FreeBSD: `newfs` did not finish.
const MAGIC_UNFINISHED: u32 = 0x1996_0408;
const MAX_SIZE: u32 = 8192;
/// `calculate_crc32c(~0, ...)`: without the final inversion.
pub(super) const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
const STRUCTURE: &str = "UFS superblock";

const FLAG_UNCLEAN: u32 = 0x01;
const FLAG_SOFTDEP: u32 = 0x02;
const FLAG_NEEDS_FSCK: u32 = 0x04;
const FLAG_SUJ: u32 = 0x08;
const FLAG_ACLS: u32 = 0x10;
const FLAG_MULTILABEL: u32 = 0x20;
const FLAG_GJOURNAL: u32 = 0x40;
const FLAG_UPDATED: u32 = 0x80;
/// NFSv4 ACLs to FreeBSD, a journal that must be replayed to NetBSD, which clears it on unmount.
const FLAG_WAPBL: u32 = 0x100;
/// Check hashes to FreeBSD, quotas in files to NetBSD.
const FLAG_CHECK_HASHES: u32 = 0x200;
const FLAG_TRIM: u32 = 0x400;
const FLAG_NFS4_ACLS: u32 = 0x800;
const FLAGS_HARMLESS: u32 = FLAG_SOFTDEP
    | FLAG_ACLS
    | FLAG_MULTILABEL
    | FLAG_UPDATED
    | FLAG_CHECK_HASHES
    | FLAG_TRIM
    | FLAG_NFS4_ACLS;
const HASH_SUPERBLOCK: u32 = 0x01;
const HASH_GROUPS: u32 = 0x02;
const HASHES_KNOWN: u32 = 0x1f;

/// A superblock that makes sense. All places are in fragments.
pub(super) struct Superblock {
    pub(super) version: u8,
    pub(super) is_big_endian: bool,
    pub(super) block_size: u32,
    pub(super) fragment_size: u32,
    /// Fragments in a block: 1, 2, 4 or 8.
    pub(super) fragments_per_block: u32,
    /// Fragments of the filesystem.
    pub(super) size: u64,
    pub(super) groups: u64,
    pub(super) fragments_per_group: u32,
    pub(super) inodes_per_group: u32,
    /// The copy of the superblock, the group's own block and the first data in a group.
    copy: u64,
    group_block: u64,
    first_data: u64,
    /// UFS1: what groups are shifted by, and the mask of their numbers.
    shift: (u64, u64),
    pub(super) group_bytes: u32,
    /// Whether groups carry a check hash.
    pub(super) groups_are_hashed: bool,
    /// Whether groups have a map of their free blocks, too.
    pub(super) has_cluster_maps: bool,
    /// The summaries of the groups.
    pub(super) summary: Extent,
    pub(super) total: Sum,
    pub(super) label: Option<String>,
    pub(super) id: [u32; 2],
    pub(super) flags: u32,
}

impl Superblock {
    pub(super) fn fragment_bytes(&self) -> u64 {
        self.fragment_size.into()
    }

    /// The fragments of a group, of which the last one may have fewer.
    pub(super) fn group(&self, number: u64) -> Extent {
        let per_group = u64::from(self.fragments_per_group);
        let first = number.saturating_mul(per_group);
        let count = self.size.saturating_sub(first).min(per_group);
        Extent { first, count }
    }

    fn group_start(&self, number: u64) -> u64 {
        let (offset, mask) = self.shift;
        let shift = offset.saturating_mul(number & !mask);
        self.group(number).first.saturating_add(shift)
    }

    /// The fragment that describes a group.
    pub(super) fn group_block(&self, number: u64) -> u64 {
        self.group_start(number).saturating_add(self.group_block)
    }

    /// The fragments of a group that hold the copy of the superblock, the group's block and the
    /// inodes. In the first group also what lies before.
    pub(super) fn metadata(&self, number: u64) -> Extent {
        let start = self.group_start(number);
        let first = if number == 0 {
            0
        } else {
            start.saturating_add(self.copy)
        };
        Extent {
            first,
            count: start.saturating_add(self.first_data).saturating_sub(first),
        }
    }

    pub(super) fn features(&self) -> Vec<String> {
        let names = [
            (FLAG_SOFTDEP, "soft-updates"),
            (FLAG_ACLS, "acls"),
            (FLAG_MULTILABEL, "multilabel"),
            (FLAG_TRIM, "trim"),
        ];
        let order = if self.is_big_endian {
            "big-endian"
        } else {
            "little-endian"
        };
        let set = names.iter().filter(|(flag, _)| self.flags & flag != 0);
        [format!("UFS{}", self.version), order.to_owned()]
            .into_iter()
            .chain(set.map(|&(_, name)| name.to_owned()))
            .collect()
    }
}

/// Whether a superblock, also one that is not supported, seems to stand in one of the places.
pub(crate) fn detect(window: &Window<'_>) -> Result<Option<u64>, Fault> {
    for location in LOCATIONS {
        let at = location.saturating_add(MAGIC_OFFSET);
        if !window.contains(at, 4) {
            continue;
        }
        let magic: [u8; 4] = window.read_struct(at)?;
        let either = [u32::from_le_bytes(magic), u32::from_be_bytes(magic)];
        let known = [MAGIC_UFS1, MAGIC_UFS2, MAGIC_UFS2EA, MAGIC_UNFINISHED];
        if either.iter().any(|magic| known.contains(magic)) {
            return Ok(Some(location));
        }
    }
    Ok(None)
}

/// Reads the one superblock that says of itself that it stands where it does; the others are the
/// copies in the groups.
pub(super) fn read(window: &Window<'_>) -> Result<Superblock, Fault> {
    let mut found: Option<Superblock> = None;
    for location in LOCATIONS {
        if !window.contains(location, MAX_SIZE.into()) {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(MAX_SIZE).unwrap_or(0)];
        window.read(&mut bytes, location)?;
        let one = match parse::<LittleEndian>(window, location, &bytes)? {
            Some(one) => Some(one),
            None => parse::<BigEndian>(window, location, &bytes)?,
        };
        if one.is_some() && found.is_some() {
            let kind = Corrupt::Structure {
                structure: STRUCTURE,
                problem: "stands in two places",
            };
            return Err(window.fault(location, kind));
        }
        found = found.or(one);
    }
    found.ok_or_else(|| {
        unsupported(
            window,
            0,
            "has no superblock in its place, or one that is not known",
        )
    })
}

fn parse<O: ByteOrder>(
    window: &Window<'_>,
    location: u64,
    bytes: &[u8],
) -> Result<Option<Superblock>, Fault> {
    let Ok((raw, _)) = RawSuperblock::<O>::ref_from_prefix(bytes) else {
        return Ok(None);
    };
    let version = match raw.magic.get() {
        MAGIC_UFS1 => 1,
        MAGIC_UFS2 => 2,
        // Whatever stands in the other places may be older.
        MAGIC_UFS2EA => {
            let what = "has extended attributes of another layout";
            return Err(unsupported(window, location, what));
        }
        MAGIC_UNFINISHED => return Err(unsupported(window, location, "was not made completely")),
        _ => return Ok(None),
    };
    // The copy in the first group of a filesystem with large blocks stands where UFS2 has its own.
    if raw.sblockloc.get() != location && raw.old_flags & 0x80 != 0 {
        return Ok(None);
    }
    if version == 1 && raw.old_flags & 0x80 == 0 {
        return Err(unsupported(
            window,
            location,
            "has a superblock of the time before UFS2",
        ));
    }
    if version == 1 && location > 8192 {
        return Err(unsupported(
            window,
            location,
            "has its superblock elsewhere",
        ));
    }
    check_state(window, location, raw)?;
    let hashes = check_hashes(window, location, raw, bytes)?;
    // The magic number was found by reading in this order.
    let is_big_endian = bytes.get(1372..1376) == Some(&raw.magic.get().to_be_bytes()[..]);
    let superblock = check_geometry(window, location, raw, version, hashes, is_big_endian)?;
    Ok(Some(superblock))
}

/// Refuses what was not unmounted cleanly, and features that say more than the bitmaps.
fn check_state<O: ByteOrder>(
    window: &Window<'_>,
    location: u64,
    raw: &RawSuperblock<O>,
) -> Result<(), Fault> {
    let flags = raw.flags.get();
    if raw.clean != 1 || flags & (FLAG_UNCLEAN | FLAG_NEEDS_FSCK) != 0 {
        return Err(not_clean(window, location, DIRTY));
    }
    if raw.pendingblocks.get() != 0 || raw.pendinginodes.get() != 0 {
        return Err(not_clean(window, location, "has blocks yet to be freed"));
    }
    if flags & FLAG_SUJ != 0 {
        return Err(unsupported(window, location, "has a soft updates journal"));
    }
    if flags & FLAG_GJOURNAL != 0 {
        return Err(unsupported(window, location, "is journaled by gjournal"));
    }
    let mut allowed = FLAGS_HARMLESS;
    if flags & FLAG_CHECK_HASHES != 0 && raw.metackhash.get() & HASH_SUPERBLOCK != 0 {
        // FreeBSD for certain.
        allowed |= FLAG_WAPBL;
    }
    let bits = flags & !allowed;
    if bits != 0 {
        let kind = Incompatible::Features {
            filesystem: NAME,
            set: "fs_flags",
            bits: bits.into(),
        };
        return Err(window.fault(location, kind));
    }
    Ok(())
}

/// Checks the superblock's hash. Returns which hashes there are.
fn check_hashes<O: ByteOrder>(
    window: &Window<'_>,
    location: u64,
    raw: &RawSuperblock<O>,
    bytes: &[u8],
) -> Result<u32, Fault> {
    if raw.flags.get() & FLAG_CHECK_HASHES == 0 {
        return Ok(0);
    }
    let hashes = raw.metackhash.get();
    if hashes & !HASHES_KNOWN != 0 {
        let kind = Incompatible::Features {
            filesystem: NAME,
            set: "fs_metackhash",
            bits: (hashes & !HASHES_KNOWN).into(),
        };
        return Err(window.fault(location, kind));
    }
    if hashes & HASH_SUPERBLOCK != 0 {
        let len = usize::try_from(raw.sbsize.get()).unwrap_or(usize::MAX);
        let hash = bytes
            .get(..len)
            .and_then(|bytes| hash_without(bytes, HASH_OFFSET));
        if hash != Some(raw.ckhash.get()) {
            let kind = Corrupt::Checksum {
                structure: "UFS superblock at byte",
                number: location,
            };
            return Err(window.fault(location, kind));
        }
    }
    Ok(hashes)
}

/// The check hash of a structure whose own hash of four bytes at `offset` counts as zero.
pub(super) fn hash_without(bytes: &[u8], offset: usize) -> Option<u32> {
    let (before, rest) = bytes.split_at_checked(offset)?;
    let after = rest.get(4..)?;
    let mut digest = CRC.digest();
    digest.update(before);
    digest.update(&[0; 4]);
    digest.update(after);
    Some(!digest.finalize())
}

fn check_geometry<O: ByteOrder>(
    window: &Window<'_>,
    location: u64,
    raw: &RawSuperblock<O>,
    version: u8,
    hashes: u32,
    is_big_endian: bool,
) -> Result<Superblock, Fault> {
    let bad = |field, value: u64| {
        window.fault(
            location,
            Corrupt::Field {
                structure: STRUCTURE,
                field,
                value,
            },
        )
    };
    let require = |fits: bool, field, value: u64| {
        if fits { Ok(()) } else { Err(bad(field, value)) }
    };
    let (bsize, fsize, frag) = (raw.bsize.get(), raw.fsize.get(), raw.frag.get());
    require(
        bsize.is_power_of_two() && (4096..=65536).contains(&bsize),
        "fs_bsize",
        bsize.into(),
    )?;
    require(
        fsize.is_power_of_two() && (512..=bsize).contains(&fsize),
        "fs_fsize",
        fsize.into(),
    )?;
    require(
        frag <= 8 && fsize.checked_mul(frag) == Some(bsize),
        "fs_frag",
        frag.into(),
    )?;
    let shifts = [
        (raw.bshift.get(), bsize),
        (raw.fshift.get(), fsize),
        (raw.fragshift.get(), frag),
    ];
    let shifts_fit = shifts
        .iter()
        .all(|&(shift, size)| u32::try_from(shift) == Ok(size.trailing_zeros()));
    require(shifts_fit, "fs_bshift, fs_fshift or fs_fragshift", 0)?;
    let sbsize = raw.sbsize.get();
    require(
        (1376..=MAX_SIZE).contains(&sbsize),
        "fs_sbsize",
        sbsize.into(),
    )?;

    let (size, summary, total) = sizes(window, location, raw, version)?;
    let bytes = size.saturating_mul(fsize.into());
    if bytes > window.len() {
        let kind = Corrupt::LargerThanPartition {
            filesystem: NAME,
            bytes,
            partition: window.len(),
        };
        return Err(window.fault(location, kind));
    }
    let (fpg, ipg) = (raw.fpg.get(), raw.ipg.get());
    require(
        fpg != 0 && fpg.is_multiple_of(frag) && fpg <= bsize.saturating_mul(8),
        "fs_fpg",
        fpg.into(),
    )?;
    let groups = size.div_ceil(fpg.into());
    require(
        groups != 0 && u64::from(raw.ncg.get()) == groups,
        "fs_ncg",
        raw.ncg.get().into(),
    )?;

    // In a group: the superblock's copy, the group's block, inodes, data.
    let fragments = |bytes: u64| bytes.div_ceil(fsize.into());
    let (copy, group_block) = (u64::from(raw.sblkno.get()), u64::from(raw.cblkno.get()));
    let (inodes, data) = (u64::from(raw.iblkno.get()), u64::from(raw.dblkno.get()));
    let superblock_end = fragments(location.saturating_add(sbsize.into()));
    require(superblock_end <= group_block, "fs_cblkno", group_block)?;
    require(
        copy.saturating_add(fragments(sbsize.into())) <= group_block,
        "fs_sblkno",
        copy,
    )?;
    let cgsize = raw.cgsize.get();
    require(cgsize <= bsize && cgsize >= 168, "fs_cgsize", cgsize.into())?;
    require(
        group_block.saturating_add(fragments(cgsize.into())) <= inodes,
        "fs_iblkno",
        inodes,
    )?;
    let inode_size: u32 = if version == 1 { 128 } else { 256 };
    require(
        raw.inopb.get().checked_mul(inode_size) == Some(bsize),
        "fs_inopb",
        raw.inopb.get().into(),
    )?;
    let inode_bytes = u64::from(ipg).saturating_mul(inode_size.into());
    require(
        ipg != 0 && ipg <= bsize.saturating_mul(8),
        "fs_ipg",
        ipg.into(),
    )?;
    require(
        inodes.saturating_add(fragments(inode_bytes)) <= data && data <= u64::from(fpg),
        "fs_dblkno",
        data,
    )?;
    let superblock = Superblock {
        version,
        is_big_endian,
        block_size: bsize,
        fragment_size: fsize,
        fragments_per_block: frag,
        size,
        groups,
        fragments_per_group: fpg,
        inodes_per_group: ipg,
        copy,
        group_block,
        first_data: data,
        shift: if version == 1 {
            (raw.old_cgoffset.get().into(), raw.old_cgmask.get().into())
        } else {
            (0, 0)
        },
        group_bytes: cgsize,
        groups_are_hashed: hashes & HASH_GROUPS != 0,
        has_cluster_maps: raw.contigsumsize.get() > 0,
        summary,
        total,
        label: text_field(&raw.volname),
        id: [raw.id[0].get(), raw.id[1].get()],
        flags: raw.flags.get(),
    };
    // The summaries are data of the filesystem, one entry for each group.
    let needed = fragments(groups.saturating_mul(16));
    require(
        summary.count == needed,
        "fs_cssize",
        raw.cssize.get().into(),
    )?;
    require(
        summary.first >= data && summary.end() <= size,
        "fs_csaddr",
        summary.first,
    )?;
    Ok(superblock)
}

/// Fragments, the place of the summaries and the totals. UFS1 has them twice.
fn sizes<O: ByteOrder>(
    window: &Window<'_>,
    location: u64,
    raw: &RawSuperblock<O>,
    version: u8,
) -> Result<(u64, Extent, Sum), Fault> {
    let size = raw.size.get();
    let csaddr = raw.csaddr.get();
    let total = raw.cstotal.to_sum();
    if version == 1 {
        let old = (
            u64::from(raw.old_size.get()),
            u64::from(raw.old_csaddr.get()),
        );
        if old != (size, csaddr) || raw.old_cstotal.to_sum() != total {
            let kind = Corrupt::Structure {
                structure: STRUCTURE,
                problem: "contradicts its own older fields",
            };
            return Err(window.fault(location, kind));
        }
    }
    let fsize = raw.fsize.get();
    let summary = Extent {
        first: csaddr,
        count: u64::from(raw.cssize.get().div_ceil(fsize.max(1))),
    };
    Ok((size, summary, total))
}
