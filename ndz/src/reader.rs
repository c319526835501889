//! Reading an image from a stream, chunk by chunk.

use std::io::{ErrorKind, Read};

use crate::{CHUNK_SIZE, Chunk, Error, ImageId, Set, Span, Summary};

/// An image that is read from beginning to end.
pub struct Reader<R> {
    source: R,
    buffer: Vec<u8>,
    set: Set,
}

impl<R: Read> Reader<R> {
    /// Reads from `source`. Needs one chunk of memory.
    pub fn new(source: R) -> Self {
        Self::with_image_id(source, None)
    }

    /// The same, and refuses chunks that are not of the image with this id.
    pub fn with_image_id(source: R, image_id: Option<ImageId>) -> Self {
        Self {
            source,
            buffer: vec![0; CHUNK_SIZE],
            set: Set::new(image_id),
        }
    }

    /// The next chunk and the sectors it accounts for, `None` at the end of the source.
    ///
    /// # Errors
    /// Reading failed, the source ends inside a chunk, its header is bad, or it is not the next one of the image.
    pub fn next_chunk(&mut self) -> Result<Option<(Chunk<'_>, Span)>, Error> {
        let mut filled = 0;
        while let Some(rest) = self
            .buffer
            .get_mut(filled..)
            .filter(|rest| !rest.is_empty())
        {
            match self.source.read(rest) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        let chunk = self.set.position();
        if filled == 0 {
            return if chunk == 0 {
                Err(Error::Empty)
            } else {
                Ok(None)
            };
        }
        if filled < CHUNK_SIZE {
            return Err(Error::Truncated {
                chunk,
                bytes: filled,
            });
        }
        let chunk = Chunk::parse(chunk, &self.buffer)?;
        let span = self.set.add(chunk.header())?;
        Ok(Some((chunk, span)))
    }

    /// The bytes of the chunk that [`Self::next_chunk`] has read last.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// What the image is. Call it after the last chunk.
    ///
    /// # Errors
    /// There was no chunk, or fewer or more than the header says.
    pub fn finish(&self) -> Result<Summary, Error> {
        self.set.finish()
    }
}
