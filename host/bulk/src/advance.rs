//! One step of an action: a page of jobs is found, noted, acted on and counted.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use umbel_broker::{
    Broker, Cancelled, Error, Forgot, JobActed, JobAction, MAX_ACTS, NodePage, NodeRecord, NodeWork, Result, Results,
    RunNow, Submitted, WorkflowPage, WorkflowQuery,
};
use umbel_compose::Refusal;
use umbel_model::{
    Digest, JobId, JobRecord, JobState, TenantId, UnixMs, WorkflowId, WorkflowState, outcome::truncated,
};

use crate::{
    Action, Bulk, Carrier, Filter, Redriver, State,
    bulk::{InWorkflows, MAX_TRIES, Position},
    store::{bury, drop_entry, drop_orphan, put_over, read},
};

/// Calls of the broker under way at once.
const AT_ONCE: usize = 16;
/// Calls of `act` under way at once: one is on its way while the store is busy with another.
const ACTS_AT_ONCE: usize = 2;
/// A page that was begun so long ago is taken up by another, milliseconds.
const TURN_MS: u64 = 5_000;

/// Pages of nodes that one step reads at most.
const NODE_READS: u32 = 16;
/// Workflows inside of others that are remembered, and one more for each replacement of a replacement.
const MAX_INSIDE: usize = 500;

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advanced {
    /// There is more to do.
    Working,
    /// Another replica works on it, or a queue has no room for redriven jobs: look again later.
    Waiting,
    /// It is over, or there is no such action.
    Ended,
}

/// The outcomes of the jobs of one page.
#[derive(Debug, Default)]
struct Counts {
    done: u64,
    skipped: u64,
    failed: u64,
    error: Option<String>,
}

/// One job's part of them.
enum Acted {
    Done,
    Skipped,
    Failed(String),
}

/// Does at most `max` jobs of an action. Any replica may, at any time: a page that one of them acted on and did not count, the next one
/// acts on again without effect, and counts. `now` is this machine's clock. An error may be tried again.
pub async fn advance(carrier: Carrier<'_>, tenant: &TenantId, id: JobId, now: UnixMs, max: u32) -> Result<Advanced> {
    let broker = carrier.broker;
    let found = match read(broker, tenant, id).await {
        Err(Error::Corrupt(_)) => {
            bury(broker, tenant, id, now).await?;
            return Ok(Advanced::Ended);
        }
        other => other?,
    };
    let Some((bulk, version)) = found else {
        drop_orphan(broker, tenant, id, now).await?;
        return Ok(Advanced::Ended);
    };
    match step(carrier, tenant, bulk, version, now, max).await {
        Err(error) if !error.is_transient() => {
            tracing::error!(%tenant, bulk = %id, %error, "an action on many jobs failed");
            give_up(broker, tenant, id, now).await?;
            Ok(Advanced::Ended)
        }
        other => other,
    }
}

async fn step(
    carrier: Carrier<'_>,
    tenant: &TenantId,
    mut bulk: Bulk,
    version: u64,
    now: UnixMs,
    max: u32,
) -> Result<Advanced> {
    let broker = carrier.broker;
    if !bulk.doing.is_empty() {
        let turn = bulk.doing_since..bulk.doing_since.saturating_add(TURN_MS);
        if turn.contains(&now) {
            return Ok(Advanced::Waiting);
        }
    } else if bulk.is_over() {
        drop_entry(broker, tenant, bulk.id).await?;
        return Ok(Advanced::Ended);
    } else {
        let found = page(broker, tenant, &mut bulk, max).await?;
        bulk.matched += found.len() as u64;
        if bulk.position == Position::End && (found.is_empty() || bulk.dry_run) {
            (bulk.state, bulk.finished_at) = (State::Done, Some(now));
        }
        if !bulk.dry_run {
            bulk.doing = found;
        }
        bulk.doing_since = now;
        bulk.page += 1;
        if !put_over(broker, tenant, &bulk, version).await? {
            return Ok(Advanced::Waiting);
        }
        if bulk.doing.is_empty() {
            return ended(broker, tenant, &bulk).await;
        }
    }
    let Some(counts) = act(carrier, tenant, &bulk).await? else { return Ok(Advanced::Waiting) };
    count(broker, tenant, &bulk, &counts, now).await
}

async fn ended(broker: &dyn Broker, tenant: &TenantId, bulk: &Bulk) -> Result<Advanced> {
    if !bulk.is_over() {
        return Ok(Advanced::Working);
    }
    drop_entry(broker, tenant, bulk.id).await?;
    tracing::info!(
        %tenant, bulk = %bulk.id, action = bulk.action.as_str(), state = bulk.state.as_str(), matched = bulk.matched,
        done = bulk.done, "an action on many jobs ended"
    );
    Ok(Advanced::Ended)
}

