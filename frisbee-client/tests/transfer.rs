//! From a server to disks, over the loopback interface.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::Child;
use std::thread;
use std::time::Duration;

use common::{Ended, Lab, TRUSTING};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Waits for a client's JSON event; what it says after that is lost.
fn wait_for_event(client: &mut Child, event: &str) {
    let mark = format!("\"event\":\"{event}\"");
    let lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line.contains(&mark)),
        "no event {event}"
    );
}

#[test]
fn several_clients_get_the_disk_from_one_pass() {
    let lab = Lab::new(1);
    lab.golden();
    let server = lab.serve(2, &[]);
    let clients: Vec<Child> = (0..4)
        .map(|number| lab.start_client(TRUSTING, &format!("disk{number}.img")))
        .collect();
    for (number, client) in (0..).zip(clients) {
        let ended = Ended::of(client);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            fs::read(lab.path(&format!("disk{number}.img"))).unwrap() == lab.disk(),
            "another disk"
        );
    }
    server.join().unwrap().unwrap();
}

#[test]
fn a_client_that_was_there_first_waits_for_the_server_and_reports_json() {
    let lab = Lab::new(2);
    lab.golden();
    let arguments = [TRUSTING, &["--json", "--memory", "48M", "--threads", "1"]].concat();
    let client = lab.start_client(&arguments, "disk2.img");
    thread::sleep(Duration::from_millis(300));
    let server = lab.serve(2, &["--rate", "300M"]);
    let ended = Ended::of(client);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        fs::read(lab.path("disk2.img")).unwrap() == lab.disk(),
        "another disk"
    );
    let events: Vec<serde_json::Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = events.first().unwrap();
    assert_eq!(
        (&first["event"], &first["epoch"]),
        (&"start".into(), &7.into())
    );
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["plain_bytes"]),
        (&"finish".into(), &common::DISK_BYTES.into())
    );
    server.join().unwrap().unwrap();
}

#[test]
fn images_that_are_not_wanted_leave_the_target_alone() {
    let lab = Lab::new(3);
    lab.golden();
    let server = lab.serve(30, &[]);
    let key = ["--key", "@content.key", "--yes", "--timeout", "2"];
    let with =
        |arguments: &[&'static str]| lab.client(&[&key[..], arguments].concat(), "target.img");
    with(&["--trust", "@stranger.pub"]).assert_failed(4, "is not trusted");
    with(&["--trust", "@owner.pub", "--min-epoch", "8"])
        .assert_failed(4, "has epoch 7, but 8 or later");
    let uuid = "00000000-0000-4000-8000-000000000000";
    with(&["--trust", "@owner.pub", "--uuid", uuid]).assert_failed(4, "is asked for");
    let wrong_key = [
        "--trust",
        "@owner.pub",
        "--key",
        "@other.key",
        "--yes",
        "--timeout",
        "60",
    ];
    lab.client(&wrong_key, "target.img").assert_failed(4, "key");
    lab.client(
        &["--trust", "@owner.pub", "--yes", "--timeout", "60"],
        "target.img",
    )
    .assert_failed(4, "--key");
    assert!(!lab.path("target.img").exists());
    drop(server);
}

/// A disk, a change of it, a change of that; an image of the first, deltas for the others.
fn lab_with_deltas(test: u8) -> (Lab, Vec<Vec<u8>>) {
    let lab = Lab::new(test);
    let keys = ["--sign", "@owner.key", "--key", "@content.key"];
    lab.golden();
    let mut disks = vec![lab.disk()];
    let mut bases = Vec::new();
    for (number, image) in [(1_u8, "delta1.frz"), (2, "delta2.frz")] {
        bases.extend([
            "--base",
            ["@golden.frz", "@delta1.frz"][usize::from(number) - 1],
        ]);
        let mut disk = disks.last().unwrap().clone();
        let at = usize::from(number) * 7 * (1 << 20);
        disk[at..at + 100_000].fill(number);
        fs::write(lab.path("changed.img"), &disk).unwrap();
        let epoch = 7 + u64::from(number);
        lab.image_of("changed.img", image, epoch, &[&keys[..], &bases].concat());
        disks.push(disk);
    }
    let length = |name| fs::metadata(lab.path(name)).unwrap().len();
    assert!(length("delta2.frz") < length("golden.frz") / 4);
    (lab, disks)
}

#[test]
fn a_delta_is_installed_on_a_disk_that_holds_its_base() {
    let (lab, disks) = lab_with_deltas(21);
    let server = lab.serve_image("delta1.frz", "239.192.212.21:17021", 3, &[]);
    fs::write(lab.path("held.img"), &disks[0]).unwrap();
    let ended = lab.client(TRUSTING, "held.img");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("were on the disk"), "{ended:?}");
    assert!(fs::read(lab.path("held.img")).unwrap() == disks[1]);

    let mut other = disks[0].clone();
    other[1 << 20] ^= 1;
    fs::write(lab.path("other.img"), &other).unwrap();
    lab.client(TRUSTING, "other.img")
        .assert_failed(4, "does not hold the base of this delta: 1 of");
    assert!(fs::read(lab.path("other.img")).unwrap() == other);
    lab.client(TRUSTING, "new.img")
        .assert_failed(4, "is a delta to image");
    assert!(!lab.path("new.img").exists());
    server.join().unwrap().unwrap();
}

