//! Input of a verb: a file, or stdin for `-`.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use crate::{Failure, Result, output::bytes_text};

/// The file's text, or stdin's for `-`, of at most `max_bytes`.
pub fn text(file: &Path, max_bytes: u64) -> Result<String> {
    let stdin = file == Path::new("-");
    let shown = if stdin { "stdin".into() } else { file.display().to_string() };
    let failed = |error: io::Error| Failure::file(&shown, &error);
    let source: &mut dyn Read =
        if stdin { &mut io::stdin().lock() } else { &mut fs::File::open(file).map_err(failed)? };
    let mut bytes = Vec::new();
    source.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max_bytes {
        let message = format!("{shown} has more than {}, the most that is read", bytes_text(max_bytes));
        return Err(Failure::new("file_too_large", message));
    }
    String::from_utf8(bytes).map_err(|_| Failure::new("not_json", format!("{shown} is not UTF-8 text")))
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
