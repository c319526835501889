//! A volume whose bytes lie in several places of a region, as a source of its own.

use std::io;

use crate::extent::Extent;
use crate::source::{ReadAt, Window};

/// Extents here are in bytes.
pub(crate) struct Pieces<'a> {
    window: Window<'a>,
    /// Offset in the volume and extent in the window, ascending by the former.
    pieces: Vec<(u64, Extent)>,
    size: u64,
}

impl<'a> Pieces<'a> {
    /// `None` if a piece does not lie in the window.
    pub(crate) fn new(window: Window<'a>, extents: &[Extent]) -> Option<Self> {
        let mut size = 0_u64;
        let mut pieces = Vec::with_capacity(extents.len());
        for extent in extents.iter().filter(|extent| extent.count > 0) {
            if !window.contains(extent.first, extent.count) {
                return None;
            }
            pieces.push((size, *extent));
            size = size.checked_add(extent.count)?;
        }
        Some(Self {
            window,
            pieces,
            size,
        })
    }

    /// The byte of the disk behind byte `offset` of the volume; that of the window's start if
    /// there is none.
    pub(crate) fn on_disk(&self, offset: u64) -> u64 {
        let parts = self.parts(offset, offset.saturating_add(1));
        let first = parts.first().map_or(0, |part| part.first);
        self.window.on_disk(first)
    }

    /// The bytes of the disk behind bytes `start..end` of the volume, in the volume's order.
    pub(crate) fn on_disk_all(&self, start: u64, end: u64) -> Vec<Extent> {
        let mut parts = self.parts(start, end);
        for part in &mut parts {
            part.first = self.window.on_disk(part.first);
        }
        parts
    }

    fn parts(&self, start: u64, end: u64) -> Vec<Extent> {
        let from = self
            .pieces
            .partition_point(|(at, piece)| at.saturating_add(piece.count) <= start);
        self.pieces
            .iter()
            .skip(from)
            .take_while(|(at, _)| *at < end)
            .filter_map(|(at, piece)| {
                let skipped = start.saturating_sub(*at);
                let stop = end.saturating_sub(*at).min(piece.count);
                Extent::between(
                    piece.first.saturating_add(skipped),
                    piece.first.saturating_add(stop),
                )
            })
            .collect()
    }
}

impl ReadAt for Pieces<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= self.size)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut rest = buf;
        for part in self.parts(offset, end) {
            let count = usize::try_from(part.count).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(count.min(rest.len()));
            self.window.read_raw(now, part.first)?;
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_the_order_of_the_volume() {
        let disk: Vec<u8> = (0..100).collect();
        let window = Window::part(&disk, 10, 80);
        let extents = [(50, 5), (0, 3), (7, 0), (20, 10)];
        let extents = extents.map(|(first, count)| Extent { first, count });
        let pieces = Pieces::new(window, &extents).unwrap();
        let expected: Vec<u8> = (60..65).chain(10..13).chain(30..40).collect();
        assert_eq!(pieces.size(), 18);
        for start in 0..18 {
            assert_eq!(pieces.on_disk(start as u64), u64::from(expected[start]));
            for end in start..=18 {
                let mut bytes = vec![0; end - start];
                pieces.read_exact_at(&mut bytes, start as u64).unwrap();
                assert_eq!(bytes, expected[start..end]);
            }
        }
        assert!(pieces.read_exact_at(&mut [0; 2], 17).is_err());
        assert!(
            Pieces::new(
                window,
                &[Extent {
                    first: 79,
                    count: 2
                }]
            )
            .is_none()
        );
    }
}