#[test]
fn a_delta_of_a_delta_and_its_bases_come_over_the_network_at_once() {
    let (lab, disks) = lab_with_deltas(22);
    let group = |number: u8| format!("239.192.212.{number}:17{number:03}");
    let servers = [
        lab.serve_image("delta2.frz", &group(22), 4, &[]),
        lab.serve_image("delta1.frz", &group(23), 4, &[]),
        lab.serve_image("golden.frz", &group(24), 4, &[]),
    ];
    let bases = [group(23), group(24)];
    let bases = ["--base-group", &bases[0], "--base-group", &bases[1]];
    let ended = lab.client(&[TRUSTING, &bases].concat(), "new.img");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(fs::read(lab.path("new.img")).unwrap() == disks[2]);
    for server in servers {
        server.join().unwrap().unwrap();
    }
}

#[test]
fn what_a_disk_holds_is_not_received_again() {
    let lab = Lab::new(25);
    lab.golden();
    let server = lab.serve(4, &[]);
    let finish = |arguments: &[&str]| -> serde_json::Value {
        let ended = lab.client(&[TRUSTING, &["--json"], arguments].concat(), "disk.img");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
    };
    // The size of the golden disk, with one chunk of something else.
    let mut disk = lab.disk();
    disk[5 << 20] ^= 1;
    fs::write(lab.path("disk.img"), &disk).unwrap();

    let planned = finish(&["--dry-run", "--reuse"]);
    assert_eq!(planned["dry_run"], true, "{planned}");
    assert!(fs::read(lab.path("disk.img")).unwrap() == disk, "a dry run");

    let done = finish(&["--reuse", "--verify"]);
    assert_eq!(
        (&done["chunks"], &done["verified"]),
        (&1.into(), &true.into()),
        "{done}"
    );
    assert!(done["kept_chunks"].as_u64().unwrap() > 5, "{done}");
    assert_eq!(
        done["kept_bytes"], planned["kept_bytes"],
        "{planned} {done}"
    );
    assert!(fs::read(lab.path("disk.img")).unwrap() == lab.disk());

    // With everything there, nothing has to come.
    let again = finish(&["--reuse"]);
    assert_eq!(again["chunks"], 0, "{again}");
    // But the manifest, a few KiB.
    assert!(again["blocks"].as_u64().unwrap() < 64, "{again}");
    let kept = done["kept_chunks"].as_u64().unwrap();
    assert!(
        done["blocks"].as_u64().unwrap() < 2 * 2048 + 64 && kept > 5,
        "{done}"
    );
    assert!(fs::read(lab.path("disk.img")).unwrap() == lab.disk());
    server.join().unwrap().unwrap();
}

