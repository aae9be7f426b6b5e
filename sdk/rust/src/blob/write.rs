//! Writing blobs: a stream with a buffer.

use std::io::{self, Write};

use super::{Blob, Result, backend};

/// Bytes that are gathered for one call.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes that one call takes at most.
const CALL_BYTES: usize = 1 << 20;

/// Begins a blob.
pub fn create() -> Result<BlobWriter> {
    begin(None)
}

/// Begins a blob with a media type, such as `text/csv`, for those who download it.
pub fn create_typed(content_type: &str) -> Result<BlobWriter> {
    begin(Some(content_type))
}

fn begin(content_type: Option<&str>) -> Result<BlobWriter> {
    Ok(BlobWriter { raw: backend::Writer::create(content_type)?, buffer: Vec::new() })
}

/// Writes bytes that are in memory.
pub fn write(bytes: impl AsRef<[u8]>) -> Result<Blob> {
    let mut writer = create()?;
    writer.put(bytes.as_ref())?;
    writer.finish()
}

/// A blob that is being written. It has a buffer: it needs no `BufWriter`. Dropped before [`BlobWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    raw: backend::Writer,
    buffer: Vec<u8>,
}

impl BlobWriter {
    /// Completes the blob. This attempt can open it at once; for others it exists when the attempt has succeeded.
    pub fn finish(mut self) -> Result<Blob> {
        self.send()?;
        backend::Writer::finish(self.raw)?.parse()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() < BUFFER_BYTES {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.send()?;
        for piece in bytes.chunks(CALL_BYTES) {
            self.raw.write(piece)?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.raw.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes)?;
        Ok(bytes.len())
    }

    /// Hands what was gathered to the host. A blob that is finished needs no flush.
    fn flush(&mut self) -> io::Result<()> {
        Ok(self.send()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{Error, fake};

    #[test]
    fn small_writes_are_gathered_and_large_ones_are_cut() {
        let mut writer = create_typed("text/plain").unwrap();
        let before = fake().calls();
        for n in 0..10_000 {
            write!(writer, "{n} ").unwrap();
        }
        writer.write_all(&vec![b'x'; 2_500_000]).unwrap();
        let blob = writer.finish().unwrap();
        assert_eq!(fake().calls() - before, 5);
        let bytes = fake().bytes(&blob).unwrap();
        assert_eq!((bytes.len(), &bytes[..4]), (48_890 + 2_500_000, &b"0 1 "[..]));
        assert_eq!(fake().content_type(&blob).as_deref(), Some("text/plain"));
        assert_eq!(super::write("0 ").unwrap(), fake().put("0 "));
    }

    #[test]
    fn a_writer_that_is_dropped_leaves_nothing() {
        let mut writer = create().unwrap();
        writer.write_all(b"some").unwrap();
        drop(writer);
        assert_eq!(fake().blobs(), []);
        fake().fail_next(Error::Quota("full".into()));
        assert_eq!(super::write("some"), Err(Error::Quota("full".into())));
        assert_eq!(fake().blobs(), []);
    }
}
