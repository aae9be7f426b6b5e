//! Handing out within limits, one job at a time, and opening again what they had parked.

use rusqlite::params;
use umbel_broker::{Claim, Control, JobLimits, Scope};
use umbel_model::{Rate, TaskName, TenantId, rate::Used};

use super::{
    buckets::Bucket,
    controls::column,
    counts,
    head::{self, Head},
    lanes::{Change, KeyLane, Lane, Park, Taken, urgency},
    lines::LineId,
    step::Step,
};
use crate::{
    error::Fault,
    rows::{int, number, small},
};

/// Keys of rates: a kind beyond those of scopes.
const KEY_KIND: i64 = 3;

const RATE: &str =
    "SELECT until_us, interval_us, burst FROM rate WHERE tenant = ? AND kind = ? AND name = ? AND key = ?";

/// A job that left its line.
#[derive(Debug)]
pub(super) struct Picked {
    pub(super) head: Head,
    /// Its spec or, of a node, its arguments.
    pub(super) text: String,
}

/// Why no job left a line.
pub(super) enum Missed {
    /// Something was parked, moved or counted anew.
    Again,
    /// It counts jobs that cannot be found, and counting them anew did not help.
    Broken,
}

/// What is next in a line.
enum Next {
    Plain(Head, String),
    Laned(Lane, KeyLane, Head, String),
    /// There is nothing where it counts something. It was counted anew; whether that changed anything.
    Missing(bool),
}

/// What a rate is of.
#[derive(Clone, Copy)]
struct RateName<'a> {
    tenant: &'a TenantId,
    kind: i64,
    name: &'a str,
    key: &'a str,
}

impl<'a> RateName<'a> {
    fn of(tenant: &'a TenantId, scope: &'a Scope) -> Self {
        let (kind, name) = column(scope);
        Self { tenant, kind, name, key: "" }
    }

    fn of_task(tenant: &'a TenantId, task: &'a TaskName) -> Self {
        Self { tenant, kind: 2, name: task.as_str(), key: "" }
    }

    fn of_key(tenant: &'a TenantId, task: &'a TaskName, key: &'a str) -> Self {
        Self { tenant, kind: KEY_KIND, name: task.as_str(), key }
    }
}

