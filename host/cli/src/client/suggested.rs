//! The name that was probably meant, in the failure about one that there is not.

use serde_json::Value;
use umbel_client::{Client, Error};

use crate::{
    args::PageFlags,
    client::pages,
    failure::{Exit, Failure},
    output::text_at,
    suggest::nearest,
};

/// Things with names.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// The code of the failure about one that there is not.
    code: &'static str,
    what: &'static str,
    /// Where they are listed, and under which key each has its name.
    path: &'static str,
    key: &'static str,
    list: &'static str,
    /// The help text when there are none at all.
    none: &'static str,
}

pub const TASKS: Named = Named {
    code: "task_not_found",
    what: "task",
    path: "/v1/tasks",
    key: "/name",
    list: "umbel task list shows the tasks",
    none: "no task is deployed: umbel module push FILE",
};

pub const QUEUES: Named = Named {
    code: "queue_not_found",
    what: "queue",
    path: "/v1/queues",
    key: "/name",
    list: "umbel queue list shows the queues",
    none: "a queue is there once a job was sent to it",
};

pub const WORKERS: Named = Named {
    code: "worker_not_found",
    what: "worker",
    path: "/v1/workers",
    key: "/id",
    list: "umbel worker list shows the workers",
    none: "no worker is alive: umbel worker starts one",
};

/// Adds the name that was probably meant to a failure about an unknown one.
pub async fn suggested(
    client: &Client,
    named: Named,
    name: &str,
    sent: Result<String, Error>,
) -> Result<String, Failure> {
    let failure = match sent.map_err(Failure::from) {
        Err(failure) if failure.code == named.code => failure.exit(Exit::NotFound),
        other => return other,
    };
    let flags = PageFlags { limit: 1_000, cursor: None };
    let Ok(page) = pages(client, named.path, &[], &flags).await else { return Err(failure) };
    let items = page.items.iter().filter_map(|item| serde_json::from_str::<Value>(item.get()).ok());
    let names: Vec<String> = items.map(|item| text_at(&item, named.key)).collect();
    Err(match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("a {} with a similar name exists: {near}", named.what)),
        None if names.is_empty() => failure.help(named.none),
        None => failure.help(named.list),
    })
}
