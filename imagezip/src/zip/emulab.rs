//! Images in Emulab's format: made into `.frz` images, and made of disks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use chunkfmt::CHUNK_SIZE_MAX;
use crossbeam_channel::bounded;
use diskmap::DiskMap;
use frisbee_cli::progress::Progress;
use frisbee_cli::{Exit, Failure, Interrupt, keys, say, units};
use ndz::{ContentKey, Demand, Integrity, PublicKey, Region, Signature, Version, Writer};
use serde_json::json;

use super::run::Run;
use super::{Cli, DiskShape, now};
use crate::emulab::{Packer, Reading, Recut, SECTOR_SIZE, Survey, send_data, survey};
use crate::inputs::Access;
use crate::output::Output;
use crate::pipe::Input;
use crate::protect::Protected;
use crate::{Disk, Error};

/// Pieces of data, of at most 1 MiB each, that wait to be packed.
const QUEUE: usize = 4;

/// Longest signature file that is read, in bytes: one of 2^20 entries describes 2 TiB and more.
const SIGNATURE_FILE_MAX: u64 = 256 << 20;

/// Longest key file, in bytes.
const KEY_FILE_MAX: u64 = 64 << 10;

impl Cli {
    /// Makes an image of an Emulab image.
    pub(super) fn make_from_emulab(
        &self,
        from: &Path,
        access: Option<&Access>,
        protected: &Protected,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let named = |message: &str| Failure::new(Exit::Usage, message).context(from.display());
        if !self.inputs.allow_legacy {
            let message = "is an Emulab image, whose own protection is weak at best: if you know that it is the right \
                           one, say --allow-legacy";
            return Err(Failure::new(Exit::Verification, message).context(from.display()));
        }
        if self.inputs.keep_delta {
            return Err(named(
                "an Emulab image does not say whether it is a delta: leave out --keep-delta",
            ));
        }
        if !fs::metadata(from).is_ok_and(|found| found.is_file()) {
            return Err(named(
                "an Emulab image is read twice: name a file, not a pipe",
            ));
        }
        let key = self.legacy_content_key()?;
        let signer = self.legacy_key()?;
        let name = from.display().to_string();
        let reading = Reading {
            name: &name,
            demand: signer.as_ref().map_or(Demand::Nothing, Demand::Signature),
            key: key.as_ref(),
        };
        let interrupted = |failure: Failure| {
            let interrupted = interrupt.check("no image was written").err();
            interrupted.unwrap_or(failure)
        };
        let found = survey(Input::open(from, interrupt)?.pipe, reading)
            .map_err(|error| interrupted(error.into()))?;

        let chain = self.open_chain(access)?;
        let base = Self::nearest(chain.as_ref(), SECTOR_SIZE, found.summary.sectors)?;
        let shape = DiskShape {
            sector_size: SECTOR_SIZE,
            sectors: found.summary.sectors,
            chunk_size: base.map_or(CHUNK_SIZE_MAX, |base| base.index.header.chunk_size),
        };
        let epoch = self.epoch(now(), base)?;
        let title = self.name.clone().or_else(|| {
            let stem = from.file_stem()?;
            Some(stem.to_string_lossy().into_owned())
        });
        let header = self.describe(protected, title.unwrap_or_default(), epoch, &shape, base)?;
        let budget = self.budget(protected, shape.chunk_size, (QUEUE as u64) << 20)?;
        let sealer = protected.sealer(header)?;
        let output = self.open_output(&self.source, protected.key.is_none())?;
        let total =
            found.saved.iter().map(|extent| extent.count).sum::<u64>() * u64::from(SECTOR_SIZE);
        let progress = self.start_emulab(&name, &found, total, &output);
        let makers = (0..budget.threads)
            .map(|_| {
                let sealer = sealer.for_thread()?;
                Ok(Packer { sealer, base })
            })
            .collect::<Result<_, Failure>>()?;
        let source = Input::open(from, interrupt)?.pipe;
        let (sender, receiver) = bounded(QUEUE);
        let recut = Recut::new(&name, &found, shape.chunk_size, receiver);
        let run = Run {
            sealer: &sealer,
            buffers: budget.buffers,
            output,
            progress: &progress,
            interrupt,
            disk: None,
        };
        thread::scope(|scope| {
            // It ends when `recut` is gone.
            scope.spawn(move || send_data(source, reading, &sender));
            run.write(recut, makers)
        })
        .map_err(interrupted)
    }

