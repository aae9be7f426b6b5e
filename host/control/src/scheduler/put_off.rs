//! Schedules that fail by themselves, each put off for a growing while: it stops nobody else, and does not flood the log.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use umbel_broker::{Broker, ScheduleRecord, ScheduleStep, ScheduleStepped};
use umbel_model::{ScheduleName, TenantId, UnixMs};

use crate::Error;

/// The first and the longest while, milliseconds.
const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 600_000;
/// Schedules that are remembered. When there are more, all are tried again.
const MOST: usize = 1_000;

/// Who does steps.
#[async_trait]
pub(super) trait Ask: Send + Sync {
    async fn ask(&self, steps: &[ScheduleStep]) -> umbel_broker::Result<Vec<ScheduleStepped>>;
}

/// A broker does.
pub(super) struct Asked<'a>(pub(super) &'a dyn Broker);

#[async_trait]
impl Ask for Asked<'_> {
    async fn ask(&self, steps: &[ScheduleStep]) -> umbel_broker::Result<Vec<ScheduleStepped>> {
        self.0.schedule_steps(steps).await
    }
}

type Known = HashMap<(TenantId, ScheduleName), While>;

#[derive(Debug, Default)]
pub(super) struct PutOff(Mutex<Known>);

#[derive(Debug, Clone, Copy, Default)]
struct While {
    ms: u64,
    until: UnixMs,
    /// Not even its place among those that are due can be changed.
    stays: bool,
}

/// Until when a schedule is put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Off {
    pub(super) until: UnixMs,
    /// See `While`.
    pub(super) stays: bool,
}

impl PutOff {
    pub(super) fn off(&self, record: &ScheduleRecord, now: UnixMs) -> Option<Off> {
        let key = (record.tenant.clone(), record.name.clone());
        let known = self.known();
        let of = known.get(&key).filter(|of| of.until > now)?;
        Some(Off { until: of.until, stays: of.stays })
    }

    /// The answers to steps. If that fails for good, each is asked for by itself, and one that fails alone has no
    /// answer, and its schedule is put off.
    pub(super) async fn answers(
        &self,
        steps: &[ScheduleStep],
        who: &dyn Ask,
    ) -> Result<Vec<Option<ScheduleStepped>>, Error> {
        match who.ask(steps).await {
            Err(error) if !error.is_transient() => {}
            answers => {
                let answers = answers?;
                self.forget(steps);
                return Ok(answers.into_iter().map(Some).collect());
            }
        }
        let mut answers = Vec::with_capacity(steps.len());
        for step in steps {
            match who.ask(std::slice::from_ref(step)).await {
                Err(error) if !error.is_transient() => {
                    // Steps of this service are not done before they were decided.
                    self.put_off(&step.tenant, &step.name, step.not_before, "a step cannot be done", &error);
                    answers.push(None);
                }
                answer => {
                    let mut answer = answer?;
                    self.forget(std::slice::from_ref(step));
                    answers.push(answer.pop());
                }
            }
        }
        Ok(answers)
    }

    /// Does steps that only move schedules behind others; answers how many were done. One that cannot be done is not tried again
    /// while its schedule is put off.
    pub(super) async fn moved(&self, steps: &[ScheduleStep], who: &dyn Ask) -> Result<usize, Error> {
        let count = |answers: &[ScheduleStepped]| {
            answers.iter().filter(|answer| matches!(answer, ScheduleStepped::Done { .. })).count()
        };
        match who.ask(steps).await {
            Err(error) if !error.is_transient() => {}
            answers => return Ok(count(&answers?)),
        }
        let mut done = 0;
        for step in steps {
            match who.ask(std::slice::from_ref(step)).await {
                Err(error) if !error.is_transient() => self.stays(step),
                answer => done += count(&answer?),
            }
        }
        Ok(done)
    }

    fn stays(&self, step: &ScheduleStep) {
        let now = step.not_before;
        let mut known = self.known();
        let of = entry(&mut known, &step.tenant, &step.name);
        of.stays = true;
        of.ms = of.ms.max(FIRST_MS);
        of.until = of.until.max(now.saturating_add(FIRST_MS));
    }

    fn forget(&self, steps: &[ScheduleStep]) {
        let mut known = self.known();
        for step in steps {
            known.remove(&(step.tenant.clone(), step.name.clone()));
        }
    }

