//! A schedule as people write it: what to start, when, and how it fires. Stored as JSON text that brokers do not read.
//!
//! `Written` is the JSON form, `Definition` the checked one. Whether the task is there and takes the arguments is not checked here:
//! that is known only where it is composed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use umbel_model::{Digest, JsonError, RawList, RawObject, ScheduleName, TenantId, UnixMs, plain};

use crate::{
    Next, Time, Timing, TimingSpec, When,
    firing::{CatchUp, FiringPolicy, Overlap, Times},
    jitter_ms, offset_ms,
};

/// Newest version of the stored form. Who adds a field that older processes must not pass over raises it, and gives the service that
/// fires another name: then processes of both releases fire.
const STORED_VERSION: u8 = 1;
/// Bytes of a description.
const MAX_DESCRIPTION: usize = 1 << 10;
/// Bytes of what is said of where a schedule comes from.
const MAX_SOURCE: usize = 200;
/// Searches that go on where one ended without a time: of a place where the sun does not rise for long, say.
const MAX_SEARCHES: u32 = 16;
/// Times of a new schedule that are compared with the least interval.
const CHECKED_TIMES: usize = 1_000;

/// What a schedule starts: the body of `POST /v1/jobs`, or that of `POST /v1/workflows`, without an idempotency key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Start {
    /// Of a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// By position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Box<RawValue>>,
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kwargs: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Box<RawValue>>,
    /// Of a workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canvas: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
}

/// The JSON form of a schedule. What is left out has its default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    pub start: Start,
    pub when: When,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up_window_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runs: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_after_failures: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_missed: Option<bool>,
    /// Pins the module of a single task. Without it the one that is deployed when it fires runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// For people, at most 1 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it comes from, such as `file:team-a`: who applies a file finds its own by it. 1 to 200 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// It is made paused. Not stored, and without effect on a schedule that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// `STORED_VERSION` of whoever stored it; nobody writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u8>,
}

/// A field that is wrong, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct DefinitionError {
    /// JSON pointer into the definition; empty when it is wrong as a whole.
    pub pointer: String,
    pub detail: String,
}

impl DefinitionError {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Why a stored definition cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// Processes of this release leave the schedule alone.
    #[error("it was stored by a newer release")]
    Newer,
    #[error("{0}")]
    Damaged(String),
}

/// A schedule that was checked.
#[derive(Debug, Clone)]
pub struct Definition {
    pub written: Written,
    pub timing: Timing,
    pub policy: FiringPolicy,
    may_start_workflow: bool,
}

impl Definition {
    /// Reads what is stored.
    ///
    /// # Errors
    /// It was stored by a newer release, or with a newer database of zones than this one's, or cannot be read.
    pub fn stored(text: &str) -> Result<Self, StoredError> {
        #[derive(Deserialize)]
        struct Version {
            v: Option<u8>,
        }
        match serde_json::from_str(text) {
            Ok(Version { v: Some(v) }) if v > STORED_VERSION => return Err(StoredError::Newer),
            _ => {}
        }
        Self::checked(text).map_err(|error| match is_of_newer_zone(text, &error) {
            true => StoredError::Newer,
            false => StoredError::Damaged(error.to_string()),
        })
    }

