//! `TestApp`: the whole router over an in-memory broker, a fake inspector, and a worker played by hand.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;
use umbel_api::{Api, ApiConfig, NewToken, create_token, router};
use umbel_broker::{Broker, Claim, DEFAULT_LEASE_MS, Delivery, LimitedTenants, Limits, Settle, Settled};
use umbel_broker_conformance::MemoryBroker;
use umbel_model::{Declared, Digest, ModuleInfo, QueueName, Resolution, TaskDescription, TenantId, Token, WorkerId};
use umbel_modules::{InspectError, Inspector, ModuleStore};

/// Takes "modules" that are JSON, `{"tasks": […], "declares": [[null, "kv x"]]}`; refuses `refuse <code>` with that code; panics at `panic`.
#[derive(Debug)]
struct FakeInspector;

#[async_trait::async_trait]
impl Inspector for FakeInspector {
    async fn inspect(&self, _: &TenantId, module: Bytes) -> Result<ModuleInfo, InspectError> {
        let text = String::from_utf8_lossy(&module).into_owned();
        assert!(text != "panic", "asked to");
        if let Some(code) = text.strip_prefix("refuse ") {
            let transient = code == "compile_timeout";
            return Err(InspectError { code: code.into(), message: format!("refused for {code}"), transient });
        }
        let value: Value = serde_json::from_slice(&module).unwrap_or_default();
        let tasks = serde_json::from_value(value["tasks"].clone()).map_err(|e| InspectError {
            code: "not_wasm".into(),
            message: e.to_string(),
            transient: false,
        })?;
        let tasks: Vec<TaskDescription> = tasks;
        let names: Vec<_> = tasks.iter().map(|task| task.name.clone()).collect();
        let texts = |list: &Value| serde_json::from_value::<Vec<(Option<String>, String)>>(list.clone()).unwrap();
        let declared = if value["declares"].is_null() { Vec::new() } else { texts(&value["declares"]) };
        let declared = declared.iter().map(|(task, text)| (task.as_deref(), text.as_str()));
        let permissions = Declared::read(declared, &names).map_err(|e| InspectError {
            code: "invalid_permission".into(),
            message: e.to_string(),
            transient: false,
        })?;
        Ok(ModuleInfo {
            digest: Digest::of(&module),
            size_bytes: module.len() as u64,
            core_module: false,
            imports: vec!["umbel:task/context@0.1.0".into()],
            tasks,
            permissions: Some(permissions),
            pushed_at: None,
            deleted_at: None,
        })
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {:?}", self.bytes))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// The JSON of a success of this status.
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// The JSON of a problem with this status and code, its form checked.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        let shown = String::from_utf8_lossy(&self.bytes).into_owned();
        assert_eq!(self.header("content-type"), "application/problem+json", "{shown}");
        let problem = self.json();
        assert_eq!((self.status.as_u16(), problem["code"].as_str()), (status, Some(code)), "{shown}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:umbel:error:{code}"));
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["retryable"].is_boolean());
        problem
    }
}

/// The API under test.
#[derive(Debug)]
pub struct TestApp {
    pub api: Arc<Api>,
    pub router: Router,
    pub broker: Arc<dyn Broker>,
    pub token: String,
    pub folder: TempDir,
}

/// What a `TestApp` is made of.
#[derive(Debug, Default)]
pub struct Builder {
    pub config: ApiConfig,
    pub limits: Limits,
    pub broker: Option<Arc<dyn Broker>>,
}

impl Builder {
    pub async fn build(self) -> TestApp {
        let broker = self.broker.unwrap_or_else(|| Arc::new(MemoryBroker::new(Default::default(), self.limits)));
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::local(folder.path()).await.unwrap();
        let token = token_of(&*broker, "t1", true).await;
        let api = Arc::new(Api::new(self.config, broker.clone(), store, Arc::new(FakeInspector)));
        let router = router(api.clone());
        TestApp { api, router, broker, token, folder }
    }
}

impl TestApp {
    pub async fn new() -> Self {
        Builder::default().build().await
    }

    /// With the tasks `add(x: integer, y: integer = 2)` and `echo(value)`.
    pub async fn with_tasks() -> Self {
        let app = Self::new().await;
        app.push(&example_module()).await.ok(201);
        app
    }

    pub async fn other_tenant(&self) -> String {
        token_of(&*self.broker, "t2", false).await
    }

