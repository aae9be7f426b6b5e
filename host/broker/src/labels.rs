//! Labels: the tags and headers of jobs, by which lists find them.

use std::collections::BTreeMap;

use serde::Deserialize;
use umbel_model::{Digest, job::Stamps};

/// Labels that a list looks for: a tag and a header.
pub const MAX_QUERY_LABELS: usize = 2;
/// Characters of `Label::hash`.
pub const LABEL_HASH_CHARS: usize = 20;

/// A tag or a header of a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    Tag(String),
    /// Name and value.
    Header(String, String),
}

/// The labels of a spec of any version.
#[derive(Debug, Deserialize)]
struct Labels {
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Label {
    /// Those that a submission gives its jobs, each once.
    pub fn all_of(stamps: &Stamps) -> Vec<Self> {
        if stamps.tags.is_empty() && stamps.headers.is_empty() {
            return Vec::new();
        }
        all(stamps.tags.iter().cloned(), stamps.headers.clone())
    }

    /// Those in the text of a spec, each once. One that cannot be read has none.
    pub fn all_in(spec: &str) -> Vec<Self> {
        serde_json::from_str::<Labels>(spec).map_or_else(|_| Vec::new(), |found| all(found.tags, found.headers))
    }

    /// Whether a spec has all of these.
    pub fn are_in(labels: &[Self], spec: &str) -> bool {
        if labels.is_empty() {
            return true;
        }
        let found = Self::all_in(spec);
        labels.iter().all(|label| found.contains(label))
    }

    /// Its name in an index, hexadecimal. Others may have the same.
    pub fn hash(&self) -> String {
        let text = match self {
            Self::Tag(tag) => format!("t{tag}"),
            Self::Header(name, value) => format!("h{} {name}{value}", name.len()),
        };
        let mut hash = Digest::of(text.as_bytes()).hex();
        hash.truncate(LABEL_HASH_CHARS);
        hash
    }

    /// What every spec that has it contains: specs are JSON without blanks, and equal texts are written alike. A spec may
    /// contain it elsewhere.
    pub fn text(&self) -> String {
        let json = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Self::Tag(tag) => json(tag),
            Self::Header(name, value) => format!("{}:{}", json(name), json(value)),
        }
    }
}

fn all(tags: impl IntoIterator<Item = String>, headers: impl IntoIterator<Item = (String, String)>) -> Vec<Label> {
    let tags = tags.into_iter().map(Label::Tag);
    let mut labels: Vec<Label> =
        tags.chain(headers.into_iter().map(|(name, value)| Label::Header(name, value))).collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_spec_are_its_tags_and_headers_and_nothing_else() {
        let spec = r#"{"v":1,"arguments":{"tags":["no"],"x":"\"b\""},"tags":["b","a","b"],"headers":{"k":"v"}}"#;
        let (a, b) = (Label::Tag("a".into()), Label::Tag("b".into()));
        let header = Label::Header("k".into(), "v".into());
        assert_eq!(Label::all_in(spec), [a.clone(), b.clone(), header.clone()]);
        assert!(Label::are_in(&[b, header.clone()], spec) && Label::are_in(&[], "{"));
        assert!(!Label::are_in(&[Label::Tag("no".into())], spec) && !Label::are_in(&[a], "{"));
        assert_eq!(header.text(), r#""k":"v""#);
    }

    #[test]
    fn labels_that_read_alike_have_different_hashes() {
        let header = |name: &str, value: &str| Label::Header(name.into(), value.into());
        let labels = [header("ab", "c"), header("a", "bc"), Label::Tag("abc".into()), Label::Tag("h2 abc".into())];
        let mut hashes: Vec<String> = labels.iter().map(Label::hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert!(hashes.len() == 4 && hashes.iter().all(|hash| hash.len() == LABEL_HASH_CHARS));
    }
}
