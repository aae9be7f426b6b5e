//! `umbel schedule import`: Celery's beat_schedule as schedules here. What cannot be taken over is listed, and the command fails
//! after it did the rest.

use std::{collections::BTreeMap, fs::File, io::Write as _, path::Path};

use serde_json::{Map, Value, json};
use umbel_model::ScheduleName;
use umbel_schedule::celery::{self, Import};

use super::{
    apply::{How, set, source_of},
    file,
};
use crate::args::{Format, ImportOptions};
use crate::client::{Context, arguments::raw, input};
use crate::{Failure, Result, output::Terminal, safe_text::one_line};

pub async fn run(context: impl Fn() -> Result<Context>, terminal: &Terminal, options: &ImportOptions) -> Result {
    let text = input::text(&options.file, celery::MAX_BYTES as u64)?;
    let import = celery::import(&text, options.zone.as_deref())
        .map_err(|error| Failure::new("nothing_imported", error.to_string()))?;
    report(terminal, &import, options.zone.is_some());
    let schedules = definitions(&import);
    match &options.write {
        Some(path) => write(path, &schedules)?,
        None if options.apply => {}
        None => print(terminal, &schedules, &import)?,
    }
    if options.apply {
        let (source, take_over) = (source_of(&options.file)?, options.take_over);
        let how = How { source, prune: false, take_over, yes: false, dry_run: false };
        set(&context()?, bodies(&schedules)?, &how).await?;
    }
    match import.left_out.len() {
        0 => Ok(()),
        count => {
            let message = format!("{count} could not be taken over, and are listed above");
            Err(Failure::new("import_incomplete", message).help("make them by umbel schedule create"))
        }
    }
}

type Definitions = BTreeMap<String, Map<String, Value>>;

fn definitions(import: &Import) -> Definitions {
    import.schedules.iter().map(|imported| (imported.name.clone(), imported.definition.clone())).collect()
}

fn bodies(schedules: &Definitions) -> Result<file::Schedules> {
    let named = |(name, fields): (&String, &Map<String, Value>)| {
        let name = ScheduleName::new(name).map_err(|error| Failure::usage(error.to_string()))?;
        let body = fields.iter().map(|(field, value)| Ok((field.clone(), raw(value)?))).collect::<Result<_>>()?;
        Ok((name, body))
    };
    schedules.iter().map(named).collect()
}

/// What was found, for people: stderr.
fn report(terminal: &Terminal, import: &Import, has_zone: bool) {
    let Import { schedules, left_out, zone, .. } = import;
    terminal.note(&format!("{} schedules are taken over, {} are not", schedules.len(), left_out.len()));
    let has_crontab =
        schedules.iter().any(|imported| imported.definition.get("when").is_some_and(|when| when.get("cron").is_some()));
    match zone {
        Some(zone) if !has_zone => {
            terminal.note(&format!("crontabs are in {}, Celery's timezone of the file", one_line(zone)))
        }
        None if !has_zone && has_crontab => {
            terminal.note("crontabs are in UTC, Celery's default: --zone gives another")
        }
        _ => {}
    }
    for imported in schedules {
        for note in &imported.notes {
            terminal.note(&format!("line {}: {}: {}", note.line, imported.name, one_line(&note.text)));
        }
    }
    for left in left_out {
        terminal.note(&format!(
            "line {}: {} is not taken over: {}",
            left.line,
            one_line(&left.name),
            one_line(&left.reason)
        ));
    }
}

fn print(terminal: &Terminal, schedules: &Definitions, import: &Import) -> Result {
    match terminal.format {
        Format::Table => terminal.line(file::to_toml(schedules)?.trim_end()),
        Format::Id => schedules.keys().try_for_each(|name| terminal.line(name)),
        Format::Json | Format::Jsonl => {
            let left_out = import
                .left_out
                .iter()
                .map(|left| json!({ "name": left.name, "line": left.line, "reason": left.reason }));
            let notes = import.schedules.iter().flat_map(|imported| {
                let note = |note: &celery::Note| json!({ "name": imported.name, "line": note.line, "text": note.text });
                imported.notes.iter().map(note)
            });
            let (left_out, notes): (Vec<_>, Vec<_>) = (left_out.collect(), notes.collect());
            terminal.line(&json!({ "schedules": schedules, "notes": notes, "left_out": left_out }).to_string())
        }
    }
}

/// Writes a new file: TOML, or JSON by its name.
fn write(path: &Path, schedules: &Definitions) -> Result {
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let text = if is_json { file::to_json(schedules)? + "\n" } else { file::to_toml(schedules)? };
    let written = File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::new("file", format!("{} cannot be written: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_read_again_by_apply() {
        let import =
            celery::import("beat_schedule = {'a b': {'task': 't', 'schedule': 5, 'args': (1,)}}", None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for name in ["s.toml", "s.json"] {
            let path = folder.path().join(name);
            write(&path, &definitions(&import)).unwrap();
            let read = file::schedules(&path).unwrap();
            let body = &read[&ScheduleName::new("a-b").unwrap()];
            let expected = Value::Object(import.schedules[0].definition.clone());
            assert_eq!(serde_json::to_value(body).unwrap(), expected);
            assert_eq!(write(&path, &definitions(&import)).unwrap_err().code, "file");
        }
        assert_eq!(bodies(&definitions(&import)).unwrap().len(), 1);
    }
}
