//! The datagrams of the probe: PROBE and PROBE-REPLY. `docs/PROTOCOL.md`, section 9, has the tables.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{DecodeError, HEADER_SIZE, MAX_DATAGRAM, VERSION};

const PROBE: u8 = 7;
const PROBE_REPLY: u8 = 8;

/// Bytes of a PROBE-REPLY, and of a PROBE that carries no load: so no answer is larger than what it answers.
pub const PROBE_SIZE: usize = HEADER_SIZE + size_of::<ProbeBody>();

const _: () = assert!(size_of::<ProbeBody>() == 40 && size_of::<ReplyBody>() == 40);

const FLAG_TAKES_PART: u8 = 1;
const FLAG_LOAD: u8 = 2;

/// A datagram, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeDatagram {
    /// From a server.
    Probe(Probe),
    /// From a client.
    Reply(Reply),
}

/// How far the run of a server has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It waits for clients.
    #[default]
    Idle,
    /// Datagrams of different sizes.
    Sizes,
    /// Datagrams at different rates.
    Rates,
    /// The run is over.
    Done,
}

/// The way that a datagram takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// To one machine.
    #[default]
    Unicast,
    /// To the group that is probed.
    Group,
    /// To the group that every machine is in.
    AllHosts,
    /// To the broadcast address.
    Broadcast,
}

impl Way {
    /// Its bit in [`Probe::heard`].
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a server says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// The number of its run: random, not 0; 0 before the first one.
    pub run: u16,
    /// The number of this datagram among all that the server sends to the group; otherwise that of the next one.
    pub sequence: u32,
    /// What a client has to repeat to be sent to.
    pub token: u64,
    /// The client that this answers, or 0.
    pub client: u64,
    /// Rate of the step, in bits per second on the wire.
    pub rate: u64,
    /// Of a load, its number in the step, from 0; otherwise the number of the next one.
    pub number: u32,
    /// Loads of the step before.
    pub before: u32,
    /// Phase of the run.
    pub phase: Phase,
    /// Number of the step in the run, counted through all phases.
    pub step: u8,
    /// Time to live (hop limit) with which the server multicasts.
    pub ttl: u8,
    /// Ways on which the server has heard the client that this answers, see [`Way::bit`].
    pub heard: u8,
    /// The way that this datagram takes.
    pub way: Way,
    /// The client that this answers takes part in the run.
    pub takes_part: bool,
    /// This is one of those that are counted in a step.
    pub load: bool,
    /// Bytes of the datagram, [`PROBE_SIZE`] to [`MAX_DATAGRAM`]; zeros fill it.
    pub size: u16,
}

/// What a client says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The run that it has heard of, or 0.
    pub run: u16,
    /// Random number of the client's run.
    pub client: u64,
    /// The token of the server, or 0 as long as it has heard none.
    pub token: u64,
    /// Datagrams received by the group.
    pub group: u32,
    /// Datagrams received by the group of all machines.
    pub all_hosts: u32,
    /// Loads received of the step.
    pub received: u32,
    /// Loads lost of the step as far as is known, in parts per thousand.
    pub lost: u16,
    /// Bytes of the largest load received.
    pub largest: u16,
    /// The step that it has heard of last.
    pub step: u8,
    /// The way that this datagram takes.
    pub way: Way,
    /// The client has heard enough.
    pub done: bool,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    version: u8,
    kind: u8,
    run: U16,
    sequence: U32,
    zeros: [u8; 24],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ProbeBody {
    token: U64,
    client: U64,
    rate: U64,
    number: U32,
    before: U32,
    phase: u8,
    step: u8,
    ttl: u8,
    heard: u8,
    way: u8,
    flags: u8,
    reserved: [u8; 2],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReplyBody {
    token: U64,
    client: U64,
    group: U32,
    all_hosts: U32,
    received: U32,
    lost: U16,
    largest: U16,
    step: u8,
    way: u8,
    done: u8,
    reserved: [u8; 5],
}

/// Decodes one datagram of the probe.
///
/// # Errors
/// [`DecodeError`] for anything else.
pub fn decode(bytes: &[u8]) -> Result<ProbeDatagram, DecodeError> {
    let length = DecodeError::Length(bytes.len());
    if bytes.len() > MAX_DATAGRAM {
        return Err(length);
    }
    let (header, body) = Header::ref_from_prefix(bytes).map_err(|_| length)?;
    if header.version != VERSION {
        return Err(DecodeError::Version(header.version));
    }
    match header.kind {
        PROBE => {
            let (body, _) = ProbeBody::ref_from_prefix(body).map_err(|_| length)?;
            let size = u16::try_from(bytes.len()).map_err(|_| length)?;
            body.decode(header, size).map(ProbeDatagram::Probe)
        }
        PROBE_REPLY => {
            let body = ReplyBody::ref_from_bytes(body).map_err(|_| length)?;
            body.decode(header).map(ProbeDatagram::Reply)
        }
        other => Err(DecodeError::Type(other)),
    }
}

fn way(number: u8) -> Result<Way, DecodeError> {
    let all = [Way::Unicast, Way::Group, Way::AllHosts, Way::Broadcast];
    let found = all.into_iter().find(|way| *way as u8 == number);
    found.ok_or(DecodeError::Field("the way of a datagram of the probe"))
}

impl ProbeBody {
    fn decode(&self, header: &Header, size: u16) -> Result<Probe, DecodeError> {
        let phases = [Phase::Idle, Phase::Sizes, Phase::Rates, Phase::Done];
        let phase = phases.into_iter().find(|phase| *phase as u8 == self.phase);
        Ok(Probe {
            run: header.run.get(),
            sequence: header.sequence.get(),
            token: self.token.get(),
            client: self.client.get(),
            rate: self.rate.get(),
            number: self.number.get(),
            before: self.before.get(),
            phase: phase.ok_or(DecodeError::Field("the phase of the probe"))?,
            step: self.step,
            ttl: self.ttl,
            heard: self.heard,
            way: way(self.way)?,
            takes_part: self.flags & FLAG_TAKES_PART != 0,
            load: self.flags & FLAG_LOAD != 0,
            size,
        })
    }
}

impl ReplyBody {
    fn decode(&self, header: &Header) -> Result<Reply, DecodeError> {
        Ok(Reply {
            run: header.run.get(),
            client: self.client.get(),
            token: self.token.get(),
            group: self.group.get(),
            all_hosts: self.all_hosts.get(),
            received: self.received.get(),
            lost: self.lost.get(),
            largest: self.largest.get(),
            step: self.step,
            way: way(self.way)?,
            done: self.done & 1 != 0,
        })
    }
}

fn header(kind: u8, run: u16, sequence: u32) -> Header {
    Header {
        version: VERSION,
        kind,
        run: run.into(),
        sequence: sequence.into(),
        zeros: [0; 24],
    }
}

impl Probe {
    /// Appends the datagram.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let end = out.len() + usize::from(self.size).clamp(PROBE_SIZE, MAX_DATAGRAM);
        let takes_part = if self.takes_part { FLAG_TAKES_PART } else { 0 };
        let load = if self.load { FLAG_LOAD } else { 0 };
        let body = ProbeBody {
            token: self.token.into(),
            client: self.client.into(),
            rate: self.rate.into(),
            number: self.number.into(),
            before: self.before.into(),
            phase: self.phase as u8,
            step: self.step,
            ttl: self.ttl,
            heard: self.heard,
            way: self.way as u8,
            flags: takes_part | load,
            reserved: [0; 2],
        };
        out.extend_from_slice(header(PROBE, self.run, self.sequence).as_bytes());
        out.extend_from_slice(body.as_bytes());
        out.resize(end, 0);
    }
}

