//! The server on a real socket, plain and over TLS, against clients that take little, say nothing, or speak the wrong protocol.

use std::{convert::Infallible, net::SocketAddr};

use axum::{body::Body, routing::get};
use bytes::Bytes;
use futures::stream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
};
use tokio_rustls::TlsConnector;
use umbel_tls::{Trust, authority::Authority, client_config};

use super::*;

const LONGEST: Duration = Duration::from_millis(500);
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate for localhost, and how its clients connect.
struct Certified {
    certificate: Arc<ServerCertificate>,
    connector: TlsConnector,
    _folder: tempfile::TempDir,
}

impl Certified {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("tests", 30).unwrap();
        let issued = authority.server(&["localhost"], -1..20).unwrap();
        let [ca, certificate, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| folder.path().join(name));
        std::fs::write(&ca, authority.certificate()).unwrap();
        std::fs::write(&certificate, issued.certificate).unwrap();
        std::fs::write(&key, issued.key).unwrap();
        let certificate = ServerCertificate::load(&certificate, &key, &["http/1.1"]).unwrap();
        let mut config = client_config(&Trust::File(ca), None).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { certificate, connector: Arc::new(config).into(), _folder: folder }
    }

    async fn connect(&self, address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        self.connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    }
}

/// A stream to a server, whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A server of this router, and how to reach it.
struct Server {
    address: SocketAddr,
    tls: Option<Certified>,
}

impl Server {
    async fn start(router: Router, limits: Limits, tls: bool) -> Self {
        let tls = tls.then(Certified::new);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certificate = tls.as_ref().map(|tls| tls.certificate.clone());
        tokio::spawn(serve_with(listener, certificate, router, std::future::pending(), limits));
        Self { address, tls }
    }

    async fn connect(&self) -> Box<dyn Stream> {
        match &self.tls {
            Some(tls) => Box::new(tls.connect(self.address).await),
            None => Box::new(TcpStream::connect(self.address).await.unwrap()),
        }
    }

    /// A connection on which the first bytes of an answer were read.
    async fn asked(&self) -> Box<dyn Stream> {
        let mut stream = self.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stream
    }

    /// The head of an answer to a request with these headers.
    async fn head(&self, headers: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
        String::from_utf8(answer).unwrap()
    }
}

/// Whether the server closes a connection soon, gracefully or not.
async fn closes(stream: &mut (impl AsyncRead + Unpin), within: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(within, stream.read_to_end(&mut rest)).await.is_ok()
}

fn here() -> Router {
    Router::new().route("/", get(async || "here"))
}

/// Serves one answer at a time: events without an end, which hold a permit until they are dropped.
async fn endless(tls: bool) -> (Server, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(1));
    let shared = permits.clone();
    let answer = async move || {
        let permit = shared.acquire_owned().await.unwrap();
        let piece = Bytes::from(format!("data: {}\n\n", "x".repeat(60_000)));
        Body::from_stream(stream::unfold(permit, move |permit| {
            let piece = piece.clone();
            async move { Some((Ok::<_, Infallible>(piece), permit)) }
        }))
    };
    let writes = WriteLimits { longest: LONGEST, bytes_per_second: 1 << 20 };
    let limits = Limits { writes, ..LIMITS };
    (Server::start(Router::new().route("/", get(answer)), limits, tls).await, permits)
}

#[tokio::test]
async fn a_reader_that_stalls_is_dropped_and_its_permit_is_free() {
    for tls in [false, true] {
        let (server, permits) = endless(tls).await;
        let mut stalled = server.asked().await;
        assert_eq!(permits.available_permits(), 0);
        let free = tokio::time::timeout(PATIENCE, permits.acquire()).await;
        drop(free.expect("its permit is given back").unwrap());
        // The bytes that were in the system's buffers, and then the end.
        assert!(closes(&mut stalled, PATIENCE).await, "its connection is closed, {tls}");
    }
}

#[tokio::test]
async fn a_slow_reader_that_goes_on_reading_is_kept() {
    for tls in [false, true] {
        let (server, permits) = endless(tls).await;
        let mut slow = server.asked().await;
        let begun = tokio::time::Instant::now();
        let mut piece = vec![0; 4 << 20];
        while begun.elapsed() < LONGEST * 4 {
            assert!(slow.read(&mut piece).await.unwrap() > 0, "{tls}");
        }
        assert_eq!(permits.available_permits(), 0);
    }
}

#[tokio::test]
async fn an_answer_says_how_long_its_connection_may_be_idle() {
    assert_eq!(KEEP_ALIVE.1, format!("timeout={}", HEAD_TIMEOUT.as_secs()));
    for tls in [false, true] {
        let server = Server::start(here(), LIMITS, tls).await;
        let stays = server.head("").await;
        assert!(
            stays.contains("keep-alive: timeout=10\r\n") && stays.contains("connection: keep-alive\r\n"),
            "{stays}"
        );
        let closes = server.head("connection: close\r\n").await;
        assert!(!closes.contains("keep-alive") && closes.contains("connection: close\r\n"), "{closes}");
    }
}

#[tokio::test]
async fn an_idle_connection_gives_way_to_a_new_one() {
    for tls in [false, true] {
        let connections = ConnectionLimits { all: 10, strangers: 2, strangers_of_an_address: 2 };
        let server = Server::start(here(), Limits { connections, ..LIMITS }, tls).await;
        // Over TLS it has not even begun its handshake.
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        let mut first = server.asked().await;
        let (_second, _third) = (server.asked().await, server.asked().await);
        assert!(closes(&mut first, PATIENCE).await, "the connection that said nothing for longest is closed");
        // Long before it would have to send the head of a request.
        assert!(closes(&mut silent, HEAD_TIMEOUT / 2).await, "and before it the one that never said anything");
    }
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_in_time_is_given_up() {
    let handshake = Duration::from_millis(100);
    let server = Server::start(here(), Limits { handshake, ..LIMITS }, true).await;
    // The header of a record of 512 bytes, and nothing of it.
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        assert!(closes(&mut stream, HEAD_TIMEOUT / 2).await, "{begun:?}");
    }
    assert!(server.head("").await.starts_with("HTTP/1.1 200"), "others are served");
}

#[tokio::test]
async fn only_http_1_is_agreed_on_and_old_versions_are_not() {
    let server = Server::start(here(), LIMITS, true).await;
    let tls = server.tls.as_ref().unwrap();
    let stream = tls.connect(server.address).await;
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(session.protocol_version(), Some(tokio_rustls::rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_plain_request_to_a_server_that_speaks_tls_is_told_so() {
    let server = Server::start(here(), LIMITS, true).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let body = "x".repeat(10_000);
    stream.write_all(format!("POST / HTTP/1.1\r\nhost: x\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("\"https_needed\"") && answer.contains("write https://"), "{answer}");
}
