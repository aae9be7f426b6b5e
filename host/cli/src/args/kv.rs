//! The command line of `umbel kv`.

use clap::{Args, Subcommand};
use umbel_model::{BucketName, KvKey};

use super::{PageFlags, duration};

#[derive(Debug, Subcommand)]
pub enum KvVerb {
    /// Print a value, as it was written; `-o json` with its version
    Get { bucket: BucketName, key: KvKey },
    /// Store a value and print its version
    Set {
        bucket: BucketName,
        key: KvKey,
        /// The value as it is; `@FILE` is what is in a file, `-` stdin, and `@@x` the text `@x`
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// How long it lives, such as 10m; for ever if not given
        #[arg(long, value_parser = duration, value_name = "DURATION")]
        ttl: Option<u64>,
        #[command(flatten)]
        expect: ExpectFlags,
    },
    /// List the keys of a bucket
    #[command(visible_alias = "ls")]
    List {
        bucket: BucketName,
        /// Only keys that begin with it
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        page: PageFlags,
    },
    /// Delete an entry, or with --all the whole bucket
    #[command(visible_alias = "delete")]
    Rm {
        bucket: BucketName,
        #[arg(required_unless_present = "all")]
        key: Option<KvKey>,
        /// Only if it has this version
        #[arg(long, value_name = "VERSION", conflicts_with = "all")]
        if_version: Option<u64>,
        /// All entries of the bucket
        #[arg(long, conflicts_with = "key")]
        all: bool,
        /// Do not ask
        #[arg(long, requires = "all")]
        yes: bool,
    },
    /// Add to a number and print the sum
    Incr {
        bucket: BucketName,
        key: KvKey,
        /// May be negative
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// List the buckets that have entries
    Buckets,
}

/// What a write expects to find.
#[derive(Debug, Args)]
pub struct ExpectFlags {
    /// Only if there is no entry
    #[arg(long, conflicts_with = "if_version")]
    pub if_absent: bool,
    /// Only if the entry has this version
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
}
