//! From a canvas to its normal form: nodes and edges.
//!
//! Invariants of a plan: it has no cycle; every job node has one source at most, a join has its members; the members of a
//! group are numbered in one piece, so that a group of any size is a few ranges.

use std::collections::BTreeMap;

use super::form::{Canvas, Each, OnFailure, Shape, Signature, Values};
use crate::settings;

/// Steps within steps. JSON itself is read to a depth of 128, and a step is two levels of it.
pub const MAX_DEPTH: usize = 48;
/// Nodes of one workflow.
pub const MAX_NODES: u32 = 250_000;

/// Bytes that the chunks of one step may have in common, copied to each of them.
const MAX_COPIED_BYTES: usize = 32 << 20;

settings! {
    /// How large a canvas may be.
    #[derive(Debug, Clone, Copy)]
    pub struct CanvasLimits {
        pub max_depth: usize = MAX_DEPTH,
        pub max_nodes: u32 = MAX_NODES,
    }
}

/// A canvas that cannot be planned. `pointer` is a JSON pointer into it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct CanvasError {
    pub pointer: String,
    pub detail: String,
}

type Result<T, E = CanvasError> = std::result::Result<T, E>;

impl CanvasError {
    fn new(pointer: &str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), detail: detail.into() }
    }
}

/// Consecutive nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub count: u32,
}

impl Range {
    pub fn one(node: u32) -> Self {
        Self { first: node, count: 1 }
    }

    pub fn contains(self, node: u32) -> bool {
        node >= self.first && node - self.first < self.count
    }

    pub fn iter(self) -> impl Iterator<Item = u32> {
        self.first..self.first + self.count
    }
}

/// The end of its source that a node waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum When {
    /// It succeeded, or nobody minds that it did not.
    #[default]
    Success,
    /// An error callback.
    Failure,
    /// A `link`: it succeeded itself. After a failure that nobody minds the error callbacks run, and this does not.
    Link,
}

impl When {
    /// What a node waits for that starts with its workflow, because its source ended well in the workflow that is resumed.
    pub fn of_start(self) -> Self {
        if self == Self::Link { Self::Success } else { self }
    }
}

/// The work of a node.
#[derive(Debug, Clone)]
pub enum Work {
    Job(Signature),
    Join(Join),
}

/// The end of a group: it runs nothing, and ends when all its members ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Join {
    /// The last node of each member, in the order of the results.
    pub members: Vec<Range>,
    /// All nodes of the members, callbacks apart.
    pub scope: Vec<Range>,
    /// The first failure cancels what is left of the scope.
    pub cancel_rest: bool,
    /// Arrivals that it waits for.
    pub pending: u32,
}

/// One node of the graph.
#[derive(Debug, Clone)]
pub struct Node {
    pub work: Work,
    pub when: When,
    pub on_failure: OnFailure,
    /// Its source: the node that must end before; of a join, the one that its members wait for.
    pub after: Option<u32>,
    /// The result of `after` (or, of an error callback, its error) goes in front of the arguments.
    pub takes: bool,
    /// The join of the innermost group that it is in.
    pub group: Option<u32>,
    /// What that group says of the failure of members that say nothing themselves: for members that are added later.
    pub members_on_failure: Option<OnFailure>,
    /// The node whose job added it to its group while it ran.
    pub added_by: Option<u32>,
    /// The nodes that wait for it.
    pub next: Vec<Range>,
    pub label: Option<String>,
    /// JSON pointer into the canvas: for error messages.
    pub pointer: String,
}

impl Node {
    /// The numbers of the nodes that wait for it.
    pub(super) fn targets(&self) -> impl Iterator<Item = usize> {
        self.next.iter().flat_map(|range| range.iter()).map(|number| number as usize)
    }
}

/// The normal form of a canvas.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: Vec<Node>,
    /// The nodes without a source.
    pub starts: Vec<Range>,
    /// The node whose end is the workflow's.
    pub end: u32,
    /// The labels of chains, by their last nodes. Those of other steps are in the nodes.
    pub chain_labels: BTreeMap<u32, String>,
}

