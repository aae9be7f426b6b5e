//! Plans and what is resumed of them, case by case.

use super::*;
use crate::JobState;

fn planned(json: &str) -> Plan {
    plan(serde_json::from_str(json).unwrap(), CanvasLimits::default()).unwrap()
}

/// `number:task/after>next…`, a join as `[members]`.
fn shown(plan: &Plan) -> Vec<String> {
    let ranges =
        |list: &[Range]| list.iter().flat_map(|r| r.iter()).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let node = |(n, node): (usize, &Node)| {
        let what = match &node.work {
            Work::Job(signature) => signature.task.to_string(),
            Work::Join(join) => format!("[{}]", ranges(&join.members)),
        };
        let after = node.after.map_or(String::new(), |a| format!("/{a}"));
        format!("{n}:{what}{after}>{}", ranges(&node.next))
    };
    plan.nodes.iter().enumerate().map(node).collect()
}

#[test]
fn a_node_and_its_workflow_know_each_other() {
    let workflow = workflow_id(JobId::from_parts(77, u128::MAX));
    assert_eq!(node_of(node_job(workflow, 0)), (workflow, 0));
    assert_eq!(node_of(node_job(workflow, 249_999)), (workflow, 249_999));
    assert_eq!(workflow.timestamp_ms(), 77);
}

