//! Content keys inside images: put in, exchanged and taken out, with the age tool as the judge of what is inside.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::command::{Outcome, must, run, tool};
use e2e::disk::Recipe;
use e2e::need::{Need, met};
use e2e::ranges;
use e2e::scene::Scene;

const TOOLS: [Need; 3] = [
    Need::Tool("age"),
    Need::Tool("age-keygen"),
    Need::Tool("ssh-keygen"),
];

/// A scene with two identities that the tools made.
struct Stage {
    scene: Scene,
    age: PathBuf,
    ssh: PathBuf,
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

impl Stage {
    fn new() -> Result<Self> {
        let scene = Scene::new(&Recipe::TINY)?;
        let (age, ssh) = (scene.path("age.txt"), scene.path("ssh"));
        must("age-keygen", ["-o", text(&age)?])?;
        let ssh_key = ["-q", "-t", "ed25519", "-N", "", "-C", "node", "-f"];
        must("ssh-keygen", ssh_key.into_iter().chain([text(&ssh)?]))?;
        Ok(Self { scene, age, ssh })
    }

    fn age_recipient(&self) -> Result<String> {
        Ok(must("age-keygen", ["-y", text(&self.age)?])?.trim().into())
    }

    /// `imagekey wrap` with these options, signing as the owner.
    fn wrap(&self, options: &[&str]) -> Result<Outcome> {
        let mut command = tool("imagekey")?;
        command
            .arg("wrap")
            .arg("--sign")
            .arg(&self.scene.keys.owner);
        command.args(options).arg(&self.scene.image);
        run(command)
    }

    fn unwrap(&self, identity: &Path, name: &str) -> Result<Outcome> {
        let mut command = tool("imagekey")?;
        command.arg("unwrap").arg("--identity").arg(identity);
        command.arg(&self.scene.image).arg(self.scene.path(name));
        run(command)
    }

    /// The wrapped keys in the image header: docs/FORMAT.md, section 6.
    fn wrapped(&self) -> Result<Vec<u8>> {
        let image = File::open(&self.scene.image)?;
        let mut length = [0; 4];
        image.read_exact_at(&mut length, 172)?;
        let mut wrapped = vec![0; usize::try_from(u32::from_le_bytes(length))?];
        image.read_exact_at(&mut wrapped, 432)?;
        Ok(wrapped)
    }

