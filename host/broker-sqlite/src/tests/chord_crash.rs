//! `kill -9` in the middle of chords: each body runs once, and nothing is half stored.
//!
//! The test runs its own binary again as the process to be killed, a few times on the same file.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use umbel_model::{AttemptRecord, JobState, Usage, canvas::node_of};

use super::*;

const FOLDER: &str = "UMBEL_SQLITE_CHORD_FOLDER";
const ROUND: &str = "UMBEL_SQLITE_CHORD_ROUND";
const MEMBERS: usize = 500;
const CHORDS: u64 = 4;
/// Steps that each child has acknowledged when it is killed.
const KILLS: [usize; 6] = [1, 2, 7, 15, 31, 44];

fn recorded(delivery: &Delivery) -> Settle {
    let record = AttemptRecord {
        attempt: 1,
        delivery: delivery.delivery,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: 0,
        outcome: "succeeded".into(),
        failure: None,
        usage: Usage::default(),
    };
    Settle { record: Some(record), ..succeed(delivery) }
}

/// The child: submits chords and works on all that is there, and says what was acknowledged, until it is killed.
#[tokio::test]
async fn child_that_runs_chords_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let broker = SqliteBroker::open(SqliteConfig::new(Path::new(&folder).join("umbel.db"))).unwrap();
    broker.reap(10_000).await.unwrap();
    let submit = async {
        for n in round * CHORDS..(round + 1) * CHORDS {
            let new = flows::chord(n, MEMBERS);
            submit_workflow(&broker, &new.head, &new.nodes).await.unwrap();
            println!("\nsubmitted {n}");
        }
    };
    let work = async {
        let mut held = Vec::new();
        for step in 0.. {
            let settles: Vec<Settle> = held.iter().map(recorded).collect();
            let (_, claimed) = broker.settle(&settles, Some(&claim(round << 32 | step, 60))).await.unwrap();
            let bodies = held.iter().filter(|delivery| is_body(delivery.id)).map(|delivery| delivery.id.to_string());
            println!("\nworked {}", bodies.collect::<Vec<_>>().join(" "));
            held = claimed;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(submit, work);
}

/// The join is node 0, the members follow, then the body.
fn is_body(id: JobId) -> bool {
    node_of(id).1 == MEMBERS as u32 + 1
}

fn kill_after(folder: &Path, round: usize, steps: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::chord_crash::child_that_runs_chords_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.filter(|line| line.starts_with("submitted") || line.starts_with("worked"));
    let acknowledged: Vec<String> = said.take(steps).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged.len(), steps);
    acknowledged
}

#[tokio::test]
async fn each_body_of_chords_that_were_killed_runs_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    let (mut submitted, mut done) = (Vec::new(), Vec::new());
    for (round, steps) in KILLS.into_iter().enumerate() {
        for line in kill_after(folder.path(), round, steps) {
            match line.split_once(' ') {
                Some(("submitted", n)) => submitted.push(n.parse::<u64>().unwrap()),
                Some((_, ids)) => done.extend(ids.split_whitespace().map(|id| id.parse::<JobId>().unwrap())),
                None => {}
            }
        }
        // As the next process finds it.
        assert_eq!(flows::contradictions(&path), [""; 0], "after kill {round}");
    }

    let broker = SqliteBroker::open(SqliteConfig { path: path.clone(), ..config(folder.path()) }).unwrap();
    broker.reap(10_000).await.unwrap();
    let (mut held, mut again) = (Vec::new(), Vec::new());
    for step in 0.. {
        let settles: Vec<Settle> = held.iter().map(recorded).collect();
        held = broker.settle(&settles, Some(&claim(u64::MAX << 32 | step, 200))).await.unwrap().1;
        again.extend(held.iter().map(|delivery: &Delivery| delivery.id));
        if held.is_empty() && broker.promote(100).await.unwrap().next_due.is_none() {
            break;
        }
    }
    assert!(!done.is_empty() && done.iter().all(|body| !again.contains(body)), "an acknowledged body ran again");
    let mut seen = 0;
    for n in 0..KILLS.len() as u64 * CHORDS {
        let Some(record) = broker.workflow(&tenant(), flows::flow_id(n)).await.unwrap() else {
            assert!(!submitted.contains(&n), "chord {n} was acknowledged and is gone");
            continue;
        };
        seen += 1;
        assert_eq!(record.state, WorkflowState::Succeeded, "chord {n}");
        assert_eq!(record.jobs.iter().sum::<u32>(), MEMBERS as u32 + 1);
        for node in broker.nodes(&tenant(), record.id, 0, 1_000, Results::Omitted).await.unwrap().nodes {
            let NodeWork::Job { record, .. } = node.work else { continue };
            let record = broker.job(&tenant(), record.id).await.unwrap().unwrap();
            let ran = record.history.iter().filter(|attempt| attempt.outcome == "succeeded").count();
            assert_eq!((record.state, ran), (JobState::Succeeded, 1), "node {} of chord {n}", node.number);
        }
    }
    assert!(seen >= submitted.len());
    assert_eq!(flows::contradictions(&path), [""; 0]);
}
