//! What happens to a job as a stream.

use axum::body::Body;
use futures::StreamExt as _;
use serde_json::{Value, json};
use umbel_api::ApiConfig;
use umbel_broker::{Delivery, LogLine, Renewal, Settle, Settled};
use umbel_model::{AttemptRecord, Progress, Resolution, Usage, WorkerId};

use crate::app::{Builder, TestApp, example_module, raw};

/// A stream as it comes in.
pub struct Events {
    body: axum::body::BodyDataStream,
    text: String,
}

/// An event's id, name and data.
pub type Event = (String, String, Value);

impl Events {
    async fn open(app: &TestApp, id: &str, last: Option<&str>) -> Self {
        Self::open_at(app, &format!("/v1/jobs/{id}/events"), last).await
    }

    pub async fn open_at(app: &TestApp, path: &str, last: Option<&str>) -> Self {
        let mut request = app.request("GET", path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        use tower::ServiceExt as _;
        let response = app.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned())
                };
                let Some(data) = field("data:") else { continue };
                return Some((field("id:")?, field("event:")?, serde_json::from_str(&data).unwrap()));
            }
            let chunk = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// What is sent next, as it is: a sign of life.
    pub async fn comment(&mut self) -> String {
        let chunk = self.body.next().await.unwrap().unwrap();
        String::from_utf8(chunk.to_vec()).unwrap()
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

async fn write(app: &TestApp, delivery: &Delivery, from: u64, count: u64, progress: Option<Progress>) {
    let line =
        |n: u64| LogLine { at: n, attempt: 1, level: "info".into(), context: String::new(), message: n.to_string() };
    let renewal = Renewal {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        progress,
        logs: (from..from + count).map(line).collect(),
    };
    app.broker.renew(60_000, &[renewal]).await.unwrap();
}

#[tokio::test]
async fn a_stream_tells_states_progress_lines_and_the_end() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let mut events = Events::open(&app, &id, None).await;
    let (_, name, data) = events.next().await.unwrap();
    assert_eq!((&*name, &data["state"], &data["attempt"]), ("state", &json!("queued"), &json!(1)));
    let delivery = app.claim().await;
    let progress = Progress { done: 1, total: 2, state: Some("half".into()), ..Progress::default() };
    write(&app, &delivery, 0, 3, Some(progress)).await;
    let (_, name, data) = events.next().await.unwrap();
    assert_eq!((&*name, &data["state"], &data["worker"]), ("state", &json!("running"), &json!("w1")));
    for n in 0..3 {
        let (_, name, data) = events.next().await.unwrap();
        assert_eq!((&*name, &data["number"], &data["message"]), ("log", &json!(n), &json!(n.to_string())));
    }
    let (_, name, data) = events.next().await.unwrap();
    assert_eq!((&*name, &data["state"], &data["done"]), ("progress", &json!("half"), &json!(1)));
    app.settle(&delivery, Resolution::Succeed { result: Some(raw("7")) }).await;
    let rest = events.rest().await;
    let names: Vec<_> = rest.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["state", "end"]);
    assert_eq!((&rest[1].2["state"], &rest[1].2["result"]), (&json!("succeeded"), &json!(7)));
}

#[tokio::test]
async fn a_client_that_comes_back_gets_each_line_once() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    write(&app, &delivery, 0, 450, None).await;
    app.settle(&delivery, Resolution::Succeed { result: None }).await;
    let all = Events::open(&app, &id, None).await.rest().await;
    assert_eq!(all.len(), 452);
    for cut in [0, 1, 199, 200, 449, 450] {
        let mut lines: Vec<u64> = Vec::new();
        let rest = Events::open(&app, &id, Some(&all[cut].0)).await.rest().await;
        for (_, name, data) in all[..=cut].iter().chain(&rest) {
            if name == "log" {
                lines.push(data["number"].as_u64().unwrap());
            }
        }
        assert_eq!(lines, (0..450).collect::<Vec<_>>(), "broken after event {cut}");
        assert_eq!(rest.last().unwrap().1, "end");
    }
    let seen = app.with_headers("GET", &format!("/v1/jobs/{id}/events"), &[("last-event-id", &all[451].0)], "").await;
    assert_eq!(seen.status, 204);
}

/// Ends an attempt, with its entry in the history.
async fn end(app: &TestApp, delivery: &Delivery, attempt: u32, outcome: &str, resolution: Resolution) {
    let failure = match &resolution {
        Resolution::Retry { failure, .. } => Some(failure.clone()),
        _ => None,
    };
    let record = AttemptRecord {
        attempt,
        delivery: 1,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: 5,
        outcome: outcome.into(),
        failure,
        usage: Usage::default(),
    };
    let settle = Settle {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        resolution,
        record: Some(record),
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    };
    assert_eq!(app.broker.settle(&[settle], None).await.unwrap().0, [Settled::Recorded]);
}

#[tokio::test]
async fn a_client_that_comes_back_is_told_of_attempts_that_began_and_ended_meanwhile() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let (seen, ..) = Events::open(&app, &id, None).await.next().await.unwrap();
    let failure = umbel_model::Failure::new("Timeout", "slow");
    end(&app, &app.claim().await, 1, "error", Resolution::Retry { delay_ms: 0, failure }).await;
    app.broker.promote(10).await.unwrap();
    end(&app, &app.claim().await, 2, "snoozed", Resolution::Snooze { delay_ms: 0 }).await;
    app.broker.promote(10).await.unwrap();
    end(&app, &app.claim().await, 2, "succeeded", Resolution::Succeed { result: None }).await;
    let all = Events::open(&app, &id, Some(&seen)).await.rest().await;
    let short = |events: &[Event]| -> Vec<String> {
        let of = |(_, name, data): &Event| match name.as_str() {
            "state" => format!("{} {}", data["state"].as_str().unwrap(), data["attempt"]),
            name => name.to_owned(),
        };
        events.iter().map(of).collect()
    };
    let states = ["running 1", "retrying 1", "running 2", "scheduled 2", "running 2", "succeeded 2", "end"];
    assert_eq!(short(&all), states);
    assert_eq!(all[1].2["error"]["kind"], "Timeout");
    for cut in 0..states.len() - 1 {
        let rest = Events::open(&app, &id, Some(&all[cut].0)).await.rest().await;
        assert_eq!(short(&rest), states[cut + 1..], "broken after event {cut}");
    }
    // Who comes now is told where it stands.
    assert_eq!(short(&Events::open(&app, &id, None).await.rest().await), states[5..]);
}

#[tokio::test]
async fn streams_are_bounded_and_want_a_job_and_an_id_of_their_own() {
    let config = ApiConfig { max_tenant_streams: 1, ..ApiConfig::default() };
    let app = Builder { config, ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let id = app.submit_add(json!({})).await;
    let path = format!("/v1/jobs/{id}/events");
    app.with_headers("GET", &path, &[("last-event-id", "x")], "").await.problem(400, "invalid_header");
    app.get("/v1/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/events").await.problem(404, "job_not_found");
    let open = Events::open(&app, &id, None).await;
    app.get(&path).await.problem(429, "too_many_requests");
    drop(open);
    Events::open(&app, &id, None).await.next().await.unwrap();
}
