//! The reading half of a client of the NBD protocol (its document: doc/proto.md of the project NetworkBlockDevice/nbd):
//! fixed newstyle handshake, `NBD_OPT_GO`, `NBD_CMD_READ` with simple or structured replies.
//!
//! It is given a stream and opens nothing. Numbers are big-endian. What the other side says is not trusted: lengths are
//! held against what was asked for before anything is made room for.

use std::io::{self, ErrorKind, Read, Write};

const GREETING: u64 = 0x4e42_444d_4147_4943;
const HAVE_OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Handshake flags, of the server and of the client alike.
const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED_REPLY: u32 = 8;

const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
/// Set in all types of replies that are errors.
const REPLY_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

const COMMAND_READ: u16 = 0;
const COMMAND_DISCONNECT: u16 = 2;

const CHUNK_DONE: u16 = 1 << 0;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
/// Set in all types of chunks that are errors.
const CHUNK_ERROR: u16 = 1 << 15;

/// Longest answer to an option that is taken, in bytes. Names and messages may have 4096.
const OPTION_REPLY_MAX: u32 = 64 << 10;

/// Most answers to one option. There are a few kinds of information, each is told once.
const OPTION_REPLIES_MAX: usize = 64;

/// Most bytes of one request: every server takes 32 MiB.
const READ_MAX: usize = 8 << 20;

/// What reading a range came to, the connection itself being in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The buffer is filled.
    Data,
    /// The server could not read it, for this reason (an `errno` of Linux). The buffer may have been written to.
    Error(i32),
}

/// A connection on which the handshake is done.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    size: u64,
    structured: bool,
    handle: u64,
}

