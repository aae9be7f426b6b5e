//! Secrets in requests: the value reaches the hosts it was set for, in the places it was set for, and no byte is sent otherwise.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use umbel_capabilities::{
    AttemptSecrets, SecretError, SecretStore,
    http::{AttemptHttp, GuestBody, HttpError, OwnAddresses, Timeouts},
};
use umbel_model::{Digest, SecretName, TenantId};
use umbel_secrets::{DataKey, MasterKeys, Sealed, SecretRecord, SecretValue, Terms};

use crate::{
    dns::Reply,
    server::{Server, read_head},
    world::{Answered, OPEN, PUBLIC, World, config, empty, full, ip, read},
};

const VALUE: &str = "correct \"horse\" battery";

#[derive(Debug)]
struct One(Arc<Sealed>);

#[async_trait]
impl SecretStore for One {
    async fn find(&self, name: &SecretName) -> Result<Arc<Sealed>, SecretError> {
        (name == self.0.name()).then(|| self.0.clone()).ok_or_else(|| SecretError::NotFound(name.to_string()))
    }
}

struct Case {
    world: World,
    server: Server,
    attempt: Arc<AttemptHttp>,
    placeholder: String,
}

/// A server that answers with what it got, twice in the same connection; and a secret that is for it.
async fn case(body: bool) -> Case {
    case_at(PUBLIC, body).await
}

/// The same of a secret that is for the server by this name.
async fn case_at(host: &str, body: bool) -> Case {
    let mut config = config();
    config.time.resolve_ms = 10_000;
    let world = World::with(config, OwnAddresses::default());
    world.grants.set(OPEN, &[OPEN, &["secret key"]].concat());
    world.grants.set(&[OPEN, &["secret key"]].concat(), &[OPEN, &["secret key"]].concat());
    let server = Server::start(&format!("{PUBLIC}:0"), echo).await;
    let host = format!("http://{host}:{}", server.port());
    let mut masters = MasterKeys::default();
    masters.add(&"0123456789abcdef".repeat(4), "test").unwrap();
    let (tenant, name) = (TenantId::new("t").unwrap(), SecretName::new("key").unwrap());
    let key = Arc::new(DataKey::generate(&tenant, masters.current().unwrap(), 1, None).unwrap().0);
    let terms = Terms { hosts: vec![host.parse().unwrap()], body, reveal: false };
    let value = SecretValue::new(VALUE.into());
    let record = SecretRecord::seal(&tenant, &name, 1, &terms, None, 1, &key, &value).unwrap();
    let sealed = Arc::new(Sealed::new(tenant.clone(), name.clone(), record, 1, key).unwrap());
    let secrets = AttemptSecrets::new(Arc::new(One(sealed)), world.grants.clone());
    let placeholder = secrets.placeholder(&name).await.unwrap();
    let module = Digest::of(b"module");
    let attempt = world.client.attempt(tenant, module, world.grants.clone(), world.meter.clone(), secrets);
    Case { world, server, attempt, placeholder }
}

/// Answers with the head and the body of each request: base64 of them, and then themselves, also in a field.
async fn echo(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream).await {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let got = [head.as_bytes(), &body].concat();
        let key = head.lines().find_map(|line| line.strip_prefix("x-key: ")).unwrap_or_default();
        // Reversed: what a server changes so is not found in its answer.
        let reversed: Vec<u8> = got.iter().rev().copied().collect();
        let length = reversed.len() + got.len();
        let answer = format!("HTTP/1.1 200 OK\r\nx-echo: {key}\r\ncontent-length: {length}\r\n\r\n");
        let _ = stream.write_all(&[answer.as_bytes(), &reversed, &got].concat()).await;
    }
}

impl Case {
    fn url(&self, path: &str) -> String {
        format!("http://{PUBLIC}:{}{path}", self.server.port())
    }

    async fn send(&self, request: Request<GuestBody>) -> (Result<Answered, HttpError>, Option<String>) {
        let sent = self.attempt.clone().send(request, Timeouts::default()).await;
        match sent.answer {
            Ok(answer) => (read(answer).await, sent.notice),
            Err(error) => (Err(error), sent.notice),
        }
    }

    /// What the server got, and what it sent back as it is.
    async fn got(&self, request: Request<GuestBody>) -> (String, String) {
        let body = self.send(request).await.0.unwrap().body;
        let (reversed, back) = body.split_at(body.len() / 2);
        let got = reversed.iter().rev().copied().collect();
        (String::from_utf8(got).unwrap(), String::from_utf8(back.to_vec()).unwrap())
    }

    async fn refused(&self, request: Request<GuestBody>) -> String {
        let (answer, notice) = self.send(request).await;
        let error = answer.unwrap_err();
        assert!(matches!(error, HttpError::Secret(_)), "{error:?}");
        assert!(notice.unwrap().contains(&error.to_string()));
        error.to_string()
    }
}

