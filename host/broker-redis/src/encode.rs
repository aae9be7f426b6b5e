//! Arguments of functions, as bytes. The formats are those of the `struct` strings in `library/`: little endian, texts
//! behind their length. JSON texts are kept byte for byte.

use std::collections::{HashMap, HashSet};

use umbel_broker::{
    Claim, ClaimQueues, Error, Label, LimitedTenants, Limits, MAX_LIMITED_TENANTS, MAX_USAGE_SUM, NewJob, Renewal,
    Result, Settle, Start,
    rules::history::{as_list, more},
};
use umbel_model::{AttemptRecord, Resolution, Token, Usage};

use crate::{
    blobs::settled_blobs,
    broker_options::broker_options,
    bytes::{FLAG_MORE, FLAG_SPEC_APART, Packed, SPEC_INLINE_BYTES, json, start_of},
    growth::growth,
    keys::member,
};

/// Labels of a job by which it is found: more than one may have.
const MAX_LABELS: usize = 1_000;

/// A longer history is kept apart, too; with room for what stands in front of an attempt.
const HISTORY_INLINE_BYTES: usize = 2000;
/// Stands for the usage of a settle that records no attempt.
const NO_ATTEMPT: u8 = 255;

/// Groups, numbers and pieces, for `submit.lua`.
pub(crate) fn new_jobs(jobs: &[NewJob]) -> Result<Vec<Vec<u8>>> {
    let (mut groups, mut numbers) = (HashMap::new(), Vec::with_capacity(2 * jobs.len()));
    let mut args = vec![Vec::new(); 2];
    let mut known = HashSet::with_capacity(jobs.len());
    for job in jobs {
        // One that comes twice is found out where jobs are stored one by one.
        let details = details(job, !known.insert((&job.tenant, job.id)))?;
        let group = group(job, details.is_some())?;
        let next = groups.len() as u16;
        let number = *groups.entry(group).or_insert_with_key(|group| {
            args[0].extend_from_slice(group);
            next
        });
        numbers.extend_from_slice(&number.to_le_bytes());
        args.extend([job.id.to_string().into_bytes(), second_piece(job)]);
        args.extend(details);
    }
    args[1] = numbers;
    Ok(args)
}

fn is_apart(job: &NewJob) -> bool {
    job.spec.len() > SPEC_INLINE_BYTES
}

/// As `GROUP` in `submit.lua`. The record begins as a job that is ready.
fn group(job: &NewJob, has_details: bool) -> Result<Vec<u8>> {
    let options = job.broker_options.as_ref().map(|options| broker_options(options)).transpose()?.unwrap_or_default();
    let flags = if is_apart(job) { FLAG_SPEC_APART } else { 0 } | if options.is_empty() { 0 } else { FLAG_MORE };
    let limits = job.broker_options.as_ref().and_then(|options| options.limits.as_ref());
    let bits = u8::from(has_details) | if limits.is_some() { 2 } else { 0 };
    let names = Packed::default().u8(bits).name(job.tenant.as_str()).name(job.queue.as_str()).name(job.task.as_str());
    let names = names.name(limits.and_then(|limits| limits.key.as_deref()).unwrap_or_default());
    let head = names.u8(1).u8(1).u8(flags).u8(job.priority.min(9));
    let head = head.u32(0).u32(0).u32(job.max_deliveries).u16(options.len() as u16).raw(&options);
    Ok(head.short(&hashes(&job.labels)).done())
}

/// As `labels.lua` keeps the labels of a job.
pub(crate) fn hashes(labels: &[Label]) -> String {
    labels[..labels.len().min(MAX_LABELS)].iter().map(Label::hash).collect()
}

