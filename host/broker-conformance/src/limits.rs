//! Rates and caps: what they keep waiting, and what lets it go.

use umbel_model::Rate;

use super::{broker_options::*, *};

pub async fn a_rate_lets_the_next_start_at_its_millisecond(s: Subject) {
    s.add_all((1..=3).map(|n| rated(n, per_second(2, 1)))).await;
    assert_eq!(s.claim_numbers(10).await, [1]);
    assert!(s.claim(10).await.is_empty());
    for (at, n) in [(500, 2), (1_000, 3)] {
        s.pass(499);
        assert_eq!(s.next_due().await, Some(START_MS + at));
        assert!(s.claim(10).await.is_empty());
        s.pass(1);
        s.promote().await;
        assert_eq!(s.claim_numbers(10).await, [n]);
        assert!(s.claim(10).await.is_empty());
    }
}

pub async fn a_rate_whose_interval_is_no_whole_millisecond_is_never_exceeded(s: Subject) {
    s.add_all((1..=4).map(|n| rated(n, per_second(3, 1)))).await;
    let mut starts = Vec::new();
    for _ in 0..4 {
        assert_eq!(s.claim(10).await.len(), 1);
        starts.push(s.now.load(Ordering::SeqCst) - START_MS);
        if let Some(due) = s.next_due().await {
            assert!(due > s.now.load(Ordering::SeqCst));
            s.now.store(due, Ordering::SeqCst);
            s.promote().await;
        }
    }
    // A third of a second is 333,333 µs; a start is at the next whole millisecond, and delays none of those after it.
    assert_eq!(starts, [0, 334, 667, 1_000]);
}

pub async fn a_rate_that_is_raised_holds_at_once(s: Subject) {
    let hourly = Rate { count: 1, period_ms: 3_600_000, burst: 3 };
    s.add_all((1..=5).map(|n| rated(n, hourly))).await;
    assert_eq!(s.claim_numbers(10).await, [1, 2, 3]);
    assert_eq!(s.next_due().await, Some(START_MS + 3_600_000));
    s.control(&task_scope("mail"), rate(Some(per_second(1_000, 1)))).await;
    // The three starts come back as this one's do.
    assert!(s.claim_numbers(10).await.is_empty());
    s.pass(3);
    s.promote().await;
    assert_eq!(s.claim_numbers(10).await, [4]);
    s.pass(1);
    s.promote().await;
    assert_eq!(s.claim_numbers(10).await, [5]);
}

pub async fn jobs_with_a_smaller_burst_or_another_rate_give_nothing_back_to_the_others(s: Subject) {
    let wide = per_second(10, 4);
    let rates = [wide, wide, wide, per_second(10, 1), wide, Rate { count: 1, period_ms: 60_000, burst: 1 }, wide];
    s.add_all((1..).zip(rates).map(|(n, rate)| rated(n, rate))).await;
    assert_eq!(s.claim_numbers(10).await, [1, 2, 3]);
    assert_eq!(s.next_due().await, Some(START_MS + 300));
    s.pass(300);
    s.promote().await;
    assert_eq!(s.claim_numbers(10).await, [4, 5]);
    // Two starts were used, of which each counts for a minute.
    assert_eq!(s.next_due().await, Some(START_MS + 120_300));
    s.pass(120_000);
    assert_eq!(s.promote().await.opened, 1);
    assert_eq!(s.claim_numbers(10).await, [6, 7]);
}

pub async fn a_burst_starts_at_once_and_is_earned_back(s: Subject) {
    s.add_all((1..=8).map(|n| rated(n, per_second(2, 3)))).await;
    assert_eq!(s.claim_numbers(10).await, [1, 2, 3]);
    s.pass(500);
    s.promote().await;
    assert_eq!(s.claim_numbers(10).await, [4]);
    s.claim(10).await;
    s.pass(10_000);
    s.promote().await;
    assert_eq!(s.claim_numbers(10).await, [5, 6, 7]);
}

