//! What the scheduler alone can show.

use std::{collections::HashMap, convert::Infallible};

use umbel_model::{QueueName, Rate, TaskName, TenantId, Token, WorkerId, rate::Used};

use super::{claim::Looks, *};
use crate::{Claim, ClaimQueues, ControlPatch, JobLimits, LimitedTenants, Limits, Scope};

/// Jobs by number: their task and limits follow from it.
#[derive(Default)]
struct Jobs {
    looked: u64,
    rates: HashMap<LimitName, Used>,
}

fn task(n: u64) -> TaskName {
    TaskName::new(["a", "b", "c"][n as usize % 3]).unwrap()
}

fn sub_queue(n: u64) -> Option<SubQueueName> {
    let key = ["", "k", "l"][n as usize / 3 % 3].to_owned();
    (!n.is_multiple_of(4)).then(|| SubQueueName { task: task(n), key })
}

impl Store<u64> for Jobs {
    type Error = Infallible;

    fn look(&mut self, _: &TenantId, job: u64) -> Result<Option<bool>, Infallible> {
        self.looked = job;
        Ok((!job.is_multiple_of(17)).then(|| job.is_multiple_of(13)))
    }

    fn task(&mut self) -> Result<TaskName, Infallible> {
        Ok(task(self.looked))
    }

    fn limits(&mut self) -> Result<JobLimits, Infallible> {
        let rate = self.looked.is_multiple_of(5).then_some(Rate { count: 1, period_ms: 50, burst: 1 });
        Ok(JobLimits { rate, concurrency: 3, key: None, key_rate: rate, key_concurrency: 2 })
    }

