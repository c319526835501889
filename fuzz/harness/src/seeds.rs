//! Small inputs that reach far: what the fuzzer begins with. The same every time they are made, but for wrapped keys.

use std::io::Write;

use chunkfmt::{Layout, Region, Sealer, Span};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey};

use crate::age;
use crate::chunk::{Bench, SEALED_DATA, choices, forge_of, sealed_layout};
use crate::forge::{BLOCK, Forge, Table, put};
use crate::manifest;

/// Target, name, bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// Seeds of all targets. RSA keys and encrypted ones are not among them: openssl makes better ones.
#[must_use]
pub fn all() -> Vec<Seed> {
    [
        headers(),
        chunks(),
        layouts(),
        manifests(),
        images(),
        keys(),
        wrapped(),
        emulab(),
        crate::disk::seeds(),
        datagrams(),
    ]
    .concat()
}

fn datagrams() -> Vec<Seed> {
    let seeds = crate::datagram::seeds();
    let named = seeds
        .into_iter()
        .map(|(name, bytes)| ("datagram", name, bytes));
    named.collect()
}

fn with_byte(byte: u8, bytes: &[u8]) -> Vec<u8> {
    [&[byte], bytes].concat()
}

/// Repetitive, but not all the same.
fn text(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| b"the quick brown fox "[(at + at / 300) % 20])
        .collect()
}

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[0x42; 32])
}

fn headers() -> Vec<Seed> {
    let seed = |name: &str, how, forge: Forge| {
        ("header", name.to_owned(), with_byte(how, &forge.header()))
    };
    let forge = Forge::default;
    vec![
        seed("plain", 0, forge()),
        seed("encrypted", 0, forge_of(1)),
        seed("blowfish", 0, forge_of(3)),
        seed("repaired", 1, forge_of(1)),
        seed(
            "delta",
            1,
            Forge {
                delta: true,
                ..forge()
            },
        ),
        seed("ndz", 1, manifest::forge_of(2)),
        seed(
            "signed",
            0,
            Forge {
                owner: Some(owner()),
                ..forge()
            },
        ),
    ]
}

fn chunks() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (how, cipher, codec) in choices() {
        let mut bench = Bench::new(forge_of(how));
        let mut chunk = Vec::new();
        let sealed = bench
            .sealer
            .seal(3, sealed_layout(), &SEALED_DATA, &mut chunk);
        sealed.unwrap();
        let name = format!("{}-{}", cipher.name(), codec.name());
        // As it is; and, where that can be done, with everything put right after a change.
        seeds.push(("chunk", name.clone(), with_byte(how | 16, &chunk)));
        if how & 3 == 0 {
            // What is put right takes the padding for body.
            let body_end = BLOCK + crate::forge::u32_at(&chunk, 60) as usize;
            seeds.push((
                "chunk",
                format!("{name}-repaired"),
                with_byte(how, &chunk[..body_end]),
            ));
        }
    }
    seeds
}

fn layouts() -> Vec<Seed> {
    let tables = [
        ("empty", vec![], vec![]),
        ("regions", vec![(10, 1), (12, 3), (500, 2)], vec![]),
        (
            "relocations",
            vec![(10, 4)],
            vec![(3, 8, 11, 20), (9, 0, 10, 2048)],
        ),
    ];
    let mut seeds = Vec::new();
    for (name, regions, relocations) in tables {
        let table = Table {
            span: (10, 1000),
            regions,
            relocations,
            length: 0,
        };
        let window = 1010_u64.to_le_bytes();
        for how in [0, 3] {
            let bytes = [&[how], &window[..], &table.write()].concat();
            seeds.push(("layout", format!("{name}-{how}"), bytes));
        }
    }
    seeds
}

/// A manifest's private part: spans of equal length that tile the disk, each with one region.
fn private(forge: &Forge, chunks: u64) -> Vec<u8> {
    let sectors = forge.disk_sectors / chunks;
    let line = |index: u64| {
        let table = Table {
            span: (index * sectors, sectors),
            regions: if forge.ndz {
                vec![]
            } else {
                vec![(index * sectors + 1, 2)]
            },
            ..Table::default()
        };
        [vec![0x11; 32], table.write()].concat()
    };
    (0..chunks).flat_map(line).collect()
}

fn manifests() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (how, name) in [(0, "whole"), (1, "delta"), (2, "ndz")] {
        let forge = manifest::forge_of(how);
        let blocks = if forge.ndz { 1024 } else { 3 };
        let mut body: Vec<u8> = (0..4)
            .flat_map(|_| Forge::entry(&vec![0; blocks * BLOCK]))
            .collect();
        if forge.delta {
            body[72..144].fill(0);
        }
        body.extend(private(&forge, 4));
        let length = body.len() as u64;
        body.resize(body.len().next_multiple_of(BLOCK), 0);
        let present = if forge.delta { 3 } else { 4 };
        let head = forge.manifest_head(4, length, present * blocks as u64, &forge.header(), &body);
        seeds.push(("manifest", name.into(), [&[how], &head[..], &body].concat()));
        seeds.push((
            "manifest",
            format!("{name}-as-is"),
            [&[how | 12], &head[..], &body].concat(),
        ));
    }
    seeds
}

fn images() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (codec, name) in [(0, "stored"), (1, "zstd"), (2, "zlib")] {
        for delta in [false, true] {
            let mut bench = Bench::new(Forge {
                codec,
                delta,
                disk_sectors: 64,
                ..Forge::default()
            });
            let image = image(&mut bench.sealer, delta);
            let name = format!("{name}{}", if delta { "-delta" } else { "" });
            seeds.push(("image", name.clone(), with_byte(0, &image)));
            seeds.push(("image", name + "-as-is", with_byte(1, &image)));
        }
    }
    seeds
}

