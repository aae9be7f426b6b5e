//! What checking a value against a schema may cost, decided before the check begins.
//!
//! Without references a schema is a tree, and a check meets each pair of a schema's node and a value's node once at
//! most. References can make a small schema mean a huge tree, and recursion can make the work exponential in the
//! value's depth. So: the tree with its references unfolded is bounded when the schema is compiled; recursion that
//! consumes nothing of the value is refused; and where the product could be large, the steps are counted on the value
//! itself before the real check runs. References must point into the schema itself by JSON pointer.

use serde_json::{Map, Value};

/// Nodes of a schema with its references unfolded, each cycle once.
const MAX_NODES: usize = 20_000;
/// Patterns of one schema: each is compiled.
const MAX_PATTERNS: usize = 32;
/// Schemas within schemas, references unfolded, each cycle once: the check recurses, and stacks end.
const MAX_DEPTH: usize = 200;
/// Steps of one check: about 0.1 s.
const MAX_STEPS: u64 = 1_000_000;
/// Schemas within schemas that one check may enter, cycles unfolded.
const MAX_CHECK_DEPTH: usize = 500;

/// What is known of a schema's cost.
#[derive(Debug)]
pub(super) struct Cost {
    nodes: u64,
    /// References unfolded.
    pub(super) patterns: usize,
    recursive: bool,
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
        let mut survey = Survey { root, nodes: 0, patterns: 0, depth: 0, recursive: false, open: Vec::new() };
        survey.visit(root, true)?;
        Ok(Self { nodes: survey.nodes as u64, patterns: survey.patterns, recursive: survey.recursive })
    }

    /// Whether a check of `value`, `bytes` long as JSON, stays within its steps.
    pub(super) fn allows(&self, root: &Value, value: &Value, bytes: usize) -> bool {
        // A value has at most one node in two bytes, and one more.
        let cheap = !self.recursive && self.nodes.saturating_mul(bytes as u64 / 2 + 1) <= MAX_STEPS;
        cheap || Walk { root, steps: 0, depth: 0 }.visit(root, value).is_some()
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
    nodes: usize,
    patterns: usize,
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
        let listed = schema.get("enum").and_then(Value::as_array).map_or(0, Vec::len);
        self.count(1 + listed + schema.len())?;
        for key in ["$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor"] {
            if schema.contains_key(key) {
                return Err(format!("`{key}` is not taken; use `$ref` with a JSON pointer"));
            }
        }
        if schema.contains_key("$id") && !is_root {
            return Err("`$id` is taken at the top only".into());
        }
        let named = schema.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        self.patterns += named + usize::from(schema.contains_key("pattern"));
        if self.patterns > MAX_PATTERNS {
            return Err(format!("it has more than {MAX_PATTERNS} patterns"));
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
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(format!("it has more than {MAX_NODES} parts with its references unfolded"));
        }
        Ok(())
    }
}

/// Counts the steps of a check at their worst: every branch taken.
struct Walk<'a> {
    root: &'a Value,
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
        let schema = node.as_object();
        let listed = schema.and_then(|s| s.get("enum")?.as_array()).map_or(0, Vec::len);
        self.steps += 1 + schema.map_or(0, Map::len) as u64 + listed as u64;
        if self.steps > MAX_STEPS {
            return None;
        }
        let Some(schema) = schema else { return Some(()) };
        if let Some(node) = schema.get("$ref").and_then(Value::as_str).and_then(|r| target(self.root, r)) {
            self.visit(node, value)?;
        }
        for child in children(schema, &SAME_ONE, &SAME_MANY, &SAME_NAMED) {
            self.visit(child, value)?;
        }
        match value {
            Value::Array(items) => self.items(schema, items),
            Value::Object(fields) => self.fields(schema, fields),
            _ => Some(()),
        }
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
