//! The end of a service: what it waits for, and how its worker is ended.
//!
//! Invariant: a process whose worker or API is gone ends with an error, so that whoever supervises it starts it again; it
//! never goes on and looks healthy.

use umbel_broker::Shutdown;
use umbel_worker::{End, WorkerHandle};

use super::{signals::Ask, signals::Signals, signals::end_at_once, web::Web};
use crate::{Failure, Result, args::OrNone};

/// Why a service ends in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Signal(Ask),
    /// Its worker was told to, or wants a new process.
    Worker(End),
}

/// Waits for a signal, or for an order to the worker. An error names the part that ended before; what still runs must be
/// stopped all the same.
pub async fn until_told(
    signals: &mut Signals,
    worker: Option<&mut WorkerHandle>,
    web: Option<&mut Web>,
) -> Result<Told> {
    let worker = or_never(worker.map(WorkerHandle::join));
    let web = or_never(web.map(Web::ended));
    let part = tokio::select! {
        biased;
        ask = signals.next() => return Ok(Told::Signal(ask)),
        end = worker => match end {
            End::Ordered | End::MaxJobs | End::MaxMemory => {
                tracing::info!(?end, "the worker has ended; the process ends too");
                return Ok(Told::Worker(end));
            }
            End::Requested | End::Died => ("worker_ended", "the part that runs jobs ended by itself"),
        },
        () = web => ("api_ended", "the API ended by itself"),
    };
    tracing::error!(code = part.0, "{}; shutting down", part.1);
    Err(Failure::new(part.0, part.1).help("the log lines above say why; start it again"))
}

/// The end of a part; without the part there is none.
async fn or_never<T>(part: Option<impl Future<Output = T>>) -> T {
    match part {
        Some(part) => part.await,
        None => std::future::pending().await,
    }
}

/// Ends the worker: the first signal as `patience` says, a second one (or SIGQUIT) by handing back what runs, a third by
/// ending the process. Afterwards any signal does that, while the rest of the service ends.
pub async fn wind_down(
    worker: Option<&mut WorkerHandle>,
    mut signals: Signals,
    told: &Result<Told>,
    patience: OrNone<u64>,
) {
    let mut cold = matches!(told, Ok(Told::Signal(Ask::EndNow)));
    if let Some(worker) = worker {
        worker.shutdown(match (cold, patience.0) {
            (true, _) => Shutdown::Cold,
            (false, Some(_)) => Shutdown::Soft,
            (false, None) => Shutdown::Warm,
        });
        tracing::info!("shutting down; a second signal hands back what runs, a third ends at once");
        loop {
            tokio::select! {
                biased;
                _ = worker.join() => break,
                _ = signals.next() => {}
            }
            if std::mem::replace(&mut cold, true) {
                end_at_once();
            }
            tracing::info!("second signal: what runs is handed back");
            worker.shutdown(Shutdown::Cold);
        }
    } else {
        tracing::info!("shutting down; a second signal ends at once");
    }
    signals.next_is_last();
}
