//! A directory with keys, a disk and its image; servers and clients over the loopback interface.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use chunkfmt::{ContentKey, SigningKey};
use clap::Parser;
use frisbee_cli::{Failure, keys};

/// Bytes of the test disk: ten chunks, the last one short, all of data that does not shrink.
pub(crate) const DISK_BYTES: usize = 19 * (1 << 20) + 4096;

/// Everything that one test needs, removed with it.
pub(crate) struct Lab {
    directory: tempfile::TempDir,
    group: String,
}

impl Lab {
    /// A lab that uses a group of its own: tests run at the same time.
    pub(crate) fn new(test: u8) -> Self {
        let lab = Self {
            directory: tempfile::tempdir().unwrap(),
            group: format!("239.192.212.{test}:17{test:03}"),
        };
        let owner = SigningKey::generate().unwrap();
        lab.write_owner("owner", &owner);
        lab.write_owner("stranger", &SigningKey::generate().unwrap());
        for name in ["content.key", "other.key"] {
            keys::write_new(
                &lab.path(name),
                &ContentKey::generate().unwrap().to_hex(),
                0o600,
            )
            .unwrap();
        }
        let random = random_bytes(u64::from(test));
        fs::write(
            lab.path("disk.img"),
            random.take(DISK_BYTES).collect::<Vec<u8>>(),
        )
        .unwrap();
        lab
    }

    fn write_owner(&self, name: &str, key: &SigningKey) {
        keys::write_new(
            &self.path(&format!("{name}.key")),
            &key.to_pem().unwrap(),
            0o600,
        )
        .unwrap();
        fs::write(
            self.path(&format!("{name}.pub")),
            key.verifying_key().to_pem().unwrap(),
        )
        .unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn disk(&self) -> Vec<u8> {
        fs::read(self.path("disk.img")).unwrap()
    }

    /// Makes `golden.frz` of the disk; `arguments` say how it is signed and encrypted.
    pub(crate) fn image(&self, arguments: &[&str]) {
        self.image_of("disk.img", "golden.frz", 7, arguments);
    }

    /// Makes an image of a disk, both files of the lab.
    pub(crate) fn image_of(&self, disk: &str, image: &str, epoch: u64, arguments: &[&str]) {
        let (disk, image) = (self.path(disk), self.path(image));
        let arguments = arguments.iter().map(|argument| self.expand(argument));
        let command = [
            "imagezip".into(),
            "--force".into(),
            "--epoch".into(),
            epoch.to_string(),
        ];
        let command = command
            .into_iter()
            .chain(arguments)
            .chain([text(&disk), text(&image)]);
        imagezip::zip::Cli::parse_from(command).run().unwrap();
    }

    /// Signed and encrypted, as images should be.
    pub(crate) fn golden(&self) {
        self.image(&["--sign", "@owner.key", "--key", "@content.key"]);
    }

    /// `@name` is a file of the lab.
    fn expand(&self, argument: &str) -> String {
        argument
            .strip_prefix('@')
            .map_or_else(|| argument.into(), |name| text(&self.path(name)))
    }

    /// Serves `golden.frz` until nobody has asked for some seconds.
    pub(crate) fn serve(
        &self,
        seconds: u32,
        arguments: &[&str],
    ) -> JoinHandle<Result<(), Failure>> {
        self.serve_image("golden.frz", &self.group, seconds, arguments)
    }

    /// Serves an image of the lab on a group of the caller's.
    pub(crate) fn serve_image(
        &self,
        image: &str,
        group: &str,
        seconds: u32,
        arguments: &[&str],
    ) -> JoinHandle<Result<(), Failure>> {
        let image = text(&self.path(image));
        let seconds = seconds.to_string();
        let command = [
            "frisbeed",
            "--interface",
            "lo",
            "--group",
            group,
            "--exit-after",
            &seconds,
            &image,
        ];
        let command: Vec<String> = command
            .iter()
            .chain(arguments)
            .map(|&argument| argument.into())
            .collect();
        let cli = frisbeed::Cli::parse_from(command);
        thread::spawn(move || cli.run())
    }

    /// Starts a client that writes `target`.
    pub(crate) fn start_client(&self, arguments: &[&str], target: &str) -> Child {
        self.start(
            &[&["--interface", "lo", "--group", &self.group], arguments].concat(),
            target,
        )
    }

    /// As [`Lab::start_client`], with an interface and group of the caller's.
    pub(crate) fn start(&self, arguments: &[&str], target: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_frisbee-client"))
            .args(arguments.iter().map(|argument| self.expand(argument)))
            .arg(self.path(target))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a client to its end.
    pub(crate) fn client(&self, arguments: &[&str], target: &str) -> Ended {
        Ended::of(self.start_client(arguments, target))
    }
}

/// What a client left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(child: Child) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: status.code(),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }

    /// Ended with this code, and its last line on stderr says so.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("frisbee-client: ") && last.contains(words),
            "{self:?}"
        );
    }
}

/// The options of a client that trusts the owner and has the key.
pub(crate) const TRUSTING: &[&str] = &[
    "--trust",
    "@owner.pub",
    "--key",
    "@content.key",
    "--yes",
    "--timeout",
    "60",
];

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

/// Endless bytes from a seed.
fn random_bytes(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        // xorshift64 (Marsaglia 2003): incompressible is all that it has to be.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
}
