//! The simple model: walks over the JSON of a canvas and calls one task after the other. It knows no nodes, no edges and
//! no broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use serde_json::{Value, json};
use umbel_model::canvas::When;

use super::{
    draw::{End, Life, Named, Trial},
    *,
};

/// What must be seen of a canvas.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// How often each task is delivered.
    pub(super) calls: BTreeMap<String, u32>,
    /// What each task that is called is called with.
    pub(super) inputs: BTreeMap<String, Value>,
    /// The tasks that must have ended before each one is called.
    pub(super) before: BTreeMap<String, BTreeSet<String>>,
    pub(super) states: BTreeMap<String, JobState>,
    pub(super) dead: Vec<String>,
    pub(super) state: Option<WorkflowState>,
    /// None: it has none.
    pub(super) value: Option<Value>,
}

pub(super) fn run(named: &Named) -> Expected {
    let mut model = Model { lives: &named.lives, seen: Expected::default() };
    let end = model.step(&named.canvas, &At::default());
    let mut seen = model.seen;
    seen.state = Some(if end.adjusted() == Status::Ok { WorkflowState::Succeeded } else { WorkflowState::Failed });
    seen.value = end.given();
    seen.dead.sort();
    seen
}

/// How a step ended.
#[derive(Debug)]
struct Ended {
    raw: Status,
    on_failure: OnFailure,
    /// Of one that went well.
    value: Value,
    /// The tasks that failed by themselves, and how.
    why: Vec<(String, String)>,
    /// It is one of those itself.
    by_itself: bool,
    /// The calls that it ended with.
    last: BTreeSet<String>,
}

impl Ended {
    /// What its end means to what waits for it.
    fn adjusted(&self) -> Status {
        match (self.raw, self.on_failure) {
            (Status::Failed, OnFailure::Continue | OnFailure::Ignore) => Status::Ok,
            (raw, _) => raw,
        }
    }

    /// What it gives to what follows it.
    fn given(&self) -> Option<Value> {
        match (self.raw, self.on_failure) {
            (Status::Ok, _) => Some(self.value.clone()),
            (Status::Failed, OnFailure::Fail) => None,
            (Status::Failed, OnFailure::Continue) => Some(json!({ "error": self.error() })),
            (Status::Failed, OnFailure::Ignore) | (Status::Skipped, _) => Some(Value::Null),
        }
    }

    fn error(&self) -> Value {
        if self.by_itself {
            return json!({ "task": self.why[0].0, "kind": self.why[0].1 });
        }
        let named: Vec<_> = self.why.iter().take(MAX_NAMED).collect();
        json!({ "kind": UPSTREAM_FAILED, "failed": named, "count": self.why.len() })
    }
}

/// Where a step is.
#[derive(Debug, Clone, Default)]
struct At {
    source: Option<Rc<Ended>>,
    /// The end of its source that it waits for.
    when: When,
    /// What the group around it says of its members.
    policy: Option<OnFailure>,
}

struct Model<'a> {
    lives: &'a BTreeMap<String, Life>,
    seen: Expected,
}

fn steps<'v>(step: &'v Value, name: &str) -> Option<&'v Vec<Value>> {
    step.get(name)?.as_array()
}

