//! Rules, grants and pools: who may send what, and whose connection is whose.

use std::sync::Arc;

use http::{Method, Request};
use umbel_capabilities::{
    Layer, Unavailable,
    http::{HttpError, OwnAddresses, Sent},
};

use crate::{
    dns::Reply,
    server::{OK, Server, read_head},
    world::{Guarded, OPEN, PUBLIC, World, config, empty, error, get, ip},
};

fn denied(answer: Result<crate::world::Answered, HttpError>) -> (String, Layer) {
    match error(answer) {
        HttpError::Denied(denied) => (denied.missing, denied.layer),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_that_no_rule_allows_is_denied_and_names_the_permission() {
    let world = World::new();
    let guarded = Guarded::start().await;
    world.grants.set(&[], OPEN);
    let port = guarded.port();
    let (missing, layer) = denied(world.get(&format!("https://API.Example.com.:{port}/secret?x=1")).await);
    assert_eq!((missing, layer), (format!("http GET https://api.example.com:{port}/"), Layer::Module));
    world.grants.set(OPEN, &[]);
    let (_, layer) = denied(world.get(&format!("http://{PUBLIC}:{port}/")).await);
    assert_eq!(layer, Layer::Operator);
    assert_eq!(guarded.server.connections(), 0);
    guarded.assert_untouched().await;
}

#[tokio::test]
async fn a_rule_for_https_does_not_allow_http() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    world.grants.set(&["http https://*:*"], OPEN);
    denied(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn rules_match_method_port_host_and_path() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    world.public_name("api.test");
    let port = server.port();
    world.grants.set(&[&format!("http GET http://api.test:{port}/v1/")], OPEN);
    assert_eq!(world.get(&format!("http://api.test:{port}/v1/x?y=../..")).await.unwrap().status, 200);
    for url in [
        format!("http://api.test:{port}/v2/"),
        format!("http://api.test:{port}/v1/../v2/"),
        format!("http://api.test:{port}/v1/%2e%2e/v2/"),
        format!("http://api.test:{}/v1/", port ^ 1),
        format!("http://other.test:{port}/v1/"),
        format!("http://{PUBLIC}:{port}/v1/"),
    ] {
        denied(world.get(&url).await);
    }
    let post = Request::post(format!("http://api.test:{port}/v1/x")).body(empty()).unwrap();
    assert!(matches!(world.send(post).await.answer, Err(HttpError::Denied(_))));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn connect_and_trace_are_refused() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    for method in [Method::CONNECT, Method::TRACE, "Trace".parse().unwrap()] {
        let url = format!("http://{PUBLIC}:{}/", server.port());
        let request = Request::builder().method(method).uri(url).body(empty()).unwrap();
        let failed = world.send(request).await.answer.map(|_| ());
        assert!(matches!(failed, Err(HttpError::Method(_))), "{failed:?}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn other_schemes_are_refused() {
    let world = World::new();
    let guarded = Guarded::start().await;
    for scheme in ["ftp", "file", "ws", "gopher", "unix", "HTTPX"] {
        let failed = error(world.get(&format!("{scheme}://{PUBLIC}:{}/", guarded.port())).await);
        assert!(matches!(failed, HttpError::InvalidUrl(_)), "{scheme}: {failed:?}");
    }
    assert_eq!(guarded.server.connections(), 0);
}

#[tokio::test]
async fn a_grant_that_is_revoked_holds_at_the_next_request_though_a_connection_waits() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let url = format!("http://{PUBLIC}:{}/", server.port());
    world.get(&url).await.unwrap();
    world.grants.set(&[], OPEN);
    denied(world.get(&url).await);
}

#[tokio::test]
async fn a_connection_that_waits_is_not_used_when_its_address_is_closed_again() {
    let world = World::new();
    let (server, heads) = Server::recording(&format!("{PUBLIC}:0")).await;
    let url = format!("http://{PUBLIC}:{}/", server.port());
    world.get(&url).await.unwrap();
    let rules = ["http http://*:*"];
    world.grants.set(&rules, &rules);
    let failed = error(world.get(&url).await);
    assert!(matches!(failed, HttpError::AddressRefused { .. }), "{failed:?}");
    assert_eq!(heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_is_allowed_while_grants_cannot_be_looked_up() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    *world.grants.0.lock().unwrap() = Err(Unavailable);
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert_eq!(failed, HttpError::GrantsUnavailable);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn reporting_lets_a_missing_rule_pass_and_no_address() {
    let mut config = config();
    config.report_only = true;
    let world = World::with(config, OwnAddresses::default());
    world.grants.set(&[], &["network 127.0.1.0/24"]);
    let guarded = Guarded::start().await;
    let request = |host: &str| Request::get(format!("http://{host}:{}/", guarded.port())).body(empty()).unwrap();
    let Sent { answer, notice } = world.send(request(PUBLIC)).await;
    assert_eq!(answer.unwrap().status(), 200);
    let notice = notice.unwrap();
    assert!(notice.contains("would be denied") && notice.contains("http GET http://127.0.1.1"), "{notice}");
    assert!(matches!(world.send(request("127.0.0.1")).await.answer, Err(HttpError::AddressRefused { .. })));
    guarded.assert_untouched().await;
}

#[tokio::test]
async fn a_redirect_is_the_guests_to_follow_and_meets_the_policy_again() {
    let world = World::new();
    let guarded = Guarded::start().await;
    for to in ["127.0.0.1", "[::1]", "169.254.169.254", "127.0.0.2"] {
        let location = format!("http://{to}:{}/", guarded.port());
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let redirecting = Server::answering(&format!("{PUBLIC}:0"), answer).await;
        let first = Request::get(format!("http://{PUBLIC}:{}/", redirecting.port())).body(empty()).unwrap();
        let answer = world.send(first).await.answer.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()),
            (302, location.as_str())
        );
        assert!(matches!(error(world.get(&location).await), HttpError::AddressRefused { .. }), "{to}");
    }
    guarded.assert_untouched().await;
}

#[tokio::test]
async fn a_connection_serves_the_next_request_of_its_module() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let url = format!("http://{PUBLIC}:{}/", server.port());
    for _ in 0..5 {
        world.get(&url).await.unwrap();
    }
    get(&world.attempt_of("t", b"module"), &url).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_serves_no_other_module_tenant_or_host() {
    let world = World::new();
    world.public_name("one.test");
    world.public_name("two.test");
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let url = |host: &str| format!("http://{host}:{}/", server.port());
    get(&world.attempt_of("t", b"module"), &url("one.test")).await.unwrap();
    get(&world.attempt_of("t", b"other"), &url("one.test")).await.unwrap();
    get(&world.attempt_of("u", b"module"), &url("one.test")).await.unwrap();
    get(&world.attempt_of("t", b"module"), &url("two.test")).await.unwrap();
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn connections_that_wait_are_bounded_in_number_and_time() {
    let mut config = config();
    (config.pool.total, config.pool.per_key, config.pool.idle_ms) = (2, 2, 40);
    let world = World::with(config, OwnAddresses::default());
    let (closed, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(&format!("{PUBLIC}:0"), move |mut stream| {
        let closed = closed.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                tokio::io::AsyncWriteExt::write_all(&mut stream, OK).await.unwrap();
            }
            let _ = closed.send(());
        }
    })
    .await;
    for module in [b"a", b"b", b"c", b"d"] {
        get(&world.attempt_of("t", module), &format!("http://{PUBLIC}:{}/", server.port())).await.unwrap();
    }
    // Two are closed at once, and two when they have waited for too long.
    for _ in 0..4 {
        ends.recv().await.unwrap();
    }
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn a_waiting_connection_that_the_server_closed_is_replaced() {
    let world = World::new();
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        if read_head(&mut stream).await.is_some() {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, OK).await;
        }
    })
    .await;
    for _ in 0..5 {
        let answer = world.get(&format!("http://{PUBLIC}:{}/", server.port())).await;
        // A request that was sent just when the server closed is not repeated: it may have had an effect.
        assert!(matches!(answer, Ok(_) | Err(HttpError::Closed)), "{answer:?}");
    }
}

#[tokio::test]
async fn the_host_and_connection_of_a_request_are_ours() {
    let world = World::new();
    let (server, heads) = Server::recording(&format!("{PUBLIC}:0")).await;
    let request = Request::get(format!("http://{PUBLIC}:{}/a?b=c", server.port()))
        .header("host", "evil.test")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .header("proxy-authorization", "Basic x")
        .header("te", "trailers")
        .header("upgrade", "websocket")
        .header("x-kept", "yes")
        .body(empty())
        .unwrap();
    world.send(request).await.answer.unwrap();
    let head = heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /a?b=c http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {PUBLIC}:{}\r\n", server.port())) && head.contains("x-kept: yes"), "{head}");
    for gone in ["evil", "x-hop", "proxy", "te:", "upgrade", "connection:"] {
        assert!(!head.contains(gone), "{gone}: {head}");
    }
}

#[tokio::test]
async fn lines_for_the_log_are_bounded() {
    let mut config = config();
    config.attempt.log_lines = 3;
    let world = World::with(config, OwnAddresses::default());
    world.grants.set(&[], OPEN);
    let mut lines = Vec::new();
    for _ in 0..6 {
        let request = Request::get("https://api.example.com/").body(empty()).unwrap();
        lines.extend(world.send(request).await.notice);
    }
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].contains(
            "GET https://api.example.com failed: the module is not allowed `http GET https://api.example.com/`"
        ),
        "{lines:?}"
    );
    assert!(lines[2].contains("left out"));
}

