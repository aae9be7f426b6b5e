//! Hints: one subscription per broker, started when somebody first listens, made anew for ever when it is lost.
//! After a loss every listener gets `Resync`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use redis::{Msg, aio::PubSub};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use umbel_broker::{Error, Result, Signal, Topic};

use crate::connection::Connection;

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
}

impl Senders {
    fn of(&self, topic: Topic) -> &broadcast::Sender<Signal> {
        match topic {
            Topic::Work => &self.work,
            Topic::Done => &self.done,
            Topic::Cancel => &self.cancel,
        }
    }

    /// No receiver is not an error: hints are for whoever listens.
    fn send(&self, topic: Topic, signal: Signal) {
        let _ = self.of(topic).send(signal);
    }
}

const TOPICS: [Topic; 3] = [Topic::Work, Topic::Done, Topic::Cancel];

#[derive(Debug)]
pub(crate) struct Signals {
    senders: Senders,
    subscribed: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Signals {
    pub(crate) fn new() -> Self {
        let sender = || broadcast::channel(SIGNALS).0;
        let senders = Senders { work: sender(), done: sender(), cancel: sender() };
        Self { senders, subscribed: watch::Sender::new(false), task: Mutex::new(None) }
    }

    /// Hints from now on: the subscription has been acknowledged, or the server cannot be reached and a `Resync` will
    /// come when it is back.
    pub(crate) async fn receiver(&self, connection: &Arc<Connection>, topic: Topic) -> broadcast::Receiver<Signal> {
        let receiver = self.senders.of(topic).subscribe();
        {
            let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            if task.as_ref().is_none_or(JoinHandle::is_finished) {
                *task = Some(tokio::spawn(listen(connection.clone(), self.senders.clone(), self.subscribed.clone())));
            }
        }
        let mut subscribed = self.subscribed.subscribe();
        let _ = tokio::time::timeout(connection.patience, subscribed.wait_for(|yes| *yes)).await;
        receiver
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
async fn listen(connection: Arc<Connection>, senders: Senders, subscribed: watch::Sender<bool>) {
    let mut told = false;
    loop {
        match subscribe(&connection).await {
            Ok(pubsub) => {
                if told {
                    tracing::info!(address = %connection.address(), "hearing Redis again");
                }
                told = false;
                if subscribed.send_replace(true) {
                    TOPICS.into_iter().for_each(|topic| senders.send(topic, Signal::Resync));
                }
                pass_on(&connection, &senders, pubsub).await;
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

async fn subscribe(connection: &Connection) -> Result<PubSub> {
    let subscribing = async {
        let mut pubsub = connection.client().get_async_pubsub().await.map_err(|e| connection.told(&e))?;
        let channels: Vec<String> = TOPICS.iter().map(|topic| connection.keys.channel(*topic)).collect();
        pubsub.subscribe(&channels).await.map_err(|e| connection.told(&e))?;
        Ok(pubsub)
    };
    let late =
        |_| Error::Unavailable(format!("{} did not answer in {:?}", connection.address(), connection.connect_timeout));
    tokio::time::timeout(connection.connect_timeout, subscribing).await.map_err(late)?
}

/// Until the subscription ends.
async fn pass_on(connection: &Connection, senders: &Senders, pubsub: PubSub) {
    let (mut sink, mut messages) = pubsub.split();
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => {
                    if let Some((topic, signal)) = read(connection, &message) {
                        senders.send(topic, signal);
                    }
                }
                None => return,
            },
            _ = ping.tick() => {
                let pong = tokio::time::timeout(connection.connect_timeout, sink.ping::<redis::Value>()).await;
                if !matches!(pong, Ok(Ok(_))) {
                    return;
                }
            }
        }
    }
}

/// A hint that cannot be read says to look.
fn read(connection: &Connection, message: &Msg) -> Option<(Topic, Signal)> {
    let topic = TOPICS.into_iter().find(|topic| connection.keys.channel(*topic) == message.get_channel_name())?;
    let text = str::from_utf8(message.get_payload_bytes()).unwrap_or_default();
    let parts = text.split(',');
    let signal = match topic {
        Topic::Work => parts.map(str::parse).collect::<Result<Arc<[_]>, _>>().map(Signal::Work),
        Topic::Done => parts.map(str::parse).collect::<Result<Arc<[_]>, _>>().map(Signal::Done),
        Topic::Cancel => parts.map(str::parse).collect::<Result<Arc<[_]>, _>>().map(Signal::Cancel),
    };
    Some((topic, signal.unwrap_or(Signal::Resync)))
}
