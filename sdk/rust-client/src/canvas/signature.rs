//! Calls of tasks.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use umbel_model::{
    TaskName,
    canvas::{Canvas, Each, OnFailure, Shape, Signature as Model},
};

use super::{CanvasError, Step};

/// Options by name, as they are sent.
pub(super) type Options = BTreeMap<String, Box<RawValue>>;

/// A call of a task, complete or partial.
#[derive(Debug, Clone)]
pub struct Signature {
    name: String,
    pub(super) model: Result<Model, CanvasError>,
    pub(super) options: Options,
    chunks: Option<(Vec<Vec<Box<RawValue>>>, u32)>,
}

/// A call of this task, with no arguments yet.
pub fn task(name: impl AsRef<str>) -> Signature {
    let name = name.as_ref().to_owned();
    let model = TaskName::new(&name).map(Model::new).map_err(|error| CanvasError(error.to_string()));
    Signature { name, model, options: Options::new(), chunks: None }
}

impl Signature {
    /// Positional arguments, as a tuple or a list. Again: more of them.
    #[must_use]
    pub fn args(self, args: impl Serialize) -> Self {
        self.with(|model, task| {
            let args = list(&args).map_err(|error| CanvasError(format!("arguments of {task}: {error}")))?;
            model.args.extend(args);
            Ok(())
        })
    }

    /// Positional arguments in front of its own, as the result of what came before is.
    #[must_use]
    pub fn args_first(self, args: impl Serialize) -> Self {
        self.with(|model, task| {
            let args = list(&args).map_err(|error| CanvasError(format!("arguments of {task}: {error}")))?;
            model.args.splice(0..0, args);
            Ok(())
        })
    }

    /// An argument by name.
    #[must_use]
    pub fn kwarg(self, name: impl Into<String>, value: impl Serialize) -> Self {
        self.with(|model, task| {
            let name = name.into();
            let value = raw(&value).map_err(|error| CanvasError(format!("argument {name} of {task}: {error}")))?;
            model.kwargs.insert(name, value);
            Ok(())
        })
    }

    /// Takes no result of what came before.
    #[must_use]
    pub fn immutable(self) -> Self {
        self.with(|model, _| {
            model.immutable = true;
            Ok(())
        })
    }

    /// One job that calls the task once for each item, which is its last positional argument.
    #[must_use]
    pub fn map(self, items: impl IntoIterator<Item = impl Serialize>) -> Self {
        self.with(|model, task| {
            let items = items.into_iter().map(|item| raw(&item)).collect::<Result<_, _>>();
            let items = items.map_err(|error| CanvasError(format!("items of {task}: {error}")))?;
            model.each = Some(Each::Map(items));
            Ok(())
        })
    }

    /// One job that calls the task once for each item, a tuple or a list of positional arguments.
    #[must_use]
    pub fn starmap(self, items: impl IntoIterator<Item = impl Serialize>) -> Self {
        self.with(|model, task| {
            model.each = Some(Each::Starmap(lists(items, task)?));
            Ok(())
        })
    }

    /// The items, each a tuple or a list of positional arguments, in starmaps of `size`, as a group.
    #[must_use]
    pub fn chunks(mut self, items: impl IntoIterator<Item = impl Serialize>, size: u32) -> Self {
        if self.model.is_ok() {
            match lists(items, &self.name) {
                Ok(_) if size == 0 => self.model = Err(CanvasError(format!("chunks of {}: size is 0", self.name))),
                Ok(items) => self.chunks = Some((items, size)),
                Err(error) => self.model = Err(error),
            }
        }
        self
    }

    /// As `Step::then`.
    #[must_use]
    pub fn then(self, next: impl Into<Step>) -> Step {
        Step::from(self).then(next)
    }

    /// As `Step::link`.
    #[must_use]
    pub fn link(self, next: impl Into<Step>) -> Step {
        Step::from(self).link(next)
    }

    /// As `Step::link_error`.
    #[must_use]
    pub fn link_error(self, next: impl Into<Step>) -> Step {
        Step::from(self).link_error(next)
    }

    /// As `Step::on_failure`.
    #[must_use]
    pub fn on_failure(self, policy: OnFailure) -> Step {
        Step::from(self).on_failure(policy)
    }

    /// As `Step::label`.
    #[must_use]
    pub fn label(self, label: &str) -> Step {
        Step::from(self).label(label)
    }

    /// The canvas, or the first thing that was wrong.
    pub fn build(self) -> Result<Canvas, CanvasError> {
        Step::from(self).build()
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Model, &str) -> Result<(), CanvasError>) -> Self {
        if let Ok(model) = &mut self.model
            && let Err(error) = change(model, &self.name)
        {
            self.model = Err(error);
        }
        self
    }
}

impl From<Signature> for Step {
    fn from(signature: Signature) -> Self {
        let Signature { model, options, chunks, .. } = signature;
        Self(model.and_then(|mut model| {
            if !options.is_empty() {
                model.options = Some(raw(&options).map_err(CanvasError)?);
            }
            Ok(match chunks {
                Some((items, size)) => Canvas::new(Shape::Chunks { signature: model, items, size }),
                None => Canvas::from(model),
            })
        }))
    }
}

pub(super) fn raw(value: &impl Serialize) -> Result<Box<RawValue>, String> {
    serde_json::value::to_raw_value(value).map_err(|error| error.to_string())
}

/// A tuple or a list as its items.
fn list(value: &impl Serialize) -> Result<Vec<Box<RawValue>>, String> {
    let text = raw(value)?;
    // The empty tuple is `null` in JSON.
    if text.get() == "null" {
        return Ok(Vec::new());
    }
    serde_json::from_str(text.get()).map_err(|_| format!("write a tuple or a list, as args((1,)), not {}", text.get()))
}

fn lists(items: impl IntoIterator<Item = impl Serialize>, task: &str) -> Result<Vec<Vec<Box<RawValue>>>, CanvasError> {
    let items = items.into_iter().map(|item| list(&item)).collect::<Result<_, _>>();
    items.map_err(|error| CanvasError(format!("items of {task}: {error}")))
}

/// The parts of a call that is one job; anything else is a workflow.
pub(crate) fn single(signature: Signature) -> Result<Single, CanvasError> {
    let Signature { name, model, mut options, chunks } = signature;
    let Model { task, args, kwargs, immutable, each, .. } = model?;
    if each.is_some() || chunks.is_some() || immutable {
        let rule = "map, starmap, chunks and immutable belong to a workflow: use submit_workflow";
        return Err(CanvasError(format!("{name}: {rule}")));
    }
    let key = options.remove("idempotency_key").map(|key| serde_json::from_str(key.get())).transpose();
    let key = key.map_err(|_| CanvasError(format!("{name}: an idempotency key is text")))?;
    Ok(Single { call: Call { task, args, kwargs, options }, key })
}

/// One job to submit.
pub(crate) struct Single {
    pub(crate) call: Call,
    pub(crate) key: Option<String>,
}

impl Single {
    /// The call with its key among its options, as a line of a batch has it.
    pub(crate) fn line(self) -> Result<Call, CanvasError> {
        let Self { mut call, key } = self;
        if let Some(key) = key {
            call.options.insert("idempotency_key".to_owned(), raw(&key).map_err(CanvasError)?);
        }
        Ok(call)
    }
}

/// The body of a submission.
#[derive(Debug, Serialize)]
pub(crate) struct Call {
    task: TaskName,
    args: Vec<Box<RawValue>>,
    kwargs: BTreeMap<String, Box<RawValue>>,
    #[serde(skip_serializing_if = "Options::is_empty")]
    options: Options,
}
