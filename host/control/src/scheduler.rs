//! Fires schedules: reads those that are due, decides, and asks the broker for one step of each.
//!
//! The decisions are plain functions (`umbel_schedule::firing`). A step is done only if the schedule is as it was when it was
//! decided, and starts its job or workflow at once, so any number of processes may fire: of those that decide about one time, one
//! succeeds. Only the broker's clock counts. A schedule that cannot be read is paused with the reason, so that it stops nobody.

mod look;
mod put_off;
mod runs;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::broadcast::Receiver;
use umbel_broker::{
    Broker, DueSchedules, MAX_SCHEDULE_STEPS, ScheduleRecord, ScheduleStep, ScheduleStepped, Signal, Topic,
};
use umbel_compose::{BrokerTasks, Rules, TaskSource};
use umbel_model::{ScheduleName, TenantId, UnixMs};
use umbel_modules::ModuleStore;
use umbel_schedule::{Definition, StoredError, firing::ON_TIME_MS};

use crate::{Error, service::Service};
use look::{Look, Next, aside};
use put_off::{Asked, PutOff};

/// Schedules that are decided about in one look.
const PIECE: usize = MAX_SCHEDULE_STEPS;
/// Those of them that may start a workflow, whose nodes are stored before: they must not hold up the others.
const WORKFLOWS: usize = 4;
/// Workflows beyond them are looked at so much later, milliseconds: those behind them come to the front.
const WORKFLOW_LATER_MS: u64 = 250;
/// What is put off stays behind the others for at least so long, milliseconds.
const PUT_OFF_LATER_MS: u64 = 1_000;
/// And what only a newer release can read.
const NEWER_LATER_MS: u64 = 60_000;
/// Schedules that are read besides, because those in front are left for later and stay there.
const MAX_LEFT: usize = 800;
/// The longest time to decide about one schedule and to get ready what it starts: a job, and a workflow, whose nodes are stored.
const MAX_PLAN: Duration = Duration::from_secs(2);
const MAX_WORKFLOW_PLAN: Duration = Duration::from_secs(30);
/// Steps wait so long for others that go with them in one call.
const GATHER: Duration = Duration::from_millis(20);
/// Schedules of which runs are looked up and composed at once.
const AT_ONCE: usize = 8;
/// Steps of one schedule in a row, where more than one time is due.
const IN_A_ROW: u32 = 50;
/// Steps of all schedules in a row, about: then it is looked for others that are due.
const STEPS: usize = 500;
/// The longest pause: a hint may be lost.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// The pause after a look that changed nothing though schedules were due.
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// Definitions that are kept ready, and their bytes.
const MAX_KEPT: usize = 10_000;
const MAX_KEPT_BYTES: usize = 32 << 20;

pub(crate) struct Scheduler {
    broker: Arc<dyn Broker>,
    store: Option<ModuleStore>,
    rules: Rules,
    /// Who knows the tasks; none: the broker's documents are read at each look.
    tasks: Option<Arc<dyn TaskSource>>,
    hints: tokio::sync::Mutex<Option<Receiver<Signal>>>,
    /// Due schedules that the last look left for later.
    left: AtomicUsize,
    put_off: PutOff,
    kept: Mutex<Kept>,
}

/// Definitions by schedule, with their texts.
#[derive(Default)]
struct Kept {
    definitions: HashMap<(TenantId, ScheduleName), (String, Arc<Definition>)>,
    /// The schedules, in the order in which they came.
    order: VecDeque<(TenantId, ScheduleName)>,
    bytes: usize,
}

/// What is done about schedules that are due.
#[derive(Default)]
struct Chosen {
    looks: Vec<Look>,
    /// Those that are left, and go behind the others.
    aside: Vec<ScheduleStep>,
    /// Those that are left where they are.
    left: usize,
}

impl Service for Scheduler {
    const NAME: &'static str = "scheduler";
    const MAY_BE_BROKEN_OFF: bool = true;

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        // Before the look: what is set after it is told.
        self.listen(broker).await;
        let left = self.left.load(Ordering::Relaxed);
        let due = broker.due_schedules((PIECE + left) as u32).await?;
        if due.schedules.is_empty() {
            return Ok(pause(&due));
        }
        let pause = pause(&due);
        match self.fire(broker, due).await? {
            // Others were faster, or these are left to a newer release or for later.
            0 => Ok(pause.max(MIN_PAUSE)),
            _ => Ok(Duration::ZERO),
        }
    }

    async fn woken(&self, _: &dyn Broker) {
        let mut hints = self.hints.lock().await;
        match hints.as_mut() {
            // A hint that was missed is one, too. When nobody sends any more, the next step listens anew.
            Some(receiver) => {
                if let Err(tokio::sync::broadcast::error::RecvError::Closed) = receiver.recv().await {
                    *hints = None;
                    std::future::pending().await
                }
            }
            None => std::future::pending().await,
        }
    }
}

