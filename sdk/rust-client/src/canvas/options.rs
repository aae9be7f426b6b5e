//! The options of a call: the fields of its policy, when it starts, what it is marked with, what follows it.
//!
//! Each has one method here or goes by its name with `option`; the server checks them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    CanvasError, Step,
    signature::{Signature, raw},
};
use crate::time::{ms, rfc3339};

/// Which of two jobs that are alike stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unique {
    /// The first wins: a later submission answers with it.
    First,
    /// The latest wins: it takes the place of one that still waits.
    Latest,
}

impl Signature {
    /// An option of the submission: a field of the policy, or `countdown_ms`, `eta`.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        let name = name.into();
        match raw(&value) {
            Ok(value) => {
                self.options.insert(name, value);
                self
            }
            Err(error) => self.with(|_, task| Err(CanvasError(format!("option {name} of {task}: {error}")))),
        }
    }

    #[must_use]
    pub fn queue(self, name: &str) -> Self {
        self.option("queue", name)
    }

    /// 0 to 9, 9 first.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.option("priority", priority)
    }

    #[must_use]
    pub fn max_retries(self, retries: u32) -> Self {
        self.option("max_retries", retries)
    }

    /// Starts so long after its submission, or after what came before it.
    #[must_use]
    pub fn countdown(self, after: Duration) -> Self {
        self.option("countdown_ms", ms(after))
    }

    /// Gives up if it has not started so long after it could have.
    #[must_use]
    pub fn expires(self, after: Duration) -> Self {
        self.option("expires_ms", ms(after))
    }

    /// Gives up if it has not started by then, to the millisecond; the earlier one counts where `expires` is given too.
    #[must_use]
    pub fn expires_at(self, at: SystemTime) -> Self {
        self.option("expires_at", rfc3339(at))
    }

    /// The hard time limit of an attempt.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        self.option("time_limit_ms", ms(limit))
    }

    /// The same key and arguments are the same job for a day. Of a single job only: a workflow has its own.
    #[must_use]
    pub fn idempotency_key(self, key: &str) -> Self {
        self.option("idempotency_key", key)
    }

    /// A word to find it by. At most 16.
    #[must_use]
    pub fn tag(self, tag: &str) -> Self {
        let mut tags: Vec<String> = self.given("tags");
        tags.push(tag.to_owned());
        self.option("tags", tags)
    }

    /// A header stamp, for people and for filters: no task sees it. At most 16.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        let mut headers: BTreeMap<String, String> = self.given("headers");
        headers.insert(name.to_owned(), value.to_owned());
        self.option("headers", headers)
    }

    /// Whether it may stand beside a job like it: of the same task, with the same arguments, or the same of those that
    /// `unique_by` names.
    #[must_use]
    pub fn unique(self, which: Unique) -> Self {
        self.option("unique", which)
    }

    /// Values that make two jobs equal: expressions over the arguments, such as `kwargs.customer_id`.
    #[must_use]
    pub fn unique_by<T: AsRef<str>>(self, expressions: impl IntoIterator<Item = T>) -> Self {
        let expressions: Vec<String> = expressions.into_iter().map(|text| text.as_ref().to_owned()).collect();
        self.option("unique_by", expressions)
    }

    /// With `Unique::First`: others are kept away for so long, instead of until it has ended.
    #[must_use]
    pub fn unique_for(self, period: Duration) -> Self {
        self.option("unique_for_ms", ms(period))
    }

    /// Starts so long after the last of the submissions like it, and only that one does.
    #[must_use]
    pub fn debounce(self, quiet: Duration) -> Self {
        self.option("debounce_ms", ms(quiet))
    }

    /// Submitted by the server when this one has succeeded, with its result in front of its own arguments. At most 16;
    /// the job becomes the only step of a workflow.
    #[must_use]
    pub fn run_on_success(self, next: Self) -> Self {
        self.follower("on_success", next)
    }

    /// Submitted by the server when this one has failed, with its failure in front of its own arguments. At most 16.
    #[must_use]
    pub fn run_on_failure(self, next: Self) -> Self {
        self.follower("on_failure", next)
    }

    fn follower(self, option: &str, next: Self) -> Self {
        let next = Step::from(next).build().and_then(|canvas| raw(&canvas).map_err(CanvasError));
        match next {
            Ok(next) => {
                let mut all: Vec<Box<RawValue>> = self.given(option);
                all.push(next);
                self.option(option, all)
            }
            Err(error) => self.with(|_, _| Err(error)),
        }
    }

    /// The former value of an option; none if it has another form.
    fn given<T: Default + serde::de::DeserializeOwned>(&self, option: &str) -> T {
        self.options.get(option).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }
}
