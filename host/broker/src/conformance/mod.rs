//! One suite for every broker: named scenarios, random histories compared with the in-memory model, and random canvases
//! compared with a sequential one.
//!
//! A crate that implements `Broker` calls `conformance_suite!` with a closure that makes an empty `Subject` on a manual
//! clock; each scenario becomes a test of its own.

#![allow(clippy::unwrap_used)]

mod canvas;
mod canvases;
mod flows;
mod histories;
mod leases;
mod queues;
mod random;
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
use umbel_model::{
    Failure, JobId, JobRecord, JobState, NodeArguments, OnFailure, QueueName, Resolution, TaskName, TenantId, Token,
    WorkerId, WorkflowId,
};

use crate::{types::*, *};

pub use canvas::*;
pub use canvases::{Canvases, random_canvases};
pub use histories::{Histories, random_histories};
pub use leases::*;
pub use queues::*;
pub use registry::*;
pub use submission::*;

/// The time at which every scenario starts.
pub const START_MS: UnixMs = 1_800_000_000_000;

/// The limits that every subject is made with: small, so that they are reached. The backlog has room for a group that is
/// readied in more than two steps.
pub fn limits() -> Limits {
    Limits {
        max_backlog: 3_000,
        max_queues: 4,
        max_documents: 5,
        max_log_lines: 10,
        max_workflows: 8,
        max_nodes: 20_000,
    }
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
        growth: None,
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
            a_chain_runs_its_steps_one_after_the_other,
            a_node_is_delivered_with_its_template_and_place,
            a_group_runs_its_members_at_once_and_keeps_their_order,
            a_chords_body_runs_once_after_all_members,
            a_groups_members_all_get_what_was_before_it,
            groups_in_groups_end_from_the_inside_out,
            an_empty_group_ends_at_once_and_runs_its_body,
            a_workflow_of_nothing_is_over_when_it_is_started,
            a_group_of_one_gives_a_list,
            a_small_result_comes_with_the_delivery_and_a_large_one_by_reference,
            links_start_when_a_step_succeeded_and_are_not_waited_for_by_the_next,
            priorities_and_queues_of_nodes_are_their_templates,
            settling_a_node_and_claiming_what_it_readied_is_one_step,
            a_failed_step_fails_what_waits_for_it,
            a_failed_member_fails_the_body_once_when_all_members_ended,
            a_failure_that_is_continue_or_ignore_does_not_stop_the_body,
            a_step_of_a_chain_that_may_fail_gives_its_error_to_the_next,
            an_end_that_may_fail_does_not_fail_its_workflow,
            a_failure_is_minded_where_it_is_said_and_passes_on_otherwise,
            the_first_failure_cancels_the_rest_where_that_is_asked_for,
            a_failure_that_is_not_minded_cancels_nothing,
            cancelling_the_rest_leaves_callbacks_and_other_groups_alone,
            an_error_callback_runs_exactly_once_with_the_error,
            an_error_callback_without_an_error_is_skipped_with_all_that_follows_it,
            error_callbacks_see_a_failure_that_others_do_not_mind,
            an_error_callback_of_a_step_that_never_ran_runs_too,
            an_error_callback_that_is_a_group_runs_all_its_members,
            a_node_expires_counted_from_when_it_was_ready,
            an_expired_node_that_a_claim_meets_readies_what_waits_for_it,
            a_node_with_a_delay_waits_from_when_it_was_ready,
            a_node_that_is_retried_or_snoozed_has_not_ended,
            a_node_whose_workers_are_lost_is_buried_and_fails_the_body,
            a_node_that_is_lost_once_gives_its_result_once,
            a_failed_node_is_redriven_as_a_job_of_its_own,
            a_cancelled_member_is_a_failure_like_any_other,
            a_cancelled_member_that_may_fail_does_not_stop_the_body,
            a_node_that_waits_for_its_source_can_be_cancelled,
            a_waiting_node_cannot_be_run_now_but_a_delayed_one_can,
            cancelling_a_workflow_revokes_what_waits_and_asks_what_runs,
            a_cancelled_workflow_whose_end_went_well_has_succeeded,
            a_job_of_a_cancelled_workflow_does_not_come_back,
            a_workflow_that_is_over_or_unknown_is_not_cancelled,
            a_workflow_that_is_not_over_at_its_deadline_expires,
            a_workflow_that_is_over_before_its_deadline_is_left_alone,
            a_cancelled_workflow_is_not_looked_at_at_its_deadline,
            a_replaced_job_waits_for_the_workflow_in_its_place,
            a_replaced_job_fails_when_the_workflow_in_its_place_does,
            a_replaced_node_keeps_its_place,
            the_result_of_a_replaced_step_is_read_by_reference,
            replacements_may_be_replaced,
            the_error_callback_of_a_replaced_node_runs_when_its_replacement_fails,
            a_replacement_whose_failure_is_not_minded_is_a_success,
            cancelling_a_replaced_job_cancels_its_replacement,
            cancelling_a_workflow_cancels_what_replaced_its_nodes,
            a_deadline_reaches_what_replaced_a_node,
            a_replacement_is_settled_once,
            a_guest_submits_workflows_with_its_outcome,
            what_a_guest_asked_for_is_dropped_unless_it_succeeds,
            what_a_lost_delivery_asked_for_is_dropped,
            a_member_adds_members_to_its_group,
            a_member_that_was_added_may_add_members_and_fail_the_body,
            members_that_were_added_are_cancelled_with_the_rest,
            an_empty_list_of_members_adds_nothing,
            members_without_a_group_are_refused_and_change_nothing,
            growth_without_room_is_refused_and_changes_nothing,
            a_replacement_without_room_is_refused_and_the_lease_is_held,
            what_replaces_a_job_does_not_count_against_the_workflows_of_a_tenant,
            steps_of_a_submission_may_be_repeated,
            nodes_are_stored_in_pieces_and_in_any_order,
            a_workflow_that_is_not_started_does_nothing_and_is_swept,
            a_workflow_that_was_started_is_not_swept_as_staged,
            the_nodes_of_all_workflows_of_a_tenant_are_limited,
            an_unknown_workflow_is_not_found,
            an_idempotency_key_answers_with_the_first_workflow,
            of_two_submissions_with_one_key_only_one_is_started,
            too_many_workflows_are_refused,
            a_workflow_without_room_in_its_queues_is_refused,
            a_workflow_of_too_many_queues_is_refused,
            workflows_are_listed_newest_first_and_paged_without_gaps,
            nodes_and_replacements_are_in_no_listing,
            a_workflow_is_read_as_it_was_sent,
            a_tenant_does_not_see_anothers_workflow,
            retention_deletes_a_workflow_and_all_that_is_its_own,
            a_workflow_is_deleted_in_steps_and_not_found_from_the_first_one_on,
            a_node_is_kept_with_its_workflow_and_not_longer_or_shorter,
            a_replacement_is_kept_as_long_as_the_job_that_owns_it,
            a_replacement_whose_callbacks_outlive_the_job_is_deleted_when_it_is_over,
            replacements_of_nodes_are_deleted_with_their_workflow,
            a_resumed_workflow_does_again_only_what_failed,
            a_resumed_workflow_goes_on_behind_its_last_success,
            a_failure_that_is_kept_is_not_in_the_dead_set_again,
            kept_nodes_cannot_be_cancelled_and_go_with_their_workflow,
            a_large_fan_out_is_readied_in_steps_that_claims_and_promotions_take,
            a_large_workflow_is_cancelled_in_steps,
            a_workflow_cancelled_in_the_middle_of_a_fan_out_readies_no_more,
            a_fan_out_does_not_hold_up_another_workflow,
            a_large_failure_is_passed_on_in_steps,
            a_group_that_has_ended_takes_no_more_members,
            a_job_that_was_cancelled_is_not_replaced,
            a_replacement_that_is_not_there_is_refused,
            what_is_left_of_the_work_list_is_done_before_what_comes_later,
            a_guest_adds_many_members_at_once,
            members_settled_in_one_call_ready_the_body_once_and_in_the_same_step,
            members_settled_at_the_same_time_ready_the_body_once,
            nodes_in_a_paused_queue_wait_for_it,
            a_failed_group_calls_back_once_with_its_error,
            a_group_in_a_group_that_may_fail_gives_its_error_in_its_place,
            a_failure_before_a_group_is_named_once,
            an_empty_group_waits_for_a_failure_as_a_job_would,
            hints_come_for_nodes_and_for_workflows_that_are_over,
        );

        #[test]
        fn random_histories_agree_with_the_model() {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on($crate::conformance::random_histories($make, $crate::conformance::Histories::from_env()));
        }

        #[test]
        fn random_canvases_agree_with_a_sequential_model() {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on($crate::conformance::random_canvases($make, $crate::conformance::Canvases::from_env()));
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
