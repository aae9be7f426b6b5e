//! Jobs with broker options, and what the scenarios say about them.

use umbel_model::Rate;

use super::*;

pub(super) fn task(name: &str) -> TaskName {
    TaskName::new(name).unwrap()
}

pub(super) fn queue_scope() -> Scope {
    Scope::Queue(queue_name("default"))
}

pub(super) fn task_scope(name: &str) -> Scope {
    Scope::Task(task(name))
}

/// So many a second.
pub(super) fn per_second(count: u32, burst: u32) -> Rate {
    Rate { count, period_ms: 1_000, burst }
}

/// Job `n` of a task, without broker options.
pub(super) fn job_of(n: u64, name: &str) -> NewJob {
    NewJob { task: task(name), ..new_job(n) }
}

pub(super) fn with_limits(job: NewJob, limits: JobLimits) -> NewJob {
    NewJob { broker_options: Some(Box::new(BrokerOptions { limits: Some(limits), ..BrokerOptions::default() })), ..job }
}

/// Job `n` of the task, in its sub-queue: a cap that no scenario reaches.
pub(super) fn laned(n: u64, name: &str) -> NewJob {
    capped(n, name, 100_000)
}

/// Job `n` of a task that runs `cap` times at once.
pub(super) fn capped(n: u64, name: &str, cap: u32) -> NewJob {
    with_limits(job_of(n, name), JobLimits { concurrency: cap, ..JobLimits::default() })
}

/// Job `n` of the task `mail`, which starts so often.
pub(super) fn rated(n: u64, rate: Rate) -> NewJob {
    with_limits(job_of(n, "mail"), JobLimits { rate: Some(rate), ..JobLimits::default() })
}

/// Job `n` of the task `mail` for one customer, of whom `cap` jobs run at once.
pub(super) fn keyed(n: u64, key: &str, cap: u32) -> NewJob {
    let limits = JobLimits { key: Some(key.into()), key_concurrency: cap, ..JobLimits::default() };
    with_limits(job_of(n, "mail"), limits)
}

/// Job `n` with a unique key.
pub(super) fn unique(n: u64, key: &str, wins: Wins) -> NewJob {
    let unique = Unique { key: key.into(), wins, for_ms: 0, max_wait_ms: 0 };
    NewJob {
        broker_options: Some(Box::new(BrokerOptions { unique: Some(unique), ..BrokerOptions::default() })),
        ..new_job(n)
    }
}

/// Job `n` that is not simply handed out again when its worker is lost.
pub(super) fn once(n: u64, on_lost: umbel_model::OnWorkerLost) -> NewJob {
    NewJob { broker_options: Some(Box::new(BrokerOptions { on_lost, ..BrokerOptions::default() })), ..new_job(n) }
}

pub(super) fn of_tenant(name: &str, job: NewJob) -> NewJob {
    NewJob { tenant: tenant(name), ..job }
}

pub(super) fn in_queue(name: &str, job: NewJob) -> NewJob {
    NewJob { queue: queue_name(name), ..job }
}

pub(super) fn paused(paused: bool) -> ControlPatch {
    ControlPatch { paused: Some(paused), ..ControlPatch::default() }
}

pub(super) fn cap(concurrency: u32) -> ControlPatch {
    ControlPatch { concurrency: Some(concurrency), ..ControlPatch::default() }
}

pub(super) fn rate(rate: Option<Rate>) -> ControlPatch {
    ControlPatch { rate: Some(rate), ..ControlPatch::default() }
}

pub(super) fn exclusive(exclusive: bool) -> ControlPatch {
    ControlPatch { exclusive: Some(exclusive), ..ControlPatch::default() }
}

impl Subject {
    pub(super) async fn add_all(&self, jobs: impl IntoIterator<Item = NewJob>) {
        for job in jobs {
            self.add(job).await;
        }
    }

    /// Sets something of tenant `t1`.
    pub(super) async fn control(&self, scope: &Scope, patch: ControlPatch) -> Control {
        match self.broker.set_control(&tenant("t1"), scope, &patch).await.unwrap() {
            ControlSet::Set(control) => control,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn succeed_all(&self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            assert_eq!(self.settle(delivery, succeed("1")).await, Settled::Recorded);
        }
    }

    pub(super) async fn claim_as(&self, worker: &str, max: u32) -> Vec<Delivery> {
        self.broker.claim(&claim_of(worker, &["default"], max)).await.unwrap()
    }

    pub(super) async fn claim_from(&self, queue: &str, max: u32) -> Vec<Delivery> {
        self.broker.claim(&claim_of("w1", &[queue], max)).await.unwrap()
    }

    pub(super) async fn forget(&self, id: JobId) -> Forgot {
        self.broker.forget(&tenant("t1"), id).await.unwrap()
    }

    pub(super) async fn submit_one(&self, job: NewJob) -> Submitted {
        self.broker.submit(&[job]).await.unwrap()[0]
    }

    /// The queues in which anything can be handed out.
    pub(super) async fn ready(&self) -> Vec<String> {
        let ready = self.broker.ready_queues().await.unwrap();
        ready.into_iter().map(|queue| queue.as_str().to_owned()).collect()
    }

    /// When the next step of the promoter has something to do.
    pub(super) async fn next_due(&self) -> Option<UnixMs> {
        self.promote().await.next_due
    }
}
