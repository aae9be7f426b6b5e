//! Describes policies that no server should grant, one absurdity a task.

use umbel::raw::{Guest, Outcome, TaskDescription};

struct Absurd;

impl Guest for Absurd {
    fn describe() -> Vec<TaskDescription> {
        let policies = [
            ("endless_time", r#"{"time_limit_ms":18446744073709551615}"#),
            ("endless_fuel", r#"{"fuel":18446744073709551615}"#),
            ("all_memory", r#"{"memory_bytes":18446744073709551615}"#),
            ("endless_retries", r#"{"max_retries":4294967295}"#),
            ("above_all", r#"{"priority":255}"#),
            ("below_nothing", r#"{"priority":-1}"#),
            ("soft_above_hard", r#"{"time_limit_ms":1000,"soft_time_limit_ms":5000}"#),
            ("no_fuel", r#"{"fuel":0}"#),
            ("no_delivery", r#"{"max_deliveries":0}"#),
            ("kept_for_ever", r#"{"result_ttl_ms":18446744073709551615}"#),
            ("odd_rate", r#"{"rate_limit":"a lot"}"#),
            ("grabs_all", r#"{"capabilities":["*"]}"#),
            ("unknown_field", r#"{"max_retry":3}"#),
            ("wrong_type", r#"{"queue":["a"]}"#),
            ("queue_with_a_path", r#"{"queue":"../../etc/passwd"}"#),
        ];
        let task = |(name, policy): &(&str, &str)| TaskDescription {
            name: (*name).to_owned(),
            description: String::new(),
            parameters: Vec::new(),
            returns: None,
            policy: (*policy).to_owned(),
        };
        policies.iter().map(task).collect()
    }

    fn run(_: String, _: String) -> Result<String, Outcome> {
        Ok("null".to_owned())
    }
}

#[cfg(target_arch = "wasm32")]
umbel::raw::export!(Absurd with_types_in umbel::raw);
#[cfg(not(target_arch = "wasm32"))]
const _: fn() -> Vec<TaskDescription> = Absurd::describe;
