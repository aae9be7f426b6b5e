//! Answers of the broker that are kept for a moment: for as long as one may be used, and for as many bytes.
//!
//! Invariant: what is answered held at most so long ago, however slowly the broker answered. An error is not kept.

use std::{
    fmt,
    hash::Hash,
    time::{Duration, Instant},
};

use moka::future::Cache;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

/// Bytes of the answers of one kind, about.
const KEPT_BYTES: u64 = 16 << 20;

/// Answers by what was asked.
pub(crate) struct Fresh<K, V> {
    /// Where the broker is asked: never on the guests' threads.
    background: Handle,
    kept_for: Duration,
    kept: Cache<K, Answer<V>>,
}

#[derive(Clone)]
struct Answer<V> {
    asked_at: Instant,
    value: V,
}

impl<K, V> fmt::Debug for Fresh<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh").field("kept_for", &self.kept_for).finish_non_exhaustive()
    }
}

impl<K, V> Fresh<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// `bytes` says how many an answer takes, about.
    pub(crate) fn new(
        background: Handle,
        kept_for: Duration,
        bytes: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
    ) -> Self {
        let weigh = move |key: &K, answer: &Answer<V>| u32::try_from(bytes(key, &answer.value)).unwrap_or(u32::MAX);
        let kept = Cache::builder().weigher(weigh).max_capacity(KEPT_BYTES).time_to_live(kept_for).build();
        Self { background, kept_for, kept }
    }

    /// The answer for `key`, by `read` if none is kept; those who ask at once share one. `unavailable` when it cannot be had in time.
    pub(crate) async fn get<E, F>(&self, key: &K, read: impl Fn() -> F, unavailable: fn() -> E) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        for _ in 0..2 {
            let asking = async {
                let asked_at = Instant::now();
                let reading = AbortOnDropHandle::new(self.background.spawn(read()));
                let value = reading.await.unwrap_or_else(|_| Err(unavailable()))?;
                Ok(Answer { asked_at, value })
            };
            let answer = self
                .kept
                .try_get_with_by_ref(key, asking)
                .await
                .map_err(|error: std::sync::Arc<E>| (*error).clone())?;
            // A broker that answers slowly says how it was when it was asked.
            if answer.asked_at.elapsed() < self.kept_for {
                return Ok(answer.value);
            }
            self.kept.invalidate(key).await;
        }
        Err(unavailable())
    }

    /// As if the time of all answers were over.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.kept.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };

    use super::*;

    #[tokio::test]
    async fn an_answer_is_used_again_until_its_time_is_over() {
        let (asked, hour) = (Arc::new(AtomicU32::new(0)), Duration::from_secs(3_600));
        let fresh = Fresh::new(Handle::current(), hour, |_: &&str, _: &u32| 1);
        let read = || {
            let asked = asked.clone();
            async move { Ok::<_, &str>(asked.fetch_add(1, SeqCst)) }
        };
        assert_eq!(fresh.get(&"a", read, || "late").await, Ok(0));
        assert_eq!(fresh.get(&"a", read, || "late").await, Ok(0));
        assert_eq!(fresh.get(&"b", read, || "late").await, Ok(1));
        fresh.forget();
        assert_eq!(fresh.get(&"a", read, || "late").await, Ok(2));
    }

    #[tokio::test]
    async fn an_answer_that_took_longer_than_it_may_be_used_is_asked_for_again_and_then_refused() {
        let asked = AtomicU32::new(0);
        let fresh = Fresh::new(Handle::current(), Duration::ZERO, |_: &&str, _: &u32| 1);
        let read = || {
            asked.fetch_add(1, SeqCst);
            async { Ok(1) }
        };
        assert_eq!(fresh.get(&"a", read, || "late").await, Err("late"));
        assert_eq!(asked.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn an_error_and_a_panic_are_not_kept() {
        let asked = Arc::new(AtomicU32::new(0));
        let fresh = Fresh::new(Handle::current(), Duration::from_secs(3_600), |_: &&str, _: &u32| 1);
        let read = || {
            let nth = asked.fetch_add(1, SeqCst);
            async move {
                assert!(nth != 1, "the second one panics");
                if nth == 0 { Err("no") } else { Ok(nth) }
            }
        };
        assert_eq!(fresh.get(&"a", read, || "late").await, Err("no"));
        assert_eq!(fresh.get(&"a", read, || "late").await, Err("late"));
        assert_eq!(fresh.get(&"a", read, || "late").await, Ok(2));
    }
}
