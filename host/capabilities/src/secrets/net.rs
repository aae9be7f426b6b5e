//! The net: values of secrets that an attempt used or got are searched for in what leaves it, in the forms in which programs write
//! them, and replaced. A guest that changes a value otherwise gets it through.

use std::{borrow::Cow, cmp::Reverse, collections::BinaryHeap, ops::Range};

use base64::{
    Engine as _, alphabet,
    engine::general_purpose::{GeneralPurpose, NO_PAD},
};
use http::{HeaderMap, HeaderValue};
use memchr::memmem::Finder;
use umbel_model::SecretName;
use zeroize::Zeroizing;

use crate::secrets::attempt::AttemptSecrets;

const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD);
/// A form that is shorter is not searched for: it is found by accident.
const MIN_FORM_BYTES: usize = 8;

/// What stands for a value: no longer than the shortest form.
const NAMELESS: &[u8] = b"[secret]";
/// By how much names make one text longer, bytes.
const MAX_NAMES_BYTES: usize = 64 << 10;
/// Forms of one value.
const MAX_FORMS: usize = 10;
const UPPER_HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The forms of one value.
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
        Self { name, forms }
    }

    /// How many bytes at the end of `bytes` may be the beginning of a form.
    pub(crate) fn begun_at_end(&self, bytes: &[u8]) -> usize {
        self.forms.iter().map(|form| begun(form, bytes)).max().unwrap_or(0)
    }
}

/// How many bytes at the end of `bytes` are the beginning of `form`, and not all of it. In steps as many as both have bytes.
fn begun(form: &[u8], bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len() - bytes.len().min(form.len() - 1)..];
    // Mostly the form does not even begin there.
    let Some(from) = memchr::memchr(form[0], tail) else { return 0 };
    let tail = &tail[from..];
    // Of each beginning of the form: the longest shorter beginning that it ends with.
    let mut borders = vec![0; tail.len()];
    let mut border = 0;
    for at in 1..tail.len() {
        while border > 0 && form[at] != form[border] {
            border = borders[border - 1];
        }
        border += usize::from(form[at] == form[border]);
        borders[at] = border;
    }
    let mut matched = 0;
    for byte in tail {
        while matched > 0 && *byte != form[matched] {
            matched = borders[matched - 1];
        }
        matched += usize::from(*byte == form[matched]);
    }
    matched
}

/// Tells where forms are in a text: the first one, at one place the longest, and none within another. Each form passes over the text
/// once, whatever is found, and what it is replaced by is not searched.
fn each_place<'f>(all: &'f [Forms], text: &[u8], mut found: impl FnMut(Range<usize>, &'f SecretName)) {
    let finders = all.iter().flat_map(|one| one.forms.iter().map(|form| (Finder::new(&form[..]), &one.name)));
    let finders: Vec<_> = finders.collect();
    let next = |which: usize, from: usize| {
        let finder = &finders[which].0;
        let at = from + finder.find(&text[from..])?;
        Some(Reverse((at, usize::MAX - finder.needle().len(), which)))
    };
    let mut places: BinaryHeap<_> = (0..finders.len()).filter_map(|which| next(which, 0)).collect();
    let mut from = 0;
    while let Some(Reverse((at, _, which))) = places.pop() {
        let (finder, name) = &finders[which];
        if at >= from {
            from = at + finder.needle().len();
            found(at..from, name);
        }
        places.extend(next(which, from));
    }
}

/// Writes asterisks over the values of secrets in `bytes`.
pub(crate) fn mask(all: &[Forms], bytes: &mut [u8]) -> bool {
    let mut places = Vec::new();
    each_place(all, bytes, |place, _| places.push(place));
    for place in &places {
        bytes[place.clone()].fill(b'*');
    }
    !places.is_empty()
}

