//! Schedules: see `library/schedules.lua`.

use std::{fmt::Display, str::FromStr};

use async_trait::async_trait;
use umbel_broker::{
    DueSchedules, Error, Fire, MAX_FIRES, NewRun, PAGE_SCAN, Result, ScheduleChange, SchedulePage, ScheduleQuery,
    ScheduleRecord, ScheduleStep, ScheduleStepped, Schedules, rules::schedules,
};
use umbel_model::{ScheduleName, TenantId, UnixMs};

use crate::{
    RedisBroker,
    answers::Answer,
    args,
    bytes::{corrupt, some},
    connection::Repeat,
    encode,
    jobs::submitted,
    keys::member,
    unknown_code,
    workflows::workflow_submitted,
};

/// Steps of one call: it stops everybody else while it runs, and these take about two milliseconds.
const PIECE: usize = 25;

#[async_trait]
impl Schedules for RedisBroker {
    async fn schedule_steps(&self, steps: &[ScheduleStep]) -> Result<Vec<ScheduleStepped>> {
        let mut answers = Vec::with_capacity(steps.len());
        let mut left = steps;
        while !left.is_empty() {
            let (piece, rest) = left.split_at(piece_of(left));
            left = rest;
            // The function is not told of those that are too large.
            let mut stepped: Vec<_> = piece.iter().map(schedules::too_large).collect();
            let asked: Vec<&ScheduleStep> =
                piece.iter().zip(&stepped).filter(|(_, refusal)| refusal.is_none()).map(|(step, _)| step).collect();
            let mut done = self.ask_for_steps(&asked).await?.into_iter();
            for slot in stepped.iter_mut().filter(|slot| slot.is_none()) {
                *slot = done.next();
            }
            answers.extend(stepped.into_iter().flatten());
        }
        Ok(answers)
    }

    async fn schedule(&self, tenant: &TenantId, name: &ScheduleName) -> Result<Option<ScheduleRecord>> {
        let mut answer = self.answer("schedule", args([tenant, name]), Repeat::Safe).await?;
        if answer.done() {
            Ok(None)
        } else {
            let name = answer.parsed()?;
            record(tenant.clone(), name, &mut answer).map(Some)
        }
    }

    async fn schedules(&self, query: &ScheduleQuery) -> Result<SchedulePage> {
        let ScheduleQuery { tenant, prefix, after, max } = query;
        let mut from = if prefix.is_empty() { "-".to_owned() } else { format!("[{prefix}") };
        if let Some(after) = after.as_ref().map(ScheduleName::as_str).filter(|after| *after >= prefix.as_str()) {
            from = format!("({after}");
        }
        // No text has this byte, so it is behind all that begin with the prefix.
        let to = if prefix.is_empty() { b"+".to_vec() } else { [b"(", prefix.as_bytes(), b"\xff"].concat() };
        let mut args = args([tenant, &from]);
        args.extend([to, max.max(&1).to_string().into_bytes()]);
        let mut answer = self.answer("schedules", args, Repeat::Safe).await?;
        let next = answer.bytes()?;
        let schedules = answer.rest(|answer| {
            let mut one = Answer::new(answer.next()?)?;
            let name = one.bytes()?;
            Ok(readable(tenant.as_str().as_bytes(), &name, &mut one))
        })?;
        let schedules: Vec<ScheduleRecord> = schedules.into_iter().flatten().collect();
        // The last one may be damaged: those behind it are not hidden.
        let next = (!next.is_empty()).then(|| parsed(&next).ok().or_else(|| Some(schedules.last()?.name.clone())));
        Ok(SchedulePage { schedules, next: next.flatten() })
    }

    async fn due_schedules(&self, max: u32) -> Result<DueSchedules> {
        let mut answer = self.answer("due_schedules", args([&max.min(PAGE_SCAN)]), Repeat::Safe).await?;
        let now = answer.parsed()?;
        let next_look = time(&answer.text()?)?;
        let schedules = answer.rest(|answer| {
            let mut one = Answer::new(answer.next()?)?;
            let (tenant, name) = (one.bytes()?, one.bytes()?);
            Ok(readable(&tenant, &name, &mut one))
        })?;
        Ok(DueSchedules { schedules: schedules.into_iter().flatten().collect(), now, next_look })
    }

    async fn fires(&self, tenant: &TenantId, name: &ScheduleName, before: Option<u64>, max: u32) -> Result<Vec<Fire>> {
        let before = before.map_or(String::new(), |before| before.to_string());
        let args = args([tenant, name, &before, &max.min(MAX_FIRES as u32)]);
        let mut answer = self.answer("fires", args, Repeat::Safe).await?;
        let last = answer.number()? as u64;
        let texts = answer.rest(Answer::text)?;
        let numbered = texts.into_iter().rev().zip((0..=last).rev());
        Ok(numbered.map(|(text, number)| Fire { number, text }).collect())
    }
}