/// Until the next look, by the broker's clock.
fn pause(due: &DueSchedules) -> Duration {
    let until = due.next_look.map(|at| Duration::from_millis(at.saturating_sub(due.now).max(1)));
    until.map_or(MAX_PAUSE, |until| until.min(MAX_PAUSE))
}

impl Scheduler {
    pub(crate) fn new(
        broker: Arc<dyn Broker>,
        store: Option<ModuleStore>,
        rules: Rules,
        tasks: Option<Arc<dyn TaskSource>>,
    ) -> Self {
        let (hints, left) = (Default::default(), AtomicUsize::new(0));
        Self { broker, store, rules, tasks, hints, left, put_off: PutOff::default(), kept: Mutex::default() }
    }

    async fn listen(&self, broker: &dyn Broker) {
        let mut hints = self.hints.lock().await;
        if let Some(receiver) = hints.as_mut() {
            // Those before this look are answered by it.
            *receiver = receiver.resubscribe();
            return;
        }
        match broker.signals(Topic::Schedules).await {
            Ok(receiver) => *hints = Some(receiver),
            // It is polled meanwhile.
            Err(error) => tracing::debug!(%error, "hints of schedules cannot be heard"),
        }
    }

    /// Fires what is due; answers how many steps were done.
    async fn fire(&self, broker: &dyn Broker, due: DueSchedules) -> Result<usize, Error> {
        let fresh = BrokerTasks::new(self.broker.clone());
        let tasks = self.tasks.as_deref().unwrap_or(&fresh);
        let Chosen { looks: mut pending, aside, left } = self.chosen(due);
        let mut moved = 0;
        for steps in aside.chunks(MAX_SCHEDULE_STEPS) {
            moved += self.put_off.moved(steps, &Asked(broker)).await?;
        }
        self.left.store((left + aside.len() - moved).min(MAX_LEFT), Ordering::Relaxed);
        let mut done = 0;
        for round in 0..IN_A_ROW {
            if pending.is_empty() || (round > 0 && done >= STEPS) {
                break;
            }
            let plans = stream::iter(pending).map(|look| self.planned(broker, tasks, look, round == 0));
            let mut plans = std::pin::pin!(plans.buffer_unordered(AT_ONCE));
            let mut more = Vec::new();
            // One that takes long does not hold up the steps of those that are ready.
            while let Some(first) = plans.next().await {
                let others = plans.by_ref().take_until(tokio::time::sleep(GATHER)).collect::<Vec<_>>().await;
                let looks = std::iter::once(first).chain(others).flatten().collect();
                done += self.stepped(broker, looks, &mut more).await?;
            }
            pending = more;
        }
        Ok(done + moved)
    }

    /// Asks for the steps of schedules; answers how many were done. Those of which more is to be done are added to `more`.
    async fn stepped(&self, broker: &dyn Broker, mut looks: Vec<Look>, more: &mut Vec<Look>) -> Result<usize, Error> {
        let steps: Vec<_> = looks.iter_mut().filter_map(Look::take_step).collect();
        let answers = self.put_off.answers(&steps, &Asked(broker)).await?;
        let is_done = |answer: &&Option<ScheduleStepped>| matches!(answer, Some(ScheduleStepped::Done { .. }));
        let done = answers.iter().filter(is_done).count();
        let answered = looks.into_iter().zip(answers).filter_map(|(look, answer)| Some((look, answer?)));
        more.extend(answered.filter_map(|(look, answer)| match look.answered(answer) {
            Next::Again(look) => Some(*look),
            Next::Enough => None,
        }));
        Ok(done)
    }

