//! The client against a tiny server that answers what it is told to.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    canvas::{group, task},
    *,
};

mod life;
mod schedules;
mod tls;

const ID: &str = "01J00000000000000000000000";

/// A reaction of the server to a request.
#[derive(Clone)]
enum Reply {
    Json(u16, Value),
    /// The connection breaks after the request was read.
    Broken,
    /// An answer with this header, and the connection closed behind it.
    Headed(u16, &'static str, String),
    /// So much of a longer answer, and then the connection breaks.
    Half(String),
}

impl Reply {
    fn text(self) -> Option<String> {
        let (status, header, length, body) = match self {
            Self::Broken => return None,
            Self::Json(status, Value::String(text)) => (status, "x: y", text.len(), text),
            Self::Json(status, body) => (status, "x: y", body.to_string().len(), body.to_string()),
            Self::Headed(status, header, body) => (status, header, body.len(), body),
            Self::Half(body) => (200, "content-type: text/event-stream", body.len() + 1, body),
        };
        let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\n{header}\r\ncontent-length: {length}\r\n\r\n");
        Some(head + &body)
    }
}

/// A request as it came: its first line, head and body.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    head: String,
    body: String,
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answers request by request; the last reply again and again.
    async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        tokio::spawn(async move {
            let mut n = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                // One request a connection: what breaks is never one that was used before.
                let Some(request) = read(&mut stream).await else { continue };
                kept.lock().unwrap().push(request);
                let reply = replies[n.min(replies.len() - 1)].clone();
                n += 1;
                if let Some(text) = reply.text() {
                    let _ = stream.write_all(text.as_bytes()).await;
                }
            }
        });
        Self { url, seen }
    }

    fn client(&self) -> Client {
        let retry = Retry { times: 3, first: Duration::from_millis(1), longest: Duration::from_millis(2) };
        Client::with_options(&self.url, "the-token", &ClientOptions::default().retry(retry)).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let (head, mut body) = loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break (String::from_utf8(bytes[..at].to_vec()).unwrap(), bytes[at + 4..].to_vec());
        }
    };
    let length = head.to_lowercase().lines().find_map(|line| Some(line.strip_prefix("content-length: ")?.to_owned()));
    let length: usize = length.map_or(0, |text| text.trim().parse().unwrap());
    while body.len() < length {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        body.extend_from_slice(&buffer[..n]);
    }
    let line = head.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned();
    Some(Seen { line, head, body: String::from_utf8(body).unwrap() })
}

fn job(state: &str) -> Value {
    json!({"id": ID, "task": "add", "state": state, "queue": "default", "attempt": 1, "created_at": "now", "new": 1})
}

fn problem(status: u16, code: &str) -> Value {
    json!({"type": "urn:x", "title": "Refused", "status": status, "detail": "d", "code": code, "retryable": true})
}

fn header(seen: &Seen, name: &str) -> Option<String> {
    let prefix = format!("{name}: ");
    seen.head.lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
}

