//! Labels of jobs, by which lists find them.

use rusqlite::Connection;
use umbel_broker::Label;
use umbel_model::{JobId, TenantId};

use crate::writer::{jobs::head::LABELS, step::Step};
use crate::{
    error::Fault,
    rows::{all, first, get, one, run},
};

/// Jobs whose labels one step finds out.
const FOUND: u32 = 500;

const INSERT: &str = "INSERT OR IGNORE INTO label (tenant, hash, id, rid) VALUES (?, ?, ?, ?)";
pub(crate) const UNLABELLED: &str = "SELECT upto FROM unlabelled";
const OLD: &str = "SELECT job.rid, job.tenant, job.id, spec.text, job.workflow IS NOT NULL FROM job
    CROSS JOIN spec ON spec.rid = job.rid WHERE job.rid <= ? ORDER BY job.rid DESC LIMIT ?";

/// Lists find a job by these labels.
pub(crate) fn insert(conn: &Connection, rid: i64, tenant: &TenantId, id: JobId, labels: &[Label]) -> Result<(), Fault> {
    for label in labels {
        run(conn, INSERT, &[tenant, &label.hash(), &id, &rid])?;
    }
    Ok(())
}

impl Step<'_> {
    /// Finds out the labels of some jobs that were stored before there was an index of them; whether more are left.
    pub(crate) fn find_labels(&self) -> Result<bool, Fault> {
        let Some(upto) = one(self.conn, UNLABELLED, &[], first::<i64>)? else { return Ok(false) };
        let old = all(self.conn, OLD, &[&upto, &FOUND], |row| {
            let job: (i64, TenantId, JobId) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
            Ok((job, get::<String>(row, 3)?, get::<bool>(row, 4)?))
        })?;
        for ((rid, tenant, id), spec, is_node) in &old {
            let labels = if *is_node { Vec::new() } else { Label::all_in(spec) };
            if !labels.is_empty() {
                insert(self.conn, *rid, tenant, *id, &labels)?;
                run(self.conn, "UPDATE job SET knobs = knobs | ? WHERE rid = ?", &[&LABELS, rid])?;
            }
        }
        match old.last() {
            Some(((rid, ..), ..)) => run(self.conn, "UPDATE unlabelled SET upto = ?", &[&(rid - 1)])?,
            None => run(self.conn, "DELETE FROM unlabelled", &[])?,
        }
        Ok(!old.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_labels_costs_no_more_because_more_jobs_are_stored() {
        crate::tests::assert_costs_what_it_finds(OLD);
    }
}
