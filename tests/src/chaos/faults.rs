//! The faults of a chaos run: drawn from the seed, injected one after the other, each mended after a while.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, sleep_until};

use super::{
    Options,
    fleet::{Fleet, LEASE, Member},
    store::Setting,
};
use crate::{draw::Draw, proxy::Way};

/// A fault, and how often it is drawn beside the others.
const WEIGHTS: &[(Fault, usize)] = &[
    (Fault::KillWorker, 6),
    (Fault::StallWorker, 4),
    (Fault::KillRedis, 3),
    (Fault::StallRedis, 1),
    (Fault::StallRedisLong, 1),
    (Fault::Promote, 2),
    (Fault::ForgetFunctions, 2),
    (Fault::NoReplicas, 1),
    (Fault::NoMemory, 1),
    (Fault::NoRights, 2),
    (Fault::KillServer, 1),
    (Fault::Cut, 4),
    (Fault::LoseReplies, 4),
    (Fault::HalfCloseToServer, 2),
    (Fault::HalfCloseToClient, 2),
    (Fault::Delay, 3),
    (Fault::Hold, 2),
];

/// How long Redis is stopped by a long stall, ms: from more than a lease to many.
const LONG_STALL_MS: (u64, u64) = (5_000, 40_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillWorker,
    /// SIGSTOP for longer than a lease, then SIGCONT.
    StallWorker,
    KillRedis,
    StallRedis,
    /// For longer than several leases.
    StallRedisLong,
    /// The replica becomes the primary; open connections stay with the old one.
    Promote,
    /// Functions and scripts are flushed.
    ForgetFunctions,
    /// Writes are refused: too few replicas, no memory, rights taken away.
    NoReplicas,
    NoMemory,
    NoRights,
    KillServer,
    /// Connections to Redis are reset.
    Cut,
    /// Redis did what was asked, and the answer is lost with its connection.
    LoseReplies,
    HalfCloseToServer,
    HalfCloseToClient,
    Delay,
    /// Nothing goes through, and nothing is closed.
    Hold,
}

impl Fault {
    fn is_of_redis(self) -> bool {
        use Fault::*;
        matches!(
            self,
            KillRedis | StallRedis | StallRedisLong | Promote | ForgetFunctions | NoReplicas | NoMemory | NoRights
        )
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::KillWorker => "kill -9 of a worker",
            Self::StallWorker => "worker stopped past its lease",
            Self::KillRedis => "kill -9 of Redis",
            Self::StallRedis => "Redis stopped",
            Self::StallRedisLong => "Redis stopped for several leases",
            Self::Promote => "replica of Redis promoted",
            Self::ForgetFunctions => "functions of Redis flushed",
            Self::NoReplicas => "Redis without enough replicas",
            Self::NoMemory => "Redis without memory",
            Self::NoRights => "rights in Redis taken away",
            Self::KillServer => "kill -9 of the server",
            Self::Cut => "connections cut",
            Self::LoseReplies => "replies of Redis lost",
            Self::HalfCloseToServer => "connections half-closed to Redis",
            Self::HalfCloseToClient => "connections half-closed to the client",
            Self::Delay => "connections delayed",
            Self::Hold => "connections held up",
        }
    }
}

/// How a fault passes.
#[derive(Debug, Clone, Copy)]
enum Mend {
    Start(usize),
    Resume(usize),
    StartRedis,
    ResumeRedis,
    Undo(Setting),
    Calm,
}

