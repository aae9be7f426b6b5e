//! JSON text without trees: what no task could read is found, and two texts of one value get one spelling.
//!
//! Numbers are exact decimals here: `1`, `1.0` and `1e0` are one number, and integers of any length are told apart. The
//! number types of a parser cannot do that.

use std::{collections::BTreeMap, fmt};

use crate::binding::escape;

/// Levels of nesting: what serde_json, in the host and in most guests, can read back.
pub const MAX_DEPTH: usize = 127;
/// Digits of a number's exponent.
const MAX_EXPONENT_DIGITS: usize = 9;
/// Longest pointer that is reported, bytes: it quotes names that a user sent.
const MAX_POINTER_BYTES: usize = 1_024;
/// The point of a number may be so many digits behind its first one before it is written with an exponent.
const MAX_PLAIN_DIGITS: i64 = 20;
/// And so many before it.
const MIN_PLAIN_DIGITS: i64 = -4;

/// Why JSON that is well-formed is the value of no task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonProblem {
    /// Larger than any `f64`.
    NumberTooLarge,
    /// An exponent of more than nine digits.
    ExponentTooLong,
    /// Half of a surrogate pair, written as an escape: no Unicode text has one.
    LoneSurrogate,
    TooDeep,
}

impl fmt::Display for JsonProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NumberTooLarge => {
                f.write_str("the number is larger than any that a task can read; send it as a text")
            }
            Self::ExponentTooLong => write!(f, "the number's exponent has more than {MAX_EXPONENT_DIGITS} digits"),
            Self::LoneSurrogate => {
                f.write_str("the text has half of a surrogate pair, which is no character; was an emoji cut in two?")
            }
            Self::TooDeep => write!(f, "it is nested more than {MAX_DEPTH} deep"),
        }
    }
}

/// A value that no task could read, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {problem}")]
pub struct JsonFault {
    /// JSON pointer into the text. Of a name that cannot be read, that of its object.
    pub pointer: String,
    pub problem: JsonProblem,
}

/// Looks for the first value that no task could read. One pass that keeps nothing; of a text that is not JSON the answer says
/// nothing.
///
/// # Errors
/// A number that no `f64` is as large as, half of a surrogate pair, nesting beyond `MAX_DEPTH`.
pub fn check(text: &str) -> Result<(), JsonFault> {
    let mut scanner = Scanner::new(text);
    let mut depth = 0_usize;
    while let Some(token) = scanner.token() {
        let problem = match token {
            Token::Open(_) => {
                depth += 1;
                (depth > MAX_DEPTH).then_some(JsonProblem::TooDeep)
            }
            Token::Close => {
                depth = depth.saturating_sub(1);
                None
            }
            Token::Text(quoted) => has_lone_surrogate(quoted).then_some(JsonProblem::LoneSurrogate),
            Token::Word(word) => number_problem(word),
            Token::Comma | Token::Colon => None,
        };
        if let Some(problem) = problem {
            return Err(JsonFault { pointer: pointer_of(text, scanner.started), problem });
        }
    }
    Ok(())
}

/// The one spelling of a value: no white space, names in order, each once (the last of its name counts), texts without needless
/// escapes, numbers as exact decimals. `text` must be JSON. Integers of 64 bits and numbers with a fraction that an `f64`
/// keeps whole are written as serde_json writes them.
///
/// # Errors
/// As `check`.
pub fn canonical(text: &str) -> Result<String, JsonFault> {
    check(text)?;
    let mut out = String::with_capacity(text.len());
    write_value(&mut Scanner::new(text), &mut out);
    Ok(out)
}

/// The value of field `name` of the object `text`, the last of that name; none where there is none. `text` must be JSON.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut scanner = Scanner::new(text);
    let Some(Token::Open(b'{')) = scanner.token() else { return None };
    let mut found = None;
    while let Some(Token::Text(quoted)) = scanner.token() {
        scanner.token();
        let value = scanner.value();
        if unquoted(quoted) == name {
            found = Some(value);
        }
        if !matches!(scanner.token(), Some(Token::Comma)) {
            break;
        }
    }
    found
}

