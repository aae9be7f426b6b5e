//! Looks at jobs while a run is under way, and at all of them when it is over.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::Value;

use super::{
    Report, plan,
    submit::{Ledger, send},
};
use crate::{client::is_ended, draw::Draw};

/// Between two looks at some job.
const EVERY: Duration = Duration::from_millis(15);
/// Requests under way at once in the end.
const AT_ONCE: usize = 8;
/// Fields that never change once a job has ended.
const FINAL: [&str; 7] = ["state", "result", "error", "retries", "finished_at", "history", "worker"];

/// Looks at jobs that were acknowledged, one after the other, until it is aborted.
pub(crate) async fn watch(ledger: Arc<Ledger>) {
    let mut draw = Draw::part(ledger.options.seed, u64::MAX / 3);
    loop {
        tokio::time::sleep(EVERY).await;
        let chosen = {
            let seen = ledger.seen();
            let number = seen.order.get(draw.below(seen.order.len() as u64) as usize).copied();
            number.and_then(|number| Some((number, seen.ids.get(&number)?.clone())))
        };
        let Some((number, id)) = chosen else { continue };
        match look(&ledger, &id).await {
            Ok(Some(job)) => saw(&ledger, number, &job),
            Ok(None) => {}
            Err(e) => ledger.seen().violations.push(format!("job {id}, which was acknowledged: {e:#}")),
        }
        ledger.looked();
    }
}

async fn look(ledger: &Ledger, id: &str) -> Result<Option<Value>> {
    let request = ledger.client.request(Method::GET, &format!("/v1/jobs/{id}"));
    Ok(send(ledger, request).await?.map(|answer| answer.json()))
}

/// Compares the end of a job with what was seen of it before.
fn saw(ledger: &Ledger, number: u64, job: &Value) {
    let mut seen = ledger.seen();
    let now: Value = FINAL.iter().map(|&field| (field.to_owned(), job[field].clone())).collect();
    match seen.ends.get(&number) {
        None if is_ended(job) => drop(seen.ends.insert(number, now)),
        None => {}
        Some(before) if *before == now => {}
        Some(before) => {
            let text = format!("job {} had ended as {before}, and then it was {now}", job["id"]);
            seen.violations.push(text);
        }
    }
}

/// Looks at everything that was submitted.
pub(crate) async fn all(ledger: &Ledger, report: &mut Report) -> Result<()> {
    let (ids, chords) = {
        let seen = ledger.seen();
        (seen.ids.clone(), seen.chords.clone())
    };
    let acknowledged = ids.len() as u64;
    if acknowledged != ledger.options.jobs {
        report.violation(format!("{acknowledged} of {} jobs were acknowledged", ledger.options.jobs));
    }
    let looks = stream::iter(&ids).map(|(number, id)| async move { (*number, id, look(ledger, id).await) });
    let mut looks = looks.buffer_unordered(AT_ONCE);
    while let Some((number, id, job)) = looks.next().await {
        let job = match job.and_then(|job| job.context("the API did not answer")) {
            Ok(job) => job,
            Err(e) => {
                report.violation(format!("job {id} is lost: {e:#}"));
                continue;
            }
        };
        saw(ledger, number, &job);
        let planned = ledger.planned(number);
        if let Err(e) = planned.check(&job) {
            report.violation(format!("job {number} ({:?}): {e:#}: {job}", planned.kind));
        }
        report.ended(&job);
    }
    for (number, id) in &chords {
        if let Err(e) = chord(ledger, *number, id).await {
            report.violation(format!("workflow {id}: {e:#}"));
        }
    }
    report.count("workflows (chords of 3) with the right sum", chords.len() as u64);
    listed(ledger, &ids, report).await?;
    for violation in std::mem::take(&mut ledger.seen().violations) {
        report.violation(violation);
    }
    Ok(())
}

/// The body has the sum of the members, and each node ended once.
async fn chord(ledger: &Ledger, number: u64, id: &str) -> Result<()> {
    let workflow = ledger.client.workflow(id).await?;
    ensure!(workflow["state"] == "succeeded", "it is {workflow}");
    ensure!(workflow["result"] == plan::chord_sum(number), "its result is {}", workflow["result"]);
    let jobs = ledger.client.all_jobs_of(id).await?;
    ensure!(jobs.len() as u64 == plan::MEMBERS + 1, "it has {} jobs", jobs.len());
    for node in &jobs {
        let job = ledger.client.job(node["job"].as_str().context("a node without a job")?).await?;
        let successes = plan::counted(&job, "succeeded");
        ensure!(successes == 1, "{successes} successes recorded: {job}");
    }
    Ok(())
}

/// The listing has exactly the jobs that were acknowledged: none was stored twice, none was stored for nobody.
async fn listed(ledger: &Ledger, ids: &HashMap<u64, String>, report: &mut Report) -> Result<()> {
    let known: HashMap<&str, u64> = ids.iter().map(|(number, id)| (id.as_str(), *number)).collect();
    let mut found = 0;
    for job in ledger.client.jobs("").await? {
        match job["id"].as_str().and_then(|id| known.get(id)) {
            Some(_) => found += 1,
            None => report.violation(format!("a job that nobody submitted: {job}")),
        }
    }
    if found != known.len() {
        report.violation(format!("{found} of {} jobs are listed", known.len()));
    }
    Ok(())
}
