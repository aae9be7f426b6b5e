//! Bombs in schemas and arguments are refused before they go off.

use serde_json::{Map, json};

use super::*;

fn compile(schema: Value) -> Result<Compiled, String> {
    Compiled::new(&schema, Cost::of(&schema)?)
}

fn verdict(compiled: &Compiled, value: &Value) -> Result<(), Complaints> {
    compiled.check(value, value.to_string().len())
}

#[test]
fn complaints_point_into_the_argument() {
    let schema = json!({"type": "object", "properties": {"a/b": {"type": "integer"}}, "required": ["c"]});
    let Err(Complaints::Wrong(complaints)) = verdict(&compile(schema).unwrap(), &json!({"a/b": "x"})) else {
        panic!("it is wrong")
    };
    let pointers: Vec<&str> = complaints.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers.len(), 2);
    assert!(pointers.contains(&"/a~1b") && pointers.contains(&""));
}

#[test]
fn a_reference_that_leads_to_itself_is_refused() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}),
    ] {
        assert!(compile(schema).unwrap_err().contains("leads back to itself"));
    }
}

#[test]
fn a_schema_that_unfolds_without_end_is_refused() {
    let mut defs = Map::new();
    for n in 0..40 {
        let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
        defs.insert(format!("d{n}"), json!({"allOf": [next, next]}));
    }
    defs.insert("d40".into(), json!({"type": "integer"}));
    let schema = json!({"$ref": "#/$defs/d0", "$defs": defs});
    assert!(compile(schema).unwrap_err().contains("unfolded"));
}

#[test]
fn a_recursive_type_is_taken() {
    let tree = json!({
        "$ref": "#/$defs/Tree",
        "$defs": {"Tree": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
            "required": ["children"],
        }},
    });
    let compiled = compile(tree).unwrap();
    assert!(verdict(&compiled, &json!({"children": [{"children": []}, {"children": []}]})).is_ok());
    assert!(matches!(verdict(&compiled, &json!({"children": [{}]})), Err(Complaints::Wrong(_))));
}

#[test]
fn work_that_doubles_with_each_level_is_refused_for_deep_arguments() {
    let again = json!({"properties": {"a": {"$ref": "#"}}});
    let compiled = compile(json!({"allOf": [again, again]})).unwrap();
    let mut value = json!({});
    for _ in 0..5 {
        value = json!({"a": value});
    }
    assert!(verdict(&compiled, &value).is_ok());
    for _ in 0..60 {
        value = json!({"a": value});
    }
    assert!(matches!(verdict(&compiled, &value), Err(Complaints::TooComplex)));
}

#[test]
fn a_pattern_that_would_backtrack_or_grow_is_harmless() {
    let compiled = compile(json!({"type": "string", "pattern": "^(a+)+$"})).unwrap();
    assert!(verdict(&compiled, &json!(format!("{}b", "a".repeat(50_000)))).is_err());
    assert!(compile(json!({"pattern": "((a{1000}){1000}){1000}"})).is_err());
    let many: Vec<Value> = (0..100).map(|n| json!({"pattern": format!("a{n}")})).collect();
    assert!(compile(json!({"anyOf": many})).unwrap_err().contains("patterns"));
}

#[test]
fn nothing_remote_is_fetched() {
    for reference in ["https://example.com/schema.json", "file:///etc/passwd", "other.json"] {
        assert!(compile(json!({"$ref": reference})).is_err());
    }
}

#[test]
fn a_schema_that_takes_everything_costs_nothing() {
    let parameter = |schema| Parameter { name: "x".into(), schema, default: None };
    let schemas = Schemas::compile(&[parameter(json!(true)), parameter(json!({"title": "Any"}))]).unwrap();
    assert!(schemas.parameters.iter().all(Option::is_none));
}
