//! Draws random cases, and shows the smallest one that fails.

use std::{fmt::Debug, future::Future, panic::AssertUnwindSafe};

use futures::FutureExt;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// A number from the environment.
pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// `UMBEL_SEED`, or one made of the time.
pub(super) fn seed() -> u64 {
    let random =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    number("UMBEL_SEED").unwrap_or_else(random)
}

/// Attempts `count` random cases. A failing one is shrunk and shown with the seed.
pub(super) async fn search<S, A, F>(what: &str, strategy: S, count: u32, seed: u64, attempt: A)
where
    S: Strategy,
    S::Value: Debug + Clone,
    A: Fn(S::Value) -> F,
    F: Future<Output = Result<(), String>>,
{
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for number in 0..count {
        let mut tree = strategy.new_tree(&mut runner).expect("the strategy's filters let most cases pass");
        let Err(first) = guarded(&attempt, tree.current()).await else { continue };
        let mut smallest = (tree.current(), first);
        // Shrinking is for the reader; a bound keeps a failing run short.
        for _ in 0..2_000 {
            if !tree.simplify() {
                break;
            }
            let mut case = tree.current();
            let mut failed = guarded(&attempt, case.clone()).await;
            while failed.is_ok() && tree.complicate() {
                case = tree.current();
                failed = guarded(&attempt, case.clone()).await;
            }
            match failed {
                Err(why) => smallest = (case, why),
                Ok(()) => break,
            }
        }
        panic!("{what} {number} of seed {seed} differs: {}\n{:#?}", smallest.1, smallest.0);
    }
}

/// A panic is a failure like any other.
async fn guarded<V, A, F>(attempt: &A, case: V) -> Result<(), String>
where
    A: Fn(V) -> F,
    F: Future<Output = Result<(), String>>,
{
    match AssertUnwindSafe(attempt(case)).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into())),
    }
}