#[tokio::test]
async fn requests_of_an_attempt_are_bounded() {
    let mut config = config();
    config.attempt.requests = 3;
    let world = World::with(config, OwnAddresses::default());
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let url = format!("http://{PUBLIC}:{}/", server.port());
    for _ in 0..3 {
        world.get(&url).await.unwrap();
    }
    assert_eq!(error(world.get(&url).await), HttpError::TooManyRequests(3));
    assert_eq!(get(&world.attempt_of("t", b"module"), &url).await.unwrap().status, 200);
}

#[tokio::test]
async fn requests_of_a_tenant_are_bounded_over_its_attempts() {
    let mut config = config();
    config.tenant.requests_per_minute = 2;
    let world = World::with(config, OwnAddresses::default());
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let url = format!("http://{PUBLIC}:{}/", server.port());
    get(&world.attempt_of("t", b"a"), &url).await.unwrap();
    get(&world.attempt_of("t", b"b"), &url).await.unwrap();
    let failed = error(get(&world.attempt_of("t", b"c"), &url).await);
    assert_eq!(failed, HttpError::TenantLimit("requests"));
    get(&world.attempt_of("u", b"a"), &url).await.unwrap();
}

#[tokio::test]
async fn a_request_waits_for_one_of_those_at_once() {
    let mut config = config();
    config.attempt.concurrent = 2;
    config.time.first_byte_ms = 30_000;
    let world = World::with(config, OwnAddresses::default());
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let (began, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let held_back = release.clone();
    let server = Server::start(&format!("{PUBLIC}:0"), move |mut stream| {
        let (held_back, began) = (held_back.clone(), began.clone());
        async move {
            while read_head(&mut stream).await.is_some() {
                began.send(()).unwrap();
                held_back.acquire().await.unwrap().forget();
                tokio::io::AsyncWriteExt::write_all(&mut stream, OK).await.unwrap();
            }
        }
    })
    .await;
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let (attempt, url) = (world.attempt.clone(), format!("http://{PUBLIC}:{}/", server.port()));
            tokio::spawn(async move { get(&attempt, &url).await })
        })
        .collect();
    begins.recv().await.unwrap();
    begins.recv().await.unwrap();
    assert_eq!(server.connections(), 2);
    assert!(begins.try_recv().is_err());
    release.add_permits(3);
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status, 200);
    }
    assert!(server.connections() <= 3);
}

