//! The empty world behind WASI 0.2: no files, environment, arguments or network; output goes to the job's log.
//!
//! Clocks are coarse (1 ms), because fine ones are what side channels are measured with.

use std::{
    sync::{Arc, Mutex, PoisonError},
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
pub(crate) const MAX_RANDOM_BYTES: usize = 64 << 10;
/// Output taken in one write, bytes. The guest writes the rest in its next call.
pub(crate) const WRITE_BYTES: usize = 4 << 10;

/// Made at a guest's first WASI call: most guests make none.
pub(crate) struct Wasi {
    pub(crate) ctx: WasiCtx,
    pub(crate) table: ResourceTable,
}

impl Wasi {
    pub(crate) fn new(log: &Arc<AttemptLog>, started: Instant) -> Self {
        let output = |level, context| {
            let line = Line { log: log.clone(), level, context, rest: Vec::new(), room: MAX_LINE_BYTES };
            Output { line: Arc::new(Mutex::new(line)) }
        };
        let ctx = WasiCtx::builder()
            .stdout(output(LogLevel::Info, "stdout"))
            .stderr(output(LogLevel::Warn, "stderr"))
            .monotonic_clock(Coarse { started })
            .wall_clock(Coarse { started })
            .max_random_size(MAX_RANDOM_BYTES as u64)
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

/// Standard output or error: a view on the log. All streams that a guest opens on it are one, as a process has only one:
/// they share one unfinished line, whatever their number.
#[derive(Clone)]
struct Output {
    line: Arc<Mutex<Line>>,
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
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    /// At most `WRITE_BYTES` at once: the linked functions refuse more.
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).write(&bytes);
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
impl Pollable for Output {
    async fn ready(&mut self) {}
}

/// A line without an end is logged when it is this long, bytes.
const MAX_LINE_BYTES: usize = 8 << 10;
/// The longest line that waits for the end of a secret's value, in any of its forms, bytes.
const MAX_HELD_BYTES: usize = 256 << 10;

/// Cuts output into lines.
struct Line {
    log: Arc<AttemptLog>,
    level: LogLevel,
    context: &'static str,
    /// Unfinished, shorter than `room`.
    rest: Vec<u8>,
    /// `MAX_LINE_BYTES`, and more while all of it may be the beginning of a secret's value.
    room: usize,
}

impl Line {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (mut text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            while let Some((fits, more)) = text.split_at_checked(self.room - self.rest.len()) {
                self.rest.extend_from_slice(fits);
                self.emit_full();
                text = more;
            }
            self.rest.extend_from_slice(text);
            if ended {
                self.emit();
            }
        }
    }

    /// Logs a line that is full. What may be the beginning of a secret's value waits for the rest of it: a part is not found.
    fn emit_full(&mut self) {
        let begun = self.log.begun_at_end(&self.rest);
        if begun == self.rest.len() && self.room < MAX_HELD_BYTES {
            self.room += MAX_LINE_BYTES;
            return;
        }
        let waiting = self.rest.split_off(self.rest.len() - begun % self.rest.len());
        self.emit();
        self.rest = waiting;
    }

    fn emit(&mut self) {
        self.log.push(self.level, self.context, &String::from_utf8_lossy(&self.rest));
        self.rest.clear();
        self.room = MAX_LINE_BYTES;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.rest.is_empty() {
            self.emit();
        }
    }
}

#[cfg(test)]
mod tests {
    use umbel_capabilities::Reach;

    use super::*;
    use crate::{Discard, LogLimits};

    #[test]
    fn an_unfinished_line_never_holds_more_than_a_line() {
        let log = AttemptLog::new(Arc::new(Discard), Reach::default().secrets, LogLimits::default(), Instant::now());
        let mut line = Line { log, level: LogLevel::Info, context: "stdout", rest: Vec::new(), room: MAX_LINE_BYTES };
        for bytes in [1, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, 1 << 20, 3] {
            line.write(&vec![b'x'; bytes]);
            assert!(line.rest.len() < MAX_LINE_BYTES && line.rest.capacity() <= 2 * MAX_LINE_BYTES, "{bytes}");
        }
    }
}