    fn start_emulab(&self, name: &str, found: &Survey, total: u64, output: &Output) -> Progress {
        let version = found.summary.version.number();
        let fields = json!({
            "source": name, "image": output.name(), "ndz_version": version, "chunks": found.summary.chunks,
            "disk_bytes": found.summary.sectors * u64::from(SECTOR_SIZE), "sector_size": SECTOR_SIZE,
            "total_bytes": total,
        });
        let progress = Progress::start(self.events(), total, fields);
        let protection = match found.integrity {
            Integrity::Unknown => "nothing shows that it is unchanged",
            Integrity::Checksum => {
                "checksums are right, which shows no more than that it is not damaged"
            }
            Integrity::Signature => "signed with the given key, as far as RSA of 512 bits tells",
        };
        progress.line(&format!(
            "{name}: Emulab image, version {version}: {protection}"
        ));
        if found.summary.maybe_cut {
            progress.line(&format!(
                "imagezip: {name}: warning: its last chunk is full: it may have been cut short, which the format does \
                 not tell"
            ));
        }
        progress
    }

    /// The first --from-key: key files of Emulab have the same 64 hexadecimal digits.
    fn legacy_content_key(&self) -> Result<Option<ContentKey>, Failure> {
        let Some(path) = self.inputs.from_key.first() else {
            return Ok(None);
        };
        let digits = keys::load_content_key(path)?.to_hex();
        let key = ContentKey::parse(digits.as_bytes());
        key.map(Some).map_err(|error| emulab(path, error))
    }

    fn legacy_key(&self) -> Result<Option<PublicKey>, Failure> {
        let Some(path) = &self.inputs.legacy_key else {
            return Ok(None);
        };
        let key = PublicKey::parse(&read_file(path, KEY_FILE_MAX)?);
        key.map(Some).map_err(|error| emulab(path, error))
    }

    /// Makes an Emulab image of a disk, or of what has changed there since a signature file was made.
    pub(super) fn write_emulab(&self, interrupt: &Interrupt) -> Result<(), Failure> {
        if !self.protection.is_none() {
            let message = "--format ndz: Emulab images are neither signed nor encrypted here: say --unsigned and \
                           --unencrypted, and protect the image by other means";
            return Err(Failure::new(Exit::Usage, message));
        }
        if self.name.is_some() || self.epoch.is_some() || self.chunk_size.is_some() {
            let message = "--format ndz: Emulab images have no --name and no --epoch, and their own --chunk-size";
            return Err(Failure::new(Exit::Usage, message));
        }
        if self.selection.is_rescue() {
            let message = "--format ndz: Emulab images cannot say which sectors were unreadable: copy the disk with \
                           ddrescue and image the copy, or make an frz image";
            return Err(Failure::new(Exit::Usage, message));
        }
        let level = self.protection.zlib_level()?;
        let missing = || Failure::new(Exit::Usage, "name the image to write");
        let image = self.image.as_deref().ok_or_else(missing)?;
        let (disk, map) = self.open_disk(None)?;
        if map.sector_size != SECTOR_SIZE {
            let message = format!(
                "has sectors of {} bytes, Emulab images know only 512",
                map.sector_size
            );
            return Err(Failure::new(Exit::Input, message).context(self.source.display()));
        }
        let read = |sector: u64, buffer: &mut [u8]| {
            if interrupt.is_raised() {
                return Err(io::Error::other("interrupted"));
            }
            disk.read_sectors(buffer, sector, &mut Vec::new())
                .map_err(io::Error::other)
        };
        let ranges = self.ranges_to_write(&map, read)?;
        let writer = Writer::new(ndz::Plan {
            version: self.version(map.disk_sectors),
            image_id: None,
            ranges,
            disk_sectors: Some(map.disk_sectors),
            relocations: Vec::new(),
            level,
        })
        .map_err(|error| emulab(image, error))?;
        let output = self.open_output(image, true)?;
        say(
            "this image is neither signed nor encrypted: anybody who can write to it can change it unnoticed",
        );
        self.write_chunks(writer, output, &disk, &map, interrupt, read)
    }

