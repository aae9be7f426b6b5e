//! Redriving: new jobs made of failed ones, with what the broker and the module store know.

use std::collections::HashMap;

use umbel_broker::{Error, LargeValues as _, NewJob, ValueError};
use umbel_compose::{Digests, ModuleDocument, Redrive, Refusal, TaskDocument, TaskFacts};
use umbel_model::{Digest, JobId, JobRecord, LargeValue, PolicyPatch, TaskName, TenantId};

use crate::{Carrier, LargeStore, large_store::value_error};

/// Makes new jobs of failed ones.
#[derive(Debug)]
pub struct Redriver<'a> {
    carrier: Carrier<'a>,
    digests: Digests,
    policy: &'a PolicyPatch,
    request_id: &'a str,
    /// Tasks as they are deployed now.
    tasks: HashMap<TaskName, Option<TaskFacts>>,
    /// Whether a module may run new jobs.
    modules: HashMap<Digest, bool>,
}

impl<'a> Redriver<'a> {
    /// `policy` is laid over that of each job.
    pub fn new(carrier: Carrier<'a>, digests: Digests, policy: &'a PolicyPatch, request_id: &'a str) -> Self {
        Self { carrier, digests, policy, request_id, tasks: HashMap::new(), modules: HashMap::new() }
    }

    /// The job `id` that repeats `record`.
    pub async fn redrive(&mut self, record: &JobRecord, id: JobId) -> Result<Result<NewJob, Refusal>, Error> {
        match self.made(record, id).await {
            Ok(job) => Ok(Ok(job)),
            Err(Failed::Refused(refusal)) => Ok(Err(refusal)),
            Err(Failed::Broker(error)) => Err(error),
        }
    }

    async fn made(&mut self, record: &JobRecord, id: JobId) -> Result<NewJob, Failed> {
        let mut redrive = Redrive::new(record, self.policy, self.carrier.bounds, self.request_id)?;
        let is_repinned = self.digests == Digests::Current;
        let large = match redrive.stored_arguments() {
            // Also for the blobs to which they refer.
            Some(stored) => Some(self.read(&record.tenant, stored).await?),
            None => None,
        };
        if !is_repinned {
            self.check_module(&record.tenant, redrive.digest()).await?;
        } else {
            redrive.repin(&self.task(&record.tenant, &record.task).await?, large.as_deref())?;
        }
        let stored = match redrive.stored_arguments() {
            // Values are deleted with their job: each has its own.
            Some(stored) => Some(self.copied(&record.tenant, stored, id).await?),
            None => None,
        };
        Ok(redrive.finish(id, large.as_deref(), stored)?)
    }

    /// A module that was deleted is taken away once no unfinished job uses it: no new one may.
    async fn check_module(&mut self, tenant: &TenantId, digest: Digest) -> Result<(), Failed> {
        if !self.modules.contains_key(&digest) {
            let found = ModuleDocument::read(self.carrier.broker, tenant, digest).await.map_err(broker_error)?;
            self.modules.insert(digest, found.is_some_and(|module| module.info.deleted_at.is_none()));
        }
        match self.modules.get(&digest) {
            Some(true) => Ok(()),
            _ => Err(Refusal::ModuleGone(digest).into()),
        }
    }

    async fn task(&mut self, tenant: &TenantId, name: &TaskName) -> Result<TaskFacts, Failed> {
        if !self.tasks.contains_key(name) {
            let document = TaskDocument::read(self.carrier.broker, tenant, name).await.map_err(broker_error)?;
            self.tasks.insert(name.clone(), document.and_then(|(document, _)| document.facts(None)));
        }
        let found = self.tasks.get(name).cloned().flatten();
        found.ok_or_else(|| Refusal::TaskGone(name.clone()).into())
    }

    async fn read(&self, tenant: &TenantId, stored: &LargeValue) -> Result<String, Failed> {
        let store = self.carrier.store.ok_or_else(no_store)?;
        Ok(LargeStore(store.clone()).read(tenant, stored).await.map_err(refused)?)
    }

    async fn copied(&self, tenant: &TenantId, stored: &LargeValue, to: JobId) -> Result<LargeValue, Failed> {
        let store = self.carrier.store.ok_or_else(no_store)?;
        Ok(store.copy_value(tenant, stored, to).await.map_err(|error| refused(value_error(&error)))?)
    }
}

fn broker_error(error: umbel_compose::Error) -> Error {
    match error {
        umbel_compose::Error::Broker(error) => error,
        other => Error::Corrupt(other.to_string()),
    }
}

enum Failed {
    Broker(Error),
    Refused(Refusal),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Broker(error)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn no_store() -> Refusal {
    Refusal::Unavailable("its arguments are large, and there is no store for them here".into())
}

fn refused(error: ValueError) -> Refusal {
    match error {
        ValueError::Unavailable(why) => Refusal::Unavailable(why),
        other => Refusal::Lost(other.to_string()),
    }
}
