//! Input of a verb: a file, or stdin for `-`.

use std::{
    fmt::Display,
    fs,
    io::{self, Read},
    path::Path,
};

use crate::{Failure, Result, output::bytes_text};

/// The file's text, or stdin's for `-`, of at most `max_bytes`.
pub fn text(file: &Path, max_bytes: u64) -> Result<String> {
    let (shown, bytes) = match file == Path::new("-") {
        true => ("stdin".into(), bytes("stdin", Ok(io::stdin().lock()), max_bytes)?),
        false => (file.display().to_string(), bytes(file.display(), fs::File::open(file), max_bytes)?),
    };
    let bytes = bytes.ok_or_else(|| {
        let message = format!("{shown} has more than {}, the most that is read", bytes_text(max_bytes));
        Failure::new("file_too_large", message)
    })?;
    String::from_utf8(bytes).map_err(|_| Failure::new("not_json", format!("{shown} is not UTF-8 text")))
}

/// What is in a source, which is called `shown`; none if that is more than `max_bytes`.
pub fn bytes(shown: impl Display, source: io::Result<impl Read>, max_bytes: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = source.and_then(|source| source.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes));
    read.map_err(|error| Failure::file(shown, &error))?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= max_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "12345").unwrap();
        assert_eq!(text(file.path(), 5).unwrap(), "12345");
        assert_eq!(text(file.path(), 4).unwrap_err().code, "file_too_large");
        fs::write(file.path(), [0xff]).unwrap();
        assert_eq!(text(file.path(), 4).unwrap_err().code, "not_json");
        assert_eq!(text(Path::new("/nowhere/x"), 4).unwrap_err().exit, Exit::NotFound);
    }
}