#[tokio::test]
async fn a_submission_is_repeated_with_one_key_when_its_connection_breaks() {
    let server = Server::start(vec![Reply::Broken, Reply::Broken, Reply::Json(202, job("queued"))]).await;
    let job = server.client().submit(task("add").args((2, 3)).queue("fast")).await.unwrap();
    assert_eq!((job.id.to_string().as_str(), job.state), (ID, JobState::Queued));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    let keys: Vec<_> = seen.iter().map(|s| header(s, "idempotency-key").unwrap()).collect();
    assert!(keys[0].len() == 32 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(header(&seen[0], "authorization").unwrap(), "Bearer the-token");
    let body: Value = serde_json::from_str(&seen[2].body).unwrap();
    assert_eq!(body, json!({"task": "add", "args": [2, 3], "kwargs": {}, "options": {"queue": "fast"}}));
}

#[tokio::test]
async fn what_may_act_twice_is_sent_once() {
    let server = Server::start(vec![Reply::Broken, Reply::Json(202, json!({"id": ID}))]).await;
    let id = ID.parse().unwrap();
    let error = server.client().cancel(id).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
    let resumed = server.client().resume_workflow(id, Digests::Current).await.unwrap();
    assert_eq!(resumed.state, WorkflowState::Running);
    assert_eq!(server.seen()[1].body, r#"{"digest":"current"}"#);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_and_then_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let retry = Retry { times: 2, first: Duration::from_millis(1), longest: Duration::from_millis(1) };
    let client = Client::with_options(&url, "t", &ClientOptions::default().retry(retry)).unwrap();
    let error = client.cancel(ID.parse().unwrap()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().starts_with(&url), "{error}");
}

#[tokio::test]
async fn reads_are_repeated_while_the_server_is_away_and_no_longer() {
    let away = Reply::Json(503, problem(503, "broker_unavailable"));
    let server = Server::start(vec![away.clone(), away.clone(), Reply::Json(200, job("running"))]).await;
    assert_eq!(server.client().job(ID.parse().unwrap()).await.unwrap().state, JobState::Running);
    let server = Server::start(vec![away]).await;
    let error = server.client().job(ID.parse().unwrap()).await.unwrap_err();
    assert_eq!((error.code(), error.status(), server.seen().len()), (Some("broker_unavailable"), Some(503), 4));
}

#[tokio::test]
async fn a_refusal_is_typed_and_not_repeated() {
    let body = json!({"title": "No", "status": 422, "detail": "d", "code": "invalid_arguments", "retryable": false,
        "errors": [{"pointer": "/canvas/chain/1/args", "detail": "too many"}]});
    let server = Server::start(vec![Reply::Json(422, body)]).await;
    let error = server.client().submit_workflow(task("a"), &WorkflowOptions::default()).await.unwrap_err();
    let Error::Problem(problem) = error else { panic!("a problem") };
    assert_eq!(
        (problem.code.as_str(), problem.errors[0].pointer.as_str()),
        ("invalid_arguments", "/canvas/chain/1/args")
    );
    assert_eq!(server.seen().len(), 1);
    let server = Server::start(vec![Reply::Json(200, Value::from("<html>"))]).await;
    assert!(matches!(server.client().job(ID.parse().unwrap()).await, Err(Error::BadAnswer)));
}

#[tokio::test]
async fn waiting_ends_with_the_job_and_gives_its_result() {
    let mut done = job("succeeded");
    done["result"] = json!(5);
    let server = Server::start(vec![Reply::Json(200, job("running")), Reply::Json(200, done)]).await;
    let job = server.client().wait(ID.parse().unwrap(), Duration::from_secs(90)).await.unwrap();
    assert_eq!(job.output::<i64>().unwrap(), 5);
    let seen = server.seen();
    // A request waits a minute at most.
    assert_eq!(seen[0].line, format!("GET /v1/jobs/{ID}?wait=60000ms"));
}

#[tokio::test]
async fn a_wait_that_is_over_says_where_the_job_stands() {
    let server = Server::start(vec![Reply::Json(200, job("retrying"))]).await;
    let error = server.client().wait(ID.parse().unwrap(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::WaitTimeout { state: "retrying", .. }), "{error}");
}

#[tokio::test]
async fn a_job_without_a_result_says_why() {
    let mut failed = job("failed");
    failed["error"] = json!({"kind": "Overflow", "message": "too large"});
    let server = Server::start(vec![Reply::Json(200, failed)]).await;
    let job = server.client().wait(ID.parse().unwrap(), Duration::ZERO).await.unwrap();
    let error = job.output::<i64>().unwrap_err();
    assert!(matches!(&error, Error::NotSucceeded { kind, .. } if kind == "Overflow"), "{error}");
}

#[tokio::test]
async fn a_workflow_that_failed_names_the_jobs_that_did() {
    let error = json!({"kind": "upstream_failed", "message": "1 failed", "frames": [],
        "details": {"failed": [{"job_id": ID, "node": 1, "task": "fib", "kind": "Overflow", "message": "m"}]}});
    let server = Server::start(vec![Reply::Json(200, json!({"id": ID, "state": "failed", "error": error}))]).await;
    let failed = server.client().workflow(ID.parse().unwrap()).await.unwrap().error.unwrap().failed_jobs();
    assert_eq!((failed.len(), failed[0].task.as_str(), failed[0].kind.as_str()), (1, "fib", "Overflow"));
}

#[tokio::test]
async fn each_line_of_a_batch_has_its_answer() {
    let answers = format!("{{\"id\":\"{ID}\"}}\n{{\"error\":{{\"code\":\"task_not_found\",\"detail\":\"b\"}}}}\n");
    let server = Server::start(vec![Reply::Json(200, answers.into())]).await;
    let client = server.client();
    let answers = client.batch([task("a").args((1,)).idempotency_key("k"), task("b")]).await.unwrap();
    assert_eq!(answers[0].id.unwrap().to_string(), ID);
    assert_eq!(answers[1].error.as_ref().unwrap().code, "task_not_found");
    let seen = &server.seen()[0];
    assert_eq!(header(seen, "content-type").unwrap(), "application/x-ndjson");
    let first: Value = serde_json::from_str(seen.body.lines().next().unwrap()).unwrap();
    assert_eq!(first["options"], json!({"idempotency_key": "k"}));
    // Three calls, two answers of which the last is a refusal: the rest was not taken.
    let error = client.batch([task("a"), task("b"), task("c")]).await.unwrap_err();
    assert!(error.to_string().starts_with("1 of 3 jobs"), "{error}");
    assert!(client.batch([]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_workflow_is_submitted_with_its_options_and_one_key() {
    let stored = json!({"id": ID, "state": "running"});
    let server = Server::start(vec![Reply::Broken, Reply::Json(202, stored)]).await;
    let options = WorkflowOptions::default().name("n").tag("t").header("k", "v").deadline(Duration::from_secs(1));
    let canvas = group([task("a").args((1,))]).then(task("b"));
    let workflow = server.client().submit_workflow(canvas, &options).await.unwrap();
    assert_eq!(workflow.state, WorkflowState::Running);
    let seen = server.seen();
    assert_eq!(header(&seen[0], "idempotency-key"), header(&seen[1], "idempotency-key"));
    let expected = json!({
        "canvas": {"chain": [{"group": [{"task": "a", "args": [1]}]}, {"task": "b"}]},
        "name": "n", "tags": ["t"], "headers": {"k": "v"}, "deadline_ms": 1000,
    });
    assert_eq!(serde_json::from_str::<Value>(&seen[1].body).unwrap(), expected);
}

#[tokio::test]
async fn a_stream_tells_each_change_once_and_ends_with_the_workflow() {
    let at = |state: &str, done: u64| {
        Reply::Json(200, json!({"id": ID, "state": state, "progress": {"total": 3, "done": done, "later": 1}}))
    };
    let replies = vec![at("running", 0), at("running", 0), at("running", 2), at("running", 2), at("succeeded", 3)];
    let server = Server::start(replies).await;
    let id = ID.parse().unwrap();
    let changes: Vec<_> = server.client().watch_workflow(id, Duration::from_millis(50)).try_collect().await.unwrap();
    let seen: Vec<_> = changes.iter().map(|w| (w.state.as_str(), w.progress.done)).collect();
    assert_eq!(seen, [("running", 0), ("running", 2), ("succeeded", 3)]);
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn an_error_ends_a_stream() {
    let server =
        Server::start(vec![Reply::Json(200, job("queued")), Reply::Json(404, problem(404, "job_not_found"))]).await;
    let found: Vec<_> = server.client().watch(ID.parse().unwrap(), Duration::ZERO).collect().await;
    assert!(found.len() == 2 && found[0].is_ok());
    assert_eq!(found[1].as_ref().unwrap_err().code(), Some("job_not_found"));
}

#[tokio::test]
async fn a_module_is_pushed_in_pieces_that_are_counted() {
    let module = json!({"digest": "sha256:0", "size_bytes": 3, "tasks": []});
    let server = Server::start(vec![Reply::Json(201, module)]).await;
    let sent = Arc::new(Mutex::new(0));
    let counter = sent.clone();
    let bytes = vec![b'x'; 100_000];
    let how = PushOptions { deploy: false, ..PushOptions::default() };
    let text = server.client().push(bytes.into(), how, move |n| *counter.lock().unwrap() += n).await.unwrap();
    assert!(text.contains("sha256:0") && *sent.lock().unwrap() == 100_000);
    let seen = server.seen();
    assert_eq!((seen[0].line.as_str(), seen[0].body.len()), ("POST /v1/modules?deploy=false", 100_000));
    assert_eq!(server.client().push_module("x").await.unwrap().digest, "sha256:0");
}

#[tokio::test]
async fn a_push_tells_what_it_does_to_each_task() {
    let change = json!({"task": "add", "change": "taken_over", "from": "sha256:1",
        "fields": [{"field": "policy.fuel", "change": "added", "to": 7}]});
    let module = json!({"digest": "sha256:0", "size_bytes": 1, "dry_run": true, "changes": [change.clone()]});
    let server = Server::start(vec![Reply::Json(200, module)]).await;
    let how = PushOptions { take_over: true, dry_run: true, ..PushOptions::default() };
    let told = server.client().push_module_with("x", how).await.unwrap();
    assert_eq!(server.seen()[0].line, "POST /v1/modules?deploy=true&take_over=true&dry_run=true");
    assert!(told.dry_run && told.changes[0].fields[0].to == Some(json!(7)));
    assert_eq!((told.changes[0].change.as_str(), told.changes[0].from.as_deref()), ("taken_over", Some("sha256:1")));
}

#[tokio::test]
async fn a_token_that_no_header_takes_is_not_called_unreachable() {
    let client = Client::new("http://127.0.0.1:9", "a\nb").unwrap();
    let error = client.job(ID.parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Request(_)), "{error}");
}

#[tokio::test]
async fn a_tree_is_read_with_all_that_is_nested_in_it() {
    let text = format!(
        r#"{{"workflow": "{ID}", "nodes_left_out": 9, "kind": "chord", "state": "running", "count": 5, "left_out": 4,
            "members": [{{"kind": "task", "task": "a", "job": "{ID}", "error": "Bad", "link_error": [{{"kind": "task"}}]}}],
            "body": {{"kind": "chain", "steps": [{{"kind": "task", "state": "waiting", "later": 1}}]}}}}"#
    );
    let server = Server::start(vec![Reply::Json(200, text.into())]).await;
    let tree = server.client().workflow_tree(ID.parse().unwrap()).await.unwrap();
    assert_eq!((tree.kind.as_str(), tree.count, tree.left_out), ("chord", Some(5), Some(4)));
    assert_eq!((tree.members[0].error.as_deref(), tree.members[0].link_error.len()), (Some("Bad"), 1));
    assert_eq!(tree.body.unwrap().steps[0].state.as_deref(), Some("waiting"));
}

#[tokio::test]
async fn nodes_come_with_their_edges() {
    let nodes = json!({"items": [
        {"number": 0, "kind": "gate", "state": "waiting", "after": null, "when": "success", "takes": false,
            "next": [{"first": 3, "count": 1}], "group": null, "members": [{"first": 1, "count": 2}],
            "on_failure": "fail", "job": null, "retries": 0, "error": null},
        {"number": 1, "kind": "job", "task": "a", "state": "running", "next": [], "group": 0, "on_failure": "ignore",
            "job": ID, "when": "failure"},
    ], "next_from": 2});
    let server = Server::start(vec![Reply::Json(200, nodes)]).await;
    let page = server.client().workflow_nodes(ID.parse().unwrap(), 0, 2).await.unwrap();
    assert_eq!(server.seen()[0].line, format!("GET /v1/workflows/{ID}/nodes?from=0&max=2"));
    assert_eq!((page.next_from, page.items[0].members[0].count), (Some(2), 2));
    assert_eq!((page.items[1].on_failure, page.items[1].state), (OnFailure::Ignore, JobState::Running));
}

#[tokio::test]
async fn a_result_that_was_left_out_is_not_taken_for_null() {
    let workflow = json!({"id": ID, "state": "succeeded", "result_omitted": "too_large"});
    let server = Server::start(vec![Reply::Json(200, workflow)]).await;
    let workflow = server.client().wait_workflow(ID.parse().unwrap(), Duration::ZERO).await.unwrap();
    let error = workflow.output::<Option<i64>>().unwrap_err();
    assert!(matches!(&error, Error::ResultOmitted { why, .. } if why == "too_large"), "{error}");
}

/// The example of the front page is the one that is compiled here.
#[test]
fn the_readme_of_the_project_shows_an_example_that_compiles() {
    let block = |text: &str| -> Vec<String> {
        let fenced = text.split("```rust").skip(1).filter_map(|rest| rest.split("```").next());
        let code = fenced.filter(|code| code.contains("umbel_client::"));
        let shown =
            |code: &str| code.lines().skip(1).filter(|line| !line.starts_with("# ")).collect::<Vec<_>>().join("\n");
        code.map(shown).collect()
    };
    let compiled = block(include_str!("../README.md"));
    assert_eq!(compiled.len(), 1);
    for shown in block(include_str!("../../../README.md")) {
        assert_eq!(shown, compiled[0]);
    }
}

#[tokio::test]
async fn a_refusal_for_too_many_requests_comes_again_when_the_server_says() {
    let refusal = json!({"code": "too_many_requests", "title": "busy", "retryable": true}).to_string();
    let refused = Reply::Headed(429, "retry-after: 0", refusal);
    let mut replies = vec![refused; 6];
    replies.push(Reply::Json(202, json!({"id": ID})));
    let server = Server::start(replies).await;
    // Neither safe to repeat nor refused only as often as broken connections are borne.
    let text = server.client().post("/v1/jobs").json(&json!({"task": "t"})).text().await.unwrap();
    assert!(text.contains(ID));
    assert_eq!(server.seen.lock().unwrap().len(), 7);
}
