//! Runs a service: while this process holds its lease, step, pause, step. A step that fails or panics is logged and tried
//! again.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use umbel_broker::Broker;

use crate::service_lease::Lease;

/// Why a step was not done, or the owner of the values is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Broker(#[from] umbel_broker::Error),
    #[error(transparent)]
    Store(#[from] umbel_modules::Error),
    /// A bug. The other services go on, and so does this one.
    #[error("the service panicked: {0}")]
    Panicked(String),
}

/// The longest pause after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// One background service.
pub(crate) trait Service: Send + Sync + 'static {
    const NAME: &'static str;
    /// Whether one process of all on the store is enough.
    const IS_LEASED: bool = true;
    /// Whether a step is long, and may be dropped in its middle when the service is to end.
    const MAY_BE_BROKEN_OFF: bool = false;

    /// Does one bounded piece of work; answers how long to pause after it.
    fn step(&self, broker: &dyn Broker) -> impl Future<Output = Result<Duration, Error>> + Send;

    /// Ends when there may be something to do before the pause is over.
    fn woken(&self, broker: &dyn Broker) -> impl Future<Output = ()> + Send {
        let _ = broker;
        std::future::pending()
    }
}

/// Steps until told to stop. `process` is the unique name of this process.
pub(crate) async fn run<S: Service>(service: S, broker: Arc<dyn Broker>, process: String, stop: CancellationToken) {
    let mut lease = S::IS_LEASED.then(|| Lease::start(broker.clone(), S::NAME, process));
    steps(&service, &*broker, lease.as_mut(), &stop).await;
    if let Some(lease) = lease {
        lease.release().await;
    }
}

