//! What is on a disk, compared with what an image says: by the keyed hashes of its manifest, without its chunks.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use chunkfmt::{ChunkSecret, Context};
use frisbee_cli::{Exit, Failure, Interrupt};

use crate::readback::{Readback, Room};

/// A disk and an image that it is compared with.
pub(crate) struct Comparison<'a> {
    /// The disk.
    pub(crate) disk: &'a Readback,
    /// Opens the image.
    pub(crate) context: &'a Context,
    /// The private part of its manifest.
    pub(crate) secrets: &'a [ChunkSecret],
    /// On so many threads.
    pub(crate) threads: usize,
    /// Ends it.
    pub(crate) interrupt: &'a Interrupt,
    /// A chunk that cannot be read differs; otherwise that is an error.
    pub(crate) unreadable_differs: bool,
}

impl Comparison<'_> {
    /// Hashes the chunks numbered in `which` on the disk, and returns those that are not what the image says, in
    /// order. `advance` is called with the bytes that have been compared.
    ///
    /// # Errors
    /// If the disk cannot be read; on an interrupt.
    pub(crate) fn differing(
        &self,
        which: &[u32],
        advance: &(impl Fn(u64) + Sync),
    ) -> Result<Vec<u32>, Failure> {
        let next = AtomicUsize::new(0);
        let compare = || -> Result<Vec<u32>, Failure> {
            let (mut data, mut room, mut differing) = (Vec::new(), Room::default(), Vec::new());
            while let Some(&index) = which.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.interrupt.check("nothing was changed")?;
                if !self.is_same(index, &mut data, &mut room)? {
                    differing.push(index);
                }
                advance(data.len() as u64);
            }
            Ok(differing)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let handles: Vec<_> = (1..self.threads)
                .filter_map(|_| thread::Builder::new().spawn_scoped(scope, compare).ok())
                .collect();
            let own = compare();
            handles
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .chain([Ok(own)])
                .collect()
        });
        let mut all = Vec::new();
        for result in results {
            all.extend(result.map_err(|_| Failure::new(Exit::Internal, "a thread panicked"))??);
        }
        all.sort_unstable();
        Ok(all)
    }

    fn is_same(&self, index: u32, data: &mut Vec<u8>, room: &mut Room) -> Result<bool, Failure> {
        let place = usize::try_from(index).ok();
        let secret = place.and_then(|place| self.secrets.get(place));
        let missing = || Failure::new(Exit::Internal, "there is no such chunk");
        let ChunkSecret { layout, plain_hash } = secret.ok_or_else(missing)?;
        let sector_size = self.context.header().sector_size;
        match self.disk.read_regions(layout, sector_size, data, room) {
            Ok(()) => Ok(self.context.plain_hash(layout, data)? == *plain_hash),
            // The disk ends before the image does.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(_) if self.unreadable_differs => Ok(false),
            Err(error) => {
                let place = layout.span.first;
                let message = format!("reading the disk from sector {place} on: {error}");
                Err(Failure::new(Exit::Io, message))
            }
        }
    }
}
