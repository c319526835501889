//! Target `datagram`: what comes from the network, to the machines of both sides of a transfer and of a probe.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use frisbee_proto::probe::{
    Circumstances, ProbeClient, ProbeClientConfig, ProbeOutput, ProbeServer, ProbeServerConfig,
    ProbeTarget, wire as probe_wire,
};
use frisbee_proto::wire::{self, ANNOUNCE_SIZE, CHALLENGE_SIZE, Message, RequestItems, Stream};
use frisbee_proto::{
    Client, ClientConfig, ClientOutput, FRAMING, Parity, ServerConfig, Service, ServiceConfig,
    ServiceOutput, Site, Unicast,
};
use frisbee_sim::{Golden, Owner};

/// Rate of the servers, in bits per second.
const CEILING: u64 = 50_000_000;

/// What a server may be ahead of its rate: some batches of offload, and the small datagrams of a probe.
const AHEAD: u64 = 256 << 10;

/// Turns of the machines after one piece of the input.
const TURNS: usize = 64;

/// Blocks that the client may hold: less than the image has.
const CREDIT: u32 = 48;

const SERVER: SocketAddr = address(1);
const CLIENT: SocketAddr = address(2);
const LIAR: SocketAddr = address(3);

const fn address(host: u8) -> SocketAddr {
    let ip = std::net::Ipv4Addr::new(10, 77, 0, host);
    SocketAddr::new(std::net::IpAddr::V4(ip), 7001)
}

fn golden() -> &'static Arc<Golden> {
    static GOLDEN: OnceLock<Arc<Golden>> = OnceLock::new();
    GOLDEN.get_or_init(|| Golden::new(&[3, 40, 17, 40], 7))
}

/// Pieces, each with a head of three bytes: what to do, and a number. 0: so many bytes follow, a datagram for all machines.
/// 1: the same, with version, image, head and token put right. 2: the machines have so many turns, as on a network where
/// nothing is lost. 3: so many milliseconds pass. Bits 4 and 5 of the first byte say whose address a datagram has. True if
/// one of them was understood.
pub fn feed(data: &[u8]) -> bool {
    let mut network = Network::new();
    let mut understood = false;
    let mut rest = data;
    while let Some(([how, low, high], tail)) = rest.split_first_chunk() {
        let number = u16::from_le_bytes([*low, *high]);
        rest = tail;
        let from = [LIAR, SERVER, CLIENT, LIAR][usize::from(how >> 4 & 3)];
        match how & 3 {
            kind @ 0..2 => {
                let length = usize::from(number).min(rest.len());
                let (datagram, tail) = rest.split_at(length);
                rest = tail;
                let mut datagram = datagram.to_vec();
                if kind == 1 {
                    network.put_right(&mut datagram, from);
                }
                understood |= parse(&datagram);
                network.deliver(&datagram, from);
            }
            2 => network.turns(usize::from(number)),
            _ => network.pass(Duration::from_millis(number.into())),
        }
        network.turns(1);
        network.check();
    }
    understood
}

/// What is understood is the same when it is written again.
fn parse(bytes: &[u8]) -> bool {
    let mut again = Vec::new();
    if let Ok(datagram) = probe_wire::decode(bytes) {
        datagram.encode(&mut again);
        assert_eq!(probe_wire::decode(&again), Ok(datagram));
        assert_eq!(again.len(), bytes.len());
        assert!(wire::decode(bytes).is_err(), "two meanings");
        return true;
    }
    let Ok(datagram) = wire::decode(bytes) else {
        return false;
    };
    let (sequence, stream) = (
        datagram.sequence,
        Stream {
            number: datagram.stream,
            uuid: datagram.uuid,
        },
    );
    match &datagram.message {
        Message::Announce(announce, head) => stream.announce(&mut again, sequence, announce, head),
        Message::Request(head, items) => {
            let mut list = RequestItems::default();
            assert!(items.iter().all(|item| list.push(item)));
            again = list.encode(&stream, sequence, head);
        }
        Message::Data(object, block, payload) => {
            stream.data(&mut again, sequence, *object, *block, payload);
        }
        Message::Proof(object, node, payload) => {
            let (children, _) = payload.as_chunks();
            stream.proof(&mut again, sequence, *object, *node, children);
        }
        Message::Parity(object, block) => {
            stream.parity(&mut again, sequence, *object, block, block.path.len());
        }
        Message::Challenge(token) => again = stream.challenge(*token),
    }
    assert_eq!(again.len(), bytes.len());
    let mut expected = datagram;
    if matches!(expected.message, Message::Challenge(_)) {
        expected.sequence = 0;
    }
    assert_eq!(wire::decode(&again), Ok(expected));
    true
}