    /// Reads what somebody wrote, and checks it.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn parse(text: &str) -> Result<Self, DefinitionError> {
        let definition = Self::checked(text)?;
        match definition.written.v {
            None => Ok(definition),
            Some(_) => Err(DefinitionError::new("/v", "there is no field `v`: take it out")),
        }
    }

    fn checked(text: &str) -> Result<Self, DefinitionError> {
        let written: Written =
            serde_json::from_str(text).map_err(|error| match JsonError::of_text::<Written>(text) {
                Some(JsonError { pointer, detail }) => DefinitionError { pointer, detail },
                None => DefinitionError::new("", plain(&error.to_string())),
            })?;
        Self::new(written)
    }

    /// # Errors
    /// The first field that is wrong.
    pub fn new(written: Written) -> Result<Self, DefinitionError> {
        written.start.check()?;
        written.check_texts()?;
        if written.digest.is_some() && written.start.task.is_none() {
            let detail = "it pins the module of a single task, and this starts a canvas: take it out";
            return Err(DefinitionError::new("/digest", detail));
        }
        let policy = written.policy();
        policy.check().map_err(|(field, detail)| DefinitionError::new(format!("/{field}"), detail))?;
        let timing = Timing::new(written.spec()).map_err(|error| DefinitionError::new(error.pointer, error.detail))?;
        let may_start_workflow = written.start.may_be_workflow();
        Ok(Self { written, timing, policy, may_start_workflow })
    }

    /// The text that is stored: as it was written, in one order, without `paused`.
    pub fn to_text(&self) -> String {
        let mut written = Written { paused: None, v: Some(STORED_VERSION), ..self.written.clone() };
        // In the database's spelling.
        written.zone.clone_from(&self.timing.spec().zone);
        serde_json::to_string(&written).expect("a definition has text keys only")
    }

    /// Refuses what may not be stored anew: a schedule that never fires after `now`, or of whose next 1,000 times two are nearer than
    /// `least_ms`.
    ///
    /// # Errors
    /// The field, and what to write instead.
    pub fn check_new(&self, now: UnixMs, least_ms: u64) -> Result<(), DefinitionError> {
        self.timing.check_not_over(now).map_err(|error| DefinitionError::new(error.pointer, error.detail))?;
        let times = self.timing.times(now, UnixMs::MAX, CHECKED_TIMES).times;
        match times.windows(2).find(|pair| pair[1] - pair[0] < least_ms) {
            None => Ok(()),
            Some(pair) => {
                let detail = format!(
                    "it fires at {} and at {}, {} ms later: the operator of this server allows no less than {least_ms} ms \
                     (`--min-schedule-interval`). Write a longer interval",
                    Time(pair[0]),
                    Time(pair[1]),
                    pair[1] - pair[0]
                );
                Err(DefinitionError::new("/when", detail))
            }
        }
    }

    /// The times of the schedule of this name, and how much later each is due.
    pub fn times(&self, tenant: &TenantId, name: &ScheduleName) -> ScheduleTimes<'_> {
        ScheduleTimes { definition: self, key: format!("{tenant}/{name}") }
    }

    /// Whether it may start a workflow: a canvas, or a task that may have callbacks.
    pub fn may_start_workflow(&self) -> bool {
        self.may_start_workflow
    }
}

/// Whether a stored text is refused only because this release's database of zones lacks its zone, or knows it otherwise.
fn is_of_newer_zone(text: &str, error: &DefinitionError) -> bool {
    let Ok(written) = serde_json::from_str::<Written>(text) else { return false };
    let is_of_timing = ["/when", "/starts_at", "/ends_at"].iter().any(|field| error.pointer.starts_with(field));
    let fires_elsewhere = || Timing::new(TimingSpec { zone: None, ..written.spec() }).is_ok();
    error.pointer == "/zone" || written.zone.is_some() && is_of_timing && fires_elsewhere()
}

impl Written {
    fn spec(&self) -> TimingSpec {
        let Self { when, zone, starts_at, ends_at, .. } = self.clone();
        TimingSpec { when, zone, starts_at, ends_at }
    }

    fn check_texts(&self) -> Result<(), DefinitionError> {
        let has_control = |text: &str, but: &[char]| text.chars().any(|c| c.is_control() && !but.contains(&c));
        if self.description.as_ref().is_some_and(|text| text.len() > MAX_DESCRIPTION || has_control(text, &['\n'])) {
            let detail = format!("write at most {MAX_DESCRIPTION} bytes without control characters but line breaks");
            return Err(DefinitionError::new("/description", detail));
        }
        let is_source = |text: &str| (1..=MAX_SOURCE).contains(&text.len()) && !has_control(text, &[]);
        if self.source.as_ref().is_some_and(|text| !is_source(text)) {
            let detail = format!("write 1 to {MAX_SOURCE} bytes without control characters");
            return Err(DefinitionError::new("/source", detail));
        }
        Ok(())
    }

    fn policy(&self) -> FiringPolicy {
        let default = FiringPolicy::default();
        FiringPolicy {
            overlap: self.overlap.unwrap_or(default.overlap),
            catch_up: self.catch_up.unwrap_or(default.catch_up),
            catch_up_window_ms: self.catch_up_window_ms.unwrap_or(default.catch_up_window_ms),
            jitter_ms: self.jitter_ms.unwrap_or(default.jitter_ms),
            window_ms: self.window_ms.unwrap_or(default.window_ms),
            max_runs: self.max_runs.unwrap_or(default.max_runs),
            pause_after_failures: self.pause_after_failures.unwrap_or(default.pause_after_failures),
            keep_missed: self.keep_missed.unwrap_or(default.keep_missed),
        }
    }
}

