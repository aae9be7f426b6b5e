//! Servers that misbehave: each costs a bounded time, and is told in words.

use std::time::Duration;

use http::Request;
use tokio::io::AsyncWriteExt as _;
use umbel_capabilities::http::{HttpConfig, HttpError, OwnAddresses};

use crate::{
    server::{Server, read_head},
    world::{Answered, PUBLIC, World, config, empty, error},
};

/// What a request to a server with this answer ends with.
async fn answered(answer: impl Into<Vec<u8>>) -> Result<Answered, HttpError> {
    answered_with(config(), answer).await
}

/// The server sends its answer and closes the connection.
async fn answered_with(config: HttpConfig, answer: impl Into<Vec<u8>>) -> Result<Answered, HttpError> {
    let answer = answer.into();
    let world = World::with(config, OwnAddresses::default());
    let server = Server::start(&format!("{PUBLIC}:0"), move |mut stream| {
        let answer = answer.clone();
        async move {
            if read_head(&mut stream).await.is_some() {
                let _ = stream.write_all(&answer).await;
            }
        }
    })
    .await;
    world.get(&format!("http://{PUBLIC}:{}/", server.port())).await
}

fn is_protocol(answer: Result<Answered, HttpError>) {
    let failed = error(answer);
    assert!(matches!(failed, HttpError::Protocol(_)), "{failed:?}");
}

#[tokio::test]
async fn a_server_that_never_answers() {
    let world = World::new();
    let server = Server::silent(&format!("{PUBLIC}:0")).await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert_eq!(failed, HttpError::FirstByteTimeout(Duration::from_millis(1_000)));
}

#[tokio::test]
async fn a_server_that_trickles_its_head() {
    let world = World::new();
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::FirstByteTimeout(_)), "{failed:?}");
}

#[tokio::test]
async fn a_server_that_pauses_in_its_body() {
    let world = World::new();
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await;
        std::future::pending::<()>().await;
    })
    .await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::TooSlow { .. }), "{failed:?}");
}

#[tokio::test]
async fn a_server_that_trickles_its_body() {
    let mut config = config();
    (config.time.rate_window_ms, config.time.least_rate) = (1_000, 1_000);
    let world = World::with(config, OwnAddresses::default());
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert_eq!(failed, HttpError::TooSlow { least_rate: 1_000 });
}

#[tokio::test]
async fn a_server_that_sends_ten_gigabytes() {
    let mut config = config();
    config.attempt.bytes_in = 1 << 20;
    let world = World::with(config, OwnAddresses::default());
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n").await;
        while stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
    })
    .await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert_eq!(failed, HttpError::BytesIn(1 << 20));
    let received = world.meter.read().http_bytes_in;
    assert!(received < (1 << 20) + (128 << 10), "{received}");
}

#[tokio::test]
async fn a_server_that_sends_chunks_without_end() {
    let mut config = config();
    config.attempt.bytes_in = 1 << 20;
    let world = World::with(config, OwnAddresses::default());
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"1\r\nx\r\n").await.is_ok() {}
    })
    .await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert_eq!(failed, HttpError::BytesIn(1 << 20));
}

#[tokio::test]
async fn a_server_that_closes_before_its_answer() {
    assert_eq!(error(answered("").await), HttpError::Closed);
}

#[tokio::test]
async fn a_server_that_closes_in_its_head() {
    assert_eq!(error(answered("HTTP/1.1 200 OK\r\ncontent-").await), HttpError::Closed);
}

