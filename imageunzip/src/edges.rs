//! The two ends of a disk, where partition tables and boot sectors are.
//!
//! They are wiped before the first write and written after everything else is on the disk, so that firmware never
//! finds something to boot on a disk that is not complete: 1 MiB at each end holds MBR, GPT and backup GPT (with
//! sectors of 4 KiB too), boot loaders in front of the first partition, and the superblock of a filesystem without a
//! partition table: that of Btrfs is at 64 KiB, the labels of ZFS reach to 512 KiB from either end.

/// Bytes held back at each end.
const EDGE: u64 = 1 << 20;

/// Bytes at the very beginning, written after the rest of the edges: MBR, GPT header, boot sector, ext superblock.
const BOOT: usize = 4096;

/// Parts of the disk that are held back until the end.
#[derive(Debug)]
pub(crate) struct Edges {
    /// Offset of the tail; the head is `0..head.len()`.
    tail_at: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Of an imaged disk that is cut off: what stands at its end, for those who read its table, and where.
    cut: Option<(u64, Vec<u8>)>,
}

impl Edges {
    /// The edges of a disk of this many bytes.
    pub(crate) fn new(disk_bytes: u64) -> Self {
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
        let head = disk_bytes.min(EDGE);
        let tail = (disk_bytes - head).min(EDGE);
        Self {
            tail_at: disk_bytes - tail,
            head: vec![0; length(head)],
            tail: vec![0; length(tail)],
            cut: None,
        }
    }

    /// The beginning of a disk of which only the end of the image will tell how large it is.
    pub(crate) fn without_end() -> Self {
        Self {
            tail_at: u64::MAX,
            ..Self::new(EDGE)
        }
    }

    /// The edges of a disk of this many bytes, that gets an image of more.
    pub(crate) fn cut(disk_bytes: u64, image_bytes: u64) -> Self {
        let at = image_bytes.saturating_sub(EDGE).max(disk_bytes);
        let length = usize::try_from(image_bytes - at).unwrap_or(0);
        Self {
            cut: Some((at, vec![0; length])),
            ..Self::new(disk_bytes)
        }
    }

    /// Whether the image's end is cut off.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Where the imaged disk ends, in bytes.
    pub(crate) fn end(&self) -> u64 {
        match &self.cut {
            Some((at, bytes)) => at + bytes.len() as u64,
            None => self.disk_end(),
        }
    }

    fn disk_end(&self) -> u64 {
        self.tail_at.saturating_add(self.tail.len() as u64)
    }

    /// Offset and bytes of both edges. Before anything was kept, they are zeros.
    pub(crate) fn parts(&self) -> [(u64, &[u8]); 2] {
        [(0, &self.head), (self.tail_at, &self.tail)]
    }

    /// The edges in the order in which they are written, with a flush after each: what is looked at first comes last.
    pub(crate) fn last_writes(&self) -> [(u64, &[u8]); 3] {
        let (boot, head) = self.head.split_at(self.head.len().min(BOOT));
        [
            (self.tail_at, &self.tail),
            (boot.len() as u64, head),
            (0, boot),
        ]
    }

