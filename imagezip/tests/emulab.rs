//! Images of the C program made into `.frz` images, and back: the same disk, by the hashes of what the C program restores
//! (testdata/ndz/README.md).

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chunkfmt::relocation::{self, PartitionPlace, Relocation};
use chunkfmt::{
    ContentKey, Context, ImageReader, Layout, Next, Opener, SigningKey, Trust, check_roots,
};
use clap::Parser;
use frisbee_cli::{Exit, Failure};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Keys, and a place for images.
struct Scene {
    directory: TempDir,
    signer: SigningKey,
    key: ContentKey,
}

fn vector(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("../testdata/ndz").join(name)
}

/// The hash that the README gives for `what` of an image.
fn expected(name: &str, what: &str) -> String {
    let text = fs::read_to_string(vector("README.md")).unwrap();
    let section = text
        .split("\n## ")
        .find(|part| part.starts_with(name))
        .unwrap();
    let line = section
        .lines()
        .find(|line| line.starts_with(&format!("- {what}")));
    let hash = line.unwrap().split('`').nth(1).unwrap();
    assert_eq!(hash.len(), 64);
    hash.to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn imagezip(arguments: &[&str]) -> Result<(), Failure> {
    let arguments = ["imagezip"].iter().chain(arguments);
    imagezip::zip::Cli::try_parse_from(arguments)
        .unwrap_or_else(|error| panic!("{error}"))
        .run()
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            directory: tempfile::tempdir().unwrap(),
            signer: SigningKey::generate().unwrap(),
            key: ContentKey::generate().unwrap(),
        };
        scene.secret("owner.key", &scene.signer.to_pem().unwrap());
        scene.secret("content.key", &scene.key.to_hex());
        scene.secret(
            "test.ekey",
            &fs::read_to_string(vector("test.ekey")).unwrap(),
        );
        scene
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn secret(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(0o600)).unwrap();
    }

    /// `imagezip --from` of an image of the C program, or of one made of it.
    fn convert(&self, from: &Path, to: &str, options: &[&str]) -> Result<(), Failure> {
        let (owner, content, to) = (
            self.path("owner.key"),
            self.path("content.key"),
            self.path(to),
        );
        let from = from.display().to_string();
        let mut arguments = vec!["--force", "--sign", &owner, "--key", &content];
        arguments.extend(options);
        arguments.extend(["--from", &from, &to]);
        imagezip(&arguments)
    }

    /// The disk of an image, zeros where it is free, and what has to be relocated.
    fn restore(&self, name: &str) -> (Vec<u8>, Vec<Relocation>) {
        self.restore_over(name, Vec::new())
    }

    /// The same over what is on a disk.
    fn restore_over(&self, name: &str, mut disk: Vec<u8>) -> (Vec<u8>, Vec<Relocation>) {
        let trust = Trust::new(vec![self.signer.verifying_key()], false);
        let file = File::open(self.path(name)).unwrap();
        let mut reader = ImageReader::new(file, trust.clone()).unwrap();
        let keys = std::slice::from_ref(&self.key);
        let context = Arc::new(Context::new(reader.header_bytes(), &trust, keys).unwrap());
        let header = context.header();
        assert_eq!(header.sector_size, 512);
        let sectors = header.disk_sectors;
        disk.resize(header.disk_bytes() as usize, 0);
        let mut opener = Opener::new(Arc::clone(&context)).unwrap();
        let (mut chunk, mut data, mut layout) = (Vec::new(), Vec::new(), Layout::default());
        let (mut roots, mut relocations) = (Vec::new(), Vec::new());
        loop {
            match reader.next(&mut chunk).unwrap() {
                Next::Chunk(index) => {
                    let opened = opener.open(index, &mut chunk, sectors, &mut layout, &mut data);
                    roots.push((index, opened.unwrap().root));
                    let mut rest = &data[..];
                    for region in &layout.regions {
                        let bytes = region.sectors as usize * 512;
                        let at = region.first as usize * 512;
                        disk[at..at + bytes].copy_from_slice(&rest[..bytes]);
                        rest = &rest[bytes..];
                    }
                    relocations.extend_from_slice(&layout.relocations);
                }
                Next::End(manifest) => {
                    check_roots(&manifest, &roots).unwrap();
                    context.secrets(&manifest).unwrap();
                    return (disk, relocations);
                }
            }
        }
    }
}

