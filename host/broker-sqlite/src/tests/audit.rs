//! Damage that is planted, found and mended.

use umbel_model::{Digest, JobState};

use super::{
    limits::{assert_sound, fail, keyed, rated, unique},
    *,
};

/// A file with a little of everything in it, closed.
async fn furnished(folder: &Path, clock: &Clock) {
    let broker = open(folder, clock);
    let mut jobs: Vec<NewJob> = (1..9).map(|n| keyed(n, ["a", "b"][n as usize % 2], 1)).collect();
    jobs.extend([rated(10, "slow", 60_000), rated(11, "slow", 60_000), unique(12, "u", Wins::First, 0)]);
    jobs.extend((20..26).map(new_job));
    broker.follow(&tenant()).await.unwrap();
    jobs.push(NewJob { start: Start::After(1_000), ..new_job(30) });
    jobs.push(umbel_broker_conformance::labelled(new_job(31), &["a"], &[]));
    let [used, unused] = [Digest::of(b"used"), Digest::of(b"unused")];
    for digest in [used, unused] {
        let blob = NewBlob { digest, bytes: 5, content_type: None };
        broker.put_blob(&PutBlob { tenant: tenant(), blob }).await.unwrap();
    }
    jobs.push(NewJob { blobs: vec![used], start: Start::After(1_000), ..new_job(32) });
    broker.submit(&jobs).await.unwrap();
    submit_workflow(&broker, &flows::chord(1, 3).head, &flows::chord(1, 3).nodes).await.unwrap();
    for (key, ttl_ms) in [("k1", 0), ("k2", 1_000_000)] {
        let (tenant, bucket, key) = (tenant(), "b".parse().unwrap(), key.parse().unwrap());
        let change = KvChange::Set { value: b"value".to_vec(), ttl_ms };
        broker.kv_write(&KvWrite { tenant, bucket, key, expect: Expect::Any, change, delivery: None }).await.unwrap();
    }
    let name: umbel_model::ScheduleName = "s".parse().unwrap();
    let change = ScheduleChange::Put { definition: Some("definition".into()), state: "state".into(), look_at: Some(1) };
    let (tenant, fires) = (tenant(), vec!["one".into(), "two".into()]);
    let made = ScheduleStep { tenant, name, revision: 0, not_before: 0, change, fires, start: None };
    broker.schedule_steps(&[made]).await.unwrap();
    let held = broker.claim(&claim(1, 9)).await.unwrap();
    let plain: Vec<&Delivery> = held.iter().filter(|d| d.node.is_none() && d.id >= job_id(20)).collect();
    let settles = [fail(plain[0]), succeed(plain[1])];
    broker.settle(&settles, None).await.unwrap();
    assert_sound(&broker).await;
}

fn open(folder: &Path, clock: &Clock) -> SqliteBroker {
    SqliteBroker::open(SqliteConfig { clock: clock.clone(), ..config(folder) }).unwrap()
}

/// What an audit finds after these statements. It must mend all of it.
async fn found_after(sql: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(1_800_000_000_000);
    furnished(folder.path(), &clock).await;
    rusqlite::Connection::open(folder.path().join("umbel.db")).unwrap().execute_batch(sql).unwrap();
    let broker = open(folder.path(), &clock);
    let found = broker.audit(false).await.unwrap();
    assert!(found.iter().all(|finding| finding.fixed == 0 && finding.count > 0), "{sql}: {found:?}");
    let mended = broker.audit(true).await.unwrap();
    assert!(mended.iter().all(|finding| finding.fixed == finding.count), "{sql}: {mended:?}");
    assert_sound(&broker).await;
    // What is left of the jobs goes on to its end.
    broker.reap(100).await.unwrap();
    for round in 0..100 {
        now.fetch_add(60_000, std::sync::atomic::Ordering::SeqCst);
        broker.promote(100).await.unwrap();
        work_off(&broker, 10 + round).await;
    }
    let stats = broker.queues(&tenant()).await.unwrap();
    let left = |q: &QueueStats| q.queued + q.running + q.delayed;
    assert!(stats.iter().all(|q| left(q) == 0), "{sql}: {stats:?}");
    drop(broker);
    assert_sound(&open(folder.path(), &clock)).await;
    found.into_iter().map(|finding| finding.check).collect()
}

