//! Schedules as brokers know them: texts, and when somebody is to look at them.
//!
//! A broker knows nothing of cron, zones or policies. It keeps two texts of each schedule that it does not read, the *definition*
//! (what a user wrote) and the *state* (what was decided so far), and `look_at`. A service that fires reads the schedules that are
//! due, decides by their texts, and asks for one *step*: the new state, the next look, entries of the history, and the job or
//! workflow that starts, all at once or nothing. A step names the revision by which it was decided, and is not done when there is
//! another one by now. So any number of processes fire the same schedules without a leader, and each decision is carried out once.
//!
//! # Lost replies
//!
//! A step may be repeated after `Error::Unavailable`. If it had been done, the repeated one answers `Stale` and changes nothing; so
//! it does if somebody else was faster. Whoever fires need not know which: it reads the schedule again, as after any `Stale`, and
//! decides anew by the state that it finds. What was started was started together with that state, so it is neither lost nor started
//! twice. An order that adds to the state, as to leave out the next time or to start one by hand, must know it: it looks whether the state
//! has what it asked for, or starts with the same id as before.
//!
//! A step that makes a schedule is the exception: repeated blindly, it would make one again that was deleted since. Look first whether it
//! is there.
//!
//! The id of what a step starts should follow from the schedule and its nominal time. Then a schedule that was deleted and made again
//! does not start a second job for the same time: a job or workflow of the very same id that is there already counts as started, and
//! the step is done without it.
//!
//! For example, servers A and B both read revision 7 of a schedule that is due. A's step stores revision 8 and the job of 03:00, and
//! its reply is lost. B's step answers `Stale` (8), and so does A's when it is repeated. Both read the state, in which 03:00 has fired.
//!
//! # When somebody looks
//!
//! `due_schedules` says when the next look is. A process that fires sleeps until then, by the broker's clock, or until a hint of
//! `Topic::Schedules` says that the next look comes earlier now. A hint may be lost: poll as well, now and then.

use std::fmt;

use async_trait::async_trait;
use umbel_model::{ScheduleName, TenantId, UnixMs, WorkflowId};

use crate::{NewJob, Result, Submitted, WorkflowSubmitted};

/// Steps of one call.
pub const MAX_SCHEDULE_STEPS: usize = 100;
/// The longest definition, bytes.
pub const MAX_SCHEDULE_BYTES: usize = 64 << 10;
/// The longest state, bytes.
pub const MAX_SCHEDULE_STATE_BYTES: usize = 8 << 10;
/// Entries of the history that one step adds.
pub const MAX_STEP_FIRES: usize = 16;
/// The longest entry of the history, bytes.
pub const MAX_FIRE_BYTES: usize = 1 << 10;
/// Entries of the history of one schedule that are kept, the newest.
pub const MAX_FIRES: usize = 100;
/// The latest time at which a schedule can be looked at; a later one is this one.
pub const MAX_LOOK_AT: UnixMs = (1 << 53) - 1;

/// Keeps schedules. See the top of the file for how they are fired.
#[async_trait]
pub trait Schedules: Send + Sync + fmt::Debug + 'static {
    /// Does each step on its own, in order: one answer per step. At most [`MAX_SCHEDULE_STEPS`].
    async fn schedule_steps(&self, steps: &[ScheduleStep]) -> Result<Vec<ScheduleStepped>>;

    /// One schedule; none when the tenant has no such schedule.
    async fn schedule(&self, tenant: &TenantId, name: &ScheduleName) -> Result<Option<ScheduleRecord>>;

    /// Schedules of a tenant by name. A page ends at `PAGE_BYTES` of names and texts, and at `PAGE_SCAN` schedules.
    async fn schedules(&self, query: &ScheduleQuery) -> Result<SchedulePage>;

    /// The schedules of all tenants whose `look_at` has come, earliest first, then by tenant and name. At most `max`, and no more
    /// when those before have `PAGE_BYTES` of names and texts.
    async fn due_schedules(&self, max: u32) -> Result<DueSchedules>;

    /// The history of a schedule, newest first: entries before number `before`, at most `max`. Empty when there is no such schedule.
    async fn fires(&self, tenant: &TenantId, name: &ScheduleName, before: Option<u64>, max: u32) -> Result<Vec<Fire>>;
}

