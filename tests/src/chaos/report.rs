//! The report of a chaos run.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Options,
    plan::{OUTCOMES, counted},
};

/// Violations that are kept in full; the others are counted.
const SHOWN: usize = 40;

/// The report of a run.
#[derive(Debug)]
pub struct Report {
    options: Options,
    faults: BTreeMap<&'static str, u64>,
    ends: BTreeMap<String, u64>,
    counts: Vec<(&'static str, u64)>,
    /// From the start of the faults to the last acknowledged submission.
    pub(crate) submitting_took: Duration,
    /// From the end of faults and submissions to the end of the last job.
    pub(crate) drained_in: Duration,
    pub(crate) doctor: String,
    violations: Vec<String>,
    violated: u64,
    retries: u64,
    redelivered: u64,
    attempts: u64,
}

impl Report {
    pub(crate) fn new(options: Options, faults: BTreeMap<&'static str, u64>) -> Self {
        Self {
            options,
            faults,
            ends: BTreeMap::new(),
            counts: Vec::new(),
            submitting_took: Duration::ZERO,
            drained_in: Duration::ZERO,
            doctor: String::new(),
            violations: Vec::new(),
            violated: 0,
            retries: 0,
            redelivered: 0,
            attempts: 0,
        }
    }

    pub(crate) fn violation(&mut self, text: String) {
        self.violated += 1;
        if self.violations.len() < SHOWN {
            self.violations.push(text);
        }
    }

    pub(crate) fn count(&mut self, what: &'static str, count: u64) {
        self.counts.push((what, count));
    }

    /// Counts a job that was looked at in the end.
    pub(crate) fn ended(&mut self, job: &Value) {
        *self.ends.entry(job["state"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
        self.retries += job["retries"].as_u64().unwrap_or_default();
        self.attempts += OUTCOMES.iter().map(|outcome| counted(job, outcome)).sum::<u64>();
        self.redelivered += u64::from(job["deliveries"].as_u64() > Some(1));
    }

    /// Whether every rule held.
    pub fn is_good(&self) -> bool {
        self.violated == 0
    }

    pub fn faults(&self) -> &BTreeMap<&'static str, u64> {
        &self.faults
    }

    pub fn to_json(&self) -> Value {
        json!({
            "seed": self.options.seed, "jobs": self.options.jobs, "workers": self.options.workers,
            "faults_for_s": self.options.duration.as_secs(), "submitted_in_s": self.submitting_took.as_secs_f64(),
            "drained_in_s": self.drained_in.as_secs_f64(), "faults": self.faults, "ends": self.ends,
            "attempts": self.attempts, "retries": self.retries, "redelivered_jobs": self.redelivered,
            "counts": self.counts.iter().copied().collect::<BTreeMap<_, _>>(), "doctor": self.doctor,
            "violated": self.violated, "violations": self.violations,
        })
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { duration, jobs, seed, workers } = self.options;
        writeln!(f, "chaos: {jobs} jobs, {workers} workers, faults for {} s, seed {seed}", duration.as_secs())?;
        let total: u64 = self.faults.values().sum();
        writeln!(f, "\n{total} faults injected:")?;
        for (fault, count) in &self.faults {
            writeln!(f, "  {count:>7}  {fault}")?;
        }
        writeln!(f, "\nhow the jobs ended:")?;
        for (state, count) in &self.ends {
            writeln!(f, "  {count:>7}  {state}")?;
        }
        writeln!(f, "\nwhat it took:")?;
        writeln!(f, "  {:>7}  attempts with an outcome, {} of them retries", self.attempts, self.retries)?;
        writeln!(f, "  {:>7}  jobs whose last attempt was delivered more than once", self.redelivered)?;
        for (what, count) in &self.counts {
            writeln!(f, "  {count:>7}  {what}")?;
        }
        writeln!(
            f,
            "  {:>7.1}  seconds until the last submission was acknowledged",
            self.submitting_took.as_secs_f64()
        )?;
        writeln!(f, "  {:>7.1}  seconds from then to the end of the last job", self.drained_in.as_secs_f64())?;
        writeln!(f, "\numbel doctor afterwards: {}", self.doctor)?;
        match self.violated {
            0 => write!(f, "\nno violation: every acknowledged job ended as it had to, once"),
            count => {
                write!(f, "\n{count} VIOLATIONS:")?;
                self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
            }
        }
    }
}
