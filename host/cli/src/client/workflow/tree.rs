//! The steps of a workflow as lines of text: states, timings, and a bar of its progress.
//!
//! Labels, names and errors were written by users and guests: every one goes through `plain`.

use std::time::Duration;

use owo_colors::OwoColorize as _;
use umbel_client::{Client, Tree, WorkflowProgress};
use umbel_model::WorkflowId;

use super::screen::Size;
use crate::{failure::Failure, output::coloured, safe_text::plain};

/// Characters of the bar.
const BAR: u64 = 30;
/// Characters of an error beside its step.
const ERROR_CHARS: usize = 120;

/// The steps of a workflow, ready to be written.
pub struct Steps(Vec<Row>);

/// One line: what stands before the step, the step, and its state.
struct Row {
    branch: String,
    what: String,
    state: String,
    /// When it was started and finished, milliseconds.
    started: Option<i64>,
    finished: Option<i64>,
    note: String,
}

/// The workflow's steps from the server.
pub async fn read(client: &Client, id: WorkflowId) -> Result<Steps, Failure> {
    Ok(Steps::of(&client.workflow_tree(id).await?))
}

impl Steps {
    fn of(tree: &Tree) -> Self {
        let mut rows = Vec::new();
        add(tree, "", &Place { branch: String::new(), below: String::new() }, &mut rows);
        Self(rows)
    }

    /// The lines, at most so many and so long. `now_ms` is for what still runs.
    pub fn lines(&self, size: Size, now_ms: i64) -> Vec<String> {
        let Self(rows) = self;
        // What is cut is in the middle: the end of a large group is followed by what takes its results.
        let (first, last) = match rows.len() > size.rows {
            true => (size.rows.saturating_sub(1 + size.rows / 4), size.rows / 4),
            false => (rows.len(), 0),
        };
        let (head, tail) = (&rows[..first], &rows[rows.len() - last..]);
        let width = |row: &Row| columns(&row.branch) + columns(&row.what);
        let widest = head.iter().chain(tail).map(width).max().unwrap_or(0).min(60);
        let line = |row: &Row| {
            let gap = " ".repeat(widest.saturating_sub(width(row)) + 2);
            let state = format!("{:9}", row.state);
            let state =
                if row.state.is_empty() { state } else { state.replace(&*row.state, &coloured_state(&row.state)) };
            let took = took(row, now_ms).map(|took| format!(" {:>8}", duration_text(took))).unwrap_or_default();
            let note = if row.note.is_empty() { String::new() } else { format!("  {}", row.note) };
            cut(format!("{}{}{gap}{state}{took}{note}", row.branch.dimmed(), row.what).trim_end(), size.columns)
        };
        let mut lines: Vec<String> = head.iter().map(line).collect();
        let left_out = rows.len() - first - last;
        if left_out > 0 {
            lines.push(cut(&format!("… {left_out} more lines"), size.columns));
        }
        lines.extend(tail.iter().map(line));
        lines
    }
}

/// Where the next line stands: what is before it, and before what is below it.
struct Place {
    branch: String,
    below: String,
}

impl Place {
    fn child(&self, last: bool) -> Self {
        let (turn, down) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        Self { branch: format!("{}{turn}", self.below), below: format!("{}{down}", self.below) }
    }
}

fn add(tree: &Tree, role: &str, place: &Place, rows: &mut Vec<Row>) {
    rows.push(Row {
        branch: place.branch.clone(),
        what: what(tree, role),
        state: tree.state.as_deref().map(one_line).unwrap_or_default(),
        started: tree.started_at.as_deref().and_then(ms_of),
        finished: tree.finished_at.as_deref().and_then(ms_of),
        note: note(tree),
    });
    // What a chain leaves out are its first steps, what a group leaves out its last members.
    let chain = !tree.steps.is_empty() || tree.kind == "chain";
    let left_out = || tree.left_out.map(Child::LeftOut);
    let mut below: Vec<Child<'_>> = Vec::new();
    below.extend(left_out().filter(|_| chain));
    below.extend(tree.steps.iter().chain(&tree.members).map(|step| Child::Step("", step)));
    below.extend(left_out().filter(|_| !chain));
    below.extend(tree.body.as_deref().map(|body| Child::Step("then ", body)));
    below.extend(tree.link.iter().map(|step| Child::Step("on success ", step)));
    below.extend(tree.link_error.iter().map(|step| Child::Step("on failure ", step)));
    let all = below.len();
    for (number, child) in below.into_iter().enumerate() {
        let place = place.child(number + 1 == all);
        match child {
            Child::Step(role, step) => add(step, role, &place, rows),
            Child::LeftOut(count) => rows.push(Row::left_out(place, count)),
        }
    }
}