/// The records of some jobs, in order.
async fn records(
    broker: &dyn Broker,
    tenant: &TenantId,
    ids: impl IntoIterator<Item = &JobId>,
) -> Result<Vec<Option<JobRecord>>> {
    // Not a lazy iterator: its closure would make this future no longer `Send` for callers.
    let mut reads = Vec::new();
    for id in ids {
        reads.push(broker.job(tenant, *id));
    }
    stream::iter(reads).buffered(AT_ONCE).try_collect().await
}

/// The next jobs; notes where to go on.
async fn page(broker: &dyn Broker, tenant: &TenantId, bulk: &mut Bulk, max: u32) -> Result<Vec<JobId>> {
    if let Some(at) = bulk.in_workflows.clone() {
        return nodes(broker, tenant, bulk, at, max).await;
    }
    let (found, next) = jobs(broker, tenant, bulk, max).await?;
    let is_of_all = bulk.filter.ids.is_empty() && bulk.filter.workflow_id.is_none();
    bulk.position = match next {
        Position::End if is_of_all && bulk.looks_at_nodes() => {
            bulk.in_workflows = Some(InWorkflows::default());
            Position::Before(JobId::from_parts(0, 0))
        }
        next => next,
    };
    Ok(found)
}

/// The next nodes of running workflows that were submitted before the action, and of what replaced jobs and nodes.
async fn nodes(
    broker: &dyn Broker,
    tenant: &TenantId,
    bulk: &mut Bulk,
    mut at: InWorkflows,
    max: u32,
) -> Result<Vec<JobId>> {
    let mut found = Vec::new();
    for _ in 0..NODE_READS {
        let inside = at.inside.pop();
        if let Some((workflow, first)) = inside.or(at.at) {
            let NodePage { nodes, next } = broker.nodes(tenant, workflow, first, max, Results::Omitted).await?;
            let (looked_at, children) = replacements(&nodes, MAX_INSIDE.saturating_sub(at.inside.len()));
            let next = nodes.get(looked_at).map_or(next, |node| node.number);
            let rest = (!nodes.is_empty()).then_some((workflow, next));
            match inside {
                Some(_) => at.inside.extend(rest),
                None => at.at = rest,
            }
            at.inside.extend(children.into_iter().map(|child| (child, 0)));
            found.extend(fitting(bulk, &nodes[..looked_at]));
            if !found.is_empty() {
                break;
            }
            continue;
        }
        if at.replaced != Position::End {
            (at.inside, at.replaced) = replaced(broker, tenant, bulk, at.replaced).await?;
            continue;
        }
        let (before, state) = (Some(at.before.unwrap_or(bulk.id)), Some(WorkflowState::Running));
        let query = WorkflowQuery { tenant: tenant.clone(), state, before, max: 1 };
        let WorkflowPage { workflows, next } = broker.workflows(&query).await?;
        at.before = next;
        at.at = workflows.first().map(|workflow| (workflow.id, 0));
        if at.at.is_none() && next.is_none_or(|next| bulk.filter.is_past(next)) {
            bulk.position = Position::End;
            break;
        }
        if next.is_none() {
            at.before = at.at.map(|(workflow, _)| workflow);
        }
    }
    bulk.in_workflows = Some(at);
    Ok(found)
}

/// What replaced the next jobs that are no nodes, and where to go on: only those wait for something.
async fn replaced(
    broker: &dyn Broker,
    tenant: &TenantId,
    bulk: &Bulk,
    at: Position,
) -> Result<(Vec<(WorkflowId, u32)>, Position)> {
    let before = if let Position::Before(id) = at { id } else { bulk.id };
    let waiting = Filter { state: vec![JobState::Waiting], ..Filter::default() };
    let page = broker.jobs(&waiting.query(tenant, false, Some(before), MAX_INSIDE as u32)).await?;
    let children = page.jobs.iter().filter_map(|record| record.child).map(|child| (child, 0)).collect();
    let next = page.next.filter(|next| !bulk.filter.is_past(*next));
    Ok((children, next.map_or(Position::End, Position::Before)))
}

/// How many of some nodes can be looked at when there is room for so many workflows that replaced them, at least one; and those.
fn replacements(nodes: &[NodeRecord], room: usize) -> (usize, Vec<WorkflowId>) {
    let mut children = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        if let NodeWork::Job { record, .. } = &node.work
            && record.state == JobState::Waiting
        {
            children.extend(record.child);
        }
        if children.len() >= room.max(1) {
            return (at + 1, children);
        }
    }
    (nodes.len(), children)
}

