//! Arguments from the command line: each is JSON, or else text. Numbers keep all their digits.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::failure::Failure;

/// A value as it was typed.
pub fn value(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.trim().to_owned()).unwrap_or_else(|_| {
        let quoted = serde_json::Value::from(text).to_string();
        RawValue::from_string(quoted).expect("a quoted text is JSON")
    })
}

/// `NAME=VALUE` pairs.
pub fn named(pairs: &[String]) -> Result<BTreeMap<String, Box<RawValue>>, Failure> {
    let mut named = BTreeMap::new();
    for pair in pairs {
        let Some((name, text)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::usage(format!("{pair:?} is not NAME=VALUE")).help("write --kwarg express=true"));
        };
        if named.insert(name.to_owned(), value(text)).is_some() {
            return Err(Failure::usage(format!("the argument {name:?} is given twice")));
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_json_or_else_text_and_keep_their_digits() {
        let shown = |text: &str| value(text).get().to_owned();
        assert_eq!(shown("123456789012345678901234567890"), "123456789012345678901234567890");
        assert_eq!(shown("{\"a\": [1]}"), "{\"a\": [1]}");
        assert_eq!(shown("hello \"you\""), r#""hello \"you\"""#);
        assert_eq!(shown("true"), "true");
        assert_eq!(shown("\"5\""), "\"5\"");
    }

    #[test]
    fn names_come_once_and_with_a_value() {
        assert_eq!(named(&["a=b=c".into()]).unwrap()["a"].get(), "\"b=c\"");
        assert!(named(&["a".into()]).is_err() && named(&["a=1".into(), "a=2".into()]).is_err());
    }
}
