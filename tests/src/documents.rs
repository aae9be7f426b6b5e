//! The code blocks of README and the guides, and how each kind of block is tried.
//!
//! A block is between two fences. The line above its fence may be `<!-- not run: WHY -->`; every other block is tried.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// One block of a document.
#[derive(Debug, Clone)]
pub struct Block {
    /// Such as `README.md:24`, the line of its fence.
    pub place: String,
    /// `sh`, `rust`, `json` or `toml`.
    pub language: String,
    pub text: String,
    /// Why it is not tried.
    pub not_run: Option<String>,
}

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// README.md and the guides, by their paths in the repository.
pub fn documents() -> Result<Vec<String>> {
    let mut names = vec!["README.md".to_owned()];
    for entry in fs::read_dir(repository().join("docs/guides"))? {
        names.push(format!("docs/guides/{}", entry?.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names)
}

/// The blocks of a document, in their order.
pub fn blocks(document: &str) -> Result<Vec<Block>> {
    let text = fs::read_to_string(repository().join(document)).context(document.to_owned())?;
    blocks_of(document, &text)
}

fn blocks_of(document: &str, text: &str) -> Result<Vec<Block>> {
    let mut lines = text.lines().enumerate();
    let (mut found, mut above) = (Vec::new(), "");
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let not_run = above.strip_prefix("<!-- not run: ").and_then(|why| why.strip_suffix(" -->"));
            found.push(Block {
                place: format!("{document}:{}", number + 1),
                language: language.to_owned(),
                text: inside.join("\n") + "\n",
                not_run: not_run.map(str::to_owned),
            });
        }
        above = line;
    }
    Ok(found)
}

/// Every Rust source file below this folder of the repository, and every README.md, whose examples are compiled with its crate.
/// Without indentation, so that a block is found in a function, too.
pub fn sources(folder: &str) -> Result<Vec<String>> {
    let (mut folders, mut found) = (vec![repository().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") || path.ends_with("README.md") {
                found.push(without_indentation(&fs::read_to_string(path)?));
            }
        }
    }
    ensure!(!found.is_empty(), "{folder} has no Rust source");
    Ok(found)
}

/// The text with no space at the beginning of its lines, and without empty lines.
pub fn without_indentation(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_its_language_its_place_and_the_reason_why_it_is_not_run() {
        let text = "# A\n```sh\nls\n```\n<!-- not run: it never ends -->\n```json\n{}\n```\n";
        let [first, second] = &blocks_of("a.md", text).unwrap()[..] else { panic!("two blocks") };
        assert_eq!((&*first.place, &*first.language, &*first.text, &first.not_run), ("a.md:2", "sh", "ls\n", &None));
        assert_eq!((&*second.place, second.not_run.as_deref()), ("a.md:6", Some("it never ends")));
    }
}
