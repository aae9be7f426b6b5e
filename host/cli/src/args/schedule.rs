//! The command line of `umbel schedule`.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::TypedValueParser};
use umbel_model::{QueueName, ScheduleName, TaskName};

use super::{PageFlags, duration, moment, time, word};

#[derive(Debug, Subcommand)]
pub enum ScheduleVerb {
    /// Make a schedule that starts a task or a workflow, and show when it will
    Create(Box<CreateOptions>),
    /// List schedules
    #[command(visible_alias = "ls")]
    List {
        /// Only names that begin with it
        #[arg(default_value = "")]
        prefix: String,
        #[arg(long, value_parser = ["active", "paused", "finished"])]
        state: Option<String>,
        /// Only those that start this task
        #[arg(long)]
        task: Option<TaskName>,
        /// Only those with this source, such as file:crm
        #[arg(long)]
        source: Option<String>,
        #[command(flatten)]
        page: PageFlags,
    },
    /// Show a schedule
    Show { name: ScheduleName },
    /// Pause a schedule; what it has started goes on
    Pause {
        name: ScheduleName,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a paused schedule go on
    Resume { name: ScheduleName },
    /// Start its job or workflow now, beside its times
    Run {
        name: ScheduleName,
        /// Wait for the end, at most this long, and print the result
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
        wait: Option<u64>,
    },
    /// Leave the next time out
    Skip { name: ScheduleName },
    /// Start the times of a range of the past
    Backfill {
        name: ScheduleName,
        /// Not before this time, RFC 3339, or so long ago, such as 12h
        #[arg(long, value_parser = time, value_name = "TIME")]
        from: String,
        /// Up to this time, RFC 3339, or so long ago
        #[arg(long, value_parser = time, value_name = "TIME")]
        to: String,
        /// Pause between two of them
        #[arg(long, value_parser = duration, default_value = "1s", value_name = "DURATION")]
        pace: u64,
        /// Only show which
        #[arg(long)]
        dry_run: bool,
    },
    /// End a backfill; what it has started goes on
    BackfillAbort {
        name: ScheduleName,
        /// As `umbel schedule show` names it
        id: String,
    },
    /// Show the next times, with what the zone's clock does to them
    Next {
        name: ScheduleName,
        #[arg(short = 'n', long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "N")]
        count: u32,
        /// Those after this time, RFC 3339
        #[arg(long, value_parser = moment, value_name = "TIME")]
        from: Option<String>,
    },
    /// Show what became of its times, newest first
    History {
        name: ScheduleName,
        #[command(flatten)]
        page: PageFlags,
    },
    /// Delete schedules with their history; what they have started goes on
    #[command(visible_alias = "rm")]
    Delete {
        #[arg(required = true)]
        names: Vec<ScheduleName>,
    },
    /// Make schedules what a file says, after showing the difference
    Apply(ApplyOptions),
    /// Read Celery's beat_schedule, and print it as a file for `apply`
    Import(ImportOptions),
}

const AFTER_CREATE: &str = "\
Say when by one of --cron, --every, --at and --solar, and what by a task with its arguments, or by --canvas. Or give all of
it with --file. --cron has 5 fields, 6 with a second before them, or 7 with a year behind them; with several, all their times
count. --every counts elapsed time (90s, 2h) or the calendar of the zone (1 day, 2 weeks, 1 month).";

#[derive(Debug, Args)]
#[command(after_help = AFTER_CREATE)]
pub struct CreateOptions {
    pub name: ScheduleName,
    /// The task to start
    #[arg(required_unless_present_any = ["canvas", "file"], conflicts_with_all = ["canvas", "file"])]
    pub task: Option<TaskName>,
    /// Arguments: each is JSON if it can be read as JSON, and text otherwise; `@FILE` is what is in a file, `-` stdin, and `@@x` the
    /// text `@x`
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,
    /// Argument by name; its value is written as those above
    #[arg(long, value_name = "NAME=VALUE", requires = "task")]
    pub kwarg: Vec<String>,
    /// A canvas as JSON, or the whole body of a workflow's submission; `-` reads stdin
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub canvas: Option<PathBuf>,
    /// The whole definition as JSON or TOML; `-` reads stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub when: WhenFlags,
    #[command(flatten)]
    pub policy: FiringFlags,
    #[command(flatten)]
    pub job: JobFlags,
    /// Change the schedule of this name if there is one
    #[arg(long)]
    pub replace: bool,
    /// Make it paused
    #[arg(long)]
    pub paused: bool,
    /// Only check it, and show when it would fire
    #[arg(long)]
    pub dry_run: bool,
}

/// When it fires.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "When")]
pub struct WhenFlags {
    /// Cron expression, such as '0 3 * * *'; may be repeated
    #[arg(long, value_name = "EXPRESSION", conflicts_with_all = ["every", "at", "solar"])]
    pub cron: Vec<String>,
    /// Of --cron: a day must match its day of the month and its day of the week, as in Celery
    #[arg(long, requires = "cron", conflicts_with_all = ["every", "at", "solar"])]
    pub both_days: bool,
    /// Interval, such as 90s, 2h, '1 day' or '1 month'
    #[arg(long, value_name = "INTERVAL", conflicts_with_all = ["at", "solar"])]
    pub every: Option<String>,
    /// Of --every: a time from which intervals are counted, RFC 3339
    #[arg(long, value_parser = moment, value_name = "TIME", requires = "every")]
    pub anchor: Option<String>,
    /// One-off time, RFC 3339; may be repeated
    #[arg(long, value_parser = moment, value_name = "TIME", conflicts_with = "solar")]
    pub at: Vec<String>,
    /// Event of the sun at a latitude and a longitude, such as sunset@52.5,13.4
    #[arg(long, value_parser = solar, value_name = "EVENT@LAT,LON")]
    pub solar: Option<Solar>,
    /// Cron expression of times that are left out; may be repeated
    #[arg(long, value_name = "EXPRESSION")]
    pub exclude: Vec<String>,
    /// Zone of the clock, such as Europe/Berlin; UTC if not given
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// Nothing fires before this time, RFC 3339
    #[arg(long, value_parser = moment, value_name = "TIME")]
    pub starts_at: Option<String>,
    /// Nothing fires from this time on, RFC 3339
    #[arg(long, value_parser = moment, value_name = "TIME")]
    pub ends_at: Option<String>,
}

/// An event of the sun at a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Solar {
    pub event: String,
    pub latitude: f64,
    pub longitude: f64,
}

