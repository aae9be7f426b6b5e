//! Values of Python source without running it: literals, calls with literal arguments, and sums and products of numbers. What is
//! none of these is passed over, and keeps its text for a message.

use std::collections::BTreeMap;

use super::token::{Kind, Token, tokens};

/// Brackets within brackets. Deeper ones are passed over.
const MAX_DEPTH: u32 = 64;
/// Characters of source in a message.
const SHOWN: usize = 60;
/// Longest text that a name may stand for, bytes.
const MAX_CONSTANT: usize = 128;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Of its first token, from 1.
    pub line: u32,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Also a tuple.
    List(Vec<Node>),
    Set(Vec<Node>),
    Dict(Vec<(Node, Node)>),
    Call(Call),
    /// A name, which may stand for anything.
    Name(String),
    /// No literal; why, for people.
    Odd(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    /// With the names before it: `celery.schedules.crontab`.
    pub name: String,
    pub args: Vec<Node>,
    /// In their order.
    pub kwargs: Vec<(String, Node)>,
}

impl Call {
    /// What is called, without the names before it.
    pub fn last_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

/// A source with its tokens, and the numbers and texts that names of it stand for.
pub(super) struct Source<'a> {
    text: &'a str,
    json: bool,
    pub tokens: Vec<Token<'a>>,
    constants: BTreeMap<&'a str, Value>,
}

impl<'a> Source<'a> {
    pub fn new(text: &'a str, json: bool) -> Self {
        let mut source = Self { text, json, tokens: tokens(text, json), constants: BTreeMap::new() };
        source.read_constants();
        source
    }

    /// Whether there is this mark.
    pub fn is_mark(&self, at: usize, mark: &str) -> bool {
        matches!(self.tokens.get(at), Some(Token { kind: Kind::Mark(found), .. }) if *found == mark)
    }

    /// Bytes before this place in its line.
    pub fn indent(&self, start: usize) -> usize {
        let before = self.text.get(..start).unwrap_or_default();
        start - before.rfind('\n').map_or(0, |end| end + 1)
    }

    /// The text of these tokens.
    pub fn text_of(&self, first: usize, last: usize) -> &'a str {
        let (first, last) = (self.tokens.get(first), self.tokens.get(last));
        first.zip(last).and_then(|(first, last)| self.text.get(first.start..last.end)).unwrap_or_default()
    }

    /// The value that begins at this token, and the token behind it.
    pub fn value(&self, at: usize) -> (Node, usize) {
        let mut reader = Reader { source: self, at, depth: 0 };
        (reader.value(false), reader.at)
    }

    /// The arguments behind an opening bracket before this token, and the token behind the closing one.
    pub fn arguments(&self, at: usize) -> (Call, usize) {
        let mut reader = Reader { source: self, at, depth: 0 };
        (reader.arguments(String::new()), reader.at)
    }

    /// Names that are given a number or a text once, outside of brackets: `MINUTE = 60`.
    fn read_constants(&mut self) {
        let mut found: BTreeMap<&'a str, Option<Value>> = BTreeMap::new();
        let mut begins = true;
        for at in 0..self.tokens.len() {
            if let Kind::Name(name) = self.tokens[at].kind
                && begins
                && self.is_mark(at + 1, "=")
            {
                let value = match self.value(at + 2).0.value {
                    value @ (Value::Int(_) | Value::Float(_) | Value::Bool(_)) => Some(value),
                    Value::Text(text) if text.len() <= MAX_CONSTANT => Some(Value::Text(text)),
                    _ => None,
                };
                // Given twice, it is not known which counts.
                found.entry(name).and_modify(|known| *known = None).or_insert(value);
            }
            begins = self.tokens[at].kind == Kind::Newline;
        }
        self.constants = found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    }
}

struct Reader<'s, 'a> {
    source: &'s Source<'a>,
    at: usize,
    depth: u32,
}

