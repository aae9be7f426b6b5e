//! Random histories of workflows, on this broker and on the in-memory model, with every answer compared.
//!
//! Beside what the suite does with whole canvases this mixes everything with everything: submissions that are repeated
//! or left half done, cancels of any job and any workflow, stale settles, growth, small sweeps, jumps of the clock.

use std::sync::atomic::{AtomicU64, Ordering};

use umbel_broker_conformance as conformance;
use umbel_broker_conformance::MemoryBroker;
use umbel_model::{AttemptRecord, Failure, UnixMs, Usage, canvas::node_job};

use super::*;

const HISTORIES: u64 = 300;
const STEPS: u32 = 70;
const FLOWS: u64 = 12;

const CANVASES: [&str; 9] = [
    r#"{"task":"a"}"#,
    r#"{"chain":[{"task":"a"},{"task":"b","on_failure":"continue"},{"task":"c"}]}"#,
    r#"{"chord":[{"task":"a"},{"task":"b"},{"task":"c"}],"body":{"task":"z","link_error":[{"task":"e"}]}}"#,
    r#"{"chord":[{"task":"a"},{"task":"b"},{"task":"c","options":{"delay_ms":500}}],"cancel_rest":true,"body":{"task":"z"}}"#,
    r#"{"group":[{"chain":[{"task":"a"},{"task":"b"}]},{"group":[{"task":"c"},{"task":"d"}]},{"group":[]}]}"#,
    r#"{"chain":[{"task":"a"},{"group":[{"task":"b"},{"task":"c","on_failure":"ignore"}]},{"task":"z"}],
        "link":[{"task":"l"}],"link_error":[{"group":[{"task":"e"},{"task":"f"}]}]}"#,
    r#"{"chord":[],"body":{"task":"z"}}"#,
    r#"{"chain":[{"task":"a","options":{"expires_ms":300}},{"task":"b","options":{"queue":"other","delay_ms":50}}]}"#,
    r#"{"task":"a","link_error":[{"group":[]},{"chain":[{"task":"e"},{"task":"f"}]}]}"#,
];

/// Splitmix64: the same history for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

struct Pair {
    model: MemoryBroker,
    real: SqliteBroker,
    clocks: [Arc<AtomicU64>; 2],
    dice: Dice,
    given: Vec<Delivery>,
    /// Ids of workflows, children included, and of plain jobs.
    flows: u64,
    claims: u64,
    log: Vec<String>,
}

/// The same on both; their answers must be the same.
macro_rules! both {
    ($pair:ident, $what:expr, |$broker:ident| $ask:expr) => {{
        $pair.log.push(format!("{:?}", $what));
        let expected = {
            let $broker: &dyn Broker = &$pair.model;
            $ask.await.unwrap()
        };
        let answer = {
            let $broker: &dyn Broker = &$pair.real;
            $ask.await.unwrap()
        };
        assert_eq!(format!("{answer:?}"), format!("{expected:?}"), "after:\n{}", $pair.log.join("\n"));
        answer
    }};
}

impl Pair {
    fn new(seed: u64) -> Self {
        let start: UnixMs = conformance::START_MS;
        let ((model_clock, a), (clock, b)) = (Clock::manual(start), Clock::manual(start));
        let limits = Limits { max_backlog: 60, max_workflows: 6, ..conformance::limits() };
        Self {
            model: MemoryBroker::new(model_clock, limits.clone()),
            real: SqliteBroker::in_memory_with(clock, limits).unwrap(),
            clocks: [a, b],
            dice: Dice(seed),
            given: Vec::new(),
            flows: 0,
            claims: 0,
            log: vec![format!("seed {seed}")],
        }
    }

    fn pass(&self, ms: u64) {
        for clock in &self.clocks {
            clock.fetch_add(ms, Ordering::SeqCst);
        }
    }

    fn new_flow(&mut self) -> NewWorkflow {
        let n = self.flows;
        self.flows += 1;
        let canvas = CANVASES[self.dice.below(CANVASES.len() as u64) as usize];
        let mut new = flows::flow(n, canvas);
        new.head.deadline_ms = [0, 0, 400][self.dice.below(3) as usize];
        new.head.keep_ms = [0, 500][self.dice.below(2) as usize];
        if self.dice.below(4) == 0 {
            let (key, body) = (format!("k{}", self.dice.below(2)), format!("b{}", self.dice.below(2)));
            new.head.idempotency = Some(Idempotency { key, body, ttl_ms: 700 });
        }
        new
    }

