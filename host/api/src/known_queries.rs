//! Which query parameters each route knows. A route that takes none must not do its work for a caller who asked for something
//! else: `purge?dry_run=true` is no dry run.

use std::collections::HashMap;

use axum::{
    extract::Query,
    http::{Method, Uri},
};
use umbel_compose::nearest;
use utoipa::openapi::{
    OpenApi, RefOr,
    path::{Operation, ParameterIn},
};

use crate::problem::{Problem, Result, cut};

/// The parameters of each path and method, as the OpenAPI document has them.
#[derive(Debug)]
pub(crate) struct KnownQueries(HashMap<String, HashMap<Method, Vec<String>>>);

impl KnownQueries {
    pub(crate) fn of(document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter().map(|(path, item)| {
            let methods = [
                (Method::GET, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::DELETE, &item.delete),
                (Method::PATCH, &item.patch),
            ];
            let known =
                methods.into_iter().filter_map(|(method, operation)| Some((method, names(operation.as_ref()?))));
            (path.clone(), known.collect())
        });
        Self(paths.collect())
    }

    /// Refuses a query with a parameter that the route does not know. `route` is its path as the document has it; none when
    /// there is no such route.
    pub(crate) fn check(&self, route: Option<&str>, method: &Method, uri: &Uri) -> Result<()> {
        let Some(route) = route.filter(|_| uri.query().is_some()) else { return Ok(()) };
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let known = self.0.get(route).and_then(|methods| methods.get(method)).map(Vec::as_slice).unwrap_or_default();
        // What cannot be read is left to the route.
        let Ok(given) = Query::<Vec<(String, String)>>::try_from_uri(uri) else { return Ok(()) };
        let unknown = given.iter().map(|(name, _)| name).find(|name| !known.contains(name));
        unknown.map_or(Ok(()), |name| Err(refused(&cut(name), known)))
    }
}

fn refused(name: &str, known: &[String]) -> Problem {
    let quoted = |known: &[String]| known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let takes = match known {
        [] => "this route takes no parameters".to_owned(),
        [one] => format!("there is `{one}`"),
        [one, other] => format!("there is `{one}` or `{other}`"),
        many => format!("there are {}", quoted(many)),
    };
    let meant = nearest(name, known.iter().map(String::as_str));
    let meant = meant.map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default();
    Problem::invalid_query(format!("there is no parameter `{name}`{meant}; {takes}").replace("?; t", "? T"))
}

fn names(operation: &Operation) -> Vec<String> {
    let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        // The document has no references to parameters.
        RefOr::Ref(_) => None,
    });
    parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Query).map(|p| p.name.clone()).collect()
}