/// What stands below a step.
enum Child<'a> {
    /// With its role.
    Step(&'static str, &'a Tree),
    /// So many; 0: nobody counted.
    LeftOut(u32),
}

impl Row {
    fn left_out(place: Place, count: u32) -> Self {
        let what = if count == 0 { "… and more".to_owned() } else { format!("… and {count} more") };
        Self { branch: place.branch, what, state: String::new(), started: None, finished: None, note: String::new() }
    }
}

/// `then merge (all words)`.
fn what(tree: &Tree, role: &str) -> String {
    let name = one_line(tree.task.as_deref().unwrap_or(&tree.kind));
    let label = tree.label.as_deref().map(|label| format!(" ({})", one_line(label))).unwrap_or_default();
    let count = tree.count.map(|count| format!(" of {count}")).unwrap_or_default();
    format!("{role}{name}{count}{label}")
}

fn note(tree: &Tree) -> String {
    let mut notes = Vec::new();
    let counts = [(tree.retries, "retries"), (tree.pending, "to come"), (tree.failed, "failed")];
    for (count, what) in counts {
        notes.extend(count.filter(|count| *count > 0).map(|count| format!("{count} {what}")));
    }
    if let Some(error) = &tree.error {
        let text = one_line(error);
        let mut short: String = text.chars().take(ERROR_CHARS).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        notes.push(short);
    }
    notes.extend(tree.replaced_by.map(|id| format!("replaced by {id}")));
    notes.join(", ")
}

fn one_line(text: &str) -> String {
    plain(text).replace(['\n', '\t'], " ")
}

fn took(row: &Row, now_ms: i64) -> Option<Duration> {
    let started = row.started?;
    let until = match row.finished {
        Some(finished) => finished,
        None if row.state == "running" => now_ms,
        None => return None,
    };
    // Clocks of two machines may differ.
    Some(Duration::from_millis(u64::try_from(until.saturating_sub(started)).unwrap_or(0)))
}

fn ms_of(text: &str) -> Option<i64> {
    text.parse().ok().map(|time: jiff::Timestamp| time.as_millisecond())
}

