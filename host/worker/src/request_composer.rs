//! Composes the workflows, members and replacement that a guest requested into the growth that is stored with its outcome.

use std::sync::Arc;

use umbel_broker::{Broker, Delivery, Growth};
use umbel_compose::{BrokerTasks, Composer, Error, Head, Rules};
use umbel_model::{Canvas, Failure, NodeArguments, NodeSpec, OnFailure, Outcome, PolicyBounds, WorkflowId};

use crate::{
    operating_system::unix_ms,
    workflow_requests::{WorkflowRequests, parsed},
};

/// Composes requests with the tenant's tasks as they are deployed now.
#[derive(Debug)]
pub(crate) struct RequestComposer {
    tasks: BrokerTasks,
    rules: Rules,
}

impl RequestComposer {
    pub(crate) fn new(broker: Arc<dyn Broker>, bounds: PolicyBounds) -> Self {
        Self { tasks: BrokerTasks::new(broker), rules: Rules { bounds, ..Rules::default() } }
    }

    /// The growth, and the workflow that replaces the job; or the outcome that the attempt has instead.
    pub(crate) async fn compose(
        &self,
        delivery: &Delivery,
        template: Option<&NodeSpec>,
        requests: WorkflowRequests,
    ) -> Result<(Growth, Option<WorkflowId>), Outcome> {
        let stamps = template.map(|spec| spec.stamps.clone()).unwrap_or_default();
        let composer = Composer {
            tasks: &self.tasks,
            rules: &self.rules,
            tenant: &delivery.tenant,
            stamps: &stamps,
            now_ms: unix_ms(),
            pointer: "",
        };
        let WorkflowRequests { submitted, replacement, members, .. } = requests;
        let replaced_by = replacement.as_ref().map(|(id, _)| *id);
        let depth = delivery.node.as_ref().map_or(0, |node| node.depth) + 1;
        let keep_ms = template.and_then(|spec| spec.keep_ms);
        let mut growth = Growth::default();
        let submitted = submitted.into_iter().map(|request| (request, None));
        for ((id, text), parent) in submitted.chain(replacement.map(|request| (request, Some(delivery.id)))) {
            let head = Head { depth, parent, ..Head::new(id) };
            let head = Head { keep_ms: keep_ms.unwrap_or(head.keep_ms), ..head };
            growth.workflows.push(composer.workflow(read(&text)?, head).await.map_err(refused)?);
        }
        if !members.is_empty() {
            let mut all: Vec<Canvas> = Vec::new();
            for list in &members {
                all.extend(read::<Vec<Canvas>>(list)?);
            }
            let on_failure = delivery.node.as_ref().and_then(|node| members_on_failure(&node.arguments));
            let added_by = delivery.node.as_ref().map_or(0, |node| node.node);
            growth.members = Some(composer.members(all, added_by, on_failure, keep_ms).await.map_err(refused)?);
        }
        Ok((growth, replaced_by))
    }
}

/// What the group of a node says of the failure of its members.
fn members_on_failure(arguments: &str) -> Option<OnFailure> {
    serde_json::from_str::<NodeArguments>(arguments).ok()?.members_on_failure
}

/// Reads a text that was read and checked before, when the guest requested it.
fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Outcome> {
    parsed(text).map_err(|refused| Outcome::Fatal(Failure::new(refused.kind, refused.message)))
}

/// A canvas that cannot be composed fails its attempt: for good when it is the guest's fault.
fn refused(error: Error) -> Outcome {
    let failure = Failure::new(error.kind(), format!("what the task asked of canvas: {error}"));
    match error {
        Error::Refused(_) => Outcome::Fatal(failure),
        // The tasks cannot be looked up now: that is not the guest's fault, and costs the job nothing.
        error if error.is_transient() => Outcome::Released,
        _ => Outcome::Error { failure, retry_after_ms: None },
    }
}
