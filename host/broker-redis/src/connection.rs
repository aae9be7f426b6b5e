//! The one connection that all operations share, and what happens when it is lost: it is made anew, for ever, with
//! growing pauses; whoever needs it meanwhile waits `patience` and is then told why.
//!
//! An operation that may have been done is repeated only if its caller says that this is harmless.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::TryFutureExt as _;
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::watch,
    time::Instant,
};
use umbel_broker::{Error, Result};
use umbel_tls::Refusal;

use crate::{
    RedisConfig,
    dial::{Dial, Wire},
    keys::{Keys, VERSION},
    library::{Library, commands},
    settings::{self, Durability},
};

/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Between attempts to have a command done by a server that is not ready.
pub(crate) const NOT_READY_PAUSE: Duration = Duration::from_millis(50);
/// Commands that wait to be written, and bytes: a batch is 100 KB and more.
const PIPELINE: usize = 256;
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// May a command be sent again when its reply was lost?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Safe,
    /// Only when it surely was not executed.
    OnlyUnsent,
}

#[derive(Debug, Clone)]
enum State {
    Up(Live),
    Down(Error),
}

#[derive(Clone)]
struct Live {
    generation: u64,
    connection: Wire,
    /// None when the user has no right to know it.
    client: Option<ServersClient>,
}

/// How a server knows a connection.
#[derive(Debug, Clone)]
pub(crate) struct ServersClient {
    /// Of the server's process.
    run_id: String,
    id: i64,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.generation)
    }
}

pub(crate) struct Connection {
    dial: Dial,
    pub(crate) keys: Keys,
    pub(crate) library: Library,
    pub(crate) patience: Duration,
    pub(crate) connect_timeout: Duration,
    response_timeout: Duration,
    allow_unsafe_settings: bool,
    durability: Durability,
    state: watch::Sender<State>,
    warned: AtomicBool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.address())
    }
}

impl Connection {
    /// Connects, or with `wait_for_server` begins to.
    pub(crate) async fn start(config: &RedisConfig, keys: Keys) -> Result<Arc<Self>> {
        let this = Arc::new(Self {
            dial: Dial::new(&config.url, &config.files)?,
            keys,
            library: Library::new(),
            patience: config.patience,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            allow_unsafe_settings: config.allow_unsafe_settings,
            durability: config.durability,
            state: watch::Sender::new(State::Down(Error::Unavailable("not connected yet".into()))),
            warned: AtomicBool::new(false),
        });
        match this.open().await {
            Ok((connection, client)) => {
                this.state.send_replace(State::Up(Live { generation: 0, connection, client }));
            }
            Err(error @ Error::Unavailable(_)) if config.wait_for_server => {
                tracing::warn!(address = %this.address(), %error, "Redis is not there yet; waiting for it");
                this.state.send_replace(State::Down(error));
                this.reconnect(0, None);
            }
            Err(error) => return Err(error),
        }
        Ok(this)
    }

    /// Changes with each new connection.
    pub(crate) fn generation(&self) -> Option<u64> {
        match &*self.state.borrow() {
            State::Up(live) => Some(live.generation),
            State::Down(_) => None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(_))
    }

    /// Host and port, never the password.
    pub(crate) fn address(&self) -> &ConnectionAddr {
        self.dial.address()
    }

    pub(crate) fn dial(&self) -> &Dial {
        &self.dial
    }

    /// A connection to a server that may be used.
    pub(crate) async fn open(&self) -> Result<(Wire, Option<ServersClient>)> {
        // The handshake has no limit of its own: a stopped server accepts connections and says nothing.
        let opening = async {
            let mut connection = self.connect().await.map_err(|error| self.not_connected(&error))?;
            let client = self.accept(&mut connection).await?;
            Ok((connection, client))
        };
        // Nothing that a server says to a new connection is the fault of an operation.
        let opening = opening.map_err(|error| match error {
            Error::Failed(why) => Error::Unavailable(why),
            other => other,
        });
        tokio::time::timeout(self.connect_timeout, opening).await.map_err(|_| self.late())?
    }

    /// A new connection was not there in time.
    pub(crate) fn late(&self) -> Error {
        let hint = if self.dial.is_encrypted() { "; if it has no TLS, write redis:// in its address" } else { "" };
        Error::Unavailable(format!("{} did not answer in {:?}{hint}", self.address(), self.connect_timeout))
    }

