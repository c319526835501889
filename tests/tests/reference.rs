//! Two implementations of the image format: what ours makes, the one in `testdata/reference` decodes to the same disk,
//! and its images, good and bad ones, go through the real programs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::command::{LIMIT, must, run, system, tool};
use e2e::disk::Recipe;
use e2e::image::Keys;
use e2e::need::{self, Need};
use e2e::packages::{PYTHON, PYTHON_CRYPTOGRAPHY, PYTHON_ZSTANDARD};
use e2e::ranges;
use e2e::scene::Scene;
use e2e::scratch;

const NEEDS: [Need; 3] = [
    Need::Tool(PYTHON),
    Need::Tool(PYTHON_CRYPTOGRAPHY),
    Need::Tool(PYTHON_ZSTANDARD),
];

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata")
        .join(name)
}

/// Python that leaves no files behind.
fn python() -> Result<Command> {
    let mut command = system(PYTHON)?;
    command.args(["-B", "-W", "ignore"]);
    Ok(command)
}

/// The other implementation's reader.
fn reader(command: &str, keys: &Keys) -> Result<Command> {
    let mut python = python()?;
    python
        .arg(testdata("reference/frz.py"))
        .arg(command)
        .arg("--trust")
        .arg(&keys.public)
        .arg("--key")
        .arg(&keys.content);
    Ok(python)
}

/// Decodes an image with both implementations; the disks, free space zero, must be the same.
fn decode(
    scene: &Scene,
    keys: &Keys,
    options: &[&str],
    bases: &[&Path],
    image: &Path,
) -> Result<PathBuf> {
    let (theirs, ours) = (scene.path("theirs"), scene.used_disk("ours")?);
    let mut python = reader("decode", keys)?;
    let mut unzip = keys.imageunzip()?;
    unzip.args(["--free", "zero"]);
    for command in [&mut python, &mut unzip] {
        command.args(options);
        for base in bases {
            command.arg("--base").arg(base);
        }
        command.arg(image);
    }
    python.arg(&theirs);
    unzip.arg(&ours);
    run(python)?.success()?;
    run(unzip)?.success()?;
    ensure!(
        ranges::hash(&theirs)? == ranges::hash(&ours)?,
        "{}: not the same disk",
        image.display()
    );
    Ok(theirs)
}

fn rsa_keys(scene: &Scene) -> Result<Keys> {
    let owner = scene.path("rsa.key");
    let mut command = tool("imagekey")?;
    command.args(["sign", "--rsa", "3072"]).arg(&owner);
    run(command)?.success()?;
    Ok(Keys {
        public: owner.with_extension("pub"),
        owner,
        content: scene.keys.content.clone(),
    })
}

#[test]
fn images_of_every_suite_decode_to_the_same_disk() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let (modern, rsa) = (&scene.keys, &rsa_keys(&scene)?);
    let choices: [(&Keys, &[&str]); 8] = [
        (modern, &[]),
        (modern, &["--cipher", "chacha20-poly1305"]),
        (modern, &["--codec", "none", "--no-parity"]),
        (modern, &["--codec", "zlib", "--cipher", "blowfish-cbc"]),
        (modern, &["--chunk-size", "64K", "--level", "1"]),
        (rsa, &["--suite", "classic"]),
        (rsa, &["--suite", "classic", "--codec", "zstd"]),
        (modern, &["--raw"]),
    ];
    for (number, (keys, options)) in choices.into_iter().enumerate() {
        let image = scene.path(&format!("{number}.frz"));
        let mut zip = keys.imagezip()?;
        zip.args(options).arg(&scene.disk.path).arg(&image);
        run(zip)?.success()?;
        let disk =
            decode(&scene, keys, &[], &[], &image).with_context(|| format!("{options:?}"))?;
        if options == ["--raw"] {
            ensure!(
                ranges::hash(&disk)? == ranges::hash(&scene.disk.path)?,
                "every sector of a raw image is the disk's"
            );
        }
    }
    let image = scene.path("open.frz");
    let mut zip = tool("imagezip")?;
    zip.args(["--unsigned", "--unencrypted"])
        .arg(&scene.disk.path)
        .arg(&image);
    run(zip)?.success()?;
    decode(&scene, modern, &["--allow-unsigned"], &[], &image)?;
    Ok(())
}

