//! The Wireshark dissector in docs/wireshark says what the decoder says: of a real run, and of datagrams that have every
//! field and every kind of item.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use chunkfmt::tree::NodeId;
use e2e::command::must;
use e2e::need::{self, Need};
use frisbee_proto::probe::wire::{self as probe, Phase, Probe, ProbeDatagram, Reply, Way};
use frisbee_proto::wire::{
    self, Announce, Challenge, Datagram, Item, MAX_REPAIRS, Message, PROMISE_OBJECTS, ParityBlock,
    Repair, RequestHead, RequestItems, Stream,
};

/// Every field that the dissector has.
const FIELDS: &[&str] = &[
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
    "frisbee.announce.lane",
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
    "frisbee.item.level",
    "frisbee.item.index",
    "frisbee.item.count",
    "frisbee.item.length",
    "frisbee.challenge.client",
    "frisbee.challenge.token",
    "frisbee.probe.run",
    "frisbee.probe.token",
    "frisbee.probe.client",
    "frisbee.probe.step",
    "frisbee.probe.way",
    "frisbee.probe.rate",
    "frisbee.probe.number",
    "frisbee.probe.before",
    "frisbee.probe.phase",
    "frisbee.probe.ttl",
    "frisbee.probe.heard",
    "frisbee.probe.heard.way",
    "frisbee.probe.flags",
    "frisbee.probe.takes_part",
    "frisbee.probe.load",
    "frisbee.probe.by_group",
    "frisbee.probe.by_all_hosts",
    "frisbee.probe.received",
    "frisbee.probe.lost",
    "frisbee.probe.largest",
    "frisbee.probe.done",
];

/// Set where the dissector says that something is wrong.
const MALFORMED: &str = "frisbee.malformed";

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
    let names: Vec<&str> = FIELDS.iter().copied().chain([MALFORMED]).collect();
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

/// The integer of four bytes at a place.
fn word(payload: &[u8], place: usize) -> u32 {
    let bytes = [0, 1, 2, 3].map(|byte| payload[place + byte]);
    u32::from_le_bytes(bytes)
}

/// What the dissector has to say of a datagram.
struct Expected(Fields);

impl Expected {
    #[expect(clippy::needless_pass_by_value, reason = "numbers, texts, references")]
    fn add(&mut self, name: &str, value: impl ToString) {
        let values = self.0.entry(format!("frisbee.{name}")).or_default();
        values.push(value.to_string());
    }

    /// Nothing, if the decoder does not take it.
    fn of(payload: &[u8]) -> Option<Fields> {
        if let Ok(datagram) = wire::decode(payload) {
            return Some(Self::of_image(&datagram, payload));
        }
        let datagram = probe::decode(payload).ok()?;
        Some(Self::of_probe(&datagram, payload))
    }

