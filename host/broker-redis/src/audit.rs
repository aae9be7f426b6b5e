//! Looks through the store for what should not be, in small steps: each is one call, so that work that goes on meanwhile
//! is neither stopped nor taken for an error.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use redis::{FromRedisValue, Value};
use umbel_broker::{Error, Finding, Result};

use crate::{RedisBroker, connection::Repeat, recount::Miscount, scan::Scan, settings};

/// Keys that one call looks at: a few milliseconds.
const PIECE: usize = 500;
/// Entries of a set that one call looks at: the same.
const LARGE_PIECE: usize = 1_000;
/// Calls under way at once.
const AT_ONCE: usize = 3;
/// Leases and delays that are counted at once, about 100 ms; with more of them, those counts are left out.
const MOST_COUNTED: usize = 20_000;
/// Key sub-queues of a tenant queue, dead jobs of a tenant: the same.
const MOST_SUB_QUEUES: usize = 7_000;

/// Kinds of keys that are looked at by name, with all that is in them.
const KINDS: [&str; 17] = [
    "job",
    "spec",
    "history",
    "log",
    "more",
    "wf",
    "wft",
    "gate",
    "uniq",
    "idem",
    "control",
    "line",
    "queues",
    "blocked",
    "events",
    "schedule_v1",
    "schedule_fires_v1",
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

/// Kinds whose names are kept: what they name is looked at when all jobs were.
const KEPT: [&str; 9] = ["ready", "lane", "dead", "jobs", "workflows", "fair", "deads", "queues", "line"];
/// The same of `meta:labels:<tenant>`.
const LABELS_OF_JOBS: &str = "labels";

/// Tenants that have blobs, or references to some.
const TENANTS_WITH_BLOBS: &str = "blobs";

/// Kinds of `KINDS` whose keys have `meta:` in front.
const KINDS_OF_SCHEDULES: [&str; 2] = ["schedule_v1", "schedule_fires_v1"];

/// The names of a tenant's schedules, and those of all at which somebody is to look.
const SCHEDULES: &str = "meta:schedules_v1";
const DUE_SCHEDULES: &str = "meta:schedules_due_v1";

/// What `library/audit_keys.lua` says of a job whose spec may have labels that no list knows.
const UNKNOWN_LABELS: &str = "labels?";

/// What it says of the entries of a set that belong to jobs which are as they should be.
const ENTRIES: &str = "entries?";

/// The tenant in the name of a key of its blobs, behind `meta:`.
fn tenant_with_blobs(name: &str) -> Option<&str> {
    name.strip_prefix("blobs_v1:").or_else(|| name.strip_prefix("blob_refs_v1:"))
}

/// The kind and the name of a key of a schedule, behind `meta:`.
fn part_of_schedule(name: &str) -> Option<(&str, &str)> {
    name.split_once(':').filter(|(kind, _)| KINDS_OF_SCHEDULES.contains(kind))
}

/// Names of keys by what stands in front of them, their kind.
type Names = BTreeMap<String, BTreeSet<String>>;

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
        let kept = self.look_at_pages(fix, &mut found).await?;
        let of = |kind: &str| kept.get(kind).into_iter().flatten();
        for kind in SETS {
            for name in of(kind) {
                self.look_at_set(fix, kind, name, &mut found).await?;
            }
        }
        for kind in SINGLE_SETS {
            self.look_at_set(fix, kind, "", &mut found).await?;
        }
        for tenant in of(SCHEDULES) {
            self.look_at_set(fix, SCHEDULES, tenant, &mut found).await?;
        }
        self.look_at_set(fix, DUE_SCHEDULES, "", &mut found).await?;
        self.look_at(fix, "hashes", Vec::new(), &mut found).await?;
        for tenant in of(LABELS_OF_JOBS) {
            self.look_at_pieces(fix, LABELS_OF_JOBS, tenant, &mut found).await?;
        }
        for tenant in of(TENANTS_WITH_BLOBS) {
            self.look_at_pieces(fix, "blob_refs", tenant, &mut found).await?;
            self.look_at(fix, "blobs", vec![tenant.clone(), MOST_COUNTED.to_string()], &mut found).await?;
        }
        self.look_at_counts(fix, &kept, &mut found).await?;
        for Miscount { tenant, fixed } in self.miscounts(fix).await? {
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

    /// Looks at the keys on each page of a scan as it comes, and answers the names of sets and queues, which are looked at when all
    /// jobs were. The names of jobs and of what belongs to them are not kept: there may be millions of them.
    async fn look_at_pages(&self, fix: bool, found: &mut Findings) -> Result<Names> {
        let known: HashSet<&str> =
            [&KINDS[..], &SETS, &SINGLE_SETS, &OTHERS, &["deads"]].concat().into_iter().collect();
        let (mut scan, mut kept) = (Scan::new(self.connection.keys.all()), Names::new());
        while !scan.is_over() {
            let (mut page, mut indexes) = (Names::new(), Vec::new());
            for key in self.next_page(&mut scan).await? {
                let name = key.strip_prefix(self.connection.keys.prefix()).unwrap_or(&key);
                let (kind, name) = name.split_once(':').unwrap_or((name, ""));
                if let Some(label) = name.strip_prefix("label:").filter(|_| kind == "meta") {
                    indexes.push(label.to_owned());
                } else if let Some(tenant) = name.strip_prefix("labels:").filter(|_| kind == "meta") {
                    kept.entry(LABELS_OF_JOBS.into()).or_default().insert(tenant.into());
                } else if let Some(tenant) = tenant_with_blobs(name).filter(|_| kind == "meta") {
                    kept.entry(TENANTS_WITH_BLOBS.into()).or_default().insert(tenant.into());
                } else if let Some(tenant) = name.strip_prefix("schedules_v1:").filter(|_| kind == "meta") {
                    kept.entry(SCHEDULES.into()).or_default().insert(tenant.into());
                } else if let Some((kind, name)) = part_of_schedule(name).filter(|_| kind == "meta") {
                    page.entry(kind.into()).or_default().insert(name.into());
                } else if known.contains(kind) {
                    page.entry(kind.into()).or_default().insert(name.into());
                } else {
                    found.add("key that nothing owns".into(), key, false);
                }
            }
            self.look_at_names(fix, &page, found).await?;
            for label in indexes {
                self.look_at_set(fix, "meta:label", &label, found).await?;
            }
            for (kind, names) in page.into_iter().filter(|(kind, _)| KEPT.contains(&kind.as_str())) {
                kept.entry(kind).or_default().extend(names);
            }
        }
        Ok(kept)
    }

    /// Keys that are looked at by name, some calls at once: one is on its way while the server is busy with another.
    async fn look_at_names(&self, fix: bool, page: &Names, found: &mut Findings) -> Result<()> {
        let names = |kind| page.get(kind).into_iter().flatten().cloned().collect::<Vec<String>>();
        let pieces: Vec<(String, Vec<String>)> = KINDS
            .into_iter()
            .flat_map(|kind| {
                names(kind).chunks(PIECE).map(|piece| (kind.to_owned(), piece.to_vec())).collect::<Vec<_>>()
            })
            .collect();
        let calls = stream::iter(pieces).map(async |(kind, piece)| self.call_audit(fix, &kind, piece).await);
        let mut calls = std::pin::pin!(calls.buffered(AT_ONCE));
        while let Some((_, some)) = calls.try_next().await? {
            found.add_all(some);
        }
        let unknown = std::mem::take(&mut found.unknown_labels);
        let mut left = &unknown[..];
        while !left.is_empty() {
            let (looked_at, some) = self.unknown_labels(&left[..left.len().min(PIECE)]).await?;
            left = &left[looked_at..];
            for (member, labels) in some {
                let fixed = fix && self.add_labels("complete", vec![(member.clone(), labels)]).await?;
                found.add("job that is not found by its label".into(), member, fixed);
            }
        }
        Ok(())
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

    /// A hash of a tenant, piece by piece.
    async fn look_at_pieces(&self, fix: bool, what: &str, tenant: &str, found: &mut Findings) -> Result<()> {
        let mut cursor = 0;
        while cursor >= 0 {
            let args = vec![tenant.to_owned(), cursor.to_string(), LARGE_PIECE.to_string()];
            cursor = self.look_at(fix, what, args, found).await?;
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
