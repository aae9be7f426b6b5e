//! A canvas case as data: what is submitted, what is done to it meanwhile, and everything that is expected of its end.
//!
//! `expect` of a case: `state` and `result` of the workflow (`subset`: the result has at least these fields;
//! `result_holds`: each item of it does); `fired`: how many nodes of a label succeeded, `not_run` how many did not run,
//! `not_fired` how many were skipped; `states` of the nodes of a label; `failed`: the tasks that failed by themselves;
//! `values`: a part of the result of the node of a label; `named`: how many failed jobs the error of the node of a label
//! names; `order`: nodes of the first label ended before those of the second began; `priority` of jobs by label;
//! `stamped`: every job has the workflow's tags and headers; `jobs`: how many there are; `others`: how many workflows
//! guests submitted besides; `kept`: labels whose nodes were not run again.
//!
//! In a canvas `{"repeat": n, "step": …}` stands for `n` steps with `"$i"` counted from 0, in a result `{"range": n}` for
//! 0 to n.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    Client, until,
    workflow::{failed_by_themselves, failure_kind, holds, labelled},
};

/// How long a case may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(90);
/// The queue that is paused: what is in it waits until it is cancelled or expires.
const HELD: &str = "held";
/// States of a job that can be cancelled.
const BEGUN: &[&str] = &["queued", "running"];

/// One case.
#[derive(Debug)]
pub struct Case(pub Value);

impl Case {
    /// The cases of a file of `tests/canvas`.
    pub fn read(file: &str) -> Result<Vec<Self>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("canvas").join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let cases: Vec<Value> = serde_json::from_str(&text)?;
        Ok(cases.into_iter().map(Self).collect())
    }

    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or("a case without a name")
    }

    /// Submits it and returns the workflow's id.
    pub async fn submit(&self, client: &Client) -> Result<String> {
        let canvas = expanded(self.0["canvas"].clone());
        let headers = json!({"case": self.name()});
        client
            .submit_workflow(&json!({"canvas": canvas, "name": self.name(), "tags": ["case"], "headers": headers}))
            .await
    }

    /// Does to the workflow what the case says, waits for its end, and compares; then resumes it if the case says so.
    pub async fn finish(&self, client: &Client, id: &str) -> Result<()> {
        act(client, id, &self.0["act"]).await?;
        check(client, id, self.name(), &self.0["expect"]).await?;
        let Some(then) = self.0.get("then") else { return Ok(()) };
        let resumed =
            client.post(&format!("/v1/workflows/{id}/resume"), &json!({"digest": then["resume"]})).await?.good()?;
        ensure!(resumed["resume_of"] == id, "it does not say what it resumes: {resumed}");
        let before = client.nodes_of(id).await?;
        let id = resumed["id"].as_str().context("a resumed workflow without an id")?;
        act(client, id, &then["act"]).await?;
        check(client, id, self.name(), &then["expect"]).await.context("resumed")?;
        kept(client, id, &before, &then["expect"]["kept"]).await.context("resumed")
    }
}

/// Makes the service ready for cases: their guests, and the queue that is paused.
pub async fn prepare(client: &Client) -> Result<()> {
    client.push("numbers").await?;
    client.push("cases").await?;
    // A queue is known, and can be paused, once it had a job.
    let job = client.submit_body(&json!({"task": "echo", "args": [1], "options": {"queue": HELD}})).await?;
    client.ended(&job, LIMIT).await?;
    client.post(&format!("/v1/queues/{HELD}/pause"), &json!({})).await?.good()?;
    Ok(())
}

async fn act(client: &Client, id: &str, act: &Value) -> Result<()> {
    if let Some(label) = act["cancel_node"].as_str() {
        let node = reached(client, id, label, BEGUN).await?;
        client.post(&format!("/v1/jobs/{}/cancel", job_id(&node)?), &json!({})).await?.good()?;
    }
    if act["cancel"] == true {
        if let Some(label) = act["when"].as_str() {
            reached(client, id, label, BEGUN).await?;
        }
        client.post(&format!("/v1/workflows/{id}/cancel"), &json!({})).await?.good()?;
    }
    Ok(())
}

/// Waits until a node of this label is in one of the states.
pub async fn reached(client: &Client, id: &str, label: &str, states: &[&str]) -> Result<Value> {
    until(format!("{label} of {id} is {}", states.join(" or ")), LIMIT, || async {
        let nodes = client.all_jobs_of(id).await?;
        let node = of_label(&nodes, label).find(|node| states.iter().any(|state| node["state"] == *state));
        Ok(node.cloned())
    })
    .await
}

