//! Suites of algorithms, recipients, and images made of images: each choice comes back as the same disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::command::{LIMIT, must_line, run, tool};
use e2e::disk::Recipe;
use e2e::image::Keys;
use e2e::need::{self, Need};
use e2e::scene::Scene;
use serde_json::Value;

/// An RSA key of openssl in the scene's directory, with the scene's content key.
fn rsa_keys(scene: &Scene, bits: u32) -> Result<Keys> {
    let owner = scene.path(&format!("rsa{bits}.key"));
    let public = owner.with_extension("pub");
    let (private_name, public_name) = (owner.display(), public.display());
    must_line(&format!(
        "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{bits} -out {private_name}"
    ))?;
    must_line(&format!(
        "openssl pkey -in {private_name} -pubout -out {public_name}"
    ))?;
    fs::set_permissions(&owner, fs::Permissions::from_mode(0o600))?;
    Ok(Keys {
        owner,
        public,
        content: scene.keys.content.clone(),
    })
}

fn zip(keys: &Keys, options: &[&str], disk: &Path, image: &Path) -> Result<e2e::command::Outcome> {
    let mut command = keys.imagezip()?;
    command.args(options).arg(disk).arg(image);
    run(command)
}

fn header(image: &Path) -> Result<Value> {
    let mut command = tool("imagedump")?;
    command.arg("--json").arg(image);
    let document: Value = serde_json::from_slice(&run(command)?.success()?.stdout)?;
    Ok(document["header"].clone())
}

#[test]
fn the_classic_suite_from_disk_to_disk() -> Result<()> {
    if !need::met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    for bits in [3072, 4096] {
        let keys = rsa_keys(&scene, bits)?;
        let image = scene.path(&format!("classic{bits}.frz"));
        zip(&keys, &["--suite", "classic"], &scene.disk.path, &image)?.success()?;
        let header = header(&image)?;
        ensure!(
            header["codec"] == "zlib"
                && header["cipher"] == "Blowfish-CBC"
                && header["signature"] == "RSA-PSS-SHA-256"
                && header["suite"] == "classic",
            "{header}"
        );
        let target = scene.used_disk("used")?;
        let install = |suite: &str| {
            let mut command = keys.imageunzip()?;
            command.args(["--suite", suite]).arg(&image).arg(&target);
            run(command)
        };
        install("modern")?.failure(4)?;
        install("classic")?.success()?;
        scene.installed_on(&target)?;
    }
    Ok(())
}

#[test]
fn single_algorithms_are_chosen() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let choices: [(&[&str], &str, &str); 7] = [
        (&["--codec", "zlib"], "codec", "zlib"),
        (&["--codec", "zlib", "--level", "0"], "codec", "zlib"),
        (&["--codec", "zlib", "--level", "9"], "codec", "zlib"),
        (&["--codec", "none"], "codec", "none"),
        (&["--level", "19"], "codec", "zstd"),
        (
            &["--cipher", "chacha20-poly1305"],
            "cipher",
            "ChaCha20-Poly1305",
        ),
        (&["--cipher", "blowfish-cbc"], "cipher", "Blowfish-CBC"),
    ];
    for (number, (options, field, value)) in choices.into_iter().enumerate() {
        let image = scene.path(&format!("{number}.frz"));
        zip(&scene.keys, options, &scene.disk.path, &image)?.success()?;
        let header = header(&image)?;
        ensure!(header[field] == value, "{options:?}: {header}");
        let target = scene.used_disk("used")?;
        scene.keys.unzip(&image, &target).context(value)?;
        scene.same_data(&target).context(value)?;
    }
    Ok(())
}

#[test]
fn what_does_not_go_together_is_refused_with_the_remedy() -> Result<()> {
    if !need::met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let rsa = rsa_keys(&scene, 3072)?;
    let image = scene.path("never.frz");
    let refused: [(&Keys, &[&str], &str); 8] = [
        (&rsa, &[], "--suite classic"),
        (&scene.keys, &["--suite", "classic"], "imagekey sign --rsa"),
        (&scene.keys, &["--level", "20"], "1 to 19"),
        (&scene.keys, &["--level", "0"], "1 to 19"),
        (&scene.keys, &["--codec", "zlib", "--level", "10"], "0 to 9"),
        (&rsa, &["--suite", "classic", "--level", "19"], "0 to 9"),
        (&scene.keys, &["--codec", "none", "--level", "3"], "--level"),
        (&scene.keys, &["--recipient", "age1nonsense"], "mistyped"),
    ];
    for (keys, options, words) in refused {
        let outcome = zip(keys, options, &scene.disk.path, &image)?;
        ensure!(
            outcome.failure(2)?.contains(words),
            "no {words:?}: {outcome}"
        );
        ensure!(!image.exists());
    }
    Ok(())
}