impl Model<'_> {
    fn step(&mut self, step: &Value, at: &At) -> Rc<Ended> {
        let own: Option<OnFailure> = step.get("on_failure").map(|p| serde_json::from_value(p.clone()).unwrap());
        let end = if let Some(list) = steps(step, "chain") {
            self.chain(list, own.or(at.policy), at)
        } else if let Some(members) = steps(step, "group") {
            self.group(members, own, at.policy, at)
        } else if let Some(header) = steps(step, "chord") {
            let header = self.group(header, own, None, at);
            self.step(&step["body"], &At { source: Some(header), when: When::Success, policy: at.policy })
        } else {
            self.task(step, own.or(at.policy).unwrap_or_default(), at)
        };
        for (name, when) in [("link", When::Link), ("link_error", When::Failure)] {
            for callback in steps(step, name).into_iter().flatten() {
                self.step(callback, &At { source: Some(end.clone()), when, policy: None });
            }
        }
        end
    }

    fn chain(&mut self, list: &[Value], policy: Option<OnFailure>, at: &At) -> Rc<Ended> {
        let mut at = At { policy: None, ..at.clone() };
        let (last, front) = list.split_last().expect("a chain has a step");
        for step in front {
            let end = self.step(step, &at);
            at = At { source: Some(end), when: When::Success, policy: None };
        }
        self.step(last, &At { policy, ..at })
    }

    fn group(&mut self, members: &[Value], policy: Option<OnFailure>, own: Option<OnFailure>, at: &At) -> Rc<Ended> {
        let inner = At { policy, ..at.clone() };
        let ends: Vec<Rc<Ended>> = members.iter().map(|member| self.step(member, &inner)).collect();
        let is = |status| ends.iter().any(|end| end.adjusted() == status);
        let raw = match () {
            () if ends.is_empty() => at.arrival(),
            () if is(Status::Failed) => Status::Failed,
            () if is(Status::Skipped) => Status::Skipped,
            () => Status::Ok,
        };
        let mut why: Vec<(String, String)> = Vec::new();
        for (task, kind) in ends.iter().filter(|end| end.adjusted() == Status::Failed).flat_map(|end| &end.why) {
            if !why.iter().any(|(known, _)| known == task) {
                why.push((task.clone(), kind.clone()));
            }
        }
        if let (Status::Failed, true, Some(source)) = (raw, why.is_empty(), &at.source) {
            why.clone_from(&source.why);
        }
        let mut last: BTreeSet<String> = ends.iter().flat_map(|end| end.last.clone()).collect();
        if let (true, Some(source)) = (ends.is_empty(), &at.source) {
            last.clone_from(&source.last);
        }
        let value = ends.iter().map(|end| end.given().unwrap_or_default()).collect();
        Rc::new(Ended { raw, on_failure: own.unwrap_or_default(), value, why, by_itself: false, last })
    }

    fn task(&mut self, step: &Value, on_failure: OnFailure, at: &At) -> Rc<Ended> {
        let name = step["task"].as_str().expect("a step that is nothing else is a task").to_owned();
        let source = at.source.as_deref();
        let end = |raw, value, why, by_itself, last| Ended { raw, on_failure, value, why, by_itself, last };
        let ended = match at.arrival() {
            Status::Ok => {
                let (state, mut ended) = self.call(step, &name, at);
                self.seen.states.insert(name, state);
                ended.on_failure = on_failure;
                ended
            }
            Status::Failed => {
                self.seen.states.insert(name, JobState::Failed);
                let source = source.expect("only a source can have failed");
                end(Status::Failed, Value::Null, source.why.clone(), false, source.last.clone())
            }
            Status::Skipped => {
                self.seen.states.insert(name, JobState::Skipped);
                end(Status::Skipped, Value::Null, Vec::new(), false, source.map(|s| s.last.clone()).unwrap_or_default())
            }
        };
        Rc::new(ended)
    }

    /// The task is called, and how that ends.
    fn call(&mut self, step: &Value, name: &str, at: &At) -> (JobState, Ended) {
        let life = &self.lives[name];
        let mut last = BTreeSet::from([name.to_owned()]);
        let of = |raw, value, kind: &str, last| {
            let why = if raw == Status::Failed { vec![(name.to_owned(), kind.to_owned())] } else { Vec::new() };
            Ended { raw, on_failure: OnFailure::Fail, value, by_itself: raw == Status::Failed, why, last }
        };
        if life.end == End::Expire {
            last = at.source.as_ref().map(|source| source.last.clone()).unwrap_or_default();
            return (JobState::Expired, of(Status::Failed, Value::Null, "expired", last));
        }
        self.seen.calls.insert(name.to_owned(), deliveries(life));
        if let Some(source) = &at.source {
            self.seen.before.insert(name.to_owned(), source.last.clone());
        }
        let arguments = arguments(step, at);
        self.seen.inputs.insert(name.to_owned(), Value::from(arguments.clone()));
        let result = called(name, &arguments);
        match &life.end {
            End::Succeed => (JobState::Succeeded, of(Status::Ok, result, "", last)),
            End::SucceedLarge => (JobState::Succeeded, of(Status::Ok, enlarged(result), "", last)),
            End::SucceedUnkept => (JobState::Succeeded, of(Status::Ok, Value::Null, "", last)),
            End::Fail => {
                self.seen.dead.push(name.to_owned());
                (JobState::Failed, of(Status::Failed, Value::Null, "Void", last))
            }
            End::Bury => {
                self.seen.dead.push(name.to_owned());
                (JobState::Failed, of(Status::Failed, Value::Null, "max_deliveries", last))
            }
            End::Revoke => (JobState::Revoked, of(Status::Failed, Value::Null, "revoked", last)),
            End::Expire => unreachable!("handled above"),
            End::Replace(child) => {
                let end = self.step(child, &At::default());
                last.extend(end.last.iter().cloned());
                let (state, raw) = match end.adjusted() {
                    Status::Ok => (JobState::Succeeded, Status::Ok),
                    _ => (JobState::Failed, Status::Failed),
                };
                let value = end.given().unwrap_or_default();
                let why = if raw == Status::Failed { end.why.clone() } else { Vec::new() };
                (state, Ended { raw, on_failure: OnFailure::Fail, value, why, by_itself: false, last })
            }
        }
    }
}

impl At {
    /// What the end of the source means here.
    fn arrival(&self) -> Status {
        let Some(source) = &self.source else { return Status::Ok };
        match (self.when, source.raw, source.adjusted()) {
            (When::Failure, Status::Failed, _) => Status::Ok,
            (When::Failure, ..) | (When::Link, Status::Failed, Status::Ok) => Status::Skipped,
            (When::Success | When::Link, _, adjusted) => adjusted,
        }
    }
}

fn arguments(step: &Value, at: &At) -> Vec<Value> {
    let immutable = step.get("immutable").is_some();
    let mut arguments = Vec::new();
    if let (false, Some(source)) = (immutable, &at.source) {
        let input = if at.when == When::Failure { Some(source.error()) } else { source.given() };
        arguments.push(input.expect("what failed does not start what waits for success"));
    }
    arguments.extend(steps(step, "args").into_iter().flatten().cloned());
    arguments
}

/// How often a task that lives so is delivered.
fn deliveries(life: &Life) -> u32 {
    let mut lost = 0;
    for trial in &life.trials {
        match trial {
            Trial::Crash => lost += 1,
            Trial::Retry | Trial::Snooze => lost = 0,
            Trial::Release => {}
        }
    }
    let trials = life.trials.len() as u32;
    // Three deliveries that are lost are too many.
    if life.end == End::Bury { trials + 3 - lost } else { trials + 1 }
}
