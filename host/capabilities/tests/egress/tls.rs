//! Certificates, handshakes and HTTP/2.

use std::{convert::Infallible, io::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;
use umbel_capabilities::http::{HttpError, OwnAddresses, check_ca_file};

use crate::{
    server::{OK, Server, read_head},
    world::{PUBLIC, World, config, empty, error, get, read},
};

/// An authority, and the file with its certificate that the client trusts.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(issuer.pem().as_bytes()).unwrap();
        Self { issuer, file }
    }

    fn world(&self) -> World {
        let mut config = config();
        config.ca_file = Some(self.file.path().to_owned());
        World::with(config, OwnAddresses::default())
    }

    /// A server's settings with a certificate for a name, which may be changed before it is signed.
    fn server(&self, name: &str, alpn: &[&[u8]], change: impl FnOnce(&mut CertificateParams)) -> ServerConfig {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        server_config(certificate.der().clone(), &key, alpn)
    }
}

fn server_config(
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: &KeyPair,
    alpn: &[&[u8]],
) -> ServerConfig {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// An HTTPS server that answers with the version of the request and the server name that the client asked for.
async fn https(config: ServerConfig) -> Server {
    https_with(config, |request| async move {
        let said = format!("{:?} {}", request.version(), request.uri().authority().map_or("-", |a| a.as_str()));
        Response::new(Full::new(Bytes::from(said)))
    })
    .await
}

async fn https_with<F: Future<Output = Response<Full<Bytes>>> + Send + 'static>(
    config: ServerConfig,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> Server {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::start(&format!("{PUBLIC}:0"), move |stream| {
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            if is_http2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            } else {
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        }
    })
    .await
}

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];
const ONLY_1: &[&[u8]] = &[b"http/1.1"];

/// What a request to a server with this certificate ends with.
async fn failed(authority: &Authority, config: ServerConfig) -> HttpError {
    let world = authority.world();
    world.public_name("name.test");
    let server = https(config).await;
    error(world.get(&format!("https://name.test:{}/", server.port())).await)
}

#[track_caller]
fn assert_certificate(error: HttpError, why: &str) {
    assert!(matches!(&error, HttpError::Certificate(told) if told.starts_with(why)), "{error:?}");
}

#[tokio::test]
async fn http_1_1_over_tls_is_answered() {
    let authority = Authority::new();
    let world = authority.world();
    world.public_name("name.test");
    let server = https(authority.server("name.test", ONLY_1, |_| {})).await;
    let answer = world.get(&format!("https://name.test:{}/", server.port())).await.unwrap();
    assert_eq!(String::from_utf8(answer.body).unwrap(), "HTTP/1.1 -");
}

#[tokio::test]
async fn a_server_without_alpn_speaks_http_1_1() {
    let authority = Authority::new();
    let world = authority.world();
    world.public_name("name.test");
    let server = https(authority.server("name.test", &[], |_| {})).await;
    let answer = world.get(&format!("https://NAME.test.:{}/", server.port())).await.unwrap();
    assert_eq!(String::from_utf8(answer.body).unwrap(), "HTTP/1.1 -");
}

