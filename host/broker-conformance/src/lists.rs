//! Lists: they carry neither results nor histories, and end when their texts are too many bytes.

use umbel_model::{AttemptRecord, Progress, Usage};

use super::*;

/// A failure of about so many bytes.
fn failure(bytes: usize) -> Failure {
    Failure::new("E", "é\n".repeat(bytes / 4))
}

fn attempt(number: u32) -> AttemptRecord {
    AttemptRecord {
        attempt: number,
        delivery: 1,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: START_MS,
        outcome: "error".into(),
        failure: Some(failure(9_000)),
        usage: Usage::default(),
    }
}

fn progress() -> Progress {
    Progress {
        done: 1,
        total: 2,
        message: "half \"way\"".into(),
        state: None,
        meta: Some(serde_json::json!({"b": 1.5})),
    }
}

/// Ends a job with a history and a progress.
async fn end(s: &Subject, delivery: &Delivery, resolution: Resolution) {
    let settle = Settle { record: Some(attempt(1)), progress: Some(progress()), ..settle_of(delivery, resolution) };
    assert_eq!(s.broker.settle(&[settle], None).await.unwrap().0, [Settled::Recorded]);
}

/// A record as a list has it.
fn summary(record: JobRecord) -> String {
    format!("{:?}", JobRecord { result: None, history: Vec::new(), ..record })
}

pub async fn a_list_has_neither_results_nor_histories(s: Subject) {
    let large = format!("\"{}\"", "r".repeat(300_000));
    let resolutions = [succeed("7"), succeed(&large), Resolution::Fail { failure: failure(5_000) }, retry(60_000)];
    for (n, resolution) in (0..).zip(resolutions) {
        s.add(NewJob { spec: format!(r#"{{"n":{n},"x":"{}"}}"#, "x".repeat(600 * n as usize)), ..new_job(n) }).await;
        end(&s, &s.claim_one().await, resolution).await;
    }
    s.add(new_job(4)).await;
    let listed = s.broker.jobs(&all_jobs(&tenant("t1"), false)).await.unwrap();
    assert_eq!((listed.jobs.len(), listed.next), (5, None));
    for record in listed.jobs {
        let whole = s.read(record.id).await;
        assert_eq!(whole.history.len(), usize::from(record.id != job_id(4)));
        assert_eq!(format!("{record:?}"), summary(whole));
    }
    let dead = s.broker.jobs(&all_jobs(&tenant("t1"), true)).await.unwrap().jobs;
    assert_eq!(dead.into_iter().map(|j| format!("{j:?}")).collect::<Vec<_>>(), [summary(s.read(job_id(2)).await)]);
}

pub async fn nodes_are_read_with_or_without_their_results(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a","args":[1]},{"task":"b"},{"task":"c"}]}"#).await;
    end(&s, &s.next("a").await, succeed(&format!("\"{}\"", "r".repeat(9_000)))).await;
    s.replace(&s.next("b").await, 2, r#"{"task":"x"}"#).await;
    let shown = |page: NodePage| {
        let jobs = page.nodes.into_iter().filter_map(|node| match node.work {
            NodeWork::Job { record, .. } => Some(format!("{record:?}")),
            NodeWork::Join { .. } => None,
        });
        jobs.collect::<Vec<_>>()
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..3 {
        let whole = f.job_at(number).await;
        with.push(format!("{:?}", JobRecord { history: Vec::new(), ..whole.clone() }));
        without.push(summary(whole));
    }
    assert!(with[0].contains("rrr") && f.job_at(1).await.child.is_some());
    let t1 = tenant("t1");
    assert_eq!(shown(s.broker.nodes(&t1, f.id, 0, 9, Results::Included).await.unwrap()), with);
    assert_eq!(shown(s.broker.nodes(&t1, f.id, 0, 9, Results::Omitted).await.unwrap()), without);
}

pub async fn a_page_of_jobs_ends_at_its_bytes(s: Subject) {
    // Newest first: a dead job with a progress, one whose spec fills the page to the byte or but for one byte, a small one.
    s.add(new_job(1)).await;
    for (n, missing, listed) in [(10, 0, 2), (20, 1, 3)] {
        s.add(NewJob { queue: queue_name("other"), ..new_job(n + 2) }).await;
        let claimed = s.broker.claim(&claim_of("w1", &["other"], 1)).await.unwrap();
        end(&s, &claimed[0], Resolution::Fail { failure: failure(100_000) }).await;
        let newest = text_bytes(&JobRecord { history: Vec::new(), ..s.read(job_id(n + 2)).await });
        assert!(newest > 4_000);
        let spec = "s".repeat(PAGE_BYTES - newest - missing);
        s.add(NewJob { spec, ..new_job(n + 1) }).await;
        let page = s.broker.jobs(&all_jobs(&tenant("t1"), false)).await.unwrap();
        assert_eq!(page.jobs.len(), listed, "{missing} bytes are missing");
        let rest = JobQuery { before: page.next, ..all_jobs(&tenant("t1"), false) };
        assert!(page.next.is_some() && !s.broker.jobs(&rest).await.unwrap().jobs.is_empty());
    }
}

pub async fn a_page_of_nodes_ends_at_its_bytes(s: Subject) {
    let long = "a".repeat(200_000);
    let members: Vec<String> = (0..9).map(|_| format!(r#"{{"task":"m","args":["{long}"]}}"#)).collect();
    let f = s.begin_json(&format!(r#"{{"group":[{}]}}"#, members.join(","))).await;
    let t1 = tenant("t1");
    let pages = async |results| {
        let (mut sizes, mut first) = (Vec::new(), 0);
        while first < 10 {
            let page = s.broker.nodes(&t1, f.id, first, 10 - first, results).await.unwrap();
            sizes.push(page.nodes.len());
            first = page.next;
        }
        sizes
    };
    // The join is the first one.
    assert_eq!(pages(Results::Omitted).await, [7, 3]);
    for delivery in s.claim(9).await {
        end(&s, &delivery, succeed(&format!("\"{}\"", "r".repeat(400_000)))).await;
    }
    assert_eq!(pages(Results::Omitted).await, [7, 3]);
    assert_eq!(pages(Results::Included).await, [3, 2, 2, 2, 1]);
}
