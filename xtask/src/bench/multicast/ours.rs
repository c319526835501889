//! frisbeed and frisbee-client.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::background::Background;
use e2e::command::{run as run_tool, tool};
use e2e::disk::{Disk, Recipe, Table};
use e2e::image::Keys;
use e2e::room::{INTERFACE, Machine};
use e2e::{class, events, ranges};
use serde_json::Value;

use super::network::Network;
use super::programs::{cpu, ends};
use crate::show::ratio;

const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 192, 7, 98), 7098);

/// What is sent, in memory, so that no disk is measured.
pub(super) struct Golden {
    pub(super) image: PathBuf,
    /// Bytes of the image.
    pub(super) bytes: u64,
    disk: Disk,
    keys: Keys,
    place: tempfile::TempDir,
}

/// What the clients do with what they receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sink {
    /// They verify it and throw it away.
    Discard,
    /// They verify, decrypt and decompress it and write the disk, to a file in memory.
    Install,
}

/// How the clients are started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    pub(super) sink: Sink,
    /// The server's `--rate`.
    pub(super) rate: Option<&'a str>,
    /// Time between two clients.
    pub(super) apart: Duration,
    pub(super) limit: Duration,
}

/// What a run gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Seconds that each client took, from its own start.
    pub(super) seconds: Vec<f64>,
    /// DATA and PARITY blocks sent per block of the image.
    pub(super) blocks: f64,
    /// Bytes of frames sent per byte of the image.
    pub(super) bytes: f64,
    /// Processor time of the server.
    pub(super) cpu: Duration,
    /// Datagrams that the clients' kernels dropped, all together.
    pub(super) dropped: u64,
}

impl Run {
    /// Seconds of the slowest client.
    pub(super) fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }
}

/// A recipe for an ext4 filesystem of so many MiB with so many of files of this system.
pub(super) const fn recipe(ext_mib: u64, data_mib: u64) -> Recipe {
    Recipe {
        table: Table::None,
        sector_size: 512,
        mke2fs: "-t ext4 -b 4096",
        fat_mib: 0,
        ext_mib,
        data_mib,
    }
}

impl Golden {
    /// An image made with these options of imagezip.
    pub(super) fn new(recipe: &Recipe, options: &[&str]) -> Result<Self> {
        let disk = recipe.cached()?;
        let place = tempfile::Builder::new()
            .prefix("frz-bench-")
            .tempdir_in("/dev/shm")?;
        let keys = Keys::make(place.path())?;
        let image = place.path().join("image.frz");
        let mut zip = keys.imagezip()?;
        zip.args(options).arg(&disk.path).arg(&image);
        run_tool(zip)?.success()?;
        let bytes = fs::metadata(&image)?.len();
        Ok(Self {
            image,
            bytes,
            disk,
            keys,
            place,
        })
    }

    /// A place for what a client writes.
    pub(super) fn target(&self, client: usize) -> PathBuf {
        self.place.path().join(format!("target-{client}"))
    }

    /// Time of `imageunzip` onto a new file.
    pub(super) fn unzip(&self) -> Result<Duration> {
        let target = self.target(0);
        let _ = fs::remove_file(&target);
        let mut unzip = self.keys.imageunzip()?;
        unzip.arg(&self.image).arg(&target);
        let began = Instant::now();
        let ended = ends(vec![Background::start(unzip)?], Duration::from_secs(100))?;
        let (at, outcome) = ended.into_iter().flatten().next().context("imageunzip")?;
        outcome.success()?;
        fs::remove_file(&target)?;
        Ok(at - began)
    }

    /// A server that is ready, with these options.
    pub(super) fn server(&self, network: &Network, options: &[&str]) -> Result<Background> {
        let mut server = tool("frisbeed")?;
        server.args(["--json", "--interface", INTERFACE, "--group"]);
        server.arg(GROUP.to_string());
        server.args(options).arg(&self.image);
        let server = Background::start(network.server.netns.command(&server)?)?;
        events::next(&server, "start")?;
        Ok(server)
    }

