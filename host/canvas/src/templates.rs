//! Calls of one task with the same options, grouped: what they have in common is decided and stored once.

use std::{collections::HashMap, sync::Arc};

use umbel_broker::{NodeTemplate, Start};
use umbel_model::{NodeSpec, Policy, TaskName, UnixMs, job::SPEC_VERSION};

use crate::{
    Error, Fault, FaultKind, Options, Result, Rules, Stamps, TaskFacts,
    error::{escape, refused},
};

/// The templates of one workflow.
pub(crate) struct Templates<'a> {
    rules: &'a Rules,
    stamps: &'a Stamps,
    now_ms: UnixMs,
    /// By task and the text of the options.
    known: HashMap<TaskName, HashMap<String, u32>>,
    list: Vec<NodeTemplate>,
    /// Bytes that further specs may have.
    left: usize,
}

impl<'a> Templates<'a> {
    pub(crate) fn new(rules: &'a Rules, stamps: &'a Stamps, now_ms: UnixMs) -> Self {
        let left = rules.limits.max_bytes;
        Self { rules, stamps, now_ms, known: HashMap::new(), list: Vec::new(), left }
    }

    /// The number of the template for one more node. Pointers of faults begin at the node.
    pub(crate) fn one_more(&mut self, task: &Arc<TaskFacts>, options: &str) -> Result<u32> {
        if let Some(at) = self.known.get(&task.name).and_then(|of_task| of_task.get(options)) {
            self.list[*at as usize].nodes += 1;
            return Ok(*at);
        }
        if self.list.len() >= self.rules.limits.max_templates {
            let max = self.rules.limits.max_templates;
            let detail = format!("a workflow has at most {max} different pairs of task and options");
            return Err(refused(FaultKind::Canvas, "/options".into(), detail));
        }
        let template = self.template(task, options)?;
        self.left = rest_after_spec(self.left, &template.spec, self.rules)?;
        let at = self.list.len() as u32;
        self.list.push(template);
        self.known.entry(task.name.clone()).or_default().insert(options.to_owned(), at);
        Ok(at)
    }

    fn template(&self, task: &Arc<TaskFacts>, options: &str) -> Result<NodeTemplate> {
        let parsed = if options.is_empty() { Ok(Options::default()) } else { Options::parse(options, self.now_ms) };
        let Options { policy, start, idempotency_key } = parsed.map_err(|fault: Fault| Error::Refused(vec![fault]))?;
        if idempotency_key.is_some() {
            let detail = "a node has no idempotency key; the workflow as a whole has one";
            return Err(refused(FaultKind::Option, "/options/idempotency_key".into(), detail));
        }
        let patch = task.policy.overlaid(&policy);
        let policy = Policy::resolve(&patch);
        self.rules.bounds.check(&policy).map_err(|e| {
            let fields: Vec<String> = e.field.split('.').map(escape).collect();
            refused(FaultKind::Policy, format!("/options/{}", fields.join("/")), e.to_string())
        })?;
        let spec = NodeSpec {
            v: SPEC_VERSION,
            task: task.name.clone(),
            digest: task.digest,
            parameters: task.texts(),
            policy: patch,
            traceparent: self.stamps.traceparent.clone(),
            request_id: self.stamps.request_id.clone(),
            tags: self.stamps.tags.clone(),
            headers: self.stamps.headers.clone(),
        };
        Ok(NodeTemplate {
            task: task.name.clone(),
            queue: policy.queue,
            priority: policy.priority,
            start: start.unwrap_or(Start::Now),
            expires_ms: policy.expires_ms,
            max_deliveries: policy.max_deliveries,
            spec: serde_json::to_string(&spec).expect("a spec has text keys only"),
            nodes: 1,
        })
    }

    pub(crate) fn into_list(self) -> Vec<NodeTemplate> {
        self.list
    }
}

/// What is left of the bytes that a workflow's specs may have.
pub(crate) fn rest_after_spec(left: usize, spec: &str, rules: &Rules) -> Result<usize> {
    let detail = || {
        let max = rules.limits.max_bytes;
        format!(
            "tags, headers and parameter defaults are stored once for each pair of task and options: at most {max} bytes \
             together"
        )
    };
    left.checked_sub(spec.len()).ok_or_else(|| refused(FaultKind::ArgumentsTooLarge, "/options".into(), detail()))
}
