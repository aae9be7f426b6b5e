//! The JSON form of a canvas, the same over HTTP, in files, in the SDK and from a guest.
//!
//! ```json
//! {"task": "add", "args": [1], "kwargs": {}, "options": {}, "immutable": false}
//! {"task": "inc", "map": [1, 2, 3]}            {"task": "add", "starmap": [[1, 2], [3, 4]]}
//! {"task": "add", "chunks": [[1, 2], [3, 4]], "size": 10}
//! {"chain": [step, …]}      {"group": [step, …], "cancel_rest": true}      {"chord": [step, …], "body": step}
//! ```
//! Every step may have `link`, `link_error` (lists of steps), `on_failure` and `label`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::TaskName;

/// The effect of a step's failure on the steps that wait for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// They fail too.
    #[default]
    Fail,
    /// They go on, and get `{"error": {…}}` instead of the result.
    Continue,
    /// They go on, and get `null` instead of the result.
    Ignore,
}

/// JSON values as they were written.
pub type Values = Vec<Box<RawValue>>;

/// A call of a task, complete or partial.
#[derive(Debug, Clone)]
pub struct Signature {
    pub task: TaskName,
    pub args: Values,
    pub kwargs: BTreeMap<String, Box<RawValue>>,
    /// A JSON object: the options of a submission.
    pub options: Option<Box<RawValue>>,
    /// It does not take the result of the step before it.
    pub immutable: bool,
    /// One job that calls the task once for each item, one after the other, and gives the list of the results.
    pub each: Option<Each>,
}

/// The items of a `map` or `starmap`.
#[derive(Debug, Clone)]
pub enum Each {
    /// Each item is the last positional argument.
    Map(Values),
    /// Each item is a list of positional arguments.
    Starmap(Vec<Values>),
}

impl Each {
    /// The items of a `map` and those of a `starmap`, as JSON has them in two fields.
    pub fn split(each: Option<Self>) -> (Option<Values>, Option<Vec<Values>>) {
        match each {
            None => (None, None),
            Some(Self::Map(items)) => (Some(items), None),
            Some(Self::Starmap(items)) => (None, Some(items)),
        }
    }
}

/// The kinds of steps.
#[derive(Debug, Clone)]
pub enum Shape {
    Task(Signature),
    /// The items in starmaps of `size`, as a group.
    Chunks {
        signature: Signature,
        items: Vec<Values>,
        size: u32,
    },
    Chain(Vec<Canvas>),
    /// All at once. Its result is the list of its members' results, in their order.
    Group {
        members: Vec<Canvas>,
        cancel_rest: bool,
    },
    /// A group whose results a body takes.
    Chord {
        header: Vec<Canvas>,
        cancel_rest: bool,
        body: Box<Canvas>,
    },
}

/// One step and what follows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Canvas {
    pub shape: Shape,
    /// Start when the step succeeded, with its result.
    pub link: Vec<Canvas>,
    /// Start when the step failed, with the error.
    pub link_error: Vec<Canvas>,
    /// Of a group or a chord's header: of each member that says nothing itself.
    pub on_failure: Option<OnFailure>,
    /// A name for people.
    pub label: Option<String>,
}

impl Signature {
    pub fn new(task: TaskName) -> Self {
        Self { task, args: Vec::new(), kwargs: BTreeMap::new(), options: None, immutable: false, each: None }
    }
}

impl From<Signature> for Canvas {
    fn from(signature: Signature) -> Self {
        Self::new(Shape::Task(signature))
    }
}

impl Canvas {
    pub fn new(shape: Shape) -> Self {
        Self { shape, link: Vec::new(), link_error: Vec::new(), on_failure: None, label: None }
    }

    pub fn chain(steps: Vec<Self>) -> Self {
        Self::new(Shape::Chain(steps))
    }

    pub fn group(members: Vec<Self>) -> Self {
        Self::new(Shape::Group { members, cancel_rest: false })
    }

    pub fn chord(header: Vec<Self>, body: Self) -> Self {
        Self::new(Shape::Chord { header, cancel_rest: false, body: Box::new(body) })
    }
}

