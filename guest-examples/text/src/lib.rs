//! Counts the words of real text: split it, count the parts side by side, merge the counts. `wordcount` does that to many
//! texts at once, as map and reduce.
//!
//! A word is a run of letters and digits of any script, with apostrophes inside, in lower case.

use std::collections::BTreeMap;

use umbel::prelude::*;

/// Parts that one text is split into.
const MAX_PARTS: u32 = 1_000;
/// The least that is worth a job of its own, bytes.
const MIN_PART_BYTES: u32 = 256;

/// How often each word occurs.
pub type Counts = BTreeMap<String, u64>;

/// Splits a text between words into about equal parts, at most as many as asked. Joined, they are the text again.
#[task]
pub fn split(text: String, #[default(4)] parts: u32) -> TaskResult<Vec<String>> {
    if parts == 0 || parts > MAX_PARTS {
        return Err(Fatal::new(format!("parts is 1 to {MAX_PARTS}, not {parts}")).kind("BadArgument").into());
    }
    let target = text.len().div_ceil(parts as usize).max(1);
    let mut pieces = Vec::new();
    let mut rest = text.as_str();
    while rest.len() > target {
        let Some(at) = cut(rest, target) else { break };
        let (piece, left) = rest.split_at(at);
        pieces.push(piece.to_owned());
        rest = left;
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(rest.to_owned());
    }
    Ok(pieces)
}

/// The first end of white space at or after `from`: a place where no word is torn.
fn cut(text: &str, from: usize) -> Option<usize> {
    let mut in_space = false;
    for (at, c) in text.char_indices() {
        if in_space && !c.is_whitespace() && at >= from {
            return Some(at);
        }
        in_space = c.is_whitespace();
    }
    None
}

/// Counts the words of a text.
#[task]
pub fn count(ctx: &Context, text: String) -> Counts {
    let mut counts = Counts::new();
    for word in words(&text) {
        match counts.get_mut(&word) {
            Some(seen) => *seen += 1,
            None => {
                counts.insert(word, 1);
            }
        }
    }
    ctx.info(format!("{} different words in {} bytes", counts.len(), text.len()));
    counts
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '\'' | '’')))
        .map(|word| word.trim_matches(['\'', '’']))
        .filter(|word| !word.is_empty())
        .map(|word| word.replace('’', "'").to_lowercase())
}

/// Adds counts up and keeps the most frequent words.
#[task]
pub fn merge(counts: Vec<Counts>, #[default(10)] top: u32) -> Summary {
    let mut all = Counts::new();
    for (word, n) in counts.into_iter().flatten() {
        let seen = all.entry(word).or_default();
        *seen = seen.saturating_add(n);
    }
    let words = all.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
    let distinct = all.len() as u64;
    let mut ranked: Vec<Frequency> = all.into_iter().map(|(word, count)| Frequency { word, count }).collect();
    // The map was in order of words and the sort is stable, so equal counts stay in that order.
    ranked.sort_by_key(|frequency| std::cmp::Reverse(frequency.count));
    ranked.truncate(top as usize);
    Summary { words, distinct, top: ranked }
}

/// The parts of a text.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Summary {
    /// Words in all.
    pub words: u64,
    /// Different words.
    pub distinct: u64,
    /// The most frequent ones, most frequent first.
    pub top: Vec<Frequency>,
}

/// One word and how often it occurs.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Frequency {
    pub word: String,
    pub count: u64,
}

/// All three steps in one job.
#[task]
pub fn summary(ctx: &Context, text: String, #[default(10)] top: u32) -> Summary {
    merge(vec![count(ctx, text)], top)
}

