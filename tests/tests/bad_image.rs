//! Images that are cut, changed, forged or put together are refused, whatever byte it is, and nothing of them is
//! installed. From a file, the target is not even touched.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::anatomy::Anatomy;
use e2e::background::Background;
use e2e::command::{LIMIT, Outcome, run, tool};
use e2e::disk::Recipe;
use e2e::image::Keys;
use e2e::ranges;
use e2e::scene::Scene;
use fastrand::Rng;

/// A scene with a used disk, and a copy of the image that may be spoiled.
struct Stage {
    scene: Scene,
    image: Vec<u8>,
    spoiled: PathBuf,
    target: PathBuf,
    before: blake3::Hash,
}

impl Stage {
    fn new() -> Result<Self> {
        let scene = Scene::new(&Recipe::TINY)?;
        let image = fs::read(&scene.image)?;
        let (spoiled, target) = (scene.path("spoiled.frz"), scene.used_disk("used")?);
        fs::write(&spoiled, &image)?;
        let before = ranges::hash(&target)?;
        Ok(Self {
            scene,
            image,
            spoiled,
            target,
            before,
        })
    }

    /// Installs the spoiled image from its file, which must fail as bad input or verification, with the target as
    /// it was; `imagedump` must refuse it too.
    fn refused(&self) -> Result<String> {
        let mut unzip = self.scene.keys.imageunzip()?;
        unzip.arg(&self.spoiled).arg(&self.target);
        let outcome = run(unzip)?;
        let line = refusal(&outcome)?.to_owned();
        ensure!(
            ranges::hash(&self.target)? == self.before,
            "the target was touched: {outcome}"
        );
        let mut dump = tool("imagedump")?;
        dump.arg("--trust")
            .arg(&self.scene.keys.public)
            .arg("--key")
            .arg(&self.scene.keys.content);
        refusal(&run({
            dump.arg(&self.spoiled);
            dump
        })?)?;
        Ok(line)
    }

    /// Installs the spoiled image as from a pipe, which must fail; nothing wrong is written, and nothing boots.
    fn refused_from_a_pipe(&self) -> Result<()> {
        let mut unzip = self.scene.keys.imageunzip()?;
        unzip
            .arg("-")
            .arg(&self.target)
            .stdin(File::open(&self.spoiled)?);
        refusal(&Background::start(unzip)?.wait(LIMIT)?)?;
        self.scene.spoiled_safely(&self.target)
    }

    fn with_byte_changed(
        &self,
        at: usize,
        mask: u8,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let file = File::options().write(true).open(&self.spoiled)?;
        file.write_all_at(&[self.image[at] ^ mask], at as u64)?;
        let result = check();
        file.write_all_at(&[self.image[at]], at as u64)?;
        result
    }
}

fn refusal(outcome: &Outcome) -> Result<&str> {
    outcome.failure(if outcome.code() == Some(3) { 3 } else { 4 })
}

/// Offsets to try in a part: the ends, every `step`th byte, and some at random.
fn offsets(part: &std::ops::Range<usize>, step: usize, rng: &mut Rng) -> Vec<usize> {
    let mut offsets = vec![part.start, part.end - 1];
    if part.len() <= 4096 {
        offsets.extend(part.clone().step_by(step));
    }
    offsets.extend((0..4).map(|_| rng.usize(part.clone())));
    offsets
}

#[test]
fn any_byte_changed() -> Result<()> {
    let stage = Stage::new()?;
    let anatomy = Anatomy::of(&stage.image)?;
    ensure!(anatomy.chunks.len() >= 3, "{} chunks", anatomy.chunks.len());
    let mut rng = Rng::with_seed(1);
    for part in anatomy.parts() {
        for at in offsets(&part.bytes, 37, &mut rng) {
            let mask = 1 << rng.u8(..8);
            stage
                .with_byte_changed(at, mask, || stage.refused().map(drop))
                .with_context(|| format!("{}, byte {at} changed by {mask:#x}", part.name))?;
        }
    }
    Ok(())
}

#[test]
fn any_byte_changed_in_a_pipe() -> Result<()> {
    let stage = Stage::new()?;
    let mut rng = Rng::with_seed(2);
    for part in Anatomy::of(&stage.image)?.parts() {
        for at in offsets(&part.bytes, 1000, &mut rng) {
            stage
                .with_byte_changed(at, 1 << rng.u8(..8), || stage.refused_from_a_pipe())
                .with_context(|| format!("{}, byte {at}", part.name))?;
        }
    }
    Ok(())
}