/// By the tables of docs/FORMAT.md, sections 9 and 10.
fn parity_blocks(image: &Path) -> Result<Vec<u32>> {
    let bytes = fs::read(image)?;
    let parts = e2e::anatomy::Anatomy::of(&bytes)?;
    let entries = bytes[parts.manifest + 1024..].chunks(72);
    entries
        .take(parts.chunks.len())
        .map(|entry| Ok(u32::from_le_bytes(entry[4..8].try_into()?)))
        .collect()
}

#[test]
fn parity_is_left_out_if_asked_for() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    ensure!(parity_blocks(&scene.image)?.iter().all(|&count| count >= 8));
    let image = scene.path("bare.frz");
    zip(&scene.keys, &["--no-parity"], &scene.disk.path, &image)?.success()?;
    ensure!(parity_blocks(&image)?.iter().all(|&count| count == 0));
    let target = scene.used_disk("used")?;
    scene.keys.unzip(&image, &target)?;
    scene.same_data(&target)
}

/// The wrapped keys of an image, by the table of docs/FORMAT.md, section 6.
fn wrapped_keys(image: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(image)?;
    let length = u32::from_le_bytes(bytes[172..176].try_into()?);
    Ok(bytes[432..432 + usize::try_from(length)?].to_vec())
}

/// Whom an image is made for, he opens it with the age program; and `imagezip` with the same identity.
#[test]
fn recipients_open_an_image() -> Result<()> {
    if !need::met(&[
        Need::Tool("age"),
        Need::Tool("age-keygen"),
        Need::Tool("ssh-keygen"),
    ]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let (age, ssh) = (scene.path("age"), scene.path("ssh"));
    must_line(&format!("age-keygen -o {}", age.display()))?;
    let recipient = must_line(&format!("age-keygen -y {}", age.display()))?;
    let mut keygen = e2e::command::system("ssh-keygen")?;
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&ssh);
    run(keygen)?.success()?;

    let image = scene.path("wrapped.frz");
    let mut command = tool("imagezip")?;
    command.arg("--sign").arg(&scene.keys.owner);
    command.args(["--recipient", recipient.trim(), "--recipient"]);
    command.arg(ssh.with_extension("pub"));
    command.arg(&scene.disk.path).arg(&image);
    let outcome = run(command)?.success()?;
    ensure!(outcome.stderr.contains("only in the image"), "{outcome}");
    // The key that is in files opens nothing.
    let target = scene.path("never");
    let mut unzip = scene.keys.imageunzip()?;
    unzip.arg(&image).arg(&target);
    run(unzip)?.failure(4)?;

    let wrapped = scene.path("wrapped.age");
    fs::write(&wrapped, wrapped_keys(&image)?)?;
    for identity in [&age, &ssh] {
        let content = scene.path("content-of-age.key");
        let mut open = e2e::command::system("age")?;
        open.arg("--decrypt")
            .arg("--identity")
            .arg(identity)
            .arg(&wrapped);
        fs::write(&content, run(open)?.success()?.stdout)?;
        fs::set_permissions(&content, fs::Permissions::from_mode(0o600))?;
        let keys = Keys {
            content,
            ..scene.keys.clone()
        };
        let target = scene.used_disk("used")?;
        keys.unzip(&image, &target)?;
        scene.same_data(&target)?;

        let again = scene.path("again.frz");
        let mut from = scene.keys.imagezip()?;
        from.arg("--force").arg("--identity").arg(identity);
        from.arg("--from").arg(&image).arg(&again);
        run(from)?.success()?;
        let target = scene.used_disk("used")?;
        scene.keys.unzip(&again, &target)?;
        scene.same_data(&target)?;
    }
    Ok(())
}

/// A chain of images, each made of the one before with other algorithms and keys.
#[test]
fn images_of_images_in_all_suites() -> Result<()> {
    if !need::met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let rsa = rsa_keys(&scene, 3072)?;
    let place = scene.path("other");
    fs::create_dir(&place)?;
    let other = Keys::make(&place)?;
    let steps: [(&Keys, &[&str]); 5] = [
        (
            &other,
            &["--cipher", "chacha20-poly1305", "--name", "renamed"],
        ),
        (&rsa, &["--suite", "classic"]),
        (
            &rsa,
            &["--suite", "classic", "--codec", "none", "--no-parity"],
        ),
        (&other, &["--cipher", "blowfish-cbc", "--epoch", "7"]),
        (&scene.keys, &["--codec", "zlib"]),
    ];
    let (mut image, mut owner) = (scene.image.clone(), &scene.keys);
    for (number, (keys, options)) in steps.into_iter().enumerate() {
        let next = scene.path(&format!("{number}.frz"));
        // The owner's own images are trusted; here it is another's.
        let mut command = keys.imagezip()?;
        command.args(options).arg("--trust").arg(&owner.public);
        command.arg("--from-key").arg(&owner.content);
        command.arg("--from").arg(&image).arg(&next);
        run(command)?.success()?;
        let target = scene.used_disk("used")?;
        keys.unzip(&next, &target)?;
        scene.installed_on(&target)?;
        (image, owner) = (next, keys);
    }
    // Name and epoch are kept where nothing else is asked for.
    let (first, last) = (header(&scene.image)?, header(&image)?);
    ensure!(last["name"] == "renamed" && last["epoch"] == 7, "{last}");
    ensure!(first["uuid"] != last["uuid"]);
    Ok(())
}

