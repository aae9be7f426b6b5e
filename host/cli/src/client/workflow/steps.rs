//! Steps as they are typed: `add 2 3`, `resize max_side=64`, or a canvas as JSON.

use serde_json::value::RawValue;
use umbel_client::{
    Canvas, Error, Step,
    canvas::{Signature, task},
};

use crate::{Failure, Result, client::arguments, safe_text::shortened};

/// Characters of a step in a failure about it.
const SHOWN: usize = 60;

/// A step of a canvas.
pub fn step(text: &str) -> Result<Step> {
    if text.trim_start().starts_with('{') {
        let canvas: Result<Canvas, _> = serde_json::from_str(text);
        let wrong = |error| Failure::usage(format!("the step {:?} is not a canvas: {error}", shortened(text, SHOWN)));
        return canvas.map(Step::from).map_err(wrong);
    }
    signature(text).map(Step::from)
}

/// A call of a task.
pub fn signature(text: &str) -> Result<Signature> {
    let mut words = words(text)?.into_iter();
    let name = words.next().ok_or_else(|| Failure::usage("a step has no task").help("write \"add 2 3\""))?;
    let mut signature = task(name);
    for word in words {
        signature = match named(word) {
            Some((name, value)) => signature.kwarg(name, arguments::value(value)),
            None => signature.args([arguments::value(word)]),
        };
    }
    // What is wrong is told before anything is read or sent.
    signature.clone().build().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(signature)
}

/// A step as its canvas.
pub fn canvas(step: Step) -> Result<Box<RawValue>> {
    arguments::raw(&step.build().map_err(Error::from)?)
}

/// `name=value`. A text that looks like it is written as JSON, in quotes.
fn named(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let mut chars = name.chars();
    let first = chars.next()?;
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!first.is_ascii_digit() && letters(first) && chars.all(letters)).then_some((name, value))
}

/// Parts between spaces, but for spaces within quotes, brackets and braces.
fn words(text: &str) -> Result<Vec<&str>> {
    let (mut words, mut start) = (Vec::new(), None);
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    for (at, c) in text.char_indices() {
        let outside = depth == 0 && !quoted;
        if c.is_whitespace() && outside {
            words.extend(start.take().map(|from| &text[from..at]));
            continue;
        }
        start.get_or_insert(at);
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if quoted || depth > 0 {
        let shown = shortened(text, SHOWN);
        return Err(Failure::usage(format!("a quote or a bracket is not closed in the step {shown:?}")));
    }
    words.extend(start.map(|from| &text[from..]));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> String {
        serde_json::to_string(&step(text).unwrap().build().unwrap()).unwrap()
    }

    #[test]
    fn a_step_is_a_task_with_arguments_that_are_json_or_text() {
        assert_eq!(form("add"), r#"{"task":"add"}"#);
        assert_eq!(form(" add 2  -3 "), r#"{"task":"add","args":[2,-3]}"#);
        assert_eq!(
            form(r#"order 12345678901234567890 [{"a": "x ]"}] "two words" plain times=2 who="A B" q="#),
            concat!(
                r#"{"task":"order","args":[12345678901234567890,[{"a": "x ]"}],"two words","plain"],"#,
                r#""kwargs":{"q":"","times":2,"who":"A B"}}"#
            )
        );
        assert_eq!(form(r#"f "a=b" {"k": 1} 1=2"#), r#"{"task":"f","args":["a=b",{"k": 1},"1=2"]}"#);
    }

    #[test]
    fn a_step_may_be_any_canvas() {
        assert_eq!(form(r#"{"group": [{"task": "a"}]}"#), r#"{"group":[{"task":"a"}]}"#);
    }

    #[test]
    fn what_cannot_be_read_is_told_where() {
        let wrong = |text: &str| step(text).unwrap_err().message;
        assert!(wrong("").contains("no task"));
        assert!(wrong("add [1, 2").contains("not closed"));
        assert!(wrong("add \"x").contains("not closed"));
        assert!(wrong("a/b 1").contains("\"a/b\""));
        assert!(wrong(r#"{"task": "a", "chain": []}"#).contains("exactly one"));
    }
}
