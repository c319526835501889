//! How much of a disk differs from an image: by the hashes in the image's manifest, without its chunks.

use std::sync::{Mutex, PoisonError};
use std::thread;

use chunkfmt::Layout;
use frisbee_cli::Interrupt;

use crate::base::Indexed;
use crate::scan::Ahead;
use crate::{Disk, Error};

/// What a delta of the disk would hold.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// Chunks of the whole disk.
    pub(crate) chunks: usize,
    /// Bytes of disk data in them.
    pub(crate) plain_bytes: u64,
    /// Index and layout of the chunks that differ, in order.
    pub(crate) differing: Vec<(u32, Layout)>,
}

impl Difference {
    /// Bytes of disk data in the chunks that differ.
    pub(crate) fn bytes(&self, sector_size: u32) -> u64 {
        self.differing
            .iter()
            .map(|(_, layout)| layout.data_sectors() * u64::from(sector_size))
            .sum()
    }
}

/// Compares a disk with an image, on this many threads. `advance` is called with the bytes that are done.
///
/// # Errors
/// If the disk cannot be read, or on a signal.
pub(crate) fn compare(
    plan: Ahead<'_>,
    disk: &Disk,
    base: &Indexed,
    threads: usize,
    interrupt: &Interrupt,
    advance: &(impl Fn(u64) + Sync),
) -> Result<Difference, Error> {
    let plan = Mutex::new(plan);
    let work = || -> Result<Difference, Error> {
        let mut found = Difference::default();
        let mut data = Vec::new();
        loop {
            let piece = plan.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(mut piece) = piece else {
                return Ok(found);
            };
            if interrupt.is_raised() {
                return Err(Error::Interrupted);
            }
            disk.read_piece(&mut piece.layout, &mut data)?;
            found.chunks += 1;
            found.plain_bytes += data.len() as u64;
            if !base.holds(&piece.layout, &data)? {
                found.differing.push((piece.index, piece.layout));
            }
            advance(data.len() as u64);
        }
    };
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut all = Difference::default();
    for result in results {
        let found = result.map_err(|_| Error::Thread("it panicked".into()))??;
        all.chunks += found.chunks;
        all.plain_bytes += found.plain_bytes;
        all.differing.extend(found.differing);
    }
    all.differing.sort_unstable_by_key(|(index, _)| *index);
    Ok(all)
}