    async fn submit(&mut self) {
        if self.flows >= FLOWS {
            return;
        }
        let new = self.new_flow();
        let (id, last) = (new.head.id, self.dice.below(6));
        both!(self, ("stage", &new.head), |broker| broker.stage_workflow(&new.head));
        let half = new.nodes.len() / 2;
        let parts = [(half, &new.nodes[half..]), (0, &new.nodes[..half]), (0, &new.nodes[..])];
        for (first, nodes) in &parts[..if last == 1 { 1 } else { 2 + self.dice.below(2) as usize }] {
            both!(self, ("nodes", id, first), |broker| broker.stage_nodes(tenant_ref(), id, *first as u32, nodes));
        }
        if last > 1 {
            both!(self, ("start", id), |broker| broker.start_workflow(tenant_ref(), id));
        }
        if last == 2 {
            both!(self, ("again", id), |broker| broker.start_workflow(tenant_ref(), id));
        }
    }

    fn request(&mut self) -> Claim {
        self.claims += 1;
        let named = ["default", "other"].map(|queue| QueueName::new(queue).unwrap()).to_vec();
        let queues = if self.dice.below(2) == 0 { named.into() } else { ClaimQueues::AllBut(Vec::new()) };
        Claim {
            queues,
            lease_ms: 300,
            in_row: self.dice.below(3) as u32,
            ..claim(self.claims, self.dice.below(5) as u32)
        }
    }

    async fn settle(&mut self) {
        let mut settles = Vec::new();
        for _ in 0..=self.dice.below(2) {
            if self.given.is_empty() {
                return;
            }
            // The newest are most likely held.
            let back = self.dice.below(6).min(self.given.len() as u64 - 1) as usize;
            let delivery = self.given[self.given.len() - 1 - back].clone();
            settles.push(self.settle_of(&delivery));
        }
        let then = (self.dice.below(2) == 0).then(|| self.request());
        let (_, claimed) = both!(self, ("settle", &settles, &then), |broker| broker.settle(&settles, then.as_ref()));
        self.given.extend(claimed);
    }

