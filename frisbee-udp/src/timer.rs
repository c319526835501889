//! Waiting for an instant that is less than a millisecond away.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel's, exact to some tens of microseconds.
///
/// tokio's timers have a resolution of a millisecond and round up, which at 1 Gbit/s is as long as a batch takes that
/// was worth waking up for: a paced sender that uses them loses a twentieth of the rate.
#[derive(Debug)]
pub struct Timer(AsyncFd<Fd>);

#[derive(Debug)]
struct Fd(TimerFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// A timer. Needs the context of a tokio runtime.
    ///
    /// # Errors
    /// What the system says.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an `Fd` keeps its descriptor open for as long as it lives"
    )]
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self(AsyncFd::new(Fd(timer))?))
    }

    /// Waits until `deadline`, or not at all if that has passed. One at a time; it may be dropped and begun anew.
    pub async fn wait_until(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would switch the timer off.
        if left.is_zero() {
            return;
        }
        let once = Expiration::OneShot(TimeSpec::from_duration(left));
        if self
            .0
            .get_ref()
            .0
            .set(once, TimerSetTimeFlags::empty())
            .is_err()
        {
            return tokio::time::sleep_until(deadline.into()).await;
        }
        while let Ok(mut ready) = self.0.readable().await {
            // What an earlier wait has left is not this one's end: setting the timer has cleared it.
            if ready.try_io(|fd| wait(&fd.get_ref().0)).is_ok() {
                return;
            }
        }
    }
}

fn wait(timer: &TimerFd) -> io::Result<()> {
    match timer.wait() {
        Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn never_ends_early_and_can_be_begun_anew() {
        let timer = Timer::new().unwrap();
        let micros = Duration::from_micros;
        timer.wait_until(Instant::now()).await;
        for length in [1, 10, 300, 2_500] {
            let deadline = Instant::now() + micros(length);
            timer.wait_until(deadline).await;
            assert!(Instant::now() >= deadline, "{length}");
        }
        // Dropped before and after it has run out.
        for pause in [0, 3_000] {
            let begun = timer.wait_until(Instant::now() + micros(1_000));
            tokio::select! {
                biased;
                () = tokio::time::sleep(micros(pause)) => {}
                () = begun => {}
            }
            let deadline = Instant::now() + micros(2_000);
            timer.wait_until(deadline).await;
            assert!(Instant::now() >= deadline, "after {pause}");
        }
    }
}
