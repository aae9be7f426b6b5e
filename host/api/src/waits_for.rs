//! What holds a job back: looked at when somebody asks for it, from the controls and the workers that there are now.

use umbel_broker::{Control, Scope, WorkerInfo};
use umbel_model::{JobRecord, JobState, Policy, QueueName};

use crate::{control_layers::Operators, controls::rate_text, problem::Result, state::Api, views::WaitsFor};

/// What a job waits for; nothing when it runs or has ended.
pub(crate) async fn waits_for(api: &Api, record: &JobRecord, policy: &Policy) -> Result<Vec<WaitsFor>> {
    match (record.state, record.child) {
        (JobState::Scheduled, _) => return Ok(vec![WaitsFor::new("time", "it starts at its time, `due_at`".into())]),
        (JobState::Retrying, _) => return Ok(vec![WaitsFor::new("time", "its next attempt is at `due_at`".into())]),
        (JobState::Waiting, Some(child)) => {
            return Ok(vec![WaitsFor::new(
                "replacement",
                format!("it ends when workflow {child} does, which replaced it"),
            )]);
        }
        (JobState::Waiting, None) => {
            let detail = "a step of its workflow that comes before it has not ended";
            return Ok(vec![WaitsFor::new("workflow", detail.into())]);
        }
        (JobState::Queued, _) => {}
        _ => return Ok(Vec::new()),
    }
    let (task, queue) = (&record.task, &record.queue);
    let controls = api.broker.controls(&record.tenant).await?;
    let operators = Operators::read(api, &record.tenant).await?;
    let mut found = Vec::new();
    for (scope, what, paused, again) in [
        (Scope::Tenant, "the tenant".to_owned(), "tenant_paused", "umbel tenant resume".to_owned()),
        (
            Scope::Queue(queue.clone()),
            format!("queue `{queue}`"),
            "queue_paused",
            format!("umbel queue resume {queue}"),
        ),
        (Scope::Task(task.clone()), format!("task `{task}`"), "task_paused", format!("umbel task resume {task}")),
    ] {
        let Some((_, control)) = controls.iter().find(|(other, _)| *other == scope) else { continue };
        let operator = operators.of(&scope);
        if control.paused {
            found.push(WaitsFor::new(paused, pause(&what, operator, &again)));
        }
        found.extend(limit(&what, control, operator).map(|detail| WaitsFor::new("limit", detail)));
    }
    found.extend(own_limits(policy).map(|detail| WaitsFor::new("limit", detail)));
    let workers = api.broker.workers().await?;
    if let Some(detail) = unserved(&workers, queue) {
        found.push(WaitsFor::new("no_worker", detail));
    }
    if found.is_empty() {
        found.push(WaitsFor::new("turn", "workers serve its queue: it waits for its turn".into()));
    }
    Ok(found)
}

/// Who paused it, and who can end the pause.
fn pause(what: &str, operator: Option<&Control>, again: &str) -> String {
    match operator {
        Some(operator) if operator.paused => format!("{what} is paused by an operator, and only an operator ends that"),
        _ => format!("{what} is paused: {again}"),
    }
}

fn limit(what: &str, control: &Control, operator: Option<&Control>) -> Option<String> {
    let cap = (control.concurrency > 0).then(|| format!("{} of its jobs run at once", control.concurrency));
    let rate = control.rate.as_ref().map(|rate| format!("{} of its jobs start", rate_text(rate)));
    let parts: Vec<String> = cap.into_iter().chain(rate).collect();
    let is_theirs = operator.is_some_and(|operator| {
        operator.concurrency > 0 && operator.concurrency == control.concurrency
            || operator.rate.is_some() && operator.rate == control.rate
    });
    let by = if is_theirs { " by an operator" } else { "" };
    (!parts.is_empty()).then(|| format!("{what} is limited{by}: at most {}", parts.join(", and ")))
}

fn own_limits(policy: &Policy) -> Option<String> {
    let number = |n: u32| (n > 0).then(|| n.to_string());
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let fields = [
        ("concurrency", number(policy.concurrency)),
        ("rate_limit", text(&policy.rate_limit)),
        ("key_concurrency", number(policy.key_concurrency)),
        ("key_rate_limit", text(&policy.key_rate_limit)),
    ];
    let set: Vec<String> = fields.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?))).collect();
    (!set.is_empty()).then(|| format!("its policy has limits: {}", set.join(", ")))
}

/// Why no worker would take a job of this queue, if that is so.
fn unserved(workers: &[WorkerInfo], queue: &QueueName) -> Option<String> {
    // A worker that names no queues serves all.
    let serves = |w: &&WorkerInfo| (w.queues.is_empty() || w.queues.contains(queue)) && !w.exclude.contains(queue);
    let serving: Vec<&WorkerInfo> = workers.iter().filter(serves).collect();
    match () {
        () if workers.is_empty() => Some("no worker is alive: umbel worker".to_owned()),
        () if serving.is_empty() => {
            Some(format!("no worker that is alive serves queue `{queue}`: umbel worker -Q {queue}"))
        }
        () if serving.iter().all(|worker| worker.state != "running") => {
            Some(format!("all workers that serve queue `{queue}` are draining"))
        }
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use umbel_model::Rate;

    use super::*;

    #[test]
    fn a_pause_says_whose_it_is_and_names_no_command_that_cannot_end_it() {
        let (own, theirs) = (Control::default(), Control { paused: true, ..Control::default() });
        let said = |operator| pause("the tenant", operator, "umbel tenant resume");
        assert_eq!(said(None), "the tenant is paused: umbel tenant resume");
        assert_eq!(said(Some(&own)), "the tenant is paused: umbel tenant resume");
        assert_eq!(said(Some(&theirs)), "the tenant is paused by an operator, and only an operator ends that");
    }

    #[test]
    fn a_limit_says_what_it_is() {
        let control = Control { concurrency: 4, rate: Rate::parse("100/m", 1).unwrap(), ..Control::default() };
        let said = limit("queue `q`", &control, None).unwrap();
        assert_eq!(said, "queue `q` is limited: at most 4 of its jobs run at once, and 100/m of its jobs start");
        assert_eq!(limit("queue `q`", &Control::default(), None), None);
        let operators = Control { concurrency: 4, ..Control::default() };
        let said = limit("queue `q`", &control, Some(&operators)).unwrap();
        assert!(said.starts_with("queue `q` is limited by an operator: at most 4"), "{said}");
        let policy = Policy { key_concurrency: 2, rate_limit: "5/s".into(), ..Policy::default() };
        assert_eq!(own_limits(&policy).unwrap(), "its policy has limits: rate_limit 5/s, key_concurrency 2");
    }
}
