//! Looks through the store for what should not be, in small steps: each is one call, so that work that goes on meanwhile
//! is neither stopped nor taken for an error.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use redis::{FromRedisValue, Value};
use umbel_broker::{Error, Finding, Result};

use crate::{
    RedisBroker,
    answers::Answer,
    connection::Repeat,
    settings,
    storage::{Miscount, Names},
};

/// Keys that one call looks at: a few milliseconds.
const PIECE: usize = 500;
/// Entries of a set that one call looks at, and keys that one `SCAN` passes: the same.
const LARGE_PIECE: usize = 1_000;
/// Calls under way at once.
const AT_ONCE: usize = 3;
/// Leases and delays that are counted at once, about 100 ms; with more of them, those counts are left out.
const MOST_COUNTED: usize = 20_000;
/// Key sub-queues of a tenant queue, dead jobs of a tenant: the same.
const MOST_SUB_QUEUES: usize = 7_000;

/// Kinds of keys that are looked at by name, with all that is in them.
const KINDS: [&str; 15] = [
    "job", "spec", "history", "log", "more", "wf", "wft", "gate", "uniq", "idem", "control", "line", "queues",
    "blocked", "events",
];
/// Kinds of sets that are looked at piece by piece, and sets of which there is one.
const SETS: [&str; 6] = ["ready", "lane", "dead", "jobs", "workflows", "fair"];
const SINGLE_SETS: [&str; 8] =
    ["leases", "look", "retain", "deadlines", "parked", "idem_due", "uniq_due", "workers_seen"];
/// What else there is: hashes that are looked at as a whole, counters, and what can be only where something else is.
const OTHERS: [&str; 21] = [
    "meta",
    "upgrading",
    "seq",
    "todo",
    "active_queues",
    "queue_used",
    "wf_nodes",
    "holders",
    "idle",
    "special",
    "used",
    "rates",
    "paces",
    "workers",
    "orders",
    "doc",
    "docs",
    "keys",
    "lanes",
    "followed",
    "last_event",
];

/// What `library/audit_keys.lua` says of a job whose spec may have labels that no list knows.
const UNKNOWN_LABELS: &str = "labels?";

/// What it says of the entries of a set that belong to jobs which are as they should be.
const ENTRIES: &str = "entries?";

/// What was found so far, by check.
#[derive(Debug, Default)]
struct Findings {
    by_check: BTreeMap<String, Finding>,
    /// Jobs that may have labels which no list knows: functions do not parse specs.
    unknown_labels: Vec<Vec<u8>>,
    /// Entries of sets that belong to jobs which were looked at, by the set's name.
    entries: HashMap<String, u64>,
}

impl Findings {
    fn add(&mut self, check: String, example: String, fixed: bool) {
        let new = || Finding { check: check.clone(), count: 0, example, fixed: 0 };
        let finding = self.by_check.entry(check.clone()).or_insert_with(new);
        finding.count += 1;
        finding.fixed += u64::from(fixed);
    }

    fn add_all(&mut self, found: Vec<Found>) {
        for Found { check, example, fixed } in found {
            match check.as_str() {
                UNKNOWN_LABELS => self.unknown_labels.push(example.into_bytes()),
                ENTRIES => {
                    let counted = example.rsplit_once(' ').and_then(|(key, n)| Some((key, n.parse::<u64>().ok()?)));
                    if let Some((key, n)) = counted {
                        *self.entries.entry(key.into()).or_default() += n;
                    }
                }
                _ => self.add(check, example, fixed),
            }
        }
    }
}

/// One thing that a call found.
#[derive(Debug)]
struct Found {
    check: String,
    example: String,
    fixed: bool,
}

