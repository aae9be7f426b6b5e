//! Makes connections to the server, plain or over TLS: all connections of a broker are made here.
//!
//! What proves who the client is comes from files that are read for each new connection, so a password or a certificate that is
//! rotated needs no restart. TLS is made here and not by the client library, which would read the system's authorities for each
//! connection, even where a file names others.

use std::{
    fmt::Display,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection, PubSub},
};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::{TlsConnector, client::TlsStream};
use umbel_broker::{Error, Result};
use umbel_tls::{Identity, Trust, client_config};

/// A password that is not encoded ends in its middle.
const ENCODE: &str = "; write characters such as / ? # @ % of a password percent-encoded: %2F %3F %23 %40 %25, or give the \
                      password in a file (--redis-password-file)";
/// Bytes of a password's file.
const MAX_PASSWORD_BYTES: u64 = 4 << 10;

/// Files that a connection needs. They are read for each new connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisFiles {
    /// The authorities to trust with `rediss://` instead of the system's, PEM.
    pub authorities: Option<PathBuf>,
    /// A certificate of the client, for a server that wants one, and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The password, which then is not in the address. A line break at its end is left out.
    pub password: Option<PathBuf>,
}

/// Where the server is, and how it is reached.
pub(crate) struct Dial {
    info: ConnectionInfo,
    files: RedisFiles,
}

impl Dial {
    /// # Errors
    /// The address cannot be read, or does not go with the files.
    pub(crate) fn new(url: &str, files: &RedisFiles) -> Result<Self> {
        let refused = |why: &str| Err(Error::Refused(why.to_owned()));
        let unreadable = |error: RedisError| {
            let hint = if url.contains('@') { ENCODE } else { "" };
            Error::Refused(format!("the address of Redis cannot be read: {}{hint}", error.category()))
        };
        if let Some(rest) = url.split_once("://").map(|(_, rest)| rest)
            && !url.starts_with("redis+unix")
            && rest.split_once(['/', '?', '#']).is_some_and(|(_, behind)| behind.contains('@'))
        {
            return Err(Error::Refused(format!("the address of Redis has an @ behind the host{ENCODE}")));
        }
        let info = url.into_connection_info().map_err(unreadable)?;
        let is_encrypted = match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return refused(
                    "Umbel always checks the certificate of Redis: leave out #insecure, and name the authority that \
                                issued it with --redis-ca-file",
                );
            }
            ConnectionAddr::TcpTls { .. } => true,
            _ => false,
        };
        if !is_encrypted && (files.authorities.is_some() || files.identity.is_some()) {
            return refused("--redis-ca-file and --redis-cert are for TLS: write rediss:// in the address of Redis");
        }
        if files.password.is_some() && info.redis_settings().password().is_some() {
            return refused(
                "the address of Redis has a password, and --redis-password-file names another: leave out one",
            );
        }
        // Nagle's algorithm would cost 40 ms a round trip.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        Ok(Self { info: info.set_tcp_settings(tcp), files: files.clone() })
    }

    /// Host and port, never the password.
    pub(crate) fn address(&self) -> &ConnectionAddr {
        self.info.addr()
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self.address(), ConnectionAddr::TcpTls { .. })
    }

    /// A connection for commands.
    pub(crate) async fn commands(&self, config: AsyncConnectionConfig) -> RedisResult<Wire> {
        let settings = self.settings().await?;
        if !self.is_encrypted() {
            let client = Client::open(self.info.clone().set_redis_settings(settings))?;
            let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            return Ok(Wire { connection, _driver: None });
        }
        let stream = self.encrypted().await?;
        let (connection, driver) = MultiplexedConnection::new_with_config(&settings, stream, config).await?;
        Ok(Wire { connection, _driver: Some(Arc::new(Driver(tokio::spawn(driver)))) })
    }

    /// A connection for subscriptions.
    pub(crate) async fn subscriptions(&self) -> RedisResult<PubSub> {
        let settings = self.settings().await?;
        if !self.is_encrypted() {
            return Client::open(self.info.clone().set_redis_settings(settings))?.get_async_pubsub().await;
        }
        PubSub::new(&settings, self.encrypted().await?).await
    }

    /// User, password and database.
    async fn settings(&self) -> RedisResult<RedisConnectionInfo> {
        let settings = self.info.redis_settings().clone();
        let Some(file) = self.files.password.clone() else { return Ok(settings) };
        Ok(settings.set_password(blocking(move || password(&file)).await?))
    }

    async fn encrypted(&self) -> RedisResult<TlsStream<TcpStream>> {
        let ConnectionAddr::TcpTls { host, port, .. } = self.address() else {
            return Err(unusable("it is no address for TLS"));
        };
        let RedisFiles { authorities, identity, .. } = self.files.clone();
        let trust = authorities.map_or(Trust::System, Trust::File);
        let identity = identity.map(|(certificate, key)| Identity { certificate, key });
        let config = blocking(move || client_config(&trust, identity.as_ref())).await?;
        let name =
            ServerName::try_from(host.clone()).map_err(|_| unusable("its host is no name that a certificate has"))?;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
    }
}

/// Reads files, which may be on a slow disk.
async fn blocking<T: Send + 'static, E: Display + Send + 'static>(
    read: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> RedisResult<T> {
    let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?;
    read.map_err(unusable)
}

/// What a person has to correct: `Connection::told` passes it on as it is.
fn unusable(why: impl Display) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, "Redis cannot be reached", why.to_string()))
}

fn password(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|opened| opened.take(MAX_PASSWORD_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| format!("the password's file {} cannot be read: {error}", file.display()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() || text.len() as u64 > MAX_PASSWORD_BYTES {
        return Err(format!("the password's file {} must have 1 to {MAX_PASSWORD_BYTES} bytes", file.display()));
    }
    Ok(password.to_owned())
}

/// A connection, and what moves its bytes as long as somebody has it.
#[derive(Clone)]
pub(crate) struct Wire {
    connection: MultiplexedConnection,
    /// None when the library keeps it.
    _driver: Option<Arc<Driver>>,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.connection.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, files: &RedisFiles) -> String {
        Dial::new(url, files).err().expect("it is refused").to_string()
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_to_do() {
        let password = RedisFiles { password: Some("p".into()), ..RedisFiles::default() };
        let authorities = RedisFiles { authorities: Some("ca.pem".into()), ..RedisFiles::default() };
        assert!(refusal("redis://:secret@h/", &password).contains("leave out one"));
        assert!(!refusal("redis://:secret@h/", &password).contains("secret"));
        assert!(refusal("redis://h/", &authorities).contains("write rediss://"));
        assert!(refusal("rediss://h/#insecure", &authorities).contains("--redis-ca-file"));
        let dial = Dial::new("rediss://user@h:1/3", &authorities).unwrap();
        assert_eq!((dial.address().to_string(), dial.is_encrypted()), ("h:1".into(), true));
    }

    #[test]
    fn a_password_is_what_is_in_its_file_without_the_end_of_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |content: &str| {
            std::fs::write(file.path(), content).unwrap();
            password(file.path())
        };
        assert_eq!(read("a b#@/\r\n").unwrap(), "a b#@/");
        assert_eq!(read("x").unwrap(), "x");
        for wrong in ["", "\n", &"x".repeat(5_000)] {
            assert!(read(wrong).unwrap_err().contains("1 to 4096 bytes"));
        }
        assert!(password(Path::new("/nowhere/p")).unwrap_err().contains("/nowhere/p cannot be read"));
    }
}
