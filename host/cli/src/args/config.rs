//! The command line of `umbel config`.

use clap::{Args, Subcommand};
use umbel_model::{ConfigName, TaskName};

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// List the values that tasks read
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        of: ConfigScope,
    },
    /// Print one value
    Get {
        name: ConfigName,
        #[command(flatten)]
        of: ConfigScope,
    },
    /// Set values; running attempts keep those that they have read. They are no secrets
    Set {
        /// Such as api_url=https://api.example.com
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = setting)]
        values: Vec<(ConfigName, String)>,
        #[command(flatten)]
        of: ConfigScope,
    },
    /// Take values away
    #[command(visible_alias = "rm")]
    Unset {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<ConfigName>,
        #[command(flatten)]
        of: ConfigScope,
    },
}

/// Whose values.
#[derive(Debug, Args)]
pub struct ConfigScope {
    /// Those of one task, which go before those of all tasks
    #[arg(long, value_name = "TASK")]
    pub task: Option<TaskName>,
}

/// A name and its value.
pub fn setting(text: &str) -> Result<(ConfigName, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((ConfigName::new(name).map_err(|error| error.to_string())?, value.to_owned()))
}
