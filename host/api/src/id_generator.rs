//! Makes job ids that rise within this process, so that a batch is listed in the order it was sent.

use std::sync::{Mutex, PoisonError};

use umbel_model::{JobId, UnixMs, WorkflowId, canvas};

use crate::{
    problem::{Problem, Result},
    time::now_ms,
};

/// Random part of an id: 79 of its 80 bits, so that counting up from it cannot overflow.
const RANDOM_MASK: u128 = (1 << 79) - 1;

/// Bits of an id that number a workflow's nodes.
const NODE_BITS: u32 = 32;

/// The last id made, and the last workflow's.
#[derive(Debug, Default)]
pub(crate) struct IdGenerator(Mutex<(UnixMs, u128)>, Mutex<(UnixMs, u128)>);

impl IdGenerator {
    /// A new id: random in each millisecond, counting up within it, never before the last one.
    pub(crate) fn job_id(&self) -> Result<JobId> {
        next(&self.0, 1)
    }

    /// A new workflow's id, by the same rule in the bits that are a workflow's own: the low 32 count its nodes.
    pub(crate) fn workflow_id(&self) -> Result<WorkflowId> {
        Ok(canvas::workflow_id(next(&self.1, 1 << NODE_BITS)?))
    }
}

fn next(last: &Mutex<(UnixMs, u128)>, step: u128) -> Result<JobId> {
    let now = now_ms();
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    *last = if now > last.0 { (now, random()? & RANDOM_MASK) } else { (last.0, last.1 + step) };
    Ok(JobId::from_parts(last.0, last.1))
}

fn random() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the operating system gave no random bytes");
        Problem::internal("the server has no random bytes")
    })?;
    Ok(u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise() {
        let generator = IdGenerator::default();
        let ids: Vec<JobId> = (0..10_000).map(|_| generator.job_id().unwrap()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        let ids: Vec<JobId> = (0..10_000).map(|_| generator.workflow_id().unwrap()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "two workflows of one millisecond have two ids");
    }
}
