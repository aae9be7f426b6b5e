//! The client over TLS, against servers whose certificates are good or not.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_rustls::TlsAcceptor;
use umbel_tls::{
    ServerCertificate,
    authority::{Authority, Issued, self_signed},
};

use super::*;

/// A server of a certificate, which answers each request with `{}`.
struct Secured {
    url: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    folder: tempfile::TempDir,
}

impl Secured {
    async fn start(authority: &Authority, issued: Issued) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("ca.pem"), authority.certificate()).unwrap();
        std::fs::write(path("cert.pem"), issued.certificate).unwrap();
        std::fs::write(path("key.pem"), issued.key).unwrap();
        let certificate = ServerCertificate::load(&path("cert.pem"), &path("key.pem"), &["http/1.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (connections.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::SeqCst);
                let Ok(mut stream) = TlsAcceptor::from(certificate.config()).accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|bytes| bytes > 0) {}
                counts.1.fetch_add(1, Ordering::SeqCst);
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { url, connections, requests, folder }
    }

    fn client(&self) -> Client {
        let options = ClientOptions::default().ca_file(self.folder.path().join("ca.pem"));
        Client::with_options(&self.url, "t", &options).unwrap()
    }
}

#[tokio::test]
async fn a_certificate_of_a_trusted_authority_is_accepted() {
    let authority = Authority::new("tests", 30).unwrap();
    let server = Secured::start(&authority, authority.server(&["localhost"], -1..20).unwrap()).await;
    assert_eq!(server.client().get("/").text().await.unwrap(), "{}");
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_once_and_says_why() {
    let (authority, stranger) = (Authority::new("tests", 30).unwrap(), Authority::new("stranger", 30).unwrap());
    let cases = [
        (authority.server(&["localhost"], -9..-2), "expired on"),
        (authority.server(&["other.example"], -1..20), "is for other.example, not for localhost"),
        (stranger.server(&["localhost"], -1..20), "issued by nobody who is trusted here"),
        (self_signed(&["localhost"], -1..20), "may be self-signed"),
    ];
    for (issued, expected) in cases {
        let server = Secured::start(&authority, issued.unwrap()).await;
        let error = server.client().get("/").text().await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }) && !error.is_transient(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(&server.url), "{text}");
        let counts = [&server.connections, &server.requests].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(counts, [1, 0], "{text}");
    }
}

#[tokio::test]
async fn the_systems_authorities_do_not_know_a_private_one() {
    let authority = Authority::new("tests", 30).unwrap();
    let server = Secured::start(&authority, authority.server(&["localhost"], -1..20).unwrap()).await;
    // A machine without any authorities says so before it connects.
    let error = match Client::new(&server.url, "t") {
        Ok(client) => client.get("/").text().await.unwrap_err().to_string(),
        Err(error) => return assert!(error.to_string().contains("ca-certificates"), "{error}"),
    };
    assert!(error.contains("ClientOptions::ca_file"), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // As a server of HTTP answers to bytes that are no request.
            let _ = stream.read(&mut [0; 64]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, Authority::new("tests", 30).unwrap().certificate()).unwrap();
    let client = Client::with_options(&url, "t", &ClientOptions::default().ca_file(&ca)).unwrap();
    let error = client.get("/").text().await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    let missing = ClientOptions::default().ca_file(folder.path().join("none.pem"));
    let error = Client::with_options(&url, "t", &missing).unwrap_err();
    assert!(error.to_string().contains("none.pem cannot be read"), "{error}");
}
