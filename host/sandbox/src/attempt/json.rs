//! Whether a guest's text is JSON that the rest of the system can read. Nothing here recurses over guest data.

use serde_json::value::RawValue;

/// Deepest nesting of a result: what a `serde_json` reader accepts by default.
pub(crate) const MAX_DEPTH: usize = 128;

/// Checks that `text` is one JSON value within [`MAX_DEPTH`] and keeps it as it is.
pub(crate) fn checked(text: String) -> Result<Box<RawValue>, String> {
    let depth = depth(text.as_bytes());
    if depth > MAX_DEPTH {
        return Err(format!("the result is nested {depth} deep, more than {MAX_DEPTH}"));
    }
    RawValue::from_string(text).map_err(|e| format!("the result is not JSON: {e}"))
}

/// Deepest nesting of brackets outside of strings. Meaningful for valid JSON only.
fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut deepest) = (0_usize, 0);
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => {
                            bytes.next();
                        }
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_shallow_json_value_is_a_result() {
        for good in ["null", " {\"a\": [1, 2.5e3, \"\\\"[[\"]} ", "\"[[[\""] {
            assert!(checked(good.into()).is_ok(), "{good}");
        }
        for bad in ["", "nul", "1 2", "{\"a\":}", "[1,]", "'x'", "NaN"] {
            assert!(checked(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_million_brackets_are_refused_without_recursion() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(checked(deep).unwrap_err().contains("1000000 deep"));
        let edge = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(checked(edge(MAX_DEPTH)).is_ok());
        assert!(checked(edge(MAX_DEPTH + 1)).is_err());
    }
}
