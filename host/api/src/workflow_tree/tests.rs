//! Trees of planned canvases: what was written comes back.

use serde_json::{Value, json};
use umbel_model::{
    Canvas,
    canvas::{CanvasLimits, Work, plan},
};

use super::*;

/// The nodes of a canvas as if they were read, and the number of the last.
fn nodes(canvas: Value) -> (Nodes, u32, u32) {
    let canvas: Canvas = serde_json::from_value(canvas).unwrap();
    let plan = plan(canvas, CanvasLimits::default()).unwrap();
    let count = plan.nodes.len() as u32;
    let known = |(number, node): (usize, umbel_model::canvas::Node)| {
        let plain = TreeStep { node: Some(number as u32), ..TreeStep::default() };
        let (join, step) = match node.work {
            Work::Job(signature) => (None, TreeStep { kind: "task", task: Some(signature.task.to_string()), ..plain }),
            Work::Join(join) => {
                let count = Some(join.members.iter().map(|r| r.count).sum());
                (Some((join.members, join.scope)), TreeStep { kind: "group", count, ..plain })
            }
        };
        let Node { when, after, group, next, .. } = node_edges(node.when, node.after, node.group, node.next);
        (number as u32, Some(Known { when, after, group, next, join, step }))
    };
    (plan.nodes.into_iter().enumerate().map(known).collect(), plan.end, count)
}

struct Node {
    when: When,
    after: Option<u32>,
    group: Option<u32>,
    next: Vec<Range>,
}

fn node_edges(when: When, after: Option<u32>, group: Option<u32>, next: Vec<Range>) -> Node {
    Node { when, after, group, next }
}

/// A step in few characters: `a`, `a>b`, `[a,b]`, `[a,b]=>c`, callbacks as `{link|link_error}`.
fn shown(step: &TreeStep) -> String {
    let list = |steps: &[TreeStep], between: &str| steps.iter().map(shown).collect::<Vec<_>>().join(between);
    let more = step.left_out.map_or(String::new(), |n| format!("+{n}"));
    let mut text = match step.kind {
        "task" => step.task.clone().unwrap_or_default(),
        "chain" => format!("({})", list(&step.steps, ">")),
        _ => format!("[{}{more}]", list(&step.members, ",")),
    };
    if let Some(body) = &step.body {
        text = format!("{text}=>{}", shown(body));
    }
    if !step.link.is_empty() || !step.link_error.is_empty() {
        text = format!("{text}{{{}|{}}}", list(&step.link, ","), list(&step.link_error, ","));
    }
    text
}

fn tree_of(canvas: Value, caps: Caps) -> String {
    let (nodes, end, count) = nodes(canvas);
    let mut builder = Builder::new(&nodes, caps);
    let root = builder.root(end);
    assert!(builder.missing.is_empty());
    assert!(builder.shown <= count.min(caps.nodes.max(1)), "{} of {count}", builder.shown);
    shown(&root)
}

fn task(name: &str) -> Value {
    json!({ "task": name })
}

#[test]
fn what_was_written_comes_back() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(task);
    for (canvas, expected) in [
        (a.clone(), "a"),
        (json!({"chain": [a, b, c]}), "(a>b>c)"),
        (json!({"group": [a, b]}), "[a,b]"),
        (json!({"group": []}), "[]"),
        (json!({"chord": [a, b], "body": c}), "[a,b]=>c"),
        (json!({"chain": [a, {"group": [b, c]}, d]}), "(a>[b,c]=>d)"),
        (json!({"chain": [{"group": [a, b]}, {"group": [c, d]}]}), "([a,b]>[c,d])"),
        (json!({"chain": [a, {"group": [{"chain": [b, c]}, d]}]}), "(a>[(b>c),d])"),
        (json!({"group": [{"group": [a, {"chord": [b, c], "body": d}]}]}), "[[a,[b,c]=>d]]"),
        (json!({"task": "a", "link": [b, c], "link_error": [d]}), "a{b,c|d}"),
        (json!({"chain": [{"task": "a", "link": [b], "link_error": [c]}, d]}), "(a{b|c}>d)"),
        (json!({"chain": [{"task": "a", "link": [{"group": [b, c]}]}, {"group": [d]}]}), "(a{[b,c]|}>[d])"),
        (json!({"group": [{"task": "a", "link_error": [{"chain": [b, c]}]}, d]}), "[a{|(b>c)},d]"),
        (json!({"chord": [a], "body": b, "link": [{"chord": [c], "body": d}]}), "[a]=>b{[c]=>d|}"),
        (json!({"group": [a, b], "link": [c], "link_error": [d]}), "[a,b]{c|d}"),
    ] {
        assert_eq!(tree_of(canvas.clone(), Caps::OF_TREE), expected, "{canvas}");
    }
}

#[test]
fn large_groups_are_cut_and_counted() {
    let canvas = json!({"chord": vec![task("a"); 1_000], "body": task("z")});
    let expected = format!("[{}+997]=>z", ["a"; 3].join(","));
    assert_eq!(tree_of(canvas.clone(), Caps { nodes: 2_000, members: 3 }), expected);
    assert_eq!(tree_of(canvas, Caps { nodes: 5, members: 100 }), expected);
}

fn step_of(nodes: &mut Nodes, number: u32) -> &mut TreeStep {
    &mut nodes.get_mut(&number).unwrap().as_mut().unwrap().step
}

