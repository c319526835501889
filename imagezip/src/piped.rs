//! A disk that comes through a pipe: every sector of it, once, in order.

use std::io::{ErrorKind, Read};

use chunkfmt::Sealer;
use chunkfmt::tree::Cv;
use diskmap::Extent;
use frisbee_cli::Interrupt;

use crate::base::Indexed;
use crate::create::{Made, Maker, Source, Watch};
use crate::scan::{DiskPlan, seal};
use crate::{Error, Piece, Plan};

/// A disk that is read from beginning to end.
pub(crate) struct Piped<R> {
    plan: DiskPlan,
    pipe: R,
    /// The name for messages.
    name: String,
    sector_size: u32,
    /// Bytes of the disk, and how many of them have come.
    size: u64,
    read: u64,
    interrupt: Interrupt,
}

impl<R: Read> Piped<R> {
    /// A disk of so many sectors of so many bytes, cut into chunks of at most `chunk_size` bytes.
    pub(crate) fn new(
        (name, pipe): (String, R),
        (sectors, sector_size): (u64, u32),
        chunk_size: u32,
        interrupt: &Interrupt,
    ) -> Self {
        let whole = Extent {
            first: 0,
            count: sectors,
        };
        Self {
            plan: Plan::new(vec![whole].into_iter(), sectors, sector_size, chunk_size),
            pipe,
            name,
            sector_size,
            size: sectors * u64::from(sector_size),
            read: 0,
            interrupt: interrupt.clone(),
        }
    }

    /// Fills `buffer` as far as there is something.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.pipe.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What a signal makes fail is not the failure to tell.
                Err(_) if self.interrupt.is_raised() => return Err(Error::Interrupted),
                Err(source) => {
                    return Err(Error::Read {
                        path: self.name.clone().into(),
                        offset: self.read + filled as u64,
                        length: buffer.len() - filled,
                        source,
                    });
                }
            }
        }
        Ok(filled)
    }
}

impl<R: Read + Send> Source for Piped<R> {
    type Item = Piece;

    fn take(&mut self, input: &mut Vec<u8>) -> Result<Option<Piece>, Error> {
        let Some(piece) = Iterator::next(&mut self.plan) else {
            return Ok(None);
        };
        let bytes = piece.layout.data_sectors() * u64::from(self.sector_size);
        // At most the chunk size.
        input.resize(usize::try_from(bytes).unwrap_or(0), 0);
        let filled = self.fill(input)?;
        self.read += filled as u64;
        match filled == input.len() {
            true => Ok(Some(piece)),
            false => Err(Error::Short {
                name: self.name.clone(),
                found: self.read,
                size: self.size,
            }),
        }
    }

    fn check(&mut self, _roots: &[(u32, Cv)]) -> Result<(), Error> {
        match self.fill(&mut [0])? {
            0 => Ok(()),
            _ => Err(Error::Long {
                name: self.name.clone(),
                size: self.size,
            }),
        }
    }
}

/// Seals pieces that have their data already.
pub(crate) struct PieceSealer<'a> {
    /// Of the new image.
    pub(crate) sealer: Sealer,
    /// What the new image is a delta to.
    pub(crate) base: Option<&'a Indexed>,
}

impl Maker for PieceSealer<'_> {
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
