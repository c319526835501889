//! Key files: those that openssl makes, in all forms, and those that must be refused; owners restricted to names.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::command::{Outcome, must, must_line, run, tool};
use e2e::need::{Need, met};
use e2e::scratch;
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse battery staple";

/// A directory with keys that openssl made.
struct Ring(TempDir);

impl Ring {
    fn new() -> Result<Self> {
        let ring = Self(scratch::directory()?);
        ring.write("passphrase", &format!("{PASSPHRASE}\nnot this\n"), 0o600)?;
        Ok(ring)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(path)
    }

    /// Runs openssl with these words and `-out NAME`; the file is for its owner only.
    fn openssl(&self, line: &str, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let directory = self.0.path().to_str().context("a path in UTF-8")?;
        let line = line.replace("DIR", directory);
        must_line(&format!("openssl {line} -out {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// Private keys in all forms that are read, with the kind that is shown for them.
    fn private_keys(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        let pass = "-passout file:DIR/passphrase";
        let ed25519 = self.openssl("genpkey -algorithm ed25519", "ed25519")?;
        let rsa = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits";
        let rsa3072 = self.openssl(&format!("{rsa}:3072"), "rsa3072")?;
        let rsa4096 = self.openssl(&format!("{rsa}:4096"), "rsa4096")?;
        let pkcs1 = self.openssl("rsa -traditional -in DIR/rsa3072", "pkcs1")?;
        let to_pkcs8 = "pkcs8 -topk8 -in DIR";
        let pbkdf2 = self.openssl(&format!("{to_pkcs8}/ed25519 {pass}"), "pbkdf2")?;
        let sha512 = self.openssl(
            &format!("{to_pkcs8}/rsa4096 -v2 aes-128-cbc -v2prf hmacWithSHA512 {pass}"),
            "sha512",
        )?;
        let scrypt = self.openssl(&format!("{to_pkcs8}/rsa3072 -scrypt {pass}"), "scrypt")?;
        Ok(vec![
            ("Ed25519", ed25519),
            ("RSA-3072", rsa3072),
            ("RSA-4096", rsa4096),
            ("RSA-3072", pkcs1),
            ("Ed25519", pbkdf2),
            ("RSA-4096", sha512),
            ("RSA-3072", scrypt),
        ])
    }

    fn imagekey(&self, arguments: &[&str], file: &Path) -> Result<Outcome> {
        let mut command = tool("imagekey")?;
        command.args(arguments).arg(file);
        run(command)
    }

    fn with_passphrase(&self, verb: &str, file: &Path) -> Result<String> {
        let passphrase = self.path("passphrase");
        let option = ["--passphrase-file", passphrase.to_str().unwrap_or_default()];
        let outcome = self.imagekey(&[&[verb], option.as_slice()].concat(), file)?;
        Ok(outcome.success()?.stdout_text())
    }
}

/// What openssl says of a private key.
fn openssl_public(ring: &Ring, file: &Path, options: &[&str]) -> Result<String> {
    let passphrase = format!("file:{}", ring.path("passphrase").display());
    let file = file.to_str().context("a path in UTF-8")?;
    let base = ["pkey", "-in", file, "-passin", &passphrase, "-pubout"];
    must("openssl", base.iter().chain(options))
}

/// The key id: 16 bytes of SHA-256 over the public key in DER, as openssl writes it.
fn openssl_id(ring: &Ring, file: &Path) -> Result<String> {
    let der = ring.path("der");
    let path = der.to_str().context("a path in UTF-8")?;
    openssl_public(ring, file, &["-outform", "DER", "-out", path])?;
    let hash = must("openssl", ["dgst", "-sha256", "-r", path])?;
    Ok(hash.chars().take(32).collect())
}

#[test]
fn keys_of_openssl_are_read_in_all_forms() -> Result<()> {
    if !met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let ring = Ring::new()?;
    for (kind, file) in ring.private_keys()? {
        let name = file.display();
        let id = openssl_id(&ring, &file)?;
        let shown = ring.with_passphrase("show", &file)?;
        ensure!(shown == format!("{kind} {id}\n"), "{name}: {shown}");
        let public = ring.with_passphrase("public", &file)?;
        ensure!(
            public == openssl_public(&ring, &file, &[])?,
            "{name}: {public}"
        );
        let public = ring.write("public", &format!("# mine\n\n{public}"), 0o644)?;
        let shown = ring.imagekey(&["show"], &public)?.success()?.stdout_text();
        ensure!(shown == format!("{kind} {id}\n"), "{name}: {shown}");
    }
    let pkcs1 = ring.openssl("rsa -in DIR/rsa3072 -RSAPublicKey_out", "pkcs1.pub")?;
    let shown = ring.imagekey(&["show"], &pkcs1)?.success()?.stdout_text();
    let id = openssl_id(&ring, &ring.path("rsa3072"))?;
    ensure!(shown == format!("RSA-3072 {id}\n"), "{shown}");
    Ok(())
}

#[test]
fn openssl_reads_the_keys_that_are_made() -> Result<()> {
    if !met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let ring = Ring::new()?;
    let kinds: [(&[&str], &str); 3] = [
        (&["sign"], "ED25519 Private-Key"),
        (&["sign", "--rsa", "3072"], "3072 bit"),
        (&["sign", "--rsa", "4096"], "4096 bit"),
    ];
    for (number, (arguments, kind)) in kinds.into_iter().enumerate() {
        let file = ring.path(&format!("{number}.key"));
        ring.imagekey(arguments, &file)?.success()?;
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        let path = file.to_str().context("a path in UTF-8")?;
        let text = must("openssl", ["pkey", "-noout", "-text", "-in", path])?;
        ensure!(text.contains(kind), "{text}");
        let public = fs::read_to_string(file.with_extension("pub"))?;
        ensure!(public == openssl_public(&ring, &file, &[])?, "{public}");
    }
    let other = ring.imagekey(&["sign", "--rsa", "2048"], &ring.path("other.key"))?;
    ensure!(other.code() == Some(2), "{other}");
    Ok(())
}

#[test]
fn what_is_no_key_is_refused_with_the_reason() -> Result<()> {
    if !met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let ring = Ring::new()?;
    let key = ring.openssl("genpkey -algorithm ed25519", "ed25519")?;
    let text = fs::read_to_string(&key)?;
    let fifo = ring.path("fifo");
    must("mkfifo", ["-m".as_ref(), "600".as_ref(), fifo.as_os_str()])?;
    let pass = "-passout file:DIR/passphrase";
    let rsa2048 = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048";
    let refused = [
        (ring.write("open", &text, 0o644)?, "chmod 600"),
        (ring.write("group", &text, 0o640)?, "chmod 600"),
        (fifo, "a pipe"),
        (ring.0.path().into(), "a directory"),
        ("/dev/zero".into(), "a device"),
        (ring.path("nowhere"), "No such file"),
        (ring.write("zeros", "\0\0\0", 0o600)?, "not PEM"),
        (ring.write("half", &text[..70], 0o600)?, "cut short"),
        (
            ring.openssl("pkey -pubout -in DIR/ed25519", "public")?,
            "public key",
        ),
        (
            ring.openssl(rsa2048, "rsa2048")?,
            "imagekey sign --rsa 4096",
        ),
        (
            ring.openssl(
                &format!("rsa -traditional -aes256 {pass} -in DIR/rsa2048"),
                "traditional",
            )?,
            "openssl pkcs8 -topk8",
        ),
        (
            ring.openssl(
                &format!("pkcs8 -topk8 -v1 PBE-SHA1-3DES {pass} -in DIR/ed25519"),
                "pbes1",
            )?,
            "openssl pkcs8 -topk8",
        ),
        (
            ring.openssl(
                "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
                "ec",
            )?,
            "elliptic-curve",
        ),
        (ring.openssl("genpkey -algorithm ed448", "ed448")?, "Ed448"),
        (
            ring.openssl("genpkey -algorithm x25519", "x25519")?,
            "X25519",
        ),
        (
            ring.openssl(
                "genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:3072",
                "pss",
            )?,
            "plain RSA key",
        ),
        (
            ring.openssl(&format!("pkcs8 -topk8 {pass} -in DIR/ed25519"), "locked")?,
            "--passphrase-file",
        ),
    ];
    for (file, reason) in refused {
        let outcome = ring.imagekey(&["public"], &file)?;
        let line = outcome.failure(3)?;
        let names = line.contains(&file.display().to_string());
        ensure!(
            names && line.contains(reason),
            "{reason} was expected: {line}"
        );
    }
    Ok(())
}

/// A secret must be root's or the user's own; under sudo that is also who called it.
#[test]
fn a_secret_of_somebody_else_is_refused() -> Result<()> {
    if !met(&[Need::Root]) {
        return Ok(());
    }
    let ring = Ring::new()?;
    let key = ring.path("owner.key");
    ring.imagekey(&["sign"], &key)?.success()?;
    std::os::unix::fs::chown(&key, Some(4711), None)?;
    let show = |sudo_user: &str| {
        let mut command = tool("imagekey")?;
        command.arg("show").arg(&key).env("SUDO_UID", sudo_user);
        run(command)
    };
    for refused in ["", "4712", "root"] {
        let outcome = show(refused)?;
        ensure!(outcome.failure(3)?.contains("user 4711"), "{outcome}");
    }
    show("4711")?.success()?;
    Ok(())
}

#[test]
fn passphrases_are_checked_and_kept_secret() -> Result<()> {
    if !met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let ring = Ring::new()?;
    ring.openssl("genpkey -algorithm ed25519", "ed25519")?;
    let pass = "-passout file:DIR/passphrase";
    let locked = ring.openssl(&format!("pkcs8 -topk8 {pass} -in DIR/ed25519"), "locked")?;
    let passphrase = format!("{PASSPHRASE}\n");
    let cases = [
        (ring.write("wrong", "wrong horse\n", 0o600)?, "is wrong"),
        (ring.write("empty", "\n", 0o600)?, "empty"),
        (ring.write("open", &passphrase, 0o644)?, "chmod 600"),
        (ring.path("nowhere"), "No such file"),
    ];
    for (file, reason) in cases {
        let file = file.to_str().context("a path in UTF-8")?;
        let outcome = ring.imagekey(&["public", "--passphrase-file", file], &locked)?;
        let line = outcome.failure(3)?;
        ensure!(line.contains(reason), "{reason} was expected: {line}");
        ensure!(!line.contains("horse"), "{line}");
    }
    // From another program, as a shell passes it on.
    let mut shell = std::process::Command::new("/bin/sh");
    let imagekey = tool("imagekey")?.get_program().to_owned();
    shell
        .arg("-c")
        .arg("cat passphrase | \"$0\" public --passphrase-file /dev/stdin locked")
        .arg(imagekey)
        .current_dir(ring.0.path());
    let public = run(shell)?.success()?.stdout_text();
    ensure!(
        public == ring.with_passphrase("public", &locked)?,
        "{public}"
    );
    Ok(())
}

/// Makes an image of a small disk, signed with a locked RSA key, and installs it under restrictions to its name.
#[test]
fn an_owner_can_be_restricted_to_names() -> Result<()> {
    if !met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let ring = Ring::new()?;
    let rsa = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072";
    ring.openssl(rsa, "rsa3072")?;
    let pass = "-passout file:DIR/passphrase";
    let locked = ring.openssl(&format!("pkcs8 -topk8 {pass} -in DIR/rsa3072"), "locked")?;
    let public = ring.with_passphrase("public", &locked)?;
    let disk = ring.path("disk");
    fs::write(&disk, vec![0x5a; 1 << 20])?;
    let image = ring.path("image.frz");
    let mut zip = tool("imagezip")?;
    zip.args([
        "--suite",
        "classic",
        "--name",
        "lab-2026",
        "--unencrypted",
        "--raw",
        "--sign",
    ])
    .arg(&locked)
    .arg("--passphrase-file")
    .arg(ring.path("passphrase"))
    .arg(&disk)
    .arg(&image);
    run(zip)?.success()?;

    let install = |restriction: &str| -> Result<Outcome> {
        let trust = ring.write("trust.pub", &format!("{restriction}{public}"), 0o644)?;
        let target = ring.path("target");
        fs::write(&target, vec![0; 1 << 20])?;
        let mut unzip = tool("imageunzip")?;
        unzip.arg("--yes").arg("--trust").arg(trust);
        unzip.arg(&image).arg(&target);
        let outcome = run(unzip)?;
        let written = fs::read(&target)? == fs::read(&disk)?;
        ensure!(written == outcome.status.success(), "{outcome}");
        Ok(outcome)
    };
    for allowed in ["", "# all\n", "images: lab-\n", "images: x\nimages: l\n"] {
        install(allowed)?.success()?;
    }
    for refused in ["images: lab-2027\n", "images: course-\nimages: Lab\n"] {
        let outcome = install(refused)?;
        let line = outcome.failure(4)?;
        ensure!(line.contains("lab-2026"), "{line}");
    }
    let outcome = install("image: lab-\n")?;
    ensure!(outcome.failure(3)?.contains("line 1"), "{outcome}");
    Ok(())
}
