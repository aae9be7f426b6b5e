//! The bytes that tenants have stored: the counters, and counting anew what they count.
//!
//! A release before this one does not count, and may run beside this one: then a counter differs from what there is. So all is
//! counted anew once a day, and by an audit. That is done in small steps, between which others go on.

use std::collections::{BTreeMap, BTreeSet};

use umbel_broker::{Result, StorageLimits, StoredBytes};
use umbel_model::TenantId;

use crate::{RedisBroker, answers::Answer, args, bytes::corrupt, connection::Repeat};

/// Names of jobs that one step measures: a few milliseconds.
const PIECE: usize = 300;
/// While others work, a counter may differ from what was counted meanwhile by this part of it…
const TOLERATED_PART: u64 = 16;
/// …and so many bytes.
const TOLERATED_BYTES: u64 = 1 << 20;
/// All is counted anew so often, milliseconds.
const RECOUNT_MS: u64 = 86_400_000;

/// Counters of a tenant, in the order of `FIELDS`.
type Counters = [u64; 4];
const FIELDS: [&str; 4] = ["j", "l", "d", "m"];

/// Keys below the prefix by kind: the names behind it.
pub(crate) type Names = BTreeMap<String, BTreeSet<String>>;

/// A counter that differs from what there is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Miscount {
    pub(crate) tenant: String,
    pub(crate) fixed: bool,
}

/// What changes while somebody works: the number of the last arrival, and how many leases there are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pulse(String, i64);

impl Pulse {
    /// Whether nobody worked between this one and a later one.
    fn is_quiet_until(&self, later: &Self) -> bool {
        self == later && self.1 == 0
    }
}

fn total(counters: &Counters) -> StoredBytes {
    let [jobs, logs, documents, modules] = *counters;
    StoredBytes { jobs, logs, documents, modules }
}

/// Whether a counter is wrong: `before` and `after` the counting it was so, and so much was there.
fn is_wrong(before: u64, after: u64, real: u64, is_quiet: bool) -> bool {
    if is_quiet && before == after {
        return real != after;
    }
    real.abs_diff(after) > real.max(after) / TOLERATED_PART + TOLERATED_BYTES
}

impl RedisBroker {
    pub(crate) async fn stored(&self, tenant: &TenantId) -> Result<StoredBytes> {
        Ok(total(&self.counters(tenant.as_str()).await?))
    }

    pub(crate) async fn own_storage_limits(&self, tenant: &TenantId) -> Result<StorageLimits> {
        let [jobs, documents] = self.numbers(self.connection.keys.storage_limit(tenant), &["j", "d"]).await?;
        Ok(StorageLimits { jobs, documents })
    }

    async fn counters(&self, tenant: &str) -> Result<Counters> {
        self.numbers(self.connection.keys.stored(tenant), &FIELDS).await
    }

    /// Numbers of a hash; 0 where there is none.
    async fn numbers<const N: usize>(&self, key: String, fields: &[&str; N]) -> Result<[u64; N]> {
        let hmget = redis::cmd("HMGET").arg(key).arg(fields).to_owned();
        let mut answer = Answer::new(self.command(&hmget).await?)?;
        let mut numbers = [0; N];
        for number in &mut numbers {
            let text = answer.maybe_bytes()?.map(String::from_utf8).transpose().map_err(corrupt)?;
            *number = text.map_or(Ok(0), |text| text.parse()).map_err(corrupt)?;
        }
        Ok(numbers)
    }

    pub(crate) async fn pulse(&self) -> Result<Pulse> {
        let mut answer = self.answer("pulse", args([]), Repeat::Safe).await?;
        Ok(Pulse(answer.text()?, answer.number()?))
    }

    /// Compares the counters with what there is. `names` are the keys that were there after `pulse`. With `fix` a counter that is
    /// wrong is set.
    pub(crate) async fn miscounts(&self, fix: bool, names: &Names, pulse: &Pulse) -> Result<Vec<Miscount>> {
        let mut jobs: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for kind in ["job", "wf", "doc"] {
            for name in names.get(kind).into_iter().flatten() {
                if let Some((tenant, _)) = name.split_once(',') {
                    jobs.entry(tenant).or_default().entry(kind).or_default().push(name);
                }
            }
        }
        for tenant in names.get("meta").into_iter().flatten().filter_map(|name| name.strip_prefix("stored:")) {
            jobs.entry(tenant).or_default();
        }
        let mut found = Vec::new();
        for (tenant, kinds) in jobs {
            let before = self.counters(tenant).await?;
            let mut real = Counters::default();
            for (kind, names) in kinds {
                for piece in names.chunks(PIECE) {
                    let args = [&[kind], piece].concat().into_iter().map(|text| text.as_bytes().to_vec()).collect();
                    let mut answer = self.answer("measure", args, Repeat::Safe).await?;
                    for counter in &mut real {
                        *counter += answer.number()?.unsigned_abs();
                    }
                }
            }
            let after = self.counters(tenant).await?;
            let is_quiet = pulse.is_quiet_until(&self.pulse().await?);
            let wrong = (0..FIELDS.len()).any(|n| is_wrong(before[n], after[n], real[n], is_quiet));
            if wrong {
                if fix {
                    let [jobs, logs, documents, modules] = real;
                    let args = args([&tenant, &jobs, &logs, &documents, &modules]);
                    self.run("recount", args, Repeat::Safe).await?;
                }
                found.push(Miscount { tenant: tenant.to_owned(), fixed: fix });
            }
        }
        Ok(found)
    }

    /// Counts anew, if that was not done for a day.
    pub(crate) async fn recount(&self) -> Result<()> {
        if self.typed::<i64>("is_recount_due", args([&RECOUNT_MS]), Repeat::OnlyUnsent).await? == 0 {
            return Ok(());
        }
        let pulse = self.pulse().await?;
        for Miscount { tenant, .. } in self.miscounts(true, &self.names_by_kind(|_| ()).await?, &pulse).await? {
            tracing::info!(tenant, "the bytes that a tenant has stored were counted anew");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_wrong_exactly_when_nobody_works_and_by_much_otherwise() {
        assert!(is_wrong(10, 10, 11, true) && !is_wrong(10, 10, 10, true));
        assert!(!is_wrong(10, 10, 11, false) && !is_wrong(9, 10, 11, true));
        assert!(is_wrong(0, 0, 3 << 20, false) && is_wrong(3 << 20, 3 << 20, 0, false));
        assert!(!is_wrong(100 << 20, 100 << 20, 106 << 20, false));
    }
}
