//! Text of users and guests without what a terminal would obey or hide.

use std::borrow::Cow;

/// Text without control characters but line feeds and tabs, and without invisible marks.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.contains(deceptive) { text.replace(deceptive, "\u{fffd}").into() } else { text.into() }
}

/// The same in one line.
pub fn one_line(text: &str) -> String {
    plain(text).replace(['\n', '\t'], " ")
}

/// The first `most` characters; a text that is cut ends with `…`.
pub fn shortened(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The same JSON with control characters and invisible marks as `\uXXXX`. Line feeds and tabs stay.
pub fn escaped(json: &str) -> Cow<'_, str> {
    if !json.contains(deceptive) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match c {
            // JSON has it between values only, where an escape would be none.
            '\r' => out.push(' '),
            c if deceptive(c) => {
                let mut units = [0; 2];
                out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
    }
    out.into()
}

fn deceptive(c: char) -> bool {
    !matches!(c, '\n' | '\t') && umbel_sandbox::deceives(c)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_text_loses_its_control_characters() {
        assert_eq!(plain("a\u{1b}[31mb\u{7}\n"), "a\u{fffd}[31mb\u{fffd}\n");
    }

    #[test]
    fn a_value_is_the_same_json_without_anything_that_a_terminal_obeys() {
        let raw = "{\"a\": \"x\u{7f}\u{9b}31m\u{202e}\u{200b}\u{feff}\u{61c}ä🙂\",\r\n\t\"b\": 1}";
        let shown = escaped(raw);
        let expected = "{\"a\": \"x\\u007f\\u009b31m\\u202e\\u200b\\ufeff\\u061cä🙂\", \n\t\"b\": 1}";
        assert_eq!(shown, expected);
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(read(&shown), read(raw));
        assert!(matches!(escaped("[1, \"ä\"]"), Cow::Borrowed(_)));
    }
}