    /// Keeps what of `data`, to be written at `offset`, lies in an edge. Returns what does not, with its offset.
    pub(crate) fn keep<'a>(&mut self, offset: u64, data: &'a [u8]) -> (u64, &'a [u8]) {
        let (start, end) = self.middle(offset, data.len() as u64);
        let local = |position: u64| usize::try_from(position - offset).unwrap_or(data.len());
        let (in_head, rest) = data.split_at(local(start));
        let (middle, in_tail) = rest.split_at(local(end) - in_head.len());
        if let Some(head) = usize::try_from(offset)
            .ok()
            .and_then(|at| self.head.get_mut(at..at + in_head.len()))
        {
            head.copy_from_slice(in_head);
        }
        let tail = (self.tail_at, &mut self.tail);
        let cut = self.cut.as_mut().map(|(at, bytes)| (*at, bytes));
        for (at, kept) in [tail].into_iter().chain(cut) {
            overlay(at, kept, end, in_tail);
        }
        (start, middle)
    }

    /// Copies to `bytes`, which stand at `offset`, what of them is kept.
    ///
    /// What is cut off is zeros, but for what is kept of it.
    pub(crate) fn fill(&self, offset: u64, bytes: &mut [u8]) {
        if self.is_cut() {
            let behind = self.disk_end().saturating_sub(offset);
            let behind = usize::try_from(behind).unwrap_or(usize::MAX);
            if let Some(behind) = bytes.get_mut(behind..) {
                behind.fill(0);
            }
        }
        let cut = self.cut.as_ref().map(|(at, kept)| (*at, &kept[..]));
        for (at, kept) in self.parts().into_iter().chain(cut) {
            overlay(offset, bytes, at, kept);
        }
    }

    /// The part of `offset..offset + length` that lies in no edge, as start and end.
    pub(crate) fn middle(&self, offset: u64, length: u64) -> (u64, u64) {
        let end = offset.saturating_add(length);
        let start = offset.max(self.head.len() as u64).min(end);
        (start, end.min(self.tail_at).max(start))
    }
}

/// Copies to `bytes`, which stand at `offset`, what of `from`, which stands at `at`, belongs there.
fn overlay(offset: u64, bytes: &mut [u8], at: u64, from: &[u8]) {
    let start = offset.max(at);
    let end = (offset.saturating_add(bytes.len() as u64)).min(at.saturating_add(from.len() as u64));
    let range = |base: u64| {
        let place = |position: u64| usize::try_from(position - base).ok();
        Some(place(start)?..place(end)?)
    };
    if start < end
        && let Some(to) = range(offset).and_then(|range| bytes.get_mut(range))
        && let Some(from) = range(at).and_then(|range| from.get(range))
    {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writing all of a disk in pieces of any size and order gives the disk, whatever its size.
    #[test]
    fn what_is_kept_and_what_is_not_make_the_whole() {
        let edge = usize::try_from(EDGE).unwrap();
        for size in [
            0,
            1,
            512,
            edge - 1,
            edge,
            edge + 1,
            2 * edge - 1,
            2 * edge,
            2 * edge + 1,
            5 * edge + 77,
        ] {
            let disk: Vec<u8> = (0..size)
                .map(|i| (i / 251 + i * 7).to_le_bytes()[0])
                .collect();
            for piece in [1000, edge, 3 * edge + 5, 10 * edge] {
                let mut edges = Edges::new(size as u64);
                let mut written = vec![0; size];
                let mut pieces: Vec<usize> = (0..size).step_by(piece).collect();
                pieces.reverse();
                for start in pieces {
                    let end = (start + piece).min(size);
                    let (offset, middle) = edges.keep(start as u64, &disk[start..end]);
                    let at = usize::try_from(offset).unwrap();
                    written[at..at + middle.len()].copy_from_slice(middle);
                }
                assert!(
                    written.iter().take(edge).all(|&byte| byte == 0),
                    "the head is held back"
                );
                assert!(
                    written.iter().rev().take(edge).all(|&byte| byte == 0),
                    "the tail is held back"
                );
                let mut shown = written.clone();
                for (number, part) in shown.chunks_mut(piece).enumerate() {
                    edges.fill((number * piece) as u64, part);
                }
                assert!(shown == disk, "overlaid: size {size}, pieces of {piece}");
                for (offset, bytes) in edges.last_writes() {
                    let at = usize::try_from(offset).unwrap();
                    written[at..at + bytes.len()].copy_from_slice(bytes);
                }
                assert!(written == disk, "size {size}, pieces of {piece}");
                let (offset, boot) = edges.last_writes()[2];
                assert_eq!(
                    (offset, boot.len()),
                    (0, size.min(BOOT)),
                    "the last of the last writes"
                );
            }
        }
    }
}