#[test]
fn parity_roots_are_those_of_the_definition() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let image = scene.path("small-chunks.frz");
    let mut zip = scene.keys.imagezip()?;
    zip.args(["--chunk-size", "64K"])
        .arg(&scene.disk.path)
        .arg(&image);
    run(zip)?.success()?;
    let mut verify = reader("verify", &scene.keys)?;
    verify.arg(&image);
    let outcome = run(verify)?.success()?;
    ensure!(
        outcome.stdout_text().contains("chunks verified")
            && !outcome.stdout_text().contains("not computed"),
        "{outcome}"
    );
    Ok(())
}

#[test]
fn deltas_decode_over_their_bases() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let rsa = rsa_keys(&scene)?;
    let changed = scene.path("changed");
    fs::copy(&scene.disk.path, &changed)?;
    let delta = |keys: &Keys, options: &[&str], bases: &[&Path], name: &str| -> Result<PathBuf> {
        let mut bytes = fs::read(&changed)?;
        // In the data of a file of this disk, so that few chunks differ.
        let middle = bytes.len() / 2;
        bytes[middle..middle + 512].fill(b'd');
        fs::write(&changed, bytes)?;
        let image = scene.path(name);
        let mut zip = keys.imagezip()?;
        zip.args(options).args(["--raw", "--chunk-size", "256K"]);
        zip.arg("--trust").arg(&scene.keys.public);
        for base in bases {
            zip.arg("--base").arg(base);
        }
        zip.arg(&changed).arg(&image);
        run(zip)?.success()?;
        Ok(image)
    };
    let base = scene.path("base.frz");
    let mut zip = scene.keys.imagezip()?;
    zip.args(["--raw", "--chunk-size", "256K"]);
    zip.arg(&scene.disk.path).arg(&base);
    run(zip)?.success()?;
    let first = delta(&scene.keys, &[], &[&base], "first.frz")?;
    ensure!(
        fs::metadata(&first)?.len() < fs::metadata(&base)?.len() / 2,
        "a delta leaves out what is the same"
    );
    let disk = decode(&scene, &scene.keys, &[], &[&base], &first)?;
    ensure!(ranges::hash(&disk)? == ranges::hash(&changed)?);
    // Of other algorithms and another owner than its base.
    let second = delta(
        &rsa,
        &["--suite", "classic"],
        &[&base, &first],
        "second.frz",
    )?;
    let public = scene.keys.public.display().to_string();
    let disk = decode(
        &scene,
        &rsa,
        &["--trust", &public],
        &[&base, &first],
        &second,
    )?;
    ensure!(ranges::hash(&disk)? == ranges::hash(&changed)?);
    Ok(())
}

/// The other implementation's own tests: BLAKE3 against its official vectors, and its reader against its images.
#[test]
fn the_reference_reads_what_it_has_written() -> Result<()> {
    if !need::met(&NEEDS) {
        return Ok(());
    }
    let mut tests = python()?;
    tests
        .args(["-m", "unittest", "test_blake3", "test_vectors"])
        .current_dir(testdata("reference"));
    run(tests)?.success()?;
    Ok(())
}

/// A row of a table of images, each field by the name of its column.
type Row = BTreeMap<String, String>;

fn table(directory: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(directory.join("index.tsv"))?;
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().context("no columns")?.split('\t').collect();
    let row = |line: &str| {
        let fields = line.split('\t').map(str::to_owned);
        columns
            .iter()
            .map(|&name| name.to_owned())
            .zip(fields)
            .collect()
    };
    Ok(lines.map(row).collect())
}

