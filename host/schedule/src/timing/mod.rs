//! A timing that was checked, and the search for its next time.

mod accept;
mod describe;
mod exclusions;
mod preview;
mod source;

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use umbel_model::UnixMs;

use crate::{error::TimingError, spec::TimingSpec, zone::Zone};
use exclusions::Exclusions;
pub use preview::{MAX_PREVIEW, Preview, PreviewMark, PreviewTime};
use source::{Found, Source};

/// The answer to "when next?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It fires at this time.
    At(UnixMs),
    /// It never fires again.
    Never,
    /// It does not fire until this time, and not at it: the search ended there. Ask again with it.
    NoneUntil(UnixMs),
}

/// Searches of one `times` that may end without a time.
const MAX_GIVEN_UP: u32 = 16;

/// Times of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// In order, without doubles.
    pub times: Vec<UnixMs>,
    /// From where to ask for the rest of the range; none when this is all of it.
    pub rest: Option<UnixMs>,
}

/// When a schedule fires: checked, cheap to clone.
///
/// Two timings are equal when they mean the same, however they are written: `0 3 * * 1-5` and `0 3 * * MON-FRI`, `60s`
/// and `1m`. A zone counts only where it decides something.
#[derive(Debug, Clone)]
pub struct Timing(Arc<Checked>);

#[derive(Debug)]
struct Checked {
    spec: TimingSpec,
    zone: Zone,
    source: Source,
    exclusions: Exclusions,
    starts_at: UnixMs,
    ends_at: UnixMs,
}

impl Timing {
    /// Checks a timing.
    ///
    /// # Errors
    /// The field, what is wrong with it and what to write instead. Among others for an expression that can never fire,
    /// and for one that is excluded everywhere.
    pub fn new(spec: TimingSpec) -> Result<Self, TimingError> {
        accept::check(spec).map(|checked| Self(Arc::new(checked)))
    }

    /// Checks the JSON form.
    ///
    /// # Errors
    /// As `new`, and for JSON of a wrong shape.
    pub fn from_json(text: &str) -> Result<Self, TimingError> {
        let spec = serde_json::from_str(text).map_err(|error| accept::wrong_shape(text, &error))?;
        Self::new(spec)
    }

    /// Refuses a new timing that never fires after `now`: all of its times, its end or its years are over. One that is
    /// stored already is not asked this.
    ///
    /// # Errors
    /// The field that says so.
    pub fn check_not_over(&self, now: UnixMs) -> Result<(), TimingError> {
        match self.next_after(now) {
            Next::Never => Err(accept::over(&self.0, now)),
            Next::At(_) | Next::NoneUntil(_) => Ok(()),
        }
    }

    /// The first time strictly after `after`, with `starts_at` and `ends_at` and without what is excluded.
    ///
    /// Some 0.2 us for most timings, at most about 1 ms for an accepted one (see the crate's docs).
    pub fn next_after(&self, after: UnixMs) -> Next {
        after.checked_add(1).map_or(Next::Never, |from| self.0.at_or_after(from))
    }

    /// The times from `from` on and before `to`, in order: the first `max` of them, or fewer when the search was long.
    pub fn times(&self, from: UnixMs, to: UnixMs, max: usize) -> Times {
        let mut times = Vec::new();
        let (mut from, mut gave_up) = (from, 0);
        while from < to {
            if times.len() >= max || gave_up >= MAX_GIVEN_UP {
                return Times { times, rest: Some(from) };
            }
            from = match self.0.at_or_after(from) {
                Next::At(at) if at < to => {
                    times.push(at);
                    at + 1
                }
                Next::NoneUntil(until) => {
                    gave_up += 1;
                    until + 1
                }
                Next::At(_) | Next::Never => break,
            };
        }
        Times { times, rest: None }
    }

    pub fn zone(&self) -> &Zone {
        &self.0.zone
    }

    /// As it was written, with the zone in the database's spelling.
    pub fn spec(&self) -> &TimingSpec {
        &self.0.spec
    }
}

impl Checked {
    /// The first time at or after `from`.
    fn at_or_after(&self, from: UnixMs) -> Next {
        let from = from.max(self.starts_at);
        if from >= self.ends_at {
            return Next::Never;
        }
        match self.source.at_or_after(from, &self.zone, &self.exclusions) {
            Found::At(at) if at < self.ends_at => Next::At(at),
            Found::NoneBefore(until) if until < self.ends_at => Next::NoneUntil(until - 1),
            Found::At(_) | Found::NoneBefore(_) | Found::Never => Next::Never,
        }
    }
}

impl PartialEq for Timing {
    fn eq(&self, other: &Self) -> bool {
        let (this, other) = (&*self.0, &*other.0);
        let zone_decides = this.source.needs_zone() || !this.exclusions.is_empty();
        (this.zone == other.zone || !zone_decides)
            && (this.starts_at, this.ends_at) == (other.starts_at, other.ends_at)
            && this.source.means_the_same(&other.source)
            && this.exclusions == other.exclusions
    }
}

impl Serialize for Timing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.spec.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Timing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(TimingSpec::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
