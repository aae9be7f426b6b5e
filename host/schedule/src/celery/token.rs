//! The tokens of Python source: those that literals are made of, and enough of the others to pass over them. Also those of JSON.

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind<'a> {
    Name(&'a str),
    /// None: it has more than 64 bits.
    Int(Option<i64>),
    Float(f64),
    Text(String),
    /// A text that is none of plain characters, and what it is instead.
    OddText(&'static str),
    /// Brackets, separators and operators.
    Mark(&'a str),
    /// The end of a statement: a line end outside of brackets.
    Newline,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token<'a> {
    pub kind: Kind<'a>,
    /// From 1.
    pub line: u32,
    /// Where it is in the source, bytes.
    pub start: usize,
    pub end: usize,
}

/// Longer marks come first.
const MARKS: [&str; 20] = [
    "...", "**=", "//=", "**", "//", "==", "!=", "<=", ">=", "->", ":=", "+=", "-=", "*=", "/=", "|=", "&=", "%=",
    "<<", ">>",
];

/// What a text is that is not closed.
const NO_END: &str = "a text without an end";

/// All tokens of a source; `json`: it is JSON, whose texts have other escapes.
pub(super) fn tokens(source: &str, json: bool) -> Vec<Token<'_>> {
    let mut lexer = Lexer { source, json, at: 0, line: 1, depth: 0, tokens: Vec::new() };
    while lexer.step() {}
    lexer.tokens
}

/// The first bracket or text that has no end, or bracket without a beginning: its line, and what is wrong.
pub(super) fn unclosed(tokens: &[Token<'_>]) -> Option<(u32, String)> {
    let mut open: Vec<(&str, u32)> = Vec::new();
    for Token { kind, line, .. } in tokens {
        match kind {
            Kind::OddText(NO_END) => return Some((*line, "a text is not closed".into())),
            Kind::Mark(mark @ ("(" | "[" | "{")) => open.push((mark, *line)),
            Kind::Mark(mark @ (")" | "]" | "}")) => match (open.pop(), *mark) {
                (Some(("(", _)), ")") | (Some(("[", _)), "]") | (Some(("{", _)), "}") => {}
                (Some((begin, from)), end) => {
                    return Some((from, format!("`{begin}` is not closed: line {line} has `{end}` before")));
                }
                (None, end) => return Some((*line, format!("`{end}` closes nothing"))),
            },
            _ => {}
        }
    }
    open.pop().map(|(begin, from)| (from, format!("`{begin}` is not closed")))
}

struct Lexer<'a> {
    source: &'a str,
    json: bool,
    at: usize,
    line: u32,
    /// Open brackets.
    depth: u32,
    tokens: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Reads one token, or passes over what is none. False at the end.
    fn step(&mut self) -> bool {
        let rest = self.rest();
        let Some(c) = rest.chars().next() else { return false };
        match c {
            '\n' => {
                if self.depth == 0 && self.tokens.last().is_some_and(|token| token.kind != Kind::Newline) {
                    self.push(Kind::Newline, 0);
                }
                self.at += 1;
                self.line += 1;
            }
            '#' if !self.json => self.at += rest.find('\n').unwrap_or(rest.len()),
            '\\' if rest.starts_with("\\\n") || rest.starts_with("\\\r\n") => {
                self.at += rest.find('\n').map_or(rest.len(), |end| end + 1);
                self.line += 1;
            }
            c if c.is_whitespace() => self.at += c.len_utf8(),
            '"' | '\'' => self.text(""),
            '0'..='9' => self.number(),
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            c if c == '_' || c.is_alphabetic() => self.name(),
            c => self.mark(c),
        }
        true
    }

    fn push(&mut self, kind: Kind<'a>, length: usize) {
        self.tokens.push(Token { kind, line: self.line, start: self.at, end: self.at + length });
    }

    fn mark(&mut self, c: char) {
        match c {
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        let rest = self.rest();
        let length = MARKS.iter().find(|mark| rest.starts_with(**mark)).map_or(c.len_utf8(), |mark| mark.len());
        self.push(Kind::Mark(&rest[..length]), length);
        self.at += length;
    }

    fn name(&mut self) {
        let rest = self.rest();
        let length = rest.find(|c: char| !(c == '_' || c.is_alphanumeric())).unwrap_or(rest.len());
        let name = &rest[..length];
        let is_prefix = name.len() <= 2 && name.bytes().all(|byte| b"rRbBuUfF".contains(&byte));
        if is_prefix && rest[length..].starts_with(['"', '\'']) {
            return self.text(name);
        }
        self.push(Kind::Name(name), length);
        self.at += length;
    }

    fn number(&mut self) {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let radix = match bytes.get(..2).map(<[u8]>::to_ascii_lowercase).as_deref() {
            Some(b"0x") => 16,
            Some(b"0o") => 8,
            Some(b"0b") => 2,
            _ => 10,
        };
        let mut length = 0;
        while let Some(byte) = bytes.get(length) {
            let is_sign = matches!(byte, b'+' | b'-') && radix == 10 && matches!(bytes[length - 1], b'e' | b'E');
            if !(is_sign || byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_')) {
                break;
            }
            length += 1;
        }
        let text: String = rest[..length].chars().filter(|c| *c != '_').collect();
        let kind = match text.parse::<f64>() {
            _ if radix != 10 => Kind::Int(i64::from_str_radix(&text[2..], radix).ok()),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => Kind::Int(text.parse().ok()),
            Ok(number) if number.is_finite() => Kind::Float(number),
            // `1j`, `1e999`, `12x`.
            _ => Kind::OddText("a number that cannot be stored"),
        };
        self.push(kind, length);
        self.at += length;
    }

    /// A text, which begins with `prefix` and a quote.
    fn text(&mut self, prefix: &str) {
        let rest = &self.source[self.at + prefix.len()..];
        let quote = &rest[..1];
        let triple = quote.repeat(3);
        let is_long = !self.json && rest.starts_with(&triple);
        let end_mark = if is_long { &triple } else { quote };
        let body_at = end_mark.len();
        let end = end_of_text(&rest[body_at..], end_mark, is_long);
        let body = &rest[body_at..body_at + end.unwrap_or_else(|length| length)];
        let length = prefix.len() + body_at + body.len() + end.map_or(0, |_| end_mark.len());
        let is = |c: char| prefix.contains([c, c.to_ascii_uppercase()]);
        let kind = match end {
            Err(_) => Kind::OddText(NO_END),
            Ok(_) if is('b') => Kind::OddText("bytes, which JSON does not have"),
            Ok(_) if is('f') => Kind::OddText("a text that is computed"),
            Ok(_) if self.json => match serde_json::from_str(&rest[..body.len() + 2]) {
                Ok(text) => Kind::Text(text),
                Err(_) => Kind::OddText("a text that JSON does not have"),
            },
            Ok(_) if is('r') => Kind::Text(body.to_owned()),
            Ok(_) => unescaped(body).map_or(Kind::OddText("a text with an escape that is not known"), Kind::Text),
        };
        let lines = self.source[self.at..self.at + length].matches('\n').count();
        self.push(kind, length);
        self.at += length;
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
    }
}

/// Where a text ends, bytes; or where the part ends that is passed over when it has no end.
fn end_of_text(body: &str, end_mark: &str, is_long: bool) -> Result<usize, usize> {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\n' if !is_long => return Err(at),
            _ if body[at..].starts_with(end_mark) => return Ok(at),
            _ => {}
        }
    }
    Err(body.len())
}

