//! The root directory: the page files and the hibernation file of Windows.
//!
//! All index blocks in use are looked through, not only those on the way to a name: that needs
//! no trust in the order of the tree. What an entry names is believed if the file's record is in
//! use in the same generation.
//!
//! Source: ntfs-3g 2022.10.3, `include/ntfs-3g/layout.h` (`INDEX_ROOT`, `INDEX_BLOCK`,
//! `INDEX_ENTRY`, `FILE_NAME_ATTR`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::file::{Contents, Stream, Volume};
use super::record::{Record, unprotect};
use super::{BITMAP, INDEX_ALLOCATION, INDEX_ROOT};
use crate::error::Fault;

const NAME: &str = "NTFS root directory";
/// `$I30`, the index of names.
const I30: [u8; 8] = [b'$', 0, b'I', 0, b'3', 0, b'0', 0];
/// Offsets of index headers in `INDEX_ROOT` and in `INDEX_BLOCK`.
const HEADER_IN_ROOT: usize = 0x10;
const HEADER_IN_BLOCK: usize = 0x18;
/// Offsets in an entry.
const NAME_LENGTH: usize = 0x50;
const NAME_START: usize = 0x52;
const ENTRY_NODE: u16 = 0x0001;
const ENTRY_END: u16 = 0x0002;
/// Bytes of the bitmap of index blocks: enough for 32 GiB of them.
const MAX_BITMAP: usize = 1 << 20;
/// More matches than a directory can have: each name once, and once as a DOS name.
const MAX_FOUND: usize = 64;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    entries_offset: U32,
    index_length: U32,
    allocated_size: U32,
    flags: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    reference: U64,
    length: U16,
    key_length: U16,
    flags: U16,
    reserved: U16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    PageFile,
    Hibernation,
}

/// Names that matter, in lower case.
const SPECIAL: [(&str, Special); 3] = [
    ("hiberfil.sys", Special::Hibernation),
    ("pagefile.sys", Special::PageFile),
    ("swapfile.sys", Special::PageFile),
];

/// What special files there are, with their references; none twice.
pub(super) struct Root {
    pub(super) special: Vec<(Special, u64)>,
    /// The clusters of the directory itself.
    pub(super) clusters: Option<Stream>,
}

/// What the entries of a block or of the index root name.
#[derive(Default)]
struct Named {
    special: Vec<(Special, u64)>,
    /// Blocks further down the tree, by their numbers as they stand there.
    children: Vec<u64>,
}

/// Looks through the directory.
pub(super) fn read(volume: &Volume<'_>, record: &Record) -> Result<Root, Fault> {
    let bad = |problem| volume.damaged(NAME, problem);
    let Some(Contents::Resident(root)) = volume.contents(record, INDEX_ROOT, &I30, NAME)? else {
        return Err(bad("has no index"));
    };
    let block = root
        .get(8..12)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes)
        .filter(|size| size.is_power_of_two() && (512..=65536).contains(size))
        .ok_or_else(|| bad("has a bad index block size"))?;
    let mut named = Named::default();
    entries(&root, HEADER_IN_ROOT, &mut named).ok_or_else(|| bad("has a bad index root"))?;
    let clusters = match volume.contents(record, INDEX_ALLOCATION, &I30, NAME)? {
        None if named.children.is_empty() => None,
        None | Some(Contents::Resident(_)) => return Err(bad("has no index blocks")),
        Some(Contents::Clusters(stream)) => {
            blocks(volume, record, &stream, block, &mut named)?;
            Some(stream)
        }
    };
    let mut special = named.special;
    special.sort_unstable_by_key(|&(_, reference)| reference);
    special.dedup();
    Ok(Root { special, clusters })
}