impl<'a> Reader<'_, 'a> {
    fn kind(&self) -> Option<&Kind<'a>> {
        self.source.tokens.get(self.at).map(|token| &token.kind)
    }

    fn line(&self) -> u32 {
        let token = self.source.tokens.get(self.at).or(self.source.tokens.last());
        token.map_or(1, |token| token.line)
    }

    fn takes(&mut self, mark: &str) -> bool {
        let is_there = self.source.is_mark(self.at, mark);
        self.at += usize::from(is_there);
        is_there
    }

    /// Whether a value ends here.
    fn is_end(&self, is_key: bool) -> bool {
        match self.kind() {
            None | Some(Kind::Newline) => true,
            Some(Kind::Mark(mark)) => matches!(*mark, "," | ")" | "]" | "}") || (is_key && *mark == ":"),
            Some(_) => false,
        }
    }

    /// A value up to a separator or a bracket that closes. It always ends at one, or at the end.
    fn value(&mut self, is_key: bool) -> Node {
        let (from, line) = (self.at, self.line());
        let value = self.sum(from);
        if self.is_end(is_key) {
            return Node { line, value };
        }
        self.pass_over(is_key);
        Node { line, value: self.odd(from) }
    }

    /// Passes over whatever comes until a value ends.
    fn pass_over(&mut self, is_key: bool) {
        let mut open = 0_u32;
        while self.at < self.source.tokens.len() {
            if open == 0 && self.is_end(is_key) {
                return;
            }
            match self.kind() {
                Some(Kind::Mark("(" | "[" | "{")) => open += 1,
                Some(Kind::Mark(")" | "]" | "}")) => open = open.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
    }

    /// What the tokens from this one up to here are, when they are no literal.
    fn odd(&self, from: usize) -> Value {
        self.odd_as(from, "no literal")
    }

    fn odd_as(&self, from: usize, what: &str) -> Value {
        let tokens = self.source.tokens.get(from..self.at).unwrap_or_default();
        let start = tokens.first().map_or(0, |token| token.start);
        let end = tokens.last().map_or(start, |token| token.end);
        let text = self.source.text.get(start..end).unwrap_or_default();
        // More than is shown, whatever its spaces; and not all of it, because this is done for each part of a long sum.
        let text = &text[..text.floor_char_boundary(8 * SHOWN)];
        let mut shown: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = shown.char_indices().nth(SHOWN) {
            shown.truncate(end);
            shown.push('…');
        }
        Value::Odd(format!("`{shown}` is {what}"))
    }

    // ---- numbers

    fn sum(&mut self, from: usize) -> Value {
        let mut left = Some(self.product(from));
        loop {
            let operator = match self.kind() {
                Some(Kind::Mark(mark @ ("+" | "-"))) => *mark,
                _ => return left.unwrap_or_else(|| self.odd(from)),
            };
            self.at += 1;
            let right = self.product(self.at);
            left = left.and_then(|left| computed(left, operator, &right));
        }
    }

    fn product(&mut self, from: usize) -> Value {
        let mut left = Some(self.signed(from));
        loop {
            let operator = match self.kind() {
                Some(Kind::Mark(mark @ ("*" | "/" | "//" | "%" | "**"))) => *mark,
                _ => return left.unwrap_or_else(|| self.odd(from)),
            };
            self.at += 1;
            let right = self.signed(self.at);
            // A power binds more tightly than what is before it: such a product is left to people.
            let is_clear = !matches!(self.kind(), Some(Kind::Mark("**")));
            left = left.filter(|_| is_clear).and_then(|left| computed(left, operator, &right));
        }
    }

    fn signed(&mut self, from: usize) -> Value {
        let mut negative = false;
        loop {
            match self.kind() {
                Some(Kind::Mark("-")) => negative = !negative,
                Some(Kind::Mark("+")) => {}
                _ => break,
            }
            self.at += 1;
        }
        let value = self.primary(from);
        match value {
            _ if !negative => value,
            Value::Int(number) => number.checked_neg().map_or_else(|| self.odd(from), Value::Int),
            Value::Float(number) => Value::Float(-number),
            _ => self.odd(from),
        }
    }

    // ---- what is not computed

    fn primary(&mut self, from: usize) -> Value {
        let Some(kind) = self.kind().cloned() else { return Value::Odd("nothing is there".into()) };
        match kind {
            Kind::Mark("(" | "[" | "{") => self.bracket(),
            Kind::Mark(_) | Kind::Newline => self.odd(from),
            Kind::Name(name) => self.named(name),
            Kind::Text(text) => self.texts(from, text),
            Kind::Int(number) => {
                self.at += 1;
                number.map_or_else(|| Value::Odd("a number of more than 64 bits".into()), Value::Int)
            }
            Kind::Float(number) => {
                self.at += 1;
                Value::Float(number)
            }
            Kind::OddText(why) => {
                self.at += 1;
                self.odd_as(from, why)
            }
        }
    }

    /// Texts one after the other are one.
    fn texts(&mut self, from: usize, first: String) -> Value {
        self.at += 1;
        let mut all = first;
        loop {
            match self.kind() {
                Some(Kind::Text(more)) => all.push_str(more),
                Some(Kind::OddText(_)) => {
                    self.at += 1;
                    return self.odd(from);
                }
                _ => return Value::Text(all),
            }
            self.at += 1;
        }
    }

    fn named(&mut self, first: &str) -> Value {
        self.at += 1;
        let mut name = first.to_owned();
        while self.source.is_mark(self.at, ".") {
            let Some(Token { kind: Kind::Name(next), .. }) = self.source.tokens.get(self.at + 1) else { break };
            name.push('.');
            name.push_str(next);
            self.at += 2;
        }
        match name.as_str() {
            _ if self.source.is_mark(self.at, "(") => self.call(name),
            "None" => Value::Null,
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "null" if self.source.json => Value::Null,
            "true" if self.source.json => Value::Bool(true),
            "false" if self.source.json => Value::Bool(false),
            known => self.source.constants.get(known).cloned().unwrap_or(Value::Name(name)),
        }
    }

    fn call(&mut self, name: String) -> Value {
        if self.depth >= MAX_DEPTH {
            return self.too_deep();
        }
        self.at += 1;
        self.depth += 1;
        let call = self.arguments(name);
        self.depth -= 1;
        if call.name == "dict" && call.args.is_empty() {
            let key = |(name, value): (String, Node)| (Node { line: value.line, value: Value::Text(name) }, value);
            return Value::Dict(call.kwargs.into_iter().map(key).collect());
        }
        Value::Call(call)
    }

    /// Arguments up to the bracket that closes.
    fn arguments(&mut self, name: String) -> Call {
        let mut call = Call { name, args: Vec::new(), kwargs: Vec::new() };
        loop {
            if self.closes(")") {
                return call;
            }
            match self.kind() {
                Some(Kind::Name(name)) if self.source.is_mark(self.at + 1, "=") => {
                    let name = (*name).to_owned();
                    self.at += 2;
                    let value = self.value(false);
                    call.kwargs.push((name, value));
                }
                _ => {
                    let value = self.value(false);
                    call.args.push(value);
                }
            }
        }
    }

    /// Passes over separators. Whether the bracket closes here, by this mark or by a wrong one, or the source ends.
    fn closes(&mut self, mark: &str) -> bool {
        while self.takes(",") || matches!(self.kind(), Some(Kind::Newline)) {
            self.at += usize::from(matches!(self.kind(), Some(Kind::Newline)));
        }
        self.takes(mark) || matches!(self.kind(), None | Some(Kind::Mark(")" | "]" | "}")))
    }

    fn bracket(&mut self) -> Value {
        if self.depth >= MAX_DEPTH {
            return self.too_deep();
        }
        self.depth += 1;
        let value = if self.takes("{") {
            self.braces()
        } else if self.takes("[") {
            Value::List(self.items("]").0)
        } else {
            self.at += 1;
            // `(x)` is x, and `(x,)` a tuple.
            let (mut items, has_comma) = self.items(")");
            match items.pop() {
                Some(one) if items.is_empty() && !has_comma => one.value,
                last => Value::List(items.into_iter().chain(last).collect()),
            }
        };
        self.depth -= 1;
        value
    }

    fn too_deep(&mut self) -> Value {
        self.pass_over(false);
        Value::Odd(format!("it is nested more than {MAX_DEPTH} deep"))
    }

    /// Values up to the bracket that closes, and whether a comma was behind one.
    fn items(&mut self, mark: &str) -> (Vec<Node>, bool) {
        let (mut items, mut has_comma) = (Vec::new(), false);
        loop {
            has_comma |= !items.is_empty() && self.source.is_mark(self.at, ",");
            if self.closes(mark) {
                return (items, has_comma);
            }
            let item = self.value(false);
            items.push(item);
        }
    }

    /// A dict or a set.
    fn braces(&mut self) -> Value {
        let (mut pairs, mut items, mut is_dict) = (Vec::new(), Vec::new(), false);
        loop {
            if self.closes("}") {
                break;
            }
            is_dict |= self.source.is_mark(self.at, "**");
            let key = self.value(true);
            if self.takes(":") {
                let value = self.value(false);
                pairs.push((key, value));
            } else {
                items.push(key);
            }
        }
        if pairs.is_empty() && !items.is_empty() && !is_dict {
            return Value::Set(items);
        }
        // `**others` within a dict: a pair without a value.
        pairs.extend(items.into_iter().map(|key| {
            let value = Node { line: key.line, value: Value::Null };
            (key, value)
        }));
        Value::Dict(pairs)
    }
}

/// None: it cannot be computed, or not within 64 bits.
fn computed(left: Value, operator: &str, right: &Value) -> Option<Value> {
    match (left, right) {
        (Value::Text(mut left), Value::Text(right)) if operator == "+" => {
            left.push_str(right);
            Some(Value::Text(left))
        }
        (Value::Int(left), Value::Int(right)) if operator != "/" => {
            // Python rounds down, and a sign before a power comes after it: negative numbers are left to people.
            let are_positive = left >= 0 && *right >= 0;
            let number = match operator {
                "+" => left.checked_add(*right),
                "-" => left.checked_sub(*right),
                "*" => left.checked_mul(*right),
                _ if !are_positive => None,
                "//" => left.checked_div(*right),
                "%" => left.checked_rem(*right),
                "**" => u32::try_from(*right).ok().and_then(|right| left.checked_pow(right)),
                _ => None,
            };
            number.map(Value::Int)
        }
        (left, right) => {
            let (left, right) = (float(&left)?, float(right)?);
            let number = match operator {
                "+" => left + right,
                "-" => left - right,
                "*" => left * right,
                "/" => left / right,
                _ => return None,
            };
            Some(Value::Float(number)).filter(|_| number.is_finite())
        }
    }
}

/// A number as a float.
pub(super) fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

/// What a value is, for people.
pub(super) fn described(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(_) => "a truth value".into(),
        Value::Int(_) | Value::Float(_) => "a number".into(),
        Value::Text(_) => "a text".into(),
        Value::List(_) => "a list".into(),
        Value::Set(_) => "a set".into(),
        Value::Dict(_) => "a dict".into(),
        Value::Call(call) => format!("`{}(…)` is a call, which is not run", call.name),
        Value::Name(name) => format!("`{name}` is a name, and what it stands for is not known here"),
        Value::Odd(why) => why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        let source = Source::new(text, false);
        let (node, end) = source.value(0);
        assert!(end >= source.tokens.len() || source.tokens[end].kind == Kind::Newline, "{text}: {node:?}");
        node.value
    }

    fn odd(text: &str) -> String {
        match value(text) {
            Value::Odd(why) => why,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn ints(value: Value) -> Vec<Value> {
        match value {
            Value::List(items) | Value::Set(items) => items.into_iter().map(|item| item.value).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_are_computed_within_64_bits() {
        for (text, number) in
            [("24 * 60 * 60", 86_400), ("-(3 + 4)", -7), ("2 ** 10", 1_024), ("7 // 2 + 7 % 4", 6), ("--5", 5)]
        {
            assert_eq!(value(text), Value::Int(number), "{text}");
        }
        assert_eq!(value("60.0 * 5"), Value::Float(300.0));
        assert_eq!(value("1 / 4"), Value::Float(0.25));
        for text in ["2 ** 64", "9223372036854775807 + 1", "1 / 0", "1 // 0", "2 * 2 ** 3", "-7 // 2", "1 + 'a'"] {
            assert!(odd(text).contains(text), "{text}");
        }
        assert!(odd("99999999999999999999").contains("64 bits"));
    }

    #[test]
    fn lists_tuples_sets_and_dicts_are_told_apart() {
        assert_eq!(ints(value("[1, 2,]")), [Value::Int(1), Value::Int(2)]);
        assert_eq!(ints(value("(1,)")), [Value::Int(1)]);
        assert_eq!(value("(1)"), Value::Int(1));
        assert_eq!(value("()"), Value::List(Vec::new()));
        assert!(matches!(value("{1, 2}"), Value::Set(items) if items.len() == 2));
        assert_eq!(value("{}"), Value::Dict(Vec::new()));
        assert!(matches!(value("{'a': 1, **b}"), Value::Dict(pairs) if pairs.len() == 2));
        let Value::Dict(pairs) = value("dict(a=1, b='x' 'y')") else { panic!() };
        assert_eq!((&pairs[1].0.value, &pairs[1].1.value), (&Value::Text("b".into()), &Value::Text("xy".into())));
    }

    #[test]
    fn a_call_keeps_its_arguments_and_the_names_before_it() {
        let Value::Call(call) = value("celery.schedules.crontab(0, hour=[1, 2], day_of_week='mon',)") else { panic!() };
        assert_eq!((call.last_name(), call.args.len(), call.kwargs.len()), ("crontab", 1, 2));
        assert_eq!(call.kwargs[1].1.value, Value::Text("mon".into()));
    }

    #[test]
    fn what_is_no_literal_keeps_its_text_and_ends_where_it_ends() {
        let Value::Dict(pairs) = value("{'a': lambda x: x[1:2], 'b': 1 if y else 2, 'c': z.f(1)[0].g, 'd': 3}") else {
            panic!()
        };
        let values: Vec<_> = pairs.iter().map(|(_, node)| &node.value).collect();
        assert_eq!(values[0], &Value::Odd("`lambda x: x[1:2]` is no literal".into()));
        assert_eq!(values[1], &Value::Odd("`1 if y else 2` is no literal".into()));
        assert_eq!(values[2], &Value::Odd("`z.f(1)[0].g` is no literal".into()));
        assert_eq!(values[3], &Value::Int(3));
        assert!(matches!(value("[x for x in y]"), Value::List(items) if items.len() == 1));
        assert!(odd(&format!("{} + x", "a + ".repeat(50))).chars().count() < 90);
    }

    #[test]
    fn a_name_stands_for_a_number_or_a_text_that_it_was_given_once() {
        let text = "MINUTE = 60\nQ = 'mail'\nTWICE = 1\nTWICE = 2\nx = [MINUTE * 5, Q, TWICE, f.MINUTE]\n";
        let source = Source::new(text, false);
        let at = source.tokens.iter().position(|token| token.kind == Kind::Mark("[")).unwrap();
        let found = ints(source.value(at).0.value);
        let name = |name: &str| Value::Name(name.into());
        assert_eq!(found, [Value::Int(300), Value::Text("mail".into()), name("TWICE"), name("f.MINUTE")]);
    }

    #[test]
    fn deep_and_broken_texts_end() {
        for open in ["(", "[", "{", "f(", "{'a': ", "-", "1 ** ", "[-("] {
            for text in [open.repeat(10_000), format!("x = {}", open.repeat(500))] {
                let source = Source::new(&text, false);
                for at in [0, source.tokens.len() / 2] {
                    let (_, end) = source.value(at);
                    assert!(end <= source.tokens.len());
                }
            }
        }
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        value(&deep);
        for broken in
            ["{'a' 1}", "[1, 2", "(1]", "{'a': }", "{:}", ", ]", ")", "a.b.", "f(=1)", "f(a=)", "1 +", "'a' b'c'"]
        {
            let source = Source::new(broken, false);
            source.value(0);
        }
    }
}
