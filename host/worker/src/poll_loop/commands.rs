//! Commands of the worker's owner and orders of an operator, and which parts of a new one differ from the last: a part
//! that was applied before is not applied again, however often it arrives.

use umbel_broker::{Shutdown, WorkerOrder};

/// The will of the owner in this process. Only the pause is ever taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) paused: bool,
    pub(crate) shutdown: Option<Shutdown>,
    /// End at once: leases expire.
    pub(crate) stop: bool,
}

/// The command and the order that were applied last.
#[derive(Debug, Default)]
pub(super) struct Applied {
    command: Command,
    order: WorkerOrder,
}

impl Applied {
    /// The pause and the shutdown of a command, where they changed.
    pub(super) fn command(&mut self, command: Command) -> (Option<bool>, Option<Shutdown>) {
        let last = std::mem::replace(&mut self.command, command);
        let paused = (command.paused != last.paused).then_some(command.paused);
        (paused, command.shutdown.filter(|_| command.shutdown != last.shutdown))
    }

    /// An order with only the parts that changed.
    pub(super) fn order(&mut self, order: WorkerOrder) -> WorkerOrder {
        fn changed<T: PartialEq>(last: &Option<T>, new: Option<T>) -> Option<T> {
            new.filter(|new| last.as_ref() != Some(new))
        }
        let last = std::mem::replace(&mut self.order, order.clone());
        WorkerOrder {
            number: order.number,
            drain: changed(&last.drain, order.drain),
            shutdown: changed(&last.shutdown, order.shutdown),
            slots: changed(&last.slots, order.slots),
            queues: changed(&last.queues, order.queues),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_that_changed_are_followed() {
        let mut applied = Applied::default();
        let command = Command { paused: true, ..Command::default() };
        assert_eq!(applied.command(command), (Some(true), None));
        let command = Command { shutdown: Some(Shutdown::Soft), ..command };
        assert_eq!(applied.command(command), (None, Some(Shutdown::Soft)));
        assert_eq!(applied.command(command), (None, None));
        let order = WorkerOrder { number: 1, drain: Some(true), ..WorkerOrder::default() };
        assert_eq!(applied.order(order.clone()), order);
        let next = WorkerOrder { number: 2, slots: Some((1, 2)), ..order };
        assert_eq!(applied.order(next.clone()), WorkerOrder { drain: None, ..next });
    }
}