impl<S: Read + Write> Connection<S> {
    /// Takes the server's export without a name.
    ///
    /// # Errors
    /// What is wrong with the server's answers, as [`ErrorKind::InvalidData`]; those of the stream.
    pub(crate) fn open(mut stream: S) -> io::Result<Self> {
        if read_u64(&mut stream)? != GREETING || read_u64(&mut stream)? != HAVE_OPTION {
            return Err(invalid("it does not greet as an NBD server does"));
        }
        let flags = read_u16(&mut stream)?;
        if flags & FIXED_NEWSTYLE == 0 {
            return Err(invalid("it only knows an older handshake"));
        }
        let flags = flags & (FIXED_NEWSTYLE | NO_ZEROES);
        stream.write_all(&u32::from(flags).to_be_bytes())?;
        let structured = option(&mut stream, OPTION_STRUCTURED_REPLY, &[], |_| Ok(()))?;
        let mut size = None;
        // A name of no bytes, and no wish for information beyond what is told anyway.
        let taken = option(&mut stream, OPTION_GO, &[0; 6], |info| {
            size = export_size(info)?.or(size);
            Ok(())
        })?;
        let size = size.filter(|_| taken);
        Ok(Self {
            stream,
            size: size.ok_or_else(|| invalid("it does not offer a disk"))?,
            structured,
            handle: 0,
        })
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// Those of the stream, and answers that are against the protocol: then the connection is of no use any more.
    pub(crate) fn read(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<Answer> {
        for (index, part) in buffer.chunks_mut(READ_MAX).enumerate() {
            let answer = self.read_part(part, offset + (index * READ_MAX) as u64)?;
            if answer != Answer::Data {
                return Ok(answer);
            }
        }
        Ok(Answer::Data)
    }

    fn read_part(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<Answer> {
        // At most `READ_MAX`.
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        self.request(COMMAND_READ, offset, length)?;
        if self.structured {
            return self.structured_reply(buffer, offset);
        }
        if read_u32(&mut self.stream)? != SIMPLE_REPLY {
            return Err(invalid("an answer does not begin as one"));
        }
        let error = read_u32(&mut self.stream)?;
        self.check_handle()?;
        if error != 0 {
            return Ok(Answer::Error(errno(error)));
        }
        self.stream.read_exact(buffer)?;
        Ok(Answer::Data)
    }

    fn request(&mut self, command: u16, offset: u64, length: u32) -> io::Result<()> {
        self.handle += 1;
        let mut message = [0; 28];
        let mut rest = &mut message[..];
        rest.write_all(&REQUEST.to_be_bytes())?;
        rest.write_all(&[0; 2])?;
        rest.write_all(&command.to_be_bytes())?;
        rest.write_all(&self.handle.to_be_bytes())?;
        rest.write_all(&offset.to_be_bytes())?;
        rest.write_all(&length.to_be_bytes())?;
        self.stream.write_all(&message)
    }

    fn check_handle(&mut self) -> io::Result<()> {
        match read_u64(&mut self.stream)? == self.handle {
            true => Ok(()),
            false => Err(invalid("an answer is to another request")),
        }
    }

    /// Reads the chunks of an answer. They may come in any order, and tile what was asked for.
    fn structured_reply(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<Answer> {
        let mut missing = Missing::all(buffer.len());
        let mut failed = None;
        loop {
            if read_u32(&mut self.stream)? != STRUCTURED_REPLY {
                return Err(invalid("an answer does not begin as one"));
            }
            let flags = read_u16(&mut self.stream)?;
            let kind = read_u16(&mut self.stream)?;
            self.check_handle()?;
            let length = read_u32(&mut self.stream)?;
            match kind {
                CHUNK_NONE if length == 0 && flags & CHUNK_DONE != 0 => {}
                CHUNK_DATA => {
                    let bytes = length.checked_sub(8).filter(|&bytes| bytes > 0);
                    let bytes = bytes.ok_or_else(|| invalid("an answer without data"))?;
                    let at = read_u64(&mut self.stream)?;
                    let part = missing.take(buffer, offset, at, bytes)?;
                    self.stream.read_exact(part)?;
                }
                CHUNK_HOLE if length == 12 => {
                    let at = read_u64(&mut self.stream)?;
                    let bytes = read_u32(&mut self.stream)?;
                    missing.take(buffer, offset, at, bytes)?.fill(0);
                }
                kind if kind & CHUNK_ERROR != 0 && (4..=OPTION_REPLY_MAX).contains(&length) => {
                    failed = Some(read_u32(&mut self.stream)?);
                    skip(&mut self.stream, u64::from(length) - 4)?;
                }
                _ => return Err(invalid("an answer of an unknown kind")),
            }
            if flags & CHUNK_DONE != 0 {
                break;
            }
        }
        match failed {
            Some(error) => Ok(Answer::Error(errno(error))),
            None if missing.is_empty() => Ok(Answer::Data),
            None => Err(invalid("an answer is not whole")),
        }
    }

    /// Says that no request follows.
    pub(crate) fn close(mut self) {
        // A server that has gone needs not be told.
        let _ = self.request(COMMAND_DISCONNECT, 0, 0);
    }
}

/// The bytes of a request that have not come yet: sorted and disjoint ranges.
struct Missing(Vec<(usize, usize)>);

impl Missing {
    fn all(length: usize) -> Self {
        Self(vec![(0, length)])
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|(start, end)| start == end)
    }

    /// The place of `bytes` bytes that stand at `at` of the disk, in a buffer that begins at `offset` of it.
    fn take<'a>(
        &mut self,
        buffer: &'a mut [u8],
        offset: u64,
        at: u64,
        bytes: u32,
    ) -> io::Result<&'a mut [u8]> {
        let wrong = || invalid("an answer is about other bytes than were asked for");
        let place = |position: u64| usize::try_from(position).map_err(|_| wrong());
        let start = place(at.checked_sub(offset).ok_or_else(wrong)?)?;
        let end = start.checked_add(place(bytes.into())?).ok_or_else(wrong)?;
        let holding = self
            .0
            .iter()
            .position(|&(from, to)| from <= start && end <= to)
            .filter(|_| start < end)
            .ok_or_else(wrong)?;
        let (from, to) = self.0.remove(holding);
        for left in [(end, to), (from, start)] {
            if left.0 < left.1 {
                self.0.insert(holding, left);
            }
        }
        buffer.get_mut(start..end).ok_or_else(wrong)
    }
}

/// Asks for an option; `info` is given the information that comes with the answer. Whether the server agrees.
fn option<S: Read + Write>(
    stream: &mut S,
    option: u32,
    data: &[u8],
    mut info: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(16 + data.len());
    message.extend_from_slice(&HAVE_OPTION.to_be_bytes());
    message.extend_from_slice(&option.to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(data);
    stream.write_all(&message)?;
    for _ in 0..OPTION_REPLIES_MAX {
        if read_u64(stream)? != OPTION_REPLY || read_u32(stream)? != option {
            return Err(invalid("an answer to an option does not begin as one"));
        }
        let kind = read_u32(stream)?;
        let length = read_u32(stream)?;
        if length > OPTION_REPLY_MAX {
            return Err(invalid("an answer to an option is too long"));
        }
        let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
        stream.read_exact(&mut data)?;
        match kind {
            REPLY_ACK => return Ok(true),
            REPLY_INFO => info(&data)?,
            kind if kind & REPLY_ERROR != 0 => return Ok(false),
            // What a server volunteers can be passed over.
            _ => {}
        }
    }
    Err(invalid("answers to an option do not end"))
}

/// The size of the disk, if this information is about that.
fn export_size(info: &[u8]) -> io::Result<Option<u64>> {
    let Some((kind, rest)) = info.split_first_chunk::<2>() else {
        return Err(invalid("information of no kind"));
    };
    if u16::from_be_bytes(*kind) != INFO_EXPORT {
        return Ok(None);
    }
    match rest.split_first_chunk::<8>() {
        Some((size, flags)) if flags.len() == 2 => Ok(Some(u64::from_be_bytes(*size))),
        _ => Err(invalid("information about the disk has a wrong length")),
    }
}

/// The protocol's error numbers are those of Linux; another one becomes `EIO`.
fn errno(error: u32) -> i32 {
    i32::try_from(error)
        .ok()
        .filter(|error| (1..4096).contains(error))
        .unwrap_or(5)
}

fn skip(stream: &mut impl Read, length: u64) -> io::Result<()> {
    match io::copy(&mut stream.take(length), &mut io::sink())? == length {
        true => Ok(()),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("NBD server: {what}"))
}

fn read<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_u16(stream: &mut impl Read) -> io::Result<u16> {
    read(stream).map(u16::from_be_bytes)
}

fn read_u32(stream: &mut impl Read) -> io::Result<u32> {
    read(stream).map(u32::from_be_bytes)
}

fn read_u64(stream: &mut impl Read) -> io::Result<u64> {
    read(stream).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A server that says what it was to say, whatever it is asked.
    struct Script(Cursor<Vec<u8>>);

    impl Script {
        fn new(bytes: Vec<u8>) -> Self {
            Self(Cursor::new(bytes))
        }
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Bytes of numbers with their widths, as the protocol's document lists them.
    fn wire(fields: &[(u64, usize)]) -> Vec<u8> {
        let bytes = fields.iter().map(|&(number, width)| {
            let bytes = number.to_be_bytes();
            bytes[8 - width..].to_vec()
        });
        bytes.flatten().collect()
    }

    fn greeting(structured: bool, size: u64) -> Vec<u8> {
        let mut bytes = wire(&[(GREETING, 8), (HAVE_OPTION, 8), (3, 2)]);
        let answer = if structured { 1 } else { 0x8000_0001 };
        bytes.extend(wire(&[(OPTION_REPLY, 8), (8, 4), (answer, 4), (0, 4)]));
        bytes.extend(wire(&[(OPTION_REPLY, 8), (7, 4), (3, 4), (12, 4)]));
        bytes.extend(wire(&[(0, 2), (size, 8), (3, 2)]));
        bytes.extend(wire(&[(OPTION_REPLY, 8), (7, 4), (1, 4), (0, 4)]));
        bytes
    }

    fn chunk(done: bool, kind: u64, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u64;
        let mut bytes = wire(&[
            (STRUCTURED_REPLY.into(), 4),
            (done.into(), 2),
            (kind, 2),
            (1, 8),
            (length, 4),
        ]);
        bytes.extend(payload);
        bytes
    }

    fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
        let mut payload = wire(&[(at, 8)]);
        payload.extend(bytes);
        payload
    }

    fn read_after(structured: bool, answer: &[u8]) -> (io::Result<Answer>, [u8; 8]) {
        let mut bytes = greeting(structured, 1 << 30);
        bytes.extend(answer);
        let mut connection = Connection::open(Script::new(bytes)).unwrap();
        assert_eq!(connection.size(), 1 << 30);
        let mut buffer = [0xff; 8];
        (connection.read(&mut buffer, 512), buffer)
    }

    #[test]
    fn simple_answers() {
        let mut answer = wire(&[(SIMPLE_REPLY.into(), 4), (0, 4), (1, 8)]);
        answer.extend(b"contents");
        let (found, buffer) = read_after(false, &answer);
        assert_eq!(found.unwrap(), Answer::Data);
        assert_eq!(&buffer, b"contents");
        let answer = wire(&[(SIMPLE_REPLY.into(), 4), (5, 4), (1, 8)]);
        assert_eq!(read_after(false, &answer).0.unwrap(), Answer::Error(5));
        let answer = wire(&[(SIMPLE_REPLY.into(), 4), (0, 4), (2, 8), (0, 8)]);
        assert!(read_after(false, &answer).0.is_err(), "another handle");
    }

    #[test]
    fn structured_answers_in_any_order() {
        let hole = wire(&[(512, 8), (4, 4)]);
        let answer = [chunk(false, 1, &data(516, b"tail")), chunk(true, 2, &hole)].concat();
        let (found, buffer) = read_after(true, &answer);
        assert_eq!(found.unwrap(), Answer::Data);
        assert_eq!(&buffer, b"\0\0\0\0tail");
        let hole = wire(&[(512, 8), (8, 4)]);
        let answer = [chunk(false, 2, &hole), chunk(true, 0, &[])].concat();
        assert_eq!(read_after(true, &answer).0.unwrap(), Answer::Data);
        let error = chunk(true, 0x8001, &wire(&[(5, 4), (3, 2), (0x62_6164, 3)]));
        assert_eq!(read_after(true, &error).0.unwrap(), Answer::Error(5));
    }

    #[test]
    fn structured_answers_that_do_not_fit() {
        for answer in [
            // Too little, too much, twice, elsewhere, nothing, of an unknown kind.
            chunk(true, 1, &data(512, b"half")),
            chunk(true, 1, &data(512, b"more than half")),
            [
                chunk(false, 1, &data(512, b"contents")),
                chunk(true, 1, &data(514, b"c")),
            ]
            .concat(),
            chunk(true, 1, &data(508, b"contents")),
            chunk(true, 1, &data(u64::MAX, b"contents")),
            chunk(true, 2, &wire(&[(512, 8), (0, 4)])),
            chunk(true, 0, &[]),
            chunk(true, 5, &[0; 12]),
        ] {
            assert!(read_after(true, &answer).0.is_err(), "{answer:?}");
        }
    }

    proptest! {
        /// Whatever is there instead of a server, at whatever moment: an answer or an error, in the end.
        #[test]
        fn any_bytes(noise in prop::collection::vec(any::<u8>(), 0..300), from in 0_usize..120, structured: bool) {
            let mut bytes = greeting(structured, 1 << 20);
            bytes.truncate(from);
            bytes.extend(&noise);
            if let Ok(mut connection) = Connection::open(Script::new(bytes)) {
                let _ = connection.read(&mut [0; 64], 0);
            }
        }

        /// Answers that are nearly right.
        #[test]
        fn nearly_answers(place: prop::sample::Index, byte: u8, structured: bool) {
            let mut bytes = greeting(structured, 1 << 20);
            match structured {
                true => {
                    bytes.extend(chunk(false, 1, &data(512, b"half")));
                    bytes.extend(chunk(true, 2, &wire(&[(516, 8), (4, 4)])));
                }
                false => {
                    bytes.extend(wire(&[(SIMPLE_REPLY.into(), 4), (0, 4), (1, 8), (0, 8)]));
                }
            }
            let at = place.index(bytes.len());
            bytes[at] = byte;
            if let Ok(mut connection) = Connection::open(Script::new(bytes)) {
                let _ = connection.read(&mut [0; 8], 512);
            }
        }

        /// What is taken in pieces of any order is the whole, once.
        #[test]
        fn pieces_tile_the_request(cuts in prop::collection::btree_set(1_usize..200, 0..20), seed: u64) {
            let mut edges: Vec<usize> = cuts.into_iter().collect();
            edges.insert(0, 0);
            edges.push(200);
            let mut pieces: Vec<(usize, usize)> = edges.windows(2).map(|pair| (pair[0], pair[1])).collect();
            let turn = usize::try_from(seed % 1000).unwrap() % pieces.len();
            pieces.rotate_left(turn);
            let mut buffer = vec![0_u8; 200];
            let mut missing = Missing::all(200);
            for &(start, end) in &pieces {
                prop_assert!(!missing.is_empty());
                let bytes = u32::try_from(end - start).unwrap();
                missing.take(&mut buffer, 7, 7 + start as u64, bytes).unwrap().fill(1);
            }
            prop_assert!(missing.is_empty() && buffer.iter().all(|&byte| byte == 1));
            prop_assert!(missing.take(&mut buffer, 7, 7, 1).is_err());
        }
    }
}
