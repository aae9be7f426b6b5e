//! What the model knows nothing of: what is kept apart, what is left in the store, and a server that is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use umbel_broker::submit_workflow;
use umbel_model::{
    JobState, Resolution,
    canvas::{Range, When, node_job, node_of},
};

use super::{
    chords::{chord, claim, head, job, run_all, settle, template, tenant},
    full::{growing, single, workflow},
    *,
};

async fn broker(server: &RedisServer) -> (RedisBroker, Arc<AtomicU64>) {
    let (clock, now) = Clock::manual(conformance::START_MS);
    (RedisBroker::connect(RedisConfig { clock, ..RedisConfig::new(server.url()) }).await.unwrap(), now)
}

fn keys(server: &RedisServer) -> BTreeSet<String> {
    redis::cmd("KEYS").arg("*").query::<BTreeSet<String>>(&mut server.connection()).unwrap()
}

/// Deletes all that is over.
async fn prune_all(broker: &RedisBroker, now: &AtomicU64) {
    now.fetch_add(100_000_000, Ordering::SeqCst);
    while broker.prune(700).await.unwrap() > 0 {}
}

#[tokio::test]
async fn nothing_is_left_of_a_chord_after_a_day() {
    let server = RedisServer::start(Options::default());
    let (broker, now) = broker(&server).await;
    let (head, nodes) = chord(1, 2_500);
    assert_eq!(submit_workflow(&broker, &head, &nodes).await.unwrap(), WorkflowSubmitted::Created);
    assert_eq!(run_all(&broker).await, 2_501);
    prune_all(&broker, &now).await;
    broker.ready_queues().await.unwrap();
    let left = ["meta", "meta:counted_seq", "meta:labels_v1", "meta:recounted_v1", "meta:seq", "meta:turn", "seq"];
    let usage = ["meta:usage_hours_v1", "meta:usage_v1:tenant0,500000"];
    let left = [&left[..], &usage[..]].concat();
    let left = left.iter().map(|key| format!("umbel:{{s0}}:{key}"));
    assert_eq!(keys(&server), left.collect());
    // Sums of usage are kept for their own time.
    now.fetch_add(Limits::default().usage_retention_ms, Ordering::SeqCst);
    prune_all(&broker, &now).await;
    assert!(keys(&server).iter().all(|key| !key.contains("usage")));
}

/// A process of an older release tells the job that was replaced when the end is reached. When this release reached it and
/// waits for a callback, and the older one ends the workflow, it tells nobody.
#[tokio::test]
async fn a_replacement_that_an_older_process_has_ended_is_found_by_the_promoter() {
    let server = RedisServer::start(Options::default());
    let (broker, now) = broker(&server).await;
    broker.submit(&[single(1)]).await.unwrap();
    let held = broker.claim(&claim(1)).await.unwrap();
    let mut child = workflow(2, Some(held[0].id));
    let callback = NewNode { when: When::Link, ..job(0, Some(0), None, Vec::new(), "{}".into()) };
    child.nodes = vec![job(0, None, None, vec![Range::one(1)], "{}".into()), callback];
    (child.head.nodes, child.head.templates) = (2, vec![template(2, "echo")]);
    let id = child.head.id;
    let resolution = Resolution::Replace { workflow: id };
    let replaced = Settle { resolution, ..growing(&held[0], vec![child]) };
    assert_eq!(broker.settle(&[replaced], None).await.unwrap().0, [Settled::Recorded]);
    let end = broker.claim(&claim(1)).await.unwrap();
    broker.settle(&[settle(&end[0])], None).await.unwrap();
    let state = async || broker.job(&tenant(), held[0].id).await.unwrap().unwrap().state;
    assert_eq!(state().await, JobState::Waiting);
    let key = format!("umbel:{{s0}}:wf:{},{id}", tenant());
    // As an older process leaves it: `succeeded`, and no work item.
    redis::cmd("SETRANGE").arg(key).arg(1).arg(&b"\x02"[..]).exec(&mut server.connection()).unwrap();
    broker.promote(10).await.unwrap();
    assert_eq!(state().await, JobState::Waiting);
    now.fetch_add(1_000, Ordering::SeqCst);
    broker.promote(10).await.unwrap();
    assert_eq!(state().await, JobState::Succeeded);
    assert!(!keys(&server).iter().any(|key| key.contains("meta:adopt")));
}

