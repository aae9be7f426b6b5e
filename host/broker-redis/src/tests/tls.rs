//! The broker over TLS: the scenarios of the suite, and servers, certificates and passwords that are not as they should be.

use std::{path::PathBuf, time::Duration};

use super::{
    faults::{claim, job, refusal, settle, succeed, within_seconds},
    *,
};

umbel_broker_conformance::conformance_suite!(@scenarios || subject_over(true));

/// How to reach a server over TLS, with a certificate that it accepts.
pub(super) fn over_tls(server: &RedisServer, database: &str) -> RedisConfig {
    let client = server.tls_client();
    let files = RedisFiles {
        authorities: Some(client.authority),
        identity: Some((client.certificate, client.key)),
        ..RedisFiles::default()
    };
    RedisConfig { files, ..RedisConfig::new(format!("{}{database}", server.tls_url())) }
}

fn with(tls: Tls, arguments: &'static [&'static str]) -> RedisServer {
    RedisServer::start(Options { tls: Some(tls), arguments, ..Options::default() })
}

/// One that the server does not know.
fn strange_identity(folder: &tempfile::TempDir) -> (PathBuf, PathBuf) {
    let stranger = umbel_tls::authority::Authority::new("a stranger", 30).unwrap().client("x", -1..20).unwrap();
    let [certificate, key] = ["x.pem", "x.key"].map(|name| folder.path().join(name));
    std::fs::write(&certificate, stranger.certificate).unwrap();
    std::fs::write(&key, stranger.key).unwrap();
    (certificate, key)
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_and_says_why() {
    for (tls, expected) in [(Tls::Expired, "expired on"), (Tls::SelfSigned, "may be self-signed")] {
        let server = with(tls, &[]);
        let why = refusal(over_tls(&server, "")).await;
        assert!(why.contains(expected) && why.contains("127.0.0.1:"), "{why}");
    }
    let server = with(Tls::Good, &[]);
    let mut config = over_tls(&server, "");
    config.url = config.url.replace("127.0.0.1", "localhost");
    let why = refusal(config).await;
    assert!(why.contains("is for 127.0.0.1, not for localhost"), "{why}");
    // Nobody waits for a server whose certificate has to be changed.
    let config = RedisConfig { wait_for_server: true, ..over_tls(&server, "") };
    let files = RedisFiles { authorities: None, ..config.files.clone() };
    let why = refusal(RedisConfig { files, ..config }).await;
    assert!(why.contains("--redis-ca-file") || why.contains("ca-certificates"), "{why}");
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_its_client_says_so() {
    let server = with(Tls::Good, &[]);
    let config = over_tls(&server, "");
    let without = RedisFiles { identity: None, ..config.files.clone() };
    let why = refusal(RedisConfig { files: without, ..config.clone() }).await;
    assert!(why.contains("--redis-cert"), "{why}");
    let folder = tempfile::tempdir().unwrap();
    let strange = RedisFiles { identity: Some(strange_identity(&folder)), ..config.files.clone() };
    let why = refusal(RedisConfig { files: strange, ..config.clone() }).await;
    assert!(why.contains("refuses the certificate of the client"), "{why}");
    let missing = RedisFiles { authorities: Some(folder.path().join("none.pem")), ..config.files.clone() };
    let why = refusal(RedisConfig { files: missing, ..config }).await;
    assert!(why.contains("none.pem cannot be read"), "{why}");
}

#[tokio::test]
async fn a_client_that_shows_no_certificate_is_served_where_none_is_wanted() {
    let server = with(Tls::Good, &["--tls-auth-clients", "no"]);
    let config = over_tls(&server, "");
    let files = RedisFiles { identity: None, ..config.files.clone() };
    RedisBroker::connect(RedisConfig { files, ..config }).await.unwrap().check().await.unwrap();
}

#[tokio::test]
async fn the_wrong_protocol_is_named_in_both_directions() {
    let server = with(Tls::Good, &[]);
    let encrypted = RedisConfig { connect_timeout: Duration::from_secs(2), ..over_tls(&server, "") };
    let url = format!("rediss://127.0.0.1:{}/", server.port());
    let error = RedisBroker::connect(RedisConfig { url, ..encrypted }).await.unwrap_err().to_string();
    assert!(error.contains("write redis://"), "{error}");
    let plain = RedisConfig::new(server.tls_url().replace("rediss", "redis"));
    let error = RedisBroker::connect(plain).await.unwrap_err().to_string();
    assert!(error.contains("write rediss://"), "{error}");
}

#[tokio::test]
async fn hints_and_confirmed_changes_go_over_tls_and_come_back_after_a_restart() {
    let mut server = with(Tls::Good, &["--appendonly", "yes", "--appendfsync", "always"]);
    let config = RedisConfig { patience: Duration::from_millis(100), ..over_tls(&server, "") };
    let broker = RedisBroker::connect(config).await.unwrap();
    let mut heard = broker.signals(Topic::Work).await.unwrap();
    broker.submit(&[job(1)]).await.unwrap();
    let soon = |heard: broadcast::Receiver<Signal>| async {
        let mut heard = heard;
        let signal = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.unwrap().unwrap();
        (heard, signal)
    };
    let signal;
    (heard, signal) = soon(heard).await;
    assert_eq!(signal, Signal::Work([QueueName::default()].into()));
    let _server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    assert_eq!(soon(heard).await.1, Signal::Resync);
    within_seconds(10, || async { broker.check().await.is_ok() }).await;
    let held = broker.claim(&claim(1)).await.unwrap();
    let settled = broker.settle(&[settle(&held[0], succeed())], None).await.unwrap().0;
    assert_eq!(settled, [Settled::Recorded]);
}

#[tokio::test]
async fn a_password_comes_from_a_file_and_is_read_anew_for_each_connection() {
    let server = RedisServer::start(Options { arguments: &["--requirepass", "p#/@ss"], ..Options::default() });
    let file = tempfile::NamedTempFile::new().unwrap();
    let files = RedisFiles { password: Some(file.path().into()), ..RedisFiles::default() };
    let config = RedisConfig { files, patience: Duration::from_millis(100), ..RedisConfig::new(server.url()) };
    std::fs::write(file.path(), "wrong\n").unwrap();
    let why = refusal(config.clone()).await;
    assert!(why.contains("password") && !why.contains("wrong\n"), "{why}");
    std::fs::write(file.path(), "p#/@ss\n").unwrap();
    let broker = RedisBroker::connect(config).await.unwrap();
    let mut own = redis::Client::open(format!("redis://:p%23%2F%40ss@127.0.0.1:{}/", server.port())).unwrap();
    let () = redis::cmd("CONFIG").arg(&["SET", "requirepass", "rotated"]).query(&mut own).unwrap();
    std::fs::write(file.path(), "rotated").unwrap();
    let mut own = redis::Client::open(format!("redis://:rotated@127.0.0.1:{}/", server.port())).unwrap();
    let _: i64 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).query(&mut own).unwrap();
    within_seconds(10, || async { broker.submit(&[job(1)]).await.is_ok() }).await;
}