/// `imagezip --from -` with the scene's keys, to `to`, reading `from`.
fn through_pipe(scene: &Scene, from: &Path, to: &Path) -> Result<e2e::command::Outcome> {
    let mut cat = Command::new("cat");
    let mut cat = cat.arg(from).stdout(Stdio::piped()).spawn()?;
    let mut command = scene.keys.imagezip()?;
    command.arg("--from").arg("-").arg(to);
    command.stdin(cat.stdout.take().context("no pipe")?);
    let outcome = Background::start(command)?.wait(LIMIT)?;
    cat.wait()?;
    Ok(outcome)
}

#[test]
fn an_image_of_an_image_in_a_pipe() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let image = scene.path("again.frz");
    through_pipe(&scene, &scene.image, &image)?.success()?;
    let target = scene.used_disk("used")?;
    scene.keys.unzip(&image, &target)?;
    scene.installed_on(&target)
}

/// A bad chunk ends the work, however many good ones wait behind it.
#[test]
fn no_image_of_a_long_image_with_a_bad_chunk() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let mut bytes = fs::read(&scene.image)?;
    let parts = e2e::anatomy::Anatomy::of(&bytes)?;
    ensure!(parts.chunks.len() > 30);
    bytes[parts.chunks[1].bytes.start + 1024] ^= 1;
    let (bad, image) = (scene.path("bad.frz"), scene.path("new.frz"));
    fs::write(&bad, bytes)?;
    let mut command = scene.keys.imagezip()?;
    command
        .args(["--threads", "2", "--from"])
        .arg(&bad)
        .arg(&image);
    let outcome = Background::start(command)?.wait(Duration::from_secs(60))?;
    outcome.failure(4)?;
    ensure!(!image.exists());
    Ok(())
}

/// Whatever is wrong with the image that is read, there is no new one.
#[test]
fn no_image_of_a_bad_image() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let bytes = fs::read(&scene.image)?;
    let parts = e2e::anatomy::Anatomy::of(&bytes)?;
    let place = scene.path("images");
    fs::create_dir(&place)?;
    let bad = scene.path("bad.frz");
    let image = place.join("new.frz");
    let mut versions = Vec::new();
    for part in parts.parts() {
        let mut altered = bytes.clone();
        altered[usize::midpoint(part.bytes.start, part.bytes.end)] ^= 4;
        versions.push((format!("altered {}", part.name), altered));
        versions.push((
            format!("cut at {}", part.name),
            bytes[..part.bytes.start].to_vec(),
        ));
    }
    let last = parts.chunks.last().context("no chunks")?;
    let without_last = [&bytes[..last.bytes.start], &bytes[last.bytes.end..]].concat();
    versions.push(("without its last chunk".into(), without_last));
    versions.push(("longer".into(), [&bytes[..], &[0; 1024]].concat()));
    for (what, version) in versions {
        fs::write(&bad, version)?;
        let mut command = scene.keys.imagezip()?;
        command.arg("--from").arg(&bad).arg(&image);
        for outcome in [run(command)?, through_pipe(&scene, &bad, &image)?] {
            ensure!(matches!(outcome.code(), Some(3 | 4)), "{what}: {outcome}");
            let left: Vec<PathBuf> = fs::read_dir(&place)?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<_>>()?;
            ensure!(left.is_empty(), "{what}: {left:?}");
        }
    }
    // The right bytes in the hands of the wrong owner, or without the key.
    fs::write(&bad, &bytes)?;
    let other = scene.path("other");
    fs::create_dir(&other)?;
    let keys = Keys::make(&other)?;
    let mut command = keys.imagezip()?;
    command.arg("--from").arg(&bad).arg(&image);
    run(command)?.failure(4)?;
    let mut command = keys.imagezip()?;
    command.arg("--trust").arg(&scene.keys.public);
    command.arg("--from").arg(&bad).arg(&image);
    run(command)?.failure(4)?;
    ensure!(!image.exists());
    Ok(())
}
