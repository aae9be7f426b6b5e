//! Output: data to stdout in the chosen form, messages and progress for people to stderr.
//!
//! Invariants: a reader that went away ends the process quietly; nothing that a guest or a user wrote reaches a
//! terminal with its control characters.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
    iter,
    time::Duration,
};

use console::{Alignment, measure_text_width, pad_str};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize as _;
use serde::{Deserialize, Serialize};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::args::{Cli, Format};
use crate::safe_text::{escaped, plain};
use crate::{Failure, Result};

/// Where output goes and how.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    pub format: Format,
}

/// A page of a list, each item as the server wrote it: numbers keep all their digits.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub items: Vec<Box<RawValue>>,
    #[serde(default)]
    pub next_cursor: Option<String>,
}

impl Page {
    /// A list of our own.
    pub fn of<T: Serialize>(items: &[T]) -> Result<Self> {
        let items: Result<_, _> = items.iter().map(to_raw_value).collect();
        Ok(Self { items: items.map_err(unwritten)?, next_cursor: None })
    }
}

impl Terminal {
    /// One line to stdout.
    pub fn line(&self, text: &str) -> Result {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(closed)
    }

    /// A value that a guest or a user wrote, to stdout: as it is for programs, and safe to look at for people.
    pub fn json(&self, text: &str) -> Result {
        self.line(&if self.format == Format::Table { escaped(text) } else { text.into() })
    }

    /// A thing that was made or changed: its id, or for programs the server's whole answer.
    pub fn brief(&self, id: &str, body: &str) -> Result {
        match self.format {
            Format::Table | Format::Id => self.line(id),
            Format::Json | Format::Jsonl => self.line(body.trim_end()),
        }
    }

    /// A remark for people, to stderr.
    pub fn note(&self, text: &str) {
        let _ = writeln!(anstream::stderr().lock(), "{}", plain(text));
    }

