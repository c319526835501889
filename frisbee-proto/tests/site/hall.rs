//! The test network: sites, and clients that multicast may not reach, with a virtual clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::{
    Client, ClientConfig, ClientOutput, Event, FRAMING, Parity, ServerConfig, Service,
    ServiceConfig, ServiceOutput, Site, Unicast,
};

use frisbee_sim::{Golden, Owner};

/// From one machine to another.
const DELAY: Duration = Duration::from_micros(300);

/// A process that serves images, each at a port of its own.
pub(crate) struct Desk {
    pub(crate) site: Site,
    goldens: Vec<Arc<Golden>>,
    pub(crate) up: bool,
    pub(crate) wake: Option<Instant>,
    started: Instant,
    ceiling: Option<u64>,
    /// Bytes on the wire, to everybody.
    pub(crate) sent: u64,
    /// And to single addresses.
    pub(crate) to: BTreeMap<SocketAddr, u64>,
    /// Objects read.
    pub(crate) loads: u64,
    /// Objects whose parity was computed.
    pub(crate) encodes: u64,
    pub(crate) took_over: Vec<(Duration, Duration)>,
    pub(crate) stepped_back: u32,
}

pub(crate) struct Guest {
    client: Client<Owner>,
    address: SocketAddr,
    golden: Arc<Golden>,
    /// What is sent to the group comes here.
    pub(crate) hears_group: bool,
    /// The share of what is sent to it that does not come.
    pub(crate) loses: f64,
    /// Nothing comes or goes.
    pub(crate) cut_off: bool,
    got: BTreeMap<u32, usize>,
    pub(crate) finished: Option<Duration>,
    wake: Option<Instant>,
}

impl Guest {
    pub(crate) fn has_lane(&self) -> bool {
        self.client.has_lane()
    }

    pub(crate) fn objects(&self) -> usize {
        self.got.len()
    }
}

pub(crate) type Packet = (SocketAddr, Arc<[u8]>);

enum Happening {
    ToGuest(usize, Packet),
    ToDesk(usize, usize, Packet),
    GroupToDesk(usize, usize, Arc<[u8]>),
}

pub(crate) struct Hall {
    pub(crate) now: Instant,
    begin: Instant,
    pub(crate) desks: Vec<Desk>,
    pub(crate) guests: Vec<Guest>,
    queue: BTreeMap<(Instant, u64), Happening>,
    count: u64,
    buffer: Vec<u8>,
    seed: u64,
    losses: fastrand::Rng,
}

/// Where a desk serves an image.
pub(crate) fn place(desk: usize, image: usize) -> SocketAddr {
    let host = u8::try_from(desk + 1).unwrap();
    SocketAddr::from(([10, 0, 0, host], 7001 + u16::try_from(image).unwrap()))
}

