//! Whether a call fits its task, before it is known what it will be called with.
//!
//! A node that takes the result of its source gets it in front of its own arguments: how many arguments there will be is
//! known now, and only the value of the first is not.

use umbel_model::{
    Parameter,
    canvas::{Each, Signature},
};

use serde_json::value::RawValue;

use crate::error::{FaultKind, Faults, escape};

/// A call and where it is written.
pub(crate) struct Call<'a> {
    pub(crate) signature: &'a Signature,
    /// The result of its source goes in front of its arguments.
    pub(crate) takes: bool,
    pub(crate) pointer: &'a str,
}

/// How many parameters are filled by position: least and most over the items of a starmap. None when nothing is called.
struct Filled {
    least: usize,
    most: usize,
}

impl<'a> Call<'a> {
    /// Parameters that the own `args` begin with.
    fn first(&self) -> usize {
        usize::from(self.takes)
    }

    fn filled(&self) -> Option<Filled> {
        let own = self.first() + self.signature.args.len();
        let same = |count| Some(Filled { least: count, most: count });
        match &self.signature.each {
            None => same(own),
            Some(Each::Map(items)) if items.is_empty() => None,
            Some(Each::Map(_)) => same(own + 1),
            Some(Each::Starmap(items)) => {
                let least = items.iter().map(Vec::len).min()?;
                let most = items.iter().map(Vec::len).max()?;
                Some(Filled { least: own + least, most: own + most })
            }
        }
    }

    /// Whether the call fits. Looks at no value.
    pub(crate) fn fits(&self, parameters: &[Parameter]) -> bool {
        let own = self.first() + self.signature.args.len();
        let filled = self.filled();
        let most = filled.as_ref().map_or(own, |f| f.most);
        let kwargs = &self.signature.kwargs;
        let named = |name: &str| parameters.iter().position(|p| p.name == name).is_some_and(|at| at >= most);
        most <= parameters.len()
            && kwargs.keys().all(|name| named(name))
            && filled.is_none_or(|filled| {
                let rest = parameters.get(filled.least..).unwrap_or_default();
                rest.iter().all(|p| p.default.is_some() || kwargs.contains_key(&p.name))
            })
    }

    /// Why the call does not fit: what `fits` refuses, in words, until `faults` are full.
    pub(crate) fn explain(&self, parameters: &[Parameter], faults: &mut Faults) {
        let fault =
            |faults: &mut Faults, pointer: String, detail: String| faults.add(FaultKind::Arguments, pointer, detail);
        let own = self.first() + self.signature.args.len();
        let filled = self.filled();
        let most = filled.as_ref().map_or(own, |f| f.most);
        if most > parameters.len() {
            let with = if self.takes { ", with the result of what comes before it" } else { "" };
            let detail = format!("the task takes {} arguments and {most} were given{with}", parameters.len());
            fault(faults, self.first_too_many(parameters.len()), detail);
        }
        for name in self.signature.kwargs.keys() {
            if faults.is_full() {
                return;
            }
            let pointer = || format!("{}/kwargs/{}", self.pointer, escape(name));
            match parameters.iter().position(|p| p.name == *name) {
                None => {
                    let known: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
                    let known = known.join(", ");
                    fault(faults, pointer(), format!("the task has no parameter of this name; it has: {known}"));
                }
                Some(0) if self.takes => {
                    let detail = "was given twice: by name, and by the result of what comes before it";
                    fault(faults, pointer(), detail.into());
                }
                Some(at) if at < most => fault(faults, pointer(), "was given twice: by position and by name".into()),
                Some(_) => {}
            }
        }
        let Some(Filled { least, .. }) = filled else { return };
        for parameter in parameters.get(least..).unwrap_or_default() {
            if faults.is_full() {
                return;
            }
            if parameter.default.is_none() && !self.signature.kwargs.contains_key(&parameter.name) {
                let pointer = format!("{}/kwargs/{}", self.pointer, escape(&parameter.name));
                fault(faults, pointer, format!("the required parameter `{}` is missing", parameter.name));
            }
        }
    }

    /// Where the first argument is that the task does not take.
    fn first_too_many(&self, takes: usize) -> String {
        let own = self.first() + self.signature.args.len();
        match &self.signature.each {
            _ if own > takes && takes >= self.first() => format!("{}/args/{}", self.pointer, takes - self.first()),
            // The result of what comes before it is one too many.
            _ if own > takes => self.pointer.to_owned(),
            Some(Each::Map(_)) => format!("{}/map/0", self.pointer),
            Some(Each::Starmap(items)) => {
                let at = items.iter().position(|item| own + item.len() > takes).unwrap_or(0);
                self.item(at)
            }
            None => self.pointer.to_owned(),
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
    pub(crate) fn values(&self, parameters: &[Parameter]) -> Vec<(usize, &'a RawValue, Place<'a>)> {
        let signature = self.signature;
        let (first, own) = (self.first(), self.first() + signature.args.len());
        let mut values: Vec<(usize, &RawValue, Place<'_>)> =
            signature.args.iter().enumerate().map(|(at, v)| (first + at, &**v, Place::Argument(at))).collect();
        for (name, value) in &signature.kwargs {
            if let Some(at) = parameters.iter().position(|p| p.name == *name) {
                values.push((at, value, Place::Named(name)));
            }
        }
        match &signature.each {
            None => {}
            Some(Each::Map(items)) => {
                values.extend(items.iter().enumerate().map(|(n, item)| (own, &**item, Place::Mapped(n))));
            }
            Some(Each::Starmap(items)) => {
                for (n, item) in items.iter().enumerate() {
                    values.extend(item.iter().enumerate().map(|(at, v)| (own + at, &**v, Place::Starred(n, at))));
                }
            }
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
