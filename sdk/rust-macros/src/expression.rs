//! Expressions over a task's arguments in options, such as `kwargs.customer_id`. The same form as the server's
//! (`umbel-model`'s `expression`), which this crate must not depend on; a test of the SDK compares the two.

/// Longest expression or kind of failure in a list, bytes; the server's limit.
pub(crate) const MAX_LISTED_BYTES: usize = 128;

/// A path into the arguments, as it was written, and the parameter that it begins with.
pub(crate) struct Expression {
    pub(crate) text: String,
    root: Root,
}

enum Root {
    Position(usize),
    Name(String),
}

impl Expression {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let hint = || {
            let shown: String = text.chars().take(32).collect();
            format!("{shown:?} is not an expression: write kwargs.name or args[0], and fields and items behind it")
        };
        if text.len() > MAX_LISTED_BYTES {
            return Err(format!("an expression has at most {MAX_LISTED_BYTES} bytes"));
        }
        let (of_names, rest) = match (text.strip_prefix("kwargs"), text.strip_prefix("args")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(hint()),
        };
        let steps = steps(rest).ok_or_else(hint)?;
        let root = match (of_names, steps.first()) {
            (true, Some(Step::Field(name))) => Root::Name((*name).to_owned()),
            (false, Some(Step::Item(at))) => Root::Position(*at),
            // As people also write it.
            (false, Some(Step::Field(at))) => Root::Position(at.parse().map_err(|_| hint())?),
            _ => return Err(hint()),
        };
        Ok(Self { text: text.to_owned(), root })
    }

    /// What is wrong if none of `parameters` is the one that it begins with.
    pub(crate) fn check(&self, parameters: &[String]) -> Result<(), String> {
        let there = match &self.root {
            Root::Name(name) => parameters.contains(name),
            Root::Position(at) => *at < parameters.len(),
        };
        if there {
            return Ok(());
        }
        let names = match parameters {
            [] => "it has none".to_owned(),
            names => format!("it has: {}", names.join(", ")),
        };
        Err(format!("{:?} begins with no parameter of the task; {names}", self.text))
    }
}

enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

/// `.field` and `[0]`, any number of them.
fn steps(mut text: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    while !text.is_empty() {
        if let Some(rest) = text.strip_prefix('.') {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            if name.is_empty() || name.contains(|c: char| c.is_control() || c == ']') {
                return None;
            }
            steps.push(Step::Field(name));
            text = rest;
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
    fn an_expression_begins_with_a_parameter() {
        let names = ["order".to_owned(), "express".to_owned()];
        let check = |text: &str| Expression::parse(text).and_then(|e| e.check(&names));
        for good in ["kwargs.order", "kwargs.order.city[0].zip", "args[1]", "args.0.id"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert!(check("kwargs.nope").unwrap_err().contains("order, express"));
        assert!(check("args[2]").is_err());
        for bad in ["", "order", "kwargs", "kwargs.", "args[x]", "kwargs[0]", "kwargs.a..b", "args[0]]", "args[0"] {
            assert!(Expression::parse(bad).is_err(), "{bad}");
        }
    }
}