impl RedisBroker {
    /// See `library/audit_*.lua` for the checks.
    pub(crate) async fn look_through(&self, fix: bool) -> Result<Vec<Finding>> {
        let mut found = Findings::default();
        self.look_at_settings(&mut found).await?;
        let pulse = self.pulse().await?;
        let keys = self.names_by_kind(|key| found.add("key that nothing owns".into(), key, false)).await?;
        let of = |kind: &str| keys.get(kind).into_iter().flatten();
        for kind in KINDS {
            let names: Vec<&String> = of(kind).collect();
            let pieces = names.chunks(PIECE).map(|piece| piece.iter().map(|name| name.to_string()).collect());
            self.look_at_all(fix, kind, pieces.collect(), &mut found).await?;
        }
        for kind in SETS {
            for name in of(kind) {
                self.look_at_set(fix, kind, name, &mut found).await?;
            }
        }
        for kind in SINGLE_SETS {
            self.look_at_set(fix, kind, "", &mut found).await?;
        }
        self.look_at(fix, "hashes", Vec::new(), &mut found).await?;
        self.look_at_labels(fix, of("meta"), &mut found).await?;
        self.look_at_counts(fix, &keys, &mut found).await?;
        for Miscount { tenant, fixed } in self.miscounts(fix, &keys, &pulse).await? {
            found.add("bytes of a tenant".into(), tenant, fixed);
        }
        Ok(found.by_check.into_values().collect())
    }

    async fn look_at_settings(&self, found: &mut Findings) -> Result<()> {
        let info = self.command(&redis::cmd("INFO")).await?;
        let info = String::from_redis_value(info).map_err(|e| Error::Failed(format!("INFO cannot be read: {e}")))?;
        if let Err(error) = settings::check(&info, false, true) {
            found.add("unsafe setting".into(), error.to_string(), false);
        }
        Ok(())
    }

    async fn look_at_counts(&self, fix: bool, keys: &Names, found: &mut Findings) -> Result<()> {
        let of = |kind: &str| keys.get(kind).into_iter().flatten();
        let tenants: Vec<String> = of("queues").cloned().collect();
        if tenants.len() <= MOST_SUB_QUEUES {
            let args = [vec![MOST_COUNTED.to_string()], tenants].concat();
            self.look_at(fix, "counts", args, found).await?;
        }
        let with_dead: BTreeSet<&String> = of("dead").chain(of("deads")).collect();
        for tenant in with_dead {
            self.look_at(fix, "dead", vec![tenant.clone()], found).await?;
        }
        let mut sub_queues: BTreeMap<String, Vec<String>> = of("line").map(|name| (name.clone(), Vec::new())).collect();
        for name in of("lane") {
            // Tenant and queue, then task and key.
            let Some((at, _)) = name.match_indices(',').nth(1) else { continue };
            sub_queues.entry(name[..at].into()).or_default().push(name[at + 1..].into());
        }
        for (tenant_queue, names) in sub_queues {
            if names.len() <= MOST_SUB_QUEUES {
                self.look_at(fix, "lanes", [vec![tenant_queue], names].concat(), found).await?;
            }
        }
        Ok(())
    }

    /// Every key below the prefix, behind its kind.
    pub(crate) async fn names_by_kind(&self, mut unowned: impl FnMut(String) + Send) -> Result<Names> {
        let prefix = self.connection.keys.prefix();
        let known: HashSet<&str> =
            [&KINDS[..], &SETS, &SINGLE_SETS, &OTHERS, &["deads"]].concat().into_iter().collect();
        let mut keys = Names::new();
        self.each_key(&self.connection.keys.all(), |key| {
            let name = key.strip_prefix(prefix).unwrap_or(&key);
            let (kind, name) = name.split_once(':').unwrap_or((name, ""));
            if !known.contains(kind) {
                unowned(key.clone());
            }
            match keys.get_mut(kind) {
                Some(names) => drop(names.insert(name.into())),
                None => drop(keys.insert(kind.into(), BTreeSet::from([name.into()]))),
            }
        })
        .await?;
        Ok(keys)
    }

