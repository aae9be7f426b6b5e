//! The faults of a chaos run: drawn from the seed, injected one after the other, each mended after a while.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, sleep_until};

use super::fleet::{Fleet, LEASE};
use crate::{draw::Draw, proxy::Way};

/// A fault, and how often it is drawn beside the others.
const WEIGHTS: &[(Fault, usize)] = &[
    (Fault::KillWorker, 6),
    (Fault::StallWorker, 4),
    (Fault::KillRedis, 3),
    (Fault::StallRedis, 1),
    (Fault::KillServer, 1),
    (Fault::Cut, 4),
    (Fault::LoseReplies, 4),
    (Fault::HalfCloseToServer, 2),
    (Fault::HalfCloseToClient, 2),
    (Fault::Delay, 3),
    (Fault::Hold, 2),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillWorker,
    /// SIGSTOP for longer than a lease, then SIGCONT.
    StallWorker,
    KillRedis,
    StallRedis,
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
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::KillWorker => "kill -9 of a worker",
            Self::StallWorker => "worker stopped past its lease",
            Self::KillRedis => "kill -9 of Redis",
            Self::StallRedis => "Redis stopped",
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
    Calm,
}

/// The faults of a seed.
#[derive(Debug)]
pub(crate) struct Faults {
    draw: Draw,
    /// The next faults; filled again when it is empty, so that each kind comes in every run.
    bag: Vec<Fault>,
    mends: Vec<(Instant, Mend)>,
    redis_is_up: bool,
    pub(crate) injected: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        let mut draw = Draw::part(seed, u64::MAX);
        let mut bag: Vec<Fault> = WEIGHTS.iter().map(|(fault, _)| *fault).collect();
        draw.shuffle(&mut bag);
        Self { draw, bag, mends: Vec::new(), redis_is_up: true, injected: BTreeMap::new() }
    }

    /// Injects faults until `end`, then mends what is broken and returns when the service answers.
    pub(crate) async fn run(&mut self, fleet: &mut Fleet, end: Instant) -> Result<()> {
        let mut next = Instant::now() + self.pause();
        while next < end {
            self.mend_until(fleet, next).await?;
            sleep_until(next).await;
            let fault = self.next_fault();
            if self.inject(fleet, fault)? {
                *self.injected.entry(fault.as_str()).or_default() += 1;
            }
            next = Instant::now() + self.pause();
        }
        self.mend_until(fleet, end + Duration::from_secs(3_600)).await?;
        for member in &mut fleet.members {
            member.check()?;
        }
        fleet.ready().await
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
                    fleet.restart_redis().await?;
                    self.redis_is_up = true;
                }
                Mend::ResumeRedis => fleet.redis().resume(),
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
    fn inject(&mut self, fleet: &mut Fleet, fault: Fault) -> Result<bool> {
        match fault {
            Fault::KillWorker | Fault::StallWorker => return self.worker(fleet, fault),
            Fault::KillRedis if self.redis_is_up => {
                fleet.redis().kill();
                self.redis_is_up = false;
                self.mend_after(100, 2_000, Mend::StartRedis);
            }
            Fault::StallRedis if self.redis_is_up => {
                fleet.redis().suspend();
                self.mend_after(500, 4_000, Mend::ResumeRedis);
            }
            Fault::KillRedis | Fault::StallRedis => return Ok(false),
            Fault::KillServer if fleet.members[0].is_up() => {
                fleet.members[0].kill()?;
                self.mend_after(100, 1_000, Mend::Start(0));
            }
            Fault::KillServer => return Ok(false),
            _ => self.network(fleet, fault),
        }
        Ok(true)
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