/// The jobs among nodes that the action is for.
fn fitting(bulk: &Bulk, nodes: &[NodeRecord]) -> Vec<JobId> {
    let fits = |record: &JobRecord| bulk.filter.matches(record) && bulk.action.applies(record.state);
    let ids = nodes.iter().filter_map(|node| match &node.work {
        NodeWork::Job { record, .. } if fits(record) => Some(record.id),
        _ => None,
    });
    ids.collect()
}

/// The next jobs of a list, and where to go on.
async fn jobs(broker: &dyn Broker, tenant: &TenantId, bulk: &Bulk, max: u32) -> Result<(Vec<JobId>, Position)> {
    let fits = |record: &JobRecord| bulk.filter.matches(record) && bulk.action.applies(record.state);
    let from = if let Position::At(at) = bulk.position { at } else { 0 };
    if !bulk.filter.ids.is_empty() {
        let ids = bulk.filter.ids.iter().skip(from as usize).take(max as usize);
        let records = records(broker, tenant, ids).await?;
        let next = from + records.len() as u32;
        let over = next as usize >= bulk.filter.ids.len();
        let mut ids: Vec<JobId> = records.iter().flatten().filter(|r| fits(r)).map(|r| r.id).collect();
        ids.sort_unstable();
        ids.dedup();
        return Ok((ids, if over { Position::End } else { Position::At(next) }));
    }
    if let Some(workflow) = bulk.filter.workflow_id {
        let NodePage { nodes, next } = broker.nodes(tenant, workflow, from, max, Results::Omitted).await?;
        if nodes.is_empty() {
            return Ok((Vec::new(), Position::End));
        }
        return Ok((fitting(bulk, &nodes), Position::At(next)));
    }
    // Ids are in the order of submission, this one's among them: what was submitted later is none of its business.
    let before = if let Position::Before(id) = bulk.position { id } else { bulk.id };
    let dead = bulk.filter.dead == Some(true) || bulk.action == Action::Redrive;
    let page = broker.jobs(&bulk.filter.query(tenant, dead, Some(before), max)).await?;
    let next = page.next.filter(|next| !bulk.filter.is_past(*next));
    let ids = page.jobs.iter().filter(|record| fits(record)).map(|record| record.id).collect();
    Ok((ids, next.map_or(Position::End, Position::Before)))
}

/// Acts on the page that was noted. None: it has to wait.
async fn act(carrier: Carrier<'_>, tenant: &TenantId, bulk: &Bulk) -> Result<Option<Counts>> {
    let action = match bulk.action {
        Action::Redrive => return redrive(carrier, tenant, bulk).await,
        // A job that was found waiting may run by now: whoever asked for those that wait did not mean it.
        Action::Cancel if bulk.filter.wants_waiting() => JobAction::CancelWaiting,
        Action::Cancel => JobAction::Cancel { terminate: bulk.terminate },
        Action::Forget => JobAction::Forget,
        Action::RunNow => JobAction::RunNow,
    };
    // Not a lazy iterator, as in `records`.
    let mut acts = Vec::new();
    for ids in bulk.doing.chunks(MAX_ACTS) {
        acts.push(carrier.broker.act(tenant, action, ids));
    }
    let mut counts = Counts::default();
    let mut answers = stream::iter(acts).buffered(ACTS_AT_ONCE);
    while let Some(acted) = answers.try_next().await? {
        acted.into_iter().for_each(|acted| counts.add(outcome(acted)));
    }
    if action == JobAction::Forget {
        drop_values(carrier, tenant, &bulk.doing).await;
    }
    Ok(Some(counts))
}

/// What is counted of a job's answer. One that was acted on before, and not counted, is done.
fn outcome(acted: JobActed) -> Acted {
    let done = match acted {
        JobActed::Cancelled(cancelled) => match cancelled {
            Cancelled::Revoked | Cancelled::Requested | Cancelled::AlreadyEnded(JobState::Revoked) => true,
            Cancelled::Runs | Cancelled::AlreadyEnded(_) | Cancelled::NotFound => false,
        },
        JobActed::Forgot(forgot) => matches!(forgot, Forgot::Forgotten | Forgot::NotFound),
        JobActed::RunNow(run) => match run {
            RunNow::Queued | RunNow::NotWaiting(JobState::Queued | JobState::Running) => true,
            RunNow::NotWaiting(_) | RunNow::NotFound => false,
        },
    };
    if done { Acted::Done } else { Acted::Skipped }
}

/// Deletes the large values of forgotten jobs. What is left of them the sweeper finds.
async fn drop_values(carrier: Carrier<'_>, tenant: &TenantId, ids: &[JobId]) {
    let Some(store) = carrier.store else { return };
    // One look instead of one for each job: most tenants have none.
    if store.has_values(tenant).await.is_ok_and(|has| !has) {
        return;
    }
    // Not a lazy iterator, as in `records`.
    let mut deletions = Vec::with_capacity(ids.len());
    for id in ids {
        deletions.push(async move {
            if let Err(error) = store.delete_values(tenant, *id).await {
                tracing::debug!(job = %id, %error, "values of a forgotten job are left");
            }
        });
    }
    stream::iter(deletions).buffer_unordered(AT_ONCE).collect::<()>().await;
}

