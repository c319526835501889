//! Writing what has been written to the disk early, so that the flush at the end has little left to do.
//!
//! The kernel keeps written pages for up to half a minute. Whoever flushes at the end and has been busy computing until
//! then waits for a disk that was idle all the time.

use std::os::fd::AsFd;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Bytes that are handed to the disk at once: large enough for any disk's best speed.
const BATCH: u64 = 8 << 20;

/// Follows writes to one file or device. Never fails: it only makes things earlier that happen anyway.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteBack {
    start: u64,
    end: u64,
}

impl WriteBack {
    /// To be called after each write, with its place.
    pub fn wrote(&mut self, file: impl AsFd, offset: u64, length: u64) {
        if let Some((start, length)) = self.note(offset, length) {
            let (start, length) = (i64::try_from(start), i64::try_from(length));
            if let (Ok(start), Ok(length)) = (start, length) {
                // Linux begins to write the dirty pages of the range and does not wait; only clean ones are dropped.
                let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                let _ = posix_fadvise(file, start, length, advice);
            }
        }
    }

    /// Adds a write; returns the range, start and length, that is due.
    fn note(&mut self, offset: u64, length: u64) -> Option<(u64, u64)> {
        // Small holes between regions cost nothing: there is nothing dirty in them.
        let near = offset >= self.end && offset - self.end <= BATCH;
        let due = if near {
            self.end = offset.saturating_add(length);
            (self.end - self.start >= BATCH).then_some((self.start, self.end - self.start))
        } else {
            let before = (self.start, self.end - self.start);
            (self.start, self.end) = (offset, offset.saturating_add(length));
            (before.1 > 0).then_some(before)
        };
        if near && due.is_some() {
            self.start = self.end;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_writes_is_handed_over_in_batches() {
        let mut back = WriteBack::default();
        let mut due = Vec::new();
        for megabyte in 0..20 {
            due.extend(back.note(megabyte << 20, 1 << 20));
        }
        assert_eq!(due, [(0, 8 << 20), (8 << 20, 8 << 20)]);
        // Elsewhere: what is left of the run is due.
        assert_eq!(back.note(1 << 40, 1 << 20), Some((16 << 20, 4 << 20)));
        assert_eq!(back.note(0, 1 << 20), Some((1 << 40, 1 << 20)), "backwards");
        assert_eq!(back.note(2 << 20, 1 << 20), None, "over a hole");
        assert_eq!(back.note(3 << 20, 9 << 20), Some((0, 12 << 20)));
    }
}
