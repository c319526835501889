//! The Wireshark dissector in docs/wireshark says what the decoder says: of a real run, and of datagrams that have every
//! field and every kind of item.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chunkfmt::tree::NodeId;
use e2e::command::must;
use e2e::need::{self, Need};
use frisbee_proto::wire::{
    self, Announce, Challenge, Datagram, Item, MAX_REPAIRS, Message, PROMISE_OBJECTS, ParityBlock,
    Repair, RequestHead, RequestItems, Stream,
};

/// Every field that the dissector has.
const FIELDS: [&str; 55] = [
    "frisbee.version",
    "frisbee.type",
    "frisbee.stream",
    "frisbee.sequence",
    "frisbee.uuid",
    "frisbee.object",
    "frisbee.position",
    "frisbee.data.block",
    "frisbee.data.bytes",
    "frisbee.proof.level",
    "frisbee.proof.index",
    "frisbee.proof.child",
    "frisbee.parity.index",
    "frisbee.parity.queued",
    "frisbee.parity.bytes",
    "frisbee.parity.path",
    "frisbee.announce.rate",
    "frisbee.announce.cursor",
    "frisbee.announce.queued",
    "frisbee.announce.flags",
    "frisbee.announce.idle",
    "frisbee.announce.family",
    "frisbee.announce.port",
    "frisbee.announce.ipv4",
    "frisbee.announce.ipv6",
    "frisbee.announce.promise",
    "frisbee.announce.promised",
    "frisbee.announce.time",
    "frisbee.announce.grtt",
    "frisbee.announce.receivers",
    "frisbee.announce.repair.object",
    "frisbee.announce.repair.parity",
    "frisbee.announce.head",
    "frisbee.request.client",
    "frisbee.request.token",
    "frisbee.request.flags",
    "frisbee.request.done",
    "frisbee.request.unicast",
    "frisbee.request.received",
    "frisbee.request.lost",
    "frisbee.request.dropped",
    "frisbee.request.no_buffer",
    "frisbee.request.free_blocks",
    "frisbee.request.objects_done",
    "frisbee.request.objects_written",
    "frisbee.request.echo",
    "frisbee.request.held",
    "frisbee.request.items",
    "frisbee.item.object",
    "frisbee.item.kind",
    "frisbee.item.first",
    "frisbee.item.bitmap",
    "frisbee.item.block",
    "frisbee.challenge.client",
    "frisbee.challenge.token",
];

/// More of items, and what is wrong.
const MORE: [&str; 6] = [
    "frisbee.item.position",
    "frisbee.item.level",
    "frisbee.item.index",
    "frisbee.item.count",
    "frisbee.item.length",
    "frisbee.malformed",
];

/// The values of each field of a datagram.
type Fields = BTreeMap<String, Vec<String>>;

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Payload and fields of every UDP datagram in a capture, as tshark sees them.
fn dissect(capture: &Path) -> Result<Vec<(Vec<u8>, Fields)>> {
    let script = checkout().join("docs/wireshark/frisbee.lua");
    let mut words = vec![
        "-X".to_owned(),
        format!("lua_script:{}", script.display()),
        "-r".into(),
        capture.display().to_string(),
    ];
    let line = "-Y udp -T fields -E separator=; -E occurrence=a -E aggregator=, -e udp.payload";
    words.extend(line.split(' ').map(Into::into));
    let names: Vec<&str> = FIELDS.into_iter().chain(MORE).collect();
    words.extend(names.iter().flat_map(|name| ["-e".into(), (*name).into()]));
    let mut datagrams = Vec::new();
    for line in must("tshark", words)?.lines() {
        let mut columns = line.split(';');
        let payload = unhex(columns.next().unwrap_or_default())?;
        let values = columns.map(|column| match column {
            "" => Vec::new(),
            column => column.split(',').map(plain).collect(),
        });
        let fields = names.iter().map(|name| (*name).to_owned()).zip(values);
        datagrams.push((
            payload,
            fields.filter(|(_, values)| !values.is_empty()).collect(),
        ));
    }
    Ok(datagrams)
}

