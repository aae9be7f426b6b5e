//! A workflow's tree as an SVG picture: chains from left to right, groups as frames, callbacks below.
//!
//! Every text in it was written by strangers and is escaped; there are no scripts, links or references.

use std::fmt::Write as _;

use crate::workflow_tree::{Tree, TreeStep, UPSTREAM_FAILED};

/// Sizes, pixels.
const NODE: (f64, f64) = (168.0, 38.0);
const GAP: (f64, f64) = (34.0, 10.0);
const PAD: f64 = 10.0;
const HEADER: f64 = 18.0;
/// Characters of a text in the picture; the whole is in its tooltip.
const MAX_CHARS: usize = 23;

const STYLE: &str = "\
text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#1b1f24}.s{fill:#57606a;font-size:10px}\
path{fill:none;stroke:#8c959f}.d{stroke-dasharray:4 3}.e{stroke:#cf222e;stroke-dasharray:4 3}\
rect{stroke:#8c959f;fill:#fff}\
.succeeded{fill:#dafbe1;stroke:#1a7f37}.failed{fill:#ffebe9;stroke:#cf222e}.failed.upstream{fill:#fff8f7;stroke:#f2b8b5}.expired{fill:#ffebe9;stroke:#bc4c00}\
.running{fill:#ddf4ff;stroke:#0969da}.retrying{fill:#fff8c5;stroke:#9a6700}.queued,.scheduled{fill:#fff}\
.revoked{fill:#eaeef2;stroke:#57606a}.skipped{fill:#eaeef2;stroke:#8c959f;stroke-dasharray:3 3}.g{fill:#f6f8fa}";

/// A part of the picture and where its edges are: from its left side and to `exit`, at the height `port`.
struct Shape {
    width: f64,
    /// The right side of what the edge leaves: callbacks may be wider.
    exit: f64,
    height: f64,
    port: f64,
    parts: Vec<Part>,
}

/// Something at a place.
struct Part {
    x: f64,
    y: f64,
    class: String,
    kind: Kind,
}

enum Kind {
    Box {
        width: f64,
        height: f64,
        title: String,
    },
    Text(String),
    /// To another place, counted from its own.
    Edge {
        dx: f64,
        dy: f64,
    },
}

/// The picture of a tree.
pub(crate) fn svg(tree: &Tree) -> String {
    let shape = shape(&tree.root);
    let note = (tree.nodes_left_out > 0).then(|| format!("{} of {} nodes are shown", tree.nodes_shown, tree.nodes));
    let (width, height) = (shape.width + 2.0 * PAD, shape.height + 2.0 * PAD + note.as_ref().map_or(0.0, |_| HEADER));
    let mut out = String::with_capacity(256 * shape.parts.len() + STYLE.len());
    // Writing to a `String` cannot fail.
    let _ = write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img"><title>workflow {}</title><style>{STYLE}</style><g transform="translate({PAD} {PAD})">"#,
        escaped(&tree.workflow),
    );
    // Frames first, edges over them, nodes on top.
    let rank = |part: &&Part| match part.kind {
        Kind::Box { .. } if part.class.starts_with('g') => 0,
        Kind::Edge { .. } => 1,
        _ => 2,
    };
    for wanted in 0..3 {
        shape.parts.iter().filter(|part| rank(part) == wanted).for_each(|part| part.write(&mut out));
    }
    out.push_str("</g>");
    if let Some(note) = note {
        let _ = write!(out, r#"<text class="s" x="{PAD}" y="{}">{}</text>"#, height - PAD, escaped(&note));
    }
    out.push_str("</svg>\n");
    out
}

fn shape(step: &TreeStep) -> Shape {
    let main = match step.kind {
        "chain" => row(step.left_out.map(|_| more("… earlier steps")).into_iter().chain(step.steps.iter().map(shape))),
        "chord" => row([group(step)].into_iter().chain(step.body.as_deref().map(shape))),
        "group" => group(step),
        _ => node(step),
    };
    let callbacks =
        step.link.iter().map(|c| (c, "then", "d")).chain(step.link_error.iter().map(|c| (c, "on error", "e")));
    callbacks.fold(main, |main, (callback, word, class)| below(main, shape(callback), word, class))
}