/// The faults of a seed.
#[derive(Debug)]
pub(crate) struct Faults {
    draw: Draw,
    /// The next faults; filled again when it is empty, so that each kind comes in every run.
    bag: Vec<Fault>,
    mends: Vec<(Instant, Mend)>,
    /// It answers: neither killed nor stopped.
    redis_is_up: bool,
    /// The longest that Redis is stopped, ms.
    longest_stall_ms: u64,
    pub(crate) injected: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub(crate) fn new(options: Options) -> Self {
        let mut draw = Draw::part(options.seed, u64::MAX);
        // In a short run a long stall would be most of it.
        let longest_stall_ms = (options.duration.as_millis() as u64 / 8).clamp(LONG_STALL_MS.0, LONG_STALL_MS.1);
        let mut bag: Vec<Fault> = WEIGHTS.iter().map(|(fault, _)| *fault).collect();
        draw.shuffle(&mut bag);
        Self { draw, bag, mends: Vec::new(), redis_is_up: true, longest_stall_ms, injected: BTreeMap::new() }
    }

    /// Injects faults until `end`, then mends what is broken and returns when the service answers.
    pub(crate) async fn run(&mut self, fleet: &mut Fleet, end: Instant) -> Result<()> {
        let injected = self.inject_until(fleet, end).await;
        if let Err(e) = &injected {
            eprintln!("the faults ended early: {e:#}");
        }
        // In any case: what is left broken would keep the run from its end.
        self.mend_until(fleet, end + Duration::from_secs(3_600)).await?;
        injected?;
        // One that was starting when the last fault passed may have ended since.
        fleet.members.iter_mut().try_for_each(Member::revive)?;
        if fleet.ready().await.is_err() {
            fleet.members.iter_mut().try_for_each(Member::revive)?;
            fleet.ready().await?;
        }
        fleet.members.iter_mut().try_for_each(Member::check)
    }

