//! The last stage of the pipeline: one thread that writes regions, clears free space and counts what has come.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use frisbee_cli::stages::Stages;

use crate::Error;
use crate::install::{Event, FreeSpace, Observer};
use crate::open::{Opened, Parcel, Proof};
use crate::readback::byte_ranges;
use crate::report::Report;
use crate::target::Disk;

/// What was written.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) report: Report,
    /// How each chunk that came has proved itself.
    pub(crate) seen: Vec<Option<Proof>>,
    /// Where the spans end, in bytes.
    pub(crate) end: u64,
    /// Length of the image in bytes, if its last sector is a short one.
    pub(crate) short_end: Option<u64>,
    /// What is to be read back.
    pub(crate) checks: Vec<Check>,
}

/// Data that are to be read back.
#[derive(Debug)]
pub(crate) struct Check {
    /// Where they are, in bytes, in order.
    pub(crate) ranges: Vec<Range<u64>>,
    /// Their BLAKE3.
    pub(crate) hash: blake3::Hash,
}

impl Written {
    /// The proof of a chunk, if it has come.
    pub(crate) fn proof(&self, index: u32) -> Option<Proof> {
        let index = usize::try_from(index).ok()?;
        self.seen.get(index).copied().flatten()
    }
}

/// The last stage.
pub(crate) struct WriteStage {
    pub(crate) sector_size: u64,
    pub(crate) free: FreeSpace,
    /// Whether parts are to be read back.
    pub(crate) verify: bool,
    pub(crate) empty: Sender<Opened>,
    pub(crate) observer: Observer,
    pub(crate) stages: Arc<Stages>,
}

impl WriteStage {
    pub(crate) fn run(
        self,
        disk: &Receiver<Disk>,
        parcels: &Receiver<Parcel>,
    ) -> Result<(Disk, Written), Error> {
        let gone = |_| Error::Thread("there is no disk to write".into());
        let mut disk = disk.recv().map_err(gone)?;
        let mut written = Written::default();
        let mut watch = self.stages.output.stopwatch();
        for parcel in parcels {
            watch.waited_for_input();
            let put = match &parcel {
                Parcel::Part { offset, bytes } => {
                    if self.verify {
                        let ranges = iter::once(*offset..*offset + bytes.len() as u64).collect();
                        let hash = blake3::hash(bytes);
                        written.checks.push(Check { ranges, hash });
                    }
                    disk.put(*offset, bytes)
                }
                Parcel::Chunk(chunk) => self.write(&mut disk, chunk, &mut written),
            };
            watch.worked();
            if let Err(error) = put {
                (self.observer)(Event::Failed);
                return Err(error);
            }
            if let Parcel::Chunk(chunk) = parcel {
                (self.observer)(Event::Written {
                    index: chunk.index,
                    plain_bytes: self.plain_bytes(&chunk),
                });
                let _ = self.empty.try_send(chunk);
            }
        }
        Ok((disk, written))
    }

    /// Bytes of disk data that were written for a chunk.
    fn plain_bytes(&self, chunk: &Opened) -> u64 {
        match chunk.proof {
            Proof::OnDisk => 0,
            _ => chunk.layout.data_sectors() * self.sector_size,
        }
    }

    fn write(&self, disk: &mut Disk, chunk: &Opened, written: &mut Written) -> Result<(), Error> {
        let span = chunk.layout.span;
        let mut rest = &chunk.data[..];
        let mut position = span.first;
        for region in &chunk.layout.regions {
            self.gap(disk, position, region.first)?;
            position = region.end();
            if chunk.proof == Proof::OnDisk || chunk.went_ahead {
                continue;
            }
            let bytes =
                usize::try_from(u64::from(region.sectors) * self.sector_size).unwrap_or(usize::MAX);
            let Some((bytes, behind)) = rest.split_at_checked(bytes) else {
                break;
            };
            disk.put(region.first * self.sector_size, bytes)?;
            rest = behind;
        }
        self.gap(disk, position, span.end())?;
        written.checks.extend(chunk.hash.map(|hash| Check {
            ranges: byte_ranges(&chunk.layout, self.sector_size),
            hash,
        }));

        written.end = written.end.max(span.end().saturating_mul(self.sector_size));
        written.short_end = written.short_end.or(chunk.short_end);
        let index = usize::try_from(chunk.index).unwrap_or(usize::MAX);
        if written.seen.len() <= index {
            written.seen.resize(index + 1, None);
        }
        if written.seen[index].replace(chunk.proof).is_none() {
            match chunk.proof {
                Proof::OnDisk => {
                    let report = &mut written.report;
                    report.kept_chunks += 1;
                    report.kept_bytes += chunk.layout.data_sectors() * self.sector_size;
                }
                _ => written.report.chunks += 1,
            }
            let free = span.sectors - chunk.layout.data_sectors();
            written.report.plain_bytes += self.plain_bytes(chunk);
            written.report.free_bytes += free * self.sector_size;
            let unreadable = &mut written.report.unreadable;
            unreadable.add(&chunk.layout, self.sector_size);
        }
        Ok(())
    }

    fn gap(&self, disk: &mut Disk, first: u64, end: u64) -> Result<(), Error> {
        let sectors = end.saturating_sub(first);
        disk.free(
            self.free,
            first * self.sector_size,
            sectors * self.sector_size,
        )
    }
}
