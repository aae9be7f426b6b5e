//! The one connection that all operations share, and what happens when it is lost: it is made anew, for ever, with
//! growing pauses; whoever needs it meanwhile waits `patience` and is then told why.
//!
//! An operation that may have been done is repeated only if its caller says that this is harmless.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind,
    Value, aio::MultiplexedConnection,
};
use tokio::{sync::watch, time::Instant};
use umbel_broker::{Error, Result};

use crate::{
    RedisConfig,
    keys::{Keys, VERSION},
    library::Library,
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
    connection: MultiplexedConnection,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.generation)
    }
}

pub(crate) struct Connection {
    client: Client,
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
            client: client(&config.url)?,
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
            Ok(connection) => {
                this.state.send_replace(State::Up(Live { generation: 0, connection }));
            }
            Err(error @ Error::Unavailable(_)) if config.wait_for_server => {
                tracing::warn!(address = %this.address(), %error, "Redis is not there yet; waiting for it");
                this.state.send_replace(State::Down(error));
                this.reconnect(0);
            }
            Err(error) => return Err(error),
        }
        Ok(this)
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(_))
    }

    /// Host and port, never the password.
    pub(crate) fn address(&self) -> &ConnectionAddr {
        self.client.get_connection_info().addr()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A connection to a server that may be used.
    pub(crate) async fn open(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout))
            .set_pipeline_buffer_size(PIPELINE)
            .set_write_backpressure_boundary(WRITE_BUFFER_BYTES);
        // The handshake has no limit of its own: a stopped server accepts connections and says nothing.
        let opening = async {
            let mut connection = self
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map_err(|error| self.told(&error))?;
            self.accept(&mut connection).await?;
            Ok(connection)
        };
        let late = || Error::Unavailable(format!("{} did not answer in {:?}", self.address(), self.connect_timeout));
        tokio::time::timeout(self.connect_timeout, opening).await.map_err(|_| late())?
    }

    /// Looks whether the server is one that keeps what it is given, and holds nothing of a newer release.
    async fn accept(&self, connection: &mut MultiplexedConnection) -> Result<()> {
        let info = redis::cmd("INFO").query_async::<String>(connection).await.map_err(|e| self.told(&e))?;
        let quiet = self.warned.swap(true, Ordering::Relaxed);
        settings::check(&info, self.allow_unsafe_settings, quiet)?;
        settings::check_durability(&info, self.durability, quiet)?;
        self.load_library(connection).await?;
        let take_over = self.library.call("take_over", self.keys.routing()).arg(";0").to_owned();
        match take_over.query_async::<Value>(connection).await {
            Err(error) if !takes_no_writes(&error) && !is_unknown_function(&error) => Err(self.told(&error)),
            _ => Ok(()),
        }
    }

    /// Gives the server the functions. One that takes no writes is asked again when a function is called.
    async fn load_library(&self, connection: &mut MultiplexedConnection) -> Result<()> {
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
    async fn delete_old_libraries(&self, connection: &mut MultiplexedConnection) {
        let Ok(listed) = Library::list().query_async::<Value>(connection).await else { return };
        for delete in self.library.deletions(&listed) {
            let _ = delete.query_async::<Value>(connection).await;
        }
    }

    /// Whether the server answers and may be used.
    pub(crate) async fn check(self: &Arc<Self>) -> Result<()> {
        match self.query(&redis::cmd("INFO"), Repeat::Safe).await {
            Ok(Value::BulkString(info)) => {
                settings::check(&String::from_utf8_lossy(&info), self.allow_unsafe_settings, true)
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
        let first = self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up(live) if live.generation == generation);
            if current {
                *state = State::Down(why.clone());
            }
            current
        });
        if first {
            tracing::warn!(address = %self.address(), error = %why, "the connection to Redis is lost; connecting again");
            self.reconnect(generation + 1);
        }
    }

    /// Connects for ever in the background, until this is dropped.
    fn reconnect(self: &Arc<Self>, generation: u64) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let since = Instant::now();
            let mut pause = FIRST_PAUSE;
            while let Some(this) = weak.upgrade() {
                match this.open().await {
                    Ok(connection) => {
                        let down_ms = since.elapsed().as_millis() as u64;
                        tracing::info!(address = %this.address(), down_ms, "connected to Redis again");
                        this.state.send_replace(State::Up(Live { generation, connection }));
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

    /// What to say of an error of the library or the server.
    pub(crate) fn told(&self, error: &RedisError) -> Error {
        let text = format!("{}: {error}", self.address());
        let code = error.code().unwrap_or_default();
        if code == "OOM" || text.contains("OOM command not allowed") {
            return Error::Full(format!("Redis has reached its maxmemory ({})", self.address()));
        }
        match (error.kind(), code) {
            (ErrorKind::AuthenticationFailed, _) | (_, "NOAUTH" | "WRONGPASS" | "NOPERM") => {
                Error::Refused(format!("{text} (check user and password in the address, and the user's permissions)"))
            }
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => {
                Error::Unavailable(format!("{} is a read-only replica", self.address()))
            }
            (_, "OUTGROWN") => Error::Refused(format!(
                "{}, and this release of umbel knows versions up to {VERSION}; use the release that wrote it, or a later one",
                error.detail().unwrap_or("it holds data of another version")
            )),
            (_, "MISCONF") => Error::Unavailable(format!("{} cannot write to its disk: {error}", self.address())),
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

/// Because it is full, or cannot write to its disk.
fn takes_no_writes(error: &RedisError) -> bool {
    matches!(error.code(), Some("OOM" | "MISCONF"))
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
        ErrorKind::Server(S::ReadOnly) => Verdict::Lost,
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

fn client(url: &str) -> Result<Client> {
    if url.starts_with("rediss://") || url.starts_with("valkeys://") {
        let why = "this build of umbel has no TLS; use redis:// in a network that you trust, or a TLS tunnel";
        return Err(Error::Refused(why.into()));
    }
    let refused = |e: RedisError| Error::Refused(format!("the address of Redis cannot be read: {}", e.category()));
    let info = url.into_connection_info().map_err(refused)?;
    // Nagle's algorithm would cost 40 ms a round trip.
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Client::open(info.set_tcp_settings(tcp)).map_err(refused)
}
