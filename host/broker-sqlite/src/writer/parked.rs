//! Opening what was parked: lines, lanes and key lanes, when a place is free or a rate's time has come.

use rusqlite::params;
use umbel_model::UnixMs;

use super::{
    counts::Counts,
    lanes::{LANE, Lane, Park, open_key},
    lines::{LineId, row_id},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{int, number},
};

const PARKED_LANES: &str = "SELECT line, park FROM lane INDEXED BY lane_parked WHERE bucket = ? AND park IS NOT NULL";
const PARKED_KEY_LANES: &str =
    "SELECT line, park FROM key_lane INDEXED BY key_lane_parked WHERE bucket = ? AND park IS NOT NULL";
const BY_TIME: &str =
    "SELECT at, tenant, queue, task, key, line, bucket FROM parked ORDER BY at, tenant, queue, task, key LIMIT ?";

/// Something that a rate parked, in the order in which it is opened.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timed {
    pub(super) at: UnixMs,
    tenant: String,
    queue: String,
    /// Empty: the line itself.
    task: String,
    /// Empty: the lane itself.
    key: String,
    line: LineId,
    bucket: i64,
}

impl Step<'_> {
    fn unpark_lane(&mut self, line: LineId, bucket: i64) -> Result<(), Fault> {
        let Some(mut lane) = self.lane_by(LANE, line, Some(bucket))? else { return Ok(()) };
        self.forget_time(&lane, "", lane.park)?;
        lane.park = None;
        let change = self.settle_lane(&mut lane)?;
        self.open_line(line, |counts| change.apply(counts));
        Ok(())
    }

    fn unpark_key(&mut self, line: LineId, bucket: i64) -> Result<(), Fault> {
        let (mut lane, mut key) = self.lane_and_key(line, &self.bucket(bucket)?)?;
        self.forget_time(&lane, &key.key, key.park)?;
        key.park = None;
        if !key.open {
            open_key(&mut lane, &mut key);
        }
        key.save(self.conn)?;
        let change = self.settle_lane(&mut lane)?;
        self.open_line(line, |counts| change.apply(counts));
        Ok(())
    }

    /// Opens the lanes of a task: those that its cap parked, or all.
    pub(super) fn unpark_lanes(&mut self, bucket: i64, full_only: bool) -> Result<(), Fault> {
        for line in self.parked_in(PARKED_LANES, bucket, full_only)? {
            self.unpark_lane(line, bucket)?;
        }
        Ok(())
    }

    /// Opens the key lanes of a key that its cap parked.
    pub(super) fn unpark_keys(&mut self, bucket: i64) -> Result<(), Fault> {
        for line in self.parked_in(PARKED_KEY_LANES, bucket, true)? {
            self.unpark_key(line, bucket)?;
        }
        Ok(())
    }

    fn parked_in(&self, sql: &str, bucket: i64, full_only: bool) -> Result<Vec<LineId>, Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([bucket])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            if !full_only || row.get::<_, i64>(1)? == 1 {
                lines.push(self.lines.known(number(row, 0)?)?);
            }
        }
        Ok(lines)
    }

    // ---- parked by a rate

    pub(super) fn remember_time(&self, lane: &Lane, key: &str, bucket: i64, why: Park) -> Result<(), Fault> {
        let Park::Until(at) = why else { return Ok(()) };
        let sql =
            "INSERT OR REPLACE INTO parked (at, tenant, queue, task, key, line, bucket) VALUES (?, ?, ?, ?, ?, ?, ?)";
        let (tenant, queue) = (self.lines.tenant(lane.line).as_str(), self.lines.queue(lane.line).as_str());
        let row = params![int(at), tenant, queue, lane.task.as_str(), key, row_id(lane.line), bucket];
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    pub(super) fn forget_time(&self, lane: &Lane, key: &str, why: Option<Park>) -> Result<(), Fault> {
        let Some(Park::Until(at)) = why else { return Ok(()) };
        let sql = "DELETE FROM parked WHERE at = ? AND tenant = ? AND queue = ? AND task = ? AND key = ?";
        let (tenant, queue) = (self.lines.tenant(lane.line).as_str(), self.lines.queue(lane.line).as_str());
        self.conn.prepare_cached(sql)?.execute(params![int(at), tenant, queue, lane.task.as_str(), key])?;
        Ok(())
    }

    /// At most `max` of what rates parked, in the order in which it is opened.
    pub(super) fn parked_by_rates(&self, max: usize) -> Result<Vec<Timed>, Fault> {
        let lines = self.lines.parked_by_time(max).into_iter().map(|(at, line)| Timed {
            at,
            tenant: self.lines.tenant(line).as_str().to_owned(),
            queue: self.lines.queue(line).as_str().to_owned(),
            task: String::new(),
            key: String::new(),
            line,
            bucket: 0,
        });
        let mut found: Vec<Timed> = lines.collect();
        let mut statement = self.conn.prepare_cached(BY_TIME)?;
        let mut rows = statement.query([int(max as u64)])?;
        while let Some(row) = rows.next()? {
            let (tenant, queue, task, key) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            let line = self.lines.known(number(row, 5)?)?;
            found.push(Timed { at: number(row, 0)?, tenant, queue, task, key, line, bucket: row.get(6)? });
        }
        found.sort();
        found.truncate(max);
        Ok(found)
    }

    /// Opens what a rate had parked.
    pub(super) fn open_timed(&mut self, timed: &Timed) -> Result<(), Fault> {
        match (timed.task.is_empty(), timed.key.is_empty()) {
            (true, _) => {
                self.open_line(timed.line, |counts| counts.parked = None);
                Ok(())
            }
            (false, true) => self.unpark_lane(timed.line, timed.bucket),
            (false, false) => self.unpark_key(timed.line, timed.bucket),
        }
    }

    /// Changes a line, and tells workers if that opens it.
    pub(super) fn open_line(&mut self, line: LineId, change: impl FnOnce(&mut Counts)) {
        if self.lines.change(line, change) {
            self.news.ready_in(self.lines.queue(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_what_is_parked_costs_what_it_finds() {
        for sql in [PARKED_LANES, PARKED_KEY_LANES] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
        let plan = crate::tests::plan(BY_TIME);
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}
