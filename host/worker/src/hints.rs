//! Hints of a broker, for as long as the worker lives.
//!
//! Invariant: a hint is a reason to look; `Resync` follows any gap in which hints may have been lost.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast;
use umbel_broker::{Broker, Signal, Topic};

/// Hints of one topic, for ever: subscribes again when the broker closes the channel or refuses at first.
pub(crate) struct Hints {
    broker: Arc<dyn Broker>,
    topic: Topic,
    receiver: Option<broadcast::Receiver<Signal>>,
}

impl Hints {
    /// Subscribes: hints that are sent from now on are received.
    pub(crate) async fn subscribe(broker: Arc<dyn Broker>, topic: Topic) -> Self {
        Self { receiver: broker.signals(topic).await.ok(), broker, topic }
    }

    /// Safe to drop at any await: no hint is taken and lost.
    pub(crate) async fn next(&mut self) -> Signal {
        loop {
            let Some(receiver) = &mut self.receiver else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.receiver = self.broker.signals(self.topic).await.ok();
                if self.receiver.is_some() {
                    return Signal::Resync;
                }
                continue;
            };
            match receiver.recv().await {
                Ok(signal) => return signal,
                Err(broadcast::error::RecvError::Lagged(_)) => return Signal::Resync,
                Err(broadcast::error::RecvError::Closed) => self.receiver = None,
            }
        }
    }
}
