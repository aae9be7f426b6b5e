//! Schedules over HTTP, on a broker whose clock the tests set.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};
use umbel_api::ApiConfig;
use umbel_broker::{Clock, Limits, ScheduleChange, ScheduleStep};
use umbel_broker_conformance::MemoryBroker;
use umbel_compose::TaskFacts;
use umbel_model::{Digest, ScheduleName, TaskName, TenantId};

use crate::{
    app::{Answer, Builder, TestApp, example_module, id_of, module_with, raw},
    broken::Broken,
};

/// 2027-01-15T08:00:00Z.
const START: u64 = 1_800_000_000_000;

/// With the tasks `add` and `echo`, and the clock.
async fn with(config: ApiConfig, limits: Limits) -> (TestApp, Arc<AtomicU64>) {
    let (clock, now) = Clock::manual(START);
    let broker: Arc<dyn umbel_broker::Broker> = Arc::new(MemoryBroker::new(clock, limits));
    let app = Builder { config, broker: Some(broker), ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    (app, now)
}

async fn app() -> (TestApp, Arc<AtomicU64>) {
    with(ApiConfig::default(), Limits::default()).await
}

/// `add(1)` at three o'clock in Berlin, with these fields laid over.
fn nightly(fields: Value) -> Value {
    let mut body = json!({
        "start": {"task": "add", "args": [1]}, "when": {"cron": "0 3 * * *"}, "zone": "Europe/Berlin",
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

impl TestApp {
    async fn set(&self, name: &str, body: Value) -> Answer {
        self.with_headers("PUT", &format!("/v1/schedules/{name}"), &[], body).await
    }

    async fn shown(&self, name: &str) -> Value {
        self.get(&format!("/v1/schedules/{name}")).await.ok(200)
    }

    async fn order(&self, path: &str, body: impl ToString) -> Answer {
        self.post(&format!("/v1/schedules/{path}"), body).await
    }
}

#[tokio::test]
async fn a_schedule_is_made_shown_changed_and_deleted() {
    let (app, now) = app().await;
    let made = app.set("nightly", nightly(json!({"description": "a\nb", "overlap": "buffer_one"}))).await;
    assert_eq!(made.header("etag"), "\"1\"");
    let made = made.ok(201);
    let next = &made["next"][0];
    assert_eq!((&next["at"], &next["local"]), (&json!("2027-01-16T02:00:00.000Z"), &json!("2027-01-16T03:00:00")));
    assert_eq!(
        (&next["offset"], &next["abbreviation"], &next["weekday"]),
        (&json!("+01:00"), &json!("CET"), &json!("Saturday"))
    );
    assert_eq!(made["next"].as_array().unwrap().len(), 5);
    let shown = app.get("/v1/schedules/nightly").await;
    assert_eq!(shown.header("etag"), "\"1\"");
    let shown = shown.ok(200);
    for (field, value) in [
        ("name", json!("nightly")),
        ("state", json!("active")),
        ("next_at", json!("2027-01-16T02:00:00.000Z")),
        ("due_at", json!("2027-01-16T02:00:00.000Z")),
        ("start", json!({"task": "add", "args": [1]})),
        ("overlap", json!("buffer_one")),
        ("zone", json!("Europe/Berlin")),
        ("paused", json!(null)),
        ("waiting", json!([])),
        ("created_at", json!("2027-01-15T08:00:00.000Z")),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    assert!(shown["describe"].as_str().unwrap().contains("03:00") && shown.get("v").is_none(), "{shown}");
    // The same again changes nothing, however it is spaced.
    let same = "{ \"when\":{\"cron\":\"0 3 * * *\"}, \"zone\":\"europe/berlin\", \"start\" : {\"task\":\"add\",\"args\":[ 1 ]},\
                \"description\": \"a\\nb\", \"overlap\":\"buffer_one\"}";
    assert_eq!(app.with_headers("PUT", "/v1/schedules/nightly", &[], same).await.ok(200)["version"], 1);
    now.fetch_add(1_000, Ordering::SeqCst);
    let changed = app.set("nightly", nightly(json!({"start": {"task": "add", "args": [2]}}))).await.ok(200);
    assert_eq!((&changed["version"], &changed["next_at"]), (&json!(2), &shown["next_at"]));
    assert_eq!((&changed["description"], &changed["changed_at"]), (&json!(null), &json!("2027-01-15T08:00:01.000Z")));
    let put = async |header: (&str, &str)| {
        app.with_headers("PUT", "/v1/schedules/nightly", &[header], nightly(json!({}))).await
    };
    let conflict = put(("if-match", "\"1\"")).await;
    assert_eq!(conflict.header("etag"), "\"2\"");
    conflict.problem(412, "version_conflict");
    put(("if-none-match", "*")).await.problem(412, "version_conflict");
    assert_eq!(put(("if-match", "\"2\"")).await.ok(200)["version"], 3);
    app.with_headers("DELETE", "/v1/schedules/nightly", &[("if-match", "\"2\"")], "")
        .await
        .problem(412, "version_conflict");
    let gone = app.with_headers("DELETE", "/v1/schedules/nightly", &[], "").await;
    assert_eq!(gone.status.as_u16(), 204);
    app.get("/v1/schedules/nightly").await.problem(404, "schedule_not_found");
    app.with_headers("DELETE", "/v1/schedules/nightly", &[], "").await.problem(404, "schedule_not_found");
    app.with_headers("PUT", "/v1/schedules/nightly", &[("if-match", "\"3\"")], nightly(json!({})))
        .await
        .problem(412, "version_conflict");
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_stored_and_stores_nothing() {
    let (app, _) = app().await;
    let put = async |body: Value| app.with_headers("PUT", "/v1/schedules/a?dry_run=true", &[], body).await;
    let dry = put(nightly(json!({}))).await.ok(200);
    assert_eq!((&dry["version"], &dry["next_at"]), (&json!(0), &json!("2027-01-16T02:00:00.000Z")));
    app.get("/v1/schedules/a").await.problem(404, "schedule_not_found");
    app.set("a", nightly(json!({}))).await.ok(201);
    let dry = put(nightly(json!({"zone": "UTC"}))).await.ok(200);
    assert_eq!((&dry["version"], &dry["next_at"]), (&json!(1), &json!("2027-01-16T03:00:00.000Z")));
    assert_eq!(app.shown("a").await["zone"], "Europe/Berlin");
}

#[tokio::test]
async fn what_cannot_work_is_refused_where_it_is() {
    let (app, _) = app().await;
    let start = |start: Value| nightly(json!({"start": start}));
    let when = |when: Value| nightly(json!({"when": when}));
    for (body, status, code, pointer) in [
        (start(json!({"task": "nope"})), 404, "task_not_found", "/start/task"),
        (start(json!({"task": "add", "args": ["x"]})), 422, "invalid_arguments", "/start/args/0"),
        (start(json!({"task": "add", "kwargs": {"z": 1}})), 422, "invalid_arguments", "/start/kwargs/z"),
        (
            start(json!({"task": "add", "args": [1], "options": {"priority": 11}})),
            422,
            "invalid_policy",
            "/start/options/priority",
        ),
        (
            start(json!({"task": "add", "args": [1], "options": {"prioritty": 1}})),
            422,
            "invalid_body",
            "/start/options/prioritty",
        ),
        (
            start(json!({"task": "add", "args": [1], "options": {"eta": "2027-02-01T00:00:00Z"}})),
            422,
            "invalid_option",
            "/start/options/eta",
        ),
        (
            start(json!({"task": "add", "args": [1], "options": {"idempotency_key": "k"}})),
            422,
            "invalid_option",
            "/start/options/idempotency_key",
        ),
        (start(json!({"task": "add", "canvas": {"task": "add"}})), 422, "invalid_schedule", "/start/canvas"),
        (start(json!({})), 422, "invalid_schedule", "/start"),
        (
            start(json!({"canvas": {"chain": [{"task": "add", "args": [1]}, {"task": "gone"}]}})),
            404,
            "task_not_found",
            "/start/canvas/chain/1/task",
        ),
        (
            start(json!({"canvas": {"task": "add", "args": [1]}, "deadline_ms": 0})),
            422,
            "invalid_option",
            "/start/deadline_ms",
        ),
        (
            start(json!({"task": "add", "args": [1], "options": {"on_success": [{"task": "gone"}]}})),
            404,
            "task_not_found",
            "/start/options/on_success/0/task",
        ),
        (when(json!({"cron": "0 3 31 2 *"})), 422, "invalid_schedule", "/when/cron"),
        (when(json!({"every": "10ms"})), 422, "invalid_schedule", "/when/every"),
        (when(json!({"at": "2020-01-01T00:00:00Z"})), 422, "invalid_schedule", "/when/at"),
        (nightly(json!({"zone": "Europe/Berlim"})), 422, "invalid_schedule", "/zone"),
        (nightly(json!({"overlap": "sometimes"})), 422, "invalid_schedule", "/overlap"),
        (nightly(json!({"catch_up_window_ms": 1})), 422, "invalid_schedule", "/catch_up_window_ms"),
        (nightly(json!({"description": "x".repeat(1_025)})), 422, "invalid_schedule", "/description"),
        (nightly(json!({"source": "a\nb"})), 422, "invalid_schedule", "/source"),
        (nightly(json!({"digest": format!("sha256:{}", "0".repeat(64))})), 404, "module_not_found", "/digest"),
        (nightly(json!({"nonsense": 1})), 422, "invalid_schedule", "/nonsense"),
        (nightly(json!({"v": 1})), 422, "invalid_schedule", "/v"),
    ] {
        let problem = app.set("a", body.clone()).await.problem(status, code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    app.set("preview", nightly(json!({}))).await;
    app.get("/v1/schedules/a").await.problem(404, "schedule_not_found");
    app.set("9", nightly(json!({}))).await.problem(404, "schedule_not_found");
    let long = nightly(json!({"start": {"task": "echo", "args": ["x".repeat(65 << 10)]}}));
    app.set("a", long).await.problem(413, "body_too_large");
}

#[tokio::test]
async fn the_operators_least_interval_and_number_of_schedules_hold() {
    let config = ApiConfig { min_schedule_interval_ms: 60_000, ..ApiConfig::default() };
    let (app, _) = with(config, Limits { max_schedules: 1, ..Limits::default() }).await;
    let refused =
        app.set("a", nightly(json!({"when": {"cron": "* * * * * *"}}))).await.problem(422, "invalid_schedule");
    assert!(refused["detail"].as_str().unwrap().contains("--min-schedule-interval"), "{refused}");
    app.set("a", nightly(json!({"when": {"every": "1m"}}))).await.ok(201);
    app.set("b", nightly(json!({}))).await.problem(409, "too_many_schedules");
}

#[tokio::test]
async fn a_change_of_the_times_replaces_what_is_pending_and_another_keeps_it() {
    let (app, _) = app().await;
    app.set("a", nightly(json!({"when": {"every": "1h"}}))).await.ok(201);
    let (tenant, name) = (TenantId::new("t1").unwrap(), ScheduleName::new("a").unwrap());
    let record = app.broker.schedule(&tenant, &name).await.unwrap().unwrap();
    let mut state: Value = serde_json::from_str(&record.state).unwrap();
    state["waiting"] = json!([START - 3_600_000]);
    state["next"] = json!(START - 7_200_000);
    let (next, to) = (START - 14_400_000, START - 10_800_000);
    state["backfills"] = json!([{"id": "b1", "next": next, "to": to, "pace_ms": 500, "at": START, "started": 1}]);
    state["retry"] = json!({"nominal_at": START, "at": START, "tries": 2, "error": "no"});
    let change = ScheduleChange::Put { definition: None, state: state.to_string(), look_at: None };
    let step =
        ScheduleStep { tenant, name, revision: record.revision, not_before: 0, change, fires: Vec::new(), start: None };
    app.broker.schedule_steps(&[step]).await.unwrap();
    let kept = app.set("a", nightly(json!({"when": {"every": "60m"}, "max_runs": 3}))).await.ok(200);
    assert_eq!((&kept["waiting"], &kept["retry"]["tries"]), (&json!(["2027-01-15T07:00:00.000Z"]), &json!(2)));
    let replaced = app.set("a", nightly(json!({"when": {"every": "2h"}}))).await.ok(200);
    assert_eq!((&replaced["waiting"], &replaced["retry"]), (&json!([]), &json!(null)));
    assert_eq!((kept["backfills"].as_array().unwrap().len(), &replaced["backfills"]), (1, &json!([])));
    let fires = &app.get("/v1/schedules/a/fires").await.ok(200)["items"];
    assert_eq!((&fires[0]["verdict"], &fires[0]["backfill"]), (&json!("skipped"), &json!("b1")));
    assert_eq!((&fires[1]["verdict"], &fires[1]["count"]), (&json!("missed"), &json!(3)));
    assert_eq!((&fires[2]["verdict"], &fires[2]["count"]), (&json!("skipped"), &json!(2)));
}

#[tokio::test]
async fn a_schedule_is_paused_and_goes_on_and_a_time_is_left_out() {
    let (app, now) = app().await;
    app.set("a", nightly(json!({"when": {"every": "1h"}, "paused": true}))).await.ok(201);
    assert_eq!(app.shown("a").await["state"], "paused");
    now.fetch_add(90 * 60_000, Ordering::SeqCst);
    let paused = app.order("a/pause", json!({"reason": "holidays"})).await.ok(200);
    assert_eq!(paused["paused"], json!({"since": "2027-01-15T08:00:00.000Z", "reason": "holidays"}));
    app.order("a/pause", json!({"reason": "a\nb"})).await.problem(422, "invalid_body");
    let resumed = app.order("a/resume", "").await.ok(200);
    assert_eq!((&resumed["paused"], &resumed["next_at"]), (&json!(null), &json!("2027-01-15T10:00:00.000Z")));
    assert_eq!(app.order("a/resume", "").await.ok(200)["state"], "active");
    let skipped = app.order("a/skip", "").await.ok(200);
    assert_eq!(
        (&skipped["skipped_at"], &skipped["next_at"]),
        (&resumed["next_at"], &json!("2027-01-15T11:00:00.000Z"))
    );
    let fires = app.get("/v1/schedules/a/fires?limit=2").await.ok(200);
    let verdicts = |page: &Value| {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fire| fire["verdict"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(verdicts(&fires), ["skipped", "resumed"]);
    let cursor = fires["next_cursor"].as_str().unwrap();
    let rest = app.get(&format!("/v1/schedules/a/fires?limit=50&cursor={cursor}")).await.ok(200);
    assert_eq!(
        (verdicts(&rest), &rest["next_cursor"]),
        (vec!["missed".into(), "paused".into(), "paused".into()], &json!(null))
    );
    app.set("once", nightly(json!({"when": {"at": "2027-01-15T09:40:00Z"}}))).await.ok(201);
    app.order("once/skip", "").await.ok(200);
    assert_eq!(app.shown("once").await["state"], "finished");
    app.order("once/skip", "").await.problem(409, "nothing_to_skip");
    for path in ["pause", "resume", "skip", "run"] {
        app.order(&format!("none/{path}"), "").await.problem(404, "schedule_not_found");
    }
    app.get("/v1/schedules/none/fires").await.problem(404, "schedule_not_found");
}

#[tokio::test]
async fn run_starts_a_job_or_a_workflow_beside_the_times() {
    let (app, _) = app().await;
    app.set("a", nightly(json!({}))).await.ok(201);
    let before = app.shown("a").await;
    let started = app.order("a/run", "").await;
    assert!(started.header("location").starts_with("/v1/jobs/"));
    let job = started.ok(202);
    assert_eq!((&job["state"], &job["headers"]), (&json!("queued"), &json!({"schedule": "a"})));
    assert_eq!(
        (&job["schedule"]["name"], &job["schedule"]["nominal_at"]),
        (&json!("a"), &json!("2027-01-15T08:00:00.000Z"))
    );
    let after = app.shown("a").await;
    assert_eq!((&after["next_at"], &after["started"], &after["runs"]), (&before["next_at"], &json!(0), &json!([])));
    let fire = &app.get("/v1/schedules/a/fires").await.ok(200)["items"][0];
    assert_eq!((&fire["by_hand"], &fire["job"]), (&json!(true), &job["id"]));
    let found = app.get("/v1/jobs?header=schedule:a").await.ok(200);
    assert_eq!(id_of(&found["items"][0]), id_of(&job));
    // The same key answers with the same job.
    let run = async || app.with_headers("POST", "/v1/schedules/a/run", &[("idempotency-key", "k")], "").await;
    let first = id_of(&run().await.ok(202));
    assert_eq!(id_of(&run().await.ok(200)), first);
    let canvas = json!({"chain": [{"task": "add", "args": [1]}, {"task": "add"}]});
    app.set("flow", nightly(json!({"start": {"canvas": canvas, "name": "n"}}))).await.ok(201);
    let workflow = app.order("flow/run", "").await.ok(202);
    assert_eq!((&workflow["name"], &workflow["schedule"]["name"]), (&json!("n"), &json!("flow")));
    let with_callback = json!({"task": "add", "args": [1], "options": {"on_success": [{"task": "echo"}]}});
    app.set("callback", nightly(json!({"start": with_callback}))).await.ok(201);
    let job = app.order("callback/run", "").await.ok(202);
    assert_eq!((&job["task"], job["workflow"].is_string()), (&json!("add"), true));
}

#[tokio::test]
async fn a_pinned_module_runs_whatever_is_deployed() {
    let (app, _) = app().await;
    let first = app.get("/v1/tasks/add").await.ok(200)["digest"].clone();
    app.set("a", nightly(json!({"digest": first}))).await.ok(201);
    app.push(&module_with("Another.")).await.ok(201);
    let job = app.order("a/run", "").await.ok(202);
    assert_eq!(job["digest"], first);
    app.set("b", nightly(json!({}))).await.ok(201);
    assert_ne!(app.order("b/run", "").await.ok(202)["digest"], first);
    let delete =
        async || app.with_headers("DELETE", &format!("/v1/modules/{}", first.as_str().unwrap()), &[], "").await;
    let refused = delete().await.problem(409, "module_in_use");
    assert!(refused["detail"].as_str().unwrap().contains("schedule `a`"), "{refused}");
    app.with_headers("DELETE", "/v1/schedules/a", &[], "").await;
    assert!(delete().await.status.is_success());
}

#[tokio::test]
async fn a_backfill_is_planned_started_and_aborted_within_its_limits() {
    let (app, _) = app().await;
    app.set("a", nightly(json!({"when": {"every": "1h"}}))).await.ok(201);
    let body = |fields: Value| {
        let mut body = json!({"from": "2027-01-14T00:00:00Z", "to": "2027-01-15T00:00:00Z"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let plan = app.order("a/backfill", body(json!({"dry_run": true}))).await.ok(200);
    assert_eq!(
        (&plan["id"], &plan["count"], &plan["first"][0]),
        (&json!(null), &json!(25), &json!("2027-01-14T00:00:00.000Z"))
    );
    assert_eq!((plan["last"].as_array().unwrap().len(), &plan["last"][9]), (10, &json!("2027-01-15T00:00:00.000Z")));
    let ids: Vec<String> = {
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(id_of(&app.order("a/backfill", body(json!({"pace_ms": 500}))).await.ok(200)));
        }
        ids
    };
    app.order("a/backfill", body(json!({}))).await.problem(409, "too_many_backfills");
    let shown = &app.shown("a").await["backfills"];
    assert_eq!(
        (&shown[0]["id"], &shown[0]["pace_ms"], shown.as_array().unwrap().len()),
        (&json!(ids[0]), &json!(500), 4)
    );
    let abort = async |id: &str| app.with_headers("DELETE", &format!("/v1/schedules/a/backfills/{id}"), &[], "").await;
    assert_eq!(abort(&ids[1]).await.ok(200)["backfills"].as_array().unwrap().len(), 3);
    abort(&ids[1]).await.problem(404, "backfill_not_found");
    for wrong in [
        json!({"to": "2027-01-13T00:00:00Z"}),
        json!({"to": "2027-01-15T08:00:00.001Z"}),
        json!({"from": "2020-01-01T00:00:00Z"}),
        json!({"from": "2027-01-14T00:00:01Z", "to": "2027-01-14T00:00:02Z"}),
        json!({"pace_ms": 86_400_001}),
        json!({"pace_ms": 99}),
        json!({"from": "yesterday"}),
    ] {
        app.order("a/backfill", body(wrong)).await.problem(422, "invalid_body");
    }
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_is_done_once() {
    let broker = Broken::shared();
    let app = Builder { broker: Some(broker.clone()), ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    app.set("a", nightly(json!({"when": {"every": "1 day"}}))).await.ok(201);
    let lost = async |path: &str, body: Value| {
        broker.lose_step.store(true, Ordering::SeqCst);
        app.order(path, body).await
    };
    let fires = async || app.get("/v1/schedules/a/fires").await.ok(200)["items"].as_array().unwrap().len();
    let next = app.shown("a").await["next_at"].clone();
    assert_eq!(lost("a/skip", json!("")).await.ok(200)["skipped_at"], next);
    assert_eq!(fires().await, 1);
    let range = json!({"from": "2025-01-01T00:00:00Z", "to": "2025-01-05T00:00:00Z"});
    let id = id_of(&lost("a/backfill", range.clone()).await.ok(200));
    let backfills = app.shown("a").await["backfills"].clone();
    assert_eq!((backfills.as_array().unwrap().len(), &backfills[0]["id"]), (1, &json!(id)));
    broker.lose_step.store(true, Ordering::SeqCst);
    let aborted = app.with_headers("DELETE", &format!("/v1/schedules/a/backfills/{id}"), &[], "").await;
    assert_eq!(aborted.ok(200)["backfills"], json!([]));
    let started = lost("a/run", json!("")).await;
    assert!(started.status.is_success());
    assert_eq!(app.get("/v1/jobs").await.ok(200)["items"].as_array().unwrap().len(), 1);
    let canvas = json!({"chain": [{"task": "add", "args": [1]}, {"task": "add"}]});
    app.set("flow", nightly(json!({"start": {"canvas": canvas}}))).await.ok(201);
    let started = lost("flow/run", json!("")).await;
    assert!(started.status.is_success());
    assert_eq!(app.get("/v1/workflows").await.ok(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_backfill_over_times_that_are_hard_to_find_is_refused() {
    let (app, _) = app().await;
    // One time in four years, and a search gives up after each thousand times that are left out.
    let rare = json!({"cron": "* * * * * *", "exclude": ["* * * 1-11 *", "* * 1-24,26-31 12 *"]});
    app.set("a", nightly(json!({"when": rare}))).await.ok(201);
    let range = json!({"from": "2026-01-01T00:00:00Z", "to": "2026-12-24T00:00:00Z", "dry_run": true});
    app.order("a/backfill", range).await.problem(422, "invalid_body");
}

#[tokio::test]
async fn times_are_previewed_with_the_changes_of_the_zone() {
    let (app, _) = app().await;
    let preview = async |body: Value| app.order("preview", body).await;
    let body =
        json!({"when": {"cron": "30 2 * * *"}, "zone": "Europe/Berlin", "from": "2027-03-27T00:00:00Z", "count": 3});
    let times = preview(body).await.ok(200);
    assert_eq!(
        (&times["items"][1]["local"], &times["items"][1]["offset"]),
        (&json!("2027-03-28T03:00:00"), &json!("+02:00"))
    );
    assert_eq!(times["items"][1]["marks"], json!(["offset_changed", "moved_out_of_gap"]));
    assert!(times["zone_database"].is_string() && times["describe"].is_string());
    let over = preview(json!({"when": {"at": "2027-02-01T00:00:00Z"}})).await.ok(200);
    assert_eq!((over["items"].as_array().unwrap().len(), &over["note"]), (1, &json!("there is no other one")));
    let wrong = preview(json!({"when": {"cron": "61 * * * *"}})).await.problem(422, "invalid_schedule");
    assert_eq!(wrong["errors"][0]["pointer"], "/when/cron");
    preview(json!({"when": {"every": "1m"}, "count": 1_001})).await.problem(422, "invalid_body");
    app.set("a", nightly(json!({"window_ms": 3_600_000}))).await.ok(201);
    let next = app.get("/v1/schedules/a/next?count=2").await.ok(200);
    assert_eq!(next["items"][0]["at"], "2027-01-16T02:00:00.000Z");
    assert_ne!(next["items"][0]["due_at"], next["items"][0]["at"]);
    let later = app.get("/v1/schedules/a/next?count=1&from=2027-06-01T00:00:00Z").await.ok(200);
    assert_eq!(later["items"][0]["at"], "2027-06-01T01:00:00.000Z");
    app.get("/v1/schedules/a/next?count=0").await.problem(400, "invalid_query");
    app.get("/v1/schedules/a/next?from=x").await.problem(400, "invalid_query");
}

#[tokio::test]
async fn schedules_are_listed_by_name_state_task_and_source() {
    let (app, _) = app().await;
    for number in 0..4 {
        let source = if number % 2 == 0 { "file:even" } else { "file:odd" };
        app.set(&format!("s{number}"), nightly(json!({"source": source}))).await.ok(201);
    }
    app.set("other", nightly(json!({"start": {"task": "echo", "args": [1]}, "paused": true}))).await.ok(201);
    let names = async |query: &str| {
        let page = app.get(&format!("/v1/schedules{query}")).await.ok(200);
        let names = page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>(), page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(names("").await.0, ["other", "s0", "s1", "s2", "s3"]);
    let (first, cursor) = names("?prefix=s&limit=3").await;
    assert_eq!(first, ["s0", "s1", "s2"]);
    assert_eq!(names(&format!("?prefix=s&limit=3&cursor={}", cursor.unwrap())).await, (vec!["s3".to_owned()], None));
    assert_eq!(names("?state=paused").await.0, ["other"]);
    assert_eq!(names("?task=echo").await.0, ["other"]);
    assert_eq!(names("?source=file:odd").await.0, ["s1", "s3"]);
    app.get("/v1/schedules?state=odd").await.problem(400, "invalid_query");
    let other = app.other_tenant().await;
    let mut others = app.request("GET", "/v1/schedules");
    others.headers_mut().unwrap().insert("authorization", format!("Bearer {other}").parse().unwrap());
    let page = app.send(others.body(axum::body::Body::empty()).unwrap()).await.ok(200);
    assert_eq!(page["items"], json!([]));
}

#[tokio::test]
async fn a_damaged_schedule_is_shown_with_what_is_wrong_and_can_be_set_again() {
    let (app, _) = app().await;
    let step = ScheduleStep {
        tenant: TenantId::new("t1").unwrap(),
        name: ScheduleName::new("a").unwrap(),
        revision: 0,
        not_before: 0,
        change: ScheduleChange::Put { definition: Some("{".into()), state: "{}".into(), look_at: None },
        fires: vec!["nonsense".into()],
        start: None,
    };
    app.broker.schedule_steps(&[step]).await.unwrap();
    assert!(app.shown("a").await["problem"].is_string());
    assert_eq!(app.get("/v1/schedules").await.ok(200)["items"].as_array().unwrap().len(), 1);
    assert_eq!(app.get("/v1/schedules/a/fires").await.ok(200)["items"], json!([]));
    app.order("a/pause", "").await.problem(500, "record_unreadable");
    let set = app.set("a", nightly(json!({}))).await.ok(200);
    assert_eq!((&set["version"], &set["problem"]), (&json!(2), &json!(null)));
}

#[tokio::test]
async fn a_schedule_that_a_newer_release_stored_is_not_set_again() {
    let (app, _) = app().await;
    let definition = json!({"v": 99, "start": {"task": "add"}, "when": {"moon": "full"}}).to_string();
    let change = ScheduleChange::Put { definition: Some(definition.clone()), state: "{}".into(), look_at: None };
    let (tenant, name) = (TenantId::new("t1").unwrap(), ScheduleName::new("a").unwrap());
    let step = ScheduleStep {
        tenant: tenant.clone(),
        name: name.clone(),
        revision: 0,
        not_before: 0,
        change,
        fires: Vec::new(),
        start: None,
    };
    app.broker.schedule_steps(&[step]).await.unwrap();
    let refused = app.set("a", nightly(json!({}))).await.problem(422, "invalid_schedule");
    assert!(refused["detail"].as_str().unwrap().contains("newer release"), "{refused}");
    assert_eq!(app.broker.schedule(&tenant, &name).await.unwrap().unwrap().definition, definition);
}

#[tokio::test]
async fn whoever_fires_gets_tasks_that_check_arguments_as_a_submission_does() {
    let (app, _) = app().await;
    let tasks = umbel_api::task_source(&app.api);
    let (tenant, name) = (TenantId::new("t1").unwrap(), TaskName::new("add").unwrap());
    let add = tasks.task(&tenant, &name).await.unwrap().unwrap();
    let check =
        async |facts: &TaskFacts, value: &str| facts.checker.as_ref().unwrap().check(0, &raw(value)).await.is_ok();
    assert_eq!((check(&add, "1").await, check(&add, "true").await), (true, false));
    let pinned = tasks.pinned(&tenant, &name, add.digest).await.unwrap().unwrap();
    assert_eq!((pinned.digest, check(&pinned, "true").await), (add.digest, false));
    assert!(tasks.pinned(&tenant, &name, Digest::of(b"other")).await.unwrap().is_none());
    assert!(tasks.task(&tenant, &TaskName::new("none").unwrap()).await.unwrap().is_none());
}
