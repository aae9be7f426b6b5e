//! The cost of checking a value against a schema, bounded before the check begins.
//!
//! Without references a schema is a tree, and a check meets each pair of a schema's node and a value's node once at
//! most. References can make a small schema mean a huge tree, and recursion can make the work exponential in the
//! value's depth. So: the tree with its references unfolded is bounded when the schema is compiled; recursion that
//! consumes nothing of the value is refused; and where the product could be large, the steps are counted on the value
//! itself before the real check runs. References must point into the schema itself by JSON pointer.
//!
//! A pattern takes time for each byte of a text times the size of the compiled pattern; both are bounded and charged.

use std::collections::HashMap;

use jsonschema::{PatternOptions, Validator};
use serde_json::{Map, Value, json};

use crate::problem::cut;

/// Nodes of a schema with its references unfolded, each cycle once.
pub(super) const MAX_NODES: usize = 20_000;
/// Patterns of one schema: each is compiled.
const MAX_PATTERNS: usize = 32;
/// Schemas within schemas, references unfolded, each cycle once: the check recurses, and stacks end.
const MAX_DEPTH: usize = 200;
/// Steps of one check: about 0.1 s.
pub(super) const MAX_STEPS: u64 = 1_000_000;
/// Steps of a check that may run on an async thread: about 1 ms.
pub(super) const INLINE_STEPS: u64 = 10_000;
/// Bytes of one compiled pattern.
pub(super) const MAX_PATTERN_BYTES: usize = 64 << 10;
/// Bytes of a text, or of a field's name, that a pattern looks at.
const MAX_PATTERN_TEXT: usize = 8 << 10;
/// Steps for a byte of text, by the bytes that the compiled pattern stays within: a step is worth about 256 of
/// them, 20 to 100 ns where no automaton fits.
const PATTERN_STEPS: [(usize, u64); 4] = [(1 << 10, 4), (4 << 10, 16), (16 << 10, 64), (MAX_PATTERN_BYTES, 256)];
/// Bytes of a text that are counted or compared in a step.
const TEXT_BYTES_A_STEP: u64 = 256;
/// Schemas within schemas that one check may enter, cycles unfolded.
const MAX_CHECK_DEPTH: usize = 500;

/// The cost of one schema, as far as it is known without a value.
#[derive(Debug, Default)]
pub(super) struct Cost {
    /// References unfolded, each cycle once.
    pub(super) nodes: usize,
    /// References unfolded.
    pub(super) patterns: usize,
    /// The product of nodes and bytes says too little: the steps are counted on each value.
    walked: bool,
    /// `unevaluatedProperties` or `unevaluatedItems` is used: the schemas beside it are checked again for it.
    unevaluated: bool,
    /// Steps for a byte of text, by pattern.
    weights: HashMap<String, u64>,
}

/// Keywords whose schemas see the same value.
const SAME_ONE: [&str; 4] = ["not", "if", "then", "else"];
const SAME_MANY: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const SAME_NAMED: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords whose schemas see a part of the value.
const PART_ONE: [&str; 8] = [
    "additionalProperties",
    "propertyNames",
    "items",
    "additionalItems",
    "contains",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
];
const PART_MANY: [&str; 2] = ["prefixItems", "items"];
const PART_NAMED: [&str; 2] = ["properties", "patternProperties"];

impl Cost {
    /// Refuses a schema that cannot be bounded, and says why.
    pub(super) fn of(root: &Value) -> Result<Self, String> {
        let mut survey = Survey { root, cost: Self::default(), depth: 0, recursive: false, open: Vec::new() };
        survey.visit(root, true)?;
        let Survey { cost, recursive, .. } = survey;
        Ok(Self { walked: recursive || cost.unevaluated || cost.patterns > 0, ..cost })
    }

    /// Whether a check of `value`, `bytes` long as JSON, stays within so many steps.
    pub(super) fn allows(&self, root: &Value, value: &Value, bytes: usize, max_steps: u64) -> bool {
        // A value has at most one node in two bytes, and one more; and patterns cost more than that.
        let cheap = !self.walked && (self.nodes as u64).saturating_mul(bytes as u64 / 2 + 1) <= max_steps;
        cheap || Walk { root, cost: self, max_steps, steps: 0, depth: 0 }.visit(root, value).is_some()
    }
}

/// A schema compiled, with patterns of at most so many bytes each. Nothing remote is fetched.
pub(super) fn validator(schema: &Value, pattern_bytes: usize) -> Result<Validator, String> {
    let options = PatternOptions::regex().size_limit(pattern_bytes);
    jsonschema::options().offline().with_pattern_options(options).build(schema).map_err(|error| error.to_string())
}

