//! The datagrams: their bytes and nothing else. `docs/PROTOCOL.md`, section 2, has the tables.
//!
//! Decoding checks every length and refuses what it does not know; it borrows, and allocates only the list of a
//! REQUEST's items, of which there are at most [`MAX_ITEMS`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use chunkfmt::BLOCK_SIZE;
use chunkfmt::tree::{Cv, NodeId};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the protocol.
pub const VERSION: u8 = 1;
/// Bytes of the header of every datagram.
pub const HEADER_SIZE: usize = 32;
/// Bytes of a DATA or PROOF datagram.
pub const SEGMENT_SIZE: usize = HEADER_SIZE + BLOCK_SIZE;
/// Most bytes of any datagram: UDP payload of a 1500-byte Ethernet frame over IPv6.
pub const MAX_DATAGRAM: usize = 1452;
/// Most items of a REQUEST.
pub const MAX_ITEMS: usize = 64;
/// Objects that the promise of an ANNOUNCE covers.
pub const PROMISE_OBJECTS: u32 = 512;
/// Objects whose queued parity blocks an ANNOUNCE names.
pub const MAX_REPAIRS: usize = 16;
/// Bytes of an ANNOUNCE.
pub const ANNOUNCE_SIZE: usize = HEADER_SIZE + size_of::<AnnounceBody>() + BLOCK_SIZE;
/// Bytes of a CHALLENGE: less than any REQUEST has.
pub const CHALLENGE_SIZE: usize = HEADER_SIZE + 16;

const ANNOUNCE: u8 = 1;
const REQUEST: u8 = 2;
const DATA: u8 = 3;
const PROOF: u8 = 4;
const PARITY: u8 = 5;
const CHALLENGE: u8 = 6;

const FLAG_IDLE: u32 = 1;
const FLAG_LANE: u32 = 2;
const FLAG_DONE: u32 = 1;
const FLAG_UNICAST: u32 = 2;

const ITEM_WHOLE: u8 = 0;
const ITEM_BLOCKS: u8 = 1;
const ITEM_NODE: u8 = 2;
const ITEM_PARITY: u8 = 3;

/// A datagram, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Number of the server's run; in a REQUEST that of the server it answers.
    pub stream: u16,
    /// Number of this datagram in its stream; in a REQUEST the next one that the client expects.
    pub sequence: u32,
    /// The image.
    pub uuid: [u8; 16],
    /// What it says.
    pub message: Message<'a>,
}

/// The kinds of datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The server's state and the image's head.
    Announce(Announce, &'a [u8; BLOCK_SIZE]),
    /// What a client lacks.
    Request(RequestHead, Vec<Item<'a>>),
    /// One block of an object.
    Data(u32, u32, &'a [u8; BLOCK_SIZE]),
    /// The chaining values of one tree node's children, zeros behind them.
    Proof(u32, NodeId, &'a [u8; BLOCK_SIZE]),
    /// One parity block of an object.
    Parity(u32, ParityBlock<'a>),
    /// What a client has to repeat to get datagrams of its own: it proves that it is at its address.
    Challenge(Challenge),
}

/// A server's answer to a REQUEST for datagrams of its own from an address that is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// [`RequestHead::client`] of the REQUEST: who has not seen that cannot answer it.
    pub client: u64,
    /// The token to repeat; never 0.
    pub token: u64,
}

/// A parity block, with what proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParityBlock<'a> {
    /// Its number among the object's parity blocks, from 0.
    pub index: u16,
    /// Parity blocks of this object that are queued behind it.
    pub queued: u16,
    /// The block.
    pub bytes: &'a [u8; BLOCK_SIZE],
    /// The values beside the way from the block to the parity root, from the block up; zeros behind them.
    pub path: &'a [Cv],
}

/// Parity blocks of one object that a server has queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// The object, never 0.
    pub object: u32,
    /// Parity blocks that are going to be sent.
    pub parity: u16,
}

/// The server's state in an ANNOUNCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Rate that the server aims at, bits per second on the wire.
    pub rate: u64,
    /// The object that is sent whole next, unless the queue is empty.
    pub cursor: u32,
    /// Objects that have something queued.
    pub queued: u32,
    /// Nothing is queued: whatever a client still lacks, it has to ask for.
    pub idle: bool,
    /// This stream goes to the address of one client alone.
    pub lane: bool,
    /// Bit `i` is set if object `cursor + i` is going to be sent whole.
    pub promise: [u8; PROMISE_OBJECTS as usize / 8],
    /// Where requests go, if not to the source of this datagram.
    pub request_address: Option<SocketAddr>,
    /// The server's clock, in microseconds; wraps.
    pub time: u32,
    /// The longest round trip to most of the clients, in microseconds.
    pub grtt: u32,
    /// Clients that there seem to be.
    pub receivers: u32,
    /// Objects that have parity blocks queued, as many as have room; behind them entries of object 0.
    pub repairs: [Repair; MAX_REPAIRS],
}

