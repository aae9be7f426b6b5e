//! A worker that the real binary never is: it claims jobs, does nothing until their leases are over, and then says that they
//! succeeded, with a result of its own. Each of these outcomes must be refused.
//!
//! A real worker that was stopped past its lease looks at its clock when it goes on, and stops its guests by itself. So
//! the fence of the broker would not be tested by stopping processes alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use serde_json::value::RawValue;
use umbel_broker::{Claim, Deliveries, Delivery, Jobs, LimitedTenants, Settle, Settled};
use umbel_broker_redis::{RedisBroker, RedisConfig};
use umbel_model::{JobState, QueueName, Resolution, Token, WorkerId};

use super::{fleet::LEASE, submit::Ledger};
use crate::draw::Draw;

/// Jobs of one claim at most.
const MOST: u64 = 3;
/// Of a claim; shorter than the fleet's, so that more of them are lost.
const SHORT_LEASE: Duration = Duration::from_millis(800);
/// How often an outcome is sent while Redis is away.
const TRIES: u32 = 30;

/// Counters of the jobs that it claimed.
#[derive(Debug, Default)]
pub(crate) struct Zombie {
    claimed: AtomicU64,
    refused: AtomicU64,
}

impl Zombie {
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Claims and settles too late, until it is aborted.
pub(crate) async fn run(zombie: Arc<Zombie>, number: u64, ledger: Arc<Ledger>, redis_url: String) -> Result<()> {
    let broker = RedisBroker::connect(RedisConfig::new(redis_url)).await?;
    let mut draw = Draw::part(ledger.options.seed, u64::MAX / 5 + number);
    loop {
        // Often, because real workers are there too.
        tokio::time::sleep(Duration::from_millis(draw.between(10, 60))).await;
        let claim = Claim {
            worker: WorkerId::new("zombie")?,
            queues: vec![QueueName::default()].into(),
            max: draw.between(1, MOST) as u32,
            lease_ms: SHORT_LEASE.as_millis() as u64,
            token_seed: Token::new(format!("zombie-{:016x}-{:016x}", draw.any(), draw.any()))?,
            limited: LimitedTenants::default(),
            in_row: 1,
        };
        // An error costs nobody anything: if jobs were claimed, their leases end.
        let deliveries = broker.claim(&claim).await.unwrap_or_default();
        zombie.claimed.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
        if deliveries.is_empty() {
            continue;
        }
        wait_until_over(&broker, &deliveries).await;
        settle(&zombie, &ledger, &broker, deliveries).await;
    }
}

/// Past the lease, and until somebody took the jobs back: before that, whoever has the token may still settle.
async fn wait_until_over(broker: &RedisBroker, deliveries: &[Delivery]) {
    tokio::time::sleep(SHORT_LEASE).await;
    for delivery in deliveries {
        loop {
            match broker.job(&delivery.tenant, delivery.id).await {
                Ok(Some(job)) if job.state == JobState::Running && job.fence == delivery.fence => {}
                Ok(_) => break,
                Err(_) => {}
            }
            tokio::time::sleep(LEASE / 30).await;
        }
    }
}

async fn settle(zombie: &Zombie, ledger: &Ledger, broker: &RedisBroker, deliveries: Vec<Delivery>) {
    let settles: Vec<Settle> = deliveries
        .into_iter()
        .map(|delivery| Settle {
            tenant: delivery.tenant,
            id: delivery.id,
            token: delivery.token,
            resolution: Resolution::Succeed { result: RawValue::from_string("\"of a zombie\"".to_owned()).ok() },
            record: None,
            progress: None,
            logs: Vec::new(),
            growth: None,
            blobs: None,
        })
        .collect();
    for _ in 0..TRIES {
        let Ok((answers, _)) = broker.settle(&settles, None).await else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        for (settle, answer) in settles.iter().zip(answers) {
            if answer == Settled::Lost {
                zombie.refused.fetch_add(1, Ordering::Relaxed);
            } else {
                let text = format!("a late outcome of job {} was answered with {answer:?}", settle.id);
                ledger.seen().violations.push(text);
            }
        }
        return;
    }
}