fn solar(text: &str) -> Result<Solar, String> {
    let read = || {
        let (event, place) = text.split_once('@')?;
        let (latitude, longitude) = place.split_once(',')?;
        let degrees = |text: &str| text.trim().parse::<f64>().ok().filter(|degrees| degrees.is_finite());
        Some(Solar { event: event.trim().to_owned(), latitude: degrees(latitude)?, longitude: degrees(longitude)? })
    };
    read().ok_or_else(|| format!("{text:?} is no event at a place: write sunset@52.5,13.4"))
}

/// How it fires.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "How it fires")]
pub struct FiringFlags {
    /// What happens to a time that comes while a run is not over; skip if not given
    #[arg(long, value_parser = overlap(), value_name = "POLICY")]
    pub overlap: Option<String>,
    /// Which times start that passed while no server could start them; latest if not given
    #[arg(long, value_parser = catch_up(), value_name = "POLICY")]
    pub catch_up: Option<String>,
    /// Older times are missed in any case; 1d if not given
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub catch_up_window: Option<u64>,
    /// Each fire comes later by a part of this, which differs from fire to fire
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub jitter: Option<u64>,
    /// Each fire comes later by a part of this, which is always the same for the schedule
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub window: Option<u64>,
    /// Runs that are started by time, at most
    #[arg(long, value_name = "N")]
    pub max_runs: Option<u64>,
    /// Pause when so many runs in a row have failed
    #[arg(long, value_name = "N")]
    pub pause_after_failures: Option<u32>,
    /// Times that pass while it is paused are due when it goes on
    #[arg(long)]
    pub keep_missed: bool,
    /// Always run this module; otherwise the one runs that is deployed when it fires
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<String>,
    /// A text for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

fn overlap() -> impl TypedValueParser<Value = String> {
    clap::builder::PossibleValuesParser::new([
        word("skip", "It is left out"),
        word("buffer_one", "It waits for the run to end, and one more is left out"),
        word("buffer_all", "It waits behind others, at most 100"),
        word("cancel", "The run is cancelled, and it starts when that has ended"),
        word("allow", "It starts beside the run"),
    ])
}

fn catch_up() -> impl TypedValueParser<Value = String> {
    clap::builder::PossibleValuesParser::new([
        word("none", "None"),
        word("latest", "The last one"),
        word("all", "Each, in order"),
    ])
}

/// Options of the job that it starts.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "The job")]
pub struct JobFlags {
    /// Start so long after the fire
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub countdown: Option<u64>,
    #[arg(long)]
    pub queue: Option<QueueName>,
    /// 0 to 9, 9 first
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub priority: Option<u8>,
    #[arg(long)]
    pub max_retries: Option<u32>,
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub time_limit: Option<u64>,
    /// Expire if it has not started after this time from the fire
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub expires: Option<u64>,
    /// Any other field of the policy; may be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    pub option: Vec<String>,
    /// A tag to find it by; may be repeated
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// A header stamp; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub header: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ApplyOptions {
    /// TOML with a table [schedules.NAME] for each schedule, or JSON of this form; `-` reads stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// What marks the schedules of this file; file:NAME of the file if not given
    #[arg(long, value_name = "TEXT")]
    pub source: Option<String>,
    /// Delete schedules that were made from this file and are not in it any more
    #[arg(long)]
    pub prune: bool,
    /// Change schedules that something else has made, too
    #[arg(long)]
    pub take_over: bool,
    /// Do not ask before schedules are deleted
    #[arg(long)]
    pub yes: bool,
    /// Only show the difference; the exit code is 6 if there is one
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct ImportOptions {
    /// A Python file with a beat_schedule, the dict alone, or JSON; `-` reads stdin. It is never run
    pub file: PathBuf,
    /// Zone of the crontabs; Celery's timezone in the file, or UTC, if not given
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// Write this file, which must not be there yet; JSON if its name ends with .json
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Make the schedules, as `umbel schedule apply` does
    #[arg(long)]
    pub apply: bool,
    /// Of --apply: change schedules that something else has made, too
    #[arg(long, requires = "apply")]
    pub take_over: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn create(args: &[&str]) -> Result<CreateOptions, clap::Error> {
        let cli = Cli::try_parse_from([&["umbel", "schedule", "create", "nightly"], args].concat())?;
        let Command::Schedule(ScheduleVerb::Create(options)) = cli.command else { panic!() };
        Ok(*options)
    }

    #[test]
    fn a_schedule_starts_a_task_a_canvas_or_what_a_file_says() {
        let task = create(&["report", "-3", "x", "--cron", "0 3 * * *", "--cron", "0 5 * * 1", "--both-days"]).unwrap();
        assert_eq!((task.args.len(), task.when.cron.len(), task.when.both_days), (2, 2, true));
        assert!(create(&["--canvas", "c.json", "--every", "5m"]).is_ok() && create(&["-f", "-"]).is_ok());
        for wrong in [
            &["--every", "5m"][..],
            &["report", "--canvas", "c.json"],
            &["report", "--every", "5m", "--cron", "* * * * *"],
            &["report", "--both-days", "--every", "5m"],
            &["report", "--at", "tomorrow"],
            &["report", "--overlap", "maybe"],
        ] {
            assert!(create(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_place_has_an_event_a_latitude_and_a_longitude() {
        let place = Solar { event: "sunset".into(), latitude: -37.8, longitude: 144.9 };
        assert_eq!(solar("sunset@-37.8,144.9"), Ok(place));
        for wrong in ["sunset", "sunset@1", "sunset@a,b", "sunset@inf,1"] {
            assert!(solar(wrong).unwrap_err().contains("sunset@52.5,13.4"), "{wrong}");
        }
    }
}
