//! The steps of background services, and the repair of what an audit finds.

mod repair;
mod services;
