//! What a test needs of the machine. A test that cannot run says why and is skipped; in CI that is a failure.

use std::io::Write;

use nix::unistd::geteuid;

use crate::packages;

/// Something that not every machine has.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// To be root.
    Root,
    /// Loop devices: root, and `/dev/loop-control`.
    Loop,
    /// Network namespaces: root, `ip` and `nft`.
    Netns,
    /// A program.
    Tool(&'static str),
    /// A file, such as a device.
    File(&'static str),
}

/// Whether everything in `needs` is there. If not, says what is missing.
///
/// # Panics
/// If something is missing and the environment has `CI=true`: there, everything must run.
#[must_use]
pub fn met(needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(!in_ci(), "a test cannot be skipped in CI: {missing}");
    // Not through eprintln, which the test runner would hide.
    let _ = writeln!(std::io::stderr(), "skipped: {missing}");
    false
}

/// Whether this is a CI run.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Whether this process is root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

impl Need {
    fn missing(self) -> Option<String> {
        let root = || (!is_root()).then(|| "needs root".to_owned());
        match self {
            Self::Root => root(),
            Self::Loop => root().or_else(|| {
                let there = std::path::Path::new("/dev/loop-control").exists();
                (!there).then(|| "needs loop devices (no /dev/loop-control)".into())
            }),
            Self::Netns => root()
                .or_else(|| Self::Tool("ip").missing())
                .or_else(|| Self::Tool("nft").missing()),
            Self::File(path) => {
                let there = std::path::Path::new(path).exists();
                (!there).then(|| format!("needs {path}"))
            }
            Self::Tool(name) => packages::find(name)
                .is_none()
                .then(|| format!("needs {name} (Debian package {})", packages::package(name))),
        }
    }
}
