//! Emulab images from files, pipes and the network, compared with what the original C program restores from them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::class::{Class, GROUP, end};
use e2e::command::{LIMIT, Outcome, must, run, tool};
use e2e::events;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::room::INTERFACE;
use e2e::scene::{last_owner, nothing_to_boot};
use e2e::scratch;
use tempfile::TempDir;

const IMAGES: [&str; 12] = [
    "v1-raw",
    "v3-ext2-frag",
    "v3-ext4",
    "v3-ext4-delta",
    "v3-file-short",
    "v3-gpt-disk",
    "v3-lilo-slice",
    "v3-mbr-disk",
    "v3-ntfs",
    "v4-csum-unsigned",
    "v4-enc-signed",
    "v4-signed",
];
const ENCRYPTED: &str = "v4-enc-signed";
const CHUNK: usize = 1 << 20;

/// Images of more bytes take long to write and hash.
const LARGE: u64 = 200 << 20;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/ndz")
}

fn image(name: &str) -> PathBuf {
    testdata().join(format!("{name}.ndz"))
}

/// Length and SHA-256 of what an image restores to, free space zero, by the README of the images.
fn full(name: &str) -> Result<(u64, String)> {
    let text = fs::read_to_string(testdata().join("README.md"))?;
    let section = text
        .split("\n## ")
        .find(|part| part.starts_with(&format!("{name}.ndz\n")));
    let line = section.and_then(|part| part.lines().find(|line| line.starts_with("- full, ")));
    let mut words = line.context("not in the README")?.split_whitespace();
    let bytes = words.nth(2).context("no length")?.parse()?;
    let hash = words.nth(1).context("no hash")?.trim_matches('`');
    Ok((bytes, hash.into()))
}

fn sha256(path: &Path) -> Result<String> {
    let line = must("sha256sum", ["--binary".as_ref(), path.as_os_str()])?;
    Ok(line.split_whitespace().next().unwrap_or_default().into())
}

/// A directory with the content key.
struct Place(TempDir);

impl Place {
    fn new() -> Result<Self> {
        let place = Self(scratch::directory()?);
        fs::copy(testdata().join("test.ekey"), place.key())?;
        fs::set_permissions(place.key(), fs::Permissions::from_mode(0o600))?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self) -> PathBuf {
        self.path("test.ekey")
    }

    /// Writes an image that is not right.
    fn image(&self, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path("bad.ndz");
        fs::write(&path, bytes)?;
        Ok(path)
    }

    /// A file of this many bytes, dirty or zero.
    fn target(&self, bytes: u64, dirty: bool) -> Result<PathBuf> {
        let path = self.path("target");
        let file = File::create(&path)?;
        file.set_len(bytes)?;
        if dirty {
            last_owner().fill(&file, 0..bytes)?;
            file.set_len(bytes)?;
        }
        Ok(path)
    }

    /// The options that an image needs.
    fn accept(&self, name: &str) -> Vec<String> {
        let mut options = vec!["--allow-legacy".into(), "--allow-unsigned".into()];
        if name == ENCRYPTED {
            options.extend(["--key".into(), self.key().display().to_string()]);
        }
        options
    }
}

/// `imageunzip` of a file.
fn unzip<S: AsRef<str>>(options: &[S], image: &Path, target: &Path) -> Result<Outcome> {
    let mut command = tool("imageunzip")?;
    command.args(options.iter().map(AsRef::as_ref));
    command.arg("--yes").arg(image).arg(target);
    run(command)
}

/// `imageunzip` of the same through a pipe, in pieces that have nothing to do with chunks.
fn unzip_pipe<S: AsRef<str>>(options: &[S], image: &Path, target: &Path) -> Result<Outcome> {
    let mut command = tool("imageunzip")?;
    command.args(options.iter().map(AsRef::as_ref));
    command.arg("--yes").arg("-").arg(target);
    let bytes = fs::read(image)?;
    let (reader, mut writer) = std::io::pipe()?;
    command.stdin(Stdio::from(reader));
    let program = Background::start(command)?;
    let feeder = std::thread::spawn(move || {
        for piece in bytes.chunks(77_777) {
            // The program may refuse the image before its end.
            if writer.write_all(piece).is_err() {
                break;
            }
        }
    });
    let outcome = program.wait(LIMIT);
    let _ = feeder.join();
    outcome
}

