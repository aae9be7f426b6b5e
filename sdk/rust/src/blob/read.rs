//! Reading blobs: a stream with a buffer, forth and back.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::{Blob, Error, Result, backend};

/// Bytes that one call asks for.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes that one call answers at most.
const CALL_BYTES: usize = 1 << 20;

/// A blob that is open. It is read in pieces, and has a buffer: it needs no `BufReader`. Dropped, it is closed.
#[derive(Debug)]
pub struct BlobReader {
    raw: backend::Reader,
    size: u64,
    /// Of the next byte that is read.
    position: u64,
    buffer: Vec<u8>,
    /// Where the buffer begins.
    buffer_at: u64,
}

impl BlobReader {
    pub(super) fn open(blob: &Blob) -> Result<Self> {
        let raw = backend::Reader::open(blob.digest())?;
        let size = raw.size();
        Ok(Self { raw, size, position: 0, buffer: Vec::new(), buffer_at: 0 })
    }

    /// Bytes of the whole blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is left, if it is at most `max_bytes`; otherwise [`Error::TooLarge`], and nothing is read.
    pub fn read_all(&mut self, max_bytes: usize) -> Result<Vec<u8>> {
        let left = self.size.saturating_sub(self.position);
        let Some(left) = usize::try_from(left).ok().filter(|left| *left <= max_bytes) else {
            return Err(Error::TooLarge(max_bytes as u64));
        };
        let mut all = Vec::with_capacity(left);
        while self.position < self.size {
            let missing = (self.size - self.position).min(CALL_BYTES as u64) as u32;
            let piece = self.piece(self.position, missing)?;
            self.position += piece.len() as u64;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    fn piece(&self, at: u64, length: u32) -> Result<Vec<u8>> {
        let piece = self.raw.read(at, length)?;
        if piece.is_empty() {
            return Err(Error::Unavailable("the blob ended early".into()));
        }
        Ok(piece)
    }

    /// What the buffer has from the position on.
    fn buffered(&self) -> &[u8] {
        let skip = self.position.checked_sub(self.buffer_at).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.buffer.get(skip..)).unwrap_or_default()
    }
}

impl Read for BlobReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // A large read goes past the buffer.
        if self.buffered().is_empty() && into.len() >= BUFFER_BYTES && self.position < self.size {
            let piece = self.piece(self.position, into.len().min(CALL_BYTES) as u32)?;
            into[..piece.len()].copy_from_slice(&piece);
            self.position += piece.len() as u64;
            return Ok(piece.len());
        }
        let buffered = self.fill_buf()?;
        let count = buffered.len().min(into.len());
        into[..count].copy_from_slice(&buffered[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for BlobReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.buffered().is_empty() && self.position < self.size {
            self.buffer = self.piece(self.position, BUFFER_BYTES as u32)?;
            self.buffer_at = self.position;
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, count: usize) {
        self.position += count as u64;
    }
}

impl Seek for BlobReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the blob's beginning"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::fake;

    #[test]
    fn a_blob_is_read_forth_and_back_in_few_calls() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let mut reader = fake().put(&bytes).open().unwrap();
        let before = fake().calls();
        let mut all = Vec::new();
        while let [first, ..] = reader.fill_buf().unwrap() {
            all.push(*first);
            reader.consume(1);
        }
        assert_eq!(all, bytes);
        assert_eq!(fake().calls() - before, 4);
        assert_eq!(reader.seek(SeekFrom::Current(-100_000)).unwrap(), 100_000);
        let mut some = [0; 3];
        reader.read_exact(&mut some).unwrap();
        assert_eq!(some, bytes[100_000..100_003]);
        assert_eq!(reader.seek(SeekFrom::End(-2)).unwrap(), 199_998);
        let mut end = Vec::new();
        reader.read_to_end(&mut end).unwrap();
        assert_eq!(end, bytes[199_998..]);
        assert_eq!(reader.seek(SeekFrom::Start(300_000)).unwrap(), 300_000);
        assert_eq!(reader.read(&mut some).unwrap(), 0);
        assert!(reader.seek(SeekFrom::Current(-300_001)).is_err());
        reader.rewind().unwrap();
        let mut large = vec![0; 150_000];
        reader.read_exact(&mut large).unwrap();
        assert_eq!(large, bytes[..150_000]);
        assert_eq!(reader.read_all(49_999), Err(Error::TooLarge(49_999)));
        assert_eq!(reader.read_all(50_000).unwrap(), bytes[150_000..]);
    }

    #[test]
    fn lines_and_texts_are_read_without_more_ado() {
        let blob = fake().put("a,1\nb,2\n");
        let lines: Vec<String> = blob.open().unwrap().lines().map(|line| line.unwrap()).collect();
        assert_eq!(lines, ["a,1", "b,2"]);
        assert_eq!(blob.read_text(8).unwrap(), "a,1\nb,2\n");
        assert_eq!(blob.read_text(7), Err(Error::TooLarge(7)));
        assert!(matches!(fake().put([0xff]).read_text(8), Err(Error::Unreadable(_))));
        assert_eq!(fake().put("").read_bytes(0).unwrap(), b"");
    }
}
