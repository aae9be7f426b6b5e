//! The command line of `umbel secret`, and the flags that give a process its master keys.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use umbel_model::SecretName;

#[derive(Debug, Subcommand)]
pub enum SecretVerb {
    /// Set a secret; its value comes from a file, from stdin or from a prompt, and never from the command line
    Set {
        name: SecretName,
        /// Host that it may be sent to: api.example.com, *.example.com, http://127.0.0.1:8080; https unless it says otherwise. May be
        /// given several times
        #[arg(long, value_delimiter = ',', value_name = "HOST", required_unless_present = "reveal")]
        host: Vec<String>,
        /// Put it into headers only, which is what happens without --body
        #[arg(long, conflicts_with = "body")]
        header_only: bool,
        /// Put it into text bodies of requests too
        #[arg(long, requires = "host")]
        body: bool,
        /// Let code with the permission `secret NAME reveal` have the value, as to sign with it
        #[arg(long)]
        reveal: bool,
        /// File with the value, `-` for stdin; without it stdin, or a prompt on a terminal. With --host the line end at its end is
        /// left out
        #[arg(long, value_name = "FILE")]
        value_file: Option<PathBuf>,
        /// Only if there is no such secret
        #[arg(long, conflicts_with = "if_version")]
        if_absent: bool,
        /// Only if it has this version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
    },
    /// List the secrets, without their values
    #[command(visible_alias = "ls")]
    List,
    /// Show where a secret may go. Nobody can read its value
    Show { name: SecretName },
    /// Delete a secret
    #[command(visible_alias = "delete")]
    Rm {
        name: SecretName,
        /// Only if it has this version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
    },
    /// Make a new key for this tenant and seal all its secrets with it
    Rotate {
        /// For operators: wrap the keys of all tenants by the server's first master key instead, and say which others are needed still
        #[arg(long)]
        master: bool,
    },
}

/// Master keys of a process.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Master keys of secrets; the same for all processes of one broker")]
pub struct MasterKeyFlags {
    /// File with master keys, one on a line, 32 random bytes as base64 or hex each: the first one is current, the others open what they
    /// wrapped. May be given several times. The environment variable UMBEL_MASTER_KEY may have keys, which come first
    #[arg(long, env = "UMBEL_MASTER_KEY_FILE", value_delimiter = ',', value_name = "FILE")]
    pub master_key_file: Vec<PathBuf>,
    /// Program that prints master keys, with its arguments after spaces; it is started without a shell, and has 30 s
    #[arg(long, env = "UMBEL_MASTER_KEY_COMMAND", value_name = "COMMAND")]
    pub master_key_command: Option<String>,
}
