//! `umbel routes`.

use umbel_client::{Route, Routes, typed};
use umbel_compose::{JsonError, plain};

use super::{Context, fetch, input};
use crate::args::{Format, RoutesVerb, route_kind};
use crate::{Exit, Failure, Result, output::Page};

/// Bytes of the file with the routes: 256 of them have far less.
const MAX_FILE_BYTES: u64 = 1 << 20;

pub async fn run(ctx: &Context, verb: RoutesVerb) -> Result {
    let (text, etag) = ctx.client.get("/v1/routes").text_and_header("etag").await?;
    let mut routes: Routes = typed(&text)?;
    match verb {
        RoutesVerb::List => return show(ctx, &text, &routes),
        RoutesVerb::Set { file } => routes = read(&input::text(&file, MAX_FILE_BYTES)?)?,
        RoutesVerb::Add { pattern, queue, kind, first } => {
            let kind = kind.unwrap_or_else(|| route_kind(&pattern));
            let route = Route { pattern, kind, queue: queue.to_string() };
            let at = if first { 0 } else { routes.routes.len() };
            routes.routes.insert(at, route);
        }
        RoutesVerb::Remove { pattern } => {
            let before = routes.routes.len();
            routes.routes.retain(|route| route.pattern != pattern);
            if routes.routes.len() == before {
                let message = format!("no route has the match {pattern:?}");
                let failure = Failure::new("route_not_found", message).exit(Exit::NotFound);
                return Err(failure.help("umbel routes list shows the routes"));
            }
        }
    }
    let mut request = ctx.client.put("/v1/routes").json(&routes);
    // What was read is what is changed: somebody else's change in between is a conflict.
    if let Some(etag) = etag {
        request = request.header("if-match", etag);
    }
    let (text, routes) = fetch(request).await?;
    show(ctx, &text, &routes)
}

fn read(text: &str) -> Result<Routes> {
    serde_json::from_str(text).map_err(|error| {
        let why = match JsonError::of_text::<Routes>(text) {
            Some(JsonError { pointer, detail }) if !pointer.is_empty() => format!("{pointer}: {detail}"),
            _ => plain(&error.to_string()),
        };
        Failure::usage(format!("the file has no routes: {why}"))
            .help(r#"write {"routes": [{"match": "orders.*", "kind": "glob", "queue": "orders"}]}"#)
    })
}

fn show(ctx: &Context, body: &str, routes: &Routes) -> Result {
    match ctx.terminal.format {
        Format::Json => ctx.terminal.line(body.trim_end()),
        Format::Table if routes.routes.is_empty() => {
            ctx.terminal.note("there are no routes: umbel routes add 'orders.*' orders");
            Ok(())
        }
        _ => ctx.terminal.list(&Page::of(&routes.routes)?, "MATCH, KIND, QUEUE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_routes_is_read_or_refused_with_an_example() {
        let routes = read(r#"{"routes": [{"match": "a.*", "kind": "glob", "queue": "q"}]}"#).unwrap();
        assert_eq!(routes.routes[0].queue, "q");
        for bad in ["", "[]", r#"{"routes": [{"match": "a"}]}"#] {
            assert!(read(bad).unwrap_err().help.unwrap().contains("orders.*"), "{bad}");
        }
    }
}