/// The disk with its relocations done, cut to its real length.
fn relocated(
    mut disk: Vec<u8>,
    relocations: &[Relocation],
    place: Option<PartitionPlace>,
) -> Vec<u8> {
    let mut sectors: BTreeMap<u64, [u8; 512]> = (0..)
        .zip(disk.as_chunks::<512>().0)
        .map(|(number, bytes)| (number, *bytes))
        .filter(|_| !relocations.is_empty())
        .collect();
    let applied = relocation::apply(relocations, place, &mut sectors).unwrap();
    for (number, bytes) in sectors {
        disk[number as usize * 512..][..512].copy_from_slice(&bytes);
    }
    if let Some(length) = applied.final_length {
        disk.truncate(length as usize);
    }
    disk
}

#[test]
fn images_of_the_c_program_keep_their_disk() {
    let scene = Scene::new();
    let key = scene.path("test.ekey");
    let signer = |name: &str| vector(name).display().to_string();
    let (signed, encrypted) = (
        signer("v4-signed.ndz.skey"),
        signer("v4-enc-signed.ndz.skey"),
    );
    let vectors: [(&str, &[&str]); 12] = [
        ("v1-raw.ndz", &[]),
        ("v3-ext2-frag.ndz", &[]),
        ("v3-ext4-delta.ndz", &[]),
        ("v3-ext4.ndz", &[]),
        ("v3-file-short.ndz", &[]),
        ("v3-gpt-disk.ndz", &[]),
        ("v3-lilo-slice.ndz", &[]),
        ("v3-mbr-disk.ndz", &[]),
        ("v3-ntfs.ndz", &[]),
        ("v4-csum-unsigned.ndz", &[]),
        (
            "v4-enc-signed.ndz",
            &["--from-key", &key, "--legacy-key", &encrypted],
        ),
        ("v4-signed.ndz", &["--legacy-key", &signed]),
    ];
    for (name, options) in vectors {
        let options = [&["--allow-legacy"], options].concat();
        scene.convert(&vector(name), "new.frz", &options).unwrap();
        let (disk, relocations) = scene.restore("new.frz");
        let restored = relocated(disk, &relocations, None);
        assert_eq!(sha256(&restored), expected(name, "full"), "{name}");
    }
}

/// Relocations survive both ways: into the new image, and into one that is made of that.
#[test]
fn relocations_are_kept() {
    let scene = Scene::new();
    let name = "v3-lilo-slice.ndz";
    scene
        .convert(&vector(name), "one.frz", &["--allow-legacy"])
        .unwrap();
    let one = PathBuf::from(scene.path("one.frz"));
    scene
        .convert(&one, "two.frz", &["--codec", "none"])
        .unwrap();
    let (disk, relocations) = scene.restore("two.frz");
    assert_eq!(relocations.len(), 19);
    let restored = relocated(disk.clone(), &relocations, None);
    assert_eq!(sha256(&restored), expected(name, "full"));
    // Hashes of the partition as the C program restores it, in the same README.
    let readme = fs::read_to_string(vector("README.md")).unwrap();
    for first_sector in [8192, 4096, 63] {
        let place = PartitionPlace {
            first_sector,
            sectors: 40960,
        };
        let hash = sha256(&relocated(disk.clone(), &relocations, Some(place)));
        assert!(readme.contains(&hash), "at sector {first_sector}");
    }
}

#[test]
fn emulab_images_are_read_only_if_they_may_be() {
    let scene = Scene::new();
    let key = scene.path("test.ekey");
    let signer = vector("v4-signed.ndz.skey").display().to_string();
    let other = vector("v4-enc-signed.ndz.skey").display().to_string();
    let damaged = |name: &str, at: usize| {
        let mut bytes = fs::read(vector(name)).unwrap();
        bytes[at] ^= 1;
        let path = scene.directory.path().join(format!("damaged-{at}-{name}"));
        fs::write(&path, bytes).unwrap();
        path
    };
    let cut = scene.directory.path().join("cut.ndz");
    let bytes = fs::read(vector("v4-enc-signed.ndz")).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    let wrong_key = scene.path("content.key");
    let legacy = "--allow-legacy";
    let refused: [(PathBuf, &[&str], Exit); 10] = [
        (vector("v1-raw.ndz"), &[], Exit::Verification),
        (
            vector("v1-raw.ndz"),
            &[legacy, "--legacy-key", &signer],
            Exit::Verification,
        ),
        (
            vector("v4-signed.ndz"),
            &[legacy, "--legacy-key", &other],
            Exit::Verification,
        ),
        (vector("v4-enc-signed.ndz"), &[legacy], Exit::Verification),
        (
            vector("v4-enc-signed.ndz"),
            &[legacy, "--from-key", &wrong_key],
            Exit::Verification,
        ),
        (
            damaged("v4-signed.ndz", 5000),
            &[legacy, "--legacy-key", &signer],
            Exit::Verification,
        ),
        (
            damaged("v4-csum-unsigned.ndz", 5000),
            &[legacy],
            Exit::Verification,
        ),
        (damaged("v1-raw.ndz", 5000), &[legacy], Exit::Input),
        (damaged("v3-mbr-disk.ndz", 8), &[legacy], Exit::Input),
        (cut, &[legacy, "--from-key", &key], Exit::Input),
    ];
    for (from, options, exit) in refused {
        let failure = scene.convert(&from, "never.frz", options).unwrap_err();
        assert_eq!(failure.exit, exit, "{}: {failure}", from.display());
        assert!(!Path::new(&scene.path("never.frz")).exists());
    }
    let left = fs::read_dir(scene.directory.path()).unwrap();
    let partial = |name: &str| name.contains("never");
    assert!(
        !left
            .flatten()
            .any(|entry| partial(&entry.file_name().to_string_lossy()))
    );
}

