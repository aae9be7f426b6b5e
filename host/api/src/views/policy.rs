//! Policies as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use umbel_model::{Policy, PolicyPatch};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Object, ObjectBuilder, RefOr, Schema, Type},
};

/// One field of a policy and where it was decided.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct PolicyValue {
    #[schema(value_type = Value)]
    pub(crate) value: serde_json::Value,
    /// `default`, `code`, `routes`, `server`.
    pub(crate) from: &'static str,
}

/// Each field of the policy that `code`, `routes` and `server` make, with its origin.
pub(crate) fn policy_values(
    code: &PolicyPatch,
    routes: &PolicyPatch,
    server: &PolicyPatch,
) -> BTreeMap<String, PolicyValue> {
    let fields = |value: serde_json::Result<serde_json::Value>| match value {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let of_code = fields(serde_json::to_value(code));
    let of_routes = fields(serde_json::to_value(routes));
    let of_server = fields(serde_json::to_value(server));
    let resolved = fields(serde_json::to_value(Policy::resolve(&code.overlaid(routes).overlaid(server))));
    let origin = |name: &str| match () {
        () if of_server.contains_key(name) => "server",
        () if of_routes.contains_key(name) => "routes",
        () if of_code.contains_key(name) => "code",
        () => "default",
    };
    resolved.into_iter().map(|(name, value)| (name.clone(), PolicyValue { from: origin(&name), value })).collect()
}

/// The fields of a policy, all optional: the schema is made from the default policy, so it cannot fall behind.
pub(crate) struct PolicyFields;

impl ToSchema for PolicyFields {}

impl PartialSchema for PolicyFields {
    fn schema() -> RefOr<Schema> {
        let defaults = serde_json::to_value(Policy::default()).unwrap_or_default();
        let fields = defaults.as_object().into_iter().flatten();
        let object = fields.fold(ObjectBuilder::new(), |object, (name, default)| object.property(name, field(default)));
        object.description(Some("The fields of a policy, all optional")).build().into()
    }
}

fn field(default: &serde_json::Value) -> Object {
    let kind = match default {
        serde_json::Value::Bool(_) => Type::Boolean,
        serde_json::Value::Number(_) => Type::Integer,
        serde_json::Value::String(_) => Type::String,
        serde_json::Value::Array(_) => Type::Array,
        _ => Type::Object,
    };
    ObjectBuilder::new().schema_type(kind).default(Some(default.clone())).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_a_policy_says_where_it_comes_from() {
        let code = PolicyPatch { priority: Some(1), max_retries: Some(1), ..Default::default() };
        let server = PolicyPatch { priority: Some(2), ..Default::default() };
        let routes = PolicyPatch { queue: Some(umbel_model::QueueName::new("q").unwrap()), ..Default::default() };
        let values = policy_values(&code, &routes, &server);
        assert_eq!(values["queue"], PolicyValue { value: "q".into(), from: "routes" });
        assert_eq!(values["priority"], PolicyValue { value: 2.into(), from: "server" });
        assert_eq!(values["max_retries"], PolicyValue { value: 1.into(), from: "code" });
        assert_eq!(values["fuel"].from, "default");
    }
}
