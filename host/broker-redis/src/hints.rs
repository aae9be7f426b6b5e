//! Hints: one subscription per broker, started when somebody first listens, made anew for ever when it is lost. It has the
//! channels of the topics that somebody listens to, and for work those of the workers that claim through this broker.
//! After a loss every listener gets `Resync`.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use redis::{
    Msg,
    aio::{PubSub, PubSubSink, PubSubStream},
};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use umbel_broker::{Result, Signal, Topic};
use umbel_model::WorkerId;

use crate::{connection::Connection, keys::Keys};

/// Hints that a slow receiver may fall behind before it is told to look for itself.
const SIGNALS: usize = 1_024;
const PAUSE: Duration = Duration::from_millis(200);
/// A subscription is silent when there is nothing to say, and when its server is gone: asked this often which it is.
const PING_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Senders {
    work: broadcast::Sender<Signal>,
    done: broadcast::Sender<Signal>,
    cancel: broadcast::Sender<Signal>,
    schedules: broadcast::Sender<Signal>,
}

impl Senders {
    fn of(&self, topic: Topic) -> &broadcast::Sender<Signal> {
        match topic {
            Topic::Work => &self.work,
            Topic::Done => &self.done,
            Topic::Cancel => &self.cancel,
            Topic::Schedules => &self.schedules,
        }
    }

    /// No receiver is not an error: hints are for whoever listens.
    fn send(&self, topic: Topic, signal: Signal) {
        let _ = self.of(topic).send(signal);
    }
}

/// Whom a broker listens for.
#[derive(Debug, Default)]
struct Wanted {
    topics: Vec<Topic>,
    /// Workers that claim through this broker: they are told of work one by one.
    workers: BTreeSet<WorkerId>,
}