/// A delta of Emulab, applied over its base, as the C program does it.
#[test]
fn emulab_images_are_written() {
    let scene = Scene::new();
    let restore = |name: &str, disk: &mut Vec<u8>| {
        let mut reader = ndz::Reader::new(File::open(name).unwrap());
        let mut saved = 0;
        while let Some((chunk, _)) = reader.next_chunk().unwrap() {
            let data = chunk.data(None).unwrap();
            let checked = data.check(ndz::Place::WholeDisk).unwrap();
            let write = |first: u64, bytes: &[u8]| {
                disk[first as usize * 512..][..bytes.len()].copy_from_slice(bytes);
                saved += bytes.len();
                Ok::<_, ndz::Error>(())
            };
            checked.pieces(write).unwrap();
        }
        assert_eq!(reader.finish().unwrap().sectors * 512, disk.len() as u64);
        saved
    };
    let name = |name: &str| vector(name).display().to_string();
    let mut old = vec![0; 402_653_184];
    restore(&name("v3-ext4.ndz"), &mut old);
    let mut new = old.clone();
    restore(&name("v3-ext4-delta.ndz"), &mut new);
    assert!(sha256(&new).starts_with("0bdff608"), "as the README says");
    let (disk, image) = (scene.path("disk"), scene.path("new.ndz"));
    fs::write(&disk, &new).unwrap();
    // What of a disk is saved is tested with `.frz` images; here it has to be the same.
    let (owner, content) = (scene.path("owner.key"), scene.path("content.key"));
    let frz = scene.path("new.frz");
    imagezip(&["--sign", &owner, "--key", &content, &disk, &frz]).unwrap();
    let (saved, _) = scene.restore("new.frz");
    let open = ["--unsigned", "--unencrypted", "--format", "ndz", "--force"];
    for options in [&[][..], &["--ndz-version", "5"], &["--level", "9"]] {
        imagezip(&[&open, options, &[&disk, &image]].concat()).unwrap();
        let mut all = vec![0; new.len()];
        restore(&image, &mut all);
        assert!(all == saved, "{options:?}");
    }
    imagezip(&[&open[..], &["--raw", &disk, &image]].concat()).unwrap();
    let mut all = vec![1; new.len()];
    restore(&image, &mut all);
    assert!(all == new);

    let base = name("v3-ext4.ndz.sig");
    let with_base = ["--base", &base, &disk, &image];
    imagezip(&[&open[..], &with_base].concat()).unwrap();
    let mut updated = old.clone();
    let changed = restore(&image, &mut updated);
    assert!(changed < 2_000_000, "{changed} bytes have changed?");
    assert!(scene.restore_over("new.frz", updated.clone()).0 == updated);
    assert!(scene.restore_over("new.frz", old.clone()).0 != old);

    fs::write(&disk, &old).unwrap();
    imagezip(&[&open[..], &with_base].concat()).unwrap();
    let mut updated = old.clone();
    // What the C program does not save, but this one does: it is in no signature file.
    let changed = restore(&image, &mut updated);
    assert!(changed < 200_000 && updated == old, "{changed}");
    // Nobody gets an open image without having said so.
    let signed = ["--sign", &owner, "--unencrypted", "--format", "ndz"];
    let failure = imagezip(&[&signed[..], &[&disk, &image]].concat()).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage, "{failure}");
    let sectors = ["--sector-size", "4096", &disk, &image];
    let failure = imagezip(&[&open[..], &sectors].concat()).unwrap_err();
    assert_eq!(failure.exit, Exit::Input, "{failure}");
}
