//! Which jobs: criteria joined by *and*, used by lists and by actions on many jobs.

use serde::{Deserialize, Deserializer, Serialize};
use umbel_broker::{JobQuery, Label};
use umbel_model::{JobId, JobRecord, JobState, QueueName, TaskName, TenantId, UnixMs, WorkerId, WorkflowId};

/// Ids that a filter may name.
pub const MAX_IDS: usize = 1_000;
/// Longest tag or header that is looked for, bytes: a workflow's may be so long.
const MAX_LABEL_BYTES: usize = 1_280;
/// The clocks of id makers and of the broker may differ by so many milliseconds: a list that is bounded by time begins that
/// much earlier and ends that much later, and looks at each job's own time.
const CLOCK_SLACK_MS: u64 = 600_000;

/// Criteria of jobs. What is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// One of these.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub state: Vec<JobState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// A header stamp, `name:value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Only the nodes of this workflow. Without it a list has no nodes, unless they are dead; an action has those that are
    /// named in `ids`, and one that cancels or runs jobs now has those of running workflows and of what replaced jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<WorkflowId>,
    /// Only those in the dead set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead: Option<bool>,
    /// The worker that has it or had it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// RFC 3339, as `created_before`.
    #[serde(skip_serializing_if = "Option::is_none", with = "time")]
    pub created_after: Option<UnixMs>,
    #[serde(skip_serializing_if = "Option::is_none", with = "time")]
    pub created_before: Option<UnixMs>,
    /// Only these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<JobId>,
}

/// A state or a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<JobState>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum States {
        One(JobState),
        Many(Vec<JobState>),
    }
    Ok(match States::deserialize(deserializer)? {
        States::One(state) => vec![state],
        States::Many(states) => states,
    })
}

/// Times as RFC 3339.
mod time {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use umbel_model::UnixMs;

    pub(super) fn serialize<S: Serializer>(at: &Option<UnixMs>, serializer: S) -> Result<S::Ok, S::Error> {
        let at = at.and_then(|ms| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
        match at {
            Some(at) => serializer.collect_str(&at),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UnixMs>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| umbel_compose::parse_time(&text)).transpose().map_err(D::Error::custom)
    }
}

impl Filter {
    /// Whether it names states, and `running` is none of them.
    pub(crate) fn wants_waiting(&self) -> bool {
        !self.state.is_empty() && !self.state.contains(&JobState::Running)
    }

    /// Checks lengths, and that a header has a name. Says the field that is wrong, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_label = |text: &str| (1..=MAX_LABEL_BYTES).contains(&text.len());
        let is_header = |text: &String| text.find(':').is_some_and(|at| at > 0) && is_label(text);
        let wrong = match () {
            () if self.ids.len() > MAX_IDS => ("ids", format!("at most {MAX_IDS}; leave it out to look at all")),
            () if self.state.len() > JobState::ALL.len() => ("state", "each state once".into()),
            () if self.tag.as_ref().is_some_and(|tag| !is_label(tag)) => {
                ("tag", format!("1 to {MAX_LABEL_BYTES} bytes"))
            }
            () if self.header.as_ref().is_some_and(|header| !is_header(header)) => {
                ("header", format!("write `name:value`, at most {MAX_LABEL_BYTES} bytes"))
            }
            () if self.workflow_id.is_some() && !self.ids.is_empty() => {
                ("ids", "set ids or workflow_id, not both".into())
            }
            () => return Ok(()),
        };
        Err(wrong)
    }

    /// Whether the job is one of these. `ids` and `dead` are left to whoever finds the jobs.
    pub fn matches(&self, record: &JobRecord) -> bool {
        self.task.as_ref().is_none_or(|task| record.task == *task)
            && self.queue.as_ref().is_none_or(|queue| record.queue == *queue)
            && (self.state.is_empty() || self.state.contains(&record.state))
            && self.worker.as_ref().is_none_or(|worker| record.worker.as_ref() == Some(worker))
            && self.created_after.is_none_or(|at| record.created_at > at)
            && self.created_before.is_none_or(|at| record.created_at < at)
            && self.workflow_id.is_none_or(|id| record.node.as_ref().is_some_and(|node| node.workflow == id))
            && Label::are_in(&self.labels(), &record.spec)
    }

    /// The tag and the header.
    fn labels(&self) -> Vec<Label> {
        let header = self.header.as_ref().map(|header| {
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            Label::Header(name.into(), value.into())
        });
        self.tag.clone().map(Label::Tag).into_iter().chain(header).collect()
    }

    /// Whether brokers can answer all of it by themselves.
    pub fn is_simple(&self) -> bool {
        self.tag.is_none()
            && self.header.is_none()
            && self.created_after.is_none()
            && self.created_before.is_none()
            && self.state.len() < 2
    }

    /// The question to a broker that leaves out nothing that matches.
    pub fn query(&self, tenant: &TenantId, dead: bool, before: Option<JobId>, max: u32) -> JobQuery {
        let newest =
            self.created_before.map(|at| JobId::from_parts(at.saturating_add(CLOCK_SLACK_MS).min(MAX_TIME), 0));
        JobQuery {
            tenant: tenant.clone(),
            dead,
            state: self.state.first().copied().filter(|_| self.state.len() == 1),
            task: self.task.clone(),
            queue: self.queue.clone(),
            worker: self.worker.clone(),
            labels: if dead { Vec::new() } else { self.labels() },
            before: before.into_iter().chain(newest).min(),
            max,
        }
    }

    /// Whether every job with an older id than this one is too old.
    pub fn is_past(&self, id: JobId) -> bool {
        self.created_after.is_some_and(|at| id.timestamp_ms().saturating_add(CLOCK_SLACK_MS) < at)
    }
}

/// The last time that an id can hold.
const MAX_TIME: UnixMs = (1 << 48) - 1;
