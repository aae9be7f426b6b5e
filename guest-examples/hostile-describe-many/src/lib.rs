//! Describes ten thousand tasks: more than a server takes.

use umbel::raw::{Guest, Outcome, TaskDescription};

struct Many;

impl Guest for Many {
    fn describe() -> Vec<TaskDescription> {
        let task = |n: u32| TaskDescription {
            name: format!("task_{n}"),
            description: "One of many.".to_owned(),
            parameters: Vec::new(),
            returns: None,
            policy: "{}".to_owned(),
        };
        (0..10_000).map(task).collect()
    }

    fn run(_: String, _: String) -> Result<String, Outcome> {
        Ok("null".to_owned())
    }
}

#[cfg(target_arch = "wasm32")]
umbel::raw::export!(Many with_types_in umbel::raw);
#[cfg(not(target_arch = "wasm32"))]
const _: fn() -> Vec<TaskDescription> = Many::describe;
