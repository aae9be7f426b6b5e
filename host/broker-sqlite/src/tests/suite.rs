//! The suite that every broker passes: 10,000 random histories in memory, the scenarios and fewer histories on a file.

use umbel_broker::conformance::{self, Histories, Subject};

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

mod memory {
    use super::*;

    umbel_broker::conformance_suite!(|| async { in_memory() });
}

mod file {
    use super::*;

    umbel_broker::conformance_suite!(@each || async { on_file() },
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
        workers_are_forgotten_when_they_fall_silent,
        hints_come_for_work_ends_and_cancels,
    );

    #[tokio::test]
    async fn random_histories_on_a_file_agree_with_the_model() {
        let histories = Histories::from_env();
        // A file for each takes most of the time; the rules are the same in memory.
        conformance::random_histories(|| async { on_file() }, Histories { count: histories.count / 20, ..histories })
            .await;
    }
}