#[tokio::test]
async fn a_grant_that_is_revoked_while_a_request_waits_holds_for_it() {
    let mut config = config();
    config.attempt.concurrent = 1;
    config.time.first_byte_ms = 30_000;
    let world = World::with(config, OwnAddresses::default());
    let server = Server::silent(&format!("{PUBLIC}:0")).await;
    let url = format!("http://{PUBLIC}:{}/", server.port());
    let first = tokio::spawn({
        let (attempt, url) = (world.attempt.clone(), url.clone());
        async move { get(&attempt, &url).await }
    });
    while server.connections() == 0 {
        tokio::task::yield_now().await;
    }
    let mut second = std::pin::pin!(get(&world.attempt, &url));
    // It waits for the first one.
    assert!(tokio::time::timeout(std::time::Duration::from_millis(30), &mut second).await.is_err());
    world.grants.set(&[], OPEN);
    first.abort();
    denied(second.await);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn proxy_variables_are_ignored() {
    // Variables are read at the start of a process, so this test runs another one of this binary in a process of its own.
    let proxy = Server::answering("127.0.0.1:0", OK).await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "names::a_name_with_a_public_address_is_reached"]);
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(variable, format!("http://{}", proxy.address));
    }
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_url_that_is_too_long_is_refused() {
    let world = World::new();
    let failed = error(world.get(&format!("http://{PUBLIC}/{}", "a".repeat(9_000))).await);
    assert!(matches!(failed, HttpError::UrlTooLong(_)), "{failed:?}");
}

#[tokio::test]
async fn a_request_with_a_head_that_is_too_large_is_refused() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let url = format!("http://{PUBLIC}:{}/", server.port());
    let large = Request::get(&url).header("x", "y".repeat(40_000)).body(empty()).unwrap();
    let mut many = Request::get(&url);
    for n in 0..200 {
        many = many.header(format!("x-{n}"), "y");
    }
    for request in [large, many.body(empty()).unwrap()] {
        let failed = world.send(request).await.answer.map(|_| ());
        assert!(matches!(failed, Err(HttpError::RequestHead { .. })), "{failed:?}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn what_was_used_is_metered() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    world.dns.name("bad.test", |_| Reply::Addresses(vec![ip("127.0.0.1")], 60));
    world.get(&format!("http://{PUBLIC}:{}/", server.port())).await.unwrap();
    error(world.get("http://bad.test/").await);
    let metered = world.meter.read();
    assert_eq!(metered.http_requests, 2);
    assert!((20..200).contains(&metered.http_bytes_out), "{metered:?}");
    assert!((20..100).contains(&metered.http_bytes_in), "{metered:?}");
}