type Unzip = fn(&[String], &Path, &Path) -> Result<Outcome>;

/// All targets of all images, with `unzip`.
fn every_image(unzip: Unzip) -> Result<()> {
    let place = Place::new()?;
    for name in IMAGES {
        let (bytes, hash) = full(name)?;
        let options = place.accept(name);
        let new = place.path("new");
        unzip(&options, &image(name), &new)?.success()?;
        ensure!(fs::metadata(&new)?.len() == bytes, "{name}: the length");
        ensure!(sha256(&new)? == hash, "{name}: the data");
        for (free, dirty) in [("skip", false), ("zero", false), ("zero", true)] {
            if bytes > LARGE && dirty {
                continue;
            }
            let target = place.target(bytes, dirty)?;
            let options = [&options[..], &["--free".into(), free.into()]].concat();
            unzip(&options, &image(name), &target)?.success()?;
            // Faster than to hash each, and says where they differ.
            must("cmp", [&new, &target])
                .with_context(|| format!("{name}, free space {free}, dirty: {dirty}"))?;
        }
        fs::remove_file(&new)?;
    }
    Ok(())
}

#[test]
fn every_image_from_a_file() -> Result<()> {
    every_image(unzip)
}

#[test]
fn every_image_from_a_pipe() -> Result<()> {
    every_image(unzip_pipe)
}

/// What is free keeps what was there, but at the ends; a delta over its base gives the new state.
#[test]
fn a_delta_over_its_base() -> Result<()> {
    let place = Place::new()?;
    let (bytes, _) = full("v3-ext4")?;
    for unzip in [unzip::<String>, unzip_pipe::<String>] {
        let target = place.target(bytes, false)?;
        for name in ["v3-ext4", "v3-ext4-delta"] {
            unzip(&place.accept(name), &image(name), &target)?.success()?;
        }
        let text = fs::read_to_string(testdata().join("README.md"))?;
        ensure!(
            text.contains(&sha256(&target)?),
            "what the C program makes of both"
        );
    }
    Ok(())
}

#[test]
fn a_short_last_sector_is_padded_where_the_target_is_larger() -> Result<()> {
    let place = Place::new()?;
    let (bytes, _) = full("v3-file-short")?;
    let new = place.path("new");
    unzip(
        &place.accept("v3-file-short"),
        &image("v3-file-short"),
        &new,
    )?
    .success()?;
    let mut expected = fs::read(&new)?;
    expected.resize(expected.len().next_multiple_of(512), 0);
    for unzip in [unzip::<String>, unzip_pipe::<String>] {
        let size = bytes + (5 << 20);
        let target = place.target(size, true)?;
        unzip(
            &place.accept("v3-file-short"),
            &image("v3-file-short"),
            &target,
        )?
        .success()?;
        let found = fs::read(&target)?;
        ensure!(found.len() as u64 == size, "the file keeps its length");
        ensure!(found.starts_with(&expected), "data and padding");
    }
    Ok(())
}

/// A target full of dirt that nothing may change.
fn untouched(target: &Path, bytes: u64) -> Result<()> {
    let dirt = last_owner().dirt(usize::try_from(bytes)?);
    ensure!(fs::read(target)? == dirt, "the target was touched");
    Ok(())
}

/// Checks that an image is refused with this code, and the target left alone.
fn refused(place: &Place, options: &[&str], image: &Path, code: i32, why: &str) -> Result<()> {
    for unzip in [unzip::<&str>, unzip_pipe::<&str>] {
        let bytes = 24 << 20;
        let target = place.target(bytes, true)?;
        let outcome = unzip(options, image, &target)?;
        let line = outcome.failure(code)?;
        ensure!(line.contains(why), "{why:?} was expected: {line}");
        untouched(&target, bytes)?;
        let new = place.path("new");
        unzip(options, image, &new)?.failure(code)?;
        ensure!(!new.exists(), "a file was left behind");
    }
    Ok(())
}