fn image(sealer: &mut Sealer, delta: bool) -> Vec<u8> {
    let mut image = sealer.header_bytes().to_vec();
    let (mut sealed, mut chunk) = (Vec::new(), Vec::new());
    for index in 0..2 {
        let first = u64::from(index) * 32;
        let span = Span { first, sectors: 32 };
        let layout = Layout::new(span, vec![Region { first, sectors: 3 }]);
        let data = text(3 * 512);
        if delta && index == 0 {
            sealed.push(sealer.leave_out(layout, &data).unwrap());
        } else {
            sealed.push(sealer.seal(index, layout, &data, &mut chunk).unwrap());
            image.extend_from_slice(&chunk);
        }
    }
    image.extend(sealer.finish(&sealed).unwrap());
    image
}

fn keys() -> Vec<Seed> {
    let (owner, line_end) = (owner(), pkcs8::LineEnding::LF);
    let private = owner.to_pkcs8_der().unwrap();
    let public = owner.verifying_key().to_public_key_der().unwrap();
    let pem = public.to_pem("PUBLIC KEY", line_end).unwrap();
    let names = format!("# of the lab\nimages: lab-\nimages: golden\n\n{pem}");
    let private_pem = private.to_pem("PRIVATE KEY", line_end).unwrap();
    let files: [(&str, Vec<u8>); 6] = [
        ("public-der", with_byte(0, public.as_bytes())),
        ("private-der", with_byte(2, private.as_bytes())),
        ("public", with_byte(b'-', pem.as_bytes())),
        ("private", with_byte(b'-', private_pem.as_bytes())),
        ("names", with_byte(b'-', names.as_bytes())),
        ("content", with_byte(b'-', age::TEXT.as_bytes())),
    ];
    files
        .into_iter()
        .map(|(name, bytes)| ("keys", name.to_owned(), bytes))
        .collect()
}

fn wrapped() -> Vec<Seed> {
    let own = age::identities()[0].recipient();
    let other = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
    let text = format!("# two\n{own}\n{other}\n");
    let recipients = agekey::Recipient::read_file(&text).unwrap();
    let file = |count: usize| agekey::wrap(age::TEXT, &recipients[..count]).unwrap();
    vec![
        ("age", "one".into(), with_byte(0, &file(1))),
        ("age", "two".into(), with_byte(0, &file(2))),
        (
            "age",
            "identity".into(),
            with_byte(1, age::IDENTITY.as_bytes()),
        ),
        ("age", "recipients".into(), with_byte(2, text.as_bytes())),
    ]
}

/// Small chunks of Emulab's versions, by the tables of docs/NDZ.md, and the files beside Emulab's images.
fn emulab() -> Vec<Seed> {
    let mut seeds = Vec::new();
    // Version, bytes of the header, of a pair of numbers, place of the span.
    let versions = [
        (1, 24, 8, 0),
        (3, 36, 8, 24),
        (4, 344, 8, 24),
        (5, 72, 16, 40),
    ];
    for (version, header, pair, span) in versions {
        let number = |bytes: &mut [u8], at: usize, value: u32| put(bytes, at, &value.to_le_bytes());
        let two = |bytes: &mut [u8], at: usize, first, second| {
            number(bytes, at, first);
            number(bytes, at + pair / 2, second);
        };
        let mut chunk = vec![0; ndz::CHUNK_SIZE];
        let packed = packed(&text(5 * 512));
        number(&mut chunk, 0, 0x6969_6969 + version - 1);
        number(&mut chunk, 4, u32::try_from(packed.len()).unwrap());
        number(&mut chunk, 12, u32::from(version == 1));
        number(&mut chunk, 16, 4096);
        number(&mut chunk, 20, 2);
        if span > 0 {
            two(&mut chunk, span, 0, 100);
            // A short last sector.
            number(&mut chunk, 32, 1);
            let at = header + 2 * pair;
            let values: &[u32] = if pair == 16 {
                &[6, 0, 14, 0, 100]
            } else {
                &[6, 14, 0, 100]
            };
            for (place, &value) in (at..).step_by(4).zip(values) {
                number(&mut chunk, place, value);
            }
        }
        if version == 4 {
            put(&mut chunk, 38, &[1]);
        }
        two(&mut chunk, header, 3, 2);
        two(&mut chunk, header + pair, 12, 3);
        put(&mut chunk, ndz::HEADER_SIZE, &packed);
        for how in [4, 20, 36] {
            seeds.push((
                "ndz",
                format!("v{version}-{how}"),
                crate::ndz::input(how, &chunk),
            ));
        }
    }
    macro_rules! beside {
        ($name:literal) => {
            include_bytes!(concat!("../../../testdata/ndz/", $name))
        };
    }
    // Its first 20 entries.
    let mut list = beside!("v3-ext4-delta.ndz.sig")[..32 + 20 * 32].to_vec();
    put(&mut list, 16, &20_u32.to_le_bytes());
    seeds.push(("ndz", "list".into(), with_byte(0, &list)));
    seeds.push((
        "ndz",
        "public".into(),
        with_byte(1, beside!("v4-signed.ndz.skey")),
    ));
    seeds.push(("ndz", "content".into(), with_byte(2, beside!("test.ekey"))));
    seeds
}

fn packed(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}