    /// Checks that the image is whole and installs.
    fn installs(&self) -> Result<()> {
        let mut dump = tool("imagedump")?;
        dump.arg("--verify").arg("--deep");
        dump.arg("--trust").arg(&self.scene.keys.public);
        dump.arg("--key").arg(&self.scene.keys.content);
        dump.arg(&self.scene.image);
        run(dump)?.success()?;
        let target = self.scene.used_disk("target")?;
        let mut unzip = self.scene.keys.imageunzip()?;
        unzip.arg(&self.scene.image).arg(&target);
        run(unzip)?.success()?;
        fs::remove_file(target)?;
        Ok(())
    }
}

#[test]
fn recipients_open_the_content_key() -> Result<()> {
    if !met(&TOOLS) {
        return Ok(());
    }
    let stage = Stage::new()?;
    let content = fs::read_to_string(&stage.scene.keys.content)?;
    let key = text(&stage.scene.keys.content)?.to_owned();
    let before = fs::read(&stage.scene.image)?;
    fs::set_permissions(&stage.scene.image, PermissionsExt::from_mode(0o640))?;
    let ssh_public = stage.ssh.with_extension("pub");
    let age = stage.age_recipient()?;
    let recipients = ["--recipient", &age, "--recipient", text(&ssh_public)?];
    stage
        .wrap(&[recipients.as_slice(), &["--key", &key]].concat())?
        .success()?;

    let after = fs::read(&stage.scene.image)?;
    ensure!(after.len() == before.len());
    let changed = ranges_that_differ(&before, &after);
    ensure!(
        changed
            .iter()
            .all(|&block| block < 4 || after[block * 1024..].starts_with(b"FRZMANIF")),
        "only header and manifest head change: {changed:?}"
    );
    let mode = fs::metadata(&stage.scene.image)?.permissions().mode();
    ensure!(mode & 0o777 == 0o640);
    let age_file = stage.scene.path("wrapped.age");
    fs::write(&age_file, stage.wrapped()?)?;
    for (number, identity) in [&stage.age, &stage.ssh].into_iter().enumerate() {
        let opened = must("age", ["-d", "-i", text(identity)?, text(&age_file)?])?;
        ensure!(opened == content, "age opens something else");
        let name = format!("{number}.key");
        stage.unwrap(identity, &name)?.success()?;
        let file = stage.scene.path(&name);
        ensure!(fs::read_to_string(&file)? == content);
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        stage.unwrap(identity, &name)?.failure(2)?;
    }
    stage.installs()?;

    // The new list replaces the old one.
    let identity = text(&stage.ssh)?;
    stage
        .wrap(&["--identity", identity, "--recipient", &age])?
        .success()?;
    stage.unwrap(&stage.age, "again.key")?.success()?;
    let outcome = stage.unwrap(&stage.ssh, "never.key")?;
    ensure!(outcome.failure(4)?.contains("X25519"), "{outcome}");
    ensure!(!stage.scene.path("never.key").exists());
    stage.installs()?;
    stage.wrap(&["--nobody"])?.success()?;
    stage.unwrap(&stage.age, "never.key")?.failure(4)?;
    ensure!(fs::read(&stage.scene.image)?[..3584] == before[..3584]);
    stage.installs()
}

/// The blocks of 1024 bytes that are not the same.
fn ranges_that_differ(one: &[u8], other: &[u8]) -> Vec<usize> {
    let blocks = one.chunks(1024).zip(other.chunks(1024)).enumerate();
    blocks
        .filter(|(_, (one, other))| one != other)
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn an_image_is_left_alone_when_something_is_wrong() -> Result<()> {
    if !met(&TOOLS) {
        return Ok(());
    }
    let stage = Stage::new()?;
    let age = stage.age_recipient()?;
    let key = text(&stage.scene.keys.content)?.to_owned();
    let (other_key, other_owner) = (stage.scene.path("other.key"), stage.scene.path("other"));
    for (verb, path) in [("content", &other_key), ("sign", &other_owner)] {
        let mut make = tool("imagekey")?;
        make.arg(verb).arg(path);
        run(make)?.success()?;
    }
    let many = stage.scene.path("many");
    let recipients = (0..31).map(|number| {
        let path = stage.scene.path(&format!("node{number}"));
        must("age-keygen", ["-o", text(&path)?])?;
        must("age-keygen", ["-y", text(&path)?])
    });
    fs::write(&many, recipients.collect::<Result<String>>()?)?;
    let before = ranges::hash(&stage.scene.image)?;
    let secret = fs::read_to_string(&stage.age)?;
    let secret = secret.lines().last().context("an identity")?;
    let refused: [(&[&str], i32, &str); 6] = [
        (
            &["--key", text(&other_key)?, "--recipient", &age],
            4,
            "not the key",
        ),
        (
            &["--identity", text(&stage.age)?, "--recipient", &age],
            4,
            "does not hold",
        ),
        (
            &["--key", &key, "--recipient", "somebody"],
            2,
            "not a recipient",
        ),
        (&["--key", &key, "--recipient", secret], 2, "secret"),
        (
            &["--key", &key, "--recipient", text(&many)?],
            2,
            "31 recipients",
        ),
        (
            &["--key", &key, "--recipient", text(&stage.age)?],
            3,
            "secret",
        ),
    ];
    for (options, code, reason) in refused {
        let outcome = stage.wrap(options)?;
        let line = outcome.failure(code)?;
        ensure!(line.contains(reason), "{reason} was expected: {line}");
        ensure!(!line.contains(secret), "a secret was shown");
    }
    let common = ["wrap", "--key", &key, "--recipient", &age];
    for (options, code) in [(vec![], 2), (vec!["--sign", text(&other_owner)?], 4)] {
        let mut command = tool("imagekey")?;
        command.args(common).args(options).arg(&stage.scene.image);
        run(command)?.failure(code)?;
    }
    ensure!(ranges::hash(&stage.scene.image)? == before);

    // What the owner has not signed is not signed now.
    let image = File::options()
        .read(true)
        .write(true)
        .open(&stage.scene.image)?;
    let length = image.metadata()?.len();
    for at in [100, length - 1500] {
        let mut byte = [0];
        image.read_exact_at(&mut byte, at)?;
        image.write_all_at(&[byte[0] ^ 1], at)?;
        let spoiled = ranges::hash(&stage.scene.image)?;
        let outcome = stage.wrap(&["--key", &key, "--recipient", &age])?;
        ensure!(matches!(outcome.code(), Some(3 | 4)), "{outcome}");
        ensure!(ranges::hash(&stage.scene.image)? == spoiled);
        image.write_all_at(&byte, at)?;
    }
    let directory = stage.scene.image.parent().context("a directory")?;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        ensure!(
            !name.to_string_lossy().ends_with(".partial"),
            "{name:?} is left"
        );
    }
    Ok(())
}
