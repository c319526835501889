//! What is on a disk, compared with what an image says: by the keyed hashes of its manifest, without its chunks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use chunkfmt::{ChunkSecret, Context, Layout};
use frisbee_cli::{Exit, Failure, Interrupt};

/// Reads what stands in the regions of a chunk from a disk, one after the other.
pub(crate) fn read_regions(
    disk: &File,
    layout: &Layout,
    sector_size: u32,
    data: &mut Vec<u8>,
) -> io::Result<()> {
    let sector_size = u64::from(sector_size);
    let length = layout.data_sectors().saturating_mul(sector_size);
    // An image's chunks hold 2 MiB at most, and a manifest that is signed says the truth.
    data.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
    let mut rest = &mut data[..];
    for region in &layout.regions {
        let bytes = usize::try_from(u64::from(region.sectors) * sector_size).unwrap_or(usize::MAX);
        let (now, later) = rest.split_at_mut(bytes.min(rest.len()));
        disk.read_exact_at(now, region.first * sector_size)?;
        rest = later;
    }
    Ok(())
}

/// Hashes the chunks numbered in `which` on a disk, on all threads, and returns those that are not what the image
/// says, in order. `advance` is called with the bytes that have been compared.
pub(crate) fn differing(
    disk: &File,
    context: &Context,
    secrets: &[ChunkSecret],
    which: &[u32],
    threads: usize,
    interrupt: &Interrupt,
    advance: &(impl Fn(u64) + Sync),
) -> Result<Vec<u32>, Failure> {
    let sector_size = context.header().sector_size;
    let next = AtomicUsize::new(0);
    let compare = || -> Result<Vec<u32>, Failure> {
        let (mut data, mut differing) = (Vec::new(), Vec::new());
        while let Some(&index) = which.get(next.fetch_add(1, Ordering::Relaxed)) {
            interrupt.check("nothing was changed")?;
            let secret = usize::try_from(index)
                .ok()
                .and_then(|index| secrets.get(index));
            let secret =
                secret.ok_or_else(|| Failure::new(Exit::Internal, "there is no such chunk"))?;
            let same = match read_regions(disk, &secret.layout, sector_size, &mut data) {
                Ok(()) => context.plain_hash(&secret.layout, &data)? == secret.plain_hash,
                // The disk ends before the image does.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                Err(error) => {
                    let place = secret.layout.span.first;
                    let message = format!("reading the disk from sector {place} on: {error}");
                    return Err(Failure::new(Exit::Io, message));
                }
            };
            if !same {
                differing.push(index);
            }
            advance(data.len() as u64);
        }
        Ok(differing)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let handles: Vec<_> = (1..threads)
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