#[test]
fn nothing_is_installed_without_being_allowed() -> Result<()> {
    let place = Place::new()?;
    let skey = testdata().join("v4-signed.ndz.skey");
    let (skey, other) = (
        skey.display().to_string(),
        testdata().join("v4-enc-signed.ndz.skey"),
    );
    let other = other.display().to_string();
    let signed = image("v4-signed");
    refused(&place, &[], &signed, 4, "--allow-legacy")?;
    refused(&place, &["--allow-unsigned"], &signed, 4, "--allow-legacy")?;
    refused(&place, &["--allow-legacy"], &signed, 4, "--legacy-key")?;
    refused(
        &place,
        &["--allow-legacy", "--legacy-key", &other],
        &signed,
        4,
        "signature",
    )?;
    for name in ["v1-raw", "v3-ntfs", "v4-csum-unsigned"] {
        let options = ["--allow-legacy", "--legacy-key", &skey];
        refused(&place, &options, &image(name), 4, "not signed")?;
    }
    let id = "00112233445566778899aabbccddeeff";
    let allowed = ["--allow-legacy", "--legacy-key", &skey, "--image-id", id];
    let new = place.path("new");
    unzip(&allowed, &signed, &new)?.success()?;
    ensure!(sha256(&new)? == full("v4-signed")?.1);
    fs::remove_file(&new)?;

    let free = ["--allow-legacy", "--allow-unsigned"];
    let with = |more: &[&'static str]| [&free[..], more].concat();
    let wrong = "ffeeddccbbaa99887766554433221100";
    refused(
        &place,
        &with(&["--image-id", wrong]),
        &signed,
        4,
        "image id",
    )?;
    refused(
        &place,
        &with(&["--image-id", id]),
        &image("v3-ntfs"),
        4,
        "missing",
    )?;
    refused(
        &place,
        &with(&["--min-epoch", "1"]),
        &signed,
        2,
        "--image-id",
    )?;
    refused(&place, &with(&["--base", "base.frz"]), &signed, 2, "--base")?;
    Ok(())
}

#[test]
fn wrong_keys() -> Result<()> {
    let place = Place::new()?;
    let free = ["--allow-legacy", "--allow-unsigned", "--key"];
    let wrong = place.path("wrong.ekey");
    fs::write(&wrong, "00".repeat(32) + "\n")?;
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600))?;
    let (wrong, right) = (
        wrong.display().to_string(),
        place.key().display().to_string(),
    );
    refused(&place, &free[..2], &image(ENCRYPTED), 4, "encrypted")?;
    let with = |key: &str| [&free[..], &[key]].concat().join("\n");
    let options = with(&wrong);
    let options: Vec<&str> = options.split('\n').collect();
    refused(&place, &options, &image(ENCRYPTED), 4, "wrong key")?;
    let options = with(&right);
    let options: Vec<&str> = options.split('\n').collect();
    refused(&place, &options, &image("v3-ntfs"), 4, "not encrypted")?;
    // The right one among several is found.
    let both = [&free[..], &[&wrong, "--key", &right]].concat();
    let new = place.path("new");
    unzip(&both, &image(ENCRYPTED), &new)?.success()?;
    ensure!(sha256(&new)? == full(ENCRYPTED)?.1);
    fs::remove_file(&new)?;
    fs::set_permissions(&right, fs::Permissions::from_mode(0o644))?;
    refused(&place, &options, &image(ENCRYPTED), 3, "chmod 600")
}

/// An image of two chunks, the second one bad: from a file nothing is written, from a pipe nothing that boots.
fn second_chunk_bad(options: &[&str], bytes: &[u8], code: i32) -> Result<()> {
    let place = Place::new()?;
    let key = place.key().display().to_string();
    let options = [options, &["--allow-legacy", "--key", &key]].concat();
    let bad = place.image(bytes)?;
    let size = 8 << 20;
    let target = place.target(size, true)?;
    unzip(&options, &bad, &target)?.failure(code)?;
    untouched(&target, size)?;
    let outcome = unzip_pipe(&options, &bad, &target)?;
    let line = outcome.failure(code)?;
    ensure!(line.contains("will not boot"), "{line}");
    nothing_to_boot(&target)?;
    let new = place.path("new");
    unzip_pipe(&options, &bad, &new)?.failure(code)?;
    ensure!(!new.exists(), "a file was left behind");
    Ok(())
}

