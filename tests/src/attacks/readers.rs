//! Attackers with sockets of their own: slow readers, and strangers who hold connections.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::Scene;

/// What the kernel keeps for a reader, so that the server must keep the rest. Bytes.
const KERNEL: u32 = 2_048;
/// A slow reader reads so much each second: more than nothing, so that it looks alive. Bytes.
const PACE: usize = 100;

/// The port of 127.0.0.1 that this URL names.
fn port(url: &str) -> Result<u16> {
    url.rsplit(':').next().and_then(|port| port.parse().ok()).context("a URL with a port")
}

async fn connect(port: u16, buffer: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    stream.set_zero_linger()?;
    Ok(stream)
}

/// Asks for `path` by so many connections at once, each of which reads hardly anything and is opened again when it is
/// closed, until `over`.
pub(super) async fn slow(scene: &Scene, at_once: usize, path: &str, over: &AtomicBool) -> Result<()> {
    let (port, token) = (port(scene.hostile[0].url())?, scene.hostile[0].token());
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    join_all((0..at_once).map(|_| async {
        while !over.load(Ordering::Relaxed) {
            let ended = crawl(port, &request, over).await;
            scene.count(ended.map_or_else(|e| format!("closed: {}", e.kind()), |status| format!("reads {status}")));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }))
    .await;
    Ok(())
}

/// The status of an answer that is read slowly until it is cut or it is over.
async fn crawl(port: u16, request: &str, over: &AtomicBool) -> std::io::Result<String> {
    let mut stream = connect(port, Some(KERNEL)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = [0; PACE];
    let read = stream.read(&mut bytes).await?;
    let status = String::from_utf8_lossy(&bytes[..read]).chars().skip(9).take(3).collect();
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match stream.read(&mut bytes).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break,
            Err(e) => return Err(e),
        }
    }
    Ok(status)
}

/// Holds so many connections without a token, each of which asks for `/livez` now and then and is opened again when it is
/// closed.
pub(super) async fn strangers(scene: &Scene, at_once: usize, over: &AtomicBool) -> Result<()> {
    let port = port(scene.quiet.url())?;
    join_all((0..at_once).map(|_| async {
        while !over.load(Ordering::Relaxed) {
            let start = Instant::now();
            let ended = keep(port, over).await;
            let held = if start.elapsed() < Duration::from_secs(5) { "shortly" } else { "long" };
            scene.count(format!("held {held}{}", if ended.is_err() { ", then closed" } else { "" }));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }))
    .await;
    Ok(())
}

async fn keep(port: u16, over: &AtomicBool) -> Result<()> {
    let mut stream = connect(port, None).await?;
    let mut answer = vec![0; 4_096];
    while !over.load(Ordering::Relaxed) {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        anyhow::ensure!(stream.read(&mut answer).await? > 0, "closed");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(())
}