fn node(step: &TreeStep) -> Shape {
    let (width, height) = NODE;
    let state = step.state.unwrap_or("");
    let task = step.task.as_deref().unwrap_or("?");
    let name = step.label.as_deref().unwrap_or(task);
    let number = step.node.map_or(String::new(), |number| format!("#{number} "));
    let took = match (step.started_at, step.finished_at) {
        (Some(from), Some(to)) => format!(" {} ms", to.0.saturating_sub(from.0)),
        _ => String::new(),
    };
    let retries = step.retries.filter(|retries| *retries > 0).map_or(String::new(), |n| format!(" retries {n}"));
    let error = step.error.as_deref().map_or(String::new(), |kind| format!(" {kind}"));
    let items = step.items.map_or(String::new(), |items| format!(" × {items}"));
    let title = format!("{number}{name} ({task}{items}): {state}{took}{retries}{error}");
    let parts = vec![
        Part { x: 0.0, y: 0.0, class: class_of(step), kind: Kind::Box { width, height, title } },
        Part::text(8.0, 16.0, short(name, &items), ""),
        Part::text(8.0, 30.0, short(&format!("{number}{state}{took}{error}"), ""), "s"),
    ];
    Shape::new(width, height, parts)
}

/// The state, and whether it only tells of a failure elsewhere.
fn class_of(step: &TreeStep) -> String {
    let state = step.state.unwrap_or("");
    if step.error.as_deref() == Some(UPSTREAM_FAILED) { format!("{state} upstream") } else { state.to_owned() }
}

/// A box that stands for what is left out.
fn more(text: &str) -> Shape {
    Shape::new(NODE.0, HEADER + 4.0, vec![Part::text(8.0, 15.0, text.to_owned(), "s")])
}

/// Shapes from left to right, with edges between them.
fn row(shapes: impl Iterator<Item = Shape>) -> Shape {
    let shapes: Vec<Shape> = shapes.collect();
    let port = shapes.iter().map(|s| s.port).fold(0.0, f64::max);
    let below = shapes.iter().map(|s| s.height - s.port).fold(0.0, f64::max);
    let mut all = Shape { width: 0.0, exit: 0.0, height: port + below, port, parts: Vec::new() };
    for (at, shape) in shapes.into_iter().enumerate() {
        if at > 0 {
            let from = (all.exit, port);
            all.width += GAP.0;
            all.parts.push(Part::edge(from, (all.width, port), ""));
        }
        let (x, y) = (all.width, port - shape.port);
        all.exit = all.width + shape.exit;
        all.width += shape.width;
        all.place(shape, x, y);
    }
    all
}

/// The members of a group below each other in a frame, each with an edge from its left and to its right side.
fn group(step: &TreeStep) -> Shape {
    let left_out = step.left_out.map(|count| more(&format!("… {count} more")));
    let edges = step.members.len();
    let members: Vec<Shape> = step.members.iter().map(shape).chain(left_out).collect();
    let inner = members.iter().map(|s| s.width).fold(NODE.0 / 2.0, f64::max);
    let width = inner + 2.0 * (PAD + GAP.0 / 2.0);
    let height = HEADER + PAD + members.iter().map(|s| s.height + GAP.1).sum::<f64>();
    let state = step.state.unwrap_or("");
    let failed = step.failed.filter(|failed| *failed > 0).map_or(String::new(), |n| format!(", {n} failed"));
    let pending = step.pending.filter(|pending| *pending > 0).map_or(String::new(), |n| format!(", {n} to come"));
    let title = format!("group of {}: {state}{pending}{failed}", step.count.unwrap_or(0));
    let header = step.label.as_ref().map_or_else(|| title.clone(), |label| format!("{label}: {title}"));
    let text = Part::text(8.0, 13.0, header.chars().take((width / 7.0) as usize).collect(), "s");
    let frame = Part {
        x: 0.0,
        y: 0.0,
        class: format!("g {}", class_of(step)),
        kind: Kind::Box { width, height, title: header },
    };
    let mut all = Shape::new(width, height, vec![frame, text]);
    let (x, mut y) = (PAD + GAP.0 / 2.0, HEADER + PAD / 2.0);
    for (at, member) in members.into_iter().enumerate() {
        if at < edges {
            let middle = y + member.port;
            all.parts.push(Part::edge((0.0, all.port), (x, middle), ""));
            all.parts.push(Part::edge((x + member.exit, middle), (width, all.port), ""));
        }
        let next = y + member.height + GAP.1;
        all.place(member, x, y);
        y = next;
    }
    all
}

