//! Lanes and key lanes: which are open, and which is next. The rules are in `umbel_broker`'s `limits`.
//!
//! They lie in tables, read and written as they are needed: there may be as many as there are queued jobs, and a group
//! that is rolled back takes them with it. What a line must know of them is in its `Counts`.

use rusqlite::{Connection, OptionalExtension, Row, params};
use umbel_model::{TaskName, UnixMs};

use super::{
    buckets::Bucket,
    counts::Counts,
    lines::{LineId, row_id},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{int, name, number, time},
};

/// Why a lane or key lane is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Park {
    Full,
    Until(UnixMs),
    Paused,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) line: LineId,
    pub(super) bucket: i64,
    pub(super) task: TaskName,
    clock: u64,
    pub(super) tag: u64,
    open: bool,
    pub(super) urgency: u64,
    pub(super) park: Option<Park>,
    pub(super) keys: u64,
    pub(super) open_keys: u64,
}

#[derive(Debug)]
pub(super) struct KeyLane {
    line: LineId,
    pub(super) bucket: i64,
    of: i64,
    pub(super) key: String,
    tag: u64,
    pub(super) open: bool,
    urgency: u64,
    pub(super) park: Option<Park>,
    pub(super) jobs: u64,
}

/// What a change of a lane changes of its line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Change {
    lanes: i64,
    open_lanes: i64,
}

impl Change {
    pub(super) fn apply(self, counts: &mut Counts) {
        counts.lanes = counts.lanes.saturating_add_signed(self.lanes);
        counts.open_lanes = counts.open_lanes.saturating_add_signed(self.open_lanes);
    }
}

/// The part of a score that says its priority: less is more urgent.
pub(super) fn urgency(score: u64) -> u64 {
    score >> 48
}

macro_rules! select_lane {
    ($rest:literal) => {
        concat!(
            "SELECT line, bucket, task, clock, tag, open, urgency, park, park_until, keys, open_keys FROM lane ",
            $rest
        )
    };
}

macro_rules! select_key_lane {
    ($rest:literal) => {
        concat!("SELECT line, bucket, of, key, tag, open, urgency, park, park_until, jobs FROM key_lane ", $rest)
    };
}

pub(super) const LANE: &str = select_lane!("WHERE line = ? AND bucket = ?");
const NEXT_LANE: &str =
    select_lane!("INDEXED BY lane_next WHERE line = ? AND open = 1 ORDER BY urgency, tag, task LIMIT 1");
const KEY_LANE: &str = select_key_lane!("WHERE line = ? AND bucket = ?");
const NEXT_KEY_LANE: &str = select_key_lane!(
    "INDEXED BY key_lane_next WHERE line = ? AND of = ? AND open = 1 ORDER BY urgency, tag, key LIMIT 1"
);
const FIRST_BUT_ONE: &str = "SELECT score FROM job INDEXED BY job_ready
    WHERE state = 1 AND line = ? AND lane = ? AND rid <> ? ORDER BY score LIMIT 1";
fn park(row: &Row<'_>, column: usize) -> Result<Option<Park>, Fault> {
    Ok(match (row.get::<_, Option<i64>>(column)?, time(row, column + 1)?) {
        (None, _) => None,
        (Some(1), _) => Some(Park::Full),
        (Some(2), Some(at)) => Some(Park::Until(at)),
        (Some(3), _) => Some(Park::Paused),
        (Some(other), _) => return Err(Fault::stored("park of a lane", other)),
    })
}

fn park_columns(park: Option<Park>) -> (Option<i64>, Option<i64>) {
    match park {
        None => (None, None),
        Some(Park::Full) => (Some(1), None),
        Some(Park::Until(at)) => (Some(2), Some(int(at))),
        Some(Park::Paused) => (Some(3), None),
    }
}

impl Lane {
    pub(super) fn save(&self, conn: &Connection) -> Result<(), Fault> {
        let sql = "INSERT OR REPLACE INTO lane (line, bucket, task, clock, tag, open, urgency, park, park_until, keys,
            open_keys) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let (park, until) = park_columns(self.park);
        conn.prepare_cached(sql)?.execute(params![
            row_id(self.line),
            self.bucket,
            self.task.as_str(),
            int(self.clock),
            int(self.tag),
            self.open,
            int(self.urgency),
            park,
            until,
            int(self.keys),
            int(self.open_keys),
        ])?;
        Ok(())
    }
}

