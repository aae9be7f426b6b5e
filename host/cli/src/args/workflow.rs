//! `umbel workflow`: its verbs and flags.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::TypedValueParser};
use umbel_client::{Digests, OnFailure, WorkflowState};
use umbel_model::WorkflowId;

use super::{PageFlags, choice, duration, word};

#[derive(Debug, Subcommand)]
pub enum WorkflowVerb {
    /// Submit a canvas and print the workflow's id; with --wait its result
    Submit(Box<WorkflowSubmitOptions>),
    /// Submit one job for each of many files, and a body that takes all their results
    Map(Box<MapOptions>),
    /// List workflows, newest first
    #[command(visible_alias = "ls")]
    List {
        #[arg(long)]
        state: Option<WorkflowState>,
        #[command(flatten)]
        page: PageFlags,
    },
    /// Show a workflow and its steps as a tree
    Show(ShowOptions),
    /// Print the result of a workflow, as JSON
    Result {
        id: WorkflowId,
        /// Wait for the end, at most this long
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
        wait: Option<u64>,
    },
    /// Cancel a workflow: waiting jobs are revoked, running jobs are asked to stop
    Cancel { id: WorkflowId },
    /// Delete workflows that are over, with their jobs
    Forget {
        #[arg(required = true)]
        ids: Vec<WorkflowId>,
    },
    /// Repeat the failed steps of a workflow, in a new workflow that keeps the results of the others
    Resume {
        id: WorkflowId,
        /// Which modules it runs
        #[arg(long, value_parser = digests(), default_value = "pinned")]
        digest: Digests,
        /// The same as `--digest current`
        #[arg(long, conflicts_with = "digest")]
        current: bool,
        /// Wait for its end, at most so long, and print the result
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
        wait: Option<u64>,
    },
    /// Print a workflow as a picture in SVG
    Graph { id: WorkflowId },
}

#[derive(Debug, Args)]
pub struct ShowOptions {
    pub id: WorkflowId,
    /// Keep showing it until it is over
    #[arg(short, long)]
    pub watch: bool,
    /// Most lines of the tree
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub lines: u32,
}

/// Which modules a resumed workflow runs.
fn digests() -> impl TypedValueParser<Value = Digests> {
    choice([
        word("pinned", "The modules of its submission"),
        word("current", "The modules that its tasks point at now"),
    ])
}

const STEPS: &str = "\
A STEP is a task and its arguments, such as `add 2 3` or `resize max_side=64`, or a canvas as JSON. Each argument is JSON
if it can be read as JSON, and text otherwise; quote a text with spaces as JSON, \"so\". The result of the step before
becomes the first argument.";

#[derive(Debug, Args)]
#[command(after_help = STEPS)]
pub struct WorkflowSubmitOptions {
    #[command(flatten)]
    pub composition: Composition,
    /// Step that takes the result: the body of a group
    #[arg(long, value_name = "STEP")]
    pub then: Option<String>,
    #[command(flatten)]
    pub stamps: Stamps,
}

/// The canvas: exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Composition {
    /// A canvas as JSON, or the whole body of a submission with its `canvas`; `-` reads stdin
    pub file: Option<PathBuf>,
    /// Steps one after the other
    #[arg(long, num_args = 1.., value_name = "STEP")]
    pub chain: Vec<String>,
    /// Steps that run at the same time
    #[arg(long, num_args = 1.., value_name = "STEP")]
    pub group: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = STEPS)]
pub struct MapOptions {
    /// Step that runs once for each file, with the file's text as its first argument
    #[arg(long, value_name = "STEP")]
    pub task: String,
    /// Files, or patterns with * ? [a-z] and ** for folders; sorted by name
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    pub each_file: Vec<String>,
    /// Step that takes the list of all results, in the order of the files
    #[arg(long, value_name = "STEP")]
    pub then: Option<String>,
    /// Pass the file as base64, for files that are not text
    #[arg(long)]
    pub base64: bool,
    /// Upload the file as a blob and pass a reference to it: for large files, and those that are not text
    #[arg(long, conflicts_with = "base64")]
    pub blob: bool,
    /// Pass the file as the argument of this name instead of the first one
    #[arg(long, value_name = "NAME")]
    pub content_as: Option<String>,
    /// Also pass the file's path, as the argument of this name
    #[arg(long, value_name = "NAME")]
    pub path_as: Option<String>,
    /// Effect of a failed file on the other steps
    #[arg(long, value_parser = on_failure(), default_value = "fail", value_name = "POLICY")]
    pub on_failure: OnFailure,
    /// Cancel the other jobs when one fails
    #[arg(long)]
    pub cancel_rest: bool,
    #[command(flatten)]
    pub stamps: Stamps,
}

/// Effect of a failed step on the steps that wait for it.
fn on_failure() -> impl TypedValueParser<Value = OnFailure> {
    choice([
        word("fail", "The steps that wait for it fail too"),
        word("continue", "The steps that wait for it run and get {\"error\": …} instead of the result"),
        word("ignore", "The steps that wait for it run and get null instead of the result"),
    ])
}

/// Options of a workflow.
#[derive(Debug, Clone, Default, Args)]
pub struct Stamps {
    /// A name for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A tag of the workflow and its jobs; may be repeated
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// A stamp that its jobs inherit; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub header: Vec<String>,
    /// Expire its unfinished jobs after this time from its start
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub deadline: Option<u64>,
    /// Retention after its end
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub keep: Option<u64>,
    /// Idempotency key: a second submission with it returns the first workflow
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Wait for the end, at most this long, and print the result
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
    pub wait: Option<u64>,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn submit(args: &[&str]) -> Result<WorkflowSubmitOptions, clap::Error> {
        let cli = Cli::try_parse_from([&["umbel", "workflow", "submit"], args].concat())?;
        let Command::Workflow(WorkflowVerb::Submit(options)) = cli.command else { panic!() };
        Ok(*options)
    }

    #[test]
    fn a_submission_is_a_file_or_a_chain_or_a_group() {
        assert_eq!(submit(&["-"]).unwrap().composition.file.unwrap().to_str(), Some("-"));
        let chain = submit(&["--chain", "add 2 -3", "mul 4", "--tag", "a", "--tag", "b", "--wait=5s"]).unwrap();
        assert_eq!(chain.composition.chain, ["add 2 -3", "mul 4"]);
        assert_eq!((chain.stamps.tag.len(), chain.stamps.wait), (2, Some(5_000)));
        let chord = submit(&["--group", "a", "b", "--then", "c"]).unwrap();
        assert_eq!((chord.composition.group.len(), chord.then.as_deref()), (2, Some("c")));
        assert!(submit(&[]).is_err() && submit(&["f", "--chain", "a"]).is_err());
    }
}