    fn settle_of(&mut self, delivery: &Delivery) -> Settle {
        let failure = Failure::new("Void", "no order");
        let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
        let mut settle = Settle {
            record: Some(AttemptRecord {
                attempt: delivery.retries + 1,
                delivery: delivery.delivery,
                worker: WorkerId::new("w1").unwrap(),
                ended_at: 1,
                outcome: "ended".into(),
                failure: None,
                usage: Usage::default(),
            }),
            ..succeed(delivery)
        };
        let mut growth = Growth::default();
        settle.resolution = match self.dice.below(13) {
            0..3 => Resolution::Succeed { result: Some(raw("[1]")) },
            3 => Resolution::Succeed { result: Some(raw(&format!("\"{}\"", "x".repeat(INLINE_INPUT_BYTES)))) },
            4..6 => Resolution::Fail { failure },
            6 => Resolution::Retry { delay_ms: 100, failure },
            7 => Resolution::Snooze { delay_ms: 100 },
            8 => Resolution::Release,
            9 => Resolution::Revoke,
            10 => {
                growth.members = Some(flows::members(
                    [r#"[{"task":"m"}]"#, r#"[{"chain":[{"task":"m"},{"task":"n"}]},{"group":[{"task":"o"}]}]"#, "[]"]
                        [self.dice.below(3) as usize],
                ));
                Resolution::Succeed { result: None }
            }
            11 => {
                growth.workflows.push(self.new_flow());
                Resolution::Succeed { result: None }
            }
            _ => {
                let mut child = self.new_flow();
                child.head.parent = Some(delivery.id);
                child.head.idempotency = None;
                let workflow = child.head.id;
                growth.workflows.push(child);
                Resolution::Replace { workflow }
            }
        };
        let grows = growth.members.is_some() || !growth.workflows.is_empty();
        settle.growth = grows.then(|| Box::new(growth));
        settle
    }

    fn any_job(&mut self) -> JobId {
        match self.dice.below(5) {
            0 => job_id(self.dice.below(4)),
            _ => node_job(flows::flow_id(self.dice.below(self.flows.max(1))), self.dice.below(8) as u32),
        }
    }

    async fn step(&mut self) {
        match self.dice.below(24) {
            0..3 => self.submit().await,
            3 => {
                let job = NewJob { result_ttl_ms: 100, dead_ttl_ms: 300, ..new_job(self.dice.below(4)) };
                both!(self, ("job", job.id), |broker| broker.submit(std::slice::from_ref(&job)));
            }
            4..8 => {
                let request = self.request();
                let claimed = both!(self, ("claim", &request), |broker| broker.claim(&request));
                self.given.extend(claimed);
            }
            8..16 => self.settle().await,
            16 => {
                let max = self.dice.below(4) as u32;
                both!(self, ("promote", max), |broker| broker.promote(max));
            }
            17 => {
                let max = self.dice.below(4) as u32;
                both!(self, ("reap", max), |broker| broker.reap(max));
            }
            18 => {
                let max = self.dice.below(7) as u32;
                both!(self, ("prune", max), |broker| broker.prune(max));
            }
            19 => {
                let ms = [1, 50, 200, 1_000, 700_000][self.dice.below(5) as usize];
                self.log.push(format!("pass {ms}"));
                self.pass(ms);
            }
            20 => {
                let id = self.any_job();
                both!(self, ("cancel", id), |broker| broker.cancel(tenant_ref(), id, true));
            }
            21 => {
                let id = flows::flow_id(self.dice.below(self.flows.max(1)));
                both!(self, ("cancel workflow", id), |broker| broker.cancel_workflow(tenant_ref(), id));
            }
            22 => {
                let id = self.any_job();
                both!(self, ("run now", id), |broker| broker.run_now(tenant_ref(), id));
            }
            _ => drop(both!(self, "follow", |broker| broker.follow(tenant_ref()))),
        }
    }

    async fn look(&mut self) {
        both!(self, "queues", |broker| broker.queues(tenant_ref()));
        let last = both!(self, "events", |broker| broker.events(tenant_ref(), 1, 0)).last;
        both!(self, "events", |broker| broker.events(tenant_ref(), last.saturating_sub(40), 99));
        for dead in [false, true] {
            let query = JobQuery {
                tenant: tenant(),
                dead,
                state: None,
                task: None,
                queue: None,
                worker: None,
                labels: Vec::new(),
                before: None,
                max: 99,
            };
            both!(self, ("jobs", dead), |broker| broker.jobs(&query));
        }
        let state = [None, Some(WorkflowState::Running), Some(WorkflowState::Failed)][self.dice.below(3) as usize];
        let (before, max) =
            (Some(flows::flow_id(9)).filter(|_| self.dice.below(2) == 0), 1 + self.dice.below(5) as u32);
        let query = WorkflowQuery { tenant: tenant(), state, before, max };
        both!(self, ("workflows", state), |broker| broker.workflows(&query));
        for id in (0..self.flows).map(flows::flow_id) {
            both!(self, ("workflow", id), |broker| broker.workflow(tenant_ref(), id));
            both!(self, ("nodes", id), |broker| broker.nodes(tenant_ref(), id, 0, 99, Results::Included));
            both!(self, ("values", id), |broker| broker.values(tenant_ref(), id, 1, 7));
        }
    }
}

async fn history(seed: u64) {
    let mut pair = Pair::new(seed);
    for step in 0..STEPS {
        pair.step().await;
        if step % 8 == 7 {
            pair.look().await;
        }
    }
    pair.look().await;
    // In the end all is over and deleted.
    pair.pass(10_000_000);
    for id in (0..pair.flows).map(flows::flow_id) {
        both!(pair, "cancel", |broker| broker.cancel_workflow(tenant_ref(), id));
    }
    for _ in 0..8 {
        both!(pair, "reap", |broker| broker.reap(99));
        both!(pair, "promote", |broker| broker.promote(99));
    }
    let request = Claim { max: 99, ..pair.request() };
    let last = both!(pair, "claim", |broker| broker.claim(&request));
    let settles: Vec<Settle> = last.iter().map(succeed).collect();
    both!(pair, "settle", |broker| broker.settle(&settles, None));
    pair.look().await;
    pair.pass(10_000_000);
    while both!(pair, "prune", |broker| broker.prune(50)) > 0 {}
    pair.look().await;
}

#[tokio::test]
async fn random_histories_of_workflows_agree_with_the_model() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("UMBEL_SEED").unwrap_or(1);
    for seed in first..first + number("UMBEL_HISTORIES").map_or(HISTORIES, |count| count.min(100_000)) {
        history(seed).await;
    }
}
