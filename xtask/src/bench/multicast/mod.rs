//! frisbeed and frisbee-client beside udpcast, over a virtual link between two network namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::command::{system, tool};
use e2e::disk::{Disk, Recipe, Table};
use e2e::image::Keys;
use e2e::netns::Netns;
use e2e::room::{INTERFACE, Room};
use e2e::{events, ranges};
use nix::sys::signal::Signal;

use super::pairs::{Figures, Pairs};
use crate::show::{mb, ratio};

const GROUP: &str = "239.192.7.98:7098";
const LIMIT: Duration = Duration::from_secs(300);

/// What is sent to one client.
const LARGE: Recipe = Recipe {
    table: Table::None,
    sector_size: 512,
    mke2fs: "-t ext4 -b 4096",
    fat_mib: 0,
    ext_mib: 2048,
    data_mib: 900,
};

/// What is sent to eight, whose disks are in memory.
const SMALL: Recipe = Recipe {
    table: Table::None,
    sector_size: 512,
    mke2fs: "-t ext4 -b 4096",
    fat_mib: 0,
    ext_mib: 512,
    data_mib: 250,
};

/// Rates for udpcast, whose manual advises to set one below what the network carries.
const UDPCAST_RATES: [&str; 6] = ["", "300m", "600m", "1000m", "1500m", "2500m"];

pub(crate) fn run(runs: usize) -> Result<()> {
    println!("## Multicast\n");
    one_client(runs)?;
    eight_clients(runs)
}

/// A directory in memory, so that no disk is measured.
fn memory() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("frz-bench-")
        .tempdir_in("/dev/shm")?)
}

/// Two machines with a cable.
struct Link {
    server: Netns,
    client: Netns,
}

impl Link {
    fn new() -> Result<Self> {
        let link = Self {
            server: Netns::new("bench-server")?,
            client: Netns::new("bench-client")?,
        };
        let peer = link.client.name();
        link.server.ip(&format!(
            "link add {INTERFACE} type veth peer name {INTERFACE} netns {peer}"
        ))?;
        for (netns, address) in [
            (&link.server, "10.78.0.1/24"),
            (&link.client, "10.78.0.2/24"),
        ] {
            netns.ip(&format!("link set {INTERFACE} up"))?;
            // udpcast finds its peers by broadcast.
            netns.ip(&format!("address add {address} brd + dev {INTERFACE}"))?;
            netns.ip(&format!("route add 224.0.0.0/4 dev {INTERFACE}"))?;
        }
        Ok(link)
    }
}

struct Bench {
    keys: Keys,
    image: PathBuf,
    disk: Disk,
    place: tempfile::TempDir,
}

impl Bench {
    fn new(recipe: &Recipe) -> Result<Self> {
        let disk = recipe.cached()?;
        let place = memory()?;
        let keys = Keys::make(place.path())?;
        let image = place.path().join("image.frz");
        keys.zip(&disk.path, &image)?;
        Ok(Self {
            keys,
            image,
            disk,
            place,
        })
    }

    fn server(&self, netns: &Netns, rate: Option<&str>) -> Result<Background> {
        let mut server = tool("frisbeed")?;
        server.args(["--json", "--interface", INTERFACE, "--group", GROUP]);
        if let Some(rate) = rate {
            server.args(["--rate", rate]);
        }
        server.arg(&self.image);
        let server = Background::start(netns.command(&server)?)?;
        events::next(&server, "start")?;
        Ok(server)
    }

    fn client(&self, netns: &Netns, target: &Path) -> Result<Command> {
        let mut client = self.keys.client()?;
        client
            .args(["--json", "--interface", INTERFACE, "--group", GROUP])
            .arg(target);
        netns.command(&client)
    }

    /// Time until the client has installed everything.
    fn install(&self, link: &Link) -> Result<Duration> {
        let target = self.place.path().join("disk");
        let _ = fs::remove_file(&target);
        let server = self.server(&link.server, None)?;
        let began = Instant::now();
        Background::start(self.client(&link.client, &target)?)?
            .wait(LIMIT)?
            .success()?;
        let time = began.elapsed();
        server.kill()?;
        ranges::same(&self.disk.path, &target, &self.disk.allocated()?)?;
        Ok(time)
    }