#[test]
fn chunks_that_are_missing_swapped_or_doubled() -> Result<()> {
    let good = fs::read(image(ENCRYPTED))?;
    let (first, second) = good.split_at(CHUNK);
    let any = ["--allow-unsigned"];
    second_chunk_bad(&any, &good[..CHUNK + 4096], 3)?;
    second_chunk_bad(&any, &good[..2 * CHUNK - 1], 3)?;
    second_chunk_bad(&any, &[first, first].concat(), 3)?;
    second_chunk_bad(&any, &[first, second, second].concat(), 3)?;
    // Behind the end of the file the pipe has already given everything; the same data follow as another image.
    let mut other = fs::read(image("v3-ext2-frag"))?;
    other.drain(..CHUNK);
    second_chunk_bad(&any, &[first, &other[..]].concat(), 3)?;

    let place = Place::new()?;
    let key = place.key().display().to_string();
    let options = ["--allow-legacy", "--allow-unsigned", "--key", &key];
    for bytes in [
        [second, first].concat(),
        second.to_vec(),
        good[..CHUNK - 1].to_vec(),
        good[..4096].to_vec(),
        good[..4].to_vec(),
    ] {
        refused(&place, &options, &place.image(&bytes)?, 3, "chunk 0")?;
    }
    Ok(())
}

#[test]
fn signed_chunks_that_were_changed() -> Result<()> {
    let good = fs::read(image(ENCRYPTED))?;
    let skey = testdata()
        .join("v4-enc-signed.ndz.skey")
        .display()
        .to_string();
    let signed = ["--legacy-key", &skey];
    // In the sectors that the header tells, in the checksum, in the data.
    for at in [28, 72, 5000] {
        let mut bad = good.clone();
        bad[CHUNK + at] ^= 1;
        second_chunk_bad(&signed, &bad, 4)?;
    }
    Ok(())
}

#[test]
fn targets_that_are_too_small() -> Result<()> {
    let place = Place::new()?;
    for (name, bytes) in [("v3-ntfs", 20_971_008), ("v3-file-short", 124_322)] {
        for unzip in [unzip::<String>, unzip_pipe::<String>] {
            let target = place.target(bytes, true)?;
            unzip(&place.accept(name), &image(name), &target)?.failure(5)?;
            untouched(&target, bytes)?;
        }
    }
    let small = place.target(124_323, false)?;
    unzip(
        &place.accept("v3-file-short"),
        &image("v3-file-short"),
        &small,
    )?
    .success()?;
    Ok(())
}

/// A disk with one partition at this sector, as the kernel shows it.
fn partition(place: &Place, start: u64) -> Result<(LoopDevice, PathBuf)> {
    let disk = place.target((start + 40_960 + 4096) * 512, false)?;
    let mut mbr = [0; 512];
    mbr[446 + 4] = 0x83;
    mbr[446 + 8..446 + 12].copy_from_slice(&u32::try_from(start)?.to_le_bytes());
    mbr[446 + 12..446 + 16].copy_from_slice(&40_960_u32.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xAA]);
    File::options()
        .write(true)
        .open(&disk)?
        .write_all_at(&mbr, 0)?;
    let device = LoopDevice::attach(&disk, 512)?;
    let partition = device.partition(1)?;
    Ok((device, partition))
}

