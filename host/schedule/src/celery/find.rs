//! Where schedules are in a source: assignments, arguments and keys with Celery's names for them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LeftOut, Note,
    blocks::{Blocks, Place, Word},
    literal::{Call, Node, Source, Value, described},
    token::{Kind, Token},
};

/// Celery's names of the setting.
const SCHEDULES: [&str; 4] = ["beat_schedule", "CELERY_BEAT_SCHEDULE", "CELERYBEAT_SCHEDULE", "BEAT_SCHEDULE"];
/// Celery's names of its zone.
const ZONES: [&str; 2] = ["timezone", "CELERY_TIMEZONE"];
/// Tokens between a name and its `=`, for the type of the name.
const MAX_TYPE: usize = 64;

/// Tokens before the name of the setting that tell its place.
const MAX_TARGET: usize = 16;
/// Methods that change a dict or a list.
const CHANGES: [&str; 9] = ["update", "pop", "popitem", "clear", "setdefault", "append", "extend", "insert", "remove"];

/// A schedule that was found.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub node: Node,
    pub note: Option<Note>,
    /// What it was set in: class or function, and text.
    target: usize,
    scope: u32,
}

/// What was found, in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub entries: Vec<Entry>,
    pub left_out: Vec<LeftOut>,
    pub zone: Option<String>,
    /// Whether there was a dict of schedules, which may be empty.
    pub is_there: bool,
}

pub(super) fn schedules(source: &Source<'_>) -> Found {
    let mut finder = Finder {
        source,
        blocks: Blocks::new(source),
        place: Place::default(),
        targets: BTreeMap::new(),
        target: 0,
        dicts: dicts(source),
        read: BTreeSet::new(),
        found: Found::default(),
        at: 0,
    };
    while finder.at < source.tokens.len() {
        finder.look();
    }
    finder.changes_of_names();
    if !finder.found.is_there && finder.found.left_out.is_empty() && source.is_mark(0, "{") {
        finder.place = Place::default();
        let dict = source.value(0).0;
        finder.all_of(dict);
    }
    once_each(&mut finder.found);
    finder.found
}

/// Of several entries of one name the last one counts, as in Python.
fn once_each(found: &mut Found) {
    let mut last: BTreeMap<String, (usize, u32)> = BTreeMap::new();
    for (at, entry) in found.entries.iter().enumerate() {
        last.insert(entry.name.clone(), (at, entry.node.line));
    }
    let mut kept = Vec::with_capacity(last.len());
    for (at, entry) in std::mem::take(&mut found.entries).into_iter().enumerate() {
        match last.get(&entry.name) {
            Some((counts, line)) if *counts != at => {
                let reason = format!("the name is given again in line {line}, which counts");
                found.left_out.push(LeftOut { name: entry.name, line: entry.node.line, reason });
            }
            _ => kept.push(entry),
        }
    }
    found.entries = kept;
}

struct Finder<'s, 'a> {
    source: &'s Source<'a>,
    blocks: Blocks<'a>,
    /// The statement that is looked at.
    place: Place<'a>,
    /// What schedules are set in, by class or function and text.
    targets: BTreeMap<(u32, String), usize>,
    target: usize,
    /// Where the dict begins that a name is given.
    dicts: BTreeMap<&'a str, usize>,
    /// Names whose dicts were taken: each is read once.
    read: BTreeSet<String>,
    found: Found,
    at: usize,
}

impl Finder<'_, '_> {
    /// Looks at one token, and takes what belongs to it.
    fn look(&mut self) {
        let source = self.source;
        let at = self.at;
        self.at += 1;
        match &source.tokens[at].kind {
            Kind::Name(name) if SCHEDULES.contains(name) => self.schedules_at(at, at + 1),
            // `conf["beat_schedule"] = …` and `{"beat_schedule": …}`.
            Kind::Text(name) if SCHEDULES.contains(&name.as_str()) => {
                if source.is_mark(at + 1, ":") {
                    self.begin(at);
                    self.dict_at(at + 2, true);
                } else if source.is_mark(at + 1, "]") {
                    self.schedules_at(at, at + 2);
                }
            }
            Kind::Name("add_periodic_task") if source.is_mark(at + 1, "(") => self.by_code(at),
            Kind::Name(name) if ZONES.contains(name) && source.is_mark(at + 1, "=") => self.zone_at(at + 2),
            Kind::Text(name) if ZONES.contains(&name.as_str()) => {
                let is_set = source.is_mark(at + 1, "]") && source.is_mark(at + 2, "=");
                if is_set || source.is_mark(at + 1, ":") {
                    self.zone_at(at + 2 + usize::from(is_set));
                }
            }
            _ => {}
        }
    }