    /// Time until udp-receiver has the image file; `None` if it does not get it.
    fn udpcast(&self, link: &Link, rate: &str) -> Result<Option<Duration>> {
        let target = self.place.path().join("received");
        let _ = fs::remove_file(&target);
        let mut receiver = system("udp-receiver")?;
        receiver
            .args(["--interface", INTERFACE, "--nokbd", "--file"])
            .arg(&target);
        let receiver = Background::start(link.client.command(&receiver)?)?;
        // So that it is there when the sender looks for it.
        sleep(Duration::from_millis(300));
        let mut sender = system("udp-sender")?;
        sender.args([
            "--interface",
            INTERFACE,
            "--nokbd",
            "--full-duplex",
            "--min-receivers",
            "1",
            "--file",
        ]);
        sender.arg(&self.image);
        if !rate.is_empty() {
            sender.args(["--max-bitrate", rate]);
        }
        let began = Instant::now();
        let sender = Background::start(link.server.command(&sender)?)?;
        let done = receiver.wait(Duration::from_secs(30)).is_ok();
        let time = began.elapsed();
        sender.kill()?;
        let same = done && fs::read(&target)? == fs::read(&self.image)?;
        Ok(same.then_some(time))
    }
}

fn one_client(runs: usize) -> Result<()> {
    let bench = Bench::new(&LARGE)?;
    let link = Link::new()?;
    let bytes = fs::metadata(&bench.image)?.len();
    let mut best: Option<(&str, Duration)> = None;
    let mut tried = Vec::new();
    for rate in UDPCAST_RATES {
        let name = if rate.is_empty() { "no limit" } else { rate };
        match bench.udpcast(&link, rate)? {
            Some(time) => {
                tried.push(format!("{name}: {:.2} s", time.as_secs_f64()));
                if best.is_none_or(|(_, least)| time < least) {
                    best = Some((rate, time));
                }
            }
            None => tried.push(format!("{name}: did not finish")),
        }
    }
    let (rate, _) = best.context("udpcast finished at no rate")?;
    println!(
        "One client, link without limit, image of {} in memory, target in memory; {runs} pairs.",
        mb(bytes)
    );
    println!("udpcast tried at {}.\n", tried.join(", "));
    let pairs = Pairs::measure(
        runs,
        || bench.install(&link),
        || {
            bench
                .udpcast(&link, rate)?
                .context("udpcast did not finish")
        },
    )?;
    println!("| | frisbee, s | udpcast, s | times as fast |\n|---|---|---|---|");
    println!(
        "| one client: frisbee verifies, decrypts, decompresses, writes the disk; udpcast writes the image file (`--max-bitrate {rate}`) | {} | {} | {} |\n",
        pairs.ours.show(2),
        pairs.other.show(2),
        pairs.ratio.show(2),
    );
    Ok(())
}

fn eight_clients(runs: usize) -> Result<()> {
    const CLIENTS: usize = 8;
    let bench = Bench::new(&SMALL)?;
    let bytes = fs::metadata(&bench.image)?.len();
    let (mut blocks, mut wire) = (Figures::default(), Figures::default());
    let used = bench.disk.allocated()?;
    let directory = memory()?;
    for _ in 0..runs {
        let room = Room::new()?;
        let switch = room.machine()?;
        let clients = room.machines(CLIENTS)?;
        let server = bench.server(&switch.netns, Some("100M"))?;
        let targets: Vec<_> = (0..CLIENTS)
            .map(|client| directory.path().join(format!("disk{client}")))
            .collect();
        let mut running = Vec::new();
        for (machine, target) in clients.iter().zip(&targets) {
            let _ = fs::remove_file(target);
            running.push(Background::start(bench.client(&machine.netns, target)?)?);
        }
        for client in running {
            client.wait(LIMIT)?.success()?;
        }
        server.signal(Signal::SIGTERM)?;
        let event = events::last(&server.wait(LIMIT)?.success()?, "finish")?;
        let number = |field: &str| event[field].as_u64().with_context(|| format!("no {field}"));
        blocks.add(ratio(number("blocks")? * 1024, bytes));
        wire.add(ratio(number("datagrams")? * 1056, bytes));
        for target in &targets {
            ranges::same(&bench.disk.path, target, &used)?;
        }
    }
    ensure!(blocks.median().is_finite(), "nothing was measured");
    println!(
        "Eight clients that start together, no loss, 100 Mbit/s, image of {}; {runs} runs:",
        mb(bytes)
    );
    println!(
        "blocks sent per block of the image {}; UDP payload sent per byte of image {}.\n",
        blocks.show(4),
        wire.show(4)
    );
    Ok(())
}
