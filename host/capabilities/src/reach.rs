//! What one attempt can reach.

use std::sync::Arc;

use crate::{
    grants::{Grants, NoGrants},
    meter::Meter,
};

/// Everything outside of a sandbox that the guest of one attempt can reach, if its grants allow it.
#[derive(Debug, Clone)]
pub struct Reach {
    pub grants: Arc<dyn Grants>,
    pub meter: Arc<Meter>,
}

impl Default for Reach {
    /// Reaches nothing.
    fn default() -> Self {
        Self { grants: Arc::new(NoGrants), meter: Arc::default() }
    }
}
