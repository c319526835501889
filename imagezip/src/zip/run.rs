//! Writing an image: the pipeline between the command line's choices and the output, and what is said at the end.

use std::sync::Arc;

use chunkfmt::Sealer;
use frisbee_cli::progress::Progress;
use frisbee_cli::stages::Stages;
use frisbee_cli::{Failure, Interrupt, units};
use serde_json::json;

use crate::create::{Maker, Source, Summary, Workers, create};
use crate::output::Output;
use crate::{Disk, Error};

/// An image about to be written.
pub(super) struct Run<'a> {
    pub(super) sealer: &'a Sealer,
    /// Buffers for finished chunks.
    pub(super) buffers: usize,
    pub(super) output: Output,
    pub(super) progress: &'a Progress,
    pub(super) interrupt: &'a Interrupt,
    /// The disk that is imaged, if one is.
    pub(super) disk: Option<&'a Disk>,
}

impl Run<'_> {
    /// Writes it, gives it its name, and reports.
    ///
    /// # Errors
    /// Why there is no image.
    pub(super) fn write<S: Source, M: Maker<Item = S::Item>>(
        mut self,
        source: S,
        makers: Vec<M>,
    ) -> Result<(), Failure> {
        let image = self.output.name();
        let stages = Arc::new(Stages::new("reading", "compressing", "writing"));
        self.progress.show_stages(Arc::clone(&stages));
        let made = create(
            source,
            Workers {
                makers,
                buffers: self.buffers,
            },
            self.sealer,
            &mut self.output,
            self.interrupt,
            &stages,
            |bytes| self.progress.advance(bytes),
        );
        let made = made.and_then(|summary| {
            stages
                .output
                .time(|| self.output.commit())
                .map_err(|source| Error::Write { source })?;
            Ok(summary)
        });
        match made {
            Ok(summary) => {
                let unreadable = self.disk.map_or(0, Disk::unreadable_bytes);
                report(self.progress, &image, self.sealer, summary, unreadable);
                Ok(())
            }
            Err(error) => {
                let place = matches!(error, Error::Write { .. }).then_some(&image);
                let failure = Failure::from(error);
                let failure = match place {
                    Some(image) => failure.context(image),
                    None => failure,
                };
                Err(self.progress.fail(failure))
            }
        }
    }
}

fn report(progress: &Progress, image: &str, sealer: &Sealer, summary: Summary, unreadable: u64) {
    if unreadable > 0 {
        progress.line(&format!(
            "imagezip: {image}: warning: {} could not be read: zeros stand for them, and the image says where",
            units::size(unreadable)
        ));
    }
    let time = progress.elapsed();
    let header = sealer.header();
    let left_out = match header.base {
        Some(_) => format!(
            ", {} in {} chunks left out, which the base holds",
            units::size(summary.left_out_bytes),
            summary.left_out_chunks
        ),
        None => String::new(),
    };
    let line = format!(
        "{image}: {} of {} saved as {} in {} chunks{left_out}, {:.2} s, {}",
        units::size(summary.plain_bytes),
        units::size(header.disk_bytes()),
        units::size(summary.image_bytes),
        summary.chunks,
        time.as_secs_f64(),
        units::throughput(summary.plain_bytes + summary.left_out_bytes, time),
    );
    let fields = json!({
        "uuid": header.uuid().to_string(), "epoch": header.epoch(), "chunks": summary.chunks,
        "plain_bytes": summary.plain_bytes, "image_bytes": summary.image_bytes,
        "left_out_chunks": summary.left_out_chunks, "left_out_bytes": summary.left_out_bytes,
        "unreadable_bytes": unreadable,
    });
    progress.finish(&line, fields);
}
