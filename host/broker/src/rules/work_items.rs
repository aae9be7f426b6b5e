//! What follows when a node ends or is cancelled, until a step has done it.

use umbel_model::{JobId, JobState, TenantId, canvas::Range};

use crate::Status;

/// A work item. `W` is how a store names a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkItem<W> {
    /// These nodes' source ended.
    Arrive { workflow: W, nodes: Range, raw: Status, adjusted: Status },
    /// These nodes are to end in this state.
    Cancel { workflow: W, nodes: Range, how: JobState },
    /// The workflow that replaced a job ended.
    Adopt { tenant: TenantId, job: JobId, status: Status },
}

impl<W> WorkItem<W> {
    /// Readies nodes, whatever they wait for.
    pub fn start(workflow: W, nodes: Range) -> Self {
        Self::Arrive { workflow, nodes, raw: Status::Failed, adjusted: Status::Ok }
    }

    /// What is left when so many nodes are done.
    pub fn rest(mut self, done: u32) -> Option<Self> {
        let (Self::Arrive { nodes, .. } | Self::Cancel { nodes, .. }) = &mut self else { return None };
        *nodes = Range { first: nodes.first.saturating_add(done), count: nodes.count.saturating_sub(done) };
        (nodes.count > 0).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_where_the_budget_ends() {
        let start = |first, count| WorkItem::start((), Range { first, count });
        assert_eq!(start(5, 3).rest(10), None);
        assert_eq!(start(5, 3).rest(3), None);
        assert_eq!(start(5, 3).rest(1), Some(start(6, 2)));
    }
}
