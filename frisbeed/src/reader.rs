//! The thread that reads and hashes objects, so that a slow disk never delays what is being sent.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use frisbee_proto::Loaded;
use tokio::sync::mpsc as async_mpsc;

use crate::image::ImageFile;

/// An image's place among those served, and an object of it.
pub(crate) type Place = (usize, u32);

/// An object that was asked for, or why it cannot be had.
pub(crate) type Reply = (Place, io::Result<Arc<Loaded>>);

/// Asks the thread and hears from it. The protocol machines bound how much is asked for at a time.
#[derive(Debug)]
pub(crate) struct Reader {
    requests: mpsc::Sender<Place>,
    replies: async_mpsc::UnboundedReceiver<Reply>,
}

impl Reader {
    /// Starts the thread: one for all images, which may lie on one disk. It ends when the reader is dropped.
    pub(crate) fn start(images: Vec<Arc<ImageFile>>) -> io::Result<Self> {
        let (requests, wanted) = mpsc::channel::<Place>();
        let (reply, replies) = async_mpsc::unbounded_channel();
        thread::Builder::new()
            .name("reader".into())
            .spawn(move || {
                for (image, object) in wanted {
                    let Some(file) = images.get(image) else {
                        continue;
                    };
                    let loaded = file.load(object).map(Arc::new);
                    if reply.send(((image, object), loaded)).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self { requests, replies })
    }

    /// Asks for an object; the answer comes from [`Reader::reply`]. `false` if the thread has ended.
    pub(crate) fn request(&self, place: Place) -> bool {
        self.requests.send(place).is_ok()
    }

    /// Waits for the next answer. `None` if the thread has ended.
    pub(crate) async fn reply(&mut self) -> Option<Reply> {
        self.replies.recv().await
    }
}
