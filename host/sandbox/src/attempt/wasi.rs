//! The empty world behind WASI 0.2: no files, environment, arguments or network; output goes to the job's log.
//!
//! Clocks are coarse (1 ms), because fine ones are what side channels are measured with.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use crate::attempt::{host::LogLevel, log::AttemptLog};

/// Open resources of one attempt (pollables, streams).
const MAX_RESOURCES: usize = 1_024;
/// Random bytes of one call.
const MAX_RANDOM_BYTES: u64 = 64 << 10;
/// Output taken in one write, bytes. The guest writes the rest in its next call.
const WRITE_BYTES: usize = 4 << 10;

/// Made at a guest's first WASI call: most guests make none.
pub(crate) struct Wasi {
    pub(crate) ctx: WasiCtx,
    pub(crate) table: ResourceTable,
}

impl Wasi {
    pub(crate) fn new(log: &Arc<AttemptLog>, started: Instant) -> Self {
        let output = |level, context| Output { log: log.clone(), level, context };
        let ctx = WasiCtx::builder()
            .stdout(output(LogLevel::Info, "stdout"))
            .stderr(output(LogLevel::Warn, "stderr"))
            .monotonic_clock(Coarse { started })
            .wall_clock(Coarse { started })
            .max_random_size(MAX_RANDOM_BYTES)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Self { ctx, table }
    }
}

struct Coarse {
    started: Instant,
}

impl HostMonotonicClock for Coarse {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).map_or(u64::MAX, |ms| ms.saturating_mul(1_000_000))
    }
}

impl HostWallClock for Coarse {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Standard output or error: a view on the log.
#[derive(Clone)]
struct Output {
    log: Arc<AttemptLog>,
    level: LogLevel,
    context: &'static str,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // WASI 0.3 only, which is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines { output: self.clone(), rest: Vec::new() })
    }
}

/// Cuts output into lines.
struct Lines {
    output: Output,
    /// An unfinished line, shorter than `MAX_LINE_BYTES`.
    rest: Vec<u8>,
}

/// A line without an end is logged when it is this long, bytes.
const MAX_LINE_BYTES: usize = 8 << 10;

impl Lines {
    fn emit(&mut self) {
        let Output { log, level, context } = &self.output;
        log.push(*level, context, &String::from_utf8_lossy(&self.rest));
        self.rest.clear();
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.rest.extend_from_slice(text);
            if ended || self.rest.len() >= MAX_LINE_BYTES {
                self.emit();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[async_trait::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.rest.is_empty() {
            self.emit();
        }
    }
}
