//! Files of older versions: what was in them goes on.

use umbel_model::JobState;

use super::*;

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
        r#"INSERT INTO log VALUES (1, 0, '{"at":1,"attempt":1,"level":"info","message":"hello"}');"#.to_owned(),
    ]
    .concat()
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
    schema::create_old(&path, 1, &rows_of_version_1());
    let clock = Clock::manual(1_800_000_000_000).0;
    let open = || SqliteBroker::open(SqliteConfig { clock: clock.clone(), ..config(folder.path()) }).unwrap();
    let broker = open();
    assert_eq!(number(&path, "PRAGMA user_version"), 2);

    let read = |n| broker.job(tenant_ref(), job_id(n));
    let queued = read(1).await.unwrap().unwrap();
    assert_eq!((queued.state, queued.spec.as_str(), queued.fence), (JobState::Queued, r#"{"n":1}"#, 7));
    assert!(queued.node.is_none() && queued.child.is_none());
    assert_eq!(read(3).await.unwrap().unwrap().failure.unwrap().kind, "Void");
    assert_eq!(broker.logs(&tenant(), job_id(1), 0, 9).await.unwrap()[0].message, "hello");
    let query = JobQuery { tenant: tenant(), dead: true, state: None, task: None, queue: None, before: None, max: 10 };
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

#[test]
fn an_upgraded_file_has_the_schema_of_a_new_one() {
    let schema_of = |path: &Path| {
        let conn = schema::open_reader(path).unwrap();
        let mut statement = conn.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        rows.collect::<Result<Vec<(String, String, Option<String>)>, _>>().unwrap()
    };
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    schema::create_old(&old.path().join("umbel.db"), 1, "");
    for folder in [&old, &new] {
        drop(SqliteBroker::open(config(folder.path())).unwrap());
    }
    assert_eq!(schema_of(&old.path().join("umbel.db")), schema_of(&new.path().join("umbel.db")));
}

#[test]
fn an_upgrade_that_fails_changes_nothing_and_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    // Something is in the way of the last table of the next version.
    schema::create_old(&path, 1, "CREATE TABLE todo (x);");
    assert!(SqliteBroker::open(config(folder.path())).is_err());
    assert_eq!(number(&path, "PRAGMA user_version"), 1);
    assert_eq!(number(&path, "SELECT count(*) FROM sqlite_schema WHERE name = 'workflow'"), 0);
    rusqlite::Connection::open(&path).unwrap().execute_batch("DROP TABLE todo").unwrap();
    SqliteBroker::open(config(folder.path())).unwrap();
    assert_eq!(number(&path, "PRAGMA user_version"), 2);
}
