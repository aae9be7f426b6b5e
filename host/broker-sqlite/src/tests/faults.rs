//! Files and folders that cannot be served, disks without room, and what goes on working beside them.

use std::{fs, path::Path, process::Command};

use super::*;

fn refusal(path: &Path) -> String {
    match SqliteBroker::open(SqliteConfig::new(path)) {
        Err(Error::Refused(text)) => text,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused_until_the_first_ends() {
    let folder = tempfile::tempdir().unwrap();
    let first = SqliteBroker::open(config(folder.path())).unwrap();
    let text = refusal(&folder.path().join("umbel.db"));
    assert!(text.contains(&folder.path().display().to_string()) && text.contains("in use"), "{text}");
    first.check().await.unwrap();
    drop(first);
    SqliteBroker::open(config(folder.path())).unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    drop(SqliteBroker::open(config(folder.path())).unwrap());
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let before = fs::read(&path).unwrap();
    let text = refusal(&path);
    assert!(text.contains("newer Umbel (schema 99"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&path).unwrap();
    assert!(refusal(&path).contains("another program"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_folder_that_cannot_be_made_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let text = refusal(&file.join("below").join("umbel.db"));
    assert!(text.contains("below") && text.contains("choose another folder"), "{text}");
    let text = refusal(Path::new("/proc/umbel/umbel.db"));
    assert!(text.contains("/proc/umbel"), "{text}");
}

#[test]
fn a_file_that_is_no_database_is_called_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    fs::write(&path, "not a database, but long enough to have a header of a hundred bytes. ".repeat(100)).unwrap();
    match SqliteBroker::open(config(folder.path())) {
        Err(Error::Corrupt(text)) => assert!(text.contains("not an Umbel database"), "{text}"),
        other => panic!("expected Corrupt, got {other:?}"),
    }
}

#[tokio::test]
async fn damage_in_one_table_is_reported_and_the_rest_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("umbel.db");
    let broker = SqliteBroker::open(config(folder.path())).unwrap();
    broker.submit(&(0..50).map(|n| sized_job(n, 1_000)).collect::<Vec<_>>()).await.unwrap();
    drop(broker);
    let root: u64 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'spec'", [], |row| row.get::<_, u32>(0))
        .unwrap()
        .into();
    let mut bytes = fs::read(&path).unwrap();
    let from = ((root - 1) * 4096) as usize;
    bytes[from..from + 4096].fill(0xa5);
    fs::write(&path, bytes).unwrap();

    let broker = SqliteBroker::open(config(folder.path())).unwrap();
    for _ in 0..2 {
        let read = broker.job(&tenant(), job_id(1)).await;
        assert!(matches!(read, Err(Error::Corrupt(_))), "{read:?}");
        let claimed = broker.claim(&claim(1, 1)).await;
        assert!(matches!(claimed, Err(Error::Corrupt(_))), "{claimed:?}");
        // What does not touch it goes on.
        assert_eq!(broker.queues(&tenant()).await.unwrap()[0].queued, 50);
        assert!(broker.set_paused(&tenant(), &QueueName::default(), false).await.unwrap());
    }
    assert_eq!(miscounted(&path), 0);
}

#[tokio::test]
async fn a_full_database_refuses_writes_serves_reads_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(1_800_000_000_000);
    let config = SqliteConfig { clock, max_size_bytes: 1 << 20, ..config(folder.path()) };
    let broker = SqliteBroker::open(config).unwrap();
    let (mut accepted, mut n) = (0, 0);
    let error = loop {
        match broker.submit(&[sized_job(n, 20_000)]).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        n += 1;
    };
    assert!(matches!(&error, Error::Full(text) if text.contains("size limit")), "{error:?}");
    assert!(error.is_transient() && accepted > 20, "{accepted}");
    assert_eq!(broker.queues(&tenant()).await.unwrap()[0].queued, accepted);
    assert!(broker.job(&tenant(), job_id(0)).await.unwrap().is_some());
    assert!(broker.job(&tenant(), job_id(n)).await.unwrap().is_none());

    assert_eq!(work_off(&broker, 1).await as u64, accepted);
    now.fetch_add(60_000, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(u64::from(broker.prune(1_000).await.unwrap()), accepted);
    broker.submit(&[sized_job(n, 20_000)]).await.unwrap();
    assert_eq!(miscounted(&folder.path().join("umbel.db")), 0);
}

#[tokio::test]
async fn an_operation_that_fails_does_not_spoil_the_others_of_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteConfig { max_size_bytes: 1 << 20, ..config(folder.path()) };
    let broker = SqliteBroker::open(config).unwrap();
    let jobs: Vec<[NewJob; 1]> =
        (0..60).map(|n| [if n % 10 == 3 { sized_job(n, 4 << 20) } else { new_job(n) }]).collect();
    let submissions = jobs.iter().map(|job| broker.submit(job));
    let answers = futures::future::join_all(submissions).await;
    for (n, answer) in answers.iter().enumerate() {
        match answer {
            Ok(answer) => assert!(n % 10 != 3 && answer[..] == [Submitted::Created]),
            Err(error) => assert!(n % 10 == 3 && matches!(error, Error::Full(_)), "{error:?}"),
        }
    }
    assert_eq!(broker.queues(&tenant()).await.unwrap()[0].queued, 54);
    assert_eq!(miscounted(&folder.path().join("umbel.db")), 0);
    assert_eq!(work_off(&broker, 1).await, 54);
}

/// A file system of 2 MiB; none where the test may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    fn remount(&self, option: &str) {
        let remounted = Command::new("mount").args(["-o", option]).arg(self.0.path()).status().unwrap();
        assert!(remounted.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_disk_without_room_refuses_writes_serves_reads_and_recovers() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: this user may not mount a small disk");
        return;
    };
    let (path, filler) = (disk.0.path().join("umbel.db"), disk.0.path().join("filler"));
    let broker = SqliteBroker::open(SqliteConfig::new(&path)).unwrap();
    fs::write(&filler, vec![0; 400 << 10]).unwrap();
    let (mut accepted, mut n) = (0, 0);
    let error = loop {
        match broker.submit(&[sized_job(n, 20_000)]).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        n += 1;
    };
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert_eq!(broker.queues(&tenant()).await.unwrap()[0].queued, accepted);
    fs::remove_file(&filler).unwrap();
    broker.submit(&[sized_job(n, 20_000)]).await.unwrap();
    drop(broker);
    let broker = SqliteBroker::open(SqliteConfig::new(&path)).unwrap();
    assert_eq!(broker.queues(&tenant()).await.unwrap()[0].queued, accepted + 1);
    assert_eq!(miscounted(&path), 0);
    drop(broker);

    disk.remount("remount,ro");
    let text = refusal(&path);
    assert!(text.contains(&disk.0.path().display().to_string()) && text.contains("right to write"), "{text}");
}