    /// A list, with the columns that `cells` reads.
    pub fn list(&self, page: &Page, columns: &str) -> Result {
        let items = page.items.iter().map(|item| item.get());
        match self.format {
            Format::Json => {
                let items: Vec<&str> = items.collect();
                let cursor = Value::from(page.next_cursor.clone());
                return self.line(&format!(r#"{{"items":[{}],"next_cursor":{cursor}}}"#, items.join(",")));
            }
            Format::Jsonl => items.into_iter().try_for_each(|item| self.line(item))?,
            Format::Id => items.into_iter().try_for_each(|item| self.line(&id(&parsed(item), columns)))?,
            Format::Table if page.items.is_empty() => self.note("nothing found"),
            Format::Table => self.line(&table(columns, items.map(parsed)))?,
        }
        if let Some(cursor) = &page.next_cursor {
            self.note(&format!("there are more: --cursor {cursor}"));
        }
        Ok(())
    }

    /// One object. `fields` is what a table shows, in order, as `cells` reads it; empty fields are left out.
    pub fn object(&self, body: &str, fields: &str) -> Result {
        let value = object(body)?;
        match self.format {
            Format::Json | Format::Jsonl => self.line(body.trim_end()),
            Format::Id => self.line(&id(&value, fields)),
            Format::Table => {
                let cells: Vec<_> = cells(&value, fields).filter(|(_, text)| !text.is_empty()).collect();
                let width = cells.iter().map(|(title, _)| title.len()).max().unwrap_or(0) + 2;
                let title = |title: &str| pad_str(&title.bold().to_string(), width, Alignment::Left, None).into_owned();
                let lines = cells.iter().map(|(name, text)| title(name) + &coloured(text));
                self.line(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// A spinner on stderr while that is a terminal, until it is dropped.
    pub fn spinner(&self, text: impl Into<Cow<'static, str>>) -> ProgressBar {
        let bar = ProgressBar::new_spinner().with_message(text);
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        bar
    }

    /// A bar for `total` bytes on stderr while that is a terminal, until it is dropped.
    pub fn bytes_bar(&self, total: u64, text: &'static str) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes}");
        ProgressBar::new(total).with_message(text).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

/// Completions to stdout.
pub fn completions(shell: clap_complete::Shell) -> Result {
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

/// A value of ours is no JSON.
pub fn unwritten(error: serde_json::Error) -> Failure {
    Failure::new("output", error.to_string())
}

fn parsed(item: &str) -> Value {
    object(item).unwrap_or(Value::Null)
}

/// Fields that users and guests wrote: shown with all their digits, and whatever they are.
const RAW_FIELDS: [&str; 3] = ["arguments", "call", "result"];

/// An object of the server's, field by field: one that cannot be read (nested too deep, a number that nothing holds)
/// is its own text, so that a job with such a result can still be looked at. So are `RAW_FIELDS` always.
pub fn object(body: &str) -> Result<Value> {
    let fields: BTreeMap<String, Box<RawValue>> = umbel_client::typed(body)?;
    let value = |(name, raw): (String, Box<RawValue>)| {
        let is_raw = RAW_FIELDS.contains(&name.as_str()) && raw.get() != "null";
        let read = if is_raw { None } else { serde_json::from_str(raw.get()).ok() };
        (name, read.unwrap_or_else(|| Value::from(escaped(raw.get()))))
    };
    Ok(Value::Object(fields.into_iter().map(value).collect()))
}

/// The value at a pointer as people read it; empty for null, for nothing and for an object of nothing. A list of things with
/// names is their names.
pub fn text_at(value: &Value, pointer: &str) -> String {
    let name = |item: &Value| item.as_str().or_else(|| item["name"].as_str()).map(str::to_owned);
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::Object(fields)) if fields.is_empty() => String::new(),
        Some(Value::String(text)) => plain(text).into_owned(),
        Some(other) => match other.as_array().and_then(|items| items.iter().map(name).collect::<Option<Vec<_>>>()) {
            Some(names) => plain(&names.join(", ")).into_owned(),
            None => escaped(&other.to_string()).into_owned(),
        },
    }
}

/// Titles and JSON pointers of such a text as `id, max retries, error = error/kind`: the path to a value, where it is not
/// the title with `_` for spaces. The first one names the thing. `took = started_at..finished_at` is the time between two.
fn columns(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.split(", ").map(|column| {
        let (title, path) = column.split_once(" = ").unwrap_or((column, column));
        (title, format!("/{}", path.to_lowercase().replace(' ', "_")))
    })
}

/// The titles of `columns` and the texts of a value for them.
fn cells<'a>(value: &Value, columns: &'a str) -> impl Iterator<Item = (&'a str, String)> {
    self::columns(columns).map(move |(title, pointer)| match pointer.split_once("..") {
        Some((from, to)) => (title, between(value, from, &format!("/{to}"))),
        None => (title, shown(&pointer, text_at(value, &pointer))),
    })
}

/// How long it was from one time to another; empty unless both are there.
fn between(value: &Value, from: &str, to: &str) -> String {
    let time = |pointer| value.pointer(pointer)?.as_str()?.parse::<jiff::Timestamp>().ok();
    // Clocks of two machines may differ.
    let took = time(from).zip(time(to)).map(|(from, to)| to.duration_since(from).try_into().unwrap_or_default());
    took.map(duration_text).unwrap_or_default()
}

/// A duration for people: `7 ms`, `1.5 s`, `1m 01s`, `2h 01m`.
pub fn duration_text(took: Duration) -> String {
    let ms = took.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", took.as_secs_f64()),
        60_000..3_600_000 => format!("{}m {:02}s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{}h {:02}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// A time in microseconds for people.
fn micros_text(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => duration_text(Duration::from_micros(us)),
    }
}

/// A large number for people: `950`, `12.3k`, `4.5M`, `6.7G`.
fn count_text(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1}k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}

/// What names a thing.
fn id(value: &Value, columns: &str) -> String {
    cells(value, columns).next().map(|(_, text)| text).unwrap_or_default()
}

/// A table of these values.
pub fn table(columns: &str, rows: impl Iterator<Item = Value>) -> String {
    let header: Vec<&str> = self::columns(columns).map(|(title, _)| title).collect();
    table_of(&header, rows.map(|value| cells(&value, columns).map(|(_, text)| text).collect()))
}

/// A cell: sizes and ages in human units, and one line.
fn shown(pointer: &str, text: String) -> String {
    match text.parse() {
        Ok(bytes) if pointer.ends_with("_bytes") => bytes_text(bytes),
        Ok(ms) if pointer.ends_with("_age_ms") => duration_text(Duration::from_millis(ms)),
        Ok(bytes) if pointer.starts_with("/http_bytes_") || pointer.starts_with("/blob_bytes_") => bytes_text(bytes),
        Ok(us) if pointer == "/cpu_us" || pointer == "/duration_us" => micros_text(us),
        Ok(kib_ms) if pointer == "/memory_kib_ms" => format!("{:.1} MiB·s", kib_ms as f64 / 1_024_000.0),
        Ok(fuel) if pointer == "/fuel" => count_text(fuel),
        _ => text.replace(['\n', '\t'], " "),
    }
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
    let titles = header.iter().map(|title| title.bold().to_string()).collect();
    let rows = rows.map(|row| row.iter().map(|cell| coloured(cell).into_owned()).collect());
    let lines: Vec<Vec<String>> = iter::once(titles).chain(rows).collect();
    let width = |at: usize| lines.iter().map(|line| measure_text_width(&line[at])).max().unwrap_or(0) + 2;
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| pad_str(cell, *width, Alignment::Left, None));
        padded.collect::<String>().trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
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
    fn durations_are_written_for_people() {
        let text = |ms| duration_text(Duration::from_millis(ms));
        assert_eq!([text(7), text(1_500), text(61_000), text(7_260_000)], ["7 ms", "1.5 s", "1m 01s", "2h 01m"]);
        let job = serde_json::json!({"id": "a", "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01.5Z"});
        let took =
            |job: &Value| cells(job, "ID, TOOK = started_at..finished_at").map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(took(&job), ["a", "1.5 s"]);
        assert_eq!(took(&serde_json::json!({"id": "b", "started_at": null})), ["b", ""]);
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
        assert_eq!(shown("/cpu_us", "1500".into()), "1.5 ms");
        assert_eq!(shown("/memory_kib_ms", "2048000".into()), "2.0 MiB·s");
        assert_eq!(shown("/fuel", "12345678".into()), "12.3M");
        assert_eq!(shown("/http_bytes_out", "59392".into()), "58.0 KiB");
        assert_eq!(shown("/oldest_ready_age_ms", "61000".into()), "1m 01s");
    }

    #[test]
    fn columns_are_aligned_by_what_is_seen_and_not_by_colours() {
        let rows = [vec!["running".into(), "a".into()], vec!["x".into(), "b".into()]];
        let table = anstream::adapter::strip_str(&table_of(&["STATE", "NAME"], rows.into_iter())).to_string();
        assert_eq!(table, "STATE    NAME\nrunning  a\nx        b");
    }
}
