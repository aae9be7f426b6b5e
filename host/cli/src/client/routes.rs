//! `umbel routes`.

use umbel_client::{Client, Route, Routes};

use crate::{
    args::{Format, RouteChoice, RoutesVerb},
    client::{answer, input},
    failure::{Exit, Failure},
    output::{Terminal, table_of},
    safe_text::plain,
};

/// Bytes of the file with the routes: 256 of them have far less.
const MAX_FILE_BYTES: u64 = 1 << 20;

pub async fn run(client: &Client, verb: RoutesVerb, terminal: &Terminal) -> Result<(), Failure> {
    let (text, etag) = client.get("/v1/routes").text_and_header("etag").await?;
    let mut routes: Routes = answer(&text)?;
    match verb {
        RoutesVerb::List => return show(&text, &routes, terminal),
        RoutesVerb::Set { file } => routes = read(&input::text(&file, MAX_FILE_BYTES)?)?,
        RoutesVerb::Add { pattern, queue, kind, first } => {
            let kind = kind.unwrap_or_else(|| RouteChoice::of(&pattern)).into();
            let route = Route { pattern, kind, queue: queue.to_string() };
            let at = if first { 0 } else { routes.routes.len() };
            routes.routes.insert(at, route);
        }
        RoutesVerb::Remove { pattern } => {
            let before = routes.routes.len();
            routes.routes.retain(|route| route.pattern != pattern);
            if routes.routes.len() == before {
                let message = format!("no route has the match {pattern:?}");
                return Err(Failure::new("route_not_found", message)
                    .exit(Exit::NotFound)
                    .help("umbel routes list shows the routes"));
            }
        }
    }
    let mut request = client.put("/v1/routes").json(&routes);
    // What was read is what is changed: somebody else's change in between is a conflict.
    if let Some(etag) = etag {
        request = request.header("if-match", etag);
    }
    let text = request.text().await?;
    show(&text, &answer(&text)?, terminal)
}

fn read(text: &str) -> Result<Routes, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::usage(format!("the file has no routes: {error}"))
            .help(r#"write {"routes": [{"match": "orders.*", "kind": "glob", "queue": "orders"}]}"#)
    })
}

fn show(body: &str, routes: &Routes, terminal: &Terminal) -> Result<(), Failure> {
    let kind = |route: &Route| format!("{:?}", route.kind).to_lowercase();
    match terminal.format {
        Format::Json => terminal.line(body.trim_end()),
        Format::Jsonl => routes.routes.iter().try_for_each(|route| {
            let line = serde_json::to_string(route).map_err(|error| Failure::new("output", error.to_string()))?;
            terminal.line(&line)
        }),
        Format::Id => routes.routes.iter().try_for_each(|route| terminal.line(&plain(&route.pattern))),
        Format::Table if routes.routes.is_empty() => {
            terminal.note("there are no routes: umbel routes add 'orders.*' orders");
            Ok(())
        }
        Format::Table => {
            let rows = routes
                .routes
                .iter()
                .map(|route| vec![plain(&route.pattern).into_owned(), kind(route), plain(&route.queue).into_owned()]);
            terminal.line(&table_of(&["MATCH", "KIND", "QUEUE"], rows))
        }
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
