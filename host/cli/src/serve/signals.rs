//! SIGINT, SIGTERM and SIGQUIT: the first two ask for an end that costs no job anything, the third for one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{Failure, Result};

/// The signals that end a service. Make it before saying that the service is up.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
}

/// The request that a signal makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Let what runs end, within its time.
    End,
    /// Hand back what runs.
    EndNow,
}

impl Signals {
    pub fn listen() -> Result<Self> {
        let [interrupt, terminate, quit] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit()]
            .map(|kind| signal(kind).map_err(|e| Failure::new("signals", format!("signals cannot be received: {e}"))));
        Ok(Self { interrupt: interrupt?, terminate: terminate?, quit: quit? })
    }

    /// Waits for one of them.
    pub async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.interrupt.recv() => Ask::End,
            _ = self.terminate.recv() => Ask::End,
            _ = self.quit.recv() => Ask::EndNow,
        }
    }

    /// From now on the next one ends the process at once.
    pub fn next_is_last(mut self) {
        tokio::spawn(async move {
            self.next().await;
            end_at_once();
        });
    }
}

/// Ends the process as a crash would: leases expire, and cost each held job a delivery.
pub fn end_at_once() -> ! {
    tracing::warn!("another signal: ending at once, running jobs are delivered again when their leases expire");
    std::process::exit(130)
}
