//! Celery's `beat_schedule`, read without running it: from a Python file, the dict alone, or JSON.
//!
//! Everything that is found is either taken over, with notes about parts that have no counterpart, or left out with the reason:
//! nothing is silently lost. The work is bounded by [`MAX_BYTES`]; no text makes it panic.

mod blocks;
mod entry;
mod fields;
mod find;
mod literal;
mod token;
mod when;

use serde_json::Map;

/// Longest text that is read, bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// What was found in a text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Import {
    /// In the order of the text.
    pub schedules: Vec<Imported>,
    /// In the order of the text.
    pub left_out: Vec<LeftOut>,
    /// Celery's setting of the zone, if the text has it.
    pub zone: Option<String>,
}

/// A schedule that can be taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// A name that a schedule here can have.
    pub name: String,
    /// Where it is in the text, from 1.
    pub line: u32,
    /// As `PUT /v1/schedules/{name}` takes it.
    pub definition: Map<String, serde_json::Value>,
    /// What was changed or left away.
    pub notes: Vec<Note>,
}

/// A remark about a part of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub line: u32,
    pub text: String,
}

/// What could not be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// As the text calls it.
    pub name: String,
    pub line: u32,
    pub reason: String,
}

/// Why nothing was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    #[error("the text has {0} bytes: at most {MAX_BYTES} are read. Take out the part with the schedules")]
    TooLong(usize),
    #[error(
        "there is no beat_schedule: write `beat_schedule = {{…}}`, `app.conf.beat_schedule = {{…}}`, \
         `CELERY_BEAT_SCHEDULE = {{…}}`, or the dict alone"
    )]
    NothingFound,
    #[error("line {line}: {what}. Nothing is read of a broken file")]
    NotClosed { line: u32, what: String },
}

/// Reads a text. `zone` is that of the crontabs; without it, it is Celery's setting in the text, or else UTC.
///
/// # Errors
/// The text is too long, has no schedules at all, or a bracket or a text that is not closed.
pub fn import(text: &str, zone: Option<&str>) -> Result<Import, ImportError> {
    if text.len() > MAX_BYTES {
        return Err(ImportError::TooLong(text.len()));
    }
    // As Python reads line ends.
    let text = &*text.replace("\r\n", "\n");
    let is_json = text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let source = literal::Source::new(text, is_json);
    if let Some((line, what)) = token::unclosed(&source.tokens) {
        return Err(ImportError::NotClosed { line, what });
    }
    read(&source, zone)
}

fn read(source: &literal::Source<'_>, zone: Option<&str>) -> Result<Import, ImportError> {
    let found = find::schedules(source);
    if found.entries.is_empty() && found.left_out.is_empty() && !found.is_there {
        return Err(ImportError::NothingFound);
    }
    let zone_used = zone.or(found.zone.as_deref());
    let mut import = Import { zone: found.zone.clone(), left_out: found.left_out, schedules: Vec::new() };
    let mut names = entry::Names::default();
    for find::Entry { name, node, note, .. } in found.entries {
        match entry::imported(&name, &node, zone_used, &mut names) {
            Ok(mut imported) => {
                imported.notes.extend(note);
                import.schedules.push(imported);
            }
            Err(left_out) => import.left_out.push(left_out),
        }
    }
    import.left_out.sort_by_key(|left_out| left_out.line);
    Ok(import)
}

#[cfg(test)]
mod tests;
