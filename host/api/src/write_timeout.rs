//! Time limits for writing: the connection of a client breaks that reads nothing for a while, or little on average. Its answer is
//! held in memory and holds permits, which a reader who stops or is slow must not keep.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How slowly a client may read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteLimits {
    /// It may take nothing for so long, and be slow for so long.
    pub(crate) longest: Duration,
    /// Bytes a second that it must take on average, once it has kept the server waiting for `longest`.
    pub(crate) bytes_per_second: u64,
}

/// A stream whose writes fail once they have waited too long.
#[derive(Debug)]
pub(crate) struct WriteTimeout<S> {
    stream: S,
    limits: WriteLimits,
    written: u64,
    /// Time spent waiting for the client.
    waited: Duration,
    /// Since when, and until when, the write under way waits.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> WriteTimeout<S> {
    pub(crate) fn new(stream: S, limits: WriteLimits) -> Self {
        Self { stream, limits, written: 0, waited: Duration::ZERO, waits: None }
    }

    /// How long the client may still keep the server waiting: what it has taken earns it time.
    fn left(&self) -> Duration {
        let earned = Duration::from_millis(self.written.saturating_mul(1_000) / self.limits.bytes_per_second.max(1));
        self.limits.longest.max(earned).saturating_sub(self.waited).min(self.limits.longest)
    }

    fn bound<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            if let Some((since, _)) = self.waits.take() {
                self.waited += since.elapsed();
            }
            return done;
        }
        let left = self.left();
        let (_, waits) = self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing any more, or too little")))
    }

    fn count(&mut self, done: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = done {
            self.written += *bytes as u64;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(&done);
        self.bound(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(&done);
        self.bound(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_takes_little_all_the_time_runs_out_of_it() {
        let limits = WriteLimits { longest: Duration::from_secs(30), bytes_per_second: 1_000 };
        let at = |written, waited| {
            let waited = Duration::from_secs(waited);
            WriteTimeout { written, waited, ..WriteTimeout::new((), limits) }.left().as_secs()
        };
        assert_eq!(at(0, 0), 30);
        assert_eq!(at(0, 29), 1);
        assert_eq!(at(29_000, 31), 0, "a byte a second is too slow, though it never stops");
        assert_eq!(at(100_000, 90), 10, "what it took earned it a hundred seconds");
        assert_eq!(at(100_000, 100), 0);
        assert_eq!(at(10_000_000, 90), 30, "silence is as bad as ever");
    }
}