#[test]
fn a_chain_is_a_line_of_nodes() {
    let plan = planned(r#"{"chain":[{"task":"a"},{"task":"b"},{"task":"c"}]}"#);
    assert_eq!(shown(&plan), ["0:a>1", "1:b/0>2", "2:c/1>"]);
    assert_eq!((plan.starts, plan.end), (vec![Range::one(0)], 2));
}

#[test]
fn a_group_followed_by_a_task_is_a_chord() {
    let group = planned(r#"{"chain":[{"group":[{"task":"a"},{"task":"b"}]},{"task":"c"}]}"#);
    let chord = planned(r#"{"chord":[{"task":"a"},{"task":"b"}],"body":{"task":"c"}}"#);
    assert_eq!(shown(&group), ["0:[1,2]>3", "1:a>0", "2:b>0", "3:c/0>"]);
    assert_eq!(shown(&group), shown(&chord));
}

#[test]
fn members_that_are_chains_end_and_start_in_one_piece() {
    let plan = planned(
        r#"{"chain":[{"task":"x"},{"group":[{"chain":[{"task":"a"},{"task":"b"}]},{"chain":[{"task":"c"},{"task":"d"}]}]}]}"#,
    );
    assert_eq!(shown(&plan), ["0:x>4,5", "1:[2,3]/0>", "2:b/4>1", "3:d/5>1", "4:a/0>2", "5:c/0>3"]);
    assert_eq!(plan.nodes[0].next, [Range { first: 4, count: 2 }]);
}

#[test]
fn an_empty_group_is_a_join_that_waits_for_what_is_before_it() {
    let plan = planned(r#"{"chain":[{"task":"a"},{"group":[]},{"task":"b"}]}"#);
    assert_eq!(shown(&plan), ["0:a>1", "1:[]/0>2", "2:b/1>"]);
    let alone = planned(r#"{"group":[]}"#);
    assert_eq!((alone.starts, alone.end), (vec![Range::one(0)], 0));
}

#[test]
fn callbacks_are_outside_of_the_scope_of_groups() {
    let plan = planned(r#"{"group":[{"task":"a","link_error":[{"task":"e"}]},{"task":"b"}],"cancel_rest":true}"#);
    let Work::Join(join) = &plan.nodes[0].work else { panic!("a gate") };
    assert_eq!(join.scope, [Range { first: 1, count: 2 }]);
    assert_eq!(shown(&plan), ["0:[1,2]>", "1:a>0,3", "2:b>0", "3:e/1>"]);
    assert_eq!(plan.nodes[3].when, When::Failure);
}

#[test]
fn what_a_group_says_of_failures_holds_for_its_members() {
    let plan = planned(
        r#"{"group":[{"task":"a"},{"task":"b","on_failure":"ignore"},{"chain":[{"task":"c"},{"task":"d"}]}],"on_failure":"continue"}"#,
    );
    let policies: Vec<OnFailure> = plan.nodes.iter().map(|n| n.on_failure).collect();
    // join, a, b, d (the end of the chain), c
    assert_eq!(
        policies,
        [OnFailure::Fail, OnFailure::Continue, OnFailure::Ignore, OnFailure::Continue, OnFailure::Fail]
    );
}

#[test]
fn the_same_json_comes_out_that_went_in() {
    for text in [
        r#"{"task":"add","args":[1,{"x":2}],"kwargs":{"y":12345678901234567890},"options":{"queue":"q"},"immutable":true}"#,
        r#"{"task":"inc","map":[1,2]}"#,
        r#"{"task":"add","starmap":[[1,2]]}"#,
        r#"{"task":"add","chunks":[[1,2],[3,4]],"size":1}"#,
        r#"{"chord":[{"task":"a"}],"body":{"task":"b","link":[{"task":"c"}]},"cancel_rest":true,"on_failure":"ignore"}"#,
    ] {
        let canvas: Canvas = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&canvas).unwrap(), text);
    }
}

#[test]
fn a_step_that_says_two_things_is_refused() {
    for text in [
        r"{}",
        r#"{"task":"a","chain":[]}"#,
        r#"{"chain":[],"args":[1]}"#,
        r#"{"task":"a","map":[],"starmap":[]}"#,
        r#"{"task":"a","chunks":[[1]]}"#,
        r#"{"task":"a","size":3}"#,
        r#"{"chord":[]}"#,
        r#"{"group":[],"body":{"task":"a"}}"#,
        r#"{"task":"a","cancel_rest":true}"#,
        r#"{"task":"a","surprise":1}"#,
        r#"{"task":"a","label":""}"#,
    ] {
        assert!(serde_json::from_str::<Canvas>(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_are_limited() {
    let limits = CanvasLimits { max_depth: 3, max_nodes: 3 };
    let planned = |text: &str| plan(serde_json::from_str(text).unwrap(), limits).map(|_| ()).map_err(|e| e.pointer);
    assert_eq!(planned(r#"{"group":[{"task":"a"},{"task":"a"}]}"#), Ok(()));
    assert_eq!(planned(r#"{"group":[{"task":"a"},{"task":"a"},{"task":"a"}]}"#), Err(String::new()));
    assert_eq!(planned(r#"{"chain":[{"chain":[{"chain":[{"task":"a"}]}]}]}"#), Err("/chain/0/chain/0/chain/0".into()));
    assert_eq!(planned(r#"{"chain":[]}"#), Err(String::new()));
}

#[test]
fn resuming_a_chain_starts_at_the_step_that_failed() {
    let plan = planned(r#"{"chain":[{"task":"a"},{"task":"b"},{"task":"c"}]}"#);
    let (ends, starts) = resume(&plan.nodes, &[JobState::Succeeded, JobState::Failed, JobState::Failed]);
    assert_eq!(ends[0], NodeEnd::Kept(JobState::Succeeded));
    assert!(matches!(ends[1..], [NodeEnd::Redo { .. }, NodeEnd::Redo { .. }]));
    assert_eq!(starts, [Range::one(1)]);
}

#[test]
fn resuming_a_chord_runs_only_the_members_that_failed() {
    let plan = planned(r#"{"chord":[{"task":"a"},{"task":"b"},{"task":"c"}],"body":{"task":"d"}}"#);
    let states = [JobState::Waiting, JobState::Succeeded, JobState::Failed, JobState::Succeeded, JobState::Failed];
    let (ends, starts) = resume(&plan.nodes, &states);
    assert_eq!(ends[0], NodeEnd::Redo { pending: 1, failed: 0, skipped: 0 });
    assert_eq!(starts, [Range::one(2)]);
}

#[test]
fn a_failure_that_was_not_minded_is_kept_when_the_body_went_on() {
    let plan = planned(
        r#"{"chain":[{"chord":[{"task":"a","on_failure":"ignore"},{"task":"b"}],"body":{"task":"c"}},{"task":"d"}]}"#,
    );
    // join, a, b, c, d
    let states = [JobState::Waiting, JobState::Failed, JobState::Succeeded, JobState::Succeeded, JobState::Failed];
    let (ends, starts) = resume(&plan.nodes, &states);
    assert_eq!(ends[0], NodeEnd::KeptJoin);
    assert_eq!(ends[1], NodeEnd::Kept(JobState::Failed));
    assert_eq!(starts, [Range::one(4)]);
}

#[test]
fn the_callbacks_of_a_node_that_is_done_again_wait_again() {
    let plan = planned(r#"{"task":"a","link":[{"task":"l"}],"link_error":[{"task":"e"}]}"#);
    // Callbacks are planned from the last to the first.
    assert_eq!(shown(&plan), ["0:a>1,2", "1:e/0>", "2:l/0>"]);
    let (ends, starts) = resume(&plan.nodes, &[JobState::Failed, JobState::Succeeded, JobState::Failed]);
    assert!(ends.iter().all(|end| matches!(end, NodeEnd::Redo { .. })));
    assert_eq!(starts, [Range::one(0)]);
}

#[test]
fn the_on_failure_of_a_chord_is_that_of_its_members_and_not_of_its_body() {
    let plan = planned(
        r#"{"chord":[{"task":"a"},{"task":"b","on_failure":"fail"},{"chain":[{"task":"c"},{"task":"d"}]}],"on_failure":"continue","body":{"task":"z"}}"#,
    );
    let policy = |task: &str| {
        let named = |node: &&Node| matches!(&node.work, Work::Job(signature) if signature.task.as_str() == task);
        plan.nodes.iter().find(named).unwrap().on_failure
    };
    use OnFailure::{Continue, Fail};
    assert_eq!(["a", "b", "c", "d", "z"].map(policy), [Continue, Fail, Fail, Continue, Fail]);
    // The group itself fails when a member fails that is minded.
    assert_eq!(plan.nodes[0].on_failure, Fail);
}

#[test]
fn members_that_a_job_added_are_dropped_when_it_is_done_again() {
    let json =
        r#"{"chain":[{"task":"a","on_failure":"continue"},{"chord":[{"task":"g"},{"task":"h"}],"body":{"task":"z"}}]}"#;
    let mut plan = planned(json);
    // a, join, g, h, z; `g` adds `m` and a group of `n`, and `m` adds `o`.
    let by = |plan: &Plan, task: &str| {
        let named = |node: &Node| matches!(&node.work, Work::Job(signature) if signature.task.as_str() == task);
        plan.nodes.iter().position(named).unwrap() as u32
    };
    let (join, g) = (1, by(&plan, "g"));
    let add = |plan: &mut Plan, adder: u32, json: &str| {
        let base = plan.nodes.len() as u32;
        let members: Vec<Canvas> = serde_json::from_str(json).unwrap();
        let (more, ends) = plan_members(members, None, CanvasLimits::default()).unwrap();
        let moved = |range: &Range| Range { first: range.first + base, count: range.count };
        for mut node in more.nodes {
            node.after = node.after.map(|after| after + base);
            node.next = node.next.iter().map(moved).collect();
            node.added_by = matches!(node.work, Work::Job(_)).then_some(adder);
            if let Work::Join(join) = &mut node.work {
                join.members = join.members.iter().map(moved).collect();
            }
            plan.nodes.push(node);
        }
        let Work::Join(of) = &mut plan.nodes[join as usize].work else { panic!("a join") };
        ends.iter().map(moved).for_each(|range| push_range(&mut of.members, range));
        ends.iter().map(moved).flat_map(Range::iter).for_each(|end| {
            push_range(&mut plan.nodes[end as usize].next, Range::one(join));
        });
    };
    add(&mut plan, g, r#"[{"task":"m"},{"group":[{"task":"n"}]}]"#);
    let m = by(&plan, "m");
    add(&mut plan, m, r#"[{"task":"o"}]"#);
    let resumed = |failed: &[&str]| {
        let state = |node: &Node| match &node.work {
            Work::Job(signature) if failed.contains(&signature.task.as_str()) => JobState::Failed,
            _ => JobState::Succeeded,
        };
        resume(&plan.nodes, &plan.nodes.iter().map(state).collect::<Vec<_>>())
    };
    // `h` and `z` are done again, and so is `a`, which `h` went on without: `g` runs again, and adds its members again.
    let (ends, starts) = resumed(&["a", "h", "z"]);
    let added = g.max(4) as usize + 1;
    assert!(ends[added..].iter().all(|end| end.is_dropped()), "{ends:?}");
    assert_eq!(ends[join as usize], NodeEnd::Redo { pending: 2, failed: 0, skipped: 0 });
    assert_eq!(starts, [Range::one(0)]);
    // `g` is kept, and with it what it added; `m` is done again, and adds `o` again.
    let (ends, starts) = resumed(&["m", "z"]);
    let dropped: Vec<usize> = (0..ends.len()).filter(|n| ends[*n].is_dropped()).collect();
    assert_eq!(dropped, [by(&plan, "o") as usize]);
    assert_eq!(ends[join as usize], NodeEnd::Redo { pending: 1, failed: 0, skipped: 0 });
    assert_eq!(starts, [Range::one(m)]);
}

#[test]
fn what_chunks_have_in_common_is_measured_before_it_is_copied() {
    let canvas = |common: usize, items: usize| {
        let (common, items) = ("x".repeat(common), vec!["[]"; items].join(","));
        let text = format!(r#"{{"task":"a","args":["{common}"],"chunks":[{items}],"size":1}}"#);
        plan(serde_json::from_str(&text).unwrap(), CanvasLimits::default()).map(|plan| plan.nodes.len())
    };
    assert_eq!(canvas(10, 1_000).unwrap(), 1_001);
    assert!(canvas(1_000_000, 100).unwrap_err().detail.contains("in common"));
    assert!(canvas(1, 250_001).unwrap_err().detail.contains("at most 250000 nodes"));
}

#[test]
fn resuming_a_group_after_a_group_looks_at_each_edge_once() {
    let members = |task: &str, count| vec![format!(r#"{{"task":"{task}"}}"#); count].join(",");
    let text = format!(
        r#"{{"chain":[{{"group":[{}],"on_failure":"continue"}},{{"group":[{}]}}]}}"#,
        members("a", 20_000),
        members("b", 20_000)
    );
    let plan = planned(&text);
    let states: Vec<JobState> = (0..plan.nodes.len())
        .map(|n| if n <= 20_000 || n + 1 == plan.nodes.len() { JobState::Failed } else { JobState::Succeeded })
        .collect();
    // Four hundred million steps would take minutes here.
    let (ends, _) = resume(&plan.nodes, &states);
    assert!(ends.iter().all(|end| matches!(end, NodeEnd::Redo { .. })));
}
