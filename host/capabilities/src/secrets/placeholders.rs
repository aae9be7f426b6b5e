//! Placeholders: random words that stand for secrets within one attempt.

use std::collections::HashMap;

use umbel_model::SecretName;

/// How each placeholder begins.
pub const PLACEHOLDER_PREFIX: &str = "umbel_secret_";
/// 32 digits of 62 are 190 bits.
const DIGITS: usize = 32;
/// The length of each placeholder, bytes.
pub const PLACEHOLDER_BYTES: usize = PLACEHOLDER_PREFIX.len() + DIGITS;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Those of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Placeholders {
    by_name: HashMap<SecretName, String>,
    names: HashMap<String, SecretName>,
}

impl Placeholders {
    /// That of a secret, made when it is asked for first.
    pub(crate) fn of(&mut self, name: &SecretName) -> Result<String, String> {
        if let Some(known) = self.by_name.get(name) {
            return Ok(known.clone());
        }
        let new = random()?;
        self.by_name.insert(name.clone(), new.clone());
        self.names.insert(new.clone(), name.clone());
        Ok(new)
    }

    /// The secret that a placeholder stands for.
    pub(crate) fn name(&self, placeholder: &str) -> Option<&SecretName> {
        self.names.get(placeholder)
    }
}

fn random() -> Result<String, String> {
    let mut text = String::from(PLACEHOLDER_PREFIX);
    while text.len() < PLACEHOLDER_BYTES {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|error| format!("there are no random bytes: {error}"))?;
        // 248 = 4 · 62: bytes above it would make some digits likelier.
        let digits = bytes.iter().filter(|byte| **byte < 248).map(|byte| BASE62[usize::from(*byte % 62)] as char);
        text.extend(digits.take(PLACEHOLDER_BYTES - text.len()));
    }
    Ok(text)
}

/// What looks like placeholders in some bytes: where each begins, and its text. One that is cut off at the end is none.
pub(crate) fn found_in(bytes: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    memchr::memmem::find_iter(bytes, PLACEHOLDER_PREFIX).filter_map(move |at| {
        let text = std::str::from_utf8(bytes.get(at..at + PLACEHOLDER_BYTES)?).ok()?;
        let is_one = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_one.then_some((at, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_wherever_they_are() {
        let (one, two) = (random().unwrap(), random().unwrap());
        let text = format!("Bearer {one}, umbel_secret_short; {two}{one}");
        let found: Vec<&str> = found_in(text.as_bytes()).map(|(_, text)| text).collect();
        assert_eq!(found, [one.as_str(), &two, &one]);
        assert_eq!(found_in(&text.as_bytes()[..text.len() - 1]).count(), 2);
        assert_eq!(found_in(b"\xff\xfeumbel_secret_").count(), 0);
    }
}