async fn check(client: &Client, id: &str, name: &str, expect: &Value) -> Result<()> {
    let workflow = client.workflow_over(id, LIMIT).await?;
    ensure!(workflow["state"] == expect["state"], "it is {}, not {}: {workflow}", workflow["state"], expect["state"]);
    if let Some(wanted) = expect.get("result") {
        let (found, wanted) = (&workflow["result"], expanded_result(wanted));
        let right = if expect["subset"] == true { holds(found, &wanted) } else { *found == wanted };
        ensure!(right, "the result is {found}, not {wanted}");
    }
    for (at, part) in expect["result_holds"].as_array().into_iter().flatten().enumerate() {
        ensure!(
            holds(&workflow["result"][at], part),
            "the result is {}, not {}",
            workflow["result"],
            expect["result_holds"]
        );
    }
    let nodes = client.all_jobs_of(id).await?;
    labels(expect, &nodes)?;
    in_order(expect, &nodes)?;
    if let Some(failed) = expect.get("failed") {
        let found = json!(failed_by_themselves(&nodes));
        ensure!(found == *failed, "what failed is {found}, not {failed}");
    }
    if let Some(jobs) = expect.get("jobs") {
        ensure!(json!(nodes.len()) == *jobs, "it has {} jobs, not {jobs}", nodes.len());
    }
    jobs(client, expect, &nodes).await?;
    if let Some(wanted) = expect["others"].as_u64() {
        others(client, id, name, wanted as usize).await?;
    }
    Ok(())
}

/// Expectations about the jobs with a label.
async fn jobs(client: &Client, expect: &Value, nodes: &[Value]) -> Result<()> {
    for (label, wanted) in fields(&expect["values"]) {
        let result = job_of(client, nodes, label).await?["result"].clone();
        ensure!(holds(&result, wanted), "the result of {label} is {result}, not {wanted}");
    }
    for (label, count) in fields(&expect["named"]) {
        let error = job_of(client, nodes, label).await?["error"].clone();
        let named = error["details"]["failed"].as_array().map_or(0, Vec::len);
        ensure!(json!(named) == *count, "the error of {label} names {named} jobs, not {count}: {error}");
    }
    for (label, priority) in fields(&expect["priority"]) {
        let job = job_of(client, nodes, label).await?;
        ensure!(job["priority"] == *priority, "{label} has the priority {}", job["priority"]);
    }
    if expect["stamped"] == true {
        for node in nodes {
            let job = client.job(job_id(node)?).await?;
            if job["node"]["tags"] != json!(["case"]) || !job["node"]["headers"]["case"].is_string() {
                bail!("a job without the stamps: {job}");
            }
        }
    }
    Ok(())
}

/// How many nodes of labels ended how.
fn labels(expect: &Value, nodes: &[Value]) -> Result<()> {
    let checks = [("fired", &["succeeded"][..]), ("not_run", &["failed", "skipped"]), ("not_fired", &["skipped"])];
    for (check, states) in checks {
        for (label, count) in fields(&expect[check]) {
            let found = labelled(nodes, label, states);
            ensure!(json!(found) == *count, "{check}: {found} of {label}, not {count}");
        }
    }
    for (label, _) in fields(&expect["not_run"]) {
        for node in of_label(nodes, label).filter(|node| node["state"] == "failed") {
            ensure!(failure_kind(node) == "upstream_failed", "{label} ran: {node}");
            ensure!(node["started_at"].is_null(), "{label} was started: {node}");
        }
    }
    for (label, state) in fields(&expect["states"]) {
        ensure!(of_label(nodes, label).count() > 0, "no node is {label}");
        for node in of_label(nodes, label) {
            ensure!(node["state"] == *state, "{label} is {}, not {state}: {node}", node["state"]);
        }
    }
    Ok(())
}

fn of_label<'a>(nodes: &'a [Value], label: &'a str) -> impl Iterator<Item = &'a Value> {
    nodes.iter().filter(move |node| node["label"] == label)
}

fn in_order(expect: &Value, nodes: &[Value]) -> Result<()> {
    for pair in expect["order"].as_array().into_iter().flatten() {
        let (ended, began) = (times(nodes, &pair[0], "finished_at")?, times(nodes, &pair[1], "started_at")?);
        let (ended, began) = (ended.last(), began.first());
        ensure!(ended <= began, "{} ended at {ended:?}, {} began at {began:?}", pair[0], pair[1]);
    }
    Ok(())
}

