//! The command lines: help, exit codes, what goes to stdout and what to stderr, and that no key is ever shown.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::command::{Outcome, PROGRAMS, run, tool};
use e2e::disk::Recipe;
use e2e::scene::Scene;
use serde_json::Value;

fn call(name: &str, arguments: &[&str]) -> Result<Outcome> {
    let mut command = tool(name)?;
    command.args(arguments);
    run(command)
}

#[test]
fn help_has_examples_and_exit_codes() -> Result<()> {
    for name in PROGRAMS {
        let long = call(name, &["--help"])?.success()?;
        let text = long.stdout_text();
        ensure!(long.stderr.is_empty(), "help goes to stdout: {long}");
        for part in [
            "Usage:",
            "Examples:",
            "Exit codes:",
            "--help",
            "--version",
            &format!("  {name} "),
        ] {
            ensure!(text.contains(part), "{name} --help has no {part:?}: {text}");
        }
        let short = call(name, &["-h"])?.success()?.stdout_text();
        // Without the spaces that put -h into columns.
        let letters = |text: &str| text.split_whitespace().map(str::len).sum::<usize>();
        ensure!(
            letters(&short) <= letters(&text),
            "-h is the shorter one: {name}"
        );
        let version = call(name, &["--version"])?.success()?.stdout_text();
        ensure!(version.starts_with(&format!("{name} ")), "{version}");
    }
    Ok(())
}

#[test]
fn wrong_use_has_exit_code_2_and_says_nothing_on_stdout() -> Result<()> {
    let wrong: [(&str, &[&str]); 12] = [
        ("imagezip", &[]),
        ("imagezip", &["disk", "image"]),
        (
            "imagezip",
            &[
                "--unsigned",
                "--unencrypted",
                "--codec",
                "lzw",
                "disk",
                "image",
            ],
        ),
        (
            "imagezip",
            &[
                "--unsigned",
                "--sign",
                "owner.key",
                "--unencrypted",
                "disk",
                "image",
            ],
        ),
        ("imagekey", &[]),
        ("imagekey", &["unknown"]),
        ("imageunzip", &["image"]),
        ("imageunzip", &["--free", "maybe", "image", "target"]),
        ("imagedump", &[]),
        ("frisbeed", &["--rate", "fast", "image"]),
        ("frisbee-client", &[]),
        ("frisbee-client", &["--memory", "0", "target"]),
    ];
    for (name, arguments) in wrong {
        let outcome = call(name, arguments)?;
        ensure!(outcome.code() == Some(2), "{outcome}");
        ensure!(
            outcome.stdout.is_empty() && outcome.stderr.contains("--help"),
            "{outcome}"
        );
    }
    Ok(())
}

#[test]
fn an_unknown_owner_is_not_trusted() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let mut unzip = tool("imageunzip")?;
    unzip
        .arg("--key")
        .arg(&scene.keys.content)
        .arg("--yes")
        .arg(&scene.image)
        .arg(scene.path("new"));
    // Unless this machine has keys of its own in /etc/frisbee/trust.d, nobody is trusted at all.
    let outcome = run(unzip)?;
    ensure!(matches!(outcome.code(), Some(2 | 4)), "{outcome}");
    ensure!(!scene.path("new").exists());
    Ok(())
}

#[test]
fn stdout_is_for_data() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let image = scene.path("again.frz");
    let zip = scene.keys.zip(&scene.disk.path, &image)?;
    ensure!(zip.stdout.is_empty() && !zip.stderr.is_empty(), "{zip}");
    let unzip = scene.keys.unzip(&image, &scene.path("new"))?;
    ensure!(
        unzip.stdout.is_empty() && !unzip.stderr.is_empty(),
        "{unzip}"
    );

    // An image on stdout is nothing but the image.
    let mut zip = scene.keys.imagezip()?;
    zip.args(["--json"]).arg(&scene.disk.path).arg("-");
    let outcome = run(zip)?.success()?;
    ensure!(outcome.stdout.starts_with(b"FRZIMAGE") && outcome.stdout.len() % 1024 == 0);
    for line in outcome.stderr.lines() {
        serde_json::from_str::<Value>(line).with_context(|| format!("{line:?} is no event"))?;
    }
    Ok(())
}

#[test]
fn imagedump_shows_what_is_there() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let dump = |arguments: &[&str]| {
        let mut command = tool("imagedump")?;
        command.arg("--json").args(arguments).arg(&scene.image);
        let outcome = run(command)?.success()?;
        Ok::<Value, anyhow::Error>(serde_json::from_slice(&outcome.stdout)?)
    };
    let (trust, key) = (
        scene.keys.public.to_string_lossy(),
        scene.keys.content.to_string_lossy(),
    );
    let all = dump(&["--trust", &trust, "--key", &key])?;
    ensure!(all["header"]["signature_checked"] == true, "{all:#}");
    ensure!(all["header"]["disk_bytes"] == scene.disk.bytes);
    ensure!(all["manifest"]["image_bytes"] == fs::metadata(&scene.image)?.len());
    // The ranges are exactly what an oracle says is in use, up to whole sectors.
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for chunk in all["chunks"].as_array().context("no chunks")? {
        for range in chunk["ranges"].as_array().context("no ranges")? {
            let first = range[0].as_u64().context("a range")? * 512;
            let end = first + range[1].as_u64().context("a range")? * 512;
            match ranges.last_mut() {
                Some(last) if last.1 == first => last.1 = end,
                _ => ranges.push((first, end)),
            }
        }
    }
    let expected: Vec<_> = scene
        .disk
        .allocated()?
        .iter()
        .map(|range| (range.start, range.end))
        .collect();
    ensure!(ranges == expected, "{ranges:?} instead of {expected:?}");
    // Without the key, nothing about the disk's layout is told.
    let closed = dump(&[])?;
    ensure!(closed["header"]["signature_checked"] == false);
    let first = &closed["chunks"][0];
    ensure!(
        first["root"].is_string() && first.get("ranges").is_none(),
        "{first:#}"
    );
    Ok(())
}

