//! Events on a file: what a restart, a failure and a full file leave of them, and how many are kept.

use std::sync::atomic::Ordering;

use umbel_broker_conformance::MemoryBroker;
use umbel_model::JobState;

use super::{limits::assert_sound, *};

const START: u64 = 1_800_000_000_000;

fn open(folder: &Path, clock: &Clock) -> SqliteBroker {
    SqliteBroker::open(SqliteConfig { clock: clock.clone(), ..config(folder) }).unwrap()
}

/// A job's number in the test, and its state, for each event.
fn told(page: &EventPage) -> Vec<(JobId, JobState)> {
    page.events.iter().map(|event| (event.job, event.state)).collect()
}

fn rows(folder: &Path, table: &str) -> u64 {
    let conn = rusqlite::Connection::open(folder.join("umbel.db")).unwrap();
    conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}

#[tokio::test]
async fn a_following_goes_on_after_a_restart_and_is_deleted_after_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(START);
    let broker = open(folder.path(), &clock);
    broker.submit(&[new_job(0)]).await.unwrap();
    let first = broker.follow(&tenant()).await.unwrap();
    assert_eq!(first, START * 1_000 - 1);
    broker.submit(&[new_job(1)]).await.unwrap();
    drop(broker);

    let broker = open(folder.path(), &clock);
    now.fetch_add(1_000, Ordering::SeqCst);
    assert_eq!(broker.follow(&tenant()).await.unwrap(), first + 1);
    broker.cancel(&tenant(), job_id(0), false).await.unwrap();
    let page = broker.events(&tenant(), first, 10).await.unwrap();
    assert_eq!(told(&page), [(job_id(1), JobState::Queued), (job_id(0), JobState::Revoked)]);
    assert_eq!(
        (page.missed, page.last, page.events[1].number, page.events[1].at),
        (false, first + 2, first + 2, START + 1_000)
    );
    assert!(broker.events(&tenant(), first - 1, 10).await.unwrap().missed);
    assert!(broker.events(&tenant(), first + 3, 10).await.unwrap().missed);
    assert!(broker.events(&tenant(), u64::MAX, 10).await.unwrap().missed);

    now.fetch_add(FOLLOW_MS, Ordering::SeqCst);
    broker.submit(&[new_job(2)]).await.unwrap();
    assert_eq!(broker.events(&tenant(), 0, 10).await.unwrap(), EventPage::default());
    broker.prune(10).await.unwrap();
    assert_eq!((rows(folder.path(), "event"), rows(folder.path(), "followed")), (0, 0));
    assert_sound(&broker).await;
}

#[tokio::test]
async fn numbers_rise_across_followings_and_restarts_even_when_time_stands_still() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, _) = Clock::manual(START);
    let model = MemoryBroker::new(clock.clone(), Limits::default());
    for round in 0..3 {
        let broker = open(folder.path(), &clock);
        let tenant = TenantId::new(format!("t{round}")).unwrap();
        let last = broker.follow(&tenant).await.unwrap();
        // More events in each than a millisecond has microseconds.
        assert_eq!(last, START * 1_000 - 1 + 2_000 * round);
        assert_eq!(last, model.follow(&tenant).await.unwrap());
        let jobs: Vec<NewJob> = (0..2_000).map(|n| NewJob { tenant: tenant.clone(), ..new_job(n) }).collect();
        broker.submit(&jobs).await.unwrap();
        model.submit(&jobs).await.unwrap();
        let (got, expected) = (broker.events(&tenant, last, 5).await, model.events(&tenant, last, 5).await);
        assert_eq!(got.unwrap(), expected.unwrap());
    }
}

#[tokio::test]
async fn only_the_newest_events_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, _) = Clock::manual(START);
    let broker = open(folder.path(), &clock);
    let first = broker.follow(&tenant()).await.unwrap();
    for part in 0..6 {
        let jobs: Vec<NewJob> = (0..2_000).map(|n| new_job(part * 2_000 + n)).collect();
        broker.submit(&jobs).await.unwrap();
    }
    assert_eq!(rows(folder.path(), "event"), MAX_EVENTS);
    let page = broker.events(&tenant(), first, 1).await.unwrap();
    assert_eq!((page.missed, page.last, page.events[0].number), (true, first + 12_000, first + 2_001));
    assert!(!broker.events(&tenant(), first + 2_000, 1).await.unwrap().missed);
    assert_sound(&broker).await;
}

#[tokio::test]
async fn what_fails_tells_nothing_and_uses_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteConfig { max_size_bytes: 1 << 20, ..config(folder.path()) };
    let broker = SqliteBroker::open(config).unwrap();
    let first = broker.follow(&tenant()).await.unwrap();
    let jobs: Vec<[NewJob; 1]> =
        (0..20).map(|n| [if n % 10 == 3 { sized_job(n, 4 << 20) } else { new_job(n) }]).collect();
    let answers = futures::future::join_all(jobs.iter().map(|job| broker.submit(job))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 18);
    let page = broker.events(&tenant(), first, 100).await.unwrap();
    let numbers: Vec<u64> = page.events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (first + 1..=first + 18).collect::<Vec<u64>>());
    assert_sound(&broker).await;
}

#[tokio::test]
async fn a_full_file_keeps_no_events_and_finishes_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(START);
    let config = SqliteConfig { max_size_bytes: 1 << 20, clock, ..config(folder.path()) };
    let broker = SqliteBroker::open(config).unwrap();
    let first = broker.follow(&tenant()).await.unwrap();
    let mut jobs = 0;
    while broker.submit(&[sized_job(jobs, 3_000)]).await.is_ok() {
        jobs += 1;
    }
    assert_eq!(work_off(&broker, 1).await as u64, jobs);
    let page = broker.events(&tenant(), first, 10).await.unwrap();
    assert_eq!((page.missed, page.last), (true, first + 3 * jobs));
    assert_sound(&broker).await;
    now.fetch_add(60_000, Ordering::SeqCst);
    broker.prune(10_000).await.unwrap();
    broker.submit(&[new_job(jobs)]).await.unwrap();
    let page = broker.events(&tenant(), page.last, 10).await.unwrap();
    assert_eq!((page.missed, told(&page)), (false, vec![(job_id(jobs), JobState::Queued)]));
    assert_sound(&broker).await;
}