impl Reply {
    /// Appends the datagram.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let body = ReplyBody {
            token: self.token.into(),
            client: self.client.into(),
            group: self.group.into(),
            all_hosts: self.all_hosts.into(),
            received: self.received.into(),
            lost: self.lost.into(),
            largest: self.largest.into(),
            step: self.step,
            way: self.way as u8,
            done: self.done.into(),
            reserved: [0; 5],
        };
        out.extend_from_slice(header(PROBE_REPLY, self.run, 0).as_bytes());
        out.extend_from_slice(body.as_bytes());
    }
}

impl ProbeDatagram {
    /// Appends the datagram.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Probe(probe) => probe.encode(out),
            Self::Reply(reply) => reply.encode(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        Probe {
            run: 0x1234,
            sequence: 0x0102_0304,
            token: 0x1112_1314_1516_1718,
            client: 0x2122_2324_2526_2728,
            rate: 30_000_000,
            number: 7,
            before: 8,
            phase: Phase::Rates,
            step: 9,
            ttl: 1,
            heard: Way::Unicast.bit() | Way::Broadcast.bit(),
            way: Way::Group,
            takes_part: true,
            load: true,
            size: 1056,
        }
    }

    /// Byte by byte as the table in `docs/PROTOCOL.md` says.
    #[test]
    fn golden() {
        let mut bytes = Vec::new();
        probe().encode(&mut bytes);
        let start: Vec<u8> = [
            &[1, 7, 0x34, 0x12, 4, 3, 2, 1][..],
            &[0; 24],
            &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11],
            &[0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21],
            &[0x80, 0xc3, 0xc9, 1, 0, 0, 0, 0],
            &[7, 0, 0, 0, 8, 0, 0, 0],
            &[2, 9, 1, 9, 1, 3, 0, 0],
        ]
        .concat();
        assert_eq!(bytes[..PROBE_SIZE], start);
        assert_eq!(bytes[PROBE_SIZE..], [0; 1056 - PROBE_SIZE]);
        assert_eq!(decode(&bytes), Ok(ProbeDatagram::Probe(probe())));

        let reply = Reply {
            run: 0x1234,
            client: 5,
            token: 6,
            group: 7,
            all_hosts: 8,
            received: 9,
            lost: 10,
            largest: 1440,
            step: 11,
            way: Way::Broadcast,
            done: true,
        };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        let expected: Vec<u8> = [
            &[1, 8, 0x34, 0x12][..],
            &[0; 28],
            &[6, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0],
            &[10, 0, 0xa0, 5, 11, 3, 1, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes, expected);
        assert_eq!(decode(&bytes), Ok(ProbeDatagram::Reply(reply)));
    }

    #[test]
    fn nothing_else_is_taken() {
        let mut bytes = Vec::new();
        probe().encode(&mut bytes);
        for length in 0..PROBE_SIZE {
            assert_eq!(decode(&bytes[..length]), Err(DecodeError::Length(length)));
        }
        assert!(decode(&[&bytes[..], &[0; 400]].concat()).is_err());
        for (place, value) in [(0, 2), (1, 3), (64, 4), (68, 4)] {
            let mut bytes = bytes.clone();
            bytes[place] = value;
            assert!(decode(&bytes).is_err(), "{value} at {place}");
        }
        let mut reply = Vec::new();
        Reply::default().encode(&mut reply);
        assert!(decode(&[&reply[..], &[0]].concat()).is_err());
        // Others do not know it.
        assert!(crate::wire::decode(&bytes).is_err() && crate::wire::decode(&reply).is_err());
    }
}
