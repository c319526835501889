//! Imaging a disk, and comparing one with an image.

use std::path::Path;

use chunkfmt::{CHUNK_SIZE_MAX, ImageHeader};
use diskmap::{Contents, DiskMap, ReadAt};
use frisbee_cli::progress::{Events, Progress};
use frisbee_cli::{Exit, Failure, Interrupt, say, units};
use serde_json::json;

use super::run::Run;
use super::{Cli, DiskShape, now};
use crate::base::{Chain, Indexed};
use crate::budget::Budget;
use crate::compare::{Difference, compare};
use crate::inputs::Access;
use crate::output::Output;
use crate::protect::Protected;
use crate::scan::{Ahead, DiskPlan, Scanner};
use crate::{Disk, Plan};

impl Cli {
    /// Makes an image of a disk, or a delta.
    pub(super) fn make_from_disk(
        &self,
        image: &Path,
        access: Option<&Access>,
        protected: &Protected,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let chain = self.open_chain(access)?;
        let (disk, map) = self.open_disk(chain.as_ref())?;
        let base = Self::nearest(chain.as_ref(), map.sector_size, map.disk_sectors)?;
        let shape = DiskShape {
            sector_size: map.sector_size,
            sectors: map.disk_sectors,
            chunk_size: self.choose_chunk_size(base),
        };
        let epoch = self.epoch(now(), base)?;
        let name = self.name_after(image);
        let header = self.describe(protected, name, epoch, &shape, base)?;
        let budget = self.budget(protected, shape.chunk_size, 0)?;
        let sealer = protected.sealer(header)?;
        let output = self.open_output(image, protected.key.is_none())?;
        let progress = self.start_disk(&disk, &map, sealer.header(), &output);
        self.warn(&progress, &map);
        let makers = (0..budget.threads)
            .map(|_| {
                Ok(Scanner {
                    disk: &disk,
                    sealer: sealer.for_thread()?,
                    base,
                })
            })
            .collect::<Result<_, Failure>>()?;
        let run = Run {
            sealer: &sealer,
            buffers: budget.buffers,
            output,
            progress: &progress,
            interrupt,
            disk: Some(&disk),
        };
        run.write(Ahead::new(&disk, plan(&map, shape.chunk_size)), makers)
    }

    /// Says how much of a disk differs from an image.
    pub(super) fn compare(&self, access: &Access, interrupt: &Interrupt) -> Result<(), Failure> {
        let chain = self.open_chain(Some(access))?;
        let (disk, map) = self.open_disk(chain.as_ref())?;
        let base = Self::nearest(chain.as_ref(), map.sector_size, map.disk_sectors)?;
        let missing = || Failure::new(Exit::Usage, "--compare needs a --base");
        let base = base.ok_or_else(missing)?;
        let header = &base.index.header;
        let saved = saved_bytes(&map);
        let fields = json!({
            "source": self.source.display().to_string(), "base": base.name, "uuid": header.uuid().to_string(),
            "epoch": header.epoch(), "disk_bytes": disk.size(), "sector_size": map.sector_size, "total_bytes": saved,
        });
        let progress = Progress::start(self.events(), saved, fields);
        self.warn(&progress, &map);
        let chunk_size = self.choose_chunk_size(Some(base));
        let threads = Budget::readers(self.memory, self.threads(), u64::from(chunk_size))?;
        let found = compare(
            Ahead::new(&disk, plan(&map, chunk_size)),
            &disk,
            base,
            threads,
            interrupt,
            &|bytes| progress.advance(bytes),
        );
        match found {
            Ok(found) => {
                self.report_difference(&progress, base, &found);
                Ok(())
            }
            Err(error) => Err(progress.fail(error.into())),
        }
    }

    fn report_difference(&self, progress: &Progress, base: &Indexed, found: &Difference) {
        let header = &base.index.header;
        let bytes = found.bytes(header.sector_size);
        let line = format!(
            "{}: {} of {} chunks differ from {} (epoch {}): {} of {}",
            self.source.display(),
            found.differing.len(),
            found.chunks,
            base.name,
            header.epoch(),
            units::size(bytes),
            units::size(found.plain_bytes),
        );
        let differing: Vec<_> = found
            .differing
            .iter()
            .map(|(index, layout)| {
                let regions = layout.regions.iter();
                let ranges: Vec<_> = regions
                    .map(|region| json!([region.first, region.sectors]))
                    .collect();
                json!({
                    "index": index, "first_sector": layout.span.first, "sectors": layout.span.sectors,
                    "ranges": ranges,
                })
            })
            .collect();
        let fields = json!({
            "chunks": found.chunks, "plain_bytes": found.plain_bytes, "differing_chunks": found.differing.len(),
            "differing_bytes": bytes, "differing": differing,
        });
        progress.finish(&line, fields);
    }

