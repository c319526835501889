//! Compressing and decompressing chunk data (docs/FORMAT.md, section 3).

use std::io::Cursor;

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::{CompressionLvl, Compressor};
use zstd::bulk;
use zstd::zstd_safe::{CParameter, find_frame_compressed_size};

use crate::{Codec, Error, Part};

/// What a Zstandard frame begins with (RFC 8878, section 3.1.1); a skippable frame, which holds nothing, does not.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Level 3 with the table of short matches as large as that of long ones (2^17 places instead of 2^16): 0.2 % smaller
/// for 1 % of time. A chunk has no data before it to find matches in, so the tables matter more than in a long stream.
const CHAIN_LOG_3: u32 = 17;

/// Compresses chunks with one codec and level; its memory is reused from chunk to chunk.
pub(crate) enum Packer {
    None,
    Zstd(bulk::Compressor<'static>),
    /// `libdeflate` packs what is in memory as a whole, 1.5 times as fast as `zlib-rs` and smaller. It does not tell
    /// where a stream has ended, so that [`Unpacker`] is not made of it.
    Zlib(Compressor),
}

/// Bytes that a [`Packer`] takes at most, whatever it packs.
pub(crate) fn memory(codec: Codec, level: i32) -> u64 {
    let mebibytes = match (codec, level) {
        (Codec::None, _) => 0,
        (Codec::Zlib, _) => 2,
        (Codec::Zstd, ..=2) => 1,
        (Codec::Zstd, 3) => 2,
        (Codec::Zstd, 4) => 3,
        (Codec::Zstd, 5..=6) => 4,
        (Codec::Zstd, 7..=8) => 6,
        (Codec::Zstd, 9) => 11,
        (Codec::Zstd, 10..=12) => 21,
        (Codec::Zstd, _) => 34,
    };
    mebibytes << 20
}

impl Packer {
    /// `level` is the codec's own: 1 to 19 for Zstandard, 0 to 9 for zlib.
    pub(crate) fn new(codec: Codec, level: i32) -> Result<Self, Error> {
        let fail = |source| Error::Compress {
            part: Part::Header,
            source,
        };
        Ok(match codec {
            Codec::None => Self::None,
            // Stored bytes never shrink.
            Codec::Zlib if level <= 0 => Self::None,
            Codec::Zstd => {
                let mut compressor = bulk::Compressor::new(level).map_err(fail)?;
                // The chunk carries hashes of its own; the data's length is signed in the chunk header.
                compressor
                    .include_checksum(false)
                    .and_then(|()| compressor.include_contentsize(false))
                    .map_err(fail)?;
                if level == 3 {
                    compressor
                        .set_parameter(CParameter::ChainLog(CHAIN_LOG_3))
                        .map_err(fail)?;
                }
                Self::Zstd(compressor)
            }
            Codec::Zlib => {
                let level = CompressionLvl::new(level.clamp(1, 9)).unwrap_or_default();
                Self::Zlib(Compressor::new(level))
            }
        })
    }

    /// Appends `data` to `out`, compressed, if that makes it shorter. False, and nothing appended, if it does not.
    pub(crate) fn pack(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        // Written into spare room: to zero it first would cost as much as hashing what is written.
        out.reserve(data.len());
        let whole = match self {
            Self::None => false,
            Self::Zstd(compressor) => {
                let mut place = Cursor::new(std::mem::take(out));
                place.set_position(start as u64);
                let packed = compressor.compress_to_buffer(data, &mut place);
                *out = place.into_inner();
                packed.is_ok()
            }
            Self::Zlib(compressor) => {
                out.resize(start + data.len(), 0);
                let place = out.get_mut(start..).unwrap_or_default();
                let packed = compressor.zlib_compress(data, place);
                let length = *packed.as_ref().unwrap_or(&0);
                out.truncate(start + length);
                packed.is_ok()
            }
        };
        let shrunk = whole && out.len() - start < data.len();
        if !shrunk {
            out.truncate(start);
        }
        shrunk
    }
}

/// Decompresses chunks of any codec; what it writes is bounded by the buffer that it is given.
pub(crate) struct Unpacker {
    zstd: bulk::Decompressor<'static>,
    zlib: Decompress,
}

impl Unpacker {
    pub(crate) fn new() -> Result<Self, Error> {
        let zstd = bulk::Decompressor::new().map_err(|_| Error::Decompress {
            part: Part::Header,
            expected: 0,
        })?;
        Ok(Self {
            zstd,
            zlib: Decompress::new(true),
        })
    }