#[tokio::test]
async fn a_secret_is_put_into_headers_and_does_not_come_back() {
    let case = case(false).await;
    let credentials = format!("Basic {}", STANDARD.encode(format!("user:{}", case.placeholder)));
    let request = || {
        let request = Request::get(case.url("/a")).header("x-key", &case.placeholder);
        request.header("authorization", &credentials).body(empty()).unwrap()
    };
    for _ in 0..2 {
        let (got, back) = case.got(request()).await;
        assert!(got.contains(&format!("x-key: {VALUE}\r\n")), "{got}");
        assert!(got.contains(&format!("authorization: Basic {}\r\n", STANDARD.encode(format!("user:{VALUE}")))));
        assert!(!back.contains("horse") && back.contains("x-key: ****"), "{back}");
        assert_eq!(got.len(), back.len());
    }
    assert_eq!(case.server.connections(), 1, "connections are kept as without secrets");
    let sent = case.attempt.clone().send(request(), Timeouts::default()).await.answer.unwrap();
    assert_eq!(sent.headers()["x-echo"], "*".repeat(VALUE.len()));
}

#[tokio::test]
async fn a_secret_is_put_into_text_bodies_if_it_was_set_for_them() {
    let open = case(true).await;
    let post = |case: &Case, kind: &str| {
        let body = format!("{{\"key\":\"{}\"}}", case.placeholder);
        let request = Request::post(case.url("/")).header("content-type", kind).header("content-length", body.len());
        request.body(full(body.clone())).unwrap()
    };
    let (got, back) = open.got(post(&open, "application/json")).await;
    assert!(got.ends_with(r#"{"key":"correct \"horse\" battery"}"#), "{got}");
    assert!(!back.contains("horse"), "{back}");
    let (got, _) = open.got(post(&open, "application/octet-stream")).await;
    assert!(got.contains(&open.placeholder), "{got}");
    // Without the right to bodies nothing is looked for in them.
    let closed = case(false).await;
    let (got, _) = closed.got(post(&closed, "application/json")).await;
    assert!(got.contains(&closed.placeholder), "{got}");
}

#[tokio::test]
async fn a_large_body_is_sent_as_it_is() {
    let case = case(true).await;
    let body = format!("{}{}", "x".repeat(300 << 10), case.placeholder);
    let request = Request::post(case.url("/")).header("content-type", "text/plain");
    let request = request.header("content-length", body.len()).body(full(body.clone())).unwrap();
    let (got, _) = case.got(request).await;
    assert!(got.ends_with(&body));
}

#[tokio::test]
async fn a_secret_for_another_host_in_the_query_or_after_a_redirect_is_refused_and_nothing_is_sent() {
    let case = case(false).await;
    let other = Server::start(&format!("{PUBLIC}:0"), echo).await;
    let url = format!("http://{PUBLIC}:{}/", other.port());
    let request = Request::get(&url).header("x-key", &case.placeholder).body(empty()).unwrap();
    let said = case.refused(request).await;
    assert!(said.contains("`key` may not be sent to") && said.contains(&case.url("")), "{said}");
    let query = Request::get(case.url(&format!("/?key={}", case.placeholder))).body(empty()).unwrap();
    assert!(case.refused(query).await.contains("URL"));
    let credentials = format!("Basic {}", STANDARD.encode(format!("{}:", case.placeholder)));
    let request = Request::get(&url).header("authorization", credentials).body(empty()).unwrap();
    case.refused(request).await;
    assert_eq!((other.connections(), case.server.connections()), (0, 0));
}

#[tokio::test]
async fn a_secret_whose_grant_was_taken_back_is_refused_at_the_next_request() {
    let case = case(false).await;
    let request = || Request::get(case.url("/")).header("x-key", &case.placeholder).body(empty()).unwrap();
    case.got(request()).await;
    case.world.grants.set(OPEN, OPEN);
    assert!(case.refused(request()).await.contains("secret key"));
}

/// Longer than what was looked up for a request holds.
const LONG: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_grant_that_is_taken_back_while_the_guest_writes_its_body_holds_for_the_request() {
    let case = case(true).await;
    let (grants, text) = (case.world.grants.clone(), "some text");
    // The guest's last words come when the head of its request was checked long ago.
    let last_words = async move {
        tokio::time::sleep(LONG / 7).await;
        grants.set(OPEN, OPEN);
        tokio::time::sleep(LONG).await;
        Ok::<_, HttpError>(Frame::data(text.into()))
    };
    let body = StreamBody::new(futures::stream::once(last_words)).boxed_unsync();
    let request = Request::post(case.url("/")).header("x-key", &case.placeholder).header(CONTENT_TYPE, "text/plain");
    assert!(case.refused(request.body(body).unwrap()).await.contains("secret key"));
    assert_eq!(case.server.connections(), 0);
}

#[tokio::test]
async fn a_grant_that_is_taken_back_while_a_connection_is_made_holds_for_the_request() {
    for is_in_body in [false, true] {
        let case = case_at("slow.test", true).await;
        let (grants, is_slow) = (case.world.grants.clone(), AtomicBool::new(true));
        case.world.dns.name("slow.test", move |_| {
            if is_slow.swap(false, Ordering::Relaxed) {
                grants.set(OPEN, OPEN);
                std::thread::sleep(LONG);
            }
            Reply::Addresses(vec![ip(PUBLIC)], 60)
        });
        let request = Request::post(format!("http://slow.test:{}/", case.server.port()));
        let request = request.header(CONTENT_TYPE, "text/plain");
        let request = if is_in_body {
            request.body(full(case.placeholder.clone()))
        } else {
            request.header("x-key", &case.placeholder).body(empty())
        };
        assert!(case.refused(request.unwrap()).await.contains("secret key"), "in the body: {is_in_body}");
    }
}
