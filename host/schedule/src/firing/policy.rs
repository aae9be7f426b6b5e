//! How a schedule fires, as people write it.

use serde::{Deserialize, Serialize};
use umbel_model::named_enum;

named_enum! {
    /// What happens to a time that comes while a run is not over.
    pub enum Overlap {
        /// It is left out.
        Skip = "skip",
        /// It waits, and one more is left out.
        BufferOne = "buffer_one",
        /// It waits behind others.
        BufferAll = "buffer_all",
        /// The run is cancelled, and it starts when that has ended.
        Cancel = "cancel",
        /// It starts beside the run.
        Allow = "allow",
    }
}

named_enum! {
    /// Which times start that passed while nobody could start them.
    pub enum CatchUp {
        None = "none",
        /// The last one.
        Latest = "latest",
        /// Each, in order.
        All = "all",
    }
}

/// The longest window of catching up, and of one that spreads fires, milliseconds: a year.
const MAX_WINDOW_MS: u64 = 366 * 86_400_000;

umbel_model::settings! {
    /// How a schedule fires. What is left out has its default.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct FiringPolicy {
        /// What happens to a time that comes while a run of the schedule is not over.
        pub overlap: Overlap = Overlap::Skip,
        /// Which times start that passed while nobody could start them.
        pub catch_up: CatchUp = CatchUp::Latest,
        /// Older ones are missed in any case, milliseconds.
        pub catch_up_window_ms: u64 = 86_400_000,
        /// Each fire comes later by a part of this, milliseconds, that differs from fire to fire.
        pub jitter_ms: u64 = 0,
        /// Each fire comes later by a part of this, milliseconds, that is always the same for the schedule's name.
        pub window_ms: u64 = 0,
        /// Runs that are started by time, at most. 0: any number.
        pub max_runs: u64 = 0,
        /// The schedule pauses by itself when so many runs in a row have failed, or could not be started. 0: never.
        pub pause_after_failures: u32 = 0,
        /// Times that pass while it is paused are due when it goes on. Otherwise they are dropped.
        pub keep_missed: bool = false,
    }
}

impl FiringPolicy {
    /// What is wrong with it: the field, and why.
    ///
    /// # Errors
    /// A window is longer than a year, or that of catching up shorter than a fire may be late.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (name, ms) in [
            ("catch_up_window_ms", self.catch_up_window_ms),
            ("jitter_ms", self.jitter_ms),
            ("window_ms", self.window_ms),
        ] {
            if ms > MAX_WINDOW_MS {
                return Err((name, format!("at most {MAX_WINDOW_MS}, a year")));
            }
        }
        if self.catch_up_window_ms < super::ON_TIME_MS {
            let least = super::ON_TIME_MS;
            return Err(("catch_up_window_ms", format!("at least {least}: another server takes over within seconds")));
        }
        Ok(())
    }

    /// Whether it matters how runs end.
    pub fn follows_runs(&self) -> bool {
        self.overlap != Overlap::Allow || self.pause_after_failures > 0
    }
}
