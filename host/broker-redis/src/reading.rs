//! Reading jobs, their logs, and queues.

use umbel_broker::{Error, JobPage, JobQuery, LogLine, MAX_READY_QUEUES, PAGE_SCAN, QueueStats, Result};
use umbel_model::{JobId, JobRecord, JobState, QueueName, TenantId};

use crate::{RedisBroker, answers::Answer, bytes::corrupt, connection::Repeat, keys::member};

impl RedisBroker {
    pub(crate) async fn read_job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>> {
        let args = vec![member(tenant, id).into_bytes()];
        let mut answer = Answer::new(self.run("read", args, Repeat::Safe).await?)?;
        if answer.done() { Ok(None) } else { answer.job().map(Some) }
    }

    pub(crate) async fn list_jobs(&self, query: &JobQuery) -> Result<JobPage> {
        let state = query.state.and_then(|state| JobState::ALL.iter().position(|s| *s == state));
        let args = [
            query.tenant.to_string(),
            if query.dead { "dead" } else { "jobs" }.into(),
            query.before.map(|id| id.to_string()).unwrap_or_default(),
            query.max.to_string(),
            PAGE_SCAN.to_string(),
            state.map(|s| s.to_string()).unwrap_or_default(),
            query.task.as_ref().map(ToString::to_string).unwrap_or_default(),
            query.queue.as_ref().map(ToString::to_string).unwrap_or_default(),
            query.worker.as_ref().map(ToString::to_string).unwrap_or_default(),
        ];
        let args = args.map(String::into_bytes).to_vec();
        let mut answer = Answer::new(self.run("list", args, Repeat::Safe).await?)?;
        let next = answer.text()?;
        let next = if next.is_empty() { None } else { Some(next.parse().map_err(corrupt)?) };
        let mut jobs = Vec::new();
        while !answer.done() {
            jobs.push(answer.summary()?.0);
        }
        Ok(JobPage { jobs, next })
    }

    pub(crate) async fn read_logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>> {
        let Some(last) = u64::from(max).checked_sub(1).and_then(|n| from.checked_add(n)) else { return Ok(Vec::new()) };
        let bound = |n: u64| n.min(i64::MAX as u64);
        let key = self.connection.keys.logs(tenant, id);
        let lrange = redis::cmd("LRANGE").arg(key).arg(bound(from)).arg(bound(last)).to_owned();
        let mut answer = Answer::new(self.command(&lrange).await?)?;
        let mut lines = Vec::new();
        while !answer.done() {
            lines.push(serde_json::from_slice(&answer.bytes()?).map_err(corrupt)?);
        }
        Ok(lines)
    }

    pub(crate) async fn list_queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>> {
        let args = vec![tenant.to_string().into_bytes()];
        let mut answer = Answer::new(self.run("queues", args, Repeat::Safe).await?)?;
        let mut queues = Vec::new();
        while !answer.done() {
            let name = answer.text()?.parse().map_err(corrupt)?;
            let mut count =
                || u64::try_from(answer.number()?).map_err(|_| Error::Corrupt("a count is negative".into()));
            let (queued, running, delayed, dead, paused) = (count()?, count()?, count()?, count()?, count()? > 0);
            queues.push(QueueStats { name, queued, running, delayed, dead, paused });
        }
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    pub(crate) async fn list_ready_queues(&self) -> Result<Vec<QueueName>> {
        let args = vec![MAX_READY_QUEUES.to_string().into_bytes()];
        let mut answer = Answer::new(self.run("ready_queues", args, Repeat::Safe).await?)?;
        let mut queues = Vec::new();
        while !answer.done() {
            queues.push(answer.text()?.parse().map_err(corrupt)?);
        }
        Ok(queues)
    }
}