    /// Nothing is done about this schedule for a while, which is longer each time until a step of it is done.
    pub(super) fn put_off(
        &self,
        tenant: &TenantId,
        name: &ScheduleName,
        now: UnixMs,
        what: &str,
        error: &dyn std::fmt::Display,
    ) {
        let mut known = self.known();
        let of = entry(&mut known, tenant, name);
        let ms = if of.ms == 0 { FIRST_MS } else { (of.ms * 2).min(LONGEST_MS) };
        *of = While { ms, until: now.saturating_add(ms), stays: false };
        tracing::error!(
            %tenant, schedule = %name, put_off_ms = ms, error = ?error.to_string(), "a schedule is put off: {what}"
        );
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(known: &'a mut Known, tenant: &TenantId, name: &ScheduleName) -> &'a mut While {
    let key = (tenant.clone(), name.clone());
    if known.len() >= MOST && !known.contains_key(&key) {
        known.clear();
    }
    known.entry(key).or_default()
}

#[cfg(test)]
mod tests {
    use umbel_broker::{Error as BrokerError, ScheduleChange};

    use super::*;

    fn step(name: &str) -> ScheduleStep {
        ScheduleStep {
            tenant: TenantId::new("t").unwrap(),
            name: ScheduleName::new(name).unwrap(),
            revision: 1,
            not_before: 10_000,
            change: ScheduleChange::Delete,
            fires: Vec::new(),
            start: None,
        }
    }

    fn record(step: &ScheduleStep) -> ScheduleRecord {
        ScheduleRecord {
            tenant: step.tenant.clone(),
            name: step.name.clone(),
            version: 1,
            revision: 1,
            definition: String::new(),
            state: String::new(),
            look_at: None,
            created_at: 0,
            changed_at: 0,
            fires: 0,
        }
    }

    /// Fails so where a step is for `bad`.
    struct Store(Option<BrokerError>);

    #[async_trait]
    impl Ask for Store {
        async fn ask(&self, steps: &[ScheduleStep]) -> umbel_broker::Result<Vec<ScheduleStepped>> {
            let is_bad = steps.iter().any(|step| step.name.as_str() == "bad");
            match self.0.clone().filter(|_| is_bad) {
                Some(error) => Err(error),
                None => Ok(vec![DONE; steps.len()]),
            }
        }
    }

    const DONE: ScheduleStepped = ScheduleStepped::Done { version: 1, revision: 2 };

    #[tokio::test]
    async fn a_step_that_the_store_cannot_do_is_put_off_and_the_others_are_done() {
        let (put_off, steps) = (PutOff::default(), ["a", "bad", "c"].map(step));
        for (now_at, free_at) in [(10_000, 11_000), (11_000, 13_000)] {
            let steps = steps.clone().map(|step| ScheduleStep { not_before: now_at, ..step });
            assert_eq!(
                put_off.answers(&steps, &Store(Some(BrokerError::Corrupt("no".into())))).await.unwrap(),
                [Some(DONE), None, Some(DONE)]
            );
            let bad = record(&steps[1]);
            assert_eq!(put_off.off(&bad, free_at - 1), Some(Off { until: free_at, stays: false }));
            assert_eq!((put_off.off(&bad, free_at), put_off.off(&record(&steps[0]), now_at)), (None, None));
        }
        let whole = put_off.answers(&steps, &Store(None)).await.unwrap();
        assert_eq!(whole, [Some(DONE); 3]);
    }

    #[tokio::test]
    async fn a_broker_that_is_away_puts_nothing_off() {
        let (put_off, steps) = (PutOff::default(), ["bad"].map(step));
        let away = Store(Some(BrokerError::Unavailable("gone".into())));
        assert!(put_off.answers(&steps, &away).await.is_err());
        assert!(put_off.moved(&steps, &away).await.is_err());
        assert_eq!(put_off.off(&record(&steps[0]), 10_000), None);
    }

    #[tokio::test]
    async fn one_that_cannot_be_moved_stays_for_a_while_and_the_others_are_moved() {
        let (put_off, steps) = (PutOff::default(), ["a", "bad", "c"].map(step));
        let store = Store(Some(BrokerError::Corrupt("no".into())));
        assert_eq!(put_off.moved(&steps, &store).await.unwrap(), 2);
        assert_eq!(put_off.off(&record(&steps[1]), 10_000), Some(Off { until: 11_000, stays: true }));
        assert_eq!(put_off.off(&record(&steps[0]), 10_000), None);
    }
}