/// Item number `at` of the list `text`; none where there is none. `text` must be JSON.
pub fn item(text: &str, at: usize) -> Option<&str> {
    let mut scanner = Scanner::new(text);
    let Some(Token::Open(b'[')) = scanner.token() else { return None };
    if scanner.peek() == Some(b']') {
        return None;
    }
    for _ in 0..at {
        scanner.value();
        if !matches!(scanner.token(), Some(Token::Comma)) {
            return None;
        }
    }
    Some(scanner.value())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// `{` or `[`.
    Open(u8),
    Close,
    Comma,
    Colon,
    /// With its quotation marks.
    Text(&'a str),
    /// A number, `true`, `false` or `null`.
    Word(&'a str),
}

/// The tokens of a text. Never fails: what is no token of JSON is a word.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Where the last token began.
    started: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, started: 0 }
    }

    /// The first byte of the next token.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn token(&mut self) -> Option<Token<'a>> {
        let first = self.peek()?;
        self.started = self.at;
        self.at += 1;
        Some(match first {
            b'{' | b'[' => Token::Open(first),
            b'}' | b']' => Token::Close,
            b',' => Token::Comma,
            b':' => Token::Colon,
            b'"' => {
                let bytes = self.text.as_bytes();
                while let Some(byte) = bytes.get(self.at) {
                    self.at += 1;
                    match byte {
                        b'"' => break,
                        b'\\' => self.at += 1,
                        _ => {}
                    }
                }
                self.at = self.at.min(bytes.len());
                // The last escape of a text that is not JSON may end within a character.
                Token::Text(self.text.get(self.started..self.at).unwrap_or_default())
            }
            _ => {
                let is_end = |byte: &u8| b" \t\r\n\"{}[],:".contains(byte);
                let rest = &self.text.as_bytes()[self.at..];
                self.at += rest.iter().position(is_end).unwrap_or(rest.len());
                Token::Word(&self.text[self.started..self.at])
            }
        })
    }

    /// The text of the next value, whole.
    fn value(&mut self) -> &'a str {
        self.peek();
        let (first, mut depth) = (self.at, 0_usize);
        while let Some(token) = self.token() {
            match token {
                Token::Open(_) => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        self.text.get(first..self.at).unwrap_or_default()
    }
}

/// Writes the next value. Recursive: the text was checked, so it is not too deep.
fn write_value(scanner: &mut Scanner<'_>, out: &mut String) {
    match scanner.token() {
        Some(Token::Open(b'[')) => {
            out.push('[');
            if scanner.peek() == Some(b']') {
                scanner.token();
            } else {
                loop {
                    write_value(scanner, out);
                    match scanner.token() {
                        Some(Token::Comma) => out.push(','),
                        _ => break,
                    }
                }
            }
            out.push(']');
        }
        Some(Token::Open(_)) => {
            let mut fields = BTreeMap::new();
            while let Some(Token::Text(quoted)) = scanner.token() {
                scanner.token();
                let mut value = String::new();
                write_value(scanner, &mut value);
                fields.insert(unquoted(quoted), value);
                if !matches!(scanner.token(), Some(Token::Comma)) {
                    break;
                }
            }
            out.push('{');
            for (at, (name, value)) in fields.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(name));
                out.push(':');
                out.push_str(value);
            }
            out.push('}');
        }
        Some(Token::Text(text)) => out.push_str(&quoted(&unquoted(text))),
        Some(Token::Word(word)) => match Decimal::parse(word) {
            Some(number) => number.write(out),
            None => out.push_str(word),
        },
        Some(Token::Close | Token::Comma | Token::Colon) | None => {}
    }
}