impl RedisBroker {
    async fn ask_for_steps(&self, steps: &[&ScheduleStep]) -> Result<Vec<ScheduleStepped>> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let jobs = steps.iter().filter(|step| matches!(step.start, Some(NewRun::Job(_)))).count();
        let mut arguments = args([&self.limits.max_schedules]);
        arguments.extend(self.submit_limits()?);
        arguments.extend(args([&jobs]));
        for step in steps {
            encode_step(step, &mut arguments)?;
        }
        let only_deletes = steps.iter().all(|step| step.change == ScheduleChange::Delete && step.start.is_none());
        let function = if only_deletes { "delete_schedules" } else { "schedule_steps" };
        // One that was done is stale when it is repeated; but one that makes a schedule would make it again if it was deleted since.
        let repeat = if steps.iter().any(|step| step.revision == 0) { Repeat::OnlyUnsent } else { Repeat::Safe };
        self.answer(function, arguments, repeat).await?.rest(stepped)
    }
}

/// How many steps the next call takes. One that starts a workflow has a call of its own: it readies its nodes.
fn piece_of(steps: &[ScheduleStep]) -> usize {
    let starts_workflow = |step: &ScheduleStep| matches!(step.start, Some(NewRun::Workflow(_)));
    let plain = steps.iter().take(PIECE).take_while(|step| !starts_workflow(step)).count();
    plain.max(1)
}

fn encode_step(step: &ScheduleStep, arguments: &mut Vec<Vec<u8>>) -> Result<()> {
    let (kind, definition, state, look_at) = match &step.change {
        ScheduleChange::Put { definition, state, look_at } => {
            let kind = if definition.is_some() { 'n' } else { 'p' };
            (kind, definition.as_deref().unwrap_or_default(), state.as_str(), schedules::look_at(*look_at))
        }
        ScheduleChange::Delete => ('d', "", "", None),
    };
    let (starts, of_start) = match &step.start {
        None => ("", Vec::new()),
        Some(NewRun::Workflow(id)) => ("w", args([&member(&step.tenant, *id)])),
        Some(NewRun::Job(job)) => {
            let mut packed = encode::new_jobs(std::slice::from_ref(&**job))?;
            // They are all of the one group.
            packed.remove(1);
            packed.resize(4, Vec::new());
            ("j", packed)
        }
    };
    let look_at = look_at.map_or(String::new(), |at| at.to_string());
    arguments.extend(args([&step.tenant, &step.name, &step.revision, &step.not_before, &kind]));
    arguments.extend(args([&definition, &state, &look_at, &step.fires.len(), &starts]));
    arguments.extend(step.fires.iter().map(|text| text.clone().into_bytes()));
    arguments.extend(of_start);
    Ok(())
}

/// The answer to one step.
fn stepped(answer: &mut Answer) -> Result<ScheduleStepped> {
    let (code, number, text) = (answer.bytes()?, answer.number()?, answer.text()?);
    let number = u64::try_from(number).map_err(corrupt)?;
    Ok(match code.as_slice() {
        b"S" => ScheduleStepped::Done { version: number, revision: text.parse().map_err(corrupt)? },
        b"L" => ScheduleStepped::Stale { revision: number },
        b"T" => ScheduleStepped::TooEarly { now: number },
        b"M" => ScheduleStepped::TooMany(number),
        b"F" => ScheduleStepped::StorageFull,
        b"J" => {
            let (code, other) = text.split_at_checked(1).ok_or_else(unknown_code)?;
            ScheduleStepped::NotStarted(submitted(code.as_bytes()[0], || Ok(other.to_owned()))?)
        }
        b"W" => ScheduleStepped::NotStartedWorkflow(workflow_submitted(&text)?),
        _ => return Err(unknown_code()),
    })
}

/// What the function `read` says of one of several schedules. One that cannot be read is left out: it stops none of the others.
fn readable(tenant: &[u8], name: &[u8], answer: &mut Answer) -> Option<ScheduleRecord> {
    let read = parsed(tenant).and_then(|tenant| record(tenant, parsed(name)?, answer));
    let log = |error: &Error| {
        let (tenant, name) = (String::from_utf8_lossy(tenant), String::from_utf8_lossy(name));
        tracing::error!(?tenant, ?name, error = ?error.to_string(), "a schedule cannot be read and is left out");
    };
    read.inspect_err(log).ok()
}

fn parsed<T: FromStr<Err: Display>>(bytes: &[u8]) -> Result<T> {
    std::str::from_utf8(bytes).map_err(corrupt)?.parse().map_err(corrupt)
}

/// What the function `read` says of a schedule behind its name.
fn record(tenant: TenantId, name: ScheduleName, answer: &mut Answer) -> Result<ScheduleRecord> {
    Ok(ScheduleRecord {
        tenant,
        name,
        version: answer.parsed()?,
        revision: answer.parsed()?,
        definition: answer.text()?,
        state: answer.text()?,
        look_at: time(&answer.text()?)?,
        created_at: answer.parsed()?,
        changed_at: answer.parsed()?,
        fires: answer.parsed()?,
    })
}

/// A time, or nothing.
fn time(text: &str) -> Result<Option<UnixMs>, Error> {
    some(text).map(|text| text.parse().map_err(corrupt)).transpose()
}
