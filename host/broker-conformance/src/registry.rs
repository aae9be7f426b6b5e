//! Documents, workers, hints.

use std::time::Duration;

use super::*;

fn put(name: &str, expect: Expect, body: Option<&str>) -> PutDocument {
    let (tenant, kind) = (tenant("t1"), DocumentKind::Task);
    PutDocument { tenant, kind, name: name.into(), expect, body: body.map(Into::into), held_bytes: 0 }
}

pub async fn documents_are_written_only_at_the_expected_version(s: Subject) {
    let b = &s.broker;
    assert_eq!(b.put_document(&put("a", Expect::Version(1), Some("{}"))).await.unwrap(), DocumentPut::Conflict(0));
    assert_eq!(b.put_document(&put("a", Expect::Absent, Some("{}"))).await.unwrap(), DocumentPut::Stored(1));
    assert_eq!(b.put_document(&put("a", Expect::Absent, Some("{}"))).await.unwrap(), DocumentPut::Conflict(1));
    assert_eq!(b.put_document(&put("a", Expect::Version(1), Some("[1]"))).await.unwrap(), DocumentPut::Stored(2));
    assert_eq!(b.put_document(&put("a", Expect::Any, Some("[2]"))).await.unwrap(), DocumentPut::Stored(3));
    let stored = b.document(&tenant("t1"), DocumentKind::Task, "a").await.unwrap();
    assert_eq!(stored, Some(Document { name: "a".into(), version: 3, body: "[2]".into() }));
    assert_eq!(b.put_document(&put("a", Expect::Version(3), None)).await.unwrap(), DocumentPut::Stored(0));
    assert_eq!(b.document(&tenant("t1"), DocumentKind::Task, "a").await.unwrap(), None);
}

pub async fn documents_are_listed_by_name_within_their_tenant(s: Subject) {
    let b = &s.broker;
    for name in ["b", "a", "c", "e", "d"] {
        b.put_document(&put(name, Expect::Any, Some("{}"))).await.unwrap();
    }
    assert_eq!(b.put_document(&put("f", Expect::Any, Some("{}"))).await.unwrap(), DocumentPut::Full);
    let other = PutDocument { tenant: tenant("t2"), ..put("aa", Expect::Any, Some("{}")) };
    b.put_document(&other).await.unwrap();
    let t = tenant("t1");
    assert_eq!(names(b.documents(&t, DocumentKind::Task, None, 2).await.unwrap()), ["a", "b"]);
    assert_eq!(names(b.documents(&t, DocumentKind::Task, Some("b"), 10).await.unwrap()), ["c", "d", "e"]);
    assert!(b.documents(&t, DocumentKind::Module, None, 10).await.unwrap().documents.is_empty());
}

pub async fn the_tenants_that_have_documents_of_a_kind_are_known(s: Subject) {
    let b = &s.broker;
    assert_eq!(b.document_tenants(DocumentKind::Task).await.unwrap(), []);
    for name in ["t2", "t1", "t3", "a-b_c"] {
        for document in ["x", "y"] {
            let put = PutDocument { tenant: tenant(name), ..put(document, Expect::Any, Some("{}")) };
            b.put_document(&put).await.unwrap();
        }
    }
    let module = PutDocument { tenant: tenant("t4"), kind: DocumentKind::Module, ..put("m", Expect::Any, Some("{}")) };
    b.put_document(&module).await.unwrap();
    for document in ["x", "y"] {
        let gone = PutDocument { tenant: tenant("t3"), ..put(document, Expect::Any, None) };
        b.put_document(&gone).await.unwrap();
    }
    let expected = ["a-b_c", "t1", "t2"].map(tenant);
    assert_eq!(b.document_tenants(DocumentKind::Task).await.unwrap(), expected);
    assert_eq!(b.document_tenants(DocumentKind::Module).await.unwrap(), [tenant("t4")]);
}

fn names(page: DocumentPage) -> Vec<String> {
    page.documents.into_iter().map(|d| d.name).collect()
}