    /// The statement of the name of the setting, and what it sets.
    fn begin(&mut self, name: usize) {
        self.place = self.blocks.of(name);
        let text = match name - self.place.start {
            0..=MAX_TARGET => self.source.text_of(self.place.start, name).split_whitespace().collect(),
            _ => format!("#{name}"),
        };
        let next = self.targets.len();
        self.target = *self.targets.entry((self.place.scope, text)).or_insert(next);
    }

    /// Whether a `del` is before this token, in its statement.
    fn is_deleted(&self, at: usize) -> bool {
        self.before(at).iter().any(|token| token.kind == Kind::Name("del"))
    }

    /// The tokens of a statement before this one.
    fn before(&self, at: usize) -> &[Token<'_>] {
        let from = self.place.start.max(at.saturating_sub(MAX_TARGET));
        self.source.tokens.get(from..at).unwrap_or_default()
    }

    /// What follows the name of the setting.
    fn schedules_at(&mut self, name: usize, at: usize) {
        let source = self.source;
        self.begin(name);
        let line = source.tokens[name].line;
        let is_deleted = self.is_deleted(name);
        if source.is_mark(at, "[") {
            return self.entry_at(name, at + 1, is_deleted);
        }
        if is_deleted {
            return self.gone(None, line, "deleted");
        }
        if source.is_mark(at, "=") || source.is_mark(at, "|=") {
            return self.dict_at(at + 1, source.is_mark(at, "="));
        }
        if source.is_mark(at, ".") && source.is_mark(at + 2, "(") {
            return self.method_at(at + 1);
        }
        if source.is_mark(at, ":") {
            // `beat_schedule: dict[str, Any] = {…}`
            let type_end = (at + 1..source.tokens.len().min(at + MAX_TYPE))
                .take_while(|at| source.tokens[*at].kind != Kind::Newline)
                .find(|at| source.is_mark(*at, "="));
            if let Some(equals) = type_end {
                self.dict_at(equals + 1, true);
            }
        }
    }

    /// `beat_schedule.update(…)` and other methods.
    fn method_at(&mut self, at: usize) {
        let Some(&Token { kind: Kind::Name(method), line, .. }) = self.source.tokens.get(at) else { return };
        if !CHANGES.contains(&method) {
            return;
        }
        let (call, end) = self.source.arguments(at + 2);
        self.at = self.at.max(end);
        let mut args = call.args.into_iter();
        match (method, args.next(), args.next()) {
            ("update", first, second) => {
                let args = first.into_iter().chain(second).chain(args).collect();
                self.update(Call { args, ..call });
            }
            ("pop", Some(key), _) => self.gone(Some(&key), line, "deleted"),
            ("clear", ..) => self.gone(None, line, "deleted"),
            // It counts only if there is none of the name.
            ("setdefault", Some(key), Some(value)) => {
                let is_there = |entry: &Entry| matches!(&key.value, Value::Text(name) if *name == entry.name);
                if !self.found.entries.iter().any(is_there) {
                    self.one(key, value);
                }
            }
            _ => self.left("beat_schedule", line, format!("what `{method}` changes is not known here")),
        }
    }

    /// `beat_schedule["name"] = {…}`, and what changes or deletes it.
    fn entry_at(&mut self, name: usize, at: usize, is_deleted: bool) {
        let source = self.source;
        let (key, end) = source.value(at);
        if !source.is_mark(end, "]") {
            return;
        }
        let line = source.tokens[name].line;
        if source.is_mark(end + 1, "=") {
            let (value, end) = source.value(end + 2);
            self.at = self.at.max(end);
            self.found.is_there = true;
            return self.one(key, value);
        }
        let is_part = source.is_mark(end + 1, "[") || source.is_mark(end + 1, ".");
        if is_deleted && !is_part {
            self.gone(Some(&key), line, "deleted");
        } else if is_deleted || (self.is_first(name) && self.has_change(end + 1)) {
            self.gone(Some(&key), line, "changed");
        }
    }