    /// Every key that fits a pattern, some of them twice. Looks at all keys, piece by piece.
    pub(crate) async fn each_key(&self, pattern: &str, mut each: impl FnMut(String) + Send) -> Result<()> {
        let mut cursor = "0".to_owned();
        loop {
            let scan =
                redis::cmd("SCAN").arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(LARGE_PIECE).to_owned();
            let mut answer = Answer::new(self.command(&scan).await?)?;
            cursor = answer.text()?;
            Answer::new(answer.next()?)?.rest(Answer::text)?.into_iter().for_each(&mut each);
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    /// A set, piece by piece; not one that has as many entries as jobs should have there and were found to have. Entries move
    /// while they are mended: then one piece is looked at after the other.
    async fn look_at_set(&self, fix: bool, kind: &str, name: &str, found: &mut Findings) -> Result<()> {
        let piece = |from: i64| vec![kind.to_owned(), name.to_owned(), from.to_string(), LARGE_PIECE.to_string()];
        let key = if name.is_empty() { kind.to_owned() } else { format!("{kind}:{name}") };
        if let Some(n) = found.entries.get(&key) {
            let card = redis::cmd("ZCARD").arg(format!("{}{key}", self.connection.keys.prefix())).to_owned();
            if self.command(&card).await? == Value::Int(*n as i64) {
                return Ok(());
            }
        }
        let mut from = self.look_at(fix, "set", piece(0), found).await?;
        while fix && from >= 0 {
            from = self.look_at(fix, "set", piece(from), found).await?;
        }
        if from < 0 {
            return Ok(());
        }
        let calls = stream::iter((from..).step_by(LARGE_PIECE)).map(|from| self.call_audit(fix, "set", piece(from)));
        let mut calls = std::pin::pin!(calls.buffered(AT_ONCE));
        while let Some((next, some)) = calls.try_next().await? {
            found.add_all(some);
            if next < 0 {
                break;
            }
        }
        Ok(())
    }

    /// Many calls, some of them at once: one is on its way while the server is busy with another.
    async fn look_at_all(&self, fix: bool, what: &str, pieces: Vec<Vec<String>>, found: &mut Findings) -> Result<()> {
        let calls = stream::iter(pieces).map(|piece| self.call_audit(fix, what, piece));
        let mut calls = std::pin::pin!(calls.buffered(AT_ONCE));
        while let Some((_, some)) = calls.try_next().await? {
            found.add_all(some);
        }
        Ok(())
    }

    /// The labels of jobs, and what lists find by them.
    async fn look_at_labels<'a>(
        &self,
        fix: bool,
        names: impl Iterator<Item = &'a String>,
        found: &mut Findings,
    ) -> Result<()> {
        let unknown = std::mem::take(&mut found.unknown_labels);
        for piece in unknown.chunks(PIECE) {
            for (member, labels) in self.unknown_labels(piece).await?.1 {
                let fixed = fix && self.add_labels("complete", vec![(member.clone(), labels)]).await?;
                found.add("job that is not found by its label".into(), member, fixed);
            }
        }
        for name in names {
            if let Some(label) = name.strip_prefix("label:") {
                self.look_at_set(fix, "meta:label", label, found).await?;
            } else if let Some(tenant) = name.strip_prefix("labels:") {
                let mut cursor = 0;
                while cursor >= 0 {
                    let args = vec![tenant.to_owned(), cursor.to_string(), LARGE_PIECE.to_string()];
                    cursor = self.look_at(fix, "labels", args, found).await?;
                }
            }
        }
        Ok(())
    }

    /// One call; where to go on.
    async fn look_at(&self, fix: bool, what: &str, args: Vec<String>, found: &mut Findings) -> Result<i64> {
        let (next, some) = self.call_audit(fix, what, args).await?;
        found.add_all(some);
        Ok(next)
    }

    /// One call: where to go on, and what was found.
    async fn call_audit(&self, fix: bool, what: &str, args: Vec<String>) -> Result<(i64, Vec<Found>)> {
        let first = [u8::from(fix).to_string(), what.to_owned()];
        let args = first.into_iter().chain(args).map(String::into_bytes).collect();
        let mut answer = self.answer("audit", args, Repeat::Safe).await?;
        let next = answer.number()?;
        let found = answer.rest(|answer| {
            Ok(Found { check: answer.text()?, example: answer.text()?, fixed: answer.bytes()? == b"1" })
        })?;
        Ok((next, found))
    }
}
