//! The client verbs: HTTP requests and what people see of the answers.

pub mod arguments;
pub mod blob;
pub mod bulk;
pub mod config;
mod control;
pub mod dead;
pub mod events;
mod input;
pub mod job;
pub mod kv;
pub mod module;
pub mod queue;
pub mod routes;
pub mod schedule;
pub mod secret;
pub mod task;
pub mod tenant;
mod unknown;
pub mod usage;
pub mod worker;
pub mod workflow;

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use serde::de::DeserializeOwned;
use umbel_client::{
    Client, ClientOptions, Error, FailedJob, JobError, JobId, Request, Retry, TlsRefusal, WorkflowId, typed,
};

use self::unknown::{QUEUE, SCHEDULE, TASK, WORKER};
use crate::args::{PageFlags, ServerFlags};
use crate::output::{Page, Terminal};
use crate::{Exit, Failure, Result, safe_text::plain, serve::profile::Profile};

/// Items of one request, the server's limit.
const PAGE: u32 = 200;
/// People wait for a failure: fewer repetitions than a program's client makes.
const RETRY: Retry = Retry { times: 2, first: Duration::from_millis(100), longest: Duration::from_millis(500) };

/// Parameters of a list, those that are given.
type Query<'a> = &'a [(&'static str, Option<String>)];

/// What a client verb works with: the server, and the terminal that it prints to.
pub struct Context {
    pub client: Client,
    pub terminal: Terminal,
}

impl Context {
    /// The server of the flags and the environment, or else of the nearest profile.
    pub fn new(flags: &ServerFlags, terminal: Terminal) -> Result<Self> {
        // A profile also knows the authorities of its server.
        let all_given = flags.url.is_some() && flags.token.is_some();
        let is_plain = !flags.url.as_ref().is_some_and(|url| url.starts_with("https:"));
        let profile = if all_given && (is_plain || flags.ca_file.is_some()) { None } else { Profile::find() };
        let Destination { url, token, ca_file } = destination(flags, profile)?;
        let options = ClientOptions::default().retry(RETRY);
        let options = ca_file.into_iter().fold(options, ClientOptions::ca_file);
        Ok(Self { client: Client::with_options(&url, &token, &options)?, terminal })
    }

    /// Prints up to `flags.limit` items of a list, read in as many requests as that takes.
    pub async fn list(&self, path: &str, query: Query<'_>, flags: &PageFlags, columns: &str) -> Result {
        self.terminal.list(&self.pages(path, query, flags).await?, columns)
    }

    async fn pages(&self, path: &str, query: Query<'_>, flags: &PageFlags) -> Result<Page> {
        let mut all = Page { items: Vec::new(), next_cursor: flags.cursor.clone() };
        loop {
            let left = flags.limit as usize - all.items.len();
            let limit = PAGE.min(u32::try_from(left).unwrap_or(PAGE));
            let mut request = self.client.get(path).query("limit", limit.to_string());
            for (name, value) in query.iter().chain([&("cursor", all.next_cursor)]) {
                request = value.iter().fold(request, |request, value| request.query(name, value));
            }
            let page: Page = request.answer().await?;
            all.items.extend(page.items);
            all.next_cursor = page.next_cursor;
            if all.next_cursor.is_none() || all.items.len() >= flags.limit as usize {
                return Ok(all);
            }
        }
    }

    /// Prints a list that has no pages.
    pub async fn all(&self, path: &str, columns: &str) -> Result {
        self.terminal.list(&self.client.get(path).answer().await?, columns)
    }

    /// Sends a request and prints the thing that it answers with.
    pub async fn show(&self, request: Request, fields: &str) -> Result {
        self.terminal.object(&request.text().await?, fields)
    }
}

/// Where requests go, and whom they trust with https: none is the system's authorities.
#[derive(Debug, PartialEq, Eq)]
struct Destination {
    url: String,
    token: String,
    ca_file: Option<PathBuf>,
}

/// The server's address, and the token for it. A token goes only to the server that it was given with: a profile's to
/// no other address, and a token of a flag or the environment to no address of a profile that does not know it (the
/// profile may be anybody's who can write a folder above this one). A profile's authorities are for its server only, too.
fn destination(flags: &ServerFlags, profile: Option<Profile>) -> Result<Destination> {
    let bare = |url: &str| url.trim_end_matches('/').to_owned();
    let no_server = |message: &str| Failure::new("no_server", message).exit(Exit::Usage);
    let to = |url: &str, token: &str, of_profile: Option<PathBuf>| {
        let ca_file = flags.ca_file.clone().or(of_profile);
        Ok(Destination { url: bare(url), token: token.to_owned(), ca_file })
    };
    match (&flags.url, &flags.token, profile) {
        (Some(url), Some(token), profile) => {
            let same = profile.filter(|profile| bare(&profile.url) == bare(url));
            to(url, token, same.and_then(|profile| profile.ca_file))
        }
        (None, Some(token), Some(profile)) if profile.token == *token => {
            to(&profile.url, &profile.token, profile.ca_file)
        }
        (None, Some(_), _) => {
            Err(no_server("a token is given, but not the server that it is for")
                .help("give --url too, or set UMBEL_URL"))
        }
        (None, None, Some(profile)) => to(&profile.url, &profile.token, profile.ca_file),
        (None, None, None) => Err(no_server("no server is known here")
            .help("start one with `umbel dev` in this folder, or give --url and --token; one that runs with --data has its profile there")),
        (Some(url), None, Some(profile)) if bare(&profile.url) == bare(url) => to(url, &profile.token, profile.ca_file),
        (Some(url), None, _) => Err(Failure::new("no_token", format!("no token for {} is known here", bare(url)))
            .exit(Exit::Auth)
            .help("give --token, or set UMBEL_TOKEN; `umbel token create` makes one")),
    }
}

/// Asks on a terminal; elsewhere `--yes` must say it.
pub fn confirm(yes: bool, question: &str) -> Result {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage(question).help("say that you mean it: --yes"));
    }
    let _ = write!(io::stderr().lock(), "{} [y/N] ", plain(question));
    let mut reply = String::new();
    let _ = io::stdin().read_line(&mut reply);
    if reply.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(Failure::quiet(Exit::Failure)) }
}