    /// Opens the source. A file's sectors are as large as those of the base, unless the user says otherwise.
    pub(super) fn open_disk(&self, chain: Option<&Chain>) -> Result<(Disk, DiskMap), Failure> {
        let base = chain.and_then(Chain::nearest);
        let usual = base.map(|base| base.index.header.sector_size);
        self.selection.open(&self.source, usual)
    }

    /// That of the base: other chunks would not be found there.
    pub(super) fn choose_chunk_size(&self, base: Option<&Indexed>) -> u32 {
        let asked = self
            .chunk_size
            .map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let Some(base) = base else {
            return asked.unwrap_or(CHUNK_SIZE_MAX);
        };
        let size = base.index.header.chunk_size;
        if asked.is_some_and(|asked| asked != size) {
            say(&format!(
                "imagezip: warning: --chunk-size is not used: the chunks of {} have {size} bytes, and those of a delta \
                 must be the same",
                base.name
            ));
        }
        size
    }

    pub(super) fn name_after(&self, image: &Path) -> String {
        let stem = |path: &Path| {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        };
        let is_pipe = |path: &Path| path.as_os_str() == "-";
        let from = match image {
            image if !is_pipe(image) => image,
            _ if is_pipe(&self.source) => Path::new("disk"),
            _ => &self.source,
        };
        self.name.clone().or_else(|| stem(from)).unwrap_or_default()
    }

    pub(super) fn warn(&self, progress: &Progress, map: &DiskMap) {
        for warning in &map.warnings {
            progress.line(&format!(
                "imagezip: {}: warning: {warning}",
                self.source.display()
            ));
        }
    }

    pub(super) fn start_disk(
        &self,
        disk: &Disk,
        map: &DiskMap,
        header: &ImageHeader,
        output: &Output,
    ) -> Progress {
        let events = self.events();
        let saved_bytes = saved_bytes(map);
        let partitions: Vec<_> = map
            .partitions
            .iter()
            .map(|partition| {
                json!({
                    "number": partition.number, "first_sector": partition.first, "sectors": partition.count,
                    "kind": partition.contents.kind, "saved_sectors": partition.saved_sectors,
                    "note": partition.contents.raw,
                })
            })
            .collect();
        let fields = json!({
            "source": self.source.display().to_string(), "image": output.name(), "name": header.name,
            "uuid": header.uuid().to_string(), "epoch": header.epoch(), "disk_bytes": disk.size(),
            "sector_size": map.sector_size, "total_bytes": saved_bytes, "partitions": partitions,
        });
        let progress = Progress::start(events, saved_bytes, fields);
        if events == Events::Off {
            for partition in &map.partitions {
                let sector = u64::from(map.sector_size);
                let name = self.selection.name_of(partition.number);
                let (size, saved) = (partition.count * sector, partition.saved_sectors * sector);
                progress.line(&part_line(&name, &partition.contents, size, saved));
                for volume in &partition.volumes {
                    let name = format!("{name}, {}", printable(&volume.name));
                    let (size, saved) = (volume.size_bytes, volume.saved_bytes);
                    progress.line(&part_line(&name, &volume.contents, size, saved));
                }
            }
        }
        progress
    }
}

fn plan(map: &DiskMap, chunk_size: u32) -> DiskPlan {
    let saved = map.saved.clone().into_iter();
    Plan::new(saved, map.disk_sectors, map.sector_size, chunk_size)
}

fn saved_bytes(map: &DiskMap) -> u64 {
    let saved: u64 = map.saved.iter().map(|extent| extent.count).sum();
    saved * u64::from(map.sector_size)
}

/// What is said of a partition or a volume before it is imaged.
fn part_line(name: &str, contents: &Contents, size: u64, saved: u64) -> String {
    let why = contents.raw.as_ref();
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    format!(
        "{name}: {}, {}, {} to save{why}",
        contents.kind,
        units::size(size),
        units::size(saved),
    )
}

/// A name from the disk, without what could confuse a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c.is_control() {
            true => char::REPLACEMENT_CHARACTER,
            false => c,
        })
        .collect()
}