async fn steps<S: Service>(service: &S, broker: &dyn Broker, mut lease: Option<&mut Lease>, stop: &CancellationToken) {
    let mut failures = 0_u32;
    loop {
        if let Some(lease) = &mut lease {
            tokio::select! {
                () = stop.cancelled() => return,
                () = lease.held() => {}
            }
        }
        let step = step_caught(service, broker);
        let done = if S::MAY_BE_BROKEN_OFF {
            tokio::select! {
                () = stop.cancelled() => return,
                done = step => done,
            }
        } else {
            step.await
        };
        let pause = match done {
            Ok(pause) => {
                if failures > 0 {
                    tracing::info!(service = S::NAME, failures, "the service works again");
                }
                failures = 0;
                pause
            }
            Err(error) => {
                log_failure(S::NAME, &error, failures);
                failures += 1;
                Duration::from_millis(100).saturating_mul(1 << failures.min(10)).min(MAX_BACKOFF)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // A broker that is away is not asked more often because it speaks.
            () = service.woken(broker), if failures == 0 => {}
        }
    }
}

/// One step. Its panic is an error: a service that ended without notice would leave jobs as they are.
async fn step_caught(service: &impl Service, broker: &dyn Broker) -> Result<Duration, Error> {
    // A step changes only the broker, in atomic operations: no half-changed state is left after a panic.
    let step = AssertUnwindSafe(async { service.step(broker).await });
    step.catch_unwind().await.unwrap_or_else(|panic| Err(Error::Panicked(message(&*panic))))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

fn log_failure(service: &str, error: &Error, failures: u32) {
    match error {
        // Every panic is logged: it is a bug, and the pause between two grows.
        Error::Panicked(_) => tracing::error!(service, %error, "the service is started again"),
        _ if failures == 0 => tracing::warn!(service, %error, "the service cannot work and tries again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    use umbel_broker_conformance::MemoryBroker;

    use super::*;

    /// Fails so many times, then works.
    struct Flaky {
        failures: u32,
        steps: Arc<AtomicU32>,
    }

    impl Service for Flaky {
        const NAME: &'static str = "flaky";

        async fn step(&self, _: &dyn Broker) -> Result<Duration, Error> {
            match self.steps.fetch_add(1, Ordering::SeqCst) < self.failures {
                true => Err(umbel_broker::Error::Unavailable("gone".into()).into()),
                false => Ok(Duration::from_secs(1)),
            }
        }
    }

    fn start(failures: u32) -> (Arc<AtomicU32>, CancellationToken, tokio::task::JoinHandle<()>) {
        let (steps, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let service = Flaky { failures, steps: steps.clone() };
        let task = tokio::spawn(run(service, Arc::new(MemoryBroker::default()), "p".into(), stop.clone()));
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

    /// Panics in its first step, before and in its future.
    struct Panicking {
        steps: Arc<AtomicU32>,
    }

    impl Service for Panicking {
        const NAME: &'static str = "panicking";

        fn step(&self, _: &dyn Broker) -> impl Future<Output = Result<Duration, Error>> + Send {
            let step = self.steps.fetch_add(1, Ordering::SeqCst);
            assert!(step != 0, "before the future");
            async move {
                assert!(step != 1, "in the future");
                Ok(Duration::from_secs(1))
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_panics_goes_on() {
        let (steps, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let service = Panicking { steps: steps.clone() };
        let task = tokio::spawn(run(service, Arc::new(MemoryBroker::default()), "p".into(), stop.clone()));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(steps.load(Ordering::SeqCst) > 50);
        stop.cancel();
        task.await.unwrap();
    }

    /// Never ends a step.
    struct Endless;

    impl Service for Endless {
        const NAME: &'static str = "endless";
        const MAY_BE_BROKEN_OFF: bool = true;

        async fn step(&self, _: &dyn Broker) -> Result<Duration, Error> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_step_is_broken_off_when_the_service_ends() {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(Endless, Arc::new(MemoryBroker::default()), "p".into(), stop.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        task.await.unwrap();
    }

    /// Steps of each process, what stops them, their tasks, and the clock.
    type Started = (Vec<Arc<AtomicU32>>, CancellationToken, Vec<tokio::task::JoinHandle<()>>, Arc<AtomicU64>);

    /// Processes with one service each on one broker, whose clock does not move by itself.
    fn start_many(count: u32) -> Started {
        let (clock, now) = umbel_broker::Clock::manual(1_000_000);
        let broker = Arc::new(MemoryBroker::new(clock, umbel_broker::Limits::default()));
        let (stop, mut steps, mut tasks) = (CancellationToken::new(), Vec::new(), Vec::new());
        for process in 0..count {
            steps.push(Arc::new(AtomicU32::new(0)));
            let service = Flaky { failures: 0, steps: steps[process as usize].clone() };
            tasks.push(tokio::spawn(run(service, broker.clone(), process.to_string(), stop.clone())));
        }
        (steps, stop, tasks, now)
    }

    fn counts(steps: &[Arc<AtomicU32>]) -> Vec<u32> {
        steps.iter().map(|steps| steps.load(Ordering::SeqCst)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_processes_one_steps_and_another_takes_over_within_two_seconds_of_its_death() {
        let (steps, stop, tasks, now) = start_many(16);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = counts(&steps);
        let holder = before.iter().position(|count| *count > 0).unwrap();
        assert!(before[holder] >= 9 && before.iter().sum::<u32>() == before[holder], "{before:?}");
        // It dies without giving the lease up, right after it was renewed; its time passes.
        tasks[holder].abort();
        now.fetch_add(1_500, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1_900)).await;
        let after = counts(&steps);
        let others = (0..16).filter(|process| *process != holder && after[*process] > 0).count();
        assert_eq!((others, after[holder]), (1, before[holder]));
        stop.cancel();
        for (process, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.is_ok(), process != holder);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_ends_in_order_gives_its_lease_up() {
        let (clock, _now) = umbel_broker::Clock::manual(1_000_000);
        let broker = Arc::new(MemoryBroker::new(clock, umbel_broker::Limits::default()));
        for process in ["a", "b"] {
            let (steps, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
            let service = Flaky { failures: 0, steps: steps.clone() };
            let task = tokio::spawn(run(service, broker.clone(), process.into(), stop.clone()));
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(steps.load(Ordering::SeqCst), 1);
            stop.cancel();
            task.await.unwrap();
        }
    }
}