/// The answer to a request: its text, and typed.
pub async fn fetch<T: DeserializeOwned>(request: Request) -> Result<(String, T)> {
    let body = request.text().await?;
    let typed = typed(&body)?;
    Ok((body, typed))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Problem(problem) => refused(*problem),
            Error::Status { status } => {
                // The name of the status too: it is all that is known.
                let shown = format!("the server answered {status}{}", reason(status));
                Self::new("http", shown).exit(exit_of(status, ""))
            }
            Error::Unreachable { url, cause } => Self::new("unreachable", format!("{url} does not answer"))
                .details(Some(cause).filter(|cause| !cause.is_empty()).into_iter().collect())
                .exit(Exit::Unavailable)
                .help("is it running? `umbel dev` starts one"),
            Error::Address(_) => Self::usage("the server's address must start with http:// or https://")
                .help("write the whole address with --url or UMBEL_URL, such as https://umbel.example"),
            Error::Tls { url, refusal } => {
                let help = match refusal {
                    TlsRefusal::NotTls => {
                        "write http:// in its address if it has no certificate, or look at its port".into()
                    }
                    _ => refusal.help("--ca-file or UMBEL_CA_FILE"),
                };
                Self::new("tls", format!("{url}: {refusal}")).help(help)
            }
            Error::Authorities(_) => Self::new("tls", error.to_string()).help("correct --ca-file or UMBEL_CA_FILE"),
            Error::BadAnswer => Self::new("bad_answer", error.to_string()),
            Error::Request(_) | Error::Canvas(_) => Self::usage(error.to_string()),
            other => Self::new("client", other.to_string()),
        }
    }
}

fn refused(problem: umbel_client::Problem) -> Failure {
    let message = problem.message();
    // A place that the message has already is not said again.
    let details = problem.errors.iter().map(|e| format!("{}: {}", e.pointer, e.detail));
    let mut details: Vec<String> = details.filter(|detail| !message.contains(detail.as_str())).collect();
    if problem.status >= 500 && !problem.request_id.is_empty() {
        details.push(format!("request {}", problem.request_id));
    }
    let exit = exit_of(problem.status, &problem.code);
    let failure = Failure::new(problem.code, message).details(details).exit(exit);
    match exit {
        Exit::Auth => failure.help("give another token with --token; `umbel token create` makes one"),
        Exit::Unavailable => failure.help("try again later"),
        _ => failure,
    }
}

/// Details of a failure: where a guest trapped, which jobs of a workflow failed.
fn causes(error: &JobError) -> Vec<String> {
    let frames = error.frames.iter().map(|frame| format!("at {frame}"));
    let one = |job: FailedJob| format!("{} {}: {}: {}", job.job_id, job.task, job.kind, job.message);
    frames.chain(error.failed_jobs().into_iter().map(one)).collect()
}

/// A job or a workflow, `what`, that did not succeed: exit code 3.
pub fn not_succeeded(what: &str, state: &str, error: Option<&JobError>) -> Failure {
    match error {
        Some(error) => {
            Failure::new(error.kind.clone(), format!("{what} {state}: {}", error.message)).details(causes(error))
        }
        None => Failure::new(state, format!("{what} is {state}")),
    }
    .exit(Exit::JobFailed)
}

/// A result that there is, but not in the server's answer: `too_large`, or `gone` with the workflow that gave it.
pub fn omitted(what: &str, id: JobId, why: &str, workflow: WorkflowId) -> Failure {
    Failure::new("result_omitted", format!("{what} {id} succeeded, but its result is not in the answer: {why}"))
        .help(format!("umbel job list --workflow {workflow}; umbel job show ID"))
}

