//! Submitting and looking at jobs.

use serde_json::{Value, json};
use umbel_broker::{Limits, LogLine, Renewal};
use umbel_model::{AttemptRecord, Failure, Progress, Resolution, Usage, WorkerId};

use crate::app::{Builder, TestApp, example_module, id_of, raw};

#[tokio::test]
async fn a_submitted_job_is_answered_whole() {
    let app = TestApp::with_tasks().await;
    let answer = app.post("/v1/jobs", json!({"task": "add", "args": [1], "kwargs": {"y": 5}})).await;
    let location = answer.header("location").to_owned();
    let job = answer.ok(202);
    assert_eq!(location, format!("/v1/jobs/{}", id_of(&job)));
    assert_eq!((&job["state"], &job["task"], &job["queue"]), (&json!("queued"), &json!("add"), &json!("default")));
    assert_eq!(job["arguments"], json!({"x": 1, "y": 5}));
    assert_eq!((&job["attempt"], &job["max_retries"]), (&json!(1), &json!(1)));
    assert_eq!((&job["error"], &job["history"]), (&json!(null), &json!([])));
    let created = job["created_at"].as_str().unwrap();
    assert!(created.ends_with('Z') && created.len() == 24, "{created}");
    let mut shown = app.get(&location).await.ok(200);
    // Only who asks for it is told what it waits for.
    shown.as_object_mut().unwrap().retain(|name, _| !name.starts_with("waits_"));
    assert_eq!(shown, job);
}

#[tokio::test]
async fn the_stored_spec_is_what_a_worker_reads() {
    let app = TestApp::with_tasks().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("traceparent", trace), ("x-request-id", "r-1")];
    let body = json!({"task": "add", "args": [1], "options": {"priority": 8, "fuel": 5}});
    let job = app.with_headers("POST", "/v1/jobs", &headers, body).await.ok(202);
    assert_eq!(job["traceparent"], trace);
    let delivery = app.claim().await;
    let spec: umbel_model::JobSpec = serde_json::from_str(&delivery.spec).unwrap();
    assert_eq!(spec.arguments.get(), r#"{"x":1,"y":2}"#);
    assert_eq!((spec.policy.priority, spec.policy.fuel, spec.policy.max_retries), (Some(8), Some(5), Some(1)));
    assert_eq!((spec.stamps.traceparent.as_deref(), spec.stamps.request_id.as_deref()), (Some(trace), Some("r-1")));
    assert_eq!(serde_json::to_string(&spec).unwrap(), delivery.spec, "one spelling");
}

#[tokio::test]
async fn a_traceparent_that_is_none_is_left_out() {
    let app = TestApp::with_tasks().await;
    let headers = [("traceparent", "00-xyz")];
    let body = json!({"task": "add", "args": [1]});
    assert_eq!(app.with_headers("POST", "/v1/jobs", &headers, body).await.ok(202)["traceparent"], json!(null));
}

