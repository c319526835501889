//! The thread that reads and hashes objects, so that a slow disk never delays what is being sent.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use frisbee_proto::Loaded;
use tokio::sync::mpsc as async_mpsc;

use crate::image::ImageFile;

/// An object that was asked for, or why it cannot be had.
pub(crate) type Reply = (u32, io::Result<Arc<Loaded>>);

/// Asks the thread and hears from it. The protocol machine bounds how much is asked for at a time.
#[derive(Debug)]
pub(crate) struct Reader {
    requests: mpsc::Sender<u32>,
    replies: async_mpsc::UnboundedReceiver<Reply>,
}

impl Reader {
    /// Starts the thread. It ends when the reader is dropped.
    pub(crate) fn start(image: ImageFile) -> io::Result<Self> {
        let (requests, wanted) = mpsc::channel();
        let (reply, replies) = async_mpsc::unbounded_channel();
        thread::Builder::new()
            .name("reader".into())
            .spawn(move || {
                for object in wanted {
                    if reply
                        .send((object, image.load(object).map(Arc::new)))
                        .is_err()
                    {
                        break;
                    }
                }
            })?;
        Ok(Self { requests, replies })
    }

    /// Asks for an object; the answer comes from [`Reader::reply`]. `false` if the thread has ended.
    pub(crate) fn request(&self, object: u32) -> bool {
        self.requests.send(object).is_ok()
    }

    /// Waits for the next answer. `None` if the thread has ended.
    pub(crate) async fn reply(&mut self) -> Option<Reply> {
        self.replies.recv().await
    }
}