/// `imageunzip` with the owners, keys and bases of a row.
fn unzip(row: &Row, content_key: &Path) -> Result<Command> {
    let golden = testdata("frz");
    let mut command = tool("imageunzip")?;
    command.args(["--yes", "--free", "zero"]);
    let named = |column: &str| {
        let names: Vec<String> = row[column].split(',').map(str::to_owned).collect();
        names.into_iter().filter(|name| name != "-")
    };
    for owner in named("owners") {
        match owner.as_str() {
            "none" => command.arg("--allow-unsigned"),
            "weak" => command
                .arg("--trust")
                .arg(testdata("must-fail/owner-weak.pub")),
            _ => command
                .arg("--trust")
                .arg(golden.join(format!("owner-{owner}.pub"))),
        };
    }
    for base in named("bases") {
        command.arg("--base").arg(golden.join(base));
    }
    if row.get("key").is_none_or(|key| key != "-") {
        command.arg("--key").arg(content_key);
    }
    Ok(command)
}

/// The content key of the images, as a secret has to be kept.
fn content_key(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("content.key");
    fs::copy(testdata("frz/content.key"), &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

#[test]
fn golden_images_are_installed_from_files_and_pipes() -> Result<()> {
    let directory = scratch::directory()?;
    let key = content_key(directory.path())?;
    let rows = table(&testdata("frz"))?;
    ensure!(rows.len() > 60);
    for row in &rows {
        let image = testdata("frz").join(&row["file"]);
        for pipe in [false, true] {
            let target = directory.path().join(if pipe { "pipe" } else { "file" });
            let _ = fs::remove_file(&target);
            let mut command = unzip(row, &key)?;
            let outcome = if pipe {
                command.arg("-").arg(&target).stdin(File::open(&image)?);
                Background::start(command)?.wait(LIMIT)?
            } else {
                command.arg(&image).arg(&target);
                run(command)?
            };
            outcome.success()?;
            let sum = must("sha256sum", [&target])?;
            ensure!(
                sum.starts_with(&row["sha256"]),
                "{}: {sum}, expected {}",
                row["file"],
                row["sha256"]
            );
        }
    }
    Ok(())
}

/// What an installer need not look for (docs/FORMAT.md, section 11), but verification does.
const LEFT_TO_VERIFICATION: [&str; 3] = [
    "chunk-plain-hash.frz",
    "manifest-other-plain-hash.frz",
    "manifest-other-layout.frz",
];

#[test]
fn bad_images_are_refused_with_the_right_exit_code() -> Result<()> {
    let directory = scratch::directory()?;
    let key = content_key(directory.path())?;
    let target = directory.path().join("target");
    let rows = table(&testdata("must-fail"))?;
    ensure!(rows.len() > 200);
    for row in &rows {
        let by_index = row["as_file"]
            .split('/')
            .next()
            .filter(|class| *class != "=");
        let code = match by_index.unwrap_or(&row["class"]) {
            "input" => 3,
            _ => 4,
        };
        let _ = fs::remove_file(&target);
        let mut command = unzip(row, &key)?;
        command
            .arg(testdata("must-fail").join(&row["file"]))
            .arg(&target);
        if !LEFT_TO_VERIFICATION.contains(&row["file"].as_str()) {
            run(command)?.failure(code).context(row["note"].clone())?;
            continue;
        }
        let mut verify = tool("imagedump")?;
        verify.args(["--verify", "--deep"]).arg("--trust");
        verify
            .arg(testdata("frz/owner-ed25519.pub"))
            .arg("--key")
            .arg(&key);
        verify.arg(testdata("must-fail").join(&row["file"]));
        let outcome = run(verify)?;
        ensure!(outcome.code() == Some(code), "{outcome}");
    }
    Ok(())
}