#[tokio::test]
async fn large_arguments_come_with_the_delivery_and_go_with_the_workflow() {
    let server = RedisServer::start(Options::default());
    let (broker, now) = broker(&server).await;
    let arguments = |n: u32| format!(r#"{{"args":["{}{n}"]}}"#, "x".repeat(5_000));
    let nodes =
        [job(0, None, None, vec![Range::one(1)], arguments(0)), job(0, Some(0), None, Vec::new(), arguments(1))];
    let head = head(1, vec![template(2, "echo")], vec![Range::one(0)], 1);
    assert_eq!(submit_workflow(&broker, &head, &nodes).await.unwrap(), WorkflowSubmitted::Created);
    for number in 0..2 {
        let held = broker.claim(&claim(10)).await.unwrap();
        let node = held[0].node.as_ref().unwrap();
        assert_eq!((node.node, &node.arguments), (number, &arguments(number)));
        let input = if number == 0 { Input::Nothing } else { Input::Value("12345".into()) };
        assert_eq!(node.input, input);
        broker.settle(&[settle(&held[0])], None).await.unwrap();
    }
    let read = broker.nodes(&head.tenant, head.id, 0, 10, Results::Omitted).await.unwrap().nodes;
    let shown = |record: &NodeRecord| match &record.work {
        NodeWork::Job { record, .. } => record.node.as_ref().unwrap().arguments.clone(),
        NodeWork::Join { .. } => panic!("it has no gate"),
    };
    assert_eq!(read.iter().map(shown).collect::<Vec<_>>(), [arguments(0), arguments(1)]);
    let one = broker.job(&head.tenant, node_job(head.id, 1)).await.unwrap().unwrap();
    assert_eq!((one.node.unwrap().arguments, one.spec), (arguments(1), head.templates[0].spec.clone()));
    prune_all(&broker, &now).await;
    assert!(!keys(&server).iter().any(|key| key.contains("spec:")));
}

#[tokio::test]
async fn nodes_that_do_not_fit_their_workflow_are_refused_and_none_is_stored() {
    let server = RedisServer::start(Options::default());
    let (broker, _now) = broker(&server).await;
    let head = head(1, vec![template(2, "echo")], vec![Range::one(0)], 1);
    assert_eq!(broker.stage_workflow(&head).await.unwrap(), WorkflowSubmitted::Created);
    let good = || job(0, None, None, Vec::new(), "{}".into());
    let too_many = [good(), good(), good()];
    let no_template = [good(), job(1, None, None, Vec::new(), "{}".into())];
    for nodes in [&too_many[..], &no_template[..]] {
        let answer = broker.stage_nodes(&head.tenant, head.id, 0, nodes).await;
        assert!(matches!(answer, Err(Error::Failed(_))), "{answer:?}");
    }
    assert!(broker.nodes(&head.tenant, head.id, 0, 10, Results::Omitted).await.unwrap().nodes.is_empty());
}

#[tokio::test]
async fn a_source_with_thousands_of_edges_readies_them_in_steps() {
    let server = RedisServer::start(Options::default());
    let (broker, _now) = broker(&server).await;
    // Every second node waits for it, so that no two edges are one range.
    let targets: Vec<Range> = (0..2_300).map(|n| Range::one(1 + 2 * n)).collect();
    let mut nodes = vec![job(0, None, None, targets, "{}".into())];
    nodes.extend((1..=4_600).map(|n| job(0, Some(0), None, Vec::new(), format!(r#"{{"args":[{n}]}}"#))));
    let head = head(1, vec![template(4_601, "echo")], vec![Range::one(0)], 4_600);
    assert_eq!(submit_workflow(&broker, &head, &nodes).await.unwrap(), WorkflowSubmitted::Created);
    let held = broker.claim(&claim(1)).await.unwrap();
    broker.settle(&[settle(&held[0])], None).await.unwrap();
    let queued = async || {
        let workflow = broker.workflow(&head.tenant, head.id).await.unwrap().unwrap();
        workflow.jobs[JobState::ALL.iter().position(|state| *state == JobState::Queued).unwrap()]
    };
    let mut seen = vec![queued().await];
    while broker.promote(10).await.unwrap().next_due.is_some() {
        seen.push(queued().await);
    }
    assert_eq!(seen, [1_000, 2_000]);
    assert_eq!(queued().await, 2_300);
    // In the order of the edges.
    let held = broker.claim(&claim(3)).await.unwrap();
    assert_eq!(held.iter().map(|d| node_of(d.id).1).collect::<Vec<_>>(), [1, 3, 5]);
}

#[tokio::test]
async fn each_body_runs_once_when_the_server_is_killed_in_the_middle_of_chords() {
    let mut server = RedisServer::start(Options { appendonly: true, ..Options::default() });
    let config = RedisConfig { patience: Duration::from_secs(20), ..RedisConfig::new(server.url()) };
    let broker = Arc::new(RedisBroker::connect(config).await.unwrap());
    let (chords, members) = (6, 150);
    let heads: Vec<WorkflowHead> = (1..=chords).map(|n| chord(n, members).0).collect();
    let submitting = tokio::spawn({
        let broker = broker.clone();
        async move {
            for n in 1..=chords {
                let (head, nodes) = chord(n, members);
                let answer = submit_workflow(&*broker, &head, &nodes).await.unwrap();
                // A start whose answer was lost is repeated.
                assert!(matches!(answer, WorkflowSubmitted::Created | WorkflowSubmitted::Existing(_)), "{answer:?}");
            }
        }
    });
    let killer = tokio::task::spawn_blocking(move || {
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(80));
            server.kill();
            server.restart();
        }
        server
    });
    let mut ended: BTreeMap<JobId, u32> = BTreeMap::new();
    let running = async {
        loop {
            // Nothing is said twice: a claim whose answer is lost is left to its lease.
            let Ok(held) = broker.claim(&Claim { lease_ms: 300, ..claim(20) }).await else { continue };
            let settles: Vec<Settle> = held.iter().map(settle).collect();
            if let Ok((settled, _)) = broker.settle(&settles, None).await {
                for (delivery, settled) in held.iter().zip(settled) {
                    let done = matches!(settled, Settled::Recorded | Settled::AlreadyDone);
                    *ended.entry(delivery.id).or_default() += u32::from(done);
                }
            }
            if held.is_empty() {
                let _ = broker.reap(1_000).await;
                let _ = broker.promote(1_000).await;
                let mut over = 0;
                for head in &heads {
                    let workflow = broker.workflow(&head.tenant, head.id).await;
                    over += u64::from(matches!(workflow, Ok(Some(w)) if w.state == WorkflowState::Succeeded));
                }
                if over == chords {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), running).await.expect("all chords end");
    submitting.await.unwrap();
    let _server = killer.await.unwrap();
    for head in &heads {
        let body = node_job(head.id, members + 1);
        assert_eq!(ended.get(&body), Some(&1));
        let job = broker.job(&head.tenant, body).await.unwrap().unwrap();
        assert_eq!((job.state, job.history.is_empty()), (JobState::Succeeded, false));
    }
    assert!(ended.values().all(|times| *times == 1), "{ended:?}");
    assert_eq!(ended.len() as u64, chords * u64::from(members + 1));
}
