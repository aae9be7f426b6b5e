//! Lists by label.

use super::*;

/// A query for the jobs of `t1` with a tag and a header, which may be empty.
fn with(tag: &str, header: &str) -> JobQuery {
    let tag = (!tag.is_empty()).then(|| Label::Tag(tag.into()));
    let header = header.split_once(':').map(|(name, value)| Label::Header(name.into(), value.into()));
    JobQuery { labels: tag.into_iter().chain(header).collect(), ..all_jobs(&tenant("t1"), false) }
}

/// The jobs that a query finds, page by page.
async fn found(s: &Subject, query: JobQuery) -> Vec<JobId> {
    let (mut ids, mut before) = (Vec::new(), query.before);
    loop {
        let page = s.broker.jobs(&JobQuery { before, ..query.clone() }).await.unwrap();
        ids.extend(page.jobs.iter().map(|job| job.id));
        before = page.next;
        if before.is_none() {
            return ids;
        }
    }
}

pub async fn a_list_finds_jobs_by_their_tags_and_headers(s: Subject) {
    // More than a record's first bytes, and more than is kept in a record.
    let (long, large) = ("x".repeat(3_000), "x".repeat(200_000));
    let with_args = |n: u64, args: &str| NewJob { spec: json!({"v": 1, "args": [args]}).to_string(), ..new_job(n) };
    s.add_all([
        labelled(new_job(1), &["a", "é \"\\"], &[]),
        labelled(new_job(2), &["b"], &[("k", "v")]),
        labelled(with_args(3, &long), &["a"], &[("k", "v"), ("l", "v")]),
        labelled(with_args(4, &large), &["a"], &[]),
        // Neither has the tag: one has it as an argument, one as a part.
        NewJob { spec: r#"{"v":1,"args":{"tags":["a"],"headers":{"k":"v"}}}"#.into(), ..new_job(5) },
        labelled(new_job(6), &["aa"], &[("k", "vv"), ("kv", "")]),
        // The same label twice.
        NewJob { start: Start::After(1_000), ..labelled(new_job(7), &["a", "a"], &[]) },
        NewJob { tenant: tenant("t2"), ..labelled(new_job(8), &["a"], &[]) },
    ])
    .await;
    // Nodes are in no list.
    s.begin_json(r#"{"task":"t"}"#).await;
    let ids = |numbers: &[u64]| numbers.iter().map(|n| job_id(*n)).collect::<Vec<_>>();
    assert_eq!(found(&s, with("a", "")).await, ids(&[7, 4, 3, 1]));
    assert_eq!(found(&s, with("", "k:v")).await, ids(&[3, 2]));
    assert_eq!(found(&s, with("a", "k:v")).await, ids(&[3]));
    assert_eq!(found(&s, with("é \"\\", "")).await, ids(&[1]));
    assert_eq!(found(&s, with("", "kv:")).await, ids(&[6]));
    for (tag, header) in [("nobody", ""), ("", "v:k"), ("a", "kv:"), ("k:v", "")] {
        assert_eq!(found(&s, with(tag, header)).await, [], "{tag} {header}");
    }
    // Pages, and the other criteria.
    for max in 1..4 {
        assert_eq!(found(&s, JobQuery { max, ..with("a", "") }).await, ids(&[7, 4, 3, 1]), "pages of {max}");
    }
    assert_eq!(found(&s, JobQuery { before: Some(job_id(4)), ..with("a", "") }).await, ids(&[3, 1]));
    assert_eq!(found(&s, JobQuery { state: Some(JobState::Scheduled), ..with("a", "") }).await, ids(&[7]));
    assert_eq!(found(&s, JobQuery { queue: Some(queue_name("other")), ..with("a", "") }).await, []);
    assert_eq!(s.broker.audit(false).await.unwrap(), []);
}

pub async fn a_list_by_label_looks_at_no_other_jobs(s: Subject) {
    // More than one page looks at, and of all kinds of submissions.
    let labelled_one = |n: u64| labelled(new_job(n), &["rare", "often"], &[("n", "1")]);
    s.add(labelled_one(1)).await;
    let job = |n: u64| if n.is_multiple_of(2) { labelled(new_job(n), &["often"], &[]) } else { new_job(n) };
    s.add_all((2..2 * u64::from(PAGE_SCAN)).map(job)).await;
    s.add(NewJob { expires_ms: 50_000, ..labelled_one(5_000) }).await;
    for query in [with("rare", ""), with("often", "n:1"), with("rare", "n:1")] {
        let page = s.broker.jobs(&query).await.unwrap();
        let ids: Vec<JobId> = page.jobs.iter().map(|job| job.id).collect();
        assert_eq!((ids, page.next), (vec![job_id(5_000), job_id(1)], None), "{query:?}");
    }
    assert_eq!(found(&s, with("often", "")).await.len(), PAGE_SCAN as usize + 1);
}

pub async fn deleted_jobs_are_in_no_list_by_label(s: Subject) {
    s.add_all((1..=3).map(|n| labelled(new_job(n), &["a"], &[("k", &n.to_string())]))).await;
    s.add(new_job(4)).await;
    for delivery in s.claim(3).await {
        s.settle(&delivery, succeed("1")).await;
    }
    assert_eq!(s.broker.forget(&tenant("t1"), job_id(2)).await.unwrap(), Forgot::Forgotten);
    assert_eq!(found(&s, with("a", "")).await, [3, 1].map(job_id));
    assert_eq!(found(&s, with("", "k:2")).await, []);
    s.pass(100_000);
    assert_eq!(s.broker.prune(10).await.unwrap(), 2);
    assert_eq!(found(&s, with("a", "")).await, []);
    assert_eq!(s.broker.audit(false).await.unwrap(), []);
    // Its id may be used again, with other labels.
    s.add(labelled(new_job(2), &["b"], &[])).await;
    assert_eq!((found(&s, with("a", "")).await, found(&s, with("b", "")).await), (vec![], vec![job_id(2)]));
}