pub async fn a_rate_counts_starts_in_all_queues_and_by_all_workers(s: Subject) {
    let second = per_second(1, 1);
    s.add_all([rated(1, second), rated(2, second), in_queue("other", rated(3, second))]).await;
    assert_eq!(numbers(&s.claim_as("w1", 1).await), [1]);
    assert!(s.claim_as("w2", 1).await.is_empty());
    assert!(s.claim_from("other", 1).await.is_empty());
    // Both sub-queues open at the same time; who comes first takes what there is.
    s.pass(1_000);
    s.promote().await;
    assert_eq!(s.ready().await, ["default", "other"]);
    assert_eq!(numbers(&s.claim_from("other", 1).await), [3]);
    assert!(s.claim_as("w2", 1).await.is_empty());
}

pub async fn a_lost_or_released_start_has_taken_from_the_rate(s: Subject) {
    s.add_all([rated(1, per_second(1, 2)), rated(2, per_second(1, 2)), rated(3, per_second(1, 2))]).await;
    let first = s.claim_one().await;
    s.settle(&first, Resolution::Release).await;
    assert_eq!(s.claim_numbers(10).await, [1]);
    assert_eq!(s.next_due().await, Some(START_MS + 1_000));
}

pub async fn what_a_rate_parked_is_opened_by_the_promoter_at_most_so_much_in_a_step(s: Subject) {
    let each = |n: u64| {
        let limits = JobLimits { key: Some(format!("k{n}")), key_rate: Some(per_second(1, 1)), ..JobLimits::default() };
        with_limits(job_of(n, "mail"), limits)
    };
    s.add_all((1..=3).flat_map(|n| [each(n), NewJob { id: job_id(n + 10), ..each(n) }])).await;
    assert_eq!(s.claim(10).await.len(), 3);
    assert!(s.claim(10).await.is_empty());
    s.pass(1_000);
    // They are opened in the order of time and then of name, and what is left is due now.
    assert_eq!(s.broker.promote(2).await.unwrap().next_due, Some(START_MS + 1_000));
    let ids: Vec<JobId> = s.claim(10).await.iter().map(|d| d.id).collect();
    assert_eq!(ids, [11, 12].map(job_id));
    assert_eq!(s.broker.promote(2).await.unwrap().next_due, None);
    assert_eq!(s.claim(10).await.len(), 1);
}

pub async fn a_task_runs_so_many_times_at_once(s: Subject) {
    s.add_all((1..=4).map(|n| capped(n, "mail", 2))).await;
    s.add(in_queue("other", capped(5, "mail", 2))).await;
    let running = s.claim(10).await;
    assert_eq!(numbers(&running), [1, 2]);
    assert!(s.claim_from("other", 10).await.is_empty());
    assert!(s.ready().await.is_empty());
    // An end opens what waits for it in all queues.
    s.succeed_all(&running[..1]).await;
    assert_eq!(s.ready().await, ["default", "other"]);
    assert_eq!(numbers(&s.claim_from("other", 10).await), [5]);
    assert!(s.claim(10).await.is_empty());
}

pub async fn a_key_runs_so_many_times_at_once(s: Subject) {
    s.add_all([keyed(1, "a", 1), keyed(2, "a", 1), keyed(3, "b", 1), in_queue("other", keyed(4, "a", 1))]).await;
    let running = s.claim(10).await;
    assert_eq!(numbers(&running), [1, 3]);
    assert!(s.claim_from("other", 10).await.is_empty());
    s.succeed_all(&running[1..]).await;
    assert!(s.ready().await.is_empty(), "another key's end is of no use");
    s.succeed_all(&running[..1]).await;
    assert_eq!(numbers(&s.claim_from("other", 10).await), [4]);
}