    /// What every datagram has, also where its type has no use for it.
    fn header(payload: &[u8]) -> Self {
        let mut fields = Self(Fields::new());
        let uuid = hex(&payload[8..24]);
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &uuid[part]);
        fields.add("version", wire::VERSION);
        fields.add("type", payload[1]);
        fields.add("stream", word(payload, 0) >> 16);
        fields.add("sequence", word(payload, 4));
        fields.add("uuid", parts.join("-"));
        fields.add("object", word(payload, 24));
        fields.add("position", word(payload, 28));
        fields
    }

    #[expect(clippy::needless_pass_by_value, reason = "numbers, texts, references")]
    fn is(&self, name: &str, value: impl ToString) {
        let name = format!("frisbee.{name}");
        assert_eq!(self.0[&name], [value.to_string()], "{name}");
    }

    fn of_probe(datagram: &ProbeDatagram, payload: &[u8]) -> Fields {
        let mut fields = Self::header(payload);
        match datagram {
            ProbeDatagram::Probe(probe) => {
                let (part, load) = (u8::from(probe.takes_part), u8::from(probe.load));
                fields.is("type", 7);
                fields.is("sequence", probe.sequence);
                fields.add("probe.run", probe.run);
                fields.add("probe.token", probe.token);
                fields.add("probe.client", probe.client);
                fields.add("probe.step", probe.step);
                fields.add("probe.way", probe.way as u8);
                fields.add("probe.rate", probe.rate);
                fields.add("probe.number", probe.number);
                fields.add("probe.before", probe.before);
                fields.add("probe.phase", probe.phase as u8);
                fields.add("probe.ttl", probe.ttl);
                fields.add("probe.heard", probe.heard);
                let ways = (0..4).filter(|way| probe.heard >> way & 1 == 1);
                ways.for_each(|way| fields.add("probe.heard.way", way));
                fields.add("probe.flags", payload[69]);
                fields.add("probe.takes_part", part);
                fields.add("probe.load", load);
            }
            ProbeDatagram::Reply(reply) => {
                fields.is("type", 8);
                fields.add("probe.run", reply.run);
                fields.add("probe.token", reply.token);
                fields.add("probe.client", reply.client);
                fields.add("probe.step", reply.step);
                fields.add("probe.way", reply.way as u8);
                fields.add("probe.by_group", reply.group);
                fields.add("probe.by_all_hosts", reply.all_hosts);
                fields.add("probe.received", reply.received);
                fields.add("probe.lost", reply.lost);
                fields.add("probe.largest", reply.largest);
                fields.add("probe.done", u8::from(reply.done));
            }
        }
        fields.0
    }

    fn of_image(datagram: &Datagram<'_>, payload: &[u8]) -> Fields {
        let mut fields = Self::header(payload);
        fields.is("stream", datagram.stream);
        fields.is("sequence", datagram.sequence);
        match &datagram.message {
            Message::Announce(announce, head) => {
                fields.is("type", 1);
                fields.add("announce.flags", word(payload, 48));
                fields.add("announce.port", word(payload, 52) >> 16);
                fields.announce(announce);
                fields.add("announce.head", hex(*head));
            }
            Message::Request(head, items) => {
                fields.is("type", 2);
                fields.add("request.flags", word(payload, 48));
                fields.request(head);
                fields.add("request.items", items.len());
                items.iter().for_each(|item| fields.item(item));
            }
            Message::Data(object, block, bytes) => {
                fields.is("type", 3);
                fields.is("object", object);
                fields.add("data.block", block);
                fields.add("data.bytes", hex(*bytes));
            }
            Message::Proof(object, node, bytes) => {
                fields.is("type", 4);
                fields.is("object", object);
                fields.add("proof.level", node.level);
                fields.add("proof.index", node.index);
                let children = bytes.chunks(32);
                children.for_each(|child| fields.add("proof.child", hex(child)));
            }
            Message::Parity(object, parity) => {
                fields.is("type", 5);
                fields.is("object", object);
                fields.add("parity.index", parity.index);
                fields.add("parity.queued", parity.queued);
                fields.add("parity.bytes", hex(parity.bytes));
                let path = parity.path.iter();
                path.for_each(|value| fields.add("parity.path", hex(value)));
            }
            Message::Challenge(challenge) => {
                fields.is("type", 6);
                fields.add("challenge.client", challenge.client);
                fields.add("challenge.token", challenge.token);
            }
        }
        fields.0
    }

    fn announce(&mut self, announce: &Announce) {
        self.add("announce.rate", announce.rate);
        self.add("announce.cursor", announce.cursor);
        self.add("announce.queued", announce.queued);
        let (idle, lane) = (u8::from(announce.idle), u8::from(announce.lane));
        self.add("announce.idle", idle);
        self.add("announce.lane", lane);
        self.add("announce.promise", hex(&announce.promise));
        for object in announce.cursor..=announce.cursor.saturating_add(PROMISE_OBJECTS) {
            if announce.promises(object) {
                self.add("announce.promised", object);
            }
        }
        if let Some(address) = announce.request_address {
            self.is("announce.port", address.port());
        }
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
        let (kind, length) = match *item {
            Item::Whole { .. } => (0, 0),
            Item::Blocks { first, bitmap, .. } => {
                self.add("item.first", first);
                self.add("item.bitmap", hex(bitmap));
                for (byte, base) in bitmap.iter().zip((u64::from(first)..).step_by(8)) {
                    let set = (0..8).filter(|bit| byte >> bit & 1 == 1);
                    let blocks = set.map(|bit| base + bit);
                    let blocks = blocks.filter(|&block| u32::try_from(block).is_ok());
                    blocks.for_each(|block| self.add("item.block", block));
                }
                (1, bitmap.len())
            }
            Item::Node { node, .. } => {
                self.add("item.level", node.level);
                self.add("item.index", node.index);
                (2, 0)
            }
            Item::Parity { count, .. } => {
                self.add("item.count", count);
                (3, 0)
            }
        };
        self.add("item.kind", kind);
        self.add("item.length", length);
    }
}