    async fn connect(&self) -> RedisResult<Wire> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout))
            .set_pipeline_buffer_size(PIPELINE)
            .set_write_backpressure_boundary(WRITE_BUFFER_BYTES);
        self.dial.commands(config).await
    }

    /// Whether the server serves nobody: nothing listens where it should, or it listens and does not answer, or takes no
    /// writes. One that cannot be reached may serve others, and so may the successor of one that is a replica now.
    pub(crate) async fn is_away(&self, within: Duration) -> bool {
        match tokio::time::timeout(within / 2, self.reach()).await {
            Err(_) => return false,
            Ok(Err(error)) => {
                return matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
            }
            Ok(Ok(())) => {}
        }
        let writing = async {
            let mut connection = self.connect().await?;
            self.check_call().query_async::<Value>(&mut connection).await
        };
        match tokio::time::timeout(within / 2, writing).await {
            Ok(Ok(_)) => false,
            Ok(Err(error)) => is_no_write_from_anybody(&error),
            Err(_) => true,
        }
    }

    /// Whether something listens at the address.
    async fn reach(&self) -> io::Result<()> {
        match self.address() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                TcpStream::connect((host.as_str(), *port)).await.map(drop)
            }
            ConnectionAddr::Unix(path) => UnixStream::connect(path).await.map(drop),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn check_call(&self) -> Cmd {
        self.library.call("check", self.keys.routing()).arg(";0").arg(commands()).to_owned()
    }

    /// Looks whether the server is one that keeps what it is given, and holds nothing of a newer release.
    async fn accept(&self, connection: &mut Wire) -> Result<Option<ServersClient>> {
        let info = redis::cmd("INFO").query_async::<String>(connection).await.map_err(|e| self.told(&e))?;
        let quiet = self.warned.swap(true, Ordering::Relaxed);
        settings::check(&info, self.allow_unsafe_settings, quiet)?;
        settings::check_durability(&info, self.durability, quiet)?;
        // One that was not a replica when this process started was the primary, and may be it again.
        self.refuse_replica(&info, !quiet)?;
        self.load_library(connection).await?;
        let take_over = self.library.call("take_over", self.keys.routing()).arg(";0").to_owned();
        let may_go_on = |error: &RedisError| takes_no_writes(error) || is_unknown_function(error);
        match take_over.query_async::<Value>(connection).await {
            Err(error) if !may_go_on(&error) => return Err(self.told(&error)),
            _ => {}
        }
        match self.check_call().query_async::<Vec<String>>(connection).await {
            Ok(missing) => self.refuse_rights(&missing)?,
            Err(error) if may_go_on(&error) => {}
            Err(error) => return Err(self.told(&error)),
        }
        let id = redis::cmd("CLIENT").arg("ID").query_async::<i64>(connection).await.ok();
        let run_id = settings::field(&info, "run_id").map(str::to_owned);
        Ok(id.zip(run_id).map(|(id, run_id)| ServersClient { run_id, id }))
    }

    /// What was sent on a connection that was given up, and is not done yet, is not to be done any more: nobody would
    /// hold the leases of a claim. Without the right to it, it is left.
    async fn end_client(&self, connection: &mut Wire, old: &ServersClient) {
        let kill = redis::cmd("CLIENT").arg("KILL").arg("ID").arg(old.id).to_owned();
        if let Err(error) = kill.query_async::<Value>(connection).await {
            tracing::debug!(address = %self.address(), %error, "the old connection was left to end by itself");
        }
    }

    fn refuse_replica(&self, info: &str, is_first: bool) -> Result<()> {
        match (settings::is_replica(info), is_first) {
            (false, _) => Ok(()),
            (true, true) => {
                Err(Error::Refused("it is a replica, which takes no writes; give the address of the primary".into()))
            }
            (true, false) => Err(self.became_replica()),
        }
    }

    fn became_replica(&self) -> Error {
        Error::Unavailable(format!("{} is a read-only replica; waiting until it is the primary", self.address()))
    }

    /// Rights that a function lacks end it in its middle: what it wrote before stays.
    pub(crate) fn refuse_rights(&self, missing: &[String]) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "{}: the user of the address has no right to {}; give them with ACL SETUSER",
            self.address(),
            missing.join(", ")
        )))
    }

    /// Gives the server the functions. One that takes no writes is asked again when a function is called.
    async fn load_library(&self, connection: &mut Wire) -> Result<()> {
        match self.library.load().query_async::<Value>(connection).await {
            Ok(_) => self.delete_old_libraries(connection).await,
            Err(error) if is_known_library(&error) => {}
            Err(error) if takes_no_writes(&error) => {
                tracing::warn!(address = %self.address(), %error, "Redis does not take the functions of this release");
            }
            Err(error) => return Err(self.told(&error)),
        }
        Ok(())
    }

    /// Libraries of other builds would pile up. A process that still uses one loads it again.
    async fn delete_old_libraries(&self, connection: &mut Wire) {
        let Ok(listed) = Library::list().query_async::<Value>(connection).await else { return };
        for delete in self.library.deletions(&listed) {
            let _ = delete.query_async::<Value>(connection).await;
        }
    }

    /// Whether the server answers, may be used, and takes a write. The functions must be there.
    pub(crate) async fn check(self: &Arc<Self>) -> Result<()> {
        match self.query(&redis::cmd("INFO"), Repeat::Safe).await {
            Ok(Value::BulkString(info)) => {
                let info = String::from_utf8_lossy(&info);
                settings::check(&info, self.allow_unsafe_settings, true)?;
                self.refuse_replica(&info, false)
            }
            Ok(_) | Err(Failed::UnknownFunction) => Err(Error::Failed("INFO was answered with something else".into())),
            Err(Failed::Broker(error)) => Err(error),
        }
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn query(self: &Arc<Self>, command: &Cmd, repeat: Repeat) -> Result<Value, Failed> {
        let deadline = Instant::now() + self.patience;
        loop {
            let mut live = self.live(deadline).await.map_err(Failed::Broker)?;
            let error = match command.query_async::<Value>(&mut live.connection).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if is_unknown_function(&error) {
                return Err(Failed::UnknownFunction);
            }
            let told = self.told(&error);
            match verdict(&error) {
                Verdict::Answered => return Err(Failed::Broker(told)),
                Verdict::NotReady if Instant::now() + NOT_READY_PAUSE < deadline => {
                    tokio::time::sleep(NOT_READY_PAUSE).await;
                }
                Verdict::NotReady => return Err(Failed::Broker(told)),
                Verdict::Lost => {
                    self.lost(live.generation, &told);
                    if repeat == Repeat::OnlyUnsent || Instant::now() >= deadline {
                        return Err(Failed::Broker(told));
                    }
                }
            }
        }
    }

    /// The connection, waiting for it until `deadline`.
    async fn live(&self, deadline: Instant) -> Result<Live> {
        let mut states = self.state.subscribe();
        let up = states.wait_for(|state| matches!(state, State::Up(_)));
        if let Ok(Ok(state)) = tokio::time::timeout_at(deadline, up).await
            && let State::Up(live) = &*state
        {
            return Ok(live.clone());
        }
        match &*self.state.borrow() {
            State::Up(live) => Ok(live.clone()),
            State::Down(error) => Err(error.clone()),
        }
    }

    /// Gives a connection up; the first who does says so and starts to make it anew.
    fn lost(self: &Arc<Self>, generation: u64, why: &Error) {
        let mut client = None;
        let first = self.state.send_if_modified(|state| match state {
            State::Up(live) if live.generation == generation => {
                client = live.client.take();
                *state = State::Down(why.clone());
                true
            }
            _ => false,
        });
        if first {
            tracing::warn!(address = %self.address(), error = %why, "the connection to Redis is lost; connecting again");
            self.reconnect(generation + 1, client);
        }
    }

    /// Connects for ever in the background, until this is dropped.
    fn reconnect(self: &Arc<Self>, generation: u64, old: Option<ServersClient>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let since = Instant::now();
            let mut pause = FIRST_PAUSE;
            while let Some(this) = weak.upgrade() {
                match this.open().await {
                    Ok((mut connection, client)) => {
                        if let Some(old) = old
                            && client.as_ref().is_some_and(|new| new.run_id == old.run_id)
                        {
                            this.end_client(&mut connection, &old).await;
                        }
                        let down_ms = since.elapsed().as_millis() as u64;
                        tracing::info!(address = %this.address(), down_ms, "connected to Redis again");
                        this.state.send_replace(State::Up(Live { generation, connection, client }));
                        return;
                    }
                    Err(error) => {
                        if matches!(error, Error::Refused(_)) && pause == FIRST_PAUSE {
                            tracing::error!(address = %this.address(), %error, "Redis came back and cannot be used");
                        }
                        this.state.send_replace(State::Down(error));
                    }
                }
                drop(this);
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// What to say of a connection that did not come about.
    pub(crate) fn not_connected(&self, error: &RedisError) -> Error {
        let is_odd = error.kind() == ErrorKind::Parse || error.is_connection_dropped();
        match self.told(error) {
            Error::Unavailable(why) if is_odd && !self.dial.is_encrypted() => {
                Error::Unavailable(format!("{why} (if this port speaks TLS, write rediss:// in its address)"))
            }
            told => told,
        }
    }

    /// What to say of an error of the library or the server.
    pub(crate) fn told(&self, error: &RedisError) -> Error {
        if let Some(refusal) = Refusal::of(error).filter(Refusal::is_final) {
            let help = match refusal {
                Refusal::NotTls => "write redis:// in its address if it has no certificate, or look at its port".into(),
                Refusal::WantsCertificate => "give one with --redis-cert and --redis-key".into(),
                _ => refusal.help("--redis-ca-file"),
            };
            return Error::Refused(format!("{}: {refusal}; {help}", self.address()));
        }
        let text = format!("{}: {error}", self.address());
        let code = error.code().unwrap_or_default();
        if code == "OOM" || text.contains("OOM command not allowed") {
            return Error::Full(format!("Redis has reached its maxmemory ({})", self.address()));
        }
        match (error.kind(), code) {
            (ErrorKind::InvalidClientConfig, _) => {
                Error::Refused(format!("{}: {}", self.address(), error.detail().unwrap_or(error.category())))
            }
            (ErrorKind::AuthenticationFailed, _) | (_, "NOAUTH" | "WRONGPASS" | "NOPERM") => {
                Error::Refused(format!("{text} (check user and password in the address, and the user's permissions)"))
            }
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => self.became_replica(),
            (ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask), _) => Error::Unavailable(format!(
                "{} is a node of a Redis Cluster, and the keys of umbel are on another one{}; all of them are in one slot, \
                 and umbel follows no redirections: give the address of the node that has it, or of a Redis that is no \
                 cluster",
                self.address(),
                error.redirect_node().map(|(node, slot)| format!(" ({node} has slot {slot})")).unwrap_or_default()
            )),
            (_, "OUTGROWN") => Error::Refused(format!(
                "{}, and this release of umbel knows versions up to {VERSION}; use the release that wrote it, or a later one",
                error.detail().unwrap_or("it holds data of another version")
            )),
            (_, "MISCONF") => Error::Unavailable(format!("{} cannot write to its disk: {error}", self.address())),
            (_, "NOREPLICAS") => Error::Unavailable(format!(
                "{} has fewer replicas in sync than its min-replicas-to-write, and takes no writes",
                self.address()
            )),
            (_, "BUSY") => Error::Unavailable(format!("{} is busy with a function", self.address())),
            _ => match verdict(error) {
                Verdict::Answered => Error::Failed(text),
                Verdict::NotReady | Verdict::Lost => Error::Unavailable(text),
            },
        }
    }
}

pub(crate) fn is_unknown_function(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("Function not found"))
}

