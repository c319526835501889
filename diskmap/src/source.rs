//! Where the bytes come from: a trait for positioned reads, and a bounded view of one region.
//!
//! The crate opens nothing itself. Every parser gets a [`Window`], which adds the place to an
//! error and refuses to leave the region, whatever the structures on the disk say.

use std::io;

use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Corrupt, Error, Fault};

/// Positioned reads of a disk or an image of one.
pub trait ReadAt {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from byte `offset`, or fails; never a short read.
    ///
    /// # Errors
    /// Whatever the device reports; `UnexpectedEof` past the end.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        u64::try_from(self.len()).unwrap_or(u64::MAX)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..))
            .and_then(|rest| rest.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buf, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

/// The bytes `start..start + len` of a disk. Offsets in calls are relative to `start`.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    disk: &'a dyn ReadAt,
    start: u64,
    len: u64,
}

impl<'a> Window<'a> {
    /// The whole disk.
    pub(crate) fn disk(disk: &'a dyn ReadAt) -> Self {
        Self {
            disk,
            start: 0,
            len: disk.size(),
        }
    }

    /// A region of the disk, cut off at the end of the disk.
    pub(crate) fn part(disk: &'a dyn ReadAt, start: u64, len: u64) -> Self {
        let start = start.min(disk.size());
        Self {
            disk,
            start,
            len: len.min(disk.size().saturating_sub(start)),
        }
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The offset on the disk of byte `offset` of this window.
    pub(crate) fn on_disk(&self, offset: u64) -> u64 {
        self.start.saturating_add(offset)
    }

    /// Whether `len` bytes at `offset` lie inside.
    pub(crate) fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Fills `buf` from `offset`.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        let length = buf.len();
        if !self.contains(offset, u64::try_from(length).unwrap_or(u64::MAX)) {
            return Err(self.fault(offset, Corrupt::PastEnd));
        }
        self.read_raw(buf, offset).map_err(|source| {
            Fault::Io(Error::Io {
                offset: self.on_disk(offset),
                length,
                source,
            })
        })
    }

    /// Fills `buf` from `offset`, which must be inside.
    pub(crate) fn read_raw(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.read_exact_at(buf, self.on_disk(offset))
    }

    /// Reads one on-disk structure.
    pub(crate) fn read_struct<T: FromBytes + IntoBytes>(&self, offset: u64) -> Result<T, Fault> {
        let mut value = T::new_zeroed();
        self.read(value.as_mut_bytes(), offset)?;
        Ok(value)
    }

    /// A finding at byte `offset` of this window.
    pub(crate) fn fault(&self, offset: u64, cause: impl Into<crate::Cause>) -> Fault {
        Fault::Found {
            offset: self.on_disk(offset),
            cause: cause.into(),
        }
    }
}
