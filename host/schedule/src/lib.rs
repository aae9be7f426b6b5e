//! When a schedule fires: cron expressions, intervals, solar events and one-off times in a zone.
//!
//! Nothing here does IO, reads a clock, is async or draws random numbers. A [`Timing`] is checked once and then asked
//! for the time after a time; the work of each question is bounded.
//!
//! # Gaps and overlaps of the local clock
//!
//! Where a clock is put forward, some local times are missing (a *gap*); where it is put back, some happen twice (an
//! *overlap*). One rule holds for every zone, also for a gap of a day:
//!
//! - A **fixed time** in a gap fires at the first instant after the gap. Several of them in one gap, and one that is
//!   the end of the gap anyway, are one fire. In an overlap a fixed time fires once, at the earlier of the two.
//! - A time that **follows elapsed time** is skipped in a gap, and fires both times in an overlap.
//!
//! The minute and the hour of a cron expression decide: it is fixed when both are plain numbers or lists of numbers
//! (`0 3 * * *`, `0,30 2,14 * * 1-5`), and it follows elapsed time when one of them has `*`, a range or a step
//! (`*/15 * * * *`, `0 9-17 * * *`, `* 2 * * *`). Seconds and days do not decide. Intervals of days, weeks, months,
//! quarters and years are fixed times; intervals of seconds, minutes and hours, solar events and one-off times are
//! instants and know no local clock.
//!
//! With `0 3 * * *` in Europe/Berlin nothing is special. `30 2 * * *` fires at 03:00 on 29 March 2026, when 02:00 to
//! 03:00 is missing, and at the first 02:30 on 25 October, when it happens twice. `*/30 * * * *` fires at 01:30, 03:00,
//! and in October at 02:00, 02:30, 02:00, 02:30, 03:00.
//!
//! # Days of the week
//!
//! Numbers are those of POSIX in expressions of any number of fields: 0 or 7 is Sunday, 1 is Monday. Quartz counts
//! from 1 for Sunday; an expression that comes from there should have names (`MON-FRI`).
//!
//! Where the day of the month and the day of the week both say something, a day needs to match one of them, or both
//! with `"days": "and"`. A field that is `*`, `?` or `*/1` says nothing; `*/2` does, unlike in Vixie's cron.
//!
//! # Cost
//!
//! Every question is a bounded amount of work: months of at most 100 years, 400 days of the sun, and 1,000 steps over
//! times that are excluded. A search that ends there answers [`Next::NoneUntil`], and goes on when it is asked again.
//! Measured by the example `search_cost` on one core of a shared machine: 0.2 to 1 us for one expression, 5 us for a
//! solar event, up to 0.2 ms for 32 expressions that seldom fire, up to 1 ms for times that are excluded one by one.
//! Checking a new timing takes 5 to 200 us, and up to 32 such searches where nearly everything is excluded.

mod calendar;
pub mod celery;
mod cron;
mod definition;
mod error;
mod every;
pub mod firing;
mod solar;
mod spec;
mod spread;
mod timing;
mod walk;
mod zone;

pub use cron::DayRule;
pub use definition::{Definition, DefinitionError, ScheduleTimes, Start, StoredError, Written};
pub use error::TimingError;
pub use solar::SolarEvent;
pub use spec::{OneOrMany, SolarSpec, Time, TimingSpec, When};
pub use spread::{jitter_ms, offset_ms};
pub use timing::{MAX_PREVIEW, Next, Preview, PreviewMark, PreviewTime, Times, Timing};
pub use zone::{Zone, zone_database_version, zone_names};
