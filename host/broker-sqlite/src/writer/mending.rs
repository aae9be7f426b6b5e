//! Mends what an audit finds.

use rusqlite::params;
use umbel_broker::Finding;
use umbel_model::{JobState, TaskName};

use super::step::Step;
use crate::{
    audit::{self, CHECKS, Check, MISCOUNTED_WORKFLOW, Mend},
    error::Fault,
    reads::all,
    rows::{JobCounts, counts_blob, name, number, state_number},
};

const IN_LANES: &str = "SELECT job.rid, job.line, job.state, job.score, job.task, bucket.key
    FROM job LEFT JOIN bucket ON bucket.rid = job.lane
    WHERE (job.lane IS NOT NULL OR (job.state = 1 AND job.knobs & 2)) ORDER BY job.rid";

/// A job that is in a lane, or should be.
struct InLane {
    rid: i64,
    line: u64,
    state: i64,
    score: u64,
    task: TaskName,
    key: Option<String>,
}

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
            Mend::Sql(statements) => audit::mend_by_sql(self.conn, self.now, statements),
            Mend::Todo => self.flows.todo.strike_gone(self.conn),
            Mend::Lines => self.count_lines(),
            Mend::Lanes => self.remake_lanes(),
            Mend::Nothing => Ok(()),
        }
    }

    /// Counts the jobs of all lines again.
    fn count_lines(&mut self) -> Result<(), Fault> {
        let sql = "SELECT line.id, count(*) FILTER (WHERE state = 1), count(*) FILTER (WHERE state = 2),
            count(*) FILTER (WHERE state IN (0, 3)), count(*) FILTER (WHERE job.dead = 1),
            count(*) FILTER (WHERE state = 1 AND lane IS NOT NULL),
            (SELECT count(*) FROM lane WHERE lane.line = line.id),
            (SELECT count(*) FROM lane WHERE lane.line = line.id AND open = 1)
            FROM line LEFT JOIN job ON job.line = line.id GROUP BY line.id";
        let counted = all(self.conn, sql, &[], |row| {
            (0..8).map(|column| number(row, column)).collect::<Result<Vec<u64>, Fault>>()
        })?;
        for of in counted {
            let line = self.lines.known(of[0])?;
            self.open_line(line, |counts| {
                (counts.ready, counts.running, counts.delayed, counts.dead) = (of[1], of[2], of[3], of[4]);
                (counts.laned, counts.lanes, counts.open_lanes) = (of[5], of[6], of[7]);
            });
        }
        Ok(())
    }

    /// Makes all lanes and buckets anew. Nothing is parked then: what is used up is parked again when it is met.
    fn remake_lanes(&mut self) -> Result<(), Fault> {
        let jobs = all(self.conn, IN_LANES, &[], |row| {
            let (rid, state, key) = (row.get(0)?, row.get(2)?, row.get(5)?);
            Ok(InLane { rid, line: number(row, 1)?, state, score: number(row, 3)?, task: name(row, 4)?, key })
        })?;
        let clear = ["DELETE FROM key_lane", "DELETE FROM lane", "DELETE FROM parked", "DELETE FROM bucket"];
        for sql in clear.into_iter().chain(["UPDATE job SET lane = NULL WHERE lane IS NOT NULL"]) {
            self.conn.execute(sql, [])?;
        }
        for line in self.lines.ids() {
            self.lines.change(line, |counts| (counts.laned, counts.lanes, counts.open_lanes) = (0, 0, 0));
        }
        for job in &jobs {
            self.put_back(job)?;
        }
        Ok(())
    }

    fn put_back(&mut self, job: &InLane) -> Result<(), Fault> {
        let (queued, running) = (state_number(JobState::Queued), state_number(JobState::Running));
        if job.state != queued && job.state != running {
            return Ok(());
        }
        let line = self.lines.known(job.line)?;
        let key = match &job.key {
            Some(key) => key.clone(),
            None => self.limit_key(job.rid)?,
        };
        let bucket = self.use_bucket(line, &job.task, &key)?;
        let sql = "UPDATE job SET lane = ? WHERE rid = ?";
        self.conn.prepare_cached(sql)?.execute([bucket.rid, job.rid])?;
        if job.state == running {
            return self.count_running(&bucket, 1);
        }
        let change = self.put_in_lane(line, &bucket, job.score)?;
        self.open_line(line, |counts| {
            counts.laned += 1;
            change.apply(counts);
        });
        Ok(())
    }

    /// The key that a job's limits count by.
    fn limit_key(&self, rid: i64) -> Result<String, Fault> {
        let sql = "SELECT coalesce(json_extract(text, '$.limits.key'), '') FROM knobs WHERE rid = ?";
        let found = all(self.conn, sql, &[&rid], |row| Ok(row.get(0)?))?.pop();
        Ok(found.unwrap_or_default())
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