    fn moved(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn used(&mut self, name: &LimitName) -> Result<Option<Used>, Infallible> {
        Ok(self.rates.get(name).copied())
    }

    fn set_used(&mut self, name: &LimitName, used: Used) -> Result<(), Infallible> {
        self.rates.insert(name.clone(), used);
        Ok(())
    }
}

/// All that a scheduler holds, in one order.
fn shown(scheduler: &Scheduler<u64>) -> String {
    let sorted = |mut parts: Vec<String>| {
        parts.sort();
        parts.join("\n")
    };
    let open_of = |tenant| scheduler.turns.open_of(tenant).collect::<Vec<_>>();
    let turns = scheduler.turns.waiting(None).map(|of| format!("{of:?} {:?}", open_of(&of.1)));
    let full = scheduler.full.iter().map(|of| format!("{of:?}"));
    let running = scheduler.running.iter().map(|of| format!("{of:?}"));
    let queues = scheduler.queues.iter().map(|of| format!("{} {} {:?} {:?}", of.tenant, of.queue, of.counts, of.ready));
    let mut controls = Vec::new();
    for name in ["t0", "t1"] {
        controls.push(format!("{:?}", scheduler.controls.of_tenant(&TenantId::new(name).unwrap())));
    }
    let maps = [sorted(turns.collect()), sorted(full.collect()), sorted(running.collect()), sorted(queues.collect())];
    let (rested, time) = (&scheduler.turns.rested, scheduler.turns.time);
    let open: std::collections::BTreeMap<_, _> = scheduler.open.iter().collect();
    format!("{maps:?} {controls:?} {:?} {} {rested:?} {time} {open:?}", scheduler.by_time, scheduler.seq)
}

fn claim(queues: ClaimQueues, max: u32) -> Claim {
    let (worker, token_seed) = (WorkerId::new("w").unwrap(), Token::new("t").unwrap());
    Claim { worker, queues, max, lease_ms: 1_000, token_seed, limited: LimitedTenants::default(), in_row: 1 }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// One change of any kind.
fn change(scheduler: &mut Scheduler<u64>, jobs: &mut Jobs, dice: &mut Dice, n: u64, held: &mut Vec<(QueueId, u64)>) {
    let tenant = TenantId::new(format!("t{}", dice.below(2))).unwrap();
    let queue = QueueName::new(format!("q{}", dice.below(3))).unwrap();
    let worker = WorkerId::new("w").unwrap();
    match dice.below(10) {
        0..=4 => {
            let id = scheduler.queue_id(&tenant, &queue);
            let score = scheduler.next_score(dice.below(3) as u8);
            scheduler.insert(id, sub_queue(n).as_ref(), (score, n));
        }
        5 | 6 => {
            let queues = if n.is_multiple_of(3) { ClaimQueues::AllBut(Vec::new()) } else { vec![queue].into() };
            let claim = claim(queues, 5);
            let mut looks = Looks::new(&claim);
            scheduler.now = n * 10;
            for _ in 0..5 {
                let Some(Ok(id)) = looks.next(scheduler, &worker) else { return };
                let Ok(found) = scheduler.pick(id, &worker, jobs);
                looks.looked(&tenant, found.map(|_| id));
                if found == Some(false) {
                    held.push((id, jobs.looked));
                }
            }
        }
        7 => {
            if let Some((id, job)) = held.pop() {
                scheduler.release_capacity(id, sub_queue(job).as_ref());
            }
        }
        8 => {
            scheduler.now = n * 10;
            scheduler.open_rates(2);
        }
        _ => {
            let scope = [Scope::Tenant, Scope::Queue(queue), Scope::Task(task(n))][dice.below(3) as usize].clone();
            let patch = ControlPatch {
                paused: Some(dice.below(3) == 0),
                concurrency: Some(dice.below(4) as u32),
                ..ControlPatch::default()
            };
            scheduler.set_control(&tenant, &scope, &patch, &Limits { max_documents: 2, ..Limits::default() });
        }
    }
}

#[test]
fn what_is_undone_leaves_no_trace() {
    for seed in 1..200 {
        let (mut scheduler, mut jobs, mut dice) = (Scheduler::default(), Jobs::default(), Dice(seed * 7_919));
        let mut held = Vec::new();
        for n in 0..120 {
            let before = (shown(&scheduler), held.clone());
            for step in 0..dice.below(6) {
                change(&mut scheduler, &mut jobs, &mut dice, n * 6 + step, &mut held);
            }
            if dice.below(2) == 0 {
                scheduler.undo();
                held = before.1;
                assert_eq!(shown(&scheduler), before.0, "seed {seed}, step {n}");
            } else {
                scheduler.keep();
            }
        }
    }
}

#[test]
fn a_tenant_that_floods_a_queue_does_not_hold_up_another() {
    let mut scheduler = Scheduler::default();
    let (queue, worker) = (QueueName::default(), WorkerId::new("w").unwrap());
    let mut jobs = Jobs::default();
    for (tenant, numbers) in [("flood", 100..120), ("other", 201..204)] {
        let id = scheduler.queue_id(&TenantId::new(tenant).unwrap(), &queue);
        for n in numbers.filter(|n| *n % 17 != 0) {
            let score = scheduler.next_score(5);
            scheduler.insert(id, None, (score, n));
        }
    }
    let mut order = Vec::new();
    let claim = claim(vec![queue].into(), 20);
    let mut looks = Looks::new(&claim);
    while let Some(Ok(id)) = looks.next(&scheduler, &worker) {
        let Ok(_) = scheduler.pick(id, &worker, &mut jobs);
        order.push(jobs.looked);
    }
    assert_eq!(order[..6], [100, 201, 101, 202, 103, 203]);
}

#[test]
fn a_claim_takes_several_jobs_of_a_queue_at_once_and_as_many_of_each_in_the_long_run() {
    let mut scheduler = Scheduler::default();
    let mut jobs = Jobs::default();
    let tenant = TenantId::new("a").unwrap();
    // Plain jobs that have not expired.
    let plain = (1..).filter(|n| n % 17 != 0 && n % 13 != 0);
    for (queue, n) in ["p", "q", "r"].into_iter().cycle().zip(plain).take(60) {
        let id = scheduler.queue_id(&tenant, &QueueName::new(queue).unwrap());
        let score = scheduler.next_score(5);
        scheduler.insert(id, None, (score, n));
    }
    let mut take = |max: u32| {
        let claim = Claim { in_row: max.div_ceil(4), ..claim(ClaimQueues::AllBut(Vec::new()), max) };
        let mut round = ClaimRound::new(&claim);
        let before: Vec<u64> = (0..3).map(|id| scheduler.counts(id).ready).collect();
        while let Ok(Some(_)) = round.take(&mut scheduler, &mut jobs) {}
        (0..3).map(|id| before[id] - scheduler.counts(id).ready).collect::<Vec<_>>()
    };
    assert_eq!(take(4), [2, 1, 1]);
    // A quarter of it from each, the one that was served least first.
    assert_eq!(take(8), [4, 2, 2]);
    assert_eq!(take(12), [3, 6, 3]);
}
