//! Emulab images as a source of chunks: their data in ascending order, cut anew. docs/NDZ.md describes the format.
//!
//! The image is read twice: once for what it holds, since the new image says that in its header and has other borders
//! of chunks, and once for the data, in a thread of its own that is never more than a few MiB ahead.

use std::io::Read;
use std::vec;

use chunkfmt::Sealer;
use chunkfmt::relocation;
use chunkfmt::tree::Cv;
use crossbeam_channel::{Receiver, Sender};
use diskmap::Extent;
use ndz::{Cipher, ContentKey, Demand, Integrity, Place, Reader, Relocation, Summary};

use crate::base::Indexed;
use crate::create::{Made, Maker, Source, Watch};
use crate::scan::seal;
use crate::{Error, Piece, Plan};

/// Bytes of a sector; the format knows no other size.
pub(crate) const SECTOR_SIZE: u32 = 512;

/// How an Emulab image is read.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    /// Its name for messages.
    pub(crate) name: &'a str,
    /// What its own protection must be.
    pub(crate) demand: Demand<'a>,
    /// Its key, if there is one.
    pub(crate) key: Option<&'a ContentKey>,
}

impl Reading<'_> {
    fn error(&self, source: ndz::Error) -> Error {
        Error::Emulab {
            name: self.name.to_owned(),
            source,
        }
    }
}

/// What an Emulab image holds.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Sectors with data: ascending, those that touch are one.
    pub(crate) saved: Vec<Extent>,
    /// Ascending.
    relocations: Vec<Relocation>,
    /// Version, number of chunks, size of the disk.
    pub(crate) summary: Summary,
    /// What of the image's own protection could be checked.
    pub(crate) integrity: Integrity,
}

/// Reads an image once, and checks headers, signatures and checksums.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn survey(source: impl Read, reading: Reading<'_>) -> Result<Survey, Error> {
    let mut reader = Reader::new(source);
    let mut saved: Vec<Extent> = Vec::new();
    let mut relocations = Vec::new();
    let mut integrity = Integrity::Unknown;
    let mut read = || -> Result<Summary, ndz::Error> {
        while let Some((chunk, _)) = reader.next_chunk()? {
            // Set::add has seen to it that all chunks are protected alike.
            integrity = chunk.verify(reading.demand)?;
            let header = chunk.header();
            if header.cipher == Cipher::BlowfishCbc && reading.key.is_none() {
                let chunk = header.index;
                return Err(ndz::Error::KeyNeeded { chunk });
            }
            for region in &header.regions {
                match saved.last_mut() {
                    Some(last) if last.end() == region.first => last.count += region.sectors,
                    _ => saved.push(Extent {
                        first: region.first,
                        count: region.sectors,
                    }),
                }
            }
            relocations.extend_from_slice(&header.relocations);
        }
        reader.finish()
    };
    let summary = read().map_err(|error| reading.error(error))?;
    relocations.sort_by_key(|relocation| (relocation.sector, relocation.offset));
    Ok(Survey {
        saved,
        relocations,
        summary,
        integrity,
    })
}

/// First sector and data of a piece of at most 1 MiB; or why there is no more.
pub(crate) type Data = Result<(u64, Vec<u8>), ndz::Error>;

/// Why no more data are sent.
enum Stop {
    Bad(ndz::Error),
    NobodyListens,
}

impl From<ndz::Error> for Stop {
    fn from(error: ndz::Error) -> Self {
        Self::Bad(error)
    }
}

/// Sends all data of an image, each chunk after it was checked completely. Ends early when nobody listens any more.
pub(crate) fn send_data(source: impl Read, reading: Reading<'_>, data: &Sender<Data>) {
    let mut reader = Reader::new(source);
    let mut send = || -> Result<(), Stop> {
        while let Some((chunk, _)) = reader.next_chunk()? {
            chunk.verify(reading.demand)?;
            let key = reading
                .key
                .filter(|_| chunk.header().cipher != Cipher::None);
            let checked = chunk.data(key)?.check(Place::AsStored)?;
            checked.pieces(|first, bytes| {
                let sent = data.send(Ok((first, bytes.to_vec())));
                sent.map_err(|_| Stop::NobodyListens)
            })?;
        }
        reader.finish()?;
        Ok(())
    };
    if let Err(Stop::Bad(error)) = send() {
        // Fails if nobody listens: then there is another error already.
        let _ = data.send(Err(error));
    }
}

