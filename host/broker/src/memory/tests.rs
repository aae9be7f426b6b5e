//! The model passes the suite that it is the oracle of.

use super::*;
use crate::conformance::{self, Subject};

crate::conformance_suite!(|| async {
    let (clock, now) = Clock::manual(conformance::START_MS);
    Subject { broker: Arc::new(MemoryBroker::new(clock, conformance::limits())), now, keep: Box::new(()) }
});
