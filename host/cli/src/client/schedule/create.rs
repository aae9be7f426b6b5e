//! `umbel schedule create`: a definition from flags or a file.

use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{Body, file, path, stored};
use crate::args::{CreateOptions, FiringFlags, JobFlags, WhenFlags};
use crate::client::{
    Context, arguments,
    arguments::raw,
    input, job,
    workflow::submit::{MAX_BODY_BYTES, body_of},
};
use crate::{Failure, Result};

pub async fn run(ctx: &Context, options: &CreateOptions) -> Result {
    let body = body(ctx, options).await?;
    let mut request = ctx.client.put(path(&options.name)).json(&body);
    if options.dry_run {
        request = request.query("dry_run", "true");
    }
    if !options.replace {
        request = request.header("if-none-match", "*");
    }
    let sent = request.text().await.map_err(|error| {
        let failure = Failure::from(error);
        match failure.code.as_str() {
            "version_conflict" if !options.replace => {
                let message = format!("there is a schedule `{}` already", options.name);
                let help = format!("--replace changes it; umbel schedule show {} shows it", options.name);
                Failure { message, ..failure }.help(help)
            }
            "task_not_found" => failure.help("umbel task list shows the tasks; umbel module push FILE deploys some"),
            _ => failure,
        }
    })?;
    if options.dry_run {
        ctx.terminal.note("nothing is stored: this is a dry run");
    }
    stored(&ctx.terminal, &sent)
}

async fn body(ctx: &Context, options: &CreateOptions) -> Result<Body> {
    let mut body = match &options.file {
        Some(path) => file::definition(path)?,
        None => Body::new(),
    };
    if let Some(path) = &options.canvas {
        let mut start = body_of(&input::text(path, MAX_BODY_BYTES)?)?;
        // Each fire is a submission of its own.
        start.remove("idempotency_key");
        body.insert("start".into(), raw(&start)?);
    }
    let fields = fields(&options.job)?;
    if let Some(task) = &options.task {
        let mut start = Body::from([("task".to_owned(), raw(task)?)]);
        let (args, kwargs) =
            (job::submit::given(ctx, &options.args).await?, job::submit::named(ctx, &options.kwarg).await?);
        let given =
            [(!args.is_empty()).then(|| ("args", raw(&args))), (!kwargs.is_empty()).then(|| ("kwargs", raw(&kwargs)))];
        for (name, value) in given.into_iter().flatten() {
            start.insert(name.to_owned(), value?);
        }
        if !fields.is_empty() {
            start.insert("options".into(), raw(&fields)?);
        }
        body.insert("start".into(), raw(&start)?);
    } else if !fields.is_empty() {
        return Err(Failure::usage("options of a job are given, but no task").help("write them into the file"));
    }
    body.extend(when(&options.when)?);
    body.extend(policy(&options.policy)?);
    if options.paused {
        body.insert("paused".into(), raw(&true)?);
    }
    if !body.contains_key("when") {
        return Err(Failure::usage("it is not said when it fires")
            .help("give one of --cron '0 3 * * *', --every 1h, --at TIME and --solar sunset@52.5,13.4"));
    }
    Ok(body)
}

/// The fields that are given.
fn given<const N: usize>(fields: [(&str, Option<Result<Box<RawValue>>>); N]) -> Result<Body> {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    given.map(|(name, value)| Ok((name, value?))).collect()
}

/// One as it is, several as a list.
fn one_or_many<T: Serialize>(all: &[T]) -> Option<Result<Box<RawValue>>> {
    match all {
        [] => None,
        [one] => Some(raw(one)),
        many => Some(raw(&many)),
    }
}

fn when(flags: &WhenFlags) -> Result<Body> {
    let solar = flags
        .solar
        .as_ref()
        .map(|solar| raw(&json!({ "event": solar.event, "latitude": solar.latitude, "longitude": solar.longitude })));
    let when = given([
        ("cron", one_or_many(&flags.cron)),
        ("days", flags.both_days.then(|| raw(&"and"))),
        ("every", flags.every.as_ref().map(raw)),
        ("anchor", flags.anchor.as_ref().map(raw)),
        ("at", one_or_many(&flags.at)),
        ("solar", solar),
        ("exclude", one_or_many(&flags.exclude)),
    ])?;
    given([
        ("when", (!when.is_empty()).then(|| raw(&when))),
        ("zone", flags.zone.as_ref().map(raw)),
        ("starts_at", flags.starts_at.as_ref().map(raw)),
        ("ends_at", flags.ends_at.as_ref().map(raw)),
    ])
}

