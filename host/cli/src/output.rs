//! What goes to stdout, in the form that was asked for, and what people see beside it on stderr.
//!
//! Invariants: a reader that went away ends the process quietly; nothing that a guest or a user wrote reaches a
//! terminal with its control characters.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize as _;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    args::{Cli, Format},
    failure::{Exit, Failure},
    safe_text::{escaped, plain},
};

/// Where output goes and how.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    pub format: Format,
}

/// A column of a table: its title, and a JSON pointer to its value.
pub type Column = (&'static str, &'static str);

/// A page of a list, each item as the server wrote it: numbers keep all their digits.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub items: Vec<Box<RawValue>>,
    #[serde(default)]
    pub next_cursor: Option<String>,
}

impl Terminal {
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// One line to stdout.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(closed)
    }

    /// A value that a guest or a user wrote, to stdout: as it is for programs, and safe to look at for people.
    pub fn json(&self, text: &str) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.line(&escaped(text)),
            Format::Json | Format::Jsonl | Format::Id => self.line(text),
        }
    }

    /// A remark for people, to stderr.
    pub fn note(&self, text: &str) {
        let _ = writeln!(anstream::stderr().lock(), "{}", plain(text));
    }

    /// A list.
    pub fn list(&self, page: &Page, columns: &[Column], id: &str) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                let items: Vec<&str> = page.items.iter().map(|item| item.get()).collect();
                let cursor = Value::from(page.next_cursor.clone());
                self.line(&format!(r#"{{"items":[{}],"next_cursor":{cursor}}}"#, items.join(",")))
            }
            Format::Jsonl => page.items.iter().try_for_each(|item| self.line(item.get())),
            Format::Id => page.items.iter().try_for_each(|item| self.line(&text_at(&parsed(item), id))),
            Format::Table => {
                if page.items.is_empty() {
                    self.note("nothing found");
                    return Ok(());
                }
                let header: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
                let rows = page.items.iter().map(|item| {
                    let value = parsed(item);
                    columns.iter().map(|(_, pointer)| shown(pointer, text_at(&value, pointer))).collect()
                });
                self.line(&table_of(&header, rows))
            }
        }?;
        if let (Some(cursor), true) = (&page.next_cursor, self.format != Format::Json) {
            self.note(&format!("there are more: --cursor {cursor}"));
        }
        Ok(())
    }

    /// One object. `rows` names what a table shows, in order; what is not there is left out.
    pub fn object(&self, body: &str, rows: &[Column], id: &str) -> Result<(), Failure> {
        let value = object(body)?;
        match self.format {
            Format::Json | Format::Jsonl => self.line(body.trim_end()),
            Format::Id => self.line(&text_at(&value, id)),
            Format::Table => {
                let cells = rows.iter().map(|(title, pointer)| (*title, shown(pointer, text_at(&value, pointer))));
                let cells: Vec<(&str, String)> = cells.filter(|(_, text)| !text.is_empty()).collect();
                let width = cells.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
                let lines = cells.iter().map(|(title, text)| {
                    format!("{}{}{}", title.bold(), " ".repeat(width + 2 - title.len()), coloured(text))
                });
                self.line(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// A spinner on stderr, when that is a terminal.
    pub fn spinner(&self, text: impl Into<Cow<'static, str>>) -> Spinner {
        if !io::stderr().is_terminal() {
            return Spinner(None);
        }
        let bar = ProgressBar::new_spinner().with_message(text);
        bar.enable_steady_tick(Duration::from_millis(120));
        Spinner(Some(bar))
    }

    /// A bar for `total` bytes on stderr, when that is a terminal.
    pub fn bytes_bar(&self, total: u64, text: &'static str) -> Spinner {
        if !io::stderr().is_terminal() {
            return Spinner(None);
        }
        let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes}");
        let bar = ProgressBar::new(total).with_message(text);
        Spinner(Some(style.map_or(bar.clone(), |style| bar.with_style(style))))
    }
}

/// Progress on a terminal, or nothing. Cleared when dropped.
pub struct Spinner(Option<ProgressBar>);

impl Spinner {
    pub fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }

    pub fn say(&self, text: String) {
        if let Some(bar) = &self.0 {
            bar.set_message(plain(&text).into_owned());
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Completions to stdout.
pub fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "umbel", &mut script);
    io::stdout().lock().write_all(&script).map_err(closed)
}

/// Nobody reads any more: that is how `head` says that it has enough.
pub fn closed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        // Success for whoever closed the pipe; nothing is left to do for this verb.
        std::process::exit(0);
    }
    Failure::new("output", format!("stdout cannot be written: {error}"))
}

/// The server's answer is not what it should be.
pub fn bad_answer() -> Failure {
    Failure::new("bad_answer", "the server's answer cannot be read; is it an umbel of another version?")
        .exit(Exit::Failure)
}

