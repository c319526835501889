//! The signals that end the server: SIGINT and SIGTERM.

use frisbee_cli::{Exit, Failure};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Catches the signals from its creation on.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to catch them. Needs the context of a tokio runtime.
    pub(crate) fn catch() -> Result<Self, Failure> {
        let failed = |error| Failure::new(Exit::Internal, format!("cannot catch signals: {error}"));
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        Ok(Self {
            interrupt,
            terminate,
        })
    }

    /// Waits for one of them.
    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