fn policy(flags: &FiringFlags) -> Result<Body> {
    given([
        ("overlap", flags.overlap.as_ref().map(raw)),
        ("catch_up", flags.catch_up.as_ref().map(raw)),
        ("catch_up_window_ms", flags.catch_up_window.as_ref().map(raw)),
        ("jitter_ms", flags.jitter.as_ref().map(raw)),
        ("window_ms", flags.window.as_ref().map(raw)),
        ("max_runs", flags.max_runs.as_ref().map(raw)),
        ("pause_after_failures", flags.pause_after_failures.as_ref().map(raw)),
        ("keep_missed", flags.keep_missed.then(|| raw(&true))),
        ("digest", flags.digest.as_ref().map(raw)),
        ("description", flags.description.as_ref().map(raw)),
    ])
}

/// Options of the job: a flag of its own has precedence over `--option`.
fn fields(flags: &JobFlags) -> Result<Body> {
    let options = arguments::policy(&flags.option)?;
    let mut fields = options.iter().map(|(name, value)| Ok((name.clone(), raw(value)?))).collect::<Result<Body>>()?;
    fields.extend(given([
        ("queue", flags.queue.as_ref().map(raw)),
        ("priority", flags.priority.as_ref().map(raw)),
        ("max_retries", flags.max_retries.as_ref().map(raw)),
        ("time_limit_ms", flags.time_limit.as_ref().map(raw)),
        ("countdown_ms", flags.countdown.as_ref().map(raw)),
        ("expires_ms", flags.expires.as_ref().map(raw)),
        ("tags", (!flags.tag.is_empty()).then(|| raw(&flags.tag))),
        ("headers", (!flags.header.is_empty()).then(|| raw(&arguments::stamps(&flags.header)?))),
    ])?);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::Value;

    use super::*;
    use crate::{
        args::{Cli, Command, Format, ScheduleVerb, ServerFlags},
        output::Terminal,
    };

    async fn of(args: &[&str]) -> Result<Value> {
        let cli = Cli::try_parse_from([&["umbel", "schedule", "create", "a"], args].concat()).unwrap();
        let Command::Schedule(ScheduleVerb::Create(options)) = cli.command else { panic!() };
        let flags = ServerFlags { url: Some("http://h".into()), token: Some("t".into()), ca_file: None };
        umbel_tls::install_provider();
        let ctx = Context::new(&flags, Terminal { format: Format::Table })?;
        Ok(serde_json::to_value(body(&ctx, &options).await?).unwrap())
    }

    #[tokio::test]
    async fn flags_become_a_definition() {
        let what = ["report", "7", "x", "--kwarg", "to=ops", "--queue", "mail", "--expires", "5m", "--tag", "n"];
        let when = ["--cron", "0 3 * * *", "--both-days", "--zone", "Europe/Berlin", "--exclude", "* * 25 12 *"];
        let how = ["--overlap", "allow", "--jitter", "30s", "--keep-missed", "--paused"];
        let expected = json!({
            "start": {"task": "report", "args": [7, "x"], "kwargs": {"to": "ops"},
                "options": {"queue": "mail", "expires_ms": 300_000, "tags": ["n"]}},
            "when": {"cron": "0 3 * * *", "days": "and", "exclude": "* * 25 12 *"}, "zone": "Europe/Berlin",
            "overlap": "allow", "jitter_ms": 30_000, "keep_missed": true, "paused": true,
        });
        assert_eq!(of(&[&what[..], &when, &how].concat()).await.unwrap(), expected);
        let solar = of(&["t", "--solar", "sunset@52.5,13.4"]).await.unwrap();
        assert_eq!(solar["when"]["solar"], json!({"event": "sunset", "latitude": 52.5, "longitude": 13.4}));
        let at = of(&["t", "--at", "2030-01-01T00:00:00Z", "--at", "2031-01-01T00:00:00Z"]).await.unwrap();
        assert_eq!(at["when"]["at"].as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_file_is_a_definition_and_flags_go_before_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "start = { task = \"t\" }\nwhen = { every = \"1m\" }\nzone = \"UTC\"\n").unwrap();
        let path = file.path().to_str().unwrap();
        let found = of(&["-f", path, "--zone", "Asia/Tokyo"]).await.unwrap();
        assert_eq!(found, json!({"start": {"task": "t"}, "when": {"every": "1m"}, "zone": "Asia/Tokyo"}));
        std::fs::write(file.path(), r#"{"task": "a", "args": [123456789012345678901234567890]}"#).unwrap();
        let canvas = of(&["--canvas", path, "--every", "1h"]).await.unwrap();
        assert_eq!(canvas["start"]["canvas"]["task"], "a");
        assert_eq!(of(&["t"]).await.unwrap_err().code, "usage");
        assert_eq!(of(&["--canvas", path, "--every", "1h", "--queue", "q"]).await.unwrap_err().code, "usage");
    }
}