#[tokio::test]
async fn counts_that_disagree_are_found_and_mended() {
    for (damage, check) in [
        ("UPDATE line SET ready = ready + 2", "queued jobs of a line"),
        ("UPDATE line SET running = 0", "running jobs of a line"),
        ("UPDATE line SET delayed = 7", "delayed jobs of a line"),
        ("UPDATE line SET dead = 0", "dead jobs of a line"),
        ("UPDATE workflow_count SET nodes = 1", "workflows of a tenant"),
        ("DELETE FROM workflow_count", "workflows of a tenant"),
        ("UPDATE workflow SET jobs = zeroblob(40)", "jobs of a workflow"),
        ("UPDATE job SET bytes = bytes + 1 WHERE state = 5", "bytes of a job"),
        ("UPDATE job SET log_bytes = 7 WHERE state = 1", "bytes of a job"),
        ("UPDATE workflow SET bytes = 0", "bytes of a workflow"),
        ("UPDATE stored SET jobs = jobs + 5", "bytes of a tenant"),
        ("DELETE FROM stored", "bytes of a tenant"),
        ("UPDATE stored SET kv = 1", "bytes of a tenant"),
        ("DELETE FROM kv WHERE expires_at IS NULL", "bytes of a tenant"),
        ("DELETE FROM kv WHERE expires_at IS NULL", "entries of a bucket"),
        ("UPDATE kv_bucket SET entries = 9", "entries of a bucket"),
        ("DELETE FROM kv_bucket", "entries of a bucket"),
        ("INSERT INTO kv_bucket VALUES ('t1', 'none', 1)", "entries of a bucket"),
        ("DELETE FROM kv_version", "version of an entry that was not given"),
        ("UPDATE stored SET blobs = 1", "bytes of a tenant"),
        ("DELETE FROM blob WHERE uses = 0", "bytes of a tenant"),
        ("DELETE FROM blob WHERE uses = 0", "blobs of a tenant"),
        ("DELETE FROM blob_count", "blobs of a tenant"),
        ("UPDATE blob SET uses = 3", "references of a blob"),
        ("UPDATE blob SET unused_since = NULL", "references of a blob"),
        ("DELETE FROM blob_use", "references of a blob"),
        ("UPDATE schedule SET state = ''", "bytes of a tenant"),
        ("DELETE FROM schedule_revision", "revision of a schedule that was not given"),
    ] {
        let found = found_after(damage).await;
        assert!(found.iter().any(|name| name == check), "{damage}: {found:?}");
    }
}

#[tokio::test]
async fn lanes_that_disagree_with_their_jobs_are_made_anew() {
    for (damage, check) in [
        ("UPDATE job SET lane = NULL WHERE state = 1", "job with limits that waits in no lane"),
        ("UPDATE job SET lane = 1 WHERE state = 4", "job in a lane in which it does not wait or run"),
        ("DELETE FROM job WHERE lane IS NOT NULL", "queued jobs of a line"),
    ] {
        let found = found_after(damage).await;
        assert!(found.iter().any(|name| name == check), "{damage}: {found:?}");
    }
}

