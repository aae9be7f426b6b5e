//! Random canvases, and what their tasks do when they are called.

use std::{collections::BTreeMap, fmt};

use proptest::prelude::*;
use serde_json::{Value, json};

/// Nodes of one canvas at most.
const MAX_NODES: usize = 200;

/// One random canvas, and the seed of the order in which its jobs are worked off.
#[derive(Clone)]
pub(super) struct Case {
    root: Step,
    pub(super) seed: u64,
}

#[derive(Debug, Clone)]
struct Step {
    shape: Shape,
    link: Vec<Step>,
    link_error: Vec<Step>,
    on_failure: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum Shape {
    Task { immutable: bool, argument: bool, life: DrawnLife },
    Chain(Vec<Step>),
    Group(Vec<Step>),
    Chord(Vec<Step>, Box<Step>),
}

#[derive(Debug, Clone)]
struct DrawnLife {
    trials: Vec<Trial>,
    end: DrawnEnd,
    settle_again: bool,
}

#[derive(Debug, Clone)]
enum DrawnEnd {
    Here(End),
    Replace(Box<Step>),
}

/// What happens to a call before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    Retry,
    Snooze,
    Release,
    /// The worker dies: nobody settles the delivery, and its lease passes.
    Crash,
}

/// How a task ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    Succeed,
    /// With a result too large to come with a delivery.
    SucceedLarge,
    SucceedUnkept,
    Fail,
    /// Its worker dies each time.
    Bury,
    /// Its worker says that it was revoked.
    Revoke,
    /// Before it can start.
    Expire,
    /// By the end of this canvas in its place.
    Replace(Value),
}

/// What happens to one task.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) trials: Vec<Trial>,
    pub(super) end: End,
    /// The reply to its settle is lost, so it is settled once more.
    pub(super) settle_again: bool,
}

/// The canvas as JSON, in which each task has a name of its own, and the lives of the tasks.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) canvas: Value,
    pub(super) lives: BTreeMap<String, Life>,
}

fn life() -> impl Strategy<Value = DrawnLife> {
    let trial = prop_oneof![Just(Trial::Retry), Just(Trial::Snooze), Just(Trial::Release), Just(Trial::Crash)];
    // Two at most: with three deliveries each attempt has one left.
    let trials = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(trial, 1..=2)];
    let end = prop_oneof![
        14 => Just(End::Succeed),
        1 => Just(End::SucceedLarge),
        1 => Just(End::SucceedUnkept),
        2 => Just(End::Fail),
        1 => prop_oneof![Just(End::Bury), Just(End::Revoke), Just(End::Expire)],
    ];
    let weighted = prop::bool::weighted(0.1);
    (trials, end, weighted).prop_map(|(trials, end, settle_again)| DrawnLife {
        trials,
        end: DrawnEnd::Here(end),
        settle_again,
    })
}

fn plain(shape: Shape) -> Step {
    Step { shape, link: Vec::new(), link_error: Vec::new(), on_failure: None }
}

fn task() -> impl Strategy<Value = Step> {
    let task = |(immutable, argument, life)| plain(Shape::Task { immutable, argument, life });
    (prop::bool::weighted(0.1), any::<bool>(), life()).prop_map(task)
}

/// A step with so many levels of steps in it at most.
fn step(depth: u32) -> BoxedStrategy<Step> {
    if depth == 0 {
        return task().boxed();
    }
    let inner = step(depth - 1);
    let many = |from: usize| {
        let inner = inner.clone();
        let count = prop_oneof![12 => from..4_usize, 1 => 4..12_usize];
        count.prop_flat_map(move |count| prop::collection::vec(inner.clone(), count))
    };
    let replaced = (life(), inner.clone()).prop_map(|(life, child)| {
        let life = DrawnLife { end: DrawnEnd::Replace(child.into()), ..life };
        Shape::Task { immutable: false, argument: false, life }
    });
    let shape = prop_oneof![
        5 => task().prop_map(|task| task.shape),
        6 => many(1).prop_map(Shape::Chain),
        6 => many(0).prop_map(Shape::Group),
        6 => (many(0), inner.clone()).prop_map(|(header, body)| Shape::Chord(header, body.into())),
        1 => replaced,
    ];
    let callbacks = |weight| {
        let some = prop::collection::vec(inner.clone(), 1..3);
        prop::option::weighted(weight, some).prop_map(Option::unwrap_or_default)
    };
    let on_failure = prop::option::weighted(0.3, prop::sample::select(vec!["fail", "continue", "ignore"]));
    (shape, callbacks(0.05), callbacks(0.15), on_failure)
        .prop_map(|(shape, link, link_error, on_failure)| Step { shape, link, link_error, on_failure })
        .boxed()
}

/// Any case of at most `MAX_NODES` nodes.
pub(super) fn case() -> impl Strategy<Value = Case> {
    let small = |case: &Case| case.root.size() <= MAX_NODES;
    let root = prop_oneof![1 => step(1), 1 => step(3), 3 => step(4)];
    (root, any::<u64>()).prop_map(|(root, seed)| Case { root, seed }).prop_filter("small enough", small)
}

