//! Bodies of requests, and what is left behind when somebody gives up in the middle: nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use umbel_capabilities::http::{GuestBody, HttpError, OwnAddresses, Timeouts};

use crate::{
    server::{OK, Server, read_head},
    world::{OPEN, PUBLIC, World, config, empty, full, get, read},
};

/// A body that a test writes, as a guest would: at most one part is underway. An error is a body that is not finished.
fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, HttpError>>, GuestBody) {
    let (sender, mut receiver) = mpsc::channel(1);
    let stream = futures_stream(move |cx| receiver.poll_recv(cx));
    (sender, StreamBody::new(stream).boxed_unsync())
}

/// A stream out of a function.
fn futures_stream<T>(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
) -> impl futures::Stream<Item = T> {
    let mut poll = poll;
    futures::stream::poll_fn(move |cx| poll(cx))
}

fn part(bytes: usize) -> Result<Frame<Bytes>, HttpError> {
    Ok(Frame::data(vec![b'x'; bytes].into()))
}

/// Reads a request to its end and answers with what came after the head, in chunks as they were sent.
async fn echo(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream).await {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length.parse().unwrap(), 0);
                if stream.read_exact(&mut body).await.is_err() {
                    return;
                }
            }
            None if head.contains("transfer-encoding: chunked") => {
                while !body.ends_with(b"0\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    body.push(byte);
                }
            }
            None => {}
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(&[answer.as_bytes(), &body].concat()).await;
    }
}

fn post(port: u16, body: GuestBody) -> Request<GuestBody> {
    Request::post(format!("http://{PUBLIC}:{port}/")).body(body).unwrap()
}

#[tokio::test]
async fn a_body_is_sent_with_its_length() {
    let world = World::new();
    let server = Server::start(&format!("{PUBLIC}:0"), echo).await;
    let answer = world.send(post(server.port(), full("12345"))).await.answer.unwrap();
    assert_eq!(read(answer).await.unwrap().body, b"12345");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_sent_in_chunks() {
    let world = World::new();
    let server = Server::start(&format!("{PUBLIC}:0"), echo).await;
    let (sender, body) = channel();
    let writing = async {
        sender.send(part(3)).await.unwrap();
        sender.send(part(2)).await.unwrap();
        drop(sender);
    };
    let (sent, ()) = tokio::join!(world.send(post(server.port(), body)), writing);
    assert_eq!(read(sent.answer.unwrap()).await.unwrap().body, b"3\r\nxxx\r\n2\r\nxx\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_guest_that_uploads_without_end_is_stopped() {
    let mut config = config();
    config.attempt.bytes_out = 1 << 20;
    let world = World::with(config, OwnAddresses::default());
    let server = Server::start(&format!("{PUBLIC}:0"), echo).await;
    let (sender, body) = channel();
    let writing = async move { while sender.send(part(64 << 10)).await.is_ok() {} };
    let (sent, ()) = tokio::join!(world.send(post(server.port(), body)), writing);
    assert_eq!(sent.answer.map(|_| ()), Err(HttpError::BytesOut(1 << 20)));
}

#[tokio::test]
async fn a_guest_in_the_middle_of_its_body_comes_to_see_the_denial() {
    let world = World::new();
    world.grants.set(&[], OPEN);
    let (sender, body) = channel();
    let sent = world.send(post(1, body)).await;
    assert!(matches!(sent.answer, Err(HttpError::Denied(_))));
    for _ in 0..10 {
        sender.send(part(4 << 10)).await.expect("the body is still taken");
    }
}

#[tokio::test]
async fn what_is_taken_of_a_denied_body_is_bounded() {
    let world = World::new();
    world.grants.set(&[], OPEN);
    let (sender, body) = channel();
    let sent = world.send(post(1, body)).await;
    assert!(sent.answer.is_err());
    let mut taken = 0;
    while sender.send(part(64 << 10)).await.is_ok() {
        taken += 64 << 10;
    }
    assert!((1 << 20..2 << 20).contains(&taken), "{taken}");
}

#[tokio::test]
async fn a_body_is_taken_though_nobody_listens() {
    let world = World::new();
    let (sender, body) = channel();
    let url = format!("http://{PUBLIC}:9/");
    let sent = world.send(Request::post(url).body(body).unwrap()).await;
    assert_eq!(sent.answer.map(|_| ()), Err(HttpError::ConnectionRefused));
    sender.send(part(10)).await.unwrap();
    sender.send(part(10)).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_sent_is_read() {
    let world = World::new();
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    })
    .await;
    let (sender, body) = channel();
    let sent = world.send(post(server.port(), body)).await;
    assert_eq!(sent.answer.unwrap().status(), 413);
    drop(sender);
}

/// A server that tells how each connection ended: all that was read after the head.
async fn recording_ends() -> (Server, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (ended, ends) = mpsc::unbounded_channel();
    let server = Server::start(&format!("{PUBLIC}:0"), move |mut stream| {
        let ended = ended.clone();
        async move {
            read_head(&mut stream).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            let _ = ended.send(rest);
        }
    })
    .await;
    (server, ends)
}

#[tokio::test]
async fn a_request_that_is_given_up_ends_its_connection() {
    let mut config = config();
    config.time.first_byte_ms = 60_000;
    let world = World::with(config, OwnAddresses::default());
    let (server, mut ends) = recording_ends().await;
    let sending = world.attempt.clone().send(post(server.port(), empty()), Timeouts::default());
    assert!(tokio::time::timeout(Duration::from_millis(50), sending).await.is_err());
    assert_eq!(ends.recv().await.unwrap(), b"");
}

#[tokio::test]
async fn a_body_that_was_not_finished_does_not_look_complete() {
    let mut config = config();
    config.time.first_byte_ms = 60_000;
    let world = World::with(config, OwnAddresses::default());
    let (server, mut ends) = recording_ends().await;
    let (sender, body) = channel();
    let writing = async {
        sender.send(part(3)).await.unwrap();
        sender.send(Err(HttpError::Aborted)).await.unwrap();
        drop(sender);
    };
    let (sent, ()) = tokio::join!(world.send(post(server.port(), body)), writing);
    assert_eq!(sent.answer.map(|_| ()), Err(HttpError::Aborted));
    let received = ends.recv().await.unwrap();
    assert!(!received.ends_with(b"0\r\n\r\n"), "{received:?}");
}

#[tokio::test]
async fn an_answer_that_is_dropped_half_read_ends_its_connection() {
    let world = World::new();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let server = Server::start(&format!("{PUBLIC}:0"), move |mut stream| {
        let ended = ended.clone();
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n").await;
            while stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
            let _ = ended.send(());
        }
    })
    .await;
    let mut answer = world.send(post(server.port(), empty())).await.answer.unwrap();
    answer.body_mut().frame().await.unwrap().unwrap();
    drop(answer);
    ends.recv().await.unwrap();
}

