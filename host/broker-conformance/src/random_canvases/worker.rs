//! A fake worker: claims, calls fake tasks, settles; in a random order, now and then twice, and now and then it dies.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    draw::{End, Life, Named, Trial},
    *,
};

/// More than any result of these tests.
pub(super) const MAX_VALUE_BYTES: usize = 64 << 20;
/// Rounds without anything to do after which a workflow hangs.
const MAX_IDLE: u32 = 60;

pub(super) struct Worker<'a> {
    s: &'a Subject,
    lives: &'a BTreeMap<String, Life>,
    random: u64,
    /// Trials that each task has behind it.
    tried: BTreeMap<String, usize>,
    held: Vec<Delivery>,
    /// Deliveries that were lost or settled: a late settle of them must change nothing.
    stale: Vec<Delivery>,
    /// The workflow and all that replaced its jobs.
    flows: Vec<WorkflowId>,
    clock: u64,
    pub(super) calls: BTreeMap<String, u32>,
    pub(super) inputs: BTreeMap<String, Value>,
    first_claim: BTreeMap<String, u64>,
    ended: BTreeMap<String, u64>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(s: &'a Subject, named: &'a Named, seed: u64) -> Self {
        Self {
            s,
            lives: &named.lives,
            random: seed,
            tried: BTreeMap::new(),
            held: Vec::new(),
            stale: Vec::new(),
            flows: Vec::new(),
            clock: 0,
            calls: BTreeMap::new(),
            inputs: BTreeMap::new(),
            first_claim: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    /// Works until the workflow is over and nothing is left to do.
    pub(super) async fn run(&mut self, flow: Flow<'_>) -> Result<(), String> {
        let mut idle = 0;
        self.flows.push(flow.id);
        while idle < MAX_IDLE {
            let claim = claim_of("w1", &["default"], 1 + self.below(4) as u32);
            if self.held.is_empty() || self.below(3) == 0 {
                let claimed = self.s.broker.claim(&claim).await.unwrap();
                self.take(claimed).await?;
            } else {
                self.settle_some(claim).await?;
            }
            if !self.held.is_empty() {
                idle = 0;
                continue;
            }
            idle += 1;
            if self.all_are_over().await {
                return Ok(());
            }
            self.s.pass_served(DEFAULT_LEASE_MS).await;
            self.s.broker.promote(1_000).await.unwrap();
            self.s.broker.reap(1_000).await.unwrap();
        }
        Err(format!("it hangs: {}", flow.shown().await))
    }

    /// Also callbacks, which may outlive what they were for.
    async fn all_are_over(&self) -> bool {
        for id in &self.flows {
            if !self.s.flow(*id).state().await.is_terminal() {
                return false;
            }
        }
        true
    }

    /// A number below `limit`; the same ones for the same seed.
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    async fn take(&mut self, claimed: Vec<Delivery>) -> Result<(), String> {
        for delivery in claimed {
            let (task, tick) = (task_of(&delivery), self.tick());
            *self.calls.entry(task.clone()).or_default() += 1;
            self.first_claim.entry(task.clone()).or_insert(tick);
            let arguments = self.arguments(&delivery).await;
            let known = self.inputs.entry(task.clone()).or_insert_with(|| arguments.clone());
            if *known != arguments {
                return Err(format!("{task} was called with {known} and then with {arguments}"));
            }
            let tried = self.tried.get(&task).copied().unwrap_or(0);
            let life = &self.lives[&task];
            if life.trials.get(tried).map_or(life.end == End::Bury, |trial| *trial == Trial::Crash) {
                self.tried.insert(task.clone(), tried + 1);
                self.ended.insert(task, tick);
                self.stale.push(delivery);
            } else {
                self.held.push(delivery);
            }
        }
        Ok(())
    }

    /// What a delivery's task is called with, as a list.
    async fn arguments(&self, delivery: &Delivery) -> Value {
        let node = delivery.node.as_ref().expect("only nodes are here");
        let arguments: NodeArguments = serde_json::from_str(&node.arguments).unwrap();
        let at = |number| NodeAt {
            large: &umbel_broker::NoLargeValues,
            broker: &*self.s.broker,
            tenant: &delivery.tenant,
            workflow: node.workflow,
            node: number,
        };
        let input = match &node.input {
            Input::Nothing => None,
            Input::Value(text) => Some(text.clone()),
            Input::Result(number) => Some(value_of(at(*number), MAX_VALUE_BYTES).await.unwrap()),
            Input::Error(number) => Some(error_of(at(*number)).await.unwrap()),
        };
        let own = arguments.args.iter().map(|value| value.get().to_owned());
        Value::from_iter(input.into_iter().chain(own).map(|text| simple(serde_json::from_str(&text).unwrap())))
    }

    /// Settles some of what is held, in any order, perhaps with a late settle among them, perhaps claiming more.
    async fn settle_some(&mut self, claim: Claim) -> Result<(), String> {
        let mut settles = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..=self.below(3) {
            if self.held.is_empty() {
                break;
            }
            let at = self.below(self.held.len() as u64) as usize;
            let delivery = self.held.swap_remove(at);
            let (settle, again) = self.settle_one(&delivery);
            for answer in [Settled::Recorded, Settled::AlreadyDone].into_iter().take(1 + usize::from(again)) {
                settles.push(settle.clone());
                expected.push(answer);
            }
            self.stale.push(delivery);
        }
        let then = (self.below(2) == 0).then_some(&claim);
        let (settled, claimed) = self.s.broker.settle(&settles, then).await.unwrap();
        differ("the answers to settles", &expected, &settled)?;
        self.settle_late().await?;
        self.take(claimed).await
    }

    /// One that lost its lease, or settled before, says something else now.
    async fn settle_late(&mut self) -> Result<(), String> {
        if self.stale.is_empty() || self.below(4) > 0 {
            return Ok(());
        }
        let at = self.below(self.stale.len() as u64) as usize;
        let late = self.stale.swap_remove(at);
        let record = self.s.read(late.id).await;
        // One that died is still its holder until it is reaped: it stays dead.
        if record.state == JobState::Running {
            return Ok(());
        }
        let answer = self.s.settle(&late, fail()).await;
        let known = [Settled::Lost, Settled::AlreadyDone].contains(&answer);
        if known { Ok(()) } else { Err(format!("a late settle of {} was {answer:?}", task_of(&late))) }
    }

    /// The next settle of a delivery's task, and whether it is said twice.
    fn settle_one(&mut self, delivery: &Delivery) -> (Settle, bool) {
        let (task, tick) = (task_of(delivery), self.tick());
        let life = &self.lives[&task];
        let tried = self.tried.entry(task.clone()).or_default();
        let plain = |resolution| settle_of(delivery, resolution);
        if let Some(trial) = life.trials.get(*tried) {
            *tried += 1;
            let resolution = match trial {
                Trial::Retry => retry(10),
                Trial::Snooze => Resolution::Snooze { delay_ms: 10 },
                Trial::Release => Resolution::Release,
                Trial::Crash => unreachable!("it died when it was claimed"),
            };
            return (plain(resolution), false);
        }
        self.ended.insert(task.clone(), tick);
        let arguments = self.inputs[&task].as_array().expect("a list of arguments");
        let result = called(&task, arguments);
        let settle = match &life.end {
            End::Succeed => plain(succeed(&result.to_string())),
            End::SucceedLarge => plain(succeed(&enlarged(result).to_string())),
            End::SucceedUnkept => plain(Resolution::Succeed { result: None }),
            End::Fail => plain(fail()),
            End::Revoke => plain(Resolution::Revoke),
            End::Bury | End::Expire => unreachable!("it is never settled"),
            End::Replace(canvas) => {
                let child = child_of(delivery, 100 + self.flows.len() as u64, &canvas.to_string());
                self.flows.push(child.head.id);
                let settle = plain(Resolution::Replace { workflow: child.head.id });
                Settle { growth: Some(Box::new(grow(vec![child]))), ..settle }
            }
        };
        (settle, life.settle_again)
    }

    /// Nothing was called before what it waits for had ended.
    pub(super) fn check_order(&self, before: &BTreeMap<String, BTreeSet<String>>) -> Result<(), String> {
        for (task, sources) in before {
            let claimed = self.first_claim.get(task).copied().unwrap_or(u64::MAX);
            for source in sources {
                if self.ended.get(source).is_none_or(|ended| *ended > claimed) {
                    return Err(format!("{task} was called before {source} had ended"));
                }
            }
        }
        Ok(())
    }
}

/// The value of a workflow, if it has one.
pub(super) fn read(value: Result<String, ValueError>) -> Option<Value> {
    match value {
        Ok(text) => Some(simple(serde_json::from_str(&text).unwrap())),
        Err(ValueError::None(_)) => None,
        Err(other) => panic!("{other}"),
    }
}

/// A value in which errors say no more than the model knows: no ids, no messages.
fn simple(value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(simple).collect(),
        Value::Object(mut map) => {
            if let Some(error) = map.remove("error") {
                return json!({ "error": simple(error) });
            }
            if let Some(Value::Array(failed)) = map.get("failed") {
                // One in a result was made simple before.
                let name = |f: &Value| if f.is_object() { json!([f["task"], f["kind"]]) } else { f.clone() };
                let named: Vec<Value> = failed.iter().map(name).collect();
                return json!({ "kind": map["kind"], "failed": named, "count": map["count"] });
            }
            if map.contains_key("job_id") {
                return json!({ "task": map["task"], "kind": map["kind"] });
            }
            Value::Object(map)
        }
        other => other,
    }
}