pub async fn a_key_starts_so_often(s: Subject) {
    let at = |n: u64, key: &str| {
        let limits = JobLimits { key: Some(key.into()), key_rate: Some(per_second(10, 1)), ..JobLimits::default() };
        with_limits(job_of(n, "mail"), limits)
    };
    s.add_all([at(1, "a"), at(2, "a"), at(3, "b"), at(4, "b")]).await;
    assert_eq!(s.claim_numbers(10).await, [1, 3]);
    s.pass(100);
    s.promote().await;
    assert_eq!(s.claim_numbers(10).await, [2, 4]);
}

pub async fn every_kind_of_end_makes_place_for_the_next(s: Subject) {
    let ends = [succeed("1"), fail(), retry(1_000_000), Resolution::Snooze { delay_ms: 1_000_000 }, Resolution::Revoke];
    s.add_all((1..=6).map(|n| capped(n, "mail", 1))).await;
    for (n, end) in (1..).zip(ends) {
        let next = s.claim(10).await;
        assert_eq!(numbers(&next), [n]);
        s.settle(&next[0], end).await;
    }
    assert_eq!(s.claim_numbers(10).await, [6]);
    assert_eq!(s.lose().await.requeued, 1);
    assert_eq!(s.claim_numbers(10).await, [6]);
}

pub async fn a_settle_makes_place_for_its_own_claim(s: Subject) {
    s.add_all((1..=2).map(|n| capped(n, "mail", 1))).await;
    let first = s.claim_one().await;
    let then = claim_of("w1", &["default"], 5);
    let (_, next) = s.broker.settle(&[settle_of(&first, succeed("1"))], Some(&then)).await.unwrap();
    assert_eq!(numbers(&next), [2]);
    // Done again (its reply was lost), it does not free a second place.
    s.add(capped(3, "mail", 1)).await;
    let (settled, next) =
        s.broker.settle(&[settle_of(&first, succeed("1"))], Some(&claim_of("w1", &["default"], 5))).await.unwrap();
    assert_eq!((settled, next.len()), (vec![Settled::AlreadyDone], 0));
}

pub async fn a_limited_job_never_blocks_an_unlimited_one_behind_it(s: Subject) {
    let urgent = |job: NewJob| NewJob { priority: 9, ..job };
    s.add_all((1..=50).map(|n| urgent(NewJob { task: task("push"), ..rated(n, per_second(1, 1)) }))).await;
    s.add_all((101..=150).map(|n| urgent(capped(n, "fax", 1)))).await;
    s.add_all((201..=250).map(|n| urgent(keyed(n, "a", 1)))).await;
    s.add_all([new_job(301), laned(302, "sms"), keyed(303, "b", 1)]).await;
    let mut started = s.claim_numbers(100).await;
    started.sort_unstable();
    assert_eq!(started, [1, 101, 201, 301, 302, 303]);
    s.add(new_job(304)).await;
    assert_eq!(s.claim_numbers(1).await, [304]);
}

pub async fn a_key_that_is_full_does_not_delay_other_keys(s: Subject) {
    s.add_all((1..=300).map(|n| keyed(n, "flood", 1))).await;
    assert_eq!(s.claim_numbers(1).await, [1]);
    for n in 1..=20 {
        s.add(keyed(1_000 + n, "quiet", 100)).await;
        assert_eq!(s.claim_numbers(1).await, [1_000 + n]);
    }
}

pub async fn the_limits_of_the_next_job_are_those_that_count(s: Subject) {
    s.add_all([capped(1, "mail", 3), capped(2, "mail", 3), capped(3, "mail", 1), capped(4, "mail", 4)]).await;
    let running = s.claim(10).await;
    assert_eq!(numbers(&running), [1, 2]);
    s.succeed_all(&running[..1]).await;
    assert!(s.claim(10).await.is_empty(), "the third runs alone");
    s.succeed_all(&running[1..]).await;
    assert_eq!(s.claim_numbers(10).await, [3, 4]);
}

