//! Connections that wait for the next request of the module that opened them.
//!
//! A key has the tenant and the module in it: what one was allowed to open serves no other.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};
use umbel_model::{
    Digest, TenantId,
    permission::{Host, Scheme},
};

use crate::http::{
    config::PoolLimits,
    connect::{Connection, Open},
};

/// Who may use a connection, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) tenant: TenantId,
    pub(crate) module: Digest,
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

struct Idle {
    open: Open,
    since: Instant,
}

pub(crate) struct Pool {
    limits: PoolLimits,
    runtime: Handle,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<Key, Vec<Idle>>,
    total: usize,
    /// A task looks at all of them from time to time; there is none while there are none.
    is_swept: bool,
}

impl Pool {
    pub(crate) fn new(limits: PoolLimits, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { limits, runtime, kept: Mutex::default() })
    }

    /// A connection for `key` whose address `passes`. HTTP/2 connections stay for others too. Those that cannot be used are
    /// closed.
    pub(crate) fn take(&self, key: &Key, passes: impl Fn(SocketAddr) -> bool) -> Option<Open> {
        let mut kept = self.lock();
        let now = Instant::now();
        loop {
            let idle = kept.by_key.get_mut(key)?.pop();
            let Some(mut idle) = idle else {
                kept.by_key.remove(key);
                return None;
            };
            kept.total -= 1;
            if self.is_over(&idle, now) || !passes(idle.open.peer) {
                continue;
            }
            let Connection::Http2(sender) = &idle.open.connection else { return Some(idle.open) };
            let open = Open { connection: Connection::Http2(sender.clone()), ..idle.open };
            idle.since = now;
            insert(&mut kept, key.clone(), idle);
            return Some(open);
        }
    }

    /// Keeps a connection for later.
    pub(crate) fn put(self: &Arc<Self>, key: Key, open: Open) {
        let idle = Idle { open, since: Instant::now() };
        let mut kept = self.lock();
        if self.limits.per_key == 0 || self.limits.total == 0 || self.is_over(&idle, idle.since) {
            return;
        }
        if kept.by_key.get(&key).is_some_and(|of_key| of_key.len() >= self.limits.per_key) {
            return;
        }
        if kept.total >= self.limits.total {
            drop_oldest(&mut kept);
        }
        insert(&mut kept, key, idle);
        if !std::mem::replace(&mut kept.is_swept, true) {
            let every = Duration::from_millis(self.limits.idle_ms.clamp(10, 2_000) / 2);
            self.runtime.spawn(sweep(Arc::downgrade(self), every));
        }
    }

    fn is_over(&self, idle: &Idle, now: Instant) -> bool {
        idle.open.connection.is_closed()
            || now - idle.since > Duration::from_millis(self.limits.idle_ms)
            || now - idle.open.born > Duration::from_millis(self.limits.age_ms)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert(kept: &mut Kept, key: Key, idle: Idle) {
    kept.by_key.entry(key).or_default().push(idle);
    kept.total += 1;
}

fn drop_oldest(kept: &mut Kept) {
    let oldest =
        kept.by_key.iter().filter_map(|(key, idle)| Some((idle.first()?.since, key))).min_by_key(|(at, _)| *at);
    let Some(key) = oldest.map(|(_, key)| key.clone()) else { return };
    if let Some(of_key) = kept.by_key.get_mut(&key) {
        of_key.remove(0);
        kept.total -= 1;
        if of_key.is_empty() {
            kept.by_key.remove(&key);
        }
    }
}

/// Closes what has waited for too long, until there is nothing.
async fn sweep(pool: Weak<Pool>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut kept = pool.lock();
        let now = Instant::now();
        for of_key in kept.by_key.values_mut() {
            of_key.retain(|idle| !pool.is_over(idle, now));
        }
        kept.by_key.retain(|_, of_key| !of_key.is_empty());
        kept.total = kept.by_key.values().map(Vec::len).sum();
        if kept.total == 0 {
            kept.is_swept = false;
            return;
        }
    }
}
