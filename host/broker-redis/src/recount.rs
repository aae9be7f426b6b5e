//! Counting anew what tenants have stored, while others work.
//!
//! A release before this one does not count, and may run beside this one: then a counter differs from what there is. So all is counted
//! anew once a day, soon after processes of older releases were noticed, and by an audit. Each page of a scan is measured as it comes,
//! and only sums by tenant are kept.
//!
//! Everybody notes what comes and goes meanwhile (`library/recount.lua`), so that a counter is corrected only as far as it is certainly
//! wrong: exactly where a tenant does nothing meanwhile. Otherwise it may stay wrong by as many bytes as came and went while all was
//! counted. What an older process changes meanwhile is noted by nobody; it leads to another recount.

use std::collections::{BTreeMap, HashMap};

use redis::FromRedisValue as _;
use umbel_broker::{Error, Result, WORKER_TTL_MS};

use crate::{RedisBroker, answers::Answer, args, bytes::corrupt, connection::Repeat, scan::Scan, token::token};

/// All is counted anew so often, milliseconds.
const EVERY_MS: u64 = 86_400_000;
/// And so often while processes of older releases are noticed.
const EVERY_MS_AFTER_OLDER: u64 = 180_000;
/// Names that one call is given. How many of them it measures, it says.
const PIECE: usize = 200;
/// Tenants whose counters one call compares: a millisecond.
const TENANTS: usize = 100;
/// How often an audit begins anew, because a connection was lost, say.
const ATTEMPTS: u32 = 5;

/// Counters of a tenant as `library/storage.lua` names them.
const FIELDS: [&str; 7] = ["j", "l", "d", "m", "k", "b", "s"];

/// A counter that differs from what there is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Miscount {
    pub(crate) tenant: String,
    pub(crate) fixed: bool,
}

/// A count under way.
#[derive(Debug)]
pub(crate) struct Recount {
    /// Of the time in which changes are noted.
    token: String,
    begun: String,
    /// Of the connection: where a scan is means nothing to another server.
    generation: Option<u64>,
    scan: Scan,
    /// What had been noted when this count began.
    noted: HashMap<String, i64>,
    sums: BTreeMap<String, [i64; FIELDS.len()]>,
}

impl Recount {
    /// The least and the most that a tenant has of each counter, without what was noted of it.
    fn bounds(&self, tenant: &str, sums: &[i64; FIELDS.len()]) -> impl Iterator<Item = i64> {
        let noted = |sign, field| self.noted.get(&format!("{tenant},{sign}{field}")).copied().unwrap_or(0);
        let bounds: Vec<i64> = FIELDS
            .iter()
            .zip(sums)
            .flat_map(|(field, sum)| [sum + noted('-', field), sum - noted('+', field)])
            .collect();
        bounds.into_iter()
    }
}

/// What a step of a count led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    MoreIsLeft,
    Done,
    /// Changes were made that were not noted, or the server is another one: it must be begun anew.
    Lost,
}

