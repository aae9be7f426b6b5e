//! The connections that are open, and which one gives way when there are too many.
//!
//! A stranger is a connection on which no valid token came yet. Strangers have a budget of their own, in all and for each
//! address, so that they cannot keep callers out. Within a budget that is used up, the connection that has been idle longest is
//! closed for the new one: a client sends again on another when an idle connection closes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, mpsc};

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) all: usize,
    pub(crate) strangers: usize,
    pub(crate) strangers_of_an_address: usize,
}

/// All connections of a server.
#[derive(Debug, Clone)]
pub(crate) struct Connections(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    limits: ConnectionLimits,
    entries: HashMap<u64, Entry>,
    /// Of connections, and of the times at which they fell idle.
    last_number: u64,
    /// Closed with this, when the last connection has ended.
    _ended: mpsc::Sender<()>,
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    is_stranger: bool,
    /// Rises: a lower one is idle for longer. None while a request is under way.
    idle_since: Option<u64>,
    close: Arc<Notify>,
}

impl Connections {
    /// Also what ends when all connections have ended and `self` is dropped.
    pub(crate) fn new(limits: ConnectionLimits) -> (Self, mpsc::Receiver<()>) {
        let (ended, all_ended) = mpsc::channel(1);
        let open = Open { limits, entries: HashMap::new(), last_number: 0, _ended: ended };
        (Self(Arc::new(Mutex::new(open))), all_ended)
    }

    /// Takes a new connection; none when there are too many and no idle one can give way.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Connection> {
        let mut open = self.open();
        let ConnectionLimits { all, strangers, strangers_of_an_address } = open.limits;
        open.make_room(strangers_of_an_address, |entry| entry.is_stranger && entry.address == address)?;
        open.make_room(strangers, |entry| entry.is_stranger)?;
        open.make_room(all, |_| true)?;
        let (number, close) = (open.next(), Arc::new(Notify::new()));
        let entry = Entry { address, is_stranger: true, idle_since: Some(number), close: close.clone() };
        open.entries.insert(number, entry);
        Some(Connection { number, close, open: self.clone(), is_busy: AtomicBool::new(false) })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // No panic can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn next(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Makes sure that there are fewer than `max` of the connections that `counts` picks; none when that cannot be.
    fn make_room(&mut self, max: usize, counts: impl Fn(&Entry) -> bool) -> Option<()> {
        if self.entries.values().filter(|entry| counts(entry)).count() < max {
            return Some(());
        }
        let idle = self.entries.iter().filter(|(_, entry)| counts(entry));
        let idle = idle.filter_map(|(number, entry)| Some((entry.idle_since?, *number)));
        let (_, longest) = idle.min()?;
        let entry = self.entries.remove(&longest)?;
        entry.close.notify_one();
        Some(())
    }
}

/// One connection. It is open until this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    number: u64,
    close: Arc<Notify>,
    open: Connections,
    /// A request is under way. Known here, too, because an entry that gave way is gone.
    is_busy: AtomicBool,
}

impl Connection {
    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_busy.load(Ordering::Relaxed)
    }

    /// A valid token came: it is no stranger any more.
    pub(crate) fn is_known(&self) {
        self.change(|entry| entry.is_stranger = false);
    }

    /// Ends when the connection has to give way.
    pub(crate) async fn must_close(&self) {
        self.close.notified().await;
    }

    /// A request is under way until the guard is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.is_busy.store(true, Ordering::Relaxed);
        self.change(|entry| entry.idle_since = None);
        Busy(self.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.open.open().entries.get_mut(&self.number) {
            change(entry);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.open().entries.remove(&self.number);
    }
}

/// A request under way on a connection.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Relaxed);
        let mut open = self.0.open.open();
        let now = open.next();
        if let Some(entry) = open.entries.get_mut(&self.0.number) {
            entry.idle_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn connections() -> Connections {
        Connections::new(ConnectionLimits { all: 4, strangers: 3, strangers_of_an_address: 2 }).0
    }

    fn closes(connection: &Connection) -> bool {
        connection.must_close().now_or_never().is_some()
    }

    #[test]
    fn the_stranger_of_an_address_that_is_idle_longest_gives_way() {
        let connections = connections();
        let [first, second] = [A, A].map(|address| Arc::new(connections.admit(address).unwrap()));
        drop(first.busy());
        let _third = connections.admit(A).unwrap();
        assert!(!closes(&first) && closes(&second), "the second has said nothing for longer");
        let _other = connections.admit(B).unwrap();
        assert!(!closes(&first), "another address has its own budget");
    }

    #[test]
    fn a_request_under_way_is_not_cut_off_for_a_stranger() {
        let connections = connections();
        let held = [A, A].map(|address| Arc::new(connections.admit(address).unwrap()));
        let busy = held.each_ref().map(Connection::busy);
        assert!(connections.admit(A).is_none());
        drop(busy);
        assert!(connections.admit(A).is_some());
    }

    #[test]
    fn callers_with_a_token_leave_the_budget_of_strangers() {
        let connections = connections();
        let known: Vec<_> = (0..4).map(|_| connections.admit(A).unwrap()).inspect(Connection::is_known).collect();
        assert!(!known.iter().any(closes));
        let _stranger = connections.admit(A).unwrap();
        assert_eq!(known.iter().filter(|connection| closes(connection)).count(), 1, "all places were taken");
    }

    #[tokio::test]
    async fn the_end_of_the_last_connection_is_told() {
        let (connections, mut ended) =
            Connections::new(ConnectionLimits { all: 4, strangers: 3, strangers_of_an_address: 2 });
        let last = connections.admit(A).unwrap();
        drop(connections);
        assert!(ended.recv().now_or_never().is_none());
        drop(last);
        assert_eq!(ended.recv().await, None);
    }
}
