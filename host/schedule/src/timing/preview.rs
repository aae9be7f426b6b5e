//! The next times as a person reads them, with what the zone did to them.

use jiff::Timestamp;
use serde::Serialize;
use umbel_model::UnixMs;

use crate::{
    timing::{Next, Timing},
    zone::Resolved,
};

/// Most times of one preview.
pub const MAX_PREVIEW: usize = 1_000;

umbel_model::named_enum! {
    /// What to know about a time of a preview.
    pub enum PreviewMark {
        /// The zone's offset is another one than at the time before it.
        OffsetChanged = "offset_changed",
        /// The clock jumps over the time that is written; this is the first one after the gap.
        MovedOutOfGap = "moved_out_of_gap",
        /// The clock shows this local time again later.
        FirstOfTwo = "first_of_two",
        /// The clock showed this local time before.
        SecondOfTwo = "second_of_two",
    }
}

/// One time at which a timing fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreviewTime {
    /// Milliseconds since the Unix epoch.
    pub at: UnixMs,
    /// The clock of the zone, `2026-03-29T03:00:00`.
    pub local: String,
    /// `+02:00`.
    pub offset: String,
    /// `CEST`, or the offset where a zone has no letters.
    pub abbreviation: String,
    pub weekday: &'static str,
    pub marks: Vec<PreviewMark>,
}

/// The next times of a timing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    pub times: Vec<PreviewTime>,
    /// Why there are fewer than were asked for.
    pub end: Option<Next>,
}

impl Timing {
    /// The first `count` times after `after`, at most `MAX_PREVIEW`.
    pub fn preview(&self, after: UnixMs, count: usize) -> Preview {
        let mut times: Vec<PreviewTime> = Vec::new();
        let (mut at, mut end) = (after, None);
        while times.len() < count.min(MAX_PREVIEW) {
            match self.next_after(at) {
                Next::At(next) => {
                    let Some(time) = self.preview_time(next, at) else { break };
                    times.push(time);
                    at = next;
                }
                none => {
                    end = Some(none);
                    break;
                }
            }
        }
        Preview { times, end }
    }

    /// None beyond the year 9999.
    fn preview_time(&self, at: UnixMs, before: UnixMs) -> Option<PreviewTime> {
        let zone = &self.0.zone;
        let instant = Timestamp::from_millisecond(i64::try_from(at).ok()?).ok()?;
        let info = zone.jiff().to_offset_info(instant);
        let local = info.offset().to_datetime(instant);
        Some(PreviewTime {
            at,
            local: local.to_string(),
            offset: offset_text(info.offset().seconds()),
            abbreviation: info.abbreviation().to_owned(),
            weekday: ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
                [local.weekday().to_monday_zero_offset() as usize],
            marks: self.marks((at / 1_000) as i64, (before / 1_000) as i64),
        })
    }

    fn marks(&self, at: i64, before: i64) -> Vec<PreviewMark> {
        let zone = &self.0.zone;
        let which = match zone.resolve(zone.local(at)) {
            Some(Resolved::Twice { second, .. }) if second == at => Some(PreviewMark::SecondOfTwo),
            Some(Resolved::Twice { .. }) => Some(PreviewMark::FirstOfTwo),
            _ => None,
        };
        let changed = (zone.offset(at) != zone.offset(before)).then_some(PreviewMark::OffsetChanged);
        let moved = self.0.source.is_moved(at, zone).then_some(PreviewMark::MovedOutOfGap);
        [changed, moved, which].into_iter().flatten().collect()
    }
}

/// `+02:00`, `-00:44:30`.
fn offset_text(seconds: i32) -> String {
    let (sign, length) = (if seconds < 0 { '-' } else { '+' }, seconds.abs());
    let rest = if length % 60 == 0 { String::new() } else { format!(":{:02}", length % 60) };
    format!("{sign}{:02}:{:02}{rest}", length / 3_600, length / 60 % 60)
}
