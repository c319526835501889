//! A disk of mostly zeros in memory, and changes to it that cost little.

#![allow(
    clippy::cast_possible_truncation,
    reason = "disks of a few hundred MiB"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};

use diskmap::ReadAt;

/// Bytes of the pieces that a disk is kept in.
pub const BLOCK: usize = 4096;

/// Of a disk in `testdata`, the blocks that are not zero.
pub struct Base {
    /// Its name.
    pub name: &'static str,
    bytes: u64,
    /// For every block of the disk: 0, or one more than its place in `blocks`.
    places: Vec<u32>,
    blocks: Vec<[u8; BLOCK]>,
    structures: Vec<u64>,
}

impl Base {
    /// Unpacks a disk.
    ///
    /// # Panics
    /// If it is not packed by zstd.
    pub fn unpack(name: &'static str, packed: &[u8]) -> Self {
        let mut reader = zstd::stream::read::Decoder::new(packed).unwrap();
        let (mut places, mut blocks, mut structures) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let mut block = Vec::with_capacity(BLOCK);
            let read = reader.by_ref().take(BLOCK as u64);
            let length = { read }.read_to_end(&mut block).unwrap();
            if length == 0 {
                break;
            }
            block.resize(BLOCK, 0);
            let block: [u8; BLOCK] = block.try_into().unwrap();
            if block == [0; BLOCK] {
                places.push(0);
            } else {
                // What has one byte only is a file's, or an unused journal.
                if block.iter().any(|&byte| byte != block[0]) {
                    structures.push(places.len() as u64);
                }
                blocks.push(block);
                places.push(u32::try_from(blocks.len()).unwrap());
            }
        }
        Self {
            name,
            bytes: (places.len() * BLOCK) as u64,
            places,
            blocks,
            structures,
        }
    }

    /// The blocks that seem to hold structures, in their order.
    pub fn structures(&self) -> &[u64] {
        &self.structures
    }

    /// Bytes that are not in blocks of zeros.
    pub fn stored_bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK) as u64
    }

    fn block(&self, number: u64) -> Option<&[u8; BLOCK]> {
        let place = self.places.get(usize::try_from(number).ok()?)?;
        self.blocks
            .get(usize::try_from(place.checked_sub(1)?).ok()?)
    }
}

/// A disk with changes.
pub struct Disk<'a> {
    base: &'a Base,
    changed: BTreeMap<u64, Box<[u8; BLOCK]>>,
    read_bytes: Cell<u64>,
}

impl<'a> Disk<'a> {
    /// The disk without changes.
    pub fn new(base: &'a Base) -> Self {
        Self {
            base,
            changed: BTreeMap::new(),
            read_bytes: Cell::new(0),
        }
    }

    /// What has changed here.
    pub fn base(&self) -> &'a Base {
        self.base
    }

    /// Bytes read by [`ReadAt`] until now.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.get()
    }

    /// Fills `buf` from byte `offset`, with zeros behind the end.
    pub fn read(&self, mut buf: &mut [u8], mut offset: u64) {
        while !buf.is_empty() {
            let (number, at) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
            let (piece, rest) = buf.split_at_mut(buf.len().min(BLOCK - at));
            let changed = self.changed.get(&number).map(AsRef::as_ref);
            match changed.or_else(|| self.base.block(number)) {
                Some(block) => piece.copy_from_slice(&block[at..at + piece.len()]),
                None => piece.fill(0),
            }
            offset += piece.len() as u64;
            buf = rest;
        }
    }

    /// Writes bytes; what is behind the end is lost.
    pub fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() && offset < self.base.bytes {
            let (number, at) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK - at));
            let base = self.base;
            let block = self
                .changed
                .entry(number)
                .or_insert_with(|| Box::new(*base.block(number).unwrap_or(&[0; BLOCK])));
            block[at..at + piece.len()].copy_from_slice(piece);
            offset += piece.len() as u64;
            bytes = rest;
        }
    }
}

impl ReadAt for Disk<'_> {
    fn size(&self) -> u64 {
        self.base.bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.base.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_bytes
            .set(self.read_bytes.get() + buf.len() as u64);
        self.read(buf, offset);
        Ok(())
    }
}
