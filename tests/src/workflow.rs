//! Workflows as a user of the HTTP API meets them: submit, wait, and look at every node, those of replacements too.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{Client, until};

/// Nodes of one page.
const PAGE: u64 = 500;
/// Replacements within replacements that a reading follows.
const DEEPEST: usize = 64;

impl Client {
    /// Submits a canvas and returns the workflow's id.
    pub async fn submit_canvas(&self, canvas: &Value) -> Result<String> {
        self.submit_workflow(&json!({"canvas": canvas})).await
    }

    /// Submits a workflow with its options and returns its id.
    pub async fn submit_workflow(&self, body: &Value) -> Result<String> {
        let workflow = self.post("/v1/workflows", body).await?.good()?;
        Ok(workflow["id"].as_str().context("a workflow without an id")?.to_owned())
    }

    pub async fn workflow(&self, id: &str) -> Result<Value> {
        self.get(&format!("/v1/workflows/{id}")).await?.good()
    }

    /// Waits until the workflow is over and returns it.
    pub async fn workflow_over(&self, id: &str, limit: Duration) -> Result<Value> {
        let over = until(format!("workflow {id} is over"), limit, || async {
            let workflow = self.get(&format!("/v1/workflows/{id}?wait=10s")).await?.good()?;
            Ok((workflow["state"] != "running").then_some(workflow))
        })
        .await;
        match over {
            Ok(workflow) => Ok(workflow),
            // Where it hangs is what somebody wants to know.
            Err(e) => bail!("{e:#}\n{}", self.workflow(id).await.unwrap_or_default()),
        }
    }

    /// Submits a canvas and waits for its end.
    pub async fn run_canvas(&self, canvas: &Value) -> Result<Value> {
        let id = self.submit_canvas(canvas).await?;
        self.workflow_over(&id, Duration::from_secs(60)).await
    }

    /// The nodes of one workflow, in the order of their numbers.
    pub async fn nodes_of(&self, id: &str) -> Result<Vec<Value>> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let page = self.get(&format!("/v1/workflows/{id}/nodes?from={from}&max={PAGE}")).await?.good()?;
            all.extend(page["items"].as_array().context("a page of nodes without items")?.iter().cloned());
            match page["next_from"].as_u64() {
                Some(next) if next > from => from = next,
                _ => return Ok(all),
            }
        }
    }

    /// Every workflow that a query finds, all pages.
    pub async fn workflows(&self, query: &str) -> Result<Vec<Value>> {
        self.listed(&format!("/v1/workflows?limit=200&{query}")).await
    }

    /// The job nodes of a workflow and of what replaced its jobs.
    pub async fn all_jobs_of(&self, id: &str) -> Result<Vec<Value>> {
        let (mut jobs, mut open) = (Vec::new(), vec![(id.to_owned(), 0)]);
        while let Some((id, depth)) = open.pop() {
            ensure!(depth < DEEPEST, "workflow {id} is replaced more than {DEEPEST} times");
            for node in self.nodes_of(&id).await? {
                if let Some(child) = node["replaced_by"].as_str() {
                    open.push((child.to_owned(), depth + 1));
                }
                if node["kind"] == "job" {
                    jobs.push(node);
                }
            }
        }
        Ok(jobs)
    }
}

/// How many of the nodes have this label and state.
pub fn labelled(nodes: &[Value], label: &str, states: &[&str]) -> usize {
    let is = |node: &&Value| node["label"] == label && states.iter().any(|state| node["state"] == *state);
    nodes.iter().filter(is).count()
}

/// The tasks that failed by themselves, and not because of what they waited for, with their counts.
pub fn failed_by_themselves(nodes: &[Value]) -> BTreeMap<String, u64> {
    let mut failed = BTreeMap::new();
    for node in nodes {
        if node["state"] == "failed" && failure_kind(node) != "upstream_failed" {
            *failed.entry(node["task"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    failed
}

/// Why a node failed; empty if it did not.
pub fn failure_kind(node: &Value) -> &str {
    node["error"]["kind"].as_str().unwrap_or_default()
}

/// Whether every field and item of `part` is in `whole`.
pub fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|of| holds(of, value)))
        }
        _ => whole == part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_held_by_a_whole_with_more_fields() {
        assert!(holds(&json!({"a": {"b": 1, "c": 2}, "d": 3}), &json!({"a": {"b": 1}})));
        assert!(!holds(&json!({"a": [1, 2]}), &json!({"a": [1]})));
    }

    #[test]
    fn only_what_failed_by_itself_is_counted() {
        let node = |task: &str, kind: &str| json!({"state": "failed", "task": task, "error": {"kind": kind}});
        let nodes = [node("a", "Expected"), node("b", "upstream_failed"), node("a", "Expected")];
        assert_eq!(failed_by_themselves(&nodes), BTreeMap::from([("a".to_owned(), 2)]));
    }
}