/// Steps for a byte of text under `pattern`, by the smallest limit that it compiles within.
fn weight(pattern: &str) -> Result<u64, String> {
    let schema = json!({ "pattern": pattern });
    let mut problem = String::new();
    for (bytes, steps) in PATTERN_STEPS {
        match validator(&schema, bytes) {
            Ok(_) => return Ok(steps),
            Err(error) => problem = error,
        }
    }
    Err(cut(&format!("a pattern cannot be used (compiled it has at most {MAX_PATTERN_BYTES} bytes): {problem}")))
}

/// Entries of lists that a check goes through whatever the value.
fn listed(schema: &Map<String, Value>) -> usize {
    let lists = ["enum", "required"].iter().filter_map(|key| schema.get(*key)?.as_array()).map(Vec::len);
    let named = |key: &str| schema.get(key).and_then(Value::as_object);
    let dependent = ["dependentRequired", "dependencies"].iter().filter_map(|key| named(key)).flat_map(Map::values);
    let dependent = dependent.map(|names| 1 + names.as_array().map_or(0, Vec::len));
    lists.sum::<usize>() + dependent.sum::<usize>() + named("properties").map_or(0, Map::len)
}

/// Steps to compare or hash all of a value.
fn steps_of(value: &Value) -> u64 {
    1 + match value {
        Value::String(text) => text.len() as u64 / TEXT_BYTES_A_STEP,
        Value::Array(items) => items.iter().map(steps_of).sum(),
        Value::Object(fields) => fields.iter().map(|(n, v)| n.len() as u64 / TEXT_BYTES_A_STEP + steps_of(v)).sum(),
        _ => 0,
    }
}

/// The schema that a reference means, if it points into `root`.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

fn children<'a>(schema: &'a Map<String, Value>, one: &[&str], many: &[&str], named: &[&str]) -> Vec<&'a Value> {
    let single = one.iter().filter_map(|key| schema.get(*key)).filter(|v| v.is_object() || v.is_boolean());
    let listed = many.iter().filter_map(|key| schema.get(*key)?.as_array()).flatten();
    let by_name = named.iter().filter_map(|key| schema.get(*key)?.as_object()).flat_map(Map::values);
    single.chain(listed).chain(by_name).collect()
}

/// Measures the schema by itself.
struct Survey<'a> {
    root: &'a Value,
    cost: Cost,
    depth: usize,
    recursive: bool,
    /// References being unfolded, and whether a part of the value was entered since.
    open: Vec<(&'a str, bool)>,
}

impl<'a> Survey<'a> {
    fn visit(&mut self, node: &'a Value, is_root: bool) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} levels with its references unfolded"));
        }
        self.measure(node, is_root)?;
        self.depth -= 1;
        Ok(())
    }

    fn measure(&mut self, node: &'a Value, is_root: bool) -> Result<(), String> {
        let Some(schema) = node.as_object() else { return self.count(1) };
        self.count(1 + listed(schema) + schema.len())?;
        self.cost.unevaluated |= is_unevaluated(schema);
        for key in ["$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor"] {
            if schema.contains_key(key) {
                return Err(format!("`{key}` is not taken; use `$ref` with a JSON pointer"));
            }
        }
        if schema.contains_key("$id") && !is_root {
            return Err("`$id` is taken at the top only".into());
        }
        let named = schema.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        self.cost.patterns += named + usize::from(schema.contains_key("pattern"));
        if self.cost.patterns > MAX_PATTERNS {
            return Err(format!("it has more than {MAX_PATTERNS} patterns"));
        }
        for pattern in patterns(schema) {
            if !self.cost.weights.contains_key(pattern) {
                self.cost.weights.insert(pattern.to_owned(), weight(pattern)?);
            }
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            self.follow(reference)?;
        }
        for child in children(schema, &SAME_ONE, &SAME_MANY, &SAME_NAMED) {
            self.visit(child, false)?;
        }
        let entered: Vec<bool> = self.open.iter().map(|(_, entered)| *entered).collect();
        self.open.iter_mut().for_each(|(_, entered)| *entered = true);
        for child in children(schema, &PART_ONE, &PART_MANY, &PART_NAMED) {
            self.visit(child, false)?;
        }
        self.open.iter_mut().zip(entered).for_each(|((_, now), before)| *now = before);
        Ok(())
    }

    fn follow(&mut self, reference: &'a str) -> Result<(), String> {
        let missing = || {
            format!("`$ref` {:?} is not a JSON pointer into the schema", reference.chars().take(64).collect::<String>())
        };
        let node = target(self.root, reference).ok_or_else(missing)?;
        match self.open.iter().find(|(open, _)| *open == reference) {
            Some((_, true)) => {
                self.recursive = true;
                Ok(())
            }
            Some((_, false)) => Err(format!("`$ref` {reference:?} leads back to itself and consumes nothing")),
            None => {
                self.open.push((reference, false));
                self.visit(node, std::ptr::eq(node, self.root))?;
                self.open.pop();
                Ok(())
            }
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.cost.nodes += nodes;
        if self.cost.nodes > MAX_NODES {
            return Err(format!("it has more than {MAX_NODES} parts with its references unfolded"));
        }
        Ok(())
    }
}

