//! Images that an independent implementation made (`testdata/reference`): the golden ones open to their disks, the
//! others are refused by the check that is meant for them, read as a stream and by index.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use chunkfmt::parity::ParityEncoder;
use chunkfmt::{
    ChunkSecret, ContentKey, Context, Error, ErrorKind, ImageIndex, ImageReader, Layout, Manifest,
    Next, Opener, Part, PlainHash, Trust, VerifyingKey, check_roots,
};
use sha2::{Digest, Sha256};

const GOLDEN: &str = "frz";
const MUST_FAIL: &str = "must-fail";

fn path(directory: &str, name: &str) -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata");
    PathBuf::from(root).join(directory).join(name)
}

fn read(directory: &str, name: &str) -> Vec<u8> {
    let path = path(directory, name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(directory: &str, name: &str) -> String {
    String::from_utf8(read(directory, name)).unwrap()
}

/// The lines of a directory's table, each with its fields by the column's name.
fn table(directory: &str) -> Vec<BTreeMap<String, String>> {
    let table = text(directory, "index.tsv");
    let mut lines = table
        .lines()
        .map(|line| line.split('\t').map(str::to_owned));
    let columns: Vec<String> = lines.next().unwrap().collect();
    lines
        .map(|fields| columns.iter().cloned().zip(fields).collect())
        .collect()
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|name| *name != "-")
}

/// The owners of a row; `none` among them allows unsigned images.
fn trust(owners: &str) -> Result<Trust, Error> {
    let keys = names(owners).filter(|name| *name != "none").map(|name| {
        let directory = if name == "weak" { MUST_FAIL } else { GOLDEN };
        VerifyingKey::from_pem(&text(directory, &format!("owner-{name}.pub")))
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    Ok(Trust::new(keys, names(owners).any(|name| name == "none")))
}

fn content_key() -> Vec<ContentKey> {
    vec![ContentKey::from_hex(&text(GOLDEN, "content.key")).unwrap()]
}

/// An image of which everything is verified.
struct Image {
    context: Arc<Context>,
    manifest: Manifest,
    secrets: Vec<ChunkSecret>,
    /// What was handed on: index, layout and disk data of chunks.
    opened: Opened,
}

type Opened = BTreeMap<u32, (Layout, Vec<u8>)>;

/// How an image is read. What was opened before a failure is in `opened`.
type Read = fn(&[u8], &Trust, &[ContentKey], &mut Opened) -> Result<Image, Error>;

fn by_stream(
    bytes: &[u8],
    trust: &Trust,
    keys: &[ContentKey],
    opened: &mut Opened,
) -> Result<Image, Error> {
    let mut reader = ImageReader::new(bytes, trust.clone())?;
    let context = Arc::new(Context::new(reader.header_bytes(), trust, keys)?);
    let mut opener = Opener::new(Arc::clone(&context))?;
    let window = context.header().disk_sectors;
    let (mut chunk, mut roots, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    let manifest = loop {
        match reader.next(&mut chunk)? {
            Next::Chunk(index) => {
                roots.push((index, *blake3::hash(&chunk).as_bytes()));
                let (mut layout, mut data) = (Layout::default(), Vec::new());
                let verified = opener.open(index, &mut chunk, window, &mut layout, &mut data)?;
                hashes.push((index, verified.header.plain_hash));
                opened.insert(index, (layout, data));
            }
            Next::End(manifest) => break *manifest,
        }
    };
    let secrets = context.secrets(&manifest)?;
    check_roots(&manifest, &roots)?;
    check_hashes(&secrets, &hashes)?;
    Ok(Image {
        secrets,
        manifest,
        context,
        opened: std::mem::take(opened),
    })
}

fn by_index(
    bytes: &[u8],
    trust: &Trust,
    keys: &[ContentKey],
    opened: &mut Opened,
) -> Result<Image, Error> {
    let index = ImageIndex::read(&mut Cursor::new(bytes), Some(trust))?;
    let context = Arc::new(Context::new(&index.manifest_object, trust, keys)?);
    let secrets = context.secrets(&index.manifest)?;
    let mut opener = Opener::new(Arc::clone(&context))?;
    let window = context.header().disk_sectors;
    let (mut roots, mut hashes) = (Vec::new(), Vec::new());
    for number in 0..index.manifest.head.chunks {
        let Some((offset, length)) = index.chunk(number) else {
            continue;
        };
        let mut chunk = bytes[offset as usize..offset as usize + length].to_vec();
        let (mut layout, mut data) = (Layout::default(), Vec::new());
        let verified = opener.open(number, &mut chunk, window, &mut layout, &mut data)?;
        roots.push((number, verified.root));
        hashes.push((number, verified.header.plain_hash));
        opened.insert(number, (layout, data));
    }
    check_roots(&index.manifest, &roots)?;
    check_hashes(&secrets, &hashes)?;
    Ok(Image {
        secrets,
        manifest: index.manifest,
        context,
        opened: std::mem::take(opened),
    })
}

/// The private part has layout and data of each chunk, which the plain hash is over.
fn check_hashes(secrets: &[ChunkSecret], found: &[(u32, PlainHash)]) -> Result<(), Error> {
    let other = found.iter().find(|(index, hash)| {
        let secret = secrets.get(*index as usize);
        secret.is_none_or(|secret| secret.plain_hash != *hash)
    });
    other.map_or(Ok(()), |&(index, _)| {
        let part = Part::Chunk(index);
        Err(Error::NotInManifest { part })
    })
}

const READS: [(&str, Read); 2] = [("stream", by_stream), ("index", by_index)];

impl Image {
    /// The disk with zeros where it is free. What a delta leaves out is taken from its base.
    fn disk(&self, bases: &[Self]) -> Result<Vec<u8>, Error> {
        let header = self.context.header();
        let base = match header.base {
            None => None,
            Some(named) => {
                let (uuid, epoch) = (named.uuid, named.epoch);
                let base = bases
                    .iter()
                    .find(|base| base.context.header().uuid() == uuid)
                    .ok_or(Error::BaseMissing { uuid, epoch })?;
                let found = base.context.header();
                let same = found.epoch() == epoch
                    && base.manifest.digest == named.manifest
                    && found.disk_sectors == header.disk_sectors
                    && found.sector_size == header.sector_size;
                let held = |secret: &ChunkSecret| {
                    base.secrets.iter().any(|own| own.layout == secret.layout)
                };
                let left_out = self.manifest.entries.iter().zip(&self.secrets);
                let mut left_out = left_out.filter(|(entry, _)| !entry.is_present());
                if !same || !left_out.all(|(_, secret)| held(secret)) {
                    let field = "identity";
                    return Err(Error::WrongBase { field, uuid, epoch });
                }
                Some(base.disk(bases)?)
            }
        };
        let sector_size = u64::from(header.sector_size);
        let mut disk = vec![0; header.disk_bytes() as usize];
        for (number, secret) in (0..).zip(&self.secrets) {
            let places = secret.layout.regions.iter().map(|region| {
                let begin = (region.first * sector_size) as usize;
                begin..begin + region.sectors as usize * sector_size as usize
            });
            let mut data = Vec::new();
            match (self.opened.get(&number), &base) {
                (Some((layout, own)), _) => {
                    if *layout != secret.layout {
                        let part = Part::Chunk(number);
                        return Err(Error::NotInManifest { part });
                    }
                    data.extend_from_slice(own);
                }
                (None, Some(base)) => {
                    places
                        .clone()
                        .for_each(|place| data.extend_from_slice(&base[place]));
                    if self.context.plain_hash(&secret.layout, &data)? != secret.plain_hash {
                        let part = Part::Chunk(number);
                        return Err(Error::PlainHash { part });
                    }
                }
                (None, None) => panic!("chunk {number} did not come"),
            }
            let mut rest = &data[..];
            for place in places {
                let (own, behind) = rest.split_at(place.len());
                disk[place].copy_from_slice(own);
                rest = behind;
            }
            assert!(rest.is_empty());
        }
        Ok(disk)
    }
}

fn bases(row: &BTreeMap<String, String>, read_image: Read) -> Vec<Image> {
    let trust = trust("ed25519,rsa3072").unwrap();
    names(&row["bases"])
        .map(|name| {
            let bytes = read(GOLDEN, name);
            read_image(&bytes, &trust, &content_key(), &mut Opened::new()).unwrap()
        })
        .collect()
}

#[test]
fn every_golden_image_gives_its_disk() {
    let rows = table(GOLDEN);
    assert!(rows.len() > 60);
    for row in rows {
        for (how, read_image) in READS {
            let what = format!("{}, {how}", row["file"]);
            let bytes = read(GOLDEN, &row["file"]);
            let trust = trust(&row["owners"]).unwrap();
            let image = read_image(&bytes, &trust, &content_key(), &mut Opened::new());
            let image = image.unwrap_or_else(|error| panic!("{what}: {error}"));
            let disk = image.disk(&bases(&row, read_image));
            let disk = disk.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(disk.len().to_string(), row["bytes"], "{what}");
            let digest: String = Sha256::digest(&disk)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(digest, row["sha256"], "{what}");
            assert_eq!(
                image.context.header().sector_size.to_string(),
                row["sector"]
            );
        }
    }
}

#[test]
fn parity_roots_are_those_of_another_implementation_of_the_code() {
    let mut compared = 0;
    for row in table(GOLDEN) {
        let bytes = read(GOLDEN, &row["file"]);
        let trust = trust(&row["owners"]).unwrap();
        let index = ImageIndex::read(&mut Cursor::new(&bytes), Some(&trust)).unwrap();
        let mut encoder = ParityEncoder::default();
        for (number, entry) in (0..).zip(&index.manifest.entries) {
            let Some((offset, length)) = index.chunk(number) else {
                continue;
            };
            let chunk = &bytes[offset as usize..offset as usize + length];
            let root = encoder.root(chunk, entry.parity_blocks).unwrap();
            assert_eq!(root, entry.parity_root, "{}, chunk {number}", row["file"]);
            compared += usize::from(entry.parity_blocks > 0);
        }
    }
    assert!(compared > 20);
}

/// Class, part and error, as the table names them.
fn refusal(error: &Error) -> String {
    let header = || "image header".to_owned();
    let image = || "image".to_owned();
    let (part, what) = match error {
        Error::NotAnImage => (header(), "not an image".to_owned()),
        Error::Version { part, .. } => (part.to_string(), "version".into()),
        Error::Truncated { part, .. } => (part.to_string(), "cut short".into()),
        Error::Trailing => (image(), "trailing".into()),
        Error::Field { part, field } => (part.to_string(), (*field).to_owned()),
        Error::Lost { .. } => (image(), "lost".into()),
        Error::BadSignature { part } => (part.to_string(), "signature".into()),
        Error::UntrustedSigner { .. } => (header(), "untrusted".into()),
        Error::Unsigned => (header(), "unsigned".into()),
        Error::Foreign { part, field } => (part.to_string(), format!("foreign {field}")),
        Error::Altered { part } => (part.to_string(), "altered".into()),
        Error::KeyMissing => (header(), "key missing".into()),
        Error::WrongKey => (header(), "wrong key".into()),
        Error::Decrypt { part } => (part.to_string(), "decrypt".into()),
        Error::Decompress { part, .. } => (part.to_string(), "decompress".into()),
        Error::PlainHash { part } => (part.to_string(), "plain hash".into()),
        Error::NotInManifest { part } => (part.to_string(), "not in manifest".into()),
        Error::ChunkCount { .. } => (image(), "chunk count".into()),
        Error::BadKey { .. } => ("key".into(), "bad key".into()),
        Error::BaseMissing { .. } => (header(), "base missing".into()),
        Error::WrongBase { .. } => (header(), "wrong base".into()),
        other => panic!("not an error of reading: {other}"),
    };
    let class = match error.kind() {
        ErrorKind::Input => "input",
        ErrorKind::Verification => "verification",
        other => panic!("{other:?}: {error}"),
    };
    format!("{class}/{part}/{what}")
}

#[test]
fn every_other_image_is_refused_by_the_check_that_is_meant() {
    let rows = table(MUST_FAIL);
    assert!(rows.len() > 200);
    let mut wrong = Vec::new();
    for row in &rows {
        let stream = format!("{}/{}/{}", row["class"], row["part"], row["error"]);
        let keys = match row["key"].as_str() {
            "-" => Vec::new(),
            _ => content_key(),
        };
        for (how, read_image) in READS {
            let expected = match (how, row["as_file"].as_str()) {
                ("stream", _) | (_, "=") => &stream,
                (_, other) => other,
            };
            let bytes = read(MUST_FAIL, &row["file"]);
            let mut opened = Opened::new();
            let result = trust(&row["owners"])
                .and_then(|trust| read_image(&bytes, &trust, &keys, &mut opened))
                .and_then(|image| image.disk(&bases(row, read_image)));
            let found = result.map_or_else(|error| refusal(&error), |_| "accepted".into());
            if found != expected {
                wrong.push(format!(
                    "{} ({how}): {found}, expected {expected}: {}",
                    row["file"], row["note"]
                ));
            }
            // Nothing of a refused chunk, nor of one behind it, is handed on.
            let refused = found
                .split('/')
                .nth(1)
                .and_then(|part| part.strip_prefix("chunk "));
            if let Some(refused) = refused.and_then(|number| number.parse::<u32>().ok()) {
                let handed_on = opened.keys().any(|&number| number >= refused);
                let at_the_end = ["not in manifest", "plain hash"]
                    .iter()
                    .any(|end| found.ends_with(end));
                assert!(!handed_on || at_the_end, "{} ({how})", row["file"]);
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}
