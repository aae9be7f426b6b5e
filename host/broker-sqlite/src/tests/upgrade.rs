//! Files of older versions: what was in them goes on.

use umbel_model::JobState;

use super::{
    limits::{keyed, unique},
    *,
};
use crate::rows::{JobCounts, counts_blob};

const LOG_LINE: &str = r#"{"at":1,"attempt":1,"level":"info","message":"hello"}"#;

/// What version 1 wrote: a job that is queued, one that ran, a dead one with its failure, and a log line.
fn rows_of_version_1() -> String {
    let job = |rid: u32, state: u32, phase: u32, at: &str, token: &str, dead: u32| {
        format!(
            "INSERT INTO job VALUES ({rid}, 't1', x'{}', 1, 'add', 5, 3, 60000, 60000, 1800000000000, NULL, {state},
                {phase}, {at}, {}, 0, 1, 7, 0, {dead}, NULL, 1800000000000, NULL, 'w1', {token}, 0, {});
             INSERT INTO spec VALUES ({rid}, '{{\"n\":{rid}}}');",
            hex(&job_id(rid.into())),
            (4_u64 << 48) + u64::from(rid),
            u32::from(rid == 1),
        )
    };
    [
        "INSERT INTO line VALUES (1, 't1', 'default', 1, 1, 0, 0, 0); UPDATE meta SET seq = 3;".to_owned(),
        job(1, 1, 0, "NULL", "NULL", 0),
        job(2, 2, 1, "1800000015000", "'s7-0'", 0),
        job(3, 5, 2, "1800000060000", "'s8-0'", 1),
        r#"INSERT INTO outcome VALUES (3, NULL, '{"kind":"Void","message":"no order"}');"#.to_owned(),
        format!("INSERT INTO log VALUES (1, 0, '{LOG_LINE}');"),
    ]
    .concat()
}

/// What version 2 adds: a paused queue with a job in it, and a workflow whose second step waits for its first.
fn rows_of_version_2() -> String {
    let flow = flows::flow_id(1);
    let job = |rid: u32, id: &JobId, line: u32, state: u32, score: u64, workflow: &str| {
        format!(
            "INSERT INTO job VALUES ({rid}, 't1', x'{}', {line}, 'add', 5, 3, 0, 0, 1800000000000, NULL, {state}, 0,
                NULL, {score}, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, {workflow}, NULL);
             INSERT INTO spec VALUES ({rid}, '{{}}');",
            hex(id),
        )
    };
    let node = |number: u32, rid: u32, source: &str, next: &str| {
        format!(
            "INSERT INTO node VALUES (1, {number}, {rid}, 0, 0, 0, 0, {source}, NULL, x'{next}', NULL, NULL, NULL);"
        )
    };
    // One queued, one waiting.
    let mut counts = JobCounts::default();
    (counts[1], counts[8]) = (1, 1);
    let blob: String = counts_blob(&counts).iter().map(|byte| format!("{byte:02x}")).collect();
    [
        "UPDATE line SET ready = 2; UPDATE meta SET seq = 9;".to_owned(),
        "INSERT INTO line VALUES (2, 't1', 'paused', 1, 0, 0, 1, NULL);".to_owned(),
        job(4, &job_id(4), 2, 1, (4 << 48) + 4, "NULL"),
        job(5, &umbel_model::canvas::node_job(flow, 0), 1, 1, (4 << 48) + 5, "1"),
        job(6, &umbel_model::canvas::node_job(flow, 1), 1, 8, 9 << 48, "1"),
        node(0, 5, "NULL", "0100000001000000"),
        node(1, 6, "0", ""),
        format!(
            "INSERT INTO workflow VALUES (1, 't1', x'{}', 2, 1, NULL, 0, 0, 60000, 0, 1800000000000, NULL, NULL, NULL, 0,
                NULL, NULL, 0, NULL, x'{blob}');",
            hex(&flow)
        ),
        "INSERT INTO workflow_spec VALUES (1, '{}', x'0000000001000000', NULL, NULL, NULL);".to_owned(),
        "INSERT INTO workflow_count VALUES ('t1', 1, 2);".to_owned(),
        "INSERT INTO template VALUES (1, 0, 'add', 'default', 5, NULL, NULL, 0, 3, 2, '{}');".to_owned(),
        r#"INSERT INTO worker VALUES ('w1', 1800000000000, '{"id":"w1","host":"h","pid":1,"version":"1","queues":[],"slots":4,"running":1,"state":"running","started_at":1,"settled":0,"rss_bytes":1}');"#.to_owned(),
    ]
    .concat()
}