/// A record from the last byte of its score on, which is the priority.
fn second_piece(job: &NewJob) -> Vec<u8> {
    let (queue, task) = (job.queue.as_str(), job.task.as_str());
    let spec = if is_apart(job) { "" } else { job.spec.as_str() };
    let fixed = queue.len() + task.len() + spec.len() + 2;
    let packed = Packed::with_room(fixed + 43).u8(9 - job.priority.min(9)).raw(&[0; 7]);
    let packed = packed.ms(job.result_ttl_ms).ms(job.dead_ttl_ms).raw(&[0; 2]);
    packed.u32(fixed as u32).name(queue).name(task).raw(spec.as_bytes()).raw(&[0; 17]).done()
}

/// As `DETAILS` in `submit.lua`; nothing for a job that is merely ready at once.
fn details(job: &NewJob, is_second: bool) -> Result<Option<Vec<u8>>> {
    let is_unique = job.broker_options.as_ref().is_some_and(|options| options.unique.is_some());
    let is_plain = job.start == Start::Now && job.expires_ms == 0 && job.expires_at.is_none() && !is_apart(job);
    let refers = !job.blobs.is_empty();
    if is_plain && !is_unique && !is_second && !refers && job.idempotency.is_none() && job.redrive_of.is_none() {
        return Ok(None);
    }
    let (start, start_ms) = start_of(job.start);
    let packed = Packed::default().u8(start).ms(start_ms).ms(job.expires_ms);
    let packed = packed.ms(job.expires_at.map_or(0, |at| at.max(1)));
    let packed = packed.text(if is_apart(job) { &job.spec } else { "" });
    let packed = packed.idempotency(job.idempotency.as_ref())?;
    let packed = packed.name(&job.redrive_of.map(|id| id.to_string()).unwrap_or_default());
    Ok(Some(packed.digests(&job.blobs)?.done()))
}

/// For `claim.lua`. `hears`: whether the worker hears what is published for it.
pub(crate) fn claim(claim: &Claim, max: u32, hears: bool) -> Result<Vec<u8>> {
    // Better refused before than found out after the jobs were taken.
    Token::new(format!("{}-{max}", claim.token_seed))
        .map_err(|_| Error::Failed("the token seed of a claim is too long".into()))?;
    let (asks_all, names) = match &claim.queues {
        ClaimQueues::Named(names) => (false, names),
        ClaimQueues::AllBut(names) => (true, names),
    };
    let names = &names[..names.len().min(usize::from(u16::MAX))];
    let mut packed =
        Packed::default().name(claim.worker.as_str()).name(claim.token_seed.as_str()).ms(claim.lease_ms).u32(max);
    packed = packed.u32(claim.in_row).u8(u8::from(hears));
    packed = packed.u8(u8::from(asks_all)).u16(names.len() as u16);
    for name in names {
        packed = packed.name(name.as_str());
    }
    let LimitedTenants { tenants, max } = &claim.limited;
    let tenants = &tenants[..tenants.len().min(MAX_LIMITED_TENANTS)];
    packed = packed.u32(*max).u8(tenants.len() as u8);
    for tenant in tenants {
        packed = packed.name(tenant.as_str());
    }
    Ok(packed.done())
}

/// Kinds, arguments and usage, for `settle.lua`.
pub(crate) fn settles(settles: &[Settle], limits: &Limits) -> Result<Vec<Vec<u8>>> {
    let mut args = vec![Vec::with_capacity(settles.len())];
    for settle in settles {
        let entry = settle.record.as_ref().map(attempt).transpose()?.unwrap_or_default();
        let blobs = settled_blobs(settle, limits)?;
        let is_bare = settle.progress.is_none() && settle.growth.is_none() && settle.logs.is_empty() && blobs.is_none();
        match &settle.resolution {
            Resolution::Succeed { result } if is_bare && entry.len() < HISTORY_INLINE_BYTES => {
                args[0].push(b's');
                let member = member(&settle.tenant, settle.id).into_bytes();
                let ending = Packed::default().text(result.as_ref().map_or("", |r| r.get())).raw(&[0; 8]);
                let ending = match entry.len() as u32 {
                    0 => ending.raw(&[0; 5]),
                    length => ending.u8(1).u32(length + 4).text(&entry).raw(used(settle).as_bytes()).u8(b'\n'),
                };
                args.extend([member, settle.token.as_str().as_bytes().to_vec(), ending.done()]);
            }
            _ => {
                args[0].push(if blobs.is_some() { b'b' } else { b'o' });
                args.extend(blobs);
                args.push(any_settle(settle, &entry)?);
            }
        }
    }
    args.push(usage(settles, limits.max_usage_tasks));
    Ok(args)
}

