//! The conformance suite, in memory and on a file, and what only this broker can do wrong.

mod agreement;
mod audit;
mod chord_crash;
mod crash;
mod damage;
mod durability;
mod events;
mod faults;
mod flows;
mod full;
mod limits;
mod suite;
mod upgrade;

use std::path::Path;

use umbel_broker::*;
use umbel_model::{JobId, QueueName, Resolution, TaskName, TenantId, Token, WorkerId};

use crate::*;

fn config(folder: &Path) -> SqliteConfig {
    SqliteConfig { synchronous: Synchronous::Off, ..SqliteConfig::new(folder.join("umbel.db")) }
}

fn tenant() -> TenantId {
    TenantId::new("t1").unwrap()
}

fn tenant_ref() -> &'static TenantId {
    static TENANT: std::sync::OnceLock<TenantId> = std::sync::OnceLock::new();
    TENANT.get_or_init(tenant)
}

fn job_id(n: u64) -> JobId {
    JobId::from_parts(1_800_000_000_000, n.into())
}

fn new_job(n: u64) -> NewJob {
    NewJob {
        id: job_id(n),
        tenant: tenant(),
        task: TaskName::new("add").unwrap(),
        queue: QueueName::default(),
        priority: 5,
        spec: format!(r#"{{"n":{n}}}"#),
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 3,
        result_ttl_ms: 60_000,
        dead_ttl_ms: 60_000,
        expires_at: None,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}

fn sized_job(n: u64, bytes: usize) -> NewJob {
    NewJob { spec: format!("\"{}\"", "x".repeat(bytes)), ..new_job(n) }
}

fn claim(seed: u64, max: u32) -> Claim {
    Claim {
        worker: WorkerId::new("w1").unwrap(),
        queues: vec![QueueName::default()].into(),
        max,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("s{seed}")).unwrap(),
        limited: LimitedTenants::default(),
        in_row: 1,
    }
}

fn succeed(delivery: &Delivery) -> Settle {
    Settle {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        resolution: Resolution::Succeed { result: None },
        record: None,
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    }
}

/// Claims and settles all that is ready. Answers how many there were.
async fn work_off(broker: &SqliteBroker, seed: u64) -> usize {
    let (mut done, mut seed) = (0, seed * 1_000_000);
    loop {
        seed += 1;
        let deliveries = broker.claim(&claim(seed, 100)).await.unwrap();
        if deliveries.is_empty() {
            return done;
        }
        let settles: Vec<Settle> = deliveries.iter().map(succeed).collect();
        let settled = broker.settle(&settles, None).await.unwrap().0;
        done += settled.iter().filter(|s| **s == Settled::Recorded).count();
    }
}

/// How SQLite would run a statement.
pub(crate) fn plan(sql: &str) -> String {
    let conn = schema::open_in_memory().unwrap();
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut rows = statement.raw_query();
    let mut steps = String::new();
    while let Some(row) = rows.next().unwrap() {
        steps += &format!("{}\n", row.get::<_, String>(3).unwrap());
    }
    steps
}

/// Fails when a statement reads a whole table, or sorts what an index should have in order.
pub(crate) fn assert_costs_what_it_finds(sql: &str) {
    let plan = plan(sql);
    assert!(!plan.is_empty() && !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}:\n{plan}");
}

/// Lines whose counts are not those of their jobs.
fn miscounted(path: &Path) -> u64 {
    let conn = schema::open_reader(path).unwrap();
    let of_lines = crate::audit::CHECKS.iter().filter(|check| check.name.ends_with("of a line"));
    of_lines.filter_map(|check| crate::audit::finding(&conn, check).unwrap()).map(|finding| finding.count).sum()
}