impl Start {
    fn check(&self) -> Result<(), DefinitionError> {
        let wrong = |field: &str, detail: &str| Err(DefinitionError::new(format!("/start{field}"), detail));
        match (&self.task, &self.canvas) {
            (None, None) => return wrong("", "write a `task` with `args`, `kwargs` and `options`, or a `canvas`"),
            (Some(_), Some(_)) => return wrong("/canvas", "write a `task` or a `canvas`, not both"),
            _ => {}
        }
        let of_job = [("/args", &self.args), ("/kwargs", &self.kwargs), ("/options", &self.options)];
        if let (None, Some((field, _))) = (&self.task, of_job.iter().find(|(_, value)| value.is_some())) {
            return wrong(field, "it belongs to a `task`, and this is a canvas: write it into its steps");
        }
        let of_workflow = [
            ("/name", self.name.is_some()),
            ("/tags", !self.tags.is_empty()),
            ("/headers", !self.headers.is_empty()),
            ("/deadline_ms", self.deadline_ms.is_some()),
            ("/keep_ms", self.keep_ms.is_some()),
        ];
        if let (Some(_), Some((field, _))) = (&self.task, of_workflow.iter().find(|(_, given)| *given)) {
            return wrong(field, "it belongs to a `canvas`; tags, headers and times of a task are in its `options`");
        }
        self.args()?;
        self.kwargs()?;
        Ok(())
    }

    /// See [`Definition::may_start_workflow`]. A key counts however it is written: `"\u006fn_success"` is one, too.
    fn may_be_workflow(&self) -> bool {
        let has_callback = |options: &RawValue| {
            let keys = serde_json::from_str::<RawObject<'_>>(options.get());
            keys.is_ok_and(|keys| keys.iter().any(|(key, _)| key.starts_with("on_")))
        };
        self.canvas.is_some() || self.options.as_deref().is_some_and(has_callback)
    }

    /// The arguments by position.
    ///
    /// # Errors
    /// They are no list.
    pub fn args(&self) -> Result<RawList<'_>, DefinitionError> {
        read(self.args.as_deref(), "/start/args")
    }

    /// The arguments by name.
    ///
    /// # Errors
    /// They are no object.
    pub fn kwargs(&self) -> Result<RawObject<'_>, DefinitionError> {
        read(self.kwargs.as_deref(), "/start/kwargs")
    }
}

fn read<'a, T: Deserialize<'a> + Default>(value: Option<&'a RawValue>, pointer: &str) -> Result<T, DefinitionError> {
    let read = |value: &'a RawValue| serde_json::from_str(value.get());
    let read = value.filter(|value| value.get() != "null").map(read).transpose();
    read.map(Option::unwrap_or_default).map_err(|error| DefinitionError::new(pointer, plain(&error.to_string())))
}

/// The times of one schedule.
#[derive(Debug, Clone)]
pub struct ScheduleTimes<'a> {
    definition: &'a Definition,
    /// Names the schedule among all tenants.
    key: String,
}