#[tokio::test]
async fn a_file_of_version_2_goes_on_with_its_jobs_and_workflows_and_takes_limits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    // The rows of version 1 are written without the columns that version 2 added.
    schema::create_old(&path, &[&rows_of_version_1(), &rows_of_version_2()]);
    let clock = Clock::manual(1_800_000_000_000).0;
    let open = || SqliteBroker::open(SqliteConfig { clock: clock.clone(), ..config(folder.path()) }).unwrap();
    let broker = open();
    assert_eq!(number(&path, "PRAGMA user_version"), 13);
    assert_eq!(broker.audit(false).await.unwrap(), []);

    let stats = broker.queues(&tenant()).await.unwrap();
    let counts: Vec<_> = stats.iter().map(|q| (q.queued, q.running, q.dead, q.paused)).collect();
    assert_eq!(counts, [(2, 1, 1, false), (1, 0, 0, true)]);
    let (failure, line) = (r#"{"kind":"Void","message":"no order"}"#.len(), LOG_LINE.len());
    let texts = 3 * r#"{"n":1}"#.len() + 3 * "{}".len() + failure + line + 2 * "{}".len();
    let stored = StoredBytes { jobs: texts as u64, logs: line as u64, ..StoredBytes::default() };
    assert_eq!(broker.stored_bytes(&tenant()).await.unwrap(), stored);
    let controls = broker.controls(&tenant()).await.unwrap();
    let paused = QueueName::new("paused").unwrap();
    assert_eq!(controls, [(Scope::Queue(paused.clone()), Control { paused: true, ..Control::default() })]);
    let workers = broker.workers().await.unwrap();
    assert_eq!((workers[0].leases, workers[0].order), (0, 0));
    assert_eq!(broker.order_worker(&workers[0].id, &WorkerOrder::default()).await.unwrap(), Ordered::Told(1));

    broker.submit(&[keyed(40, "a", 1), keyed(41, "a", 1), unique(42, "u", Wins::First, 0)]).await.unwrap();
    assert_eq!(broker.submit(&[unique(43, "u", Wins::First, 0)]).await.unwrap(), [Submitted::Duplicate(job_id(42))]);
    broker.submit(&[NewJob { redrive_of: Some(job_id(3)), ..new_job(44) }]).await.unwrap();
    assert_eq!(broker.reap(10).await.unwrap().requeued, 1);
    assert_eq!(work_off(&broker, 1).await, 2 + 2 + 3 + 1);
    let flow = broker.workflow(&tenant(), flows::flow_id(1)).await.unwrap().unwrap();
    assert_eq!(flow.state, WorkflowState::Succeeded);
    broker.set_paused(&tenant(), &paused, false).await.unwrap();
    assert_eq!(broker.claim(&Claim { queues: vec![paused].into(), ..claim(99, 1) }).await.unwrap().len(), 1);
    drop(broker);
    assert_eq!(open().audit(false).await.unwrap(), []);
}

