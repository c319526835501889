//! What protection costs: CPU time per MiB of disk data for creating and installing an image, step by step.
//!
//! `cargo bench -p chunkfmt --bench crypto -- FILE [ROUNDS]`; FILE holds data of a real system, a disk image for one.
//! All steps are taken with the same chunk before the next one, so that disturbances hit them alike.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking, and shows two decimals"
)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chunkfmt::parity::{ParityEncoder, usual_count};
use chunkfmt::{
    Cipher, Codec, ContentKey, Context, ImageHeader, Layout, Opener, Region, Sealer, SigningKey,
    Span, Trust,
};
use nix::time::{ClockId, clock_gettime};

const CHUNK: usize = 2 << 20;
const DATA_MAX: usize = 256 << 20;
const SECTOR: usize = 512;

/// CPU time of this thread.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// The parts of a file that are not zero, in chunks.
fn chunks(path: &str) -> Vec<Vec<u8>> {
    let mut file = File::open(path).unwrap();
    let (mut block, mut all, mut chunk) = (vec![0; 64 << 10], Vec::new(), Vec::new());
    while all.len() * CHUNK < DATA_MAX && file.read_exact(&mut block).is_ok() {
        if block.iter().any(|&byte| byte != 0) {
            chunk.extend_from_slice(&block);
        }
        if chunk.len() == CHUNK {
            all.push(std::mem::take(&mut chunk));
        }
    }
    assert!(!all.is_empty(), "{path} holds no data");
    all
}

fn rsa_key() -> SigningKey {
    let made = must_run(
        "openssl",
        &[
            "genpkey",
            "-algorithm",
            "rsa",
            "-pkeyopt",
            "rsa_keygen_bits:3072",
        ],
    );
    SigningKey::from_pem(&made).unwrap()
}

fn must_run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} failed");
    String::from_utf8(output.stdout).unwrap()
}

struct Suite {
    name: &'static str,
    codec: Codec,
    level: i32,
    cipher: Cipher,
    signer: Arc<SigningKey>,
}

impl Suite {
    fn all() -> [Self; 2] {
        let modern = Self {
            name: "modern: zstd 3, AES-256-GCM, Ed25519",
            codec: Codec::Zstd,
            level: 3,
            cipher: Cipher::Aes256Gcm,
            signer: Arc::new(SigningKey::generate().unwrap()),
        };
        let classic = Self {
            name: "classic: zlib 4, Blowfish-CBC, RSA-3072",
            codec: Codec::Zlib,
            level: 4,
            cipher: Cipher::BlowfishCbc,
            signer: Arc::new(rsa_key()),
        };
        [modern, classic]
    }

    fn sealer(&self, sectors: u64, signed: bool, key: Option<&ContentKey>) -> Sealer {
        let signer = Some(&self.signer).filter(|_| signed);
        let header = ImageHeader::new(
            "bench".into(),
            1,
            512,
            sectors,
            key,
            signer.map(|key| &**key),
        );
        let cipher = key.map_or(Cipher::None, |_| self.cipher);
        let header = header
            .unwrap()
            .with_codec(self.codec)
            .with_cipher(cipher)
            .unwrap();
        Sealer::new(header, key, signer.cloned(), self.level)
            .unwrap()
            .without_parity()
    }

    fn pack(&self, data: &[u8], out: &mut Vec<u8>) {
        out.clear();
        match self.codec {
            Codec::Zlib => {
                let level = flate2::Compression::new(u32::try_from(self.level).unwrap());
                let mut encoder = flate2::write::ZlibEncoder::new(&mut *out, level);
                std::io::Write::write_all(&mut encoder, data).unwrap();
                encoder.finish().unwrap();
            }
            _ => {
                out.resize(zstd::zstd_safe::compress_bound(data.len()), 0);
                let length =
                    zstd::bulk::compress_to_buffer(data, &mut out[..], self.level).unwrap();
                out.truncate(length);
            }
        }
    }
}

/// CPU time of each step, summed over all chunks.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    fn time<T>(&mut self, name: &'static str, step: impl FnOnce() -> T) -> T {
        let start = now();
        let result = step();
        let spent = now().saturating_sub(start);
        match self.0.iter_mut().find(|(found, _)| *found == name) {
            Some((_, total)) => *total += spent,
            None => self.0.push((name, spent)),
        }
        result
    }

    fn get(&self, name: &str) -> f64 {
        let found = self.0.iter().find(|(found, _)| *found == name);
        found.unwrap().1.as_secs_f64()
    }
}