    async fn inject_until(&mut self, fleet: &mut Fleet, end: Instant) -> Result<()> {
        let mut next = Instant::now() + self.pause();
        while next < end {
            self.mend_until(fleet, next).await?;
            sleep_until(next).await;
            fleet.members.iter_mut().try_for_each(Member::revive)?;
            let fault = self.next_fault();
            if self.inject(fleet, fault).await? {
                *self.injected.entry(fault.as_str()).or_default() += 1;
            } else {
                // Later, when there is somebody that it can happen to.
                self.bag.insert(0, fault);
            }
            next = Instant::now() + self.pause();
        }
        Ok(())
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.draw.between(500, 3_500))
    }

    fn next_fault(&mut self) -> Fault {
        if self.bag.is_empty() {
            self.bag = WEIGHTS.iter().flat_map(|(fault, weight)| vec![*fault; *weight]).collect();
            self.draw.shuffle(&mut self.bag);
        }
        self.bag.pop().unwrap_or(Fault::Cut)
    }

    /// Mends what is to be mended by `limit`, at its time or, for a limit that is far away, at once.
    async fn mend_until(&mut self, fleet: &mut Fleet, limit: Instant) -> Result<()> {
        self.mends.sort_by_key(|(at, _)| *at);
        while let Some(&(at, mend)) = self.mends.first().filter(|(at, _)| *at <= limit) {
            self.mends.remove(0);
            sleep_until(at).await;
            match mend {
                Mend::Start(member) => fleet.members[member].start()?,
                Mend::Resume(member) => fleet.members[member].resume()?,
                Mend::StartRedis => {
                    fleet.store.restart().await?;
                    self.redis_is_up = true;
                }
                Mend::ResumeRedis => {
                    fleet.store.resume();
                    self.redis_is_up = true;
                }
                // A server that does not answer cannot be told.
                Mend::Undo(_) if !self.redis_is_up => self.mend_after(500, 500, mend),
                Mend::Undo(setting) => fleet.store.undo(setting).await?,
                Mend::Calm => fleet.members.iter().for_each(|member| member.proxy.heal()),
            }
        }
        Ok(())
    }

    fn mend_after(&mut self, first_ms: u64, last_ms: u64, mend: Mend) {
        let after = Duration::from_millis(self.draw.between(first_ms, last_ms));
        self.mends.push((Instant::now() + after, mend));
    }

    /// False when there is nothing that it could happen to.
    async fn inject(&mut self, fleet: &mut Fleet, fault: Fault) -> Result<bool> {
        match fault {
            Fault::KillWorker | Fault::StallWorker => return self.worker(fleet, fault),
            _ if fault.is_of_redis() => return self.redis(fleet, fault).await,
            Fault::KillServer if fleet.members[0].is_up() => {
                fleet.members[0].kill()?;
                self.mend_after(100, 1_000, Mend::Start(0));
            }
            Fault::KillServer => return Ok(false),
            _ => self.network(fleet, fault),
        }
        Ok(true)
    }

    async fn redis(&mut self, fleet: &mut Fleet, fault: Fault) -> Result<bool> {
        if !self.redis_is_up {
            return Ok(false);
        }
        match fault {
            Fault::KillRedis => {
                fleet.store.kill();
                self.redis_is_up = false;
                self.mend_after(100, 2_000, Mend::StartRedis);
            }
            Fault::StallRedis | Fault::StallRedisLong => {
                fleet.store.suspend();
                self.redis_is_up = false;
                let long = (LONG_STALL_MS.0, self.longest_stall_ms);
                let (first, last) = if fault == Fault::StallRedis { (500, 4_000) } else { long };
                self.mend_after(first, last, Mend::ResumeRedis);
            }
            Fault::Promote => return fleet.promote().await,
            Fault::ForgetFunctions => fleet.store.forget().await?,
            Fault::NoReplicas => self.change(fleet, Setting::Replicas).await?,
            Fault::NoMemory => self.change(fleet, Setting::Memory).await?,
            _ => {
                let drawn = self.draw.below(Setting::RIGHTS.len() as u64) as usize;
                self.change(fleet, Setting::RIGHTS[drawn]).await?;
            }
        }
        Ok(true)
    }

    async fn change(&mut self, fleet: &Fleet, setting: Setting) -> Result<()> {
        fleet.store.make(setting).await?;
        self.mend_after(1_000, 8_000, Mend::Undo(setting));
        Ok(())
    }

    fn worker(&mut self, fleet: &mut Fleet, fault: Fault) -> Result<bool> {
        let up: Vec<usize> = (1..fleet.members.len()).filter(|&i| fleet.members[i].is_up()).collect();
        let Some(&chosen) = up.get(self.draw.below(up.len() as u64) as usize) else { return Ok(false) };
        if fault == Fault::KillWorker {
            fleet.members[chosen].kill()?;
            self.mend_after(100, 2_000, Mend::Start(chosen));
        } else {
            fleet.members[chosen].stall()?;
            let lease = LEASE.as_millis() as u64;
            self.mend_after(lease + 500, 2 * lease, Mend::Resume(chosen));
        }
        Ok(true)
    }

    /// Something happens to the connections of one process, or of all.
    fn network(&mut self, fleet: &Fleet, fault: Fault) {
        let all = self.draw.below(4) == 0;
        let chosen = self.draw.below(fleet.members.len() as u64) as usize;
        let delay = Duration::from_millis(self.draw.between(5, 250));
        let (times, way) = (self.draw.between(1, 4), [Way::ToServer, Way::ToClient][self.draw.below(2) as usize]);
        for (number, member) in fleet.members.iter().enumerate() {
            if !all && number != chosen {
                continue;
            }
            let proxy = &member.proxy;
            match fault {
                Fault::LoseReplies => (0..times).for_each(|_| proxy.lose_reply()),
                Fault::HalfCloseToServer => proxy.half_close(Way::ToServer),
                Fault::HalfCloseToClient => proxy.half_close(Way::ToClient),
                Fault::Delay => proxy.delay(delay),
                Fault::Hold => proxy.hold(way, true),
                _ => proxy.cut(),
            }
        }
        if matches!(fault, Fault::LoseReplies | Fault::Delay | Fault::Hold) {
            self.mend_after(1_000, 5_000, Mend::Calm);
        }
    }
}