    /// Whether a statement begins with the name at this token, and what it is in.
    fn is_first(&self, name: usize) -> bool {
        let before = self.before(name).iter().rev();
        let other = before.filter_map(|token| match token.kind {
            Kind::Mark(mark) => Some(mark).filter(|mark| !matches!(*mark, "." | "[" | "]")),
            _ => None,
        });
        // `if x: NAME…`
        other.take(1).all(|mark| mark == ":" && self.place.opens)
    }

    /// Whether the rest of a statement sets something or calls a method that changes it.
    fn has_change(&self, from: usize) -> bool {
        let rest = self.source.tokens.iter().skip(from).take(MAX_TYPE);
        let mut rest = rest.take_while(|token| token.kind != Kind::Newline);
        rest.any(|token| match token.kind {
            Kind::Mark(mark) => mark.ends_with('=') && !matches!(mark, "==" | "!=" | "<=" | ">="),
            Kind::Name(name) => CHANGES.contains(&name),
            _ => false,
        })
    }

    /// What is changed or deleted is left out: one, or all.
    fn gone(&mut self, key: Option<&Node>, line: u32, how: &str) {
        let name = match key.map(|key| &key.value) {
            None => None,
            Some(Value::Text(name)) => Some(name.clone()),
            Some(Value::Int(number)) => Some(number.to_string()),
            Some(other) => {
                let reason = format!("which schedule is {how} here is not known: {}", described(other));
                return self.left("beat_schedule", line, reason);
            }
        };
        let shown = name.clone().unwrap_or_else(|| "beat_schedule".into());
        if let Some(word) = self.place.maybe {
            return self.left(&shown, line, format!("that it is {how} is not followed: {}", unknown(word)));
        }
        let scope = self.place.scope;
        let is_gone = |entry: &Entry| {
            (scope == 0 || entry.scope == scope) && name.as_ref().is_none_or(|name| *name == entry.name)
        };
        let gone = self.remove(is_gone, &format!("it is {how} in line {line}"));
        if !gone && scope != 0 {
            self.left(
                &shown,
                line,
                format!("it is {how} within line {scope}, which is not run: look whether it counts"),
            );
        }
    }