impl Announce {
    /// Parity blocks of an object that are going to be sent, as far as the ANNOUNCE says.
    pub fn parity_queued(&self, object: u32) -> u16 {
        let named = self.repairs.iter().find(|repair| repair.object == object);
        named.map_or(0, |repair| repair.parity)
    }

    /// Whether an object is going to be sent whole.
    pub fn promises(&self, object: u32) -> bool {
        let Some(place) = object.checked_sub(self.cursor) else {
            return false;
        };
        self.promise
            .get((place / 8) as usize)
            .is_some_and(|byte| byte >> (place % 8) & 1 == 1)
    }
}

/// What a REQUEST says about its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// Random number of the client's run.
    pub client: u64,
    /// The client has everything.
    pub done: bool,
    /// Datagrams of this stream received since the client's last REQUEST.
    pub received: u32,
    /// Datagrams missing among them.
    pub lost: u32,
    /// Blocks that the client has free buffers for.
    pub free_blocks: u32,
    /// Objects that the client has, object 0 included.
    pub objects_done: u32,
    /// Those of them that it has done with: they are on its disk.
    pub objects_written: u32,
    /// Of the missing datagrams, those that its own system dropped because it was busy.
    pub dropped: u32,
    /// Blocks that passed since the last REQUEST while it had no buffer free.
    pub no_buffer: u32,
    /// The [`Announce::time`] heard last, and the microseconds that have passed since; `None` if there is none.
    pub echo: Option<(u32, u32)>,
    /// Datagrams shall be sent to this client alone; see [`Message::Challenge`].
    pub unicast: bool,
    /// The token of the last CHALLENGE, or 0.
    pub token: u64,
}

/// One thing that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// The whole object with its proofs (without level 0).
    Whole {
        /// The object.
        object: u32,
    },
    /// Some of its blocks.
    Blocks {
        /// The object.
        object: u32,
        /// The block of the first bit.
        first: u32,
        /// Bit `b` of byte `i`, from the least significant, is block `first + 8 * i + b`; set means wanted.
        bitmap: &'a [u8],
    },
    /// One proof.
    Node {
        /// The object.
        object: u32,
        /// The node.
        node: NodeId,
    },
    /// Any parity blocks that were not sent before what this client has heard.
    Parity {
        /// The object.
        object: u32,
        /// How many, at least 1.
        count: u16,
    },
}

impl Item<'_> {
    /// The object asked for.
    pub fn object(&self) -> u32 {
        match *self {
            Self::Whole { object }
            | Self::Blocks { object, .. }
            | Self::Node { object, .. }
            | Self::Parity { object, .. } => object,
        }
    }
}

