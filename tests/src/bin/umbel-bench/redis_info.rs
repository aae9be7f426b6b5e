//! What Redis says of itself before and after a measurement.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::measure::Service;

/// Counters of `INFO`.
pub struct RedisInfo {
    /// Memory in use.
    pub bytes: u64,
    /// Calls of scripts and functions so far.
    pub scripts: u64,
    /// CPU time of the server so far, user and system.
    pub cpu_s: f64,
}

impl RedisInfo {
    /// None on another broker.
    pub fn of(service: &Service) -> Result<Option<Self>> {
        let Service::Redis(_, redis) = service else { return Ok(None) };
        let info = info(redis.port())?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).with_context(|| format!("INFO has no {name}"))
        };
        let calls = |line: &str| -> Option<u64> {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let is_script = ["eval", "evalsha", "fcall"].contains(&name);
            rest.strip_prefix("calls=")?.split(',').next()?.parse().ok().filter(|_| is_script)
        };
        Ok(Some(Self {
            bytes: field("used_memory")?.parse()?,
            scripts: info.lines().filter_map(calls).sum(),
            cpu_s: field("used_cpu_user")?.parse::<f64>()? + field("used_cpu_sys")?.parse::<f64>()?,
        }))
    }
}

fn info(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"INFO everything\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length: usize = line.trim().strip_prefix('$').context("Redis answered something else")?.parse()?;
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
