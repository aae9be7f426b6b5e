//! sub-queues, limits, controls and unique keys on a file: what a restart, a kill and a full disk leave of them, and what
//! many keys cost.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use umbel_broker_conformance::MemoryBroker;
use umbel_model::{Failure, OnWorkerLost, Rate};

use super::*;

pub(super) fn task(name: &str) -> TaskName {
    TaskName::new(name).unwrap()
}

pub(super) fn with_broker_options(n: u64, of: &str, broker_options: BrokerOptions) -> NewJob {
    NewJob { task: task(of), broker_options: Some(Box::new(broker_options)), ..new_job(n) }
}

/// A job with a cap on its key.
pub(super) fn keyed(n: u64, key: &str, cap: u32) -> NewJob {
    let limits = JobLimits { key: Some(key.to_owned()), key_concurrency: cap, ..JobLimits::default() };
    with_broker_options(n, "mail", BrokerOptions { limits: Some(limits), ..BrokerOptions::default() })
}

/// A cap on a task.
fn capped(concurrency: u32) -> BrokerOptions {
    BrokerOptions { limits: Some(JobLimits { concurrency, ..JobLimits::default() }), ..BrokerOptions::default() }
}

/// A job whose task starts at most once in so many milliseconds.
pub(super) fn rated(n: u64, of: &str, period_ms: u64) -> NewJob {
    let rate = Some(Rate { count: 1, period_ms, burst: 1 });
    with_broker_options(
        n,
        of,
        BrokerOptions { limits: Some(JobLimits { rate, ..JobLimits::default() }), ..BrokerOptions::default() },
    )
}

pub(super) fn unique(n: u64, key: &str, wins: Wins, for_ms: u64) -> NewJob {
    let unique = Some(Unique { key: key.to_owned(), wins, for_ms, max_wait_ms: 0 });
    with_broker_options(n, "alone", BrokerOptions { unique, ..BrokerOptions::default() })
}

pub(super) fn fail(delivery: &Delivery) -> Settle {
    Settle { resolution: Resolution::Fail { failure: Failure::new("Void", "no order") }, ..succeed(delivery) }
}

pub(super) async fn assert_sound(broker: &SqliteBroker) {
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

/// A file and the model, both closed and opened before each step.
struct Restarting {
    folder: tempfile::TempDir,
    real: Option<SqliteBroker>,
    model: MemoryBroker,
    clocks: [Arc<AtomicU64>; 2],
    clock: Clock,
}

/// The same on both; their answers must be the same.
macro_rules! same {
    ($pair:ident, |$broker:ident| $ask:expr) => {{
        $pair.model.reopen();
        let expected = {
            let $broker: &dyn Broker = &$pair.model;
            $ask.await.unwrap()
        };
        let answer = {
            let $broker: &dyn Broker = $pair.reopened();
            $ask.await.unwrap()
        };
        assert_eq!(format!("{answer:?}"), format!("{expected:?}"));
        answer
    }};
}

impl Restarting {
    fn new() -> Self {
        let ((model_clock, a), (clock, b)) = (Clock::manual(1_800_000_000_000), Clock::manual(1_800_000_000_000));
        let model = MemoryBroker::new(model_clock, Limits::default());
        Self { folder: tempfile::tempdir().unwrap(), real: None, model, clocks: [a, b], clock }
    }

    fn reopened(&mut self) -> &SqliteBroker {
        drop(self.real.take());
        let config = SqliteConfig { clock: self.clock.clone(), ..config(self.folder.path()) };
        self.real.insert(SqliteBroker::open(config).unwrap())
    }

    fn pass(&self, ms: u64) {
        for clock in &self.clocks {
            clock.fetch_add(ms, Ordering::SeqCst);
        }
    }
}

#[tokio::test]
async fn a_restart_changes_no_lane_park_control_or_unique_key() {
    let mut pair = Restarting::new();
    let patch = |concurrency| ControlPatch { concurrency: Some(concurrency), ..ControlPatch::default() };
    let paused = |paused| ControlPatch { paused: Some(paused), ..ControlPatch::default() };
    let slow = NewJob { priority: 7, ..rated(1, "slow", 1_000) };
    let mut jobs = vec![slow, rated(2, "slow", 1_000), unique(3, "u", Wins::First, 5_000)];
    jobs.extend((10..22).map(|n| keyed(n, ["a", "b", "c"][n as usize % 3], 2)));
    jobs.extend((30..40).map(new_job));
    same!(pair, |broker| broker.submit(&jobs));
    let scopes = [Scope::Tenant, Scope::Queue(QueueName::default()), Scope::Task(task("add"))];
    for (scope, cap) in scopes.iter().zip([9, 7, 2]) {
        same!(pair, |broker| broker.set_control(tenant_ref(), scope, &patch(cap)));
    }
    let mut held = Vec::new();
    for round in 0..60 {
        let claim = claim(round, 3);
        held.extend(same!(pair, |broker| broker.claim(&claim)));
        let change = match round {
            5 | 7 => Some((&scopes[0], paused(round == 5))),
            9 | 15 => Some((&scopes[2], paused(round == 9))),
            _ => None,
        };
        if let Some((scope, patch)) = change {
            same!(pair, |broker| broker.set_control(tenant_ref(), scope, &patch));
        }
        if let Some(delivery) = held.pop().filter(|_| round % 2 == 1) {
            let settle = if round % 3 == 0 { fail(&delivery) } else { succeed(&delivery) };
            same!(pair, |broker| broker.settle(std::slice::from_ref(&settle), None));
        }
        let again = [unique(100 + round, "u", Wins::First, 0), unique(200 + round, "v", Wins::Latest, 0)];
        same!(pair, |broker| broker.submit(&again));
        pair.pass(170);
        same!(pair, |broker| broker.promote(10));
        same!(pair, |broker| broker.queues(tenant_ref()));
        same!(pair, |broker| broker.controls(tenant_ref()));
        same!(pair, |broker| broker.ready_queues());
    }
    assert_sound(pair.reopened()).await;
}

#[tokio::test]
async fn tenants_are_level_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteBroker::open(config(folder.path())).unwrap();
    let of = |name: &str, n| NewJob { tenant: TenantId::new(name).unwrap(), ..new_job(n) };
    open().submit(&[of("a", 1), of("a", 2), of("a", 3), of("b", 4), of("b", 5)]).await.unwrap();
    let mut claimed = Vec::new();
    for round in 0..4 {
        claimed.extend(open().claim(&claim(round, 1)).await.unwrap().iter().map(|delivery| delivery.id));
    }
    assert_eq!(claimed, [1, 2, 3, 4].map(job_id));
}