/// The machines, and what has to be remembered to judge them.
struct Network {
    now: Instant,
    start: Instant,
    client: Client<Owner>,
    site: Site,
    probe_client: ProbeClient,
    probe_server: ProbeServer,
    got: HashSet<u32>,
    /// Addresses that were challenged, and with which token.
    challenged: HashMap<SocketAddr, u64>,
    /// Bytes on the wire by the servers.
    sent: u64,
    probe_sent: u64,
    /// Bytes that the probing server may still answer with, by address.
    asked: HashMap<SocketAddr, u64>,
    buffer: Vec<u8>,
}

impl Network {
    fn new() -> Self {
        let now = Instant::now();
        let golden = golden();
        let server = ServerConfig {
            ceiling: Some(CEILING),
            seed: 1,
            ..ServerConfig::default()
        };
        let config = ServiceConfig {
            server,
            lanes: 2,
            secret: [9; 32],
            standby: false,
        };
        let service = Service::new(now, config, golden.image.clone()).unwrap();
        let config = ClientConfig {
            credit_blocks: CREDIT,
            unicast: Unicast::Fallback {
                server: Some(SERVER),
                after: Duration::from_secs(2),
            },
            seed: 2,
            ..ClientConfig::default()
        };
        let probe_server = ProbeServerConfig {
            ceiling: CEILING,
            seed: 3,
            ..ProbeServerConfig::default()
        };
        let probe_client = ProbeClientConfig {
            server: Some(SERVER),
            seed: 4,
            ..ProbeClientConfig::default()
        };
        Self {
            now,
            start: now,
            client: Client::new(now, config, Owner::new(vec![Arc::clone(golden)])),
            site: Site::new(now, Some(CEILING), vec![service]),
            probe_client: ProbeClient::new(now, probe_client),
            probe_server: ProbeServer::new(now, probe_server),
            got: HashSet::new(),
            challenged: HashMap::new(),
            sent: 0,
            probe_sent: 0,
            asked: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// What a liar can know: the version, the image, its head, and the token of its own address.
    fn put_right(&self, datagram: &mut [u8], from: SocketAddr) {
        let golden = golden();
        let put = |datagram: &mut [u8], at: usize, bytes: &[u8]| {
            if let Some(place) = datagram.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(datagram, 0, &[1]);
        let kind = datagram.get(1).copied().unwrap_or(0);
        if kind >= 7 {
            return;
        }
        put(datagram, 8, &golden.image.uuid);
        if kind == 1 && datagram.len() == ANNOUNCE_SIZE {
            put(datagram, ANNOUNCE_SIZE - 1024, &*golden.image.head);
        }
        if let (2, Some(token)) = (kind, self.challenged.get(&from)) {
            put(datagram, 40, &token.to_le_bytes());
        }
    }

    fn deliver(&mut self, datagram: &[u8], from: SocketAddr) {
        let now = self.now;
        self.client.handle_datagram(now, from, datagram);
        let service = self.site.service(0).unwrap();
        service.handle_datagram(now, from, datagram);
        service.handle_group(now, datagram);
        self.probe_client.handle_datagram(now, from, datagram);
        self.give_probe_server(from, datagram);
    }

    fn give_probe_server(&mut self, from: SocketAddr, datagram: &[u8]) {
        *self.asked.entry(from).or_default() += datagram.len() as u64;
        self.probe_server.handle_datagram(self.now, from, datagram);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count.min(TURNS) {
            self.server_turn();
            self.client_turn();
            self.probe_turn();
            self.pass(Duration::from_micros(500));
        }
    }

    fn server_turn(&mut self) {
        for _ in 0..TURNS {
            let (_, output) = self.site.poll(self.now, &mut self.buffer);
            match output {
                ServiceOutput::Transmit { to, transmit } => {
                    assert!(transmit.datagrams * transmit.segment == self.buffer.len());
                    let bytes = self.buffer.len() + transmit.datagrams * FRAMING;
                    self.sent += bytes as u64;
                    let buffer = std::mem::take(&mut self.buffer);
                    for datagram in buffer.chunks(transmit.segment) {
                        self.hear_server(to, datagram);
                    }
                    self.buffer = buffer;
                }
                ServiceOutput::TookOver(_) | ServiceOutput::SteppedBack => {
                    panic!("it is no standby")
                }
                ServiceOutput::Wait(_) => return,
                output => self.supply(output),
            }
        }
    }

    /// Gives the server the object or the parity that it asks for.
    fn supply(&mut self, output: ServiceOutput) {
        let service = self.site.service(0).unwrap();
        match output {
            ServiceOutput::Load(object) => {
                let loaded = &golden().objects[object as usize];
                assert!(service.handle_loaded(self.now, object, loaded));
            }
            ServiceOutput::Encode {
                object,
                loaded,
                blocks,
            } => {
                let parity = Parity::of(&loaded, blocks).map(Arc::new);
                service.handle_parity(self.now, object, parity.as_ref());
            }
            _ => {}
        }
    }

    /// Nobody but who has answered a challenge is sent more than a challenge, which is less than a request.
    fn hear_server(&mut self, to: Option<SocketAddr>, datagram: &[u8]) {
        let decoded = wire::decode(datagram).unwrap();
        if let Some(to) = to {
            match decoded.message {
                Message::Challenge(challenge) => {
                    assert_eq!(datagram.len(), CHALLENGE_SIZE);
                    self.challenged.insert(to, challenge.token);
                }
                _ => assert!(self.challenged.contains_key(&to), "{to} was not challenged"),
            }
        }
        if to.is_none_or(|to| to == CLIENT) {
            self.client.handle_datagram(self.now, SERVER, datagram);
        }
    }

    fn client_turn(&mut self) {
        for _ in 0..TURNS {
            match self.client.poll(self.now) {
                ClientOutput::Send { to, datagram } => {
                    assert!(datagram.len() <= wire::MAX_DATAGRAM);
                    if to == SERVER {
                        let service = self.site.service(0).unwrap();
                        service.handle_datagram(self.now, CLIENT, &datagram);
                    }
                }
                ClientOutput::Object { object, bytes } => {
                    assert!(bytes == golden().bytes[object as usize], "object {object}");
                    assert!(self.got.insert(object), "object {object} again");
                    self.client.release(self.now, object);
                }
                ClientOutput::Event(_) => {}
                ClientOutput::Wait(_) => return,
            }
        }
    }

    fn probe_turn(&mut self) {
        let mut buffer = Vec::new();
        for _ in 0..TURNS {
            let ProbeOutput::Send { to, segment } = self.probe_server.poll(self.now, &mut buffer)
            else {
                break;
            };
            assert!(segment > 0 && buffer.len() % segment == 0 && segment <= wire::MAX_DATAGRAM);
            self.probe_sent += (buffer.len() + buffer.len() / segment * FRAMING) as u64;
            if let ProbeTarget::Unicast(to) = to {
                // No answer is larger than what it answers.
                let asked = self.asked.entry(to).or_default();
                let left = asked.checked_sub(buffer.len() as u64);
                *asked = left.expect("more answers than questions");
            }
            if matches!(to, ProbeTarget::Unicast(to) if to != CLIENT) {
                continue;
            }
            for datagram in buffer.chunks(segment) {
                self.probe_client
                    .handle_datagram(self.now, SERVER, datagram);
            }
        }
        for _ in 0..TURNS {
            let output = self.probe_client.poll(self.now, &mut buffer);
            let ProbeOutput::Send { .. } = output else {
                break;
            };
            assert_eq!(buffer.len(), probe_wire::PROBE_SIZE);
            self.give_probe_server(CLIENT, &buffer);
        }
    }

    fn check(&self) {
        let bound = CREDIT.max(golden().largest());
        assert!(self.client.blocks_in_use() <= bound, "credit");
        let time = self.now.duration_since(self.start).as_nanos();
        let rate = u64::try_from(u128::from(CEILING) * time / 8_000_000_000).unwrap();
        assert!(self.sent <= rate + AHEAD, "{} bytes sent", self.sent);
        assert!(
            self.probe_sent <= rate + AHEAD,
            "{} bytes probed",
            self.probe_sent
        );
        assert!(self.probe_server.clients().count() <= 1024);
        let report = self.probe_client.report();
        assert!(report.steps.len() + report.sizes.len() <= 256);
        for (routed, broadcast) in [(false, false), (true, false), (false, true)] {
            let verdict = report.verdict(Circumstances { routed, broadcast });
            assert_eq!(verdict.is_good(), verdict.name() == "works");
        }
    }
}

/// Name and bytes of the seeds: what the machines say in a transfer and in a probe, and some of it told by liars.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut network = Network::new();
    let mut seen: HashMap<u8, Vec<u8>> = HashMap::new();
    let mut note = |datagram: &[u8]| {
        let kept = seen.entry(datagram[1]).or_default();
        if datagram.len() > kept.len() {
            *kept = datagram.to_vec();
        }
    };
    // A client that loses some blocks, so that it asks for parity.
    for turn in 0..6000 {
        let (_, output) = network.site.poll(network.now, &mut network.buffer);
        match output {
            ServiceOutput::Transmit { transmit, .. } => {
                for datagram in network.buffer.chunks(transmit.segment) {
                    note(datagram);
                    if datagram[1] != 3 || turn % 3 != 0 {
                        network
                            .client
                            .handle_datagram(network.now, SERVER, datagram);
                    }
                }
            }
            output => network.supply(output),
        }
        match network.client.poll(network.now) {
            ClientOutput::Send { datagram, .. } => {
                note(&datagram);
                let service = network.site.service(0).unwrap();
                service.handle_datagram(network.now, CLIENT, &datagram);
            }
            ClientOutput::Object { object, .. } => network.client.release(network.now, object),
            _ => {}
        }
        network.pass(Duration::from_micros(500));
    }
    let mut buffer = Vec::new();
    for _ in 0..2000 {
        if let ProbeOutput::Send { segment, .. } =
            network.probe_server.poll(network.now, &mut buffer)
        {
            for datagram in buffer.chunks(segment) {
                note(datagram);
                network
                    .probe_client
                    .handle_datagram(network.now, SERVER, datagram);
            }
        }
        if let ProbeOutput::Send { .. } = network.probe_client.poll(network.now, &mut buffer) {
            note(&buffer);
            let now = network.now;
            network.probe_server.handle_datagram(now, CLIENT, &buffer);
        }
        network.pass(Duration::from_millis(1));
    }
    let piece = |how: u8, number: u16| [&[how][..], &number.to_le_bytes()].concat();
    let told = |how: u8, datagram: &[u8]| {
        let length = u16::try_from(datagram.len()).unwrap();
        [piece(how, length), datagram.to_vec()].concat()
    };
    let knock = {
        let head = wire::RequestHead {
            client: 5,
            unicast: true,
            ..wire::RequestHead::default()
        };
        let stream = Stream {
            number: 0,
            uuid: golden().image.uuid,
        };
        RequestItems::default().encode(&stream, 0, &head)
    };
    let mut kinds: Vec<_> = seen.into_iter().collect();
    kinds.sort();
    let mut seeds: Vec<(String, Vec<u8>)> = kinds
        .into_iter()
        .map(|(kind, datagram)| {
            let all = [
                told(0, &datagram),
                piece(2, 40),
                told(0x11, &datagram),
                piece(3, 300),
                piece(2, 40),
                told(0x21, &datagram),
            ];
            (format!("type-{kind}"), all.concat())
        })
        .collect();
    let lane = [
        told(1, &knock),
        piece(2, 4),
        told(1, &knock),
        piece(2, 64),
        piece(3, 1000),
        told(1, &knock),
    ];
    seeds.push(("lane".into(), lane.concat()));
    seeds
}