impl Counts {
    fn add(&mut self, acted: Acted) {
        match acted {
            Acted::Done => self.done += 1,
            Acted::Skipped => self.skipped += 1,
            Acted::Failed(why) => {
                self.failed += 1;
                self.error = Some(truncated(why, 512));
            }
        }
    }
}

async fn redrive(carrier: Carrier<'_>, tenant: &TenantId, bulk: &Bulk) -> Result<Option<Counts>> {
    let broker = carrier.broker;
    let request_id = bulk.id.to_string();
    let mut redriver = Redriver::new(carrier, bulk.digest, &bulk.policy, &request_id);
    let (mut counts, mut jobs) = (Counts::default(), Vec::new());
    for (old, record) in bulk.doing.iter().zip(records(broker, tenant, &bulk.doing).await?) {
        let Some(record) = record else {
            counts.add(Acted::Skipped);
            continue;
        };
        match redriver.redrive(&record, redriven_id(bulk, *old)).await? {
            Ok(job) => jobs.push(job),
            Err(Refusal::Node(_)) => counts.add(Acted::Skipped),
            Err(Refusal::Unavailable(why)) => return Err(Error::Unavailable(why)),
            Err(refusal) => counts.add(Acted::Failed(format!("job {old}: {refusal}"))),
        }
    }
    let answers = if jobs.is_empty() { Vec::new() } else { broker.submit(&jobs).await? };
    // One that was aborted meanwhile does not wait for room: what found none is left in the dead set.
    let has_no_room = |answer: &Submitted| matches!(answer, Submitted::QueueFull | Submitted::StorageFull);
    if answers.iter().any(has_no_room) && !bulk.is_over() {
        return Ok(None);
    }
    for (answer, job) in answers.iter().zip(&jobs) {
        counts.add(match answer {
            Submitted::Created | Submitted::Existing(_) => Acted::Done,
            Submitted::NotDead | Submitted::QueueFull | Submitted::StorageFull => Acted::Skipped,
            other => Acted::Failed(format!("a new job for {:?}: {other:?}", job.redrive_of.map(|id| id.to_string()))),
        });
    }
    Ok(Some(counts))
}

/// The id of the job that repeats `old`: the same each time, so that it is made once.
fn redriven_id(bulk: &Bulk, old: JobId) -> JobId {
    let hash = Digest::of(&[bulk.id.to_bytes(), old.to_bytes()].concat()).hex();
    let random = u128::from_str_radix(&hash[..20], 16).expect("a digest is hexadecimal");
    // 79 bits, as of all ids.
    JobId::from_parts(bulk.created_at, random >> 1)
}

/// Adds the counts of a page, if nobody else did.
async fn count(
    broker: &dyn Broker,
    tenant: &TenantId,
    acted_on: &Bulk,
    counts: &Counts,
    now: UnixMs,
) -> Result<Advanced> {
    for _ in 0..MAX_TRIES {
        let Some((mut bulk, version)) = read(broker, tenant, acted_on.id).await? else { return Ok(Advanced::Ended) };
        if bulk.page != acted_on.page || bulk.doing.is_empty() {
            return Ok(if bulk.is_over() { Advanced::Ended } else { Advanced::Waiting });
        }
        bulk.doing.clear();
        bulk.done += counts.done;
        bulk.skipped += counts.skipped;
        bulk.failed += counts.failed;
        if counts.error.is_some() {
            bulk.error.clone_from(&counts.error);
        }
        if bulk.position == Position::End && !bulk.is_over() {
            (bulk.state, bulk.finished_at) = (State::Done, Some(now));
        }
        if put_over(broker, tenant, &bulk, version).await? {
            return ended(broker, tenant, &bulk).await;
        }
    }
    Ok(Advanced::Waiting)
}

/// Ends an action that cannot go on.
async fn give_up(broker: &dyn Broker, tenant: &TenantId, id: JobId, now: UnixMs) -> Result<()> {
    for _ in 0..MAX_TRIES {
        let Some((mut bulk, version)) = read(broker, tenant, id).await? else { break };
        if !bulk.is_over() {
            (bulk.state, bulk.finished_at) = (State::Failed, Some(now));
            bulk.error = Some("the broker failed; the server's log says more".into());
        }
        bulk.doing.clear();
        if put_over(broker, tenant, &bulk, version).await? {
            break;
        }
    }
    drop_entry(broker, tenant, id).await
}
