//! `kill -9` in the middle of the work: what was acknowledged is there afterwards.
//!
//! The test runs its own binary again as the process to be killed.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::*;

const FOLDER: &str = "UMBEL_SQLITE_CRASH_FOLDER";
const ROUNDS_BEFORE_KILL: usize = 40;

/// The child: submits and settles, and says what was acknowledged, until it is killed.
#[tokio::test]
async fn child_that_submits_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let broker = SqliteBroker::open(SqliteConfig::new(Path::new(&folder).join("umbel.db"))).unwrap();
    for round in 0.. {
        let jobs: Vec<NewJob> = (round * 10..round * 10 + 10).map(new_job).collect();
        broker.submit(&jobs).await.unwrap();
        let deliveries = broker.claim(&claim(round, 5)).await.unwrap();
        let settles: Vec<Settle> = deliveries.iter().map(succeed).collect();
        broker.settle(&settles, None).await.unwrap();
        let done: Vec<String> = deliveries.iter().map(|d| d.id.to_string()).collect();
        println!("\nacknowledged {round} {}", done.join(" "));
    }
}

#[tokio::test]
async fn everything_acknowledged_before_a_kill_is_there_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::crash::child_that_submits_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let acknowledged: Vec<String> =
        lines.filter(|line| line.starts_with("acknowledged")).take(ROUNDS_BEFORE_KILL).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged.len(), ROUNDS_BEFORE_KILL);

    let broker = SqliteBroker::open(SqliteConfig::new(folder.path().join("umbel.db"))).unwrap();
    for line in &acknowledged {
        let mut words = line.split(' ').skip(1);
        let round: u64 = words.next().unwrap().parse().unwrap();
        for n in round * 10..round * 10 + 10 {
            assert!(broker.job(&tenant(), job_id(n)).await.unwrap().is_some(), "job {n}");
        }
        for id in words {
            let record = broker.job(&tenant(), id.parse().unwrap()).await.unwrap().unwrap();
            assert_eq!(record.state, umbel_model::JobState::Succeeded);
        }
    }
    assert_eq!(miscounted(&folder.path().join("umbel.db")), 0);
    let conn = schema::open_reader(&folder.path().join("umbel.db")).unwrap();
    let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}
