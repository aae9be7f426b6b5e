//! Retired words: each thing has one name, which docs/GLOSSARY.md lists. A word that was replaced is refused in code,
//! comments and documents, with the word to use instead.
//!
//! A word is a part of an identifier (`broker_knobs`, `BrokerKnobs`) or of a sentence, in any case. Not looked at: names of
//! tests, which are sentences of their own, and literals and what is between backticks, which hold the names of wire
//! formats, keys and columns.

use std::{borrow::Cow, path::Path};

use super::rust_tokens::without_literals;

/// A retired word in its forms, and what to write instead.
const RETIRED: &[(&[&str], &str)] = &[
    (&["unasked"], "invocation (of what a guest calls)"),
    (&["bells"], "wakers"),
    (&["crew"], "slot pool"),
    (&["gate", "gates"], "join (of a workflow), middleware (of the API), admission (of compiling)"),
    (&["knob", "knobs"], "options, broker options"),
    (&["lane", "lanes"], "sub-queue"),
    (&["mint", "minted", "mints", "minting"], "generate an id"),
    (&["misplaced"], "unknown parameter"),
    (&["misread"], "JSON error"),
    (&["news"], "notification"),
    (&["tired"], "deferred"),
    (&["turnstile"], "fair semaphore"),
    (&["upkeep"], "maintenance"),
    (&["wish", "wishes", "wished"], "command (to the poll loop), request (of a workflow)"),
];

/// Retired names of several words, and turns of speech that cost a second reading.
const PHRASES: &[(&str, &str)] = &[
    ("beside the modules", "in the module store"),
    ("first_of_its_like", "find_duplicate"),
    ("make_place", "release_capacity"),
    ("of it there is none", "name the thing that is missing"),
    ("take_place", "supersede"),
    ("what is not is left out", "say what is left out"),
];

/// Uses that stay: the beginning of the file's path, the word, and the reason.
const STAYS: &[(&str, &str, &str)] = &[
    ("docs/GLOSSARY.md", "", "lists the old words beside the new ones"),
    ("xtask/src/tidy/words.rs", "", "lists the words"),
    ("host/broker-redis/src/library/audit_", "", "has the names of keys as names of its functions"),
];

/// The retired words of a file, each with its line.
pub fn retired(name: &str, text: &str) -> Vec<String> {
    let kind = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default();
    if !["rs", "lua", "md", "wit"].contains(&kind) {
        return Vec::new();
    }
    let text = if kind == "rs" { Cow::Owned(without_literals(text)) } else { Cow::Borrowed(text) };
    let stays = |word: &str| STAYS.iter().any(|(file, stays, _)| name.starts_with(file) && ["", word].contains(stays));
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = match kind {
            "lua" => outside_quotes(line),
            // The names of a contract are public.
            "wit" => line.trim_start().strip_prefix("///").unwrap_or_default().to_owned(),
            _ => line.to_owned(),
        };
        for (word, instead) in words_of(&without_names(&line)) {
            if !stays(&word) {
                found.push(format!("{name}:{}: the word \"{word}\" is retired: {instead}", number + 1));
            }
        }
    }
    found
}

/// A line of Lua without its texts.
fn outside_quotes(line: &str) -> String {
    let (code, comment) = line.split_once("--").unwrap_or((line, ""));
    let code: Vec<&str> = code.split(['\'', '"']).step_by(2).collect();
    format!("{}--{comment}", code.join(" "))
}

/// The retired words and phrases of a line.
fn words_of(line: &str) -> Vec<(String, &'static str)> {
    let lower = line.to_lowercase();
    let phrases = PHRASES.iter().filter(|(phrase, _)| lower.contains(phrase));
    let mut found: Vec<(String, &str)> = phrases.map(|(phrase, instead)| ((*phrase).to_owned(), *instead)).collect();
    for part in parts(line) {
        if let Some((_, instead)) = RETIRED.iter().find(|(forms, _)| forms.contains(&part.as_str())) {
            found.push((part, instead));
        }
    }
    found
}

/// The words of a line in lower case: identifiers are taken apart at `_` and at capitals.
fn parts(line: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_small = false;
    for c in line.chars() {
        if !c.is_alphabetic() || (c.is_uppercase() && was_small) {
            parts.push(String::new());
        }
        if c.is_alphabetic() {
            parts.last_mut().expect("it starts with one").extend(c.to_lowercase());
        }
        was_small = c.is_lowercase();
    }
    parts
}

/// A line without what is between backticks and without names of many words, such as those of tests.
fn without_names(line: &str) -> String {
    let outside = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let is_name = |name: &&str| name.matches('_').count() < 4;
    outside.split(|c: char| !c.is_alphanumeric() && c != '_').filter(is_name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, line: &str) -> usize {
        retired(name, line).len()
    }

    #[test]
    fn a_retired_word_is_found_in_names_and_in_sentences() {
        for line in ["struct BrokerKnobs;", "let key_knobs = 1;", "// Knobs of a job.", "fn take_place() {}"] {
            assert_eq!(found("host/x.rs", line), 1, "{line}");
        }
        assert_eq!(found("host/x.lua", "-- two wishes and a lane"), 2);
        assert_eq!(found("host/x.lua", "key('gate') .. lane"), 1);
        assert_eq!(found("host/x.rs", "row.get(\"knobs\") // the gate"), 1);
        let told = retired("docs/x.md", "one\nmany knobs");
        assert_eq!(told, ["docs/x.md:2: the word \"knobs\" is retired: options, broker options"]);
    }

    #[test]
    fn words_that_only_look_like_one_are_not_found() {
        for line in ["an airplane", "doorknobs", "the replacement", "mintable", "let basked = delegate;"] {
            assert_eq!(found("host/x.rs", line), 0, "{line}");
        }
        assert_eq!(found("host/x.rs", "    async fn a_wish_of_a_worker_is_kept() {"), 0);
        assert_eq!(found("xtask/src/tidy/words.rs", "knobs"), 0);
        assert_eq!(found("Cargo.lock", "knobs"), 0);
    }

    #[test]
    fn of_a_contract_the_comments_alone_are_looked_at() {
        assert_eq!(found("wit/task.wit", "  gate: func();"), 0);
        assert_eq!(found("wit/task.wit", "  /// The gate of a group."), 1);
    }
}