/// A text's characters for its escapes; none when one is not known.
fn unescaped(body: &str) -> Option<String> {
    let mut text = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let c = rest[at + 1..].chars().next()?;
        rest = &rest[at + 1 + c.len_utf8()..];
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        match c {
            '\n' => {}
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'a' => text.push('\u{7}'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'v' => text.push('\u{b}'),
            '\\' | '\'' | '"' => text.push(c),
            'x' | 'u' | 'U' => {
                let hex = rest.get(..digits).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
                text.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
                rest = &rest[digits..];
            }
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let number = u32::from_str_radix(&format!("{c}{}", &rest[..more]), 8).ok()?;
                text.push(char::from_u32(number)?);
                rest = &rest[more..];
            }
            'N' => return None,
            // Python keeps the backslash of what is no escape.
            other => text.extend(['\\', other]),
        }
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<Kind<'_>> {
        tokens(source, false).into_iter().map(|token| token.kind).collect()
    }

    fn text(source: &str) -> Kind<'_> {
        let mut kinds = kinds(source);
        assert_eq!(kinds.len(), 1, "{kinds:?}");
        kinds.remove(0)
    }

    #[test]
    fn texts_have_the_characters_of_their_escapes() {
        let of = |source| match text(source) {
            Kind::Text(text) => text,
            other => panic!("{source}: {other:?}"),
        };
        assert_eq!(of(r#"'it\'s\t"x"\x41\u00e9\U0001F600\101\0'"#), "it's\t\"x\"Aé😀A\0");
        assert_eq!(of(r#"r'\d+'"#), r"\d+");
        assert_eq!(
            of(r#"u"\d\
x""#),
            r"\dx"
        );
        assert_eq!(of("'''a\n'b'\"c\"'''"), "a\n'b'\"c\"");
        for odd in ["b'x'", "f'{x}'", "Rb'x'", "'open", "'\\N{BULLET}'", "'\\ud800'", "'''open\n'", "'\\x1'"] {
            assert!(matches!(text(odd), Kind::OddText(_)), "{odd}");
        }
        let json = tokens(r#"{"a\/\ud83d\ude00": 1}"#, true);
        assert_eq!(json[1].kind, Kind::Text("a/😀".into()));
    }

    #[test]
    fn numbers_are_read_in_all_their_forms() {
        assert_eq!(kinds("60 1_000 0x10 0o17 0b11"), [60, 1_000, 16, 15, 3].map(|n| Kind::Int(Some(n))));
        assert_eq!(kinds("1.5 .5 1e3 2E-1 3."), [1.5, 0.5, 1e3, 0.2, 3.0].map(Kind::Float));
        assert_eq!(kinds("99999999999999999999"), [Kind::Int(None)]);
        assert!(matches!(text("1j"), Kind::OddText(_)));
        assert!(matches!(text("1e999"), Kind::OddText(_)));
    }

    #[test]
    fn lines_are_counted_and_end_statements_outside_of_brackets_only() {
        let tokens = tokens("a = 1  # ' {\n\nb = [\n'''x\ny''',\n2]\\\n+ 3\n", false);
        let lines: Vec<_> = tokens.iter().filter(|token| token.kind == Kind::Newline).map(|token| token.line).collect();
        assert_eq!(lines, [1, 7]);
        assert_eq!(tokens.iter().find(|token| token.kind == Kind::Int(Some(2))).unwrap().line, 6);
        assert_eq!(kinds("x == y"), [Kind::Name("x"), Kind::Mark("=="), Kind::Name("y")]);
    }
}
