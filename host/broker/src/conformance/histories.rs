//! Random histories: the same operations on a broker and on the in-memory model, with every answer compared.
//!
//! Crashes are deliveries that nobody settles, lost replies are operations done again, and stale workers settle and
//! renew with any token that was ever given out. The clock jumps, also backwards.

use std::{collections::BTreeMap, future::Future, panic::AssertUnwindSafe};

use futures::FutureExt;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use umbel_model::AttemptRecord;

use super::*;

/// How many histories, of how many steps.
#[derive(Debug, Clone)]
pub struct Histories {
    pub count: u32,
    pub max_steps: usize,
    pub seed: u64,
}

impl Histories {
    /// 10,000 histories of up to 40 steps; `UMBEL_HISTORIES` and `UMBEL_SEED` choose others.
    pub fn from_env() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        let random =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        Self {
            count: number("UMBEL_HISTORIES").unwrap_or(10_000) as u32,
            max_steps: 40,
            seed: number("UMBEL_SEED").unwrap_or_else(random),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Submit(Vec<Wish>),
    Claim {
        queues: u8,
        max: u32,
    },
    /// Of any delivery ever made.
    Renew {
        delivery: usize,
        logs: u8,
    },
    Settle {
        delivery: usize,
        how: How,
        claim: bool,
    },
    Promote {
        max: u32,
    },
    Reap {
        max: u32,
    },
    Prune {
        max: u32,
    },
    Cancel {
        tenant: u8,
        job: u8,
    },
    RunNow {
        tenant: u8,
        job: u8,
    },
    Pause {
        tenant: u8,
        queue: u8,
        paused: bool,
    },
    List {
        tenant: u8,
        dead: bool,
        state: Option<JobState>,
        before: Option<u8>,
        max: u32,
    },
    Pass {
        ms: i64,
    },
}

#[derive(Debug, Clone)]
struct Wish {
    tenant: u8,
    job: u8,
    queue: u8,
    priority: u8,
    start: Start,
    expires_ms: u64,
    key: Option<(u8, u8)>,
    redrive: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Succeed,
    SucceedUnkept,
    Fail,
    Retry(u64),
    Snooze(u64),
    Revoke,
    Release,
}

const TENANTS: [&str; 3] = ["a", "b", "c"];
const QUEUES: [&str; 2] = ["q1", "q2"];
/// Few ids, so that they meet again.
const JOBS: u8 = 24;

fn wish() -> impl Strategy<Value = Wish> {
    let start = prop_oneof![
        4 => Just(Start::Now),
        1 => (1..3_000_u64).prop_map(Start::After),
        1 => (0..3_000_u64).prop_map(|ms| Start::At(START_MS + ms)),
    ];
    let key = prop::option::weighted(0.2, (0..3_u8, 0..2_u8));
    let expires = prop_oneof![3 => Just(0), 1 => 1..4_000_u64];
    let redrive = prop::option::weighted(0.1, 0..JOBS);
    (0..3_u8, 0..JOBS, 0..2_u8, 0..10_u8, start, expires, key, redrive).prop_map(
        |(tenant, job, queue, priority, start, expires_ms, key, redrive)| Wish {
            tenant,
            job,
            queue,
            priority,
            start,
            expires_ms,
            key,
            redrive,
        },
    )
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Succeed),
        1 => Just(How::SucceedUnkept),
        2 => Just(How::Fail),
        2 => (0..2_000_u64).prop_map(How::Retry),
        1 => (0..2_000_u64).prop_map(How::Snooze),
        1 => Just(How::Revoke),
        1 => Just(How::Release),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop::option::of(prop::sample::select(JobState::ALL.to_vec()));
    prop_oneof![
        6 => prop::collection::vec(wish(), 1..5).prop_map(Step::Submit),
        6 => (0..3_u8, 0..6_u32).prop_map(|(queues, max)| Step::Claim { queues, max }),
        2 => (any::<usize>(), 0..4_u8).prop_map(|(delivery, logs)| Step::Renew { delivery, logs }),
        7 => (any::<usize>(), how(), any::<bool>()).prop_map(|(delivery, how, claim)| Step::Settle { delivery, how, claim }),
        3 => (0..8_u32).prop_map(|max| Step::Promote { max }),
        3 => (0..8_u32).prop_map(|max| Step::Reap { max }),
        1 => (0..8_u32).prop_map(|max| Step::Prune { max }),
        2 => (0..3_u8, 0..JOBS).prop_map(|(tenant, job)| Step::Cancel { tenant, job }),
        1 => (0..3_u8, 0..JOBS).prop_map(|(tenant, job)| Step::RunNow { tenant, job }),
        1 => (0..3_u8, 0..2_u8, any::<bool>()).prop_map(|(tenant, queue, paused)| Step::Pause { tenant, queue, paused }),
        1 => (0..3_u8, any::<bool>(), state, prop::option::of(0..JOBS), 1..6_u32)
            .prop_map(|(tenant, dead, state, before, max)| Step::List { tenant, dead, state, before, max }),
        4 => prop_oneof![0..1_500_i64, Just(15_000_i64), Just(70_000_i64), -500..0_i64].prop_map(|ms| Step::Pass { ms }),
    ]
}

