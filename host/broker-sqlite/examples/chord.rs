//! Measures a chord: all its members are claimed and settled in batches of 200, then its body runs.
//!
//! `cargo run --release -p umbel-broker-sqlite --example chord [-- FOLDER]`. Synchronous FULL, one caller at a time.

use std::{path::Path, time::Instant};

use anyhow::{Context, ensure};
use umbel_broker::{
    Claim, Deliveries, Delivery, LimitedTenants, Maintenance, NewNode, NewWork, NodeTemplate, Settle, Settled, Start,
    WorkflowHead, WorkflowState, WorkflowSubmitted, Workflows, submit_workflow,
};
use umbel_broker_sqlite::{SqliteBroker, SqliteConfig};
use umbel_model::{
    JobId, OnFailure, QueueName, Resolution, TaskName, TenantId, Token, WorkerId,
    canvas::{Range, When, workflow_id},
};

const BATCH: u32 = 200;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "target/tmp/chord".into());
    println!("{:>9} {:>10} {:>10} {:>13} {:>10}", "members", "submit ms", "run ms", "bytes/member", "delete ms");
    for members in [1_000, 10_000, 100_000] {
        let path = Path::new(&folder).join(format!("chord-{members}.db"));
        measure(&path, members).await?;
        for end in ["", "-wal", "-shm", ".lock"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }
    Ok(())
}

async fn measure(path: &Path, members: u32) -> anyhow::Result<()> {
    let broker = SqliteBroker::open(SqliteConfig::new(path))?;
    let (head, nodes) = chord(members)?;
    let start = Instant::now();
    let submitted = submit_workflow(&broker, &head, &nodes).await?;
    ensure!(submitted == WorkflowSubmitted::Created, "the file was not empty");
    let submit_ms = start.elapsed().as_millis();

    let start = Instant::now();
    let (mut held, mut done, mut round) = (Vec::new(), 0, 0);
    while done <= members {
        let settles: Vec<Settle> = held.drain(..).map(settle).collect::<anyhow::Result<_>>()?;
        let (settled, claimed) = broker.settle(&settles, Some(&claim(round)?)).await?;
        ensure!(settled.iter().all(|s| *s == Settled::Recorded), "a settle was refused");
        done += settled.len() as u32;
        held = claimed;
        round += 1;
    }
    let run_ms = start.elapsed().as_millis();
    let record = broker.workflow(&head.tenant, head.id).await?.context("the workflow is kept")?;
    ensure!(record.state == WorkflowState::Succeeded, "the workflow is {}", record.state.as_str());
    let bytes = std::fs::metadata(path)?.len() / u64::from(members);

    let start = Instant::now();
    while broker.prune(1_000).await? > 0 {}
    let delete_ms = start.elapsed().as_millis();
    println!("{members:>9} {submit_ms:>10} {run_ms:>10} {bytes:>13} {delete_ms:>10}");
    Ok(())
}

fn chord(members: u32) -> anyhow::Result<(WorkflowHead, Vec<NewNode>)> {
    let all = Range { first: 1, count: members };
    let job = |after, group, next, takes| NewNode {
        when: When::Success,
        on_failure: OnFailure::Fail,
        after,
        group,
        next,
        work: NewWork::Job {
            template: 0,
            arguments: r#"{"args":[12345]}"#.into(),
            takes,
            kept: None,
            broker_options: None,
            blobs: Vec::new(),
        },
    };
    let join = NewWork::Join {
        members: vec![all],
        scope: vec![all],
        cancel_rest: false,
        pending: members,
        failed: 0,
        skipped: 0,
        kept: false,
    };
    let body = members + 1;
    let mut nodes = vec![NewNode { work: join, ..job(None, None, vec![Range::one(body)], false) }];
    nodes.extend((0..members).map(|_| job(None, Some(0), vec![Range::one(0)], false)));
    nodes.push(job(Some(0), None, Vec::new(), true));
    let template = NodeTemplate {
        task: TaskName::new("add")?,
        queue: QueueName::default(),
        priority: 5,
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 5,
        spec: format!(r#"{{"v":1,"task":"add","digest":"sha256:{}","parameters":[]}}"#, "a".repeat(64)),
        nodes: members + 1,
    };
    let head = WorkflowHead {
        id: workflow_id(JobId::from_parts(1_800_000_000_000, 1 << 40)),
        tenant: TenantId::new("default")?,
        spec: r#"{"v":1}"#.into(),
        templates: vec![template],
        nodes: members + 2,
        starts: vec![all],
        end: body,
        deadline_ms: 0,
        keep_ms: 0,
        idempotency: None,
        parent: None,
        depth: 0,
    };
    Ok((head, nodes))
}

fn claim(round: u64) -> anyhow::Result<Claim> {
    Ok(Claim {
        worker: WorkerId::new("host-1234-0a1b2c3d")?,
        queues: vec![QueueName::default()].into(),
        max: BATCH,
        lease_ms: umbel_broker::DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("0123456789abcdef-{round}"))?,
        limited: LimitedTenants::default(),
        in_row: 1,
    })
}

fn settle(delivery: Delivery) -> anyhow::Result<Settle> {
    let result = serde_json::value::RawValue::from_string("123456".into());
    Ok(Settle {
        tenant: delivery.tenant,
        id: delivery.id,
        token: delivery.token,
        resolution: Resolution::Succeed { result: Some(result.context("a JSON text")?) },
        record: None,
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    })
}
