//! Where the bytes of a source come from: a device or a file, or a virtual disk that qemu-nbd opens.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::qemu::Qemu;

/// Something with bytes at positions, read by several threads.
#[derive(Debug)]
pub(crate) enum Backing {
    /// A block device or a file.
    File {
        /// Open for reading.
        file: File,
        /// It is a file with holes, which are zeros that need not be read.
        sparse: bool,
    },
    /// A virtual disk.
    Qemu(Qemu),
}

impl Backing {
    /// A device or a file, and its bytes.
    ///
    /// # Errors
    /// If it does not tell how long it is.
    pub(crate) fn of(mut file: File) -> io::Result<(Self, u64)> {
        let size = file.seek(SeekFrom::End(0))?;
        let metadata = file.metadata()?;
        let sparse = metadata.is_file() && metadata.blocks().saturating_mul(512) < size;
        Ok((Self::File { file, sparse }, size))
    }

    /// The device or file, if it is one.
    pub(crate) fn file(&self) -> Option<&File> {
        match self {
            Self::File { file, .. } => Some(file),
            Self::Qemu(_) => None,
        }
    }

    /// Where the first byte from `offset` on is that does not lie in a hole.
    pub(crate) fn data_from(&self, offset: u64) -> u64 {
        let Self::File { file, sparse: true } = self else {
            return offset;
        };
        match seek(file, offset, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => u64::MAX,
            Err(_) => offset,
        }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// If not all of it can be read.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File {
                file,
                sparse: false,
            } => file.read_exact_at(buffer, offset),
            Self::File { file, sparse: true } => read_sparse(file, buffer, offset),
            Self::Qemu(qemu) => qemu.read_exact_at(buffer, offset),
        }
    }
}

/// Reads a file with holes: what lies in one is not asked for.
fn read_sparse(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let end = offset + buffer.len() as u64;
    let (mut at, mut rest) = (offset, buffer);
    while at < end {
        let data = match seek(file, at, Whence::SeekData) {
            Ok(data) => data.min(end),
            // No more data. Where the file ends the zeros do, too.
            Err(Errno::ENXIO) if end <= file.metadata()?.len() => end,
            Err(Errno::ENXIO) => return Err(ErrorKind::UnexpectedEof.into()),
            // Not every filesystem tells.
            Err(_) => return file.read_exact_at(rest, at),
        };
        let (hole, behind) = split(rest, data - at);
        hole.fill(0);
        if data == end {
            break;
        }
        let stop = seek(file, data, Whence::SeekHole).map_or(end, |hole| hole.min(end));
        let (now, later) = split(behind, stop.saturating_sub(data));
        if now.is_empty() {
            // It was made a hole just now.
            return file.read_exact_at(later, data);
        }
        file.read_exact_at(now, data)?;
        (at, rest) = (stop, later);
    }
    Ok(())
}

fn split(bytes: &mut [u8], at: u64) -> (&mut [u8], &mut [u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    bytes.split_at_mut(at.min(bytes.len()))
}

/// Looks for data or a hole. Reading does not use the file's own position, which this moves.
fn seek(file: &File, from: u64, what: Whence) -> Result<u64, Errno> {
    let from = i64::try_from(from).map_err(|_| Errno::ENXIO)?;
    let found = lseek(file.as_fd(), from, what)?;
    u64::try_from(found).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A file with holes reads as read(2) reads it, and not beyond its end.
        #[test]
        fn holes_are_zeros(
            islands in prop::collection::vec((0_u64..400_000, 1_usize..20_000), 0..6),
            from in 0_u64..450_000,
            length in 0_usize..200_000,
        ) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(400_000).unwrap();
            for (at, length) in islands {
                let length = length.min(usize::try_from(400_000 - at).unwrap());
                file.write_all_at(&vec![0xab; length], at).unwrap();
            }
            let (mut theirs, mut ours) = (vec![1; length], vec![2; length]);
            let expected = file.read_exact_at(&mut theirs, from);
            let found = read_sparse(&file, &mut ours, from);
            prop_assert_eq!(expected.is_ok(), found.is_ok());
            if expected.is_ok() {
                prop_assert!(theirs == ours);
            }
        }
    }
}