    /// Leaves out entries that were found, and tells whether there were any.
    fn remove(&mut self, is_gone: impl Fn(&Entry) -> bool, reason: &str) -> bool {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.found.entries).into_iter().partition(is_gone);
        self.found.entries = kept;
        let any = !gone.is_empty();
        for entry in gone {
            self.left(&entry.name, entry.node.line, reason.to_owned());
        }
        any
    }

    fn left(&mut self, name: &str, line: u32, reason: String) {
        self.found.left_out.push(LeftOut { name: name.to_owned(), line, reason });
    }

    fn update(&mut self, call: Call) {
        for argument in call.args {
            self.all_of(argument);
        }
        for (name, node) in call.kwargs {
            self.found.is_there = true;
            self.one(Node { line: node.line, value: Value::Text(name) }, node);
        }
    }

    /// The dict that the setting is given; `is_whole`: in place of what it had.
    fn dict_at(&mut self, at: usize, is_whole: bool) {
        let (node, end) = self.source.value(at);
        if is_whole {
            self.replaced(at, end, &node);
        }
        match &node.value {
            // Found by itself.
            Value::Name(name) if SCHEDULES.contains(&last(name)) => {}
            // Read before.
            Value::Name(name) if self.read.contains(last(name)) => {}
            Value::Name(name) => {
                let begins = self.dicts.get(last(name)).copied();
                self.read.insert(last(name).to_owned());
                if let Some(begins) = begins {
                    let place = self.blocks.of(begins);
                    self.place.maybe = self.place.maybe.or(place.maybe);
                }
                let dict = begins.map(|at| self.source.value(at).0);
                self.all_of(dict.unwrap_or(node));
            }
            _ => {
                self.at = self.at.max(end);
                self.all_of(node);
            }
        }
    }

    /// What was set before in the same place does not count any more.
    fn replaced(&mut self, at: usize, end: usize, node: &Node) {
        let (target, line) = (self.target, node.line);
        if let Some(word) = self.place.maybe {
            // What is in it is listed by name.
            let has_names = matches!(&node.value, Value::Dict(pairs) if !pairs.is_empty());
            if !has_names || self.found.entries.iter().any(|entry| entry.target == target) {
                self.left("beat_schedule", line, format!("that it is set is not followed: {}", unknown(word)));
            }
            return;
        }
        // `beat_schedule = {**beat_schedule, …}` keeps it.
        let keeps = (at..end).any(
            |at| matches!(self.source.tokens.get(at), Some(Token { kind: Kind::Name(name), .. }) if SCHEDULES.contains(name)),
        );
        if !keeps && self.remove(|entry| entry.target == target, &format!("beat_schedule is set again in line {line}"))
        {
            self.read.clear();
        }
    }

    /// What changes dicts that are taken over under a name of their own is listed.
    fn changes_of_names(&mut self) {
        let source = self.source;
        for at in 0..source.tokens.len() {
            let Kind::Name(name) = source.tokens[at].kind else { continue };
            let taken = self.dicts.get(name).filter(|_| self.read.contains(name));
            let Some(&dict) = taken else { continue };
            self.place = self.blocks.of(at);
            let is_deleted = self.is_deleted(at);
            let is_set = source.is_mark(at + 1, "=");
            let is_first = self.is_first(at) && !source.is_mark(at.wrapping_sub(1), ".");
            let is_it = is_set && at + 2 == dict;
            if !is_it && is_first && (is_deleted || self.has_change(at + 1)) {
                self.left(name, source.tokens[at].line, format!("`{name}` is changed here, which is not followed"));
            }
        }
    }

    /// All entries of a dict.
    fn all_of(&mut self, node: Node) {
        match node.value {
            Value::Dict(pairs) => {
                self.found.is_there = true;
                for (key, value) in pairs {
                    self.one(key, value);
                }
            }
            other => {
                let reason = format!("the schedules are no dict: {}", described(&other));
                self.found.left_out.push(LeftOut { name: "beat_schedule".into(), line: node.line, reason });
            }
        }
    }

    fn one(&mut self, key: Node, value: Node) {
        match key.value {
            Value::Text(name) => self.entry(name, value),
            Value::Int(number) => self.entry(number.to_string(), value),
            other => {
                let what = described(&other);
                let name = match &other {
                    Value::Odd(text) => text.trim_start_matches('`').split('`').next().unwrap_or_default().to_owned(),
                    Value::Name(name) => name.clone(),
                    _ => "?".into(),
                };
                let reason = format!("its name is no text: {what}");
                self.found.left_out.push(LeftOut { name, line: key.line, reason });
            }
        }
    }

    /// A schedule by its name.
    fn entry(&mut self, name: String, node: Node) {
        if let Some(word) = self.place.maybe {
            return self.left(&name, node.line, unknown(word));
        }
        let note = self.place.called.map(|(word, line)| Note {
            line: node.line,
            text: format!("it is under `{word}` in line {line}, and is taken over as if that was run"),
        });
        let (target, scope) = (self.target, self.place.scope);
        self.found.entries.push(Entry { name, node, note, target, scope });
    }

    /// Schedules that code makes: they are named, so that nobody misses them.
    fn by_code(&mut self, at: usize) {
        let (call, end) = self.source.arguments(at + 2);
        self.at = self.at.max(end);
        let name = call.kwargs.iter().find_map(|(name, node)| match &node.value {
            Value::Text(text) if name == "name" => Some(text.clone()),
            _ => None,
        });
        self.found.left_out.push(LeftOut {
            name: name.unwrap_or_else(|| "add_periodic_task".into()),
            line: self.source.tokens[at].line,
            reason: "it is made by a call of add_periodic_task, which is not run: make it by `umbel schedule create`"
                .into(),
        });
    }

    fn zone_at(&mut self, at: usize) {
        if let Some(Token { kind: Kind::Text(zone), line, .. }) = self.source.tokens.get(at) {
            if let Some(word) = self.blocks.of(at).maybe {
                return self.left("timezone", *line, format!("give the zone by --zone: {}", unknown(word)));
            }
            self.found.zone = Some(zone.clone());
        }
    }
}

/// Why something under such a word is not taken over.
fn unknown((word, line): Word<'_>) -> String {
    format!("it is under `{word}` in line {line}, and whether that counts is not known here")
}

/// Where the dicts begin that names are given: `NAME = {`.
fn dicts<'a>(source: &Source<'a>) -> BTreeMap<&'a str, usize> {
    let dict = |(at, token): (usize, &Token<'a>)| match token.kind {
        Kind::Name(name) if source.is_mark(at + 1, "=") && source.is_mark(at + 2, "{") => Some((name, at + 2)),
        _ => None,
    };
    source.tokens.iter().enumerate().filter_map(dict).collect()
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