fn duration_text(took: Duration) -> String {
    let ms = took.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", took.as_secs_f64()),
        60_000..3_600_000 => format!("{}m {:02}s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{}h {:02}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// A state in colour.
pub fn coloured_state(state: &str) -> String {
    coloured(state).into_owned()
}

/// `[██████░░░░] 6 of 10 jobs done, 4 running`.
pub fn bar(progress: &WorkflowProgress) -> String {
    let total = progress.total.max(1);
    let full = (progress.done.min(total) * BAR / total) as usize;
    let (full, rest) = ("█".repeat(full), "░".repeat(BAR as usize - full));
    let full = if progress.failed > 0 { full.red().to_string() } else { full.green().to_string() };
    format!("[{full}{}] {}", rest.dimmed(), summary(progress))
}

/// `6 of 10 jobs done, 4 running`.
pub fn summary(progress: &WorkflowProgress) -> String {
    let mut text = format!("{} of {} jobs done", progress.done, progress.total);
    let counts = [
        (progress.failed, "failed"),
        (progress.revoked, "revoked"),
        (progress.expired, "expired"),
        (progress.skipped, "skipped"),
        (progress.running, "running"),
        (progress.queued, "queued"),
        (progress.scheduled, "scheduled"),
        (progress.retrying, "retrying"),
        (progress.waiting, "waiting"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {count} {what}"));
    }
    text
}

/// At most so many columns of a terminal; colours take none.
pub fn cut(text: &str, most: usize) -> String {
    if columns(&anstream::adapter::strip_str(text).to_string()) <= most {
        return text.to_owned();
    }
    let (mut out, mut used, mut in_escape) = (String::new(), 1, false);
    for c in text.chars() {
        if in_escape || c == '\u{1b}' {
            // The colours here are ours: `ESC [ … m`.
            in_escape = c != 'm';
            out.push(c);
            continue;
        }
        used += column(c);
        if used > most {
            break;
        }
        out.push(c);
    }
    out.push_str("\u{1b}[0m…");
    out
}

fn columns(text: &str) -> usize {
    text.chars().map(column).sum()
}

/// Columns of a character, rather too many than too few: a line that wraps breaks the redrawing.
fn column(c: char) -> usize {
    match c {
        // Latin, Greek, Cyrillic and the like; lines, blocks, dots.
        '\0'..='\u{10ff}' | '\u{2000}'..='\u{25ff}' => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const WIDE: Size = Size { columns: 200, rows: 100 };

    fn lines(tree: Value, size: Size) -> Vec<String> {
        let tree: Tree = serde_json::from_value(tree).unwrap();
        let lines = Steps::of(&tree).lines(size, 61_000);
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    fn chord() -> Value {
        json!({"kind": "chord", "state": "running", "members": [
            {"kind": "task", "task": "count", "label": "a.md", "state": "succeeded", "node": 1,
                "started_at": "1970-01-01T00:00:01Z", "finished_at": "1970-01-01T00:00:01.012Z"},
            {"kind": "chain", "left_out": 0, "steps": [
                {"kind": "task", "task": "load", "state": "failed", "retries": 2,
                    "error": "Bad\nfile \u{1b}[31m",
                    "link_error": [{"kind": "task", "task": "tell", "state": "queued"}]},
                {"kind": "task", "task": "count", "state": "running", "started_at": "1970-01-01T00:00:01Z"},
            ]},
        ], "count": 5, "pending": 4, "left_out": 3, "body": {"kind": "task", "task": "merge", "state": "waiting"}})
    }

    #[test]
    fn a_workflow_is_drawn_as_a_tree_with_states_and_timings() {
        let expected = [
            "chord of 5                    running    4 to come",
            "├─ count (a.md)               succeeded    12 ms",
            "├─ chain",
            "│  ├─ … and more",
            "│  ├─ load                    failed     2 retries, Bad file \u{fffd}[31m",
            "│  │  └─ on failure tell      queued",
            "│  └─ count                   running    1m 00s",
            "├─ … and 3 more",
            "└─ then merge                 waiting",
        ];
        let seen = lines(chord(), WIDE);
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let both = seen.iter().zip(expected);
        both.for_each(|(line, expected)| assert_eq!(squeezed(line), squeezed(expected), "{seen:#?}"));
        assert_eq!(seen.len(), expected.len());
        // All states are below each other.
        let at = |line: &str, state: &str| line.split(state).next().unwrap().chars().count();
        assert_eq!(at(&seen[0], "running"), at(&seen[1], "succeeded"));
        assert_eq!(at(&seen[0], "running"), at(&seen[8], "waiting"));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_counted() {
        let seen = lines(chord(), Size { columns: 20, rows: 4 });
        assert_eq!(seen.len(), 4);
        assert!(seen.iter().all(|line| columns(line) <= 20), "{seen:?}");
        assert_eq!(seen[2], "… 6 more lines");
        assert!(seen[3].starts_with("└─ then merge"), "{seen:?}");
        assert_eq!(anstream::adapter::strip_str(&cut("日本語日本語", 7)).to_string(), "日本語…");
    }

    #[test]
    fn nothing_that_users_wrote_reaches_the_terminal_with_its_escapes() {
        let evil = "\u{1b}]0;x\u{7}\u{202e}\n";
        let tree = json!({"kind": evil, "task": evil, "label": evil, "state": evil, "error": evil});
        let tree: Tree = serde_json::from_value(tree).unwrap();
        for line in Steps::of(&tree).lines(WIDE, 0) {
            let line = anstream::adapter::strip_str(&line).to_string();
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }

    #[test]
    fn a_bar_is_as_full_as_the_work_is_done() {
        let shown = |done, total, failed| {
            let progress = WorkflowProgress { done, total, failed, running: 1, ..Default::default() };
            anstream::adapter::strip_str(&bar(&progress)).to_string()
        };
        assert!(shown(0, 0, 0).ends_with("] 0 of 0 jobs done, 1 running"));
        assert_eq!(shown(5, 10, 2).matches('█').count(), 15);
        assert!(shown(5, 10, 2).ends_with("5 of 10 jobs done, 2 failed, 1 running"));
        assert_eq!(shown(100, 10, 0).matches('█').count(), 30);
    }

    #[test]
    fn durations_are_written_for_people() {
        let text = |ms| duration_text(Duration::from_millis(ms));
        assert_eq!([text(7), text(1_500), text(61_000), text(7_260_000)], ["7 ms", "1.5 s", "1m 01s", "2h 01m"]);
    }
}
