//! Packed bytes, written and read: numbers little endian, texts behind their length.

use umbel_broker::{Error, Idempotency, LogLine, Result, Start};
use umbel_model::{Digest, UnixMs, canvas::Range};

/// Flags of a record, see `library/core.lua`: its spec is kept apart; it has broker options.
pub(crate) const FLAG_SPEC_APART: u8 = 2;
pub(crate) const FLAG_MORE: u8 = 32;
/// The largest time or duration that a record holds, milliseconds: 8,900 years. Six bytes.
const MAX_MS: u64 = (1 << 48) - 1;
/// A longer spec is kept under a key of its own, so that the record that changes with every step stays small.
pub(crate) const SPEC_INLINE_BYTES: usize = 1 << 10;
/// Bytes for a function.
#[derive(Debug, Default)]
pub(crate) struct Packed(Vec<u8>);

impl Packed {
    /// With room for so many bytes.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn u8(mut self, n: u8) -> Self {
        self.0.push(n);
        self
    }

    pub(crate) fn u16(mut self, n: u16) -> Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    /// The low three bytes.
    pub(crate) fn u24(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_le_bytes()[..3]);
        self
    }

    pub(crate) fn u32(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    pub(crate) fn ms(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.min(MAX_MS).to_le_bytes()[..6]);
        self
    }

    /// A name of at most 255 bytes; longer ones cannot be made of the types that come here.
    pub(crate) fn name(mut self, text: &str) -> Self {
        debug_assert!(text.len() <= 255);
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Key, body and duration; empty without them.
    pub(crate) fn idempotency(self, idempotency: Option<&Idempotency>) -> Result<Self> {
        let Some(i) = idempotency else { return Ok(self.short("").short("").ms(0)) };
        if i.key.len() > 1024 || i.body.len() > 1024 {
            return Err(Error::Failed("an idempotency key or body hash is longer than 1024 bytes".into()));
        }
        Ok(self.short(&i.key).short(&i.body).ms(i.ttl_ms))
    }

    pub(crate) fn short(mut self, text: &str) -> Self {
        self.0.extend_from_slice(&(text.len() as u16).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// As it is.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes behind their length.
    pub(crate) fn long(self, bytes: &[u8]) -> Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    /// Digests behind the number of their bytes.
    pub(crate) fn digests(self, digests: &[Digest]) -> Result<Self> {
        let bytes = u16::try_from(32 * digests.len())
            .map_err(|_| Error::Failed(format!("{} blobs are too many for one job", digests.len())))?;
        Ok(digests.iter().fold(self.u16(bytes), |packed, digest| packed.raw(&digest.to_bytes())))
    }

    /// Seven bytes, as far as Lua's numbers go.
    pub(crate) fn u56(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.min(1 << 53).to_le_bytes()[..7]);
        self
    }

    pub(crate) fn ranges(mut self, ranges: &[Range]) -> Self {
        for range in ranges {
            self = self.u32(range.first).u32(range.count);
        }
        self
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn logs(mut self, lines: &[LogLine]) -> Result<Self> {
        let lines = &lines[..lines.len().min(usize::from(u16::MAX))];
        self.0.extend_from_slice(&(lines.len() as u16).to_le_bytes());
        for line in lines {
            self = self.text(&json(line)?);
        }
        Ok(self)
    }
}

pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Failed(format!("a value cannot be written as JSON: {e}")))
}

/// A start as its kind and its time.
pub(crate) fn start_of(start: Start) -> (u8, u64) {
    match start {
        Start::Now => (0, 0),
        Start::After(ms) => (1, ms),
        Start::At(at) => (2, at),
    }
}

pub(crate) fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::Corrupt(why.to_string())
}

/// Reads packed bytes in order.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| corrupt("it is too short"))?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.number(1)? as u8)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(self.number(4)? as u32)
    }

    /// A time; 0 means none.
    pub(crate) fn time(&mut self) -> Result<Option<UnixMs>> {
        Ok(Some(self.number(6)?).filter(|ms| *ms > 0))
    }

    pub(crate) fn times<const N: usize>(&mut self) -> Result<[Option<UnixMs>; N]> {
        let mut times = [None; N];
        for time in &mut times {
            *time = self.time()?;
        }
        Ok(times)
    }

    pub(crate) fn skip(&mut self, bytes: usize) -> Result<&mut Self> {
        self.take(bytes)?;
        Ok(self)
    }

    pub(crate) fn bytes(&mut self, length_bytes: usize) -> Result<&'a [u8]> {
        let n = self.number(length_bytes)? as usize;
        self.take(n)
    }

    pub(crate) fn text(&mut self, length_bytes: usize) -> Result<&'a str> {
        str::from_utf8(self.bytes(length_bytes)?).map_err(corrupt)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> Result<&'a str> {
        str::from_utf8(self.0).map_err(corrupt)
    }

    pub(crate) fn ranges(&mut self, count: usize) -> Result<Vec<Range>> {
        (0..count).map(|_| Ok(Range { first: self.u32()?, count: self.u32()? })).collect()
    }
}

pub(crate) fn some(text: &str) -> Option<&str> {
    Some(text).filter(|t| !t.is_empty())
}
