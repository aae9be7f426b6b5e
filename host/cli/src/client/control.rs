//! Controls of a queue, a task or a tenant, as people read them.

use serde_json::Value;
use umbel_client::ControlPatch;

use crate::{Failure, Result, output::text_at};

/// A change that changes something.
pub fn asked(patch: ControlPatch) -> Result<ControlPatch> {
    if patch == ControlPatch::default() {
        return Err(Failure::usage("nothing is to be changed").help("give --rate, --burst, --concurrency or --none"));
    }
    Ok(patch)
}

/// The control of a thing in one line; empty when nothing is held.
pub fn text(thing: &Value) -> String {
    let Some(control) = thing.get("control") else { return String::new() };
    let mut parts = Vec::new();
    if control["paused"] == true {
        parts.push("paused".to_owned());
    }
    let set = |field: &str| Some(text_at(control, field)).filter(|text| !text.is_empty() && text != "0");
    if let Some(rate) = set("/rate_limit") {
        let burst = set("/rate_burst").filter(|burst| burst != "1").map(|burst| format!(" (burst {burst})"));
        parts.push(format!("rate {rate}{}", burst.unwrap_or_default()));
    }
    parts.extend(set("/concurrency").map(|jobs| format!("{jobs} at once")));
    if control["exclusive"] == true {
        parts.push("one worker at a time".to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_of_nothing_is_refused() {
        assert!(asked(ControlPatch::default()).is_err() && asked(ControlPatch::default().unlimited()).is_ok());
    }

    #[test]
    fn a_control_is_said_in_one_line() {
        let control =
            json!({"paused": true, "rate_limit": "5/s", "rate_burst": 3, "concurrency": 2, "exclusive": true});
        assert_eq!(text(&json!({ "control": control })), "paused, rate 5/s (burst 3), 2 at once, one worker at a time");
        let nothing = json!({"paused": false, "rate_limit": null, "concurrency": 0});
        assert_eq!(text(&json!({ "control": nothing })) + &text(&json!({})), "");
    }
}
