//! Comparing parts of disks byte by byte.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Bytes compared at a time.
const STEP: u64 = 1 << 20;

/// What of `0..length` is in none of `ranges`, which are sorted and disjoint.
pub fn complement(ranges: &[Range<u64>], length: u64) -> Vec<Range<u64>> {
    let ends = [0].into_iter().chain(ranges.iter().map(|range| range.end));
    let starts = ranges.iter().map(|range| range.start).chain([length]);
    ends.zip(starts)
        .map(|(start, end)| start..end)
        .filter(|range| !range.is_empty())
        .collect()
}

/// Bytes in all of `ranges`.
pub fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

fn steps(ranges: &[Range<u64>]) -> impl Iterator<Item = (u64, usize)> + '_ {
    ranges.iter().flat_map(|range| {
        let end = range.end;
        let starts = (range.start..end).step_by(usize::try_from(STEP).unwrap_or(1));
        starts.map(move |start| (start, usize::try_from(STEP.min(end - start)).unwrap_or(0)))
    })
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| path.display().to_string())
}

/// Checks that two disks have the same bytes in `ranges`.
///
/// # Errors
/// The offset of the first byte that differs.
pub fn same(one: &Path, other: &Path, ranges: &[Range<u64>]) -> Result<()> {
    let (first, second) = (open(one)?, open(other)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (start, length) in steps(ranges) {
        left.resize(length, 0);
        right.resize(length, 0);
        first.read_exact_at(&mut left, start)?;
        second
            .read_exact_at(&mut right, start)
            .with_context(|| format!("{} at {start}", other.display()))?;
        if left != right {
            let at = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
            bail!(
                "{} differs from {} at byte {}",
                other.display(),
                one.display(),
                start + at as u64
            );
        }
    }
    Ok(())
}

/// Checks that a disk is zero in `ranges`.
///
/// # Errors
/// Where it is not.
pub fn zero(disk: &Path, ranges: &[Range<u64>]) -> Result<()> {
    let file = open(disk)?;
    let mut buffer = Vec::new();
    for (start, length) in steps(ranges) {
        buffer.resize(length, 0);
        file.read_exact_at(&mut buffer, start)?;
        let at = buffer.iter().take_while(|&&byte| byte == 0).count();
        ensure!(
            at == length,
            "{} is not zero at byte {}",
            disk.display(),
            start + at as u64
        );
    }
    Ok(())
}

/// The hash of a file's content.
///
/// # Errors
/// What the system says.
pub fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut reader = BufReader::with_capacity(1 << 20, open(path)?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&buffer[..count]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complement_of_nothing_and_of_all() {
        let check =
            |used: &[Range<u64>], rest: &[Range<u64>]| assert_eq!(complement(used, 9), rest);
        check(&[], std::slice::from_ref(&(0..9)));
        check(std::slice::from_ref(&(0..9)), &[]);
        check(&[0..2, 2..3, 5..8], &[3..5, 8..9]);
        assert_eq!(total(&[0..2, 5..9]), 6);
    }
}
