//! Files with `beat_schedule` in the shapes that people write: what is taken over of each, and what is left out and where.

use std::{fs, path::Path};

use umbel_schedule::{
    Timing,
    celery::{Import, import},
};

fn file(name: &str) -> Import {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/beat_schedules").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    import(&text, None).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Names that are taken over, and those that are left out.
fn names(import: &Import) -> (Vec<&str>, Vec<&str>) {
    let taken = import.schedules.iter().map(|imported| imported.name.as_str()).collect();
    (taken, import.left_out.iter().map(|left_out| left_out.name.as_str()).collect())
}

#[test]
fn what_only_a_running_python_knows_is_left_out_with_its_line() {
    let import = file("not_taken.py");
    let (taken, left_out) = names(&import);
    assert_eq!(taken, ["constant"]);
    let expected = ["environment", "f\"formatted-{HOUR}\"", "attribute", "impossible", "misspelt", "too-often"];
    assert_eq!(left_out[..6], expected);
    assert!(left_out[6].starts_with("**(") && left_out.len() == 7, "{left_out:?}");
    let lines: Vec<u32> = import.left_out.iter().map(|left_out| left_out.line).collect();
    assert_eq!(lines, [10, 11, 12, 13, 14, 15, 16]);
}

#[test]
fn entries_that_calls_make_are_listed() {
    let import = file("periodic_tasks.py");
    let (taken, left_out) = names(&import);
    assert!(taken.is_empty() && left_out.len() >= 3, "{left_out:?}");
    assert_eq!(left_out[0], "add every 10");
}

#[test]
fn all_the_others_are_taken_over_and_fire() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/beat_schedules");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if ["not_taken.py", "periodic_tasks.py"].contains(&&*name) {
            continue;
        }
        files += 1;
        let import = file(&name);
        assert!(!import.schedules.is_empty(), "{name}");
        // A task with other letters is no task here, bytes are no JSON, and some shapes fire more than once a second.
        let known = ["cannot be one here", "JSON has no such value", "an interval here is from 1 second"];
        for left_out in &import.left_out {
            let is_known = known.iter().any(|reason| left_out.reason.contains(reason));
            assert!(is_known, "{name}:{}: {}", left_out.line, left_out.reason);
        }
        for imported in &import.schedules {
            let mut spec = imported.definition.clone();
            spec.retain(|field, _| field == "when" || field == "zone");
            let timing = Timing::from_json(&serde_json::Value::Object(spec).to_string());
            assert!(timing.is_ok(), "{name}: {}: {timing:?}", imported.name);
            assert!(imported.definition["start"]["task"].is_string(), "{name}: {}", imported.name);
        }
    }
    assert!(files >= 10, "{files} files");
}

#[test]
fn settings_that_are_added_later_and_zones_are_found() {
    let import = file("dict_calls.py");
    let (taken, left_out) = names(&import);
    assert_eq!((taken, left_out), (vec!["nightly", "hourly", "weekly", "yearly"], vec![]));
    assert_eq!(import.zone.as_deref(), Some("Europe/Berlin"));
    assert_eq!(import.schedules[2].definition["when"]["cron"], "0 4 * * sun");
    assert_eq!(file("config_class.py").zone.as_deref(), Some("Asia/Shanghai"));
}