/// A schedule as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRecord {
    pub tenant: TenantId,
    pub name: ScheduleName,
    /// Of the definition: 1 when the schedule was made; each new definition adds one.
    pub version: u64,
    /// A number of the tenant that rises with each step of any of its schedules, also when one is deleted and made again.
    pub revision: u64,
    /// Text that brokers do not read.
    pub definition: String,
    /// Text that brokers do not read.
    pub state: String,
    /// None: nobody needs to look at it.
    pub look_at: Option<UnixMs>,
    pub created_at: UnixMs,
    /// When its definition was stored.
    pub changed_at: UnixMs,
    /// Entries that its history ever had: the number of the last one.
    pub fires: u64,
}

/// One step of one schedule.
#[derive(Debug, Clone)]
pub struct ScheduleStep {
    pub tenant: TenantId,
    pub name: ScheduleName,
    /// The revision by which it was decided; 0: there is no such schedule.
    pub revision: u64,
    /// It is not done before this time; 0: it may be done at any time.
    pub not_before: UnixMs,
    pub change: ScheduleChange,
    /// Entries for the history, oldest first: at most [`MAX_STEP_FIRES`], each of at most [`MAX_FIRE_BYTES`].
    pub fires: Vec<String>,
    /// What starts in the same step, of the same tenant.
    pub start: Option<NewRun>,
}

/// What a step makes of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleChange {
    Put {
        /// At most [`MAX_SCHEDULE_BYTES`]. None leaves the one that is there; a step that makes a schedule has one.
        definition: Option<String>,
        /// At most [`MAX_SCHEDULE_STATE_BYTES`].
        state: String,
        look_at: Option<UnixMs>,
    },
    /// Deletes it with its history.
    Delete,
}

/// What a step starts.
#[derive(Debug, Clone)]
pub enum NewRun {
    /// As `Jobs::submit` does.
    Job(Box<NewJob>),
    /// As `Workflows::start_workflow` does: all its nodes were staged before.
    Workflow(WorkflowId),
}

/// The answer to a step. All but `Done` changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleStepped {
    /// What is stored now. After a deletion the version is 0, and nothing is found under the revision.
    Done { version: u64, revision: u64 },
    /// There is this revision instead of the one by which the step was decided; 0: there is no such schedule, or it was to be left as
    /// it is, or deleted, and is not there.
    Stale { revision: u64 },
    /// Its time has not come at `now`.
    TooEarly { now: UnixMs },
    /// The tenant has so many schedules, which is as many as it may.
    TooMany(u64),
    /// A text is longer than so many bytes, or there are more entries for the history than so many.
    TooLarge { part: SchedulePart, max: u64 },
    /// A new definition does not fit: the tenant has stored as many bytes of documents and schedules as it may. A step that leaves the
    /// definition as it is, is done all the same.
    StorageFull,
    /// The job could not be submitted, for this reason. Where that is a duplicate, its idempotency key answers with the other job from
    /// now on, as after a submission.
    NotStarted(Submitted),
    /// The workflow could not be started, for this reason.
    NotStartedWorkflow(WorkflowSubmitted),
}

umbel_model::named_enum! {
    /// What of a step is limited.
    pub enum SchedulePart {
        Definition = "definition",
        State = "state",
        /// One entry for the history.
        Fire = "fire",
        /// The number of entries.
        Fires = "fires",
    }
}

/// Which schedules to list.
#[derive(Debug, Clone)]
pub struct ScheduleQuery {
    pub tenant: TenantId,
    /// Only names that begin with it.
    pub prefix: String,
    /// Only names behind it.
    pub after: Option<ScheduleName>,
    /// At least 1.
    pub max: u32,
}

/// A page of schedules by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchedulePage {
    pub schedules: Vec<ScheduleRecord>,
    /// The name after which the next page begins; none at the end.
    pub next: Option<ScheduleName>,
}

/// Schedules at which somebody is to look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DueSchedules {
    pub schedules: Vec<ScheduleRecord>,
    /// The broker's time.
    pub now: UnixMs,
    /// The earliest `look_at` of all others: not later than `now` when more are due. None: no other is to be looked at.
    pub next_look: Option<UnixMs>,
}

/// An entry of a schedule's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// Counts from 1, without gaps, as long as the schedule is there.
    pub number: u64,
    /// Text that brokers do not read.
    pub text: String,
}