/// What version 4 kept of limits: two queued jobs of a key, and one that runs, which may do so alone.
fn rows_of_version_4() -> String {
    let job = |rid: u32, state: u32, phase: u32, at: &str| {
        format!(
            "INSERT INTO job (rid, tenant, id, line, task, priority, max_deliveries, result_ttl_ms, dead_ttl_ms,
                created_at, state, phase, at, score, worker, token, retries, deliveries, fence, cancel_requested, dead,
                records, log_lines, lane, knobs)
                VALUES ({rid}, 't1', x'{}', 1, 'mail', 5, 3, 60000, 60000, 1800000000000, {state}, {phase}, {at}, {},
                'w1', 's9-0', 0, 1, 0, 0, 0, 0, 0, 2, 2);
             INSERT INTO spec VALUES ({rid}, '{{}}');
             INSERT INTO knobs VALUES ({rid}, '{{\"limits\":{{\"key\":\"a\",\"key_concurrency\":1}}}}');",
            hex(&job_id(rid.into())),
            (4_u64 << 48) + u64::from(rid),
        )
    };
    [
        job(7, 1, 0, "NULL"),
        job(8, 1, 0, "NULL"),
        job(9, 2, 1, "1800000015000"),
        "INSERT INTO bucket VALUES (1, 't1', 'mail', '', NULL, 1, 2), (2, 't1', 'mail', 'a', 1, 1, 3);".to_owned(),
        "INSERT INTO lane VALUES (1, 1, 'mail', 1, 2, 0, 4, NULL, NULL, 1, 0);".to_owned(),
        "INSERT INTO key_lane VALUES (1, 2, 1, 'a', 1, 0, 4, 1, NULL, 2);".to_owned(),
        "UPDATE line SET ready = ready + 2, running = running + 1, laned = 2, lanes = 1 WHERE id = 1;".to_owned(),
    ]
    .concat()
}

#[tokio::test]
async fn a_file_of_version_4_goes_on_with_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    schema::create_old(&path, &[&rows_of_version_1(), &rows_of_version_2(), "", &rows_of_version_4()]);
    let clock = Clock::manual(1_800_000_000_000).0;
    let broker = SqliteBroker::open(SqliteConfig { clock, ..config(folder.path()) }).unwrap();
    assert_eq!(number(&path, "PRAGMA user_version"), 13);
    assert_eq!(broker.audit(false).await.unwrap(), []);
    let ids = |held: &[Delivery]| {
        held.iter().map(|delivery| delivery.id).filter(|id| (7..10).any(|n| *id == job_id(n))).collect::<Vec<_>>()
    };
    let held = broker.claim(&claim(1, 10)).await.unwrap();
    assert_eq!(ids(&held), [] as [JobId; 0]);
    // The worker of job 9 is gone with its process: one of the three starts.
    broker.reap(10).await.unwrap();
    let held = broker.claim(&claim(2, 10)).await.unwrap();
    assert_eq!(ids(&held), [job_id(7)]);
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

