//! A TCP proxy that does to connections what networks do: cuts them, holds them up, closes one half of them.
//!
//! It forwards bytes and knows no protocol. What is ordered holds for the connections that are open then; a delay and a
//! hold also for those that come while they last.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Bytes forwarded in one piece.
const CHUNK: usize = 16 << 10;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// The faults of a connection.
#[derive(Debug, Clone, Default)]
struct Weather {
    /// Rises with each cut: what is open is reset.
    cuts: u64,
    /// Rises with each half-close to the server, and to the client.
    halves: [u64; 2],
    /// Held up by so much, each piece.
    delay: Duration,
    /// Nothing goes through, nothing is closed: a cable that was pulled. To the server, to the client.
    hold: [bool; 2],
}

#[derive(Debug)]
struct Shared {
    /// Where new connections lead.
    target: AtomicU16,
    weather: watch::Sender<Weather>,
    /// So many answers are swallowed, each with its connection.
    replies_to_lose: AtomicU32,
    replies_lost: AtomicU64,
    connections: AtomicU64,
}

/// A proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

impl Proxy {
    /// In front of this port of 127.0.0.1.
    pub async fn start(target: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            weather: watch::Sender::new(Weather::default()),
            replies_to_lose: AtomicU32::new(0),
            replies_lost: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let accept = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { port, shared, accept })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>/`
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Leads new connections to this port of 127.0.0.1. Open ones stay where they are.
    pub fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        self.shared.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Swallows the next answer and resets its connection: the request had its effect, and nobody hears of it.
    pub fn lose_reply(&self) {
        self.shared.replies_to_lose.fetch_add(1, Ordering::SeqCst);
    }

    /// Closes one direction of every open connection; the other goes on.
    pub fn half_close(&self, way: Way) {
        self.shared.weather.send_modify(|weather| weather.halves[way as usize] += 1);
    }

    /// Holds each piece up by so much, until the next call.
    pub fn delay(&self, delay: Duration) {
        self.shared.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Lets nothing through this way, until the next call.
    pub fn hold(&self, way: Way, hold: bool) {
        self.shared.weather.send_modify(|weather| weather.hold[way as usize] = hold);
    }

    /// Forwards everything at once again.
    pub fn heal(&self) {
        self.shared.replies_to_lose.store(0, Ordering::SeqCst);
        self.shared.weather.send_modify(|weather| (weather.delay, weather.hold) = Default::default());
    }

    /// Answers that were swallowed.
    pub fn replies_lost(&self) -> u64 {
        self.shared.replies_lost.load(Ordering::SeqCst)
    }

    /// Connections that were made through it.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ended by `Drop`; an error of one accept, such as too many open files, is not the end of all.
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(connection(client, shared.clone()))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Why a direction ended.
enum End {
    /// The side that sends closed, or we closed the side that receives.
    Half,
    /// Everything is to be reset.
    Cut,
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, Ordering::SeqCst);
    // A target that is away: the client sees a reset, as it would without us.
    let _ = client.set_zero_linger();
    let target = shared.target.load(Ordering::SeqCst);
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true), server.set_zero_linger());
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = tokio::spawn(forward(from_client, to_server, Way::ToServer, shared.clone()));
    let back = tokio::spawn(forward(from_server, to_client, Way::ToClient, shared));
    let (mut there, mut back) = (there, back);
    // A cut in either direction ends both; dropping all halves resets both sides.
    tokio::select! {
        end = &mut there => match end {
            Ok(Ok(End::Half)) => drop(back.await),
            _ => back.abort(),
        },
        end = &mut back => match end {
            Ok(Ok(End::Half)) => drop(there.await),
            _ => there.abort(),
        },
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, shared: Arc<Shared>) -> io::Result<End> {
    let mut weather = shared.weather.subscribe();
    let (cuts, halves) = {
        let now = weather.borrow_and_update();
        (now.cuts, now.halves[way as usize])
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => Some(read?),
            _ = weather.changed() => None,
        };
        // Held or held up: what comes meanwhile waits in the kernel.
        loop {
            let now = weather.borrow_and_update().clone();
            if now.cuts != cuts {
                return Ok(End::Cut);
            }
            if now.halves[way as usize] != halves {
                to.shutdown().await?;
                return swallow(from, buffer, weather, cuts).await;
            }
            if !now.hold[way as usize] {
                tokio::time::sleep(now.delay).await;
                break;
            }
            if weather.changed().await.is_err() {
                return Ok(End::Cut);
            }
        }
        match read {
            None => {}
            Some(0) => {
                to.shutdown().await?;
                return Ok(End::Half);
            }
            Some(_) if way == Way::ToClient && takes_one(&shared.replies_to_lose) => {
                shared.replies_lost.fetch_add(1, Ordering::SeqCst);
                return Ok(End::Cut);
            }
            Some(bytes) => to.write_all(&buffer[..bytes]).await?,
        }
    }
}

fn takes_one(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
}

/// After a half-close: whoever sends does not know and may go on sending; it goes nowhere.
async fn swallow(
    mut from: OwnedReadHalf,
    mut buffer: Vec<u8>,
    mut weather: watch::Receiver<Weather>,
    cuts: u64,
) -> io::Result<End> {
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => if read? == 0 { return Ok(End::Half) },
            _ = weather.changed() => if weather.borrow_and_update().cuts != cuts { return Ok(End::Cut) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers what it is told, and a proxy before it.
    async fn echo() -> Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        Proxy::start(port).await
    }

    async fn connect(proxy: &Proxy) -> Result<TcpStream> {
        Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await?)
    }

    async fn ask(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[tokio::test]
    async fn what_is_cut_is_reset_and_new_connections_work() -> Result<()> {
        let proxy = echo().await?;
        let mut stream = connect(&proxy).await?;
        assert_eq!(ask(&mut stream, "one").await?, "one");
        proxy.cut();
        assert!(ask(&mut stream, "two").await.is_err());
        assert_eq!(ask(&mut connect(&proxy).await?, "three").await?, "three");
        assert_eq!(proxy.connections(), 2);
        Ok(())
    }

    #[tokio::test]
    async fn a_reply_is_lost_once_with_its_connection() -> Result<()> {
        let proxy = echo().await?;
        let mut stream = connect(&proxy).await?;
        proxy.lose_reply();
        assert!(ask(&mut stream, "one").await.is_err());
        assert_eq!(proxy.replies_lost(), 1);
        assert_eq!(ask(&mut connect(&proxy).await?, "two").await?, "two");
        Ok(())
    }

    #[tokio::test]
    async fn half_a_connection_is_closed_either_way() -> Result<()> {
        let proxy = echo().await?;
        let mut stream = connect(&proxy).await?;
        assert_eq!(ask(&mut stream, "one").await?, "one");
        proxy.half_close(Way::ToClient);
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await?, 0, "the client sees an end");
        stream.write_all(b"still open to the server").await?;
        let mut stream = connect(&proxy).await?;
        assert_eq!(ask(&mut stream, "two").await?, "two");
        proxy.half_close(Way::ToServer);
        // The echo ends with its input, and so the other half too.
        assert_eq!(stream.read_to_end(&mut rest).await?, 0);
        Ok(())
    }

    #[tokio::test]
    async fn what_is_held_arrives_when_it_heals() -> Result<()> {
        let proxy = echo().await?;
        let mut stream = connect(&proxy).await?;
        proxy.hold(Way::ToClient, true);
        stream.write_all(b"one").await?;
        let mut answer = [0; 3];
        let held = tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut answer)).await;
        assert!(held.is_err());
        proxy.heal();
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"one");
        Ok(())
    }
}