fn is_known_library(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("already exists"))
}

/// Because it is full, cannot write to its disk, or has too few replicas.
fn takes_no_writes(error: &RedisError) -> bool {
    matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS"))
}

/// No other process can have written anything.
fn is_no_write_from_anybody(error: &RedisError) -> bool {
    matches!(error.code(), Some("MISCONF" | "NOREPLICAS" | "LOADING" | "BUSY" | "CLUSTERDOWN"))
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The server does not know the function: it was restarted, or never had it.
    UnknownFunction,
    Broker(Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The server said no, and will again.
    Answered,
    /// The server said that it cannot yet; nothing was done.
    NotReady,
    /// Nobody knows what was done, or the connection leads to the wrong server.
    Lost,
}

pub(crate) fn verdict(error: &RedisError) -> Verdict {
    use ServerErrorKind as S;
    match error.kind() {
        ErrorKind::Server(S::BusyLoading | S::TryAgain | S::ClusterDown | S::MasterDown) => Verdict::NotReady,
        // After a failover the name may lead to the new primary.
        ErrorKind::Server(S::ReadOnly | S::Moved | S::Ask) => Verdict::Lost,
        ErrorKind::Server(_) | ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => Verdict::Answered,
        ErrorKind::Extension if error.code() == Some("BUSY") => Verdict::NotReady,
        ErrorKind::Io | ErrorKind::Parse => Verdict::Lost,
        _ if error.is_unrecoverable_error() || error.is_timeout() => Verdict::Lost,
        _ => Verdict::Answered,
    }
}

/// Half to all of a pause, so that many clients do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pause is merely not spread.
    let _ = getrandom::fill(&mut random);
    pause / 2 + pause.mul_f64(f64::from(random[0]) / 512.0)
}
