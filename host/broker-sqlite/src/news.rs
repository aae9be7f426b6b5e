//! Hints: what a committed group of operations has to tell.

use std::collections::BTreeSet;

use tokio::sync::broadcast;
use umbel_broker::{Signal, Topic};
use umbel_model::{JobId, QueueName};

/// Hints that a slow receiver may fall behind before it is told to look for itself.
const SIGNALS: usize = 1_024;

/// Gathered while a group runs; told after its commit, forgotten when it fails.
#[derive(Debug, Default)]
pub(crate) struct News {
    ready_in: BTreeSet<QueueName>,
    ended: Vec<JobId>,
    to_cancel: Vec<JobId>,
}

impl News {
    pub(crate) fn ready_in_all(&mut self, mut queues: BTreeSet<QueueName>) {
        self.ready_in.append(&mut queues);
    }

    pub(crate) fn ready_in(&mut self, queue: &QueueName) {
        if !self.ready_in.contains(queue) {
            self.ready_in.insert(queue.clone());
        }
    }

    pub(crate) fn ended(&mut self, id: JobId) {
        self.ended.push(id);
    }

    pub(crate) fn cancel_asked(&mut self, id: JobId) {
        self.to_cancel.push(id);
    }

    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Where hints are heard.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    work: broadcast::Sender<Signal>,
    done: broadcast::Sender<Signal>,
    cancel: broadcast::Sender<Signal>,
}

impl Channels {
    pub(crate) fn new() -> Self {
        let sender = || broadcast::channel(SIGNALS).0;
        Self { work: sender(), done: sender(), cancel: sender() }
    }

    pub(crate) fn subscribe(&self, topic: Topic) -> broadcast::Receiver<Signal> {
        match topic {
            Topic::Work => self.work.subscribe(),
            Topic::Done => self.done.subscribe(),
            Topic::Cancel => self.cancel.subscribe(),
        }
    }

    /// No receiver is not an error: hints are for whoever listens.
    pub(crate) fn tell(&self, news: &mut News) {
        let News { ready_in, ended, to_cancel } = std::mem::take(news);
        if !ready_in.is_empty() {
            let _ = self.work.send(Signal::Work(ready_in.into_iter().collect()));
        }
        if !ended.is_empty() {
            let _ = self.done.send(Signal::Done(ended.into()));
        }
        if !to_cancel.is_empty() {
            let _ = self.cancel.send(Signal::Cancel(to_cancel.into()));
        }
    }
}
