//! Limits on JSON that is not parsed yet.

/// The bytes of a JSON text, each with whether it is within a text, or is one of its quotation marks. Needs no valid JSON, and
/// no stack.
fn marked(json: &[u8]) -> impl Iterator<Item = (u8, bool)> {
    let (mut in_text, mut escaped) = (false, false);
    json.iter().map(move |byte| {
        let was_in_text = in_text;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ => {}
        }
        (*byte, in_text || was_in_text)
    })
}

/// Commas, brackets and braces outside of texts: what a parser has to make something for.
pub(crate) fn marks(json: &[u8]) -> usize {
    marked(json).filter(|mark| matches!(mark, (b',' | b'[' | b']' | b'{' | b'}', false))).count()
}

/// `json` without the white space between its tokens: one spelling for a body that was sent twice.
pub(crate) fn compact(json: &[u8]) -> Vec<u8> {
    marked(json).filter(|(byte, in_text)| *in_text || !byte.is_ascii_whitespace()).map(|(byte, _)| byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_count_outside_of_texts() {
        assert_eq!(marks(br#"{"a,[\",": [1, 2, {}], "b\\": ""}"#), 9);
    }

    #[test]
    fn compact_keeps_texts_and_numbers_as_they_are() {
        assert_eq!(compact(b" { \"a b\\\" \" : [1 , 2.50] } "), b"{\"a b\\\" \":[1,2.50]}");
    }
}