impl RedisBroker {
    /// A step of counting all anew, if that is due; whether more is left.
    pub(crate) async fn recount(&self) -> Result<bool> {
        let mut slot = self.recount.lock().await;
        let mut recount = match slot.take() {
            Some(recount) => recount,
            None => match self.begin_recount(false).await? {
                Some(recount) => recount,
                None => return Ok(false),
            },
        };
        match self.measure_page(&mut recount).await? {
            Step::MoreIsLeft => *slot = Some(recount),
            Step::Lost => {}
            Step::Done => {
                let Some(found) = self.compare(&recount, true).await? else { return Ok(true) };
                if let Some(Miscount { tenant, .. }) = found.first() {
                    tracing::info!(
                        tenants = found.len(),
                        tenant,
                        "what tenants have stored was counted anew, and counters corrected"
                    );
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Counts all anew and compares the counters; with `fix`, corrects them.
    pub(crate) async fn miscounts(&self, fix: bool) -> Result<Vec<Miscount>> {
        for _ in 0..ATTEMPTS {
            let Some(mut recount) = self.begin_recount(true).await? else { continue };
            let mut step = Step::MoreIsLeft;
            while step == Step::MoreIsLeft {
                step = self.measure_page(&mut recount).await?;
            }
            if step == Step::Done
                && let Some(found) = self.compare(&recount, fix).await?
            {
                return Ok(found);
            }
        }
        Err(Error::Unavailable(
            "the connection is lost again and again while what tenants have stored is counted".into(),
        ))
    }

    /// None when it is not due; with `always` it is.
    async fn begin_recount(&self, always: bool) -> Result<Option<Recount>> {
        let generation = self.connection.generation();
        let args = args([&token(), &u8::from(always), &EVERY_MS, &EVERY_MS_AFTER_OLDER, &WORKER_TTL_MS]);
        let mut answer = self.answer("begin_recount", args, Repeat::Safe).await?;
        if answer.done() {
            return Ok(None);
        }
        let (token, begun) = (answer.text()?, answer.text()?);
        let noted = self.command(&redis::cmd("HGETALL").arg(self.connection.keys.changed_bytes()).to_owned()).await?;
        let noted = HashMap::from_redis_value(noted).map_err(corrupt)?;
        let (scan, sums) = (Scan::new(self.connection.keys.all()), BTreeMap::new());
        Ok(Some(Recount { token, begun, generation, scan, noted, sums }))
    }

    /// Measures what is on the next page of the scan.
    async fn measure_page(&self, recount: &mut Recount) -> Result<Step> {
        let keys = &self.connection.keys;
        let mut names = Vec::new();
        for key in self.next_page(&mut recount.scan).await? {
            let name = key.strip_prefix(keys.prefix()).unwrap_or_default();
            if let Some(tenant) = name.strip_prefix("meta:stored:") {
                recount.sums.entry(tenant.into()).or_default();
            } else if is_measured(name) {
                names.push(name.as_bytes().to_vec());
            }
        }
        let (mut left, mut behind) = (&names[..], String::new());
        while !left.is_empty() {
            let mut args = args([&recount.token, &behind]);
            args.extend_from_slice(&left[..left.len().min(PIECE)]);
            let mut answer = self.answer("measure", args, Repeat::Safe).await?;
            let Ok(done) = usize::try_from(answer.number()?) else { return Ok(Step::Lost) };
            behind = answer.text()?;
            left = left.get(done..).unwrap_or_default();
            while !answer.done() {
                let mut sum = Answer::new(answer.next()?)?;
                for counter in recount.sums.entry(sum.text()?).or_default() {
                    *counter += sum.number()?;
                }
            }
        }
        Ok(match recount.scan.is_over() {
            // Also when the server was lost and came back at once.
            _ if self.connection.generation() != recount.generation => Step::Lost,
            true => Step::Done,
            false => Step::MoreIsLeft,
        })
    }

    /// Compares the counters with what was counted, when all was; none when that must be begun anew.
    async fn compare(&self, recount: &Recount, fix: bool) -> Result<Option<Vec<Miscount>>> {
        let tenants: Vec<_> = recount.sums.iter().collect();
        let mut found = Vec::new();
        for piece in tenants.chunks(TENANTS) {
            let mut args = args([&recount.token, &u8::from(fix)]);
            for (tenant, sums) in piece {
                args.push(tenant.as_bytes().to_vec());
                args.extend(recount.bounds(tenant, sums).map(|bound| bound.to_string().into_bytes()));
            }
            // Repeated, it finds nothing to correct.
            let mut answer = self.answer("compare_stored", args, Repeat::Safe).await?;
            if answer.number()? < 0 {
                return Ok(None);
            }
            found.extend(answer.rest(|answer| Ok(Miscount { tenant: answer.text()?, fixed: fix }))?);
        }
        if fix {
            self.run("finish_recount", args([&recount.token, &recount.begun]), Repeat::Safe).await?;
        }
        Ok(Some(found))
    }
}

/// Whether the name of a key, below the prefix, is that of something that counts.
fn is_measured(name: &str) -> bool {
    let is_entries = ["meta:kv_v1:", "meta:blobs_v1:", "meta:schedule_v1:"].iter().any(|kind| name.starts_with(kind));
    name.split_once(':').is_some_and(|(kind, name)| matches!(kind, "job" | "wf" | "doc") && name.contains(','))
        || is_entries
}
