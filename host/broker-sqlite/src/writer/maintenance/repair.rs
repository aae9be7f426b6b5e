//! Repairs what an audit finds.

use umbel_broker::Finding;

use crate::writer::step::Step;
use crate::{
    audit::{self, CHECKS, Check, MISCOUNTED_WORKFLOW, Repair},
    error::Fault,
    rows::update,
};

impl Step<'_> {
    /// Looks again, now that nobody else writes, and repairs what can be.
    pub(crate) fn repair(&mut self) -> Result<Vec<Finding>, Fault> {
        self.write_all()?;
        let mut found = audit::findings(self.conn)?;
        for check in CHECKS {
            // What was repaired before it may have made it right, or wrong.
            if audit::finding(self.conn, check)?.is_some() {
                self.repair_one(check)?;
                self.write_all()?;
            }
        }
        self.count_workflow_jobs()?;
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

    fn repair_one(&mut self, check: &Check) -> Result<(), Fault> {
        // Joins and workflows that a group knows are read anew.
        self.workflows.forget_known();
        match check.repair {
            Repair::Sql(statements) => {
                audit::repair_by_sql(self.conn, self.now, statements)?;
                self.stored.reload(self.conn)?;
                self.reload_scheduler()
            }
            Repair::WorkItems => self.workflows.work_items.strike_gone(self.conn),
            Repair::Nothing => Ok(()),
        }
    }

    fn count_workflow_jobs(&mut self) -> Result<(), Fault> {
        for (rid, jobs) in audit::miscounted_workflows(self.conn)? {
            update!(self.conn, "workflow" { jobs: jobs } "rid = ?", rid)?;
            self.workflows.forget_known();
            // With its last job counted it may be over.
            self.workflows.touch(rid);
        }
        self.finish_workflows()?;
        self.workflows.write(self.conn)
    }
}
