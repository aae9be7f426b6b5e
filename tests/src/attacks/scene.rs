//! The service that is attacked, its tenants, and what the attackers were answered.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::RequestBuilder;
use serde_json::json;
use tokio::time::timeout;

use crate::{Answer, Client, Dev, DevOptions, RedisServer, redis};

/// What attackers do between a refusal and the next try.
const PAUSE: Duration = Duration::from_millis(50);
/// Sockets that a scene needs on each side.
const SOCKETS: u64 = 6_000;

/// `umbel dev`, hostile tenants and a quiet one.
#[derive(Debug)]
pub struct Scene {
    pub dev: Dev,
    pub redis: Option<RedisServer>,
    /// The attackers.
    pub hostile: [Client; 2],
    pub quiet: Client,
    lasts: Duration,
    answers: Mutex<BTreeMap<String, u64>>,
    next: AtomicU64,
}

impl Scene {
    pub(super) async fn start(on_redis: bool, arguments: &[&str], lasts: Duration) -> Result<Self> {
        allow_sockets()?;
        let redis = on_redis.then(redis);
        let options = DevOptions {
            broker: redis.as_ref().map(RedisServer::url),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            ..DevOptions::default()
        };
        let mut dev = Dev::with(options).await?;
        let clients = dev.tenants(&["a-hostile", "b-hostile", "quiet"]).await?;
        let [first, second, quiet] = clients.try_into().ok().context("three clients")?;
        let hostile = [first, second];
        quiet.push("numbers").await?;
        quiet.result("add", json!([1, 2])).await?;
        let (answers, next) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { dev, redis, hostile, quiet, lasts, answers, next })
    }

    /// A number that was not given out before.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes requests by so many at once, as long as the attack lasts. Refusals and lost connections are counted.
    pub async fn repeat(&self, at_once: usize, request: impl AsyncFn(usize) -> Result<RequestBuilder>) -> Result<()> {
        let request = &request;
        let caller = |caller: usize| async move {
            loop {
                if !self.ask(request(caller).await?).await {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        // What is under way in the end is given up.
        timeout(self.lasts, try_join_all((0..at_once).map(caller))).await.unwrap_or(Ok(Vec::<()>::new())).map(drop)
    }

    /// Waits as long as an attack lasts that needs no requests.
    pub async fn last(&self) {
        tokio::time::sleep(self.lasts).await;
    }

    /// One request of an attacker: whether it was served.
    pub async fn ask(&self, request: RequestBuilder) -> bool {
        match self.quiet.send(request).await {
            Ok(answer) => self.saw(&answer),
            Err(_) => {
                self.count("no answer".to_owned());
                false
            }
        }
    }

    /// Counts an answer to an attacker: whether it was served.
    pub fn saw(&self, answer: &Answer) -> bool {
        self.count(format!("{} {}", answer.status, answer.code()).trim_end().to_owned());
        answer.status < 300
    }

    /// Counts something.
    pub fn count(&self, what: String) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// Ends the service in order; the answers that attackers had.
    pub(super) async fn end(self) -> Result<Vec<(String, u64)>> {
        let Self { mut dev, answers, .. } = self;
        ensure!(!dev.process.output().contains("panicked at"), "it panicked:\n{}", dev.process.output());
        dev.process.check_alive()?;
        dev.process.kill()?;
        Ok(answers.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect())
    }
}

/// Raises this process's limit of open files, which its children inherit, as far as it may be raised.
fn allow_sockets() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local of the right type.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    ensure!(read == 0, "the limit of open files cannot be read");
    limit.rlim_cur = limit.rlim_cur.max(limit.rlim_max.min(SOCKETS));
    // SAFETY: as above.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    ensure!(set == 0, "the limit of open files cannot be raised");
    Ok(())
}

/// Most sockets that an attack may open in this process.
pub(super) fn sockets(wanted: usize) -> Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local of the right type.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    ensure!(read == 0, "the limit of open files cannot be read");
    let most = usize::try_from(limit.rlim_cur).context("a limit of open files")?;
    Ok(wanted.min(most.saturating_sub(500)))
}
