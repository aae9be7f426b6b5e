//! One suite for every broker: named scenarios, and random histories compared with the in-memory model.
//!
//! A crate that implements `Broker` calls `conformance_suite!` with a closure that makes an empty `Subject` on a manual
//! clock; each scenario becomes a test of its own.

#![allow(clippy::unwrap_used)]

mod histories;
mod leases;
mod queues;
mod registry;
mod submission;

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::value::RawValue;
use umbel_model::{Failure, JobId, JobRecord, JobState, QueueName, Resolution, TaskName, TenantId, Token, WorkerId};

use crate::{types::*, *};

pub use histories::{Histories, random_histories};
pub use leases::*;
pub use queues::*;
pub use registry::*;
pub use submission::*;

/// The time at which every scenario starts.
pub const START_MS: UnixMs = 1_800_000_000_000;

/// The limits that every subject is made with: small, so that they are reached.
pub fn limits() -> Limits {
    Limits { max_backlog: 40, max_queues: 4, max_documents: 5, max_log_lines: 10 }
}

/// An empty broker under test.
#[derive(Debug)]
pub struct Subject {
    pub broker: Arc<dyn Broker>,
    /// Its clock, milliseconds.
    pub now: Arc<AtomicU64>,
    /// Whatever must live as long as the broker: a server process, a temporary folder.
    pub keep: Box<dyn Any + Send>,
}

