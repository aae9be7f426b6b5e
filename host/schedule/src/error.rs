//! What is wrong with a timing: where, and what to write instead.

use std::fmt;

/// Longest part of a text of a user that an error repeats, characters.
const SHOWN: usize = 64;

/// A timing that is not accepted: the field, what is wrong with it and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{detail}", .pointer, if .pointer.is_empty() { "" } else { ": " })]
#[non_exhaustive]
pub struct TimingError {
    /// JSON pointer into the object that has `when`, such as `/when/cron/1`; empty when it is wrong as a whole.
    pub pointer: String,
    /// One or two sentences.
    pub detail: String,
}

impl TimingError {
    pub(crate) fn new(pointer: impl fmt::Display, detail: impl fmt::Display) -> Self {
        Self { pointer: pointer.to_string(), detail: detail.to_string() }
    }
}

/// A text of a user as an error shows it: quoted, escaped, its beginning.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
