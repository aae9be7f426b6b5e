//! Whether a call of a workflow's node fits its task, before it is known what it will be called with.
//!
//! A node that takes the result of its source gets it in front of its own arguments, and the items of a `map` or `starmap`
//! come behind them: how many arguments there will be is known now, and the values of these are not.

use serde_json::value::RawValue;
use umbel_model::{BindError, BindProblem, Binding, NodeArguments, ParameterText, binding::escape};

use crate::error::{FaultKind, Faults};

/// A call and where it is written.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) arguments: &'a NodeArguments,
    /// The result of its source goes in front of its arguments.
    pub(crate) takes: bool,
    pub(crate) pointer: &'a str,
}

impl<'a> Call<'a> {
    /// Binds the call with so many items behind its own arguments. A value that is not known yet is none.
    pub(crate) fn bind<'p>(
        &self,
        parameters: &'p [ParameterText],
        items: usize,
    ) -> (Binding<'p, Option<&'a RawValue>>, Vec<BindError>) {
        let NodeArguments { args, kwargs, .. } = self.arguments;
        let args = args.iter().map(|value| Some(&**value));
        let args = self.takes.then_some(None).into_iter().chain(args).chain(std::iter::repeat_n(None, items));
        Binding::partial(parameters, args, kwargs.iter().map(|(name, value)| (name.as_str(), Some(&**value))))
    }

    /// The least and the most items of one call of the task; none when there is no call, because there are no items.
    fn items(&self) -> Option<(usize, usize)> {
        match (&self.arguments.map, &self.arguments.starmap) {
            (Some(items), _) => (!items.is_empty()).then_some((1, 1)),
            (None, Some(items)) => {
                let lengths = || items.iter().map(Vec::len);
                lengths().min().zip(lengths().max())
            }
            (None, None) => Some((0, 0)),
        }
    }

    /// Whether the call fits: notes why not. Looks at no value.
    pub(crate) fn fits(&self, parameters: &[ParameterText], faults: &mut Faults) -> bool {
        let items = self.items();
        let (least, most) = items.unwrap_or((0, 0));
        let mut errors = self.bind(parameters, most).1;
        if least < most || items.is_none() {
            errors.retain(|error| error.problem != BindProblem::Missing);
        }
        if least < most {
            let missing = self.bind(parameters, least).1;
            errors.extend(missing.into_iter().filter(|error| error.problem == BindProblem::Missing));
        }
        for error in &errors {
            let (pointer, detail) = self.explained(parameters, error);
            faults.add(FaultKind::Arguments, pointer, detail);
        }
        errors.is_empty()
    }

    /// An error of the binding, in the words and at the place of the canvas.
    fn explained(&self, parameters: &[ParameterText], error: &BindError) -> (String, String) {
        let named = || format!("{}{}", self.pointer, error.pointer);
        let taken = || parameters.first().is_some_and(|p| error.pointer == format!("/kwargs/{}", escape(&p.name)));
        match error.problem {
            BindProblem::TooMany => {
                let with = if self.takes { ", with the result of what comes before it" } else { "" };
                (self.first_too_many(parameters.len()), format!("{}{with}", error.detail))
            }
            BindProblem::GivenTwice if self.takes && taken() => {
                (named(), "was given twice: by name, and by the result of what comes before it".into())
            }
            _ => (named(), error.detail.clone()),
        }
    }

    /// Parameters that are filled by position before any item.
    fn own(&self) -> usize {
        usize::from(self.takes) + self.arguments.args.len()
    }

    /// Where the first argument is that the task does not take.
    fn first_too_many(&self, takes: usize) -> String {
        let (first, own) = (usize::from(self.takes), self.own());
        match (&self.arguments.map, &self.arguments.starmap) {
            _ if own > takes && takes >= first => format!("{}/args/{}", self.pointer, takes - first),
            // The result of what comes before it is one too many.
            _ if own > takes => self.pointer.to_owned(),
            (Some(_), _) => format!("{}/map/0", self.pointer),
            (None, Some(items)) => self.item(items.iter().position(|item| own + item.len() > takes).unwrap_or(0)),
            (None, None) => self.pointer.to_owned(),
        }
    }

    /// The pointer of a starmap's item. That of a chunk names its first item in `chunks`.
    fn item(&self, at: usize) -> String {
        match self.pointer.rsplit_once('/') {
            Some((before, first)) if before.ends_with("/chunks") => {
                format!("{before}/{}", first.parse::<usize>().unwrap_or(0) + at)
            }
            _ => format!("{}/starmap/{at}", self.pointer),
        }
    }

    /// Every value that is known, with the parameter it is for and a way to say where it is.
    pub(crate) fn values(&self, parameters: &[ParameterText]) -> Vec<(usize, &'a RawValue, Place<'a>)> {
        let NodeArguments { args, kwargs, map, starmap, .. } = self.arguments;
        let (first, own) = (usize::from(self.takes), self.own());
        let mut values: Vec<(usize, &RawValue, Place<'_>)> =
            args.iter().enumerate().map(|(at, v)| (first + at, &**v, Place::Argument(at))).collect();
        for (name, value) in kwargs {
            if let Some(at) = parameters.iter().position(|p| p.name == *name) {
                values.push((at, value, Place::Named(name)));
            }
        }
        values.extend(map.iter().flatten().enumerate().map(|(n, item)| (own, &**item, Place::Mapped(n))));
        for (n, item) in starmap.iter().flatten().enumerate() {
            values.extend(item.iter().enumerate().map(|(at, v)| (own + at, &**v, Place::Starred(n, at))));
        }
        values
    }

    /// The JSON pointer of a value.
    pub(crate) fn pointer_of(&self, place: &Place<'_>) -> String {
        match place {
            Place::Argument(at) => format!("{}/args/{at}", self.pointer),
            Place::Named(name) => format!("{}/kwargs/{}", self.pointer, escape(name)),
            Place::Mapped(n) => format!("{}/map/{n}", self.pointer),
            Place::Starred(n, at) => format!("{}/{at}", self.item(*n)),
        }
    }
}

/// Where in a call a value is.
pub(crate) enum Place<'a> {
    Argument(usize),
    Named(&'a str),
    Mapped(usize),
    Starred(usize, usize),
}