#[tokio::test]
async fn ten_thousand_keys_that_are_used_up_do_not_make_a_claim_slow() {
    let broker = SqliteBroker::in_memory().unwrap();
    // Two jobs for each key, of which one may run.
    for part in 0..20 {
        let jobs: Vec<NewJob> =
            (0..1_000).map(|n| keyed(part * 1_000 + n, &format!("k{}", (part * 1_000 + n) % 10_000), 1)).collect();
        broker.submit(&jobs).await.unwrap();
    }
    let mut held = Vec::new();
    let mut seed = 0;
    while held.len() < 10_000 {
        seed += 1;
        held.extend(broker.claim(&claim(seed, 500)).await.unwrap());
    }
    // All that is left is met once, and parked.
    while !broker.ready_queues().await.unwrap().is_empty() {
        seed += 1;
        assert!(broker.claim(&claim(seed, 500)).await.unwrap().is_empty());
    }
    let started = Instant::now();
    for n in 0..200 {
        broker.submit(&[new_job(50_000 + n)]).await.unwrap();
        let next = broker.claim(&claim(100_000 + n, 10)).await.unwrap();
        assert_eq!(next.iter().map(|d| d.id).collect::<Vec<_>>(), [job_id(50_000 + n)]);
        // The end of one job opens its key, and no other.
        let (settled, opened) =
            broker.settle(&[succeed(&held[n as usize])], Some(&claim(200_000 + n, 10))).await.unwrap();
        assert_eq!((settled[0], opened.len()), (Settled::Recorded, 1));
    }
    // Some ten times what it takes in a build for tests; a look at all keys would take hundreds of times as long.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_sound(&broker).await;
}