fn unquoted(quoted: &str) -> String {
    serde_json::from_str(quoted).unwrap_or_default()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A number: 0.d₁d₂… × 10^`point`, without zeros at either end of its digits.
struct Decimal {
    is_negative: bool,
    digits: String,
    point: i64,
}

impl Decimal {
    /// None when `word` is no number.
    fn parse(word: &str) -> Option<Self> {
        let (is_negative, rest) = word.strip_prefix('-').map_or((false, word), |rest| (true, rest));
        let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_number =
            !whole.is_empty() && [whole, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
        if !is_number {
            return None;
        }
        let exponent: i64 = exponent.parse().ok()?;
        let all = [whole, fraction].concat();
        let significant = all.trim_start_matches('0');
        let digits = significant.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            // There is one zero.
            return Some(Self { is_negative: false, digits, point: 0 });
        }
        let leading_zeros = (all.len() - significant.len()) as i64;
        let point = (whole.len() as i64 - leading_zeros).saturating_add(exponent);
        Some(Self { is_negative, digits, point })
    }

    fn write(&self, out: &mut String) {
        let (digits, point, count) = (&*self.digits, self.point, self.digits.len() as i64);
        if self.is_negative {
            out.push('-');
        }
        let zeros = |n: i64| "0".repeat(n as usize);
        match point {
            _ if digits.is_empty() => out.push('0'),
            _ if (1..count).contains(&point) => {
                let (whole, fraction) = digits.split_at(point as usize);
                out.extend([whole, ".", fraction]);
            }
            _ if (1..=MAX_PLAIN_DIGITS.max(count)).contains(&point) => out.extend([digits, &*zeros(point - count)]),
            _ if (MIN_PLAIN_DIGITS..=0).contains(&point) => out.extend(["0.", &*zeros(-point), digits]),
            _ => {
                let (first, rest) = digits.split_at(1);
                let dot = if rest.is_empty() { "" } else { "." };
                out.extend([first, dot, rest, "e", &format!("{:+}", point - 1)]);
            }
        }
    }
}

/// Why a word is a number that nobody reads, if it is.
fn number_problem(word: &str) -> Option<JsonProblem> {
    // Any number of fewer digits without an exponent is an `f64`.
    let exponent = word.find(['e', 'E']).filter(|_| !word.starts_with(['t', 'f', 'n']));
    if exponent.is_none() && word.len() < 300 {
        return None;
    }
    let digits = exponent.map_or("", |at| word[at + 1..].trim_start_matches(['+', '-', '0']));
    if digits.len() > MAX_EXPONENT_DIGITS {
        return Some(JsonProblem::ExponentTooLong);
    }
    word.parse::<f64>().is_ok_and(f64::is_infinite).then_some(JsonProblem::NumberTooLarge)
}

/// Whether a text has an escape for half of a surrogate pair that the other half does not follow.
fn has_lone_surrogate(quoted: &str) -> bool {
    let mut rest = quoted;
    while let Some(at) = rest.find('\\') {
        rest = &rest[at..];
        match unit(rest) {
            None => rest = rest.get(2..).unwrap_or_default(),
            Some(0xD800..=0xDBFF) => match unit(&rest[6..]) {
                Some(0xDC00..=0xDFFF) => rest = &rest[12..],
                _ => return true,
            },
            Some(0xDC00..=0xDFFF) => return true,
            Some(_) => rest = &rest[6..],
        }
    }
    false
}

/// The code unit of the escape that `text` begins with, if it is one with four digits.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

/// The JSON pointer of the value whose token begins at byte `target`.
fn pointer_of(text: &str, target: usize) -> String {
    enum Step {
        Item(usize),
        Field(String),
        /// Of an object whose next name was not read yet.
        Name,
    }
    let mut scanner = Scanner::new(text);
    let mut steps: Vec<Step> = Vec::new();
    while let Some(token) = scanner.token() {
        if scanner.started >= target {
            break;
        }
        match token {
            Token::Open(b'[') => steps.push(Step::Item(0)),
            Token::Open(_) => steps.push(Step::Name),
            Token::Close => {
                steps.pop();
            }
            Token::Comma => match steps.last_mut() {
                Some(Step::Item(at)) => *at += 1,
                Some(field) => *field = Step::Name,
                None => {}
            },
            Token::Text(quoted) => {
                if let Some(last @ Step::Name) = steps.last_mut() {
                    *last = Step::Field(unquoted(quoted));
                }
            }
            Token::Colon | Token::Word(_) => {}
        }
    }
    let mut pointer = String::new();
    for step in &steps {
        match step {
            Step::Item(at) => pointer.push_str(&format!("/{at}")),
            Step::Field(name) => pointer.extend(["/", &*escape(name)]),
            Step::Name => {}
        }
        if pointer.len() > MAX_POINTER_BYTES {
            break;
        }
    }
    crate::outcome::truncated(pointer, MAX_POINTER_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn one(text: &str) -> String {
        canonical(text).unwrap()
    }

    #[test]
    fn numbers_are_compared_as_exact_decimals() {
        for (same, as_written) in [
            ("1 1.0 1e0 10e-1 0.1E+1 100e-2", "1"),
            ("100 1e2 1E+2 100.00", "100"),
            ("0 -0 0.0 -0.0e7 0e-400", "0"),
            ("-2.50 -25e-1", "-2.5"),
            ("100000000000000000000001 100000000000000000000001.0", "100000000000000000000001"),
            ("18446744073709551616", "18446744073709551616"),
            ("0.00012 1.2e-4", "0.00012"),
            ("0.000012 1.2e-5", "0.000012"),
            ("0.0000012", "1.2e-6"),
            ("1e-400", "1e-400"),
            ("1e300", "1e+300"),
            ("1234567890123456789012345.50", "1234567890123456789012345.5"),
        ] {
            same.split(' ').for_each(|text| assert_eq!(one(text), as_written, "{text}"));
        }
        for (a, b) in [
            ("100000000000000000000001", "100000000000000000000002"),
            ("0.12345678901234567890", "0.12345678901234567891"),
            ("18446744073709551616", "18446744073709551617"),
            ("9007199254740993.0", "9007199254740992.0"),
            ("1e-400", "0"),
            ("1e-400", "1e-401"),
            ("\"1\"", "1"),
        ] {
            assert_ne!(one(a), one(b));
        }
    }

    #[test]
    fn one_value_has_one_spelling() {
        assert_eq!(one(r#" { "b" : [ 1.0 , true ] , "a\u0041" : "\u00e9\/" } "#), r#"{"aA":"é/","b":[1,true]}"#);
        assert_eq!(one(r#"{"a":1,"a":{"x":[],"w":{}}}"#), r#"{"a":{"w":{},"x":[]}}"#);
        assert_eq!(one("\"\\ud83d\\ude00\""), "\"😀\"");
    }

    #[test]
    fn what_no_task_can_read_is_found_with_its_place() {
        let deep = |n| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        for (text, pointer, problem) in [
            ("1e400", "", JsonProblem::NumberTooLarge),
            (r#"{"args": [1, {"a/b": [true, -1e400]}]}"#, "/args/1/a~1b/1", JsonProblem::NumberTooLarge),
            (r#"[1e1, 1e-0000000000000400, 1e-10000000000]"#, "/2", JsonProblem::ExponentTooLong),
            (r#"{"a": {"x": 1}, "b": ["\\ud83d", "\ud83dx"]}"#, "/b/1", JsonProblem::LoneSurrogate),
            (r#"["\udc00"]"#, "/0", JsonProblem::LoneSurrogate),
            (r#"["\ud83d\u0041"]"#, "/0", JsonProblem::LoneSurrogate),
            (r#"{"a": {"\uD83D": 1}}"#, "/a", JsonProblem::LoneSurrogate),
        ] {
            assert_eq!(check(text), Err(JsonFault { pointer: pointer.into(), problem }), "{text}");
        }
        assert_eq!(check(&"9".repeat(400)).unwrap_err().problem, JsonProblem::NumberTooLarge);
        assert_eq!(check(&deep(MAX_DEPTH)), Ok(()));
        assert_eq!(check(&deep(MAX_DEPTH + 1)).unwrap_err().problem, JsonProblem::TooDeep);
        assert_eq!(check(&deep(1_000_000)).unwrap_err().problem, JsonProblem::TooDeep);
        for fine in ["1.7e308", "1e-400", r#""\ud83d\ude00""#, r#""\\ud83d""#, "[true, false, null]", r#""1e400""#] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn fields_and_items_are_found_in_the_text() {
        let text = r#" {"a": [1, [2, "]"], {}], "b": {"c": 1e0}, "\u0061": [7, 8.50]}"#;
        assert_eq!(field(text, "b"), Some(r#"{"c": 1e0}"#));
        assert_eq!(field(text, "a"), Some("[7, 8.50]"), "the last of its name");
        assert_eq!(field(text, "a").and_then(|a| item(a, 1)), Some("8.50"));
        assert_eq!(item(r#"[1, [2, "]"], {}]"#, 1), Some(r#"[2, "]"]"#));
        for (text, name) in [("{}", "a"), ("[1]", "a"), ("7", "a"), (r#""a""#, "a")] {
            assert_eq!(field(text, name), None, "{text}");
        }
        assert!(item("[]", 0).is_none() && item("[1]", 1).is_none() && item("{}", 0).is_none());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-1_000_000..1_000_000_i32).prop_map(|n| Value::from(f64::from(n) / 1_000.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_canonical_text_is_the_same_value_and_its_own_spelling(value in values()) {
            let text = one(&value.to_string());
            prop_assert_eq!(&one(&text), &text);
            prop_assert_eq!(&one(&serde_json::to_string_pretty(&value).unwrap()), &text);
        }

        #[test]
        fn a_number_of_64_bits_keeps_its_value_and_one_with_a_fraction_its_spelling(n in any::<f64>(), i in any::<i64>()) {
            let text = Value::from(n).to_string();
            prop_assert_eq!(one(&text).parse::<f64>().ok(), text.parse().ok());
            if n.fract() != 0.0 {
                prop_assert_eq!(one(&text), text);
            }
            prop_assert_eq!(one(&i.to_string()), i.to_string());
        }

        #[test]
        fn equal_decimals_have_one_spelling(digits in "[1-9][0-9]{0,30}", shift in 0_usize..40) {
            let shifted = format!("{digits}{}e-{shift}", "0".repeat(shift));
            prop_assert_eq!(one(&shifted), one(&digits));
            let other = format!("{digits}1");
            prop_assert_ne!(one(&other), one(&format!("{digits}2")));
        }

        #[test]
        fn any_text_is_looked_at_without_a_panic(text in ".{0,40}", json in r#"[\[\]{}",:\\ued0-9+.\- ]{0,40}"#) {
            for text in [text, json] {
                let _ = (check(&text), field(&text, "a"), item(&text, 1));
            }
        }
    }
}