impl Step {
    /// Jobs and joins, also of replacements.
    fn size(&self) -> usize {
        let all = |steps: &[Self]| steps.iter().map(Self::size).sum::<usize>();
        let own = match &self.shape {
            Shape::Task { life: DrawnLife { end: DrawnEnd::Replace(child), .. }, .. } => 1 + child.size(),
            Shape::Task { .. } => 1,
            Shape::Chain(steps) => all(steps),
            Shape::Group(members) => 1 + all(members),
            Shape::Chord(header, body) => 1 + all(header) + body.size(),
        };
        own + all(&self.link) + all(&self.link_error)
    }

    fn json(&self, lives: &mut BTreeMap<String, Life>) -> Value {
        let mut all = |steps: &[Self]| Value::from_iter(steps.iter().map(|step| step.json(lives)));
        let mut out = match &self.shape {
            Shape::Chain(steps) => json!({ "chain": all(steps) }),
            Shape::Group(members) => json!({ "group": all(members) }),
            Shape::Chord(header, body) => json!({ "chord": all(header), "body": body.json(lives) }),
            Shape::Task { immutable, argument, life } => named_task(*immutable, *argument, life, lives),
        };
        let mut all = |steps: &[Self]| Value::from_iter(steps.iter().map(|step| step.json(lives)));
        if !self.link.is_empty() {
            out["link"] = all(&self.link);
        }
        if !self.link_error.is_empty() {
            out["link_error"] = all(&self.link_error);
        }
        if let Some(policy) = self.on_failure {
            out["on_failure"] = policy.into();
        }
        out
    }
}

fn named_task(immutable: bool, argument: bool, life: &DrawnLife, lives: &mut BTreeMap<String, Life>) -> Value {
    let name = format!("t{}", lives.len());
    let placeholder = Life { trials: life.trials.clone(), end: End::Succeed, settle_again: life.settle_again };
    lives.insert(name.clone(), placeholder);
    let end = match &life.end {
        DrawnEnd::Here(end) => end.clone(),
        DrawnEnd::Replace(child) => End::Replace(child.json(lives)),
    };
    let mut out = json!({ "task": name });
    if immutable {
        out["immutable"] = true.into();
    }
    if argument {
        out["args"] = json!([format!("of {name}")]);
    }
    if end == End::Expire {
        // It is over before it is due.
        out["options"] = json!({ "delay_ms": 200, "expires_ms": 100 });
    }
    lives.get_mut(&name).expect("inserted above").end = end;
    out
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { canvas, lives } = self.named();
        writeln!(f, "{canvas} (order {})", self.seed)?;
        let dull = |life: &Life| life.trials.is_empty() && life.end == End::Succeed && !life.settle_again;
        lives.iter().filter(|(_, life)| !dull(life)).try_for_each(|(task, life)| writeln!(f, "{task}: {life:?}"))
    }
}

impl Case {
    pub(super) fn named(&self) -> Named {
        let mut lives = BTreeMap::new();
        let canvas = self.root.json(&mut lives);
        Named { canvas, lives }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    use super::*;

    fn depth(step: &Value) -> usize {
        let inner = ["chain", "group", "chord", "link", "link_error"].iter().filter_map(|name| step[name].as_array());
        let inner = inner.flatten().chain(step.get("body"));
        1 + inner.map(depth).max().unwrap_or(0)
    }

    fn shown(sizes: &[usize]) -> String {
        let mut sizes = sizes.to_vec();
        sizes.sort_unstable();
        let at = |part: usize| sizes[(sizes.len() - 1) * part / 10];
        format!("tenths: {:?}", (0..=10).map(at).collect::<Vec<_>>())
    }

    #[test]
    fn cases_are_of_all_sizes_and_have_all_fates() {
        let mut runner = TestRunner::deterministic();
        let cases: Vec<Case> = (0..1_000).map(|_| case().new_tree(&mut runner).unwrap().current()).collect();
        let sizes: Vec<usize> = cases.iter().map(|case| case.root.size()).collect();
        assert!(sizes.iter().filter(|size| **size >= 20).count() > 200, "{}", shown(&sizes));
        assert!(sizes.iter().any(|size| *size > 150), "{}", shown(&sizes));
        eprintln!("{}", shown(&sizes));
        let named: Vec<Named> = cases.iter().map(Case::named).collect();
        assert!(named.iter().any(|named| depth(&named.canvas) >= 5));
        let lives: Vec<&Life> = named.iter().flat_map(|named| named.lives.values()).collect();
        for end in [End::SucceedLarge, End::SucceedUnkept, End::Fail, End::Bury, End::Revoke, End::Expire] {
            assert!(lives.iter().any(|life| life.end == end), "{end:?}");
        }
        assert!(lives.iter().any(|life| matches!(life.end, End::Replace(_))));
    }
}
