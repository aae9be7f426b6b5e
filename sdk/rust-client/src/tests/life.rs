//! The rest of a job's life: options, events, cancel and forget, bulk actions, controls, workers.

use std::time::SystemTime;

use super::*;

fn id() -> JobId {
    ID.parse().unwrap()
}

fn body(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).unwrap()
}

#[tokio::test]
async fn a_call_has_all_the_options_that_were_set_and_its_followers() {
    let server = Server::start(vec![Reply::Headed(200, "Umbel-Unique: duplicate", job("queued").to_string())]).await;
    let next = task("b").args((1,)).queue("q").immutable();
    let call = task("a")
        .tag("x")
        .tag("y")
        .header("k", "v")
        .header("l", "w")
        .expires_at(SystemTime::UNIX_EPOCH + Duration::from_secs(5))
        .unique(Unique::First)
        .unique_by(["kwargs.n"])
        .unique_for(Duration::from_secs(1))
        .option("key_concurrency", 2)
        .run_on_success(next)
        .run_on_failure(task("c"))
        .run_on_failure(task("d").args((123_456_789_012_345_678_901_234_567_890_u128,)));
    let submitted = server.client().submit_unique(call).await.unwrap();
    assert!(submitted.duplicate && submitted.job.state == JobState::Queued);
    let expected = json!({
        "tags": ["x", "y"], "headers": {"k": "v", "l": "w"}, "expires_at": "1970-01-01T00:00:05Z",
        "unique": "first", "unique_by": ["kwargs.n"], "unique_for_ms": 1000, "key_concurrency": 2,
        "on_success": [{"task": "b", "args": [1], "options": {"queue": "q"}, "immutable": true}],
    });
    let seen = &server.seen()[0];
    assert!(seen.body.contains("[123456789012345678901234567890]"), "{}", seen.body);
    let mut options = body(seen)["options"].take();
    let failed = options.as_object_mut().unwrap().remove("on_failure").unwrap();
    assert_eq!(options, expected);
    assert_eq!((failed[0]["task"].as_str(), failed[1]["task"].as_str()), (Some("c"), Some("d")));
}

