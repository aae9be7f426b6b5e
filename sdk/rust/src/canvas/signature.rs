//! A call of a task, complete or partial, and one call for each of many items.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Arguments, Canvas, Json, Options,
    follow::{Follow, follows},
    text::{Fields, Text},
};
use crate::run::Task;

#[derive(Debug, Clone, PartialEq)]
struct Call {
    task: String,
    args: Vec<Json>,
    kwargs: BTreeMap<String, Json>,
    options: Options,
    immutable: bool,
}

impl Call {
    fn write(&self, fields: &mut Fields<'_>) {
        fields.value("task", &Json::of(&self.task));
        fields.list("args", &self.args, Text::json);
        if !self.kwargs.is_empty() {
            fields.field("kwargs", |text| {
                text.object(|fields| self.kwargs.iter().for_each(|(name, value)| fields.value(name, value)));
            });
        }
        if !self.options.is_empty() {
            fields.field("options", |text| self.options.write(text));
        }
        if self.immutable {
            fields.value("immutable", &Json::of(&true));
        }
    }
}

/// A call of a task, complete or partial. `add::s(2, 3)` makes one; a task of another module is named:
/// `Signature::new("shop.pay").args((7,))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    call: Call,
    pub(super) follow: Follow,
}

impl Signature {
    /// A call of the task of this name, without arguments so far.
    pub fn new(task: impl Into<String>) -> Self {
        Self::with(task, Vec::new())
    }

    /// A call of a task of this crate, without arguments so far: `Signature::of::<add>()`.
    pub fn of<T: Task>() -> Self {
        Self::new(T::NAME)
    }

    #[doc(hidden)]
    pub fn with(task: impl Into<String>, args: Vec<Json>) -> Self {
        let (kwargs, options) = (BTreeMap::new(), Options::new());
        let call = Call { task: task.into(), args, kwargs, options, immutable: false };
        Self { call, follow: Follow::default() }
    }

    /// More positional arguments, behind those that it has.
    #[must_use]
    pub fn args(mut self, arguments: impl Arguments) -> Self {
        self.call.args.extend(arguments.into_json());
        self
    }

    /// More positional arguments, in front of those that it has, as the result of a step before would be. An immutable
    /// signature stays as it is.
    #[must_use]
    pub fn partial(mut self, arguments: impl Arguments) -> Self {
        if !self.call.immutable {
            self.call.args.splice(0..0, arguments.into_json());
        }
        self
    }

    /// An argument by name; a newer one of the same name wins. An immutable signature stays as it is.
    #[must_use]
    pub fn kwarg(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        if !self.call.immutable {
            self.call.kwargs.insert(name.into(), Json::of(&value));
        }
        self
    }

    /// More options; a newer one of the same name wins.
    #[must_use]
    pub fn set(mut self, options: Options) -> Self {
        self.call.options.merge(options);
        self
    }

    /// Takes no result of what comes before it, and no more arguments.
    #[must_use]
    pub fn immutable(mut self) -> Self {
        self.call.immutable = true;
        self
    }

    /// One job that calls the task for each item, which is its last positional argument, one after the other. Its
    /// result is the list of the results. It takes no result of what comes before it.
    #[must_use]
    pub fn map<T: Serialize>(self, items: impl IntoIterator<Item = T>) -> Each {
        self.each("map", None, items.into_iter().map(|item| vec![Json::of(&item)]).collect())
    }

    /// As `map`; each item is a tuple of positional arguments.
    #[must_use]
    pub fn starmap<A: Arguments>(self, items: impl IntoIterator<Item = A>) -> Each {
        self.each("starmap", None, items.into_iter().map(Arguments::into_json).collect())
    }

    /// As `starmap`, in jobs of `size` items, side by side. Its result is the list of their lists. `size` 0 is refused
    /// when the canvas is submitted.
    #[must_use]
    pub fn chunks<A: Arguments>(self, items: impl IntoIterator<Item = A>, size: u32) -> Each {
        self.each("chunks", Some(size), items.into_iter().map(Arguments::into_json).collect())
    }

    #[doc(hidden)]
    pub fn each(self, form: &'static str, size: Option<u32>, items: Vec<Vec<Json>>) -> Each {
        Each { call: self.call, form, size, items, follow: self.follow }
    }

    pub(super) fn write(&self, text: &mut Text) {
        text.object(|fields| {
            self.call.write(fields);
            self.follow.write(fields);
        });
    }
}

/// Calls of one task for each of many items: made by `map`, `starmap` and `chunks`.
#[derive(Debug, Clone, PartialEq)]
pub struct Each {
    call: Call,
    form: &'static str,
    size: Option<u32>,
    items: Vec<Vec<Json>>,
    pub(super) follow: Follow,
}

impl Each {
    /// More options; a newer one of the same name wins.
    #[must_use]
    pub fn set(mut self, options: Options) -> Self {
        self.call.options.merge(options);
        self
    }

    pub(super) fn write(&self, text: &mut Text) {
        text.object(|fields| {
            self.call.write(fields);
            let plain = self.form == "map";
            fields.field(self.form, |text| {
                text.list(&self.items, |text, item| match (plain, item.as_slice()) {
                    (true, [one]) => text.json(one),
                    (_, all) => text.list(all, Text::json),
                });
            });
            if let Some(size) = self.size {
                fields.value("size", &Json::of(&size));
            }
            self.follow.write(fields);
        });
    }
}

follows!(Signature, Each);

impl From<Signature> for Canvas {
    fn from(signature: Signature) -> Self {
        Self::Call(Box::new(signature))
    }
}

impl From<Each> for Canvas {
    fn from(each: Each) -> Self {
        Self::Each(Box::new(each))
    }
}
