//! How the stages of a pipeline spend their time, and which of them the others wait for.
//!
//! Every thread of a stage has a [`Stopwatch`] and reads it where it may have been made to wait: twice for a chunk, not
//! for a sector. The stage that waits least is the one that limits the whole. Since all have the same time, that is the one
//! of which a thread works longest; so a wait that has not ended yet counts too.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// One stage: the time of all its threads together.
#[derive(Debug)]
pub struct Stage {
    name: &'static str,
    threads: AtomicU32,
    worked: AtomicU64,
    waited_for_input: AtomicU64,
    waited_for_output: AtomicU64,
}

impl Stage {
    /// A stage; `name` says what it does: "reading".
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            threads: AtomicU32::new(0),
            worked: AtomicU64::new(0),
            waited_for_input: AtomicU64::new(0),
            waited_for_output: AtomicU64::new(0),
        }
    }

    /// Starts the stopwatch of one of its threads.
    pub fn stopwatch(&self) -> Stopwatch<'_> {
        self.add_thread();
        Stopwatch {
            stage: self,
            at: Instant::now(),
        }
    }

    /// Counts a thread; [`Self::stopwatch`] does that too.
    pub fn add_thread(&self) {
        self.threads.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts time in which a thread worked.
    pub fn add_work(&self, time: Duration) {
        add(&self.worked, time);
    }

    /// Counts time in which a thread waited for what the stage before has to give.
    pub fn add_wait_for_input(&self, time: Duration) {
        add(&self.waited_for_input, time);
    }

    /// Counts time in which a thread waited for the stage behind to take what it has.
    pub fn add_wait_for_output(&self, time: Duration) {
        add(&self.waited_for_output, time);
    }

    /// Does some work, in a thread that is counted already.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        self.add_work(began.elapsed());
        result
    }

    /// Nanoseconds.
    fn worked(&self) -> u64 {
        self.worked.load(Ordering::Relaxed)
    }

    fn fields(&self) -> Value {
        let seconds =
            |time: &AtomicU64| Duration::from_nanos(time.load(Ordering::Relaxed)).as_secs_f64();
        json!({
            "threads": self.threads.load(Ordering::Relaxed), "worked": seconds(&self.worked),
            "waited_for_input": seconds(&self.waited_for_input),
            "waited_for_output": seconds(&self.waited_for_output),
        })
    }
}

fn add(to: &AtomicU64, time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    to.fetch_add(nanoseconds, Ordering::Relaxed);
}

/// Measures one thread of a stage: each call counts the time since the last one.
#[derive(Debug)]
pub struct Stopwatch<'a> {
    stage: &'a Stage,
    at: Instant,
}

impl Stopwatch<'_> {
    /// The thread worked.
    pub fn worked(&mut self) {
        let time = self.lap();
        self.stage.add_work(time);
    }

    /// The thread waited for the stage before.
    pub fn waited_for_input(&mut self) {
        let time = self.lap();
        self.stage.add_wait_for_input(time);
    }

    /// The thread waited for the stage behind.
    pub fn waited_for_output(&mut self) {
        let time = self.lap();
        self.stage.add_wait_for_output(time);
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.at, now))
    }
}

/// A pipeline of three stages.
#[derive(Debug)]
pub struct Stages {
    /// Brings the data.
    pub input: Stage,
    /// Does the computing.
    pub middle: Stage,
    /// Takes the data away.
    pub output: Stage,
}

/// How long each stage had worked at some moment, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot([u64; 3]);

impl Stages {
    /// Stages with these names.
    pub const fn new(input: &'static str, middle: &'static str, output: &'static str) -> Self {
        Self {
            input: Stage::new(input),
            middle: Stage::new(middle),
            output: Stage::new(output),
        }
    }

    fn all(&self) -> [&Stage; 3] {
        [&self.input, &self.middle, &self.output]
    }

    /// The stage that the others wait for; `None` before there is anything to judge by.
    pub fn bottleneck(&self) -> Option<&'static str> {
        self.bottleneck_since(&Snapshot::default())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(self.all().map(Stage::worked))
    }

    /// The stage that the others have been waiting for since `before`: the one of which a thread has worked longest.
    pub(crate) fn bottleneck_since(&self, before: &Snapshot) -> Option<&'static str> {
        let stages = self.all().into_iter().zip(before.0);
        let busy = stages.filter_map(|(stage, before)| {
            let worked = stage.worked().saturating_sub(before);
            let threads = stage.threads.load(Ordering::Relaxed).max(1);
            (worked > 0).then_some((worked / u64::from(threads), stage.name))
        });
        busy.max_by_key(|(time, _)| *time).map(|(_, name)| name)
    }

    /// By name: threads, and the seconds that they worked and waited, summed over the threads.
    pub fn fields(&self) -> Value {
        let fields: Map<String, Value> = self
            .all()
            .into_iter()
            .map(|stage| (stage.name.into(), stage.fields()))
            .collect();
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Adds what each stage worked, in seconds.
    fn work(stages: &Stages, seconds: [u32; 3]) {
        for (stage, seconds) in stages.all().into_iter().zip(seconds) {
            stage.add_work(SECOND * seconds);
        }
    }

    #[test]
    fn the_stage_that_waits_least() {
        let cases = [
            ([10, 4, 1], 1, Some("reading")),
            ([3, 10, 1], 1, Some("compressing")),
            ([3, 4, 9], 1, Some("writing")),
            // Four threads have four times the time.
            ([1, 30, 6], 4, Some("compressing")),
            ([1, 20, 6], 4, Some("writing")),
            ([0, 5, 0], 4, Some("compressing")),
            ([0; 3], 1, None),
        ];
        for (seconds, threads, expected) in cases {
            let stages = Stages::new("reading", "compressing", "writing");
            (0..threads).for_each(|_| stages.middle.add_thread());
            work(&stages, seconds);
            // What is said of waiting is for people.
            stages.middle.add_wait_for_input(SECOND * 7);
            assert_eq!(stages.bottleneck(), expected, "{seconds:?}");
        }
    }

    #[test]
    fn what_was_before_does_not_count() {
        let stages = Stages::new("reading", "compressing", "writing");
        work(&stages, [100, 10, 10]);
        let before = stages.snapshot();
        assert_eq!(stages.bottleneck_since(&before), None);
        work(&stages, [1, 2, 10]);
        assert_eq!(stages.bottleneck_since(&before), Some("writing"));
        assert_eq!(stages.bottleneck(), Some("reading"));
    }

    #[test]
    fn a_stopwatch_loses_no_time() {
        let stage = Stage::new("writing");
        let began = Instant::now();
        let mut watch = stage.stopwatch();
        watch.waited_for_input();
        watch.worked();
        watch.waited_for_output();
        stage.time(|| std::thread::sleep(Duration::from_millis(1)));
        let most = began.elapsed().as_secs_f64();
        let fields = stage.fields();
        let times = ["worked", "waited_for_input", "waited_for_output"];
        let times = times.map(|name| fields[name].as_f64().unwrap_or(f64::NAN));
        assert!(
            times[0] >= 0.001 && times.iter().sum::<f64>() <= most,
            "{fields}"
        );
        assert_eq!(fields["threads"], 1);
    }
}