/// A callback below the step that it belongs to.
fn below(mut main: Shape, callback: Shape, word: &str, class: &str) -> Shape {
    let (x, y) = (GAP.0 * 2.0, main.height + GAP.1 * 2.0);
    let port = y + callback.port;
    main.parts.push(Part::edge((12.0, main.height), (x, port), class));
    main.parts.push(Part::text(14.0, port + 12.0, word.to_owned(), "s"));
    (main.width, main.height) = (main.width.max(x + callback.width), y + callback.height);
    main.place(callback, x, y);
    main
}

impl Shape {
    fn new(width: f64, height: f64, parts: Vec<Part>) -> Self {
        Self { width, exit: width, height, port: height / 2.0, parts }
    }

    /// Takes the parts of another shape, whose corner is at `x`, `y`.
    fn place(&mut self, shape: Self, x: f64, y: f64) {
        self.parts.extend(shape.parts.into_iter().map(|part| Part { x: part.x + x, y: part.y + y, ..part }));
    }
}

impl Part {
    fn text(x: f64, y: f64, text: String, class: &str) -> Self {
        Self { x, y, class: class.to_owned(), kind: Kind::Text(text) }
    }

    fn edge((x, y): (f64, f64), to: (f64, f64), class: &str) -> Self {
        Self { x, y, class: class.to_owned(), kind: Kind::Edge { dx: to.0 - x, dy: to.1 - y } }
    }

    fn write(&self, out: &mut String) {
        let Self { x, y, kind, .. } = self;
        let class = escaped(&self.class);
        // Writing to a `String` cannot fail.
        let _ = match kind {
            Kind::Box { width, height, title } => write!(
                out,
                r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"><title>{}</title></rect>"#,
                escaped(title),
            ),
            Kind::Text(text) => write!(out, r#"<text class="{class}" x="{x}" y="{y}">{}</text>"#, escaped(text)),
            Kind::Edge { dx, dy } => {
                let (to_x, to_y, first_bend, last_bend) = (x + dx, y + dy, x + dx / 2.0, x + dx - dx / 2.0);
                write!(out, r#"<path class="{class}" d="M{x} {y}C{first_bend} {y} {last_bend} {to_y} {to_x} {to_y}"/>"#)
            }
        };
    }
}

/// The text and what follows it, which is never cut.
fn short(text: &str, end: &str) -> String {
    let room = MAX_CHARS - end.chars().count().min(MAX_CHARS - 1);
    if text.chars().count() <= room {
        return format!("{text}{end}");
    }
    text.chars().take(room - 1).chain(['…']).chain(end.chars()).collect()
}

/// A text as XML, without what XML cannot hold and what turns a line around.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(root: TreeStep) -> Tree {
        Tree { workflow: "W".into(), nodes: 1, nodes_shown: 1, nodes_left_out: 0, root }
    }

    #[test]
    fn a_hostile_text_stays_a_text() {
        let hostile = "</text><script>alert('1')</script>\u{1b}[31m\u{202e}\"&\u{ffff}";
        let step = TreeStep {
            kind: "task",
            label: Some(hostile.into()),
            task: Some("t".into()),
            error: Some(hostile.into()),
            ..TreeStep::default()
        };
        let group = TreeStep { kind: "group", label: Some(hostile.into()), members: vec![step], ..TreeStep::default() };
        let svg = svg(&tree(group));
        assert!(!svg.contains("<script") && !svg.contains('\u{1b}') && !svg.contains('\u{202e}'), "{svg}");
        assert!(svg.contains("&lt;script&gt;") && svg.contains("&quot;"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn the_size_of_a_map_is_drawn_and_what_failed_elsewhere_is_paler() {
        let map = TreeStep {
            kind: "task",
            task: Some("a_task_with_a_very_long_name".into()),
            items: Some(1_000),
            ..TreeStep::default()
        };
        assert!(svg(&tree(map)).contains("a_task_with_a_v… × 1000<"));
        let step = |error: &str| TreeStep {
            kind: "task",
            state: Some("failed"),
            error: Some(error.into()),
            ..TreeStep::default()
        };
        assert!(svg(&tree(step("Declined"))).contains(r#"<rect class="failed" "#));
        assert!(svg(&tree(step(UPSTREAM_FAILED))).contains(r#"<rect class="failed upstream" "#));
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let group = TreeStep { kind: "group", count: Some(100_000), left_out: Some(99_988), ..TreeStep::default() };
        assert!(svg(&tree(group)).contains("… 99988 more"));
    }
}