/// The graph of a canvas.
pub fn plan(canvas: Canvas, limits: CanvasLimits) -> Result<Plan, CanvasError> {
    let mut planner = Planner::new(limits);
    let span = planner.step(canvas, &Place::default())?;
    planner.callbacks()?;
    Ok(planner.finished(span))
}

/// More members for a group that runs: their graph, and the last node of each. Numbers start from 0; the members' ends
/// have no edge to the group's join yet, nor a `group`. `on_failure` is what the group says of its members.
pub fn plan_members(
    members: Vec<Canvas>,
    on_failure: Option<OnFailure>,
    limits: CanvasLimits,
) -> Result<(Plan, Vec<Range>), CanvasError> {
    let mut planner = Planner::new(limits);
    let place = Place { depth: 1, on_failure, members_on_failure: on_failure, ..Place::default() };
    let (ends, starts) = planner.members(members, ("/", 1), &place)?;
    planner.callbacks()?;
    Ok((planner.finished(Span { starts, end: 0 }), ends))
}

/// Where a group's members are written: the last part of their pointers, and how many items of it each stands for.
type Written = (&'static str, usize);

/// A group as it was written.
struct Group {
    members: Vec<Canvas>,
    written: Written,
    cancel_rest: bool,
    /// Of each member that says nothing itself.
    on_failure: Option<OnFailure>,
    label: Option<String>,
}

/// Where a step is put.
#[derive(Debug, Clone, Default)]
struct Place {
    after: Option<u32>,
    when: When,
    group: Option<u32>,
    /// The setting of the group around it for its members, if it is the end of one.
    on_failure: Option<OnFailure>,
    /// That setting, wherever in a member it is.
    members_on_failure: Option<OnFailure>,
    /// Numbers that were set aside for its last and its first node.
    end: Option<u32>,
    start: Option<u32>,
    pointer: String,
    /// Steps around it.
    depth: usize,
}

impl Place {
    /// The place of a step within the step that is put here.
    fn inside(&self, pointer: &str) -> Self {
        Self { pointer: format!("{}{pointer}", self.pointer), depth: self.depth + 1, ..self.clone() }
    }

    /// A node that is put here, without edges.
    fn node(&self, work: Work, on_failure: Option<OnFailure>, label: Option<String>) -> Node {
        let takes = matches!(&work, Work::Job(signature) if !signature.immutable && signature.each.is_none());
        Node {
            work,
            when: self.when,
            on_failure: on_failure.unwrap_or_default(),
            after: self.after,
            takes: takes && self.after.is_some(),
            group: self.group,
            members_on_failure: self.members_on_failure,
            added_by: None,
            next: Vec::new(),
            label,
            pointer: self.pointer.clone(),
        }
    }
}

struct Span {
    starts: Vec<Range>,
    end: u32,
}

struct Planner {
    nodes: Vec<Option<Node>>,
    limits: CanvasLimits,
    /// Planned last: they are in no group's scope, so that cancelling the rest of a group leaves them alone.
    callbacks: Vec<(Canvas, Place)>,
    chain_labels: BTreeMap<u32, String>,
}

/// Adds a range to a list of them. One that goes on where the last one ends makes it longer.
pub fn push(ranges: &mut Vec<Range>, range: Range) {
    match ranges.last_mut() {
        Some(last) if last.first + last.count == range.first => last.count += range.count,
        _ => ranges.push(range),
    }
}

impl Planner {
    fn new(limits: CanvasLimits) -> Self {
        Self { nodes: Vec::new(), limits, callbacks: Vec::new(), chain_labels: BTreeMap::new() }
    }

    fn finished(self, Span { starts, end }: Span) -> Plan {
        let node = |node: Option<Node>| node.expect("every number that was set aside was used");
        Plan { nodes: self.nodes.into_iter().map(node).collect(), starts, end, chain_labels: self.chain_labels }
    }

    /// Whether there may be so many nodes more.
    fn check_room(&self, count: usize, pointer: &str) -> Result<()> {
        let max = self.limits.max_nodes;
        let fits = count <= (max as usize).saturating_sub(self.nodes.len());
        if fits { Ok(()) } else { Err(CanvasError::new(pointer, format!("a workflow has at most {max} nodes"))) }
    }

    fn reserve(&mut self, count: usize, pointer: &str) -> Result<u32> {
        self.check_room(count, pointer)?;
        let first = self.nodes.len();
        self.nodes.resize_with(first + count, || None);
        Ok(first as u32)
    }

    /// The number that was set aside, or a new one.
    fn number(&mut self, set_aside: Option<u32>, place: &Place) -> Result<u32> {
        set_aside.map_or_else(|| self.reserve(1, &place.pointer), Ok)
    }

    fn node(&mut self, number: u32) -> &mut Node {
        self.nodes[number as usize].as_mut().expect("edges start at nodes that were made")
    }

    fn step(&mut self, canvas: Canvas, place: &Place) -> Result<Span> {
        if place.depth >= self.limits.max_depth {
            let detail = format!("steps are nested at most {} deep", self.limits.max_depth);
            return Err(CanvasError::new(&place.pointer, detail));
        }
        let Canvas { shape, link, link_error, on_failure, label } = canvas;
        let span = match shape {
            Shape::Task(signature) => {
                let number = self.number(place.end.or(place.start), place)?;
                let node = place.node(Work::Job(signature), on_failure.or(place.on_failure), label);
                self.nodes[number as usize] = Some(node);
                Span { starts: vec![Range::one(number)], end: number }
            }
            Shape::Chunks { signature, items, size } => {
                let members = self.chunks(&signature, items, size, &place.pointer)?;
                let written = ("/chunks/", size as usize);
                self.group(Group { members, written, cancel_rest: false, on_failure, label }, place)?
            }
            Shape::Chain(steps) => {
                let span = self.chain(steps, on_failure, place)?;
                // Of chains that end together, the outermost one is planned last.
                label.into_iter().for_each(|label| drop(self.chain_labels.insert(span.end, label)));
                span
            }
            Shape::Group { members, cancel_rest } => {
                let written = ("/group/", 1);
                self.group(Group { members, written, cancel_rest, on_failure, label }, place)?
            }
            Shape::Chord { header, cancel_rest, body } => {
                let group = Group { members: header, written: ("/chord/", 1), cancel_rest, on_failure, label };
                self.chord(group, *body, place)?
            }
        };
        for (when, name, list) in [(When::Link, "link", link), (When::Failure, "link_error", link_error)] {
            for (at, canvas) in list.into_iter().enumerate() {
                let Place { pointer, depth, .. } = place.inside(&format!("/{name}/{at}"));
                let place = Place { after: Some(span.end), when, pointer, depth, ..Place::default() };
                self.callbacks.push((canvas, place));
            }
        }
        Ok(span)
    }

    fn chain(&mut self, steps: Vec<Canvas>, on_failure: Option<OnFailure>, place: &Place) -> Result<Span> {
        let count = steps.len();
        if count == 0 {
            return Err(CanvasError::new(&place.pointer, "a chain has at least one step"));
        }
        let mut starts = Vec::new();
        let mut last = None;
        for (at, step) in steps.into_iter().enumerate() {
            let (is_first, is_last) = (at == 0, at + 1 == count);
            let inner = Place {
                after: last.or(place.after),
                when: if is_first { place.when } else { When::Success },
                on_failure: on_failure.or(place.on_failure).filter(|_| is_last),
                end: place.end.filter(|_| is_last),
                start: place.start.filter(|_| is_first),
                ..place.inside(&format!("/chain/{at}"))
            };
            let span = self.step(step, &inner)?;
            match last {
                Some(source) => self.connect(source, &span.starts),
                None => starts = span.starts,
            }
            last = Some(span.end);
        }
        Ok(Span { starts, end: last.expect("there is at least one step") })
    }

    fn chord(&mut self, header: Group, body: Canvas, place: &Place) -> Result<Span> {
        let group = Place { on_failure: None, end: None, start: None, ..place.clone() };
        let header = self.group(header, &group)?;
        let after = Place { after: Some(header.end), when: When::Success, start: None, ..place.inside("/body") };
        let body = self.step(body, &after)?;
        self.connect(header.end, &body.starts);
        Ok(Span { starts: header.starts, end: body.end })
    }

    fn group(&mut self, group: Group, place: &Place) -> Result<Span> {
        let Group { members, written, cancel_rest, on_failure, label } = group;
        let number = self.number(place.end, place)?;
        let count = members.len() as u32;
        let first = self.nodes.len() as u32;
        let inner = Place { group: Some(number), on_failure, members_on_failure: on_failure, ..place.inside("") };
        let (ends, mut starts) = self.members(members, written, &inner)?;
        let scope = Range { first, count: self.nodes.len() as u32 - first };
        let join = Join {
            members: ends,
            scope: if count == 0 { Vec::new() } else { vec![scope] },
            cancel_rest,
            // Without members it waits for what the group waits for.
            pending: count.max(1),
        };
        self.nodes[number as usize] = Some(place.node(Work::Join(join), place.on_failure, label));
        if count == 0 {
            starts = vec![Range::one(number)];
        }
        Ok(Span { starts, end: number })
    }

    /// The ends and the starts of a group's members, all of which are put at `place`.
    fn members(
        &mut self,
        members: Vec<Canvas>,
        (key, each): Written,
        place: &Place,
    ) -> Result<(Vec<Range>, Vec<Range>)> {
        let count = members.len();
        let first = self.reserve(count, &place.pointer)?;
        // The first tasks of chains, in one piece too: what starts the group names a range and not each of them.
        let begin =
            |m: &Canvas| matches!(&m.shape, Shape::Chain(s) if s.len() > 1 && matches!(s[0].shape, Shape::Task(_)));
        let mut chain_start = self.reserve(members.iter().filter(|m| begin(m)).count(), &place.pointer)?;
        let mut starts = Vec::new();
        for (at, member) in members.into_iter().enumerate() {
            let end = first + at as u32;
            let start = begin(&member).then(|| {
                chain_start += 1;
                chain_start - 1
            });
            let pointer = format!("{}{key}{}", place.pointer, at * each);
            let span = self.step(member, &Place { end: Some(end), start, pointer, ..place.clone() })?;
            span.starts.into_iter().for_each(|range| push(&mut starts, range));
            if let Some(join) = place.group {
                push(&mut self.node(end).next, Range::one(join));
            }
        }
        let ends = if count == 0 { Vec::new() } else { vec![Range { first, count: count as u32 }] };
        Ok((ends, starts))
    }

    fn connect(&mut self, source: u32, starts: &[Range]) {
        let next = &mut self.node(source).next;
        starts.iter().for_each(|range| push(next, *range));
    }

    fn callbacks(&mut self) -> Result<()> {
        while let Some((canvas, place)) = self.callbacks.pop() {
            let span = self.step(canvas, &place)?;
            place.after.into_iter().for_each(|source| self.connect(source, &span.starts));
        }
        Ok(())
    }

    /// The members that chunks stand for. Each has a copy of what they have in common: how much that is together is known
    /// before the first copy is made.
    fn chunks(&self, signature: &Signature, items: Vec<Values>, size: u32, pointer: &str) -> Result<Vec<Canvas>> {
        let count = items.len().div_ceil(size as usize);
        self.check_room(count, pointer)?;
        let args: usize = signature.args.iter().map(|value| value.get().len()).sum();
        let kwargs: usize = signature.kwargs.iter().map(|(name, value)| name.len() + value.get().len()).sum();
        let options = signature.options.as_ref().map_or(0, |options| options.get().len());
        if (args + kwargs + options).saturating_mul(count) > MAX_COPIED_BYTES {
            let detail = format!(
                "the arguments that its {count} chunks have in common are at most {MAX_COPIED_BYTES} bytes together"
            );
            return Err(CanvasError::new(pointer, detail));
        }
        let mut members = Vec::with_capacity(count);
        let mut items = items.into_iter();
        for _ in 0..count {
            let some: Vec<_> = items.by_ref().take(size as usize).collect();
            members.push(Canvas::from(Signature { each: Some(Each::Starmap(some)), ..signature.clone() }));
        }
        Ok(members)
    }
}
