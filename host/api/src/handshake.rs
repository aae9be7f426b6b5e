//! The TLS handshake of a connection, within a time limit; and an answer to those who speak plain HTTP there, who would wait for
//! one otherwise or see a broken connection.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use umbel_tls::ServerCertificate;

use crate::{
    problem::Problem,
    write_timeout::{WriteLimits, WriteTimeout},
};

/// Bytes of a plain request that are read before the connection is closed.
const MAX_PLAIN_BYTES: usize = 64 << 10;

/// The connection once it is encrypted; none if it was plain HTTP, which was answered. Write limits hold below TLS, for the
/// handshake and its alerts, too.
///
/// # Errors
/// The client speaks something else, refuses the certificate, or takes too long.
pub(crate) async fn encrypted(
    stream: TcpStream,
    certificate: &Arc<ServerCertificate>,
    writes: WriteLimits,
    limit: Duration,
) -> io::Result<Option<TlsStream<WriteTimeout<TcpStream>>>> {
    let shaking = async {
        let mut first = [0; 1];
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        // The first byte of a record of TLS is below 32, that of a method a letter.
        if first[0].is_ascii_alphabetic() {
            refuse_plain(stream).await?;
            return Ok(None);
        }
        let acceptor = TlsAcceptor::from(certificate.config());
        acceptor.accept(WriteTimeout::new(stream, writes)).await.map(Some)
    };
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"));
    tokio::time::timeout(limit, shaking).await.unwrap_or_else(late)
}

async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    let problem = Problem::https_needed("the request came without TLS: write https:// in the address of this server");
    let body = problem.json("");
    let (status, length) = (problem.status(), body.len());
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.shutdown().await?;
    // Closed with bytes unread, the connection would be reset before the client has read the answer.
    let (mut ignored, mut read) = ([0; 4 << 10], 0);
    while read < MAX_PLAIN_BYTES {
        match stream.read(&mut ignored).await? {
            0 => break,
            bytes => read += bytes,
        }
    }
    Ok(())
}
