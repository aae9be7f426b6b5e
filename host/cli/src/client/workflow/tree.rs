//! The steps of a workflow as lines of text: states, timings, and a bar of its progress.
//!
//! Labels, names and errors were written by users and guests: every one goes through `one_line`.

use std::time::Duration;

use console::{Alignment, measure_text_width, pad_str, truncate_str};
use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use umbel_client::{Client, Tree, WorkflowProgress};
use umbel_model::WorkflowId;

use super::screen::Size;
use crate::safe_text::{one_line, shortened};
use crate::{
    Result,
    output::{coloured, duration_text},
};

/// Characters of the bar.
const BAR: u64 = 30;
/// Characters of an error beside its step.
const ERROR_CHARS: usize = 120;

/// One line: what stands before the step, the step, and its state.
#[derive(Default)]
struct Row {
    branch: String,
    what: String,
    state: String,
    took: Option<Duration>,
    note: String,
    /// It only tells of a failure elsewhere.
    is_upstream: bool,
}

/// The workflow's steps from the server: at most so many lines, and so long.
pub async fn lines(client: &Client, id: WorkflowId, size: Size) -> Result<Vec<String>> {
    Ok(lines_of(&client.workflow_tree(id).await?, size, Timestamp::now()))
}

/// `now`, by this machine's clock, is for what still runs.
fn lines_of(tree: &Tree, size: Size, now: Timestamp) -> Vec<String> {
    let mut rows = Vec::new();
    add(tree, "", String::new(), "", now, &mut rows);
    // What is cut is in the middle: the end of a large group is followed by what takes its results.
    let (first, last) = match rows.len() > size.rows {
        true => (size.rows.saturating_sub(1 + size.rows / 4), size.rows / 4),
        false => (rows.len(), 0),
    };
    let (head, tail) = (&rows[..first], &rows[rows.len() - last..]);
    let width = |row: &Row| measure_text_width(&row.branch) + measure_text_width(&row.what);
    let widest = head.iter().chain(tail).map(width).max().unwrap_or(0).min(60);
    let line = |row: &Row| {
        let gap = " ".repeat(widest.saturating_sub(width(row)) + 2);
        // A failure elsewhere is paler than the failure itself.
        let state = if row.is_upstream { row.state.red().dimmed().to_string().into() } else { coloured(&row.state) };
        let state = pad_str(&state, 9, Alignment::Left, None);
        let took = row.took.map(|took| format!(" {:>8}", duration_text(took))).unwrap_or_default();
        let note = if row.note.is_empty() { String::new() } else { format!("  {}", row.note) };
        cut(format!("{}{}{gap}{state}{took}{note}", row.branch.dimmed(), row.what).trim_end(), size.columns)
    };
    let left_out = rows.len() - first - last;
    let left_out = (left_out > 0).then(|| cut(&format!("… {left_out} more lines"), size.columns));
    head.iter().map(line).chain(left_out).chain(tail.iter().map(line)).collect()
}