#[tokio::test]
async fn a_server_that_closes_in_its_body() {
    assert_eq!(error(answered("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await), HttpError::Incomplete);
}

#[tokio::test]
async fn a_server_that_closes_in_a_chunk() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n123";
    assert_eq!(error(answered(answer).await), HttpError::Incomplete);
}

#[tokio::test]
async fn a_server_that_closes_before_the_last_chunk() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n123\r\n";
    assert_eq!(error(answered(answer).await), HttpError::Incomplete);
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_complete() {
    let answer = answered("HTTP/1.1 200 OK\r\n\r\n12345").await.unwrap();
    assert_eq!(answer, Answered { status: 200, body: b"12345".to_vec() });
}

#[tokio::test]
async fn a_server_that_speaks_another_protocol() {
    is_protocol(answered("220 mail.test ESMTP ready\r\n").await);
}

#[tokio::test]
async fn a_header_without_a_colon() {
    is_protocol(answered("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n").await);
}

#[tokio::test]
async fn a_header_with_a_space_before_its_colon() {
    is_protocol(answered("HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n").await);
}

#[tokio::test]
async fn a_header_with_control_characters() {
    is_protocol(answered("HTTP/1.1 200 OK\r\nx: a\x01\x00b\r\n\r\n").await);
}

#[tokio::test]
async fn a_header_that_is_folded() {
    is_protocol(answered("HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n").await);
}

#[tokio::test]
async fn two_lengths_of_one_body() {
    is_protocol(answered("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n12").await);
}

#[tokio::test]
async fn a_length_that_is_no_number() {
    is_protocol(answered("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n12").await);
}

#[tokio::test]
async fn a_chunk_whose_length_is_no_number() {
    let failed = error(answered("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n123\r\n").await);
    assert!(matches!(failed, HttpError::Protocol(_) | HttpError::Incomplete), "{failed:?}");
}

#[tokio::test]
async fn a_status_that_is_no_number() {
    is_protocol(answered("HTTP/1.1 2xx OK\r\n\r\n").await);
}

#[tokio::test]
async fn a_head_that_is_too_large() {
    let answer = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert_eq!(error(answered(answer).await), HttpError::ResponseHead);
}

#[tokio::test]
async fn a_head_with_too_many_fields() {
    let fields: String = (0..500).map(|n| format!("x-{n}: y\r\n")).collect();
    assert_eq!(error(answered(format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).await), HttpError::ResponseHead);
}

#[tokio::test]
async fn trailers_that_are_too_large() {
    let trailers = format!("x: {}\r\n", "y".repeat(200_000));
    let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{trailers}\r\n");
    error(answered(answer).await);
}

#[tokio::test]
async fn a_server_that_switches_protocols() {
    let failed = error(answered("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await);
    assert!(matches!(failed, HttpError::Protocol(_)), "{failed:?}");
}

#[tokio::test]
async fn a_server_that_says_continue_for_ever() {
    let world = World::new();
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        read_head(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::FirstByteTimeout(_)), "{failed:?}");
}

#[tokio::test]
async fn what_is_about_the_connection_is_not_shown_to_the_guest() {
    let world = World::new();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\n\
                  keep-alive: timeout=5\r\nproxy-authenticate: x\r\nupgrade: h2c\r\nx-kept: yes\r\n\r\nok";
    let server = Server::answering(&format!("{PUBLIC}:0"), answer).await;
    let request = Request::get(format!("http://{PUBLIC}:{}/", server.port())).body(empty()).unwrap();
    let answer = world.send(request).await.answer.unwrap();
    let mut names: Vec<&str> = answer.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "x-kept"]);
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_and_its_connection_is_used_again() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
    for _ in 0..3 {
        let request = Request::head(format!("http://{PUBLIC}:{}/", server.port())).body(empty()).unwrap();
        assert_eq!(world.send(request).await.answer.unwrap().status(), 200);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn bytes_after_an_answer_are_no_answer_to_the_next_request() {
    let world = World::new();
    let extra = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let server = Server::answering(&format!("{PUBLIC}:0"), extra).await;
    for _ in 0..5 {
        let answer = world.get(&format!("http://{PUBLIC}:{}/", server.port())).await;
        match answer {
            Ok(answer) => assert_eq!(answer.body, b"ok"),
            Err(error) => assert!(matches!(error, HttpError::Closed | HttpError::Protocol(_)), "{error:?}"),
        }
    }
}
