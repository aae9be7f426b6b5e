//! `kill -9` in the middle of the work: what was acknowledged is there afterwards.
//!
//! The test runs its own binary again as the process to be killed.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::{
    limits::{keyed, rated, task, unique},
    *,
};

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

/// Runs a child of this name until it has acknowledged enough; what it said.
fn killed_after(folder: &Path, child: &str) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::crash::{child}"), "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let acknowledged: Vec<String> =
        lines.filter(|line| line.starts_with("acknowledged")).take(ROUNDS_BEFORE_KILL).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged.len(), ROUNDS_BEFORE_KILL);
    acknowledged
}

#[tokio::test]
async fn everything_acknowledged_before_a_kill_is_there_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let acknowledged = killed_after(folder.path(), "child_that_submits_until_it_is_killed");

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

/// The child: uses every limit, and says what was acknowledged, until it is killed.
#[tokio::test]
async fn child_that_uses_limits_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let broker = SqliteBroker::open(SqliteConfig::new(Path::new(&folder).join("umbel.db"))).unwrap();
    for round in 0.. {
        let jobs = [
            keyed(round * 10, "a", 2),
            keyed(round * 10 + 1, "b", 2),
            rated(round * 10 + 2, "slow", 50),
            new_job(round * 10 + 3),
            unique(round * 10 + 4, "u", Wins::Latest, 0),
            unique(round * 10 + 5, &format!("u{}", round % 3), Wins::First, 0),
        ];
        broker.submit(&jobs).await.unwrap();
        let patch = ControlPatch { concurrency: Some(round as u32 % 5 + 1), ..ControlPatch::default() };
        broker.set_control(tenant_ref(), &Scope::Task(task("add")), &patch).await.unwrap();
        broker.promote(10).await.unwrap();
        let held = broker.claim(&claim(round, 5)).await.unwrap();
        // Some are left to whoever comes after.
        let settles: Vec<Settle> = held.iter().skip(usize::from(round % 4 == 0)).map(succeed).collect();
        broker.settle(&settles, None).await.unwrap();
        println!("\nacknowledged {round}");
    }
}

#[tokio::test]
async fn a_kill_leaves_lanes_limits_controls_and_unique_keys_as_they_were_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let acknowledged = killed_after(folder.path(), "child_that_uses_limits_until_it_is_killed");
    let last: u64 = acknowledged[ROUNDS_BEFORE_KILL - 1].split(' ').nth(1).unwrap().parse().unwrap();

    let broker = SqliteBroker::open(SqliteConfig::new(folder.path().join("umbel.db"))).unwrap();
    assert_eq!(broker.audit(false).await.unwrap(), []);
    let controls = broker.controls(&tenant()).await.unwrap();
    assert!(matches!(&controls[..], [(Scope::Task(of), control)] if *of == task("add") && control.concurrency > 0));
    for n in (0..=last).flat_map(|round| [0, 1, 2, 3, 4].map(|n| round * 10 + n)) {
        assert!(broker.job(&tenant(), job_id(n)).await.unwrap().is_some(), "job {n}");
    }
    // A key is held, or free for the next one.
    for key in ["u0", "u1", "u2"] {
        let answer = broker.submit(&[unique(1_000_000 + last, key, Wins::First, 0)]).await.unwrap()[0];
        if let Submitted::Duplicate(holder) = answer {
            assert!(!broker.job(&tenant(), holder).await.unwrap().unwrap().state.is_terminal());
        }
    }
    assert!(broker.reap(1_000).await.unwrap().requeued > 0);
    assert_eq!(broker.audit(false).await.unwrap(), []);
}