#[tokio::test]
async fn http_2_is_chosen_and_one_connection_serves_many_requests() {
    let authority = Authority::new();
    let world = authority.world();
    world.public_name("name.test");
    let server = https(authority.server("name.test", BOTH, |_| {})).await;
    let url = format!("https://name.test:{}/", server.port());
    let expected = format!("{:?} name.test:{}", Version::HTTP_2, server.port());
    assert_eq!(String::from_utf8(world.get(&url).await.unwrap().body).unwrap(), expected);
    let requests: Vec<_> = (0..10)
        .map(|_| {
            let (attempt, url) = (world.attempt.clone(), url.clone());
            tokio::spawn(async move { get(&attempt, &url).await })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status, 200);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_body_is_sent_and_read_over_http_2() {
    let authority = Authority::new();
    let mut config = config();
    config.time.first_byte_ms = 60_000;
    config.ca_file = Some(authority.file.path().to_owned());
    let world = World::with(config, OwnAddresses::default());
    world.public_name("name.test");
    let server = https_with(authority.server("name.test", BOTH, |_| {}), |request| async move {
        Response::new(Full::new(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let bytes: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
    let request =
        Request::post(format!("https://name.test:{}/", server.port())).body(crate::world::full(bytes.clone())).unwrap();
    let answer = world.send(request).await.answer.unwrap();
    assert!(read(answer).await.unwrap().body == bytes);
}

#[tokio::test]
async fn http_2_bodies_are_bounded() {
    let authority = Authority::new();
    let mut config = config();
    config.attempt.bytes_in = 100_000;
    config.ca_file = Some(authority.file.path().to_owned());
    let world = World::with(config, OwnAddresses::default());
    world.public_name("name.test");
    let server = https_with(authority.server("name.test", BOTH, |_| {}), |_| async {
        Response::new(Full::new(Bytes::from(vec![b'x'; 10_000_000])))
    })
    .await;
    let failed = error(world.get(&format!("https://name.test:{}/", server.port())).await);
    assert_eq!(failed, HttpError::BytesIn(100_000));
}

#[tokio::test]
async fn an_http_2_head_that_is_too_large() {
    let authority = Authority::new();
    let world = authority.world();
    world.public_name("name.test");
    let server = https_with(authority.server("name.test", BOTH, |_| {}), |_| async {
        let answer = Response::builder().header("x", "y".repeat(100_000));
        answer.body(Full::new(Bytes::new())).unwrap()
    })
    .await;
    let failed = error(world.get(&format!("https://name.test:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::ResponseHead | HttpError::Protocol(_)), "{failed:?}");
}

#[tokio::test]
async fn an_http_2_server_that_never_answers() {
    let authority = Authority::new();
    let world = authority.world();
    world.public_name("name.test");
    let config = authority.server("name.test", BOTH, |_| {});
    let server = https_with(config, |_| std::future::pending::<Response<Full<Bytes>>>()).await;
    let failed = error(world.get(&format!("https://name.test:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::FirstByteTimeout(_)), "{failed:?}");
}

#[tokio::test]
async fn a_server_that_says_http_2_and_speaks_nonsense() {
    let authority = Authority::new();
    let world = authority.world();
    world.public_name("name.test");
    let acceptor = TlsAcceptor::from(Arc::new(authority.server("name.test", BOTH, |_| {})));
    let server = Server::start(&format!("{PUBLIC}:0"), move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.write_all(&[b'x'; 10_000]).await;
                let _ = stream.shutdown().await;
            }
        }
    })
    .await;
    let failed = error(world.get(&format!("https://name.test:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::Protocol(_) | HttpError::Closed), "{failed:?}");
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let authority = Authority::new();
    let config = authority.server("other.test", BOTH, |_| {});
    assert_certificate(failed(&authority, config).await, "its certificate is for");
}

#[tokio::test]
async fn a_certificate_for_all_names_below() {
    let authority = Authority::new();
    let config = authority.server("*.name.test", BOTH, |_| {});
    let world = authority.world();
    for name in ["name.test", "a.name.test", "b.a.name.test"] {
        world.public_name(name);
    }
    let server = https(config).await;
    assert_eq!(world.get(&format!("https://a.name.test:{}/", server.port())).await.unwrap().status, 200);
    for other in ["name.test", "b.a.name.test"] {
        let failed = error(world.get(&format!("https://{other}:{}/", server.port())).await);
        assert_certificate(failed, "its certificate is for");
    }
}

#[tokio::test]
async fn a_certificate_that_has_expired() {
    let authority = Authority::new();
    let config = authority.server("name.test", BOTH, |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
    });
    assert_certificate(failed(&authority, config).await, "its certificate expired on 2001-01-01");
}

#[tokio::test]
async fn a_certificate_of_the_future() {
    let authority = Authority::new();
    let config = authority.server("name.test", BOTH, |params| {
        (params.not_before, params.not_after) = (date_time_ymd(3000, 1, 1), date_time_ymd(3001, 1, 1));
    });
    assert_certificate(failed(&authority, config).await, "its certificate is not valid before 3000-01-01");
}

#[tokio::test]
async fn a_certificate_that_signed_itself() {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["name.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = server_config(own.der().clone(), &key, BOTH);
    assert_certificate(failed(&authority, config).await, "its certificate was issued by nobody");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let config = other.server("name.test", BOTH, |_| {});
    assert_certificate(failed(&authority, config).await, "its certificate was issued by nobody");
}

#[tokio::test]
async fn the_systems_authorities_do_not_know_ours() {
    let authority = Authority::new();
    let world = World::new();
    world.public_name("name.test");
    let server = https(authority.server("name.test", BOTH, |_| {})).await;
    let failed = error(world.get(&format!("https://name.test:{}/", server.port())).await);
    assert_certificate(failed, "its certificate was issued by nobody");
}

#[tokio::test]
async fn a_certificate_for_an_address() {
    let authority = Authority::new();
    let world = authority.world();
    let server = https(authority.server(PUBLIC, BOTH, |_| {})).await;
    assert_eq!(world.get(&format!("https://{PUBLIC}:{}/", server.port())).await.unwrap().status, 200);
    let other = https(authority.server("127.0.1.2", BOTH, |_| {})).await;
    let failed = error(world.get(&format!("https://{PUBLIC}:{}/", other.port())).await);
    assert_certificate(failed, "its certificate is for");
}

#[tokio::test]
async fn a_server_without_tls_on_the_port() {
    let world = World::new();
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let failed = error(world.get(&format!("https://{PUBLIC}:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::Tls(_) | HttpError::ConnectTimeout(_)), "{failed:?}");
}

#[tokio::test]
async fn a_server_that_answers_the_handshake_with_text() {
    let world = World::new();
    let server = Server::start(&format!("{PUBLIC}:0"), |mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        read_head(&mut stream).await;
    })
    .await;
    let failed = error(world.get(&format!("https://{PUBLIC}:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::Tls(_)), "{failed:?}");
}

#[tokio::test]
async fn a_handshake_that_never_ends_counts_as_connecting() {
    let mut config = config();
    config.time.connect_ms = 300;
    let world = World::with(config, OwnAddresses::default());
    let server = Server::silent(&format!("{PUBLIC}:0")).await;
    let failed = error(world.get(&format!("https://{PUBLIC}:{}/", server.port())).await);
    assert_eq!(failed, HttpError::ConnectTimeout(Duration::from_millis(300)));
}

#[tokio::test]
async fn plain_http_to_a_port_with_tls() {
    let authority = Authority::new();
    let world = authority.world();
    let server = https(authority.server(PUBLIC, BOTH, |_| {})).await;
    let failed = error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::Protocol(_) | HttpError::Closed), "{failed:?}");
}

#[tokio::test]
async fn a_connection_with_tls_serves_no_request_without() {
    let authority = Authority::new();
    let world = authority.world();
    let server = https(authority.server(PUBLIC, ONLY_1, |_| {})).await;
    world.get(&format!("https://{PUBLIC}:{}/", server.port())).await.unwrap();
    error(world.get(&format!("http://{PUBLIC}:{}/", server.port())).await);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_request_over_http_2_names_no_other_host() {
    let authority = Authority::new();
    let world = authority.world();
    world.public_name("name.test");
    let server = https_with(authority.server("name.test", BOTH, |_| {}), |request| async move {
        let host = request.headers().get("host").map_or("none", |host| host.to_str().unwrap()).to_owned();
        Response::new(Full::new(Bytes::from(host)))
    })
    .await;
    let url = format!("https://name.test:{}/", server.port());
    let request = Request::get(url).header("host", "evil.test").body(empty()).unwrap();
    let answer = read(world.send(request).await.answer.unwrap()).await.unwrap();
    assert_eq!(answer.body, b"none");
}

#[tokio::test]
async fn a_file_of_authorities_is_checked() {
    let authority = Authority::new();
    assert_eq!(check_ca_file(authority.file.path()), Ok(()));
    let garbage = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(garbage.path(), "no certificate").unwrap();
    for file in [garbage.path(), std::path::Path::new("/no/such/file")] {
        let said = check_ca_file(file).unwrap_err().to_string();
        assert!(said.contains(&file.display().to_string()), "{said}");
    }
    let mut config = config();
    config.ca_file = Some(garbage.path().to_owned());
    let world = World::with(config, OwnAddresses::default());
    let server = Server::answering(&format!("{PUBLIC}:0"), OK).await;
    let failed = error(world.get(&format!("https://{PUBLIC}:{}/", server.port())).await);
    assert!(matches!(failed, HttpError::Authorities(_)), "{failed:?}");
}
