//! Reading and writing a disk past the page cache (`O_DIRECT`, open(2)).
//!
//! Through the cache every byte is copied once more, into pages that have to be found, and dropped afterwards.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use chunkfmt::Buffer;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::candidate::Kind;

/// Direct reads begin and end at multiples of this, in memory too. No disk has larger sectors.
pub(crate) const ALIGNMENT: usize = 4096;

/// What is shorter is cheaper to copy into the cache, where it is written along with its neighbours, than to wait for.
const DIRECT_MIN: usize = 128 << 10;

/// Memory that begins and ends at multiples of [`ALIGNMENT`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; ALIGNMENT]);

/// Bytes that begin at a multiple of [`ALIGNMENT`]. Their memory only grows, and is used again.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    pages: Vec<Page>,
    length: usize,
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = self.pages.as_bytes();
        bytes.get(..self.length).unwrap_or(bytes)
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes = self.pages.as_mut_bytes();
        let length = self.length.min(bytes.len());
        &mut bytes[..length]
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Buffer for Aligned {
    fn of_length(&mut self, length: usize) -> &mut [u8] {
        let pages = length.div_ceil(ALIGNMENT).max(self.pages.len());
        self.pages.resize(pages, Page([0; ALIGNMENT]));
        self.length = length;
        self
    }
}

impl Aligned {
    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.length;
        self.of_length(start + bytes.len())[start..].copy_from_slice(bytes);
    }

    /// Leaves `length` bytes from `start` on, or what there is of them.
    pub(crate) fn keep(&mut self, start: usize, length: usize) {
        let start = start.min(self.length);
        let end = start.saturating_add(length).min(self.length);
        self.copy_within(start..end, 0);
        self.length = end - start;
    }
}

/// Opens a file once more, whatever its path names by now, to read or write it past the cache.
///
/// # Errors
/// If its filesystem or device does not allow that.
pub(crate) fn reopen(file: &File, options: &mut OpenOptions) -> io::Result<File> {
    options
        .custom_flags(libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Writes to a device what is long enough and lies at whole sectors. Everything else is the caller's to write.
#[derive(Debug)]
pub(crate) struct DirectWriter {
    /// `None` if it is no device, or once that has refused.
    file: Option<File>,
    sector_size: usize,
}

impl DirectWriter {
    pub(crate) fn new(disk: &File, kind: Kind, sector_size: u32) -> Self {
        // A file is faster written to the cache: its filesystem waits for space and its journal.
        let file = match kind {
            Kind::Device => reopen(disk, OpenOptions::new().write(true)).ok(),
            _ => None,
        };
        Self {
            file,
            // One that does not fit has no whole sectors, and is not written.
            sector_size: usize::try_from(sector_size).unwrap_or(usize::MAX),
        }
    }

    /// Writes the beginning of `bytes`, as much as can be, and returns how much that was.
    ///
    /// # Errors
    /// What the device says, with the bytes that were written before.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<usize, (usize, io::Error)> {
        let Some(file) = &self.file else {
            return Ok(0);
        };
        let whole = bytes.len() - bytes.len() % self.sector_size;
        let is_aligned = offset.is_multiple_of(self.sector_size as u64)
            && bytes.as_ptr().addr().is_multiple_of(self.sector_size);
        if whole < DIRECT_MIN || !is_aligned {
            return Ok(0);
        }
        let mut done = 0;
        while done < whole {
            let rest = bytes.get(done..whole).unwrap_or_default();
            match file.write_at(rest, offset + done as u64) {
                Ok(0) => return Err((done, ErrorKind::WriteZero.into())),
                Ok(more) => done += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Devices differ in what they let be written directly: from now on all goes through the cache.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    self.file = None;
                    break;
                }
                Err(error) => return Err((done, error)),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        OfLength(usize),
        Extend(Vec<u8>),
        Keep(usize, usize),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_usize..20_000).prop_map(Step::OfLength),
            proptest::collection::vec(any::<u8>(), 0..9000).prop_map(Step::Extend),
            (0_usize..20_000, 0_usize..20_000)
                .prop_map(|(start, length)| Step::Keep(start, length)),
            Just(Step::Clear),
        ]
    }

    proptest! {
        #[test]
        fn aligned_bytes_are_as_a_vec(steps in proptest::collection::vec(step(), 0..12)) {
            let (mut aligned, mut plain) = (Aligned::default(), Vec::new());
            for step in steps {
                match step {
                    Step::OfLength(length) => {
                        aligned.of_length(length).fill(7);
                        plain = vec![7; length];
                    }
                    Step::Extend(bytes) => {
                        aligned.extend_from_slice(&bytes);
                        plain.extend_from_slice(&bytes);
                    }
                    Step::Keep(start, length) => {
                        aligned.keep(start, length);
                        plain.drain(..start.min(plain.len()));
                        plain.truncate(length);
                    }
                    Step::Clear => {
                        aligned.clear();
                        plain.clear();
                    }
                }
                prop_assert_eq!(&*aligned, &plain[..]);
                prop_assert!(aligned.as_ptr().addr().is_multiple_of(ALIGNMENT));
            }
        }
    }

    #[test]
    fn what_is_short_or_not_aligned_is_left_to_the_cache() {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        let mut writer = DirectWriter::new(file.as_file(), Kind::Device, 512);
        let Some(direct) = &writer.file else {
            eprintln!("skipped: no direct I/O in this directory");
            return;
        };
        direct.set_len(1 << 20).unwrap();
        let mut bytes = Aligned::default();
        bytes.of_length(DIRECT_MIN + 600).fill(9);
        assert_eq!(writer.write(0, &bytes[..DIRECT_MIN - 512]).unwrap(), 0);
        assert_eq!(writer.write(100, &bytes).unwrap(), 0, "offset");
        assert_eq!(writer.write(0, &bytes[8..]).unwrap(), 0, "memory");
        let whole = bytes.len() / 512 * 512;
        assert_eq!(writer.write(512, &bytes).unwrap(), whole);
        let mut found = vec![0; whole + 1024];
        file.as_file().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found[..512], [0; 512]);
        assert!(found[512..512 + whole].iter().all(|&byte| byte == 9));
        assert_eq!(found[512 + whole..], [0; 512]);
    }
}
