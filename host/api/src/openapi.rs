//! The parts of the OpenAPI document that are not routes.

use serde_json::{Value, json};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, ObjectBuilder, OpenApi as Document, Ref, RefOr, Required, ResponseBuilder, Type,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use umbel_model::policy::MAX_PATTERNS;

use crate::{
    canvas_schema::{ChainStep, ChordStep, GroupStep, Step, StepOptions, TaskStep},
    paging::MAX_LIMIT,
    problem::ProblemBody,
    routes::workers::MAX_SLOTS,
    views::PolicyFields,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Umbel",
        description = "Background jobs for people who must not trust each other's code. Failures are RFC 9457 problems with a stable `code`; times are RFC 3339 in UTC; lists have opaque cursors.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "modules", description = "Uploaded components, immutable, named by their digest"),
        (name = "tasks", description = "Named functions of modules; a task's name points at one digest at a time"),
        (name = "jobs", description = "Calls of tasks"),
        (name = "workflows", description = "Canvases: tasks in chains, groups and chords, submitted as one"),
        (name = "schedules", description = "What starts jobs and workflows by the clock"),
        (name = "bulk", description = "Actions on many jobs, carried out in the background"),
        (name = "queues", description = "Where jobs wait"),
        (name = "usage", description = "What attempts used, summed by hour and task"),
        (name = "blobs", description = "Files of the tenant, to which arguments and results refer"),
        (name = "secrets", description = "Secrets that tasks use and nobody reads"),
        (name = "kv", description = "Key-value entries that tasks keep, in buckets"),
        (name = "config", description = "Values that tasks are configured with"),
        (name = "tokens", description = "Bearer tokens: who may call"),
        (name = "tenant", description = "Limits of all jobs of a tenant, and the routes to its queues"),
        (name = "dead", description = "Failed jobs kept for inspection and redrive"),
        (name = "workers", description = "Processes that run jobs"),
        (name = "health", description = "Whether the server lives and is ready"),
    ),
    components(schemas(ProblemBody, Step, TaskStep, ChainStep, GroupStep, ChordStep, StepOptions, PolicyFields)),
    modifiers(&Security),
)]
pub(crate) struct Base;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("umbel_…").build();
        if let Some(components) = document.components.as_mut() {
            components.add_security_scheme("token", SecurityScheme::Http(scheme));
        }
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// Adds what is the same for every operation: the parameters of its path, a name that is unique, and how it fails.
pub(crate) fn complete(mut document: Document) -> Document {
    for (path, item) in &mut document.paths.paths {
        operations(item).for_each(|operation| complete_operation(path, operation));
    }
    document
}

/// Bounds of numbers that are the same on every server: the schema, the field, the least and the largest value. Servers may have
/// narrower ones.
const BOUNDS: [(&str, &str, u64, Option<u64>); 19] = [
    ("PolicyFields", "priority", 0, Some(9)),
    ("PolicyFields", "max_retries", 0, None),
    ("PolicyFields", "retry_fuel_factor", 1, Some(1_000)),
    ("PolicyFields", "rate_burst", 1, Some(1_000_000)),
    ("PolicyFields", "key_rate_burst", 1, Some(1_000_000)),
    ("PolicyFields", "max_deliveries", 1, None),
    ("PolicyFields", "time_limit_ms", 1, None),
    ("PolicyFields", "soft_time_limit_ms", 0, None),
    ("PolicyFields", "fuel", 1, None),
    ("PolicyFields", "memory_bytes", 64 << 10, None),
    ("PolicyFields", "expires_ms", 0, None),
    ("PolicyFields", "result_ttl_ms", 0, None),
    ("PolicyFields", "dead_ttl_ms", 0, None),
    ("PolicyFields", "unique_for_ms", 0, None),
    ("PolicyFields", "concurrency", 0, Some(u32::MAX as u64)),
    ("PolicyFields", "key_concurrency", 0, Some(u32::MAX as u64)),
    ("WorkerPatch", "slots", 1, Some(MAX_SLOTS as u64)),
    ("WorkerPatch", "min_slots", 1, Some(MAX_SLOTS as u64)),
    ("WorkerPatch", "max_slots", 1, Some(MAX_SLOTS as u64)),
];

/// Most bytes of names: the schema, the field (of a list: of each item), the bytes. All are ASCII but a workflow's name, tags and
/// a route's pattern.
const LENGTHS: [(&str, &str, u64); 12] = [
    ("BulkFilter", "queue", MAX_QUEUE),
    ("BulkFilter", "task", MAX_TASK),
    ("BulkFilter", "worker", MAX_WORKER),
    ("DeployBody", "digest", MAX_DIGEST),
    ("PolicyFields", "queue", MAX_QUEUE),
    ("Route", "match", 256),
    ("Route", "queue", MAX_QUEUE),
    ("Submission", "task", MAX_TASK),
    ("TaskStep", "task", MAX_TASK),
    ("WorkerPatch", "queues", MAX_QUEUE),
    ("WorkflowSubmission", "name", 128),
    ("WorkflowSubmission", "tags", 128),
];
const MAX_TENANT: u64 = 63;
const MAX_QUEUE: u64 = 64;
const MAX_TASK: u64 = 128;
const MAX_SCHEDULE: u64 = 100;
const MAX_WORKER: u64 = 128;
/// `sha256:` and 64 digits.
const MAX_DIGEST: u64 = 71;
/// Of jobs, workflows and bulk actions.
const MAX_ID: u64 = 26;

