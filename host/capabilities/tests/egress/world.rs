//! What a case needs: a client, names, grants, and listeners that nobody may reach.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Handle,
};
use umbel_capabilities::{
    Effective, Grants, Meter, Reach, Unavailable,
    http::{AnswerBody, AttemptHttp, GuestBody, HttpClient, HttpConfig, HttpError, OwnAddresses, Sent, Timeouts},
};
use umbel_model::{Digest, Permissions, TenantId};

use crate::{
    dns::{Dns, Reply},
    server::Server,
};

/// Permissions that open each URL, and the addresses that stand for public ones.
pub const OPEN: &[&str] = &["http http://*:*", "http https://*:*", "network 127.0.1.0/24"];
/// A "public" address.
pub const PUBLIC: &str = "127.0.1.1";

pub fn list(texts: &[&str]) -> Permissions {
    Permissions::new(texts.iter().map(|text| text.parse().unwrap_or_else(|e| panic!("{e}")))).unwrap()
}

/// Grants that a case can change.
#[derive(Debug)]
pub struct Changing(pub Mutex<Result<Arc<Effective>, Unavailable>>);

impl Changing {
    pub fn set(&self, approved: &[&str], operator: &[&str]) {
        let effective = Effective { operator: list(operator), tenant: None, approved: list(approved) };
        *self.0.lock().unwrap() = Ok(Arc::new(effective));
    }
}

#[async_trait]
impl Grants for Changing {
    async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
        self.0.lock().unwrap().clone()
    }
}

pub struct World {
    pub dns: Dns,
    pub grants: Arc<Changing>,
    pub client: Arc<HttpClient>,
    pub meter: Arc<Meter>,
    pub attempt: Arc<AttemptHttp>,
}

/// Short times, so that a case about a limit takes no longer than it must.
pub fn config() -> HttpConfig {
    let mut config = HttpConfig::default();
    config.time.resolve_ms = 1_000;
    config.time.connect_ms = 4_000;
    config.time.first_byte_ms = 1_000;
    config.time.between_bytes_ms = 1_000;
    config
}

impl World {
    pub fn new() -> Self {
        Self::with(config(), OwnAddresses::default())
    }

    pub fn with(mut config: HttpConfig, own: OwnAddresses) -> Self {
        let dns = Dns::start();
        config.dns_servers = vec![dns.address];
        let client = HttpClient::new(config, own, Handle::current());
        let grants = Arc::new(Changing(Mutex::new(Err(Unavailable))));
        grants.set(OPEN, OPEN);
        let meter = Arc::new(Meter::default());
        let attempt =
            client.attempt(tenant("t"), Digest::of(b"module"), grants.clone(), meter.clone(), Reach::default().secrets);
        Self { dns, grants, client, meter, attempt }
    }

    /// Another attempt, with a meter of its own.
    pub fn attempt_of(&self, tenant_name: &str, module: &[u8]) -> Arc<AttemptHttp> {
        self.client.attempt(
            tenant(tenant_name),
            Digest::of(module),
            self.grants.clone(),
            Arc::default(),
            Reach::default().secrets,
        )
    }

    /// A name with one "public" address.
    pub fn public_name(&self, name: &str) {
        self.dns.name(name, |_| Reply::Addresses(vec![ip(PUBLIC)], 60));
    }

    pub async fn get(&self, url: &str) -> Result<Answered, HttpError> {
        get(&self.attempt, url).await
    }

    pub async fn send(&self, request: Request<GuestBody>) -> Sent {
        self.attempt.clone().send(request, Timeouts::default()).await
    }
}

/// An answer that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    pub body: Vec<u8>,
}

pub async fn get(attempt: &Arc<AttemptHttp>, url: &str) -> Result<Answered, HttpError> {
    let Ok(request) = Request::get(url).body(empty()) else {
        return Err(HttpError::InvalidUrl("no URL at all".to_owned()));
    };
    read(attempt.clone().send(request, Timeouts::default()).await.answer?).await
}

pub async fn read(answer: Response<AnswerBody>) -> Result<Answered, HttpError> {
    let status = answer.status().as_u16();
    Ok(Answered { status, body: answer.into_body().collect().await?.to_bytes().to_vec() })
}

pub fn empty() -> GuestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> GuestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A "public" server and listeners on the same port of forbidden addresses.
pub struct Guarded {
    pub server: Server,
    forbidden: Vec<Server>,
}

/// Addresses of this machine that stand for forbidden ones.
pub const FORBIDDEN: [&str; 4] = ["127.0.0.1", "127.0.0.2", "127.0.2.1", "[::1]"];

impl Guarded {
    /// Takes a port that is free on all of these addresses.
    pub async fn start() -> Self {
        'ports: loop {
            let server = Server::answering(&format!("{PUBLIC}:0"), crate::server::OK).await;
            let mut forbidden = Vec::new();
            for address in FORBIDDEN {
                let address: SocketAddr = format!("{address}:{}", server.port()).parse().unwrap();
                if address.is_ipv6() && std::net::TcpListener::bind("[::1]:0").is_err() {
                    continue;
                }
                // Taken by somebody else meanwhile: another port.
                if std::net::TcpListener::bind(address).is_err() {
                    continue 'ports;
                }
                forbidden.push(Server::answering(&address.to_string(), crate::server::OK).await);
            }
            return Self { server, forbidden };
        }
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Nobody connected to a forbidden address: connections are accepted in order, so the one that is made here is the first.
    pub async fn assert_untouched(&self) {
        for server in &self.forbidden {
            let mut own = TcpStream::connect(server.address).await.unwrap();
            own.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert!(own.read_u8().await.is_ok(), "it answers");
            assert_eq!(server.connections(), 1, "{} was reached", server.address);
        }
    }
}

/// The error of a request that must fail.
pub fn error<T: fmt::Debug>(answer: Result<T, HttpError>) -> HttpError {
    match answer {
        Ok(answer) => panic!("it was answered: {answer:?}"),
        Err(error) => error,
    }
}