#[tokio::test]
async fn a_full_file_loses_no_lane_park_control_or_unique_key() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_800_000_000_000).0;
    let config = SqliteConfig { max_size_bytes: 1 << 20, clock, ..config(folder.path()) };
    let broker = SqliteBroker::open(config.clone()).unwrap();
    let jobs: Vec<NewJob> = (0..30).map(|n| keyed(n, ["a", "b"][n as usize % 2], 1)).collect();
    broker.submit(&jobs).await.unwrap();
    broker.submit(&[unique(50, "u", Wins::First, 0)]).await.unwrap();
    let held = broker.claim(&claim(1, 10)).await.unwrap();
    assert_eq!(held.len(), 3);
    let filler = QueueName::new("filler").unwrap();
    for n in 1_000.. {
        if broker.submit(&[NewJob { queue: filler.clone(), ..sized_job(n, 20_000) }]).await.is_err() {
            break;
        }
    }
    // Beyond the reserve as well: what has no room leaves no trace, in memory either.
    let large = |delivery: &Delivery| {
        let result = format!("\"{}\"", "x".repeat(4 << 20));
        let result = Some(serde_json::value::RawValue::from_string(result).unwrap());
        Settle { resolution: Resolution::Succeed { result }, ..succeed(delivery) }
    };
    for delivery in &held {
        let answer = broker.settle(&[large(delivery)], Some(&claim(2, 10))).await;
        assert!(matches!(answer, Err(Error::Full(_))), "{answer:?}");
    }
    assert!(matches!(broker.submit(&[unique(51, "u", Wins::Latest, 0)]).await, Err(Error::Full(_))));
    assert_sound(&broker).await;
    assert!(broker.claim(&claim(3, 10)).await.unwrap().is_empty());
    let keyed_one = held.iter().find(|delivery| delivery.id < job_id(30)).unwrap();
    let patch = ControlPatch { concurrency: Some(3), ..ControlPatch::default() };
    broker.set_control(&tenant(), &Scope::Task(task("mail")), &patch).await.unwrap();
    let (settled, next) = broker.settle(&[succeed(keyed_one)], Some(&claim(4, 10))).await.unwrap();
    assert_eq!((settled[0], next.len()), (Settled::Recorded, 1));
    drop(broker);
    let broker = SqliteBroker::open(config).unwrap();
    assert_eq!(broker.controls(&tenant()).await.unwrap().len(), 1);
    assert_sound(&broker).await;
}

#[tokio::test]
async fn a_job_that_may_run_once_is_not_run_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = SqliteBroker::open(config(folder.path())).unwrap();
    let once = |n, on_lost| with_broker_options(n, "once", BrokerOptions { on_lost, ..BrokerOptions::default() });
    let jobs = [once(1, OnWorkerLost::Fail), once(2, OnWorkerLost::Dead), once(3, OnWorkerLost::Requeue)];
    broker.submit(&jobs).await.unwrap();
    assert_eq!(broker.claim(&claim(1, 10)).await.unwrap().len(), 3);
    drop(broker);
    let broker = SqliteBroker::open(config(folder.path())).unwrap();
    assert_eq!(broker.reap(10).await.unwrap(), Reaped { requeued: 1, buried: 1, failed: 1, revoked: 0 });
    assert_eq!(broker.queues(&tenant()).await.unwrap()[0].dead, 1);
    assert_sound(&broker).await;
}

#[tokio::test]
async fn a_cap_of_many_queues_opens_and_parks_all_of_them_as_the_model_does() {
    let mut pair = Restarting::new();
    let queues: Vec<QueueName> = (0..24).map(|n| QueueName::new(format!("q{n}")).unwrap()).collect();
    let in_queue =
        |n: u64, job: NewJob| NewJob { queue: queues[n as usize % 24].clone(), priority: n as u8 % 10, ..job };
    let mut jobs: Vec<NewJob> = (0..72).map(|n| in_queue(n, keyed(n, ["a", "b"][n as usize / 24 % 2], 1))).collect();
    jobs.extend((100..172).map(|n| in_queue(n, with_broker_options(n, "capped", capped(2)))));
    jobs.extend((200..248).map(|n| in_queue(n, new_job(n))));
    same!(pair, |broker| broker.submit(&jobs));
    let patch = |concurrency| ControlPatch { concurrency: Some(concurrency), ..ControlPatch::default() };
    let mut held = Vec::new();
    for round in 0..150 {
        // First its tasks and keys are used up, then the tenant.
        if round == 30 || round == 90 {
            same!(pair, |broker| broker.set_control(tenant_ref(), &Scope::Tenant, &patch(4 * (round == 30) as u32)));
        }
        let request = Claim { queues: queues.clone().into(), ..claim(round, 5) };
        held.extend(same!(pair, |broker| broker.claim(&request)));
        if !held.is_empty() && round % 2 == 1 {
            let ended: Vec<Settle> = [held.remove(0)].iter().map(succeed).collect();
            let then =
                (round % 4 == 1).then(|| Claim { token_seed: Token::new(format!("t{round}")).unwrap(), ..request });
            held.extend(same!(pair, |broker| broker.settle(&ended, then.as_ref())).1);
        }
        same!(pair, |broker| broker.ready_queues());
    }
    same!(pair, |broker| broker.queues(tenant_ref()));
    assert_sound(pair.reopened()).await;
}