fn is_unevaluated(schema: &Map<String, Value>) -> bool {
    schema.contains_key("unevaluatedProperties") || schema.contains_key("unevaluatedItems")
}

/// The patterns that a schema itself applies.
fn patterns(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let own = schema.get("pattern").and_then(Value::as_str);
    own.into_iter().chain(patterns_of_names(schema))
}

fn patterns_of_names(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    schema.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(Map::keys).map(String::as_str)
}

/// Counts the steps of a check at their worst: every branch taken.
struct Walk<'a> {
    root: &'a Value,
    cost: &'a Cost,
    max_steps: u64,
    steps: u64,
    depth: usize,
}

impl Walk<'_> {
    /// None when there are too many.
    fn visit(&mut self, node: &Value, value: &Value) -> Option<()> {
        self.depth += 1;
        if self.depth > MAX_CHECK_DEPTH {
            return None;
        }
        self.step(node, value)?;
        self.depth -= 1;
        Some(())
    }

    fn step(&mut self, node: &Value, value: &Value) -> Option<()> {
        let Some(schema) = node.as_object() else { return self.charge(1) };
        self.charge(1 + (schema.len() + listed(schema)) as u64)?;
        self.whole(schema, value)?;
        // To learn what is not evaluated yet, the schemas beside are checked again, and those within them.
        let rounds = if is_unevaluated(schema) { 3 } else { 1 };
        for _ in 0..rounds {
            if let Some(node) = schema.get("$ref").and_then(Value::as_str).and_then(|r| target(self.root, r)) {
                self.visit(node, value)?;
            }
            for child in children(schema, &SAME_ONE, &SAME_MANY, &SAME_NAMED) {
                self.visit(child, value)?;
            }
        }
        match value {
            Value::String(text) => {
                schema.get("pattern").and_then(Value::as_str).map_or(Some(()), |p| self.text(p, text))
            }
            Value::Array(items) => self.items(schema, items),
            Value::Object(fields) => self.fields(schema, fields),
            _ => Some(()),
        }
    }

    fn charge(&mut self, steps: u64) -> Option<()> {
        // Below one `unevaluated…` a schema is checked again for each level above it.
        let again = if self.cost.unevaluated { self.depth as u64 } else { 1 };
        self.steps = self.steps.saturating_add(steps.saturating_mul(again));
        (self.steps <= self.max_steps).then_some(())
    }

    /// Keywords that look at a value as a whole: lengths, comparisons, uniqueness.
    fn whole(&mut self, schema: &Map<String, Value>, value: &Value) -> Option<()> {
        if let Value::String(text) = value {
            self.charge(text.len() as u64 / TEXT_BYTES_A_STEP)?;
        }
        let compared = schema.get("enum").and_then(Value::as_array).map_or(0, Vec::len) as u64;
        let compared = compared + u64::from(schema.contains_key("const"));
        // Few items are compared in pairs, many are hashed.
        let unique = if value.is_array() && schema.contains_key("uniqueItems") { 8 } else { 0 };
        match compared + unique {
            0 => Some(()),
            times => self.charge(times.saturating_mul(steps_of(value))),
        }
    }

    /// A pattern over a text.
    fn text(&mut self, pattern: &str, text: &str) -> Option<()> {
        if text.len() > MAX_PATTERN_TEXT {
            return None;
        }
        // The survey has met every pattern; one that it did not meet would be the dearest.
        let weight = self.cost.weights.get(pattern).copied().unwrap_or(PATTERN_STEPS[3].1);
        self.charge((text.len() as u64 + 1) * weight)
    }

    fn items(&mut self, schema: &Map<String, Value>, items: &[Value]) -> Option<()> {
        for key in PART_MANY {
            for (node, item) in schema.get(key).and_then(Value::as_array).into_iter().flatten().zip(items) {
                self.visit(node, item)?;
            }
        }
        for node in children(schema, &["items", "additionalItems", "contains", "unevaluatedItems"], &[], &[]) {
            for item in items {
                self.visit(node, item)?;
            }
        }
        Some(())
    }

    fn fields(&mut self, schema: &Map<String, Value>, fields: &Map<String, Value>) -> Option<()> {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, field) in fields {
            self.charge(name.len() as u64 / TEXT_BYTES_A_STEP)?;
            for pattern in patterns_of_names(schema) {
                // Once for its own schema, once to learn whether the field is additional.
                self.text(pattern, name)?;
                self.text(pattern, name)?;
            }
            for node in children(schema, &["propertyNames"], &[], &[]) {
                self.visit(node, &Value::String(name.clone()))?;
            }
            if let Some(node) = properties.and_then(|p| p.get(name)) {
                self.visit(node, field)?;
            }
            let any = ["additionalProperties", "unevaluatedProperties"];
            for node in children(schema, &any, &[], &["patternProperties"]) {
                self.visit(node, field)?;
            }
        }
        Some(())
    }
}
