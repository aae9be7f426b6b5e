//! The files of `umbel workflow map`: found by patterns, read as text or as base64, each within the limits of a job.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use glob::MatchOptions;

use crate::{Exit, Failure, Result, client::input, output::bytes_text};

/// Files of one workflow.
pub const MAX_FILES: usize = 100_000;
/// Bytes of one file as JSON: what one job's arguments may have, and a little for the other arguments.
pub const MAX_FILE_BYTES: usize = (1 << 20) - (4 << 10);
/// Bytes of all files as JSON: what one submission may have, and a little for the rest.
pub const MAX_ALL_BYTES: usize = 31 << 20;

/// A file and what is in it, as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    pub path: String,
    pub text: String,
}

/// Every file that a pattern finds, in the order of the patterns, then of the names; each once.
pub fn find(patterns: &[String]) -> Result<Vec<PathBuf>> {
    let (mut found, mut known) = (Vec::new(), BTreeSet::new());
    for pattern in patterns {
        let before = found.len();
        found.extend(matches(pattern)?.into_iter().filter(|path| known.insert(path.clone())));
        if found.len() > MAX_FILES {
            let failure = Failure::new("too_many_files", format!("more than {MAX_FILES} files"));
            return Err(failure.help("take fewer files for each workflow"));
        }
        if found.len() == before && !known.contains(Path::new(pattern)) {
            return Err(nothing(pattern));
        }
    }
    Ok(found)
}

fn nothing(pattern: &str) -> Failure {
    let failure = Failure::new("no_files", format!("{pattern:?} finds no file")).exit(Exit::NotFound);
    if Path::new(pattern).is_dir() {
        let folder = pattern.trim_end_matches('/');
        return failure.help(format!("it is a folder: write '{folder}/*' or '{folder}/**/*.txt'"));
    }
    failure.help("quote the pattern, and write ** for folders below: 'docs/**/*.md'")
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    // A name that the shell found already may have brackets in it.
    if Path::new(pattern).is_file() {
        return Ok(vec![pattern.into()]);
    }
    let options =
        MatchOptions { require_literal_separator: true, require_literal_leading_dot: true, ..Default::default() };
    let paths = glob::glob_with(pattern, options)
        .map_err(|error| Failure::usage(format!("the pattern {pattern:?} cannot be used: {error}")))?;
    let paths = paths.map(|path| path.map_err(|error| Failure::file(error.path().display(), error.error())));
    // One more than are allowed is enough to refuse them.
    paths.filter(|path| path.as_ref().map_or(true, |path| path.is_file())).take(MAX_FILES + 1).collect()
}

/// The files' contents; `base64` for what is not text.
pub fn read(paths: &[PathBuf], base64: bool) -> Result<Vec<Content>> {
    let mut left = MAX_ALL_BYTES;
    let mut contents = Vec::with_capacity(paths.len());
    for path in paths {
        let content = read_one(path, base64)?;
        let size = json_bytes(&content.text);
        if size > MAX_FILE_BYTES {
            return Err(too_large(path));
        }
        left = left.checked_sub(size).ok_or_else(|| {
            let limit = bytes_text(MAX_ALL_BYTES as u64);
            Failure::new("files_too_large", format!("the files together are more than {limit} as JSON"))
                .help("take fewer files for each workflow")
        })?;
        contents.push(content);
    }
    Ok(contents)
}

fn read_one(path: &Path, base64: bool) -> Result<Content> {
    let bytes = input::bytes(path.display(), fs::File::open(path), MAX_FILE_BYTES as u64)?;
    let bytes = bytes.ok_or_else(|| too_large(path))?;
    let text = if base64 {
        BASE64_STANDARD.encode(&bytes)
    } else {
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::new("not_text", format!("{} is not UTF-8 text, from byte {at}", path.display()))
                .help("--base64 gives the bytes of files that are no text")
        })?
    };
    Ok(Content { path: path.to_string_lossy().into_owned(), text })
}

fn too_large(path: &Path) -> Failure {
    let limit = bytes_text(MAX_FILE_BYTES as u64);
    Failure::new("file_too_large", format!("{} is more than {limit} as JSON", path.display()))
        .help("a job's arguments have at most 1 MiB: split the file")
}

/// Bytes of a text as JSON, without writing it.
fn json_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..32 => 6,
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_files_in_order_and_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        for name in ["a/2.md", "a/1.md", "a/b/3.md", "a/x.txt", "a/.hidden.md", "a/[1].md"] {
            fs::write(root.join(name), name).unwrap();
        }
        let at = |name: &str| root.join(name).to_string_lossy().into_owned();
        let names = |patterns: &[&str]| -> Result<Vec<String>, String> {
            let patterns: Vec<String> = patterns.iter().map(|p| at(p)).collect();
            let found = find(&patterns).map_err(|failure| failure.code)?;
            Ok(found.iter().map(|p| p.strip_prefix(root).unwrap().to_string_lossy().into_owned()).collect())
        };
        assert_eq!(names(&["a/*.md"]).unwrap(), ["a/1.md", "a/2.md", "a/[1].md"]);
        assert_eq!(
            names(&["a/**/[0-9].md", "a/x.txt", "a/1.md"]).unwrap(),
            ["a/1.md", "a/2.md", "a/b/3.md", "a/x.txt"]
        );
        assert_eq!(names(&["a/[1].md"]).unwrap(), ["a/[1].md"]);
        for none in ["a/*.pdf", "a", "a/none.md"] {
            assert_eq!(names(&[none]), Err("no_files".into()), "{none}");
        }
        assert_eq!(names(&["a/***"]), Err("usage".into()));
    }

    #[test]
    fn text_is_given_as_it_is_and_bytes_as_base64() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, b"\xff\x00\x10a").unwrap();
        let code = |base64| read(std::slice::from_ref(&path), base64).map(|c| c[0].text.clone()).map_err(|f| f.code);
        assert_eq!(code(true), Ok("/wAQYQ==".into()));
        assert_eq!(code(false), Err("not_text".into()));
        fs::write(&path, vec![b'\n'; MAX_FILE_BYTES / 2 + 1]).unwrap();
        assert_eq!(code(false), Err("file_too_large".into()));
        fs::write(&path, vec![b'x'; MAX_FILE_BYTES + 1]).unwrap();
        assert_eq!(code(false), Err("file_too_large".into()));
        let many = vec![path.clone(); 40];
        fs::write(&path, vec![b'x'; 1 << 19]).unwrap();
        assert!(read(&many, false).is_ok());
        assert_eq!(read(&[&many[..], &many[..]].concat(), false).unwrap_err().code, "files_too_large");
    }

    #[test]
    fn the_size_as_json_is_exact() {
        for text in ["", "a\"b\\\n\t\u{1}\u{8}\u{c}\u{7f}ä🙂"] {
            assert_eq!(json_bytes(text), serde_json::to_string(text).unwrap().len());
        }
    }
}