impl Step<'_> {
    /// Whether the queue is exclusive and another worker runs jobs of it.
    pub(super) fn is_held_by_another(&self, line: LineId, claim: &Claim) -> bool {
        let control = self.controls.queue(self.lines.tenant(line), self.lines.queue(line));
        let counts = self.lines.counts(line);
        control.is_some_and(|control| control.exclusive)
            && counts.running > 0
            && counts.holder.as_deref() != Some(claim.worker.as_str())
    }

    /// Takes the next job out of a line, to run or because it has expired.
    pub(super) fn pick(&mut self, line: LineId) -> Result<Result<Picked, Missed>, Fault> {
        if let Some(why) = self.line_is_full(line)? {
            self.lines.change(line, |counts| counts.parked = Some(why));
            return Ok(Err(Missed::Again));
        }
        let picked = match self.next(line)? {
            Next::Plain(head, text) => self.pick_plain(line, head, text)?,
            Next::Laned(lane, key, head, text) => self.pick_laned(lane, key, head, text)?,
            Next::Missing(false) => return Ok(Err(Missed::Broken)),
            Next::Missing(true) => None,
        };
        Ok(picked.ok_or(Missed::Again))
    }

    fn next(&mut self, line: LineId) -> Result<Next, Fault> {
        let counts = self.lines.counts(line);
        let lane = if counts.open_lanes > 0 { self.next_lane(line)? } else { None };
        if counts.plain() > 0 {
            if let Some((head, text)) = head::next_ready(self.conn, self.lines, line, None)? {
                let counts = self.lines.counts(line);
                let mine = (urgency(head.score), counts.plain_tag.max(counts.clock));
                if lane.as_ref().is_none_or(|lane| mine <= (lane.urgency, lane.tag)) {
                    return Ok(Next::Plain(head, text));
                }
            } else if self.recount_line(line)? {
                return Ok(Next::Missing(true));
            }
        }
        let Some(lane) = lane else { return Ok(Next::Missing(self.recount_line(line)?)) };
        let Some(key) = self.find_next_key_lane(&lane)? else {
            self.recount_lane(lane)?;
            return Ok(Next::Missing(true));
        };
        match head::next_ready(self.conn, self.lines, line, Some(key.bucket))? {
            Some((head, text)) => Ok(Next::Laned(lane, key, head, text)),
            None => {
                self.recount_key_lane(lane, key)?;
                Ok(Next::Missing(true))
            }
        }
    }

    fn pick_plain(&mut self, line: LineId, head: Head, text: String) -> Result<Option<Picked>, Fault> {
        let tenant = self.lines.tenant(line);
        if self.controls.tasks(tenant) > 0 {
            let task = head.task(self.conn)?;
            if self.controls.task(tenant, &task).is_some() {
                self.move_to_lane(line, &head, &task)?;
                return Ok(None);
            }
        }
        if !head.expired(self.now) {
            self.take_rates(line, None)?;
        }
        self.lines.count_turn(line);
        self.lines.change(line, |counts| {
            counts.ready = counts.ready.saturating_sub(1);
            if counts.lanes > 0 {
                counts.clock = counts.clock.max(counts.plain_tag);
                counts.plain_tag = counts.clock + 1;
            }
        });
        Ok(Some(Picked { head, text }))
    }

    /// Puts a plain job whose task has a control into its task's lane, at its place.
    fn move_to_lane(&mut self, line: LineId, head: &Head, task: &TaskName) -> Result<(), Fault> {
        let bucket = self.use_bucket(line, task, "")?;
        let sql = "UPDATE job SET lane = ? WHERE rid = ?";
        self.conn.prepare_cached(sql)?.execute([bucket.rid, head.rid])?;
        let change = self.put_in_lane(line, &bucket, head.score)?;
        self.lines.change(line, |counts| {
            counts.laned += 1;
            change.apply(counts);
        });
        Ok(())
    }

    fn pick_laned(&mut self, lane: Lane, key: KeyLane, mut head: Head, text: String) -> Result<Option<Picked>, Fault> {
        let line = lane.line;
        let control = self.controls.task(self.lines.tenant(line), &lane.task).cloned().unwrap_or_default();
        if control.paused {
            self.park_lane(lane, Park::Paused)?;
            return Ok(None);
        }
        let expired = head.expired(self.now);
        let bucket = Bucket { rid: key.bucket, task: lane.task.clone(), key: key.key.clone(), of: lane.bucket };
        if !expired {
            let limits = self.limits_of(&mut head, &control)?;
            if let Some(why) = self.used_up(line, &bucket, limits.concurrency, limits.rate, true)? {
                self.park_lane(lane, why)?;
                return Ok(None);
            }
            if !bucket.key.is_empty()
                && let Some(why) = self.used_up(line, &bucket, limits.key_concurrency, limits.key_rate, false)?
            {
                self.park_key(lane, key, why)?;
                return Ok(None);
            }
            self.take_rates(line, Some((&bucket, &limits)))?;
        }
        self.lines.count_turn(line);
        let Taken { change, clock } = self.hand_out_of_lane(lane, key, head.rid)?;
        self.lines.change(line, |counts| {
            counts.ready = counts.ready.saturating_sub(1);
            counts.laned = counts.laned.saturating_sub(1);
            counts.clock = clock;
            change.apply(counts);
        });
        if expired {
            self.leave_bucket(&bucket)?;
            head.lane = None;
        } else {
            self.count_running(&bucket, 1)?;
        }
        Ok(Some(Picked { head, text }))
    }

    /// Why nothing of a line may start now.
    fn line_is_full(&self, line: LineId) -> Result<Option<counts::Park>, Fault> {
        let (tenant, queue) = (self.lines.tenant(line), self.lines.queue(line));
        let Some(of_tenant) = self.controls.tenant(tenant) else { return Ok(None) };
        let of_queue = self.controls.queue(tenant, queue);
        let (cap, queue_cap) = (of_tenant.concurrency, of_queue.map_or(0, |control| control.concurrency));
        if cap > 0 && self.lines.running_of(tenant) >= cap.into() {
            return Ok(Some(counts::Park::TenantFull));
        }
        if queue_cap > 0 && self.lines.counts(line).running >= queue_cap.into() {
            return Ok(Some(counts::Park::QueueFull));
        }
        for (scope, rate) in self.line_rates(line) {
            if let Err(at) = self.wait_for(RateName::of(tenant, &scope), rate)? {
                return Ok(Some(counts::Park::Until(at)));
            }
        }
        Ok(None)
    }

    /// The rates of a line's tenant and queue.
    fn line_rates(&self, line: LineId) -> Vec<(Scope, Rate)> {
        let (tenant, queue) = (self.lines.tenant(line), self.lines.queue(line));
        let of_tenant = self.controls.tenant(tenant).and_then(|control| control.rate);
        let of_queue = self.controls.queue(tenant, queue).and_then(|control| control.rate);
        let of_queue = of_queue.map(|rate| (Scope::Queue(queue.clone()), rate));
        of_tenant.map(|rate| (Scope::Tenant, rate)).into_iter().chain(of_queue).collect()
    }

    /// Why nothing more of a bucket, or of its task, may start now.
    fn used_up(
        &self,
        line: LineId,
        bucket: &Bucket,
        cap: u32,
        rate: Option<Rate>,
        task: bool,
    ) -> Result<Option<Park>, Fault> {
        let rid = if task { bucket.of } else { bucket.rid };
        if cap > 0 && self.running_in(rid)? >= u64::from(cap) {
            return Ok(Some(Park::Full));
        }
        let Some(rate) = rate else { return Ok(None) };
        let tenant = self.lines.tenant(line);
        let name = match task {
            true => RateName::of_task(tenant, &bucket.task),
            false => RateName::of_key(tenant, &bucket.task, &bucket.key),
        };
        Ok(self.wait_for(name, rate)?.err().map(Park::Until))
    }

    /// What is stored of a rate when one more starts now, or until when none may (milliseconds).
    fn wait_for(&self, name: RateName<'_>, rate: Rate) -> Result<Result<Used, u64>, Fault> {
        let params = params![name.tenant.as_str(), name.kind, name.name, name.key];
        let mut statement = self.conn.prepare_cached(RATE)?;
        let mut rows = statement.query(params)?;
        let used = match rows.next()? {
            Some(row) => Some(Used { until_us: number(row, 0)?, interval_us: number(row, 1)?, burst: small(row, 2)? }),
            None => None,
        };
        let wait = match rate.take(self.now, used) {
            Ok(used) => return Ok(Ok(used)),
            Err(wait) => wait,
        };
        drop(rows);
        if let Some(used) = wait.store {
            self.store_rate(name, used)?;
        }
        Ok(Err(wait.until_ms))
    }

    fn take_rate(&self, name: RateName<'_>, rate: Rate) -> Result<(), Fault> {
        match self.wait_for(name, rate)? {
            Ok(used) => self.store_rate(name, used),
            Err(_) => Ok(()),
        }
    }

    fn store_rate(&self, name: RateName<'_>, used: Used) -> Result<(), Fault> {
        let sql = "INSERT OR REPLACE INTO rate (tenant, kind, name, key, until_us, interval_us, burst)
            VALUES (?, ?, ?, ?, ?, ?, ?)";
        let (until_us, interval_us) = (int(used.until_us), int(used.interval_us));
        let row = params![name.tenant.as_str(), name.kind, name.name, name.key, until_us, interval_us, used.burst];
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    /// Takes one from each rate that holds for a job that starts now.
    fn take_rates(&self, line: LineId, laned: Option<(&Bucket, &JobLimits)>) -> Result<(), Fault> {
        let tenant = self.lines.tenant(line);
        if self.controls.tenant(tenant).is_some() {
            for (scope, rate) in self.line_rates(line) {
                self.take_rate(RateName::of(tenant, &scope), rate)?;
            }
        }
        let Some((bucket, limits)) = laned else { return Ok(()) };
        if let Some(rate) = limits.rate {
            self.take_rate(RateName::of_task(tenant, &bucket.task), rate)?;
        }
        match limits.key_rate {
            Some(rate) if !bucket.key.is_empty() => {
                self.take_rate(RateName::of_key(tenant, &bucket.task, &bucket.key), rate)
            }
            _ => Ok(()),
        }
    }

    fn limits_of(&self, head: &mut Head, control: &Control) -> Result<JobLimits, Fault> {
        let broker_options = head.broker_options(self.conn)?;
        let mut limits = broker_options.and_then(|broker_options| broker_options.limits.clone()).unwrap_or_default();
        limits.rate = control.rate.or(limits.rate);
        if control.concurrency > 0 {
            limits.concurrency = control.concurrency;
        }
        Ok(limits)
    }

    /// A delivery ended: opens what waited for its place.
    pub(super) fn make_place(&mut self, line: LineId, lane: Option<i64>) -> Result<(), Fault> {
        if let Some(rid) = lane {
            let bucket = self.bucket(rid)?;
            self.count_running(&bucket, -1)?;
            self.unpark_full_lanes(bucket.of)?;
            if !bucket.key.is_empty() {
                self.unpark_full_keys(&bucket)?;
            }
            self.leave_bucket(&bucket)?;
        }
        if self.lines.counts(line).parked == Some(counts::Park::QueueFull) {
            self.open_line(line, |counts| counts.parked = None);
        }
        for line in self.lines.parked_with_tenant(self.lines.tenant(line)) {
            self.open_line(line, |counts| counts.parked = None);
        }
        Ok(())
    }

    /// A control of a task was set: opens its lanes.
    pub(super) fn open_task(&mut self, tenant: &TenantId, task: &TaskName) -> Result<(), Fault> {
        match self.bucket_named(tenant.as_str(), task, "")? {
            Some(bucket) => self.unpark_lanes(bucket),
            None => Ok(()),
        }
    }

    /// Queues a job in the lane of its task and key.
    pub(super) fn enter_lane(&mut self, head: &mut Head) -> Result<Change, Fault> {
        let task = head.task(self.conn)?;
        let limits = head.broker_options(self.conn)?.and_then(|broker_options| broker_options.limits.as_ref());
        let key = limits.and_then(|limits| limits.key.clone()).unwrap_or_default();
        let bucket = self.use_bucket(head.line, &task, &key)?;
        head.lane = Some(bucket.rid);
        self.put_in_lane(head.line, &bucket, head.score)
    }

    /// Opens at most `max` of what rates had parked until now; how many, and when the next one is to be opened.
    pub(super) fn open_rates(&mut self, max: u32) -> Result<(u32, Option<u64>), Fault> {
        let parked = self.parked_by_rates(max as usize + 1)?;
        for (n, timed) in parked.iter().enumerate() {
            if timed.at > self.now || n == max as usize {
                return Ok((n as u32, Some(timed.at)));
            }
            self.open_timed(timed)?;
        }
        Ok((parked.len() as u32, None))
    }

    /// Forgets rates that are not used up any more; whether there may be more.
    pub(super) fn sweep_rates(&self, max: u32) -> Result<bool, Fault> {
        let now_us = int(self.now.saturating_mul(1_000));
        let deleted = self.conn.prepare_cached(SWEEP_RATES)?.execute(params![now_us, max])?;
        Ok(deleted as u64 == u64::from(max))
    }
}

const SWEEP_RATES: &str = "DELETE FROM rate WHERE (tenant, kind, name, key) IN
    (SELECT tenant, kind, name, key FROM rate INDEXED BY rate_until WHERE until_us <= ? LIMIT ?)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_look_at_a_limit_costs_more_because_there_are_more() {
        for sql in [RATE, SWEEP_RATES] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