/// The JSON object of a step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Form {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<TaskName>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Values,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    kwargs: BTreeMap<String, Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    immutable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starmap: Option<Vec<Values>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<Vec<Values>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Vec<Canvas>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Vec<Canvas>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chord: Option<Vec<Canvas>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<Canvas>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancel_rest: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    link: Vec<Canvas>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    link_error: Vec<Canvas>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_failure: Option<OnFailure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

/// Longest label, bytes.
const MAX_LABEL_BYTES: usize = 128;

impl TryFrom<Form> for Canvas {
    type Error = String;

    fn try_from(mut form: Form) -> Result<Self, String> {
        let count = |given: &[bool]| given.iter().filter(|is| **is).count();
        let kinds = count(&[form.task.is_some(), form.chain.is_some(), form.group.is_some(), form.chord.is_some()]);
        let items = count(&[form.map.is_some(), form.starmap.is_some(), form.chunks.is_some()]);
        let of_task = !form.args.is_empty() || !form.kwargs.is_empty() || form.options.is_some() || form.immutable;
        let is_group = form.group.is_some() || form.chord.is_some();
        let task_fields = "`args`, `kwargs`, `options`, `immutable`, `map`, `starmap` and `chunks` belong to a `task`";
        let broken = [
            (kinds != 1, "a step has exactly one of `task`, `chain`, `group` and `chord`"),
            (form.task.is_none() && (of_task || items > 0), task_fields),
            (items > 1, "a task has at most one of `map`, `starmap` and `chunks`"),
            (form.size.is_some() != form.chunks.is_some(), "`chunks` needs a `size`, and only `chunks` has one"),
            (form.size == Some(0), "`size` is at least 1"),
            (form.body.is_some() != form.chord.is_some(), "`chord` needs a `body`, and only `chord` has one"),
            (form.cancel_rest && !is_group, "`cancel_rest` belongs to a `group` or a `chord`"),
        ];
        if let Some((_, rule)) = broken.into_iter().find(|(is_broken, _)| *is_broken) {
            return Err(rule.into());
        }
        if let Some(label) = &form.label
            && (label.is_empty() || label.len() > MAX_LABEL_BYTES || label.chars().any(char::is_control))
        {
            return Err(format!("a label has 1 to {MAX_LABEL_BYTES} bytes and no control characters"));
        }
        let shape = if let Some(task) = form.task.take() {
            let each = form.map.take().map(Each::Map).or(form.starmap.take().map(Each::Starmap));
            let (args, kwargs) = (form.args, form.kwargs);
            let signature = Signature { task, args, kwargs, options: form.options, immutable: form.immutable, each };
            match (form.chunks, form.size) {
                (Some(items), Some(size)) => Shape::Chunks { signature, items, size },
                _ => Shape::Task(signature),
            }
        } else if let Some(steps) = form.chain {
            Shape::Chain(steps)
        } else if let Some(members) = form.group {
            Shape::Group { members, cancel_rest: form.cancel_rest }
        } else {
            let (header, body) = (form.chord.unwrap_or_default(), form.body);
            let body = body.ok_or("`chord` needs a `body`")?;
            Shape::Chord { header, cancel_rest: form.cancel_rest, body }
        };
        let (link, link_error) = (form.link, form.link_error);
        Ok(Self { shape, link, link_error, on_failure: form.on_failure, label: form.label })
    }
}

impl From<Signature> for Form {
    fn from(signature: Signature) -> Self {
        let Signature { task, args, kwargs, options, immutable, each } = signature;
        let (map, starmap) = Each::split(each);
        Self { task: Some(task), args, kwargs, options, immutable, map, starmap, ..Self::default() }
    }
}

impl From<Canvas> for Form {
    fn from(canvas: Canvas) -> Self {
        let Canvas { shape, link, link_error, on_failure, label } = canvas;
        let form = match shape {
            Shape::Task(signature) => signature.into(),
            Shape::Chunks { signature, items, size } => {
                Self { chunks: Some(items), size: Some(size), ..signature.into() }
            }
            Shape::Chain(steps) => Self { chain: Some(steps), ..Self::default() },
            Shape::Group { members, cancel_rest } => Self { group: Some(members), cancel_rest, ..Self::default() },
            Shape::Chord { header, cancel_rest, body } => {
                Self { chord: Some(header), cancel_rest, body: Some(body), ..Self::default() }
            }
        };
        Self { link, link_error, on_failure, label, ..form }
    }
}
