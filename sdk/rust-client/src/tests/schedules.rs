//! Schedules: what is sent for them, and what is read of them.

use std::time::SystemTime;

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn stored() -> Value {
    json!({
        "name": "a", "version": 3, "state": "paused", "start": {"task": "t", "args": [1]}, "when": {"every": "1m"},
        "describe": "Every minute", "paused": {"since": "1970-01-01T00:00:00Z", "reason": "why"}, "new_field": 1,
        "runs": [{"job": ID}], "backfills": [{"id": "b", "next": "x", "to": "y", "pace_ms": 5, "started": 1, "at": "z", "tries": 0}],
        "next": [{"at": "1970-01-01T00:01:00Z", "local": "1970-01-01T00:01:00", "offset": "+00:00", "marks": ["first_of_two"]}],
    })
}

#[tokio::test]
async fn a_schedule_is_sent_with_all_its_fields_and_digits() {
    let server = Server::start(vec![Reply::Broken, Reply::Json(200, stored())]).await;
    let client = server.client();
    let when = ScheduleWhen::crons(["0 3 * * *", "0 5 * * 1"]).both_days().exclude(["* * 25 12 *"]);
    let call = task("t").args((123_456_789_012_345_678_901_234_567_890_u128,)).queue("q");
    let schedule = NewSchedule::job(call, &when)
        .zone("Europe/Berlin")
        .starts_at(at(5))
        .ends_at(at(6))
        .overlap(ScheduleOverlap::BufferOne)
        .catch_up(ScheduleCatchUp::All)
        .catch_up_window(Duration::from_secs(60))
        .jitter(Duration::from_secs(1))
        .window(Duration::from_secs(2))
        .max_runs(7)
        .pause_after_failures(3)
        .keep_missed()
        .digest("sha256:0")
        .description("d")
        .source("file:x")
        .paused();
    let set = client.set_schedule("a b", &schedule, KvExpect::Any).await.unwrap();
    assert_eq!((set.version, set.state, set.next[0].marks.len()), (3, ScheduleState::Paused, 1));
    let seen = server.seen();
    assert_eq!((seen.len(), &*seen[1].line), (2, "PUT /v1/schedules/a%20b"));
    assert!(seen[1].body.contains("[123456789012345678901234567890]"), "{}", seen[1].body);
    let mut body: Value = serde_json::from_str(&seen[1].body).unwrap();
    assert_eq!(body["start"].take()["options"], json!({"queue": "q"}));
    let expected = json!({
        "start": null, "when": {"cron": ["0 3 * * *", "0 5 * * 1"], "days": "and", "exclude": ["* * 25 12 *"]},
        "zone": "Europe/Berlin", "starts_at": "1970-01-01T00:00:05Z", "ends_at": "1970-01-01T00:00:06Z",
        "overlap": "buffer_one", "catch_up": "all", "catch_up_window_ms": 60_000, "jitter_ms": 1_000, "window_ms": 2_000,
        "max_runs": 7, "pause_after_failures": 3, "keep_missed": true, "digest": "sha256:0", "description": "d",
        "source": "file:x", "paused": true,
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_workflow_or_a_text_can_be_scheduled_and_what_cannot_be_built_is_not_sent() {
    let server = Server::start(vec![Reply::Json(200, stored())]).await;
    let client = server.client();
    let options = WorkflowOptions::default().name("n").tag("x");
    let schedule = NewSchedule::workflow(group([task("a"), task("b")]), &options, &ScheduleWhen::every("1 month"));
    client.try_schedule("a", &schedule, KvExpect::Version(2)).await.unwrap();
    let text = NewSchedule::from_json(r#"{"start": {"task": "t", "args": [1e400]}, "when": {"every": "1s"}}"#);
    client.set_schedule("a", &text, KvExpect::Absent).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].line, "PUT /v1/schedules/a?dry_run=true");
    assert_eq!(header(&seen[0], "if-match").as_deref(), Some("\"2\""));
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!((&body["start"]["name"], body["start"]["canvas"]["group"].as_array().unwrap().len()), (&json!("n"), 2));
    assert_eq!(header(&seen[1], "if-none-match").as_deref(), Some("*"));
    assert!(seen[1].body.contains("1e400"));
    let wrong = [NewSchedule::job(task("no name"), &ScheduleWhen::cron("* * * * *")), NewSchedule::from_json("[]")];
    for wrong in wrong {
        assert!(client.set_schedule("a", &wrong, KvExpect::Any).await.is_err());
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn orders_go_to_their_paths_and_what_may_act_twice_is_sent_once() {
    let server = Server::start(vec![Reply::Json(200, stored())]).await;
    let client = server.client();
    let paused = client.pause_schedule("a", Some("why")).await.unwrap();
    assert_eq!(paused.paused.unwrap().reason.as_deref(), Some("why"));
    assert_eq!((paused.runs[0].job.unwrap().to_string().as_str(), paused.backfills[0].pace_ms), (ID, 5));
    client.resume_schedule("a").await.unwrap();
    client.schedule("a").await.unwrap();
    client.abort_backfill("a", "b/c").await.unwrap();
    client.delete_schedule("a", KvExpect::Version(3)).await.unwrap();
    let lines: Vec<_> = server.seen().into_iter().map(|seen| seen.line).collect();
    let expected = [
        "POST /v1/schedules/a/pause",
        "POST /v1/schedules/a/resume",
        "GET /v1/schedules/a",
        "DELETE /v1/schedules/a/backfills/b%2Fc",
        "DELETE /v1/schedules/a",
    ];
    assert_eq!(lines, expected);

    let server = Server::start(vec![Reply::Broken]).await;
    let backfill = NewBackfill { from: at(1), to: at(9), pace: Duration::from_millis(250) };
    assert!(server.client().skip_schedule("a").await.is_err());
    assert!(server.client().backfill_schedule("a", &backfill).await.is_err());
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    let body = json!({"from": "1970-01-01T00:00:01Z", "to": "1970-01-01T00:00:09Z", "pace_ms": 250, "dry_run": false});
    assert_eq!(serde_json::from_str::<Value>(&seen[1].body).unwrap(), body);
}

#[tokio::test]
async fn a_run_by_hand_is_a_job_or_a_workflow_and_starts_once() {
    let server = Server::start(vec![
        Reply::Broken,
        Reply::Json(202, job("queued")),
        Reply::Json(202, json!({"id": ID, "state": "running"})),
    ])
    .await;
    let client = server.client();
    let ScheduleStarted::Job(started) = client.run_schedule("a").await.unwrap() else { panic!("a job") };
    assert_eq!(started.id.to_string(), ID);
    let ScheduleStarted::Workflow(_) = client.run_schedule("a").await.unwrap() else { panic!("a workflow") };
    let keys: Vec<_> = server.seen().iter().map(|seen| header(seen, "idempotency-key").unwrap()).collect();
    assert!(keys[0] == keys[1] && keys[1] != keys[2]);
}

#[tokio::test]
async fn times_and_history_are_read_page_by_page() {
    let fire = json!({"number": 9, "verdict": "missed", "at": "x", "nominal_at": "y", "through": "z", "count": 3, "by_hand": false});
    let server = Server::start(vec![
        Reply::Json(200, json!({"items": [fire], "next_cursor": "c"})),
        Reply::Json(
            200,
            json!({"describe": "d", "items": [], "note": "there is no other one", "zone_database": "2026a"}),
        ),
        Reply::Json(200, json!({"items": []})),
        Reply::Json(200, json!({"items": [stored()], "next_cursor": null})),
    ])
    .await;
    let client = server.client();
    let fires = client.fires("a", 5, Some("b")).await.unwrap();
    assert_eq!((fires.items[0].count, fires.next_cursor.as_deref()), (Some(3), Some("c")));
    let next = client.next_times("a", 7, Some(at(1))).await.unwrap();
    assert_eq!(next.note.as_deref(), Some("there is no other one"));
    client.preview_times(&ScheduleWhen::solar("sunset", 52.5, 13.4), Some("UTC"), 3).await.unwrap();
    let filter =
        ScheduleFilter { state: Some(ScheduleState::Active), source: Some("file:a".into()), ..Default::default() };
    assert_eq!(client.schedules(&filter).await.unwrap().items[0].describe, "Every minute");
    let lines: Vec<_> = server.seen().iter().map(|seen| seen.line.clone()).collect();
    let expected = [
        "GET /v1/schedules/a/fires?limit=5&cursor=b",
        "GET /v1/schedules/a/next?count=7&from=1970-01-01T00%3A00%3A01Z",
        "POST /v1/schedules/preview",
        "GET /v1/schedules?state=active&source=file%3Aa",
    ];
    assert_eq!(lines, expected);
}