/// Without a signature there are still the hashes: an accident is found, though not an attack.
#[test]
fn any_byte_of_an_unsigned_image_changed() -> Result<()> {
    let stage = Stage::new()?;
    let mut zip = tool("imagezip")?;
    zip.args(["--unsigned", "--unencrypted", "--force"])
        .arg(&stage.scene.disk.path)
        .arg(&stage.spoiled);
    run(zip)?.success()?;
    let stage = Stage {
        image: fs::read(&stage.spoiled)?,
        ..stage
    };
    let mut rng = Rng::with_seed(3);
    for part in Anatomy::of(&stage.image)?.parts() {
        for at in offsets(&part.bytes, 97, &mut rng) {
            let check = || {
                let mut unzip = tool("imageunzip")?;
                unzip
                    .args(["--allow-unsigned", "--yes"])
                    .arg(&stage.spoiled)
                    .arg(&stage.target);
                let outcome = run(unzip)?;
                // The name, for one, is nobody's promise. But what is installed is right.
                if outcome.status.success() {
                    return stage.scene.same_data(&stage.target);
                }
                refusal(&outcome).map(drop)
            };
            stage
                .with_byte_changed(at, 1 << rng.u8(..8), check)
                .with_context(|| format!("{}, byte {at}", part.name))?;
        }
    }
    Ok(())
}

#[test]
fn cut_anywhere() -> Result<()> {
    let stage = Stage::new()?;
    let mut cuts = vec![0, 1, 7, 8, 55, stage.image.len() - 1];
    for part in Anatomy::of(&stage.image)?.parts() {
        cuts.extend([
            part.bytes.start,
            part.bytes.start + 1,
            part.bytes.start + part.bytes.len() / 2,
            part.bytes.end - 1,
        ]);
    }
    for cut in cuts {
        fs::write(&stage.spoiled, &stage.image[..cut])?;
        let place = || format!("cut at byte {cut}");
        let line = stage.refused().with_context(place)?;
        ensure!(
            line.contains("cut short") || line.contains("not a"),
            "{}: {line}",
            place()
        );
        stage.refused_from_a_pipe().with_context(place)?;
        fs::copy(stage.scene.used_disk("fresh")?, &stage.target)?;
    }
    Ok(())
}

#[test]
fn something_behind_the_end() -> Result<()> {
    let stage = Stage::new()?;
    for extra in [&[0_u8; 1][..], &[0; 1024], &stage.image] {
        fs::write(&stage.spoiled, [&stage.image, extra].concat())?;
        stage
            .refused_from_a_pipe()
            .with_context(|| format!("{} bytes from a pipe", extra.len()))?;
        fs::copy(stage.scene.used_disk("fresh")?, &stage.target)?;
        // Two images one behind the other end like an image.
        stage
            .refused()
            .with_context(|| format!("{} bytes", extra.len()))?;
    }
    Ok(())
}

#[test]
fn no_image_at_all() -> Result<()> {
    let stage = Stage::new()?;
    let mut rng = Rng::with_seed(4);
    let mut noise = vec![0; 100_000];
    rng.fill(&mut noise);
    for bytes in [&b""[..], b"#!/bin/sh\n", &[0; 8192], &noise] {
        fs::write(&stage.spoiled, bytes)?;
        let line = stage.refused()?;
        ensure!(
            line.contains("spoiled.frz"),
            "the file is not named: {line}"
        );
    }
    let mut unzip = stage.scene.keys.imageunzip()?;
    unzip
        .arg(stage.scene.path("nowhere.frz"))
        .arg(&stage.target);
    run(unzip)?.failure(3)?;
    let mut unzip = stage.scene.keys.imageunzip()?;
    unzip.arg(stage.scene.path("")).arg(&stage.target);
    run(unzip)?.failure(3)?;
    Ok(())
}

