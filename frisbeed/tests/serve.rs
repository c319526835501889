//! The server as a process: how it begins, what it refuses, how it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn image(directory: &Path) -> PathBuf {
    let (disk, image) = (directory.join("disk.img"), directory.join("golden.frz"));
    fs::write(&disk, vec![1; 3 << 20]).unwrap();
    let options = ["imagezip", "--unsigned", "--unencrypted"].map(PathBuf::from);
    let command = options.into_iter().chain([disk, image.clone()]);
    imagezip::zip::Cli::parse_from(command).run().unwrap();
    image
}

fn start(arguments: &[&str], image: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_frisbeed"))
        .args(arguments)
        .arg(image)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: Child) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_signal_ends_it_with_a_summary_and_without_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path());
    for (signal, group) in [
        (Signal::SIGTERM, "239.192.213.1:17301"),
        (Signal::SIGINT, "239.192.213.1:17302"),
    ] {
        let mut server = start(&["--interface", "lo", "--group", group, "--json"], &image);
        let mut lines = BufReader::new(server.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let first: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert_eq!(first["event"], "start");
        assert_eq!(
            (&first["name"], &first["group"]),
            (&"golden".into(), &group.into())
        );
        kill(Pid::from_raw(server.id().cast_signed()), signal).unwrap();
        let last: Value = serde_json::from_str(&lines.last().unwrap()).unwrap();
        assert_eq!(
            (&last["event"], &last["blocks"]),
            (&"finish".into(), &0.into())
        );
        assert_eq!(end(server), (Some(0), String::new()));
    }
}

#[test]
fn without_requests_it_ends_when_it_was_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path());
    let server = start(
        &[
            "--interface",
            "lo",
            "--group",
            "239.192.213.2:17303",
            "--exit-after",
            "1",
        ],
        &image,
    );
    let (code, stderr) = end(server);
    assert_eq!(code, Some(0));
    let [first, last] = stderr.lines().collect::<Vec<_>>().try_into().unwrap();
    for part in [
        "golden.frz",
        "239.192.213.2:17303",
        "lo (127.0.0.1)",
        "requests to 127.0.0.1:17303",
    ] {
        assert!(first.contains(part), "{part} is not in {first}");
    }
    assert!(last.starts_with("frisbeed: sent "), "{last}");
}

#[test]
fn two_servers_of_one_group_on_one_machine_take_requests_on_different_ports() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path());
    let arguments = [
        "--interface",
        "lo",
        "--group",
        "239.192.213.3:17304",
        "--json",
    ];
    let ports = [start(&arguments, &image), start(&arguments, &image)].map(|mut server| {
        let line = BufReader::new(server.stdout.take().unwrap())
            .lines()
            .next()
            .unwrap()
            .unwrap();
        (
            server,
            serde_json::from_str::<Value>(&line).unwrap()["requests"].to_string(),
        )
    });
    let ports = ports.map(|(server, requests)| {
        kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(end(server).0, Some(0));
        requests
    });
    assert_ne!(ports[0], ports[1]);
}

#[test]
fn what_cannot_be_served_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path());
    let (short, other) = (
        directory.path().join("short.frz"),
        directory.path().join("other.frz"),
    );
    let bytes = fs::read(&image).unwrap();
    fs::write(&short, &bytes[..bytes.len() - 5000]).unwrap();
    fs::write(&other, b"not an image").unwrap();
    let on_lo: &[&str] = &["--interface", "lo"];
    let cases: [(&[&str], &Path, i32, &str); 7] = [
        (on_lo, &short, 3, "short.frz"),
        (on_lo, &other, 3, "other.frz"),
        (
            on_lo,
            &directory.path().join("missing.frz"),
            3,
            "missing.frz",
        ),
        (&["--interface", "nowhere0"], &image, 6, "lo (127.0.0.1)"),
        (&["--group", "192.0.2.1:7001"], &image, 6, "multicast"),
        (&["--group", "[ff11::7]:7001"], &image, 6, "scope"),
        (&["--rate", "fast"], &image, 2, "--rate"),
    ];
    for (arguments, image, expected, words) in cases {
        let (code, stderr) = end(start(arguments, image));
        assert_eq!(code, Some(expected), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert!(
            expected == 2 || stderr.lines().count() == 1 && stderr.starts_with("frisbeed: "),
            "{stderr}"
        );
    }
}