/// Numbers in decimal, whatever the version of tshark prints.
fn plain(value: &str) -> String {
    let hex = value.strip_prefix("0x");
    match hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
        Some(number) => number.to_string(),
        None => value.replace("True", "1").replace("False", "0"),
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    digits.map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the dissector has to say of a datagram.
struct Expected(Fields);

impl Expected {
    #[expect(clippy::needless_pass_by_value, reason = "numbers, texts, references")]
    fn add(&mut self, name: &str, value: impl ToString) {
        let values = self.0.entry(format!("frisbee.{name}")).or_default();
        values.push(value.to_string());
    }

    fn of(datagram: &Datagram<'_>) -> Fields {
        let mut fields = Self(Fields::new());
        let uuid = hex(&datagram.uuid);
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &uuid[part]);
        fields.add("version", wire::VERSION);
        fields.add("stream", datagram.stream);
        fields.add("sequence", datagram.sequence);
        fields.add("uuid", parts.join("-"));
        let (kind, object, position) = match &datagram.message {
            Message::Announce(announce, head) => {
                fields.announce(announce);
                fields.add("announce.head", hex(*head));
                (1, 0, 0)
            }
            Message::Request(head, items) => {
                fields.request(head);
                fields.add("request.items", items.len());
                items.iter().for_each(|item| fields.item(item));
                (2, 0, 0)
            }
            Message::Data(object, block, bytes) => {
                fields.add("data.block", block);
                fields.add("data.bytes", hex(*bytes));
                (3, *object, *block)
            }
            Message::Proof(object, node, bytes) => {
                fields.add("proof.level", node.level);
                fields.add("proof.index", node.index);
                let children = bytes.chunks(32);
                children.for_each(|child| fields.add("proof.child", hex(child)));
                (4, *object, u32::from(node.level) << 24 | node.index)
            }
            Message::Parity(object, parity) => {
                fields.add("parity.index", parity.index);
                fields.add("parity.queued", parity.queued);
                fields.add("parity.bytes", hex(parity.bytes));
                let path = parity.path.iter();
                path.for_each(|value| fields.add("parity.path", hex(value)));
                let (index, queued) = (u32::from(parity.index), u32::from(parity.queued));
                (5, *object, queued << 16 | index)
            }
            Message::Challenge(challenge) => {
                fields.add("challenge.client", challenge.client);
                fields.add("challenge.token", challenge.token);
                (6, 0, 0)
            }
        };
        fields.add("type", kind);
        fields.add("object", object);
        fields.add("position", position);
        fields.0
    }

    fn announce(&mut self, announce: &Announce) {
        self.add("announce.rate", announce.rate);
        self.add("announce.cursor", announce.cursor);
        self.add("announce.queued", announce.queued);
        self.add("announce.flags", u8::from(announce.idle));
        self.add("announce.idle", u8::from(announce.idle));
        self.add("announce.promise", hex(&announce.promise));
        for object in announce.cursor..=announce.cursor.saturating_add(PROMISE_OBJECTS) {
            if announce.promises(object) {
                self.add("announce.promised", object);
            }
        }
        let port = announce.request_address.map_or(0, |address| address.port());
        self.add("announce.port", port);
        match announce.request_address.map(|address| address.ip()) {
            None => self.add("announce.family", 0),
            Some(ip) if ip.is_ipv4() => {
                self.add("announce.family", 4);
                self.add("announce.ipv4", ip);
            }
            Some(ip) => {
                self.add("announce.family", 6);
                self.add("announce.ipv6", ip);
            }
        }
        self.add("announce.time", announce.time);
        self.add("announce.grtt", announce.grtt);
        self.add("announce.receivers", announce.receivers);
        for repair in announce.repairs.iter().filter(|repair| repair.object > 0) {
            self.add("announce.repair.object", repair.object);
            self.add("announce.repair.parity", repair.parity);
        }
    }

    fn request(&mut self, head: &RequestHead) {
        let (done, unicast) = (u8::from(head.done), u8::from(head.unicast));
        self.add("request.client", head.client);
        self.add("request.token", head.token);
        self.add("request.flags", done | unicast << 1);
        self.add("request.done", done);
        self.add("request.unicast", unicast);
        self.add("request.received", head.received);
        self.add("request.lost", head.lost);
        self.add("request.dropped", head.dropped);
        self.add("request.no_buffer", head.no_buffer);
        self.add("request.free_blocks", head.free_blocks);
        self.add("request.objects_done", head.objects_done);
        self.add("request.objects_written", head.objects_written);
        if let Some((echo, held)) = head.echo {
            self.add("request.echo", echo);
            self.add("request.held", held);
        }
    }

    fn item(&mut self, item: &Item<'_>) {
        self.add("item.object", item.object());
        let (kind, position, bitmap): (_, _, &[u8]) = match *item {
            Item::Whole { .. } => (0, 0, &[]),
            Item::Blocks { first, bitmap, .. } => {
                self.add("item.first", first);
                self.add("item.bitmap", hex(bitmap));
                for (byte, base) in bitmap.iter().zip((first..).step_by(8)) {
                    let set = (0..8).filter(|bit| byte >> bit & 1 == 1);
                    set.for_each(|bit| self.add("item.block", base + bit));
                }
                (1, first, bitmap)
            }
            Item::Node { node, .. } => {
                self.add("item.level", node.level);
                self.add("item.index", node.index);
                (2, u32::from(node.level) << 24 | node.index, &[])
            }
            Item::Parity { count, .. } => {
                self.add("item.count", count);
                (3, count.into(), &[])
            }
        };
        self.add("item.kind", kind);
        self.add("item.position", position);
        self.add("item.length", bitmap.len());
    }
}

