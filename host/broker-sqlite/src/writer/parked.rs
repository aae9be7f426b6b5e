//! Opening what was parked: lines, lanes and key lanes, when a place is free or a rate's time has come.

use rusqlite::params;
use tracing::warn;
use umbel_model::UnixMs;

use super::{
    buckets::Bucket,
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
/// Lines and turns are in `?2`. Answers the lanes' lines, and which of them opened.
const OPEN_FULL_LANES: &str = "UPDATE lane SET park = NULL, park_until = NULL, open = open_keys > 0,
    tag = iif(open_keys > 0, turn, tag),
    urgency = coalesce((SELECT k.urgency FROM key_lane AS k INDEXED BY key_lane_next
        WHERE k.line = lane.line AND k.of = lane.bucket AND k.open = 1 ORDER BY k.urgency LIMIT 1), urgency)
    FROM (SELECT value ->> 0 AS at_line, value ->> 1 AS turn FROM json_each(?2)) AS wanted
    WHERE lane.line = wanted.at_line AND lane.bucket = ?1 RETURNING line, open";
const OPEN_FULL_KEY_LANES: &str = "UPDATE key_lane SET park = NULL, park_until = NULL, open = 1,
    tag = coalesce((SELECT clock FROM lane WHERE lane.line = key_lane.line AND lane.bucket = key_lane.of), 0) + 1
    WHERE bucket = ? AND park = 1";
/// The same, of lanes that have one more open key: they open if it is the first, unless they are parked.
const OPEN_MORE_KEYS: &str = "UPDATE lane SET open_keys = open_keys + 1, open = park IS NULL,
    tag = iif(park IS NULL AND open_keys = 0, turn, tag),
    urgency = iif(park IS NULL, coalesce((SELECT k.urgency FROM key_lane AS k INDEXED BY key_lane_next
        WHERE k.line = lane.line AND k.of = lane.bucket AND k.open = 1 ORDER BY k.urgency LIMIT 1), urgency), urgency)
    FROM (SELECT value ->> 0 AS at_line, value ->> 1 AS turn FROM json_each(?2)) AS wanted
    WHERE lane.line = wanted.at_line AND lane.bucket = ?1 RETURNING line, open = 1 AND open_keys = 1";

const FORGET_TIME: &str = "DELETE FROM parked WHERE at = ? AND tenant = ? AND queue = ? AND task = ? AND key = ?";

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
    /// Its line's row.
    line: u64,
    bucket: i64,
}

impl Step<'_> {
    /// Whether there is such a lane.
    fn unpark_lane(&mut self, line: LineId, bucket: i64) -> Result<bool, Fault> {
        let Some(mut lane) = self.lane_by(LANE, line, Some(bucket))? else { return Ok(false) };
        self.forget_time(&lane, "", lane.park)?;
        lane.park = None;
        let change = self.settle_lane(&mut lane)?;
        self.open_line(line, |counts| change.apply(counts));
        Ok(true)
    }

    /// Whether there is such a key lane.
    fn unpark_key(&mut self, line: LineId, bucket: i64) -> Result<bool, Fault> {
        let Some((mut lane, mut key)) = self.find_lane_and_key(line, bucket)? else { return Ok(false) };
        self.forget_time(&lane, &key.key, key.park)?;
        key.park = None;
        if !key.open {
            open_key(&mut lane, &mut key);
        }
        key.save(self.conn)?;
        let change = self.settle_lane(&mut lane)?;
        self.open_line(line, |counts| change.apply(counts));
        Ok(true)
    }

    /// Opens all parked lanes of a task.
    pub(super) fn unpark_lanes(&mut self, bucket: i64) -> Result<(), Fault> {
        for line in self.parked_in(PARKED_LANES, bucket, false)? {
            self.unpark_lane(line, bucket)?;
        }
        Ok(())
    }

    /// Opens the lanes of a task that its cap parked, in all queues at once: it does so whenever one of its jobs ends.
    pub(super) fn unpark_full_lanes(&mut self, bucket: i64) -> Result<(), Fault> {
        let lines = self.parked_in(PARKED_LANES, bucket, true)?;
        self.open_lanes(OPEN_FULL_LANES, bucket, &lines)
    }

    /// Opens the key lanes of a key of a task that its cap parked, in the same way.
    pub(super) fn unpark_full_keys(&mut self, bucket: &Bucket) -> Result<(), Fault> {
        let lines = self.parked_in(PARKED_KEY_LANES, bucket.rid, true)?;
        if !lines.is_empty() {
            self.conn.prepare_cached(OPEN_FULL_KEY_LANES)?.execute([bucket.rid])?;
        }
        self.open_lanes(OPEN_MORE_KEYS, bucket.of, &lines)
    }

    /// Opens a task's lanes in these lines by a statement that answers which lines have one more open lane.
    fn open_lanes(&mut self, sql: &str, bucket: i64, lines: &[LineId]) -> Result<(), Fault> {
        if lines.is_empty() {
            return Ok(());
        }
        let turns: Vec<_> = lines.iter().map(|line| (row_id(*line), self.lines.counts(*line).clock + 1)).collect();
        let mut opened = Vec::new();
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params![bucket, serde_json::to_string(&turns)?])?;
        while let Some(row) = rows.next()? {
            if row.get(1)? {
                opened.push(self.lines.known(number(row, 0)?)?);
            }
        }
        for line in opened {
            self.open_line(line, |counts| counts.open_lanes += 1);
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
        let (tenant, queue) = (self.lines.tenant(lane.line).as_str(), self.lines.queue(lane.line).as_str());
        self.conn.prepare_cached(FORGET_TIME)?.execute(params![int(at), tenant, queue, lane.task.as_str(), key])?;
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
            line: row_id(line).unsigned_abs(),
            bucket: 0,
        });
        let mut found: Vec<Timed> = lines.collect();
        let mut statement = self.conn.prepare_cached(BY_TIME)?;
        let mut rows = statement.query([int(max as u64)])?;
        while let Some(row) = rows.next()? {
            let (tenant, queue, task, key) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            let (at, line) = (number(row, 0)?, number(row, 5)?);
            found.push(Timed { at, tenant, queue, task, key, line, bucket: row.get(6)? });
        }
        found.sort();
        found.truncate(max);
        Ok(found)
    }

    /// Opens what a rate had parked. A time that outlived it must not be met again and again: it goes in any case.
    pub(super) fn open_timed(&mut self, timed: &Timed) -> Result<(), Fault> {
        let line = self.lines.known(timed.line);
        if timed.task.is_empty() {
            self.open_line(line?, |counts| counts.parked = None);
            return Ok(());
        }
        let row = params![int(timed.at), timed.tenant, timed.queue, timed.task, timed.key];
        self.conn.prepare_cached(FORGET_TIME)?.execute(row)?;
        let opened = match line {
            Ok(line) if timed.key.is_empty() => self.unpark_lane(line, timed.bucket)?,
            Ok(line) => self.unpark_key(line, timed.bucket)?,
            Err(_) => false,
        };
        if !opened {
            warn!("a time to open a lane that is gone was deleted");
        }
        Ok(())
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
        for sql in [PARKED_LANES, PARKED_KEY_LANES, OPEN_FULL_KEY_LANES] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
        for sql in [OPEN_FULL_LANES, OPEN_MORE_KEYS] {
            let plan = crate::tests::plan(sql);
            assert!(plan.contains("SEARCH lane USING PRIMARY KEY (line=? AND bucket=?)"), "{plan}");
            assert!(plan.contains("key_lane_next (line=? AND of=?)"), "{plan}");
        }
        let plan = crate::tests::plan(BY_TIME);
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}
