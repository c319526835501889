//! Buffers for receiving many datagrams in one system call.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{BATCH_SIZE, RecvMeta};

/// Room for what the system may join into one message (GRO): the largest packet.
const MESSAGE_BYTES: usize = 1 << 16;

/// A datagram that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it, as it claims.
    pub from: SocketAddr,
    /// Its payload.
    pub bytes: &'a [u8],
}

/// Datagrams received together. Reused: 2 MiB of address space, of which only what is used gets memory.
#[derive(Debug)]
pub struct RecvBatch {
    buffer: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
    messages: usize,
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self {
            buffer: vec![0; BATCH_SIZE * MESSAGE_BYTES],
            meta: [RecvMeta::default(); BATCH_SIZE],
            messages: 0,
        }
    }
}

impl RecvBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// The datagrams, in the order in which they came.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let messages = self
            .meta
            .iter()
            .zip(self.buffer.chunks(MESSAGE_BYTES))
            .take(self.messages);
        messages.flat_map(|(meta, buffer)| {
            // An empty datagram has a stride of 0; there is nothing in it to be cut.
            let bytes = buffer.get(..meta.len).unwrap_or_default();
            bytes.chunks(meta.stride.max(1)).map(|bytes| Datagram {
                from: meta.addr,
                bytes,
            })
        })
    }

    /// Replaces the content by what `receive` gives.
    pub(crate) fn fill(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.messages = 0;
        let mut chunks = self.buffer.chunks_mut(MESSAGE_BYTES);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.messages = receive(&mut buffers, &mut self.meta)?;
        Ok(())
    }
}