impl Times for ScheduleTimes<'_> {
    fn next_after(&self, after: UnixMs) -> Option<UnixMs> {
        let mut after = after;
        for _ in 0..MAX_SEARCHES {
            match self.definition.timing.next_after(after) {
                Next::At(at) => return Some(at),
                Next::Never => return None,
                Next::NoneUntil(until) => after = until,
            }
        }
        None
    }

    fn offset_ms(&self, nominal: UnixMs, next: Option<UnixMs>) -> u64 {
        let FiringPolicy { window_ms, jitter_ms: jitter, .. } = self.definition.policy;
        let window = offset_ms(&self.key, window_ms, nominal, next);
        // Both together stay below the next one.
        let next = next.map(|next| next.saturating_sub(window).max(nominal + 1));
        window + jitter_ms(&self.key, nominal, jitter, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = r#"{"start":{"task":"report","args":[12345678901234567890.10]},"when":{"cron":"0 3 * * *"},"zone":"europe/berlin","paused":true}"#;

    fn pointer(text: &str) -> String {
        Definition::parse(text).unwrap_err().pointer
    }

    #[test]
    fn what_is_stored_is_what_was_written_with_its_numbers_and_without_the_pause() {
        let text = Definition::parse(NIGHTLY).unwrap().to_text();
        assert_eq!(
            text,
            r#"{"start":{"task":"report","args":[12345678901234567890.10]},"when":{"cron":"0 3 * * *"},"zone":"Europe/Berlin","v":1}"#
        );
        let stored = Definition::stored(&text).unwrap();
        assert_eq!(stored.to_text(), text);
        assert_eq!(Definition::stored(r#"{"v":2,"start":{}}"#).unwrap_err(), StoredError::Newer);
        assert!(matches!(Definition::stored("{"), Err(StoredError::Damaged(_))));
        assert_eq!(pointer(&text), "/v");
    }

    #[test]
    fn a_field_that_is_wrong_is_named() {
        let with = |start: &str, rest: &str| format!(r#"{{"start":{start},"when":{{"every":"1h"}}{rest}}}"#);
        let task = r#"{"task":"a"}"#;
        for (text, expected) in [
            (with("{}", ""), "/start"),
            (with(r#"{"task":"a","canvas":{}}"#, ""), "/start/canvas"),
            (with(r#"{"canvas":{},"args":[]}"#, ""), "/start/args"),
            (with(r#"{"task":"a","tags":["x"]}"#, ""), "/start/tags"),
            (with(r#"{"task":"a","args":{}}"#, ""), "/start/args"),
            (with(r#"{"task":"a","kwargs":[]}"#, ""), "/start/kwargs"),
            (with(r#"{"canvas":{}}"#, &format!(r#","digest":"{}""#, Digest::of(b"x"))), "/digest"),
            (with(task, r#","jitter_ms":99999999999"#), "/jitter_ms"),
            (with(task, r#","source":"""#), "/source"),
            (with(task, r#","zone":"Mars""#), "/zone"),
            (with(task, r#","ends_at":"1999-01-01T00:00:00Z","starts_at":"2000-01-01T00:00:00Z""#), "/ends_at"),
            (r#"{"start":{"task":"a"},"when":{}}"#.to_owned(), "/when"),
        ] {
            assert_eq!(pointer(&text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_stored_with_a_zone_that_is_not_known_here_is_left_to_a_newer_release() {
        let stored = |zone: &str, when: &str| {
            let text = format!(r#"{{"start":{{"task":"a"}},"when":{when},"zone":"{zone}","v":1}}"#);
            Definition::stored(&text).map(drop)
        };
        let daily = r#"{"cron":"0 3 * * *"}"#;
        assert_eq!(stored("Europe/Berlin", daily), Ok(()));
        assert_eq!(stored("Mars/Olympus", daily), Err(StoredError::Newer));
        // Each of its times is in a gap of this zone's clock, which another release may know otherwise.
        let in_gap = r#"{"cron":"30 2-2 * 3 0L","days":"and"}"#;
        assert_eq!(stored("UTC", in_gap), Ok(()));
        assert_eq!(stored("Europe/Berlin", in_gap), Err(StoredError::Newer));
        assert!(matches!(stored("Europe/Berlin", r#"{"cron":"nonsense"}"#), Err(StoredError::Damaged(_))));
    }

    #[test]
    fn a_callback_is_seen_however_its_key_is_written() {
        let may = |start: &str| {
            let text = format!(r#"{{"start":{start},"when":{{"every":"1h"}}}}"#);
            Definition::parse(&text).unwrap().may_start_workflow()
        };
        assert!(may(r#"{"canvas":{}}"#));
        assert!(may(r#"{"task":"a","options":{"on_success":[]}}"#));
        assert!(may(r#"{"task":"a","options":{"\u006fn_success":[]}}"#));
        assert!(!may(r#"{"task":"a","options":{"tags":["\"on_"]}}"#));
        assert!(!may(r#"{"task":"a"}"#));
    }

    #[test]
    fn a_new_one_that_is_over_or_too_frequent_is_refused() {
        let of = |when: &str| Definition::parse(&format!(r#"{{"start":{{"task":"a"}},"when":{when}}}"#)).unwrap();
        let check = |when: &str, least| of(when).check_new(1_800_000_000_000, least).map_err(|error| error.pointer);
        assert_eq!(check(r#"{"every":"60s"}"#, 60_000), Ok(()));
        assert_eq!(check(r#"{"every":"59s"}"#, 60_000), Err("/when".into()));
        assert_eq!(check(r#"{"cron":["0 3 * * *","1 3 * * *"]}"#, 60_001), Err("/when".into()));
        assert_eq!(check(r#"{"at":"2020-01-01T00:00:00Z"}"#, 1_000), Err("/when/at".into()));
    }

    #[test]
    fn window_and_jitter_together_stay_below_the_next_time() {
        let text = r#"{"start":{"task":"a"},"when":{"every":"60s"},"window_ms":600000,"jitter_ms":600000}"#;
        let definition = Definition::parse(text).unwrap();
        let tenant = TenantId::new("t").unwrap();
        for number in 0..500 {
            let name = ScheduleName::new(format!("s{number}")).unwrap();
            let offset = definition.times(&tenant, &name).offset_ms(60_000, Some(120_000));
            assert!(offset < 60_000, "{offset}");
        }
    }
}