pub async fn a_page_of_documents_ends_when_it_has_many_bytes(s: Subject) {
    let (b, t) = (&s.broker, tenant("t1"));
    // Two of them fill a page; one alone is larger than a page.
    let sizes = [PAGE_BYTES - 1, 1, 10, 2 * PAGE_BYTES, 5];
    for (name, size) in ["a", "b", "c", "d", "e"].into_iter().zip(sizes) {
        b.put_document(&put(name, Expect::Any, Some(&"1".repeat(size)))).await.unwrap();
    }
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = b.documents(&t, DocumentKind::Task, after.as_deref(), 10).await.unwrap();
        after = page.next.clone();
        pages.push(names(page));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
    let page = b.documents(&t, DocumentKind::Task, Some("d"), 1).await.unwrap();
    assert_eq!(page.next.as_deref(), Some("e"));
    assert_eq!(names(page), ["e"]);
}

pub(super) fn worker(id: &str) -> WorkerInfo {
    WorkerInfo {
        id: WorkerId::new(id).unwrap(),
        host: "h".into(),
        pid: 1,
        version: "0".into(),
        queues: vec![queue_name("default")],
        slots: 2,
        running: 0,
        state: "running".into(),
        started_at: START_MS,
        settled: 0,
        rss_bytes: 0,
        leases: 0,
        min_slots: 4,
        max_slots: 4,
        exclude: Vec::new(),
        order: 0,
    }
}

pub async fn workers_are_forgotten_when_they_fall_silent(s: Subject) {
    s.broker.heartbeat(&worker("w2")).await.unwrap();
    s.pass(WORKER_TTL_MS - 1);
    s.broker.heartbeat(&worker("w1")).await.unwrap();
    assert_eq!(s.broker.workers().await.unwrap(), [worker("w1"), worker("w2")]);
    s.pass(1);
    assert_eq!(s.broker.workers().await.unwrap(), [worker("w1")]);
    s.broker.forget_worker(&worker("w1").id).await.unwrap();
    assert!(s.broker.workers().await.unwrap().is_empty());
}

pub async fn a_worker_hears_its_orders_with_its_heartbeat(s: Subject) {
    let w1 = worker("w1");
    assert_eq!(s.broker.order_worker(&w1.id, &WorkerOrder::default()).await.unwrap(), Ordered::Unknown);
    assert_eq!(s.broker.heartbeat(&w1).await.unwrap(), None);
    let drain = WorkerOrder { drain: Some(true), ..WorkerOrder::default() };
    assert_eq!(s.broker.order_worker(&w1.id, &drain).await.unwrap(), Ordered::Told(1));
    let heard = s.broker.heartbeat(&w1).await.unwrap();
    assert_eq!(heard, Some(WorkerOrder { number: 1, ..drain.clone() }));
    // It is told the same until there is another; what it follows is its own matter.
    let following = WorkerInfo { order: 1, state: "draining".into(), ..w1.clone() };
    assert_eq!(s.broker.heartbeat(&following).await.unwrap(), heard);
    assert_eq!(s.broker.workers().await.unwrap(), [following]);
}

pub async fn orders_to_a_worker_add_up(s: Subject) {
    let w1 = worker("w1");
    s.broker.heartbeat(&w1).await.unwrap();
    let orders = [
        WorkerOrder { drain: Some(true), slots: Some((1, 4)), ..WorkerOrder::default() },
        // Its number is chosen by the broker.
        WorkerOrder { number: 77, queues: Some(vec![queue_name("a")]), ..WorkerOrder::default() },
        WorkerOrder { drain: Some(false), shutdown: Some(Shutdown::Warm), ..WorkerOrder::default() },
    ];
    for (n, order) in (1..).zip(&orders) {
        assert_eq!(s.broker.order_worker(&w1.id, order).await.unwrap(), Ordered::Told(n));
    }
    let all = WorkerOrder {
        number: 3,
        drain: Some(false),
        shutdown: Some(Shutdown::Warm),
        slots: Some((1, 4)),
        queues: Some(vec![queue_name("a")]),
    };
    assert_eq!(s.broker.heartbeat(&w1).await.unwrap(), Some(all));
    assert_eq!(s.broker.heartbeat(&worker("w2")).await.unwrap(), None);
}

