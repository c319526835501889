//! The image server: sockets, a file and a clock around [`frisbee_proto::Server`].
//!
//! One thread drives the machine and the sockets; another reads and hashes the objects that the machine asks for.
//! The server holds no key and judges no signature: what it sends proves itself to those who receive it.

mod cli;
mod clients;
mod drive;
mod image;
mod reader;
mod signals;
mod status;

pub use cli::Cli;

use std::path::Path;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use frisbee_cli::progress::Events;
use frisbee_cli::{Exit, Failure};
use frisbee_proto::{Server, ServerConfig};
use frisbee_udp::{Group, Interface, ServerOptions, ServerSocket, Timer};

use drive::Drive;
use image::ImageFile;
use reader::Reader;
use signals::Signals;
use status::{Start, Status};

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
        let group: Group = self.group.parse().map_err(network)?;
        let interface = Interface::find(self.interface.as_deref(), group).map_err(network)?;
        let image = ImageFile::open(&self.image)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                Failure::new(Exit::Internal, format!("cannot start the runtime: {error}"))
            })?;
        runtime.block_on(serve(self, group, &interface, image))
    }
}

async fn serve(
    cli: &Cli,
    group: Group,
    interface: &Interface,
    image: ImageFile,
) -> Result<(), Failure> {
    // Before the first line is printed: whoever reads it may send a signal.
    let signals = Signals::catch()?;
    let options = ServerOptions {
        ttl: cli.ttl,
        ..ServerOptions::default()
    };
    let socket = ServerSocket::open(group, interface, options).map_err(network)?;
    let requests = socket
        .local_address()
        .map_err(|error| Failure::new(Exit::Network, error))?;
    let config = ServerConfig {
        ceiling: cli.rate,
        seed: random_seed()?,
        ..ServerConfig::default()
    };
    let server = Server::new(Instant::now(), config, image.protocol_image())
        .map_err(|error| in_file(&cli.image, Failure::new(Exit::Input, error)))?;
    let start = Start {
        file: &cli.image,
        image: &image,
        group,
        interface,
        requests,
        ceiling: cli.rate,
    };
    let status = Status::start(cli.events(), &start);
    let reader = Reader::start(image).map_err(|error| {
        Failure::new(
            Exit::Internal,
            format!("cannot start the reader thread: {error}"),
        )
    })?;
    let timer = Timer::new()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot get a timer: {error}")))?;
    let exit_after = cli.exit_after.map(Duration::from_secs);
    Drive::new(socket, timer, server, reader, status, exit_after)
        .run(signals)
        .await
}

fn network(error: frisbee_udp::Error) -> Failure {
    Failure::new(Exit::Network, error)
}

fn in_file(path: &Path, failure: Failure) -> Failure {
    failure.context(path.display())
}

fn random_seed() -> Result<u64, Failure> {
    getrandom::u64()
        .map_err(|error| Failure::new(Exit::Internal, format!("no random numbers: {error}")))
}
