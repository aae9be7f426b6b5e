//! How workflows are made and stored: off the async threads, and not given up when the client goes away.

use std::sync::Arc;

use umbel_broker::{NewWorkflow, WorkflowHead, WorkflowSubmitted, submit_workflow};
use umbel_compose::{Composer, Composing};

use crate::{
    admission::Permit,
    outcome::Outcome,
    problem::{Problem, Result},
    state::Api,
    storage_quota,
    task_source::ApiTasks,
    time::now_ms,
};
use umbel_model::{Stamps, TenantId, WorkflowSpec};

/// A workflow that is being submitted.
pub(crate) struct Submission {
    pub(crate) api: Arc<Api>,
    pub(crate) tenant: TenantId,
    pub(crate) stamps: Stamps,
    /// Held until the workflow is stored.
    pub(crate) permit: Permit,
    /// Where the canvas is in the request.
    pub(crate) pointer: &'static str,
}

impl Submission {
    /// Composes a workflow and stores it. Answers which one it is, and the number of its first node.
    pub(crate) async fn submit<F>(self, compose: F) -> Result<(Outcome, u32)>
    where
        F: for<'a> FnOnce(Composer<'a>) -> Composing<'a, NewWorkflow> + Send + 'static,
    {
        let api = self.api.clone();
        let runtime = tokio::runtime::Handle::current();
        // A large canvas takes a while.
        let composing = tokio::task::spawn_blocking(move || {
            let Self { api, tenant, stamps, permit, pointer } = self;
            let tasks = ApiTasks::new(&api);
            let (rules, tenant, stamps) = (&api.rules, &tenant, &stamps);
            let composer = Composer { tasks: &tasks, rules, tenant, stamps, now_ms: now_ms(), pointer };
            let composed = runtime.block_on(compose(composer)).map_err(|error| tasks.problem(error))?;
            Ok::<_, Problem>((composed, permit))
        });
        let (composed, _permit) = composing.await.map_err(|_| Problem::see_log())??;
        let first = composed.head.starts.first().map_or(0, |range| range.first);
        Ok((stored(&api, composed).await?, first))
    }
}

async fn stored(api: &Api, composed: NewWorkflow) -> Result<Outcome> {
    let broker = api.broker.clone();
    // A task of its own: a client that goes away does not leave half of a workflow behind.
    let storing = tokio::spawn(async move {
        let NewWorkflow { head, nodes } = composed;
        let answer = submit_workflow(&*broker, &head, &nodes).await;
        (head, answer)
    });
    let (head, answer) = storing.await.map_err(|_| Problem::see_log())?;
    let answer = answer?;
    tracing::debug!(workflow = %head.id, nodes = head.nodes, templates = head.templates.len(), ?answer, "workflow submitted");
    workflow_submitted(api, &head, answer).await
}

/// The broker's answer as the submitter sees it: the new workflow, or an earlier one.
pub(crate) async fn workflow_submitted(api: &Api, head: &WorkflowHead, answer: WorkflowSubmitted) -> Result<Outcome> {
    use WorkflowSubmitted as S;
    match answer {
        S::Created => Ok(Outcome::New(head.id)),
        // The answer to its start was lost, and it was started again: it is this one.
        S::Existing(id) if id == head.id => Ok(Outcome::New(id)),
        S::Existing(id) => Ok(Outcome::Replayed(id)),
        S::Conflict(id) => {
            // The same body, written in another way, is no other one.
            let earlier = api.broker.workflow(&head.tenant, id).await?;
            let bodies = [Some(&head.spec), earlier.as_ref().map(|record| &record.spec)];
            let [new, earlier] = bodies.map(|spec| serde_json::from_str::<WorkflowSpec>(spec?).ok()?.body);
            if new.is_some() && new == earlier { Ok(Outcome::Replayed(id)) } else { Err(Problem::key_conflict(id)) }
        }
        S::QueueFull => Err(Problem::queue_full("try again when the queues are shorter")),
        S::TooManyQueues => Err(Problem::too_many_queues("use some of the queues that exist")),
        S::TooManyWorkflows => Err(Problem::too_many_workflows("wait until some are over and forgotten")),
        S::StorageFull => Err(storage_quota::of_jobs(api, &head.tenant).await),
        S::MissingBlob(digest) => Err(Problem::no_such_blob(digest)),
        S::Unknown => Err(Problem::request_timeout("storing it took too long, and it was given up")),
    }
}
