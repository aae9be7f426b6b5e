//! How many bytes of a tenant's are stored: what is counted of each thing, in every broker alike. Texts count with what they
//! refer to in the module store; names, states and indexes do not count, because their number is limited.
//!
//! What would exceed a limit is refused, if it is a submission or a document, or dropped, if it is a log line; a job whose result
//! does not fit fails. What is small or needed to bring jobs to their end is stored all the same.

use serde::Serialize;
use umbel_model::{Failure, JobRecord, JobState, LargeValue, Progress, Resolution, large_value::REFERENCE};

use crate::{DocumentKind, Growth, LogLine, NewNode, NewWork, NodeTemplate, PutDocument, rules::history};

/// A result of at most so many bytes is stored also when its tenant has no room for it.
pub const FREE_RESULT_BYTES: u64 = 4_096;
/// The failure's kind of a job whose result was not stored, because its tenant has stored as much as it may.
pub const STORAGE_QUOTA: &str = "storage_quota";
/// The two parts of its message; between them stands what `used` says.
pub const STORAGE_QUOTA_MESSAGE: (&str, &str) = (
    "it succeeded, but its result was not kept: the tenant has stored as many bytes of jobs as it may (",
    "); forget jobs, purge queues, keep results shorter, or let an operator raise the limit; then redrive it",
);

/// Whether so many bytes more fit.
pub fn fits(limit: u64, used: u64, more: u64) -> bool {
    limit == 0 || more == 0 || used.saturating_add(more) <= limit
}

/// How much is stored and may be, for people; 0: any number.
pub fn used(stored: u64, limit: u64) -> String {
    if limit == 0 { format!("{stored} bytes are stored") } else { format!("{stored} of {limit} bytes are stored") }
}

/// The failure that an outcome has to be instead, because its result does not fit.
pub fn refused_result(limit: u64, used: impl FnOnce() -> u64, resolution: &Resolution) -> Option<Failure> {
    let Resolution::Succeed { result: Some(text) } = resolution else { return None };
    let more = result(text.get());
    if more <= FREE_RESULT_BYTES || limit == 0 {
        return None;
    }
    let stored = used();
    (!fits(limit, stored, more)).then(|| result_failure(stored, limit))
}

/// The failure of a job whose result was not stored beside so many bytes.
pub fn result_failure(stored: u64, limit: u64) -> Failure {
    let (before, behind) = STORAGE_QUOTA_MESSAGE;
    Failure::new(STORAGE_QUOTA, format!("{before}{}{behind}", used(stored, limit)))
}

/// Whether a success that is settled again was recorded as the failure that its result did not fit.
pub fn was_refused(resolution: &Resolution, state: JobState, failure: Option<&Failure>) -> bool {
    matches!(resolution, Resolution::Succeed { .. })
        && state == JobState::Failed
        && failure.is_some_and(|failure| failure.kind == STORAGE_QUOTA)
}

/// Whether a document does not fit that takes `old` bytes now and would take `new`. Those that controls and bulk actions are made
/// of are small, and are how a full tenant is emptied.
pub fn refuses_document(limit: u64, used: impl FnOnce() -> u64, put: &PutDocument, old: u64, new: u64) -> bool {
    let is_limited = matches!(put.kind, DocumentKind::Module | DocumentKind::Task | DocumentKind::Secret);
    is_limited && put.body.is_some() && new > old && limit > 0 && !fits(limit, used(), new - old)
}

/// The bytes of a result, with those that it refers to.
pub fn result(text: &str) -> u64 {
    let apart = if text.starts_with(REFERENCE) { LargeValue::from_reference(text) } else { None };
    text.len() as u64 + apart.map_or(0, |value| value.bytes)
}

/// The bytes of a job's spec, with those of the arguments that it refers to: such a reference is its last field.
pub fn spec(text: &str) -> u64 {
    text.len() as u64 + arguments_apart(text).unwrap_or(0)
}

/// How the reference to large arguments begins in a spec, and how it ends.
const ARGUMENTS: (&str, &str) = (",\"stored_arguments\":{\"sha256\":\"", "\"}}");

fn arguments_apart(text: &str) -> Option<u64> {
    let rest = text.strip_suffix(ARGUMENTS.1)?;
    let (_, reference) = rest.rsplit_once(ARGUMENTS.0)?;
    let (digest, rest) = reference.split_once("\",\"bytes\":")?;
    let (bytes, of) = rest.split_once(",\"of\":\"")?;
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b':');
    if is_word(digest) && is_word(of) { bytes.parse().ok() } else { None }
}

