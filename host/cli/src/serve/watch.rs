//! Waits for the end of a service: a signal, or a part that ended by itself.
//!
//! Invariant: a process whose worker or API is gone ends with an error, so that whoever supervises it starts it again; it
//! never goes on and looks healthy.

use umbel_worker::WorkerHandle;

use crate::{
    failure::Failure,
    serve::{signals::Signals, web::Web},
};

/// Waits for a signal. An error names the part that ended before; what still runs must be stopped all the same.
pub async fn until_told(
    signals: &mut Signals,
    worker: Option<&mut WorkerHandle>,
    web: Option<&mut Web>,
) -> Result<(), Failure> {
    let worker = async {
        match worker {
            Some(worker) => worker.join().await,
            None => std::future::pending().await,
        }
    };
    let web = async {
        match web {
            Some(web) => web.ended().await,
            None => std::future::pending().await,
        }
    };
    let part = tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        () = worker => ("worker_ended", "the part that runs jobs ended by itself"),
        () = web => ("api_ended", "the API ended by itself"),
    };
    tracing::error!(code = part.0, "{}; shutting down", part.1);
    Err(Failure::new(part.0, part.1).help("the log lines above say why; start it again"))
}
