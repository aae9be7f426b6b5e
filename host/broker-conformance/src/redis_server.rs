//! Real Redis servers for tests: on a free port, gone with the test, however it ends.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use redis::Client;
use umbel_tls::authority::{Authority, self_signed};

/// A server answers this soon, or not at all. Replaying an append-only file takes part of it.
const START_LIMIT: Duration = Duration::from_secs(20);

/// What a server is started with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keep what is written, in an append-only file that is synced on every write, so that a restart finds it.
    pub appendonly: bool,
    /// More arguments, such as `--maxmemory 100mb`.
    pub arguments: &'static [&'static str],
    /// Listen on a second port, over TLS.
    pub tls: Option<Tls>,
}

/// The certificate with which a server speaks TLS. It wants one of its clients, too, unless `--tls-auth-clients no` is among its
/// arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// A good one for 127.0.0.1, and for no name.
    Good,
    Expired,
    SelfSigned,
}

/// What a client of the TLS port needs, PEM files.
#[derive(Debug, Clone)]
pub struct TlsClient {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A `redis-server` process. Killed when this is dropped, and by the kernel when the test process dies.
#[derive(Debug)]
pub struct RedisServer {
    options: Options,
    port: u16,
    tls_port: u16,
    folder: tempfile::TempDir,
    process: Option<Process>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server` on this machine, or none can be started: a test cannot go on.
    pub fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        if let Some(tls) = options.tls {
            certify(tls, folder.path());
        }
        let mut server = Self { options, port: 0, tls_port: 0, folder, process: None };
        for _ in 0..5 {
            // Somebody may take the port in between; then the server ends, and another port is tried.
            (server.port, server.tls_port) = (free_port(), free_port());
            if server.try_launch() {
                return server;
            }
        }
        panic!("redis-server could not be started on five free ports");
    }

    /// `redis://127.0.0.1:<port>/`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `rediss://127.0.0.1:<port>/`, if it speaks TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}/", self.tls_port)
    }

    /// What its clients over TLS need.
    pub fn tls_client(&self) -> TlsClient {
        let [authority, certificate, key] =
            ["ca.pem", "client.pem", "client.key"].map(|name| self.folder.path().join(name));
        TlsClient { authority, certificate, key }
    }

    /// Kills it without a word, as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port; what an append-only file kept is there again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.process = None;
        // The kernel may hold the port for a moment.
        let deadline = Instant::now() + START_LIMIT;
        while !self.try_launch() {
            assert!(Instant::now() < deadline, "redis-server did not start again on port {}", self.port);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it from doing anything, connections stay open.
    pub fn suspend(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on after `suspend`.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// A plain connection for the test itself.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn connection(&self) -> redis::Connection {
        let client = Client::open(self.url()).expect("the address is well formed");
        client.get_connection().expect("the server answers")
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(process) = &self.process {
            // SAFETY: kill takes numbers; the process is our child and not yet waited for.
            unsafe { libc::kill(process.id as libc::pid_t, signal) };
        }
    }

    fn spawn(&self) -> Option<Process> {
        let mut command = command(&self.options, self.port, self.folder.path());
        if self.options.tls.is_some() {
            let path = |name: &str| self.folder.path().join(name);
            command.args(["--tls-port", &self.tls_port.to_string(), "--tls-ca-cert-file"]).arg(path("ca.pem"));
            command.arg("--tls-cert-file").arg(path("server.pem")).arg("--tls-key-file").arg(path("server.key"));
        }
        Process::spawn(command)
    }

    fn try_launch(&mut self) -> bool {
        let Some(mut process) = self.spawn() else { return false };
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline && process.runs() {
            if answers(self.port) {
                self.process = Some(process);
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

/// Writes the certificates of a server, of its authority and of a client.
fn certify(tls: Tls, folder: &Path) {
    let authority = Authority::new("the Redis of a test", 30).expect("an authority can be made");
    let names = ["127.0.0.1"];
    let server = match tls {
        Tls::Good => authority.server(&names, -1..20),
        Tls::Expired => authority.server(&names, -20..-2),
        Tls::SelfSigned => self_signed(&names, -1..20),
    };
    let server = server.expect("a certificate can be made");
    let client = authority.client("a test", -1..20).expect("a certificate can be made");
    let files = [
        ("ca.pem", authority.certificate()),
        ("server.pem", &server.certificate),
        ("server.key", &server.key),
        ("client.pem", &client.certificate),
        ("client.key", &client.key),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("a temporary folder can be written");
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Also when the answer is that a password is wanted, but not while it reads what it kept.
fn answers(port: u16) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 8];
        let n = stream.read(&mut answer)?;
        Ok(n > 0 && !answer.starts_with(b"-LOADING"))
    };
    ask().unwrap_or(false)
}

/// A child that a thread of its own started: the kernel kills the child when the *thread* that started it ends, and a
/// test's thread ends with the test.
#[derive(Debug)]
struct Process {
    id: u32,
    /// Asks the thread whether the child runs; dropping it makes the thread kill the child.
    ask: Option<mpsc::Sender<mpsc::Sender<bool>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Process {
    fn spawn(mut command: Command) -> Option<Self> {
        let (started, start) = mpsc::channel();
        let (ask, asked) = mpsc::channel::<mpsc::Sender<bool>>();
        let thread = thread::spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error))),
            };
            let _ = started.send(Ok(child.id()));
            while let Ok(answer) = asked.recv() {
                let _ = answer.send(matches!(child.try_wait(), Ok(None)));
            }
            end(&mut child);
        });
        match start.recv().expect("the thread says how it went") {
            Ok(id) => Some(Self { id, ask: Some(ask), thread: Some(thread) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!("redis-server is not installed: run `apt-get install redis-server`")
            }
            Err(error) => panic!("redis-server cannot be started: {error}"),
        }
    }

    fn runs(&mut self) -> bool {
        let (answer, answered) = mpsc::channel();
        let asked = self.ask.as_ref().is_some_and(|ask| ask.send(answer).is_ok());
        asked && answered.recv() == Ok(true)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn command(options: &Options, port: u16, folder: &Path) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--databases", "64"]);
    command.arg("--dir").arg(folder);
    if options.appendonly {
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
    }
    command.args(options.arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}
