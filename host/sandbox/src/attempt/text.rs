//! Text from guests, made safe to show: no control characters, no terminal escapes, bounded.

/// `text` without terminal escapes, control characters and invisible direction marks, cut to `max` bytes at a
/// character. Line feeds and tabs stay.
pub(crate) fn clean(text: &str, max: usize) -> String {
    // What is cut off is never looked at: a guest cannot make this slow.
    let text = cut(text, max);
    if text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n' | b'\t')) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' | '\t' => out.push(c),
            c if deceives(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// The longest start of `text` of at most `max` bytes that ends at a character.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Consumes what follows an escape character: a control sequence, a string such as a window's title, or one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        // Control sequence: ends with a letter or another byte of 0x40-0x7e.
        Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
        // Operating system command, device control, privacy message: ends with BEL or with ESC \.
        Some(']' | 'P' | '^' | '_' | 'X') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || (c == '\u{1b}' && chars.next() == Some('\\')) {
                    return;
                }
            }
        }
        _ => {}
    }
}

/// Whether a terminal or a page would show something else than what is there: control characters (C0, DEL, C1), line
/// feeds and tabs among them, and the invisible marks that change the direction or the look of the text around them.
pub fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_and_control_characters_are_gone() {
        let cases = [
            ("plain\ttext\nnext", "plain\ttext\nnext"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
            ("a\u{1b}cb", "ab"),
            ("bell\u{7}\r\u{0}\u{9b}31m", "bell31m"),
            ("\u{202e}evil", "evil"),
            ("unterminated \u{1b}[", "unterminated "),
            ("größe 🙂", "größe 🙂"),
        ];
        for (input, expected) in cases {
            assert_eq!(clean(input, 1_000), expected, "{input:?}");
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(clean("äöü", 3), "ä");
        assert_eq!(clean(&"x".repeat(100), 10).len(), 10);
    }
}