pub async fn orders_are_forgotten_with_their_worker(s: Subject) {
    let (w1, w2) = (worker("w1"), worker("w2"));
    let drain = WorkerOrder { drain: Some(true), ..WorkerOrder::default() };
    for w in [&w1, &w2] {
        s.broker.heartbeat(w).await.unwrap();
        assert_eq!(s.broker.order_worker(&w.id, &drain).await.unwrap(), Ordered::Told(1));
    }
    s.broker.forget_worker(&w1.id).await.unwrap();
    assert_eq!(s.broker.order_worker(&w1.id, &drain).await.unwrap(), Ordered::Unknown);
    assert_eq!(s.broker.heartbeat(&w1).await.unwrap(), None);
    s.pass(WORKER_TTL_MS);
    // Nobody saw it go: it is forgotten all the same.
    assert_eq!(s.broker.heartbeat(&w2).await.unwrap(), None);
    assert_eq!(s.broker.order_worker(&w1.id, &drain).await.unwrap(), Ordered::Unknown);
    assert_eq!(s.broker.order_worker(&w2.id, &drain).await.unwrap(), Ordered::Told(1));
}

/// The next hint that is not a mere `Resync`.
pub(super) async fn hint(signals: &mut tokio::sync::broadcast::Receiver<Signal>) -> Signal {
    let next = async {
        loop {
            match signals.recv().await.unwrap() {
                Signal::Resync => {}
                signal => return signal,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), next).await.expect("a hint comes")
}

pub async fn hints_come_for_work_ends_and_cancels(s: Subject) {
    let mut work = s.broker.signals(Topic::Work).await.unwrap();
    let mut done = s.broker.signals(Topic::Done).await.unwrap();
    let mut cancel = s.broker.signals(Topic::Cancel).await.unwrap();
    let id = s.add(new_job(1)).await;
    assert_eq!(hint(&mut work).await, Signal::Work([queue_name("default")].into()));
    let delivery = s.claim_one().await;
    s.broker.cancel(&tenant("t1"), id, true).await.unwrap();
    assert_eq!(hint(&mut cancel).await, Signal::Cancel([id].into()));
    s.settle(&delivery, Resolution::Revoke).await;
    assert_eq!(hint(&mut done).await, Signal::Done([id].into()));
}

/// All ids of `wanted` come, in any number of hints.
async fn told(signals: &mut tokio::sync::broadcast::Receiver<Signal>, wanted: &[JobId]) {
    let mut open: Vec<JobId> = wanted.to_vec();
    while !open.is_empty() {
        match hint(signals).await {
            Signal::Done(ids) | Signal::Cancel(ids) => open.retain(|id| !ids.contains(id)),
            other => panic!("{other:?}"),
        }
    }
}

pub async fn hints_come_for_nodes_and_for_workflows_that_are_over(s: Subject) {
    let mut work = s.broker.signals(Topic::Work).await.unwrap();
    let mut done = s.broker.signals(Topic::Done).await.unwrap();
    let mut cancel = s.broker.signals(Topic::Cancel).await.unwrap();
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b","options":{"queue":"other"}}]}"#).await;
    assert_eq!(hint(&mut work).await, Signal::Work([queue_name("default")].into()));
    s.run_all(&["a"]).await;
    told(&mut done, &[f.id_of(0)]).await;
    assert_eq!(hint(&mut work).await, Signal::Work([queue_name("other")].into()));
    let b = s.broker.claim(&claim_of("w1", &["other"], 1)).await.unwrap();
    f.cancel().await;
    told(&mut cancel, &[f.id_of(1)]).await;
    s.settle(&b[0], Resolution::Revoke).await;
    told(&mut done, &[f.id_of(1), f.id]).await;
}

pub async fn a_service_is_held_by_one_process_until_it_gives_it_up_or_falls_silent(s: Subject) {
    let hold = |process, ttl_ms| s.broker.hold_service("promoter", process, ttl_ms);
    assert_eq!(hold("a", 1_500).await.unwrap(), None);
    // A store of a single process has no leases.
    let Some(left_ms) = hold("b", 1_500).await.unwrap() else { return };
    assert_eq!((left_ms, s.broker.hold_service("reaper", "b", 1_500).await.unwrap()), (1_500, None));
    s.pass(1_000);
    assert_eq!((hold("a", 1_500).await.unwrap(), hold("b", 1_500).await.unwrap()), (None, Some(1_500)));
    s.pass(1_500);
    assert_eq!((hold("b", 1_500).await.unwrap(), hold("a", 1_500).await.unwrap()), (None, Some(1_500)));
    // Only its holder can give it up.
    assert_eq!((hold("a", 0).await.unwrap(), hold("b", 0).await.unwrap()), (Some(1_500), None));
    assert_eq!((hold("a", 1_500).await.unwrap(), hold("b", 1_500).await.unwrap()), (None, Some(1_500)));
}