/// Holds what tshark says of every datagram of a capture against the decoder, and returns how many of each type there
/// were.
fn compare(capture: &Path) -> Result<BTreeMap<String, usize>> {
    let mut types = BTreeMap::new();
    for (number, (payload, found)) in dissect(capture)?.into_iter().enumerate() {
        let place = || format!("datagram {} of {}", number + 1, capture.display());
        let datagram = wire::decode(&payload).with_context(place)?;
        let expected = Expected::of(&datagram);
        ensure!(
            found == expected,
            "{}: tshark says\n{found:#?}\nand the decoder\n{expected:#?}",
            place()
        );
        *types.entry(found["frisbee.type"].concat()).or_default() += 1;
    }
    Ok(types)
}

/// Datagrams with every field, and every kind of item.
fn every_kind() -> Vec<Vec<u8>> {
    let stream = Stream {
        number: 0xfe01,
        uuid: std::array::from_fn(|place| u8::try_from(place * 17).unwrap_or(0)),
    };
    let block: [u8; 1024] = std::array::from_fn(|place| u8::try_from(place % 251).unwrap_or(0));
    let node = NodeId {
        level: 2,
        index: 0x0001_0203,
    };
    let addresses = ["192.0.2.7:7001", "[2001:db8::7]:65535"].map(|text| text.parse().ok());
    let mut datagrams = Vec::new();
    let mut keep = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        datagrams.push(bytes);
    };
    for (request_address, idle) in [(None, true), (addresses[0], false), (addresses[1], false)] {
        let mut announce = Announce {
            rate: 12_345_678_901,
            cursor: 0xffff_fe80,
            queued: 400,
            idle,
            lane: false,
            promise: std::array::from_fn(|place| if place % 5 == 0 { 0b1010_0001 } else { 0 }),
            request_address,
            time: 4_000_000_000,
            grtt: 15_000,
            receivers: 1_000_000,
            repairs: [Repair::default(); MAX_REPAIRS],
        };
        for (repair, object) in announce
            .repairs
            .iter_mut()
            .zip(1..if idle { 1 } else { 40 })
        {
            (repair.object, repair.parity) = (object * 1000, 7);
        }
        keep(&|out| stream.announce(out, 1, &announce, &block));
    }
    keep(&|out| stream.data(out, u32::MAX, 70_000, 2047, &block));
    keep(&|out| stream.proof(out, 2, 3, node, &[[7; 32], [8; 32]]));
    for depth in [0, 3] {
        let path = vec![[9; 32]; depth];
        let parity = ParityBlock {
            index: 300,
            queued: 5,
            bytes: &block,
            path: &path,
        };
        keep(&|out| stream.parity(out, 3, 4, &parity, depth));
    }
    let challenge = Challenge {
        client: 0x0123_4567_89ab_cdef,
        token: 0xfedc_ba98_7654_3210,
    };
    keep(&|out| out.extend(stream.challenge(challenge)));
    let mut items = RequestItems::default();
    let all = [
        Item::Whole { object: 7 },
        Item::Blocks {
            object: 8,
            first: 1000,
            bitmap: &[0b1000_0001, 0, 0xff],
        },
        Item::Node { object: 9, node },
        Item::Parity {
            object: 10,
            count: 65_535,
        },
    ];
    assert!(all.iter().all(|item| items.push(item)));
    let head = RequestHead {
        client: u64::MAX - 1,
        done: true,
        received: 1,
        lost: 2,
        free_blocks: 3,
        objects_done: 4,
        objects_written: 5,
        dropped: 6,
        no_buffer: 7,
        echo: Some((8, 9)),
        unicast: false,
        token: 0x0123_4567_89ab_cdef,
    };
    let quiet = RequestHead {
        done: false,
        echo: None,
        unicast: true,
        ..head
    };
    keep(&|out| out.extend(items.encode(&stream, 4, &head)));
    keep(&|out| out.extend(RequestItems::default().encode(&stream, 5, &quiet)));
    datagrams
}

