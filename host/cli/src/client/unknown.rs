//! The failure about a task, a queue or a worker that does not exist: it says which name was probably meant.

use umbel_client::Error;
use umbel_compose::nearest;

use super::Context;
use crate::{
    Exit, Failure, Result,
    args::PageFlags,
    output::{Page, text_at},
};

/// Things with names.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    what: &'static str,
    /// Where a thing of a list has its name.
    name: &'static str,
    /// Whether their list has pages.
    has_pages: bool,
    /// The help text when there are none at all.
    none: &'static str,
}

pub const TASK: Kind =
    Kind { what: "task", name: "/name", has_pages: true, none: "no task is deployed: umbel module push FILE" };
pub const QUEUE: Kind =
    Kind { what: "queue", name: "/name", has_pages: false, none: "a queue is there once a job was sent to it" };
pub const SCHEDULE: Kind = Kind {
    what: "schedule",
    name: "/name",
    has_pages: true,
    none: "there are no schedules: umbel schedule create NAME TASK --every 1h",
};
pub const WORKER: Kind =
    Kind { what: "worker", name: "/id", has_pages: false, none: "no worker is alive: umbel worker starts one" };

impl Context {
    /// What was answered to a request about the thing `name`.
    pub async fn about(&self, kind: Kind, name: &str, sent: Result<String, Error>) -> Result<String> {
        let what = kind.what;
        let failure = match sent.map_err(Failure::from) {
            Err(failure) if failure.code == format!("{what}_not_found") => failure.exit(Exit::NotFound),
            other => return other,
        };
        let (path, flags) = (format!("/v1/{what}s"), PageFlags { limit: 1_000, cursor: None });
        let page: Result<Page> = if kind.has_pages {
            self.pages(&path, &[], &flags).await
        } else {
            self.client.get(path).answer().await.map_err(Failure::from)
        };
        let Ok(page) = page else { return Err(failure) };
        let items = page.items.iter().filter_map(|item| serde_json::from_str(item.get()).ok());
        let names: Vec<String> = items.map(|item| text_at(&item, kind.name)).collect();
        Err(match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => failure.help(format!("a {what} with a similar name exists: {near}")),
            None if names.is_empty() => failure.help(kind.none),
            None => failure.help(format!("umbel {what} list shows the {what}s")),
        })
    }
}
