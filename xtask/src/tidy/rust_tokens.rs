//! Words and punctuation of Rust text, without comments and literals: enough for rules about names and paths.

/// A word, `::`, or one character of punctuation.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
}

impl Token {
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of a file. Numbers come as words or punctuation; literals of text and comments do not come.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if let Some(skipped) = skipped(rest, first) {
            skipped
        } else {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = if word > 0 {
                word
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push(Token { text: rest[..length].to_owned() });
            length
        };
        rest = &rest[length..];
    }
    found
}

/// Bytes of what is no token at the start of `rest`: white space, a comment, a text or a character, a lifetime.
fn skipped(rest: &str, first: char) -> Option<usize> {
    if first.is_whitespace() {
        return Some(first.len_utf8());
    }
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    // r#"…"#, b"…", c"…", br"…"
    let prefix = rest.find(|c| !"rbc".contains(c)).unwrap_or(rest.len());
    let hashes = rest[prefix..].find(|c| c != '#').unwrap_or(0);
    if prefix <= 2 && rest[prefix + hashes..].starts_with('"') && (hashes == 0 || rest[..prefix].contains('r')) {
        let open = prefix + hashes + 1;
        return Some(if rest[..prefix].contains('r') {
            let end = format!("\"{}", "#".repeat(hashes));
            rest[open..].find(&end).map_or(rest.len(), |at| open + at + end.len())
        } else {
            open + quoted(&rest[open..], '"')
        });
    }
    let (open, quote) = if rest.starts_with("b'") { (2, true) } else { (1, first == '\'') };
    if quote {
        let mut inside = rest[open..].chars();
        let (one, two) = (inside.next(), inside.next());
        // 'a' and '\n' are characters, 'a is a lifetime, of which the mark alone is skipped.
        return Some(if one == Some('\\') || two == Some('\'') { open + quoted(&rest[open..], '\'') } else { open });
    }
    None
}

/// Bytes up to and with the closing quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_texts_and_characters_are_no_tokens_and_lifetimes_lose_their_mark() {
        assert_eq!(words("a::b // crate::c\n/* /* d */ e */ f"), ["a", "::", "b", "f"]);
        assert_eq!(words(r##"x("crate::y \" z", r#"crate::"q"#, b"k")"##), ["x", "(", ",", ",", ")"]);
        assert_eq!(words(r"fn f<'a>(c: &'a str) { 'x' '\'' b'y' }").join(" "), "fn f < a > ( c : & a str ) { }");
        assert_eq!(words("r#type break c rb"), ["r", "#", "type", "break", "c", "rb"]);
    }
}