/// Why bytes are not a datagram of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter or longer than its kind is, or an item reaches beyond the end.
    #[error("a datagram of {0} bytes: not a length that its type has")]
    Length(usize),
    /// Not [`VERSION`].
    #[error("protocol version {0}: this program speaks version {VERSION}")]
    Version(u8),
    /// Not a type of this version.
    #[error("datagram type {0} is unknown")]
    Type(u8),
    /// A field has a value that this version does not have.
    #[error("{0} has a value that is unknown")]
    Field(&'static str),
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Header {
    version: u8,
    kind: u8,
    stream: U16,
    sequence: U32,
    uuid: [u8; 16],
    object: U32,
    position: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct AnnounceBody {
    rate: U64,
    cursor: U32,
    queued: U32,
    flags: U32,
    family: U16,
    port: U16,
    address: [u8; 16],
    promise: [u8; PROMISE_OBJECTS as usize / 8],
    time: U32,
    grtt: U32,
    receivers: U32,
    repairs: [RepairEntry; MAX_REPAIRS],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RepairEntry {
    object: U32,
    parity: U16,
    reserved: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RequestBody {
    client: U64,
    token: U64,
    flags: U32,
    received: U32,
    lost: U32,
    dropped: U32,
    no_buffer: U32,
    free_blocks: U32,
    objects_done: U32,
    objects_written: U32,
    echo: U32,
    held: U32,
    items: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct ChallengeBody {
    client: U64,
    token: U64,
}

/// [`RequestBody::held`] of a client that has heard no ANNOUNCE.
const NOT_HEARD: u32 = u32::MAX;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct ItemHead {
    object: U32,
    position: U32,
    kind: u8,
    reserved: u8,
    length: U16,
}

/// Whether these bytes are a REQUEST, as far as the header says, for datagrams to its sender alone.
pub fn asks_for_lane(bytes: &[u8]) -> bool {
    let Ok((header, body)) = Header::ref_from_prefix(bytes) else {
        return false;
    };
    let body = RequestBody::ref_from_prefix(body);
    header.kind == REQUEST && body.is_ok_and(|(body, _)| body.flags.get() & FLAG_UNICAST != 0)
}

/// Decodes one datagram.
///
/// # Errors
/// [`DecodeError`] for anything that is not exactly one datagram of this version.
pub fn decode(bytes: &[u8]) -> Result<Datagram<'_>, DecodeError> {
    let length = DecodeError::Length(bytes.len());
    if bytes.len() > MAX_DATAGRAM {
        return Err(length);
    }
    let (header, body) = Header::ref_from_prefix(bytes).map_err(|_| length)?;
    if header.version != VERSION {
        return Err(DecodeError::Version(header.version));
    }
    let (object, position) = (header.object.get(), header.position.get());
    let block = || <&[u8; BLOCK_SIZE]>::try_from(body).map_err(|_| length);
    let message = match header.kind {
        ANNOUNCE => {
            let (announce, head) = AnnounceBody::ref_from_prefix(body).map_err(|_| length)?;
            Message::Announce(announce.decode()?, head.try_into().map_err(|_| length)?)
        }
        REQUEST => {
            let (request, items) = RequestBody::ref_from_prefix(body).map_err(|_| length)?;
            Message::Request(
                request.decode(),
                decode_items(request.items.get(), items, length)?,
            )
        }
        DATA => Message::Data(object, position, block()?),
        PROOF => Message::Proof(object, node_at(position), block()?),
        PARITY => {
            let (bytes, path) = body.split_first_chunk().ok_or(length)?;
            let (path, []) = path.as_chunks() else {
                return Err(length);
            };
            let [a, b, c, d] = position.to_le_bytes();
            let (index, queued) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
            Message::Parity(
                object,
                ParityBlock {
                    index,
                    queued,
                    bytes,
                    path,
                },
            )
        }
        CHALLENGE => {
            let body = ChallengeBody::ref_from_bytes(body).map_err(|_| length)?;
            Message::Challenge(Challenge {
                client: body.client.get(),
                token: body.token.get(),
            })
        }
        other => return Err(DecodeError::Type(other)),
    };
    Ok(Datagram {
        stream: header.stream.get(),
        sequence: header.sequence.get(),
        uuid: header.uuid,
        message,
    })
}

impl AnnounceBody {
    fn decode(&self) -> Result<Announce, DecodeError> {
        let [a, b, c, d, ..] = self.address;
        let address = match self.family.get() {
            0 => None,
            4 => Some(IpAddr::from(Ipv4Addr::new(a, b, c, d))),
            6 => Some(IpAddr::from(Ipv6Addr::from(self.address))),
            _ => return Err(DecodeError::Field("the family of the request address")),
        };
        Ok(Announce {
            rate: self.rate.get(),
            cursor: self.cursor.get(),
            queued: self.queued.get(),
            idle: self.flags.get() & FLAG_IDLE != 0,
            lane: self.flags.get() & FLAG_LANE != 0,
            promise: self.promise,
            request_address: address.map(|address| SocketAddr::new(address, self.port.get())),
            time: self.time.get(),
            grtt: self.grtt.get(),
            receivers: self.receivers.get(),
            repairs: self.repairs.map(|entry| Repair {
                object: entry.object.get(),
                parity: entry.parity.get(),
            }),
        })
    }
}

impl RequestBody {
    fn decode(&self) -> RequestHead {
        RequestHead {
            client: self.client.get(),
            done: self.flags.get() & FLAG_DONE != 0,
            received: self.received.get(),
            lost: self.lost.get(),
            free_blocks: self.free_blocks.get(),
            objects_done: self.objects_done.get(),
            objects_written: self.objects_written.get(),
            dropped: self.dropped.get(),
            no_buffer: self.no_buffer.get(),
            echo: (self.held.get() != NOT_HEARD).then(|| (self.echo.get(), self.held.get())),
            unicast: self.flags.get() & FLAG_UNICAST != 0,
            token: self.token.get(),
        }
    }
}

fn decode_items(
    count: u32,
    mut bytes: &[u8],
    length: DecodeError,
) -> Result<Vec<Item<'_>>, DecodeError> {
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= MAX_ITEMS);
    let count = count.ok_or(DecodeError::Field("the number of items"))?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let (head, rest) = ItemHead::ref_from_prefix(bytes).map_err(|_| length)?;
        let (bitmap, rest) = rest
            .split_at_checked(head.length.get().into())
            .ok_or(length)?;
        bytes = rest;
        let (object, position) = (head.object.get(), head.position.get());
        items.push(match (head.kind, bitmap) {
            (ITEM_WHOLE, []) => Item::Whole { object },
            (ITEM_BLOCKS, [_, ..]) => Item::Blocks {
                object,
                first: position,
                bitmap,
            },
            (ITEM_NODE, []) => Item::Node {
                object,
                node: node_at(position),
            },
            (ITEM_PARITY, []) => Item::Parity {
                object,
                count: u16::try_from(position)
                    .ok()
                    .filter(|&count| count > 0)
                    .ok_or(DecodeError::Field("the number of parity blocks"))?,
            },
            _ => return Err(DecodeError::Field("an item")),
        });
    }
    if bytes.is_empty() {
        Ok(items)
    } else {
        Err(length)
    }
}

fn node_at(position: u32) -> NodeId {
    let [a, b, c, level] = position.to_le_bytes();
    NodeId {
        level,
        index: u32::from_le_bytes([a, b, c, 0]),
    }
}

fn node_position(node: NodeId) -> u32 {
    let [a, b, c, _] = node.index.to_le_bytes();
    u32::from_le_bytes([a, b, c, node.level])
}

/// What all datagrams of one stream have in common.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Number of the server's run.
    pub number: u16,
    /// The image.
    pub uuid: [u8; 16],
}