impl Wanted {
    fn channels(&self, keys: &Keys) -> BTreeSet<String> {
        let topics = self.topics.iter().map(|topic| keys.channel(*topic));
        topics.chain(self.workers.iter().map(|worker| keys.work_channel(worker))).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Signals {
    senders: Senders,
    wanted: watch::Sender<Wanted>,
    /// Channels from which hints come.
    subscribed: watch::Sender<BTreeSet<String>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Signals {
    pub(crate) fn new() -> Self {
        let sender = || broadcast::channel(SIGNALS).0;
        let senders = Senders { work: sender(), done: sender(), cancel: sender(), schedules: sender() };
        let (wanted, subscribed) = (watch::Sender::default(), watch::Sender::default());
        Self { senders, wanted, subscribed, task: Mutex::new(None) }
    }

    /// Hints from now on: the subscription has been acknowledged, or the server cannot be reached and a `Resync` will
    /// come when it is back.
    pub(crate) async fn receiver(&self, connection: &Arc<Connection>, topic: Topic) -> broadcast::Receiver<Signal> {
        let receiver = self.senders.of(topic).subscribe();
        self.wanted.send_if_modified(|wanted| {
            let is_new = !wanted.topics.contains(&topic);
            if is_new {
                wanted.topics.push(topic);
            }
            is_new
        });
        {
            let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            if task.as_ref().is_none_or(JoinHandle::is_finished) {
                let (senders, subscribed) = (self.senders.clone(), self.subscribed.clone());
                *task = Some(tokio::spawn(listen(connection.clone(), senders, self.wanted.subscribe(), subscribed)));
            }
        }
        let channel = connection.keys.channel(topic);
        let mut subscribed = self.subscribed.subscribe();
        let _ = tokio::time::timeout(connection.patience, subscribed.wait_for(|all| all.contains(&channel))).await;
        receiver
    }

    /// Whether a worker hears what is published for it. If somebody listens for work here, it soon will.
    pub(crate) fn hears(&self, connection: &Connection, worker: &WorkerId) -> bool {
        if self.subscribed.borrow().contains(&connection.keys.work_channel(worker)) {
            return true;
        }
        self.wanted
            .send_if_modified(|wanted| wanted.topics.contains(&Topic::Work) && wanted.workers.insert(worker.clone()));
        false
    }

    /// A worker ended.
    pub(crate) fn forget(&self, worker: &WorkerId) {
        self.wanted.send_if_modified(|wanted| wanted.workers.remove(worker));
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// Keeps a subscription. Aborted by the broker's drop.
async fn listen(
    connection: Arc<Connection>,
    senders: Senders,
    mut wanted: watch::Receiver<Wanted>,
    subscribed: watch::Sender<BTreeSet<String>>,
) {
    let (mut is_first, mut told) = (true, false);
    loop {
        match connect(&connection).await {
            Ok(pubsub) => {
                if told {
                    tracing::info!(address = %connection.address(), "hearing Redis again");
                }
                told = false;
                let (sink, messages) = pubsub.split();
                let mut hearing = Hearing { connection: &connection, senders: &senders, subscribed: &subscribed, sink };
                let resync = !std::mem::take(&mut is_first);
                // Until the subscription ends.
                let _ = hearing.pass_on(&mut wanted, messages, resync).await;
                subscribed.send_replace(BTreeSet::new());
            }
            Err(error) if !told => {
                tracing::warn!(address = %connection.address(), %error, "Redis cannot be heard; polling until it can");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn connect(connection: &Connection) -> Result<PubSub> {
    let connecting = async { connection.dial().subscriptions().await.map_err(|e| connection.not_connected(&e)) };
    tokio::time::timeout(connection.connect_timeout, connecting).await.map_err(|_| connection.late())?
}

/// One subscription.
struct Hearing<'a> {
    connection: &'a Connection,
    senders: &'a Senders,
    subscribed: &'a watch::Sender<BTreeSet<String>>,
    sink: PubSubSink,
}

/// Why a subscription ended does not matter: it is made anew.
struct Ended;

impl Hearing<'_> {
    async fn pass_on(
        &mut self,
        wanted: &mut watch::Receiver<Wanted>,
        mut messages: PubSubStream,
        resync: bool,
    ) -> Result<(), Ended> {
        self.follow(wanted).await?;
        if resync {
            for topic in [Topic::Work, Topic::Done, Topic::Cancel, Topic::Schedules] {
                self.senders.send(topic, Signal::Resync);
            }
        }
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let (topic, signal) = read(self.connection, &message.ok_or(Ended)?);
                    self.senders.send(topic, signal);
                }
                changed = wanted.changed() => {
                    changed.map_err(|_| Ended)?;
                    self.follow(wanted).await?;
                }
                _ = ping.tick() => {
                    let pong = self.sink.ping::<redis::Value>();
                    answered(self.connection, pong).await?;
                }
            }
        }
    }

    /// Subscribes to what is wanted, and to nothing else.
    async fn follow(&mut self, wanted: &mut watch::Receiver<Wanted>) -> Result<(), Ended> {
        let channels = wanted.borrow_and_update().channels(&self.connection.keys);
        let before = self.subscribed.borrow().clone();
        let new: Vec<&String> = channels.difference(&before).collect();
        if !new.is_empty() {
            answered(self.connection, self.sink.subscribe(&new)).await?;
        }
        let gone: Vec<&String> = before.difference(&channels).collect();
        if !gone.is_empty() {
            answered(self.connection, self.sink.unsubscribe(&gone)).await?;
        }
        self.subscribed.send_replace(channels);
        Ok(())
    }
}

async fn answered<T>(
    connection: &Connection,
    answer: impl Future<Output = redis::RedisResult<T>>,
) -> Result<(), Ended> {
    match tokio::time::timeout(connection.connect_timeout, answer).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Ended),
    }
}

/// A hint that cannot be read says to look.
fn read(connection: &Connection, message: &Msg) -> (Topic, Signal) {
    let channel = message.get_channel_name();
    let is_of = |topic| connection.keys.channel(topic) == channel;
    if is_of(Topic::Schedules) {
        return (Topic::Schedules, Signal::Schedules);
    }
    let text = str::from_utf8(message.get_payload_bytes()).unwrap_or_default();
    let parts = text.split(',');
    let (topic, signal) = if is_of(Topic::Done) {
        (Topic::Done, parts.map(str::parse).collect::<Result<Arc<[_]>, _>>().map(Signal::Done))
    } else if is_of(Topic::Cancel) {
        (Topic::Cancel, parts.map(str::parse).collect::<Result<Arc<[_]>, _>>().map(Signal::Cancel))
    } else {
        // To all, or to one worker.
        return (
            Topic::Work,
            parts.map(str::parse).collect::<Result<Arc<[_]>, _>>().map_or(Signal::Resync, Signal::Work),
        );
    };
    (topic, signal.unwrap_or(Signal::Resync))
}