#[test]
fn a_target_that_may_not_be_written_is_refused_before_it_is_touched() {
    let lab = Lab::new(4);
    lab.golden();
    let server = lab.serve(20, &[]);
    fs::write(lab.path("small.img"), b"precious").unwrap();
    lab.client(TRUSTING, "small.img")
        .assert_failed(5, "more are needed");
    assert_eq!(fs::read(lab.path("small.img")).unwrap(), b"precious");
    let precious = vec![7; common::DISK_BYTES];
    fs::write(lab.path("precious.img"), &precious).unwrap();
    let unconfirmed: Vec<&str> = TRUSTING
        .iter()
        .copied()
        .filter(|&argument| argument != "--yes")
        .collect();
    lab.client(&unconfirmed, "precious.img")
        .assert_failed(5, "--yes");
    assert!(
        fs::read(lab.path("precious.img")).unwrap() == precious,
        "it was touched"
    );
    drop(server);
}

#[test]
fn unsigned_images_are_for_those_who_ask_for_them() {
    let lab = Lab::new(5);
    lab.image(&["--unsigned", "--unencrypted"]);
    let server = lab.serve(20, &[]);
    lab.client(&["--trust", "@owner.pub", "--timeout", "2"], "target.img")
        .assert_failed(4, "not signed");
    assert!(!lab.path("target.img").exists());
    let ended = lab.client(&["--allow-unsigned", "--timeout", "60"], "target.img");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        fs::read(lab.path("target.img")).unwrap() == lab.disk(),
        "another disk"
    );
    drop(server);
}

#[test]
fn what_is_wrong_with_the_network_is_said_in_one_line() {
    let lab = Lab::new(6);
    let alone = [
        "--trust",
        "@owner.pub",
        "--key",
        "@content.key",
        "--timeout",
        "1",
    ];
    lab.client(&alone, "target.img")
        .assert_failed(6, "is frisbeed running");
    let elsewhere = |group: &str, interface: &str| {
        let arguments = [
            "--group",
            group,
            "--interface",
            interface,
            "--allow-unsigned",
        ];
        Ended::of(lab.start(&arguments, "target.img"))
    };
    elsewhere("192.0.2.1:7001", "lo").assert_failed(6, "multicast");
    elsewhere("239.192.212.6:7001", "nowhere0").assert_failed(6, "lo (127.0.0.1)");
    assert!(!lab.path("target.img").exists());
}

#[test]
fn an_interrupted_client_says_that_the_disk_is_incomplete_and_leaves_none() {
    let lab = Lab::new(7);
    lab.golden();
    let server = lab.serve(2, &["--rate", "20M"]);
    let mut client = lab.start_client(&[TRUSTING, &["--json"]].concat(), "target.img");
    wait_for_event(&mut client, "progress");
    assert!(lab.path("target.img").exists());
    kill(Pid::from_raw(client.id().cast_signed()), Signal::SIGINT).unwrap();
    Ended::of(client).assert_failed(130, "incomplete");
    assert!(!lab.path("target.img").exists());
    server.join().unwrap().unwrap();
}

#[test]
fn a_chunk_that_is_altered_on_the_server_is_not_sent_until_it_is_right_again() {
    let lab = Lab::new(8);
    lab.golden();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(lab.path("golden.frz"))
        .unwrap();
    let place = 9 << 20;
    let mut good = [0; 1024];
    file.read_exact_at(&mut good, place).unwrap();
    file.write_all_at(&[0; 1024], place).unwrap();
    let server = lab.serve(4, &[]);
    let mut client = lab.start_client(&[TRUSTING, &["--json"]].concat(), "target.img");
    wait_for_event(&mut client, "start");
    thread::sleep(Duration::from_secs(2));
    assert!(
        client.try_wait().unwrap().is_none(),
        "nothing can have replaced the chunk"
    );
    file.write_all_at(&good, place).unwrap();
    let ended = Ended::of(client);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        fs::read(lab.path("target.img")).unwrap() == lab.disk(),
        "another disk"
    );
    server.join().unwrap().unwrap();
}