    /// Fills `out` from `packed`, which must be one frame or stream that ends where `out` does.
    pub(crate) fn unpack(&mut self, codec: Codec, packed: &[u8], out: &mut [u8]) -> Option<()> {
        let whole = match codec {
            Codec::None => {
                if packed.len() != out.len() {
                    return None;
                }
                out.copy_from_slice(packed);
                true
            }
            Codec::Zstd => {
                packed.starts_with(&ZSTD_MAGIC)
                    && find_frame_compressed_size(packed).is_ok_and(|length| length == packed.len())
                    && self
                        .zstd
                        .decompress_to_buffer(packed, &mut *out)
                        .is_ok_and(|written| written == out.len())
            }
            Codec::Zlib => {
                self.zlib.reset(true);
                let status = self.zlib.decompress(packed, out, FlushDecompress::Finish);
                status.is_ok_and(|status| status == Status::StreamEnd)
                    && self.zlib.total_in() == packed.len() as u64
                    && self.zlib.total_out() == out.len() as u64
            }
        };
        whole.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use proptest::prelude::*;

    use super::*;

    fn text(length: usize) -> Vec<u8> {
        b"the quick brown fox jumps over the lazy dog "
            .iter()
            .copied()
            .cycle()
            .take(length)
            .collect()
    }

    fn packed(codec: Codec, data: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        assert!(Packer::new(codec, 3).unwrap().pack(data, &mut out));
        assert!(out.starts_with(b"before"));
        out.split_off(6)
    }

    #[test]
    fn a_stream_ends_where_its_data_does() {
        let data = text(100_000);
        let mut unpacker = Unpacker::new().unwrap();
        for codec in [Codec::Zstd, Codec::Zlib] {
            let packed = packed(codec, &data);
            let mut out = vec![0; data.len()];
            assert_eq!(unpacker.unpack(codec, &packed, &mut out), Some(()));
            assert_eq!(out, data);
            let mut unpack =
                |packed: &[u8], length: usize| unpacker.unpack(codec, packed, &mut vec![0; length]);
            assert_eq!(unpack(&packed, data.len() - 1), None, "{codec:?}: too long");
            assert_eq!(
                unpack(&packed, data.len() + 1),
                None,
                "{codec:?}: too short"
            );
            let longer = [&packed[..], &[0]].concat();
            assert_eq!(
                unpack(&longer, data.len()),
                None,
                "{codec:?}: trailing byte"
            );
            let twice = [&packed[..], &packed[..]].concat();
            assert_eq!(
                unpack(&twice, 2 * data.len()),
                None,
                "{codec:?}: two streams"
            );
            assert_eq!(unpack(&packed[..packed.len() - 1], data.len()), None);
            assert_eq!(
                unpack(&packed, data.len()),
                Some(()),
                "{codec:?}: after failures"
            );
        }
    }

    #[test]
    fn memory_is_a_bound() {
        let mut data = vec![0; crate::CHUNK_SIZE_MAX as usize];
        blake3::Hasher::new()
            .finalize_xof()
            .fill(&mut data[1 << 20..]);
        for level in 1..=19 {
            let mut packer = Packer::new(Codec::Zstd, level).unwrap();
            packer.pack(&data, &mut Vec::new());
            let Packer::Zstd(compressor) = &mut packer else {
                panic!("another codec");
            };
            let taken = compressor.context_mut().sizeof() as u64;
            let bound = memory(Codec::Zstd, level);
            assert!(
                taken <= bound && bound <= taken + (2 << 20),
                "level {level}: {taken}"
            );
        }
    }

    #[test]
    fn other_encoders_are_read() {
        let data = text(300_000);
        let mut unpacker = Unpacker::new().unwrap();
        let mut out = vec![0; data.len()];
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&data).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(unpacker.unpack(Codec::Zlib, &packed, &mut out), Some(()));
        assert_eq!(out, data);
        out.fill(0);
        let packed = zstd::encode_all(&data[..], 19).unwrap();
        assert_eq!(unpacker.unpack(Codec::Zstd, &packed, &mut out), Some(()));
        assert_eq!(out, data);
    }

    #[test]
    fn what_does_not_shrink_is_not_packed() {
        let mut noise = vec![0; 50_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for codec in [Codec::None, Codec::Zstd, Codec::Zlib] {
            for room in [0, 1 << 20] {
                let mut out = Vec::with_capacity(room);
                out.extend_from_slice(b"before");
                assert!(!Packer::new(codec, 3).unwrap().pack(&noise, &mut out));
                assert!(!Packer::new(codec, 3).unwrap().pack(&[], &mut out));
                assert_eq!(out, b"before");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_fill_exactly_or_not_at_all(packed in proptest::collection::vec(any::<u8>(), 0..300), length in 0_usize..5000) {
            let mut unpacker = Unpacker::new().unwrap();
            let mut out = vec![0; length];
            for codec in [Codec::Zstd, Codec::Zlib] {
                let _ = unpacker.unpack(codec, &packed, &mut out);
            }
            prop_assert_eq!(unpacker.unpack(Codec::None, &packed, &mut out).is_some(), packed.len() == length);
        }
    }
}
