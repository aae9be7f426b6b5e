//! What lists cost: they read the heads of records.

use serde_json::value::RawValue;
use umbel_model::{AttemptRecord, Failure, Resolution, Usage};

use super::{cost::meter, *};

const PAGE: u32 = 200;
/// Attempts of each job: as many as a history keeps.
const ATTEMPTS: u32 = 50;
/// Bytes of an attempt's message: a part of the history is inline, or all of it is apart.
const HISTORIES: [usize; 2] = [100, 4_000];

fn attempt(message_bytes: usize) -> AttemptRecord {
    AttemptRecord {
        attempt: 1,
        delivery: 1,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: conformance::START_MS,
        outcome: "error".into(),
        failure: Some(Failure::new("E", "x".repeat(message_bytes))),
        usage: Usage::default(),
    }
}

fn claim(n: u32) -> Claim {
    Claim {
        worker: WorkerId::new("w1").unwrap(),
        queues: vec![QueueName::default()].into(),
        max: PAGE,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: umbel_model::Token::new(format!("s{n}")).unwrap(),
        limited: Default::default(),
        in_row: 1,
    }
}

/// Snoozes what is ready some times, and lets it succeed with large results.
async fn work(broker: &RedisBroker, message_bytes: usize) {
    for round in 0..ATTEMPTS {
        let held = broker.claim(&claim(round)).await.unwrap();
        assert_eq!(held.len(), PAGE as usize);
        let resolution = || match round {
            _ if round == ATTEMPTS - 1 => Resolution::Succeed {
                result: Some(RawValue::from_string(format!("\"{}\"", "r".repeat(100_000))).unwrap()),
            },
            _ => Resolution::Snooze { delay_ms: 0 },
        };
        for part in held.chunks(20) {
            let settle = |delivery: &Delivery| Settle {
                resolution: resolution(),
                record: Some(attempt(message_bytes)),
                ..cost::settle(delivery, 1)
            };
            broker.settle(&part.iter().map(settle).collect::<Vec<_>>(), None).await.unwrap();
        }
        broker.promote(1_000).await.unwrap();
    }
}

/// Microseconds of functions and bytes that Redis sent, so far.
async fn cost(broker: &RedisBroker) -> (f64, u64) {
    let info = redis::cmd("INFO").arg("stats").to_owned();
    let Value::BulkString(text) = broker.command(&info).await.unwrap() else { panic!() };
    let text = String::from_utf8(text).unwrap();
    let sent = text.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap().parse().unwrap();
    (meter(broker).await.0, sent)
}

#[tokio::test]
async fn a_page_of_jobs_or_nodes_with_full_histories_and_large_results_is_small() {
    let server = RedisServer::start(Options::default());
    for message_bytes in HISTORIES {
        let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
        broker.command(&redis::cmd("FLUSHALL")).await.unwrap();
        let jobs: Vec<NewJob> = (0..u64::from(PAGE)).map(cost::plain_job).collect();
        broker.submit(&jobs).await.unwrap();
        work(&broker, message_bytes).await;
        let (head, nodes) = chords::chord(1, PAGE);
        let (tenant, id) = (head.tenant.clone(), head.id);
        assert_eq!(submit_workflow(&broker, &head, &nodes).await.unwrap(), WorkflowSubmitted::Created);
        work(&broker, message_bytes).await;

        let query = JobQuery {
            tenant: jobs[0].tenant.clone(),
            dead: false,
            state: None,
            task: None,
            queue: None,
            worker: None,
            labels: Vec::new(),
            before: None,
            max: PAGE,
        };
        let start = cost(&broker).await;
        assert_eq!(broker.jobs(&query).await.unwrap().jobs.len(), PAGE as usize);
        let listed = cost(&broker).await;
        assert!(broker.nodes(&tenant, id, 0, PAGE, Results::Omitted).await.unwrap().nodes.len() == PAGE as usize);
        let read = cost(&broker).await;
        // With what measuring sends.
        for (what, from, to) in [("jobs", start, listed), ("nodes", listed, read)] {
            println!(
                "{PAGE} {what}, attempts of {message_bytes} bytes: {:.0} us, {} bytes",
                to.0 - from.0,
                to.1 - from.1
            );
            assert!(to.1 - from.1 < 500_000, "{what}");
        }
    }
}