/// Runs random histories on fresh subjects. A failing one is shrunk and shown with the seed.
pub async fn random_histories<M, F>(make: M, histories: Histories)
where
    M: Fn() -> F,
    F: Future<Output = Subject>,
{
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&histories.seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = prop::collection::vec(step(), 1..histories.max_steps);
    for number in 0..histories.count {
        let mut tree = strategy.new_tree(&mut runner).expect("the strategy has no filters");
        let Err(first) = attempt(&make, tree.current()).await else { continue };
        let mut smallest = (tree.current(), first);
        // Shrinking is for the reader; a bound keeps a failing run short.
        for _ in 0..2_000 {
            if !tree.simplify() {
                break;
            }
            let mut steps = tree.current();
            let mut failed = attempt(&make, steps.clone()).await;
            while failed.is_ok() && tree.complicate() {
                steps = tree.current();
                failed = attempt(&make, steps.clone()).await;
            }
            match failed {
                Err(why) => smallest = (steps, why),
                Ok(()) => break,
            }
        }
        panic!("history {number} of seed {} differs: {}\n{:#?}", histories.seed, smallest.1, smallest.0);
    }
}

async fn attempt<M, F>(make: &M, steps: Vec<Step>) -> Result<(), String>
where
    M: Fn() -> F,
    F: Future<Output = Subject>,
{
    let run = async {
        let subject = make().await;
        History::new(subject).run(steps).await
    };
    match AssertUnwindSafe(run).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into())),
    }
}

struct History {
    subject: Subject,
    model: MemoryBroker,
    deliveries: Vec<Delivery>,
    /// How each job was when it was first seen in a terminal state.
    ended: BTreeMap<(TenantId, JobId), String>,
}

impl History {
    fn new(subject: Subject) -> Self {
        let model = MemoryBroker::new(Clock::Manual(subject.now.clone()), limits());
        Self { subject, model, deliveries: Vec::new(), ended: BTreeMap::new() }
    }

    async fn run(mut self, steps: Vec<Step>) -> Result<(), String> {
        for (at, step) in steps.iter().enumerate() {
            let (expected, got) = self.both(step).await;
            if expected != got {
                return Err(format!("step {at}, {step:?}: expected {expected}, got {got}"));
            }
        }
        self.compare_all("at the end").await?;
        // Long after, nothing may be left.
        for _ in 0..6 {
            self.subject.pass(1_000_000);
            for step in [Step::Promote { max: 1_000 }, Step::Reap { max: 1_000 }, Step::Claim { queues: 2, max: 100 }] {
                let (expected, got) = self.both(&step).await;
                if expected != got {
                    return Err(format!("afterwards, {step:?}: expected {expected}, got {got}"));
                }
            }
        }
        self.compare_all("long after").await
    }

    /// The answers of the model and of the broker, as text.
    async fn both(&mut self, step: &Step) -> (String, String) {
        if let Step::Pass { ms } = step {
            let now = self.subject.now.load(Ordering::SeqCst);
            self.subject.now.store(now.saturating_add_signed(*ms), Ordering::SeqCst);
            return (String::new(), String::new());
        }
        let claim = match step {
            Step::Claim { queues, max } => Some(claim_of("w1", &QUEUES[..(*queues as usize).min(2)], *max)),
            Step::Settle { claim: true, .. } => Some(claim_of("w2", &QUEUES, 2)),
            _ => None,
        };
        let (expected, claimed) = perform(&self.model, step, claim.as_ref(), &self.deliveries).await;
        let (got, _) = perform(&*self.subject.broker, step, claim.as_ref(), &self.deliveries).await;
        self.deliveries.extend(claimed);
        (expected, got)
    }

    async fn compare_all(&mut self, when: &str) -> Result<(), String> {
        for name in TENANTS {
            let t = tenant(name);
            let (model, real) = (dump(&self.model, &t).await, dump(&*self.subject.broker, &t).await);
            if model.0 != real.0 {
                return Err(format!("{when}, tenant {name}: expected {}, got {}", model.0, real.0));
            }
            for record in real.1.into_iter().filter(|r| r.state.is_terminal()) {
                let key = (t.clone(), record.id);
                let shown = format!("{record:?}");
                let before = self.ended.entry(key).or_insert_with(|| shown.clone());
                if *before != shown {
                    return Err(format!("{when}: a terminal job changed from {before} to {shown}"));
                }
            }
        }
        Ok(())
    }
}

