//! Inflating the zlib stream of a chunk to exactly the expected bytes.

use flate2::{Decompress, FlushDecompress, Status};

use crate::Error;

/// A zlib stream that is being read.
pub(crate) struct Inflater<'a> {
    stream: Decompress,
    input: &'a [u8],
    ended: bool,
    chunk: u32,
}

impl<'a> Inflater<'a> {
    pub(crate) fn new(chunk: u32, input: &'a [u8]) -> Self {
        Self {
            stream: Decompress::new(true),
            input,
            ended: false,
            chunk,
        }
    }

    /// Fills `output` completely.
    pub(crate) fn fill(&mut self, output: &mut [u8]) -> Result<(), Error> {
        let mut output = output;
        while !output.is_empty() {
            let written = self.step(output)?;
            output = output.get_mut(written..).unwrap_or_default();
            if self.ended && !output.is_empty() {
                return Err(self.bad("give fewer bytes than the regions hold"));
            }
        }
        Ok(())
    }

    /// Checks that the stream is at its end, its Adler-32 right, and that nothing follows.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        while !self.ended {
            if self.step(&mut [0])? != 0 {
                return Err(self.bad("give more bytes than the regions hold"));
            }
        }
        if self.input.is_empty() {
            Ok(())
        } else {
            Err(self.bad("end before their recorded length"))
        }
    }

    /// One call of the decompressor, which makes progress or fails. Gives the number of bytes written.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "differences are at most the length of a slice"
    )]
    fn step(&mut self, output: &mut [u8]) -> Result<usize, Error> {
        let (in_before, out_before) = (self.stream.total_in(), self.stream.total_out());
        let status = self
            .stream
            .decompress(self.input, output, FlushDecompress::None)
            .map_err(|_| self.bad("are not a valid zlib stream"))?;
        let read = (self.stream.total_in() - in_before) as usize;
        let written = (self.stream.total_out() - out_before) as usize;
        self.input = self.input.get(read..).unwrap_or_default();
        self.ended = status == Status::StreamEnd;
        if !self.ended && read == 0 && written == 0 {
            return Err(self.bad("are cut short"));
        }
        Ok(written)
    }

    fn bad(&self, fault: &'static str) -> Error {
        Error::Stream {
            chunk: self.chunk,
            fault,
        }
    }
}