/// Adds a step and the steps below it. `branch` stands before its own line, `below` before those below it.
fn add(tree: &Tree, role: &str, branch: String, below: &str, now: Timestamp, rows: &mut Vec<Row>) {
    rows.push(Row {
        branch,
        what: what(tree, role),
        state: tree.state.as_deref().map(one_line).unwrap_or_default(),
        took: took(tree, now),
        note: note(tree),
        is_upstream: tree.error.as_deref() == Some("upstream_failed"),
    });
    // Each step with its role. None: steps that are left out, the first ones of a chain or the last ones of a group.
    let is_chain = !tree.steps.is_empty() || tree.kind == "chain";
    let left_out = tree.left_out.map(|_| ("", None));
    let mut steps: Vec<(&str, Option<&Tree>)> = Vec::new();
    steps.extend(left_out.filter(|_| is_chain));
    steps.extend(tree.steps.iter().chain(&tree.members).map(|step| ("", Some(step))));
    steps.extend(left_out.filter(|_| !is_chain));
    steps.extend(tree.body.as_deref().map(|body| ("then ", Some(body))));
    steps.extend(tree.link.iter().map(|step| ("on success ", Some(step))));
    steps.extend(tree.link_error.iter().map(|step| ("on failure ", Some(step))));
    let all = steps.len();
    for (number, (role, step)) in steps.into_iter().enumerate() {
        let (turn, down) = if number + 1 == all { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let branch = format!("{below}{turn}");
        match (step, tree.left_out.unwrap_or(0)) {
            (Some(step), _) => add(step, role, branch, &format!("{below}{down}"), now, rows),
            // Nobody counted.
            (None, 0) => rows.push(Row { branch, what: "… and more".to_owned(), ..Row::default() }),
            (None, count) => rows.push(Row { branch, what: format!("… and {count} more"), ..Row::default() }),
        }
    }
}

/// `then merge (all words)`.
fn what(tree: &Tree, role: &str) -> String {
    let name = one_line(tree.task.as_deref().unwrap_or(&tree.kind));
    let label = tree.label.as_deref().map(|label| format!(" ({})", one_line(label))).unwrap_or_default();
    let count = tree.count.map(|count| format!(" of {count}")).unwrap_or_default();
    let items = tree.items.map(|items| format!(" × {items}")).unwrap_or_default();
    format!("{role}{name}{count}{items}{label}")
}

fn note(tree: &Tree) -> String {
    let mut notes = Vec::new();
    let counts = [(tree.retries, "retries"), (tree.pending, "to come"), (tree.failed, "failed")];
    for (count, what) in counts {
        notes.extend(count.filter(|count| *count > 0).map(|count| format!("{count} {what}")));
    }
    notes.extend(tree.error.as_deref().map(|error| shortened(&one_line(error), ERROR_CHARS)));
    notes.extend(tree.replaced_by.map(|id| format!("replaced by {id}")));
    notes.join(", ")
}

/// How long a step ran, or has run until now.
fn took(tree: &Tree, now: Timestamp) -> Option<Duration> {
    let time = |text: &Option<String>| text.as_deref()?.parse::<Timestamp>().ok();
    let until = time(&tree.finished_at).or_else(|| (tree.state.as_deref() == Some("running")).then_some(now))?;
    // Clocks of two machines may differ.
    Some(until.duration_since(time(&tree.started_at)?).try_into().unwrap_or_default())
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
    truncate_str(text, most, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const WIDE: Size = Size { columns: 200, rows: 100 };

    fn lines(tree: Value, size: Size) -> Vec<String> {
        let tree: Tree = serde_json::from_value(tree).unwrap();
        let lines = lines_of(&tree, size, Timestamp::from_second(61).unwrap());
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
    fn a_failure_elsewhere_is_paler_and_the_size_of_a_map_is_shown() {
        let tree = json!({"kind": "group", "members": [
            {"kind": "task", "task": "inc", "items": 40, "state": "failed", "error": "Declined"},
            {"kind": "task", "task": "inc", "state": "failed", "error": "upstream_failed"},
        ]});
        let tree: Tree = serde_json::from_value(tree).unwrap();
        let lines = lines_of(&tree, WIDE, Timestamp::UNIX_EPOCH);
        let [failed, upstream] = [1, 2].map(|at: usize| lines[at].matches("\u{1b}[2m").count());
        assert!(failed < upstream, "{lines:?}");
        assert!(lines[1].contains("inc × 40"), "{lines:?}");
    }

    #[test]
    fn what_does_not_fit_is_cut_and_counted() {
        let seen = lines(chord(), Size { columns: 20, rows: 4 });
        assert_eq!(seen.len(), 4);
        assert!(seen.iter().all(|line| measure_text_width(line) <= 20), "{seen:?}");
        assert_eq!(seen[2], "… 6 more lines");
        assert!(seen[3].starts_with("└─ then merge"), "{seen:?}");
        assert_eq!(anstream::adapter::strip_str(&cut("日本語日本語", 7)).to_string(), "日本語…");
    }

    #[test]
    fn nothing_that_users_wrote_reaches_the_terminal_with_its_escapes() {
        let evil = "\u{1b}]0;x\u{7}\u{202e}\n";
        let tree = json!({"kind": evil, "task": evil, "label": evil, "state": evil, "error": evil});
        let tree: Tree = serde_json::from_value(tree).unwrap();
        for line in lines_of(&tree, WIDE, Timestamp::UNIX_EPOCH) {
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
}
