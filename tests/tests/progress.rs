//! What `--json` tells of a run: how far it is, how fast, and which stage of the pipeline limits it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::command::run;
use e2e::disk::Recipe;
use e2e::scene::Scene;
use serde_json::Value;

/// Longer than between two `progress` events.
const PAUSE: Duration = Duration::from_millis(1200);

/// All events of a text of which every line has to be one; the first is `start`.
fn parse(text: &str) -> Result<Vec<Value>> {
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    let mut seconds = 0.0;
    for event in &events {
        let at = event["seconds"].as_f64().context("no seconds")?;
        ensure!(event["event"].is_string() && at >= seconds, "{text}");
        seconds = at;
    }
    Ok(events)
}

fn find<'a>(events: &'a [Value], name: &str) -> Result<&'a Value> {
    let mut found = events.iter().filter(|event| event["event"] == name);
    let event = found.next().with_context(|| format!("no event {name}"))?;
    ensure!(
        name == "progress" || found.next().is_none(),
        "{name} comes twice"
    );
    Ok(event)
}

/// Checks the figures of a `progress`, `finish` or `fail` event; returns the stage that has limited the run.
fn figures<'a>(event: &'a Value, names: [&str; 3]) -> Result<&'a str> {
    let number = |name: &str| {
        event[name]
            .as_f64()
            .with_context(|| format!("{name} in {event}"))
    };
    let (bytes, total) = (number("bytes")?, number("total_bytes")?);
    ensure!(number("bytes_per_second")? > 0.0, "{event}");
    ensure!(
        number("eta_seconds")? >= 0.0 && bytes > 0.0 && bytes <= total,
        "{event}"
    );
    let stages = event["stages"].as_object().context("no stages")?;
    ensure!(stages.len() == 3, "{event}");
    for name in names {
        let stage = &event["stages"][name];
        for time in ["worked", "waited_for_input", "waited_for_output"] {
            ensure!(
                stage[time].as_f64().is_some_and(|time| time >= 0.0),
                "{event}"
            );
        }
        ensure!(stage["threads"].as_u64() > Some(0), "{event}");
    }
    event["bottleneck"].as_str().context("no bottleneck")
}

const IMAGING: [&str; 3] = ["reading", "compressing", "writing"];
const INSTALLING: [&str; 3] = ["reading", "opening", "writing"];

#[test]
fn imaging_into_a_slow_pipe() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let mut zip = scene.keys.imagezip()?;
    zip.args(["--json", "--codec", "none"]);
    zip.arg(&scene.disk.path).arg("-");
    let mut child = zip.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut pipe = child.stdout.take().context("no stdout")?;
    let mut begin = vec![0; 20 << 20];
    pipe.read_exact(&mut begin)?;
    thread::sleep(PAUSE);
    std::io::copy(&mut pipe, &mut std::io::sink())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{said}");

    let events = parse(&said)?;
    let start = find(&events, "start")?;
    let total = start["total_bytes"].as_u64();
    ensure!(total > Some(0), "{start}");
    let progress = find(&events, "progress")?;
    ensure!(figures(progress, IMAGING)? == "writing", "{progress}");
    let finish = find(&events, "finish")?;
    ensure!(figures(finish, IMAGING)? == "writing", "{finish}");
    ensure!(finish["bytes"].as_u64() == total, "{finish}");
    ensure!(finish["eta_seconds"] == 0.0, "{finish}");
    Ok(())
}

