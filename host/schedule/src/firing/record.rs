//! What is written down of a nominal time.

use serde::{Deserialize, Serialize};
use umbel_model::{JobId, UnixMs, named_enum};

named_enum! {
    /// What became of a nominal time, or of the schedule.
    pub enum Verdict {
        /// A run was started.
        Started = "started",
        /// Left out, because a run was not over or somebody said so.
        Skipped = "skipped",
        /// It passed while nobody could start it.
        Missed = "missed",
        /// It could not be started, and is not tried again.
        Failed = "failed",
        /// It could not be started, and is tried again.
        Retrying = "retrying",
        /// The schedule was paused, by itself or by somebody.
        Paused = "paused",
        Resumed = "resumed",
    }
}

/// One entry of a schedule's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireRecord {
    pub verdict: Verdict,
    /// When that was decided, by the broker's clock.
    pub at: UnixMs,
    /// The nominal time; none of what is not about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nominal_at: Option<UnixMs>,
    /// The last of several nominal times that this stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<UnixMs>,
    /// How many nominal times it stands for; [`super::MAX_COUNTED`] means that many or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<JobId>,
    /// The backfill to which it belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<String>,
    /// Somebody started it beside its times.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Longer reasons are cut, bytes.
const MAX_REASON: usize = 500;
/// The longest text of an entry, bytes.
const MAX_TEXT: usize = 1_024;

impl FireRecord {
    pub fn new(verdict: Verdict, at: UnixMs) -> Self {
        Self {
            verdict,
            at,
            nominal_at: None,
            through: None,
            count: None,
            job: None,
            workflow: None,
            backfill: None,
            by_hand: false,
            reason: None,
        }
    }

    /// Of one nominal time.
    pub fn of(verdict: Verdict, at: UnixMs, nominal: UnixMs) -> Self {
        Self { nominal_at: Some(nominal), ..Self::new(verdict, at) }
    }

    #[must_use]
    pub fn because(mut self, reason: impl AsRef<str>) -> Self {
        self.reason = Some(reason_of(reason.as_ref()));
        self
    }

    /// The entry as it is stored: its reason is cut until it fits.
    pub fn to_text(&self) -> String {
        let text = |record: &Self| serde_json::to_string(record).expect("an entry has text keys only");
        let mut whole = text(self);
        let mut record = self.clone();
        while whole.len() > MAX_TEXT
            && let Some(reason) = record.reason.take()
        {
            record.reason = Some(cut(&reason, reason.len() / 2)).filter(|reason| reason.len() > 3);
            whole = text(&record);
        }
        whole
    }

    /// How many nominal times it stands for.
    pub fn times(&self) -> u32 {
        self.count.unwrap_or_else(|| u32::from(self.nominal_at.is_some() && self.verdict != Verdict::Retrying))
    }
}

/// A reason of somebody's, in one line without control characters, and not too long.
pub fn reason_of(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() <= MAX_REASON { line } else { cut(&line, MAX_REASON) }
}

/// The first `max` bytes of a text, or a little less, with a mark that there were more.
fn cut(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_fits_whatever_its_reason_is() {
        for reason in ["\"".repeat(2_000), "\u{0}".repeat(2_000), "é".repeat(600), "\\".repeat(499), String::new()] {
            let mut record = FireRecord::of(Verdict::Failed, u64::MAX, u64::MAX).because(&reason);
            record.backfill = Some("b".repeat(26));
            (record.through, record.count) = (Some(u64::MAX), Some(u32::MAX));
            let text = record.to_text();
            assert!(text.len() <= MAX_TEXT, "{}", text.len());
            let read: FireRecord = serde_json::from_str(&text).unwrap();
            assert_eq!((read.at, read.reason.is_some()), (u64::MAX, true));
        }
    }
}