/// Writes UDP datagrams over IPv4 as a capture (pcap with packets of type RAW).
fn capture(path: &Path, datagrams: &[Vec<u8>]) -> Result<()> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        file.extend(word.to_le_bytes());
    }
    for datagram in datagrams {
        let length = u16::try_from(datagram.len() + 8)?;
        let packet = u32::from(length) + 20;
        for word in [0, 0, packet, packet] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend([0x45, 0]);
        file.extend((length + 20).to_be_bytes());
        file.extend([0, 0, 0, 0, 1, 17, 0, 0, 192, 0, 2, 1, 239, 192, 7, 1]);
        for word in [60_000, 60_001, length, 0] {
            file.extend(u16::to_be_bytes(word));
        }
        file.extend(datagram);
    }
    fs::write(path, file)?;
    Ok(())
}

#[test]
fn a_real_run() -> Result<()> {
    if !need::met(&[Need::Tool("tshark")]) {
        return Ok(());
    }
    let types = compare(&checkout().join("testdata/multicast/run.pcap"))?;
    for kind in ["1", "2", "3", "4"] {
        ensure!(types.contains_key(kind), "no datagrams of type {kind}");
    }
    Ok(())
}

#[test]
fn every_field() -> Result<()> {
    if !need::met(&[Need::Tool("tshark")]) {
        return Ok(());
    }
    let directory = e2e::scratch::directory()?;
    let path: PathBuf = directory.path().join("all.pcap");
    let datagrams = every_kind();
    capture(&path, &datagrams)?;
    let types = compare(&path)?;
    ensure!(types.len() == 6, "{types:?}");
    let seen = dissect(&path)?;
    for name in FIELDS.into_iter().chain(MORE) {
        let is_seen = seen.iter().any(|(_, fields)| fields.contains_key(name));
        ensure!(
            is_seen || name == "frisbee.malformed",
            "{name} is not in use"
        );
    }

    // What the decoder refuses is not shown as if it were good.
    let mut broken = Vec::new();
    for datagram in &datagrams {
        broken.push(datagram[..datagram.len() - 1].to_vec());
        broken.push([datagram, &[0][..]].concat());
        for place in 0..2 {
            let mut other = datagram.clone();
            other[place] = 99;
            broken.push(other);
        }
    }
    capture(&path, &broken)?;
    for (number, (payload, fields)) in dissect(&path)?.into_iter().enumerate() {
        let refused = wire::decode(&payload).is_err();
        let marked =
            !fields.contains_key("frisbee.type") || fields.contains_key("frisbee.malformed");
        ensure!(refused && marked, "{number}: {refused} {fields:#?}");
    }
    Ok(())
}
