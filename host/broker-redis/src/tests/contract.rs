//! What functions repeat of the broker's contract.

use umbel_broker::{
    ADVANCE, CLAIM_SCAN, INLINE_INPUT_BYTES, MAX_EVENTS, MAX_TEMPLATES, PAGE_SCAN, TEMPLATES_COMPARED, UPSTREAM_FAILED,
    UPSTREAM_FAILED_MESSAGE,
    rules::{kv, storage},
};
use umbel_model::{Failure, JobState, canvas::MAX_NODES};

const CORE: &str = include_str!("../library/core.lua");
const WORKFLOWS: &str = include_str!("../library/workflows.lua");
const GROWTH: &str = include_str!("../library/growth.lua");
const STORAGE: &str = include_str!("../library/storage.lua");
const CLAIM: &str = include_str!("../library/claim.lua");
const KV: &str = include_str!("../library/kv.lua");

#[test]
fn the_numbers_of_the_contract_are_those_of_the_functions() {
    let says = |code: &str, line: String| assert!(code.contains(&line), "{line}");
    says(WORKFLOWS, format!("local ADVANCE, INLINE_INPUT_BYTES = {ADVANCE}, {INLINE_INPUT_BYTES}\n"));
    let limits = format!("{MAX_NODES}, {MAX_TEMPLATES}, {TEMPLATES_COMPARED}");
    says(GROWTH, format!("local MAX_NODES, MAX_TEMPLATES, TEMPLATES_COMPARED = {limits}\n"));
    says(CORE, format!("local MAX_EVENTS = {MAX_EVENTS}\n"));
    says(CORE, format!("local LAYOUT = '{}'\n", crate::keys::VERSION));
    says(CLAIM, format!("local CLAIM_SCAN = {CLAIM_SCAN}\n"));
    says(KV, format!("local PAGE_SCAN = {PAGE_SCAN}\n"));
    says(KV, format!("local ENTRY_BYTES = {}\n", kv::ENTRY_BYTES));
    let flags = format!("{}, {}, {}, {}", crate::bytes::FLAG_SPEC_APART, 4, 8, 16);
    says(CORE, format!("HAS_OPTIONS, LET_END, IN_SUB_QUEUE = 1, {flags}, {}, 64, 128\n", crate::bytes::FLAG_MORE));
}

#[test]
fn the_failure_of_what_waits_for_a_failure_is_that_of_the_contract() {
    let failure = Failure::new(UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE);
    let text = serde_json::to_string(&failure).unwrap();
    assert!(WORKFLOWS.contains(&format!("local UPSTREAM_FAILED = '{text}'\n")), "{text}");
}

#[test]
fn the_failure_of_a_result_that_does_not_fit_is_that_of_the_contract() {
    let text = serde_json::to_string(&storage::result_failure(11, 22)).unwrap();
    let numbers = storage::used(11, 22);
    let (before, behind) = text.split_once(&numbers).unwrap();
    let words = numbers.replace("11", "%.0f").replace("22", "%.0f");
    for line in [
        format!("local QUOTA = '{before}'\n"),
        format!("local USED = '{words}'\n"),
        format!("local BEHIND_USED = '{behind}'\n"),
    ] {
        assert!(STORAGE.contains(&line), "{line}");
    }
    assert!(STORAGE.contains(&format!("local FREE_RESULT_BYTES = {}\n", storage::FREE_RESULT_BYTES)));
}

#[test]
fn the_states_of_a_job_are_numbered_in_the_order_of_the_model() {
    let names = JobState::ALL.map(|state| state.as_str().to_uppercase()).join(", ");
    let numbers: Vec<String> = (0..JobState::ALL.len()).map(|n| n.to_string()).collect();
    let line = format!("local {names} =\n  {}\n", numbers.join(", "));
    assert!(CORE.contains(&line), "{line}");
}
