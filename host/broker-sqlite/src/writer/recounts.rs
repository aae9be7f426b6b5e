//! Lines and lanes that count what is not there, as after a damage to the file: they are counted anew when a claim
//! meets them, so that the rest of the queue goes on. An audit mends what nobody meets.

use rusqlite::params;
use tracing::warn;

use super::{
    lanes::{KeyLane, Lane, Park},
    lines::{LineId, row_id},
    step::Step,
};
use crate::{error::Fault, rows::number};

const OF_LINE: &str = "SELECT count(*), count(lane) FROM job INDEXED BY job_ready WHERE state = 1 AND line = ?";
const LANES_OF_LINE: &str = "SELECT count(*), count(*) FILTER (WHERE open = 1) FROM lane WHERE line = ?";
const KEYS_OF_LANE: &str = "SELECT count(*), count(*) FILTER (WHERE open = 1) FROM key_lane WHERE line = ? AND of = ?";
const OF_KEY_LANE: &str = "SELECT count(*), 0 FROM job INDEXED BY job_ready WHERE state = 1 AND line = ? AND lane = ?";

/// How long jobs wait that cannot be run as they are stored.
const LOOK_AGAIN_MS: u64 = 60_000;

impl Step<'_> {
    /// Counts the ready jobs and the lanes of a line; whether that changed anything.
    pub(super) fn recount_line(&mut self, line: LineId) -> Result<bool, Fault> {
        let (ready, laned) = self.two(OF_LINE, params![row_id(line)])?;
        let (lanes, open_lanes) = self.two(LANES_OF_LINE, params![row_id(line)])?;
        let counts = self.lines.counts(line);
        let changed =
            (counts.ready, counts.laned, counts.lanes, counts.open_lanes) != (ready, laned, lanes, open_lanes);
        if changed {
            warn!(line, "a queue counted ready jobs that are not there: it was counted anew");
            self.lines.change(line, |counts| {
                (counts.ready, counts.laned, counts.lanes, counts.open_lanes) = (ready, laned, lanes, open_lanes);
            });
        }
        Ok(changed)
    }

    /// Counts the keys of a lane that is open and has no open key.
    pub(super) fn recount_lane(&mut self, mut lane: Lane) -> Result<(), Fault> {
        warn!(line = lane.line, "a lane was open and had no open key: it was counted anew");
        (lane.keys, lane.open_keys) = self.two(KEYS_OF_LANE, params![row_id(lane.line), lane.bucket])?;
        self.settle_counted(lane)
    }

    /// Forgets a key lane that is open and has no job.
    pub(super) fn recount_key_lane(&mut self, mut lane: Lane, mut key: KeyLane) -> Result<(), Fault> {
        let (jobs, _) = self.two(OF_KEY_LANE, params![row_id(lane.line), key.bucket])?;
        if jobs > 0 {
            warn!(line = lane.line, "what the jobs of a lane are to run is missing: it waits, see what an audit says");
            return self.park_key(lane, key, Park::Until(self.now.saturating_add(LOOK_AGAIN_MS)));
        }
        warn!(line = lane.line, "a lane counted jobs that are not there: it was forgotten");
        key.jobs = 0;
        self.shorten(&mut lane, &mut key, 0)?;
        self.settle_counted(lane)
    }

    fn settle_counted(&mut self, mut lane: Lane) -> Result<(), Fault> {
        let change = self.settle_lane(&mut lane)?;
        self.lines.change(lane.line, |counts| change.apply(counts));
        self.recount_line(lane.line)?;
        Ok(())
    }

    fn two(&self, sql: &str, params: impl rusqlite::Params) -> Result<(u64, u64), Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let row = rows.next()?.ok_or_else(|| Fault::stored("count", "no row"))?;
        Ok((number(row, 0)?, number(row, 1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_anew_costs_what_the_line_has() {
        for sql in [OF_LINE, LANES_OF_LINE, KEYS_OF_LANE, OF_KEY_LANE] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