pub async fn a_task_limit_and_a_key_limit_hold_together(s: Subject) {
    let both = |n: u64, key: &str| {
        let limits = JobLimits { concurrency: 2, key: Some(key.into()), key_concurrency: 1, ..JobLimits::default() };
        with_limits(job_of(n, "mail"), limits)
    };
    s.add_all([both(1, "a"), both(2, "a"), both(3, "b"), both(4, "c")]).await;
    let running = s.claim(10).await;
    assert_eq!(numbers(&running), [1, 3]);
    s.succeed_all(&running[..1]).await;
    // The sub-queue opens, and the key: c came with 2, whose turn is level with it.
    let next = s.claim(10).await;
    assert_eq!(next.len(), 1);
    assert!(s.claim(10).await.is_empty());
    s.succeed_all(&running[1..]).await;
    assert_eq!(s.claim(10).await.len(), 1);
}

pub async fn a_thousand_keys_with_a_cap_each_run_one_job_at_a_time(s: Subject) {
    const KEYS: u64 = 1_000;
    let jobs: Vec<NewJob> = (0..2 * KEYS).map(|n| keyed(n, &format!("k{}", n % KEYS), 1)).collect();
    for some in jobs.chunks(250) {
        assert!(s.broker.submit(some).await.unwrap().iter().all(|a| *a == Submitted::Created));
    }
    let mut running: Vec<Delivery> = Vec::new();
    // A claim looks at a bounded number of them: it may return none and leave more to look at.
    while !s.ready().await.is_empty() {
        let more = s.claim(100).await;
        let longest = DEFAULT_LEASE_MS;
        s.broker.renew(longest, &more.iter().map(renewal_of).collect::<Vec<_>>()).await.unwrap();
        running.extend(more);
    }
    let mut firsts = numbers(&running);
    firsts.sort_unstable();
    assert_eq!(firsts, (0..KEYS).collect::<Vec<_>>());
    s.succeed_all(&running[7..9]).await;
    let mut next = s.claim_numbers(100).await;
    next.sort_unstable();
    let mut expected = numbers(&running[7..9]).iter().map(|n| n + KEYS).collect::<Vec<_>>();
    expected.sort_unstable();
    assert_eq!(next, expected);
}

pub async fn a_claim_that_looked_at_enough_hints_that_there_is_more(s: Subject) {
    let keys = u64::from(CLAIM_SCAN) + 10;
    let twice = (0..keys).flat_map(|n| [keyed(n, &format!("k{n}"), 1), keyed(1_000 + n, &format!("k{n}"), 1)]);
    let jobs: Vec<NewJob> = twice.collect();
    s.broker.submit(&jobs).await.unwrap();
    assert_eq!(s.claim(keys as u32).await.len() as u64, keys);
    let mut work = s.broker.signals(Topic::Work).await.unwrap();
    assert!(s.claim(1).await.is_empty());
    assert_eq!(hint(&mut work).await, Signal::Work([queue_name("default")].into()));
    assert_eq!(s.ready().await, ["default"]);
    assert!(s.claim(1).await.is_empty());
    assert!(s.ready().await.is_empty(), "each was looked at once");
}

pub async fn an_end_hints_at_what_it_opened(s: Subject) {
    s.add_all([capped(1, "mail", 1), in_queue("other", capped(2, "mail", 1))]).await;
    let first = s.claim(10).await;
    assert!(s.claim_from("other", 10).await.is_empty());
    let mut work = s.broker.signals(Topic::Work).await.unwrap();
    s.succeed_all(&first).await;
    assert_eq!(hint(&mut work).await, Signal::Work([queue_name("other")].into()));
}

pub async fn a_tenants_caps_and_rates_hold_in_all_its_queues(s: Subject) {
    s.add_all([new_job(1), new_job(2), in_queue("other", new_job(3)), of_tenant("t2", new_job(4))]).await;
    s.control(&Scope::Tenant, cap(2)).await;
    let running = s.claim(10).await;
    assert_eq!(numbers(&running), [1, 4, 2]);
    assert!(s.claim_from("other", 10).await.is_empty());
    s.succeed_all(&running[..1]).await;
    assert_eq!(numbers(&s.claim_from("other", 10).await), [3]);
    s.control(&Scope::Tenant, ControlPatch { rate: Some(Some(per_second(1, 1))), ..cap(0) }).await;
    s.add_all([new_job(5), in_queue("other", new_job(6))]).await;
    assert_eq!(s.claim_numbers(10).await, [5]);
    assert!(s.claim_from("other", 10).await.is_empty());
    assert_eq!(s.next_due().await, Some(START_MS + 1_000));
    s.pass(1_000);
    s.promote().await;
    assert_eq!(numbers(&s.claim_from("other", 10).await), [6]);
}

