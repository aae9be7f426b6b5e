//! The bounds of the key-value calls of one attempt, and the permissions that it missed.

use crate::config::KvCallLimits;

/// Missing permissions that the log of an attempt names, each once.
const MAX_DENIALS: usize = 16;

/// The key-value calls of one attempt, over all calls of its task. Their number is that of its meter.
#[derive(Debug, Default)]
pub(crate) struct KvBounds {
    pub(crate) limits: KvCallLimits,
    /// Permissions that were missing, and are in the log.
    denials: Vec<String>,
}

impl KvBounds {
    pub(crate) fn new(limits: KvCallLimits) -> Self {
        Self { limits, denials: Vec::new() }
    }

    /// Whether the log should name a missing permission.
    pub(crate) fn is_new(&mut self, missing: &str) -> bool {
        let is_new = self.denials.len() < MAX_DENIALS && !self.denials.iter().any(|known| known == missing);
        if is_new {
            self.denials.push(missing.to_owned());
        }
        is_new
    }
}
