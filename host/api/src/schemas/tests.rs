//! Bombs in schemas and arguments are refused before they go off.

use futures::FutureExt as _;
use serde_json::{Map, json};

use super::*;

fn compile(schema: Value) -> Result<Compiled, String> {
    let cost = Cost::of(&schema)?;
    Compiled::new(schema, cost)
}

fn verdict(compiled: &Compiled, value: &Value) -> Result<(), Complaints> {
    compiled.check(value, value.to_string().len())
}

fn parameter(name: &str, schema: Value) -> Parameter {
    Parameter { name: name.into(), schema: (&schema).into(), default: None }
}

fn checker(schema: Value) -> SchemaChecker {
    SchemaChecker {
        tenant: TenantId::new("t1").unwrap(),
        schemas: Arc::new(Schemas::compile(&[parameter("x", schema)]).unwrap()),
        turns: Arc::new(FairSemaphore::new(HEAVY_CHECKS, 1, Duration::from_secs(10))),
    }
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
    let schemas = Schemas::compile(&[parameter("x", json!(true)), parameter("y", json!({"title": "Any"}))]).unwrap();
    assert!(schemas.parameters.iter().all(Option::is_none));
}

#[test]
fn a_large_pattern_is_refused_when_pushed() {
    assert!(compile(json!({"pattern": "a[ab]{2000}c"})).unwrap_err().contains("pattern"));
    assert!(compile(json!({"patternProperties": {"a[ab]{2000}c": true}})).is_err());
    for usual in [
        "^[a-z][a-z0-9_-]{0,62}$",
        r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$",
        "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
        r"^[\w.+-]+@[\w-]+(\.[\w-]+)+$",
        "^sha256:[0-9a-f]{64}$",
        "^https?://[^\\s/?#]+[^\\s]*$",
        r"^\S+$",
        "^.{1,40}$",
    ] {
        let compiled = compile(json!({"type": "string", "pattern": usual}));
        assert!(compiled.is_ok(), "{usual}: {compiled:?}");
    }
}

#[test]
fn a_long_text_under_a_pattern_is_refused_at_once() {
    let long = "a".repeat(900_000);
    for (schema, value) in [
        (json!({"pattern": "b$"}), json!(long)),
        (json!({"items": {"allOf": [{"pattern": "b$"}]}}), json!([long])),
        (json!({"patternProperties": {"b$": true}}), json!({long.clone(): 1})),
        (json!({"propertyNames": {"pattern": "b$"}}), json!({long.clone(): 1})),
    ] {
        assert!(matches!(verdict(&compile(schema).unwrap(), &value), Err(Complaints::TooComplex)));
    }
    assert!(verdict(&compile(json!({"type": "string", "maxLength": 1_000_000})).unwrap(), &json!(long)).is_ok());
}