/// The tree of a group of tasks after some of them ended otherwise than well: each with its state and kind of error.
fn group_after(count: usize, ended: &[(u32, &'static str, &str)], caps: Caps) -> TreeStep {
    let (mut nodes, end, _) = nodes(json!({"group": vec![task("a"); count]}));
    let first = nodes.keys().copied().filter(|number| *number != end).min().unwrap();
    for (at, state, error) in ended {
        let step = step_of(&mut nodes, first + at);
        (step.state, step.error) = (Some(*state), Some((*error).to_owned()).filter(|error| !error.is_empty()));
    }
    let join = step_of(&mut nodes, end);
    (join.state, join.failed) = (Some("failed"), Some(ended.len() as u32));
    Builder::new(&nodes, caps).root(end)
}

#[test]
fn members_that_failed_come_first_when_a_group_is_cut() {
    let ended = [(700, "failed", UPSTREAM_FAILED), (900, "failed", "Declined"), (950, "failed", "Declined")];
    let root = group_after(1_000, &ended, Caps { nodes: 2_000, members: 4 });
    let errors: Vec<Option<&str>> = root.members.iter().map(|member| member.error.as_deref()).collect();
    assert_eq!(errors, [Some("Declined"), Some("Declined"), Some(UPSTREAM_FAILED), None]);
    assert_eq!((root.left_out, root.state), (Some(996), Some("failed")));
    // All of them, in their order, where there is room.
    let whole = group_after(3, &[(1, "failed", "Declined")], Caps::OF_TREE);
    assert_eq!(whole.members[1].error.as_deref(), Some("Declined"));
}

#[test]
fn a_group_that_was_cancelled_is_not_shown_as_failed() {
    let state = |ended: &[(u32, &'static str, &str)]| {
        let root = group_after(3, ended, Caps::OF_TREE);
        (root.state.unwrap(), root.error)
    };
    assert_eq!(state(&[(0, "revoked", ""), (2, "revoked", "")]), ("revoked", None));
    assert_eq!(state(&[(0, "failed", "Declined"), (2, "revoked", "")]), ("failed", None), "the rest was cancelled");
    assert_eq!(state(&[(0, "expired", "")]), ("expired", None));
    let upstream = [0, 1, 2].map(|at| (at, "failed", UPSTREAM_FAILED));
    assert_eq!(state(&upstream), ("failed", Some(UPSTREAM_FAILED.to_owned())));
}

#[test]
fn long_chains_are_cut_at_their_beginning() {
    let canvas = json!({"chain": (0..100).map(|n| task(&format!("t{n}"))).collect::<Vec<_>>()});
    assert_eq!(tree_of(canvas, Caps { nodes: 2, members: 10 }), "(t98>t99)");
}

#[test]
fn what_is_not_at_hand_is_asked_for() {
    let (mut nodes, end, _) = nodes(json!({"chain": [task("a"), task("b")]}));
    nodes.remove(&0);
    let mut builder = Builder::new(&nodes, Caps::OF_TREE);
    builder.root(end);
    assert_eq!(builder.missing.into_iter().collect::<Vec<_>>(), [0]);
}

#[test]
fn many_callbacks_cost_no_more_than_what_is_shown() {
    let canvas = json!({"task": "a", "link": vec![task("b"); 24_000], "link_error": vec![task("c"); 24_000]});
    let (nodes, end, _) = nodes(canvas);
    let started = std::time::Instant::now();
    for caps in [Caps::OF_TREE, Caps::OF_PICTURE] {
        let mut builder = Builder::new(&nodes, caps);
        builder.root(end);
        assert_eq!(builder.shown, caps.nodes);
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(1), "{:?}", started.elapsed());
    // What is not at hand is asked for at once.
    let one: Nodes = nodes.into_iter().filter(|(number, _)| *number == end).collect();
    let mut builder = Builder::new(&one, Caps::OF_TREE);
    builder.root(end);
    assert_eq!(builder.missing.len(), 1_999);
}

#[test]
fn groups_and_chains_have_the_labels_that_they_were_given() {
    let canvas = json!({"chain": [
        {"chord": [{"chain": [task("a"), task("b")], "label": "inner"}, task("c")], "body": task("d"), "label": "chord"},
        {"group": [], "label": "none"},
        {"chain": [task("e")], "label": "one"},
    ], "label": "all"});
    let planned = plan(serde_json::from_value(canvas.clone()).unwrap(), CanvasLimits::default()).unwrap();
    let of_join = |(number, node): (u32, &umbel_model::canvas::Node)| match &node.work {
        Work::Join(_) => node.label.clone().map(|label| (number, label)),
        Work::Job(_) => None,
    };
    let labels = umbel_model::CompositeLabels {
        groups: (0..).zip(&planned.nodes).filter_map(of_join).collect(),
        chains: planned.chain_labels.into_iter().collect(),
    };
    let spec = umbel_model::WorkflowSpec { labels, ..Default::default() };
    let (nodes, end, _) = nodes(canvas);
    let mut root = Builder::new(&nodes, Caps::OF_TREE).root(end);
    Labels::of(&serde_json::to_string(&spec).unwrap()).give(&mut root);
    let labels: Vec<_> = root.steps.iter().map(|step| (step.kind, step.label.as_deref())).collect();
    assert_eq!(root.label.as_deref(), Some("all"));
    // A group that a task follows is a chord. Of chains that end together only the outer one has a label.
    assert_eq!(labels, [("chord", Some("chord")), ("chord", Some("none"))]);
    assert_eq!(root.steps[0].members[0].label.as_deref(), Some("inner"));
}
