//! An installation from its first write to its last word, whatever the format of the image.

use std::sync::{Arc, Mutex, PoisonError};

use frisbee_cli::progress::Progress;
use frisbee_cli::{Exit, Failure, Interrupt};
use serde_json::Value;

use crate::install::Format;
use crate::report::dry_run;
use crate::unzip::Cli;
use crate::{Error, Event, Expected, Held, ImageId, Installed, Installer, Report, Stopped, Target};

/// What the image is called.
pub(crate) struct Title {
    /// Its name.
    pub(crate) name: String,
    /// Which version of it, in words.
    pub(crate) version: String,
    /// The fields of the `start` event.
    pub(crate) fields: Value,
}

/// An installation that nothing stands against any more.
pub(crate) struct Installation<'a> {
    pub(crate) cli: &'a Cli,
    /// Where the image comes from, for messages.
    pub(crate) source: String,
    pub(crate) title: Title,
    pub(crate) format: Format,
    pub(crate) target: Target,
    /// Bytes of data to be written; 0 if that is not known.
    pub(crate) total: u64,
    /// What of it the target has already.
    pub(crate) held: Held,
    pub(crate) interrupt: &'a Interrupt,
}

/// What the pipeline has refused first.
#[derive(Clone, Default)]
struct Refused(Arc<Mutex<Option<Error>>>);

impl Refused {
    fn note(&self, error: Error) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
    }

    fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The pipeline, for those who bring chunks to it.
pub(crate) struct Feed<'a> {
    /// Takes the chunks.
    pub(crate) installer: &'a Installer,
    refused: &'a Refused,
    interrupt: &'a Interrupt,
    incomplete: &'a str,
}

impl Feed<'_> {
    /// Checks that there is a reason to go on; to be called before each chunk.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.interrupt.check(self.incomplete)?;
        match self.refused.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// What became of a chunk that was handed over. The pipeline's own error follows when it is ended.
    pub(crate) fn taken(&self, submitted: Result<(), Stopped>) -> Result<(), Failure> {
        submitted.map_err(|Stopped| Failure::new(Exit::Io, "writing failed"))
    }
}

impl Installation<'_> {
    /// Installs what `feed` brings, which then says what must have come.
    pub(crate) fn run(
        mut self,
        feed: impl FnOnce(&Feed<'_>) -> Result<Expected<'static>, Failure>,
    ) -> Result<(), Failure> {
        let target = self.cli.target.display().to_string();
        let mut fields = self.title.fields.clone();
        fields["image"] = self.title.name.clone().into();
        fields["target"] = target.clone().into();
        fields["total_bytes"] = self.total.into();
        let progress = Arc::new(Progress::start(self.cli.events(), self.total, fields));
        let title = format!("{} ({})", self.title.name, self.title.version);
        let cli = self.cli;
        let after = &cli.install.after;
        self.target.change_table(after.edit()?);
        if cli.install.dry_run {
            let (line, fields) = dry_run(&title, &self.target, self.total, &self.held);
            progress.finish(&line, fields);
            return Ok(());
        }
        let text = |field: &str| match &self.title.fields[field] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let image = ImageId {
            name: self.title.name.clone(),
            uuid: text("uuid"),
            epoch: text("epoch"),
        };
        let installed = Installed {
            program: "imageunzip",
            target: &cli.target,
            sector_size: self.target.sector_size,
            image: &image,
        };
        let interrupt = self.interrupt;
        let done = self.install(&progress, feed).and_then(|report| {
            after.run(&installed, &report, &progress, interrupt)?;
            Ok(report)
        });
        match done {
            Ok(report) => {
                for warning in report.warnings() {
                    progress.line(&format!("imageunzip: {target}: {warning}"));
                }
                let summary = report.summary(progress.elapsed());
                let target = crate::title(&cli.target);
                let summary = format!("{target}: installed {title}: {summary}");
                progress.finish(&summary, report.fields());
                Ok(())
            }
            Err(failure) => Err(progress.fail(failure)),
        }
    }

    fn install(
        self,
        progress: &Arc<Progress>,
        feed: impl FnOnce(&Feed<'_>) -> Result<Expected<'static>, Failure>,
    ) -> Result<Report, Failure> {
        let named = |failure: Failure| failure.context(&self.source);
        let interrupt = self.interrupt;
        let incomplete = match self.target.holds_data() {
            true => "the disk is incomplete and will not boot",
            false => "the unfinished file was removed",
        };
        let refused = Refused::default();
        let observer = {
            let (progress, refused) = (Arc::clone(progress), refused.clone());
            move |event| {
                match event {
                Event::Written { plain_bytes, .. } => progress.advance(plain_bytes),
                Event::Refused { error, .. } => refused.note(error),
                Event::UnknownRelocation { index, kind } => progress.line(&format!(
                    "imageunzip: chunk {index}: a relocation of kind {kind}, which is not known: its bytes stay as they are"
                )),
                Event::Failed => {}
            }
            }
        };
        let spoiled =
            |failure: Failure| Failure::new(failure.exit, format!("{failure} ({incomplete})"));
        let options = self.cli.install.options(0);
        let installer = Installer::start(&self.format, self.target, &options, observer)?;
        progress.show_stages(installer.stages());
        let fed = feed(&Feed {
            installer: &installer,
            refused: &refused,
            interrupt,
            incomplete,
        });
        let expected = match fed {
            Ok(expected) => expected,
            Err(failure) => {
                interrupt.check(incomplete)?;
                let failure = installer
                    .abort()
                    .map_or_else(|| named(failure), Failure::from);
                return Err(spoiled(failure));
            }
        };
        let finished = installer.finish(&expected);
        match refused.take() {
            Some(error) => Err(spoiled(named(error.into()))),
            None => finished.map_err(|error| match error {
                Error::Format(error) => spoiled(named(error.into())),
                other => other.into(),
            }),
        }
    }
}