impl Hall {
    pub(crate) fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            begin: now,
            desks: Vec::new(),
            guests: Vec::new(),
            queue: BTreeMap::new(),
            count: 0,
            buffer: Vec::new(),
            seed,
            losses: fastrand::Rng::with_seed(seed),
        }
    }

    fn random(&mut self) -> u64 {
        self.seed += 1;
        fastrand::Rng::with_seed(self.seed).u64(..)
    }

    /// A process that starts now.
    pub(crate) fn desk(
        &mut self,
        goldens: &[&Arc<Golden>],
        ceiling: Option<u64>,
        config: ServiceConfig,
    ) -> usize {
        let services = goldens.iter().map(|golden| {
            let seed = self.random();
            let secret = [self.random().to_le_bytes(); 4].concat();
            let config = ServiceConfig {
                server: ServerConfig {
                    ceiling,
                    seed,
                    ..ServerConfig::default()
                },
                secret: secret.try_into().unwrap(),
                ..config
            };
            Service::new(self.now, config, golden.image.clone()).unwrap()
        });
        let services = services.collect();
        self.desks.push(Desk {
            site: Site::new(self.now, ceiling, services),
            goldens: goldens.iter().copied().cloned().collect(),
            up: true,
            wake: Some(self.now),
            started: self.now,
            ceiling,
            sent: 0,
            to: BTreeMap::new(),
            loads: 0,
            encodes: 0,
            took_over: Vec::new(),
            stepped_back: 0,
        });
        self.desks.len() - 1
    }

    pub(crate) fn guest(&mut self, golden: &Arc<Golden>, unicast: Unicast) -> usize {
        let config = ClientConfig {
            credit_blocks: 16 << 10,
            unicast,
            seed: self.random(),
            ..ClientConfig::default()
        };
        let owner = Owner::new(vec![Arc::clone(golden)]);
        let host = u8::try_from(self.guests.len() + 1).unwrap();
        self.guests.push(Guest {
            client: Client::new(self.now, config, owner),
            address: SocketAddr::from(([10, 0, 1, host], 40_000)),
            golden: Arc::clone(golden),
            hears_group: true,
            loses: 0.0,
            cut_off: false,
            got: BTreeMap::new(),
            finished: None,
            wake: Some(self.now),
        });
        self.guests.len() - 1
    }

    /// Time since the beginning.
    pub(crate) fn time(&self) -> Duration {
        self.now - self.begin
    }

    /// A datagram that somebody sends to a desk in the name of `from`.
    pub(crate) fn send(&mut self, desk: usize, image: usize, from: SocketAddr, datagram: Vec<u8>) {
        let packet = (from, datagram.into());
        self.schedule(self.now, Happening::ToDesk(desk, image, packet));
    }

    /// A datagram that somebody sends to a guest in the name of a desk.
    pub(crate) fn whisper(&mut self, guest: usize, desk: SocketAddr, datagram: Vec<u8>) {
        let packet = (desk, datagram.into());
        self.schedule(self.now, Happening::ToGuest(guest, packet));
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until every guest has its image.
    pub(crate) fn run(&mut self) {
        while self.guests.iter().any(|guest| guest.finished.is_none()) {
            assert!(
                self.time() < Duration::from_secs(600),
                "seed {}: no end",
                self.seed
            );
            self.step();
        }
        for guest in &self.guests {
            let all = guest.golden.image.objects.len() - 1;
            assert_eq!(guest.got.len(), all, "seed {}", self.seed);
        }
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.count += 1;
        self.queue.insert((at, self.count), happening);
    }

    fn next(&self) -> Option<Instant> {
        let desks = self.desks.iter().filter_map(|desk| desk.wake);
        let guests = self.guests.iter().filter_map(|guest| guest.wake);
        let queue = self.queue.keys().next().map(|key| key.0);
        desks.chain(guests).chain(queue).min()
    }

    fn step(&mut self) {
        self.now = self.next().unwrap().max(self.now);
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= self.now
        {
            let happening = entry.remove();
            self.happen(happening);
        }
        for desk in 0..self.desks.len() {
            if self.desks[desk].wake.is_some_and(|wake| wake <= self.now) {
                self.poll_desk(desk);
            }
        }
        for guest in 0..self.guests.len() {
            if self.guests[guest].wake.is_some_and(|wake| wake <= self.now) {
                self.poll_guest(guest);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToGuest(guest, (from, datagram)) => {
                let guest = &mut self.guests[guest];
                if !guest.cut_off && guest.finished.is_none() {
                    guest.client.handle_datagram(self.now, from, &datagram);
                    guest.wake = Some(self.now);
                }
            }
            Happening::ToDesk(desk, image, (from, datagram)) => {
                let desk = &mut self.desks[desk];
                if desk.up
                    && let Some(service) = desk.site.service(image)
                {
                    service.handle_datagram(self.now, from, &datagram);
                    desk.wake = Some(self.now);
                }
            }
            Happening::GroupToDesk(desk, image, datagram) => {
                let desk = &mut self.desks[desk];
                if desk.up
                    && let Some(service) = desk.site.service(image)
                {
                    service.handle_group(self.now, &datagram);
                    desk.wake = Some(self.now);
                }
            }
        }
    }

    fn poll_desk(&mut self, number: usize) {
        if !self.desks[number].up {
            self.desks[number].wake = None;
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let time = self.time();
            let desk = &mut self.desks[number];
            let (image, output) = desk.site.poll(self.now, &mut buffer);
            match output {
                ServiceOutput::Transmit { to, transmit } => {
                    assert_eq!(buffer.len(), transmit.segment * transmit.datagrams);
                    let wire = (buffer.len() + transmit.datagrams * FRAMING) as u64;
                    desk.sent += wire;
                    if let Some(to) = to {
                        *desk.to.entry(to).or_default() += wire;
                    }
                    self.check_rate(number);
                    let from = place(number, image);
                    for datagram in buffer.chunks(transmit.segment) {
                        self.carry(from, (number, image), to, datagram);
                    }
                }
                ServiceOutput::Load(object) => {
                    desk.loads += 1;
                    let loaded = Arc::clone(&desk.goldens[image].objects[object as usize]);
                    let service = desk.site.service(image).unwrap();
                    assert!(service.handle_loaded(self.now, object, &loaded));
                }
                ServiceOutput::Encode {
                    object,
                    loaded,
                    blocks,
                } => {
                    desk.encodes += 1;
                    let parity = Parity::of(&loaded, blocks).map(Arc::new);
                    let service = desk.site.service(image).unwrap();
                    service.handle_parity(self.now, object, parity.as_ref());
                }
                ServiceOutput::TookOver(silence) => desk.took_over.push((time, silence)),
                ServiceOutput::SteppedBack => desk.stepped_back += 1,
                ServiceOutput::Wait(wake) => {
                    assert!(wake.is_none_or(|wake| wake > self.now), "no wait");
                    desk.wake = wake;
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Never more than the rate since the start, but for one burst of 2 ms or 16 datagrams and an ANNOUNCE.
    fn check_rate(&self, desk: usize) {
        let desk = &self.desks[desk];
        let Some(ceiling) = desk.ceiling else { return };
        let bits = desk.sent as f64 * 8.0;
        let burst = (ceiling as f64 * 0.002).max(18.0 * 1122.0 * 8.0);
        let most = ceiling as f64 * (self.now - desk.started).as_secs_f64() * 1.0001 + burst;
        assert!(bits <= most, "{bits} bits, at most {most}");
    }

    fn carry(
        &mut self,
        from: SocketAddr,
        (desk, image): (usize, usize),
        to: Option<SocketAddr>,
        datagram: &[u8],
    ) {
        let datagram: Arc<[u8]> = datagram.into();
        let at = self.now + DELAY;
        for place in 0..self.guests.len() {
            let guest = &self.guests[place];
            let reaches = to.map_or(guest.hears_group, |to| to == guest.address);
            if reaches && self.losses.f64() >= guest.loses {
                let packet = (from, Arc::clone(&datagram));
                self.schedule(at, Happening::ToGuest(place, packet));
            }
        }
        if to.is_none() {
            for other in (0..self.desks.len()).filter(|&other| other != desk) {
                let happening = Happening::GroupToDesk(other, image, Arc::clone(&datagram));
                self.schedule(at, happening);
            }
        }
    }

    fn poll_guest(&mut self, number: usize) {
        loop {
            let time = self.time();
            let guest = &mut self.guests[number];
            match guest.client.poll(self.now) {
                ClientOutput::Send { to, datagram } => {
                    let desk = (0..self.desks.len()).rev().find_map(|desk| {
                        let images = 0..self.desks[desk].goldens.len();
                        let image = images.into_iter().find(|&image| place(desk, image) == to)?;
                        Some((desk, image))
                    });
                    let packet = (guest.address, datagram.into());
                    if let Some((desk, image)) = desk.filter(|_| !guest.cut_off) {
                        let at = self.now + DELAY;
                        self.schedule(at, Happening::ToDesk(desk, image, packet));
                    }
                }
                ClientOutput::Object { object, bytes } => {
                    assert!(bytes == guest.golden.bytes[object as usize], "a false one");
                    let before = guest.got.insert(object, bytes.len());
                    assert!(before.is_none(), "object {object} twice");
                    guest.client.release(self.now, object);
                }
                ClientOutput::Event(Event::Finished) => guest.finished = Some(time),
                ClientOutput::Event(_) => {}
                ClientOutput::Wait(wake) => {
                    assert!(wake.is_none_or(|wake| wake > self.now), "no wait");
                    guest.wake = wake;
                    return;
                }
            }
        }
    }
}
