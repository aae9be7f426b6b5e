//! Where a schedule is: what is next, what waits, what runs. Stored as JSON text beside the definition, with the same step.

use serde::{Deserialize, Serialize};
use umbel_model::{JobId, UnixMs};

use super::{MAX_BACKFILLS, MAX_RUNS, MAX_WAITING};

/// See the top of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiringState {
    /// Random, chosen when the schedule was made: ids of its runs are those of no other schedule of this name.
    pub key: String,
    /// The next nominal time about which nothing is decided; none: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<UnixMs>,
    /// Nominal times that wait for a run to end, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// Runs that were started by time.
    #[serde(default)]
    pub started: u64,
    /// Runs in a row that failed or could not be started.
    #[serde(default)]
    pub failures: u32,
    /// Runs of which it is not known that they are over, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backfills: Vec<Backfill>,
}

/// A fire that could not be started and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub nominal_at: UnixMs,
    /// When.
    pub at: UnixMs,
    /// How often it was tried.
    pub tries: u32,
    pub error: String,
}

/// Why and since when a schedule is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub since: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A job or workflow that a schedule started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: JobId,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_workflow: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    Succeeded,
    Failed,
    /// It was cancelled, skipped or expired, or is not there any more.
    Other,
}

/// Nominal times of the past that are started beside those that come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    pub id: String,
    /// The next of them; none once all were started.
    pub next: UnixMs,
    /// Up to this one.
    pub to: UnixMs,
    /// Between two of them, milliseconds.
    pub pace_ms: u64,
    /// When the next one is started.
    pub at: UnixMs,
    pub started: u64,
    /// How often the next one could not be started.
    #[serde(default)]
    pub tries: u32,
}

impl FiringState {
    /// A run that was followed is over.
    pub fn ended(&mut self, id: JobId, how: RunEnd) {
        let before = self.runs.len();
        self.runs.retain(|run| run.id != id);
        if self.runs.len() == before {
            return;
        }
        match how {
            RunEnd::Succeeded => self.failures = 0,
            RunEnd::Failed => self.failures = self.failures.saturating_add(1),
            RunEnd::Other => {}
        }
    }

    /// A run was started that is to be followed. The oldest of too many is forgotten.
    pub fn follow(&mut self, run: Run) {
        if self.runs.len() >= MAX_RUNS {
            self.runs.remove(0);
        }
        self.runs.push(run);
    }

    /// Whether everything is in its bounds: a text that somebody else wrote may hold anything.
    pub fn is_sound(&self) -> bool {
        self.waiting.len() <= MAX_WAITING
            && self.runs.len() <= MAX_RUNS
            && self.backfills.len() <= MAX_BACKFILLS
            && self.waiting.is_sorted()
    }
}
