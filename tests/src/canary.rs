//! Dirt: a text that stands in every sector of what is to count as free, and that must not turn up elsewhere.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::Result;
use memchr::memmem::Finder;

/// Bytes of the text; any sector of dirt holds it many times.
const LENGTH: usize = 32;

/// Bytes read or written at a time.
const STEP: usize = 4 << 20;

/// One kind of dirt, found again by its text.
#[derive(Clone, Debug)]
pub struct Canary {
    text: [u8; LENGTH],
}

impl Canary {
    /// The canary with this name, at most 16 characters.
    pub fn new(name: &str) -> Self {
        let mut text = *b"<free space of ................>";
        for (place, letter) in text[15..31].iter_mut().zip(name.bytes()) {
            *place = letter;
        }
        Self { text }
    }

    /// `length` bytes of dirt.
    pub fn dirt(&self, length: usize) -> Vec<u8> {
        self.text.iter().copied().cycle().take(length).collect()
    }

    /// Fills a part of a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn fill(&self, file: &File, range: Range<u64>) -> io::Result<()> {
        let dirt = self.dirt(STEP);
        let mut at = range.start;
        while at < range.end {
            let length = usize::try_from(range.end - at).map_or(STEP, |rest| rest.min(STEP));
            file.write_all_at(&dirt[..length], at)?;
            at += length as u64;
        }
        Ok(())
    }

    /// Offsets of the text in a file, at most `most`.
    ///
    /// # Errors
    /// What the system says.
    pub fn find(&self, file: &File, most: usize) -> Result<Vec<u64>> {
        let finder = Finder::new(&self.text);
        let mut reader: &File = file;
        reader.seek(SeekFrom::Start(0))?;
        let mut window = Vec::with_capacity(STEP + LENGTH);
        let (mut start, mut found) = (0, Vec::new());
        loop {
            let read = reader.by_ref().take(STEP as u64).read_to_end(&mut window)?;
            let room = most - found.len();
            found.extend(
                finder
                    .find_iter(&window)
                    .map(|at| start + at as u64)
                    .take(room),
            );
            if read == 0 || found.len() == most {
                return Ok(found);
            }
            // The text may lie across two windows.
            let done = window.len().saturating_sub(LENGTH - 1);
            window.drain(..done);
            start += done as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn found_wherever_it_is() -> Result<()> {
        let canary = Canary::new("a test");
        for at in [
            0,
            1,
            STEP as u64 - 40,
            STEP as u64 - 5,
            STEP as u64,
            2 * STEP as u64 - 1,
        ] {
            let mut file = tempfile::tempfile()?;
            file.set_len(at)?;
            assert!(canary.find(&file, 9)?.is_empty());
            file.seek(SeekFrom::End(0))?;
            file.write_all(&canary.dirt(LENGTH))?;
            file.set_len(at + 100)?;
            assert_eq!(canary.find(&file, 9)?, [at]);
            assert!(Canary::new("another").find(&file, 9)?.is_empty());
        }
        Ok(())
    }
}
