//! Images of a trusted owner that unfold or claim to be far larger than they are: refused, with no more memory than a
//! good image takes. Whose owner is hostile loses the disk anyway, but not the machine that looks at the image.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use e2e::command::tool;
use e2e::scratch;
use fuzz_harness::bombs::{self, Bomb, CHUNK, FILL};
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use serde_json::{Value, json};

/// In the environment of this program when it is started again to run and measure one command.
const COMMAND: &str = "E2E_BOMBS_COMMAND";

/// What begins the line with the measurements.
const MEASURED: &str = "MEASURED ";

/// More memory than for a good image that is not noticed, in KiB.
const SLACK: i64 = 6 << 10;

/// Address space of the program under test, in bytes: a claim of gigabytes cannot be believed for a moment.
const ADDRESS_SPACE: u64 = 1 << 30;

/// Not a test of its own: runs a command with little address space and says how much memory it took. A process of its
/// own, as the system only tells the largest child of all.
#[test]
fn measure() -> Result<()> {
    let Ok(command) = std::env::var(COMMAND) else {
        return Ok(());
    };
    let words: Vec<String> = serde_json::from_str(&command)?;
    let (program, arguments) = words.split_first().context("no command")?;
    setrlimit(Resource::RLIMIT_AS, ADDRESS_SPACE, ADDRESS_SPACE)?;
    // Each thread's arena would reserve 64 MiB, whatever is in the image.
    let output = Command::new(program)
        .args(arguments)
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::inherit())
        .output()?;
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    println!(
        "\n{MEASURED}{}",
        json!({"peak": peak, "code": code, "stderr": stderr})
    );
    Ok(())
}

/// What a command did.
struct Measured {
    /// Peak of its resident memory, in KiB.
    peak: i64,
    code: i64,
    stderr: String,
}

/// Runs a command, with the content of a file in a pipe.
fn measured(command: &Command, stdin: Option<&Path>) -> Result<Measured> {
    let words: Vec<_> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let mut again = Command::new(std::env::current_exe()?);
    again.args(["--exact", "measure", "--nocapture"]);
    again.env(COMMAND, serde_json::to_string(&words)?);
    again.stdin(Stdio::piped());
    again.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = again.spawn()?;
    let mut pipe = child.stdin.take().context("no pipe")?;
    let input = stdin.map_or(Ok(Vec::new()), fs::read)?;
    // Whoever refuses early does not read to the end.
    let writer = thread::spawn(move || pipe.write_all(&input).is_ok());
    let output = child.wait_with_output()?;
    let _ = writer.join();
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(MEASURED)) else {
        bail!(
            "not measured: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let value: Value = serde_json::from_str(line)?;
    let number = |name: &str| {
        value[name]
            .as_i64()
            .with_context(|| format!("{name}: {line}"))
    };
    Ok(Measured {
        peak: number("peak")?,
        code: number("code")?,
        stderr: value["stderr"].as_str().unwrap_or_default().to_owned(),
    })
}

struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        let directory = scratch::directory()?;
        fs::write(directory.path().join("owner.pub"), bombs::public_key())?;
        Ok(Self { directory })
    }

    /// Runs a tool on a bomb, from its file and, if it is the installer, from a pipe.
    fn run(&self, bomb: &Bomb, name: &str, piped: bool) -> Result<Measured> {
        let path = |name| self.directory.path().join(name);
        let (image, target) = (path("bomb.frz"), path("target"));
        fs::write(&image, &bomb.image)?;
        fs::write(&target, vec![0xaa; CHUNK])?;
        let mut command = tool(name)?;
        command.arg("--trust").arg(path("owner.pub"));
        match name {
            "imageunzip" => {
                command.args(["--yes", "--threads", "2"]);
                command.arg(if piped { Path::new("-") } else { &image });
                command.arg(&target);
            }
            _ => {
                command.arg(&image);
            }
        }
        measured(&command, piped.then_some(image.as_path()))
    }
}

#[test]
fn a_bomb_is_refused_with_the_memory_of_a_good_image() -> Result<()> {
    let stage = Stage::new()?;
    let mut usual = 0;
    for bomb in bombs::good() {
        for piped in [false, true] {
            let good = stage.run(&bomb, "imageunzip", piped)?;
            ensure!(good.code == 0, "{}: {}", bomb.name, good.stderr);
            usual = usual.max(good.peak);
        }
        let target = fs::read(stage.directory.path().join("target"))?;
        ensure!(target == vec![FILL; CHUNK], "{}", bomb.name);
    }
    println!("good images: {usual} KiB");
    let large = bombs::large_window();
    let Measured { peak, code, stderr } = stage.run(&large, "imageunzip", false)?;
    ensure!(code == 0, "{}: {stderr}", large.name);
    ensure!(peak <= usual + SLACK, "{}: {peak} KiB", large.name);
    for bomb in bombs::all() {
        for piped in [false, true] {
            let result = stage.run(&bomb, "imageunzip", piped)?;
            let Measured { peak, code, stderr } = &result;
            println!("{}: {peak} KiB, {}", bomb.name, stderr.trim());
            ensure!([3, 4].contains(code), "{}: {code}, {stderr}", bomb.name);
            ensure!(
                *peak <= usual + SLACK,
                "{}: {peak} KiB, {stderr}",
                bomb.name
            );
            let target = fs::read(stage.directory.path().join("target"))?;
            // Where the boot sectors are may be wiped already; nothing of the image is there.
            ensure!(!target.contains(&FILL), "{}: written", bomb.name);
        }
    }
    Ok(())
}

#[test]
fn looking_at_a_bomb_takes_no_more_memory_either() -> Result<()> {
    let stage = Stage::new()?;
    let mut usual = 0;
    for bomb in bombs::good() {
        let good = stage.run(&bomb, "imagedump", false)?;
        ensure!(good.code == 0, "{}: {}", bomb.name, good.stderr);
        usual = usual.max(good.peak);
    }
    for bomb in bombs::all() {
        let Measured { peak, code, stderr } = stage.run(&bomb, "imagedump", false)?;
        // What is in the chunks is not looked at.
        ensure!([0, 3, 4].contains(&code), "{}: {code}, {stderr}", bomb.name);
        ensure!(peak <= usual + SLACK, "{}: {peak} KiB, {stderr}", bomb.name);
    }
    Ok(())
}
