//! The image server: sockets, files and a clock around [`frisbee_proto::Site`].
//!
//! One thread drives the machines and the sockets; another reads and hashes the objects that the machines ask for.
//! The server holds no key and judges no signature: what it sends proves itself to those who receive it.

mod cli;
mod drive;
mod image;
mod outlet;
mod probe;
mod reader;
mod room;
mod screen;
mod signals;
mod status;

pub use cli::Cli;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use frisbee_cli::progress::Events;
use frisbee_cli::{Exit, Failure};
use frisbee_proto::{ServerConfig, Service, ServiceConfig, Site};
use frisbee_udp::Timer;

use drive::Drive;
use reader::Reader;
use signals::Signals;
use status::Status;

/// The command line's definition, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

impl Cli {
    /// Where JSON events go.
    pub fn events(&self) -> Events {
        Events::on_stdout(self.json)
    }

    /// Serves until a signal or `--exit-after` ends it.
    ///
    /// # Errors
    /// What is wrong with image, group or interface, as one line with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                Failure::new(Exit::Internal, format!("cannot start the runtime: {error}"))
            })?;
        if self.probe {
            return runtime.block_on(probe::probe(self));
        }
        runtime.block_on(serve(self))
    }
}

async fn serve(cli: &Cli) -> Result<(), Failure> {
    // Before the first line is printed: whoever reads it may send a signal.
    let signals = Signals::catch()?;
    let outlets = outlet::open(cli)?;
    let now = Instant::now();
    let mut services = Vec::new();
    for outlet in &outlets {
        let config = ServiceConfig {
            server: ServerConfig {
                ceiling: cli.rate,
                priority: cli.priority.into(),
                framing: frisbee_proto::framing(outlet.group.address().ip()),
                seed: random(getrandom::u64())?,
                ..ServerConfig::default()
            },
            lanes: if cli.no_unicast {
                0
            } else {
                cli.unicast_lanes.into()
            },
            secret: secret()?,
            standby: cli.standby,
        };
        let service = Service::new(now, config, outlet.image.protocol_image());
        services.push(
            service.map_err(|error| in_file(&outlet.file, Failure::new(Exit::Input, error)))?,
        );
    }
    let site = Site::new(now, cli.rate, services);
    let status = Status::start(cli.events(), &outlets, cli.rate, cli.standby);
    let images = outlets
        .iter()
        .map(|outlet| Arc::clone(&outlet.image))
        .collect();
    let reader = Reader::start(images).map_err(|error| {
        Failure::new(
            Exit::Internal,
            format!("cannot start the reader thread: {error}"),
        )
    })?;
    let timer = Timer::new()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot get a timer: {error}")))?;
    let exit_after = cli.exit_after.map(Duration::from_secs);
    Drive::new(outlets, timer, site, reader, status, exit_after)
        .run(signals)
        .await
}

fn in_file(path: &Path, failure: Failure) -> Failure {
    failure.context(path.display())
}

fn random<T>(result: Result<T, getrandom::Error>) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(Exit::Internal, format!("no random numbers: {error}")))
}

fn secret() -> Result<[u8; 32], Failure> {
    let mut secret = [0; 32];
    random(getrandom::fill(&mut secret))?;
    Ok(secret)
}
