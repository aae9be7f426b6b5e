//! TLS as users have it: a server with a certificate that is replaced while it serves, clients that refuse a bad one, Redis over
//! TLS, and warnings where there is none.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    path::PathBuf,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustls::{ClientConnection, pki_types::ServerName};
use serde_json::json;
use tempfile::TempDir;
use umbel_broker_conformance::redis_server::{Options, RedisServer, Tls};
use umbel_tests::{Client, Process, Split, answers, free_port, redis, umbel_command, until};
use umbel_tls::{
    Trust,
    authority::{Authority, Issued, self_signed},
    client_config,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A server of a certificate on SQLite, and what its clients need.
struct Secured {
    process: Process,
    token: String,
    port: u16,
    home: TempDir,
}

impl Secured {
    /// With a certificate; `authority` is the one that clients trust.
    async fn start(authority: &Authority, issued: &Issued) -> Result<Self> {
        let home = TempDir::new()?;
        let path = |name: &str| home.path().join(name);
        fs::write(path("ca.pem"), authority.certificate())?;
        fs::write(path("cert.pem"), &issued.certificate)?;
        fs::write(path("key.pem"), &issued.key)?;
        let mut create = umbel_command(&["token", "create", "-o", "id", "--data", "data"])?;
        let created = create.current_dir(home.path()).env("HOME", home.path()).output()?;
        let token = String::from_utf8(created.stdout)?.trim().to_owned();
        let port = free_port()?;
        let mut command = umbel_command(&["server", "--concurrency", "2", "--data", "data", "--listen"])?;
        command.arg(format!("127.0.0.1:{port}")).args(["--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
        command.current_dir(home.path()).env("HOME", home.path());
        let process = Process::start("umbel server", command, &path("server.log"))?;
        let mut this = Self { process, token, port, home };
        until("it listens", LIMIT, || async { Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(())) })
            .await?;
        this.process.check_alive()?;
        Ok(this)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn tls(&self) -> Result<rustls::ClientConfig> {
        Ok(client_config(&Trust::File(self.path("ca.pem")), None)?)
    }

    /// A client without a connection.
    fn client(&self) -> Result<Client> {
        Client::trusting(&self.url(), &self.token, self.tls()?)
    }

    /// Puts another certificate in the place of the one that there is, file by file.
    fn replace(&self, issued: &Issued) -> Result<()> {
        for (name, text) in [("cert.pem", &issued.certificate), ("key.pem", &issued.key)] {
            fs::write(self.path("new"), text)?;
            fs::rename(self.path("new"), self.path(name))?;
        }
        Ok(())
    }

    /// The certificate that a new connection is shown.
    fn shown(&self) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let name = ServerName::try_from("localhost")?;
        let mut session = ClientConnection::new(Arc::new(self.tls()?), name)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(session.peer_certificates().context("no certificate")?[0].to_vec())
    }

    /// Runs a client verb of the real binary with a server's address.
    fn umbel(&self, url: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = umbel_command(arguments)?;
        command.current_dir(self.home.path()).env("HOME", self.home.path());
        command.env("UMBEL_URL", url).env("UMBEL_TOKEN", &self.token);
        command.output().context("cannot start umbel")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load_without_a_lost_request() -> Result<()> {
    const REPLACEMENTS: i64 = 4;
    let authority = Authority::new("tests", 400)?;
    let server = Arc::new(Secured::start(&authority, &authority.server(&["localhost"], -1..100)?).await?);
    server.client()?.push("numbers").await?;
    let (over, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let (server, over, requests) = (server.clone(), over.clone(), requests.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    // Some on connections that stay, some on new ones.
                    let client = server.client()?;
                    for n in 0..10 {
                        let answer = client.post("/v1/jobs?wait=20s", &json!({"task": "add", "args": [n, 1]})).await?;
                        ensure!(answer.good()?["result"] == n + 1, "{}", answer.text);
                        requests.fetch_add(1, Ordering::SeqCst);
                    }
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for n in 0..REPLACEMENTS {
        let before = server.shown()?;
        let done = requests.load(Ordering::SeqCst);
        server.replace(&authority.server(&["localhost"], -1..101 + n)?)?;
        until("new connections see the new certificate", LIMIT, || async {
            Ok((server.shown()? != before).then_some(()))
        })
        .await?;
        let listed = server.umbel(&server.url(), &["job", "list", "--limit", "1", "--ca-file", "ca.pem"])?;
        ensure!(listed.status.success(), "{}", said(&listed));
        until("requests go on", LIMIT, || async { Ok((requests.load(Ordering::SeqCst) > done + 20).then_some(())) })
            .await?;
    }
    over.store(true, Ordering::SeqCst);
    for task in asking {
        task.await?.context("a request was lost")?;
    }
    ensure!(server.process.output().matches("the certificate was replaced").count() == REPLACEMENTS as usize);
    // A key that does not fit is not used, and the log says what to do.
    let before = server.shown()?;
    let [one, other] = [102, 103].map(|day| authority.server(&["localhost"], -1..day));
    server.replace(&Issued { certificate: one?.certificate, key: other?.key })?;
    until("the log names the files", LIMIT, || async {
        Ok(server.process.output().contains("key.pem does not belong to the certificate").then_some(()))
    })
    .await?;
    ensure!(server.shown()? == before);
    Ok(())
}

#[tokio::test]
async fn the_command_line_says_what_is_wrong_with_a_certificate() -> Result<()> {
    let authority = Authority::new("tests", 400)?;
    let good = authority.server(&["localhost"], -1..100)?;
    let server = Secured::start(&authority, &good).await?;
    let list = ["queue", "list", "--ca-file", "ca.pem"];
    let accepted = server.umbel(&server.url(), &list)?;
    ensure!(accepted.status.success(), "{}", said(&accepted));
    let cases = [
        (authority.server(&["localhost"], -9..-2)?, "its certificate expired on"),
        (authority.server(&["umbel.example"], -1..9)?, "is for umbel.example, not for localhost"),
        (Authority::new("a stranger", 9)?.server(&["localhost"], -1..9)?, "was issued by nobody who is trusted here"),
        (self_signed(&["localhost"], -1..9)?, "it may be self-signed"),
    ];
    for (issued, expected) in cases {
        server.replace(&issued)?;
        let refused = until(expected, LIMIT, || async {
            let output = server.umbel(&server.url(), &list)?;
            Ok(said(&output).contains(expected).then_some(output))
        })
        .await?;
        let text = said(&refused);
        ensure!(refused.status.code() == Some(1) && text.contains("error[tls]") && text.contains("help:"), "{text}");
    }
    ensure!(said(&server.umbel(&server.url(), &list)?).contains("--ca-file or UMBEL_CA_FILE"));
    // The other protocol, in both directions.
    let plain = server.umbel(&server.url().replace("https", "http"), &["queue", "list"])?;
    ensure!(said(&plain).contains("error[https_needed]") && said(&plain).contains("https://"), "{}", said(&plain));
    let port = free_port()?;
    let mut command = umbel_command(&["server", "--concurrency", "1", "--data", "plain", "--listen"])?;
    command.arg(format!("127.0.0.1:{port}")).current_dir(server.home.path());
    let mut process = Process::start("umbel server", command, &server.path("plain.log"))?;
    answers(&Client::new(&format!("http://127.0.0.1:{port}"), "")?, &mut process).await?;
    let encrypted = server.umbel(&format!("https://localhost:{port}"), &list)?;
    ensure!(said(&encrypted).contains("does not speak TLS"), "{}", said(&encrypted));
    ensure!(said(&encrypted).contains("write http://"), "{}", said(&encrypted));
    Ok(())
}

#[test]
fn a_server_whose_files_cannot_be_used_does_not_start() -> Result<()> {
    let home = TempDir::new()?;
    let [one, other] = [self_signed(&["localhost"], -1..9)?, self_signed(&["localhost"], -1..9)?];
    fs::write(home.path().join("cert.pem"), &one.certificate)?;
    fs::write(home.path().join("key.pem"), &other.key)?;
    let start = |arguments: &[&str]| -> Result<String> {
        let mut command =
            umbel_command(&["server", "--concurrency", "1", "--listen", "127.0.0.1:0", "--data", "data"])?;
        Ok(said(&command.args(arguments).current_dir(home.path()).output()?))
    };
    let told = start(&["--tls-cert", "cert.pem", "--tls-key", "key.pem"])?;
    ensure!(told.contains("error[certificate]") && told.contains("key.pem does not belong"), "{told}");
    let told = start(&["--tls-cert", "none.pem", "--tls-key", "key.pem"])?;
    ensure!(told.contains("none.pem cannot be read"), "{told}");
    let told = start(&["--tls-cert", "cert.pem"])?;
    ensure!(told.contains("--tls-key"), "{told}");
    Ok(())
}

#[tokio::test]
async fn jobs_run_on_a_redis_over_tls_with_a_certificate_of_the_client_and_a_password_from_a_file() -> Result<()> {
    let arguments = &["--requirepass", "s3cret/#@"];
    let redis = RedisServer::start(Options { tls: Some(Tls::Good), arguments, ..Options::default() });
    let files = redis.tls_client();
    let home = TempDir::new()?;
    let password = home.path().join("password");
    fs::File::create(&password)?.write_all(b"s3cret/#@\n")?;
    let environment = [
        ("UMBEL_REDIS_CA_FILE", &files.authority),
        ("UMBEL_REDIS_CERT", &files.certificate),
        ("UMBEL_REDIS_KEY", &files.key),
        ("UMBEL_REDIS_PASSWORD_FILE", &password),
    ];
    let environment = environment.map(|(name, path)| (name.to_owned(), path.display().to_string()));
    let split = Split::within(environment.to_vec(), &redis.tls_url(), 1, &["--concurrency", "2"]).await?;
    split.client.push("numbers").await?;
    ensure!(split.client.result("add", json!([2, 3])).await? == 5);
    let logs = [split.server.output(), split.workers[0].output()];
    ensure!(logs[0].contains("rediss://127.0.0.1") && !logs.concat().contains("s3cret"), "{logs:?}");
    let well = split.umbel(&["doctor"])?;
    ensure!(well.status.success(), "{}", said(&well));
    Ok(())
}

#[tokio::test]
async fn a_server_that_others_reach_without_tls_warns_and_doctor_tells() -> Result<()> {
    let (redis, home) = (redis(), TempDir::new()?);
    let warning = "listens beyond this machine without TLS";
    for (arguments, warns) in [(&["--behind-proxy"][..], false), (&[], true)] {
        let port = free_port()?;
        let mut command = umbel_command(&["server", "--broker", &redis.url(), "--data", "data", "--listen"])?;
        command.arg(format!("0.0.0.0:{port}")).args(arguments).current_dir(home.path());
        let mut process = Process::start("umbel server", command, &home.path().join("server.log"))?;
        answers(&Client::new(&format!("http://127.0.0.1:{port}"), "")?, &mut process).await?;
        let doctor = || -> Result<String> {
            let mut command = umbel_command(&["doctor", "--broker", &redis.url(), "--data", "data"])?;
            Ok(said(&command.current_dir(home.path()).output()?))
        };
        if warns {
            until("doctor tells", LIMIT, || async {
                let told = doctor()?;
                Ok((told.contains(&format!("0.0.0.0:{port}")) && told.contains("--tls-cert")).then_some(()))
            })
            .await?;
            ensure!(process.output().contains(warning), "{}", process.output());
        } else {
            ensure!(!doctor()?.contains("without TLS"));
            ensure!(!process.output().contains(warning), "{}", process.output());
        }
        process.terminate(LIMIT).await?;
        ensure!(!doctor()?.contains("without TLS"), "nobody listens any more");
    }
    Ok(())
}
