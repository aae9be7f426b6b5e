//! The tables of docs/CANVAS-SEMANTICS.md and docs/CELERY.md are whole, and every test that they name exists; what differs
//! from Celery's canvas is in the guide.

use std::{
    collections::BTreeSet,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use umbel_tests::case::Case;

const SITUATIONS: [&str; 7] = ["success", "failure", "retry", "cancel", "expiry", "worker loss", "nested"];
const PRIMITIVES: [&str; 13] = [
    "task",
    "chain",
    "group",
    "chord",
    "map",
    "starmap",
    "chunks",
    "link",
    "link_error",
    "replace",
    "add_to_group",
    "submit",
    "resume",
];
/// The rows of the project's list of Celery's issues that docs/CELERY.md must have.
const ISSUES: [RangeInclusive<u32>; 4] = [1..=9, 15..=20, 22..=25, 27..=29];
/// Where tests are.
const SOURCES: [&str; 3] = ["host", "sdk", "tests"];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all tests: functions that are marked so, or in the suite that every broker runs.
fn all_tests() -> Result<BTreeSet<String>> {
    let (mut names, mut open) = (BTreeSet::new(), SOURCES.map(|folder| top().join(folder)).to_vec());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let is_suite = path.components().any(|part| part.as_os_str() == "broker-conformance");
            let (heads, bodies) = (text.split("fn "), text.split("fn ").skip(1));
            let tests = heads.zip(bodies).filter(|(head, _)| is_suite || is_marked(head));
            names.extend(tests.filter_map(|(_, body)| Some(body.split_once('(')?.0.to_owned())));
        }
    }
    Ok(names)
}

/// Whether what stands before `fn` ends with a test's mark.
fn is_marked(head: &str) -> bool {
    let attributes = head.trim_end_matches("async ").lines().rev().map(str::trim).skip_while(|line| line.is_empty());
    attributes.take_while(|line| line.starts_with("#[")).any(|line| line.contains("test"))
}

/// The text between two of these marks.
fn quoted(text: &str, mark: char) -> impl Iterator<Item = &str> {
    text.split(mark).skip(1).step_by(2)
}

#[test]
fn every_cell_of_the_semantics_names_tests_that_exist() -> Result<()> {
    let table = fs::read_to_string(top().join("docs/CANVAS-SEMANTICS.md"))?;
    let cases = Case::read("semantics.json")?;
    let names: BTreeSet<&str> = cases.iter().map(Case::name).collect();
    ensure!(names.len() == cases.len(), "a case is there twice");
    let there = all_tests()?;
    let (mut problems, mut found) = (Vec::new(), BTreeSet::new());
    for row in table.lines().filter(|line| line.starts_with("| ") && line.contains(" × ")) {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let case = quoted(tests, '*').next().with_context(|| format!("a cell without a case: {row}"))?;
        ensure!(row.starts_with(&format!("| {} |", case.split(" × ").nth(1).unwrap_or_default())), "{row}");
        found.insert(case);
        if !names.contains(case) {
            problems.push(format!("{case} is no case"));
        }
        for test in quoted(tests, '`').filter(|test| !there.contains(*test)) {
            problems.push(format!("{case}: there is no test {test}"));
        }
    }
    for primitive in PRIMITIVES {
        for situation in SITUATIONS {
            let cell = format!("{primitive} × {situation}");
            if !found.contains(cell.as_str()) {
                problems.push(format!("{cell} has no cell"));
            }
        }
    }
    ensure!(found.len() == names.len(), "{} cells, {} cases", found.len(), names.len());
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

#[test]
fn what_each_thing_of_celery_is_here_is_shown_by_tests_that_exist() -> Result<()> {
    let table = fs::read_to_string(top().join("docs/CELERY.md"))?;
    let there = all_tests()?;
    let (mut problems, mut rows, mut issues) = (Vec::new(), 0, BTreeSet::new());
    let is_head = |line: &str| line.starts_with("| Celery |") || line.starts_with("| | ");
    for row in table.lines().filter(|line| line.starts_with("| ") && !is_head(line)) {
        rows += 1;
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        ensure!(cells.len() == 4, "not four cells: {row}");
        issues.extend(cells[0].parse::<u32>());
        let named: Vec<&str> = quoted(cells[3], '`').collect();
        if named.is_empty() {
            problems.push(format!("no test, not even of what is there instead: {row}"));
        }
        problems.extend(named.iter().filter(|test| !there.contains(**test)).map(|test| format!("no test {test}")));
    }
    let missing = ISSUES.into_iter().flatten().filter(|issue| !issues.contains(issue));
    problems.extend(missing.map(|issue| format!("no row {issue} in the last table")));
    ensure!(rows > 60, "{rows} rows");
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

#[test]
fn what_differs_from_celery_is_in_the_guide_with_its_reason() -> Result<()> {
    let cases = Case::read("celery.json")?;
    let names: BTreeSet<&str> = cases.iter().map(Case::name).collect();
    ensure!(names.len() == cases.len(), "a name is there twice");
    let guide = fs::read_to_string(top().join("docs/guides/canvas.md"))?;
    let (_, section) = guide.split_once("## What differs from Celery").context("the guide has no such section")?;
    for case in cases.iter().filter(|case| case.0.get("differs").is_some()) {
        let plain = case.name().split('[').next().unwrap_or_default().rsplit('.').next().unwrap_or_default();
        ensure!(section.contains(&format!("`{plain}`")), "the guide does not say why {plain} differs");
        let reason = case.0["differs"]["reason"].as_str().context("a difference without a reason")?;
        ensure!(section.to_lowercase().contains(reason), "the guide does not give the reason {reason:?}");
    }
    Ok(())
}
