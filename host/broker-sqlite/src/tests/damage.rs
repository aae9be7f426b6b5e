//! Rows that disagree, met by the work itself before anybody audits: what does not depend on them goes on.

use super::{
    limits::{assert_sound, keyed},
    *,
};

fn damage(folder: &Path, sql: &str) {
    rusqlite::Connection::open(folder.join("umbel.db")).unwrap().execute_batch(sql).unwrap();
}

fn of_other(n: u64) -> NewJob {
    NewJob { tenant: TenantId::new("t2").unwrap(), ..new_job(n) }
}

/// Claims and settles all that is ready, and answers what there was.
async fn ran(broker: &SqliteBroker, seed: u64) -> Vec<JobId> {
    let mut all = Vec::new();
    for round in 0..100 {
        let held = broker.claim(&claim(seed * 1_000 + round, 3)).await.unwrap();
        if held.is_empty() {
            all.sort();
            return all;
        }
        all.extend(held.iter().map(|delivery| delivery.id));
        let settles: Vec<Settle> = held.iter().map(succeed).collect();
        broker.settle(&settles, None).await.unwrap();
    }
    panic!("it does not end");
}

#[tokio::test]
async fn a_line_that_counts_jobs_that_are_not_there_does_not_stop_its_queue() {
    for (sql, mended) in [
        ("UPDATE line SET ready = ready + 2", true),
        ("DELETE FROM job WHERE state = 1 AND lane IS NULL AND tenant = 't1'", true),
        ("DELETE FROM job WHERE state = 1 AND lane IS NOT NULL", true),
        ("DELETE FROM spec WHERE rid IN (SELECT rid FROM job WHERE tenant = 't1')", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let broker = SqliteBroker::open(config(folder.path())).unwrap();
        let mut jobs: Vec<NewJob> = (1..9).map(|n| keyed(n, ["a", "b"][n as usize % 2], 1)).collect();
        jobs.extend((10..16).map(new_job));
        jobs.extend((20..26).map(of_other));
        broker.submit(&jobs).await.unwrap();
        drop(broker);
        damage(folder.path(), sql);
        let broker = SqliteBroker::open(config(folder.path())).unwrap();
        let done = ran(&broker, 1).await;
        assert!((20..26).all(|n| done.contains(&job_id(n))), "{sql}: {done:?}");
        let new: Vec<NewJob> = (40..43).map(new_job).chain((50..53).map(of_other)).collect();
        broker.submit(&new).await.unwrap();
        let done = ran(&broker, 2).await;
        assert_eq!(done, new.iter().map(|job| job.id).collect::<Vec<_>>(), "{sql}");
        if mended {
            assert_eq!(miscounted(&folder.path().join("umbel.db")), 0, "{sql}");
            assert!(broker.ready_queues().await.unwrap().is_empty(), "{sql}");
        }
        broker.audit(true).await.unwrap();
        ran(&broker, 3).await;
        if !sql.contains("spec") {
            assert_sound(&broker).await;
        }
    }
}

#[tokio::test]
async fn a_plain_job_sent_again_is_known_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { max_backlog: 3, ..Limits::default() };
    let broker = SqliteBroker::open(SqliteConfig { limits, ..config(folder.path()) }).unwrap();
    let later = |n| NewJob { start: Start::After(60_000), ..new_job(n) };
    let known = |n| Submitted::Existing(job_id(n));
    let answers = broker.submit(&[new_job(1), new_job(1), later(2), new_job(2), later(1)]).await.unwrap();
    assert_eq!(answers, [Submitted::Created, known(1), Submitted::Created, known(2), known(1)]);
    let elsewhere = NewJob { queue: QueueName::new("elsewhere").unwrap(), ..new_job(1) };
    let answers = broker.submit(&[elsewhere, new_job(3), new_job(4), later(1)]).await.unwrap();
    assert_eq!(answers, [known(1), Submitted::Created, Submitted::QueueFull, known(1)]);
    let stats = broker.queues(&tenant()).await.unwrap();
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].queued, stats[0].delayed), (2, 1));
    assert_eq!(ran(&broker, 1).await, [job_id(1), job_id(3)]);
    assert_sound(&broker).await;
}

#[tokio::test]
async fn a_damaged_schedule_stops_none_of_the_others() {
    let make = |name: &str| ScheduleStep {
        tenant: TenantId::new("t1").unwrap(),
        name: name.parse().unwrap(),
        revision: 0,
        not_before: 0,
        change: ScheduleChange::Put { definition: Some("{}".into()), state: "s".into(), look_at: Some(1_000) },
        fires: Vec::new(),
        start: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = SqliteBroker::open(config(folder.path())).unwrap();
    broker.schedule_steps(&["a", "b", "c", "d"].map(make)).await.unwrap();
    drop(broker);
    damage(
        folder.path(),
        "UPDATE schedule SET version = -1 WHERE name = 'a';
         UPDATE schedule SET state = CAST(x'ff' AS TEXT) WHERE name = 'b';
         UPDATE schedule SET name = 'a b' WHERE name = 'c'",
    );
    let broker = SqliteBroker::open(config(folder.path())).unwrap();
    let read = |schedules: Vec<ScheduleRecord>| schedules.into_iter().map(|one| one.name).collect::<Vec<_>>();
    let whole: umbel_model::ScheduleName = "d".parse().unwrap();
    let due = broker.due_schedules(1).await.unwrap();
    assert_eq!((read(due.schedules), due.next_look), (vec![whole.clone()], None));
    let tenant = TenantId::new("t1").unwrap();
    let query = ScheduleQuery { tenant, prefix: String::new(), after: None, max: 10 };
    assert_eq!(read(broker.schedules(&query).await.unwrap().schedules), [whole]);
}
