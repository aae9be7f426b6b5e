//! Templates of nodes: what calls of one task with the same options have in common is decided and stored once.

use std::{collections::HashMap, sync::Arc};

use umbel_broker::{NodeTemplate, Start};
use umbel_model::{NodeSpec, Policy, Stamps, TaskName, Uniqueness, UnixMs};

use crate::{
    FaultKind, Options, Result, Rules, TaskFacts, UnknownParameter,
    broker_options::BrokerOptionsRule,
    error::refused,
    job::{check_policy, spec_text},
};

/// The options of a node: as they were written, or read already.
#[derive(Clone, Copy)]
pub(crate) enum NodeOptions<'a> {
    Text(&'a str),
    Read(&'a Options),
}

/// The templates of one workflow.
pub(crate) struct Templates<'a> {
    rules: &'a Rules,
    stamps: &'a Stamps,
    now_ms: UnixMs,
    keep_ms: Option<u64>,
    /// By task and the text of the options.
    known: HashMap<TaskName, HashMap<String, u32>>,
    /// Each with how the broker options of its nodes are made.
    list: Vec<(NodeTemplate, BrokerOptionsRule)>,
    /// Bytes that further specs may have.
    left: usize,
}

impl<'a> Templates<'a> {
    pub(crate) fn new(rules: &'a Rules, stamps: &'a Stamps, now_ms: UnixMs, keep_ms: Option<u64>) -> Self {
        let left = rules.limits.max_bytes;
        Self { rules, stamps, now_ms, keep_ms, known: HashMap::new(), list: Vec::new(), left }
    }

    /// The number of the template for one more node. Pointers of faults begin at the node.
    pub(crate) fn add_node(&mut self, task: &Arc<TaskFacts>, options: NodeOptions<'_>) -> Result<u32> {
        let at = self.list.len() as u32;
        let (read, text) = match options {
            NodeOptions::Read(options) => (options, None),
            NodeOptions::Text(text) => {
                if let Some(at) = self.known.get(&task.name).and_then(|of_task| of_task.get(text)) {
                    self.list[*at as usize].0.nodes += 1;
                    return Ok(*at);
                }
                let empty = text.is_empty();
                (&if empty { Options::default() } else { Options::parse(text, self.now_ms)? }, Some(text))
            }
        };
        if self.list.len() >= self.rules.limits.max_templates {
            let max = self.rules.limits.max_templates;
            let detail = format!("a workflow has at most {max} different pairs of task and options");
            return Err(refused(FaultKind::Canvas, "/options", detail));
        }
        let made = self.template(task, read)?;
        self.left = rest_after_spec(self.left, &made.0.spec, self.rules)?;
        self.list.push(made);
        if let Some(text) = text {
            self.known.entry(task.name.clone()).or_default().insert(text.to_owned(), at);
        }
        Ok(at)
    }

    /// How the broker options of a template's nodes are made.
    pub(crate) fn broker_options(&self, template: u32) -> &BrokerOptionsRule {
        &self.list[template as usize].1
    }

    fn template(&self, task: &Arc<TaskFacts>, options: &Options) -> Result<(NodeTemplate, BrokerOptionsRule)> {
        if let Some((field, detail)) = not_of_a_node(options) {
            return Err(refused(FaultKind::Option, format!("/options/{field}"), detail));
        }
        let patch = task.policy.overlaid(&options.policy);
        let policy = Policy::resolve(&patch);
        check_policy(&policy, self.rules, UnknownParameter::in_node(&policy, &task.parameter_names()))?;
        let spec = NodeSpec {
            v: patch.spec_version(),
            task: task.name.clone(),
            digest: task.digest,
            parameters: task.parameters.clone(),
            policy: patch,
            stamps: self.stamps.clone(),
            keep_ms: self.keep_ms,
        };
        let broker_options = BrokerOptionsRule::without_uniqueness(&policy, &task.name);
        let template = NodeTemplate {
            task: task.name.clone(),
            queue: policy.queue,
            priority: policy.priority,
            start: options.start.unwrap_or(Start::Now),
            expires_ms: policy.expires_ms,
            max_deliveries: policy.max_deliveries,
            spec: spec_text(&spec),
            nodes: 1,
        };
        Ok((template, broker_options))
    }

    pub(crate) fn into_list(self) -> Vec<NodeTemplate> {
        self.list.into_iter().map(|(template, _)| template).collect()
    }
}

/// An option that only a job of its own has, and why.
fn not_of_a_node(options: &Options) -> Option<(&'static str, &'static str)> {
    let policy = &options.policy;
    let is_unique = policy.unique.is_some_and(|unique| unique != Uniqueness::Off);
    let unique =
        "a node of a workflow is no rival of jobs like it; submit a job of its own, or the workflow with a key";
    Some(match () {
        () if options.idempotency_key.is_some() => {
            ("idempotency_key", "a node has no idempotency key; the workflow as a whole has one")
        }
        () if is_unique => ("unique", unique),
        () if policy.debounce_ms.is_some_and(|ms| ms > 0) => ("debounce_ms", unique),
        () if !options.tags.is_empty() => ("tags", "a node has the tags of its workflow"),
        () if !options.headers.is_empty() => ("headers", "a node has the headers of its workflow"),
        () if options.expires_at.is_some() => {
            ("expires_at", "set expires_ms, which counts from when the node is ready, or the workflow's deadline_ms")
        }
        () if !options.on_success.is_empty() => ("on_success", "give the step a `link`"),
        () if !options.on_failure.is_empty() => ("on_failure", "give the step a `link_error`"),
        () => return None,
    })
}

/// The rest of the bytes that a workflow's specs may have.
pub(crate) fn rest_after_spec(left: usize, spec: &str, rules: &Rules) -> Result<usize> {
    let detail = || {
        let max = rules.limits.max_bytes;
        format!(
            "tags, headers and parameter defaults are stored once for each pair of task and options: at most {max} bytes \
             together"
        )
    };
    left.checked_sub(spec.len()).ok_or_else(|| refused(FaultKind::ArgumentsTooLarge, "/options", detail()))
}
