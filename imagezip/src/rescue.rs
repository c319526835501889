//! Sources with sectors that cannot be read: which they are known to be, and what is tried before one is given up.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use diskmap::Extent;
use nix::fcntl::OFlag;

use crate::backing::Backing;

/// How often a sector is read before it is given up.
const TRIES: usize = 4;

/// Bytes that are read at once after a longer read has failed.
const STEP: usize = 64 << 10;

/// Direct reads begin and end at multiples of this, in memory too. No disk has larger sectors.
const ALIGNMENT: usize = 4096;

/// What reads a source around its bad sectors.
#[derive(Debug, Default)]
pub(crate) struct Rescue {
    /// The source past the page cache, which gives up a whole page where one sector is bad.
    direct: OnceLock<Option<File>>,
}

impl Rescue {
    /// Fills `buffer` from `offset` as far as that can be read, with zeros elsewhere, and calls `bad` with offset and
    /// length of what cannot. `buffer` is whole sectors.
    pub(crate) fn read(
        &self,
        path: &Path,
        bytes: &Backing,
        sector_size: usize,
        buffer: &mut [u8],
        offset: u64,
        mut bad: impl FnMut(u64, u64),
    ) {
        for (index, step) in buffer.chunks_mut(STEP).enumerate() {
            let at = offset + (index * STEP) as u64;
            if bytes.read_exact_at(step, at).is_ok() {
                continue;
            }
            for (index, sector) in step.chunks_mut(sector_size.max(1)).enumerate() {
                let at = at + (index * sector_size) as u64;
                let is_read = (0..TRIES).any(|_| self.read_sector(path, bytes, sector, at).is_ok());
                if !is_read {
                    sector.fill(0);
                    bad(at, sector.len() as u64);
                }
            }
        }
    }

    fn read_sector(
        &self,
        path: &Path,
        bytes: &Backing,
        sector: &mut [u8],
        at: u64,
    ) -> io::Result<()> {
        // What lies below a virtual disk is qemu's to read.
        let Some(file) = bytes.file() else {
            return bytes.read_exact_at(sector, at);
        };
        let open = || {
            let flags = OFlag::O_DIRECT.bits();
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
            file.ok()
        };
        let Some(direct) = self.direct.get_or_init(open) else {
            return file.read_exact_at(sector, at);
        };
        let mut room = vec![0; sector.len() + ALIGNMENT];
        let start = room.as_ptr().align_offset(ALIGNMENT);
        let aligned = room
            .get_mut(start..)
            .and_then(|room| room.get_mut(..sector.len()));
        let Some(aligned) = aligned else {
            return file.read_exact_at(sector, at);
        };
        match direct.read_exact_at(aligned, at) {
            Ok(()) => {
                sector.copy_from_slice(aligned);
                Ok(())
            }
            // Filesystems and devices differ in what they let be read directly.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                file.read_exact_at(sector, at)
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads a map file of GNU ddrescue (its manual, "Mapfile structure"): the bytes of a source of `size` bytes that it
/// does not call finished.
///
/// # Errors
/// A sentence about the line that is wrong.
pub(crate) fn parse_map(text: &str, size: u64) -> Result<Vec<Extent>, String> {
    let mut lines = text.lines().enumerate().filter_map(|(index, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (!line.is_empty()).then_some((index + 1, line))
    });
    // The first line is where ddrescue was, and what it did there.
    let is_status = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().and_then(parse_number).is_some()
            && matches!(words.next(), Some("?" | "*" | "/" | "-" | "F" | "G" | "+"))
    };
    if !lines.next().is_some_and(|(_, line)| is_status(line)) {
        return Err("is not a map file of ddrescue".into());
    }
    let mut bad = Vec::new();
    let mut position = None;
    for (number, line) in lines {
        let wrong = || {
            format!(
                "line {number}: '{line}' is not position, size and status of a map file of ddrescue"
            )
        };
        let mut words = line.split_whitespace();
        let (Some(first), Some(count), Some(status), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(wrong());
        };
        let (Some(first), Some(count)) = (parse_number(first), parse_number(count)) else {
            return Err(wrong());
        };
        let before: u64 = position.unwrap_or(0);
        if first < before || (position.is_some() && first != before) {
            return Err(format!("line {number}: does not follow the line before it"));
        }
        let end = first.checked_add(count).ok_or_else(wrong)?;
        add(&mut bad, before, first, size);
        match status {
            "+" => {}
            "?" | "*" | "/" | "-" => add(&mut bad, first, end, size),
            _ => return Err(wrong()),
        }
        position = Some(end);
    }
    add(&mut bad, position.unwrap_or(0), size, size);
    Ok(bad)
}

fn add(list: &mut Vec<Extent>, first: u64, end: u64, size: u64) {
    let end = end.min(size);
    if first >= end {
        return;
    }
    match list.last_mut() {
        Some(last) if last.end() == first => last.count = end - last.first,
        _ => list.push(Extent {
            first,
            count: end - first,
        }),
    }
}

fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<(u64, u64)> {
        let bad = parse_map(text, 0x2000).unwrap();
        bad.iter()
            .map(|extent| (extent.first, extent.count))
            .collect()
    }

    #[test]
    fn what_is_not_finished_is_bad() {
        let text = "# Mapfile. Created by GNU ddrescue version 1.27\n0x00000000     +               1\n\
                    0x00000000  0x00001000  +\n0x00001000  0x00000200  -\n0x00001200  512 *\n0x1400 0x0C00 +\n";
        assert_eq!(parse(text), [(0x1000, 0x400)]);
        assert_eq!(parse("0 ?\n0x400 0x400 +\n"), [(0, 0x400), (0x800, 0x1800)]);
        assert_eq!(parse("0 ?\n"), [(0, 0x2000)]);
        assert_eq!(parse("0 +\n0 0x4000 +\n"), []);
    }

    #[test]
    fn what_is_no_map_file_is_refused() {
        for text in [
            "",
            "# nothing\n",
            "a list\n0 1 +\n",
            "0 +\n0 1\n",
            "0 +\n0 1 + x\n",
            "0 +\n0 1 ok\n",
            "0 +\n0 zz +\n",
            "0 +\n0 10 +\n20 10 +\n",
            "0 +\n0 10 +\n5 10 +\n",
            "0 +\n0xffffffffffffffff 10 +\n",
        ] {
            assert!(parse_map(text, 100).is_err(), "{text}");
        }
    }
}
