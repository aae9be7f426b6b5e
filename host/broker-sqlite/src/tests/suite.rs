//! The suite that every broker passes: 10,000 random histories in memory, the scenarios and fewer histories on a file.

use futures::future::BoxFuture;
use umbel_broker::Broker;
use umbel_broker_conformance::{self as conformance, Histories, Reopen, Subject};

use crate::*;

fn in_memory() -> Subject {
    let (clock, now) = Clock::manual(conformance::START_MS);
    let broker = SqliteBroker::in_memory_with(clock, conformance::limits()).unwrap();
    Subject { broker: Arc::new(broker), now, keep: Box::new(()) }
}

fn on_file() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(conformance::START_MS);
    let config = SqliteConfig { clock, limits: conformance::limits(), ..super::config(folder.path()) };
    Subject { broker: Arc::new(SqliteBroker::open(config).unwrap()), now, keep: Box::new(folder) }
}

/// A file that histories close and open again in their middle: a new process, whose workers are new, too.
fn reopened() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(conformance::START_MS);
    let config = SqliteConfig { clock, limits: conformance::limits(), ..super::config(folder.path()) };
    let broker = Arc::new(SqliteBroker::open(config.clone()).unwrap());
    let open: Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Broker>> + Send> = Box::new(move || {
        let config = config.clone();
        Box::pin(async move { Arc::new(SqliteBroker::open(config).unwrap()) as Arc<dyn Broker> })
    });
    let reopen = Reopen { keep: Box::new(folder), ends_leases: true, open };
    Subject { broker, now, keep: Box::new(reopen) }
}

mod memory {
    use super::*;

    umbel_broker_conformance::conformance_suite!(|| async { in_memory() });
}

mod file {
    use super::*;

    umbel_broker_conformance::conformance_suite!(@each || async { on_file() },
        a_submission_repeated_by_id_is_one_job,
        listing_is_newest_first_and_pages_without_gaps,
        tenants_take_turns_whatever_their_backlog,
        ready_queues_are_those_with_a_job_to_hand_out_for_anybody,
        counts_follow_every_step,
        settle_and_claim_happen_in_one_step,
        a_result_comes_back_as_it_was_sent,
        an_expired_lease_is_requeued_once_at_its_place,
        progress_and_logs_come_with_the_lease,
        history_keeps_every_attempt_up_to_its_limit,
        retention_deletes_a_job_and_all_that_is_its_own,
        documents_are_listed_by_name_within_their_tenant,
        the_bytes_of_what_attempts_leave_are_counted,
        the_bytes_of_a_workflow_are_those_of_its_texts_and_of_its_nodes,
        the_bytes_of_documents_are_counted_with_those_that_they_stand_for,
        workers_are_forgotten_when_they_fall_silent,
        hints_come_for_work_ends_and_cancels,
        a_chords_body_runs_once_after_all_members,
        a_small_result_comes_with_the_delivery_and_a_large_one_by_reference,
        a_workflow_is_read_as_it_was_sent,
        workflows_are_listed_newest_first_and_paged_without_gaps,
        nodes_and_replacements_are_in_no_listing,
        nodes_are_stored_in_pieces_and_in_any_order,
        a_member_adds_members_to_its_group,
        growth_without_room_is_refused_and_changes_nothing,
        replacements_of_nodes_are_deleted_with_their_workflow,
        a_resumed_workflow_does_again_only_what_failed,
        a_large_fan_out_is_readied_in_steps_that_claims_and_promotions_take,
        a_large_workflow_is_cancelled_in_steps,
    );

    #[tokio::test]
    async fn random_histories_on_a_file_agree_with_the_model() {
        let histories = Histories::from_env();
        // A file for each takes most of the time; the rules are the same in memory.
        conformance::random_histories(|| async { reopened() }, Histories { count: histories.count / 20, ..histories })
            .await;
    }
}
