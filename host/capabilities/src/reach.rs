//! What one attempt can reach.

use std::sync::Arc;

use crate::{
    grants::{Grants, NoGrants},
    http::AttemptHttp,
    meter::Meter,
};

/// Everything outside of a sandbox that the guest of one attempt can reach, if its grants allow it.
#[derive(Debug, Clone)]
pub struct Reach {
    pub grants: Arc<dyn Grants>,
    pub meter: Arc<Meter>,
    /// None: no request can be made.
    pub http: Option<Arc<AttemptHttp>>,
}

impl Default for Reach {
    /// Reaches nothing.
    fn default() -> Self {
        Self { grants: Arc::new(NoGrants), meter: Arc::default(), http: None }
    }
}
