//! The net: values of secrets that an attempt used or got are searched for in what leaves it, in the forms in which programs write
//! them, and replaced. A guest that changes a value otherwise gets it through.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::general_purpose::{GeneralPurpose, NO_PAD},
};
use http::{HeaderMap, HeaderValue};
use umbel_model::SecretName;
use zeroize::Zeroizing;

use crate::secrets::attempt::AttemptSecrets;

const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD);
/// A form that is shorter is not searched for: it is found by accident.
const MIN_FORM_BYTES: usize = 8;

/// The forms of one value, the longest first.
pub(crate) struct Forms {
    name: SecretName,
    forms: Vec<Zeroizing<Vec<u8>>>,
}

impl Forms {
    pub(crate) fn new(name: SecretName, value: &[u8]) -> Self {
        let mut forms = vec![Zeroizing::new(value.to_vec())];
        let mut add = |form: Zeroizing<Vec<u8>>| {
            if form.len() >= MIN_FORM_BYTES && !forms.contains(&form) {
                forms.push(form);
            }
        };
        add(json(value));
        add(percent(value));
        add(Zeroizing::new(hex::encode(value).into_bytes()));
        for engine in [&STANDARD, &URL_SAFE] {
            (0..3).for_each(|offset| add(base64(engine, value, offset)));
        }
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        Self { name, forms }
    }

    /// Where the first form of it is in `bytes`, and how long it is there.
    fn first_in(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let found = self.forms.iter().filter_map(|form| Some((memchr::memmem::find(bytes, form)?, form.len())));
        found.min_by_key(|(at, len)| (*at, std::cmp::Reverse(*len)))
    }

    /// How many bytes at the end of `bytes` may be the beginning of a form.
    pub(crate) fn begun_at_end(&self, bytes: &[u8]) -> usize {
        let begun = |form: &[u8]| {
            let most = bytes.len().min(form.len() - 1);
            (1..=most).rev().find(|len| form.starts_with(&bytes[bytes.len() - len..])).unwrap_or(0)
        };
        self.forms.iter().map(|form| begun(form)).max().unwrap_or(0)
    }

    /// Writes asterisks over each form in `bytes`.
    pub(crate) fn mask(&self, bytes: &mut [u8]) -> bool {
        let (mut from, mut found) = (0, false);
        while let Some((at, len)) = self.first_in(&bytes[from..]) {
            bytes[from + at..from + at + len].fill(b'*');
            (from, found) = (from + at + len, true);
        }
        found
    }

    fn replaced(&self, text: &[u8]) -> Option<Vec<u8>> {
        let (mut out, mut from) = (Vec::new(), 0);
        while let Some((at, len)) = self.first_in(&text[from..]) {
            out.extend_from_slice(&text[from..from + at]);
            out.extend_from_slice(format!("[secret {}]", self.name).as_bytes());
            from += at + len;
        }
        if from == 0 {
            return None;
        }
        out.extend_from_slice(&text[from..]);
        Some(out)
    }
}

/// As it stands between the quotes of JSON.
pub(crate) fn json(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = String::from_utf8_lossy(value);
    let mut out = Zeroizing::new(Vec::with_capacity(2 * value.len()));
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// As it stands in a URL or a form.
pub(crate) fn percent(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(3 * value.len()));
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

/// The digits of base64 that the value alone decides when `offset` bytes of something else stand before it.
fn base64(engine: &GeneralPurpose, value: &[u8], offset: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; offset]);
    bytes.extend_from_slice(value);
    let text = Zeroizing::new(engine.encode(&*bytes));
    let first = [0, 2, 3][offset];
    // The last digit is shared with what follows unless the bytes end with a group.
    let whole = bytes.len() / 3 * 4 + [0, 1, 2][bytes.len() % 3];
    Zeroizing::new(text.as_bytes().get(first..whole).unwrap_or_default().to_vec())
}

impl AttemptSecrets {
    /// The forms of the values that may be in what leaves the attempt. A secret that does not open now was opened before: it is
    /// left out only if the memory of this process is damaged.
    pub(crate) fn forms(&self) -> Vec<Forms> {
        let used = self.used();
        let opened = used.iter().filter_map(|sealed| Some((sealed.name().clone(), sealed.open().ok()?)));
        opened.map(|(name, value)| Forms::new(name, value.bytes())).collect()
    }

    /// A text of the guest without the values of secrets: each is replaced by `[secret NAME]`. Costs nothing where none was used.
    pub fn caught<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.caught_bytes(text.as_bytes()) {
            None => Cow::Borrowed(text),
            // A value may begin or end within a character.
            Some(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// The same of bytes; none: no value is in them.
    pub fn caught_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut caught: Option<Vec<u8>> = None;
        for forms in self.forms() {
            caught = forms.replaced(caught.as_deref().unwrap_or(bytes)).or(caught);
        }
        caught
    }

    /// Bytes of values, with the work to search for all their forms in a text: what a search costs besides the text. 0: there is
    /// nothing to search for.
    pub fn search_bytes(&self) -> usize {
        self.used().iter().map(|sealed| sealed.sealed_bytes().saturating_mul(16)).sum()
    }
}

/// Writes asterisks over the values of secrets in the fields of an answer.
pub(crate) fn mask_fields(forms: &[Forms], fields: &mut HeaderMap) {
    for value in fields.values_mut() {
        let mut bytes = value.as_bytes().to_vec();
        let found = forms.iter().fold(false, |found, forms| forms.mask(&mut bytes) | found);
        if let Some(masked) = found.then(|| HeaderValue::from_bytes(&bytes).ok()).flatten() {
            *value = masked;
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD as PADDED;

    use super::*;
    use crate::secrets::tests::{name, secrets};

    const VALUE: &str = "s3cr\"t/va lue+";

    #[tokio::test]
    async fn a_value_is_caught_in_the_forms_in_which_programs_write_it() {
        let attempt = secrets(&[("key", VALUE, &[], false, true)], &["secret key reveal"]);
        assert_eq!(attempt.caught(&format!("not had yet: {VALUE}")), format!("not had yet: {VALUE}"));
        attempt.reveal(&name("key")).await.unwrap();
        let quoted = serde_json::to_string(&format!("-{VALUE}-")).unwrap();
        assert_eq!(attempt.caught(&quoted), r#""-[secret key]-""#);
        for (before, after) in [("", ""), ("u:", ""), ("user:", "x"), ("abc", "yz")] {
            let text = format!("Basic {}", PADDED.encode(format!("{before}{VALUE}{after}")));
            assert!(attempt.caught(&text).contains("[secret key]"), "{before} {after}");
        }
        for text in [VALUE.to_owned(), hex::encode(VALUE), "s3cr%22t%2Fva%20lue%2B".to_owned()] {
            assert_eq!(attempt.caught(&format!("é{text}é{text}")), "é[secret key]é[secret key]");
        }
        assert!(matches!(attempt.caught("s3cr"), Cow::Borrowed("s3cr")));
    }

    #[test]
    fn forms_are_found_across_pieces() {
        let forms = Forms::new(name("key"), b"abcabcabd");
        assert_eq!(forms.begun_at_end(b"xxabcabc"), 6);
        assert_eq!(forms.begun_at_end(b"xx"), 0);
        let mut bytes = b"-abcabcabd-".to_vec();
        assert!(forms.mask(&mut bytes));
        assert_eq!(bytes, b"-*********-");
    }
}
