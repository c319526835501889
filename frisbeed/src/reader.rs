//! The thread that reads and hashes objects and computes their parity, so that a slow disk never delays what is being sent.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use frisbee_proto::{Loaded, Parity};
use tokio::sync::mpsc as async_mpsc;

use crate::image::ImageFile;

/// What the thread is to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Read this object.
    Load(u32),
    /// Compute so many parity blocks of an object.
    Encode(u32, Arc<Loaded>, u16),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Reply {
    /// An object, or why it cannot be had.
    Loaded(u32, io::Result<Arc<Loaded>>),
    /// Its parity blocks, if there is a code for so many.
    Encoded(u32, Option<Arc<Parity>>),
}

/// Asks the thread and hears from it; each time with the image's place among those served. The protocol machines bound
/// how much is asked for at a time.
#[derive(Debug)]
pub(crate) struct Reader {
    requests: mpsc::Sender<(usize, Job)>,
    replies: async_mpsc::UnboundedReceiver<(usize, Reply)>,
}

impl Reader {
    /// Starts the thread: one for all images, which may lie on one disk. It ends when the reader is dropped.
    pub(crate) fn start(images: Vec<Arc<ImageFile>>) -> io::Result<Self> {
        let (requests, wanted) = mpsc::channel::<(usize, Job)>();
        let (reply, replies) = async_mpsc::unbounded_channel();
        thread::Builder::new()
            .name("reader".into())
            .spawn(move || {
                for (image, job) in wanted {
                    let Some(file) = images.get(image) else {
                        continue;
                    };
                    let done = match job {
                        Job::Load(object) => Reply::Loaded(object, file.load(object).map(Arc::new)),
                        Job::Encode(object, loaded, blocks) => {
                            Reply::Encoded(object, Parity::of(&loaded, blocks).map(Arc::new))
                        }
                    };
                    if reply.send((image, done)).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self { requests, replies })
    }

    /// Has something done; the answer comes from [`Reader::reply`]. `false` if the thread has ended.
    pub(crate) fn request(&self, image: usize, job: Job) -> bool {
        self.requests.send((image, job)).is_ok()
    }

    /// Waits for the next answer. `None` if the thread has ended.
    pub(crate) async fn reply(&mut self) -> Option<(usize, Reply)> {
        self.replies.recv().await
    }
}
