//! Sums of usage: by task and hour, once for each attempt, and as long as they are kept.

use umbel_model::{AttemptRecord, Usage};

use super::*;

/// All sums of a tenant.
pub(crate) fn all_usage(tenant: &TenantId, by: UsageBy) -> UsageQuery {
    UsageQuery { tenant: tenant.clone(), from_hour: 0, to_hour: u64::MAX, task: None, by, after: None, max: 1_000 }
}

fn used(n: u64) -> Usage {
    Usage {
        fuel: 1_000 + n,
        memory_bytes: 65_536,
        duration_us: 20 + n,
        cpu_us: 10 + n,
        memory_kib_ms: n,
        http_requests: 2 * n,
        http_bytes_out: 3 * n,
        http_bytes_in: 4 * n,
        kv_operations: 5 * n,
        blob_bytes_read: 6 * n,
        blob_bytes_written: 7 * n,
    }
}

fn of_task(name: &str, job: NewJob) -> NewJob {
    NewJob { task: TaskName::new(name).unwrap(), ..job }
}

/// A settle with a record of what was used.
fn settle(delivery: &Delivery, resolution: Resolution, usage: Usage) -> Settle {
    let record = AttemptRecord {
        attempt: delivery.retries + 1,
        delivery: delivery.delivery,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: START_MS,
        outcome: "error".into(),
        failure: None,
        usage,
    };
    Settle { record: Some(record), ..settle_of(delivery, resolution) }
}

impl Subject {
    async fn usage(&self, by: UsageBy) -> Vec<(UsageKey, UsageSum)> {
        let page = self.broker.usage(&all_usage(&tenant("t1"), by)).await.unwrap();
        assert!(!page.has_more);
        page.sums
    }

    async fn total(&self) -> UsageSum {
        self.usage(UsageBy::Total).await.pop().map(|(_, sum)| sum).unwrap_or_default()
    }

    async fn run_used(&self, job: NewJob, usage: Usage) {
        self.add(job).await;
        let delivery = self.claim_one().await;
        let settled = self.broker.settle(&[settle(&delivery, succeed("1"), usage)], None).await.unwrap().0;
        assert_eq!(settled, [Settled::Recorded]);
    }
}

fn key(name: &str) -> UsageKey {
    UsageKey::Task(TaskName::new(name).ok())
}

pub async fn usage_is_summed_once_for_each_attempt(s: Subject) {
    for n in 1..=4 {
        s.add(new_job(n)).await;
    }
    let held = s.claim(4).await;
    let resolutions = [succeed("1"), fail(), retry(0), Resolution::Snooze { delay_ms: 1_000 }];
    let settles: Vec<Settle> =
        held.iter().zip(resolutions).zip(1..).map(|((d, resolution), n)| settle(d, resolution, used(n))).collect();
    s.broker.settle(&settles, None).await.unwrap();
    // The replies were lost.
    let again = s.broker.settle(&settles, None).await.unwrap().0;
    assert!(again.iter().all(|settled| *settled == Settled::AlreadyDone), "{again:?}");
    let mut expected = UsageSum { succeeded: 1, failed: 1, retried: 1, other: 1, ..UsageSum::default() };
    for n in 1..=4 {
        expected.add(&UsageSum { usage: Usage { memory_bytes: 0, ..used(n) }, ..UsageSum::default() });
    }
    assert_eq!(s.usage(UsageBy::Task).await, [(key("add"), expected)]);
    let others = s.broker.usage(&all_usage(&tenant("t2"), UsageBy::Total)).await.unwrap();
    assert_eq!(others, UsagePage::default());
}

pub async fn a_history_has_all_that_each_of_its_attempts_used(s: Subject) {
    let id = s.add(new_job(1)).await;
    for n in 0..=2 {
        let delivery = s.claim_one().await;
        // Of the second one nothing is known beyond its fuel.
        let usage = if n == 1 { Usage { fuel: 7, ..Usage::default() } } else { used(n) };
        let resolution = if n == 2 { succeed("1") } else { retry(0) };
        s.broker.settle(&[settle(&delivery, resolution, usage)], None).await.unwrap();
        s.promote().await;
    }
    let seen: Vec<Usage> = s.read(id).await.history.iter().map(|attempt| attempt.usage).collect();
    assert_eq!(seen, [used(0), Usage { fuel: 7, ..Usage::default() }, used(2)]);
}

