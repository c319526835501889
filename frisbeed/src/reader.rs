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

/// Objects that were handed out. The memory of those that nobody keeps any more is used again: fresh memory, which the
/// system has to find and clear, cost an eighth of the server's processor time at 700 MB/s.
#[derive(Debug, Default)]
struct Lent(Vec<Arc<Loaded>>);

impl Lent {
    /// Memory for the next object. What else has come back is freed.
    fn memory(&mut self) -> Vec<u8> {
        let is_back = |object: &mut Arc<Loaded>| Arc::strong_count(object) == 1;
        let mut back = self.0.extract_if(.., is_back);
        let memory = back.find_map(Arc::into_inner).map(Loaded::into_bytes);
        back.for_each(drop);
        memory.unwrap_or_default()
    }
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
                let mut lent = Lent::default();
                for (image, job) in wanted {
                    let Some(file) = images.get(image) else {
                        continue;
                    };
                    let done = match job {
                        Job::Load(object) => {
                            let loaded = file.load(object, lent.memory()).map(Arc::new);
                            lent.0.extend(loaded.iter().cloned());
                            Reply::Loaded(object, loaded)
                        }
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

#[cfg(test)]
mod tests {
    use chunkfmt::BLOCK_SIZE;

    use super::*;

    #[test]
    fn memory_that_came_back_is_used_again() {
        let mut lent = Lent::default();
        assert_eq!(lent.memory().capacity(), 0);
        let kept: Vec<_> = (0..4)
            .map(|_| Arc::new(Loaded::new(vec![1; BLOCK_SIZE]).unwrap()))
            .collect();
        lent.0.extend(kept.iter().cloned());
        assert_eq!(lent.memory().capacity(), 0, "everything is in use");
        drop(kept.into_iter().skip(1).collect::<Vec<_>>());
        assert_eq!(lent.memory(), [1; BLOCK_SIZE]);
        assert_eq!(lent.0.len(), 0);
    }
}