pub async fn a_queues_caps_and_rates_hold_for_plain_and_limited_jobs(s: Subject) {
    s.add_all([new_job(1), new_job(2), laned(3, "mail"), in_queue("other", new_job(4))]).await;
    s.control(&queue_scope(), cap(1)).await;
    for expected in [1, 2, 3] {
        let next = s.claim(10).await;
        assert_eq!(numbers(&next), [expected]);
        s.succeed_all(&next).await;
    }
    assert_eq!(numbers(&s.claim_from("other", 10).await), [4]);
    s.control(&queue_scope(), ControlPatch { rate: Some(Some(per_second(10, 1))), ..cap(0) }).await;
    s.add_all([new_job(5), new_job(6)]).await;
    assert_eq!(s.claim_numbers(10).await, [5]);
    assert!(s.claim(10).await.is_empty());
    s.pass(100);
    s.promote().await;
    assert_eq!(s.claim_numbers(10).await, [6]);
}

pub async fn a_tenant_that_is_full_does_not_hold_up_another(s: Subject) {
    s.add_all((1..=100).map(|n| of_tenant("noisy", new_job(n)))).await;
    s.broker.set_control(&tenant("noisy"), &Scope::Tenant, &cap(1)).await.unwrap();
    s.add_all((201..=203).map(|n| of_tenant("quiet", new_job(n)))).await;
    assert_eq!(s.claim_numbers(50).await, [1, 201, 202, 203]);
}

pub async fn what_one_tenant_has_to_move_or_park_does_not_hold_up_anothers_job(s: Subject) {
    let task = new_job(1).task;
    s.add_all((1..=400).map(new_job)).await;
    s.broker.set_control(&tenant("t1"), &Scope::Task(task), &paused(true)).await.unwrap();
    s.add_all([of_tenant("t2", new_job(401)), of_tenant("t3", new_job(402))]).await;
    // 137 steps of this claim would not have been enough for all that has to be moved before.
    assert_eq!(s.claim_numbers(1).await, [401]);
    assert_eq!(s.claim_numbers(9).await, [402]);
    while !s.ready().await.is_empty() {
        assert!(s.claim_numbers(9).await.is_empty());
    }
}

pub async fn a_rate_that_is_used_up_does_not_move_a_tenants_turn(s: Subject) {
    let hourly = Rate { count: 1, period_ms: 3_600_000, burst: 1 };
    s.add_all([rated(1, hourly), rated(2, hourly), of_tenant("t2", new_job(3)), of_tenant("t2", new_job(4))]).await;
    assert_eq!(s.claim_numbers(1).await, [1]);
    assert_eq!(s.claim_numbers(10).await, [3, 4]);
    assert!(s.ready().await.is_empty());
}

pub async fn a_line_that_loses_its_last_job_is_not_parked_any_more(s: Subject) {
    s.add_all([new_job(1), new_job(2)]).await;
    s.control(&Scope::Tenant, rate(Some(per_second(1, 1)))).await;
    assert_eq!(s.claim_numbers(10).await, [1]);
    assert_eq!(s.next_due().await, Some(START_MS + 1_000));
    s.cancel(job_id(2)).await;
    assert_eq!(s.next_due().await, None);
    s.add(new_job(3)).await;
    assert_eq!(s.ready().await, ["default"]);
    assert!(s.claim(10).await.is_empty());
    assert_eq!(s.next_due().await, Some(START_MS + 1_000));
}