impl Stream {
    fn header(&self, kind: u8, sequence: u32, object: u32, position: u32) -> Header {
        Header {
            version: VERSION,
            kind,
            stream: self.number.into(),
            sequence: sequence.into(),
            uuid: self.uuid,
            object: object.into(),
            position: position.into(),
        }
    }

    /// Appends a DATA datagram.
    pub fn data(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        object: u32,
        block: u32,
        bytes: &[u8; BLOCK_SIZE],
    ) {
        out.extend_from_slice(self.header(DATA, sequence, object, block).as_bytes());
        out.extend_from_slice(bytes);
    }

    /// Appends a PROOF datagram. `children` are at most [`chunkfmt::tree::NODE_CHILDREN`].
    pub fn proof(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        object: u32,
        node: NodeId,
        children: &[Cv],
    ) {
        let end = out.len() + SEGMENT_SIZE;
        out.extend_from_slice(
            self.header(PROOF, sequence, object, node_position(node))
                .as_bytes(),
        );
        out.extend(children.iter().flatten());
        out.resize(end, 0);
    }

    /// Appends a PARITY datagram, whose path has room for `depth` values: as many as the longest one of the object has.
    pub fn parity(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        object: u32,
        block: &ParityBlock<'_>,
        depth: usize,
    ) {
        let end = out.len() + SEGMENT_SIZE + depth * size_of::<Cv>();
        let position = u32::from(block.queued) << 16 | u32::from(block.index);
        out.extend_from_slice(self.header(PARITY, sequence, object, position).as_bytes());
        out.extend_from_slice(block.bytes);
        out.extend_from_slice(block.path.as_flattened());
        out.resize(end, 0);
    }

    /// A CHALLENGE datagram: shorter than any REQUEST, so that whoever gives a false address gains nothing.
    pub fn challenge(&self, challenge: Challenge) -> Vec<u8> {
        let header = self.header(CHALLENGE, 0, 0, 0);
        let body = ChallengeBody {
            client: challenge.client.into(),
            token: challenge.token.into(),
        };
        [header.as_bytes(), body.as_bytes()].concat()
    }