fn hex(id: &JobId) -> String {
    id.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(path: &Path, sql: &str) -> i64 {
    schema::open_reader(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_file_of_version_1_goes_on_with_its_jobs_and_takes_workflows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    schema::create_old(&path, &[&rows_of_version_1()]);
    let clock = Clock::manual(1_800_000_000_000).0;
    let open = || SqliteBroker::open(SqliteConfig { clock: clock.clone(), ..config(folder.path()) }).unwrap();
    let broker = open();
    assert_eq!(number(&path, "PRAGMA user_version"), 13);

    let read = |n| broker.job(tenant_ref(), job_id(n));
    let queued = read(1).await.unwrap().unwrap();
    assert_eq!((queued.state, queued.spec.as_str(), queued.fence), (JobState::Queued, r#"{"n":1}"#, 7));
    assert!(queued.node.is_none() && queued.child.is_none());
    assert_eq!(read(3).await.unwrap().unwrap().failure.unwrap().kind, "Void");
    assert_eq!(broker.logs(&tenant(), job_id(1), 0, 9).await.unwrap()[0].message, "hello");
    let query = JobQuery {
        tenant: tenant(),
        dead: true,
        state: None,
        task: None,
        queue: None,
        worker: None,
        labels: Vec::new(),
        before: None,
        max: 10,
    };
    assert_eq!(broker.jobs(&query).await.unwrap().jobs.len(), 1);
    let listed = broker.jobs(&JobQuery { dead: false, ..query }).await.unwrap().jobs;
    assert_eq!(listed.iter().map(|job| job.id).collect::<Vec<_>>(), [3, 2, 1].map(job_id));

    let new = flows::chord(1, 3);
    assert_eq!(submit_workflow(&broker, &new.head, &new.nodes).await.unwrap(), WorkflowSubmitted::Created);
    // The worker of job 2 is gone with its process.
    assert_eq!(broker.reap(10).await.unwrap().requeued, 1);
    assert_eq!(work_off(&broker, 1).await, 2 + 4);
    assert_eq!(broker.workflow(&tenant(), new.head.id).await.unwrap().unwrap().state, WorkflowState::Succeeded);
    drop(broker);
    assert_eq!(open().job(&tenant(), job_id(2)).await.unwrap().unwrap().state, JobState::Succeeded);
    assert_eq!(flows::contradictions(&path), [""; 0]);
}

#[tokio::test]
async fn jobs_of_an_older_file_are_found_by_label_before_and_after_their_labels_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    let tagged = r#"UPDATE spec SET text = '{"n":1,"tags":["a"],"headers":{"k":"v"}}' WHERE rid IN (1, 3);"#;
    schema::create_old(&path, &[&rows_of_version_1(), &rows_of_version_2(), "", "", "", "", tagged]);
    let clock = Clock::manual(1_800_000_000_000).0;
    let broker = SqliteBroker::open(SqliteConfig { clock, ..config(folder.path()) }).unwrap();
    broker.submit(&[umbel_broker_conformance::labelled(new_job(50), &["a"], &[])]).await.unwrap();
    let listed = async |label: Label| {
        let query = JobQuery {
            tenant: tenant(),
            dead: false,
            state: None,
            task: None,
            queue: None,
            worker: None,
            labels: vec![label],
            before: None,
            max: 10,
        };
        broker.jobs(&query).await.unwrap().jobs.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    for labels in [1, 5] {
        assert_eq!(number(&path, "SELECT count(*) FROM label"), labels);
        assert_eq!(number(&path, "SELECT count(*) FROM unlabelled"), i64::from(labels == 1));
        assert_eq!(listed(Label::Tag("a".into())).await, [50, 3, 1].map(job_id));
        assert_eq!(listed(Label::Header("k".into(), "v".into())).await, [3, 1].map(job_id));
        assert_eq!(broker.audit(false).await.unwrap(), []);
        while broker.catch_up().await.unwrap() {}
    }
    assert_eq!(broker.forget(&tenant(), job_id(3)).await.unwrap(), Forgot::Forgotten);
    assert_eq!(number(&path, "SELECT count(*) FROM label"), 3);
}

#[test]
fn an_upgraded_file_has_the_schema_of_a_new_one() {
    let schema_of = |path: &Path| {
        let conn = schema::open_reader(path).unwrap();
        let mut statement = conn.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        rows.collect::<Result<Vec<(String, String, Option<String>)>, _>>().unwrap()
    };
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(SqliteBroker::open(config(new.path())).unwrap());
    for rows in [&[""][..], &["", ""]] {
        let path = old.path().join(format!("{}", rows.len())).join("umbel.db");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        schema::create_old(&path, rows);
        drop(SqliteBroker::open(SqliteConfig::new(&path)).unwrap());
        assert_eq!(schema_of(&path), schema_of(&new.path().join("umbel.db")));
    }
}

#[test]
fn an_upgrade_that_fails_changes_nothing_and_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    // Something is in the way of the last table of the next version.
    schema::create_old(&path, &["CREATE TABLE todo (x);"]);
    assert!(SqliteBroker::open(config(folder.path())).is_err());
    assert_eq!(number(&path, "PRAGMA user_version"), 1);
    assert_eq!(number(&path, "SELECT count(*) FROM sqlite_schema WHERE name = 'workflow'"), 0);
    rusqlite::Connection::open(&path).unwrap().execute_batch("DROP TABLE todo").unwrap();
    SqliteBroker::open(config(folder.path())).unwrap();
    assert_eq!(number(&path, "PRAGMA user_version"), 13);
}
