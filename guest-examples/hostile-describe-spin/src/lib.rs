//! Its describe never returns: the host must stop an upload by fuel or time.

use umbel::raw::{Guest, Outcome, TaskDescription};

struct Spin;

impl Guest for Spin {
    fn describe() -> Vec<TaskDescription> {
        loop {
            std::hint::black_box(0_u64);
        }
    }

    fn run(_: String, _: String) -> Result<String, Outcome> {
        Ok("null".to_owned())
    }
}

#[cfg(target_arch = "wasm32")]
umbel::raw::export!(Spin with_types_in umbel::raw);
#[cfg(not(target_arch = "wasm32"))]
const _: fn() -> Vec<TaskDescription> = Spin::describe;
