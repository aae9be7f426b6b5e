//! Expressions over a job's arguments, such as `kwargs.customer_id` or `args[0].region`: what limits and uniqueness count
//! by.

use std::fmt;

use crate::json;

/// Longest expression, bytes.
pub const MAX_EXPRESSION_BYTES: usize = 128;

/// A path into the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// The parameter, by its name or its position.
    root: Step,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

impl Expression {
    /// Reads `kwargs.name` or `args[0]`, and behind either fields (`.city`) and items (`[0]`). Arguments are looked at
    /// after they were bound: `kwargs.x` finds `x` however it was given.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = || text.chars().take(32).collect::<String>();
        let hint = || {
            format!("{:?} is not an expression: write kwargs.name or args[0], and fields and items behind it", shown())
        };
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(format!("an expression has at most {MAX_EXPRESSION_BYTES} bytes"));
        }
        let (root, rest) = match (text.strip_prefix("kwargs"), text.strip_prefix("args")) {
            (Some(rest), _) | (None, Some(rest)) => (&text[..text.len() - rest.len()], rest),
            _ => return Err(hint()),
        };
        let mut steps = steps_of(rest).ok_or_else(hint)?.into_iter();
        let root = match (root, steps.next()) {
            ("kwargs", Some(root @ Step::Field(_))) | ("args", Some(root @ Step::Item(_))) => root,
            // As people also write it.
            ("args", Some(Step::Field(at))) => Step::Item(at.parse().map_err(|_| hint())?),
            _ => return Err(hint()),
        };
        Ok(Self { root, steps: steps.collect() })
    }

    /// The name of the parameter that it begins with, of those in their order; none if there is no such parameter.
    pub fn parameter<'a>(&'a self, mut parameters: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        match &self.root {
            Step::Field(name) => parameters.find(|parameter| parameter == name),
            Step::Item(at) => parameters.nth(*at),
        }
    }

    /// The JSON text of the value that it leads to within that of the parameter; `null` where there is none.
    pub fn within<'a>(&self, value: &'a str) -> &'a str {
        let found = self.steps.iter().try_fold(value, |value, step| match step {
            Step::Field(name) => json::field(value, name),
            Step::Item(at) => json::item(value, *at),
        });
        found.unwrap_or("null")
    }

    /// The expression as one that begins with the parameter's name: `kwargs.x` for `args[0]`.
    #[must_use]
    pub fn of_parameter(&self, name: &str) -> Self {
        Self { root: Step::Field(name.to_owned()), steps: self.steps.clone() }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self.root, Step::Field(_)) { "kwargs" } else { "args" })?;
        std::iter::once(&self.root).chain(&self.steps).try_for_each(|step| match step {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Item(at) => write!(f, "[{at}]"),
        })
    }
}

/// `.field` and `[0]`, any number of them.
fn steps_of(mut text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while !text.is_empty() {
        if let Some(rest) = text.strip_prefix('.') {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let name = &rest[..end];
            if name.is_empty() || name.contains(|c: char| c.is_control() || c == ']') {
                return None;
            }
            steps.push(Step::Field(name.to_owned()));
            text = &rest[end..];
        } else {
            let (at, rest) = text.strip_prefix('[')?.split_once(']')?;
            steps.push(Step::Item(at.parse().ok()?));
            text = rest;
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_what_is_there_and_null_where_nothing_is() {
        let value = r#"{"city": {"zip": [7, 8.50]}}"#;
        let find = |text: &str| Expression::parse(text).unwrap().within(value);
        assert_eq!(find("kwargs.order.city.zip[1]"), "8.50");
        assert_eq!(find("args[0].city.zip[9]"), "null");
        assert_eq!(find("args.0.nothing.at[3].all"), "null");
    }

    #[test]
    fn a_parameter_is_found_by_name_or_position() {
        let names = ["order", "express"];
        let of = |text: &str| Expression::parse(text).unwrap().parameter(names.into_iter()).map(str::to_owned);
        assert_eq!(of("kwargs.express").as_deref(), Some("express"));
        assert_eq!(of("args[0].id").as_deref(), Some("order"));
        assert_eq!((of("kwargs.other"), of("args[2]")), (None, None));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in
            ["", "customer", "kwargs", "kwargs.", "args[x]", "args.x", "kwargs[0]", "kwargs.a..b", "args[0]]", "args[0"]
        {
            assert!(Expression::parse(bad).is_err(), "{bad}");
        }
        for good in ["kwargs.a", "args[0].b[2].c"] {
            assert_eq!(Expression::parse(good).unwrap().to_string(), good);
        }
        assert_eq!(Expression::parse("args.0.b").unwrap().of_parameter("a").to_string(), "kwargs.a.b");
    }
}