/// LILO's addresses are those of the partition's place on its disk, from the image itself and from one made of it.
#[test]
fn boot_data_follow_the_partition() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let place = Place::new()?;
    let text = fs::read_to_string(testdata().join("README.md"))?;
    let converted = place.path("slice.frz");
    let mut imagezip = tool("imagezip")?;
    imagezip.args(["--unsigned", "--unencrypted", "--allow-legacy", "--from"]);
    imagezip.arg(image("v3-lilo-slice")).arg(&converted);
    run(imagezip)?.success()?;
    for (image, options) in [
        (
            image("v3-lilo-slice"),
            &["--allow-legacy", "--allow-unsigned"][..],
        ),
        (converted, &["--allow-unsigned"][..]),
    ] {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        for (start, hash, unzip) in [
            (
                8192,
                "a3923c5b29f1a4f2ef3469ff70c4f3f9ab6185b171629089323af0b6f9f30c88",
                unzip as Unzip,
            ),
            (
                63,
                "ec71889588f6b8ddcc21576bc1c4baa56aa36504c0ba7c7390ce66ffa27c5b99",
                unzip_pipe,
            ),
        ] {
            ensure!(text.contains(hash), "the C program's hash");
            let (device, partition) = partition(&place, start)?;
            unzip(&options, &image, &partition)?.success()?;
            let name = image.display();
            ensure!(sha256(&partition)? == hash, "{name} at {start}");
            drop(device);
        }
        // As a whole disk nothing moves.
        let new = place.path("new");
        unzip(&options, &image, &new)?.success()?;
        ensure!(sha256(&new)? == full("v3-lilo-slice")?.1);
        fs::remove_file(&new)?;
    }
    Ok(())
}

fn serve(class: &Class, image: &Path) -> Result<Background> {
    let mut command = tool("frisbeed")?;
    command.args([
        "--json",
        "--group",
        &GROUP.to_string(),
        "--interface",
        INTERFACE,
    ]);
    command.args(["--rate", "400M"]).arg(image);
    let server = Background::start(class.server.netns.command(&command)?)?;
    events::next(&server, "start")?;
    Ok(server)
}

fn receive(
    class: &Class,
    number: usize,
    options: &[impl AsRef<str>],
    target: &Path,
) -> Result<Background> {
    let mut command: Command = tool("frisbee-client")?;
    command.args([
        "--group",
        &GROUP.to_string(),
        "--interface",
        INTERFACE,
        "--timeout",
        "10",
    ]);
    command.args(options.iter().map(AsRef::as_ref));
    command.arg("--yes").arg(target);
    Background::start(class.clients[number].netns.command(&command)?)
}

#[test]
fn every_image_over_the_network() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let place = Place::new()?;
    let class = Class::new(2)?;
    // Packets that are lost come later, so chunks come in any order.
    class.lose(20)?;
    for name in IMAGES {
        let (bytes, hash) = full(name)?;
        let server = serve(&class, &image(name))?;
        let options = place.accept(name);
        let new = place.path("new");
        let mut clients = vec![(receive(&class, 0, &options, &new)?, new)];
        // A file that ends inside of a sector is taken for too small before the last chunk tells.
        if bytes % 512 == 0 && bytes < LARGE {
            let dirty = place.target(bytes, true)?;
            let zero = [&options[..], &["--free".into(), "zero".into()]].concat();
            clients.push((receive(&class, 1, &zero, &dirty)?, dirty));
        }
        for (client, target) in clients {
            client.wait(LIMIT)?.success().context(name)?;
            ensure!(fs::metadata(&target)?.len() == bytes, "{name}: the length");
            ensure!(sha256(&target)? == hash, "{name}: the data");
            fs::remove_file(&target)?;
        }
        end(server)?;
    }
    Ok(())
}