/// Keys appear in no output, whatever is asked for or goes wrong.
#[test]
fn keys_are_never_shown() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let content = fs::read_to_string(&scene.keys.content)?;
    let owner = fs::read_to_string(&scene.keys.owner)?;
    let secrets: Vec<&str> = content
        .split_whitespace()
        .chain(owner.lines().filter(|line| !line.starts_with("-----")))
        .collect();
    ensure!(
        secrets.len() >= 2 && secrets.iter().all(|secret| secret.len() >= 32),
        "{}",
        secrets.len()
    );

    let (key, owner, public) = (&scene.keys.content, &scene.keys.owner, &scene.keys.public);
    let broken = scene.path("broken.key");
    fs::write(&broken, format!("{}00", content.trim()))?;
    fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut commands = Vec::new();
    for (name, arguments) in [
        ("imagedump", vec![&**key, &scene.image]),
        ("imagedump", vec!["--key".as_ref(), key, &scene.image]),
        (
            "imagedump",
            vec![
                "--json".as_ref(),
                "--key".as_ref(),
                key,
                "--trust".as_ref(),
                public,
                &scene.image,
            ],
        ),
        ("imagedump", vec!["--key".as_ref(), &*broken, &scene.image]),
        ("imagedump", vec!["--trust".as_ref(), owner, &scene.image]),
        ("imagedump", vec!["--key".as_ref(), owner, &scene.image]),
        ("imagekey", vec!["show".as_ref(), owner]),
        ("imagekey", vec!["public".as_ref(), owner]),
        ("imagekey", vec!["show".as_ref(), key]),
        ("imagekey", vec!["content".as_ref(), key]),
        ("imagekey", vec!["sign".as_ref(), owner]),
        ("frisbeed", vec![key]),
        (
            "frisbee-client",
            vec![
                "--trust".as_ref(),
                owner,
                "--key".as_ref(),
                key,
                "--timeout".as_ref(),
                "1".as_ref(),
                &*broken,
            ],
        ),
    ] {
        let mut command = tool(name)?;
        command.args(arguments);
        commands.push(command);
    }
    let mut zip = scene.keys.imagezip()?;
    zip.args(["--json", "--force"])
        .arg(&scene.disk.path)
        .arg(scene.path("again.frz"));
    let mut unzip = scene.imageunzip(&scene.path("new"))?;
    unzip.arg("--json");
    commands.extend([zip, unzip]);
    for mut command in commands {
        command
            .env("RUST_LOG", "trace")
            .env("RUST_BACKTRACE", "full")
            .stdin(Stdio::null());
        let outcome = run(command)?;
        let all = format!("{outcome}");
        ensure!(
            !secrets.iter().any(|secret| all.contains(secret)),
            "a key was shown: {all}"
        );
        ensure!(!all.contains("panicked"), "{all}");
    }
    Ok(())
}

#[test]
fn keys_are_made_with_care() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new(&Recipe::TINY)?;
    let mode = |path: &std::path::Path| {
        Ok::<u32, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777)
    };
    ensure!(mode(&scene.keys.owner)? == 0o600 && mode(&scene.keys.content)? == 0o600);
    let content = fs::read_to_string(&scene.keys.content)?;
    ensure!(
        content.trim().len() == 64 && content.trim().bytes().all(|byte| byte.is_ascii_hexdigit())
    );
    // A key that exists is never overwritten.
    for arguments in [
        ["sign", &scene.keys.owner.to_string_lossy()],
        ["content", &scene.keys.content.to_string_lossy()],
    ] {
        call("imagekey", &arguments)?.failure(2)?;
    }
    ensure!(fs::read_to_string(&scene.keys.content)? == content);
    Ok(())
}

/// Keys are those of the rest of the world: made by `openssl`, and read by it.
#[test]
fn keys_of_openssl() -> Result<()> {
    use e2e::need::{self, Need};
    if !need::met(&[Need::Tool("openssl")]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::TINY)?;
    let place = scene.path("openssl");
    fs::create_dir(&place)?;
    let (owner, public) = (place.join("owner.key"), place.join("owner.pub"));
    let openssl = |line: &[&std::ffi::OsStr]| e2e::command::must("openssl", line);
    openssl(&[
        "genpkey".as_ref(),
        "-algorithm".as_ref(),
        "ed25519".as_ref(),
        "-out".as_ref(),
        owner.as_ref(),
    ])?;
    openssl(&[
        "pkey".as_ref(),
        "-in".as_ref(),
        owner.as_ref(),
        "-pubout".as_ref(),
        "-out".as_ref(),
        public.as_ref(),
    ])?;
    fs::set_permissions(&owner, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let keys = e2e::image::Keys {
        owner,
        public,
        content: scene.keys.content.clone(),
    };
    let image = scene.path("openssl.frz");
    keys.zip(&scene.disk.path, &image)?;
    keys.unzip(&image, &scene.path("new"))?;
    scene.same_data(&scene.path("new"))?;
    // And the other way round.
    let shown = openssl(&[
        "pkey".as_ref(),
        "-in".as_ref(),
        scene.keys.owner.as_ref(),
        "-pubout".as_ref(),
    ])?;
    ensure!(shown == fs::read_to_string(&scene.keys.public)?, "{shown}");
    Ok(())
}
