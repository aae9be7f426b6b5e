//! Mends what an audit finds.

use rusqlite::params;
use umbel_broker::Finding;
use umbel_model::JobState;

use super::step::Step;
use crate::{
    audit::{self, CHECKS, Check, MISCOUNTED_WORKFLOW, Mend},
    error::Fault,
    reads::all,
    rows::{JobCounts, counts_blob, state_number},
};

impl Step<'_> {
    /// Looks again, now that nobody else writes, and mends what can be.
    pub(crate) fn mend(&mut self) -> Result<Vec<Finding>, Fault> {
        self.write_all()?;
        let mut found = audit::findings(self.conn)?;
        for check in CHECKS {
            // What was mended before it may have made it right, or wrong.
            if audit::finding(self.conn, check)?.is_some() {
                self.mend_one(check)?;
                self.write_all()?;
            }
        }
        if !audit::miscounted_workflows(self.conn)?.is_empty() {
            self.count_workflow_jobs()?;
        }
        for finding in &mut found {
            finding.fixed = finding.count.saturating_sub(self.left_of(finding)?);
        }
        Ok(found)
    }

    fn left_of(&self, finding: &Finding) -> Result<u64, Fault> {
        if finding.check == MISCOUNTED_WORKFLOW {
            return Ok(audit::miscounted_workflows(self.conn)?.len() as u64);
        }
        match CHECKS.iter().find(|check| check.name == finding.check) {
            Some(check) => Ok(audit::finding(self.conn, check)?.map_or(0, |left| left.count)),
            None => Ok(finding.count),
        }
    }

    fn mend_one(&mut self, check: &Check) -> Result<(), Fault> {
        // Joins and workflows that a group knows are read anew.
        self.flows.forget_known();
        match check.mend {
            Mend::Sql(statements) => {
                audit::mend_by_sql(self.conn, self.now, statements)?;
                self.reload_scheduler()
            }
            Mend::Todo => self.flows.todo.strike_gone(self.conn),
            Mend::Nothing => Ok(()),
        }
    }

    fn count_workflow_jobs(&mut self) -> Result<(), Fault> {
        for rid in audit::miscounted_workflows(self.conn)? {
            let mut jobs = JobCounts::default();
            let sql = "SELECT state, count(*) FROM job WHERE workflow = ? GROUP BY state";
            for (state, n) in all(self.conn, sql, &[&rid], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))? {
                if let Some(at) = JobState::ALL.iter().position(|known| state_number(*known) == state) {
                    jobs[at] = n;
                }
            }
            let sql = "UPDATE workflow SET jobs = ? WHERE rid = ?";
            self.conn.execute(sql, params![counts_blob(&jobs), rid])?;
            self.flows.forget_known();
            // With its last job counted it may be over.
            self.flows.touch(rid);
        }
        self.finish_workflows()?;
        self.flows.write(self.conn)
    }
}