#[test]
fn patterns_are_charged_for_each_byte_and_a_usual_list_passes() {
    // Irregular, so that no automaton is small.
    let next = |seed: &u32| Some(seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let letters = std::iter::successors(Some(7), next).map(|n| if n >> 30 & 1 == 0 { 'a' } else { 'b' });
    let text: String = letters.take(1_000).collect();
    let texts = |count: usize| Value::from(vec![text.clone(); count]);
    for pattern in ["a[ab]{100}[cd]", "a[ab]{600}[cd]"] {
        let compiled = compile(json!({"items": {"pattern": pattern}})).unwrap();
        assert!(matches!(verdict(&compiled, &texts(100)), Err(Complaints::TooComplex)));
        let allowed = |n: &usize| compiled.cost.allows(&compiled.schema, &texts(*n), 1 << 20, MAX_STEPS);
        let most = texts((1..100).take_while(allowed).last().unwrap());
        let started = std::time::Instant::now();
        assert!(matches!(verdict(&compiled, &most), Err(Complaints::Wrong(_))));
        // Some 50 ms in fact; generous, because test machines are busy.
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    }
    let mails = compile(json!({"items": {"pattern": r"^[\w.+-]+@[\w-]+\.[a-z]+$"}})).unwrap();
    assert!(verdict(&mails, &Value::from(vec!["someone@example.com"; 1_000])).is_ok());
}

#[test]
fn lists_and_lengths_met_again_and_again_are_charged() {
    let many = |node: Value| {
        let again: Vec<Value> = (0..4_000).map(|_| json!({"$ref": "#/$defs/a"})).collect();
        compile(json!({"allOf": again, "$defs": {"a": node}})).unwrap()
    };
    let numbers = Value::from((0..100_000).collect::<Vec<u32>>());
    assert!(matches!(verdict(&many(json!({"uniqueItems": true})), &numbers), Err(Complaints::TooComplex)));
    let text = json!("x".repeat(900_000));
    assert!(matches!(verdict(&many(json!({"minLength": 1})), &text), Err(Complaints::TooComplex)));
}

#[test]
fn unevaluated_within_unevaluated_is_charged() {
    let nested = |levels: usize| {
        let mut schema = json!({"properties": {"a": true}});
        for _ in 0..levels {
            schema = json!({"anyOf": [schema], "unevaluatedProperties": false});
        }
        compile(schema).unwrap()
    };
    assert!(verdict(&nested(2), &json!({"a": 1})).is_ok());
    assert!(matches!(verdict(&nested(40), &json!({"a": 1})), Err(Complaints::TooComplex)));
}

#[tokio::test]
async fn a_long_check_runs_elsewhere_and_answers_the_same() {
    let schema = json!({"type": "array", "items": {"type": "integer"}});
    let checker = checker(schema);
    let raw = |value: Value| RawValue::from_string(value.to_string()).unwrap();
    let mut many = vec![json!(1); 50_000];
    assert!(checker.check(0, &raw(many.clone().into())).await.is_ok());
    many.push(json!("x"));
    assert!(matches!(checker.check(0, &raw(many.into())).await, Err(Complaints::Wrong(_))));
    assert_eq!(checker.turns.free(), HEAVY_CHECKS);
}

#[tokio::test]
async fn a_large_argument_is_not_parsed_before_its_turn() {
    let checker = checker(json!({"type": "array", "items": {"type": ["object", "array"]}}));
    let _held = checker.turns.acquire(&checker.tenant).await.unwrap();
    // Not even what is wrong with its text is known before: a number that is too large.
    let bomb = RawValue::from_string(format!("[1e999{}]", ",{\"\":0}".repeat(INLINE_BYTES / 7))).unwrap();
    assert!(checker.check(0, &bomb).now_or_never().is_none());
    let small = RawValue::from_string("[{}]".into()).unwrap();
    assert!(checker.check(0, &small).now_or_never().is_some_and(|answer| answer.is_ok()));
}

#[test]
fn the_schemas_of_a_task_have_a_limit_together() {
    let nested = json!({ "default": vec![json!({"": 0}); 8_000] });
    let parameters: Vec<_> = (0..64).map(|n| parameter(&format!("p{n}"), nested.clone())).collect();
    assert!(Schemas::compile(&parameters).unwrap_err().contains("commas and brackets together"));
    let fields = |count: u32, of: Value| (0..count).map(|n| (n.to_string(), of.clone())).collect::<Map<_, _>>();
    let unfolded = json!({
        "properties": fields(20, json!({"$ref": "#/$defs/a"})),
        "$defs": {"a": {"properties": fields(30, json!({}))}},
    });
    let parameters: Vec<_> = (0..64).map(|n| parameter(&format!("p{n}"), unfolded.clone())).collect();
    assert!(Schemas::compile(&parameters[..2]).is_ok());
    assert!(Schemas::compile(&parameters).unwrap_err().contains("references unfolded"));
}

#[tokio::test]
async fn the_patterns_of_a_module_have_a_limit_together() {
    let patterns: Vec<Value> = (0..MAX_TASK_PATTERNS / 4).map(|n| json!({ "pattern": format!("a{n}") })).collect();
    let task = |n: usize| TaskDescription {
        name: TaskName::new(format!("t{n}")).unwrap(),
        description: String::new(),
        parameters: vec![parameter("x", json!({ "allOf": patterns }))],
        returns: None,
        policy: Default::default(),
    };
    let most = MAX_MODULE_PATTERNS / patterns.len();
    let info = |tasks: usize| ModuleInfo {
        digest: Digest::of(b"m"),
        size_bytes: 1,
        core_module: false,
        imports: Vec::new(),
        tasks: (0..tasks).map(task).collect(),
        permissions: None,
        pushed_at: None,
        deleted_at: None,
    };
    let (cache, tenant) = (SchemaCache::new(Duration::from_secs(10)), TenantId::new("t1").unwrap());
    assert!(cache.check_module(&tenant, &info(most)).await.is_ok());
    assert_eq!(cache.check_module(&tenant, &info(most + 1)).await.unwrap_err().code(), "schema_invalid");
}