    /// Where modules and large values lie.
    pub async fn store(&self) -> ModuleStore {
        ModuleStore::local(self.folder.path()).await.unwrap()
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    /// A request with the token.
    pub fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", self.token))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: impl ToString) -> Answer {
        self.with_headers("POST", path, &[], body).await
    }

    pub async fn patch(&self, path: &str, body: impl ToString) -> Answer {
        self.with_headers("PATCH", path, &[], body).await
    }

    pub async fn with_headers(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl ToString,
    ) -> Answer {
        let mut request = self.request(method, path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    pub async fn push(&self, module: &str) -> Answer {
        self.push_with("/v1/modules", &[], module).await
    }

    pub async fn push_with(&self, path: &str, headers: &[(&str, &str)], module: &str) -> Answer {
        let mut request = self.request("POST", path).header("content-type", "application/wasm");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(module.to_owned())).unwrap()).await
    }

    pub async fn batch(&self, lines: &str) -> Answer {
        let request = self.request("POST", "/v1/jobs/batch").header("content-type", "application/x-ndjson");
        self.send(request.body(Body::from(lines.to_owned())).unwrap()).await
    }

    /// Submits `add(1)` and answers its id.
    pub async fn submit_add(&self, options: Value) -> String {
        let body = json!({"task": "add", "args": [1], "options": options});
        id_of(&self.post("/v1/jobs", body).await.ok(202))
    }

    /// Claims one job of the queue `default`.
    pub async fn claim(&self) -> Delivery {
        self.try_claim().await.expect("a job is ready")
    }

    pub async fn try_claim(&self) -> Option<Delivery> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).unwrap();
        let claim = Claim {
            worker: WorkerId::new("w1").unwrap(),
            queues: vec![QueueName::default()].into(),
            max: 1,
            lease_ms: DEFAULT_LEASE_MS,
            token_seed: Token::new(hex::encode(seed)).unwrap(),
            limited: LimitedTenants::default(),
            in_row: 1,
        };
        self.broker.claim(&claim).await.unwrap().pop()
    }

    pub async fn settle(&self, delivery: &Delivery, resolution: Resolution) {
        let settle = Settle {
            tenant: delivery.tenant.clone(),
            id: delivery.id,
            token: delivery.token.clone(),
            resolution,
            record: None,
            progress: None,
            logs: Vec::new(),
            growth: None,
            blobs: None,
        };
        assert_eq!(self.broker.settle(&[settle], None).await.unwrap().0, [Settled::Recorded]);
    }

    /// Runs what is ready until nothing is: a task's result is what `run` makes of its node, and `None` fails it.
    pub async fn run(&self, run: impl Fn(&Delivery) -> Option<Value>) -> usize {
        let mut count = 0;
        while let Some(delivery) = self.try_claim().await {
            count += 1;
            let resolution = match run(&delivery) {
                Some(value) => Resolution::Succeed { result: Some(raw(&value.to_string())) },
                None => Resolution::Fail { failure: umbel_model::Failure::new("Void", "void order") },
            };
            self.settle(&delivery, resolution).await;
        }
        count
    }

    /// Submits, claims and fails a job: answers the id of a dead one.
    pub async fn dead_job(&self) -> String {
        let id = self.submit_add(json!({})).await;
        let delivery = self.claim().await;
        assert_eq!(delivery.id.to_string(), id);
        self.settle(&delivery, Resolution::Fail { failure: umbel_model::Failure::new("Void", "void order") }).await;
        id
    }
}

/// A new token of a tenant.
pub async fn token_of(broker: &dyn Broker, tenant: &str, operator: bool) -> String {
    let tenant = TenantId::new(tenant).unwrap();
    create_token(broker, NewToken { tenant: &tenant, name: "test", operator, grant: false, lives_ms: None })
        .await
        .unwrap()
}

pub fn id_of(job: &Value) -> String {
    job["id"].as_str().unwrap().to_owned()
}

pub fn raw(json: &str) -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string(json.to_owned()).unwrap()
}

/// A module whose `add` is described by `text`.
pub fn module_with(text: &str) -> String {
    json!({"tasks": [
        {
            "name": "add",
            "description": text,
            "parameters": [
                {"name": "x", "schema": {"type": "integer"}},
                {"name": "y", "schema": {"type": "integer"}, "default": 2},
            ],
            "policy": {"max_retries": 1},
        },
        {"name": "echo", "parameters": [{"name": "value", "schema": true}]},
    ]})
    .to_string()
}

pub fn example_module() -> String {
    module_with("Adds two numbers.")
}