#[tokio::test]
async fn records_without_an_owner_are_found_and_deleted() {
    for (damage, check) in [
        ("INSERT INTO spec VALUES (9999, '{}')", "spec of a job that is gone"),
        ("INSERT INTO outcome VALUES (9999, '1', NULL)", "outcome of a job that is gone"),
        ("INSERT INTO progress VALUES (9999, '{}')", "progress of a job that is gone"),
        ("INSERT INTO history VALUES (9999, 0, '{}')", "history of a job that is gone"),
        ("INSERT INTO log VALUES (9999, 0, '{}')", "log of a job that is gone"),
        ("INSERT INTO knobs VALUES (9999, '{}')", "knobs of a job that is gone"),
        ("INSERT INTO unique_key VALUES ('t1', 'gone', zeroblob(16), 0, 5)", "unique key of a job that ended"),
        ("INSERT INTO template SELECT 9999, n, task, queue, priority, start_after_ms, start_at, expires_ms,
            max_deliveries, nodes, spec FROM template LIMIT 1", "template of a workflow that is gone"),
        ("INSERT INTO workflow_spec VALUES (9999, '{}', x'', NULL, NULL, NULL)", "workflow_spec of a workflow that is gone"),
        ("INSERT INTO gate VALUES (9999, 0, 1, 0, 0, NULL)", "gate of a workflow that is gone"),
        ("INSERT INTO gate VALUES (1, 999, 1, 0, 0, NULL)", "gate without its node"),
        ("INSERT INTO node SELECT 9999, number, NULL, template, error_callback, on_failure, takes, source, gate, next,
            members, scope, cancel_rest FROM node LIMIT 1", "node of a workflow that is gone"),
        ("INSERT INTO todo VALUES (1, 0, 9999, 0, 1, 0, 0, NULL, NULL, NULL)", "work item of a workflow that is gone"),
        ("DELETE FROM workflow; DELETE FROM node", "job of a workflow that is gone"),
        ("DELETE FROM followed", "events that are not those of a following"),
        ("DELETE FROM event WHERE number = (SELECT min(number) + 1 FROM event)", "events that are not those of a following"),
        ("UPDATE followed SET last = last + 1", "events that are not those of a following"),
        ("DELETE FROM knobs", "job without its knobs"),
        ("INSERT INTO label VALUES ('t1', 'x', zeroblob(16), 9999)", "label of a job that is gone"),
        ("DELETE FROM label", "job whose labels are not those of its row"),
        ("INSERT INTO blob_use VALUES (9999, zeroblob(32))", "blob_use of a job that is gone"),
        ("DELETE FROM blob_use", "job whose blobs are not those of its row"),
        ("UPDATE job SET knobs = knobs & 15", "job whose blobs are not those of its row"),
        ("DELETE FROM label; UPDATE job SET knobs = knobs & 7", "job that is not found by its label"),
        ("DELETE FROM schedule_definition", "schedule without a definition"),
        ("DELETE FROM schedule", "definition of a schedule that is gone"),
        ("DELETE FROM schedule", "fire that is none of its schedule"),
        ("UPDATE schedule SET fires = 1", "fire that is none of its schedule"),
        ("UPDATE job SET dead = 1 WHERE state = 4", "job in the dead set that did not fail"),
        ("UPDATE job SET phase = 2 WHERE state = 1", "job whose phase is not that of its state"),
        ("UPDATE job SET at = NULL WHERE state IN (0, 2, 4, 5)", "job that nothing will look at again"),
    ] {
        let found = found_after(damage).await;
        assert!(found.iter().any(|name| name == check), "{damage}: {found:?}");
    }
}

#[tokio::test]
async fn what_only_a_backup_can_mend_is_said_and_left() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_800_000_000_000).0;
    furnished(folder.path(), &clock).await;
    let conn = rusqlite::Connection::open(folder.path().join("umbel.db")).unwrap();
    conn.execute_batch("DELETE FROM spec WHERE rid = (SELECT rid FROM job WHERE state = 4)").unwrap();
    drop(conn);
    let broker = open(folder.path(), &clock);
    let found = broker.audit(true).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].check.as_str(), found[0].count, found[0].fixed), ("job without its spec", 1, 0));
    // What does not touch it goes on.
    assert_eq!(broker.job(&tenant(), job_id(30)).await.unwrap().unwrap().state, JobState::Scheduled);
}

#[tokio::test]
async fn an_audit_during_the_work_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Arc::new(SqliteBroker::open(config(folder.path())).unwrap());
    let working = broker.clone();
    let work = tokio::spawn(async move {
        for round in 0..30 {
            let jobs: Vec<NewJob> =
                (round * 20..round * 20 + 20).map(|n| keyed(n, ["a", "b", "c"][n as usize % 3], 2)).collect();
            working.submit(&jobs).await.unwrap();
            let held = working.claim(&claim(round, 10)).await.unwrap();
            let settles: Vec<Settle> = held.iter().map(|d| if round % 2 == 0 { succeed(d) } else { fail(d) }).collect();
            working.settle(&settles, None).await.unwrap();
        }
    });
    while !work.is_finished() {
        assert_eq!(broker.audit(true).await.unwrap(), []);
    }
    work.await.unwrap();
    assert_sound(&broker).await;
}
