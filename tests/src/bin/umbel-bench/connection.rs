//! One HTTP/1.1 connection without a library's overhead: what is timed is the server. Knows answers with a length only.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// A connection that is kept open.
pub struct Connection {
    reader: BufReader<TcpStream>,
    host: String,
    token: String,
    body: Vec<u8>,
}

impl Connection {
    /// Connects to `http://host:port`.
    pub fn open(url: &str, token: &str) -> Result<Self> {
        let host = url.strip_prefix("http://").context("an http:// address")?.to_owned();
        let stream = TcpStream::connect(&host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { reader: BufReader::new(stream), host, token: token.to_owned(), body: Vec::new() })
    }

    /// Gets; the body of an answer of success.
    pub fn get(&mut self, path: &str) -> Result<&[u8]> {
        self.send("GET", path, "")
    }

    /// Posts JSON; the body of an answer of success.
    pub fn post(&mut self, path: &str, json: &str) -> Result<&[u8]> {
        self.send("POST", path, json)
    }

    fn send(&mut self, method: &str, path: &str, json: &str) -> Result<&[u8]> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
            self.host,
            self.token,
            json.len()
        );
        self.reader.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status: u16 = line.split(' ').nth(1).context("no status")?.parse()?;
        let mut length = None;
        loop {
            line.clear();
            ensure!(self.reader.read_line(&mut line)? > 0, "the connection was closed");
            if line == "\r\n" {
                break;
            }
            let (name, value) = line.split_once(':').context("a header without a colon")?;
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            }
        }
        self.body.resize(length.context("an answer without a length")?, 0);
        self.reader.read_exact(&mut self.body)?;
        ensure!((200..300).contains(&status), "status {status}: {}", String::from_utf8_lossy(&self.body));
        Ok(&self.body)
    }
}
