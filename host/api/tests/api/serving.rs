//! The server on a real socket.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::app::TestApp;

async fn serve(
    app: &TestApp,
) -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move { drop(stopped.await) };
    (address, stop, tokio::spawn(umbel_api::serve(listener, None, app.router.clone(), shutdown)))
}

/// Sends one request and reads until the server closes.
async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn requests_are_served_and_one_under_way_ends_before_the_server() {
    let app = TestApp::with_tasks().await;
    let (address, stop, server) = serve(&app).await;
    let alive = exchange(address, "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
    let body = json!({"task": "add", "args": [1]}).to_string();
    let mut work = app.broker.signals(umbel_broker::Topic::Work).await.unwrap();
    let request = format!(
        "POST /v1/jobs?wait=30s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        app.token,
        body.len()
    );
    let client = tokio::spawn(async move { exchange(address, &request).await });
    work.recv().await.unwrap();
    stop.send(()).unwrap();
    let delivery = app.claim().await;
    app.settle(&delivery, umbel_model::Resolution::Succeed { result: None }).await;
    let answer = client.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("succeeded"), "{answer}");
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("the server ends").unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_stream_of_events_ends_with_the_server_and_does_not_hold_it_up() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let (address, stop, server) = serve(&app).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET /v1/jobs/{id}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", app.token);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("event: state") {
        let mut bytes = [0; 4_096];
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    stop.send(()).unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("0\r\n\r\n"), "the answer ends in order: {text}");
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let app = TestApp::new().await;
    let (address, _stop, _server) = serve(&app).await;
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let answer = exchange(address, &format!("GET /livez HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn a_client_that_is_still_sending_sees_why_it_was_refused() {
    let app = TestApp::new().await;
    let (address, _stop, _server) = serve(&app).await;
    let size = 40 << 20;
    for (token, status) in [("umbel_no", "HTTP/1.1 401"), (&*app.token, "HTTP/1.1 413")] {
        let head = format!(
            "POST /v1/modules HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/wasm\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n"
        );
        let answer = exchange(address, &(head + &"x".repeat(size))).await;
        assert!(answer.starts_with(status), "{answer}");
    }
}

/// Not a test: prints how long a submission that waits takes on a socket, with a worker that does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn the_latency_of_a_submission_that_waits() {
    let app = std::sync::Arc::new(TestApp::with_tasks().await);
    let (address, _stop, _server) = serve(&app).await;
    let worker = app.clone();
    tokio::spawn(async move {
        let mut work = worker.broker.signals(umbel_broker::Topic::Work).await.unwrap();
        loop {
            match worker.try_claim().await {
                Some(delivery) => worker.settle(&delivery, umbel_model::Resolution::Succeed { result: None }).await,
                None => drop(work.recv().await),
            }
        }
    });
    let body = json!({"task": "add", "args": [1]}).to_string();
    let request = format!(
        "POST /v1/jobs?wait=30s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        app.token,
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut times = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..500 {
        let started = std::time::Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = 0;
        while !String::from_utf8_lossy(&buffer[..read]).ends_with('}') {
            read += stream.read(&mut buffer[read..]).await.unwrap();
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"));
        times.push(started.elapsed());
    }
    times.sort();
    println!("p50 {:?}, p95 {:?}, p99 {:?}", times[250], times[475], times[495]);
}
