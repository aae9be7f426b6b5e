//! How every service runs: step, pause, step; a broker that fails is said once and tried again.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use umbel_broker::{Broker, Result};

/// A step under way: how long to pause after it.
pub(crate) type Step<'a> = Pin<Box<dyn Future<Output = Result<Duration>> + Send + 'a>>;

/// The longest pause after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// One background service.
pub(crate) trait Service: Send + Sync {
    fn name(&self) -> &'static str;

    /// Does one bounded piece of work.
    fn step<'a>(&'a self, broker: &'a dyn Broker) -> Step<'a>;
}

/// Steps until told to stop.
pub(crate) async fn run(service: Box<dyn Service>, broker: Arc<dyn Broker>, stop: CancellationToken) {
    let mut failures = 0_u32;
    loop {
        let pause = match service.step(&*broker).await {
            Ok(pause) => {
                if failures > 0 {
                    tracing::info!(service = service.name(), failures, "the service works again");
                }
                failures = 0;
                pause
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(service = service.name(), %error, "the service cannot work and tries again");
                }
                failures += 1;
                Duration::from_millis(100).saturating_mul(1 << failures.min(10)).min(MAX_BACKOFF)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use umbel_broker::{Error, MemoryBroker};

    use super::*;

    /// Fails so many times, then works.
    struct Flaky {
        failures: u32,
        steps: Arc<AtomicU32>,
    }

    impl Service for Flaky {
        fn name(&self) -> &'static str {
            "flaky"
        }

        fn step<'a>(&'a self, _: &'a dyn Broker) -> Step<'a> {
            Box::pin(async move {
                match self.steps.fetch_add(1, Ordering::SeqCst) < self.failures {
                    true => Err(Error::Unavailable("gone".into())),
                    false => Ok(Duration::from_secs(1)),
                }
            })
        }
    }

    fn start(failures: u32) -> (Arc<AtomicU32>, CancellationToken, tokio::task::JoinHandle<()>) {
        let (steps, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let service = Box::new(Flaky { failures, steps: steps.clone() });
        let task = tokio::spawn(run(service, Arc::new(MemoryBroker::default()), stop.clone()));
        (steps, stop, task)
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_goes_on_when_the_broker_is_back() {
        let (steps, stop, task) = start(20);
        tokio::time::sleep(Duration::from_secs(200)).await;
        // 20 failures take 92 s at most, then one step a second.
        assert!(steps.load(Ordering::SeqCst) > 100);
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_stays_away_is_not_hammered() {
        let (steps, stop, task) = start(u32::MAX);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(steps.load(Ordering::SeqCst) < 30);
        stop.cancel();
        task.await.unwrap();
    }
}
