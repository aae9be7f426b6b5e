//! Whether a guest's text is JSON that every reader of the system can read. Nothing here recurses over guest data
//! before its depth is known to be small.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Deepest nesting of a result. A `serde_json` reader accepts 128 by default; the rest is for what results are
/// wrapped in, such as a job.
pub(crate) const MAX_DEPTH: usize = 120;

/// Checks that `text` is one JSON value within [`MAX_DEPTH`] and keeps it as it is. Refuses what is JSON by its grammar
/// but cannot be read: halves of surrogate pairs, and numbers larger than any `f64`. Long integers pass untouched.
pub(crate) fn checked(text: String) -> Result<Box<RawValue>, String> {
    let depth = depth(text.as_bytes());
    if depth > MAX_DEPTH {
        return Err(format!("the result is nested {depth} deep, more than {MAX_DEPTH}"));
    }
    // The raw value comes first: the depth means something only for valid JSON.
    let raw = RawValue::from_string(text).map_err(|e| format!("the result is not JSON: {e}"))?;
    serde_json::from_str::<Readable>(raw.get()).map_err(|e| format!("the result is JSON that few can read: {e}"))?;
    Ok(raw)
}

/// Reads everything and keeps nothing.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

macro_rules! keeps_nothing {
    ($($visit:ident: $of:ty),*) => {$(
        fn $visit<E>(self, _: $of) -> Result<Self, E> { Ok(self) }
    )*};
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
    keeps_nothing!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
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
    fn what_readers_choke_on_is_refused_and_long_integers_are_kept() {
        let digits = "123456789012345678901234567890";
        let nested = format!("{{\"a\": [{digits}, -0, 1e-999, \"\\ud83d\\ude00\"]}}");
        for good in [digits, "18446744073709551615", "-9223372036854775808", "1.7e308", &nested] {
            assert_eq!(checked(good.into()).unwrap().get(), good);
        }
        let huge = "9".repeat(400);
        for bad in ["1e999", "-1e400", &huge, r#""\ud800""#, r#"{"\udc00": 1}"#, r#"[["\ud800x"]]"#] {
            assert!(checked(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_result_of_the_greatest_depth_is_still_read_inside_of_a_job() {
        let deepest = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        let job = format!("{{\"items\": [{{\"result\": {deepest}}}]}}");
        assert!(checked(deepest).is_ok() && serde_json::from_str::<serde_json::Value>(&job).is_ok());
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
