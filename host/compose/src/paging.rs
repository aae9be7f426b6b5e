//! How many nodes to read at once: a node comes with its arguments, its result and its spec, which may be large.

use umbel_broker::{NodeRecord, NodeWork};

/// Nodes of the first page.
const FIRST: u32 = 64;
/// Nodes of a page at most: their results may be large where those before were small.
const MOST: u32 = 256;
/// Bytes that a page should have.
const WANTED_BYTES: usize = 4 << 20;

/// The size of the next page, by what the pages before had.
#[derive(Debug, Clone, Copy)]
pub struct PageSize {
    next: u32,
    /// Bytes of all pages.
    bytes: usize,
}

impl Default for PageSize {
    fn default() -> Self {
        Self { next: FIRST, bytes: 0 }
    }
}

impl PageSize {
    /// Nodes to read next.
    pub fn nodes(self) -> u32 {
        self.next
    }

    /// Bytes read.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// Learns from a page that was read.
    pub fn read(&mut self, page: &[NodeRecord]) {
        let bytes: usize = page.iter().map(size).sum();
        self.bytes += bytes;
        if !page.is_empty() {
            let fit = WANTED_BYTES / (bytes / page.len()).max(1);
            self.next = u32::try_from(fit).unwrap_or(MOST).clamp(1, MOST);
        }
    }
}

fn size(node: &NodeRecord) -> usize {
    match &node.work {
        NodeWork::Job { record, .. } => {
            let result = record.result.as_ref().map_or(0, |result| result.get().len());
            result + record.spec.len() + record.node.as_ref().map_or(0, |node| node.arguments.len())
        }
        NodeWork::Join { members, scope, .. } => (members.len() + scope.len()) * size_of::<u64>(),
    }
}