/// The parts of two images of one disk, by one owner, with one key, have the same lengths.
#[test]
fn put_together_from_two_images() -> Result<()> {
    let stage = Stage::new()?;
    let other = stage.scene.path("other.frz");
    stage.scene.keys.zip(&stage.scene.disk.path, &other)?;
    let other = fs::read(other)?;
    ensure!(other.len() == stage.image.len());
    let anatomy = Anatomy::of(&stage.image)?;
    let chunks = anatomy.chunks.iter().map(|chunk| chunk.bytes.clone());
    let manifest = anatomy.manifest..anatomy.footer + 1024;
    for part in chunks.chain([0..4096, manifest]) {
        let mut mixed = stage.image.clone();
        mixed[part.clone()].copy_from_slice(&other[part.clone()]);
        fs::write(&stage.spoiled, mixed)?;
        stage
            .refused()
            .with_context(|| format!("bytes {part:?} of another image"))?;
        stage.refused_from_a_pipe()?;
        fs::copy(stage.scene.used_disk("fresh")?, &stage.target)?;
    }
    Ok(())
}

#[test]
fn chunks_missing_twice_or_in_another_order() -> Result<()> {
    let stage = Stage::new()?;
    let anatomy = Anatomy::of(&stage.image)?;
    let chunk = |index: usize| &stage.image[anatomy.chunks[index].bytes.clone()];
    let count = anatomy.chunks.len();
    let orders: [Vec<usize>; 4] = [
        (1..count).collect(),
        (0..count - 1).collect(),
        [0].into_iter().chain(0..count).collect(),
        (0..count).rev().collect(),
    ];
    for order in orders {
        let mut mixed = stage.image[..4096].to_vec();
        order
            .iter()
            .for_each(|&index| mixed.extend_from_slice(chunk(index)));
        mixed.extend_from_slice(&stage.image[anatomy.manifest..]);
        fs::write(&stage.spoiled, mixed)?;
        stage
            .refused()
            .with_context(|| format!("chunks {order:?}"))?;
        stage
            .refused_from_a_pipe()
            .with_context(|| format!("chunks {order:?} from a pipe"))?;
        fs::copy(stage.scene.used_disk("fresh")?, &stage.target)?;
    }
    Ok(())
}

#[test]
fn keys_of_others() -> Result<()> {
    let stage = Stage::new()?;
    let place = stage.scene.path("stranger");
    fs::create_dir(&place)?;
    let stranger = Keys::make(&place)?;
    let own = &stage.scene.keys;
    let try_with = |trust: &Path, key: Option<&Path>, code: i32| -> Result<()> {
        let mut unzip = tool("imageunzip")?;
        unzip.arg("--trust").arg(trust).arg("--yes");
        key.map(|key| unzip.arg("--key").arg(key));
        unzip.arg(&stage.spoiled).arg(&stage.target);
        run(unzip)?.failure(code)?;
        ensure!(
            ranges::hash(&stage.target)? == stage.before,
            "the target was touched"
        );
        Ok(())
    };
    try_with(&stranger.public, Some(&own.content), 4).context("another owner")?;
    try_with(&own.public, Some(&stranger.content), 4).context("another content key")?;
    try_with(&own.public, None, 4).context("no content key")?;
    // Key files that are none, or not the right kind.
    try_with(&own.content, Some(&own.content), 3).context("a content key as the owner's")?;
    try_with(&own.public, Some(&own.public), 3).context("a public key as content key")?;
    try_with(&stage.scene.path("nowhere"), Some(&own.content), 3).context("no such key file")?;
    try_with(&own.public, Some(&stage.scene.path("nowhere")), 3)
        .context("no such content key file")?;
    Ok(())
}

#[test]
fn a_secret_key_that_others_can_read() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new()?;
    let keys = &stage.scene.keys;
    for mode in [0o640, 0o604, 0o666] {
        fs::set_permissions(&keys.content, PermissionsExt::from_mode(mode))?;
        let line = stage.refused()?;
        ensure!(line.contains("chmod 600"), "{line}");
    }
    fs::set_permissions(&keys.content, PermissionsExt::from_mode(0o600))?;
    fs::set_permissions(&keys.owner, PermissionsExt::from_mode(0o644))?;
    let image = stage.scene.path("never.frz");
    let mut zip = keys.imagezip()?;
    zip.arg(&stage.scene.disk.path).arg(&image);
    run(zip)?.failure(3)?;
    ensure!(!image.exists());
    Ok(())
}