#[tokio::test]
async fn a_guest_that_does_not_read_holds_no_more_than_a_buffer() {
    let world = World::new();
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = written.clone();
    let server = Server::start(&format!("{PUBLIC}:0"), move |mut stream| {
        let counted = counted.clone();
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n").await;
            while stream.write_all(&[b'x'; 65_536]).await.is_ok() {
                counted.fetch_add(65_536, std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let answer = world.send(post(server.port(), empty())).await.answer.unwrap();
    // As much as the sockets of both sides hold, and then the server waits.
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let now = written.load(std::sync::atomic::Ordering::SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before < 32 << 20, "{before}");
    assert!(world.meter.read().http_bytes_in < 1_000);
    drop(answer);
}

#[tokio::test]
async fn two_hundred_requests_that_wait_need_little_memory() {
    let mut config = config();
    (config.attempt.concurrent, config.tenant.concurrent) = (200, 200);
    config.time.first_byte_ms = 60_000;
    let world = World::with(config, OwnAddresses::default());
    let server = Server::silent(&format!("{PUBLIC}:0")).await;
    let url = format!("http://{PUBLIC}:{}/", server.port());
    get_once(&world, OK).await;
    let before = process();
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let (attempt, url) = (world.attempt.clone(), url.clone());
            tokio::spawn(async move { get(&attempt, &url).await })
        })
        .collect();
    while server.connections() < 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let after = process();
    assert!(after.resident_kib < before.resident_kib + (60 << 10), "{before:?} {after:?}");
    for request in requests {
        request.abort();
    }
}

async fn get_once(world: &World, answer: &[u8]) {
    let server = Server::answering(&format!("{PUBLIC}:0"), answer).await;
    world.get(&format!("http://{PUBLIC}:{}/", server.port())).await.unwrap();
}

#[derive(Debug)]
struct Process {
    resident_kib: u64,
}

fn process() -> Process {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    Process { resident_kib: of("VmRSS:") }
}

#[tokio::test]
async fn a_large_body_arrives_as_it_was_sent() {
    let mut config = config();
    config.time.first_byte_ms = 60_000;
    let world = World::with(config, OwnAddresses::default());
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let server = Server::start(&format!("{PUBLIC}:0"), echo).await;
    let body = Full::new(Bytes::from(bytes.clone())).map_err(|never| match never {}).boxed_unsync();
    let answer = world.send(post(server.port(), body)).await.answer.unwrap();
    assert!(read(answer).await.unwrap().body == bytes);
}