fn times(nodes: &[Value], label: &Value, field: &str) -> Result<BTreeSet<String>> {
    let mut times = BTreeSet::new();
    for node in nodes.iter().filter(|node| node["label"] == *label) {
        times.insert(node[field].as_str().with_context(|| format!("{label} has no {field}: {node}"))?.to_owned());
    }
    ensure!(!times.is_empty(), "no node has the label {label}");
    Ok(times)
}

/// Workflows that guests submitted have the headers of the one that they ran in.
async fn others(client: &Client, id: &str, name: &str, wanted: usize) -> Result<()> {
    let is_other = |w: &&Value| w["headers"]["case"] == name && w["id"] != id && w["parent"].is_null();
    let found = until(format!("{wanted} other workflows of {name} have succeeded"), LIMIT, || async {
        let all = client.workflows("").await?;
        let others: Vec<Value> = all.iter().filter(is_other).cloned().collect();
        let good = others.iter().filter(|other| other["state"] == "succeeded").count();
        ensure!(others.len() <= wanted, "{} workflows and not {wanted}: {others:?}", others.len());
        Ok((good == wanted).then_some(others))
    })
    .await?;
    ensure!(found.len() == wanted, "{found:?}");
    Ok(())
}

/// Kept nodes ended in the workflow before, and were not started again.
async fn kept(client: &Client, id: &str, before: &[Value], labels: &Value) -> Result<()> {
    let after = client.nodes_of(id).await?;
    for label in labels.as_array().into_iter().flatten() {
        let of = |nodes: &[Value]| nodes.iter().filter(|n| n["label"] == *label).cloned().collect::<Vec<_>>();
        let (old, new) = (of(before), of(&after));
        ensure!(!old.is_empty() && old.len() == new.len(), "{label}: {} nodes were {}", new.len(), old.len());
        for (old, new) in old.iter().zip(&new) {
            ensure!(new["state"] == old["state"], "{label} was {} and is {}", old["state"], new["state"]);
            ensure!(new["started_at"].is_null(), "{label} was run again: {new}");
        }
    }
    Ok(())
}

/// The job of the first node of a label.
async fn job_of(client: &Client, nodes: &[Value], label: &str) -> Result<Value> {
    let node = nodes.iter().find(|node| node["label"] == label).with_context(|| format!("no node is {label}"))?;
    client.job(job_id(node)?).await
}

fn job_id(node: &Value) -> Result<&str> {
    node["job"].as_str().with_context(|| format!("a node without a job: {node}"))
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The canvas with its repeated steps written out.
fn expanded(canvas: Value) -> Value {
    match canvas {
        Value::Array(items) => {
            let mut all = Vec::new();
            for item in items {
                match (item["repeat"].as_u64(), item.get("step")) {
                    (Some(count), Some(step)) => all.extend((0..count).map(|i| counted(expanded(step.clone()), i))),
                    _ => all.push(expanded(item)),
                }
            }
            Value::Array(all)
        }
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, expanded(value))).collect(),
        other => other,
    }
}

fn counted(step: Value, i: u64) -> Value {
    match step {
        Value::String(text) if text == "$i" => json!(i),
        Value::Array(items) => items.into_iter().map(|item| counted(item, i)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, counted(value, i))).collect(),
        other => other,
    }
}

fn expanded_result(result: &Value) -> Value {
    match result["range"].as_u64() {
        Some(end) => (0..end).map(Value::from).collect(),
        None => result.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_steps_are_written_out() {
        let canvas = json!({"group": [{"repeat": 2, "step": {"task": "echo", "args": ["$i"]}}, {"task": "echo"}]});
        let wanted = json!({"group": [{"task": "echo", "args": [0]}, {"task": "echo", "args": [1]}, {"task": "echo"}]});
        assert_eq!(expanded(canvas), wanted);
        assert_eq!(expanded_result(&json!({"range": 3})), json!([0, 1, 2]));
    }

    #[test]
    fn an_order_is_that_of_all_nodes_of_a_label() {
        let node = |label, began, ended| json!({"label": label, "started_at": began, "finished_at": ended});
        let nodes = [node("a", "1", "2"), node("a", "1", "4"), node("b", "3", "5")];
        assert!(in_order(&json!({"order": [["a", "b"]]}), &nodes).is_err());
        assert!(in_order(&json!({"order": [["a", "b"]]}), &nodes[1..2]).is_err(), "a label that nothing has");
        assert!(in_order(&json!({"order": [["a", "b"]]}), &[nodes[0].clone(), nodes[2].clone()]).is_ok());
    }
}