    /// A client that installs to this target.
    pub(super) fn client(&self, machine: &Machine, target: &Path) -> Result<Background> {
        let mut client = self.keys.client()?;
        client.args(["--json", "--interface", INTERFACE, "--group"]);
        client.arg(GROUP.to_string()).arg(target);
        Background::start(machine.netns.command(&client)?)
    }

    /// Serves the clients of a network, and checks what they have. They are there before the server, as the receivers
    /// of the other programs are, but for those that are to come later.
    pub(super) fn serve(&self, network: &Network, start: Start<'_>) -> Result<Run> {
        let targets: Vec<PathBuf> = (0..network.clients.len())
            .map(|client| match start.sink {
                Sink::Discard => "/dev/null".into(),
                Sink::Install => self.target(client),
            })
            .collect();
        let mut waiting = network.clients.iter().zip(&targets);
        let client = |(machine, target): (&Machine, &PathBuf)| {
            if start.sink == Sink::Install {
                let _ = fs::remove_file(target);
            }
            self.client(machine, target)
        };
        let early = match start.apart.is_zero() {
            true => network.clients.len(),
            false => 1,
        };
        let mut running: Vec<Background> = waiting
            .by_ref()
            .take(early)
            .map(client)
            .collect::<Result<_>>()?;
        for machine in network.clients.iter().take(early) {
            machine.joins(*GROUP.ip())?;
        }
        let sent = network.sent()?;
        let now = Instant::now();
        let mut began = vec![now; early];
        let options: Vec<&str> = start
            .rate
            .iter()
            .flat_map(|rate| ["--rate", rate])
            .collect();
        let server = self.server(network, &options)?;
        for (number, late) in (1..).zip(waiting) {
            sleep((now + start.apart * number).saturating_duration_since(Instant::now()));
            began.push(Instant::now());
            running.push(client(late)?);
        }
        let mut run = Run::default();
        for (ended, began) in ends(running, start.limit)?.into_iter().zip(began) {
            let Some((at, outcome)) = ended else {
                bail!("a client did not end within {} s", start.limit.as_secs());
            };
            let finish = events::last(&outcome.success()?, "finish")?;
            run.dropped += finish["receive_drops"].as_u64().unwrap_or(0);
            run.seconds.push((at - began).as_secs_f64());
        }
        let sent = network.sent()? - sent;
        run.bytes = ratio(sent, self.bytes);
        run.cpu = cpu(&server)?;
        let finish = class::end(server)?;
        run.blocks = ratio(blocks(&finish)? * 1024, self.bytes);
        if start.sink == Sink::Install {
            self.check(&targets)?;
        }
        Ok(run)
    }

    /// Checks that these have all data of the golden disk, and removes them.
    fn check(&self, targets: &[PathBuf]) -> Result<()> {
        let used = self.disk.allocated()?;
        for target in targets {
            ranges::same(&self.disk.path, target, &used)?;
            fs::remove_file(target)?;
        }
        Ok(())
    }
}

/// Blocks of data and of parity that a server has sent.
fn blocks(finish: &Value) -> Result<u64> {
    let data = finish["blocks"].as_u64().context("no blocks")?;
    ensure!(data > 0, "nothing was sent");
    let parity = finish["parity_blocks"].as_u64().context("no parity")?;
    Ok(data + parity)
}

/// The seconds of a file's way through memory: see `frisbee-udp/benches/copy.rs`.
pub(super) fn copied(image: &Path) -> Result<f64> {
    let mut bench = crate::cargo::cargo();
    let words = "bench --quiet --locked --package frisbee-udp --bench copy --";
    bench.args(words.split_whitespace()).arg(image);
    let outcome = run_tool(bench)?.success()?;
    let text = outcome.stdout_text();
    let seconds = text
        .split_whitespace()
        .next()
        .context("the bench says nothing")?;
    Ok(seconds.parse()?)
}