/// Counts the words of many texts side by side: one job for each of them (a long one is split), and one that merges. Takes
/// a canvas as large as the texts: for more than a megabyte submit a chord of `count` and `merge` yourself.
#[task]
pub fn wordcount(
    ctx: &Context,
    texts: Vec<String>,
    #[default(10)] top: u32,
    /// A longer text is split into parts of about so many bytes.
    #[default(65_536)]
    part_bytes: u32,
) -> TaskResult<Summary> {
    let parts = texts.into_iter().map(|text| {
        let parts = text.len().div_ceil(part_bytes.max(MIN_PART_BYTES) as usize);
        split(text, u32::try_from(parts).map_or(MAX_PARTS, |parts| parts.clamp(1, MAX_PARTS)))
    });
    let parts: Vec<Vec<String>> = parts.collect::<Result<_, _>>()?;
    let counts = parts.into_iter().flatten().map(count::s);
    ctx.replace(chord![group(counts).label("texts"), merge::p(top)])
}

umbel::module![split, count, merge, summary, wordcount];

#[cfg(test)]
mod tests {
    use super::*;
    use umbel::serde_json;

    /// A real document of this repository.
    const CONTRACT: &str = include_str!("../../../wit/task.wit");

    #[test]
    fn words_of_any_script_are_counted_without_their_case() {
        let counts = count(&Context::fake(), "Don't panic: DON’T! Straße straße 42 — 'quoted' …".to_owned());
        let expected = [("42", 1), ("don't", 2), ("panic", 1), ("quoted", 1), ("straße", 2)];
        assert_eq!(counts, expected.into_iter().map(|(w, n)| (w.to_owned(), n)).collect());
    }

    #[test]
    fn parts_join_to_the_text_and_tear_no_word() {
        for parts in [1, 2, 3, 7, 50, 1_000] {
            let pieces = split(CONTRACT.to_owned(), parts).unwrap();
            assert_eq!(pieces.concat(), CONTRACT);
            assert!(pieces.len() <= parts as usize);
            let torn = pieces[..pieces.len() - 1].iter().any(|piece| !piece.ends_with(char::is_whitespace));
            assert!(!torn, "{parts} parts");
        }
        assert_eq!(split(String::new(), 3).unwrap(), [""]);
        assert_eq!(split("ééééé".to_owned(), 2).unwrap(), ["ééééé"]);
        assert!(split("a".to_owned(), 0).unwrap_err().is_fatal());
    }

    #[test]
    fn counting_parts_and_merging_is_counting_the_whole() {
        let ctx = Context::fake();
        let whole = summary(&ctx, CONTRACT.to_owned(), 5);
        let parts = split(CONTRACT.to_owned(), 8).unwrap();
        let merged = merge(parts.into_iter().map(|part| count(&ctx, part)).collect(), 5);
        assert_eq!(merged, whole);
        assert_eq!(whole.words, words(CONTRACT).count() as u64);
        assert_eq!(whole.top.len(), 5);
        assert!(whole.top.windows(2).all(|pair| pair[0].count >= pair[1].count));
    }

    #[test]
    fn many_texts_are_counted_by_one_job_each_and_merged() {
        let ctx = Context::fake();
        let texts = vec!["one two".to_owned(), CONTRACT.to_owned(), String::new()];
        wordcount(&ctx, texts.clone(), 5, 1_024).unwrap_err();
        let chord = ctx.replacement().unwrap();
        // What the host does: run the members, and the body with their results.
        let members = chord["chord"].as_array().unwrap();
        let run = |task: &serde_json::Value, first| {
            let (names, more) = match task["task"].as_str().unwrap() {
                "count" => (["text", ""], None),
                _ => (["counts", "top"], Some(task["args"][0].clone())),
            };
            let mut arguments = serde_json::json!({ names[0]: first });
            if let Some(more) = more {
                arguments[names[1]] = more;
            }
            let text = umbel_module::run(task["task"].as_str().unwrap(), &arguments.to_string()).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let counts: Vec<_> = members.iter().map(|member| run(member, member["args"][0].clone())).collect();
        assert!(counts.len() > 3, "the long text is split: {}", counts.len());
        let merged = run(&chord["body"], counts.into());
        let whole = summary(&Context::fake(), texts.join("\n"), 5);
        assert_eq!(merged, serde_json::to_value(whole).unwrap());
    }

    #[test]
    fn merging_nothing_is_an_empty_summary() {
        assert_eq!(merge(vec![], 3), Summary { words: 0, distinct: 0, top: vec![] });
    }
}
