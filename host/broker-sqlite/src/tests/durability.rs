//! What must be there after a restart, and what must not pile up.

use std::{fs, path::Path, sync::atomic::Ordering};

use super::*;

#[tokio::test]
async fn a_restart_keeps_order_pauses_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_800_000_000_000).0;
    let open = || SqliteBroker::open(SqliteConfig { clock: clock.clone(), ..config(folder.path()) }).unwrap();
    let broker = open();
    broker.submit(&(0..6).map(new_job).collect::<Vec<_>>()).await.unwrap();
    let held = broker.claim(&claim(1, 2)).await.unwrap();
    broker.set_paused(&tenant(), &QueueName::default(), true).await.unwrap();
    drop(broker);

    let broker = open();
    assert!(broker.claim(&claim(2, 1)).await.unwrap().is_empty());
    broker.set_paused(&tenant(), &QueueName::default(), false).await.unwrap();
    broker.submit(&[new_job(10)]).await.unwrap();
    // An answer that was on its way counts as long as nobody has taken the job back.
    assert_eq!(broker.settle(&[succeed(&held[0])], None).await.unwrap().0, [Settled::Recorded]);
    assert_eq!(broker.reap(10).await.unwrap().requeued, 1);
    let ids: Vec<JobId> = broker.claim(&claim(3, 10)).await.unwrap().into_iter().map(|d| d.id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 10].map(job_id));
    assert_eq!(miscounted(&folder.path().join("umbel.db")), 0);
}

#[tokio::test]
async fn a_restart_takes_back_at_once_what_ran_whatever_the_clock_says() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(1_800_000_000_000);
    let open = || SqliteBroker::open(SqliteConfig { clock: clock.clone(), ..config(folder.path()) }).unwrap();
    let broker = open();
    broker.submit(&(0..3).map(new_job).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(broker.claim(&claim(1, 2)).await.unwrap().len(), 2);
    assert_eq!(broker.reap(10).await.unwrap().requeued, 0);
    drop(broker);
    now.fetch_sub(3_600_000, Ordering::SeqCst);

    let broker = open();
    assert_eq!(broker.reap(10).await.unwrap(), Reaped { requeued: 2, buried: 0, failed: 0, revoked: 0 });
    let ids: Vec<JobId> = broker.claim(&claim(2, 10)).await.unwrap().into_iter().map(|d| d.id).collect();
    assert_eq!(ids, [0, 1, 2].map(job_id));
    assert_eq!(broker.reap(10).await.unwrap().requeued, 0);
}

fn size(path: &Path, end: &str) -> u64 {
    fs::metadata(format!("{}{end}", path.display())).map_or(0, |m| m.len())
}

#[tokio::test]
async fn the_write_ahead_log_stays_short() {
    let folder = tempfile::tempdir().unwrap();
    let broker = SqliteBroker::open(config(folder.path())).unwrap();
    let mut largest = 0;
    for round in 0..40 {
        let jobs: Vec<NewJob> = (round * 50..round * 50 + 50).map(|n| sized_job(n, 40_000)).collect();
        broker.submit(&jobs).await.unwrap();
        largest = largest.max(size(&folder.path().join("umbel.db"), "-wal"));
    }
    // 80 MB went through it.
    assert!(size(&folder.path().join("umbel.db"), "") > 50 << 20);
    assert!(largest < 32 << 20, "{largest}");
}

#[tokio::test]
async fn what_retention_deletes_makes_room_for_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    let (clock, now) = Clock::manual(1_800_000_000_000);
    let broker = SqliteBroker::open(SqliteConfig { clock, ..config(folder.path()) }).unwrap();
    let mut sizes = Vec::new();
    for round in 0..6 {
        let jobs: Vec<NewJob> = (round * 300..round * 300 + 300).map(|n| sized_job(n, 5_000)).collect();
        broker.submit(&jobs).await.unwrap();
        assert_eq!(work_off(&broker, round).await, 300);
        now.fetch_add(60_000, Ordering::SeqCst);
        assert_eq!(broker.prune(1_000).await.unwrap(), 300);
        sizes.push(pages(&path));
    }
    assert!(sizes[5] <= sizes[1] + sizes[1] / 10, "{sizes:?}");
    let conn = schema::open_reader(&path).unwrap();
    for table in ["job", "spec", "outcome", "progress", "history", "log"] {
        let rows: i64 = conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

fn pages(path: &Path) -> i64 {
    schema::open_reader(path).unwrap().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_clock_that_is_set_back_does_not_take_the_broker_with_it() {
    let timer = Timer::new(Clock::Server);
    let mut last = 0;
    for _ in 0..10_000 {
        let now = timer.now();
        assert!(now >= last);
        last = now;
    }
}