fn json(value: &impl Serialize) -> u64 {
    serde_json::to_string(value).map_or(0, |text| text.len() as u64)
}

/// The bytes of a failure.
pub fn failure(failure: &Failure) -> u64 {
    json(failure)
}

/// The bytes of a job's progress.
pub fn progress(progress: &Progress) -> u64 {
    json(progress)
}

/// The bytes of a log line.
pub fn line(line: &LogLine) -> u64 {
    json(line)
}

/// The bytes of a job without its log: its spec (of a node: its arguments), and what its attempts left.
pub fn job(record: &JobRecord) -> u64 {
    let sent = record.node.as_ref().map_or_else(|| spec(&record.spec), |node| node.arguments.len() as u64);
    let left = record.result.as_ref().map_or(0, |text| result(text.get()))
        + record.failure.as_ref().map_or(0, failure)
        + record.progress.as_ref().map_or(0, progress);
    sent + left + record.history.iter().map(history::bytes).sum::<u64>()
}

/// The bytes of a workflow without its nodes.
pub fn workflow<'a>(spec: &str, templates: impl IntoIterator<Item = &'a NodeTemplate>) -> u64 {
    spec.len() as u64 + templates.into_iter().map(template).sum::<u64>()
}

/// The bytes of a template.
pub fn template(template: &NodeTemplate) -> u64 {
    template.spec.len() as u64
}

/// The bytes of a node that is to be stored.
pub fn node(new: &NewNode) -> u64 {
    let NewWork::Job { arguments, kept, .. } = &new.work else { return 0 };
    let left = kept.as_ref().map_or(0, |kept| {
        kept.result.as_ref().map_or(0, |text| result(text.get())) + kept.failure.as_ref().map_or(0, failure)
    });
    arguments.len() as u64 + left
}

/// The bytes of what a guest adds, at most: a template may be there already.
pub fn growth(growth: &Growth) -> u64 {
    let workflows = growth
        .workflows
        .iter()
        .map(|new| workflow(&new.head.spec, &new.head.templates) + new.nodes.iter().map(node).sum::<u64>());
    let members = growth.members.as_ref().map_or(0, |members| {
        members.templates.iter().map(template).sum::<u64>() + members.nodes.iter().map(node).sum::<u64>()
    });
    workflows.sum::<u64>() + members
}

/// The bytes of a document: its name, its body and its version in digits, with a space between.
pub fn document(name: &str, version: u64, body: &str) -> u64 {
    let digits = version.checked_ilog10().unwrap_or(0) + 1;
    name.len() as u64 + u64::from(digits) + 1 + body.len() as u64
}

#[cfg(test)]
mod tests {
    use umbel_model::{Digest, JobId};

    use super::*;

    #[test]
    fn a_text_counts_with_the_value_that_a_host_put_into_the_module_store_for_it() {
        let stored = LargeValue { sha256: Digest::of(b"x"), bytes: 5_000_000, of: JobId::from_parts(1, 2) };
        let text = stored.reference();
        assert_eq!(result(&text), text.len() as u64 + 5_000_000);
        assert_eq!(result(r#"{"$umbel":1}"#), 12);
        let reference = serde_json::to_string(&stored).unwrap();
        let whole = format!(r#"{{"v":1,"arguments":{{}},"stored_arguments":{reference}}}"#);
        assert_eq!(spec(&whole), whole.len() as u64 + 5_000_000);
        let forged = format!(r#"{{"v":1,"arguments":{{"a":1,"stored_arguments":{reference}}}}}"#);
        assert_eq!(spec(&forged), forged.len() as u64, "of a user");
    }

    #[test]
    fn what_is_small_is_stored_also_when_there_is_no_room() {
        let result = |bytes: usize| {
            let text = format!("\"{}\"", "x".repeat(bytes - 2));
            Resolution::Succeed { result: Some(serde_json::value::RawValue::from_string(text).unwrap()) }
        };
        assert!(refused_result(1_000, || 1_000, &result(4_096)).is_none());
        let failure = refused_result(1_000, || 1_000, &result(4_097)).unwrap();
        assert_eq!(failure.kind, STORAGE_QUOTA);
        assert!(failure.message.contains("as it may (1000 of 1000 bytes are stored); forget"), "{}", failure.message);
        assert!(refused_result(5_097, || 1_000, &result(4_097)).is_none());
        assert!(refused_result(0, || 1_000, &result(4_097)).is_none(), "0: no limit");
    }

    #[test]
    fn a_document_counts_as_it_is_stored() {
        for version in [1, 9, 10, 123] {
            assert_eq!(document("name", version, "{}"), 4 + format!("{version} {{}}").len() as u64);
        }
    }
}