impl KeyLane {
    pub(super) fn save(&self, conn: &Connection) -> Result<(), Fault> {
        let sql = "INSERT OR REPLACE INTO key_lane (line, bucket, of, key, tag, open, urgency, park, park_until, jobs)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let (park, until) = park_columns(self.park);
        conn.prepare_cached(sql)?.execute(params![
            row_id(self.line),
            self.bucket,
            self.of,
            self.key,
            int(self.tag),
            self.open,
            int(self.urgency),
            park,
            until,
            int(self.jobs),
        ])?;
        Ok(())
    }
}

impl Step<'_> {
    // ---- what is next

    pub(super) fn lane_by(&self, sql: &str, line: LineId, bucket: Option<i64>) -> Result<Option<Lane>, Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = match bucket {
            Some(bucket) => statement.query([row_id(line), bucket])?,
            None => statement.query([row_id(line)])?,
        };
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(Lane {
            line,
            bucket: row.get(1)?,
            task: name(row, 2)?,
            clock: number(row, 3)?,
            tag: number(row, 4)?,
            open: row.get(5)?,
            urgency: number(row, 6)?,
            park: park(row, 7)?,
            keys: number(row, 9)?,
            open_keys: number(row, 10)?,
        }))
    }

    fn key_lane_by(&self, sql: &str, line: LineId, bucket: i64) -> Result<Option<KeyLane>, Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([row_id(line), bucket])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(KeyLane {
            line,
            bucket: row.get(1)?,
            of: row.get(2)?,
            key: row.get(3)?,
            tag: number(row, 4)?,
            open: row.get(5)?,
            urgency: number(row, 6)?,
            park: park(row, 7)?,
            jobs: number(row, 9)?,
        }))
    }

    pub(super) fn next_lane(&self, line: LineId) -> Result<Option<Lane>, Fault> {
        self.lane_by(NEXT_LANE, line, None)
    }

    pub(super) fn find_next_key_lane(&self, lane: &Lane) -> Result<Option<KeyLane>, Fault> {
        self.key_lane_by(NEXT_KEY_LANE, lane.line, lane.bucket)
    }

    fn next_key_lane(&self, lane: &Lane) -> Result<KeyLane, Fault> {
        self.find_next_key_lane(lane)?.ok_or_else(|| Fault::stored("lane", "it is open and none of its keys is"))
    }

    // ---- changes

    /// One more job in a lane. Its row is written later, or was not in a lane before.
    pub(super) fn put_in_lane(&mut self, line: LineId, bucket: &Bucket, score: u64) -> Result<Change, Fault> {
        let known = self.lane_by(LANE, line, Some(bucket.of))?;
        let is_new = known.is_none();
        let mut lane = known.unwrap_or_else(|| Lane {
            line,
            bucket: bucket.of,
            task: bucket.task.clone(),
            clock: 0,
            tag: 0,
            open: false,
            urgency: 0,
            park: None,
            keys: 0,
            open_keys: 0,
        });
        let mut key = match self.key_lane_by(KEY_LANE, line, bucket.rid)? {
            Some(key) => key,
            None => {
                lane.keys += 1;
                KeyLane {
                    line,
                    bucket: bucket.rid,
                    of: bucket.of,
                    key: bucket.key.clone(),
                    tag: 0,
                    open: false,
                    urgency: u64::MAX,
                    park: None,
                    jobs: 0,
                }
            }
        };
        key.jobs += 1;
        key.urgency = key.urgency.min(urgency(score));
        if key.park.is_none() && !key.open {
            open_key(&mut lane, &mut key);
        }
        key.save(self.conn)?;
        let mut change = self.settle_lane(&mut lane)?;
        change.lanes += i64::from(is_new);
        Ok(change)
    }

    /// One job less in a lane. Its row still says that it is queued there.
    pub(super) fn take_from_lane(&mut self, line: LineId, bucket: &Bucket, rid: i64) -> Result<Change, Fault> {
        let (mut lane, mut key) = self.lane_and_key(line, bucket)?;
        self.shorten(&mut lane, &mut key, rid)?;
        self.settle_lane(&mut lane)
    }

    /// The first job of a lane leaves it, and its turn is counted; the lane's part of that.
    pub(super) fn hand_out_of_lane(&mut self, mut lane: Lane, mut key: KeyLane, rid: i64) -> Result<Taken, Fault> {
        lane.clock = lane.clock.max(key.tag);
        key.tag = lane.clock + 1;
        let clock = self.lines.counts(lane.line).clock.max(lane.tag);
        lane.tag = clock + 1;
        self.shorten(&mut lane, &mut key, rid)?;
        Ok(Taken { change: self.settle_lane(&mut lane)?, clock })
    }

    pub(super) fn find_lane_and_key(&self, line: LineId, bucket: i64) -> Result<Option<(Lane, KeyLane)>, Fault> {
        let Some(key) = self.key_lane_by(KEY_LANE, line, bucket)? else { return Ok(None) };
        Ok(self.lane_by(LANE, line, Some(key.of))?.map(|lane| (lane, key)))
    }

    fn lane_and_key(&self, line: LineId, bucket: &Bucket) -> Result<(Lane, KeyLane), Fault> {
        self.find_lane_and_key(line, bucket.rid)?.ok_or_else(|| Fault::stored("lane of a queued job", "it is missing"))
    }

    pub(super) fn shorten(&mut self, lane: &mut Lane, key: &mut KeyLane, rid: i64) -> Result<(), Fault> {
        key.jobs = key.jobs.saturating_sub(1);
        let mut first = self.conn.prepare_cached(FIRST_BUT_ONE)?;
        let params = params![row_id(lane.line), key.bucket, rid];
        if let Some(score) = first.query_row(params, |row| row.get::<_, i64>(0)).optional()? {
            key.urgency = urgency(score.unsigned_abs());
            return key.save(self.conn);
        }
        lane.keys = lane.keys.saturating_sub(1);
        lane.open_keys = lane.open_keys.saturating_sub(key.open.into());
        self.forget_time(lane, &key.key, key.park)?;
        let sql = "DELETE FROM key_lane WHERE line = ? AND bucket = ?";
        self.conn.prepare_cached(sql)?.execute([row_id(lane.line), key.bucket])?;
        Ok(())
    }

    /// Opens, closes or forgets a lane whose keys changed, and writes it.
    pub(super) fn settle_lane(&mut self, lane: &mut Lane) -> Result<Change, Fault> {
        let was_open = lane.open;
        if lane.keys == 0 {
            self.forget_time(lane, "", lane.park)?;
            let sql = "DELETE FROM lane WHERE line = ? AND bucket = ?";
            self.conn.prepare_cached(sql)?.execute([row_id(lane.line), lane.bucket])?;
            return Ok(Change { lanes: -1, open_lanes: -i64::from(was_open) });
        }
        lane.open = lane.park.is_none() && lane.open_keys > 0;
        if lane.open {
            lane.urgency = self.next_key_lane(lane)?.urgency;
            if !was_open {
                lane.tag = self.lines.counts(lane.line).clock + 1;
            }
        }
        lane.save(self.conn)?;
        Ok(Change { lanes: 0, open_lanes: i64::from(lane.open) - i64::from(was_open) })
    }

    pub(super) fn park_lane(&mut self, mut lane: Lane, why: Park) -> Result<(), Fault> {
        self.remember_time(&lane, "", lane.bucket, why)?;
        lane.park = Some(why);
        let change = self.settle_lane(&mut lane)?;
        self.lines.change(lane.line, |counts| change.apply(counts));
        Ok(())
    }

    pub(super) fn park_key(&mut self, mut lane: Lane, mut key: KeyLane, why: Park) -> Result<(), Fault> {
        self.remember_time(&lane, &key.key, key.bucket, why)?;
        key.park = Some(why);
        key.open = false;
        key.save(self.conn)?;
        lane.open_keys = lane.open_keys.saturating_sub(1);
        let change = self.settle_lane(&mut lane)?;
        self.lines.change(lane.line, |counts| change.apply(counts));
        Ok(())
    }
}

/// What handing out a job of a lane changes of its line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) change: Change,
    pub(super) clock: u64,
}

pub(super) fn open_key(lane: &mut Lane, key: &mut KeyLane) {
    key.open = true;
    key.tag = lane.clock + 1;
    lane.open_keys += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_look_at_a_lane_costs_more_because_there_are_more() {
        for sql in [LANE, NEXT_LANE, KEY_LANE, NEXT_KEY_LANE, FIRST_BUT_ONE] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
