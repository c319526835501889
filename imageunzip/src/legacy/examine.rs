//! Reading an Emulab image from beginning to end, its chunks checked on all cores.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::thread;

use chunkfmt::Span;
use crossbeam_channel::bounded;
use frisbee_cli::{Exit, Failure, Interrupt};
use ndz::{Header, Reader, Summary};

use crate::Error;

/// A chunk as it was read.
pub(crate) struct Raw<'a> {
    pub(crate) header: &'a Header,
    pub(crate) span: Span,
    pub(crate) bytes: &'a [u8],
}

/// The same, on its way to another thread.
struct Job {
    index: u32,
    span: Span,
    bytes: Vec<u8>,
}

/// The next chunk, which follows those before.
pub(crate) fn next<R: Read>(reader: &mut Reader<R>) -> Result<Option<(Header, Span)>, ndz::Error> {
    let Some((chunk, span)) = reader.next_chunk()? else {
        return Ok(None);
    };
    let span = Span {
        first: span.first,
        sectors: span.end.saturating_sub(span.first),
    };
    Ok(Some((chunk.header().clone(), span)))
}

/// Reads an image and checks that its chunks belong together and follow each other. `each` sees them in order; `check`
/// is called on any of the threads, and its first error ends everything.
pub(crate) fn examine<R: Read>(
    mut reader: Reader<R>,
    threads: usize,
    interrupt: &Interrupt,
    mut each: impl FnMut(&Raw<'_>),
    check: impl Fn(u32, Span, &[u8]) -> Result<(), Error> + Sync,
) -> Result<Summary, Failure> {
    let wrong: Mutex<Option<(u32, Error)>> = Mutex::new(None);
    let first_wrong = || wrong.lock().unwrap_or_else(PoisonError::into_inner);
    let (sender, jobs) = bounded::<Job>(threads);
    let work = || {
        for job in &jobs {
            if let Err(error) = check(job.index, job.span, &job.bytes) {
                let mut wrong = first_wrong();
                // The first one in the image, so that the same image always gives the same message.
                if wrong.as_ref().is_none_or(|(index, _)| job.index < *index) {
                    *wrong = Some((job.index, error));
                }
            }
        }
    };
    let read = thread::scope(|scope| -> Result<(), Failure> {
        // Dropped at the end of reading, which ends the threads.
        let sender = sender;
        for _ in 0..threads {
            let spawned = thread::Builder::new().spawn_scoped(scope, work);
            spawned.map_err(|error| Failure::new(Exit::Internal, error))?;
        }
        let mut index = 0;
        while let Some((header, span)) = next(&mut reader)? {
            interrupt.check("nothing was changed")?;
            if first_wrong().is_some() {
                break;
            }
            let bytes = reader.bytes();
            each(&Raw {
                header: &header,
                span,
                bytes,
            });
            let bytes = bytes.to_vec();
            let died = |_| Failure::new(Exit::Internal, "the checking threads have ended");
            sender.send(Job { index, span, bytes }).map_err(died)?;
            index += 1;
        }
        Ok(())
    });
    // What is wrong with a chunk before says more than that reading went wrong.
    if let Some((_, error)) = wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error.into());
    }
    read?;
    Ok(reader.finish()?)
}