/// Cuts the data of an Emulab image as if they came from a disk.
pub(crate) struct Recut {
    name: String,
    plan: Plan<vec::IntoIter<Extent>>,
    relocations: std::iter::Peekable<vec::IntoIter<Relocation>>,
    data: Receiver<Data>,
    /// What of the last piece of data is not used yet: its first sector, and its bytes.
    rest: (u64, Vec<u8>),
}

impl Recut {
    /// Cuts what `data` gives, which must be what the survey has found.
    pub(crate) fn new(name: &str, survey: &Survey, chunk_size: u32, data: Receiver<Data>) -> Self {
        Self {
            name: name.to_owned(),
            plan: Plan::new(
                survey.saved.clone().into_iter(),
                survey.summary.sectors,
                SECTOR_SIZE,
                chunk_size,
            ),
            relocations: survey.relocations.clone().into_iter().peekable(),
            data,
            rest: (0, Vec::new()),
        }
    }

    fn changed(&self) -> Error {
        Error::Changed {
            name: self.name.clone(),
        }
    }

    fn error(&self, source: ndz::Error) -> Error {
        Error::Emulab {
            name: self.name.clone(),
            source,
        }
    }

    /// Appends what stands from sector `first` on up to `end` to `out`.
    fn fill(&mut self, first: u64, end: u64, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut at = first;
        while at < end {
            if self.rest.1.is_empty() {
                self.rest = match self.data.recv() {
                    Ok(Ok(data)) => data,
                    Ok(Err(error)) => return Err(self.error(error)),
                    Err(_) => return Err(self.changed()),
                };
            }
            let (sector, bytes) = &mut self.rest;
            let wanted = usize::try_from((end - at).saturating_mul(u64::from(SECTOR_SIZE)));
            let length = wanted.unwrap_or(usize::MAX).min(bytes.len());
            if *sector != at || length == 0 {
                return Err(self.changed());
            }
            out.extend(bytes.drain(..length));
            at += length as u64 / u64::from(SECTOR_SIZE);
            *sector = at;
        }
        Ok(())
    }
}

impl Source for Recut {
    type Item = Piece;

    fn take(&mut self, input: &mut Vec<u8>) -> Result<Option<Piece>, Error> {
        let Some(mut piece) = self.plan.next() else {
            return Ok(None);
        };
        input.clear();
        let mut pairs = Vec::new();
        for region in &piece.layout.regions {
            self.fill(region.first, region.end(), input)?;
            pairs.push((region.first, u64::from(region.sectors)));
        }
        let end = piece.layout.span.end();
        while let Some(relocation) = self.relocations.next_if(|next| next.sector < end) {
            piece.layout.relocations.push(relocation);
        }
        relocation::check(&piece.layout.relocations, &pairs).map_err(|fault| {
            self.error(ndz::Error::Relocation {
                chunk: piece.index,
                fault,
            })
        })?;
        Ok(Some(piece))
    }

    fn check(&mut self, _roots: &[(u32, Cv)]) -> Result<(), Error> {
        // The reader says at the end whether the image was whole.
        match self.data.recv() {
            Err(_) if self.rest.1.is_empty() => Ok(()),
            Ok(Err(error)) => Err(self.error(error)),
            _ => Err(self.changed()),
        }
    }
}

/// Seals pieces whose data are at hand.
pub(crate) struct Packer<'a> {
    /// Of the new image.
    pub(crate) sealer: Sealer,
    /// What the new image is a delta to.
    pub(crate) base: Option<&'a Indexed>,
}

impl Maker for Packer<'_> {
    type Item = Piece;

    fn make(
        &mut self,
        piece: Piece,
        data: &mut Vec<u8>,
        out: &mut Vec<u8>,
        _watch: &mut Watch<'_>,
    ) -> Result<Made, Error> {
        seal(&mut self.sealer, self.base, piece, data, out)
    }
}
