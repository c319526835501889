//! Whether the log of XFS is empty: whether the last thing in it says "unmounted".
//!
//! The log is a ring of 512-byte blocks. The first word of each tells the cycle in which it was
//! written (in the header of a record the second word does), so the head, where writing goes on,
//! is where the cycle drops by one. Linux searches it as [`Log::head`] does and then corrects it
//! for what a crash leaves behind; here anything that would need correction is a log that is not
//! clean. If the record right before the head is an unmount record, there is nothing to replay.
//!
//! Source: Linux `fs/xfs/xfs_log_recover.c` (`xlog_find_head`, `xlog_find_tail`,
//! `xlog_check_unmount_rec`) and `fs/xfs/libxfs/xfs_log_format.h`.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::NAME;
use super::be32;
use super::superblock::Geometry;
use crate::error::{Fault, Incompatible};
use crate::source::Window;

const BLOCK: u64 = 512;
const RECORD_MAGIC: u32 = 0xfeed_babe;
/// Blocks that can be under way at once, eight buffers of 256 KiB: so far a crash can leave holes.
const IN_FLIGHT: u64 = 4096;
/// A record of 256 KiB with its headers.
const MAX_RECORD: u64 = 520;
/// Bytes of a record that one header describes.
const PER_HEADER: u32 = 32768;
const READ_BLOCKS: u64 = 2048;
const UNMOUNT: u8 = 0x20;
const CLIENT_LOG: u8 = 0xaa;
const VERSION_2: u32 = 2;

/// `struct xlog_rec_header`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecord {
    magic: U32,
    cycle: U32,
    version: U32,
    len: U32,
    lsn: U64,
    tail_lsn: U64,
    crc: U32,
    previous: U32,
    operations: U32,
    cycle_data: [U32; 64],
    format: U32,
    uuid: [u8; 16],
    size: U32,
}

/// `struct xlog_op_header`, with the magic number of what follows in an unmount record.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOperation {
    transaction: U32,
    len: U32,
    client: u8,
    flags: u8,
    reserved: [u8; 2],
    magic: [u8; 2],
}

/// Refuses a log that may hold changes. In doubt it does.
pub(super) fn check_clean(window: &Window<'_>, geometry: &Geometry) -> Result<(), Fault> {
    let bytes = u64::from(geometry.log_blocks).saturating_mul(geometry.block_size.into());
    let log = Log {
        window,
        start: geometry.offset(geometry.log_group, geometry.log_first),
        blocks: bytes / BLOCK,
    };
    if log.is_clean(geometry)? {
        return Ok(());
    }
    let kind = Incompatible::NotClean {
        filesystem: NAME,
        what: "has a log that does not end with an unmount",
        remedy: "mount and unmount it, or run xfs_repair",
    };
    Err(window.fault(log.start, kind))
}

struct Log<'a> {
    window: &'a Window<'a>,
    /// Byte of the window.
    start: u64,
    /// A multiple of the blocks in a filesystem block.
    blocks: u64,
}