#[test]
fn the_network_gives_nothing_that_is_not_allowed() -> Result<()> {
    if !need::met(&[Need::Netns]) {
        return Ok(());
    }
    let place = Place::new()?;
    let class = Class::new(1)?;
    let bytes = 16 << 20;
    let refused = |options: &[&str], code: i32, why: &str| -> Result<()> {
        let target = place.target(bytes, true)?;
        let outcome = receive(&class, 0, options, &target)?.wait(LIMIT)?;
        let line = outcome.failure(code)?;
        ensure!(line.contains(why), "{why:?} was expected: {line}");
        untouched(&target, bytes)
    };
    let free = ["--allow-legacy", "--allow-unsigned"];
    let skey = testdata()
        .join("v4-enc-signed.ndz.skey")
        .display()
        .to_string();
    let other = testdata().join("v4-signed.ndz.skey").display().to_string();
    let key = place.key().display().to_string();
    let good = fs::read(image(ENCRYPTED))?;
    {
        let server = serve(&class, &image(ENCRYPTED))?;
        refused(&["--allow-unsigned", "--key", &key], 4, "--allow-legacy")?;
        refused(&["--allow-legacy", "--key", &key], 2, "no owner is trusted")?;
        refused(&free, 4, "encrypted")?;
        let signed_by = |skey| ["--allow-legacy", "--key", &key, "--legacy-key", skey];
        refused(&signed_by(&other), 4, "signature")?;
        let id = "00".repeat(16);
        let with_id = [&free[..], &["--key", &key, "--image-id", &id]].concat();
        refused(&with_id, 4, "image id")?;
        let new = place.path("new");
        receive(&class, 0, &signed_by(&skey), &new)?
            .wait(LIMIT)?
            .success()?;
        ensure!(sha256(&new)? == full(ENCRYPTED)?.1);
        end(server)?;
    }
    // A server that changes chunks, and makes a manifest that fits them. Whichever chunk comes first is refused.
    let mut bad = good;
    for start in [0, CHUNK] {
        bad[start + 5000] ^= 1;
    }
    let server = serve(&class, &place.image(&bad)?)?;
    refused(
        &["--allow-legacy", "--key", &key, "--legacy-key", &skey],
        4,
        "signature",
    )?;
    end(server)?;
    Ok(())
}

#[test]
fn only_whole_images_are_served() -> Result<()> {
    let place = Place::new()?;
    let good = fs::read(image("v3-ext2-frag"))?;
    for bytes in [&good[..CHUNK + 1], &good[CHUNK..], &good[..4]] {
        let mut command = tool("frisbeed")?;
        command.args(["--group", "239.192.7.1:7001", "--interface", "lo"]);
        command.arg(place.image(bytes)?);
        run(command)?.failure(3)?;
    }
    Ok(())
}

#[test]
fn what_an_image_is() -> Result<()> {
    let place = Place::new()?;
    let dump = |options: &[&str], image: &Path| -> Result<Outcome> {
        let mut command = tool("imagedump")?;
        command.args(options).arg(image);
        run(command)
    };
    let text = dump(&["--ranges"], &image("v3-gpt-disk"))?
        .success()?
        .stdout_text();
    for part in [
        "version 3",
        "196608 sectors",
        "regions       6",
        "weak",
        "sectors 0 to ",
    ] {
        ensure!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let document = dump(&["--json"], &image("v3-lilo-slice"))?
        .success()?
        .stdout_text();
    let document: serde_json::Value = serde_json::from_str(&document)?;
    ensure!(
        document["version"] == 3 && document["disk_sectors"] == 40_960,
        "{document}"
    );
    let relocations = document["chunks"][0]["relocations"].as_array();
    ensure!(relocations.map(Vec::len) == Some(19), "{document}");

    let skey = testdata()
        .join("v4-enc-signed.ndz.skey")
        .display()
        .to_string();
    let key = place.key().display().to_string();
    let all = [
        "--verify",
        "--allow-legacy",
        "--key",
        &key,
        "--legacy-key",
        &skey,
    ];
    let checked = dump(&all, &image(ENCRYPTED))?.success()?.stdout_text();
    ensure!(
        checked.contains("RSA of 512 bits") && checked.contains("data"),
        "{checked}"
    );
    ensure!(!checked.contains("not checked"), "{checked}");
    // Who asks whether a file is what an owner signed does not hear yes of what nobody has.
    for arguments in [&["--verify"][..], &["--verify", "--allow-legacy"]] {
        dump(arguments, &image(ENCRYPTED))?.failure(4)?;
    }
    let unsigned = ["--verify", "--allow-legacy", "--allow-unsigned"];
    let some = dump(&unsigned, &image(ENCRYPTED))?.success()?.stdout_text();
    ensure!(
        some.contains("not checked: signatures") && some.contains("encrypted data"),
        "{some}"
    );

    let mut bad = fs::read(image(ENCRYPTED))?;
    bad[CHUNK + 5000] ^= 1;
    let outcome = dump(&all, &place.image(&bad)?)?;
    ensure!(outcome.code() == Some(4), "{outcome}");
    ensure!(
        outcome.stdout_text().contains("chunk 1: wrong signature"),
        "{outcome}"
    );
    Ok(())
}