/// The text with the names of secrets in the places of their values. Names make it longer by `MAX_NAMES_BYTES` at most; those behind
/// are replaced by what is no longer than any value.
fn replaced(all: &[Forms], text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut from, mut longer) = (Vec::new(), 0, 0);
    each_place(all, text, |place, name| {
        out.extend_from_slice(&text[from..place.start]);
        let named = format!("[secret {name}]");
        let more = named.len().saturating_sub(place.len());
        if longer + more <= MAX_NAMES_BYTES {
            longer += more;
            out.extend_from_slice(named.as_bytes());
        } else {
            out.extend_from_slice(NAMELESS);
        }
        from = place.end;
    });
    if from == 0 {
        return None;
    }
    out.extend_from_slice(&text[from..]);
    Some(out)
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
            let digit = |at: u8| UPPER_HEX[usize::from(at)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
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
        if self.search_bytes() == 0 {
            return None;
        }
        replaced(&self.forms(), bytes)
    }

    /// How many bytes at the end of `bytes` may be the beginning of a value.
    pub fn begun_at_end(&self, bytes: &[u8]) -> usize {
        self.forms().iter().map(|forms| forms.begun_at_end(bytes)).max().unwrap_or(0)
    }

    /// What a search of a text costs, in bytes: to open the values and make their forms, and to pass over the text with each form. 0:
    /// there is nothing to search for.
    pub fn search_cost(&self, text_bytes: usize) -> usize {
        let used = self.used();
        if used.is_empty() {
            return 0;
        }
        self.search_bytes().saturating_add(text_bytes.saturating_mul(MAX_FORMS).saturating_mul(used.len()))
    }

    /// Bytes of values, with the work to make their forms. 0: there is nothing to search for.
    pub fn search_bytes(&self) -> usize {
        self.used().iter().map(|sealed| sealed.sealed_bytes().saturating_mul(16)).sum()
    }
}

/// Writes asterisks over the values of secrets in the fields of an answer.
pub(crate) fn mask_fields(forms: &[Forms], fields: &mut HeaderMap) {
    for value in fields.values_mut() {
        let mut bytes = value.as_bytes().to_vec();
        let found = mask(forms, &mut bytes);
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
        assert!(mask(&[forms], &mut bytes));
        assert_eq!(bytes, b"-*********-");
    }

    #[test]
    fn what_a_form_may_begin_with_at_the_end_is_what_comparing_each_end_says() {
        let slow = |form: &[u8], bytes: &[u8]| {
            let most = bytes.len().min(form.len() - 1);
            (1..=most).rev().find(|len| form.starts_with(&bytes[bytes.len() - len..])).unwrap_or(0)
        };
        let words = |letters: u32| {
            (0..1_u32 << letters)
                .map(move |bits| (0..letters).map(|at| b'a' + (bits >> at & 1) as u8).collect::<Vec<u8>>())
        };
        for form in words(6) {
            for bytes in words(7) {
                assert_eq!(begun(&form, &bytes), slow(&form, &bytes), "{form:?} {bytes:?}");
            }
        }
    }

    #[test]
    fn a_replacement_is_not_searched_and_names_do_not_make_a_text_grow_without_end() {
        let long = "B".repeat(64);
        let all = [Forms::new(name(&long), b"AAAAAAAA"), Forms::new(name("second"), b"BBBBBBBB")];
        assert_eq!(replaced(&all, b"-AAAAAAAA-").unwrap(), format!("-[secret {long}]-").into_bytes());
        let text = b"AAAAAAAA".repeat(100_000);
        let out = replaced(&all, &text).unwrap();
        assert!(out.len() <= text.len() + MAX_NAMES_BYTES && !out.windows(8).any(|part| part == b"AAAAAAAA"));
    }

    #[test]
    fn of_two_values_that_begin_alike_the_longer_one_is_replaced() {
        let all = [Forms::new(name("short"), b"password"), Forms::new(name("long"), b"password1234567")];
        assert_eq!(replaced(&all, b"password1234567 password").unwrap(), b"[secret long] [secret short]");
        let mut bytes = b"password1234567".to_vec();
        assert!(mask(&all, &mut bytes));
        assert_eq!(bytes, b"***************");
    }
}