#[tokio::test]
async fn big_integers_pass_untouched_in_both_directions() {
    let app = TestApp::with_tasks().await;
    let big = "123456789012345678901234567890";
    let body = format!(r#"{{"task":"echo","args":[{{"n":{big}}}]}}"#);
    let job = app.post("/v1/jobs", body).await;
    assert!(String::from_utf8_lossy(&job.bytes).contains(big));
    let delivery = app.claim().await;
    assert!(delivery.spec.contains(big));
    app.settle(&delivery, Resolution::Succeed { result: Some(raw(big)) }).await;
    let shown = app.get(&format!("/v1/jobs/{}", delivery.id)).await;
    assert!(String::from_utf8_lossy(&shown.bytes).contains(&format!(r#""result":{big}"#)));
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_pointed_at() {
    let app = TestApp::with_tasks().await;
    let pointers = async |body: Value| {
        let problem = app.post("/v1/jobs", body).await.problem(422, "invalid_arguments");
        let errors = problem["errors"].as_array().unwrap();
        errors.iter().map(|e| e["pointer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(pointers(json!({"task": "add"})).await, ["/kwargs/x"]);
    assert_eq!(pointers(json!({"task": "add", "args": [1, 2, 3]})).await, ["/args/2"]);
    assert_eq!(pointers(json!({"task": "add", "args": ["1"]})).await, ["/args/0"]);
    assert_eq!(pointers(json!({"task": "add", "args": [1.5], "kwargs": {"y": null}})).await, ["/args/0", "/kwargs/y"]);
    assert_eq!(
        pointers(json!({"task": "add", "args": [1], "kwargs": {"x": 1, "z": 2}})).await,
        ["/kwargs/x", "/kwargs/z"]
    );
    assert!(app.try_claim().await.is_none(), "nothing was submitted");
}

#[tokio::test]
async fn a_body_that_is_not_a_submission_says_where() {
    let app = TestApp::with_tasks().await;
    let problem = app.post("/v1/jobs", "{\"task\": \n oops}").await.problem(400, "invalid_json");
    assert!(problem["detail"].as_str().unwrap().contains("line 2 column 2"), "{problem}");
    app.post("/v1/jobs", "").await.problem(400, "invalid_json");
    app.post("/v1/jobs", "[]").await.problem(422, "invalid_body");
    app.post("/v1/jobs", json!({"args": [1]})).await.problem(422, "invalid_body");
    app.post("/v1/jobs", json!({"task": "add", "arg": [1]})).await.problem(422, "invalid_body");
    app.post("/v1/jobs", json!({"task": "add", "args": {"x": 1}})).await.problem(422, "invalid_body");
    app.post("/v1/jobs", json!({"task": "add", "kwargs": [1]})).await.problem(422, "invalid_body");
    app.post("/v1/jobs", json!({"task": "add", "options": {"prioritty": 1}})).await.problem(422, "invalid_body");
    app.post("/v1/jobs", json!({"task": "nope"})).await.problem(404, "task_not_found");
    app.post("/v1/jobs", json!({"task": "a/b"})).await.problem(404, "task_not_found");
    let problem = app.post("/v1/jobs", json!({"task": "add", "args": [1], "options": {"priority": 10}})).await;
    assert_eq!(problem.problem(422, "invalid_policy")["errors"][0]["pointer"], "/options/priority");
}

#[tokio::test]
async fn huge_and_deep_json_is_refused() {
    let app = TestApp::with_tasks().await;
    let deep = format!(r#"{{"task":"echo","args":[{}{}]}}"#, "[".repeat(100_000), "]".repeat(100_000));
    app.post("/v1/jobs", deep).await.problem(400, "json_too_deep");
    let large = json!({"task": "echo", "args": ["x".repeat(1 << 20)]});
    app.post("/v1/jobs", large).await.problem(413, "arguments_too_large");
    let huge = format!(r#"{{"task":"echo","args":["{}"]}}"#, "x".repeat(3 << 20));
    app.post("/v1/jobs", huge).await.problem(413, "body_too_large");
}

#[tokio::test]
async fn a_delayed_job_is_scheduled_and_can_be_run_now() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({"countdown_ms": 3_600_000})).await;
    let job = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["state"], "scheduled");
    assert!(job["due_at"].is_string());
    assert_eq!(app.post(&format!("/v1/jobs/{id}/retry"), "").await.ok(200)["state"], "queued");
    app.post(&format!("/v1/jobs/{id}/retry"), "").await.problem(409, "job_not_waiting");
    let eta = app.submit_add(json!({"eta": "2000-01-01T00:00:00Z"})).await;
    assert_eq!(app.get(&format!("/v1/jobs/{eta}")).await.ok(200)["state"], "queued");
}

#[tokio::test]
async fn the_key_of_a_job_that_was_forgotten_says_so_and_does_nothing_again() {
    let app = TestApp::with_tasks().await;
    let key = [("idempotency-key", "order-8")];
    let body = r#"{"task": "add", "args": [1]}"#;
    let id = id_of(&app.with_headers("POST", "/v1/jobs", &key, body).await.ok(202));
    app.post(&format!("/v1/jobs/{id}/cancel"), "").await.ok(200);
    let forgotten = app.with_headers("DELETE", &format!("/v1/jobs/{id}"), &[], "").await;
    assert!(forgotten.status.is_success());
    let again = app.with_headers("POST", "/v1/jobs", &key, body).await;
    let problem = again.problem(410, "idempotency_forgotten");
    assert!(problem["detail"].as_str().unwrap().contains(&id), "{problem}");
}

#[tokio::test]
async fn a_job_is_kept_for_as_long_as_its_idempotency_key_answers_with_it() {
    let app = TestApp::with_tasks().await;
    let body = r#"{"task":"add","args":[1],"options":{"idempotency_key":"k","result_ttl_ms":0}}"#;
    let id = id_of(&app.post("/v1/jobs", body).await.ok(202));
    app.run(|_| Some(json!(1))).await;
    app.broker.prune(1_000).await.unwrap();
    let again = app.post("/v1/jobs", body).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    let again = again.ok(200);
    assert_eq!((id_of(&again), &again["state"]), (id, &json!("succeeded")));
}

#[tokio::test]
async fn a_body_that_is_written_in_another_way_is_the_same_body() {
    let app = TestApp::with_tasks().await;
    let key = [("idempotency-key", "k")];
    let first = r#"{"task":"echo","args":[{"a":"é","b":1}]}"#;
    let first = id_of(&app.with_headers("POST", "/v1/jobs", &key, first).await.ok(202));
    let escaped = r#"{"args":[{"b":1.0,"a":"\u00e9"}],"task":"echo"}"#;
    let again = app.with_headers("POST", "/v1/jobs", &key, escaped).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(id_of(&again.ok(200)), first);
    let line = r#"{"options":{"idempotency_key":"k"},"task":"echo","args":[{"a":"é","b":1}]}"#;
    assert_eq!(id_of(&app.post("/v1/jobs", line).await.ok(200)), first, "the key as an option");
    let lines = app.batch(&format!("{line}\n{}\n", line.replace('1', "2"))).await;
    let text = String::from_utf8_lossy(&lines.bytes).into_owned();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&answers[0]["id"], &answers[0]["replayed"]), (&json!(first), &json!(true)), "{text}");
    assert_eq!(answers[1]["error"]["code"], "idempotency_conflict", "{text}");
    let canvas = r#"{"canvas":{"task":"echo","args":[{"a":"x"}]}}"#;
    let key = [("idempotency-key", "w")];
    let workflow = id_of(&app.with_headers("POST", "/v1/workflows", &key, canvas).await.ok(202));
    let other = r#"{"idempotency_key":"w","canvas":{"args":[{"\u0061":"x"}],"task":"echo"}}"#;
    assert_eq!(id_of(&app.post("/v1/workflows", other).await.ok(200)), workflow);
}

#[tokio::test]
async fn an_idempotency_key_answers_with_the_first_job() {
    let app = TestApp::with_tasks().await;
    let key = [("idempotency-key", "order-7")];
    let first = app.with_headers("POST", "/v1/jobs", &key, r#"{"task": "add", "args": [1]}"#).await;
    assert_eq!(first.header("idempotent-replayed"), "");
    let first = first.ok(202);
    let second = app.with_headers("POST", "/v1/jobs", &key, r#"{"task":"add","args":[ 1 ]}"#).await;
    assert_eq!(second.header("idempotent-replayed"), "true");
    assert_eq!(id_of(&second.ok(200)), id_of(&first));
    let other = app.with_headers("POST", "/v1/jobs", &key, r#"{"task":"add","args":[2]}"#).await;
    other.problem(422, "idempotency_conflict");
    let long = "k".repeat(256);
    let long = [("idempotency-key", &*long)];
    let body = r#"{"task":"add","args":[1]}"#;
    app.with_headers("POST", "/v1/jobs", &long, body).await.problem(400, "invalid_header");
    let body = r#"{"task":"add","args":[1],"options":{"idempotency_key":"other"}}"#;
    app.with_headers("POST", "/v1/jobs", &key, body).await.problem(400, "invalid_header");
}

#[tokio::test]
async fn a_full_queue_and_too_many_queues_are_said() {
    let limits = Limits { max_backlog: 2, max_queues: 1, ..Default::default() };
    let app = Builder { limits, ..Default::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    app.submit_add(json!({})).await;
    app.submit_add(json!({})).await;
    let answer = app.post("/v1/jobs", json!({"task": "add", "args": [1]})).await;
    assert_eq!(answer.header("retry-after"), "1");
    answer.problem(429, "queue_full");
    let other = json!({"task": "add", "args": [1], "options": {"queue": "other"}});
    app.post("/v1/jobs", other).await.problem(429, "too_many_queues");
}

#[tokio::test]
async fn jobs_are_listed_newest_first_with_filters_and_cursors() {
    let app = TestApp::with_tasks().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(app.submit_add(json!({"queue": if n == 4 { "other" } else { "default" }})).await);
    }
    ids.reverse();
    let (mut seen, mut path) = (Vec::new(), "/v1/jobs?limit=2".to_owned());
    loop {
        let page = app.get(&path).await.ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(id_of));
        assert!(page["items"][0]["arguments"].is_null(), "a list has summaries");
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/jobs?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    let count =
        async |query: &str| app.get(&format!("/v1/jobs?{query}")).await.ok(200)["items"].as_array().unwrap().len();
    assert_eq!(count("queue=other").await, 1);
    assert_eq!(count("task=add&state=queued").await, 5);
    assert_eq!(count("task=echo").await, 0);
    assert_eq!(count("state=failed").await, 0);
}

#[tokio::test]
async fn a_query_that_means_nothing_is_refused() {
    let app = TestApp::with_tasks().await;
    for query in ["state=pending", "limit=0", "limit=201", "limit=x", "stat=queued", "task=a/b", "queue=%20"] {
        app.get(&format!("/v1/jobs?{query}")).await.problem(400, "invalid_query");
    }
    app.get("/v1/jobs?cursor=xyz").await.problem(400, "invalid_cursor");
    app.get("/v1/jobs?cursor=!").await.problem(400, "invalid_cursor");
}

#[tokio::test]
async fn an_unknown_id_is_not_found_however_it_is_spelled() {
    let app = TestApp::with_tasks().await;
    for id in ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "nope", "%00", "01arz3ndektsv4rrffq69g5fav", "%ff"] {
        app.get(&format!("/v1/jobs/{id}")).await.problem(404, "job_not_found");
        app.get(&format!("/v1/jobs/{id}/logs")).await.problem(404, "job_not_found");
        app.post(&format!("/v1/jobs/{id}/cancel"), "").await.problem(404, "job_not_found");
        app.post(&format!("/v1/jobs/{id}/retry"), "").await.problem(404, "job_not_found");
    }
}

#[tokio::test]
async fn cancelling_tells_what_became_of_the_job() {
    let app = TestApp::with_tasks().await;
    let waiting = app.submit_add(json!({})).await;
    assert_eq!(app.post(&format!("/v1/jobs/{waiting}/cancel"), "").await.ok(200)["state"], "revoked");
    assert_eq!(app.post(&format!("/v1/jobs/{waiting}/cancel"), "").await.ok(200)["state"], "revoked");
    app.post(&format!("/v1/jobs/{waiting}/retry"), "").await.problem(409, "job_ended");
    let running = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    let job = app.post(&format!("/v1/jobs/{running}/cancel"), "").await.ok(202);
    assert_eq!((&job["state"], &job["cancel_requested"]), (&json!("running"), &json!(true)));
    app.settle(&delivery, Resolution::Succeed { result: None }).await;
    app.post(&format!("/v1/jobs/{running}/cancel"), "").await.problem(409, "job_ended");
}

#[tokio::test]
async fn progress_logs_history_and_errors_are_shown() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    assert_eq!(app.get(&format!("/v1/jobs/{id}/logs")).await.ok(200), json!({"items": [], "next_from": 0}));
    let delivery = app.claim().await;
    let line =
        |n: u64| LogLine { at: n, attempt: 1, level: "info".into(), context: String::new(), message: format!("{n}") };
    let renewal = Renewal {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        progress: Some(Progress {
            done: 1,
            total: 2,
            message: "half".into(),
            state: Some("charging".into()),
            meta: Some(json!({"n": 1})),
        }),
        logs: (0..3).map(line).collect(),
    };
    app.broker.renew(1_000, &[renewal]).await.unwrap();
    let job = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
    assert_eq!(
        job["progress"],
        json!({"done": 1, "total": 2, "message": "half", "state": "charging", "meta": {"n": 1}})
    );
    let logs = app.get(&format!("/v1/jobs/{id}/logs?from=1&limit=1")).await.ok(200);
    assert_eq!((&logs["items"][0]["number"], &logs["next_from"]), (&json!(1), &json!(2)));
    let failure = Failure::new("Void", "void order").with_details(Some(r#"{"order":7}"#.into()));
    let record = AttemptRecord {
        attempt: 1,
        delivery: 1,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: 0,
        outcome: "fatal".into(),
        failure: Some(failure.clone()),
        usage: Usage { fuel: 5, memory_bytes: 6, duration_us: 7, ..Usage::default() },
    };
    let settle = umbel_broker::Settle {
        tenant: delivery.tenant,
        id: delivery.id,
        token: delivery.token,
        resolution: Resolution::Fail { failure },
        record: Some(record),
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    };
    app.broker.settle(&[settle], None).await.unwrap();
    let job = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["error"]["kind"], "Void");
    assert_eq!(job["error"]["details"], json!({"order": 7}));
    assert_eq!((&job["history"][0]["outcome"], &job["history"][0]["fuel"]), (&json!("fatal"), &json!(5)));
    assert_eq!(job["history"][0]["ended_at"], "1970-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn retrying_a_failed_job_makes_a_new_one_once() {
    let app = TestApp::with_tasks().await;
    let id = app.dead_job().await;
    let new = app.post(&format!("/v1/jobs/{id}/retry"), "").await.ok(202);
    assert_ne!(id_of(&new), id);
    assert_eq!((&new["redrive_of"], &new["state"]), (&json!(id), &json!("queued")));
    app.post(&format!("/v1/jobs/{id}/retry"), "").await.problem(409, "not_dead");
    assert_eq!(app.get(&format!("/v1/jobs/{id}")).await.ok(200)["state"], "failed");
}
