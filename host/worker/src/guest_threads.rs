//! The guests' own threads: the usual ones, and as many apart for tenants whose guests hold a thread.
//!
//! A guest yields at each tick of the epoch, and so leaves its thread to others. But a single instruction may take far longer:
//! `memory.fill` of a memory that nobody has touched, the copies of a call of the host, the end of a large instance. Whatever it
//! is, it is seen as a poll of an attempt that computed for too long. Attempts of that tenant then run on threads apart for a
//! while (`Reserve`), and the operating system shares the cores between both groups in turns of a few milliseconds.

use std::{
    cell::Cell,
    pin::pin,
    time::{Duration, Instant},
};

use tokio::runtime::{Handle, Runtime};

use crate::operating_system::thread_time;

/// A poll that computes for longer holds its thread: four ticks of the epoch.
const HOLDS: Duration = Duration::from_millis(20);
/// The time that a thread has computed is read so seldom: that takes as long as a tenth of a small attempt.
const READ_EVERY: Duration = Duration::from_millis(5);

/// Polls an attempt to its end; calls `held` after each poll that held its thread, with how long it computed.
pub(crate) async fn watched<T>(attempt: impl Future<Output = T>, held: impl Fn(Duration)) -> T {
    let mut attempt = pin!(attempt);
    std::future::poll_fn(|cx| {
        let begun = Instant::now();
        let computed = recent_thread_time(begun);
        let polled = attempt.as_mut().poll(cx);
        // Not the time that others had the core.
        if begun.elapsed() >= HOLDS {
            let computed = thread_time().saturating_sub(computed);
            if computed >= HOLDS {
                held(computed);
            }
        }
        polled
    })
    .await
}

/// A poll that takes longer may have shared its core: what its thread computed says more than the time.
const SHORT: Duration = Duration::from_millis(2);

/// Polls an attempt to its end; answers how long it had a thread, too. A poll counts as the time that it took, if that is short,
/// which costs no system call; of longer ones, what their thread computed.
pub(crate) async fn computing<T>(attempt: impl Future<Output = T>) -> (T, Duration) {
    let (mut attempt, mut all) = (pin!(attempt), Duration::ZERO);
    let ended = std::future::poll_fn(|cx| {
        let begun = Instant::now();
        let computed = recent_thread_time(begun);
        let polled = attempt.as_mut().poll(cx);
        let took = begun.elapsed();
        // What was read last may be from before this poll.
        all += if took < SHORT { took } else { read_thread_time().saturating_sub(computed).min(took) };
        polled
    })
    .await;
    (ended, all)
}

thread_local!(static READ: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) });

/// What the calling thread has computed, for those that ask soon again.
fn read_thread_time() -> Duration {
    let computed = thread_time();
    READ.set(Some((Instant::now(), computed)));
    computed
}

/// What the calling thread had computed at most `READ_EVERY` ago.
fn recent_thread_time(now: Instant) -> Duration {
    match READ.get() {
        Some((at, computed)) if now < at + READ_EVERY => computed,
        _ => read_thread_time(),
    }
}

/// See the top of the file. Stopped without waiting when dropped.
pub(crate) struct GuestThreads {
    usual: Option<Runtime>,
    apart: Option<Runtime>,
}

impl GuestThreads {
    /// So many of each kind.
    pub(crate) fn start(threads: u32) -> Result<Self, crate::Error> {
        Ok(Self { usual: Some(start(threads, "umbel-guest")?), apart: Some(start(threads, "umbel-apart")?) })
    }

    /// Those of most guests.
    pub(crate) fn usual(&self) -> Handle {
        handle(&self.usual)
    }

    /// Those of tenants whose guests hold threads.
    pub(crate) fn apart(&self) -> Handle {
        handle(&self.apart)
    }
}

fn handle(runtime: &Option<Runtime>) -> Handle {
    runtime.as_ref().expect("the runtime is there until it is dropped").handle().clone()
}

fn start(threads: u32, name: &str) -> Result<Runtime, crate::Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads as usize)
        .max_blocking_threads(4)
        .thread_name(name)
        .on_thread_start(crate::operating_system::give_way)
        // A poll here is as long as a tick of the epoch, and not the microseconds that tokio's defaults are made for: an
        // attempt that begins, and a timer, must not wait for sixty of them.
        .global_queue_interval(2)
        .event_interval(8)
        .enable_time()
        .build()
        .map_err(crate::Error::Threads)
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        for runtime in [self.usual.take(), self.apart.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// On one thread, beside twenty that are always busy.
    #[test]
    fn an_attempt_that_begins_does_not_wait_for_many_turns_of_those_that_run() {
        let threads = GuestThreads::start(1).unwrap();
        let (turns, (begun, seen)) = (Arc::new(AtomicU32::new(0)), std::sync::mpsc::channel());
        for _ in 0..20 {
            let (turns, begun, handle) = (turns.clone(), begun.clone(), threads.usual());
            threads.usual().spawn(async move {
                loop {
                    let turn = turns.fetch_add(1, Ordering::SeqCst);
                    if turn == 1_000 {
                        let (turns, begun) = (turns.clone(), begun.clone());
                        let attempt = async move { begun.send(turns.load(Ordering::SeqCst) - turn) };
                        // From outside, as the poll loop does it, while this turn lasts.
                        std::thread::scope(|scope| scope.spawn(|| handle.spawn(attempt)).join().map(drop)).unwrap();
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        let waited = seen.recv().unwrap();
        assert!(waited < 10, "{waited} turns");
    }

    #[tokio::test]
    async fn an_attempt_has_a_thread_while_it_computes_and_not_while_it_waits() {
        let waits = async {
            tokio::time::sleep(10 * HOLDS).await;
            7
        };
        let begun = Instant::now();
        let (answer, took) = computing(waits).await;
        assert!(answer == 7 && took < begun.elapsed() / 2, "{took:?}");
        let computes = async {
            for _ in 0..4 {
                let begun = thread_time();
                while thread_time() < begun + HOLDS {}
                tokio::task::yield_now().await;
            }
        };
        let (begun, before) = (Instant::now(), thread_time());
        let ((), took) = computing(computes).await;
        assert!(took >= 4 * HOLDS && took <= begun.elapsed(), "{took:?}");
        assert!(took <= thread_time() - before + READ_EVERY, "{took:?}");
    }

    #[tokio::test]
    async fn a_poll_that_computes_for_long_holds_its_thread_and_one_that_waits_does_not() {
        let held = AtomicU32::new(0);
        let count = |_| _ = held.fetch_add(1, Ordering::SeqCst);
        let waits = async {
            std::thread::sleep(2 * HOLDS);
            tokio::task::yield_now().await;
        };
        watched(waits, count).await;
        assert_eq!(held.load(Ordering::SeqCst), 0);
        let computes = async {
            for _ in 0..2 {
                let begun = thread_time();
                while thread_time() < begun + HOLDS + READ_EVERY {}
                tokio::task::yield_now().await;
            }
        };
        watched(computes, count).await;
        assert_eq!(held.load(Ordering::SeqCst), 2);
    }
}