/// Most bytes of a parameter of a path or query; none where a list is taken.
fn parameter_length(path: &str, name: &str) -> Option<u64> {
    let of = |kind: &str| path.strip_prefix("/v1/").is_some_and(|path| path.starts_with(kind));
    match name {
        "digest" => Some(MAX_DIGEST),
        "tenant" => Some(MAX_TENANT),
        "queue" | "bucket" => Some(MAX_QUEUE),
        "key" if of("kv/") => Some(umbel_model::KvKey::MAX_BYTES as u64),
        "worker" => Some(MAX_WORKER),
        "task" if !of("events") => Some(MAX_TASK),
        "name" if of("tasks/") => Some(MAX_TASK),
        "name" if of("queues/") => Some(MAX_QUEUE),
        "name" if of("schedules/") => Some(MAX_SCHEDULE),
        "id" if of("workers/") => Some(MAX_WORKER),
        "id" => Some(MAX_ID),
        _ => None,
    }
}

/// Says of each name how long it may be.
fn with_lengths(document: &mut Value) {
    for (schema, field, max) in LENGTHS {
        let field = &mut document["components"]["schemas"][schema]["properties"][field];
        let of = if field.get("items").is_some() { &mut field["items"] } else { field };
        of["maxLength"] = max.into();
    }
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for operation in operations.as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
            for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
                let is_header = parameter["in"] == "header";
                let max = parameter["name"].as_str().and_then(|name| parameter_length(path, name));
                if let Some(max) = max.filter(|_| !is_header) {
                    parameter["schema"]["maxLength"] = max.into();
                }
            }
        }
    }
}

/// The document as JSON, with what the schemas of types do not say by themselves.
pub(crate) fn corrected(document: &Document) -> Value {
    let mut document = serde_json::to_value(document).expect("an OpenAPI document has text keys only");
    correct(&mut document);
    let schemas = &mut document["components"]["schemas"];
    // An operator's answer is a summary, too: it has more fields.
    if let Some(shapes) = schemas["WorkerItem"].as_object_mut().and_then(|item| item.remove("oneOf")) {
        schemas["WorkerItem"]["anyOf"] = shapes;
    }
    for (schema, field, min, max) in BOUNDS {
        let field = &mut schemas[schema]["properties"][field];
        field["minimum"] = min.into();
        if let Some(max) = max {
            field["maximum"] = max.into();
        }
    }
    for list in ["retry_on", "dont_retry_on", "throws", "unique_by", "capabilities"] {
        let field = &mut schemas["PolicyFields"]["properties"][list];
        field["items"] = json!({"type": "string"});
        field["maxItems"] = MAX_PATTERNS.into();
    }
    with_lengths(&mut document);
    document
}

fn correct(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(correct),
        Value::Object(fields) => {
            // An unsigned number of 32 bits does not fit into a signed one.
            if fields.get("format") == Some(&"int32".into()) && fields.get("minimum") == Some(&0.into()) {
                fields.insert("format".into(), "int64".into());
                fields.entry("maximum").or_insert(u32::MAX.into());
            }
            if fields.get("name") == Some(&"limit".into()) && fields.get("in") == Some(&"query".into()) {
                (fields["schema"]["minimum"], fields["schema"]["maximum"]) = (1.into(), MAX_LIMIT.into());
            }
            // A body that may be missing may not be `null`.
            let body = fields.get_mut("requestBody");
            if let Some(schema) = body.and_then(|body| body.pointer_mut("/content/application~1json/schema")) {
                let whole = schema["oneOf"].as_array().and_then(|shapes| shapes.iter().find(|s| s["type"] != "null"));
                if let Some(whole) = whole.cloned() {
                    *schema = whole;
                }
            }
            fields.values_mut().for_each(correct);
        }
        _ => {}
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().filter_map(Option::as_mut)
}

/// The parameters that a path has in braces.
fn path_parameters(path: &str) -> impl Iterator<Item = Parameter> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
        parameter.schema(Some(text)).build()
    })
}

fn complete_operation(path: &str, operation: &mut Operation) {
    let mut parameters: Vec<RefOr<Parameter>> = path_parameters(path).map(RefOr::T).collect();
    parameters.extend(operation.parameters.take().into_iter().flatten());
    operation.parameters = Some(parameters).filter(|parameters| !parameters.is_empty());
    let tag = operation.tags.as_ref().and_then(|tags| tags.first()).map_or("", String::as_str);
    let name = operation.operation_id.take().unwrap_or_default();
    operation.operation_id = Some(format!("{tag}_{name}"));
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = "Done".into();
        }
    }
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let failure = ResponseBuilder::new().description("A failure; docs/errors.md explains each code");
    let failure = failure.content("application/problem+json", problem).build();
    operation.responses.responses.insert("default".into(), RefOr::T(failure));
}
