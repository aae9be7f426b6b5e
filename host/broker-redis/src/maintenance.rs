//! The passage of time, and the state of the store.

use std::time::Duration;

use async_trait::async_trait;
use umbel_broker::{
    Error, Finding, Maintenance, Promoted, Reaped, Result, WORKER_LOST, WORKER_LOST_MESSAGE,
    rules::lease::{GRACE_MS, OUTAGE_MS, max_deliveries_message},
};
use umbel_model::Failure;

use crate::{RedisBroker, args, bytes::json, connection::Repeat, library::commands};

/// Jobs of one call; it stops everybody else while it runs.
const BATCH: u32 = 1_000;

#[async_trait]
impl Maintenance for RedisBroker {
    /// At most `BATCH` at a time.
    async fn promote(&self, max: u32) -> Result<Promoted> {
        let mut answer = self.answer("promote", args([&max.min(BATCH)]), Repeat::Safe).await?;
        Ok(Promoted {
            moved: answer.number()? as u32,
            expired: answer.number()? as u32,
            opened: answer.number()? as u32,
            next_due: u64::try_from(answer.number()?).ok(),
        })
    }

    /// At most `BATCH` at a time.
    async fn reap(&self, max: u32) -> Result<Reaped> {
        // The model has the words; the function puts the number in.
        let number = u32::MAX;
        let failure = Failure::new("max_deliveries", max_deliveries_message(number));
        let tasks = self.limits.max_usage_tasks;
        let lost = json(&Failure::new(WORKER_LOST, WORKER_LOST_MESSAGE))?;
        let args = args([&max.min(BATCH), &json(&failure)?, &number, &lost, &OUTAGE_MS, &GRACE_MS, &tasks]);
        let mut answer = self.answer("reap", args, Repeat::Safe).await?;
        Ok(Reaped {
            requeued: answer.number()? as u32,
            buried: answer.number()? as u32,
            revoked: answer.number()? as u32,
            failed: answer.number()? as u32,
        })
    }

    /// At most `BATCH` at a time, in steps that read few logs; then keys, until none is over.
    async fn prune(&self, max: u32) -> Result<u32> {
        let max = max.min(BATCH);
        let (mut deleted, mut keys, mut ended_early) = self.prune_once(max).await?;
        while keys >= BATCH || (ended_early == 1 && deleted < max) {
            let more;
            (more, keys, ended_early) = self.prune_once(max - deleted.min(max)).await?;
            deleted += more;
        }
        Ok(deleted)
    }

    async fn catch_up(&self) -> Result<bool> {
        let has_more = match self.find_labels().await {
            // What frees room comes first.
            Err(Error::Full(_)) => false,
            found => found?,
        };
        Ok(self.recount().await? || has_more)
    }

    async fn hold_service(&self, service: &str, process: &str, ttl_ms: u64) -> Result<Option<u64>> {
        let others_ms: i64 = self.typed("hold_service", args([&service, &process, &ttl_ms]), Repeat::Safe).await?;
        Ok(u64::try_from(others_ms).ok())
    }

    async fn is_away(&self, within: Duration) -> bool {
        self.connection.is_away(within).await
    }

    async fn check(&self) -> Result<()> {
        self.connection.check().await?;
        let commands = commands().into_iter().map(Vec::from).collect();
        let missing: Vec<String> = self.typed("check", commands, Repeat::Safe).await?;
        self.connection.refuse_rights(&missing)
    }

    async fn audit(&self, fix: bool) -> Result<Vec<Finding>> {
        self.look_through(fix).await
    }
}

impl RedisBroker {
    /// How many were deleted, how many keys, and whether it ended early.
    async fn prune_once(&self, max: u32) -> Result<(u32, u32, u32)> {
        self.typed("prune", args([&max, &BATCH, &self.limits.usage_retention_ms]), Repeat::Safe).await
    }
}
