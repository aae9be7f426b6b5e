//! References to blobs in arguments and results: an object of the one field `$blob`, whose value is a digest.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{Digest, binding::escape};

/// The only field of a reference.
pub const FIELD: &str = "$blob";
/// Different blobs to which the arguments of one job may refer, and as many again to which its result may.
pub const MAX_REFERENCES: usize = 32;

/// A reference that is none: where it is, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadReference {
    /// JSON pointer into the text that was read; empty for all of it.
    pointer: String,
    pub detail: String,
}

impl BadReference {
    /// The pointer, below that of the text.
    pub fn pointer(&self, text: &str) -> String {
        format!("{text}{}", self.pointer)
    }
}

/// The blobs that a few values refer to, each once, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobReferences(Vec<Digest>);

impl BlobReferences {
    /// Those of one value, as JSON text; what is no reference is left alone. None: there are more than `MAX_REFERENCES`.
    pub fn of_text(json: &str) -> Option<Vec<Digest>> {
        let mut found = Self::default();
        found.read(json, &mut |_| {});
        found.done()
    }

    /// Adds those of a value, as JSON text, and names each object that has the field but is no reference.
    pub fn add(&mut self, json: &str, bad: &mut dyn FnMut(BadReference)) {
        self.read(json, bad);
    }

    /// Whether a text may have any: nearly all have none. A name may be written with escapes.
    pub fn may_be_in(json: &str) -> bool {
        json.contains(FIELD) || json.contains(r"\u")
    }

    /// The digests. None: there are more than `MAX_REFERENCES`.
    pub fn done(self) -> Option<Vec<Digest>> {
        (self.0.len() <= MAX_REFERENCES).then_some(self.0)
    }

    fn read(&mut self, json: &str, bad: &mut dyn FnMut(BadReference)) {
        if !Self::may_be_in(json) {
            return;
        }
        let mut reader = serde_json::Deserializer::from_str(json);
        let mut path = Vec::new();
        // What is not JSON has no references.
        let _ = reader.deserialize_any(Search { found: self, path: &mut path, bad });
    }
}

/// One step of a path.
enum Step {
    Name(String),
    Item(usize),
}

struct Search<'s> {
    found: &'s mut BlobReferences,
    path: &'s mut Vec<Step>,
    bad: &'s mut dyn FnMut(BadReference),
}

impl Search<'_> {
    fn below(&mut self) -> Search<'_> {
        Search { found: &mut *self.found, path: &mut *self.path, bad: &mut *self.bad }
    }

    fn reference(&mut self, value: Option<&str>, is_alone: bool) {
        let digest = value.and_then(|text| text.parse::<Digest>().ok());
        match digest.filter(|_| is_alone) {
            // One more says that there are too many.
            Some(digest) if !self.found.0.contains(&digest) && self.found.0.len() <= MAX_REFERENCES => {
                self.found.0.push(digest);
            }
            Some(_) => {}
            None => {
                let step = |step: &Step| match step {
                    Step::Name(name) => format!("/{}", escape(name)),
                    Step::Item(at) => format!("/{at}"),
                };
                let detail = r#"a blob is `{"$blob": "sha256:…"}` with 64 lower-case hex digits, and nothing else"#;
                (self.bad)(BadReference { pointer: self.path.iter().map(step).collect(), detail: detail.into() });
            }
        }
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Search<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Answers a text that it is; none for anything else, which it looks through.
impl<'de> Visitor<'de> for Search<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut fields, mut reference) = (0, None);
        while let Some(name) = map.next_key::<String>()? {
            fields += 1;
            let is_reference = name == FIELD;
            self.path.push(Step::Name(name));
            let value = map.next_value_seed(self.below());
            self.path.pop();
            let value = value?;
            if is_reference {
                reference = Some(value);
            }
        }
        if let Some(value) = reference {
            self.reference(value.as_deref(), fields == 1);
        }
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
        for at in 0.. {
            self.path.push(Step::Item(at));
            let item = list.next_element_seed(self.below());
            self.path.pop();
            if item?.is_none() {
                break;
            }
        }
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        // No digest is longer: nothing else is copied.
        Ok((text.len() <= 128).then(|| text.to_owned()))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
        IgnoredAny.visit_newtype_struct(inner).map(|_| None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(n: usize) -> Digest {
        Digest::of(n.to_string().as_bytes())
    }

    fn read(json: &str) -> (Vec<Digest>, Vec<String>) {
        let (mut found, mut bad) = (BlobReferences::default(), Vec::new());
        found.add(json, &mut |one| bad.push(one.pointer("/args/0")));
        (found.0, bad)
    }

    #[test]
    fn references_are_found_at_any_depth_and_each_once() {
        let text = json!({"a": [1, {"$blob": digest(1).to_string()}, {"b": {"$blob": digest(2).to_string()}}],
            "c": {"$blob": digest(1).to_string()}, "n": 12345678901234567890_u64, "x": null, "y": 1.5, "z": -1})
        .to_string();
        assert_eq!(read(&text), (vec![digest(1), digest(2)], vec![]));
        let escaped = format!(r#"{{"\u0024blob": "{}"}}"#, digest(3));
        assert_eq!(read(&escaped), (vec![digest(3)], vec![]));
        assert_eq!(read("[12345678901234567890123, \"$blob\", {\"blob\": 1}]"), (vec![], vec![]));
        let deep = format!("{}{{\"$blob\":\"{}\"}}{}", "[".repeat(60), digest(4), "]".repeat(60));
        assert_eq!(read(&deep).0, [digest(4)]);
    }

    #[test]
    fn what_looks_like_a_reference_and_is_none_is_named_with_its_place() {
        let wrong = json!([
            {"$blob": 5},
            {"x/y": {"$blob": "sha256:00"}},
            {"$blob": digest(1).to_string(), "more": true},
            {"$blob": {"$blob": digest(1).to_string()}},
            {"$blob": digest(1).hex()},
        ]);
        let (found, bad) = read(&wrong.to_string());
        assert_eq!(found, [digest(1)], "the inner one is right");
        assert_eq!(bad, ["/args/0/0", "/args/0/1/x~1y", "/args/0/2", "/args/0/3", "/args/0/4"]);
        assert_eq!(BlobReferences::of_text(&wrong.to_string()), Some(vec![digest(1)]));
    }

    #[test]
    fn too_many_are_noticed() {
        let list = |count: usize| {
            let items: Vec<_> = (0..count).map(|n| json!({"$blob": digest(n).to_string()})).collect();
            BlobReferences::of_text(&json!(items).to_string()).map(|found| found.len())
        };
        assert_eq!((list(MAX_REFERENCES), list(MAX_REFERENCES + 1)), (Some(MAX_REFERENCES), None));
    }
}