impl Subject {
    fn pass(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    async fn add(&self, job: NewJob) -> JobId {
        let answers = self.broker.submit(std::slice::from_ref(&job)).await.unwrap();
        assert_eq!(answers, [Submitted::Created]);
        job.id
    }

    async fn claim(&self, max: u32) -> Vec<Delivery> {
        self.broker.claim(&claim_of("w1", &["default"], max)).await.unwrap()
    }

    async fn claim_one(&self) -> Delivery {
        self.claim(1).await.pop().expect("a job is ready")
    }

    async fn settle(&self, delivery: &Delivery, resolution: Resolution) -> Settled {
        self.broker.settle(&[settle_of(delivery, resolution)], None).await.unwrap().0[0]
    }

    async fn renew(&self, delivery: &Delivery) -> LeaseState {
        self.broker.renew(DEFAULT_LEASE_MS, &[renewal_of(delivery)]).await.unwrap()[0]
    }

    async fn read(&self, id: JobId) -> JobRecord {
        self.broker.job(&tenant("t1"), id).await.unwrap().expect("the job exists")
    }

    async fn state(&self, id: JobId) -> JobState {
        self.read(id).await.state
    }

    async fn queue(&self) -> QueueStats {
        let mut queues = self.broker.queues(&tenant("t1")).await.unwrap();
        queues.retain(|q| q.name.as_str() == "default");
        queues.pop().expect("the queue is known")
    }
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn queue_name(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn job_id(n: u64) -> JobId {
    JobId::from_parts(START_MS, n.into())
}

/// Job `n` of tenant `t1` in the queue `default`, ready now.
fn new_job(n: u64) -> NewJob {
    NewJob {
        id: job_id(n),
        tenant: tenant("t1"),
        task: TaskName::new("add").unwrap(),
        queue: queue_name("default"),
        priority: 5,
        spec: format!(r#"{{"n":{n}}}"#),
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 3,
        result_ttl_ms: 60_000,
        dead_ttl_ms: 120_000,
        idempotency: None,
        redrive_of: None,
    }
}

fn claim_of(worker: &str, queues: &[&str], max: u32) -> Claim {
    static SEED: AtomicU64 = AtomicU64::new(0);
    Claim {
        worker: WorkerId::new(worker).unwrap(),
        queues: queues.iter().map(|q| queue_name(q)).collect(),
        max,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("s{}", SEED.fetch_add(1, Ordering::SeqCst))).unwrap(),
    }
}

fn settle_of(delivery: &Delivery, resolution: Resolution) -> Settle {
    Settle {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        resolution,
        record: None,
        progress: None,
        logs: Vec::new(),
    }
}

fn renewal_of(delivery: &Delivery) -> Renewal {
    Renewal {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        progress: None,
        logs: Vec::new(),
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn succeed(json: &str) -> Resolution {
    Resolution::Succeed { result: Some(raw(json)) }
}

fn fail() -> Resolution {
    Resolution::Fail { failure: Failure::new("Void", "no \"such\" order\n\u{1b}[31m é") }
}

fn retry(delay_ms: u64) -> Resolution {
    Resolution::Retry { delay_ms, failure: Failure::new("Timeout", "slow") }
}

fn line(n: u64) -> LogLine {
    LogLine { at: START_MS, attempt: 1, level: "info".into(), context: String::new(), message: format!("line \"{n}\"") }
}

/// Makes a test of every scenario, and one of random histories. `$make` is a closure that gives a future of an empty
/// `Subject`.
#[macro_export]
macro_rules! conformance_suite {
    ($make:expr) => {
        $crate::conformance_suite!(@each $make,
            a_submission_repeated_by_id_is_one_job,
            an_idempotency_key_answers_with_the_first_job,
            an_idempotency_key_with_another_body_is_a_conflict,
            an_idempotency_key_is_free_again_after_its_time,
            an_unknown_job_is_not_found,
            a_tenant_does_not_see_anothers_job,
            a_full_queue_refuses_and_says_so,
            too_many_queues_are_refused,
            a_job_with_a_delay_waits_for_its_time,
            a_job_that_expires_while_queued_never_runs,
            a_job_that_expires_while_scheduled_never_runs,
            a_claim_buries_the_expired_and_hands_out_the_rest,
            listing_is_newest_first_and_pages_without_gaps,
            listing_filters_by_state_task_and_queue,
            priority_nine_is_first_and_age_decides_among_equals,
            queues_are_served_in_the_order_of_the_claim,
            tenants_take_turns_whatever_their_backlog,
            a_tenant_that_comes_late_does_not_catch_up_on_the_past,
            a_tenant_with_one_job_at_a_time_starves_nobody,
            ready_queues_are_those_with_a_job_to_hand_out_for_anybody,
            a_paused_queue_hands_out_nothing_until_resumed,
            a_queue_nobody_used_cannot_be_paused,
            counts_follow_every_step,
            settle_and_claim_happen_in_one_step,
            a_settle_with_an_old_token_changes_nothing,
            a_settle_repeated_is_recorded_once,
            a_settle_that_contradicts_the_recorded_one_is_refused,
            a_result_comes_back_as_it_was_sent,
            an_expired_lease_is_requeued_once_at_its_place,
            a_job_lost_again_goes_to_the_end_of_its_line,
            a_renewed_lease_does_not_expire,
            a_job_that_kills_its_workers_is_buried,
            a_retry_costs_a_retry_and_resets_the_deliveries,
            a_snooze_costs_nothing,
            a_released_job_keeps_its_place_and_its_count,
            a_fence_only_rises,
            cancelling_a_waiting_job_revokes_it,
            cancelling_a_running_job_asks_its_worker,
            a_cancelled_job_does_not_come_back_by_retry_or_crash,
            progress_and_logs_come_with_the_lease,
            logs_stop_at_their_limit,
            history_keeps_every_attempt_up_to_its_limit,
            a_failed_job_is_in_the_dead_set_until_redriven_once,
            retention_deletes_a_job_and_all_that_is_its_own,
            a_retrying_job_can_be_run_now,
            documents_are_written_only_at_the_expected_version,
            documents_are_listed_by_name_within_their_tenant,
            workers_are_forgotten_when_they_fall_silent,
            hints_come_for_work_ends_and_cancels,
        );

        #[test]
        fn random_histories_agree_with_the_model() {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on($crate::conformance::random_histories($make, $crate::conformance::Histories::from_env()));
        }
    };
    (@each $make:expr, $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let make = $make;
                $crate::conformance::$name(make().await).await;
            }
        )+
    };
}