/// Looks through the index blocks that are in use. All that the tree leads to must be.
fn blocks(
    volume: &Volume<'_>,
    record: &Record,
    stream: &Stream,
    block: u32,
    named: &mut Named,
) -> Result<(), Fault> {
    let bad = |problem| volume.damaged(NAME, problem);
    let size = u64::from(block);
    let bitmap = match volume.contents(record, BITMAP, &I30, NAME)? {
        Some(Contents::Resident(bytes)) => bytes,
        Some(Contents::Clusters(stream)) => {
            let len = usize::try_from(stream.data_size)
                .ok()
                .filter(|&len| len <= MAX_BITMAP)
                .ok_or_else(|| bad("is too large"))?;
            let mut bytes = vec![0; len];
            volume.read(&stream, &mut bytes, 0, NAME)?;
            bytes
        }
        None => return Err(bad("has no bitmap of index blocks")),
    };
    let is_used = |index: u64| {
        let byte = usize::try_from(index / 8).ok();
        let byte = byte.and_then(|at| bitmap.get(at));
        byte.is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    };
    // Blocks smaller than a cluster are numbered in units of 512 bytes.
    let unit = if size < volume.boot.cluster {
        512
    } else {
        volume.boot.cluster
    };
    let check = |named: &mut Named| {
        let is_there = |child: u64| {
            let at = child.checked_mul(unit)?;
            let whole = at.is_multiple_of(size) && at < stream.data_size;
            (whole && is_used(at.checked_div(size)?)).then_some(())
        };
        let all = named.children.drain(..).try_for_each(is_there);
        all.ok_or_else(|| bad("leads to an index block that is not in use"))
    };
    check(named)?;
    // A hole in a hostile file has more blocks than can be counted; the bitmap has an end.
    let bits = u64::try_from(bitmap.len()).unwrap_or(0).saturating_mul(8);
    let count = stream.data_size.checked_div(size).unwrap_or(0).min(bits);
    let mut bytes = vec![0; usize::try_from(block).unwrap_or(usize::MAX)];
    for index in (0..count).filter(|&index| is_used(index)) {
        volume.read(stream, &mut bytes, index.saturating_mul(size), NAME)?;
        unprotect(&mut bytes, *b"INDX").map_err(&bad)?;
        entries(&bytes, HEADER_IN_BLOCK, named).ok_or_else(|| bad("has a bad index block"))?;
        check(named)?;
    }
    Ok(())
}

/// Adds what the entries behind an index header name.
fn entries(bytes: &[u8], header: usize, named: &mut Named) -> Option<()> {
    let bytes = bytes.get(header..)?;
    let (raw, _) = RawHeader::ref_from_prefix(bytes).ok()?;
    let bytes = bytes.get(..usize::try_from(raw.index_length.get()).ok()?)?;
    let mut rest = bytes.get(usize::try_from(raw.entries_offset.get()).ok()?..)?;
    loop {
        let (raw, _) = RawEntry::ref_from_prefix(rest).ok()?;
        let length = usize::from(raw.length.get());
        if length < size_of::<RawEntry>() {
            return None;
        }
        let (entry, later) = rest.split_at_checked(length)?;
        if raw.flags.get() & ENTRY_NODE != 0 {
            let child = entry.last_chunk::<8>()?;
            named.children.push(u64::from_le_bytes(*child));
        }
        if raw.flags.get() & ENTRY_END != 0 {
            return Some(());
        }
        let characters = usize::from(*entry.get(NAME_LENGTH)?);
        let name = entry.get(NAME_START..)?.get(..characters.checked_mul(2)?)?;
        let kind = SPECIAL.iter().find(|(wanted, _)| is_name(name, wanted));
        if let Some(&(_, kind)) = kind {
            let found = (kind, raw.reference.get());
            if !named.special.contains(&found) {
                if named.special.len() >= MAX_FOUND {
                    return None;
                }
                named.special.push(found);
            }
        }
        rest = later;
    }
}

/// Whether a UTF-16LE name is `wanted` but for the case of its letters.
fn is_name(name: &[u8], wanted: &str) -> bool {
    let characters = name.chunks_exact(2).map(|pair| match pair {
        [low, 0] => low.to_ascii_lowercase(),
        _ => 0,
    });
    characters.eq(wanted.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_ntfs_3g() {
        assert_eq!(size_of::<RawHeader>(), 0x10);
        assert_eq!(size_of::<RawEntry>(), 0x10);
    }

    #[test]
    fn names_are_compared_without_case() {
        let wide =
            |name: &str| -> Vec<u8> { name.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        assert!(is_name(&wide("HiberFil.SYS"), "hiberfil.sys"));
        assert!(!is_name(&wide("hiberfil.sy"), "hiberfil.sys"));
        assert!(!is_name(&wide("hiberfil.sysx"), "hiberfil.sys"));
        assert!(!is_name(&wide("\u{168}iberfil.sys"), "hiberfil.sys"));
    }
}