#[tokio::test]
async fn an_option_that_is_not_json_and_a_follower_that_cannot_be_built_are_named() {
    let server = Server::start(vec![Reply::Json(202, job("queued"))]).await;
    let odd = [((), ())].into_iter().collect::<std::collections::HashMap<_, _>>();
    let error = server.client().submit(task("a").option("x", odd)).await.unwrap_err();
    assert!(error.to_string().contains("option x of a"), "{error}");
    assert!(server.client().submit(task("a").run_on_success(task("no name"))).await.is_err());
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_cancel_stops_what_runs_unless_it_is_let_end() {
    let server = Server::start(vec![Reply::Json(202, job("running"))]).await;
    server.client().cancel(id()).await.unwrap();
    server.client().cancel(id()).let_end().await.unwrap();
    let seen = server.seen();
    assert_eq!((seen[0].body.as_str(), body(&seen[1])), ("", json!({"terminate": false})));
}

#[tokio::test]
async fn a_job_is_forgotten_and_a_large_result_is_read_by_itself() {
    let server = Server::start(vec![Reply::Json(204, "".into()), Reply::Json(200, json!([1, 2]))]).await;
    server.client().forget(id()).await.unwrap();
    assert_eq!(server.client().result::<Vec<u8>>(id()).await.unwrap(), [1, 2]);
    let lines: Vec<_> = server.seen().iter().map(|seen| seen.line.clone()).collect();
    assert_eq!(lines, [format!("DELETE /v1/jobs/{ID}"), format!("GET /v1/jobs/{ID}/result")]);
}

#[tokio::test]
async fn a_list_asks_for_what_the_filter_says() {
    let server = Server::start(vec![Reply::Json(200, json!({"items": [job("failed")], "next_cursor": "c"}))]).await;
    let filter = JobFilter::default()
        .states(&[JobState::Failed, JobState::Revoked])
        .tag("a b")
        .header("k", "v")
        .worker("w")
        .created_after(SystemTime::UNIX_EPOCH)
        .limit(5);
    let page = server.client().jobs(&filter).await.unwrap();
    assert_eq!((page.items.len(), page.next_cursor.as_deref()), (1, Some("c")));
    let expected = "GET /v1/jobs?created_after=1970-01-01T00%3A00%3A00Z&header=k%3Av&limit=5&state=failed%2Crevoked\
                    &tag=a+b&worker=w";
    assert_eq!(server.seen()[0].line, expected);
}

fn event(id: &str, name: &str, data: &Value) -> String {
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
}

#[tokio::test]
async fn events_go_on_behind_the_last_one_when_their_connection_breaks() {
    let line = |n: u64| json!({"number": n, "at": "t", "attempt": 1, "level": "info", "context": "", "message": "m"});
    let first = event("0.0.running", "state", &json!({"state": "running", "attempt": 1}))
        + &event("1.0.running", "log", &line(0))
        + "id: 2.0.running\nevent: log\nda";
    let second = ": alive\n\n".to_owned() + &event("2.0.running", "log", &line(1));
    let third = event("2.0.running", "progress", &json!({"done": 1, "total": 2, "message": "", "state": "packing"}))
        + &event("2.0.running", "later", &json!(1))
        + &event("2.1.succeeded", "end", &job("succeeded"));
    let replies = vec![Reply::Half(first), Reply::Broken, Reply::Headed(200, "x: y", second), Reply::Half(third)];
    let server = Server::start(replies).await;
    let events: Vec<JobEvent> = server.client().events(id()).try_collect().await.unwrap();
    let shown: Vec<String> = events
        .iter()
        .map(|event| match event {
            JobEvent::State(change) => change.state.as_str().to_owned(),
            JobEvent::Progress(progress) => progress.state.clone().unwrap(),
            JobEvent::Log(line) => line.number.to_string(),
            JobEvent::End(job) => format!("end {}", job.state.as_str()),
        })
        .collect();
    assert_eq!(shown, ["running", "0", "1", "packing", "end succeeded"]);
    let last: Vec<_> = server.seen().iter().map(|seen| header(seen, "last-event-id")).collect();
    let at = |text: &str| Some(text.to_owned());
    assert_eq!(last, [None, at("1.0.running"), at("1.0.running"), at("2.0.running")]);
}

#[tokio::test]
async fn the_events_of_a_tenant_go_on_behind_the_last_id_that_was_heard() {
    let change = |state: &str| json!({"job_id": ID, "task": "add", "state": state, "at": "2026-01-31T12:00:00.000Z"});
    // The first connection brings no event, only where it stands.
    let first = ": alive\nid: 7\n\n".to_owned();
    let second = event("8", "job", &change("queued")) + &event("9", "later", &json!(1)) + ": alive\nid: 12\n\n";
    let third = event("20", "missed", &json!({})) + &event("21", "job", &change("failed"));
    let replies =
        vec![Reply::Half(first), Reply::Half(second), Reply::Half(third), Reply::Json(404, problem(404, "x"))];
    let server = Server::start(replies).await;
    let filter = EventFilter::default().task("add").task("a&b").states(&[JobState::Queued, JobState::Failed]);
    let mut events: Vec<_> = server.client().tenant_events(&filter).collect().await;
    assert!(events.pop().unwrap().is_err());
    let shown: Vec<_> = events
        .into_iter()
        .map(|event| match event.unwrap() {
            TenantEvent::Job(job) => (job.job_id.to_string(), job.state.as_str()),
            TenantEvent::Missed => (String::new(), "missed"),
        })
        .collect();
    assert_eq!(shown, [(ID.to_owned(), "queued"), (String::new(), "missed"), (ID.to_owned(), "failed")]);
    let seen = server.seen();
    let last: Vec<_> = seen.iter().map(|seen| header(seen, "last-event-id")).collect();
    let at = |text: &str| Some(text.to_owned());
    assert_eq!(last, [None, at("7"), at("12"), at("21")]);
    assert!(seen.iter().all(|seen| seen.line == "GET /v1/events?task=add%2Ca%26b&state=queued%2Cfailed"), "{seen:?}");
}

#[tokio::test]
async fn events_that_are_refused_or_cannot_be_reached_end_with_the_error() {
    let server = Server::start(vec![Reply::Json(404, problem(404, "job_not_found"))]).await;
    let events: Vec<_> = server.client().events(id()).collect().await;
    assert_eq!(events[0].as_ref().unwrap_err().code(), Some("job_not_found"));
    assert_eq!((events.len(), server.seen().len()), (1, 1));
    let server = Server::start(vec![Reply::Broken]).await;
    let events: Vec<_> = server.client().events(id()).collect().await;
    assert!(events.len() == 1 && events[0].is_err());
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_bulk_action_is_started_once_and_waited_for() {
    let at = |state: &str, done: u64| json!({"id": ID, "action": "cancel", "state": state, "done": done, "new": 1});
    let replies = vec![
        Reply::Broken,
        Reply::Json(202, at("running", 0)),
        Reply::Json(200, at("running", 3)),
        Reply::Json(200, at("done", 7)),
    ];
    let server = Server::start(replies).await;
    let client = server.client();
    let filter = BulkFilter::default().task("t").state(JobState::Queued).tag("x").header("k", "v");
    let bulk = client.start_bulk(&NewBulk::new(BulkAction::Cancel, filter).let_end().dry_run()).await.unwrap();
    let mut told = Vec::new();
    let bulk = client.wait_bulk(bulk.id, Duration::from_secs(60), |bulk| told.push(bulk.done)).await.unwrap();
    assert_eq!((bulk.state, told), (BulkState::Done, vec![3, 7]));
    let seen = server.seen();
    assert_eq!(header(&seen[0], "idempotency-key"), header(&seen[1], "idempotency-key"));
    let filter = json!({"task": "t", "state": ["queued"], "tag": "x", "header": "k:v"});
    let expected = json!({"action": "cancel", "filter": filter, "dry_run": true, "terminate": false});
    assert_eq!(body(&seen[1]), expected);
    let redrive = NewBulk::new(BulkAction::Redrive, BulkFilter::default().dead()).current();
    assert_eq!(
        serde_json::to_value(redrive).unwrap(),
        json!({"action": "redrive", "filter": {"dead": true}, "digest": "current"})
    );
}

#[tokio::test]
async fn a_control_is_changed_field_by_field_and_cleared_with_null() {
    let queue =
        json!({"name": "q", "queued": 1, "dead": 2, "paused": true, "control": {"paused": true, "rate_limit": "5/s"}});
    let tenant = json!({"paused": false, "rate_limit": null, "concurrency": 4});
    let task = json!({"name": "t", "control": {"concurrency": 9}});
    let server = Server::start(vec![Reply::Json(200, queue), Reply::Json(200, tenant), Reply::Json(200, task)]).await;
    let client = server.client();
    let patch = ControlPatch::default().paused(true).rate("5/s").burst(2).exclusive(true);
    let queue = client.set_queue("q", &patch).await.unwrap();
    assert_eq!((queue.dead, queue.control.rate_limit.as_deref()), (2, Some("5/s")));
    let tenant = client.set_tenant(&ControlPatch::default().unlimited()).await.unwrap();
    assert_eq!((tenant.concurrency, tenant.rate_limit), (Some(4), None));
    let control = client.set_task_control("t", &ControlPatch::default().concurrency(9)).await.unwrap();
    assert_eq!(control.concurrency, Some(9));
    let seen = server.seen();
    assert_eq!(body(&seen[0]), json!({"paused": true, "rate_limit": "5/s", "rate_burst": 2, "exclusive": true}));
    assert_eq!(body(&seen[1]), json!({"rate_limit": null, "rate_burst": null, "concurrency": null}));
    assert_eq!(seen[2].line, "PATCH /v1/tasks/t/control");
}

#[tokio::test]
async fn routes_are_read_and_replaced() {
    let stored = json!({"routes": [{"match": "a.*", "kind": "glob", "queue": "q"}]});
    let server = Server::start(vec![Reply::Json(200, stored.clone()), Reply::Broken, Reply::Json(200, stored)]).await;
    let mut routes = server.client().routes().await.unwrap();
    assert_eq!(routes.routes[0].kind, RouteKind::Glob);
    routes.routes.push(Route { pattern: "^b".into(), kind: RouteKind::Regex, queue: "r".into() });
    server.client().set_routes(&routes).await.unwrap();
    let sent = body(&server.seen()[2]);
    assert_eq!(sent["routes"][1], json!({"match": "^b", "kind": "regex", "queue": "r"}));
}

#[tokio::test]
async fn a_worker_is_shown_and_ordered_about() {
    let worker = json!({"id": "w", "state": "running", "slots": 4, "min_slots": 1, "max_slots": 8, "exclude": ["x"]});
    let ordered = Reply::Json(202, json!({"order": 1}));
    let server = Server::start(vec![Reply::Json(200, worker), ordered]).await;
    let client = server.client();
    let worker = client.worker("w").await.unwrap();
    assert_eq!((worker.slots, worker.max_slots, worker.exclude.len()), (4, 8, 1));
    client.drain_worker("w").await.unwrap();
    client.shut_down_worker("w", Shutdown::Soft).await.unwrap();
    client.set_worker("w", &WorkerPatch::default().autoscale(1, 9).queues(["a", "b"])).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[1].line, "POST /v1/workers/w/drain");
    assert_eq!((seen[2].line.as_str(), body(&seen[2])), ("POST /v1/workers/w/shutdown", json!({"mode": "soft"})));
    assert_eq!(body(&seen[3]), json!({"min_slots": 1, "max_slots": 9, "queues": ["a", "b"]}));
}

#[tokio::test]
async fn a_dead_job_is_run_again_with_another_policy() {
    let server = Server::start(vec![Reply::Json(202, job("queued"))]).await;
    let policy = PolicyPatch { max_retries: Some(9), ..PolicyPatch::default() };
    server.client().redrive(id(), &Redrive { digest: Digests::Current, policy }).await.unwrap();
    assert_eq!(body(&server.seen()[0]), json!({"digest": "current", "policy": {"max_retries": 9}}));
}
