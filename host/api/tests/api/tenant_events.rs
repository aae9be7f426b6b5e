//! What happens to all jobs of a tenant as a stream.

use std::sync::{Arc, atomic::Ordering};

use serde_json::json;
use umbel_api::ApiConfig;
use umbel_broker::{Clock, Error, FOLLOW_MS, Limits, MAX_EVENTS};
use umbel_broker_conformance::MemoryBroker;
use umbel_model::Resolution;

use crate::{
    app::{Builder, TestApp, example_module},
    broken::Broken,
    events::{Event, Events},
};

const PATH: &str = "/v1/events";

/// The id, the job and the state of an event `job`.
fn job_of((id, name, data): Event) -> (u64, String, String) {
    assert_eq!((name.as_str(), &data["task"]), ("job", &json!("add")));
    assert!(data["at"].as_str().unwrap().ends_with('Z') && data.as_object().unwrap().len() == 4, "{data}");
    let text = |field: &str| data[field].as_str().unwrap().to_owned();
    (id.parse().unwrap(), text("job_id"), text("state"))
}

async fn run_one(app: &TestApp) -> String {
    let id = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    app.settle(&delivery, Resolution::Succeed { result: None }).await;
    id
}

#[tokio::test]
async fn each_change_of_a_tenants_jobs_is_told_once_also_to_one_that_comes_back() {
    let app = TestApp::with_tasks().await;
    let mut events = Events::open_at(&app, PATH, None).await;
    let id = run_one(&app).await;
    let mut told = Vec::new();
    for state in ["queued", "running", "succeeded"] {
        let (number, job, now) = job_of(events.next().await.unwrap());
        assert_eq!((job.as_str(), now.as_str()), (id.as_str(), state));
        told.push(number);
    }
    assert!(told[1] == told[0] + 1 && told[2] == told[0] + 2, "{told:?}");
    drop(events);
    let later = run_one(&app).await;
    let mut events = Events::open_at(&app, PATH, Some(&told[1].to_string())).await;
    let first = job_of(events.next().await.unwrap());
    assert_eq!(first, (told[2], id, "succeeded".to_owned()));
    let second = job_of(events.next().await.unwrap());
    assert_eq!(second, (told[2] + 1, later, "queued".to_owned()));
}

#[tokio::test]
async fn a_stream_says_at_once_where_it_stands_and_nothing_of_another_tenant() {
    let app = TestApp::with_tasks().await;
    let mut events = Events::open_at(&app, PATH, None).await;
    let start = events.comment().await;
    let number: u64 = start.strip_prefix(": alive\nid: ").unwrap().trim().parse().unwrap();
    let other = TestApp {
        api: app.api.clone(),
        token: app.other_tenant().await,
        router: app.router.clone(),
        broker: app.broker.clone(),
        folder: tempfile::tempdir().unwrap(),
    };
    other.push(&example_module()).await.ok(201);
    run_one(&other).await;
    let id = app.submit_add(json!({})).await;
    assert_eq!(job_of(events.next().await.unwrap()), (number + 1, id, "queued".to_owned()));
}

#[tokio::test]
async fn only_the_tasks_and_states_that_are_wanted_are_told() {
    let app = TestApp::with_tasks().await;
    let mut events = Events::open_at(&app, "/v1/events?task=mul,add&state=failed,succeeded", None).await;
    let mut none = Events::open_at(&app, "/v1/events?task=echo", None).await;
    let id = run_one(&app).await;
    let (_, job, state) = job_of(events.next().await.unwrap());
    assert_eq!((job, state.as_str()), (id, "succeeded"));
    app.post("/v1/jobs", json!({"task": "echo", "args": [1]})).await.ok(202);
    assert_eq!(none.next().await.unwrap().2["task"], "echo");
}