    /// The schedules of this look, earliest first, workflows behind the others. What is left for later is moved behind those that
    /// are due, or it would hide them.
    fn chosen(&self, due: DueSchedules) -> Chosen {
        let now = due.now;
        let hides = due.next_look.is_some_and(|next| next <= now);
        let (mut chosen, mut workflows) = (Chosen::default(), Vec::new());
        for record in due.schedules {
            if let Some(off) = self.put_off.off(&record, now) {
                match off.stays {
                    true => chosen.left += 1,
                    false => chosen.aside.push(aside(&record, now, off.until.max(now + PUT_OFF_LATER_MS))),
                }
                continue;
            }
            match self.look(record, now) {
                Ok(look) if look.may_start_workflow() => workflows.push(look),
                Ok(look) if chosen.looks.len() < PIECE - WORKFLOWS => chosen.looks.push(look),
                Ok(_) => {}
                // A newer release that runs besides fires it in time, unless it hides others.
                Err(newer) if hides || newer.look_at.is_none_or(|at| at + ON_TIME_MS < now) => {
                    chosen.aside.push(aside(&newer, now, now + NEWER_LATER_MS));
                }
                Err(_) => chosen.left += 1,
            }
        }
        in_turns(&mut workflows);
        for look in workflows.split_off(workflows.len().min(WORKFLOWS)) {
            match hides {
                true => chosen.aside.push(aside(look.record(), now, now + WORKFLOW_LATER_MS)),
                false => chosen.left += 1,
            }
        }
        chosen.looks.append(&mut workflows);
        chosen
    }

    /// The schedule with what is to be done with it; none if that fails or takes too long, and it is put off. What panics is a bug,
    /// and pauses the schedule.
    async fn planned(&self, broker: &dyn Broker, tasks: &dyn TaskSource, look: Look, is_first: bool) -> Option<Look> {
        let before = look.clone();
        let limit = if look.may_start_workflow() { MAX_WORKFLOW_PLAN } else { MAX_PLAN };
        let plan = AssertUnwindSafe(async {
            let cx = runs::Context { broker, tasks, rules: &self.rules, store: self.store.as_ref() };
            let mut look = look;
            look.plan(&cx, is_first).await.map(|()| look)
        });
        let error: Box<dyn std::fmt::Display + Send> = match tokio::time::timeout(limit, plan.catch_unwind()).await {
            Ok(Ok(Ok(look))) => return Some(look),
            Ok(Ok(Err(error))) => Box::new(error),
            Err(elapsed) => Box::new(elapsed),
            Ok(Err(_)) => {
                let mut look = before;
                look.plan_failed();
                return Some(look);
            }
        };
        let ScheduleRecord { tenant, name, .. } = before.record();
        self.put_off.put_off(tenant, name, before.now(), "what it starts cannot be got ready", &error);
        None
    }

    /// A due schedule as it is read; the record alone of one that a newer release has stored.
    fn look(&self, mut record: ScheduleRecord, now: UnixMs) -> Result<Look, Box<ScheduleRecord>> {
        let definition = self.definition(&record);
        // It may be long, and is not needed any more.
        record.definition = String::new();
        match definition {
            Ok(definition) => Ok(Look::new(record, Ok(definition), now)),
            Err(StoredError::Newer) => Err(Box::new(record)),
            Err(StoredError::Damaged(error)) => Ok(Look::new(record, Err(error), now)),
        }
    }

    fn definition(&self, record: &ScheduleRecord) -> Result<Arc<Definition>, StoredError> {
        let key = (record.tenant.clone(), record.name.clone());
        if let Some((text, definition)) = self.kept().definitions.get(&key)
            && *text == record.definition
        {
            return Ok(definition.clone());
        }
        let parse = || Definition::stored(&record.definition);
        let definition = std::panic::catch_unwind(parse);
        let definition = definition.unwrap_or_else(|_| Err(StoredError::Damaged("reading it failed".to_owned())));
        let definition = Arc::new(definition?);
        self.kept().insert(key, record.definition.clone(), definition.clone());
        Ok(definition)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets tenants take turns: first the earliest of each, then the second ones.
fn in_turns(looks: &mut Vec<Look>) {
    let mut turns: HashMap<TenantId, usize> = HashMap::new();
    let turn = |look: Look| {
        let turn = turns.entry(look.record().tenant.clone()).or_default();
        *turn += 1;
        (*turn, look)
    };
    let mut turned: Vec<_> = std::mem::take(looks).into_iter().map(turn).collect();
    turned.sort_by_key(|(turn, _)| *turn);
    looks.extend(turned.into_iter().map(|(_, look)| look));
}

impl Kept {
    /// Those that came first make room.
    fn insert(&mut self, key: (TenantId, ScheduleName), text: String, definition: Arc<Definition>) {
        self.bytes += text.len();
        match self.definitions.insert(key.clone(), (text, definition)) {
            Some((old, _)) => self.bytes -= old.len(),
            None => self.order.push_back(key),
        }
        while self.order.len() > MAX_KEPT || self.bytes > MAX_KEPT_BYTES {
            let Some(first) = self.order.pop_front() else { break };
            self.bytes -= self.definitions.remove(&first).map_or(0, |(text, _)| text.len());
        }
    }
}
