//! The command line of `umbel usage`.

use clap::{Args, ValueEnum};
use umbel_model::{TaskName, TenantId};

use super::PageFlags;

#[derive(Debug, Args)]
pub struct UsageOptions {
    /// How far back: the hours of so long a time until now, and the one that it begins in
    #[arg(long, default_value = "24h", value_parser = checked_duration, value_name = "DURATION")]
    pub since: String,
    /// One line for each hour or task, or one for all
    #[arg(long, value_enum, default_value = "task")]
    pub by: UsageBy,
    /// Only this task
    #[arg(long, value_name = "TASK")]
    pub task: Option<TaskName>,
    /// Of this tenant; needs an operator's token
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<TenantId>,
    #[command(flatten)]
    pub page: PageFlags,
}

/// What one line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UsageBy {
    Hour,
    Task,
    Total,
}

/// A duration as it was written: the server counts back from its own clock.
fn checked_duration(text: &str) -> Result<String, String> {
    super::duration(text).map(|_| text.to_owned())
}