fn parsed(item: &RawValue) -> Value {
    object(item.get()).unwrap_or(Value::Null)
}

/// Fields that users and guests wrote: shown with all their digits, and whatever they are.
const RAW_FIELDS: [&str; 3] = ["arguments", "call", "result"];

/// An object of the server's, field by field: one that cannot be read (nested too deep, a number that nothing holds)
/// is its own text, so that a job with such a result can still be looked at. So are `RAW_FIELDS` always.
pub fn object(body: &str) -> Result<Value, Failure> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(body).map_err(|_| bad_answer())?;
    let value = |(name, raw): (String, Box<RawValue>)| {
        let read = if RAW_FIELDS.contains(&name.as_str()) && raw.get() != "null" {
            None
        } else {
            serde_json::from_str(raw.get()).ok()
        };
        let value = read.unwrap_or_else(|| Value::from(escaped(raw.get()).into_owned()));
        (name, value)
    };
    Ok(Value::Object(fields.into_iter().map(value).collect()))
}

/// The value at a pointer as people read it; empty for null, for nothing and for an object of nothing.
pub fn text_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::Object(fields)) if fields.is_empty() => String::new(),
        Some(Value::String(text)) => plain(text).into_owned(),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            plain(&texts.join(", ")).into_owned()
        }
        Some(other) => escaped(&other.to_string()).into_owned(),
    }
}

/// A cell: sizes in human units, and one line.
fn shown(pointer: &str, text: String) -> String {
    if pointer.ends_with("_bytes")
        && let Ok(bytes) = text.parse::<u64>()
    {
        return bytes_text(bytes);
    }
    if text.contains(['\n', '\t']) { text.replace(['\n', '\t'], " ") } else { text }
}

/// States in colour. A cell that is such a word and no state is coloured too, and nobody minds.
pub fn coloured(text: &str) -> Cow<'_, str> {
    match text {
        "succeeded" => text.green().to_string().into(),
        "failed" => text.red().to_string().into(),
        "running" => text.cyan().to_string().into(),
        "retrying" | "draining" => text.yellow().to_string().into(),
        "revoked" | "expired" | "skipped" => text.dimmed().to_string().into(),
        _ => text.into(),
    }
}

/// Cells of one column start below each other; the last one may be as long as it likes.
pub fn table_of(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(header[at].len())
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[(&str, Cow<'_, str>)]| {
        let mut line = String::new();
        for ((plain, shown), width) in cells.iter().zip(&widths) {
            line.push_str(shown);
            line.extend(std::iter::repeat_n(' ', width + 2 - plain.chars().count()));
        }
        line.trim_end().to_owned()
    };
    let titles: Vec<_> = header.iter().map(|title| (*title, title.bold().to_string().into())).collect();
    let mut lines = vec![line(&titles)];
    lines.extend(rows.iter().map(|row| {
        let cells: Vec<_> = row.iter().map(|cell| (cell.as_str(), coloured(cell))).collect();
        line(&cells)
    }));
    lines.join("\n")
}

/// Bytes in human units.
pub fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        let value = serde_json::json!({"name": "\u{1b}]0;x\u{7}"});
        assert!(!text_at(&value, "/name").contains('\u{1b}'));
    }

    #[test]
    fn fields_that_cannot_be_read_are_shown_as_text() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let body = format!(
            r#"{{"id": "j", "arguments": {{"a": 123456789012345678901234567890}}, "result": {deep},
                "odd": [1e999, "\ud800"], "error": {{"kind": "k"}}, "none": null}}"#
        );
        let value = object(&body).unwrap();
        let at = |pointer| text_at(&value, pointer);
        assert_eq!(at("/arguments"), r#"{"a": 123456789012345678901234567890}"#);
        assert_eq!((at("/result"), at("/odd")), (deep, r#"[1e999, "\ud800"]"#.to_owned()));
        assert_eq!((at("/id"), at("/error/kind"), at("/none")), ("j".into(), "k".into(), String::new()));
        assert!(object("<html>").is_err() && object("[]").is_err());
    }

    #[test]
    fn cells_are_written_for_people() {
        let value = serde_json::json!({"a": [1, 2], "b": ["x", "y"], "c": null});
        assert_eq!([text_at(&value, "/a"), text_at(&value, "/b"), text_at(&value, "/c")], ["[1,2]", "x, y", ""]);
        assert_eq!(shown("/size_bytes", "59392".into()), "58.0 KiB");
    }

    #[test]
    fn columns_are_aligned_by_what_is_seen_and_not_by_colours() {
        let rows = [vec!["running".into(), "a".into()], vec!["x".into(), "b".into()]];
        let table = anstream::adapter::strip_str(&table_of(&["STATE", "NAME"], rows.into_iter())).to_string();
        assert_eq!(table, "STATE    NAME\nrunning  a\nx        b");
    }
}
