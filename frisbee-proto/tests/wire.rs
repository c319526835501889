//! The wire format: what is encoded is decoded again, and arbitrary bytes never do harm.

use std::net::SocketAddr;

use chunkfmt::tree::NodeId;
use frisbee_proto::wire::{
    self, ANNOUNCE_SIZE, Announce, Challenge, DecodeError, HEADER_SIZE, Item, MAX_ITEMS,
    MAX_REPAIRS, Message, ParityBlock, Repair, RequestHead, RequestItems, SEGMENT_SIZE, Stream,
};
use proptest::prelude::*;

const STREAM: Stream = Stream {
    number: 0x1234,
    uuid: [0xab; 16],
};

fn address() -> impl Strategy<Value = Option<SocketAddr>> {
    let v4 = any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
    let v6 = any::<([u8; 16], u16)>().prop_map(SocketAddr::from);
    prop::option::of(prop_oneof![v4, v6])
}

fn item() -> impl Strategy<Value = (u8, u32, u32, Vec<u8>)> {
    (
        0u8..4,
        any::<u32>(),
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 1..300),
    )
}

fn as_item(parts: &(u8, u32, u32, Vec<u8>)) -> Item<'_> {
    let (kind, object, position, ref bitmap) = *parts;
    match kind {
        0 => Item::Whole { object },
        1 => Item::Blocks {
            object,
            first: position,
            bitmap,
        },
        2 => Item::Parity {
            object,
            count: u16::try_from(position & 0xffff).unwrap_or(1).max(1),
        },
        _ => Item::Node {
            object,
            node: NodeId {
                level: (position >> 24) as u8,
                index: position & 0xff_ffff,
            },
        },
    }
}

proptest! {
    #[test]
    fn announces_come_back(
        (rate, cursor, queued, idle, lane) in any::<(u64, u32, u32, bool, bool)>(),
        promise in prop::collection::vec(any::<u8>(), 64),
        request_address in address(),
        (sequence, fill) in any::<(u32, u8)>(),
        (time, grtt, receivers) in any::<(u32, u32, u32)>(),
        repairs in any::<[(u32, u16); MAX_REPAIRS]>(),
    ) {
        let promise = promise.try_into().unwrap();
        let repairs = repairs.map(|(object, parity)| Repair { object, parity });
        let announce = Announce { rate, cursor, queued, idle, lane, promise, request_address, time, grtt, receivers, repairs };
        let mut bytes = Vec::new();
        STREAM.announce(&mut bytes, sequence, &announce, &[fill; 1024]);
        prop_assert_eq!(bytes.len(), ANNOUNCE_SIZE);
        let decoded = wire::decode(&bytes).unwrap();
        prop_assert_eq!((decoded.stream, decoded.sequence, decoded.uuid), (STREAM.number, sequence, STREAM.uuid));
        prop_assert_eq!(decoded.message, Message::Announce(announce, &[fill; 1024]));
    }

    #[test]
    fn requests_come_back_and_hold_what_fits(
        (client, done, received, lost) in any::<(u64, bool, u32, u32)>(),
        (free_blocks, objects_done, sequence) in any::<(u32, u32, u32)>(),
        (objects_written, dropped, no_buffer) in any::<(u32, u32, u32)>(),
        echo in prop::option::of((any::<u32>(), 0..u32::MAX)),
        (unicast, token) in any::<(bool, u64)>(),
        parts in prop::collection::vec(item(), 0..80),
    ) {
        let head = RequestHead {
            client, done, received, lost, free_blocks, objects_done, objects_written, dropped, no_buffer, echo, unicast, token,
        };
        let mut items = RequestItems::default();
        let taken: Vec<Item<'_>> = parts.iter().map(as_item).take_while(|item| items.push(item)).collect();
        prop_assert!(taken.len() <= MAX_ITEMS);
        let bytes = items.encode(&STREAM, sequence, &head);
        prop_assert!(bytes.len() <= wire::MAX_DATAGRAM);
        let decoded = wire::decode(&bytes).unwrap();
        prop_assert_eq!((decoded.stream, decoded.sequence, decoded.uuid), (STREAM.number, sequence, STREAM.uuid));
        prop_assert_eq!(decoded.message, Message::Request(head, taken));
    }

    #[test]
    fn blocks_and_proofs_come_back(
        (sequence, object, block, fill) in any::<(u32, u32, u32, u8)>(),
        (level, index, children) in (any::<u8>(), 0u32..1 << 24, 0usize..=32),
    ) {
        let mut bytes = Vec::new();
        STREAM.data(&mut bytes, sequence, object, block, &[fill; 1024]);
        STREAM.proof(&mut bytes, sequence, object, NodeId { level, index }, &vec![[fill; 32]; children]);
        prop_assert_eq!(bytes.len(), 2 * SEGMENT_SIZE);
        let (data, proof) = bytes.split_at(SEGMENT_SIZE);
        prop_assert_eq!(wire::decode(data).unwrap().message, Message::Data(object, block, &[fill; 1024]));
        let mut payload = [0; 1024];
        payload[..children * 32].fill(fill);
        let expected = Message::Proof(object, NodeId { level, index }, &payload);
        prop_assert_eq!(wire::decode(proof).unwrap().message, expected);
    }

    #[test]
    fn parity_blocks_and_challenges_come_back(
        (sequence, object, index, queued, fill) in any::<(u32, u32, u16, u16, u8)>(),
        (client, token) in any::<(u64, u64)>(),
        (depth, shorter) in (0usize..=12, 0usize..=12),
    ) {
        let path = vec![[fill; 32]; depth];
        let given = &path[..depth.saturating_sub(shorter)];
        let block = ParityBlock { index, queued, bytes: &[fill; 1024], path: given };
        let mut bytes = Vec::new();
        STREAM.parity(&mut bytes, sequence, object, &block, depth);
        prop_assert_eq!(bytes.len(), SEGMENT_SIZE + 32 * depth);
        prop_assert!(bytes.len() <= wire::MAX_DATAGRAM);
        let mut padded = given.to_vec();
        padded.resize(depth, [0; 32]);
        let expected = ParityBlock { path: &padded, ..block };
        prop_assert_eq!(wire::decode(&bytes).unwrap().message, Message::Parity(object, expected));
        let challenge = Challenge { client, token };
        let expected = Message::Challenge(challenge);
        let challenge = STREAM.challenge(challenge);
        prop_assert_eq!(wire::decode(&challenge).unwrap().message, expected);
        let request = RequestItems::default().encode(&STREAM, 0, &RequestHead::default());
        prop_assert!(challenge.len() <= request.len());
    }

    #[test]
    fn arbitrary_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..1600), kind in 0u8..8) {
        let _ = wire::decode(&bytes);
        let mut plausible = bytes;
        if let [version, second, ..] = plausible.as_mut_slice() {
            (*version, *second) = (wire::VERSION, kind);
        }
        let _ = wire::decode(&plausible);
    }

    #[test]
    fn a_request_cut_or_changed_anywhere_does_no_harm(
        parts in prop::collection::vec(item(), 1..10), cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(),
    ) {
        let mut items = RequestItems::default();
        for part in &parts {
            let _ = items.push(&as_item(part));
        }
        let bytes = items.encode(&STREAM, 5, &RequestHead::default());
        prop_assert!(wire::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let mut changed = bytes;
        let place = flip.index(changed.len());
        changed[place] ^= 0x81;
        let _ = wire::decode(&changed);
    }
}