#[test]
fn installing_from_a_slow_pipe() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let image = fs::read(&scene.image)?;
    let half = image.len() / 2;
    let start = |target: &str| -> Result<_> {
        let mut unzip = scene.keys.imageunzip()?;
        unzip.args(["--json", "-"]).arg(scene.path(target));
        unzip.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = unzip.stderr(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(&image[..half])?;
        thread::sleep(PAUSE);
        stdin.write_all(&image[half..half + (1 << 20)])?;
        Ok((child, stdin))
    };
    let (child, mut stdin) = start("whole")?;
    stdin.write_all(&image[half + (1 << 20)..])?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    let events = parse(&String::from_utf8(output.stdout)?)?;
    for name in ["progress", "finish"] {
        let event = find(&events, name)?;
        ensure!(figures(event, INSTALLING)? == "reading", "{event}");
    }

    // Cut short: the same figures up to there.
    let (child, stdin) = start("cut")?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    let events = parse(&String::from_utf8(output.stdout)?)?;
    let fail = find(&events, "fail")?;
    figures(fail, INSTALLING)?;
    ensure!(fail["exit"] == 3, "{fail}");
    Ok(())
}

/// The line for people names the stage too.
#[test]
fn the_last_line() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let zipped = scene.keys.zip(&scene.disk.path, &scene.path("again.frz"))?;
    let installed = run(scene.imageunzip(&scene.path("new"))?)?.success()?;
    for (outcome, stages) in [(zipped, IMAGING), (installed, INSTALLING)] {
        let line = outcome.stderr.trim_end().lines().last().unwrap_or_default();
        let limit = line.rsplit_once(", limited by ").map(|(_, limit)| limit);
        ensure!(stages.map(Some).contains(&limit), "{line}");
    }
    Ok(())
}

/// What fails before anything has begun is an event too, the only one.
#[test]
fn failures_before_the_start() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let fails = |mut command: Command, exit: i32, to_stderr: bool| -> Result<()> {
        command.arg("--json");
        let outcome = run(command)?;
        ensure!(outcome.code() == Some(exit), "{outcome}");
        let text = match to_stderr {
            true => outcome.stderr.lines().next().unwrap_or_default().to_owned(),
            false => outcome.stdout_text(),
        };
        let events = parse(&text)?;
        let fail = find(&events, "fail")?;
        ensure!(events.len() == 1 && fail["exit"] == exit, "{outcome}");
        let error = fail["error"].as_str().context("no error")?;
        ensure!(outcome.stderr.contains(error), "{outcome}");
        Ok(())
    };
    let small = scene.path("small");
    File::create(&small)?.set_len(4096)?;
    fails(scene.imageunzip(&small)?, 5, false)?;
    let mut unzip = scene.keys.imageunzip()?;
    unzip.arg(&small).arg(scene.path("new"));
    fails(unzip, 3, false)?;
    let zip = |image: &str| -> Result<_> {
        let mut zip = scene.keys.imagezip()?;
        zip.arg(scene.path("nothing")).arg(image);
        Ok(zip)
    };
    fails(zip("image")?, 3, false)?;
    fails(zip("-")?, 3, true)?;
    let mut server = e2e::command::tool("frisbeed")?;
    server.arg(&small);
    fails(server, 3, false)?;
    let mut client = scene.keys.client()?;
    client.arg(scene.path("no directory/new"));
    fails(client, 5, false)
}

#[test]
fn a_run_begins_and_ends() -> Result<()> {
    let scene = Scene::new(&Recipe::TINY)?;
    let mut zip = scene.keys.imagezip()?;
    zip.arg(&scene.disk.path).arg(scene.path("again.frz"));
    let unzip = scene.imageunzip(&scene.used_disk("used")?)?;
    for (mut command, stages) in [(zip, IMAGING), (unzip, INSTALLING)] {
        command.arg("--json");
        let outcome = run(command)?.success()?;
        let events = parse(&outcome.stdout_text())?;
        let name = |event: Option<&Value>| event.map(|event| event["event"].clone());
        ensure!(name(events.first()) == Some("start".into()), "{outcome}");
        ensure!(name(events.last()) == Some("finish".into()), "{outcome}");
        let finish = find(&events, "finish")?;
        figures(finish, stages)?;
        ensure!(finish["bytes"] == finish["plain_bytes"], "{finish}");
    }
    Ok(())
}
