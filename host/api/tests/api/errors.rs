//! Every code is explained in docs/errors.md.

use std::collections::BTreeSet;

use umbel_api::Code;

/// Codes of refused modules, from `umbel_modules::InspectError`.
const INSPECTOR: [&str; 11] = [
    "not_wasm",
    "invalid_module",
    "no_contract",
    "unknown_import",
    "module_too_large",
    "module_too_complex",
    "compile_timeout",
    "compile_memory",
    "compile_failed",
    "describe_failed",
    "describe_invalid",
];

#[test]
fn every_code_is_documented_with_cause_and_fix_and_no_other_is() {
    let text = include_str!("../../../../docs/errors.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut documented = BTreeSet::new();
    for row in rows {
        let (code, rest) = row.split_once('`').unwrap();
        let cells: Vec<&str> = rest.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert!(cells.len() >= 2, "`{code}` needs a cause and a fix");
        assert!(documented.insert(code), "`{code}` is explained twice");
    }
    let known: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).chain(INSPECTOR).collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    let stray: Vec<_> = documented.difference(&known).collect();
    assert!(missing.is_empty() && stray.is_empty(), "missing: {missing:?}, stray: {stray:?}");
}

#[test]
fn the_documented_status_is_the_status() {
    let text = include_str!("../../../../docs/errors.md");
    for code in Code::ALL {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{}` |", code.as_str()))).unwrap();
        let status = row.split('|').nth(2).unwrap().trim();
        assert_eq!(status, code.status().as_u16().to_string(), "`{}`", code.as_str());
    }
}
