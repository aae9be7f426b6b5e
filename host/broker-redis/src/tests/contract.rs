//! What scripts repeat of the broker's contract.

use umbel_broker::{
    ADVANCE, CLAIM_SCAN, INLINE_INPUT_BYTES, MAX_EVENTS, MAX_TEMPLATES, TEMPLATES_COMPARED, UPSTREAM_FAILED,
    UPSTREAM_FAILED_MESSAGE,
};
use umbel_model::{Failure, JobState, canvas::MAX_NODES};

const PRELUDE: &str = include_str!("../scripts/prelude.lua");
const NAMES: &str = include_str!("../scripts/names.lua");
const CANVAS: &str = include_str!("../scripts/canvas.lua");
const JOINING: &str = include_str!("../scripts/joining.lua");
const CLAIMING: &str = include_str!("../scripts/claiming.lua");

#[test]
fn the_numbers_of_the_contract_are_those_of_the_scripts() {
    let says = |script: &str, line: String| assert!(script.contains(&line), "{line}");
    says(CANVAS, format!("local ADVANCE, INLINE_INPUT_BYTES = {ADVANCE}, {INLINE_INPUT_BYTES}\n"));
    let limits = format!("{MAX_NODES}, {MAX_TEMPLATES}, {TEMPLATES_COMPARED}");
    says(JOINING, format!("local MAX_NODES, MAX_TEMPLATES, TEMPLATES_COMPARED = {limits}\n"));
    says(PRELUDE, format!("local MAX_EVENTS = {MAX_EVENTS}\n"));
    says(CLAIMING, format!("local CLAIM_SCAN = {CLAIM_SCAN}\n"));
    let flags = format!("{}, {}, {}, {}", crate::stored::FLAG_SPEC_APART, 4, 8, 16);
    says(NAMES, format!("MORE, LET_END, LANED = 1, {flags}, {}, 64, 128\n", crate::stored::FLAG_MORE));
}

#[test]
fn the_failure_of_what_waits_for_a_failure_is_that_of_the_contract() {
    let failure = Failure::new(UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE);
    let text = serde_json::to_string(&failure).unwrap();
    assert!(CANVAS.contains(&format!("local UPSTREAM_FAILED = '{text}'\n")), "{text}");
}

#[test]
fn the_states_of_a_job_are_numbered_in_the_order_of_the_model() {
    let names = JobState::ALL.map(|state| state.as_str().to_uppercase()).join(", ");
    let numbers: Vec<String> = (0..JobState::ALL.len()).map(|n| n.to_string()).collect();
    let line = format!("local {names} =\n  {}\n", numbers.join(", "));
    assert!(NAMES.contains(&line), "{line}");
}