/// Everything a tenant can see, as text, and its jobs.
async fn dump(broker: &dyn Broker, tenant: &TenantId) -> (String, Vec<JobRecord>) {
    let all = |dead| JobQuery {
        tenant: tenant.clone(),
        dead,
        state: None,
        task: None,
        queue: None,
        before: None,
        max: 1_000,
    };
    let jobs = broker.jobs(&all(false)).await.unwrap().jobs;
    let dead: Vec<JobId> = broker.jobs(&all(true)).await.unwrap().jobs.iter().map(|j| j.id).collect();
    let mut logs = Vec::new();
    for job in &jobs {
        logs.push(broker.logs(tenant, job.id, 0, 100).await.unwrap().len());
    }
    let queues = broker.queues(tenant).await.unwrap();
    let ready = broker.ready_queues().await.unwrap();
    (format!("{jobs:?} dead {dead:?} logs {logs:?} queues {queues:?} ready {ready:?}"), jobs)
}

fn history_job(n: u8) -> JobId {
    job_id(n.into())
}

fn wished(wish: &Wish) -> NewJob {
    NewJob {
        id: history_job(wish.job),
        tenant: tenant(TENANTS[wish.tenant as usize]),
        queue: queue_name(QUEUES[wish.queue as usize]),
        priority: wish.priority,
        start: wish.start,
        expires_ms: wish.expires_ms,
        max_deliveries: 2 + u32::from(wish.job % 3),
        idempotency: wish.key.map(|(key, body)| Idempotency {
            key: format!("k{key}"),
            body: format!("b{body}"),
            ttl_ms: 2_000,
        }),
        redrive_of: wish.redrive.map(history_job),
        ..new_job(wish.job.into())
    }
}

fn settle_step(delivery: &Delivery, how: How) -> Settle {
    let resolution = match how {
        How::Succeed => succeed(r#"{"ok":true}"#),
        How::SucceedUnkept => Resolution::Succeed { result: None },
        How::Fail => fail(),
        How::Retry(ms) => retry(ms),
        How::Snooze(delay_ms) => Resolution::Snooze { delay_ms },
        How::Revoke => Resolution::Revoke,
        How::Release => Resolution::Release,
    };
    let record = AttemptRecord {
        attempt: delivery.retries + 1,
        delivery: delivery.delivery,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: START_MS,
        outcome: "error".into(),
        failure: None,
        usage: umbel_model::Usage::default(),
    };
    Settle { record: Some(record), logs: vec![line(1)], ..settle_of(delivery, resolution) }
}

/// Does one step; the answer as text, and what was claimed by it.
async fn perform(
    broker: &dyn Broker,
    step: &Step,
    claim: Option<&Claim>,
    deliveries: &[Delivery],
) -> (String, Vec<Delivery>) {
    let of = |n: u8| tenant(TENANTS[n as usize]);
    let pick = |n: usize| (!deliveries.is_empty()).then(|| &deliveries[n % deliveries.len()]);
    let mut claimed = Vec::new();
    let answer = match step {
        Step::Submit(wishes) => {
            let jobs: Vec<NewJob> = wishes.iter().map(wished).collect();
            format!("{:?}", broker.submit(&jobs).await)
        }
        Step::Claim { .. } => {
            claimed = broker.claim(claim.expect("made above")).await.unwrap();
            format!("{claimed:?}")
        }
        Step::Renew { delivery, logs } => match pick(*delivery) {
            Some(delivery) => {
                let progress = umbel_model::Progress { done: (*logs).into(), total: 9, message: "m".into() };
                let logs = (0..u64::from(*logs)).map(line).collect();
                let renewal = Renewal { logs, progress: Some(progress), ..renewal_of(delivery) };
                format!("{:?}", broker.renew(DEFAULT_LEASE_MS, &[renewal]).await)
            }
            None => String::new(),
        },
        Step::Settle { delivery, how, .. } => match pick(*delivery) {
            Some(delivery) => {
                let settle = settle_step(delivery, *how);
                let (settled, more) = broker.settle(&[settle.clone(), settle], claim).await.unwrap();
                claimed = more;
                format!("{settled:?} {claimed:?}")
            }
            None => String::new(),
        },
        Step::Promote { max } => format!("{:?}", broker.promote(*max).await),
        Step::Reap { max } => format!("{:?}", broker.reap(*max).await),
        Step::Prune { max } => format!("{:?}", broker.prune(*max).await),
        Step::Cancel { tenant, job } => format!("{:?}", broker.cancel(&of(*tenant), history_job(*job)).await),
        Step::RunNow { tenant, job } => format!("{:?}", broker.run_now(&of(*tenant), history_job(*job)).await),
        Step::Pause { tenant, queue, paused } => {
            format!("{:?}", broker.set_paused(&of(*tenant), &queue_name(QUEUES[*queue as usize]), *paused).await)
        }
        Step::List { tenant, dead, state, before, max } => {
            let query = JobQuery {
                tenant: of(*tenant),
                dead: *dead,
                state: *state,
                task: None,
                queue: None,
                before: before.map(history_job),
                max: *max,
            };
            format!("{:?} {:?}", broker.jobs(&query).await, broker.ready_queues().await)
        }
        Step::Pass { .. } => String::new(),
    };
    (answer, claimed)
}