#[tokio::test]
async fn what_was_not_kept_is_told_as_missed_once() {
    let (clock, now) = Clock::manual(1_800_000_000_000);
    let broker = Arc::new(MemoryBroker::new(clock, Limits::default()));
    let app = Builder { broker: Some(broker), ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let mut events = Events::open_at(&app, PATH, None).await;
    app.submit_add(json!({})).await;
    let (first, _, _) = job_of(events.next().await.unwrap());
    // The following ends: what happens now is recorded nowhere.
    now.fetch_add(FOLLOW_MS + 1, Ordering::SeqCst);
    app.submit_add(json!({})).await;
    let (missed, name, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), data), ("missed", json!({})));
    let id = app.submit_add(json!({})).await;
    assert_eq!(job_of(events.next().await.unwrap()).1, id);
    // Likewise for one that comes back late, and not again for one that was told.
    let mut late = Events::open_at(&app, PATH, Some(&first.to_string())).await;
    assert_eq!(late.next().await.unwrap().1, "missed");
    assert_eq!(job_of(late.next().await.unwrap()).1, id);
    let mut told = Events::open_at(&app, PATH, Some(&missed)).await;
    assert_eq!(job_of(told.next().await.unwrap()).1, id);
    let mut ahead = Events::open_at(&app, PATH, Some(&u64::MAX.to_string())).await;
    assert_eq!(ahead.next().await.unwrap().1, "missed");
}

#[tokio::test]
async fn a_client_that_is_far_behind_is_told_that_it_missed_and_all_that_is_kept() {
    let app = TestApp::with_tasks().await;
    let start = app.broker.follow(&umbel_model::TenantId::new("t1").unwrap()).await.unwrap();
    let jobs = MAX_EVENTS / 2 + 1;
    let line = "{\"task\":\"add\",\"args\":[1]}\n";
    for _ in 0..jobs.div_ceil(500) {
        assert_eq!(app.batch(&line.repeat(500)).await.status, 200);
    }
    let stored = jobs.div_ceil(500) * 500;
    for _ in 0..stored {
        app.claim().await;
    }
    let mut events = Events::open_at(&app, PATH, Some(&(start + 1).to_string())).await;
    let (missed, name, _) = events.next().await.unwrap();
    assert_eq!((name, missed.parse::<u64>().unwrap()), ("missed".to_owned(), start + 2 * stored - MAX_EVENTS));
    for n in 1..=MAX_EVENTS {
        assert_eq!(job_of(events.next().await.unwrap()).0, start + 2 * stored - MAX_EVENTS + n);
    }
}

#[tokio::test]
async fn a_stream_outlives_a_broker_that_is_away_for_a_moment() {
    let broken = Broken::shared();
    let app = Builder { broker: Some(broken.clone()), ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let mut events = Events::open_at(&app, PATH, None).await;
    let id = app.submit_add(json!({})).await;
    broken.fail(Error::Unavailable("away".into()));
    events.comment().await;
    let (event, ()) = tokio::join!(events.next(), async {
        tokio::task::yield_now().await;
        broken.heal();
    });
    assert_eq!(job_of(event.unwrap()).1, id);
}

#[tokio::test]
async fn these_streams_share_their_bound_with_those_of_jobs_and_refuse_what_they_do_not_know() {
    let config = ApiConfig { max_tenant_streams: 1, ..ApiConfig::default() };
    let app = Builder { config, ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let id = app.submit_add(json!({})).await;
    app.with_headers("GET", PATH, &[("last-event-id", "1.0.queued")], "").await.problem(400, "invalid_header");
    app.get("/v1/events?state=lost").await.problem(400, "invalid_query");
    app.get("/v1/events?task=").await.problem(400, "invalid_query");
    app.get("/v1/events?queue=q").await.problem(400, "invalid_query");
    let many: Vec<String> = (0..51).map(|n| format!("t{n}")).collect();
    app.get(&format!("/v1/events?task={}", many.join(","))).await.problem(400, "invalid_query");
    let open = Events::open_at(&app, PATH, None).await;
    app.get(PATH).await.problem(429, "too_many_requests");
    app.get(&format!("/v1/jobs/{id}/events")).await.problem(429, "too_many_requests");
    drop(open);
    Events::open_at(&app, PATH, None).await;
    let anonymous = TestApp { token: "umbel_x".into(), ..app };
    anonymous.get(PATH).await.problem(401, "invalid_token");
}
