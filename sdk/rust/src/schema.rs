//! JSON Schemas of parameters and results, and the type tricks that find out what a return type is.
//!
//! Invariants: each schema stands alone (its `$defs` are inside it); nothing here runs outside `describe`, so a run
//! pays nothing for it.

use std::marker::PhantomData;

use schemars::{
    JsonSchema, Schema,
    generate::{Contract, SchemaGenerator, SchemaSettings},
    transform::{Transform, transform_subschemas},
};
use serde::Serialize;

use crate::raw::Parameter;

/// One parameter of a task. `default` is JSON.
pub fn parameter<T: JsonSchema>(name: &str, description: &str, default: Option<String>) -> Parameter {
    let schema = text_of(Contract::Deserialize, SchemaGenerator::root_schema_for::<T>, T::inline_schema(), description);
    Parameter { name: name.to_owned(), schema, default }
}

/// A default as JSON. One that cannot be written (a map with keys that are no texts) is described as null.
pub fn default_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// A schema as text. Not generic, so that a module of many types holds it once.
fn text_of(
    contract: Contract,
    root_schema: fn(&mut SchemaGenerator) -> Schema,
    is_inline: bool,
    description: &str,
) -> String {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.meta_schema = None;
        s.contract = contract;
    });
    let mut schema = root_schema(&mut settings.with_transform(IntegerBounds).into_generator());
    if is_inline {
        // "int64" and the like, which say nothing that `format` does not.
        schema.remove("title");
    }
    if !description.is_empty() {
        schema.insert("description".to_owned(), description.into());
    }
    schema.as_value().to_string()
}

/// Adds the bounds that `format` only names, so that a value which the guest could not read is refused when it is
/// submitted and not when it runs.
#[derive(Debug, Clone)]
struct IntegerBounds;

impl Transform for IntegerBounds {
    fn transform(&mut self, schema: &mut Schema) {
        let format = schema.get("format").and_then(|f| f.as_str()).unwrap_or_default();
        let bounds = match format {
            "int32" => Some((i64::from(i32::MIN).into(), i64::from(i32::MAX).into())),
            "int64" => Some((i64::MIN.into(), i64::MAX.into())),
            "uint32" => Some((0.into(), u32::MAX.into())),
            "uint64" => Some((0.into(), u64::MAX.into())),
            // `isize` and `usize` of a guest have 32 bits.
            "int" => Some((i64::from(i32::MIN).into(), i64::from(i32::MAX).into())),
            "uint" => Some((0.into(), u32::MAX.into())),
            _ => None,
        };
        if let Some((minimum, maximum)) = bounds {
            let object = schema.ensure_object();
            object.entry("minimum").or_insert(minimum);
            object.entry("maximum").or_insert(maximum);
        }
        transform_subschemas(self, schema);
    }
}

/// Asks for the schema of a return type, by autoref: a `Result`'s value first, then any type with a schema, then none.
pub struct Returns<R>(PhantomData<fn() -> R>);

impl<R> Returns<R> {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

fn result_schema<T: JsonSchema>() -> Option<String> {
    Some(text_of(Contract::Serialize, SchemaGenerator::root_schema_for::<T>, T::inline_schema(), ""))
}

/// First choice: the value of a `Result`.
pub trait ResultReturns {
    fn schema(&self) -> Option<String>;
}

impl<T: JsonSchema, E> ResultReturns for &&Returns<Result<T, E>> {
    fn schema(&self) -> Option<String> {
        result_schema::<T>()
    }
}

/// Second choice: any type with a schema.
pub trait PlainReturns {
    fn schema(&self) -> Option<String>;
}

impl<T: JsonSchema> PlainReturns for &Returns<T> {
    fn schema(&self) -> Option<String> {
        result_schema::<T>()
    }
}

/// Last choice: nothing is said about the result.
pub trait AnyReturns {
    fn schema(&self) -> Option<String>;
}

impl<T> AnyReturns for Returns<T> {
    fn schema(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn schema<T: JsonSchema>() -> Value {
        serde_json::from_str(&parameter::<T>("x", "", None).schema).unwrap()
    }

    #[test]
    fn integers_carry_the_bounds_of_their_type() {
        assert_eq!(schema::<u32>(), json!({"type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX}));
        assert_eq!(schema::<Option<i64>>()["maximum"], json!(i64::MAX));
        assert_eq!(schema::<Vec<usize>>()["items"]["maximum"], json!(u32::MAX));
    }

    #[test]
    fn a_schema_of_a_recursive_type_stands_alone() {
        #[derive(JsonSchema)]
        #[allow(dead_code)]
        struct Tree {
            leaf: Leaf,
            children: Vec<Tree>,
        }
        #[derive(JsonSchema)]
        #[allow(dead_code)]
        struct Leaf {
            size: u32,
        }
        let schema = schema::<Tree>();
        assert_eq!(schema["properties"]["leaf"]["$ref"], json!("#/$defs/Leaf"));
        assert_eq!(schema["$defs"]["Leaf"]["properties"]["size"]["maximum"], json!(u32::MAX));
        assert_eq!(schema["properties"]["children"]["items"]["$ref"], json!("#"));
        assert!(schema.get("$schema").is_none());
    }

    #[test]
    // As the macro writes it, which cannot know where the ladder ends.
    #[allow(clippy::needless_borrow)]
    fn a_result_type_is_described_by_its_value() {
        struct Opaque;
        assert_eq!((&&&Returns::<Result<bool, Opaque>>::new()).schema().as_deref(), Some(r#"{"type":"boolean"}"#));
        assert_eq!((&&&Returns::<()>::new()).schema().as_deref(), Some(r#"{"type":"null"}"#));
        assert_eq!((&&&Returns::<Opaque>::new()).schema(), None);
        assert_eq!((&&&Returns::<Result<Opaque, ()>>::new()).schema(), None);
    }
}