    fn write_chunks(
        &self,
        mut writer: Writer,
        mut output: Output,
        disk: &Disk,
        map: &DiskMap,
        interrupt: &Interrupt,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let saved: u64 = map.saved.iter().map(|extent| extent.count).sum();
        let fields = json!({
            "source": self.source.display().to_string(), "image": output.name(), "total_bytes": saved * 512,
            "disk_bytes": map.disk_sectors * 512, "sector_size": SECTOR_SIZE,
        });
        let name = output.name();
        let progress = Progress::start(self.events(), saved * 512, fields);
        self.warn(&progress, map);
        let (mut chunks, mut plain_bytes) = (0_u64, 0_u64);
        let mut write = || -> Result<(), Error> {
            loop {
                let chunk = writer.next_chunk(|sector, buffer: &mut [u8]| {
                    plain_bytes += buffer.len() as u64;
                    progress.advance(buffer.len() as u64);
                    read(sector, buffer)
                });
                let chunk = chunk.map_err(|source| match interrupt.is_raised() {
                    true => Error::Interrupted,
                    false => Error::Emulab {
                        name: self.source.display().to_string(),
                        source,
                    },
                })?;
                let Some(chunk) = chunk else {
                    return Ok(());
                };
                output
                    .write_all(chunk)
                    .map_err(|source| Error::Write { source })?;
                chunks += 1;
            }
        };
        let written =
            write().and_then(|()| output.commit().map_err(|source| Error::Write { source }));
        if let Err(error) = written {
            let place = matches!(error, Error::Write { .. });
            let failure = Failure::from(error);
            let failure = if place {
                failure.context(name)
            } else {
                failure
            };
            return Err(progress.fail(failure));
        }
        let time = progress.elapsed();
        let image_bytes = chunks * ndz::CHUNK_SIZE as u64;
        let line = format!(
            "{name}: {} of {} saved as {} in {chunks} chunks, {:.2} s, {}",
            units::size(plain_bytes),
            units::size(diskmap::ReadAt::size(disk)),
            units::size(image_bytes),
            time.as_secs_f64(),
            units::throughput(plain_bytes, time),
        );
        let fields =
            json!({ "chunks": chunks, "plain_bytes": plain_bytes, "image_bytes": image_bytes });
        progress.finish(&line, fields);
        Ok(())
    }

    /// What the disk has in use; with a signature file, what of that has changed.
    fn ranges_to_write(
        &self,
        map: &DiskMap,
        read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Vec<Region>, Failure> {
        let saved = map.saved.iter().map(|extent| Region {
            first: extent.first,
            sectors: extent.count,
        });
        let saved: Vec<Region> = saved.collect();
        let path = match &self.inputs.base[..] {
            [] => return Ok(saved),
            [path] => path,
            [..] => {
                let message =
                    "--format ndz: name one --base, the signature file (.sig) of the old image";
                return Err(Failure::new(Exit::Usage, message));
            }
        };
        let signature = Signature::parse(&read_file(path, SIGNATURE_FILE_MAX)?)
            .map_err(|error| emulab(path, error))?;
        let changed = signature
            .changed(&saved, &[], map.disk_sectors, read)
            .map_err(|error| emulab(path, error))?;
        if changed.is_empty() {
            let message = "nothing has changed since this was made: there is no delta to write";
            return Err(Failure::new(Exit::Input, message).context(path.display()));
        }
        Ok(changed)
    }

    fn version(&self, disk_sectors: u64) -> Version {
        match self.ndz_version.as_deref() {
            Some("3") => Version::V3,
            Some(_) => Version::V5,
            None if disk_sectors <= u64::from(u32::MAX) => Version::V3,
            None => Version::V5,
        }
    }
}

fn emulab(path: &Path, source: ndz::Error) -> Failure {
    let name = path.display().to_string();
    Error::Emulab { name, source }.into()
}

fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let fail = |error| Failure::new(Exit::Input, error).context(path.display());
    let file = File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, most + 1), &mut bytes).map_err(fail)?;
    match bytes.len() as u64 <= most {
        true => Ok(bytes),
        false => {
            let message = format!("is longer than {}: not such a file", units::size(most));
            Err(Failure::new(Exit::Input, message).context(path.display()))
        }
    }
}
