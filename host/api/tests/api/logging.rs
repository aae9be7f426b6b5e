//! What the log says of a request, and what it never says.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::app::{TestApp, example_module};

#[derive(Debug, Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_log_names_request_tenant_and_job_and_no_secret_and_no_raw_text() {
    let captured = Captured::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(captured.clone());
    // For the whole process: one for this thread would race with the other tests over which places are listened to.
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let app = TestApp::new().await;
    app.push(&example_module()).await.ok(201);
    let secret = "hunter2\u{1b}[31m\nfake line";
    let body = json!({"task": "echo", "args": [secret], "options": {"idempotency_key": "hunter2"}});
    let job = app.with_headers("POST", "/v1/jobs", &[("x-request-id", "req-7")], body).await.ok(202);
    app.post("/v1/jobs", json!({"task": secret})).await.problem(404, "task_not_found");
    app.get("/v1/jobs/%1b%5b31m?wait=0s").await.problem(404, "job_not_found");
    app.push("panic").await.problem(500, "internal");
    let (token, id) = (app.token, crate::app::id_of(&job));
    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    for told in ["request_id=\"req-7\"", "tenant=\"t1\"", &format!("job={id}"), "module pushed", "a handler panicked"] {
        assert!(log.contains(told), "{told} is not in the log:\n{log}");
    }
    for never in [&*token, "hunter2", "\u{1b}", "fake line"] {
        assert!(!log.contains(never), "{never:?} is in the log:\n{log}");
    }
}