/// Holds what tshark says of every datagram of a capture against the decoder: the same fields, or that it is not one.
/// Returns how many there were of each type.
fn compare(capture: &Path) -> Result<BTreeMap<String, usize>> {
    let mut types = BTreeMap::new();
    for (number, (payload, found)) in dissect(capture)?.into_iter().enumerate() {
        let place = format!("datagram {} of {}", number + 1, capture.display());
        let Some(expected) = Expected::of(&payload) else {
            let shown = found.contains_key("frisbee.type") && !found.contains_key(MALFORMED);
            ensure!(
                !shown,
                "{place}: shown as if it were good: {} {found:#?}",
                hex(&payload)
            );
            *types.entry("refused".into()).or_default() += 1;
            continue;
        };
        ensure!(
            found == expected,
            "{place}: tshark says\n{found:#?}\nand the decoder\n{expected:#?}"
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
            lane: idle,
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
    for size in [probe::PROBE_SIZE, wire::MAX_DATAGRAM] {
        let probe = Probe {
            run: 0xfe02,
            sequence: 9,
            token: u64::MAX - 2,
            client: 3,
            rate: 12_345_678_901,
            number: 4,
            before: 5,
            phase: Phase::Rates,
            step: 6,
            ttl: 7,
            heard: Way::Group.bit() | Way::Broadcast.bit(),
            way: Way::AllHosts,
            takes_part: size == probe::PROBE_SIZE,
            load: size != probe::PROBE_SIZE,
            size: u16::try_from(size).unwrap_or(0),
        };
        keep(&|out| probe.encode(out));
    }
    let reply = Reply {
        run: 0xfe03,
        client: u64::MAX - 4,
        token: 5,
        group: 6,
        all_hosts: 7,
        received: 8,
        lost: 9,
        largest: 1452,
        step: 10,
        way: Way::Broadcast,
        done: true,
    };
    keep(&|out| reply.encode(out));
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

/// Writes UDP datagrams over IPv4 as a capture (pcap with packets of type RAW). Each has a sender of its own: what Wireshark
/// takes for another protocol's makes it take the rest of a conversation for that as well.
fn capture(path: &Path, datagrams: &[Vec<u8>]) -> Result<()> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        file.extend(word.to_le_bytes());
    }
    for (number, datagram) in (0_u16..).zip(datagrams) {
        let [high, low] = number.to_be_bytes();
        let length = u16::try_from(datagram.len() + 8)?;
        let packet = u32::from(length) + 20;
        for word in [0, 0, packet, packet] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend([0x45, 0]);
        file.extend((length + 20).to_be_bytes());
        file.extend([0, 0, 0, 0, 1, 17, 0, 0, 10, 78, high, low, 239, 192, 7, 1]);
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
    // All types but those of the probe, and nothing else.
    let kinds: Vec<&str> = types.keys().map(String::as_str).collect();
    ensure!(kinds == ["1", "2", "3", "4", "5", "6"], "{types:?}");
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
    ensure!(types.len() == 8, "{types:?}");
    let seen = dissect(&path)?;
    for name in FIELDS {
        let is_seen = seen.iter().any(|(_, fields)| fields.contains_key(*name));
        ensure!(is_seen, "{name} is not in use");
    }
    Ok(())
}

/// What the decoder refuses is not shown as if it were good, and what it takes is shown as it takes it.
#[test]
fn altered_datagrams() -> Result<()> {
    /// Enough for all that comes before the bytes of blocks and heads.
    const PLACES: usize = 150;
    if !need::met(&[Need::Tool("tshark")]) {
        return Ok(());
    }
    let directory = e2e::scratch::directory()?;
    let path = directory.path().join("altered.pcap");
    let mut altered = Vec::new();
    for datagram in every_kind() {
        altered.push(datagram[..datagram.len() - 1].to_vec());
        altered.push([&datagram, &[0][..]].concat());
        for place in 0..datagram.len().min(PLACES) {
            let mut other = datagram.clone();
            other[place] ^= if place % 2 == 0 { 0x10 } else { 4 };
            altered.push(other);
        }
    }
    capture(&path, &altered)?;
    let types = compare(&path)?;
    let refused = types.get("refused").copied().unwrap_or(0);
    ensure!(types.len() == 9 && refused > 50, "{types:?}");
    Ok(())
}

/// The REQUEST that docs/PROTOCOL.md shows in section 2.4, and what it says there of it.
#[test]
fn the_request_of_the_documentation() -> Result<()> {
    const BYTES: &str = "
        01 02 34 12 11 00 00 00 ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab 00 00 00 00 00 00 00 00
        04 03 02 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 e8 03 00 00 0a 00 00 00 03 00 00 00
        02 00 00 00 00 10 00 00 05 00 00 00 04 00 00 00 0d 0c 0b 0a dc 05 00 00 04 00 00 00
        07 00 00 00 00 00 00 00 00 00 00 00
        06 00 00 00 03 00 00 00 01 00 01 00 05
        06 00 00 00 02 00 00 01 02 00 00 00
        05 00 00 00 09 00 00 00 03 00 00 00";
    if !need::met(&[Need::Tool("tshark")]) {
        return Ok(());
    }
    let directory = e2e::scratch::directory()?;
    let path = directory.path().join("request.pcap");
    let bytes: String = BYTES.split_whitespace().collect();
    capture(&path, &[unhex(&bytes)?])?;
    let [(_, fields)] = &dissect(&path)?[..] else {
        bail!("not one datagram");
    };
    for (name, expected) in [
        ("type", "2"),
        ("stream", "4660"),
        ("sequence", "17"),
        ("uuid", "abababab-abab-abab-abab-abababababab"),
        ("request.client", "16909060"),
        ("request.token", "0"),
        ("request.done", "0"),
        ("request.unicast", "0"),
        ("request.received", "1000"),
        ("request.lost", "10"),
        ("request.dropped", "3"),
        ("request.no_buffer", "2"),
        ("request.free_blocks", "4096"),
        ("request.objects_done", "5"),
        ("request.objects_written", "4"),
        ("request.echo", "168496141"),
        ("request.held", "1500"),
        ("request.items", "4"),
        ("item.object", "7 6 6 5"),
        ("item.kind", "0 1 2 3"),
        ("item.first", "3"),
        ("item.block", "3 5"),
        ("item.level", "1"),
        ("item.index", "2"),
        ("item.count", "9"),
    ] {
        let found = fields.get(&format!("frisbee.{name}"));
        let found = found.map(|values| values.join(" "));
        ensure!(
            found.as_deref() == Some(expected),
            "{name}: {found:?} instead of {expected}"
        );
    }
    Ok(())
}