/// The rest of the usage of an attempt, as its history has it.
fn used(settle: &Settle) -> String {
    settle.record.as_ref().map(|record| more(&record.usage)).unwrap_or_default()
}

/// As `usage.give()` in `usage.lua` reads it.
fn usage(settles: &[Settle], max_usage_tasks: u64) -> Vec<u8> {
    let mut packed = Packed::default().u32(u32::try_from(max_usage_tasks).unwrap_or(u32::MAX));
    for settle in settles {
        let Some(Usage { fuel, duration_us, cpu_us, memory_kib_ms, http_requests, .. }) = record_usage(settle) else {
            packed = packed.u8(NO_ATTEMPT);
            continue;
        };
        let used = record_usage(settle).unwrap_or_default();
        let more = [used.http_bytes_out, used.http_bytes_in, used.kv_operations];
        let blobs = [used.blob_bytes_read, used.blob_bytes_written];
        let numbers = [duration_us, fuel, cpu_us, memory_kib_ms, http_requests].into_iter().chain(more).chain(blobs);
        let numbers: Vec<u64> = numbers.collect();
        let count = numbers.iter().rposition(|number| *number > 0).map_or(0, |last| last + 1);
        packed = packed.u8(count as u8);
        for number in &numbers[..count] {
            packed = packed.raw(&(*number).min(MAX_USAGE_SUM).to_le_bytes()[..7]);
        }
    }
    packed.done()
}

fn record_usage(settle: &Settle) -> Option<Usage> {
    settle.record.as_ref().map(|record| record.usage)
}

/// As `FORMAT` in `settle.lua`.
fn any_settle(settle: &Settle, entry: &str) -> Result<Vec<u8>> {
    let (code, delay_ms, payload) = match &settle.resolution {
        Resolution::Succeed { result } => (0, 0, result.as_ref().map(|r| r.get().to_owned()).unwrap_or_default()),
        Resolution::Fail { failure } => (1, 0, json(failure)?),
        Resolution::Retry { delay_ms, failure } => (2, *delay_ms, json(failure)?),
        Resolution::Snooze { delay_ms } => (3, *delay_ms, String::new()),
        Resolution::Revoke => (4, 0, String::new()),
        Resolution::Release => (5, 0, String::new()),
        Resolution::Replace { workflow } => (6, 0, workflow.to_string()),
    };
    let packed = Packed::default()
        .name(&member(&settle.tenant, settle.id))
        .name(settle.token.as_str())
        .u8(code)
        .ms(delay_ms)
        .text(&payload)
        .text(entry)
        .name(&used(settle))
        .text(&settle.progress.as_ref().map(json).transpose()?.unwrap_or_default())
        .long(&growth(settle)?);
    Ok(packed.logs(&settle.logs)?.done())
}

/// For `renew.lua`.
pub(crate) fn renewal(renewal: &Renewal) -> Result<Vec<u8>> {
    let packed = Packed::default()
        .name(&member(&renewal.tenant, renewal.id))
        .name(renewal.token.as_str())
        .text(&renewal.progress.as_ref().map(json).transpose()?.unwrap_or_default());
    Ok(packed.logs(&renewal.logs)?.done())
}

fn attempt(a: &AttemptRecord) -> Result<String> {
    json(&as_list(a))
}