pub async fn usage_is_summed_by_hour_and_kept_for_its_time(s: Subject) {
    for hour in 0..4 {
        s.run_used(new_job(hour), used(hour)).await;
        if hour < 3 {
            s.pass(HOUR_MS);
        }
    }
    let kept = limits().usage_retention_ms / HOUR_MS;
    let hours =
        |sums: &[(UsageKey, UsageSum)]| -> Vec<u64> { sums.iter().map(|(_, sum)| sum.usage.kv_operations).collect() };
    assert_eq!(hours(&s.usage(UsageBy::Hour).await), (3 - kept..=3).map(|n| 5 * n).collect::<Vec<_>>());
    let first = START_MS / HOUR_MS;
    let some = UsageQuery { from_hour: first + 2, to_hour: first + 3, ..all_usage(&tenant("t1"), UsageBy::Hour) };
    let page = s.broker.usage(&some).await.unwrap();
    assert_eq!(page.sums[0].0, UsageKey::Hour((first + 2) * HOUR_MS));
    assert_eq!(hours(&page.sums), [10]);
    // What is deleted stays deleted when the clock is set back.
    s.broker.prune(10).await.unwrap();
    s.now.store(START_MS + HOUR_MS, Ordering::SeqCst);
    assert_eq!(hours(&s.usage(UsageBy::Hour).await), [5]);
}

pub async fn tasks_beyond_the_limit_are_summed_without_a_name(s: Subject) {
    let names = ["c", "a", "b", "d"];
    for (n, name) in (1..).zip(names) {
        s.run_used(of_task(name, new_job(n)), used(n)).await;
    }
    s.run_used(of_task("a", new_job(9)), used(10)).await;
    let fuel = |sums: Vec<(UsageKey, UsageSum)>| -> Vec<(UsageKey, u64)> {
        sums.into_iter().map(|(key, sum)| (key, sum.usage.kv_operations)).collect()
    };
    let expected = [(UsageKey::Task(None), 5 * (3 + 4)), (key("a"), 5 * (2 + 10)), (key("c"), 5)];
    assert_eq!(fuel(s.usage(UsageBy::Task).await), expected);
    let only = UsageQuery { task: Some(TaskName::new("a").unwrap()), ..all_usage(&tenant("t1"), UsageBy::Total) };
    assert_eq!(fuel(s.broker.usage(&only).await.unwrap().sums), [(UsageKey::Total, 60)]);
    let first = UsageQuery { max: 2, ..all_usage(&tenant("t1"), UsageBy::Task) };
    let page = s.broker.usage(&first).await.unwrap();
    assert!(page.has_more);
    let after = page.sums.last().map(|(key, _)| key.clone());
    let rest = s.broker.usage(&UsageQuery { after, ..first }).await.unwrap();
    assert_eq!((fuel(rest.sums), rest.has_more), (vec![(key("c"), 5)], false));
}

pub async fn a_lost_delivery_is_counted_and_one_that_is_handed_back_is_not(s: Subject) {
    s.add(new_job(1)).await;
    let first = s.claim_one().await;
    s.settle(&first, Resolution::Release).await;
    assert_eq!(s.usage(UsageBy::Task).await, []);
    let second = s.claim_one().await;
    s.pass_served(DEFAULT_LEASE_MS + 1).await;
    assert_eq!(s.broker.reap(10).await.unwrap().requeued, 1);
    let late = s.broker.settle(&[settle(&second, succeed("1"), used(1))], None).await.unwrap().0;
    assert_eq!(late, [Settled::Lost]);
    assert_eq!(s.usage(UsageBy::Task).await, [(key("add"), UsageSum { lost: 1, ..UsageSum::default() })]);
    let third = s.claim_one().await;
    s.broker.settle(&[settle(&third, succeed("1"), used(1))], None).await.unwrap();
    let total = s.total().await;
    assert_eq!((total.lost, total.attempts(), total.usage.fuel), (1, 1, 1_001));
}

pub async fn a_sum_of_usage_ends_at_its_largest_number(s: Subject) {
    for n in 1..=3 {
        s.run_used(new_job(n), Usage { fuel: MAX_USAGE_SUM - 1, blob_bytes_written: u64::MAX, ..Usage::default() })
            .await;
    }
    let total = s.total().await;
    assert_eq!((total.usage.fuel, total.usage.blob_bytes_written), (MAX_USAGE_SUM, MAX_USAGE_SUM));
    assert_eq!(total.succeeded, 3);
}