impl Log<'_> {
    fn is_clean(&self, geometry: &Geometry) -> Result<bool, Fault> {
        let first = self.cycle(0)?;
        let last = self.cycle(self.blocks.saturating_sub(1))?;
        if first == 0 {
            return self.is_zero();
        }
        let Some(head) = self.head(first, last)? else {
            return Ok(false);
        };
        if self.is_regular(0, head, first, last)? {
            return self.ends_with_unmount(head, first, last, geometry);
        }
        // xfs_repair -L and xfs_admin -U fill the log with unmounts, of which the first is padded
        // with zeros. The kernel goes on right behind the last one.
        let padding = self.padding(head)?;
        Ok(padding < head
            && head <= MAX_RECORD
            && self.is_regular(head, head, first, last)?
            && self.ends_with_unmount(padding, first, first, geometry)?
            && self.ends_with_unmount(self.blocks, last, last, geometry)?)
    }

    /// Where the zeros before the head begin.
    fn padding(&self, head: u64) -> Result<u64, Fault> {
        let mut start = head;
        while let Some(before) = start.checked_sub(1) {
            if head.saturating_sub(before) > MAX_RECORD || self.block(before)? != [0; 512] {
                break;
            }
            start = before;
        }
        Ok(start)
    }

    /// The block after the last one that was written, if the cycles at both ends allow one.
    fn head(&self, first: u32, last: u32) -> Result<Option<u64>, Fault> {
        if first == last {
            return Ok(Some(self.blocks));
        }
        if last.checked_add(1) != Some(first) {
            return Ok(None);
        }
        // Like the kernel's search, whatever the blocks between say.
        let mut before = 0_u64;
        let mut from = self.blocks.saturating_sub(1);
        loop {
            let middle = before.midpoint(from);
            if middle == before {
                return Ok(Some(from));
            }
            if self.cycle(middle)? == last {
                from = middle;
            } else {
                before = middle;
            }
        }
    }

    /// Whether the blocks around the head, but for those before `start`, are of the cycle `first`
    /// before it, and `last` behind it.
    fn is_regular(&self, start: u64, head: u64, first: u32, last: u32) -> Result<bool, Fault> {
        let near = IN_FLIGHT.min(self.blocks / 2);
        let ranges = [
            (head.saturating_sub(near), head.saturating_add(near)),
            // What of it comes round at the other end.
            (
                self.blocks.saturating_sub(near.saturating_sub(head)),
                self.blocks,
            ),
            (0, head.saturating_add(near).saturating_sub(self.blocks)),
        ];
        let mut regular = true;
        for (from, end) in ranges {
            self.for_each(from, end.min(self.blocks), |at, block| {
                let expected = if at < head { first } else { last };
                regular &= at < start || cycle(block) == expected;
            })?;
        }
        Ok(regular)
    }

    /// Whether the record before the head is complete and marks an unmount.
    fn ends_with_unmount(
        &self,
        head: u64,
        first: u32,
        last: u32,
        geometry: &Geometry,
    ) -> Result<bool, Fault> {
        let mut header = None;
        for back in 1..=MAX_RECORD.min(self.blocks) {
            let at = self.wrap(head.saturating_add(self.blocks).saturating_sub(back));
            if be32(&self.block(at)?, 0) == RECORD_MAGIC {
                header = Some(at);
                break;
            }
        }
        let Some(at) = header else {
            return Ok(false);
        };
        let record: RawRecord = self.window.read_struct(self.offset(at))?;
        let version = record.version.get();
        let (len, size) = (record.len.get(), record.size.get());
        let is_v2 = geometry.features.has_log_v2() && version & VERSION_2 != 0;
        let headers = if is_v2 && size > PER_HEADER {
            u64::from(size.div_ceil(PER_HEADER))
        } else {
            1
        };
        let data = self.wrap(at.saturating_add(headers));
        let end = at
            .saturating_add(headers)
            .saturating_add(u64::from(len).div_ceil(BLOCK));
        // Behind the head, counted round, stands the cycle before.
        let cycle = if at < head { first } else { last };
        let is_sound = (version == 1 || version == VERSION_2)
            && record.cycle.get() == cycle
            && record.lsn.get() == u64::from(cycle) << 32 | at
            && record.uuid == geometry.uuid
            && len > 0
            && self.wrap(end) == self.wrap(head)
            && record.operations.get() == 1;
        if !is_sound {
            return Ok(false);
        }
        let operation: RawOperation = self.window.read_struct(self.offset(data))?;
        Ok(operation.client == CLIENT_LOG
            && operation.flags & UNMOUNT != 0
            // In the byte order of the machine that wrote it.
            && [*b"nU", *b"Un"].contains(&operation.magic))
    }

    /// Whether nothing was ever written. The kernel takes the first block for proof.
    fn is_zero(&self) -> Result<bool, Fault> {
        let mut zero = true;
        self.for_each(0, self.blocks, |_, block| {
            zero &= block.iter().all(|&byte| byte == 0);
        })?;
        Ok(zero)
    }

    /// Calls `look` with each of the blocks `from..end`.
    fn for_each(&self, from: u64, end: u64, mut look: impl FnMut(u64, &[u8])) -> Result<(), Fault> {
        let mut buffer = Vec::new();
        let mut at = from;
        while at < end {
            let count = end.saturating_sub(at).min(READ_BLOCKS);
            let bytes = usize::try_from(count.saturating_mul(BLOCK)).unwrap_or_default();
            buffer.resize(bytes, 0);
            self.window.read(&mut buffer, self.offset(at))?;
            for (block, number) in buffer.chunks_exact(512).zip(at..) {
                look(number, block);
            }
            at = at.saturating_add(count);
        }
        Ok(())
    }

    fn cycle(&self, at: u64) -> Result<u32, Fault> {
        Ok(cycle(&self.block(at)?))
    }

    fn block(&self, at: u64) -> Result<[u8; 512], Fault> {
        self.window.read_struct(self.offset(at))
    }

    fn offset(&self, at: u64) -> u64 {
        self.start.saturating_add(at.saturating_mul(BLOCK))
    }

    fn wrap(&self, at: u64) -> u64 {
        at.checked_rem(self.blocks).unwrap_or_default()
    }
}

/// The cycle that a block of the log was written in.
fn cycle(block: &[u8]) -> u32 {
    match be32(block, 0) {
        RECORD_MAGIC => be32(block, 4),
        word => word,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layout_is_that_of_the_kernel() {
        assert_eq!(offset_of!(RawRecord, len), 12);
        assert_eq!(offset_of!(RawRecord, operations), 40);
        assert_eq!(offset_of!(RawRecord, uuid), 304);
        assert_eq!(size_of::<RawRecord>(), 324);
        assert_eq!(offset_of!(RawOperation, flags), 9);
        assert_eq!(offset_of!(RawOperation, magic), 12);
    }
}
