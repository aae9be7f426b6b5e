//! SIGINT and SIGTERM: the first asks for a warm shutdown, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The signals that end a service. Make it before saying that the service is up.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::new("signals", format!("signals cannot be received: {e}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// Waits for either.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// From now on the next one ends the process at once: leases expire, and cost each held job a delivery.
    pub fn next_is_cold(mut self) {
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("second signal: ending at once, running jobs are delivered again when their leases expire");
            std::process::exit(130);
        });
    }
}