/// One pass over all data.
fn round(suite: &Suite, data: &[Vec<u8>], disk: &File) -> Steps {
    let sectors = (data.len() * CHUNK / SECTOR) as u64;
    let key = ContentKey::generate().unwrap();
    let trust = Trust::new(vec![suite.signer.verifying_key()], true);
    let mut bare = suite.sealer(sectors, false, None);
    let mut signed = suite.sealer(sectors, true, None);
    let mut both = suite.sealer(sectors, true, Some(&key));
    let opener = |sealer: &Sealer, keys: &[ContentKey]| {
        let context = Context::new(sealer.header_bytes(), &trust, keys).unwrap();
        Opener::new(Arc::new(context)).unwrap()
    };
    let mut open_bare = opener(&bare, &[]);
    let mut open_signed = opener(&signed, &[]);
    let mut open_both = opener(&both, std::slice::from_ref(&key));
    let mut parity = ParityEncoder::default();
    let mut steps = Steps::default();
    let (mut packed, mut chunk, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut layout = Layout::default();
    for (index, data) in (0..).zip(data) {
        let span = Span {
            first: u64::from(index) * (CHUNK / SECTOR) as u64,
            sectors: (CHUNK / SECTOR) as u64,
        };
        let region = Region {
            first: span.first,
            sectors: (CHUNK / SECTOR) as u32,
        };
        let full = || Layout::new(span, vec![region]);
        steps.time("compress", || suite.pack(data, &mut packed));
        plain.resize(CHUNK, 0);
        steps.time("decompress", || match suite.codec {
            Codec::Zlib => {
                let mut decoder = flate2::Decompress::new(true);
                let finish = flate2::FlushDecompress::Finish;
                decoder.decompress(&packed, &mut plain, finish).unwrap();
            }
            _ => {
                zstd::bulk::decompress_to_buffer(&packed, &mut plain[..]).unwrap();
            }
        });
        assert!(plain == *data);
        steps.time("write", || disk.write_all_at(&plain, 0).unwrap());
        steps.time("plain hash", || blake3::keyed_hash(&[7; 32], data));
        steps.time("seal, bare", || {
            bare.seal(index, full(), data, &mut chunk).unwrap()
        });
        let window = sectors;
        steps.time("open, bare", || {
            open_bare
                .open(index, &mut chunk, window, &mut layout, &mut plain)
                .unwrap()
        });
        steps.time("seal, signed", || {
            signed.seal(index, full(), data, &mut chunk).unwrap()
        });
        steps.time("open, signed", || {
            open_signed
                .open(index, &mut chunk, window, &mut layout, &mut plain)
                .unwrap()
        });
        steps.time("seal, both", || {
            both.seal(index, full(), data, &mut chunk).unwrap()
        });
        let count = usual_count(u32::try_from(chunk.len() / 1024).unwrap());
        steps.time("parity roots", || parity.root(&chunk, count).unwrap());
        steps.time("open, both", || {
            open_both
                .open(index, &mut chunk, window, &mut layout, &mut plain)
                .unwrap()
        });
        assert!(plain == *data);
    }
    steps
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (
        values[values.len() / 2],
        values[0],
        values[values.len() - 1],
    )
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let Some(path) = arguments.first() else {
        println!("name a file with data of a real system");
        return;
    };
    let rounds = arguments.get(1).map_or(5, |count| count.parse().unwrap());
    let data = chunks(path);
    let mib = (data.len() * CHUNK) as f64 / f64::from(1 << 20);
    let scratch = tempfile::tempfile().unwrap();
    println!(
        "CPU time of one thread; {mib} MiB of data, {rounds} rounds: median (least to most).\n"
    );
    for suite in Suite::all() {
        let all: Vec<Steps> = (0..rounds)
            .map(|_| round(&suite, &data, &scratch))
            .collect();
        let row = |what: &str, cost: &dyn Fn(&Steps) -> f64, base: &dyn Fn(&Steps) -> f64| {
            let per_mib = median(all.iter().map(|steps| cost(steps) * 1e6 / mib).collect());
            let share = median(
                all.iter()
                    .map(|steps| 100.0 * cost(steps) / base(steps))
                    .collect(),
            );
            println!(
                "| {what} | {:.1} ({:.1} to {:.1}) | {:+.1} % ({:+.1} to {:+.1}) |",
                per_mib.0, per_mib.1, per_mib.2, share.0, share.1, share.2
            );
        };
        println!(
            "### {}\n\n| step | µs per MiB of data | of base |\n|---|---|---|",
            suite.name
        );
        let compress = |steps: &Steps| steps.get("compress");
        let install = |steps: &Steps| steps.get("decompress") + steps.get("write");
        row("create: base (compress)", &compress, &compress);
        row(
            "+ signed (digest, root, signature)",
            &|steps| steps.get("seal, signed") - steps.get("compress") - steps.get("plain hash"),
            &compress,
        );
        row(
            "+ signed and encrypted",
            &|steps| steps.get("seal, both") - steps.get("compress") - steps.get("plain hash"),
            &compress,
        );
        row(
            "+ plain hashes",
            &|steps| steps.get("plain hash"),
            &compress,
        );
        row(
            "+ parity roots",
            &|steps| steps.get("parity roots"),
            &compress,
        );
        row(
            "install: base (decompress, write to page cache)",
            &install,
            &install,
        );
        row(
            "decompress alone",
            &|steps| steps.get("decompress"),
            &install,
        );
        let open = |name: &'static str| {
            move |steps: &Steps| steps.get(name) - steps.get("decompress") - steps.get("plain hash")
        };
        row("+ digest", &open("open, bare"), &install);
        row("+ digest and signature", &open("open, signed"), &install);
        row(
            "+ digest, signature and decryption",
            &open("open, both"),
            &install,
        );
        row("+ plain hashes", &|steps| steps.get("plain hash"), &install);
        println!();
    }
}
