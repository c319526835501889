//! What a TCP stream keeps of a line beside frisbeed, at each priority.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::command::LIMIT;
use e2e::room::Machine;

use super::Row;
use super::network::{Batches, Network};
use super::ours::{Golden, recipe};
use super::sample::{Sample, Samples};

/// The lines, in bits per second, and MiB of files that fill one for half a minute.
const LINES: [(u64, u64); 2] = [(100_000_000, 400), (1_000_000_000, 1500)];

const PRIORITIES: [&str; 3] = ["low", "normal", "high"];

/// What is not looked at: the stream starts, or frisbeed looks for its rate.
const START: Duration = Duration::from_secs(4);

/// What is looked at, or less where the client has finished before.
const WINDOW: Duration = Duration::from_secs(20);

/// Least that says something.
const LEAST: Duration = Duration::from_secs(5);

const PORT: u16 = 7099;

/// Bytes on the line for one of TCP, and for one of frisbee's frames as the kernel counts them.
const TCP_FRAMING: f64 = 1538.0 / 1448.0;
const FRAMING: f64 = 1122.0 / 1098.0;

pub(super) fn beside(runs: usize, samples: &mut Samples) -> Result<()> {
    for (rate, mib) in LINES {
        let golden = Golden::new(&recipe(mib * 2, mib), &["--codec", "none"])?;
        let network = Network::line(1, rate, Batches::Cut)?;
        let neighbours = network.neighbours()?;
        for _ in 0..runs {
            let stream = Stream::start(&neighbours)?;
            sleep(START);
            let before = stream.bytes();
            sleep(WINDOW / 4);
            let alone = per_second(stream.bytes() - before, TCP_FRAMING, WINDOW / 4);
            samples.push(sample(rate, "TCP alone").with("TCP, Mbit/s", alone))?;
            drop(stream);
            for priority in PRIORITIES {
                let (ours, stream) = share(&golden, &network, &neighbours, priority)?;
                let tool = format!("`--priority {priority}`");
                samples.push(
                    sample(rate, &tool)
                        .with("TCP, Mbit/s", stream)
                        .with("frisbee, Mbit/s", ours)
                        .with("TCP of what it has alone", stream / alone)
                        .with("both of the line", (ours + stream) * 1e6 / rate as f64),
                )?;
            }
        }
    }
    Ok(())
}

fn sample(rate: u64, tool: &str) -> Sample {
    let tool = format!("{} Mbit/s, {tool}", rate / 1_000_000);
    Sample::new(Row::Beside, &tool, 1, 0)
}

/// Mbit/s on the line of frisbee and of a stream that was there before.
fn share(
    golden: &Golden,
    network: &Network,
    neighbours: &[Machine; 2],
    priority: &str,
) -> Result<(f64, f64)> {
    let client = network.clients.first().context("there is no client")?;
    let stream = Stream::start(neighbours)?;
    sleep(START / 4);
    let mut client = golden.client(client, Path::new("/dev/null"))?;
    let server = golden.server(network, &["--priority", priority])?;
    sleep(START);
    let (began, sent, streamed) = (Instant::now(), network.sent()?, stream.bytes());
    while began.elapsed() < WINDOW && client.is_running()? {
        sleep(Duration::from_millis(10));
    }
    let (time, sent) = (began.elapsed(), network.sent()? - sent);
    let streamed = stream.bytes() - streamed;
    ensure!(time > LEAST, "the client ended after {time:?} already");
    end(client)?;
    end(server)?;
    Ok((
        per_second(sent, FRAMING, time),
        per_second(streamed, TCP_FRAMING, time),
    ))
}

fn end(program: Background) -> Result<()> {
    program.kill().map(drop)
}

/// Mbit/s on the line.
fn per_second(bytes: u64, framing: f64, time: Duration) -> f64 {
    bytes as f64 * framing * 8.0 / 1e6 / time.as_secs_f64()
}

/// A TCP stream that always has something to send, between two machines; ends when dropped.
struct Stream {
    socket: TcpStream,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn start([from, to]: &[Machine; 2]) -> Result<Self> {
        let address = SocketAddrV4::new(to.address, PORT);
        let listener = to.netns.enter(|| Ok(TcpListener::bind(address)?))?;
        let connect = || Ok(TcpStream::connect_timeout(&address.into(), LIMIT)?);
        let socket = from.netns.enter(connect)?;
        let (mut other, _) = listener.accept()?;
        let (received, mut sender) = (Arc::new(AtomicU64::new(0)), socket.try_clone()?);
        let counter = Arc::clone(&received);
        let receives = move || {
            let mut buffer = vec![0; 256 << 10];
            while let Ok(length @ 1..) = other.read(&mut buffer) {
                counter.fetch_add(length as u64, Ordering::Relaxed);
            }
        };
        let sends = move || {
            let buffer = vec![0; 256 << 10];
            while sender.write_all(&buffer).is_ok() {}
        };
        Ok(Self {
            socket,
            received,
            threads: vec![thread::spawn(receives), thread::spawn(sends)],
        })
    }

    /// Bytes that arrived.
    fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What waits in the socket is not sent any more.
        let _ = self.socket.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
