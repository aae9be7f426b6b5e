//! The model passes the suite that it is the oracle of.

use crate::{Arc, Clock, MemoryBroker, Subject};

crate::conformance_suite!(|| async {
    let (clock, now) = Clock::manual(crate::START_MS);
    Subject { broker: Arc::new(MemoryBroker::new(clock, crate::limits())), now, keep: Box::new(()) }
});
