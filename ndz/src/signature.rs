//! Signature files (`.sig`): lists of block hashes of an image. They are no cryptographic signatures: who changes an
//! image can write another list.

use md5::Md5;
use sha1::{Digest, Sha1};

use crate::{Error, Region, SECTOR_SIZE};

const MAGIC: [u8; 8] = *b".ndzsig\0";
const VERSION_1: u32 = 0x2003_1107;
const VERSION_2: u32 = 0x2014_0618;
const HEADER_SIZE: usize = 32;
const ENTRY_SIZE: usize = 32;
/// Sectors of a block in version 1.
const BLOCK_1: u32 = 128;
/// Sectors of the largest block (32 MiB).
const BLOCK_MAX: u32 = 65536;
/// Bit of the chunk number of an entry whose data go on in the next chunk.
const SPANS: u32 = 1 << 31;

/// Longest hash, in bytes.
const HASH_SIZE: usize = 20;

/// Which hash a signature file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// MD5, 16 bytes.
    Md5,
    /// SHA-1, 20 bytes.
    Sha1,
}

/// The hash of one block, or of that part of it that is in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The sectors that are hashed. They are in one block.
    pub sectors: Region,
    /// The chunk of the image that holds them.
    pub chunk: u32,
    /// Whether some of them are in the chunk after that.
    pub spans_chunks: bool,
    hash: [u8; HASH_SIZE],
}

/// The content of a signature file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    hash: HashKind,
    block_sectors: u32,
    entries: Vec<Entry>,
}

impl Signature {
    /// Reads a signature file of version 1 or 2, completely.
    ///
    /// # Errors
    /// [`Error::SignatureFile`] or [`Error::SignatureEntry`]: another version or hash, a wrong length, entries that
    /// overlap, are out of order, or lie in two blocks. Signatures of regular files longer than 1 MiB are refused by
    /// that too: the C program numbers their blocks wrongly.
    pub fn parse(file: &[u8]) -> Result<Self, Error> {
        let bad = |fault| Error::SignatureFile { fault };
        let (header, entries) = file
            .split_first_chunk::<HEADER_SIZE>()
            .ok_or_else(|| bad("too short"))?;
        let (words, _) = header.as_chunks::<4>();
        let &[_, _, version, hash, count, block, zero_1, zero_2] = words else {
            return Err(bad("too short"));
        };
        let [version, hash, count, block] = [version, hash, count, block].map(u32::from_le_bytes);
        if !header.starts_with(&MAGIC) {
            return Err(bad("not one: it does not begin with .ndzsig"));
        }
        let block_sectors = match version {
            VERSION_1 => BLOCK_1,
            VERSION_2 => block,
            _ => {
                return Err(bad(
                    "written in another version than 1 or 2: make it again with one of these",
                ));
            }
        };
        if !(1..=BLOCK_MAX).contains(&block_sectors) {
            return Err(bad("its block size is not between 1 and 65536 sectors"));
        }
        let hash = match hash {
            1 => HashKind::Md5,
            2 => HashKind::Sha1,
            _ => return Err(bad("its hash is neither MD5 nor SHA-1")),
        };
        if [zero_1, zero_2] != [[0; 4]; 2] {
            return Err(bad("bytes that must be zero are not"));
        }
        let (table, rest) = entries.as_chunks::<ENTRY_SIZE>();
        if !rest.is_empty() || u32::try_from(table.len()) != Ok(count) {
            return Err(bad("its length does not fit the number of entries"));
        }
        let mut entries = Vec::with_capacity(table.len());
        let mut free_from = 0;
        for (index, bytes) in table.iter().enumerate() {
            let entry = entry(bytes, block_sectors, hash, free_from).map_err(|fault| {
                Error::SignatureEntry {
                    entry: index,
                    fault,
                }
            })?;
            free_from = entry.sectors.end();
            entries.push(entry);
        }
        Ok(Self {
            hash,
            block_sectors,
            entries,
        })
    }

    /// The hash that is used.
    #[must_use]
    pub fn hash_kind(&self) -> HashKind {
        self.hash
    }

    /// Sectors of a block. Blocks are counted from sector 0 of the image.
    #[must_use]
    pub fn block_sectors(&self) -> u32 {
        self.block_sectors
    }

    /// All entries, in ascending order of their sectors, without overlap.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Begins to hash data that are to be compared with an entry.
    #[must_use]
    pub(crate) fn hasher(&self) -> Hasher {
        match self.hash {
            HashKind::Md5 => Hasher::Md5(Md5::new()),
            HashKind::Sha1 => Hasher::Sha1(Sha1::new()),
        }
    }

    /// Whether `data`, all bytes of the entry's sectors, have the entry's hash.
    #[must_use]
    pub fn matches(&self, entry: &Entry, data: &[u8]) -> bool {
        let mut hasher = self.hasher();
        hasher.update(data);
        data.len() as u64 == entry.sectors.sectors * SECTOR_SIZE as u64
            && hasher.finish() == entry.hash
    }
}

impl Entry {
    pub(crate) fn hash(&self) -> &[u8; HASH_SIZE] {
        &self.hash
    }
}

fn entry(
    bytes: &[u8; ENTRY_SIZE],
    block_sectors: u32,
    kind: HashKind,
    free_from: u64,
) -> Result<Entry, &'static str> {
    let [f0, f1, f2, f3, n0, n1, n2, n3, c0, c1, c2, c3, hash @ ..] = *bytes;
    let first = u32::from_le_bytes([f0, f1, f2, f3]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let chunk = u32::from_le_bytes([c0, c1, c2, c3]);
    if sectors == 0 {
        return Err("has no sectors: this is the signature of a regular file, not of an image");
    }
    let region = Region {
        first: first.into(),
        sectors: sectors.into(),
    };
    if region.first < free_from {
        return Err("begins before the end of the one before");
    }
    if sectors > block_sectors - first % block_sectors {
        return Err("lies in more than one block");
    }
    if kind == HashKind::Md5 && hash[16..] != [0; 4] {
        return Err("has a hash that is longer than MD5's");
    }
    Ok(Entry {
        sectors: region,
        chunk: chunk & !SPANS,
        spans_chunks: chunk & SPANS != 0,
        hash,
    })
}

/// A hash that is being computed.
pub(crate) enum Hasher {
    Md5(Md5),
    Sha1(Sha1),
}

impl Hasher {
    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Md5(hasher) => hasher.update(data),
            Self::Sha1(hasher) => hasher.update(data),
        }
    }

    /// The hash, filled up with zeros as in a signature file.
    pub(crate) fn finish(self) -> [u8; HASH_SIZE] {
        match self {
            Self::Sha1(hasher) => hasher.finalize().into(),
            Self::Md5(hasher) => {
                let mut hash = [0; HASH_SIZE];
                for (to, from) in hash.iter_mut().zip(hasher.finalize()) {
                    *to = from;
                }
                hash
            }
        }
    }
}