/// The name of a status that proxies answer with.
fn reason(status: u16) -> &'static str {
    match status {
        400 => " Bad Request",
        401 => " Unauthorized",
        403 => " Forbidden",
        404 => " Not Found",
        500 => " Internal Server Error",
        502 => " Bad Gateway",
        503 => " Service Unavailable",
        504 => " Gateway Timeout",
        _ => "",
    }
}

fn exit_of(status: u16, code: &str) -> Exit {
    match status {
        _ if code == "idempotency_conflict" => Exit::Conflict,
        401 | 403 => Exit::Auth,
        404 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        429 | 502 | 503 | 504 | 507 => Exit::Unavailable,
        _ => Exit::Failure,
    }
}

/// Forgets some jobs or workflows (`called` so in messages), one after the other. Those that cannot be deleted are named at the end.
async fn forget_each<I, F>(ctx: &Context, called: &str, ids: &[I], forget: impl Fn(I) -> F) -> Result
where
    I: Copy + Display,
    F: Future<Output = Result<(), umbel_client::Error>>,
{
    let (mut refused, mut exit) = (Vec::new(), Exit::NotFound);
    for id in ids {
        match forget(*id).await.map_err(Failure::from) {
            Ok(()) => ctx.terminal.line(&id.to_string())?,
            // One of them: as it is.
            Err(failure) if ids.len() > 1 && matches!(failure.exit, Exit::NotFound | Exit::Conflict) => {
                if failure.exit == Exit::Conflict {
                    exit = Exit::Conflict;
                }
                refused.push(format!("{id}: {}", failure.code));
            }
            Err(failure) => return Err(failure),
        }
    }
    ctx.terminal.note(&format!("{} {called} are forgotten", ids.len() - refused.len()));
    if refused.is_empty() {
        return Ok(());
    }
    let message = format!("{} {called} were not forgotten", refused.len());
    Err(Failure::new("not_forgotten", message).details(refused).exit(exit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_only_to_the_server_that_it_was_given_with() {
        let chosen = |url: Option<&str>, token: Option<&str>, profile: bool| {
            let flags = ServerFlags { url: url.map(Into::into), token: token.map(Into::into), ca_file: None };
            let ca_file = Some("near.pem".into());
            let profile = profile.then(|| Profile { url: "https://near/".into(), token: "p".into(), ca_file });
            destination(&flags, profile).map_err(|failure| failure.code)
        };
        let to = |url: &str, token: &str, ca_file: Option<&str>| {
            Ok(Destination { url: url.to_owned(), token: token.to_owned(), ca_file: ca_file.map(Into::into) })
        };
        let near = Some("near.pem");
        assert_eq!(chosen(Some("http://a/"), Some("t"), true), to("http://a", "t", None));
        assert_eq!(chosen(Some("https://near"), Some("t"), true), to("https://near", "t", near));
        assert_eq!(chosen(None, None, true), to("https://near", "p", near));
        assert_eq!(chosen(None, Some("p"), true), to("https://near", "p", near));
        assert_eq!(chosen(None, Some("t"), true), Err("no_server".into()));
        assert_eq!(chosen(None, Some("t"), false), Err("no_server".into()));
        assert_eq!(chosen(None, None, false), Err("no_server".into()));
        assert_eq!(chosen(Some("https://near"), None, true), to("https://near", "p", near));
        assert_eq!(chosen(Some("https://far"), None, true), Err("no_token".into()));
        let flags = ServerFlags { url: None, token: None, ca_file: Some("flag.pem".into()) };
        let profile = Profile { url: "https://near".into(), token: "p".into(), ca_file: Some("near.pem".into()) };
        assert_eq!(destination(&flags, Some(profile)).unwrap().ca_file, Some("flag.pem".into()));
    }

    #[test]
    fn a_problem_becomes_a_failure_with_its_places_and_exit_code() {
        let problem = umbel_client::Problem {
            status: 422,
            code: "invalid_arguments".into(),
            title: "The arguments do not fit the task".into(),
            detail: "/args/0: x".into(),
            errors: vec![umbel_client::FieldError { pointer: "/args/0".into(), detail: "not a number".into() }],
            ..Default::default()
        };
        let failure = Failure::from(Error::Problem(Box::new(problem)));
        assert_eq!((failure.code.as_str(), failure.exit), ("invalid_arguments", Exit::Failure));
        assert_eq!(failure.message, "The arguments do not fit the task: /args/0: x");
        assert_eq!(failure.details, ["/args/0: not a number"]);
        let problem = umbel_client::Problem {
            detail: "/args/0: x".into(),
            errors: vec![umbel_client::FieldError { pointer: "/args/0".into(), detail: "x".into() }],
            ..Default::default()
        };
        assert_eq!(Failure::from(Error::Problem(Box::new(problem))).details, Vec::<String>::new(), "said once");
        let status = Failure::from(Error::Status { status: 404 });
        assert_eq!((status.exit, status.message.as_str()), (Exit::NotFound, "the server answered 404 Not Found"));
        assert_eq!(exit_of(422, "idempotency_conflict"), Exit::Conflict);
        assert_eq!(exit_of(503, ""), Exit::Unavailable);
    }
}
