//! Limits on JSON that is not parsed yet.

/// Levels of nesting: what serde_json, in the host and in most guests, can read back.
pub(crate) const MAX_DEPTH: usize = 127;

/// True when `json` is nested more deeply than `MAX_DEPTH`. Needs no valid JSON, and no stack.
pub(crate) fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Commas, brackets and braces outside of texts: what a parser has to make something for.
pub(crate) fn marks(json: &[u8]) -> usize {
    let (mut count, mut in_text, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b']' | b'{' | b'}' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

/// `json` without the white space between its tokens: one spelling for a body that was sent twice.
pub(crate) fn compact(json: &[u8]) -> Vec<u8> {
    let (mut in_text, mut escaped) = (false, false);
    let mut out = Vec::with_capacity(json.len());
    for byte in json {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
        } else if byte.is_ascii_whitespace() {
            continue;
        } else if *byte == b'"' {
            in_text = true;
        }
        out.push(*byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_texts() {
        let nested = |n| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(!is_too_deep(nested(MAX_DEPTH).as_bytes()));
        assert!(is_too_deep(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(!is_too_deep(format!(r#"["\"{}"]"#, "[".repeat(1_000)).as_bytes()));
        assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH)).is_ok());
    }

    #[test]
    fn marks_count_outside_of_texts() {
        assert_eq!(marks(br#"{"a,[\",": [1, 2, {}], "b\\": ""}"#), 9);
    }

    #[test]
    fn compact_keeps_texts_and_numbers_as_they_are() {
        assert_eq!(compact(b" { \"a b\\\" \" : [1 , 2.50] } "), b"{\"a b\\\" \":[1,2.50]}");
    }
}