#[test]
fn every_wrong_length_version_and_type_is_named() {
    let mut data = Vec::new();
    STREAM.data(&mut data, 1, 2, 3, &[4; 1024]);
    assert_eq!(
        wire::decode(&data[..SEGMENT_SIZE - 1]),
        Err(DecodeError::Length(SEGMENT_SIZE - 1))
    );
    assert_eq!(
        wire::decode(&[&data[..], &[0]].concat()),
        Err(DecodeError::Length(SEGMENT_SIZE + 1))
    );
    assert_eq!(
        wire::decode(&data[..HEADER_SIZE - 1]),
        Err(DecodeError::Length(HEADER_SIZE - 1))
    );
    data[0] = 2;
    assert_eq!(wire::decode(&data), Err(DecodeError::Version(2)));
    data[..2].copy_from_slice(&[1, 9]);
    assert_eq!(wire::decode(&data), Err(DecodeError::Type(9)));
}

/// The bytes of docs/PROTOCOL.md, section 2.4, so that an independent implementation has something to compare with.
#[test]
fn the_documented_request_is_what_is_sent() {
    let mut items = RequestItems::default();
    assert!(items.push(&Item::Whole { object: 7 }));
    assert!(items.push(&Item::Blocks {
        object: 6,
        first: 3,
        bitmap: &[0b0000_0101]
    }));
    assert!(items.push(&Item::Node {
        object: 6,
        node: NodeId { level: 1, index: 2 }
    }));
    assert!(items.push(&Item::Parity {
        object: 5,
        count: 9
    }));
    let head = RequestHead {
        client: 0x0102_0304,
        done: false,
        received: 1000,
        lost: 10,
        free_blocks: 4096,
        objects_done: 5,
        objects_written: 4,
        dropped: 3,
        no_buffer: 2,
        echo: Some((0x0a0b_0c0d, 1500)),
        unicast: false,
        token: 0,
    };
    let bytes = items.encode(&STREAM, 0x11, &head);
    let documented = "
        01 02 34 12 11 00 00 00 ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab 00 00 00 00 00 00 00 00
        04 03 02 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 e8 03 00 00 0a 00 00 00 03 00 00 00
        02 00 00 00 00 10 00 00 05 00 00 00 04 00 00 00 0d 0c 0b 0a dc 05 00 00 04 00 00 00
        07 00 00 00 00 00 00 00 00 00 00 00
        06 00 00 00 03 00 00 00 01 00 01 00 05
        06 00 00 00 02 00 00 01 02 00 00 00
        05 00 00 00 09 00 00 00 03 00 00 00";
    let documented: Vec<u8> = documented
        .split_whitespace()
        .map(|hex| u8::from_str_radix(hex, 16).unwrap())
        .collect();
    assert_eq!(bytes, documented);
}