    /// Appends an ANNOUNCE datagram.
    pub fn announce(
        &self,
        out: &mut Vec<u8>,
        sequence: u32,
        announce: &Announce,
        head: &[u8; BLOCK_SIZE],
    ) {
        let mut address = [0; 16];
        let (family, port) = match announce.request_address {
            None => (0, 0),
            Some(SocketAddr::V4(v4)) => {
                address[..4].copy_from_slice(&v4.ip().octets());
                (4, v4.port())
            }
            Some(SocketAddr::V6(v6)) => {
                address = v6.ip().octets();
                (6, v6.port())
            }
        };
        let idle = if announce.idle { FLAG_IDLE } else { 0 };
        let lane = if announce.lane { FLAG_LANE } else { 0 };
        let body = AnnounceBody {
            rate: announce.rate.into(),
            cursor: announce.cursor.into(),
            queued: announce.queued.into(),
            flags: (idle | lane).into(),
            family: family.into(),
            port: port.into(),
            address,
            promise: announce.promise,
            time: announce.time.into(),
            grtt: announce.grtt.into(),
            receivers: announce.receivers.into(),
            repairs: announce.repairs.map(|repair| RepairEntry {
                object: repair.object.into(),
                parity: repair.parity.into(),
                reserved: 0.into(),
            }),
        };
        out.extend_from_slice(self.header(ANNOUNCE, sequence, 0, 0).as_bytes());
        out.extend_from_slice(body.as_bytes());
        out.extend_from_slice(head);
    }
}

/// Collects the items of a REQUEST until it is full.
#[derive(Debug, Default)]
pub struct RequestItems {
    bytes: Vec<u8>,
    count: u32,
}

impl RequestItems {
    /// Most bytes that all items of one REQUEST have together.
    pub const MAX_BYTES: usize = MAX_DATAGRAM - HEADER_SIZE - size_of::<RequestBody>();
    /// Bytes of an item beside its bitmap.
    const ITEM_BYTES: usize = size_of::<ItemHead>();

    /// Adds an item. False, and nothing is added, if there is no room for it.
    #[must_use]
    pub fn push(&mut self, item: &Item<'_>) -> bool {
        let (kind, position, bitmap): (_, _, &[u8]) = match *item {
            Item::Whole { .. } => (ITEM_WHOLE, 0, &[]),
            Item::Blocks { first, bitmap, .. } => (ITEM_BLOCKS, first, bitmap),
            Item::Node { node, .. } => (ITEM_NODE, node_position(node), &[]),
            Item::Parity { count, .. } => (ITEM_PARITY, count.into(), &[]),
        };
        let Ok(length) = u16::try_from(bitmap.len()) else {
            return false;
        };
        if self.count as usize == MAX_ITEMS
            || self.bytes.len() + Self::ITEM_BYTES + bitmap.len() > Self::MAX_BYTES
        {
            return false;
        }
        let object = item.object().into();
        let head = ItemHead {
            object,
            position: position.into(),
            kind,
            reserved: 0,
            length: length.into(),
        };
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(bitmap);
        self.count += 1;
        true
    }

    /// Whether there is no item yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The REQUEST with these items.
    pub fn encode(&self, stream: &Stream, sequence: u32, head: &RequestHead) -> Vec<u8> {
        let done = if head.done { FLAG_DONE } else { 0 };
        let unicast = if head.unicast { FLAG_UNICAST } else { 0 };
        let (echo, held) = head.echo.unwrap_or((0, NOT_HEARD));
        let body = RequestBody {
            client: head.client.into(),
            token: head.token.into(),
            flags: (done | unicast).into(),
            received: head.received.into(),
            lost: head.lost.into(),
            dropped: head.dropped.into(),
            no_buffer: head.no_buffer.into(),
            free_blocks: head.free_blocks.into(),
            objects_done: head.objects_done.into(),
            objects_written: head.objects_written.into(),
            echo: echo.into(),
            held: held.into(),
            items: self.count.into(),
        };
        let header = stream.header(REQUEST, sequence, 0, 0);
        [header.as_bytes(), body.as_bytes(), &self.bytes].concat()
    }
}
